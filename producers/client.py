"""The producer for services: a command goes in, its position in the log or its outcome comes out.

Owns the calls and what each waits for. The queue to Kafka is `kafka_queue.py`'s, waiting for outcomes `outcomes.py`'s.
Knows no rule: whether a command is accepted is decided by the fold.
"""

import atexit
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Self

from creditfold.common.position import Position
from creditfold.producers.deliveries import BatchDelivery, Delivery, Outcome, UnseenFailures
from creditfold.producers.kafka_queue import GRACE_S, KafkaQueue
from creditfold.producers.models.commands import Command, Encoded, encode_command
from creditfold.producers.models.errors import (
    RESEND,
    AppendError,
    DeliveryFailedError,
    OutcomeTimeoutError,
    ProducerSettingError,
    RecordTooLargeError,
    UndeliveredError,
)
from creditfold.producers.outcomes import OutcomeFollower, OutcomeLookup
from creditfold.schemas.outcome import CommandOutcome

#: Longest wait for an outcome, in seconds. Whoever waits for longer reads it later, by the position.
MAX_WAIT_S = 86_400.0


class CommandProducer:
    """Appends commands to the log and returns their positions. One for a process; any thread may use it.

    Args:
        kafka: librdkafka settings, at least `bootstrap.servers`. Those of delivery (FORCED) can't be changed.
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
        self._unseen = UnseenFailures()
        self._queue = KafkaQueue(
            kafka,
            topic,
            delivery_timeout_s=delivery_timeout_s,
            queue_records=queue_records,
            unseen=self._unseen,
        )
        # The queue's thread is a daemon, so that a forgotten close() doesn't keep the process alive: this delivers
        # what is left.
        atexit.register(self.close)

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
            return delivery.result(self.delivery_timeout_s + GRACE_S)
        except TimeoutError:
            raise DeliveryFailedError("The Kafka client gave no answer within its own timeout.", RESEND) from None

    def append_record(self, record: Encoded) -> Position:
        """Append a record that is encoded already, as append() does with a command."""
        delivery = Delivery(self._unseen)
        self._queue.enter(record, partial(self._queue.deliver, delivery.settle))
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
        delivery = Delivery(self._unseen)
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
            return outcome.result(timeout + GRACE_S)
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
            timeout: in seconds, from now on; more than 0, at most 86,400.
            wait: whether to wait for room in a full queue, within the timeout, or to refuse at once.

        Returns:
            The future of the command's outcome.

        Raises:
            ProducerSettingError: the producer was made without `outcomes`, or the timeout is out of bounds.
            AppendError: as submit() does.
        """
        refuse_timeout(timeout)
        self._queue.refuse_unusable()
        if self._follower is None:
            raise ProducerSettingError(
                "This producer doesn't know where outcomes are looked up; the command was not taken.",
                "Make it with outcomes=ProjectedOutcomes(dsn), from creditfold.projections.queries.outcomes.",
            )
        waiter = self._follower.expect(command.account, command.command_id, timeout)
        delivery = Delivery(self._unseen)
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
        queue = self._queue
        for command in commands:
            deliver = queue.count if on_delivery is None else partial(queue.deliver, partial(on_delivery, command))
            queue.enter(encode_command(command), deliver)
            count += 1
        return count

    def append_encoded(self, records: Iterable[Encoded], on_delivery: Callable[[Outcome], None]) -> int:
        """Hand over many encoded commands, as append_many() does; the callback gets the outcome only."""
        count = 0
        deliver = partial(self._queue.deliver, on_delivery)
        for record in records:
            self._queue.enter(record, deliver)
            count += 1
        return count

    def submit_batch(self, records: Sequence[Encoded], done: Callable[[Sequence[Outcome]], None]) -> AppendError | None:
        """Hand encoded commands over in their order, waiting for room in a full queue; raises no AppendError.

        A record that can't be handed over has its error among the answers, and so has each later one of the batch: what
        follows in an account may need what came before. One that is too large concerns itself only.

        Args:
            records: at least one.
            done: called once with the answer of each record, its position or its error, in their order; in a thread
                that it must not block.

        Returns:
            Why records of the batch weren't taken; None where each was, or is too large.
        """
        return self._hand_over_batch(records, BatchDelivery(len(records), done))

    def _hand_over_batch(
        self, records: Sequence[Encoded], batch: BatchDelivery, deadline: float = float("inf")
    ) -> AppendError | None:
        """Hand records over as submit_batch() does, waiting for room until `deadline` by the monotonic clock."""
        queue, refused = self._queue, None
        for number, record in enumerate(records):
            if refused is None:
                try:
                    left = max(0.0, deadline - time.monotonic())
                    queue.enter(record, partial(queue.deliver, partial(batch.settle, number)), most_s=left)
                except RecordTooLargeError as error:
                    batch.settle(number, error)
                except AppendError as error:
                    refused = error
            if refused is not None:
                batch.settle(number, refused)
        return refused

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything handed over has its answer.

        Args:
            timeout: in seconds; by default a little over the delivery timeout, by when every answer is due.

        Raises:
            UndeliveredError: time ran out.
            AppendError: a failure that nobody has looked at, of a future or of append_many() without a callback. What a
                callback raised is raised here too.
        """
        self._queue.refuse_unusable()
        left = self._queue.await_empty(timeout)
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
        # After a fork the threads and sockets are the parent's, and so is the closing.
        if self._queue.is_foreign or not self._queue.refuse_more():
            return
        atexit.unregister(self.close)
        try:
            left = self._queue.close(timeout)
        finally:
            if self._follower is not None:
                # Last, when the position of each command is known whose outcome is waited for.
                self._follower.close()
        if left:
            raise UndeliveredError(
                left,
                f"The producer was closed with {left:,} commands unconfirmed: each may be in the log or not.",
                RESEND,
            ) from None
        self._unseen.raise_any()

    def cluster_id(self) -> str:
        """Ask Kafka for the id of the cluster.

        Raises:
            BrokerUnavailableError: no broker answered within the delivery timeout.
        """
        return self._queue.cluster_id()

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
        self._queue.enter(encode_command(command), partial(self._queue.deliver, settle), wait=wait, most_s=most_s)


def refuse_timeout(timeout: float) -> None:
    """Raise ProducerSettingError for seconds that no outcome can be waited for."""
    # Not a number is neither more nor less than anything.
    if not 0 < timeout <= MAX_WAIT_S:
        raise ProducerSettingError(
            f"A timeout of {timeout} s can't be waited; the command was not taken.",
            f"Give more than 0 and at most {MAX_WAIT_S:,.0f} seconds; to wait for no outcome: append().",
        )
