"""Owns background processes: starts one, records its identity, reports whether it lives, stops it.

Refuses to know what the process is: Kafka and PostgreSQL are the business of their own modules. A pid alone
names no process, because the system hands pids out again; so the record holds the start time as well, and
nothing is signalled unless both agree.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from creditfold.common.errors import ResourceError
from creditfold.common.waiting import wait_until

KILL_BOUND_S = 10.0

# The children of this process, kept so that the dead ones are reaped and don't stay as zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


class NotOursToSignalError(ResourceError):
    """The recorded process belongs to another user."""


class ProcessRecord(NamedTuple):
    """One process for all time: its pid, and when it started in the system's own words."""

    pid: int
    started: str


class Identity(NamedTuple):
    """The user that a process runs as."""

    uid: int
    gid: int


class Answer(NamedTuple):
    """How a command ended: its exit code, and its standard output and error together."""

    code: int
    said: str


class Step(NamedTuple):
    """One step of stopping: the signal, and the seconds to wait for the end."""

    signal: signal.Signals
    bound_s: float


def run(
    command: Sequence[str],
    *,
    bound_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    identity: Identity | None = None,
) -> Answer:
    """Run a command to its end and return its output. A code of -1 means that it took more than `bound_s` seconds.

    Raises OSError if it can't be run.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=bound_s,
            check=False,
            user=identity.uid if identity else None,
            group=identity.gid if identity else None,
            extra_groups=[] if identity else None,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace")
        return Answer(-1, f"{said}\nStopped, because it took more than {bound_s:.0f} s.")
    return Answer(done.returncode, done.stdout.decode(errors="replace"))


def last_lines(path: Path, count: int = 15) -> str:
    """Return the last lines of a log as `tail` does."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return tail("".join(deque(file, maxlen=count)), count)
    except OSError:
        return tail("")


def tail(text: str, count: int = 15) -> str:
    """Return the last lines of a text, indented, or a word in brackets where there are none."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
    return "\n".join(f"    {line}" for line in lines) or "    (nothing)"


def start_time(pid: int) -> str | None:
    """When the process started, as a text to compare; None if there is no such process or only its zombie."""
    return _start_time_linux(pid) if Path("/proc/self/stat").exists() else _start_time_ps(pid)


def _start_time_linux(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name before the last bracket may itself hold spaces and brackets. See proc_pid_stat(5), fields 3 and 22.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZXx" else f"ticks {fields[19]}"


def _start_time_ps(pid: int) -> str | None:
    answer = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10
    )
    state, _, started = answer.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


class Daemon:
    """A background process that outlives the one that started it.

    Args:
        record_path: the small JSON file that says which process it is.
        log_path: where its standard output and error go; the previous run's are kept as `.1`.
    """

    def __init__(self, record_path: Path, log_path: Path) -> None:
        self.record_path = record_path
        self.log_path = log_path

    def start(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        identity: Identity | None = None,
    ) -> int:
        """Start the command in its own session, record it and return its pid.

        Raises OSError if the command can't be run; whatever was started is stopped if it can't be recorded.
        """
        with contextlib.suppress(FileNotFoundError):
            self.log_path.replace(self.log_path.with_name(self.log_path.name + ".1"))
        with self.log_path.open("wb") as log:
            child = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=identity.uid if identity else None,
                group=identity.gid if identity else None,
                extra_groups=[] if identity else None,
            )
        _children[child.pid] = child
        try:
            self.adopt(child.pid)
        except BaseException:
            child.kill()
            raise
        return child.pid

    def adopt(self, pid: int) -> None:
        """Record a process that already runs."""
        record = {"pid": pid, "started": start_time(pid) or "at once dead"}
        fresh = self.record_path.with_name(f"{self.record_path.name}.{os.getpid()}")
        fresh.write_text(json.dumps(record), encoding="utf-8")
        fresh.replace(self.record_path)

    def recorded(self) -> ProcessRecord | None:
        """Return what was recorded. A file that is missing or was torn by a crash records nothing.

        Raises ResourceError if this user may not read it.
        """
        try:
            record = json.loads(self.record_path.read_text(encoding="utf-8"))
            return ProcessRecord(int(record["pid"]), str(record["started"]))
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
        except PermissionError:
            raise ResourceError(
                f"The record of a process, {self.record_path}, belongs to another user.",
                "Run as the user who started the stack, or set CREDITFOLD_DATA_DIR to a folder of your own.",
            ) from None

    @property
    def pid(self) -> int | None:
        """The pid of the recorded process if that very process lives."""
        record = self.recorded()
        return record.pid if record and _lives(record) else None

    def stop(self, steps: Sequence[Step]) -> bool:
        """Stop the recorded process step by step, last by SIGKILL. Returns whether it was running.

        Takes at most the sum of the bounds and 10 s. Raises NotOursToSignalError if it belongs to another
        user, ResourceError if it survives even SIGKILL.
        """
        record = self.recorded()
        stopped = record is not None and _stop(record, [*steps, Step(signal.SIGKILL, KILL_BOUND_S)])
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.record_path.unlink()
        return stopped


def _lives(record: ProcessRecord) -> bool:
    _reap(record.pid)
    started = start_time(record.pid)
    # A child that ends shows as a zombie before the last of its threads has ended, and until then it holds its ports.
    return started == record.started or (started is None and record.pid in _children)


def _reap(pid: int) -> None:
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]


def _stop(record: ProcessRecord, steps: Sequence[Step]) -> bool:
    for number, step in enumerate(steps):
        if not _signal(record, step.signal):
            return number > 0
        if wait_until(lambda: not _lives(record), step.bound_s):
            return True
    raise ResourceError(
        f"The process {record.pid} survives SIGKILL.",
        "It hangs in the kernel, most often on a disk or a network mount.",
    )


def _signal(record: ProcessRecord, number: signal.Signals) -> bool:
    """Signal the recorded process and no other. Returns False if it is gone."""
    try:
        return _signal_by_handle(record, number) if hasattr(os, "pidfd_open") else _signal_by_pid(record, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise NotOursToSignalError(
            f"The process {record.pid} belongs to another user.", "Stop it as the user who started it."
        ) from None


def _signal_by_handle(record: ProcessRecord, number: signal.Signals) -> bool:
    # The handle is opened first and compared after, so the pid can't change hands between the look and the signal.
    handle = os.pidfd_open(record.pid)
    try:
        if not _lives(record):
            return False
        signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)
    return True


def _signal_by_pid(record: ProcessRecord, number: signal.Signals) -> bool:
    if not _lives(record):
        return False
    os.kill(record.pid, number)
    return True
