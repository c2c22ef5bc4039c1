"""Waiting for outcomes: one thread of the process follows the fold for all commands whose outcome is waited for.

Owns who waits, until when, and for which position of the log. Refuses to know where outcomes are found: that is the
lookup's, which the library's caller passes (creditfold.projections.queries.outcomes has the one for PostgreSQL),
so that a service that only appends needs no client of PostgreSQL. The published topics can't answer in its place: a
duplicate leaves nothing there, nor in the journal, and its first outcome may be years old.

The thread runs an event loop of its own. So a lookup that hangs keeps nobody waiting beyond the time given, and what
waits costs an entry in a dictionary and no thread.
"""

import asyncio
import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from itertools import count
from typing import Any, NamedTuple, Protocol

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.producers.models.errors import (
    RESEND,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    ProducerClosedError,
    QueueFullError,
    unconfirmed,
)
from creditfold.schemas.outcome import Appended, CommandOutcome

#: Most waiters at once; the next is refused before its command is appended.
MOST_WAITING = 100_000
#: Pauses between two looks at how far the fold is, in seconds: the first after something was found, and the longest.
FIRST_PAUSE_S = 0.004
LONGEST_PAUSE_S = 0.1
#: Outcomes of one look-up.
LOOKED_UP = 500
#: Seconds that one look-up may take; then its session is closed, and another one is opened.
LOOK_S = 10.0
#: Pauses before a lost session is opened again.
FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 2.0
#: Seconds after which a session that nobody needs is closed.
IDLE_S = 60.0

_CLOSE_S = 5.0
_LOG_AGAIN_S = 10.0
# Entries of heaps whose waiters are gone are left where they are, until there are more of them than of others.
_MOST_STALE = 1_000

_log = logging.getLogger("creditfold.producers.outcomes")


class OutcomeSession(Protocol):
    """An open way to the outcomes of one topic's commands. Used by one task."""

    async def next_offsets(self) -> Mapping[int, int]:
        """How far each partition is folded: everything before the offset is. Raises when that can't be said."""
        ...

    async def outcomes_at(self, appended: Sequence[Appended]) -> Sequence[CommandOutcome | CreditfoldError | None]:
        """The outcome of each: None where it isn't folded, an error where there will be none."""
        ...


class OutcomeLookup(Protocol):
    """Where outcomes are found. Holds nothing open, so it may be shared, and survives a fork."""

    def session(self, topic: str) -> AbstractAsyncContextManager[OutcomeSession]:
        """Open a way to the outcomes of a topic's commands, for a block. Raises when there is none at the moment."""
        ...


class Waiter:
    """One command whose outcome is waited for. `future` gets the outcome, or an AppendError."""

    __slots__ = ("account", "command_id", "deadline", "future", "number", "position", "timeout_s")

    def __init__(self, number: int, account: str, command_id: str, timeout_s: float) -> None:
        self.number = number
        self.account = account
        self.command_id = command_id
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.future: Future[CommandOutcome] = Future()
        self.position: Position | None = None


class Trouble(NamedTuple):
    """Why outcomes can't be looked up at the moment, what to do about it, and since when, by the monotonic clock."""

    text: str
    remedy: str
    since: float


