"""One partition's way from the projection to the topics: finds where it stands, and publishes window by window.

Owns the transactional producer. A window is one Kafka transaction over both topics, so what the topics' last records
are about shows how far everything is published, whatever died at which moment: the last outcome's position, account and
version, since a tick at one position can come to more outcomes than a transaction should have. No offset stored
elsewhere decides that: a consumer group's, for example, is forgotten when a ledger is idle for a week. A log that was
restored into another topic has its records where they were, so outcomes and dead letters that were published under the
former topic's name are recognized by their places and contents.

That holds only if nothing is ever published behind a window that readers don't get, whatever Kafka said to its commit.
So a window is committed when its records stand in one piece, and the window before it was read back as others read it.

Knows no threads, no group, no SQL.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log, Position
from creditfold.common.settings import Settings
from creditfold.common.spans import SPANS
from creditfold.log.record import LogRecord
from creditfold.log.tail import OpenTransactionError, Tail, read_tail
from creditfold.log.visibility import Visibility
from creditfold.processors.publisher.messages import (
    DEFAULT_MESSAGE_BYTES,
    KEPT_BYTES,
    Outcome,
    Outgoing,
    announces,
    dead_letter_message,
    letter_digest,
    outcome_message,
    read_dead_letter,
    read_outcome,
)
from creditfold.projections.queries.windows import DeadRow, JournalRow, Place, Window, decision_at, read_windows

INIT_S = 15.0
COMMIT_S = 20.0
ABORT_S = 3.0
#: How long what was committed may take until it can be read.
CONFIRM_S = 10.0
#: What a dead producer left open hides the outcomes behind it for at most this long, if nobody takes its place.
TRANSACTION_MS = 30_000
#: Largest batch of outcomes.
BATCH_BYTES = 1_000_000
#: Windows are read in one transaction for about so long, and what is left of them is sorted again in the next. A switch
#: of generations waits for it, and so does a stop.
STRETCH_S = 1.0
# An outcome without what can be left out of it has fewer bytes.
_LEAST_OUTCOME_BYTES = 16_384

Pool: TypeAlias = ConnectionPool[Connection[TupleRow]]
#: Gives the consumer group's view of this process, which Kafka compares with its own; None outside of a group.
Membership: TypeAlias = Callable[[], Any]
MakeProducer: TypeAlias = Callable[[dict[str, Any]], Producer]

_FENCED = {KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED}
_NOT_A_MEMBER = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.FENCED_INSTANCE_ID,
}
# Larger than a batch of the topic may be, than what the client sends, or than a whole segment of the topic.
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.RECORD_LIST_TOO_LARGE}

log = structlog.get_logger()


class OutcomesLostError(CreditfoldError):
    """The outcomes topic doesn't show any more how far it was published."""


class OutcomesCutError(CreditfoldError):
    """A topic lost its end while it was published to; what it lost is published again by another outbox."""

    def __init__(self, topic: str, partition: int, published: int, found: int) -> None:
        super().__init__(
            f"{topic} partition {partition} lost its end: it was published to offset {published}, and is at {found}.",
            "What it lost is published again at once. Find out what the brokers lost: see `creditfold doctor`.",
        )


class ScatteredWindowError(CreditfoldError):
    """Messages of one transaction landed with something between them, which may have ended the transaction."""

    def __init__(self, topic: str, partition: int, count: int, landed: Sequence[int]) -> None:
        places = " to ".join(map(str, landed)) or "at places unknown"
        super().__init__(
            f"{count} messages landed in {topic} partition {partition} from {places}, not one behind the other.",
            "They are aborted and published again at once. If this comes again and again, see who else writes there.",
        )


class OtherOutcomesError(CreditfoldError):
    """The outcomes topic holds the outcomes of another log."""


class Topics(NamedTuple):
    """The log, the topics it is published to, and the largest batches that these take."""

    log: Log
    outcomes: str
    dead_letters: str
    outcome_bytes: int
    dead_letter_bytes: int


class Count(NamedTuple):
    """What was published."""

    outcomes: int
    dead_letters: int


def was_fenced(error: BaseException) -> bool:
    """Say whether Kafka refused because another publisher has the partition, or may have it."""
    return isinstance(error, KafkaException) and error.args[0].code() in _FENCED | _NOT_A_MEMBER


