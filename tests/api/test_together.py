"""What comes while a question is under way is asked together."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from creditfold.api import together
from creditfold.api.together import Together


class Questions:
    """Questions that are answered when a test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], asyncio.Future[Mapping[str, str]]]] = []
        self.together = Together(self._ask)

    def _ask(self, keys: Sequence[str]) -> "asyncio.Future[Mapping[str, str]]":
        future: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()
        self.asked.append((list(keys), future))
        return future

    def ask(self, keys: str) -> "list[asyncio.Task[str]]":
        """Ask for each letter by itself."""
        return [asyncio.create_task(self.together.of(key)) for key in keys]

    async def seen(self) -> list[str]:
        """What the questions so far were about."""
        for _ in range(5):
            await asyncio.sleep(0)
        return ["".join(keys) for keys, _ in self.asked]

    def answer(self, number: int) -> None:
        """Answer a question: the answer for each is the same in capitals."""
        keys, future = self.asked[number]
        future.set_result({key: key.upper() for key in keys})


async def test_what_comes_meanwhile_is_asked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions are under way at most; each of those who ask has their own answer, also of what is asked twice."""
    monkeypatch.setattr(together, "MOST_TOGETHER", 3)
    own = Questions()
    tasks = own.ask("a")
    assert await own.seen() == ["a"]
    tasks += own.ask("bb")
    assert await own.seen() == ["a", "b"]
    tasks += own.ask("cdef")
    assert await own.seen() == ["a", "b"]
    own.answer(0)
    assert await own.seen() == ["a", "b", "cde"]
    own.answer(2)
    assert await own.seen() == ["a", "b", "cde", "f"]
    own.answer(1)
    own.answer(3)
    assert await asyncio.gather(*tasks) == list("ABBCDEF")


async def test_a_failure_is_of_those_who_asked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the next; and who has left is neither asked for nor in the way."""
    monkeypatch.setattr(together, "MOST_UNDER_WAY", 1)
    own = Questions()
    first = own.ask("ab")
    await own.seen()
    gone, *later = own.ask("cd")
    await own.seen()
    for task in (first[0], gone):
        task.cancel()
    own.asked[0][1].set_exception(ValueError("away"))
    assert await own.seen() == ["ab", "d"]
    with pytest.raises(ValueError, match="away"):
        await first[1]
    own.answer(1)
    assert await later[0] == "D"
    everyone = own.ask("e")
    assert await own.seen() == ["ab", "d", "e"]
    own.answer(2)
    assert await everyone[0] == "E"
