"""Checks whether a port on loopback is free, and which process has it where it isn't.

Refuses to know what is to listen there. Who listens is found on Linux only, by what the kernel shows in /proc.
"""

import errno
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from creditfold.common.errors import ResourceError
from creditfold.common.waiting import wait_until

LOOPBACK = "127.0.0.1"
RELEASE_S = 3.0
#: How many ports above a busy one are looked at for a free one to suggest.
NEAR = 200

_LISTENS = "0A"  # The kernel's number for that state of a TCP socket.


class PortError(ResourceError):
    """A port can't be listened on."""


class PortBusyError(PortError):
    """Another process listens where a server of ours should."""


class Need(NamedTuple):
    """A port that a server of ours is to listen on.

    `setting` is the variable that changes it, `value` how a number is written there.
    """

    server: str
    port: int
    setting: str
    value: str = "{}"


class Holder(NamedTuple):
    """Who listens: a process by its id and name, and its data folder where it is a server of ours."""

    pid: int
    name: str
    data_dir: Path | None


def check_ports(needs: Collection[Need]) -> None:
    """Check that each port is free. One that was released just now may take RELEASE_S seconds.

    Raises PortBusyError with who has it, if that can be seen, and a port that is free; PortError if the system
    refuses the port.
    """
    for need in needs:
        # A server that was killed is a zombie before the last of its threads has released the port.
        if not wait_until(lambda need=need: is_free(need), RELEASE_S):  # type: ignore[misc]
            raise _busy(need, {other.port for other in needs})


def is_free(need: Need) -> bool:
    """Whether no process listens on a port now. Raises PortError if the system refuses it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: connections that linger from their last run don't count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, need.port))
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise PortError(
                f"{need.server} can't use the port {need.port} on {LOOPBACK}: {error.strerror}.",
                f"Set {need.setting} to another.",
            ) from None
    return True


def _busy(need: Need, taken: Collection[int]) -> PortBusyError:
    holder = holder_of(need.port)
    free = next(_free_above(need, taken), None)
    instead = f"Set {need.setting}" + (f"={need.value.format(free)}, which is free" if free else " to another")
    who = stop = ""
    if holder is not None:
        who = f" {holder.name} (process {holder.pid}) listens there"
        stop = f"stop the process {holder.pid}"
        if holder.data_dir is not None:
            who += f", the server of the data folder {holder.data_dir}"
            stop = f"stop that one: CREDITFOLD_DATA_DIR={holder.data_dir} creditfold down"
    return PortBusyError(
        f"Port {need.port} on {LOOPBACK} is busy, and {need.server} needs it{':' + who if who else ''}.",
        f"{instead}, or {stop or 'stop what listens there'}.",
    )


def _free_above(need: Need, taken: Collection[int]) -> Iterator[int]:
    for port in range(need.port + 1, min(need.port + NEAR, 65_536)):
        with suppress(PortError):
            if port not in taken and is_free(need._replace(port=port)):
                yield port


def holder_of(port: int) -> Holder | None:
    """Who listens on a port; None where nobody does, or the system doesn't show it to this user."""
    with suppress(OSError):
        sockets = {f"socket:[{inode}]" for inode in _listening(port)}
        for process in Path("/proc").iterdir() if sockets else ():
            if process.name.isdecimal() and _has_any(process, sockets):
                return _described(process)
    return None


def _listening(port: int) -> Iterator[str]:
    """The inodes of the sockets that listen on a port. See proc_net_tcp in the kernel's documentation."""
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for line in Path("/proc/net", table).read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _has_any(process: Path, sockets: Collection[str]) -> bool:
    # Another user's, or one that has ended meanwhile.
    with suppress(OSError):
        for handle in (process / "fd").iterdir():
            with suppress(OSError):
                if os.readlink(handle) in sockets:
                    return True
    return False


def _described(process: Path) -> Holder:
    name, folder = "a process", None
    with suppress(OSError):
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        name = (process / "comm").read_text("utf-8", "replace").strip()
        place = Path(os.readlink(process / "cwd"))
        # Where our servers work: stack/kafka.py, stack/postgres.py.
        if "kafka.Kafka" in words:
            name, folder = "Kafka", place.parent if (place / "process.json").exists() else None
        elif name == "postgres" and (place.parent.parent / "postgres.json").exists():
            name, folder = "PostgreSQL", place.parent.parent
    return Holder(int(process.name), name, folder)
