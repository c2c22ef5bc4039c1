"""The worker and the publisher that `up --worker` runs in the background. Owns their processes, not their work.

One of each for a data folder, beside the servers there. One started by hand isn't known here, and needn't be:
many share the partitions.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from creditfold.common.errors import CreditfoldError
from creditfold.common.files import locked
from creditfold.common.processes import Daemon, Step, last_lines, wait_until
from creditfold.common.settings import Settings
from creditfold.processors.publisher.group import client_id, outcomes_group, owning_members
from creditfold.projections.connections import connected
from creditfold.projections.queries.heartbeats import heartbeats

READY_BOUND_S = 90.0
STOP_BOUND_S = 20.0


class BackgroundWorkerError(CreditfoldError):
    """What is to run in the background doesn't come up."""


def background_worker(settings: Settings) -> Daemon:
    """The data folder's worker process, running or not."""
    return _daemon(settings, "worker")


def background_publisher(settings: Settings) -> Daemon:
    """The data folder's publisher process, running or not."""
    return _daemon(settings, "publisher")


def _daemon(settings: Settings, command: str) -> Daemon:
    folder = settings.data_dir.resolve() / command
    return Daemon(folder / "process.json", folder / f"{command}.log")


def start_worker(settings: Settings) -> bool:
    """Start the background worker unless it runs, and wait until it owns a partition. Tell whether it was started."""
    return _start(settings, "worker", lambda pid: _worker_is_at_work(settings, pid))


def start_publisher(settings: Settings) -> bool:
    """The same for the background publisher."""
    return _start(settings, "publisher", lambda pid: _publisher_is_at_work(settings, pid))


def stop_worker(settings: Settings) -> bool:
    """Let the background worker finish its chunk and end. Tell whether it ran."""
    return background_worker(settings).stop([Step(signal.SIGTERM, STOP_BOUND_S)])


def stop_publisher(settings: Settings) -> bool:
    """Let the background publisher finish its transactions and end. Tell whether it ran."""
    return background_publisher(settings).stop([Step(signal.SIGTERM, STOP_BOUND_S)])


def _start(settings: Settings, command: str, is_at_work: Callable[[int], bool]) -> bool:
    daemon = _daemon(settings, command)
    daemon.log_path.parent.mkdir(parents=True, exist_ok=True)
    with locked(daemon.log_path.with_name("lock"), READY_BOUND_S):
        if daemon.pid is not None:
            return False
        try:
            # The environment carries the settings; the folder is the one that relative paths in them start from.
            daemon.start([sys.executable, "-m", "creditfold.cli.main", command], cwd=Path.cwd(), env=os.environ)
            _await_ownership(daemon, command, is_at_work)
        except BaseException:
            daemon.stop([Step(signal.SIGTERM, STOP_BOUND_S)])
            raise
    return True


def _await_ownership(daemon: Daemon, command: str, is_at_work: Callable[[int], bool]) -> None:
    def ended_or_at_work() -> bool:
        pid = daemon.pid
        return pid is None or is_at_work(pid)

    if not wait_until(ended_or_at_work, READY_BOUND_S) or daemon.pid is None:
        raise BackgroundWorkerError(
            f"The {command} {'ended' if daemon.pid is None else 'has no partition yet'}. The end of its log:\n"
            f"{last_lines(daemon.log_path)}",
            f"The whole log is {daemon.log_path}. Run `creditfold {command}` to see it live.",
        )


def _worker_is_at_work(settings: Settings, pid: int) -> bool:
    """Whether its signs of life say that it holds a partition, as a health check will look for."""
    owner = f"{socket.gethostname()}:{pid}"
    with connected(settings.dsn) as connection:
        mine = [one.sign for one in heartbeats(connection, "worker") if one.sign.owner == owner]
    return any(part.held_s == 0 for sign in mine for part in sign.partitions)


def _publisher_is_at_work(settings: Settings, pid: int) -> bool:
    return client_id(pid) in owning_members(settings, outcomes_group(settings))
