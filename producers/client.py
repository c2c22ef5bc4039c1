"""The appenders: a command goes in, its position in the log comes out. Owns the Kafka producer and its one thread.

Refuses to know what a command means, and keeps no failure to itself: each reaches the future, the callback, or
the next flush. The client library behind it is librdkafka, whose delivery timeout bounds every wait here.
"""

import asyncio
import atexit
import contextlib
import ctypes
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from creditfold.common.brokers import finds_kafka
from creditfold.common.position import Position
from creditfold.producers.models.commands import Command, Encoded, encode_command
from creditfold.producers.models.errors import (
    RESEND,
    AppendError,
    BrokerUnavailableError,
    DeliveryFailedError,
    ForkedProducerError,
    NotAllowedError,
    OutcomeTimeoutError,
    ProducerBrokenError,
    ProducerClosedError,
    ProducerSettingError,
    QueueFullError,
    RecordTooLargeError,
    UndeliveredError,
    UnknownTopicError,
)
from creditfold.producers.outcomes import OutcomeFollower, OutcomeLookup
from creditfold.schemas.outcome import CommandOutcome

Outcome: TypeAlias = Position | AppendError
_Answer = TypeVar("_Answer")
_OnDelivery: TypeAlias = Callable[[KafkaError | None, Message], None]

# What every producer of ours does; a caller's own setting of these is refused and not overruled in silence.
FORCED: Mapping[str, str | int | bool] = {
    "enable.idempotence": True,
    "acks": "all",
    # librdkafka's default agrees with Java's and aiokafka's choice of partition on about one key in eight only.
    "partitioner": "murmur2_random",
}
DEFAULTS: Mapping[str, str | int | bool] = {
    "client.id": "creditfold-producer",
    # librdkafka writes some twenty lines a second while Kafka is away; its error callback says the same, once.
    "log_level": 2,
    # As fast as lz4 here, and the smallest on a disk that keeps the log for ever.
    "compression.type": "zstd",
    "linger.ms": 5,
    # The default of ten seconds would eat a third of the delivery timeout after Kafka is back.
    "reconnect.backoff.max.ms": 1_000,
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 262_144,
}
# A new topic needs a moment to be known to every broker; a mistyped one should not wait for the whole timeout.
_TOPIC_GRACE_MS = 5_000
# On top of the delivery timeout, which librdkafka itself keeps to: only a defect there can use it up.
_GRACE_S = 10.0
#: Longest wait for an outcome. Whoever waits for longer reads it later, by the position.
MAX_WAIT_S = 86_400.0
_POLL_S = 0.1
# When nothing was confirmed for so long although something should be, the client is asked whether it still finds Kafka.
_SILENCE_S = 5.0
# How long a client may take to find Kafka, beside the longest pause before it tries again to connect.
_FIND_S = 2.0
_ROOM_CHECK_S = 0.02
_LOG_AGAIN_S = 10.0

_PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_NO_TOPIC = {
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_EXCEPTION,
}
_NOT_ALLOWED = {
    KafkaError._AUTHENTICATION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}

_log = logging.getLogger("creditfold.producers.kafka")


# The open producers, for the fork hook below.
_open: "set[CommandProducer]" = set()


def _abandon_after_fork() -> None:
    # librdkafka's destructor joins threads that only the parent has, and may crash a child that runs it;
    # one reference too many keeps the child from running it.
    for producer in _open:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(producer._producer))


os.register_at_fork(after_in_child=_abandon_after_fork)


class _Unseen:
    """Failures that nobody has looked at yet. Keeps the first thousand and counts the rest."""

    LIMIT = 1_000

    def __init__(self) -> None:
        self._errors: dict[int, Exception] = {}
        self._more = 0

    def add(self, error: Exception) -> None:
        if len(self._errors) < self.LIMIT:
            self._errors[id(error)] = error
        else:
            self._more += 1

    def discard(self, error: BaseException | None) -> None:
        self._errors.pop(id(error), None)

    def raise_any(self) -> None:
        errors, self._errors = self._errors, {}
        count, self._more = len(errors) + self._more, 0
        if not count:
            return
        first = next(iter(errors.values()))
        if count == 1 or not isinstance(first, AppendError):
            raise first
        raise DeliveryFailedError(
            f"{count:,} commands were not confirmed. The first: {first.message}", RESEND
        ) from first


