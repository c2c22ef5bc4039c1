"""Finds the last record of a partition that a function accepts, from the end backwards. Knows no record of ours."""

import time
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from confluent_kafka import Consumer, TopicPartition

from creditfold.common.errors import CreditfoldError
from creditfold.log.admin import WHILE_MOVING
from creditfold.log.reader import LogReader
from creditfold.log.record import LogRecord

T = TypeVar("T")

#: Offsets of the first step back; each further one is twice as long.
FIRST_STEP = 64
REQUEST_S = 10.0
#: How long the broker may hold a request back for records that aren't there yet; the client's own is 500.
FETCH_WAIT_MS = "10"
#: How long to wait for records that are written and not committed yet.
OPEN_TRANSACTION_S = 5.0
_READ_RECORDS = 200


class OpenTransactionError(CreditfoldError):
    """A transaction in the partition is open, and hides what was committed behind its start."""


class Tail(NamedTuple, Generic[T]):
    """A partition's first offset, the offset behind its last record, and what the last fitting record was read as."""

    low: int
    high: int
    last: T | None


def read_tail(kafka: Mapping[str, str], topic: str, partition: int, read: Callable[[LogRecord], T | None]) -> Tail[T]:
    """Read committed records from the end backwards until `read` returns something for one.

    Holds one record at a time besides the client's buffers. Raises OpenTransactionError, UnreadableError, or the
    client's KafkaException.
    """
    low, high = _watermarks(kafka, topic, partition)
    step, end = FIRST_STEP, high
    while end > low:
        start = max(low, end - step)
        found = _last_between(kafka, (topic, partition), (start, end), read)
        if found is not None:
            return Tail(low, high, found)
        step, end = step * 2, start
    return Tail(low, high, None)


def _watermarks(kafka: Mapping[str, str], topic: str, partition: int) -> tuple[int, int]:
    # Uncommitted, because an open transaction of another's would make the end appear to be before our last record.
    conf = {"group.id": "creditfold-reader", "isolation.level": "read_uncommitted", "log_level": 2}
    consumer = Consumer({**kafka, **conf})
    try:
        # The client keeps the leaders that it knows, so that they are looked up before each further try.
        tries = WHILE_MOVING.copy(before_sleep=lambda _: consumer.list_topics(topic, timeout=REQUEST_S))
        low, high = tries(consumer.get_watermark_offsets, TopicPartition(topic, partition), timeout=REQUEST_S)
        return low, high
    finally:
        consumer.close()


def _last_between(
    kafka: Mapping[str, str], place: tuple[str, int], between: tuple[int, int], read: Callable[[LogRecord], T | None]
) -> T | None:
    start, end = between
    found: T | None = None
    # There is nothing to wait for but, behind a transaction's mark, the broker's word that this is the end.
    with LogReader({**kafka, "fetch.wait.max.ms": FETCH_WAIT_MS}, *place, start) as reader:
        deadline = time.monotonic() + OPEN_TRANSACTION_S
        while (before := reader.position) < end:
            for record in reader.take(_READ_RECORDS, 1.0).records:
                if record.offset < end and (one := read(record)) is not None:
                    found = one
            if reader.position > before:
                deadline = time.monotonic() + OPEN_TRANSACTION_S
            elif time.monotonic() >= deadline:
                raise OpenTransactionError(
                    f"{place[0]} {place[1]}:{reader.position} and what follows can't be read: a transaction is open, "
                    "or the broker doesn't answer.",
                    "Wait until it times out; see `kafka-transactions.sh find-hanging` for one that doesn't.",
                )
    return found
