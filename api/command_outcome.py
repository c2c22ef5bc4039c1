"""The route that shows what became of a command: by its id, or by its record's position, waited for if asked.

Owns whose commands a caller may see. How an outcome is found is the projection's.
"""

import asyncio
import time
from typing import Annotated, Any, NamedTuple

from fastapi import Path, Query, Request
from fastapi.responses import Response
from psycopg import Connection

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import AcceptedAnswer, OutcomeAnswer
from creditfold.api.append import MOST_WAIT_S, dead_letter_problem, first_use
from creditfold.api.parameters import Account
from creditfold.api.problems import RETRY_S, ProblemError, responses
from creditfold.api.routes import Route, Routes
from creditfold.api.service import Reading, Service, service_of
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.producers.redrive import command_of
from creditfold.projections import queries
from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.outcome import Appended, CommandOutcome, Decision, OutcomeKind

router = Routes(tags=["commands"], route_class=Route)

#: Seconds between two look-ups of a command that is waited for by its id.
AGAIN_S = 0.1


@router.get(
    "/v1/accounts/{account}/commands/{command_id}",
    operation_id="command",
    response_model=OutcomeAnswer,
    responses={202: {"model": AcceptedAnswer, "description": "In the log; not decided yet."}, **responses(404, 409)},
)
async def command(
    request: Request,
    account: Account,
    *,
    command_id: Annotated[str, Path(description="The command's id.", min_length=1, max_length=128)],
    caller: Annotated[Caller, needs("read:statement", "append:*", "manual:*")],
    at: Annotated[str | None, Query(description="The record's position, as an answer 202 names it.")] = None,
    wait: Annotated[float, Query(description="Seconds to wait for the outcome.", ge=0, le=MOST_WAIT_S)] = 0.0,
) -> Response:
    """What became of a command.

    With `at`, of that record of the log; else of the first one that had this id. A key that may append, and hasn't the
    scope `read:statement`, sees the outcomes of the commands that it sent itself.
    """
    caller.refuse_account(account)
    service = service_of(request)
    is_personal = "read:personal" in caller.scopes
    if at is not None:
        position = Position.parse(at)
        if wait:
            # Where it isn't folded by then, the answer says so.
            await service.fold.passes(position, wait)
        reading = await service.read(account, look_at, position, account, command_id)
        headers = answers.state_headers(reading)
        if reading.found.outcome is not None:
            _refuse_others(caller, reading.found.sender)
        try:
            answer = answer_at(reading.found, position, account, command_id, is_personal=is_personal)
        except ProblemError as problem:
            problem.headers = {**headers, **problem.headers}
            raise
        if isinstance(answer, AcceptedAnswer):
            return answers.render(answer, 202, {**headers, "Retry-After": str(RETRY_S)})
        return answers.render(answer, 200, headers)
    reading = await _first(service, account, command_id, wait)
    _refuse_others(caller, None if reading.found is None else reading.found.decision.source)
    headers = answers.state_headers(reading)
    try:
        found = first_answer(reading.found, account, command_id, is_personal=is_personal)
    except ProblemError as problem:
        problem.headers.update(headers)
        raise
    return answers.render(found, 200, headers)


class Looked(NamedTuple):
    """What became of the command at a position.

    Fields:
        outcome: None where it isn't folded, an error where there will be none.
        first: what a dead letter's id was used for first.
        sender: the source of its command, where that is known.
    """

    outcome: CommandOutcome | CreditfoldError | None
    first: Decision | None
    sender: str | None


def look_at(connection: Connection[Any], position: Position, account: str, command_id: str) -> Looked:
    """Look up what became of the command at a position. Must run in a snapshot."""
    (outcome,) = queries.outcomes_at(connection, [Appended(position, account, command_id)])
    if not isinstance(outcome, CommandOutcome):
        return Looked(outcome, None, None)
    if outcome.decision is not None:
        return Looked(outcome, None, outcome.decision.source)
    is_reused = outcome.reason == DeadLetterReason.COMMAND_ID_REUSED
    first = queries.first_decision(connection, account, command_id) if is_reused else None
    letter = queries.dead_letter(connection, position)
    sent = None if letter is None else command_of(letter.value)
    return Looked(outcome, first, None if sent is None else sent.get("source"))


def answer_at(
    found: Looked, position: Position, account: str, command_id: str, *, is_personal: bool
) -> OutcomeAnswer | AcceptedAnswer:
    """The answer of what became of the command at a position. Raises ProblemError for a dead letter, or for none."""
    outcome = found.outcome
    if outcome is None:
        return AcceptedAnswer(command_id=command_id, account=account, position=str(position))
    if isinstance(outcome, CreditfoldError):
        raise ProblemError(404, "command_unknown", outcome.message, "Is the position the command's?")
    if outcome.kind is OutcomeKind.DEAD_LETTER:
        problem = dead_letter_problem(outcome)
        problem.members["first"] = first_use(found.first)
        raise problem
    return answers.outcome_of(outcome, account, command_id, is_personal=is_personal)


def _refuse_others(caller: Caller, sender: str | None) -> None:
    """Raise ProblemError for a command that the caller didn't send, unless it may read those of all.

    So for one that isn't known: who may not read learns nothing of which there are.
    """
    if sender != caller.name:
        caller.refuse_scope("read:statement")


async def _first(service: Service, account: str, command_id: str, wait_s: float) -> Reading:
    """The outcome of the first command of an id, waited for where there is none yet."""
    deadline = time.monotonic() + wait_s
    while True:
        reading = await service.read(account, first_outcome, account, command_id)
        left = deadline - time.monotonic()
        if reading.found is not None or reading.position is None or left <= 0:
            return reading
        # Where its record is isn't known, so each one of its partition may be it.
        await asyncio.sleep(min(AGAIN_S, left))
        last = reading.position
        await service.fold.passes(last._replace(offset=last.offset + 1), max(0.0, deadline - time.monotonic()))


def first_outcome(connection: Connection[Any], account: str, command_id: str) -> CommandOutcome | None:
    """The outcome of the first command of an id; None where none is folded. Must run in a snapshot."""
    line = queries.first_decision(connection, account, command_id)
    return None if line is None else queries.outcome_at(connection, line.position, account, command_id)


def first_answer(outcome: CommandOutcome | None, account: str, command_id: str, *, is_personal: bool) -> OutcomeAnswer:
    """The answer of the outcome of the first command of an id. Raises ProblemError where there is none."""
    if outcome is None:
        raise ProblemError(
            404,
            "command_unknown",
            f"The account {account} has no command {command_id} as far as it is folded.",
            "If it was sent just now, ask again with at=<its position> and wait.",
        )
    return answers.outcome_of(outcome, account, command_id, is_personal=is_personal)
