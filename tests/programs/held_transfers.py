"""Runs `creditfold worker`, which appends nothing of some transfers as long as the file HELD_TRANSFERS exists.

Of those whose id begins with `out` it keeps back what brings them to their receivers, of those with `end` what reports
their senders: so both stay on their way, with what is there of them written and nothing more.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from creditfold.log.appender import Appender, NewRecord
from creditfold.schemas.wire import decode

HELD = Path(os.environ["HELD_TRANSFERS"])
append = Appender.append


def is_held(record: NewRecord) -> bool:
    """Whether a record isn't to be appended yet."""
    name, values, _ = decode(record.value)
    if not HELD.exists():
        return False
    return any(
        name == kind and str(value).startswith(prefix)
        for kind, prefix in (("ReceiveTransfer", "out"), ("SettleTransfer", "end"))
        for value in values
    )


def append_some(self: Appender, records: Sequence[NewRecord]) -> list[int | None]:
    """Append those that aren't held; of the others it isn't known whether the log has them."""
    held = [is_held(record) for record in records]
    going = [record for record, stays in zip(records, held, strict=True) if not stays]
    offsets = iter(append(self, going) if going else [])
    return [None if stays else next(offsets) for stays in held]


if __name__ == "__main__":
    from creditfold.cli.main import main

    Appender.append = append_some  # type: ignore[method-assign]
    main()