class _Delivery(Future[Position]):
    """A future that tells when its failure has been looked at, and that a cancel can't take back from the log."""

    def __init__(self, unseen: _Unseen) -> None:
        super().__init__()
        self._unseen = unseen
        self.set_running_or_notify_cancel()

    def settle(self, outcome: Outcome) -> None:
        if isinstance(outcome, Position):
            self.set_result(outcome)
        else:
            self._unseen.add(outcome)
            self.set_exception(outcome)

    def result(self, timeout: float | None = None) -> Position:
        self.exception(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = super().exception(timeout)
        self._unseen.discard(error)
        return error


class CommandProducer:
    """Appends commands to the log and returns their positions. One for a process; any thread may use it.

    Args:
        kafka: librdkafka settings, at least `bootstrap.servers`. Those in FORCED can't be changed.
        topic: the command topic.
        delivery_timeout_s: how long a command may wait for its confirmation, in seconds, queueing included.
        queue_records: how many commands may wait unconfirmed.
        outcomes: where outcomes are looked up, for append_and_wait() and submit_for_outcome():
            `creditfold.projections.queries.ProjectedOutcomes(dsn)`. Nothing is connected before the first of these.

    Raises:
        ProducerSettingError: a setting is refused. Nothing is sent, and no broker awaited, before the first append.

    Example:
        >>> with CommandProducer(settings.kafka_client, settings.commands_topic) as producer:
        ...     position = producer.append(Grant(command_id="g-1", account="erin", asset="credits", amount=100))
        >>> position.offset >= 0
        True
    """

    def __init__(
        self,
        kafka: Mapping[str, str | int],
        topic: str,
        *,
        delivery_timeout_s: float = 30.0,
        queue_records: int = 100_000,
        outcomes: OutcomeLookup | None = None,
    ) -> None:
        self.topic = topic
        self.delivery_timeout_s = delivery_timeout_s
        self._follower = None if outcomes is None else OutcomeFollower(outcomes, topic)
        self._pid = os.getpid()
        self._closed = False
        self._broken: ProducerBrokenError | None = None
        self._last_trouble = ("", 0.0)
        self._logged: dict[int, float] = {}
        self._unseen = _Unseen()
        # Counted here, since the length of librdkafka's queue counts its errors and other news too.
        self._entered = self._answered = 0
        # Held while a record enters the queue, so that none enters after close() has looked.
        self._entry = threading.Lock()
        self._progress = threading.Condition(threading.Lock())
        # How many answers only said that the client waited in vain, and how many of those it has found Kafka since.
        self._in_vain = self._pardoned = 0
        self._new = partial(self._make, kafka, queue_records)
        self._producer: Producer | None = self._new()
        # The client adds a fifth to its pause by chance.
        pause_ms = float({**DEFAULTS, **kafka}["reconnect.backoff.max.ms"])
        self._find_s = _FIND_S + 1.2 * pause_ms / 1000
        self._looking: threading.Thread | None = None
        self._stop = threading.Event()
        # A daemon, so that a forgotten close() doesn't keep the process alive; the exit hook delivers what is left.
        self._thread = threading.Thread(target=self._poll, name="creditfold-producer", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        _open.add(self)

    def _make(self, kafka: Mapping[str, str | int], queue_records: int) -> Producer:
        timeout_ms = int(self.delivery_timeout_s * 1000)
        ours = {
            "queue.buffering.max.messages": queue_records,
            "topic.metadata.propagation.max.ms": min(_TOPIC_GRACE_MS, timeout_ms // 2),
        }
        forced = {**FORCED, "delivery.timeout.ms": timeout_ms}
        for name, value in forced.items():
            if name in kafka and str(kafka[name]).lower() != str(value).lower():
                raise ProducerSettingError(f"{name} must be {value!r} for the log's promises.", "Leave it out.")
        config: dict[str, Any] = {**DEFAULTS, **ours, **kafka, **forced, "error_cb": self._note_trouble}
        try:
            return Producer(config, logger=_log)
        except KafkaException as error:
            raise ProducerSettingError(
                f"Kafka's client refuses its settings: {error.args[0].str()}.", "Correct the setting that it names."
            ) from None
        except (TypeError, ValueError) as error:
            raise ProducerSettingError(f"Bad producer setting: {error}.", "Correct it.") from None

    def append(self, command: Command) -> Position:
        """Append a command and wait until the log has it.

        Args:
            command: what to append.

        Returns:
            Its position in the log.

        Raises:
            AppendError: it wasn't confirmed; `maybe_written` says whether it may be in the log.
        """
        return self._awaited(self.submit(command))

    def _awaited(self, delivery: Future[Position]) -> Position:
        try:
            return delivery.result(self.delivery_timeout_s + _GRACE_S)
        except TimeoutError:
            raise DeliveryFailedError("The Kafka client gave no answer within its own timeout.", RESEND) from None

    def append_record(self, record: Encoded) -> Position:
        """Append a record that is encoded already, as append() does with a command."""
        delivery = _Delivery(self._unseen)
        self._enter(record, partial(self._deliver, delivery.settle))
        return self._awaited(delivery)

    def submit(self, command: Command, *, wait: bool = True) -> Future[Position]:
        """Hand a command over and return at once with the future of its position.

        The future fails with an AppendError; a failure that nobody looks at is raised by flush() or close(). A cancel
        has no effect: the command is on its way.

        Args:
            command: what to append.
            wait: whether to wait for room in a full queue, up to the delivery timeout, or to refuse at once.

        Returns:
            The future of its position in the log.

        Raises:
            RecordTooLargeError: the record has more bytes than the log takes.
            QueueFullError: there was no room in the queue.
            ProducerClosedError: the producer is closed.
            ProducerBrokenError: the producer met an error that it can't recover from.
            ForkedProducerError: the producer was made before a fork.
        """
        delivery = _Delivery(self._unseen)
        self._hand_over(command, delivery.settle, wait=wait)
        return delivery

    def append_and_wait(self, command: Command, timeout: float = 10.0) -> CommandOutcome:
        """Append a command and wait for the outcome of this record, looked up by its position.

        Args:
            command: sent again with the same id, it is a duplicate, with the first outcome.
            timeout: in seconds, for all of it: room in the queue, the log's confirmation, the fold.

        Returns:
            Whether it was accepted, rejected, a duplicate or a dead letter; `is_accepted` says whether the command has
            taken effect.

        Raises:
            OutcomeTimeoutError: time ran out.
            OutcomeUnknownError: the outcome can't be waited for any more, for example as the producer was closed.
            AppendError: as append() does. All of them have `maybe_written`.
        """
        outcome = self.submit_for_outcome(command, timeout)
        try:
            return outcome.result(timeout + _GRACE_S)
        except TimeoutError:
            raise OutcomeTimeoutError("The thread that follows outcomes gave no answer.", RESEND) from None
        finally:
            # Where the wait was interrupted; of no effect otherwise.
            outcome.cancel()

    def submit_for_outcome(
        self, command: Command, timeout: float = 10.0, *, wait: bool = True
    ) -> Future[CommandOutcome]:
        """Hand a command over and return the future of its outcome, which fails as append_and_wait() does.

        However many are waited for, it takes one thread and one session of the lookup. A cancel ends the waiting; the
        command is on its way. A failure is the future's alone: flush() and close() don't raise it again.

        Args:
            command: as in append_and_wait().
            timeout: in seconds, from now on; more than 0, at most MAX_WAIT_S.
            wait: whether to wait for room in a full queue, within the timeout, or to refuse at once.

        Returns:
            The future of the command's outcome.

        Raises:
            ProducerSettingError: the producer was made without `outcomes`, or the timeout is out of bounds.
            AppendError: as submit() does.
        """
        _refuse_timeout(timeout)
        self._refuse_unusable()
        if self._follower is None:
            raise ProducerSettingError(
                "This producer doesn't know where outcomes are looked up; the command was not taken.",
                "Make it with outcomes=ProjectedOutcomes(dsn), from creditfold.projections.queries.",
            )
        waiter = self._follower.expect(command.account, command.command_id, timeout)
        delivery = _Delivery(self._unseen)
        try:
            self._hand_over(command, delivery.settle, wait=wait, most_s=timeout)
        except BaseException:
            self._follower.forget(waiter)
            raise
        return self._follower.follow(waiter, delivery)

    def append_many(
        self, commands: Iterable[Command], on_delivery: Callable[[Command, Outcome], None] | None = None
    ) -> int:
        """Hand over many commands without a future for each, waiting for room in a full queue.

        They aren't confirmed on return: flush() waits for that.

        Args:
            commands: taken one by one, so that a generator's memory stays small.
            on_delivery: called once for each command taken, with its position or its error, in the producer's thread,
                which it must not block; what it raises is raised by the next flush(). Without it, flush() raises the
                failures.

        Returns:
            How many commands were handed over.

        Raises:
            AppendError: as submit() does, at the first command that can't be handed over; later ones aren't taken.
        """
        count = 0
        for command in commands:
            deliver = self._count if on_delivery is None else partial(self._deliver, partial(on_delivery, command))
            self._enter(encode_command(command), deliver)
            count += 1
        return count

    def append_encoded(self, records: Iterable[Encoded], on_delivery: Callable[[Outcome], None]) -> int:
        """Hand over many encoded commands, as append_many() does; the callback gets the outcome only."""
        count = 0
        deliver = partial(self._deliver, on_delivery)
        for record in records:
            self._enter(record, deliver)
            count += 1
        return count

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything handed over has its answer.

        Args:
            timeout: in seconds; by default a little over the delivery timeout, by when every answer is due.

        Raises:
            UndeliveredError: time ran out.
            AppendError: a failure that nobody has looked at, of a future or of append_many() without a callback. What a
                callback raised is raised here too.
        """
        self._refuse_unusable()
        left = self._await_empty(timeout)
        if left:
            raise UndeliveredError(left, f"{left:,} commands are still unconfirmed.", "Flush again, or look at Kafka.")
        self._unseen.raise_any()

    def close(self, timeout: float | None = None) -> None:
        """Take nothing more, wait for what is under way, and disconnect from Kafka. A second close does nothing.

        Args:
            timeout: in seconds; by default a little over the delivery timeout.

        Raises:
            UndeliveredError: that many commands were left without an answer; their futures fail too.
            AppendError: as flush() does.
        """
        if os.getpid() != self._pid:
            return  # The threads and sockets are the parent's, and so is the closing.
        with self._entry:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        try:
            left = self._await_empty(timeout)
            if left:
                self._kafka().purge()
                self._await_empty(_GRACE_S)
        finally:
            self._let_go()
        if left:
            raise UndeliveredError(
                left,
                f"The producer was closed with {left:,} commands unconfirmed: each may be in the log or not.",
                RESEND,
            ) from None
        self._unseen.raise_any()

    def _let_go(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._follower is not None:
            # Last, when everybody's position is known who waits for an outcome.
            self._follower.close()
        if self._looking is not None and self._looking.is_alive():
            self._looking.join(self._find_s + _POLL_S)
        _open.discard(self)
        # Destroyed here and now: left to the garbage collector, it might be destroyed in a forked child.
        self._producer = None

    def cluster_id(self) -> str:
        """Ask Kafka for the id of the cluster.

        Raises:
            BrokerUnavailableError: no broker answered within the delivery timeout.
        """
        self._refuse_unusable()
        try:
            answer = self._kafka().cluster_id(self.delivery_timeout_s)
        except KafkaException:
            answer = None
        if not answer:
            raise self._unavailable()
        return str(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            # The error that ends the block is the one to see; what the close found stays with it.
            error.add_note(f"And closing the producer failed: {failure}")

    def _hand_over(
        self, command: Command, settle: Callable[[Outcome], None], *, wait: bool = True, most_s: float = float("inf")
    ) -> None:
        """Hand a command over for whoever wants to hear of it, in the producer's thread."""
        self._enter(encode_command(command), partial(self._deliver, settle), wait=wait, most_s=most_s)

    def _enter(self, record: Encoded, deliver: _OnDelivery, *, wait: bool = True, most_s: float = float("inf")) -> None:
        if self._try_enter(record, deliver):
            return
        deadline = time.monotonic() + (min(self.delivery_timeout_s, most_s) if wait else 0)
        while self._await_room(deadline):
            if self._try_enter(record, deliver):
                return
        raise QueueFullError(
            f"The producer's queue is full of unconfirmed commands.{self._trouble()}",
            "Append more slowly, or raise queue_records; if nothing is confirmed at all, look at Kafka.",
        )

    def _try_enter(self, record: Encoded, deliver: _OnDelivery) -> bool:
        # The process is checked before any lock is taken: a thread may have held it when the process was forked.
        if os.getpid() != self._pid:
            self._refuse_unusable()
        key, value, headers, partition = record
        with self._entry:
            if self._closed or self._broken is not None:
                self._refuse_unusable()
            try:
                # Arguments by their places, which takes half as long; few records have headers.
                if headers:
                    self._kafka().produce(self.topic, value, key, partition, deliver, headers=list(headers))
                else:
                    self._kafka().produce(self.topic, value, key, partition, deliver)
            except BufferError:
                return False
            except KafkaException as error:
                raise self._explain(error.args[0], -1) from None
            self._entered += 1
            return True

    def _deliver(self, settle: Callable[[Outcome], None], error: KafkaError | None, message: Message) -> None:
        try:
            partition, offset = message.partition(), message.offset()
            if error is not None:
                settle(self._explain(error, -1 if partition is None else partition))
            elif partition is None or offset is None or offset < 0:
                # A broker that sees a retried batch again may confirm it without saying where it is.
                settle(DeliveryFailedError("The command is in the log, but Kafka didn't say where.", RESEND))
            else:
                # As Position(...), which takes twice as long.
                settle(tuple.__new__(Position, (partition, offset)))
        except Exception as failure:
            # It would end the poll thread and with it every other delivery: kept for the next flush.
            self._unseen.add(failure)
        finally:
            self._answered += 1

    def _count(self, error: KafkaError | None, message: Message) -> None:
        """The same for a command whose position nobody wants to know."""
        offset = message.offset() if error is None else None
        if offset is not None and offset >= 0:
            self._answered += 1
        else:
            self._deliver(self._keep_failure, error, message)

    def _keep_failure(self, outcome: Outcome) -> None:
        if isinstance(outcome, AppendError):
            self._unseen.add(outcome)

    def _explain(self, error: KafkaError, partition: int) -> AppendError:
        code = error.code()
        if code == KafkaError._MSG_TIMED_OUT:
            self._in_vain += 1
        if error.fatal() or code == KafkaError._FATAL:
            self._broken = self._broken or self._breakdown(error)
            return self._broken
        if self._broken is not None and code in _PURGED:
            return self._broken
        if code in _TOO_LARGE:
            return RecordTooLargeError(
                "Kafka refused the command's batch as too large.",
                "Raise the topic's max.message.bytes to 1048588, or set the producer's batch.size below it.",
            )
        if code in _NO_TOPIC:
            return UnknownTopicError(
                f"Kafka has no topic {self.topic!r}.", "Create it (creditfold init), or correct the topic's name."
            )
        if code in _NOT_ALLOWED:
            return NotAllowedError(
                f"Kafka doesn't let this client write to {self.topic!r}: {error.str()}.",
                "Check the user, the password and the topic's access list.",
            )
        if code == KafkaError._PURGE_QUEUE and self._closed:
            return ProducerClosedError("The producer was closed before the command was sent.", RESEND)
        if code == KafkaError._MSG_TIMED_OUT and partition < 0:
            return self._unavailable()
        return DeliveryFailedError(f"The log didn't confirm the command: {error.str()}.{self._trouble()}", RESEND)

    def _unavailable(self) -> BrokerUnavailableError:
        return BrokerUnavailableError(
            f"Kafka didn't answer within {self.delivery_timeout_s:g} s.{self._trouble()}",
            "Check that the broker runs (`creditfold up` starts one here) and that the bootstrap servers are right,"
            " then send it again.",
        )

    def _breakdown(self, error: KafkaError) -> ProducerBrokenError:
        return ProducerBrokenError(
            f"The producer can't go on: {error.str()}.", f"Make a new producer. For what was unconfirmed: {RESEND}"
        )

    def _note_trouble(self, error: KafkaError) -> None:
        # librdkafka goes on by itself after these; they say why when a delivery runs out of time.
        now = time.monotonic()
        self._last_trouble = (error.str(), now)
        if now - self._logged.get(error.code(), -_LOG_AGAIN_S) >= _LOG_AGAIN_S:
            self._logged[error.code()] = now
            _log.warning("kafka trouble: %s", error.str())
        if error.fatal():
            self._broken = self._broken or self._breakdown(error)

    def _trouble(self) -> str:
        text, when = self._last_trouble
        return f" Last trouble, {time.monotonic() - when:.0f} s ago: {text}." if text else ""

    def _refuse_unusable(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProducerError("This producer belongs to the parent process.", "Make a producer after the fork.")
        if self._closed:
            raise ProducerClosedError("The producer is closed.", "Make a new one.")
        if self._broken is not None:
            raise ProducerBrokenError(self._broken.message, self._broken.remedy) from self._broken

    def _await_room(self, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        with self._progress:
            # Looks again after a moment: room appears while one poll is still serving its callbacks.
            self._progress.wait(min(left, _ROOM_CHECK_S))
        return True

    def _await_empty(self, timeout: float | None) -> int:
        limit = self.delivery_timeout_s + _GRACE_S if timeout is None else timeout
        with self._progress:
            self._progress.wait_for(lambda: not self._unanswered(), limit)
        return self._unanswered()

    def _unanswered(self) -> int:
        # None: another thread has closed it meanwhile, and has told of what was left.
        return 0 if self._producer is None else self._entered - self._answered

    def _kafka(self) -> Producer:
        if self._producer is None:
            raise ProducerClosedError("The producer is closed.", "Make a new one.")
        return self._producer

    def _poll(self) -> None:
        kafka = self._kafka()
        heard, since = -1, time.monotonic()
        while not self._stop.is_set():
            try:
                if kafka is self._producer:
                    served = kafka.poll(_POLL_S)
                else:
                    lost, kafka = kafka, self._kafka()
                    served = self._give_up(lost)
            except Exception as failure:
                # Without this thread no delivery would be told any more.
                self._take_poll_failure(kafka, failure)
                served = 1
            if served:
                with self._progress:
                    self._progress.notify_all()
            now, before = time.monotonic(), heard
            heard = self._answered - self._in_vain
            if heard != before or heard + self._pardoned >= self._entered:
                since = now
            elif now - since >= _SILENCE_S:
                since = now
                self._begin_look(kafka)

    def _begin_look(self, kafka: Producer) -> None:
        # In a thread, since answers are told here, and in time. A closed producer has no use for another client.
        if self._closed or (self._looking is not None and self._looking.is_alive()):
            return
        self._looking = threading.Thread(target=self._look, args=(kafka,), name="creditfold-producer-look", daemon=True)
        # No thread can be started while the interpreter ends.
        with contextlib.suppress(RuntimeError):
            self._looking.start()

    def _look(self, kafka: Producer) -> None:
        """Replace a client that has lost all brokers, although Kafka answers; see common/brokers.py."""
        if self._finds_kafka(kafka):
            self._pardoned = self._in_vain
            return
        if self._closed:
            return
        try:
            new = self._new()
        except ProducerSettingError as error:
            _log.warning("no new client of kafka can be made: %s", error.message)
            return
        # The old one is asked again where the new one finds Kafka, which may have come back just now.
        if not self._finds_kafka(new) or self._closed or self._finds_kafka(kafka):
            return
        with self._entry:
            if self._producer is kafka and not self._closed and self._broken is None:
                self._producer = new

    def _finds_kafka(self, kafka: Producer) -> bool:
        return finds_kafka(kafka, self.topic, self._find_s)

    def _give_up(self, lost: Producer) -> int:
        """Tell of all that a lost client holds that it isn't confirmed. Returns how much it was."""
        _log.warning("kafka's client had lost all brokers; a new one takes its place")
        before = self._answered
        lost.purge()
        if left := lost.flush(_GRACE_S):
            _log.error("of %d commands kafka's client has told nothing", left)
        return self._answered - before

    def _take_poll_failure(self, kafka: Producer, failure: Exception) -> None:
        error = failure.args[0] if isinstance(failure, KafkaException) else None
        if not isinstance(error, KafkaError) or not (error.fatal() or error.code() == KafkaError._FATAL):
            # What a callback raises comes out of poll() too.
            self._unseen.add(failure)
            return
        # No record enters between the two, so the purge leaves none to wait for its timeout.
        with self._entry:
            self._broken = self._broken or self._breakdown(error)
            kafka.purge(blocking=False)


def _refuse_timeout(timeout: float) -> None:
    # Not a number is neither more nor less than anything.
    if not 0 < timeout <= MAX_WAIT_S:
        raise ProducerSettingError(
            f"A timeout of {timeout} s can't be waited; the command was not taken.",
            f"Give more than 0 and at most {MAX_WAIT_S:,.0f} seconds; to wait for no outcome: append().",
        )


class _Answers:
    """Brings what the producer's thread hears to futures of a loop: as many as have come, at one call of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, unseen: _Unseen) -> None:
        self.loop = loop
        self._unseen = unseen
        self._come: deque[tuple[asyncio.Future[Position], Outcome]] = deque()
        self._is_called = False

    def settle(self, future: asyncio.Future[Position], outcome: Outcome) -> None:
        """Take an answer, in whatever thread. A failure that no future will hear is kept for the next flush."""
        if isinstance(outcome, AppendError) and (future.done() or self.loop.is_closed()):
            self._unseen.add(outcome)
            return
        self._come.append((future, outcome))
        if not self._is_called:
            self._is_called = True
            try:
                self.loop.call_soon_threadsafe(self._tell)
            except RuntimeError:  # It was closed just now.
                self.let_go()

    def let_go(self) -> None:
        """Keep for the next flush the failures that came for a loop which was closed before it heard of them."""
        with contextlib.suppress(IndexError):  # Two threads may be at it.
            while self.loop.is_closed():
                _, outcome = self._come.popleft()
                if isinstance(outcome, AppendError):
                    self._unseen.add(outcome)

    def _tell(self) -> None:
        # Before the first look: what comes after the last one calls again.
        self._is_called = False
        while self._come:
            future, outcome = self._come.popleft()
            # Done: cancelled, or settled by its owner. Those behind it hear theirs all the same.
            if not isinstance(outcome, AppendError):
                if not future.done():
                    future.set_result(outcome)
            elif future.done():
                self._unseen.add(outcome)
            else:
                future.set_exception(outcome)


class AsyncCommandProducer:
    """A CommandProducer for asyncio, with the same promises and errors; never blocks the event loop.

    Make it inside the loop that uses it.

    Args:
        kafka: librdkafka settings, at least `bootstrap.servers`. Those in FORCED can't be changed.
        topic: the command topic.
        delivery_timeout_s: how long a command may wait for its confirmation, in seconds, queueing included.
        queue_records: how many commands may wait unconfirmed.
        outcomes: where outcomes are looked up, for append_and_wait().

    Raises:
        ProducerSettingError: a setting is refused.

    Example:
        >>> import asyncio
        >>> async def give() -> int:
        ...     async with AsyncCommandProducer(settings.kafka_client, settings.commands_topic) as producer:
        ...         grant = Grant(command_id="g-2", account="erin", asset="credits", amount=100)
        ...         return (await producer.append(grant)).offset
        >>> asyncio.run(give()) >= 0
        True
    """

    def __init__(
        self,
        kafka: Mapping[str, str | int],
        topic: str,
        *,
        delivery_timeout_s: float = 30.0,
        queue_records: int = 100_000,
        outcomes: OutcomeLookup | None = None,
    ) -> None:
        self._producer = CommandProducer(
            kafka, topic, delivery_timeout_s=delivery_timeout_s, queue_records=queue_records, outcomes=outcomes
        )
        # One task at a time waits for room; the others queue behind it in the order in which they came.
        self._turn = asyncio.Lock()
        self._answers: _Answers | None = None

    async def append(self, command: Command) -> Position:
        """Append a command and wait until the log has it. A cancelled append may be in the log or not."""
        return await (await self.submit(command))

    async def submit(self, command: Command, *, wait: bool = True) -> asyncio.Future[Position]:
        """Hand a command over; awaiting the returned future gives its position. Errors as in CommandProducer."""
        loop = asyncio.get_running_loop()
        if self._answers is None or self._answers.loop is not loop:
            self._let_go()
            self._answers = _Answers(loop, self._producer._unseen)
        settle = self._answers.settle

        def submit() -> asyncio.Future[Position]:
            future: asyncio.Future[Position] = loop.create_future()
            self._producer._hand_over(command, partial(settle, future), wait=False)
            return future

        return await self._handed_over(submit, self._producer.delivery_timeout_s if wait else 0.0)

    async def append_and_wait(self, command: Command, timeout: float = 10.0) -> CommandOutcome:  # noqa: ASYNC109 - the sync twin's argument.
        """Append a command and wait for its outcome, as CommandProducer.append_and_wait() does.

        Cancelled, it leaves nothing behind that waits; the command may be in the log or not.
        """
        _refuse_timeout(timeout)
        deadline = time.monotonic() + timeout

        def submit() -> asyncio.Future[CommandOutcome]:
            left = max(0.001, deadline - time.monotonic())
            return asyncio.wrap_future(self._producer.submit_for_outcome(command, left, wait=False))

        return await (await self._handed_over(submit, min(timeout, self._producer.delivery_timeout_s)))

    async def _handed_over(
        self, submit: Callable[[], asyncio.Future[_Answer]], timeout_s: float
    ) -> asyncio.Future[_Answer]:
        """Do what hands a command over, again and again while the queue is full; gives the future of its answer."""
        try:
            return submit()
        except QueueFullError:
            if not timeout_s:
                raise
        deadline = time.monotonic() + timeout_s
        async with self._turn:
            while True:
                try:
                    return submit()
                except QueueFullError:
                    if time.monotonic() >= deadline:
                        raise
                # Only the wait happens elsewhere: a cancel can't leave a command behind that still gets sent.
                await asyncio.to_thread(self._producer._await_room, deadline)

    async def flush(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the sync twin's argument.
        """Wait until everything handed over has its answer. Raises as CommandProducer.flush()."""
        self._let_go()
        await asyncio.to_thread(self._producer.flush, timeout)

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the sync twin's argument.
        """Take nothing more and wait for what is under way. Raises as CommandProducer.close()."""
        self._let_go()
        await asyncio.to_thread(self._producer.close, timeout)

    def _let_go(self) -> None:
        if self._answers is not None:
            self._answers.let_go()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()
        await asyncio.to_thread(self._producer.__exit__, kind, error, trace)
