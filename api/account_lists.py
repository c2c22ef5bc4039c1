"""The routes that list what an account has: lots, holds, transfers and schedules, by pages.

Owns the cursors of these lists, each of one account and of one order. Knows no SQL and no rule.
"""

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, NamedTuple

from fastapi import Query, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller
from creditfold.api.answers import Answer
from creditfold.api.at_least import AtLeast, Reader, reading
from creditfold.api.parameters import PAGE, Account, Cursor, Limit, cursor_of, place_of
from creditfold.api.past import AsOf, then_of
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Route, Routes
from creditfold.api.service import service_of
from creditfold.projections import queries
from creditfold.projections.queries import Listing

router = Routes(tags=["accounts"], route_class=Route)

_NEXT = "The cursor of the next page; None after the last."


class LotAnswer(Answer):
    """Credits that came in together, and where each part of them is."""

    command_id: str
    number: int
    asset: str
    amount: int
    remaining: int
    held: int
    spent: int
    expired: int
    voided: int
    forfeited: int
    reissued: int
    transferred: int
    state: str = Field(description="pending, active, empty, expired or voided.")
    lot_class: str
    priority: int
    scope: str | None
    effective_at: datetime | None
    expires_at: datetime | None


class HoldAnswer(Answer):
    """Credits set aside."""

    command_id: str
    asset: str
    taken: int
    held: int
    state: str = Field(description="open, lapsed or closed.")
    deadline: datetime | None


class TransferAnswer(Answer):
    """Credits sent to another account."""

    command_id: str
    asset: str
    to_account: str
    amount: int
    state: str = Field(description="in_transit or settled.")


class ScheduleAnswer(Answer):
    """Credits that come again and again."""

    command_id: str
    asset: str
    amount: int
    every: int
    period: str
    state: str = Field(description="active, finished or ended.")
    next_number: int
    next_at: datetime | None
    first_at: datetime | None
    until: datetime | None
    cap: int | None
    lot_class: str
    priority: int
    scope: str | None
    expires_after_ms: int | None


class LotsAnswer(Answer):
    """A page of an account's lots."""

    lots: list[LotAnswer]
    next: str | None = Field(description=_NEXT)


class HoldsAnswer(Answer):
    """A page of an account's holds."""

    holds: list[HoldAnswer]
    next: str | None = Field(description=_NEXT)


class TransfersAnswer(Answer):
    """A page of what an account sent to others."""

    transfers: list[TransferAnswer]
    next: str | None = Field(description=_NEXT)


class SchedulesAnswer(Answer):
    """A page of an account's schedules."""

    schedules: list[ScheduleAnswer]
    next: str | None = Field(description=_NEXT)


class _List(NamedTuple):
    """A list that a route has: its name, what it is of with and without `every`, and its answers."""

    name: str
    live: Listing
    every: Listing
    row: type[Answer]
    page: type[Answer]


LOTS = _List("lots", queries.LIVE_LOTS, queries.EVERY_LOT, LotAnswer, LotsAnswer)
HOLDS = _List("holds", queries.OPEN_HOLDS, queries.EVERY_HOLD, HoldAnswer, HoldsAnswer)
TRANSFERS = _List("transfers", queries.IN_TRANSIT, queries.EVERY_TRANSFER, TransferAnswer, TransfersAnswer)
SCHEDULES = _List("schedules", queries.EVERY_SCHEDULE, queries.EVERY_SCHEDULE, ScheduleAnswer, SchedulesAnswer)


def page_of(
    connection: Connection[Any],
    account: str,
    what: _List,
    limit: int,
    cursor: str | None = None,
    *,
    every: bool = False,
    as_of: str | None = None,
) -> Any:
    """A page of a list of an account, now or in the past, as the list's route answers it.

    Raises ProblemError for a bad cursor; as `then_of` does for a past.
    """
    listing = what.every if every else what.live
    of = _Of(account, what.name, listing, as_of)
    after = None if cursor is None else _place_of(cursor, of)
    then = {} if as_of is None else then_of(connection, account, as_of)[1]._asdict()
    # One more than is wanted shows whether there are more.
    found = queries.listed(connection, account, listing, limit + 1, after, **then)
    rows = [what.row.model_validate(row, from_attributes=True) for row in found[:limit]]
    following = None
    if len(found) > limit:
        following = _cursor_of(of, listing.place(found[limit - 1]))
    page: dict[str, Any] = {what.name: rows, "next": following}
    return what.page.model_construct(**page)


