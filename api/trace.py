"""The route of a trace: where a command's credits came from, and where they went."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from fastapi import Path, Query, Request
from fastapi.responses import Response
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.account_lists import LotAnswer
from creditfold.api.answers import Answer, DecisionAnswer
from creditfold.api.at_least import AtLeast, reading, refuse_other_generation
from creditfold.api.parameters import MOST_PAGE, Account, Cursor, cursor_of, place_of
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.projections import queries
from creditfold.projections.queries import TracePlace

router = Routes(tags=["commands"])


class MoveAnswer(Answer):
    """Credits that went from one place to another."""

    position: str
    version: int
    at: datetime
    kind: str
    asset: str
    amount: int
    source: str
    target: str
    command_id: str | None = Field(description="The command that moved them; None for what time did.")
    ref: str
    lot_command: str | None = Field(description="The command that made the lot; None for debt.")
    lot_number: int | None


class TracedLotAnswer(Answer):
    """A lot as it is now, the kind of the command that made it, and moves of its credits."""

    lot: LotAnswer
    made_by: str | None
    moves: list[MoveAnswer]


class TraceAnswer(Answer):
    """Where a command's credits came from and where they went: the moves of a page, the sums of all."""

    decision: DecisionAnswer
    moves: list[MoveAnswer] = Field(description="The command's own.")
    took: list[TracedLotAnswer] = Field(description="The lots that it moved credits of, with the moves that did.")
    later: list[MoveAnswer] = Field(description="Of other commands and of time, about what it began.")
    made: list[TracedLotAnswer] = Field(description="The lots that it made, each with moves of its credits.")
    spent: int = Field(description="What the command spent, owed credits included.")
    refunded: int = Field(description="How much of that was refunded.")
    owed: int = Field(description="How much of that is still owed.")
    next: str | None = Field(description="The cursor of the next page of the moves; None after the last.")


def _moves(moves: Iterable[queries.Move]) -> list[MoveAnswer]:
    return [
        MoveAnswer.model_construct(**{**move._asdict(), "position": f"{move.log_partition}:{move.log_offset}"})
        for move in moves
    ]


def _lots(lots: Iterable[queries.TracedLot]) -> list[TracedLotAnswer]:
    return [
        TracedLotAnswer.model_construct(
            lot=LotAnswer.model_validate(traced.lot), made_by=traced.made_by, moves=_moves(traced.moves)
        )
        for traced in lots
    ]


@router.get(
    "/v1/accounts/{account}/commands/{command_id}/trace",
    operation_id="trace",
    response_model=TraceAnswer,
    responses=responses(404, 409),
)
async def trace(
    request: Request,
    account: Account,
    *,
    command_id: Annotated[str, Path(description="The command's id.", min_length=1, max_length=128)],
    caller: Annotated[Caller, needs("read:statement")],
    limit: Annotated[int, Query(description="Moves of a page.", ge=1, le=MOST_PAGE)] = MOST_PAGE,
    cursor: Cursor = None,
    at_least: AtLeast = None,
) -> Response:
    """Where a command's credits came from, and where they went since: moves by pages, in the order of the journal."""
    generation, place = place_at(cursor)
    read = await reading(
        service_of(request), caller, account, at_least, queries.trace, command_id, limit=limit, place=place
    )
    refuse_other_generation(generation, read.generation)
    is_personal = "read:personal" in caller.scopes
    answer = trace_of(read.found, account, command_id, read.generation, is_personal=is_personal)
    return answers.render(answer, 200, answers.state_headers(read))


def place_at(cursor: str | None) -> tuple[int | None, TracePlace | None]:
    """The generation that the pages before are of, and where a page begins. Raises ProblemError."""
    if cursor is None:
        return None, None
    generation, *place = place_of("trace", cursor, (0, 0, 0, 0))
    return generation, TracePlace._make(place)


def trace_of(
    found: queries.Trace | None, account: str, command_id: str, generation: int, *, is_personal: bool
) -> TraceAnswer:
    """The answer of a trace's page, with the cursor of the next one. Raises ProblemError where there is none."""
    if found is None:
        raise ProblemError(
            404,
            "command_unknown",
            f"The account {account} has no command {command_id} as far as it is folded.",
            "If it was sent just now, ask again with at_least=<its position>.",
        )
    return TraceAnswer.model_construct(
        decision=answers.decision_of(found.decision, is_personal=is_personal),
        moves=_moves(found.moves),
        took=_lots(found.took),
        later=_moves(found.later),
        made=_lots(found.made),
        spent=found.spent,
        refunded=found.refunded,
        owed=found.owed,
        next=None if found.following is None else cursor_of("trace", (generation, *found.following)),
    )
