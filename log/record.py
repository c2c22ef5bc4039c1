"""A record of the log as each of its readers returns it. Knows no client, and not what records mean."""

from collections.abc import Sequence
from typing import NamedTuple

#: Stands for headers that can't be read.
UNREADABLE_HEADERS = (("unreadable-headers", None),)


class LogRecord(NamedTuple):
    """A record of the log. `timestamp` is in milliseconds UTC."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


class LogSlice(NamedTuple):
    """Records of one partition, and the offset behind them and behind the control records that follow them."""

    end: int
    records: Sequence[LogRecord]