class OutcomeFollower:
    """Follows the fold for all waiters of the process. The first one starts its thread.

    Any thread may use it. It is of the process that made it: its owner refuses calls after a fork.
    """

    def __init__(self, lookup: OutcomeLookup, topic: str) -> None:
        self._lookup = lookup
        self._topic = topic
        self._numbers = count()
        # Held while something is handed to the loop, so that nothing is once close() has been called.
        self._entry = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # By their numbers, all who wait. Entered by their callers, removed in the loop's thread.
        self._waiters: dict[int, Waiter] = {}
        # What the loop's thread is to do, and when it looks at that by itself, by the monotonic clock.
        self._orders: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_woken = False
        self._wakes_at = float("inf")
        # All below is the loop's thread's. By partition a heap of (offset, number), some of whose waiters are gone.
        self._placed: dict[int, list[tuple[int, int]]] = {}
        self._next_offsets: Mapping[int, int] = {}
        # A heap of (deadline, number), as those.
        self._deadlines: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        # How many wait for the fold, their commands being in the log.
        self._in_log = 0
        self._trouble: Trouble | None = None
        self._retry_s = FIRST_RETRY_S
        self._logged_at = float("-inf")

    @property
    def waiting(self) -> int:
        """The number of waiters."""
        return len(self._waiters)

    def expect(self, account: str, command_id: str, timeout_s: float) -> Waiter:
        """Add a waiter before its command is appended; its time begins now.

        The waiter must be given to `follow` or to `forget`.
        Raises QueueFullError, ProducerClosedError.
        """
        with self._entry:
            if self._closed:
                raise ProducerClosedError("The producer is closed.", "Make a new one.")
            if len(self._waiters) >= MOST_WAITING:
                raise QueueFullError(
                    f"{MOST_WAITING:,} commands wait for their outcomes; the command was not taken.",
                    "Append more slowly; if no outcome comes at all, look at `creditfold status`.",
                )
            if self._thread is None:
                self._start()
            waiter = Waiter(next(self._numbers), account, command_id, timeout_s)
            self._waiters[waiter.number] = waiter
        return waiter

    def follow(self, waiter: Waiter, delivery: Future[Position]) -> Future[CommandOutcome]:
        """The future of a waiter's outcome, once the log has confirmed its command; a cancel gives up the waiting."""
        # Nothing is to be done before its time is over, and whoever wakes the thread sooner has it see to this too.
        self._order(self._begin, waiter, by=waiter.deadline)
        waiter.future.add_done_callback(lambda future: self.forget(waiter) if future.cancelled() else None)

        def delivered(delivery: Future[Position]) -> None:
            # Looked at also for a waiter that gave up: its error said that the command may be written.
            error = delivery.exception(0)
            if error is None:
                self._order(self._place, waiter, delivery.result(0))
            else:
                self._order(self._fail, waiter, error)

        delivery.add_done_callback(delivered)
        return waiter.future

    def forget(self, waiter: Waiter) -> None:
        """Remove a waiter that gave up."""
        self._order(self._remove, waiter)

    def close(self) -> None:
        """End the thread; whoever still waits gets OutcomeUnknownError. A second close does nothing."""
        with self._entry:
            if self._closed:
                return
            self._closed = True
            if self._thread is None or self._loop is None:
                return
            # The loop is closed by its own thread, and not before this.
            self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(_CLOSE_S)

    def _start(self) -> None:
        self._loop = asyncio.SelectorEventLoop()
        # For names of hosts only.
        self._loop.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="creditfold-outcomes"))
        # A daemon, as the producer's own thread: what ends the process ends it through the producer's exit hook.
        self._thread = threading.Thread(target=self._serve, args=(self._loop,), name="creditfold-outcomes", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            self._loop.close()
            raise

    def _order(self, act: Callable[..., None], *values: Any, by: float = 0.0) -> None:
        """Have the loop's thread do something, by a time; nothing once it is closed, since nobody waits then."""
        with self._entry:
            if self._closed or self._loop is None:
                return
            self._orders.append((act, values))
            if not self._is_woken and by < self._wakes_at:
                self._is_woken = True
                self._loop.call_soon_threadsafe(self._obey)

    # What follows is the loop's thread's.

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = loop.create_task(self._follow())
        try:
            loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except Exception as failure:
            _log.exception("the thread that waits for outcomes ended")
            self._note_trouble(failure)
        finally:
            with self._entry:
                self._closed = True
            self._fail_all("The thread that follows outcomes has ended.")
            loop.close()

    def _stop(self) -> None:
        self._obey()
        # Those first: a session may take its time to close.
        self._fail_all("The producer was closed while the outcome was waited for.")
        self._task.cancel()

    def _fail_all(self, why: str) -> None:
        for waiter in list(self._waiters.values()):
            where = "" if waiter.position is None else f" The command is in the log at {waiter.position}."
            self._fail(waiter, OutcomeUnknownError(f"{why}{where}{self._why()}", RESEND, waiter.position))

    def _obey(self) -> None:
        """Do what was ordered, and give up those whose time is over."""
        # Before the first look: what comes after the last one calls again.
        self._is_woken = False
        while self._orders:
            act, values = self._orders.popleft()
            act(*values)
        now = time.monotonic()
        while self._deadlines:
            deadline, number = self._deadlines[0]
            waiter = self._waiters.get(number)
            if waiter is not None and deadline > now:
                self._wake_at(deadline)
                return
            heapq.heappop(self._deadlines)
            if waiter is not None:
                self._expire(waiter)

    def _wake_at(self, deadline: float) -> None:
        """Obey again at a time, unless that is done before anyhow."""
        if deadline >= self._wakes_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._wake)
        with self._entry:
            self._wakes_at = deadline

    def _wake(self) -> None:
        self._timer = None
        with self._entry:
            self._wakes_at = float("inf")
        self._obey()

    def _begin(self, waiter: Waiter) -> None:
        if waiter.number in self._waiters:
            heapq.heappush(self._deadlines, (waiter.deadline, waiter.number))

    def _place(self, waiter: Waiter, position: Position) -> None:
        if waiter.number in self._waiters:
            waiter.position = position
            self._in_log += 1
            self._push(waiter, position)
            self._news.set()

    def _push(self, waiter: Waiter, position: Position) -> None:
        heapq.heappush(self._placed.setdefault(position.partition, []), (position.offset, waiter.number))

    def _remove(self, waiter: Waiter) -> None:
        if self._waiters.pop(waiter.number, None) is None:
            return
        self._in_log -= waiter.position is not None
        if len(self._deadlines) > 2 * len(self._waiters) + _MOST_STALE:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._waiters]
            heapq.heapify(self._deadlines)
        if sum(map(len, self._placed.values())) > 2 * len(self._waiters) + _MOST_STALE:
            self._placed = {
                partition: [entry for entry in heap if entry[1] in self._waiters]
                for partition, heap in self._placed.items()
            }
            for heap in self._placed.values():
                heapq.heapify(heap)

    def _settle(self, waiter: Waiter, outcome: CommandOutcome) -> None:
        self._remove(waiter)
        # False for one that was cancelled meanwhile.
        if waiter.future.set_running_or_notify_cancel():
            waiter.future.set_result(outcome)

    def _fail(self, waiter: Waiter, error: BaseException) -> None:
        if waiter.number not in self._waiters:
            return
        self._remove(waiter)
        if waiter.future.set_running_or_notify_cancel():
            waiter.future.set_exception(error)

    def _expire(self, waiter: Waiter) -> None:
        position = waiter.position
        if position is None:
            self._fail(waiter, unconfirmed(waiter.timeout_s))
            return
        at = self._next_offsets.get(position.partition)
        stands = "" if at is None else f"; it stands at {Position(position.partition, at)}"
        message = (
            f"The command is in the log at {position}, and the fold has not reached it within"
            f" {round(waiter.timeout_s, 2):g} s{stands}.{self._why()}"
        )
        remedy = "See `creditfold status`; is a worker running?" if self._trouble is None else self._trouble.remedy
        self._fail(waiter, OutcomeTimeoutError(message, f"{remedy} {RESEND}".strip(), position))

    def _why(self) -> str:
        if self._trouble is None:
            return ""
        for_s = time.monotonic() - self._trouble.since
        return f" Outcomes can't be looked up for {for_s:.0f} s: {self._trouble.text}"

    async def _follow(self) -> None:
        """Look outcomes up while there are waiters; after a failure, open another session."""
        while await self._await_waiter(None):
            try:
                async with self._lookup.session(self._topic) as session:
                    await self._look_until_idle(session)
            except Exception as error:
                self._note_trouble(error)
                await asyncio.sleep(self._retry_s)
                self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)

    async def _await_waiter(self, timeout_s: float | None) -> bool:
        """Wait until there is a command whose position is known and whose outcome isn't; False when time runs out."""
        while not self._in_log:
            self._news.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                return False
        return True

    async def _look_until_idle(self, session: OutcomeSession) -> None:
        """Look until there was no waiter for IDLE_S seconds."""
        pause_s = 0.0
        while await self._await_waiter(IDLE_S):
            self._news.clear()
            async with asyncio.timeout(LOOK_S):
                found = await self._look(session)
            self._trouble, self._retry_s = None, FIRST_RETRY_S
            await asyncio.sleep(FIRST_PAUSE_S)
            pause_s = 0.0 if found else min(1.5 * pause_s + FIRST_PAUSE_S, LONGEST_PAUSE_S)
            # A command that was confirmed meanwhile may be folded at once, however long others have waited.
            if pause_s:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._news.wait()
                    pause_s = 0.0

    async def _look(self, session: OutcomeSession) -> bool:
        """Settle the waiters whose commands are folded by now. Returns whether there was any."""
        self._next_offsets = await session.next_offsets()
        due, found = list(self._take_folded()), 0
        try:
            while due:
                some = due[:LOOKED_UP]
                looked_up = await session.outcomes_at(
                    [Appended(position, waiter.account, waiter.command_id) for waiter, position in some]
                )
                del due[:LOOKED_UP]
                for (waiter, position), outcome in zip(some, looked_up, strict=True):
                    self._take(waiter, position, outcome)
                    found += outcome is not None
        finally:
            # Those of a look-up that failed, too.
            for waiter, position in due:
                self._push(waiter, position)
        return found > 0

    def _take_folded(self) -> Iterator[tuple[Waiter, Position]]:
        for partition, heap in self._placed.items():
            end = self._next_offsets.get(partition, 0)
            while heap and heap[0][0] < end:
                offset, number = heapq.heappop(heap)
                if number in self._waiters:
                    yield self._waiters[number], Position(partition, offset)

    def _take(self, waiter: Waiter, position: Position, outcome: CommandOutcome | CreditfoldError | None) -> None:
        if outcome is None:
            # The views came to show a projection that isn't folded so far.
            self._push(waiter, position)
        elif isinstance(outcome, CreditfoldError):
            self._fail(waiter, OutcomeUnknownError(outcome.message, outcome.remedy, position))
        else:
            self._settle(waiter, outcome)

    def _note_trouble(self, error: Exception) -> None:
        remedy = ""
        if isinstance(error, CreditfoldError):
            text, remedy = error.message, error.remedy
        elif isinstance(error, TimeoutError):
            text = f"no answer within {LOOK_S:g} s."
        else:
            text = f"{type(error).__name__}: {error}."
        now = time.monotonic()
        self._trouble = Trouble(text, remedy, now if self._trouble is None else self._trouble.since)
        if now - self._logged_at >= _LOG_AGAIN_S:
            self._logged_at = now
            _log.warning("outcomes can't be looked up: %s", text)
