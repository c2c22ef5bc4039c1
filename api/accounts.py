"""The routes of an account and its balances, now and in the past.

Reads through `projections.queries`, each answer in one snapshot. Knows no SQL and no rule.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import Header, Query, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import Field

from creditfold.api import answers
from creditfold.api.account_lists import HOLDS, LOTS, HoldAnswer, LotAnswer, page_of
from creditfold.api.answers import Answer, BalanceAnswer
from creditfold.api.at_least import AtLeast, Reader, reading, reading_now
from creditfold.api.parameters import MOST_PAGE, Account
from creditfold.api.past import AsOf, refuse_as_of, then_of
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Route, Routes
from creditfold.api.service import Reading, service_of
from creditfold.projections import queries
from creditfold.projections.queries import BalanceNow, UsableBalance

router = Routes(tags=["accounts"], route_class=Route)


class AccountAnswer(Answer):
    """An account; one that was never used has no balances, and is neither frozen nor closed."""

    account: str
    is_closed: bool
    frozen: str | None = Field(description="spending, all, or nothing.")
    balances: list[BalanceAnswer]
    lots: list[LotAnswer] | None = Field(None, description="With expand=lots: the first 1,000.")
    lots_next: str | None = Field(None, description="Where there are more: the cursor at which /lots goes on.")
    holds: list[HoldAnswer] | None = Field(None, description="With expand=holds: the first 1,000.")
    holds_next: str | None = Field(None, description="Where there are more: the cursor at which /holds goes on.")


def balances_of(connection: Connection[Any], account: str, use: str | None) -> list[BalanceAnswer]:
    """An account's balances at this moment."""
    return _answers(
        queries.balances_now(connection, account) if use is None else queries.usable_now(connection, account, use)
    )


def _answers(rows: Sequence[BalanceNow | UsableBalance]) -> list[BalanceAnswer]:
    return [
        BalanceAnswer.made_of(
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


def _account(
    connection: Connection[Any], account: str, use: str | None, expand: set[str], as_of: str | None
) -> AccountAnswer:
    found = AccountAnswer.model_construct(
        account=account,
        **state_of(connection, account, as_of)._asdict(),
        balances=balances_of(connection, account, use) if as_of is None else balances_then(connection, account, as_of),
    )
    for what in (LOTS, HOLDS):
        if what.name in expand:
            page = page_of(connection, account, what, MOST_PAGE, as_of=as_of)
            setattr(found, what.name, getattr(page, what.name))
            setattr(found, f"{what.name}_next", page.next)
    return found


@router.get("/v1/accounts/{account}", operation_id="account", response_model=AccountAnswer, responses=responses(304))
async def account(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    use: Annotated[str | None, Query(description="A use; adds how much of each balance it could take.")] = None,
    expand: Annotated[
        str, Query(description="lots, holds, or both by comma: of the same snapshot, 1,000 of each.")
    ] = "",
    as_of: AsOf = None,
    at_least: AtLeast = None,
    if_none_match: Annotated[str, Header(description="An ETag; answered with 304 while it still is that.")] = "",
) -> Response:
    """An account: its balances at this moment, and on demand its lots and holds, all of one snapshot."""
    wanted = {part.strip() for part in expand.split(",")} - {""}
    if wanted - {"lots", "holds"}:
        raise ProblemError(400, "invalid_request", f"expand has no {expand[:60]!r}.", "It takes lots, holds, or both.")
    refuse_as_of(as_of, {"use": use})
    found = await reading(service_of(request), caller, account, at_least, _account, use, wanted, as_of)
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
    elif use is not None:
        found = await reading(service, caller, account, at_least, balances_of, use)
    else:
        found = await reading_now(service, caller, account, at_least)
        found = found._replace(found=_answers(found.found))
    return tagged(found, if_none_match)


def tagged(found: Reading, if_none_match: str) -> Response:
    """The answer of a reading with its ETag; 304 where the client has it."""
    body = answers.as_json(found.found)
    tag = answers.tag_of(body)
    headers = {**answers.state_headers(found), "ETag": tag, "Cache-Control": "private, no-cache"}
    if answers.is_known(tag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, "application/json")
