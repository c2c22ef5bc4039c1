"""Runs a publisher: shares the log's partitions with other publishers, and copies outcomes until it is stopped.

A Kafka consumer group that never reads says which partitions are this process's; each of those has a thread with an
outbox. Owns the process, the group and the threads. What is published, and from where on, is the outbox's.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import psycopg
import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition
from psycopg_pool import PoolTimeout

from creditfold.common.brokers import finds_kafka
from creditfold.common.errors import CreditfoldError
from creditfold.common.logging import configure_logging
from creditfold.common.position import Log
from creditfold.common.settings import METADATA_AGE_MS, Settings
from creditfold.common.spans import SPANS
from creditfold.log.admin import KafkaUnavailableError, LeaderMissingError, TopicMissingError
from creditfold.log.continuity import LogTruncatedError, refusals
from creditfold.log.offsets import log_ends
from creditfold.log.rights import READ, WRITE, refuse_missing_rights
from creditfold.log.topics import TopicInfo, describe_topic, topic_names
from creditfold.processors.exposition import exposed
from creditfold.processors.heartbeat import MOST_CHARACTERS, Heart, Signs
from creditfold.processors.publisher.group import client_id, outcomes_group
from creditfold.processors.publisher.messages import DEFAULT_MESSAGE_BYTES
from creditfold.processors.publisher.metrics import Published, PublisherMetrics
from creditfold.processors.publisher.partition import (
    Count,
    OtherOutcomesError,
    Outbox,
    OutcomesCutError,
    OutcomesLostError,
    Pool,
    Topics,
    was_fenced,
    with_smaller_messages,
)
from creditfold.processors.startup import leave, wait_until_ready, when_available
from creditfold.projections.connections import outbox_pool
from creditfold.projections.failures import is_outage, outage_event, why
from creditfold.projections.queries.heartbeats import PartitionSign
from creditfold.projections.queries.progress import bookmarks
from creditfold.projections.queries.windows import folded_to
from creditfold.projections.tables.source import refuse_other_log

#: Pauses between two looks at how far the fold is: while it moves, and at most.
BUSY_PAUSE_S = 0.02
IDLE_PAUSE_S = 0.5
#: As long as a worker's, so that both change hands together.
SESSION_MS = 10_000
#: How long a partition's last window may take when the partition is given away.
HANDOVER_S = 5.0
CHECK_EVERY_S = 5.0
#: How often to compare the log with what was folded of it, in seconds; a partition's thread does too when it begins.
COMPARE_EVERY_S = 30.0
#: How long the group's member may take to find a Kafka that answers others; more than the longest pause before it tries
#: again to connect.
FIND_S = 3.0
REPORT_EVERY_S = 5.0
#: Connections to PostgreSQL of one publisher.
CONNECTIONS = 4
#: How long a step may take while Kafka is there, in seconds. A call of librdkafka may never come back, whatever its
#: time-out: so does send_offsets_to_transaction where the broker was restarted.
HANG_S = 30.0
#: Pause before a partition is tried again that can't be published rightly.
REFUSED_PAUSE_S = 60.0
FIRST_PAUSE_S = 0.2

log = structlog.get_logger()


class OutcomeTopicError(CreditfoldError):
    """A topic that outcomes or dead letters are published to isn't what it must be, or isn't what it was."""


class PartitionThread(threading.Thread):
    """One partition's thread: publishes what is folded, and never ends by itself.

    Args:
        topics: what is published to where.
        partition: its number.
        make_outbox: makes an outbox of the topics; called again after each error.
        compare: raises LogTruncatedError if the log isn't what was folded of the partition; called before an outbox is
            made.
        retry_max_s: the longest pause after an error.
    """

    def __init__(
        self,
        topics: Topics,
        partition: int,
        make_outbox: Callable[[Topics, int], Outbox],
        compare: Callable[[int], None],
        retry_max_s: float,
    ) -> None:
        super().__init__(name=f"outcomes-{partition}", daemon=True)
        self.count = Count(0, 0)
        self.published_to = 0
        self.folded = 0
        self._partition = partition
        self._topics = topics
        self._make_outbox = make_outbox
        self._compare = compare
        self._retry_max_s = retry_max_s
        self._failures = 0
        # What the last failure was, until a step ends well.
        self._why = ""
        self._made = time.monotonic()
        self._began: float | None = None
        self._stopping = threading.Event()
        self._news = threading.Condition()
        self._outbox: Outbox | None = None
        self._interruption: CreditfoldError | None = None

    def set_folded(self, folded: int) -> bool:
        """Publish before offset `folded` of the log, where the fold stands; returns whether that is news."""
        if folded == self.folded:
            return False
        with self._news:
            self.folded = folded
            self._news.notify()
        return True

    @property
    def hangs(self) -> bool:
        """Whether it has been at one step for so long that it may never come back."""
        began = self._began
        return began is not None and time.monotonic() - began > HANG_S

    @contextmanager
    def _step(self) -> Iterator[None]:
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def end_of(self, topic: str) -> int:
        """The offset behind what it has published to a topic, as far as it knows."""
        outbox = self._outbox
        return 0 if outbox is None else outbox.ends.get(topic, 0)

    def interrupt(self, error: CreditfoldError) -> None:
        """Have it begin anew, as if this error had come to it."""
        with self._news:
            self._interruption = error
            self._news.notify()

    def sign(self, now: float, moved_at: float) -> PartitionSign:
        """What it does, at an instant of the monotonic clock; safe to call from another thread.

        Args:
            now: the instant.
            moved_at: when something of the partition was published last, or nothing was to be.
        """
        began, why = self._began, self._why
        return PartitionSign(
            self._partition,
            holds_s=round(now - self._made, 3),
            work_s=None if began is None else round(now - began, 3),
            still_s=None if self.published_to >= self.folded else round(now - moved_at, 3),
            tries=self._failures if why else 0,
            why=why[:MOST_CHARACTERS],
        )

    def stop(self) -> None:
        """Ask it to end after the window that it is at."""
        self._stopping.set()
        with self._news:
            self._news.notify()

    def run(self) -> None:
        """Publish until stopped, beginning anew after each error."""
        while not self._stopping.is_set():
            try:
                self._publish_all()
            except Exception as error:
                if not self._stopping.is_set():
                    self._topics = with_smaller_messages(self._topics, error)
                    self._stopping.wait(self._pause_after(error))

    def _publish_all(self) -> None:
        self._interruption = None
        # What was folded of records that the log has lost must not be announced.
        self._compare(self._partition)
        outbox = self._make_outbox(self._topics, self._partition)
        try:
            with self._step():
                outbox.open()
            self._outbox = outbox
            self.published_to = outbox.published_to
            log.info("owns a partition", partition=self._partition, published_to=outbox.published_to)
            while not self._stopping.is_set():
                self._publish_one(outbox)
        finally:
            self._outbox = None
            outbox.close()

    def _publish_one(self, outbox: Outbox) -> None:
        if not self._has_news():
            # Nothing else will ask whether the last window can be read.
            with self._step():
                outbox.confirm()
        with self._news:
            self._news.wait_for(self._has_news, IDLE_PAUSE_S)
            folded = self.folded
        if self._interruption is not None:
            raise self._interruption
        if self._stopping.is_set() or folded <= self.published_to:
            return
        with self._step():
            done = outbox.publish(folded)
        if done is None:
            # The views changed under us; how far they are now is read in a moment.
            self._stopping.wait(BUSY_PAUSE_S)
            return
        self._failures, self._why = 0, ""
        self.published_to = outbox.published_to
        self.count = Count(self.count.outcomes + done.outcomes, self.count.dead_letters + done.dead_letters)

    def _has_news(self) -> bool:
        return self._stopping.is_set() or self._interruption is not None or self.folded > self.published_to

    def _pause_after(self, error: Exception) -> float:
        self._why = _in_words(error)
        about: dict[str, Any] = {"partition": self._partition, "why": self._why}
        self._failures += 1
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures, 16), self._retry_max_s)
        if was_fenced(error):
            log.warning("another publisher has the partition, or the group is changing", **about)
        elif isinstance(error, OutcomesLostError | OtherOutcomesError | LogTruncatedError):
            log.error("refuses to publish the partition", **about)
            return REFUSED_PAUSE_S
        elif isinstance(error, psycopg.Error | PoolTimeout) and is_outage(error):
            log.warning(f"{outage_event(error)} to publish", **about)
        elif isinstance(error, KafkaException | CreditfoldError):
            log.warning("waiting to publish", **about)
        else:
            log.error("a partition can't be published", exc_info=error, **about)
        return pause_s


class LastMove(NamedTuple):
    """When a partition's publishing moved last, and what its thread had published then."""

    at: float
    thread: PartitionThread
    published_to: int
    done: Count


