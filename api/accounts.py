"""The routes that read one account: balances, lots, holds, transfers, schedules, decisions, traces.

Reads through `projections.queries`, each answer in one snapshot. Knows no SQL and no rule.
"""

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer, BalanceAnswer
from creditfold.api.commands import Account
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Route
from creditfold.api.service import Reading, Service, service_of
from creditfold.common.instants import InstantError, milliseconds_of, moment_of
from creditfold.common.position import Position
from creditfold.log.partitioner import partition_of
from creditfold.projections import queries

router = APIRouter(tags=["accounts"], route_class=Route)

#: Seconds that a read waits for `at_least` by default.
AT_LEAST_S = 5.0

AtLeast = Annotated[
    str | None, Query(description="Position, `partition:offset`, that the answer must reflect; waits for it.")
]
AsOf = Annotated[
    str | None,
    Query(description="A time or a position, both inclusive: by what was decided until then. Not with use or expand."),
]
Reader = Annotated[Caller, needs("read:balance")]


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


class AccountAnswer(Answer):
    """An account; one that was never used has no balances, and is neither frozen nor closed."""

    account: str
    is_closed: bool
    frozen: str | None = Field(description="spending, all, or nothing.")
    balances: list[BalanceAnswer]
    lots: list[LotAnswer] | None = Field(None, description="With expand=lots.")
    holds: list[HoldAnswer] | None = Field(None, description="With expand=holds.")


async def reading(
    service: Service, caller: Caller, account: str, at_least: str | None, question: Any, *arguments: Any, **options: Any
) -> Reading:
    """Ask about an account in one snapshot, not before the fold has passed a position."""
    caller.refuse_account(account)
    if at_least is None:
        return await service.read(account, question, account, *arguments, **options)
    position, deadline = Position.parse(at_least), time.monotonic() + AT_LEAST_S
    while True:
        await service.fold.wait_for(position, max(0.0, deadline - time.monotonic()))
        found = await service.read(account, question, account, *arguments, **options)
        if found.reflects(position):
            return found
        # The views came to show a generation that isn't folded so far.
        service.fold.forget()


def balances_of(connection: Connection[Any], account: str, use: str | None) -> list[BalanceAnswer]:
    """An account's balances at this moment."""
    rows = queries.balances_now(connection, account) if use is None else queries.usable_now(connection, account, use)
    return [
        BalanceAnswer.model_construct(
            asset=row.asset,
            available=row.available,
            pending=row.pending,
            held=row.held,
            debt=row.debt,
            credit_limit=row.credit_limit,
            available_for_use=getattr(row, "available_for_use", None),
            version=row.version,
        )
        for row in rows
    ]


class Then(NamedTuple):
    """What counts as the past: decisions up to an instant in milliseconds UTC, or up to an offset; both inclusive."""

    until_ms: int | None = None
    until: int | None = None


def then_of(connection: Connection[Any], account: str, as_of: str) -> tuple[int, Then]:
    """An account's partition, and what `as_of` names.

    Raises:
        ProblemError, InvalidPositionError: it is no past of the account's.
        NotYetFoldedError: the fold hasn't passed it.
    """
    offsets = queries.standing(connection).next_offsets
    partition = partition_of(account.encode(), len(offsets))
    if re.fullmatch(r"[0-9]+:[0-9]+", as_of, re.ASCII) is None:
        try:
            moment = moment_of(as_of)
        except InstantError as error:
            raise ProblemError(400, "invalid_as_of", f"as_of: {error}.", "Name a time or a position.") from None
        if moment > datetime.now(UTC):
            raise ProblemError(
                400, "invalid_as_of", f"{as_of} lies in the future.", "Name a time that has passed, or leave it out."
            )
        return partition, Then(until_ms=milliseconds_of(moment))
    position = Position.parse(as_of)
    if position.partition != partition:
        raise ProblemError(
            400,
            "invalid_as_of",
            f"{account} lives in partition {partition}; {position} says nothing about it.",
            f"Name a position of partition {partition}, or a time.",
        )
    if position.offset >= offsets[partition]:
        raise queries.NotYetFoldedError(
            f"The fold has not reached {position} yet.", "See GET /v1/progress, and ask again."
        )
    return partition, Then(until=position.offset)


def balances_then(connection: Connection[Any], account: str, as_of: str) -> list[BalanceAnswer]:
    """An account's balances by what was decided up to a time or a position. Raises as `then_of` does."""
    partition, then = then_of(connection, account, as_of)
    rows = queries.balances_as_of(connection, account, partition, **then._asdict())
    return [BalanceAnswer.model_validate(row) for row in rows]


class State(NamedTuple):
    """Whether an account is closed, and what its freeze forbids."""

    is_closed: bool
    frozen: str | None


def state_of(connection: Connection[Any], account: str, as_of: str | None = None) -> State:
    """An account's state, at this moment or in the past. Raises as `then_of` does."""
    if as_of is None:
        found = queries.account_state(connection, account)
    else:
        found = queries.account_state_as_of(connection, account, **then_of(connection, account, as_of)[1]._asdict())
    return State(False, None) if found is None else State(found.is_closed, found.frozen)


def _account_then(connection: Connection[Any], account: str, as_of: str) -> AccountAnswer:
    return AccountAnswer.model_construct(
        account=account,
        **state_of(connection, account, as_of)._asdict(),
        balances=balances_then(connection, account, as_of),
        lots=None,
        holds=None,
    )


