"""Who waits for outcomes is woken in time, once, and leaves nothing behind, whatever the lookup does.

The lookup is a script here: what is tested is the waiting. tests/producers/test_append_and_wait.py has the real one.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import asynccontextmanager
from typing import Self

import pytest

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.common.waiting import wait_until
from creditfold.producers import (
    AsyncCommandProducer,
    CommandProducer,
    Grant,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    ProducerClosedError,
    ProducerSettingError,
    QueueFullError,
    outcomes,
)
from creditfold.producers.outcomes import OutcomeFollower
from creditfold.schemas.outcome import Appended, CommandOutcome, OutcomeKind
from helpers.support import HANG_S

SHORT_S = 0.05

Answer = CommandOutcome | CreditfoldError | None


class Script:
    """A lookup that does as it is asked: how far the fold is, and what it answers to whom."""

    def __init__(self) -> None:
        self.folded: dict[int, int] = {}
        self.sessions = self.closed = 0
        self.asked: list[list[Position]] = []
        self.before_look: Callable[[], Awaitable[None]] | None = None
        self.answer: Callable[[Appended], Answer] = lambda one: CommandOutcome(OutcomeKind.ACCEPTED, one.position)

    @asynccontextmanager
    async def session(self, topic: str) -> AsyncIterator["Script"]:
        assert topic == "commands"
        self.sessions += 1
        try:
            yield self
        finally:
            self.closed += 1

    async def next_offsets(self) -> Mapping[int, int]:
        if self.before_look is not None:
            await self.before_look()
        return dict(self.folded)

    async def outcomes_at(self, appended: Sequence[Appended]) -> Sequence[Answer]:
        self.asked.append([one.position for one in appended])
        return [self.answer(one) for one in appended]


class Waits:
    """A follower and its script, closed at the end of a block."""

    def __init__(self) -> None:
        self.script = Script()
        self.follower = OutcomeFollower(self.script, "commands")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.follower.close()

    def submit(self, position: Position | None, timeout_s: float = HANG_S) -> Future[CommandOutcome]:
        """Wait for a command that the log has confirmed, unless its position is None."""
        delivery: Future[Position] = Future()
        future = self.follower.follow(self.follower.expect("ann", "c", timeout_s), delivery)
        if position is not None:
            delivery.set_result(position)
        return future

    def submit_shortly(self, position: Position) -> Future[CommandOutcome]:
        """The same for SHORT_S, which begin when the position is known, however slow this thread is."""
        waiter = self.follower.expect("ann", "c", SHORT_S)
        self.follower._order(self.follower._place, waiter, position)
        return self.follower.follow(waiter, Future())


def followers() -> set[threading.Thread]:
    """The threads that follow outcomes, those of other tests among them."""
    return {thread for thread in threading.enumerate() if thread.name == "creditfold-outcomes"}


def test_each_gets_the_outcome_of_its_own_position_once_it_is_folded() -> None:
    """In whatever order they were confirmed, over partitions, a bounded number of them in one look-up."""
    with Waits() as waits:
        places = [Position(partition, offset) for offset in (7, 3, 5, 900, 4) for partition in (0, 1)]
        futures = {place: waits.submit(place) for place in places}
        waits.script.folded = {0: 8, 1: 5}
        passed = {place for place in places if place.offset < waits.script.folded[place.partition]}
        assert {futures[place].result(HANG_S).position for place in passed} == passed
        assert not any(futures[place].done() for place in set(places) - passed)
        waits.script.folded = {0: 1_000, 1: 1_000}
        assert [future.result(HANG_S).position for future in futures.values()] == places
        # Nobody was asked about before the fold had passed it, nor twice.
        assert sorted(place for some in waits.script.asked for place in some) == sorted(places)
        assert waits.follower.waiting == 0


def test_many_are_looked_up_some_hundred_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each of them is answered."""
    monkeypatch.setattr(outcomes, "LOOKED_UP", 30)
    with Waits() as waits:
        futures = [waits.submit(Position(0, offset)) for offset in range(200)]
        waits.script.folded = {0: 200}
        assert [future.result(HANG_S).position.offset for future in futures] == list(range(200))
        assert max(map(len, waits.script.asked)) <= 30


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "fails"])
def test_a_lookup_that_is_away_keeps_nobody_beyond_the_time_given(hangs: bool) -> None:
    """The error says where the command is and what is wrong; who has more time gets the outcome when it is back."""
    with Waits() as waits:
        away = threading.Event()
        away.set()

        async def look() -> None:
            while away.is_set():
                if not hangs:
                    raise CreditfoldError("The database is away.")
                await asyncio.sleep(0.01)

        waits.script.before_look = look
        waits.script.folded = {0: 10}
        patient = waits.submit(Position(0, 1))
        if not hangs:
            assert wait_until(lambda: waits.follower._trouble is not None, HANG_S)
        error = waits.submit_shortly(Position(0, 2)).exception(HANG_S)
        assert isinstance(error, OutcomeTimeoutError)
        assert (error.position, error.maybe_written) == (Position(0, 2), True)
        assert "in the log at 0:2, and the fold has not reached it within 0.05 s" in error.message
        assert hangs or "The database is away." in error.message
        assert "same command id" in error.remedy
        away.clear()
        assert patient.result(HANG_S).kind == OutcomeKind.ACCEPTED
        assert wait_until(lambda: waits.follower._trouble is None, HANG_S)
        assert hangs or waits.script.sessions > 1


