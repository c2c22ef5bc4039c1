"""The producer for asyncio: CommandProducer's calls without blocking the event loop.

Owns how answers get from the producer's thread into a loop. All else is CommandProducer's.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from creditfold.common.position import Position
from creditfold.producers.client import CommandProducer, refuse_timeout
from creditfold.producers.deliveries import BatchDelivery, Outcome, UnseenFailures
from creditfold.producers.models.commands import Command, Encoded
from creditfold.producers.models.errors import AppendError, QueueFullError, unconfirmed
from creditfold.producers.outcomes import OutcomeLookup
from creditfold.schemas.outcome import CommandOutcome

_T = TypeVar("_T")


class _LoopDeliveries:
    """Settles futures of a loop from the producer's thread: all answers that have come, in one call of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, unseen: UnseenFailures) -> None:
        self.loop = loop
        self._unseen = unseen
        self._arrived: deque[tuple[asyncio.Future[Position], Outcome]] = deque()
        self._is_called = False

    def settle(self, future: asyncio.Future[Position], outcome: Outcome) -> None:
        """Take an answer, in any thread. A failure whose future is done or closed is kept for the next flush."""
        if isinstance(outcome, AppendError) and (future.done() or self.loop.is_closed()):
            self._unseen.add(outcome)
            return
        self._arrived.append((future, outcome))
        if not self._is_called:
            self._is_called = True
            try:
                self.loop.call_soon_threadsafe(self._settle_arrived)
            except RuntimeError:  # It was closed just now.
                self.keep_failures()

    def keep_failures(self) -> None:
        """Keep, for the next flush, the failures that came for a loop which was closed meanwhile."""
        with contextlib.suppress(IndexError):  # Two threads may do so at once.
            while self.loop.is_closed():
                _, outcome = self._arrived.popleft()
                if isinstance(outcome, AppendError):
                    self._unseen.add(outcome)

    def _settle_arrived(self) -> None:
        # Before the first look: what comes after the last one calls again.
        self._is_called = False
        while self._arrived:
            future, outcome = self._arrived.popleft()
            # Done: cancelled, or settled by its owner. Those after it get theirs all the same.
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
        kafka: librdkafka settings, at least `bootstrap.servers`. Those of delivery (FORCED) can't be changed.
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
        self._deliveries: _LoopDeliveries | None = None

    async def append(self, command: Command) -> Position:
        """Append a command and wait until the log has it. A cancelled append may be in the log or not.

        Args:
            command: what to append.

        Returns:
            Its position in the log.

        Raises:
            AppendError: as of CommandProducer.append().
        """
        return await (await self.submit(command))

    async def submit(self, command: Command, *, wait: bool = True) -> asyncio.Future[Position]:
        """Hand a command over.

        Args:
            command: what to append.
            wait: whether to wait for room in a full queue, up to the delivery timeout, or to refuse at once.

        Returns:
            The future of its position, which fails with an AppendError.

        Raises:
            AppendError: as of CommandProducer.submit().
        """
        loop = asyncio.get_running_loop()
        if self._deliveries is None or self._deliveries.loop is not loop:
            self._keep_failures()
            self._deliveries = _LoopDeliveries(loop, self._producer._unseen)
        settle = self._deliveries.settle

        def submit() -> asyncio.Future[Position]:
            future: asyncio.Future[Position] = loop.create_future()
            self._producer._hand_over(command, partial(settle, future), wait=False)
            return future

        return await self._handed_over(submit, self._producer.delivery_timeout_s if wait else 0.0)

    async def submit_batch(
        self, records: Sequence[Encoded], confirm_s: float | None = None
    ) -> tuple[asyncio.Future[Sequence[Outcome]], AppendError | None]:
        """Hand encoded commands over in their order, waiting for room in a full queue.

        All answers come to the loop in one call. After a cancel the log may have any of the records or none.

        Args:
            records: at least one.
            confirm_s: seconds that the log has to confirm each, waiting for room included; then those that it hasn't
                confirmed have an OutcomeTimeoutError, and may be in the log. None: until the delivery timeout.

        Returns:
            The future of their answers, each a position or an AppendError, in the order of the records, which never
            fails; and why records weren't taken, as CommandProducer.submit_batch() returns it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[Outcome]] = loop.create_future()

        def settle(answers: Sequence[Outcome]) -> None:
            if not future.done():
                future.set_result(answers)

        def done(answers: Sequence[Outcome]) -> None:
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits.
                loop.call_soon_threadsafe(settle, answers)

        batch = BatchDelivery(len(records), done)
        if confirm_s is None:
            return future, await asyncio.to_thread(self._producer._hand_over_batch, records, batch)
        deadline = time.monotonic() + confirm_s
        refusal = await asyncio.to_thread(self._producer._hand_over_batch, records, batch, deadline)
        left = max(0.0, deadline - time.monotonic())
        timer = loop.call_later(left, batch.give_up, unconfirmed(confirm_s))
        future.add_done_callback(lambda _: timer.cancel())
        return future, refusal

    async def append_and_wait(self, command: Command, timeout: float = 10.0) -> CommandOutcome:  # noqa: ASYNC109 - the sync twin's argument.
        """Append a command and wait for its outcome. After a cancel nothing waits; the log may have the command or not.

        Args:
            command: what to append.
            timeout: in seconds, for all of it; more than 0, at most 86,400.

        Returns:
            The command's outcome, as of CommandProducer.append_and_wait().

        Raises:
            AppendError: as of CommandProducer.append_and_wait().
            ProducerSettingError: the producer was made without `outcomes`, or the timeout is out of bounds.
        """
        refuse_timeout(timeout)
        deadline = time.monotonic() + timeout

        def submit() -> asyncio.Future[CommandOutcome]:
            left = max(0.001, deadline - time.monotonic())
            return asyncio.wrap_future(self._producer.submit_for_outcome(command, left, wait=False))

        return await (await self._handed_over(submit, min(timeout, self._producer.delivery_timeout_s)))

    async def _handed_over(self, submit: Callable[[], asyncio.Future[_T]], timeout_s: float) -> asyncio.Future[_T]:
        """Call what hands a command over, again while the queue is full; returns the future of its answer."""
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
                await asyncio.to_thread(self._producer._queue.await_room, deadline)

    async def flush(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the sync twin's argument.
        """Wait until everything handed over has its answer.

        Args:
            timeout: in seconds; by default a little over the delivery timeout.

        Raises:
            UndeliveredError: the time is over.
            AppendError: as of CommandProducer.flush().
        """
        self._keep_failures()
        await asyncio.to_thread(self._producer.flush, timeout)

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the sync twin's argument.
        """Take nothing more and wait for what is under way.

        Args:
            timeout: in seconds; by default a little over the delivery timeout.

        Raises:
            UndeliveredError: commands were left without an answer.
            AppendError: as of CommandProducer.close().
        """
        self._keep_failures()
        await asyncio.to_thread(self._producer.close, timeout)

    def _keep_failures(self) -> None:
        if self._deliveries is not None:
            self._deliveries.keep_failures()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep_failures()
        await asyncio.to_thread(self._producer.__exit__, kind, error, trace)
