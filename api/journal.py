"""The routes of the journal across accounts: every decision, or the rejections alone, from a position on."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer, DecisionAnswer
from creditfold.api.parameters import MOST_CURSOR, PAGE, Cursor, Limit, cursor_of, place_of, positions_of
from creditfold.api.problems import ProblemError, responses
from creditfold.api.service import service_of
from creditfold.projections import queries
from creditfold.projections.queries import JournalPlace

router = APIRouter(tags=["statements"])

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


@router.get("/v1/journal", operation_id="journal", response_model=JournalAnswer, responses=responses())
async def journal(
    request: Request, caller: Reader, begin: Begin = None, cursor: Cursor = None, limit: Limit = PAGE
) -> Response:
    """The journal of all accounts, from a position on, oldest first."""
    return await _page(request, caller, ("journal", cursor, begin), limit)


@router.get("/v1/rejections", operation_id="rejections", response_model=JournalAnswer, responses=responses())
async def rejections(
    request: Request, caller: Reader, begin: Begin = None, cursor: Cursor = None, limit: Limit = PAGE
) -> Response:
    """What was rejected in all accounts, and why, from a position on, oldest first."""
    return await _page(request, caller, ("rejections", cursor, begin), limit)


async def _page(request: Request, caller: Caller, asked: tuple[str, str | None, str | None], limit: int) -> Response:
    caller.refuse_prefix()
    route, cursor, begin = asked
    places = places_of(route, cursor, begin)
    is_rejected = route == "rejections"
    read = await service_of(request).read(None, queries.journal, places, limit, only_rejected=is_rejected)
    answer = page_of(route, read.found, is_personal="read:personal" in caller.scopes)
    return answers.render(answer, 200, answers.state_headers(read))


def places_of(route: str, cursor: str | None, begin: str | None) -> list[JournalPlace]:
    """Where a page begins. Raises ProblemError, InvalidPositionError."""
    if cursor is not None and begin is not None:
        raise ProblemError(400, "invalid_request", "Both cursor and from say where to begin.", "Leave out from.")
    places = (
        [JournalPlace(*position) for position in positions_of(begin)] if cursor is None else _places_at(route, cursor)
    )
    if len({place.partition for place in places}) < len(places):
        raise ProblemError(400, "invalid_request", "A partition is named twice.", "Name each partition once.")
    return places


def page_of(route: str, page: queries.JournalPage, *, is_personal: bool) -> JournalAnswer:
    """The answer of a page, with the cursor of the next one."""
    return JournalAnswer.model_construct(
        lines=[answers.decision_of(line, is_personal=is_personal) for line in page.lines],
        next=_cursor_of(route, page.places),
        has_more=page.has_more,
    )


def _cursor_of(route: str, places: Any) -> str:
    # At most one of them, the first, is between two lines of an offset.
    middle = next((place for place in places if place.account), JournalPlace(0, 0))
    offsets = [[place.partition, place.offset] for place in places]
    return cursor_of(route, (offsets, middle.partition, middle.account, middle.version))


def _places_at(route: str, cursor: str) -> list[JournalPlace]:
    offsets, partition, account, version = place_of(route, cursor, ([[0, 0]], 0, "", 0))
    return [
        JournalPlace(number, offset, account, version) if number == partition else JournalPlace(number, offset)
        for number, offset in offsets
    ]
