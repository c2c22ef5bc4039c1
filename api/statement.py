"""The route of an account's statement, as JSON by pages, as lines of JSON, or as CSV for a spreadsheet.

A whole statement is sent page by page, each read by a query of its own: a slow client holds no connection. What was
read stays right meanwhile, since lines of the journal never change; only another generation may have others.
"""

import json
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.at_least import AtLeast, reading, refuse_other_generation
from creditfold.api.parameters import (
    MEDIA_TYPES,
    MOST_PAGE,
    Accept,
    Account,
    Asset,
    Cursor,
    From,
    Limit,
    Until,
    cursor_of,
    form_of,
    place_of,
    refuse_empty_time,
)
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Routes
from creditfold.api.service import Reading, Service, service_of
from creditfold.common.spreadsheet import BYTE_ORDER_MARK, csv_line
from creditfold.projections import queries
from creditfold.projections.queries import Statement, StatementLine, StatementPlace
from creditfold.projections.queries.statement import COLUMNS

router = Routes(tags=["statements"])


class StatementBalanceAnswer(Answer):
    """What the account had of one asset, in its smallest unit."""

    asset: str
    available: int
    pending: int
    held: int
    debt: int


class StatementLineAnswer(Answer):
    """What changed the account, and what it had of the asset afterwards."""

    position: str = Field(description="Of the record that was decided, `partition:offset`.")
    version: int = Field(description="The line's number within the account.")
    decided_at: datetime
    kind: str
    asset: str
    amount: int
    change: int = Field(description="Of the available credits, signed.")
    available: int
    pending: int
    held: int
    debt: int
    command_id: str | None = Field(description="None for what time did, and for a further asset of a command.")
    source: str | None = Field(description="With the scope read:personal only.")
    reason: str | None = Field(description="With the scope read:personal only.")


class StatementAnswer(Answer):
    """What an account had before a time, what changed it in that time, and what it had then."""

    account: str
    since: datetime | None = Field(serialization_alias="from")
    until: datetime | None
    opening: list[StatementBalanceAnswer]
    lines: list[StatementLineAnswer] = Field(description="Of this page, oldest first.")
    closing: list[StatementBalanceAnswer] = Field(description="After the whole time, whichever page this is.")
    next: str | None = Field(description="The cursor of the next page; None after the last.")


def line_of(line: StatementLine, caller: Caller) -> StatementLineAnswer:
    """The answer of a line, without what only some may read."""
    seen = _seen(line, caller)
    return StatementLineAnswer.model_construct(
        **{**seen._asdict(), "position": str(seen.position), "reason": seen.note}
    )


def _seen(line: StatementLine, caller: Caller) -> StatementLine:
    return line if "read:personal" in caller.scopes else line._replace(source=None, note=None)


@router.get(
    "/v1/accounts/{account}/statement",
    operation_id="statement",
    response_model=StatementAnswer,
    responses={
        200: {
            "description": "The statement. Lines of JSON and CSV have a first column `row`: opening, line or closing.",
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}},
                "text/csv": {"schema": {"type": "string"}},
            },
        },
        **responses(406, 409),
    },
)
async def statement(
    request: Request,
    account: Account,
    *,
    caller: Annotated[Caller, needs("read:statement")],
    since: From = None,
    until: Until = None,
    asset: Asset = None,
    limit: Limit = MOST_PAGE,
    cursor: Cursor = None,
    format: Annotated[
        Literal["json", "ndjson", "csv"] | None, Query(description="In place of the header Accept.")
    ] = None,
    accept: Accept = "",
    at_least: AtLeast = None,
) -> Response:
    """An account's statement between two instants, the second of which doesn't count any more.

    As JSON by pages; as lines of JSON or CSV whole.
    """
    refuse_empty_time(since, until, "from")
    form = form_of(accept, format)
    generation, place = place_at(cursor)
    if form != "json" and place is not None:
        raise ProblemError(
            400, "invalid_request", "A cursor is for JSON; the other forms are sent whole.", "Leave out one of the two."
        )
    size = limit if form == "json" else MOST_PAGE
    asked = {"since": since, "until": until, "asset": asset, "limit": size}
    service = service_of(request)
    found = await reading(service, caller, account, at_least, queries.statement, **asked, place=place)
    refuse_other_generation(generation, found.generation)
    if form == "json":
        page = statement_of(found.found, caller, since, until, found.generation)
        return answers.render(page, 200, answers.state_headers(found))
    rows = _csv(found, service, asked, caller) if form == "csv" else _lines(found, service, asked, caller)
    headers = answers.state_headers(found)
    if form == "csv":
        headers["Content-Disposition"] = 'attachment; filename="statement.csv"'
    media_type = MEDIA_TYPES[form] + ("; charset=utf-8" if form == "csv" else "")
    return StreamingResponse(rows, 200, headers, media_type)


def place_at(cursor: str | None) -> tuple[int | None, StatementPlace | None]:
    """The generation that the pages before are of, and where a page begins. Raises ProblemError."""
    if cursor is None:
        return None, None
    generation, *place = place_of("statement", cursor, (0, 0, 0, 0))
    return generation, StatementPlace._make(place)


def statement_of(
    made: Statement, caller: Caller, since: datetime | None, until: datetime | None, generation: int
) -> StatementAnswer:
    """The answer of a statement's page, with the cursor of the next one."""
    place = made.following
    return StatementAnswer.model_construct(
        account=made.account_id,
        since=since,
        until=until,
        opening=[StatementBalanceAnswer.model_validate(row) for row in made.opening],
        lines=[line_of(line, caller) for line in made.lines],
        closing=[StatementBalanceAnswer.model_validate(row) for row in made.closing],
        next=None if place is None else cursor_of("statement", (generation, *place)),
    )


async def _pages(found: Reading, service: Service, asked: dict[str, Any]) -> AsyncIterator[Statement]:
    """A statement's pages, from the first on. Ends the answer in the middle where another generation went live."""
    page: Statement = found.found
    yield page
    while page.following is not None:
        read = await service.read(page.account_id, queries.statement, page.account_id, **asked, place=page.following)
        if read.generation != found.generation:
            raise ConnectionAbortedError("another generation went live while a statement was sent")
        page = read.found
        yield page


async def _lines(found: Reading, service: Service, asked: dict[str, Any], caller: Caller) -> AsyncIterator[bytes]:
    yield _joined({"row": "opening", **row._asdict()} for row in found.found.opening)
    async for page in _pages(found, service, asked):
        yield _joined({"row": "line", **_plain(line_of(line, caller))} for line in page.lines)
    yield _joined({"row": "closing", **row._asdict()} for row in found.found.closing)


def _plain(answer: StatementLineAnswer) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(answers.as_json(answer))
    return made


def _joined(rows: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(answers.as_json(row) + b"\n" for row in rows)


async def _csv(found: Reading, service: Service, asked: dict[str, Any], caller: Caller) -> AsyncIterator[bytes]:
    yield (BYTE_ORDER_MARK + csv_line(COLUMNS)).encode()
    yield "".join(csv_line(row.cells("opening")) for row in found.found.opening).encode()
    async for page in _pages(found, service, asked):
        yield "".join(csv_line(_seen(line, caller).cells()) for line in page.lines).encode()
    yield "".join(csv_line(row.cells("closing")) for row in found.found.closing).encode()