def _in_words(error: BaseException) -> str:
    if isinstance(error, KafkaException):
        return str(error.args[0].str())
    return why(error) if isinstance(error, psycopg.Error) else str(error) or repr(error)


class Publisher:
    """The process: a member of the group, with a thread for each partition that is its own.

    Args:
        settings: where Kafka and PostgreSQL are.
        infos: the three topics as they were at the start, commands first.
        pool: connections for reading the projection.
        signs: where it says what it does.
    """

    def __init__(
        self,
        settings: Settings,
        infos: tuple[TopicInfo, TopicInfo, TopicInfo],
        pool: Pool,
        signs: Signs | None = None,
    ) -> None:
        self._signs = signs or Signs()
        # When each partition was held last.
        self._held_at: dict[int, float] = {}
        self._moved: dict[int, LastMove] = {}
        self._settings = settings
        self._infos = infos
        self._pool = pool
        self._threads: dict[int, PartitionThread] = {}
        self._stopping = False
        self._wrong: CreditfoldError | None = None
        self._reported_at = time.monotonic()
        self._reported = Count(0, 0)
        self._ended = Count(0, 0)
        # Whether others have found Kafka just now, and how often the group's member then didn't.
        self._kafka_is_there = False
        self._missed = 0
        self._consumer = self._member()

    def _member(self) -> Consumer:
        return Consumer(
            {
                **self._settings.kafka_client,
                "group.id": outcomes_group(self._settings),
                "client.id": client_id(os.getpid()),
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "latest",
                "session.timeout.ms": SESSION_MS,
                "heartbeat.interval.ms": 1_000,
                # A publisher that comes or goes doesn't interrupt the partitions that stay where they are.
                "partition.assignment.strategy": "cooperative-sticky",
                "topic.metadata.refresh.interval.ms": METADATA_AGE_MS,
                # Nothing is fetched but what may come before a partition is paused.
                "fetch.message.max.bytes": 4_096,
                "queued.max.messages.kbytes": 1_024,
                "logger": logging.getLogger("librdkafka"),
                "log_level": 2,
            }
        )

    def stop(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Ask it to end; fit to be a signal's handler."""
        self._stopping = True
        self._signs.state = "stopped"

    def run(self) -> None:
        """Publish until stopped. Raises OutcomeTopicError, LogChangedError or TopicMissingError."""
        self._subscribe()
        threading.Thread(target=self._watch_topics, name="topics", daemon=True).start()
        self._signs.partitions = self._partition_signs
        self._signs.state = "running"
        pause_s = BUSY_PAUSE_S
        try:
            while not self._stopping:
                self._signs.turn("loop")
                if self._wrong is not None:
                    raise self._wrong
                if self._kafka_is_there:
                    self._kafka_is_there = False
                    self._leave_hung()
                    self._replace_if_lost()
                # It hears of partitions and answers for its life; every partition is paused, so it reads nothing.
                self._consumer.poll(pause_s)
                pause_s = BUSY_PAUSE_S if self._look_at_fold() else min(pause_s * 1.5, IDLE_PAUSE_S)
                self._report()
        finally:
            # Leaves the group, by way of `_revoked`, so that others take over at once.
            self._consumer.close()
            self._end(list(self._threads))

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            [self._infos[0].name], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def _replace_if_lost(self) -> None:
        """Ask the group's member for what others find. Not in another thread, which would wait for each poll's end."""
        self._missed = 0 if finds_kafka(self._consumer, self._infos[0].name, FIND_S) else self._missed + 1
        # Twice, since Kafka may have ended just now, and then this one will find it again by itself.
        if self._missed >= 2:
            self._replace_member()

    def _replace_member(self) -> None:
        """Replace the group's member, which has lost all brokers, by a new one; see common/brokers.py."""
        log.warning("the group's member has lost all brokers, another one takes its place")
        self._consumer.close()
        self._end(list(self._threads))
        self._consumer, self._missed = self._member(), 0
        self._subscribe()

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        consumer.incremental_assign(places)
        consumer.pause(places)
        for place in places:
            self._begin(place.partition)

    def _begin(self, partition: int) -> None:
        _, outcomes, dead_letters = self._infos
        topics = Topics(
            self._infos[0].log,
            outcomes.name,
            dead_letters.name,
            outcomes.max_message_bytes or DEFAULT_MESSAGE_BYTES,
            dead_letters.max_message_bytes or DEFAULT_MESSAGE_BYTES,
        )
        thread = PartitionThread(
            topics, partition, self._make_outbox, self._refuse_other_history, self._settings.retry_max_s
        )
        self._threads[partition] = thread
        thread.start()

    def _leave_hung(self) -> None:
        """Start another thread in the place of one that hangs and is fenced so; that one ends if it ever comes back."""
        for partition, thread in list(self._threads.items()):
            if thread.hangs:
                log.warning("a partition's client hangs, another one takes its place", partition=partition)
                thread.stop()
                self._ended = _sum([self._ended, thread.count])
                self._begin(partition)

    def _make_outbox(self, topics: Topics, partition: int) -> Outbox:
        return Outbox(self._settings, topics, partition, self._pool, membership=self._consumer.consumer_group_metadata)

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._end([place.partition for place in places])
        consumer.incremental_unassign(places)

    def _end(self, partitions: Iterable[int]) -> None:
        threads = [self._threads.pop(partition) for partition in partitions if partition in self._threads]
        for thread in threads:
            thread.stop()
        deadline = time.monotonic() + HANDOVER_S
        for thread in threads:
            # One that hangs in an outage is left behind; whoever gets the partition next fences it.
            thread.join(max(deadline - time.monotonic(), 0.0))
            self._ended = _sum([self._ended, thread.count])

    def _look_at_fold(self) -> bool:
        """Look how far the fold is; returns whether it moved. Raises LogChangedError if it is of another log by now."""
        if not self._threads:
            return False
        try:
            with self._pool.connection() as connection:
                folded = folded_to(connection, self._infos[0].log, self._threads)
        except (psycopg.Error, PoolTimeout) as error:
            # Each thread logs it, and what it does about it, when it has something to do.
            log.warning(f"{outage_event(error)} to hear from the fold", why=_in_words(error))
            return False
        news = [self._threads[partition].set_folded(offset) for partition, offset in folded.items()]
        return any(news)

    def _watch_topics(self) -> None:
        """Look again and again whether the topics are still those that they were; in a thread, as it takes its time."""
        compared_at = time.monotonic()
        while not self._stopping and self._wrong is None:
            time.sleep(CHECK_EVERY_S)
            try:
                check_topics(self._settings, self._infos)
                self._kafka_is_there = True
                self._signs.found("Kafka")
                self._notice_lost_ends()
                if time.monotonic() - compared_at >= COMPARE_EVERY_S:
                    compared_at = time.monotonic()
                    self._compare_log()
            except (psycopg.Error, PoolTimeout):
                pass  # Who looks how far the fold is says so.
            except (KafkaUnavailableError, LeaderMissingError) as error:
                log.warning("Kafka is away", why=error.message)
                self._signs.waits_for("Kafka", error.message)
            except CreditfoldError as error:
                self._wrong = error

    def _notice_lost_ends(self) -> None:
        """Have partitions published again from where the topics end, if that is before what was published."""
        threads = dict(self._threads)
        for info in self._infos[1:]:
            # Before Kafka is asked: what is published meanwhile isn't behind the end that it gives.
            published = {partition: thread.end_of(info.name) for partition, thread in threads.items()}
            for partition, end in log_ends(self._settings, info.name, threads).items():
                # The mark of its last transaction may be on its way.
                if end.high < published[partition] - 1:
                    lost = OutcomesCutError(info.name, partition, published[partition], end.high)
                    threads[partition].interrupt(lost)

    def _compare_log(self) -> None:
        """Have partitions left alone of which the log has lost what was folded."""
        threads = dict(self._threads)
        for partition, error in self._refusals(threads).items():
            threads[partition].interrupt(error)

    def _refuse_other_history(self, partition: int) -> None:
        for error in self._refusals([partition]).values():
            raise error

    def _refusals(self, partitions: Collection[int]) -> Mapping[int, LogTruncatedError]:
        with self._pool.connection() as connection:
            stopped = {partition: mark for partition, mark in bookmarks(connection).items() if partition in partitions}
        return refusals(self._settings, self._infos[0].name, stopped)

    def _partition_signs(self) -> list[PartitionSign]:
        """What it does about each partition that it holds or has held; called from the thread that gives the signs."""
        now, threads = time.monotonic(), dict(self._threads)
        self._held_at.update(dict.fromkeys(threads, now))
        return [
            threads[partition].sign(now, self._moved_at(threads[partition], partition, now))
            if partition in threads
            else PartitionSign(partition, round(now - held_at, 3))
            for partition, held_at in sorted(self._held_at.items())
        ]

    def _moved_at(self, thread: PartitionThread, partition: int, now: float) -> float:
        """When something of a partition was published last. A thread in a hung one's place hasn't published by that."""
        known = self._moved.get(partition, LastMove(now, thread, 0, thread.count))
        # Within a record that comes to many outcomes the count moves.
        moved = thread.published_to > known.published_to or (thread is known.thread and thread.count != known.done)
        at = now if moved or thread.published_to >= thread.folded else known.at
        self._moved[partition] = LastMove(at, thread, max(thread.published_to, known.published_to), thread.count)
        return at

    def _report(self) -> None:
        if time.monotonic() - self._reported_at < REPORT_EVERY_S:
            return
        self._reported_at = time.monotonic()
        total, behind = self.published()
        if total != self._reported:
            self._reported = total
            log.info("published", **total._asdict(), behind=sum(behind.values()))

    def published(self) -> Published:
        """What it has published by now; safe to call from another thread."""
        threads = dict(self._threads)
        return Published(
            _sum([self._ended, *(thread.count for thread in threads.values())]),
            {partition: max(thread.folded - thread.published_to, 0) for partition, thread in threads.items()},
        )


def _sum(counts: Iterable[Count]) -> Count:
    outcomes, dead_letters = map(sum, zip(*counts, strict=True))
    return Count(outcomes, dead_letters)


def describe_topics(settings: Settings, ledger_log: Log) -> tuple[TopicInfo, TopicInfo, TopicInfo]:
    """Describe the topics, commands first. Raises what makes it wrong to publish, or KafkaUnavailableError."""
    commands, outcomes, dead_letters = (_described(settings, name) for name in topic_names(settings))
    refuse_other_log(ledger_log, commands.log)
    for info in (outcomes, dead_letters):
        if info.partitions != ledger_log.partitions:
            raise OutcomeTopicError(
                f"The topic {info.name} has {info.partitions} partitions, the log has {ledger_log.partitions}.",
                "An outcome stands in the partition of its command. Delete the topic and run `creditfold init`.",
            )
    return commands, outcomes, dead_letters


def _described(settings: Settings, name: str) -> TopicInfo:
    try:
        return describe_topic(settings, name)
    except TopicMissingError as error:
        raise TopicMissingError(error.message, "Create it with `creditfold init`, then start the publisher.") from error


def check_topics(settings: Settings, before: tuple[TopicInfo, TopicInfo, TopicInfo]) -> None:
    """Raise OutcomeTopicError, LogChangedError or TopicMissingError if the topics aren't those that they were."""
    now = describe_topics(settings, before[0].log)
    for was, info in zip(before, now, strict=True):
        if was.topic_id != info.topic_id:
            raise OutcomeTopicError(
                f"The topic {info.name} was deleted and made anew while outcomes were published to it.",
                "Start the publisher again; it publishes to the new topic what that lacks.",
            )


def run_publisher(settings: Settings, *, json_logs: bool = False, verbose: bool = False) -> None:
    """Publish outcomes and dead letters until SIGTERM or SIGINT.

    Raises LogChangedError, TopicMissingError or OutcomeTopicError when there is nothing right to publish, or nowhere
    right to publish it. An outage of Kafka or PostgreSQL is waited for, at the start as later.
    """
    configure_logging(json_logs=json_logs, verbose=verbose)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    signs = Signs()
    with Heart(settings.dsn, "publisher", signs), SPANS.sent("publisher", settings.otlp_endpoint):
        ledger_log = wait_until_ready(settings, signs)
        infos = when_available(settings, lambda: describe_topics(settings, ledger_log), signs)
        needed = {infos[0].name: (READ,), infos[1].name: (READ, WRITE), infos[2].name: (READ, WRITE)}
        when_available(settings, lambda: refuse_missing_rights(settings, needed, outcomes_group(settings)), signs)
        log.info("publisher starts", topic=infos[1].name, dead_letters=infos[2].name, partitions=ledger_log.partitions)
        with outbox_pool(settings.dsn, f"creditfold publisher {os.getpid()}", CONNECTIONS) as pool:
            publisher = Publisher(settings, infos, pool, signs)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, publisher.stop)
            shown = [PublisherMetrics(publisher.published)]
            with exposed(shown, settings.metrics_at("publisher"), "publisher_metrics_address"):
                publisher.run()