def test_a_look_that_takes_too_long_gives_its_session_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does whose server is gone without a word; the next one answers."""
    monkeypatch.setattr(outcomes, "LOOK_S", SHORT_S)
    with Waits() as waits:

        async def look() -> None:
            if waits.script.sessions == 1:
                # The next one may take its time.
                monkeypatch.setattr(outcomes, "LOOK_S", HANG_S)
                await asyncio.Event().wait()

        waits.script.before_look = look
        waits.script.folded = {0: 10}
        assert waits.submit(Position(0, 1)).result(HANG_S).kind == OutcomeKind.ACCEPTED
        assert waits.script.sessions == 2


def test_a_command_that_the_log_has_not_confirmed_times_out_too() -> None:
    """It may be in the log; no position is known. A confirmation that comes later is nobody's."""
    with Waits() as waits:
        delivery: Future[Position] = Future()
        future = waits.follower.follow(waits.follower.expect("ann", "c", SHORT_S), delivery)
        error = future.exception(HANG_S)
        assert isinstance(error, OutcomeTimeoutError)
        assert (error.position, error.maybe_written) == (None, True)
        assert "didn't confirm the command within 0.05 s" in error.message
        delivery.set_result(Position(0, 1))
        assert waits.follower.waiting == 0


def test_each_is_given_up_at_its_own_time() -> None:
    """Also where nothing comes that would wake the thread: sooner, later or long after those before it."""
    with Waits() as waits:
        futures = [waits.submit(None, times * SHORT_S) for times in (4, 2, 6, 4, 1)]
        assert all(isinstance(future.exception(HANG_S), OutcomeTimeoutError) for future in futures)
        assert wait_until(lambda: waits.follower._timer is None, HANG_S)
        assert isinstance(waits.submit(None, SHORT_S).exception(HANG_S), OutcomeTimeoutError)
        assert waits.follower.waiting == 0


def test_a_failed_append_is_reported_as_it_is() -> None:
    """Nobody waits for a fold then."""
    with Waits() as waits:
        delivery: Future[Position] = Future()
        future = waits.follower.follow(waits.follower.expect("ann", "c", HANG_S), delivery)
        delivery.set_exception(QueueFullError("Full.", "Wait."))
        assert isinstance(future.exception(HANG_S), QueueFullError)
        assert waits.follower.waiting == 0


def test_a_projection_that_was_set_back_is_waited_for() -> None:
    """What the look-up finds not to be folded, although the progress said so, isn't answered yet."""
    with Waits() as waits:
        turns = iter([None, None])
        waits.script.answer = lambda one: next(turns, CommandOutcome(OutcomeKind.REJECTED, one.position))
        waits.script.folded = {0: 10}
        assert waits.submit(Position(0, 1)).result(HANG_S).kind == OutcomeKind.REJECTED
        assert len(waits.script.asked) == 3


def test_what_has_no_outcome_is_an_error_at_once() -> None:
    """With the lookup's words, and the position."""
    with Waits() as waits:
        waits.script.answer = lambda one: CreditfoldError(f"Nothing is shown of {one.command_id}.", "Look there.")
        waits.script.folded = {0: 10}
        error = waits.submit(Position(0, 1)).exception(HANG_S)
        assert isinstance(error, OutcomeUnknownError)
        assert not isinstance(error, OutcomeTimeoutError)
        assert (error.message, error.remedy, error.position) == (
            "Nothing is shown of c.",
            "Look there.",
            Position(0, 1),
        )


