"""The routes of credits that will end: of one account by day and by lot, of all accounts by month."""

from datetime import date, datetime
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.at_least import AtLeast, Reader, reading
from creditfold.api.parameters import Accept, Account, TableForm, Until, table_form_of
from creditfold.api.problems import responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.common.instants import duration_of
from creditfold.projections import queries

router = Routes(tags=["statements"])


Within = Annotated[
    str, Query(description="How long from now on, as 90s, 15m, 2h or 30d.", pattern="^[0-9]{1,9}[smhd]$")
]


class ExpiringSumAnswer(Answer):
    """What ends together, of one asset, in its smallest unit."""

    asset: str
    lots: int = Field(description="How many lots end.")
    remaining: int = Field(description="What they have left, and lose unless it is spent before.")
    held: int = Field(description="What is held of them; what of it comes back after the end is lost too.")


class ExpiringDayAnswer(ExpiringSumAnswer):
    """What ends on a day."""

    day: date = Field(description="In UTC.")


class ExpiringMonthAnswer(ExpiringSumAnswer):
    """What ends in a month."""

    month: date = Field(description="Its first day, in UTC.")


class ExpiringLotAnswer(Answer):
    """A lot that ends."""

    command_id: str
    number: int
    asset: str
    lot_class: str
    scope: str | None
    remaining: int
    held: int
    expires_at: datetime


class ExpiringAnswer(Answer):
    """What of an account ends after `at` and until `until`, that instant included."""

    account: str
    at: datetime
    until: datetime
    days: list[ExpiringDayAnswer]
    lots: list[ExpiringLotAnswer]


@router.get(
    "/v1/accounts/{account}/expiring", operation_id="expiring", response_model=ExpiringAnswer, responses=responses()
)
async def expiring(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    within: Within = "30d",
    at_least: AtLeast = None,
) -> Response:
    """The credits of an account that will end, by day and by lot, the first to end first."""
    read = await reading(service_of(request), caller, account, at_least, queries.expiring, duration_of(within))
    return answers.render(expiring_of(read.found), 200, answers.state_headers(read))


def expiring_of(found: queries.Expiring) -> ExpiringAnswer:
    """The answer of what will end."""
    return ExpiringAnswer.model_construct(
        account=found.account_id,
        at=found.at,
        until=found.until,
        days=[ExpiringDayAnswer.model_validate(row) for row in found.days],
        lots=[ExpiringLotAnswer.model_validate(lot) for lot in found.lots],
    )


@router.get(
    "/v1/expiring",
    operation_id="expiring_totals",
    response_model=list[ExpiringMonthAnswer],
    responses={**answers.OR_CSV, **responses(406)},
)
async def expiring_totals(
    request: Request,
    caller: Annotated[Caller, needs("read:statement")],
    *,
    until: Until = None,
    format: TableForm = None,
    accept: Accept = "",
) -> Response:
    """The credits of all accounts that will end, by month and asset, as the accounts were last settled."""
    caller.refuse_prefix()
    form = table_form_of(accept, format)
    read = await service_of(request).read(None, queries.expiring_totals, until)
    if form == "csv":
        columns = ("month", "asset", "lots", "remaining", "held")
        return answers.csv("expiring", columns, read.found, answers.state_headers(read))
    rows = [ExpiringMonthAnswer.model_validate(row) for row in read.found]
    return answers.render(rows, 200, answers.state_headers(read))
