"""The routes of the journal: of an account, the latest first; of all accounts, or their rejections, from a place on."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple

from fastapi import Query, Request
from fastapi.responses import Response
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer, DecisionAnswer
from creditfold.api.at_least import AtLeast, reading, refuse_other_generation
from creditfold.api.parameters import (
    MOST_CURSOR,
    PAGE,
    Account,
    Cursor,
    Limit,
    Since,
    Until,
    cursor_of,
    place_of,
    positions_of,
    refuse_empty_time,
)
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.common.instants import EPOCH, MAX_INSTANT, MILLISECOND
from creditfold.projections import queries
from creditfold.projections.queries import JournalPlace
from creditfold.schemas.outcome import Decision

router = Routes(tags=["statements"])

Begin = Annotated[
    str | None,
    Query(
        alias="from",
        description="Positions of the first records, `partition:offset`, by comma. Only the partitions that are named "
        "are read. None: all of them, from their beginnings.",
        max_length=MOST_CURSOR,
    ),
]
Reader = Annotated[Caller, needs("read:statement")]


class JournalAnswer(Answer):
    """A page of the journal: partition by partition, each in the log's order."""

    lines: list[DecisionAnswer]
    next: str = Field(description="The cursor of what comes after; good at any time, also for what isn't written yet.")
    has_more: bool = Field(description="Whether there are lines after this page already.")


class HistoryAnswer(Answer):
    """A page of an account's journal, the latest decision first."""

    lines: list[DecisionAnswer]
    next: str | None = Field(description="The cursor of the next page; None after the last.")


@router.get(
    "/v1/accounts/{account}/history", operation_id="history", response_model=HistoryAnswer, responses=responses(409)
)
async def history(
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
    """What was decided about an account, what time did and rejections included, the latest first."""
    refuse_empty_time(since, until)
    # One more than is wanted shows whether there are more.
    generation, before = version_before(cursor)
    times: dict[str, Any] = {"since": since, "until": until}
    read = await reading(service_of(request), caller, account, at_least, queries.history, limit + 1, before, **times)
    refuse_other_generation(generation, read.generation)
    answer = history_of(read.found, limit, read.generation, is_personal="read:personal" in caller.scopes)
    return answers.render(answer, 200, answers.state_headers(read))


def version_before(cursor: str | None) -> tuple[int | None, int | None]:
    """The generation that the pages before are of, and the line before which a page begins. Raises ProblemError."""
    if cursor is None:
        return None, None
    generation, before = place_of("history", cursor, (0, 0))
    return generation, before


def history_of(found: Sequence[Decision], limit: int, generation: int, *, is_personal: bool) -> HistoryAnswer:
    """The answer of a page of which one line more was read, with the cursor of the next one."""
    return HistoryAnswer.model_construct(
        lines=[answers.decision_of(line, is_personal=is_personal) for line in found[:limit]],
        next=cursor_of("history", (generation, found[limit - 1].version)) if len(found) > limit else None,
    )


class _Asked(NamedTuple):
    """Where a page begins, by a cursor or by the others; a cursor has the time's end in it."""

    cursor: str | None
    begin: str | None
    since: datetime | None
    until: datetime | None


@router.get("/v1/journal", operation_id="journal", response_model=JournalAnswer, responses=responses())
async def journal(
    request: Request,
    caller: Reader,
    *,
    begin: Begin = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = PAGE,
) -> Response:
    """The journal of all accounts, from a position or a time on, oldest first."""
    return await _page(request, caller, "journal", _Asked(cursor, begin, since, until), limit)


@router.get("/v1/rejections", operation_id="rejections", response_model=JournalAnswer, responses=responses())
async def rejections(
    request: Request,
    caller: Reader,
    *,
    begin: Begin = None,
    since: Since = None,
    until: Until = None,
    cursor: Cursor = None,
    limit: Limit = PAGE,
) -> Response:
    """What was rejected in all accounts, and why, from a position or a time on, oldest first."""
    return await _page(request, caller, "rejections", _Asked(cursor, begin, since, until), limit)


async def _page(request: Request, caller: Caller, route: str, asked: _Asked, limit: int) -> Response:
    caller.refuse_prefix()
    span = span_of(route, *asked)
    only = {"only_rejected": route == "rejections"}
    read = await service_of(request).read(
        None, queries.journal, span.places, limit, **only, since=span.since, until=span.until
    )
    answer = page_of(route, read.found, span, is_personal="read:personal" in caller.scopes)
    return answers.render(answer, 200, answers.state_headers(read))


class Span(NamedTuple):
    """Where a page begins, and the time that it is of."""

    places: list[JournalPlace]
    since: datetime | None = None
    until: datetime | None = None


def span_of(
    route: str,
    cursor: str | None,
    begin: str | None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Span:
    """Where a page begins and what it is of. Raises ProblemError, InvalidPositionError."""
    if cursor is not None and (begin, since, until) != (None, None, None):
        raise ProblemError(
            400, "invalid_request", "A cursor says where to begin and to end.", "Leave out from, since and until."
        )
    refuse_empty_time(since, until)
    span = Span(_places_of(begin), since, until) if cursor is None else _span_at(route, cursor)
    if len({place.partition for place in span.places}) < len(span.places):
        raise ProblemError(400, "invalid_request", "A partition is named twice.", "Name each partition once.")
    return span


def page_of(route: str, page: queries.JournalPage, span: Span, *, is_personal: bool) -> JournalAnswer:
    """The answer of a page, with the cursor of the next one."""
    return JournalAnswer.model_construct(
        lines=[answers.decision_of(line, is_personal=is_personal) for line in page.lines],
        next=_cursor_of(route, page.places, span.until),
        has_more=page.has_more,
    )


def _places_of(begin: str | None) -> list[JournalPlace]:
    return [JournalPlace(*position) for position in positions_of(begin)]


def _cursor_of(route: str, places: Any, until: datetime | None) -> str:
    # At most one of them, the first, is between two lines of an offset.
    middle = next((place for place in places if place.account), JournalPlace(0, 0))
    offsets = [[place.partition, place.offset] for place in places]
    # Up to the next whole millisecond, which is what the log's clock goes by; 0 for no end.
    until_ms = 0 if until is None else max(1, -((EPOCH - until) // MILLISECOND))
    return cursor_of(route, (offsets, middle.partition, middle.account, middle.version, until_ms))


def _span_at(route: str, cursor: str) -> Span:
    offsets, partition, account, version, until_ms = place_of(route, cursor, ([[0, 0]], 0, "", 0, 0))
    places = [
        JournalPlace(number, offset, account, version) if number == partition else JournalPlace(number, offset)
        for number, offset in offsets
    ]
    return Span(places, until=EPOCH + min(until_ms, MAX_INSTANT) * MILLISECOND if until_ms else None)
