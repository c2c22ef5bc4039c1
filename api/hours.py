"""The routes of sums over all accounts in a time: what was spent, and what ended."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple

from fastapi import Query, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.parameters import Accept, Asset, Since, TableForm, Until, refuse_empty_time, table_form_of
from creditfold.api.problems import responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.projections import queries

router = Routes(tags=["statements"])

#: Rows of an answer at most.
MOST_ROWS = 10_000

Reader = Annotated[Caller, needs("read:statement")]
By = Annotated[
    str | None,
    Query(
        description="What tells sums apart, by comma: class, source, reason. None: all of them that the key may read.",
        pattern="^(class|source|reason)(,(class|source|reason)){0,2}$",
    ),
]
MostRows = Annotated[int, Query(description="Rows at most, the largest sums of each asset first.", ge=1, le=MOST_ROWS)]


class HoursSumAnswer(Answer):
    """What was summed up together; null where the sums aren't told apart by it."""

    asset: str
    lot_class: str | None = Field(description="paid, promo, or debt: what was spent without having it.")
    source: str | None = Field(description="Of the commands; empty where time did it. With read:personal only.")
    reason: str | None = Field(description="Of the commands, the first 100 characters. With read:personal only.")


class SpentSumAnswer(HoursSumAnswer):
    """What was spent, and what came back."""

    spent: int
    refunded: int
    repaid: int = Field(description="What paid a debt that was spent before, by the class of what paid it.")


class EndedSumAnswer(HoursSumAnswer):
    """What ended."""

    what: str = Field(description="expired, voided, forfeited; or lapsed: what lapsed holds gave back.")
    amount: int


class SpentAnswer(Answer):
    """What was spent in a time."""

    since: datetime | None
    until: datetime | None
    rows: list[SpentSumAnswer]
    has_more: bool = Field(description="Whether there are more rows than were asked for.")


class EndedTotalsAnswer(Answer):
    """What ended in a time."""

    since: datetime | None
    until: datetime | None
    rows: list[EndedSumAnswer]
    has_more: bool = Field(description="Whether there are more rows than were asked for.")


@router.get(
    "/v1/spent",
    operation_id="spent",
    response_model=SpentAnswer,
    responses={**answers.OR_CSV, **responses(406)},
)
async def spent(
    request: Request,
    caller: Reader,
    *,
    since: Since = None,
    until: Until = None,
    asset: Asset = None,
    by: By = None,
    limit: MostRows = MOST_ROWS,
    format: TableForm = None,
    accept: Accept = "",
) -> Response:
    """What all accounts spent in a time that begins and ends with an hour in UTC, by class, source and reason."""
    asked = {"since": since, "until": until, "asset": asset, "by": by, "limit": limit}
    return await _sums(request, caller, "spent", asked, table_form_of(accept, format))


@router.get(
    "/v1/ended/totals",
    operation_id="ended_totals",
    response_model=EndedTotalsAnswer,
    responses={**answers.OR_CSV, **responses(406)},
)
async def ended_totals(
    request: Request,
    caller: Reader,
    *,
    since: Since = None,
    until: Until = None,
    asset: Asset = None,
    by: By = None,
    limit: MostRows = MOST_ROWS,
    format: TableForm = None,
    accept: Accept = "",
) -> Response:
    """What of all accounts ended in a time that begins and ends with an hour in UTC, by class, source and reason."""
    asked = {"since": since, "until": until, "asset": asset, "by": by, "limit": limit}
    return await _sums(request, caller, "ended", asked, table_form_of(accept, format))


class _Kind(NamedTuple):
    query: Callable[..., Sequence[Any]]
    answer: type[SpentAnswer | EndedTotalsAnswer]
    row: type[HoursSumAnswer]
    columns: Sequence[str]


_SPENT = ("asset", "class", "source", "reason", "spent", "refunded", "repaid")
_ENDED = ("asset", "what", "class", "source", "reason", "amount")
_KINDS = {
    "spent": _Kind(queries.spent, SpentAnswer, SpentSumAnswer, _SPENT),
    "ended": _Kind(queries.ended_totals, EndedTotalsAnswer, EndedSumAnswer, _ENDED),
}


async def _sums(request: Request, caller: Caller, kind: str, asked: dict[str, Any], form: str) -> Response:
    caller.refuse_prefix()
    wanted = _wanted(caller, asked)
    kept = _KINDS[kind]
    read = await service_of(request).read(None, kept.query, **wanted)
    headers = answers.state_headers(read)
    if form == "csv":
        return answers.csv(kind, kept.columns, read.found[: asked["limit"]], headers)
    return answers.render(_answer_of(kind, asked, read.found), 200, headers)


def sums(connection: Connection[Any], caller: Caller, kind: str, **asked: Any) -> SpentAnswer | EndedTotalsAnswer:
    """The sums of a kind, `spent` or `ended`. Raises ProblemError for what the caller may not read."""
    return _answer_of(kind, asked, _KINDS[kind].query(connection, **_wanted(caller, asked)))


def _wanted(caller: Caller, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a query is asked for. Raises ProblemError."""
    refuse_empty_time(asked["since"], asked["until"])
    # One more than is wanted shows whether there are more.
    return {**asked, "by": _groups(caller, asked["by"]), "limit": asked["limit"] + 1}


def _answer_of(kind: str, asked: Mapping[str, Any], found: Sequence[Any]) -> SpentAnswer | EndedTotalsAnswer:
    """The answer of sums of which one row more was read."""
    _, answer, row_answer, _ = _KINDS[kind]
    rows: list[Any] = [row_answer.model_validate(row) for row in found[: asked["limit"]]]
    has_more = len(found) > asked["limit"]
    return answer.model_construct(since=asked["since"], until=asked["until"], rows=rows, has_more=has_more)


def _groups(caller: Caller, by: str | None) -> list[str]:
    """What tells sums apart. Raises ProblemError for what the caller may not read."""
    chosen = by.split(",") if by is not None else ["class", "source", "reason"]
    personal = [name for name in chosen if name != "class"]
    if personal and "read:personal" not in caller.scopes:
        if by is not None:
            caller.refuse_scope("read:personal")
        return [name for name in chosen if name not in personal]
    return chosen
