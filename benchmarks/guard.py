"""Ends what a benchmark started once the benchmark has ended, however that came about: done, Ctrl-C, SIGTERM, SIGKILL.

A process of its own, which waits for the other end of its standard input to be closed. Knows nothing of what is
measured.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil

from creditfold.common.settings import load_settings
from creditfold.stack.embedded import down

STOP_S = 30


class Guard:
    """The process that cleans up, as its benchmark sees it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        # Ctrl-C in a terminal goes to all processes of the benchmark's session, and must not end this one.
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def watch(self, process: psutil.Popen) -> None:
        """Have a process ended before the servers are."""
        print(process.pid, process.create_time(), file=self._process.stdin, flush=True)

    def end(self) -> None:
        """Have everything ended now, and wait for that."""
        self._process.communicate()


_current: list[Guard] = []


@contextmanager
def guarded(environment: Mapping[str, str]) -> Iterator[None]:
    """Whatever the servers of these settings are and do, they and their data are gone after the block.

    Args:
        environment: that of a `creditfold` that reads the servers' settings; their data folder is removed.
    """
    guard = Guard(environment)
    _current.append(guard)
    try:
        yield
    finally:
        _current.remove(guard)
        guard.end()


def watch(process: psutil.Popen) -> None:
    """Have a process ended with the servers of the innermost block of `guarded`, if it hasn't by then."""
    if _current:
        _current[-1].watch(process)


def main() -> None:
    """Wait for the benchmark's end, then clean up."""
    watched = [line.split() for line in sys.stdin]
    running = [found for pid, created in watched if (found := _same(int(pid), float(created))) is not None]
    for process in running:
        _ignore_gone(process.terminate)
    _, alive = psutil.wait_procs(running, STOP_S)
    for process in alive:
        _ignore_gone(process.kill)
    settings = load_settings()
    down(settings)
    shutil.rmtree(settings.data_dir, ignore_errors=True)


def _same(pid: int, created: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return process if process.create_time() == created else None
    except psutil.NoSuchProcess:
        return None


def _ignore_gone(step: Callable[[], None]) -> None:
    with suppress(psutil.NoSuchProcess):
        step()


if __name__ == "__main__":
    main()
