"""How far the fold is, for whoever waits until it has passed a position: one look at a time for all of them.

Owns who waits, and for what; one that waits costs neither a thread nor a connection, and is woken when it is its turn
and not before, however many wait. Knows no route and no SQL.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from creditfold.api.problems import ProblemError
from creditfold.common.position import Position
from creditfold.projections import queries
from creditfold.projections.queries.progress import Standing

#: Seconds between two looks at how far the fold is while somebody waits for it, and after one that failed.
LOOK_S, RETRY_S = 0.01, 1.0


class Fold:
    """The fold, as it was when it was looked at last. `follow` runs while the door is open.

    Args:
        ask: asks PostgreSQL by a function of `projections.queries`.
    """

    def __init__(self, ask: Callable[..., Awaitable[Any]]) -> None:
        self._ask = ask
        # By partition, the first offset that isn't folded.
        self._next: Mapping[int, int] = {}
        self._waiting: dict[asyncio.Future[None], Position] = {}
        self._somebody = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def has_passed(self, position: Position) -> bool:
        """Whether a position was folded when the fold was looked at last."""
        return self._next.get(position.partition, 0) > position.offset

    async def passes(self, position: Position, timeout_s: float) -> bool:
        """Wait until the fold has passed a position; False where the time is over.

        Raises:
            ProblemError: there is no such partition.
        """
        if self.has_passed(position):
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = position
        self._somebody.set()
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except TimeoutError:
            return False
        finally:
            del self._waiting[turn]
        return True

    async def wait_for(self, position: Position, timeout_s: float) -> None:
        """Wait until the fold has passed a position.

        Raises:
            ProblemError: the time is over, or there is no such partition.
        """
        if not await self.passes(position, timeout_s):
            raise ProblemError(
                503,
                "not_yet_folded",
                f"The fold has not reached {position} within {round(timeout_s, 2):g} s.",
                "Ask again, or without at_least. GET /v1/progress shows how far the fold is.",
                headers={"Retry-After": "1"},
            )

    def forget(self) -> None:
        """Know nothing until the next look: what was known is of a generation that isn't shown any more."""
        self._next = {}

    async def follow(self) -> None:
        """Look while somebody waits, until cancelled."""
        while True:
            if not self._waiting:
                self._somebody.clear()
                await self._somebody.wait()
            try:
                found: Standing = await self._ask(queries.standing)
            except Exception:  # Whoever waits learns from its own next query what is the matter.
                await asyncio.sleep(RETRY_S)
                continue
            self._next = found.next_offsets
            self._wake()
            await asyncio.sleep(LOOK_S)

    def _wake(self) -> None:
        for turn, position in self._waiting.items():
            if turn.done():
                continue
            if self.has_passed(position):
                turn.set_result(None)
            elif self._next and position.partition not in self._next:
                turn.set_exception(
                    ProblemError(
                        400, "no_such_partition", f"There is no partition {position.partition}.", "See /v1/progress."
                    )
                )
