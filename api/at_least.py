"""Reads of the state that was asked for: not before a position, and page by page of one generation.

Knows no route and no SQL.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Query

from creditfold.api.access import Caller, needs
from creditfold.api.problems import ProblemError
from creditfold.api.service import Reading, Service
from creditfold.common.position import Position
from creditfold.projections.queries.progress import Standing

#: Seconds that a read waits for `at_least` by default.
AT_LEAST_S = 5.0

AtLeast = Annotated[
    str | None, Query(description="Position, `partition:offset`, that the answer must reflect; waits for it.")
]
Reader = Annotated[Caller, needs("read:balance")]


class _Found(Protocol):
    @property
    def standing(self) -> Standing | None: ...


F = TypeVar("F", bound=_Found)


async def reading(
    service: Service, caller: Caller, account: str, at_least: str | None, question: Any, *arguments: Any, **options: Any
) -> Reading:
    """Ask about an account in one snapshot, not before the fold has passed a position."""
    caller.refuse_account(account)

    def read() -> Awaitable[Reading]:
        return service.read(account, question, account, *arguments, **options)

    return await reflecting(service, _positions(at_least), read)


async def reading_now(service: Service, caller: Caller, account: str, at_least: str | None) -> Reading:
    """Ask for an account's balances at this moment as `reading` does, by one statement where that is enough."""
    caller.refuse_account(account)
    return await reflecting(service, _positions(at_least), lambda: service.balances(account))


def _positions(at_least: str | None) -> list[Position]:
    return [] if at_least is None else [Position.parse(at_least)]


async def reflecting(service: Service, positions: Sequence[Position], read: Callable[[], Awaitable[F]]) -> F:
    """What is read, of a state in which some positions are folded; waits for them.

    Args:
        service: of the application.
        positions: of any partitions.
        read: reads in one snapshot, over and over if need be.

    Raises:
        ProblemError: they aren't folded within AT_LEAST_S seconds.
    """
    deadline = time.monotonic() + AT_LEAST_S
    while True:
        for position in positions:
            await service.fold.wait_for(position, max(0.0, deadline - time.monotonic()))
        found = await read()
        if found.standing is None or all(map(found.standing.reflects, positions)):
            return found
        # The views came to show a generation that isn't folded so far.
        service.fold.forget()


def refuse_other_generation(asked: int | None, found: int) -> None:
    """Raise ProblemError where a page is read of another generation than the pages before.

    Args:
        asked: the generation of those, which their cursor says; None for a first page.
        found: the generation of this page.
    """
    if asked is not None and asked != found:
        raise ProblemError(
            409,
            "generation_changed",
            f"The pages before are of generation {asked}, and generation {found} is live now.",
            "Read again from the first page, without a cursor: by other rules the lines may be others.",
        )