class _Of(NamedTuple):
    """What a cursor is of: a list of an account by its name, its order, and what `as_of` was."""

    account: str
    name: str
    listing: Listing
    as_of: str | None

    @property
    def digest(self) -> str:
        """Tells it from others."""
        parts = (self.account, *self.listing.order, self.listing.where, *([] if self.as_of is None else [self.as_of]))
        return blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _cursor_of(of: _Of, place: Sequence[Any]) -> str:
    # Texts in hexadecimal digits: a name may have what no cursor may.
    values = [value.encode().hex() if isinstance(value, str) else value for value in place]
    return cursor_of(of.name, (of.digest, *values))


def _place_of(cursor: str, of: _Of) -> Sequence[Any]:
    """The place that a cursor names. Raises ProblemError for one of another list or of another account's."""
    digest, *values = place_of(of.name, cursor, ("", *of.listing.like))
    try:
        place = [bytes.fromhex(value).decode() if isinstance(value, str) else value for value in values]
    except ValueError:
        digest, place = "", []
    if digest != of.digest or any(isinstance(value, str) and "\0" in value for value in place):
        raise ProblemError(
            400,
            "invalid_cursor",
            "The cursor isn't one of this account's list.",
            "Take it from `next` of an answer as it is, and ask for the same.",
        )
    return place


class _Asked(NamedTuple):
    """Which page of an account's list is asked for, and by whom."""

    request: Request
    caller: Caller
    account: str
    at_least: str | None
    limit: int
    cursor: str | None
    every: bool = False
    as_of: str | None = None


async def _answer(what: _List, asked: _Asked) -> Response:
    service, past = service_of(asked.request), {"every": asked.every, "as_of": asked.as_of}
    page = (what, asked.limit, asked.cursor)
    found = await reading(service, asked.caller, asked.account, asked.at_least, page_of, *page, **past)
    return answers.render(found.found, 200, answers.state_headers(found))


@router.get("/v1/accounts/{account}/lots", operation_id="lots", response_model=LotsAnswer, responses=responses())
async def lots(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    every: Annotated[
        bool, Query(description="Empty, expired and voided ones too, by the ids of the commands that made them.")
    ] = False,
    as_of: AsOf = None,
    cursor: Cursor = None,
    limit: Limit = PAGE,
    at_least: AtLeast = None,
) -> Response:
    """An account's lots, in the order of spending; now, or by what was decided until a time or a position."""
    return await _answer(LOTS, _Asked(request, caller, account, at_least, limit, cursor, every, as_of))


@router.get("/v1/accounts/{account}/holds", operation_id="holds", response_model=HoldsAnswer, responses=responses())
async def holds(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    every: Annotated[bool, Query(description="Lapsed and closed ones too, by their ids.")] = False,
    as_of: AsOf = None,
    cursor: Cursor = None,
    limit: Limit = PAGE,
    at_least: AtLeast = None,
) -> Response:
    """An account's holds, the next to lapse first; now, or by what was decided until a time or a position."""
    return await _answer(HOLDS, _Asked(request, caller, account, at_least, limit, cursor, every, as_of))


@router.get(
    "/v1/accounts/{account}/transfers",
    operation_id="transfers",
    response_model=TransfersAnswer,
    responses=responses(),
)
async def transfers(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    every: Annotated[bool, Query(description="Settled ones too.")] = False,
    cursor: Cursor = None,
    limit: Limit = PAGE,
    at_least: AtLeast = None,
) -> Response:
    """What an account sent to others, by the ids of the transfers."""
    return await _answer(TRANSFERS, _Asked(request, caller, account, at_least, limit, cursor, every))


@router.get(
    "/v1/accounts/{account}/schedules",
    operation_id="schedules",
    response_model=SchedulesAnswer,
    responses=responses(),
)
async def schedules(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    cursor: Cursor = None,
    limit: Limit = PAGE,
    at_least: AtLeast = None,
) -> Response:
    """An account's schedules, by their ids."""
    return await _answer(SCHEDULES, _Asked(request, caller, account, at_least, limit, cursor))
