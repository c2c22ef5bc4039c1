"""The queue of a producer: records on their way to Kafka, and the one thread that serves their confirmations.

Owns the librdkafka client, whose delivery timeout bounds every wait here, and replaces it where it has lost Kafka for
good. Keeps no failure to itself: each reaches the record's callback, or the failures that the next flush raises. Knows
neither commands nor what is done with a position.
"""

import contextlib
import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from creditfold.common.position import Position
from creditfold.common.trace_context import TRACEPARENT, present_traceparent
from creditfold.producers.deliveries import Outcome, UnseenFailures
from creditfold.producers.diagnosis import Diagnosis
from creditfold.producers.kafka_settings import client_config, find_timeout_s
from creditfold.producers.lost_client import LostClientCheck
from creditfold.producers.models.commands import Encoded
from creditfold.producers.models.errors import (
    RESEND,
    AppendError,
    DeliveryFailedError,
    ForkedProducerError,
    ProducerBrokenError,
    ProducerClosedError,
    ProducerSettingError,
    QueueFullError,
)

_OnDelivery: TypeAlias = Callable[[KafkaError | None, Message], None]

#: Seconds on top of the delivery timeout, which librdkafka itself keeps to: only a defect there can use them up.
GRACE_S = 10.0
_POLL_S = 0.1
_ROOM_CHECK_S = 0.02

_log = logging.getLogger("creditfold.producers.kafka")


# The open queues, for the fork hook below.
_open: "set[KafkaQueue]" = set()


def _abandon_after_fork() -> None:
    # librdkafka's destructor joins threads that only the parent has, and may crash a child that runs it;
    # one reference too many keeps the child from running it.
    for queue in _open:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(queue.client))


os.register_at_fork(after_in_child=_abandon_after_fork)


