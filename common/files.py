"""A lock file between processes. Refuses to know what it protects."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from creditfold.common.errors import ResourceError
from creditfold.common.waiting import wait_until


class LockedError(ResourceError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, bound_s: float) -> Iterator[None]:
    """Hold a lock file. The system releases it when its holder dies, so none is ever stale.

    Raises LockedError if another process holds it for more than `bound_s` seconds.
    """
    with path.open("a") as file:

        def taken() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        if not wait_until(taken, bound_s):
            raise LockedError(
                f"Another process has held {path} for {bound_s:.0f} s.",
                "Wait until the other `creditfold up` or `creditfold down` is done, or end it.",
            )
        yield
