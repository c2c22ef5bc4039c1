"""Where a reader of a partition stopped, by which it can check later that the log still is the one that it has read.

An offset alone doesn't show that: a log that lost its end and grew past it again has other records at the old offsets.
So a bookmark has a digest of the last record. Knows no client, and not what records mean.

A digest covers append time, key and value. Headers are left out, because Kafka's clients read unusual names of headers
differently; a leader epoch isn't used, because a log that was restored from a copy of its disk counts its epochs again.
"""

from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

_HEAD = Struct(">qqq")
_DIGEST_BYTES = 16


class LastRecord(NamedTuple):
    """The last record that was read: its offset, and a digest of its append time, key and value."""

    offset: int
    digest: bytes


#: Stands for the last record where none was read.
NO_RECORD = LastRecord(-1, b"")


class Bookmark(NamedTuple):
    """Everything before `next_offset` was read, and the last record of it was `last`.

    Between the two are only offsets without a record for readers (control records, aborted transactions). `clock_ms` is
    the latest append time that was read, in milliseconds UTC; 0 if unknown.
    """

    next_offset: int
    last: LastRecord = NO_RECORD
    clock_ms: int = 0


def last_record(offset: int, timestamp: int, key: bytes | None, value: bytes | None) -> LastRecord:
    """Digest a record. `timestamp` is its append time in milliseconds UTC."""
    # Clients differ in what they return for a missing time.
    head = _HEAD.pack(max(timestamp, 0), _length(key), _length(value))
    return LastRecord(offset, blake2b(b"".join((head, key or b"", value or b"")), digest_size=_DIGEST_BYTES).digest())


def _length(data: bytes | None) -> int:
    return -1 if data is None else len(data)
