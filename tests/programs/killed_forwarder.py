"""Runs `creditfold worker`, and dies as by SIGKILL at some of its appends: before, in the middle, or right after.

KILLED_APPENDS in the environment is how many in a hundred.
"""

import os
import random
import signal
from collections.abc import Sequence

from creditfold.log.appender import Appender, NewRecord

PERCENT = int(os.environ.get("KILLED_APPENDS", "10"))
append = Appender.append


def append_or_die(self: Appender, records: Sequence[NewRecord]) -> list[int | None]:
    """Append some of the records, or all, and die; or don't."""
    if random.randrange(100) >= PERCENT:
        return append(self, records)
    append(self, records[: random.choice((0, len(records) // 2, len(records)))])
    os.kill(os.getpid(), signal.SIGKILL)
    return []


if __name__ == "__main__":
    from creditfold.cli.main import main

    Appender.append = append_or_die  # type: ignore[method-assign]
    main()
