"""How a command is appended, how long its outcome is waited for, and which answer that has.

Owns the header Prefer, the statuses of outcomes, and the problem that a dead letter is. Knows no route.
"""

import asyncio
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

import structlog
from fastapi import Header
from fastapi.responses import Response

from creditfold.api import answers
from creditfold.api.answers import AcceptedAnswer
from creditfold.api.problems import RETRY_S, ProblemError
from creditfold.api.service import Service
from creditfold.common.position import Position
from creditfold.producers import AppendError, Outcome, OutcomeTimeoutError
from creditfold.producers.models.commands import Command, Encoded
from creditfold.producers.models.errors import unconfirmed
from creditfold.projections import queries
from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.outcome import CommandOutcome, Decision, OutcomeKind

log = structlog.get_logger()

#: Seconds that a write waits for its outcome unless it says otherwise, and the most that it may ask for.
WAIT_S, MOST_WAIT_S = 2.0, 30.0
#: Seconds that the log has to confirm a command whose outcome isn't waited for, and each one of many.
CONFIRM_S = 5.0
#: The status of an outcome that is no dead letter.
STATUS = {
    OutcomeKind.ACCEPTED: HTTPStatus.CREATED,
    OutcomeKind.REJECTED: HTTPStatus.UNPROCESSABLE_ENTITY,
    OutcomeKind.DUPLICATE: HTTPStatus.OK,
}

Prefer = Annotated[
    str,
    Header(
        description="`wait=N`: seconds to wait for the outcome; `respond-async`: don't wait (RFC 7240).", max_length=200
    ),
]


class Preference(NamedTuple):
    """How long to wait for an outcome, in seconds (0: not at all), and what to say was applied."""

    wait_s: float
    applied: str | None


def preference_of(text: str) -> Preference:
    """Read the header Prefer; what it has of no meaning here is passed over, as RFC 7240 wants it."""
    for part in text.lower().split(","):
        name, _, value = part.strip().partition("=")
        if name == "respond-async":
            return Preference(0.0, "respond-async")
        if name == "wait" and re.fullmatch(r'"?[0-9]{1,4}"?', value.strip()):
            wait_s = min(float(value.strip().strip('"')), MOST_WAIT_S)
            return Preference(wait_s, f"wait={wait_s:g}")
    return Preference(WAIT_S, None)


async def append(service: Service, command: Command, preference: Preference) -> Response:
    """Append a command and answer with its outcome, or with where to find it."""
    headers = {} if preference.applied is None else {"Preference-Applied": preference.applied}
    if not preference.wait_s:
        return _pending(command, await _appended(service, command), headers)
    try:
        async with service.until_stopped():
            outcome = await service.producer.append_and_wait(command, preference.wait_s)
    except OutcomeTimeoutError as error:
        if error.position is None:
            raise
        return _pending(command, error.position, headers)
    if outcome.kind is OutcomeKind.DEAD_LETTER:
        raise await _dead_letter(service, outcome, command.account, command.command_id)
    return answer_of(outcome, command, headers)


async def _appended(service: Service, command: Command) -> Position:
    """Where the log has a command. Raises OutcomeTimeoutError where it doesn't confirm that in time."""
    bound = asyncio.timeout(CONFIRM_S)
    try:
        async with bound:
            return await service.producer.append(command)
    except TimeoutError:
        if not bound.expired():
            raise
        raise unconfirmed(CONFIRM_S) from None


async def hand_over(
    service: Service, records: Sequence[Encoded]
) -> tuple[asyncio.Future[Sequence[Outcome]], AppendError | None]:
    """Hand many commands over, each with the same time to be confirmed in as one; returns as `submit_batch` does."""
    return await service.producer.submit_batch(records, CONFIRM_S)


def _pending(command: Command, position: Position, headers: dict[str, str]) -> Response:
    answer = AcceptedAnswer(command_id=command.command_id, account=command.account, position=str(position))
    location = f"/v1/accounts/{_quoted(command.account)}/commands/{_quoted(command.command_id)}?at={position}"
    # Of no generation: nothing of one was read.
    known = {"Creditfold-Position": str(position), "Location": location, "Retry-After": str(RETRY_S)}
    return answers.render(answer, 202, {**headers, **known})


def answer_of(outcome: CommandOutcome, command: Command, headers: dict[str, str]) -> Response:
    """The answer of a decided command, which is no dead letter."""
    status = STATUS[outcome.kind]
    if outcome.kind is OutcomeKind.DUPLICATE:
        headers = {**headers, "Idempotency-Replayed": "true"}
    headers = {**headers, **answers.outcome_headers(outcome)}
    body = answers.outcome_json(outcome, command.account, command.command_id)
    return Response(body, status, headers, "application/json")


async def _dead_letter(service: Service, outcome: CommandOutcome, account: str, command_id: str) -> ProblemError:
    """The problem that a dead letter is, with what its key was used for first."""
    problem = dead_letter_problem(outcome)
    if outcome.reason == DeadLetterReason.COMMAND_ID_REUSED:
        try:
            first = await service.query(queries.first_decision, account, command_id)
        except Exception as error:  # It is said along; what is refused is known without it.
            log.warning("the first command of a key can't be looked up", why=str(error))
        else:
            problem.members["first"] = first_use(first)
    return problem


def first_use(line: Decision | None) -> dict[str, Any] | None:
    """What a problem says of the command that an id was used for first; None where that isn't known."""
    if line is None:
        return None
    return {
        "position": str(line.position),
        "decided_at": answers.rfc3339(line.decided_at),
        "kind": line.kind,
        "asset": line.asset,
        "amount": line.amount,
        "accepted": line.accepted,
    }


def dead_letter_problem(outcome: CommandOutcome) -> ProblemError:
    """The problem that a dead letter is."""
    headers = answers.outcome_headers(outcome)
    if outcome.reason == DeadLetterReason.COMMAND_ID_REUSED:
        return ProblemError(
            409,
            "idempotency_key_reused",
            f"The key was used before with another body: {outcome.detail or 'the first one stands'}.",
            "Send the new command under a key of its own; the first one stands.",
            headers=headers,
            position=str(outcome.position),
        )
    return ProblemError(
        422,
        "dead_letter",
        f"The ledger can't take the command: {outcome.reason}, {outcome.detail}.",
        "Correct it and send it under another key.",
        headers=headers,
        position=str(outcome.position),
    )


def _quoted(text: str) -> str:
    return quote(text, safe="")
