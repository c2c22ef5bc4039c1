"""What takes longer than anybody waits is asked once at a time, and shows its last answer until there is another."""

import asyncio
from typing import Any

import pytest

from creditfold.api import latest
from creditfold.api.latest import Latest, LatestAnswers
from helpers.support import HANG_S


class Questions:
    """Questions that are answered when a test says so."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[Any]] = []
        self.answers = LatestAnswers(self._ask)

    async def _ask(self, question: Any) -> Any:
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]

    async def look(self, name: str = "books") -> Latest:
        return await self.answers.look(name, "?")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits, and every answer took long."""
    monkeypatch.setattr(latest, "WAIT_S", 0.0)
    monkeypatch.setattr(latest, "LEAST_KEPT_S", 0.0)
    monkeypatch.setattr(latest, "KEPT_TIMES", 0)
    monkeypatch.setattr(latest, "ERROR_S", HANG_S)


async def until_ended(own: Questions) -> None:
    """Wait until nothing is under way."""
    await asyncio.wait_for(asyncio.gather(*(task for _, task in own.answers._under_way.values())), HANG_S)


async def test_a_question_is_asked_once_at_a_time_and_shows_its_last_answer() -> None:
    """With the time at which it was asked, and not that of the look."""
    own = Questions()
    first, again = await own.look(), await own.look()
    assert first.answer is None
    assert (first, len(own.asked)) == (again, 1)
    await own.look("another")
    assert len(own.asked) == 2
    own.asked[1].set_result("other")
    own.asked[0].set_result("old")
    await until_ended(own)
    second = await own.look()
    assert second.answer is not None
    assert (second.answer.found, second.answer.at) == ("old", first.since)
    assert second.since is not None
    assert first.since is not None
    assert second.since > first.since
    own.asked[2].set_result("new")
    await until_ended(own)
    third = await own.look()
    assert third.answer is not None
    assert (third.answer.found, third.answer.at) == ("new", second.since)
    await own.answers.close()


async def test_what_took_long_isnt_asked_for_anew_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes no time is of now, each time; who waits gets it."""
    own = Questions()
    await own.look()
    monkeypatch.setattr(latest, "LEAST_KEPT_S", 1e9)
    own.asked[0].set_result("kept")
    await until_ended(own)
    for _ in range(3):
        found = await own.look()
        assert (found.answer and found.answer.found, found.since, len(own.asked)) == ("kept", None, 1)
    monkeypatch.setattr(latest, "WAIT_S", HANG_S)
    for number in range(1, 4):
        waiting = asyncio.create_task(own.look("quick"))
        for _ in range(5):
            await asyncio.sleep(0)
        own.asked[number].set_result(number)
        found = await waiting
        assert (found.answer and found.answer.found, found.since) == (number, None)


async def test_an_error_of_long_ago_is_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was away then may be there again, and is asked."""
    monkeypatch.setattr(latest, "ERROR_S", 0.0)
    own = Questions()
    await own.look()
    own.asked[0].set_exception(ValueError("away"))
    await until_ended(own)
    assert (await own.look()).since is not None
    await asyncio.sleep(0)
    assert len(own.asked) == 2
    await own.answers.close()


async def test_an_error_is_of_who_waits_or_looks_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and then it is asked anew."""
    own = Questions()
    await own.look()
    own.asked[0].set_exception(ValueError("away"))
    await until_ended(own)
    with pytest.raises(ValueError, match="away"):
        await own.look()
    assert (await own.look()).answer is None
    monkeypatch.setattr(latest, "WAIT_S", HANG_S)
    both = [asyncio.create_task(own.look()) for _ in range(2)]
    await asyncio.sleep(0)
    own.asked[1].set_exception(ValueError("away again"))
    for one in both:
        with pytest.raises(ValueError, match="away again"):
            await one
    monkeypatch.setattr(latest, "WAIT_S", 0.0)
    assert len(own.asked) == 2
    await own.look()
    await asyncio.sleep(0)
    assert len(own.asked) == 3
    await own.answers.close()
    assert own.asked[2].cancelled()