class Outbox:
    """The outbox of one partition. Used by one thread; after any error only `close` may be called, and a new one made.

    Args:
        settings: where Kafka is, and the group's name.
        topics: what is published to where.
        partition: of the log, and of both topics.
        pool: connections to the projection, each of whose blocks is one transaction ("repeatable read").
        membership: see `Membership`.
        make_producer: makes a producer of librdkafka's settings.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        partition: int,
        pool: Pool,
        *,
        membership: Membership = lambda: None,
        make_producer: MakeProducer = Producer,
    ) -> None:
        self._kafka = settings.kafka_client
        self._topics = topics
        self._partition = partition
        self._pool = pool
        self._membership = membership
        self._in_transaction = False
        # Of the log: everything before is published.
        self._outcomes_from = Place(0)
        self._dead_letters_from = 0
        # Offsets and digests of dead letters behind that which were published under another topic's name.
        self._published_letters: set[tuple[int, bytes]] = set()
        self._unchecked: Outcome | None = None
        #: By topic, the offset behind what is known to be in it: what comes next lands there, or further on.
        self.ends: dict[str, int] = {}
        # By topic, where the first and the last message of the transaction under way landed.
        self._landed: dict[str, list[int]] = {}
        self._refused: KafkaError | None = None
        self._visibility = Visibility(self._kafka, partition)
        self._make_producer = partial(make_producer, _producer_conf(settings, topics, partition))
        self._producer = self._make_producer()

    @property
    def published_to(self) -> int:
        """The offset of the log before which everything is published."""
        return min(self._outcomes_from.offset, self._dead_letters_from)

    def open(self) -> None:
        """Fence whoever published this partition before, and find out how far that came.

        Raises OutcomesLostError, OpenTransactionError, UnreadableError or KafkaException.
        """
        # Kafka answers when the former owner's transaction is ended, one way or the other.
        self._producer.init_transactions(INIT_S)
        try:
            outcomes, dead_letters = self._tail_of_outcomes(), self._tail_of_dead_letters()
        except OpenTransactionError:
            self._end_hanging_transaction()
            outcomes, dead_letters = self._tail_of_outcomes(), self._tail_of_dead_letters()
        self.ends = {self._topics.outcomes: outcomes.high, self._topics.dead_letters: dead_letters.high}
        if outcomes.last is not None:
            # Whether that record came to more, the journal shows.
            self._outcomes_from = outcomes.last.place
            self._unchecked = outcomes.last
        elif outcomes.low > 0:
            raise OutcomesLostError(
                f"{self._topics.outcomes} partition {self._partition} begins at offset {outcomes.low} and holds no "
                "outcome, so it isn't known which ones were published; they were deleted, by retention or by hand.",
                "Nothing is published there. To publish all of them again, delete the topic, run `creditfold init`, "
                "and start the publishers; set retention.ms and retention.bytes to -1.",
            )
        if dead_letters.last is not None:
            self._dead_letters_from = dead_letters.last.offset + 1
        elif dead_letters.low > 0:
            # Somebody doesn't keep them all. What came before the last outcome was surely published.
            self._dead_letters_from = self._outcomes_from.offset
        self._published_letters = {one for one in self._published_letters if one[0] >= self._dead_letters_from}
        # The group gets the place at once, and a process that isn't of it any more finds out before it has work.
        self._send(Window(min(self._outcomes_from, Place(self._dead_letters_from)), [], []))

    def _end_hanging_transaction(self) -> None:
        """Abort once more what was already ended, in case that it was ours: brokers that were restarted forget markers.

        Kafka says then that the former owner's transaction is over, but its partitions still have it open. Whatever is
        aborted in them now closes it, since the producer's id is the same. What it held is published again after.
        """
        log.warning("ends a transaction that hangs", partition=self._partition)
        self._producer.begin_transaction()
        self._in_transaction = True
        for topic in (self._topics.outcomes, self._topics.dead_letters):
            self._produce(topic, Outgoing(None, None, []))
        self._send_place(Place(0))
        self._producer.flush(COMMIT_S)
        self._producer.abort_transaction(COMMIT_S)
        self._in_transaction = False
        # Of another epoch: an abort that was sent twice, or a marker of it that comes late, must not meet a window.
        self._producer = self._make_producer()
        self._producer.init_transactions(INIT_S)

    def _send_place(self, place: Place) -> None:
        """Commit the place to the group in the transaction, for lag tools; refused where another owns it."""
        membership = self._membership()
        if membership is not None:
            # Within an offset that comes to many outcomes, this alone shows that it moves.
            within = f"{place.version} {place.account}" if place.account else ""
            offsets = [TopicPartition(self._topics.log.topic, self._partition, place.offset, within)]
            self._producer.send_offsets_to_transaction(offsets, membership, COMMIT_S)

    def _tail_of_outcomes(self) -> Tail[Outcome]:
        return read_tail(
            self._kafka,
            self._topics.outcomes,
            self._partition,
            lambda record: read_outcome(record.value, record.headers, self._partition),
        )

    def _tail_of_dead_letters(self) -> Tail[Position]:
        self._published_letters.clear()
        return read_tail(self._kafka, self._topics.dead_letters, self._partition, self._own_dead_letter)

    def _own_dead_letter(self, record: LogRecord) -> Position | None:
        """The place that a published dead letter is about, if it names our topic; else keeps in mind what it was."""
        letter = read_dead_letter(record.key, record.value, record.headers, self._partition)
        if letter is None:
            return None
        if letter.topic == self._topics.log.topic.encode():
            return letter.position
        # Of a log that ours was restored from, or a stranger's: the projection has the same record there, or another.
        self._published_letters.add((letter.position.offset, letter.digest))
        return None

    def publish(self, folded: int) -> Count | None:
        """Publish the next window of what is folded, before offset `folded`; None if there is none.

        Where a window ends in the middle of an offset, those behind it too, for a moment.
        Raises KafkaException, psycopg's errors, HiddenRecordError, LogChangedError, OtherOutcomesError,
        OutcomesCutError, ScatteredWindowError or UnknownKindError.
        """
        self._producer.poll(0)
        until = time.monotonic() + STRETCH_S
        done = Count(0, 0)
        last: Window | None = None
        with self._pool.connection() as connection:
            self._check_last(connection, folded)
            starts = self._outcomes_from, self._dead_letters_from
            with closing(read_windows(connection, self._topics.log, self._partition, starts, folded)) as windows:
                for last in windows:
                    if not last.end.account or time.monotonic() >= until:
                        break
                    done = self._publish_window(last, done)
        # Without the connection, which others may wait for.
        return None if last is None else self._publish_window(last, done)

    def _publish_window(self, window: Window, before: Count) -> Count:
        if self._published_letters:
            new = [row for row in window.dead_letters if not self._was_published(row)]
            window = window._replace(dead_letters=new)
        self._send(window)
        self._outcomes_from = max(self._outcomes_from, window.end)
        self._dead_letters_from = max(self._dead_letters_from, window.end.offset)
        return Count(before.outcomes + len(window.journal), before.dead_letters + len(window.dead_letters))

    def _was_published(self, row: DeadRow) -> bool:
        return (row.log_offset, letter_digest(row)) in self._published_letters

    def _check_last(self, connection: Connection[TupleRow], folded: int) -> None:
        """Compare the last outcome published with the journal, once, as soon as the fold has come there."""
        last = self._unchecked
        if last is None or last.position.offset >= folded:
            return
        if not announces(last, decision_at(connection, self._partition, last.place)):
            raise OtherOutcomesError(
                f"{self._topics.outcomes} ends with an outcome of {last.position} (account {last.fields['account']!a}, "
                f"version {last.fields['version']}) that is not what the journal says of it.",
                "The topic belongs to another log, or the projection to another one: set the topics and "
                "CREDITFOLD_POSTGRES_DSN to what belongs together.",
            )
        self._unchecked = None

    def _send(self, window: Window) -> None:
        self._producer.begin_transaction()
        self._in_transaction = True
        self._landed = {}
        for topic, message, is_edge in self._messages(window):
            self._produce(topic, message, is_edge=is_edge)
        self._send_place(window.end)
        counts = {self._topics.outcomes: len(window.journal), self._topics.dead_letters: len(window.dead_letters)}
        if any(counts.values()):
            self._flush()
            for topic, count in counts.items():
                self._check_landed(topic, count)
        # As late as may be, when it costs no waiting.
        self.confirm()
        self._producer.commit_transaction(COMMIT_S)
        self._in_transaction = False
        if self._landed:
            self._visibility.expect({topic: landed[-1] for topic, landed in self._landed.items()})
        for topic, landed in self._landed.items():
            # Behind the messages is the mark of the transaction.
            self.ends[topic] = landed[-1] + 2

    def confirm(self) -> None:
        """Wait until the last window can be read by those who read committed records. Raises HiddenRecordError.

        If its last messages can be read, all can: they stand in one piece; a mark between them would have an offset.
        """
        self._visibility.confirm(CONFIRM_S)

    def _flush(self) -> None:
        """Wait until every message has landed. Raises KafkaException for one that hasn't."""
        try:
            if self._producer.flush(COMMIT_S) > 0:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        except SystemError as error:
            # The client raises a fatal error, and calls back all the same: Python complains of it, or has lost it.
            if isinstance(error.__cause__, KafkaException):
                raise error.__cause__ from None
            raise KafkaException(self._refused or KafkaError(KafkaError._FATAL)) from error
        if self._refused is not None:
            raise KafkaException(self._refused)

    def _check_landed(self, topic: str, count: int) -> None:
        """Raise OutcomesCutError where messages landed before what was sent earlier, ScatteredWindowError where apart.

        What is between them may be the mark of an earlier transaction that came late: it has ended this one for what
        stands before it, and those messages would be missing before the others.
        """
        landed = self._landed.get(topic, [])
        if landed and landed[0] < self.ends[topic]:
            raise OutcomesCutError(topic, self._partition, self.ends[topic], landed[0])
        if count and (len(landed) != min(count, 2) or landed[-1] - landed[0] + 1 != count):
            raise ScatteredWindowError(topic, self._partition, count, landed)

    def _messages(self, window: Window) -> Iterator[tuple[str, Outgoing, bool]]:
        """By topic, and whether a message is its topic's first or last."""
        edges = 0, len(window.journal) - 1
        for number, row in enumerate(window.journal):
            context = self._context_of(row, window.traces.get(row.log_offset))
            message = outcome_message(self._partition, row, self._topics.outcome_bytes, context)
            yield self._topics.outcomes, message, number in edges
        edges = 0, len(window.dead_letters) - 1
        for number, dead in enumerate(window.dead_letters):
            message = dead_letter_message(self._topics.log.topic, self._partition, dead, self._topics.dead_letter_bytes)
            yield self._topics.dead_letters, message, number in edges

    def _context_of(self, row: JournalRow, came_with: str | None) -> str | None:
        """The context that an outcome carries on, whose span is of its being sent."""
        if came_with is None:
            return None
        attributes = {
            "creditfold.position": str(Position(self._partition, row.log_offset)),
            "creditfold.command_id": row.command_id or "",
            "messaging.destination.name": self._topics.outcomes,
        }
        with SPANS.begin("publish outcome", "producer", came_with, attributes) as span:
            return span.traceparent

    def _produce(self, topic: str, message: Outgoing, *, is_edge: bool = False) -> None:
        self._producer.produce(
            topic,
            value=message.value,
            key=message.key,
            partition=self._partition,
            headers=message.headers,
            # For each message, hearing of it would take as long as sending it.
            on_delivery=self._delivered if is_edge else None,
        )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused = self._refused or error
            return
        offset = message.offset()
        # A batch that the broker had already may be confirmed without its place.
        if offset is not None and offset >= 0:
            self._landed.setdefault(message.topic() or "", []).append(offset)

    def close(self) -> None:
        """Close the producer and abort what is open. Never raises KafkaException."""
        # As of `_flush`.
        with suppress(KafkaException, SystemError):
            self._producer.poll(0)
        if self._in_transaction:
            with suppress(KafkaException):
                self._producer.abort_transaction(ABORT_S)
        with suppress(KafkaException):
            self._producer.purge()
        self._visibility.close()


