"""The worker that `up --worker` and the demo run in the background. Owns its process; the fold is the worker's.

One for a data folder, beside the servers there. A worker started by hand isn't known here, and needn't be:
many workers share the partitions.
"""

import os
import signal
import socket
import sys
from pathlib import Path

from creditfold.projections.connections import connected
from creditfold.projections.queries import progress
from creditfold.schemas.errors import CreditfoldError
from creditfold.stack.files import locked
from creditfold.stack.processes import Daemon, Step, last_lines, wait_until
from creditfold.stack.settings import Settings

READY_BOUND_S = 90.0
STOP_BOUND_S = 20.0


class BackgroundWorkerError(CreditfoldError):
    """The background worker doesn't come up."""


def background_worker(settings: Settings) -> Daemon:
    """The data folder's worker process, running or not."""
    folder = settings.data_dir.resolve() / "worker"
    return Daemon(folder / "process.json", folder / "worker.log")


def start_worker(settings: Settings) -> bool:
    """Start the background worker unless it runs, and wait until it owns a partition. Tell whether it was started."""
    daemon = background_worker(settings)
    daemon.log_path.parent.mkdir(parents=True, exist_ok=True)
    with locked(daemon.log_path.with_name("lock"), READY_BOUND_S):
        if daemon.pid is not None:
            return False
        try:
            # The environment carries the settings; the folder is the one that relative paths in them start from.
            daemon.start([sys.executable, "-m", "creditfold.cli.main", "worker"], cwd=Path.cwd(), env=os.environ)
            _await_ownership(settings, daemon)
        except BaseException:
            stop_worker(settings)
            raise
    return True


def stop_worker(settings: Settings) -> bool:
    """Let the background worker finish its chunk and end. Tell whether it ran."""
    return background_worker(settings).stop([Step(signal.SIGTERM, STOP_BOUND_S)])


def _await_ownership(settings: Settings, daemon: Daemon) -> None:
    owner = f"{socket.gethostname()}:{daemon.pid}"

    def is_at_work() -> bool:
        with connected(settings.dsn) as connection:
            return any(row.owner == owner for row in progress(connection))

    wait_until(lambda: daemon.pid is None or is_at_work(), READY_BOUND_S)
    if daemon.pid is None or not is_at_work():
        raise BackgroundWorkerError(
            f"The worker {'ended' if daemon.pid is None else 'has no partition yet'}. The end of its log:\n"
            f"{last_lines(daemon.log_path)}",
            f"The whole log is {daemon.log_path}. Run `creditfold worker` to see it live.",
        )
