"""Answers that take longer than anybody waits: worked out apart from requests, and shown with the time they are of.

Owns when a question is asked anew, and keeps its last answer as it is. What there is to ask, and how, others say.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

#: Asks a question, whatever that is.
Ask: TypeAlias = Callable[[Any], Awaitable[Any]]

#: Seconds that a look waits for an answer that is under way: what takes no longer is always of now.
WAIT_S = 0.1
#: Seconds for which an answer that took longer isn't asked for anew; or what it took so many times, if that is more, so
#: that looks don't keep PostgreSQL busy with it all the time.
LEAST_KEPT_S, KEPT_TIMES = 5.0, 2
#: Seconds for which an error for which nobody waited is that of who looks next: later it says nothing of now.
ERROR_S = 30.0


class LatestAnswer(NamedTuple):
    """The last answer: when it was asked for, and how many seconds it took."""

    found: Any
    at: datetime
    took_s: float


class Latest(NamedTuple):
    """What a look finds: the last answer if there is one, and since when a newer one is under way, None if none is."""

    answer: LatestAnswer | None
    since: datetime | None


class LatestAnswers:
    """The last answers of questions, by name.

    Args:
        ask: asks one; cancelled if the door closes.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._answers: dict[str, LatestAnswer] = {}
        #: By the monotonic clock, until when an answer isn't asked for anew.
        self._kept_until: dict[str, float] = {}
        #: Each with until when it is raised, by the same clock.
        self._errors: dict[str, tuple[float, Exception]] = {}
        self._under_way: dict[str, tuple[datetime, asyncio.Task[Exception | None]]] = {}

    async def look(self, name: str, question: Any) -> Latest:
        """The last answer to a question, which is asked anew unless it is under way or the answer is young enough.

        Args:
            name: of the question: the same one is asked once at a time.
            question: what `ask` asks.

        Raises:
            Exception: what the question came to just now, if that was an error; it is asked anew by the next look.
        """
        if name not in self._under_way:
            until, error = self._errors.pop(name, (0.0, None))
            if error is not None and time.monotonic() < until:
                raise error
            if time.monotonic() < self._kept_until.get(name, 0.0):
                return Latest(self._answers[name], None)
            at = datetime.now(UTC)
            self._under_way[name] = at, asyncio.create_task(self._answer(name, question, at))
        at, task = self._under_way[name]
        await asyncio.wait([task], timeout=WAIT_S)
        if not task.done() or task.cancelled():
            return Latest(self._answers.get(name), at)
        failed = task.result()
        if failed is not None:
            self._errors.pop(name, None)
            raise failed
        return Latest(self._answers[name], None)

    async def _answer(self, name: str, question: Any, at: datetime) -> Exception | None:
        began = time.monotonic()
        try:
            found = await self._ask(question)
        except Exception as error:  # For those who wait for it, or whoever looks next.
            self._errors[name] = time.monotonic() + ERROR_S, error
            return error
        finally:
            del self._under_way[name]
        ended = time.monotonic()
        took_s = ended - began
        self._answers[name] = LatestAnswer(found, at, took_s)
        self._kept_until[name] = ended + max(LEAST_KEPT_S, KEPT_TIMES * took_s) if took_s > WAIT_S else ended
        return None

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [task for _, task in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
