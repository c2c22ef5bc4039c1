"""The worker, the publisher, the deliverer and the HTTP door that run in the background of a data folder.

Owns the processes and not their work: one of each for a data folder, with the servers there. Processes started by hand
aren't known here, and needn't be: any number of them share the partitions, and a door may stand beside another one.
"""

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Literal, TypeAlias

from creditfold.common.errors import CreditfoldError
from creditfold.common.files import locked
from creditfold.common.processes import Daemon, Step, last_lines
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.processors import door
from creditfold.projections.connections import connected
from creditfold.projections.queries.heartbeats import Role, heartbeats

#: What can run in the background, each by the command that runs it.
Background: TypeAlias = Role | Literal["serve"]

READY_BOUND_S = 90.0
#: More than a door takes for what is under way (api/server.py).
STOP_BOUND_S = 30.0


class BackgroundProcessError(CreditfoldError):
    """A process that should run in the background doesn't come up."""


def daemon(settings: Settings, role: Background) -> Daemon:
    """The data folder's process of a role, running or not."""
    folder = settings.data_dir.resolve() / role
    return Daemon(folder / "process.json", folder / f"{role}.log")


def start(settings: Settings, role: Background) -> bool:
    """Start the background process of a role unless it runs, and wait until it works.

    A worker or a publisher works once it holds a partition, the HTTP door once it is ready, a deliverer once it runs.

    Returns:
        Whether it was started.

    Raises:
        BackgroundProcessError: it ended, or doesn't work after READY_BOUND_S seconds.
    """
    process = daemon(settings, role)
    process.log_path.parent.mkdir(parents=True, exist_ok=True)
    with locked(process.log_path.with_name("lock"), READY_BOUND_S):
        if process.pid is not None:
            return False
        try:
            # The environment carries the settings; the folder is the one that relative paths in them start from.
            process.start([sys.executable, "-m", "creditfold.cli.main", role], cwd=Path.cwd(), env=os.environ)
            _await_work(settings, process, role)
        except BaseException:
            process.stop([Step(signal.SIGTERM, STOP_BOUND_S)])
            raise
    return True


def stop(settings: Settings, role: Background) -> bool:
    """Let the background process of a role finish its chunk, its transactions or its answers, and end it.

    Returns:
        Whether it ran.
    """
    return daemon(settings, role).stop([Step(signal.SIGTERM, STOP_BOUND_S)])


def _await_work(settings: Settings, process: Daemon, role: Background) -> None:
    def ended_or_at_work() -> bool:
        pid = process.pid
        if pid is None:
            return True
        return door.is_ready(settings) if role == "serve" else _is_at_work(settings, role, pid)

    if not wait_until(ended_or_at_work, READY_BOUND_S) or process.pid is None:
        raise BackgroundProcessError(
            f"`creditfold {role}` {'ended' if process.pid is None else _LACKS[role]}. The end of its log:\n"
            f"{last_lines(process.log_path)}",
            f"The whole log is {process.log_path}. Run `creditfold {role}` to see it live.",
        )


_LACKS = {
    "worker": "has no partition yet",
    "publisher": "has no partition yet",
    "serve": "isn't ready yet",
    "delivery": "doesn't run yet",
}


def _is_at_work(settings: Settings, role: Role, pid: int) -> bool:
    """Whether its signs of life say that it holds a partition, as a health check will look for; or that it runs."""
    owner = f"{socket.gethostname()}:{pid}"
    with connected(settings.dsn) as connection:
        mine = [one.sign for one in heartbeats(connection, role) if one.sign.owner == owner]
    if role == "delivery":
        return any(sign.state == "running" for sign in mine)
    return any(part.held_s == 0 for sign in mine for part in sign.partitions)