class KafkaQueue:
    """Records on their way to one topic. Any thread may use it; only the process that made it.

    Args:
        kafka: the caller's librdkafka settings.
        topic: where records go.
        delivery_timeout_s: seconds that a record may wait for its confirmation.
        queue_records: most records that wait unconfirmed.
        unseen: keeps failures that no callback took.

    Raises:
        ProducerSettingError: the settings are refused.
    """

    def __init__(
        self,
        kafka: Mapping[str, str | int],
        topic: str,
        *,
        delivery_timeout_s: float,
        queue_records: int,
        unseen: UnseenFailures,
    ) -> None:
        self.topic = topic
        self.delivery_timeout_s = delivery_timeout_s
        self.diagnosis = Diagnosis(topic, delivery_timeout_s)
        self._unseen = unseen
        self._pid = os.getpid()
        self._closed = False
        # Counted here, since the length of librdkafka's queue counts its errors and other events too.
        self._entered = self._answered = 0
        # Of the records that ran out of time, those after which the client found Kafka again.
        self._pardoned = 0
        # Held while a record enters the queue, so that none enters after close() has looked.
        self._entry = threading.Lock()
        self._progress = threading.Condition(threading.Lock())
        config = client_config(
            kafka,
            delivery_timeout_s=delivery_timeout_s,
            queue_records=queue_records,
            on_error=self.diagnosis.record,
        )
        self.lost_client = LostClientCheck(lambda: _made(config), topic, find_timeout_s(kafka))
        #: The librdkafka client; None once the queue is closed.
        self.client: Producer | None = _made(config)
        self._check: threading.Thread | None = None
        self._stop = threading.Event()
        # A daemon, so that a forgotten close() doesn't keep the process alive.
        self._thread = threading.Thread(target=self._poll, name="creditfold-producer", daemon=True)
        self._thread.start()
        _open.add(self)

    @property
    def is_foreign(self) -> bool:
        """Whether another process, before a fork, made it."""
        return os.getpid() != self._pid

    def enter(self, record: Encoded, deliver: _OnDelivery, *, wait: bool = True, most_s: float = float("inf")) -> None:
        """Take a record; `deliver` is called once with its confirmation or its failure, in the queue's thread.

        It carries the context of the trace under which this is called, if there is one.

        Args:
            record: what to append.
            deliver: see `deliver` and `count`.
            wait: whether to wait for room, at most the delivery timeout and `most_s` seconds.
            most_s: in seconds.

        Raises:
            AppendError: the queue is full, closed, broken or foreign, or the client refuses the record.
        """
        context = present_traceparent()
        if context is not None:
            record = record._replace(headers=(*record.headers, (TRACEPARENT, context.encode())))
        if self._try_enter(record, deliver):
            return
        deadline = time.monotonic() + (min(self.delivery_timeout_s, most_s) if wait else 0)
        while self.await_room(deadline):
            if self._try_enter(record, deliver):
                return
        raise QueueFullError(
            f"The producer's queue is full of unconfirmed commands.{self.diagnosis.last_trouble()}",
            "Append more slowly, or raise queue_records; if nothing is confirmed at all, look at Kafka.",
        )

    def _try_enter(self, record: Encoded, deliver: _OnDelivery) -> bool:
        # The process is checked before any lock is taken: a thread may have held it when the process was forked.
        if os.getpid() != self._pid:
            self.refuse_unusable()
        key, value, headers, partition = record
        with self._entry:
            if self._closed or self.diagnosis.broken is not None:
                self.refuse_unusable()
            try:
                # Arguments by their places, which takes half as long; few records have headers.
                if headers:
                    self._usable().produce(self.topic, value, key, partition, deliver, headers=list(headers))
                else:
                    self._usable().produce(self.topic, value, key, partition, deliver)
            except BufferError:
                return False
            except KafkaException as error:
                raise self._explain(error.args[0], -1) from None
            self._entered += 1
            return True

    def deliver(self, settle: Callable[[Outcome], None], error: KafkaError | None, message: Message) -> None:
        """A record's delivery callback: pass its position or its error on to `settle`."""
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

    def count(self, error: KafkaError | None, message: Message) -> None:
        """The delivery callback of a record whose position is of no use: keeps failures only."""
        offset = message.offset() if error is None else None
        if offset is not None and offset >= 0:
            self._answered += 1
        else:
            self.deliver(self._keep_failure, error, message)

    def _keep_failure(self, outcome: Outcome) -> None:
        if isinstance(outcome, AppendError):
            self._unseen.add(outcome)

    def _explain(self, error: KafkaError, partition: int) -> AppendError:
        return self.diagnosis.explain(error, partition, is_closed=self._closed)

    def refuse_unusable(self) -> None:
        """Raise ForkedProducerError, ProducerClosedError or ProducerBrokenError where nothing can be appended."""
        if self.is_foreign:
            raise ForkedProducerError("This producer belongs to the parent process.", "Make a producer after the fork.")
        if self._closed:
            raise ProducerClosedError("The producer is closed.", "Make a new one.")
        broken = self.diagnosis.broken
        if broken is not None:
            raise ProducerBrokenError(broken.message, broken.remedy) from broken

    def cluster_id(self) -> str:
        """The id of the Kafka cluster. Raises BrokerUnavailableError after the delivery timeout."""
        self.refuse_unusable()
        try:
            answer = self._usable().cluster_id(self.delivery_timeout_s)
        except KafkaException:
            answer = None
        if not answer:
            raise self.diagnosis.unavailable()
        return str(answer)

    def await_room(self, deadline: float) -> bool:
        """Wait a moment for room; False once `deadline`, by the monotonic clock, has passed."""
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        with self._progress:
            # Looks again after a moment: room appears while one poll is still serving its callbacks.
            self._progress.wait(min(left, _ROOM_CHECK_S))
        return True

    def await_empty(self, timeout: float | None) -> int:
        """Wait until every record has its answer, at most `timeout` seconds; returns how many have none."""
        limit = self.delivery_timeout_s + GRACE_S if timeout is None else timeout
        with self._progress:
            self._progress.wait_for(lambda: not self.unanswered, limit)
        return self.unanswered

    @property
    def unanswered(self) -> int:
        """How many records have no answer yet."""
        # None: another thread has closed it meanwhile, and has reported what was left.
        return 0 if self.client is None else self._entered - self._answered

    def refuse_more(self) -> bool:
        """Take no more records. Returns False where that was so already."""
        with self._entry:
            if self._closed:
                return False
            self._closed = True
            return True

    def close(self, timeout: float | None) -> int:
        """Wait for what is under way, at most `timeout` seconds, fail the rest, and release the client.

        Returns:
            How many records had no answer in time.
        """
        try:
            left = self.await_empty(timeout)
            if left:
                self._usable().purge()
                self.await_empty(GRACE_S)
        finally:
            self._release()
        return left

    def _release(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._check is not None and self._check.is_alive():
            self._check.join(self.lost_client.find_s + _POLL_S)
        _open.discard(self)
        # Destroyed here and now: left to the garbage collector, it might be destroyed in a forked child.
        self.client = None

    def _usable(self) -> Producer:
        if self.client is None:
            raise ProducerClosedError("The producer is closed.", "Make a new one.")
        return self.client

    def _poll(self) -> None:
        client = self._usable()
        heard, since = -1, time.monotonic()
        while not self._stop.is_set():
            try:
                if client is self.client:
                    served = client.poll(_POLL_S)
                else:
                    lost, client = client, self._usable()
                    served = self._fail_records_of(lost)
            except Exception as failure:
                # Without this thread no delivery would be reported any more.
                self._take_poll_failure(client, failure)
                served = 1
            if served:
                with self._progress:
                    self._progress.notify_all()
            now, before = time.monotonic(), heard
            heard = self._answered - self.diagnosis.timed_out
            if heard != before or heard + self._pardoned >= self._entered:
                since = now
            elif now - since >= self.lost_client.silence_s:
                since = now
                self._begin_check(client)

    def _begin_check(self, client: Producer) -> None:
        # In a thread, since answers are served here, and in time. A closed producer has no use for another client.
        if self._closed or (self._check is not None and self._check.is_alive()):
            return
        self._check = threading.Thread(
            target=self._check_client, args=(client,), name="creditfold-producer-check", daemon=True
        )
        # No thread can be started while the interpreter ends.
        with contextlib.suppress(RuntimeError):
            self._check.start()

    def _check_client(self, client: Producer) -> None:
        """Replace a client that has lost Kafka for good, although Kafka is there."""
        if self.lost_client.finds_kafka(client):
            self._pardoned = self.diagnosis.timed_out
            return
        if self._closed:
            return
        new = self.lost_client.replacement(client, is_wanted=lambda: not self._closed)
        if new is None:
            return
        with self._entry:
            if self.client is client and not self._closed and self.diagnosis.broken is None:
                self.client = new

    def _fail_records_of(self, lost: Producer) -> int:
        """Fail all records of a lost client that aren't confirmed. Returns how many those were."""
        _log.warning("kafka's client had lost all brokers; a new one takes its place")
        before = self._answered
        lost.purge()
        if left := lost.flush(GRACE_S):
            _log.error("kafka's client has reported nothing about %d commands", left)
        return self._answered - before

    def _take_poll_failure(self, client: Producer, failure: Exception) -> None:
        error = failure.args[0] if isinstance(failure, KafkaException) else None
        if not isinstance(error, KafkaError) or not (error.fatal() or error.code() == KafkaError._FATAL):
            # What a callback raises comes out of poll() too.
            self._unseen.add(failure)
            return
        # No record enters between the two, so the purge leaves none to wait for its timeout.
        with self._entry:
            self.diagnosis.break_down(error)
            client.purge(blocking=False)


def _made(config: Mapping[str, object]) -> Producer:
    try:
        return Producer(dict(config), logger=_log)
    except KafkaException as error:
        raise ProducerSettingError(
            f"Kafka's client refuses its settings: {error.args[0].str()}.", "Correct the setting that it names."
        ) from None
    except (TypeError, ValueError) as error:
        raise ProducerSettingError(f"Bad producer setting: {error}.", "Correct it.") from None