def test_closing_wakes_whoever_waits() -> None:
    """With an error that says where the command is; nobody can wait afterwards, and the thread is gone."""
    waits = Waits()
    known, unknown = waits.submit(Position(0, 1)), waits.submit(None)
    waits.follower.close()
    waits.follower.close()
    for future, position in ((known, Position(0, 1)), (unknown, None)):
        error = future.exception(HANG_S)
        assert isinstance(error, OutcomeUnknownError)
        assert error.position == position
        assert "closed while the outcome was waited for" in error.message
    with pytest.raises(ProducerClosedError):
        waits.submit(None)
    thread = waits.follower._thread
    assert thread is not None
    thread.join(HANG_S)
    assert not thread.is_alive()


def test_a_defect_of_the_lookup_ends_no_thread() -> None:
    """A lookup may raise anything."""
    with Waits() as waits:
        defects = iter([ZeroDivisionError("by zero"), KeyError("x"), TimeoutError()])

        async def look() -> None:
            for defect in defects:
                raise defect

        waits.script.before_look = look
        waits.script.folded = {0: 10}
        assert waits.submit(Position(0, 1)).result(HANG_S).kind == OutcomeKind.ACCEPTED


def test_more_than_so_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; whoever leaves makes room."""
    monkeypatch.setattr(outcomes, "MOST_WAITING", 2)
    with Waits() as waits:
        first, _ = waits.submit(None), waits.submit(None)
        with pytest.raises(QueueFullError, match="2 commands wait for their outcomes"):
            waits.submit(None)
        assert first.cancel()
        assert wait_until(lambda: waits.follower.waiting == 1, HANG_S)
        waits.submit(None)


def test_those_who_give_up_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timed out or cancelled, behind one who goes on waiting while nothing is folded: neither them nor their places."""
    monkeypatch.setattr(outcomes, "_MOST_STALE", 10)
    with Waits() as waits:
        patient = waits.submit(Position(0, 0))
        timed = [waits.submit(Position(0, offset), SHORT_S) for offset in range(1, 500)]
        wait(timed, HANG_S)
        assert all(isinstance(future.exception(0), OutcomeTimeoutError) for future in timed)
        for offset in range(500, 1_000):
            assert waits.submit(Position(offset % 3, offset)).cancel()
        assert wait_until(lambda: waits.follower.waiting == 1, HANG_S)
        assert wait_until(lambda: sum(map(len, waits.follower._placed.values())) <= 13, HANG_S)
        assert len(waits.follower._deadlines) <= 13
        waits.script.folded = {0: 1}
        assert patient.result(HANG_S).position == Position(0, 0)
        assert waits.follower._in_log == 0


def test_nobody_waits_at_first_and_no_thread_is_there() -> None:
    """A producer that never waits for outcomes pays nothing for it, and opens no session."""
    before = followers()
    with Waits() as waits:
        assert followers() <= before
        assert waits.script.sessions == 0


def test_an_idle_session_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And opened again by the next who waits."""
    monkeypatch.setattr(outcomes, "IDLE_S", SHORT_S)
    with Waits() as waits:
        waits.script.folded = {0: 10}
        for offset in range(3):
            assert waits.submit(Position(0, offset)).result(HANG_S)
            opened = offset + 1
            assert wait_until(lambda opened=opened: waits.script.closed == opened, HANG_S)
        assert waits.script.sessions == 3


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), 86_401])
async def test_a_wait_out_of_bounds_is_refused_before_anything_is_sent(seconds: float) -> None:
    """From threads and from an event loop; no client looks for Kafka first."""
    nowhere = {"bootstrap.servers": "127.0.0.1:1"}
    grant = Grant(command_id="g", account="ann", asset="credits", amount=1)
    with CommandProducer(nowhere, "commands", outcomes=Script()) as producer:
        for ask in (producer.append_and_wait, producer.submit_for_outcome):
            with pytest.raises(ProducerSettingError, match="can't be waited; the command was not taken"):
                ask(grant, seconds)
    async with AsyncCommandProducer(nowhere, "commands", outcomes=Script()) as producer:
        with pytest.raises(ProducerSettingError, match="can't be waited; the command was not taken"):
            await producer.append_and_wait(grant, seconds)