def with_smaller_messages(topics: Topics, error: BaseException) -> Topics:
    """The topics, with less room for a message if the error says that one was too large."""
    if isinstance(error, KafkaException) and error.args[0].code() in _TOO_LARGE:
        # Which topic it was isn't said.
        return topics._replace(
            outcome_bytes=max(topics.outcome_bytes // 2, min(topics.outcome_bytes, _LEAST_OUTCOME_BYTES)),
            dead_letter_bytes=min(topics.dead_letter_bytes // 2, KEPT_BYTES),
        )
    return topics


def _producer_conf(settings: Settings, topics: Topics, partition: int) -> dict[str, Any]:
    largest = max(topics.outcome_bytes, topics.dead_letter_bytes)
    return {
        **settings.kafka_client,
        "client.id": f"creditfold-outcomes-{partition}",
        "transactional.id": f"{topics.outcomes}-{partition}",
        "transaction.timeout.ms": TRANSACTION_MS,
        "message.timeout.ms": TRANSACTION_MS,
        # What every client can read without a library of its own: kafkajs has gzip and nothing else. The first level is
        # nearly as fast as lz4, and smaller.
        "compression.type": "gzip",
        "compression.level": 1,
        # The client splits no batch that the broker finds too large.
        "batch.size": min(BATCH_BYTES, topics.outcome_bytes, topics.dead_letter_bytes),
        "message.max.bytes": largest + DEFAULT_MESSAGE_BYTES,
        # Its lines come with `poll`; otherwise they would go to standard error, past our log.
        "logger": logging.getLogger("librdkafka"),
        "log_level": 2,
    }
