"""Checks whether a log still is the one that was read: the last record before a bookmark must be there.

A log that lost its end (a power cut, a snapshot of a disk, an unclean election) and grew past it again has other
records at offsets that were read already; a reader that goes on by the offset alone skips them, and keeps what is
gone.
Owns the comparison and its words, for whatever goes on where it stopped. Refuses to know what records mean; changes
nothing.
"""

import time
from collections.abc import Mapping
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.common.settings import READER, Settings
from creditfold.log.admin import ONCE_S, KafkaAdmin, KafkaUnavailableError
from creditfold.log.bookmark import NO_RECORD, Bookmark, LastRecord, last_record
from creditfold.log.offsets import bounds

#: How long Kafka may take from one partition's record before its bookmark to the next one's, in seconds.
READ_S = 15.0
#: What is fetched of a partition at once: as much as a batch usually may have. Of larger ones only one comes with each
#: answer, of however many partitions.
FETCH_BYTES = 2**20

_TRUNCATED = "Records were deleted, or the topic is another one. Restore the log; don't fold on."
REPLACED = (
    "Stop the producers, and keep the topic and the database as they are. Bring the lost records back from a replica "
    "or an archive (creditfold restore), or go on with the log as it is: creditfold rebuild, then creditfold activate "
    "NUMBER --accept-differences --note WHY. See docs/operating.md, A log that lost its end."
)


class LogTruncatedError(CreditfoldError):
    """Records that were never folded are no longer in the topic, or the topic ends before what was folded."""


class LogReplacedError(LogTruncatedError):
    """The log has other records where it was read already: it lost its end and grew past it again."""


class UnreadError(KafkaUnavailableError):
    """Kafka doesn't return the records before some bookmarks; `refused` is what is known of the other partitions."""

    def __init__(self, topic: str, places: Mapping[int, Position]) -> None:
        named = ", ".join(map(str, places.values()))
        super().__init__(
            f"Kafka doesn't return the records of {topic} at {named}.", "Look at the broker's log; try again."
        )
        self.partitions = frozenset(places)
        self.refused: Mapping[int, LogTruncatedError] = {}


class _Span(NamedTuple):
    """What is to be read of a partition: from `start` to before `end`, and the only record that must be in it."""

    start: int
    end: int
    record: LastRecord


def refusals(
    settings: Settings, topic: str, bookmarks: Mapping[int, Bookmark], verb: str = "folded"
) -> dict[int, LogTruncatedError]:
    """Compare a topic with what was read of it, and return the partitions that must not be read on, and why.

    Reads one record of each partition, and the offsets without a record between it and the bookmark. Where records were
    deleted up to a bookmark, as retention does, there is nothing to compare.

    Args:
        settings: where Kafka is.
        topic: its name.
        bookmarks: by partition, where the reader stopped.
        verb: what the reader does with records, for the message.

    Returns:
        By partition a LogTruncatedError (the topic doesn't reach the bookmark) or a LogReplacedError, to be raised.

    Raises UnreadError if Kafka doesn't return some of the records in time, KafkaUnavailableError, TopicMissingError or
    TopicError.
    """
    starts, ends = bounds(KafkaAdmin(settings), topic, bookmarks)
    found: dict[int, LogTruncatedError] = {}
    wanted: dict[int, _Span] = {}
    for partition, (next_offset, last, _) in bookmarks.items():
        start, end = starts[partition], ends[partition]
        if not start <= next_offset <= end:
            found[partition] = LogTruncatedError(
                f"Partition {partition} of {topic} is {verb} to offset {next_offset}, "
                f"but the topic holds {start} to {end}.",
                _TRUNCATED,
            )
        elif start < next_offset:
            record = last if last.offset >= start else NO_RECORD
            wanted[partition] = _Span(max(start, record.offset), next_offset, record)
    try:
        if wanted:
            found |= _replaced(settings, topic, wanted, bookmarks, verb)
    except UnreadError as error:
        error.refused = {**found, **error.refused}
        raise
    return found


