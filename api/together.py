"""Questions that come while one like them is under way, asked together when it is answered.

Owns who waits for which answer. What comes alone is asked alone, and at once; the more comes, the more is asked
together. Knows no route and no SQL.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K")
T = TypeVar("T")

#: Questions of a kind that are under way at once.
MOST_UNDER_WAY = 2
#: What is asked for at once by one question.
MOST_TOGETHER = 100


class _Asked(NamedTuple, Generic[K, T]):
    key: K
    future: asyncio.Future[T]


class Together(Generic[K, T]):
    """Asks for several what was asked for one by one.

    Args:
        ask: has the question asked beside the event loop, and returns the future of the answers by what was asked for.
    """

    def __init__(self, ask: Callable[[Sequence[K]], asyncio.Future[Mapping[K, T]]]) -> None:
        self._ask = ask
        self._waiting: list[_Asked[K, T]] = []
        self._under_way = 0
        self._is_called = False

    async def of(self, key: K) -> T:
        """The answer for one. Raises what asking raised, for all that were asked for with it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Asked(key, future))
        if not self._is_called and self._under_way < MOST_UNDER_WAY:
            # Not before what has come in this turn of the loop is there too.
            self._is_called = True
            loop.call_soon(self._begin)
        return await future

    def _begin(self) -> None:
        self._is_called = False
        waiting = [one for one in self._waiting if not one.future.done()]
        asked, self._waiting = waiting[:MOST_TOGETHER], waiting[MOST_TOGETHER:]
        if not asked:
            return
        self._under_way += 1
        self._ask(list(dict.fromkeys(one.key for one in asked))).add_done_callback(partial(self._end, asked))

    def _end(self, asked: Sequence[_Asked[K, T]], answered: asyncio.Future[Mapping[K, T]]) -> None:
        self._under_way -= 1
        error = asyncio.CancelledError() if answered.cancelled() else answered.exception()
        for key, future in asked:
            if future.done():
                # Its client has left, or its time is over.
                continue
            if error is None:
                future.set_result(answered.result()[key])
            elif answered.cancelled():
                future.cancel()
            else:
                future.set_exception(error)
        if self._waiting:
            self._begin()