def _account(connection: Connection[Any], account: str, use: str | None, expand: set[str]) -> AccountAnswer:
    return AccountAnswer.model_construct(
        account=account,
        **state_of(connection, account)._asdict(),
        balances=balances_of(connection, account, use),
        lots=[LotAnswer.model_validate(lot) for lot in queries.lots(connection, account)] if "lots" in expand else None,
        holds=[HoldAnswer.model_validate(hold) for hold in queries.holds(connection, account)]
        if "holds" in expand
        else None,
    )


@router.get("/v1/accounts/{account}", operation_id="account", response_model=AccountAnswer, responses=responses(304))
async def account(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    use: Annotated[str | None, Query(description="A use; adds how much of each balance it could take.")] = None,
    expand: Annotated[str, Query(description="lots, holds, or both by comma: of the same snapshot.")] = "",
    as_of: AsOf = None,
    at_least: AtLeast = None,
    if_none_match: Annotated[str, Header(description="An ETag; answered with 304 while it still is that.")] = "",
) -> Response:
    """An account: its balances at this moment, and on demand its lots and holds, all of one snapshot."""
    wanted = {part.strip() for part in expand.split(",")} - {""}
    if wanted - {"lots", "holds"}:
        raise ProblemError(400, "invalid_request", f"expand has no {expand[:60]!r}.", "It takes lots, holds, or both.")
    refuse_as_of(as_of, {"use": use, "expand": expand})
    service = service_of(request)
    if as_of is not None:
        found = await reading(service, caller, account, at_least, _account_then, as_of)
    else:
        found = await reading(service, caller, account, at_least, _account, use, wanted)
    return tagged(found, if_none_match)


@router.get(
    "/v1/accounts/{account}/balances",
    operation_id="balances",
    response_model=list[BalanceAnswer],
    responses=responses(304),
)
async def balances(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    use: Annotated[str | None, Query(description="A use; adds how much of each balance it could take.")] = None,
    as_of: AsOf = None,
    at_least: AtLeast = None,
    if_none_match: Annotated[str, Header(description="An ETag; answered with 304 while it still is that.")] = "",
) -> Response:
    """An account's balances at this moment: what ended is not in them, nor what hasn't begun."""
    refuse_as_of(as_of, {"use": use})
    service = service_of(request)
    if as_of is not None:
        found = await reading(service, caller, account, at_least, balances_then, as_of)
    else:
        found = await reading(service, caller, account, at_least, balances_of, use)
    return tagged(found, if_none_match)


def refuse_as_of(as_of: str | None, present: dict[str, str | None]) -> None:
    """Raise ProblemError where the past is asked for, and with it something that is known of the present only."""
    named = [name for name, value in present.items() if value]
    if as_of is not None and named:
        raise ProblemError(
            400, "invalid_as_of", f"{named[0]} is known of the present only.", f"Leave out as_of, or {named[0]}."
        )


def tagged(found: Reading, if_none_match: str) -> Response:
    """The answer of a reading with its ETag; 304 where the client has it."""
    body = answers.as_json(found.found)
    tag = answers.tag_of(body)
    headers = {**answers.state_headers(found), "ETag": tag, "Cache-Control": "private, no-cache"}
    if answers.is_known(tag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, "application/json")


@router.get("/v1/accounts/{account}/lots", operation_id="lots", response_model=list[LotAnswer], responses=responses())
async def lots(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    every: Annotated[bool, Query(description="Empty, expired and voided ones too.")] = False,
    at_least: AtLeast = None,
) -> Response:
    """An account's lots, in the order of spending."""
    found = await reading(service_of(request), caller, account, at_least, queries.lots, every=every)
    return _rows(found, LotAnswer)


@router.get(
    "/v1/accounts/{account}/holds", operation_id="holds", response_model=list[HoldAnswer], responses=responses()
)
async def holds(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    every: Annotated[bool, Query(description="Lapsed and closed ones too.")] = False,
    at_least: AtLeast = None,
) -> Response:
    """An account's holds, the next to lapse first."""
    found = await reading(service_of(request), caller, account, at_least, queries.holds, every=every)
    return _rows(found, HoldAnswer)


@router.get(
    "/v1/accounts/{account}/transfers",
    operation_id="transfers",
    response_model=list[TransferAnswer],
    responses=responses(),
)
async def transfers(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    every: Annotated[bool, Query(description="Settled ones too.")] = False,
    at_least: AtLeast = None,
) -> Response:
    """What an account sent to others."""
    found = await reading(service_of(request), caller, account, at_least, queries.transfers, every=every)
    return _rows(found, TransferAnswer)


@router.get(
    "/v1/accounts/{account}/schedules",
    operation_id="schedules",
    response_model=list[ScheduleAnswer],
    responses=responses(),
)
async def schedules(request: Request, account: Account, caller: Reader, at_least: AtLeast = None) -> Response:
    """An account's schedules, the next to fall due first."""
    found = await reading(service_of(request), caller, account, at_least, queries.schedules)
    return _rows(found, ScheduleAnswer)


def _rows(found: Reading, kind: type[Answer]) -> Response:
    rows = [kind.model_validate(row, from_attributes=True) for row in found.found]
    return answers.render(rows, 200, answers.state_headers(found))