def replacements(
    settings: Settings, topic: str, bookmarks: Mapping[int, Bookmark], verb: str = "folded"
) -> list[LogReplacedError]:
    """The refusals that are LogReplacedError, without those of a log that is too short; see `refusals`."""
    found = refusals(settings, topic, bookmarks, verb).values()
    return [error for error in found if isinstance(error, LogReplacedError)]


def _replaced(
    settings: Settings, topic: str, wanted: Mapping[int, _Span], bookmarks: Mapping[int, Bookmark], verb: str
) -> dict[int, LogTruncatedError]:
    consumer = Consumer(
        {
            **settings.kafka_client,
            **READER,
            "log_level": 0,
            "fetch.message.max.bytes": FETCH_BYTES,
            "queued.min.messages": 1,
        }
    )
    try:
        found, unread = _compare(consumer, topic, wanted)
        errors: dict[int, LogTruncatedError] = {}
        for partition, what in found.items():
            bookmark = bookmarks[partition]
            errors[partition] = LogReplacedError(
                f"Partition {partition} of {topic} is {verb} to offset {bookmark.next_offset}, but {what}: the log "
                f"lost its end and grew past it again.{_since(consumer, topic, partition, bookmark)}",
                REPLACED,
            )
        if unread:
            error = UnreadError(topic, unread)
            error.refused = errors
            raise error
        return errors
    finally:
        consumer.close()


def _compare(consumer: Consumer, topic: str, wanted: Mapping[int, _Span]) -> tuple[dict[int, str], dict[int, Position]]:
    """What is wrong, by partition, and the positions that Kafka didn't return in time."""
    consumer.assign([TopicPartition(topic, partition, span.start) for partition, span in wanted.items()])
    found: dict[int, str] = {}
    left = dict(wanted)
    deadline = time.monotonic() + READ_S
    while left:
        message = consumer.poll(0.1)
        if message is not None and (partition := message.partition()) in left:
            span = left[partition]
            problem = _problem(message, Position(partition, message.offset() or 0), span)
            if problem is None and message.error() is None and message.offset() == span.record.offset:
                # From here on there must be none.
                left[partition] = span = span._replace(start=span.record.offset + 1, record=NO_RECORD)
                problem = "" if span.start == span.end else None
            if problem is not None:
                del left[partition]
                # What is behind it would be fetched before the others' records.
                consumer.incremental_unassign([TopicPartition(topic, partition)])
                deadline = time.monotonic() + READ_S
            if problem:
                found[partition] = problem
        elif time.monotonic() > deadline:
            break
    return found, {partition: Position(partition, span.start) for partition, span in left.items()}


def _problem(message: Message, position: Position, span: _Span) -> str | None:
    """What a message shows to be wrong with its partition: an empty text for nothing, None where it doesn't show."""
    offset, wanted, error = position.offset, span.record, message.error()
    if error is not None:
        # Before a new leader knows how far its log is committed, it seems to end early. Others heal, or time runs out.
        is_at_end = error.code() == KafkaError._PARTITION_EOF and offset >= span.end
        if not is_at_end:
            return None
    elif offset < span.end:
        if offset != wanted.offset:
            return f"the topic holds a record at {position} that wasn't there"
        found = last_record(offset, message.timestamp()[1], message.key(), message.value())
        return None if found == wanted else f"the record that the topic holds at {position} is another one"
    if wanted is not NO_RECORD:
        return f"the topic holds no record at {Position(position.partition, wanted.offset)} any more"
    return ""


def _since(consumer: Consumer, topic: str, partition: int, bookmark: Bookmark) -> str:
    """From where on the log was appended after all that was read, as far as its times show."""
    if not bookmark.clock_ms:
        return ""
    try:
        (place,) = consumer.offsets_for_times([TopicPartition(topic, partition, bookmark.clock_ms + 1)], ONCE_S)
    except KafkaException:
        return ""
    if not 0 <= place.offset < bookmark.next_offset:
        return ""
    return f" What it holds from {Position(partition, place.offset)} on was appended since."
