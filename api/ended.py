"""The routes of what ended and why: of one account, and of all accounts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.at_least import AtLeast, reading
from creditfold.api.parameters import PAGE, Account, Cursor, Limit, Since, Until, cursor_of, place_of, refuse_empty_time
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.common.instants import EPOCH, MAX_INSTANT, MILLISECOND, milliseconds_of
from creditfold.projections import queries
from creditfold.projections.queries import Ended, EndedPlace

router = Routes(tags=["statements"])

Reader = Annotated[Caller, needs("read:statement")]


class EndedLineAnswer(Answer):
    """Credits of a lot that ended, or that a lapsed hold gave back to it."""

    position: str = Field(description="Of the record with which it was settled, `partition:offset`.")
    account: str
    version: int = Field(description="The line's number within the account.")
    asset: str
    what: str = Field(description="expired, voided, forfeited, or lapsed.")
    amount: int
    at: datetime = Field(description="When it ended.")
    decided_at: datetime = Field(description="When the fold settled it.")
    lot: str = Field(description="The command that made the lot.")
    lot_number: int
    hold: str | None = Field(description="The hold that lapsed.")
    kind: str = Field(description="Of the command that ended it; settled: time did.")
    command_id: str | None = Field(description="None where time did it.")
    source: str | None = Field(description="Of that command. With the scope read:personal only.")
    reason: str | None = Field(description="Of that command. With the scope read:personal only.")


class EndedAnswer(Answer):
    """A page of what ended, the latest first."""

    lines: list[EndedLineAnswer]
    next: str | None = Field(description="The cursor of the next page; None after the last.")


@router.get("/v1/ended", operation_id="ended", response_model=EndedAnswer, responses=responses())
async def ended(
    request: Request,
    caller: Reader,
    *,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = PAGE,
) -> Response:
    """What of all accounts expired, was voided or forfeited, and the holds that lapsed, the latest first, and why."""
    caller.refuse_prefix()
    place = place_at("ended", cursor)
    refuse_empty_time(since, until)
    read = await service_of(request).read(None, queries.ended, limit + 1, since=since, until=until, place=place)
    return answers.render(page_of("ended", read.found, caller, limit), 200, answers.state_headers(read))


@router.get(
    "/v1/accounts/{account}/ended", operation_id="account_ended", response_model=EndedAnswer, responses=responses()
)
async def account_ended(
    request: Request,
    account: Account,
    *,
    caller: Reader,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = PAGE,
    at_least: AtLeast = None,
) -> Response:
    """What of an account expired, was voided or forfeited, and the holds that lapsed, the latest first, and why."""
    place = place_at("account_ended", cursor, account)
    refuse_empty_time(since, until)
    asked: dict[str, Any] = {"since": since, "until": until, "place": place}
    read = await reading(service_of(request), caller, account, at_least, ended_of, limit + 1, **asked)
    return answers.render(page_of("account_ended", read.found, caller, limit), 200, answers.state_headers(read))


def ended_of(connection: Connection[Any], account: str, limit: int, **asked: Any) -> Sequence[Ended]:
    """What ended of an account, as `queries.ended` has it of all."""
    return queries.ended(connection, limit, account, **asked)


def page_of(route: str, found: Sequence[Ended], caller: Caller, limit: int) -> EndedAnswer:
    """The answer of a page of which one line more was read, with the cursor of the next one."""
    lines = found[:limit]
    return EndedAnswer.model_construct(
        lines=[_line_of(line, is_personal="read:personal" in caller.scopes) for line in lines],
        next=_cursor_of(route, lines[-1].place) if len(found) > limit else None,
    )


def _line_of(line: Ended, *, is_personal: bool) -> EndedLineAnswer:
    return EndedLineAnswer.model_construct(
        **{**line._asdict(), "source": line.source if is_personal else None},
        position=str(line.position),
        account=line.account_id,
        lot=line.lot_command,
        reason=line.note if is_personal else None,
    )


def _cursor_of(route: str, place: EndedPlace) -> str:
    return cursor_of(route, (milliseconds_of(place.decided_at), *place[1:]))


def place_at(route: str, cursor: str | None, account: str | None = None) -> EndedPlace | None:
    """Where a page begins. Raises ProblemError, for another account's cursor too where it is one account's page."""
    if cursor is None:
        return None
    at_ms, *rest = place_of(route, cursor, (0, 0, 0, "", 0, 0, 0))
    place = EndedPlace(EPOCH + min(at_ms, MAX_INSTANT - 1) * MILLISECOND, *rest)
    if account is not None and place.account != account:
        raise ProblemError(400, "invalid_cursor", "The cursor is another account's.", "Take it from `next` of its own.")
    return place
