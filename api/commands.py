"""The routes that append one command, preview one, and look one up.

Owns how a request becomes a command, and which status its outcome has. What is valid is the producers' to say, what is
accepted the fold's.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple, cast
from urllib.parse import quote

import structlog
from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import BeforeValidator

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import AcceptedAnswer, OutcomeAnswer
from creditfold.api.body import json_object
from creditfold.api.manual import Why, append_by_hand
from creditfold.api.parameters import as_utf8
from creditfold.api.preview import PreviewAnswer, preview_of
from creditfold.api.problems import CONTENT, RETRY_S, ProblemError, only_reads, responses
from creditfold.api.routes import Route
from creditfold.api.service import Reading, Service, service_of
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.producers import AppendError, Outcome, OutcomeTimeoutError, parse_command
from creditfold.producers.models.commands import MODELS, Command, Encoded
from creditfold.producers.models.errors import unconfirmed
from creditfold.producers.redrive import command_of as command_of_bytes
from creditfold.projections import queries
from creditfold.projections.access.scopes import MANUAL
from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.outcome import Appended, CommandOutcome, Decision, OutcomeKind

router = APIRouter(tags=["commands"], route_class=Route)
log = structlog.get_logger()

#: Seconds that a write waits for its outcome unless it says otherwise, and the most that it may ask for.
WAIT_S, MOST_WAIT_S = 2.0, 30.0
#: Seconds that the log has to confirm a command whose outcome isn't waited for, and each one of many.
CONFIRM_S = 5.0
#: Seconds between two look-ups of a command that is waited for by its id.
AGAIN_S = 0.1

#: The last part of a route by the kind of its command.
ROUTES = {
    "grant": "grants",
    "spend": "spends",
    "hold": "holds",
    "capture": "captures",
    "release": "releases",
    "refund": "refunds",
    "void_grant": "voids",
    "transfer": "transfers",
    "freeze": "freezes",
    "unfreeze": "unfreezes",
    "close": "closings",
    "set_credit_limit": "credit-limits",
    "create_schedule": "schedules",
    "cancel_schedule": "schedule-cancellations",
    "batch": "batches",
}

#: What the route and the headers say, and the body may not.
_OUTSIDE = ("type", "command_id", "account", "source")

Account = Annotated[str, Path(description="The account.", min_length=1, max_length=128)]


IdempotencyKey = Annotated[
    str,
    BeforeValidator(as_utf8),
    Header(
        description="The command's id, in UTF-8. It never ends: the same key with the same body counts once.",
        min_length=1,
        max_length=128,
    ),
]
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


def command_of(kind: str, account: str, command_id: str, caller: Caller, body: dict[str, Any]) -> Command:
    """The command of a request. Raises InvalidCommandError, ProblemError."""
    said = [name for name in _OUTSIDE if name in body]
    if said:
        raise ProblemError(
            400,
            "invalid_body",
            f"The body has {said[0]}, which is not its to say.",
            "The account and the kind are in the path, the id in Idempotency-Key, the source is the key's name.",
        )
    return stamped_command({**body, "type": kind, "command_id": command_id, "account": account}, caller)


def stamped_command(fields: dict[str, Any], caller: Caller) -> Command:
    """The command of fields by name, with the caller as its source. Raises InvalidCommandError, ProblemError."""
    confirmed = fields.pop("confirmed", False)
    if not isinstance(confirmed, bool):
        raise ProblemError(400, "invalid_body", "confirmed must be true or false.", "Leave it out, or say true.")
    kind = fields.get("type")
    if isinstance(kind, str) and kind in MODELS and "source" in MODELS[kind].model_fields:
        fields["source"] = caller.name
    return parse_command(fields, confirmed=confirmed)


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
    return answers.render(answers.outcome_of(outcome, command.account, command.command_id), status, headers)


async def _dead_letter(service: Service, outcome: CommandOutcome, account: str, command_id: str) -> ProblemError:
    """The problem that a dead letter is, with what its key was used for first."""
    problem = dead_letter_problem(outcome)
    problem.headers.update(answers.outcome_headers(outcome))
    if outcome.reason == DeadLetterReason.COMMAND_ID_REUSED:
        try:
            first = await service.query(queries.first_decision, account, command_id)
        except Exception as error:  # It is said along; what is refused is known without it.
            log.warning("the first command of a key can't be looked up", why=str(error))
        else:
            problem.members["first"] = _first_use(first)
    return problem


def _first_use(line: Decision | None) -> dict[str, Any] | None:
    return (
        None
        if line is None
        else {
            "position": str(line.position),
            "decided_at": answers.rfc3339(line.decided_at),
            "kind": line.kind,
            "asset": line.asset,
            "amount": line.amount,
            "accepted": line.accepted,
        }
    )


def dead_letter_problem(outcome: CommandOutcome) -> ProblemError:
    """The problem that a dead letter is."""
    if outcome.reason == DeadLetterReason.COMMAND_ID_REUSED:
        return ProblemError(
            409,
            "idempotency_key_reused",
            f"The key was used before with another body: {outcome.detail or 'the first one stands'}.",
            "Send the new command under a key of its own; the first one stands.",
            position=str(outcome.position),
        )
    return ProblemError(
        422,
        "dead_letter",
        f"The ledger can't take the command: {outcome.reason}, {outcome.detail}.",
        "Correct it and send it under another key.",
        position=str(outcome.position),
    )


STATUS = {
    OutcomeKind.ACCEPTED: HTTPStatus.CREATED,
    OutcomeKind.REJECTED: HTTPStatus.UNPROCESSABLE_ENTITY,
    OutcomeKind.DUPLICATE: HTTPStatus.OK,
}


def _quoted(text: str) -> str:
    return quote(text, safe="")


def body_schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a route's body: the command without what the route and the headers say."""
    schema = MODELS[kind].model_json_schema(mode="validation")
    properties = {name: value for name, value in schema["properties"].items() if name not in _OUTSIDE}
    properties["confirmed"] = {
        "type": "boolean",
        "description": "Whether what looks like a mistake is meant.",
        "default": False,
    }
    required = [name for name in schema.get("required", ()) if name not in _OUTSIDE]
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        found["required"] = required
    return cast(dict[str, Any], _inlined(found, schema.get("$defs", {})))


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        if "$ref" in value:
            return _inlined(definitions[value["$ref"].rpartition("/")[2]], definitions)
        return {key: _inlined(one, definitions) for key, one in value.items() if key != "discriminator"}
    return [_inlined(one, definitions) for one in value] if isinstance(value, list) else value


def _add_route(kind: str, last: str) -> None:
    manual = (f"manual:{kind}",) if kind in MANUAL else ()
    scopes = "` or `".join((f"append:{kind}", *manual))

    async def append_command(
        request: Request,
        account: Account,
        *,
        idempotency_key: IdempotencyKey,
        caller: Annotated[Caller, needs(f"append:{kind}", *manual)],
        prefer: Prefer = "",
        why: Why = "",
        preview: Annotated[bool, Query(description="Decide at the folded state and write nothing.")] = False,
    ) -> Response:
        if preview:
            only_reads(request)
        # Before the body is read.
        caller.refuse_account(account)
        command = command_of(kind, account, idempotency_key, caller, await json_object(request))
        caller.refuse_command(command, by_hand=preview or bool(why))
        service = service_of(request)
        if preview:
            return await preview_of(service, command, caller)
        if not why:
            return await append(service, command, preference_of(prefer))
        return await append_by_hand(
            request, caller, command, why, lambda: append(service, command, preference_of(prefer))
        )

    documentation = (MODELS[kind].__doc__ or "").strip().partition("\n\n")[0]
    router.add_api_route(
        f"/v1/accounts/{{account}}/{last}",
        append_command,
        methods=["POST"],
        name=f"append_{kind}",
        operation_id=f"append_{kind}",
        summary=" ".join(documentation.split()),
        description=f"Needs the scope `{scopes}`. Waits for the outcome, unless `Prefer` says otherwise.",
        status_code=201,
        response_model=OutcomeAnswer,
        responses={
            200: {
                "model": OutcomeAnswer | PreviewAnswer,
                "description": "A repeat: the first outcome, with Idempotency-Replayed. Or what a preview comes to.",
            },
            202: {"model": AcceptedAnswer, "description": "In the log; not decided in time. Location has the outcome."},
            422: {
                "model": OutcomeAnswer,
                "description": "Rejected, for good: the same key is never decided again. Or a dead letter.",
                "content": CONTENT,
            },
            **responses(408, 409, 413, 415),
        },
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": body_schema(kind)}}}
        },
    )


for _kind, _last in ROUTES.items():
    _add_route(_kind, _last)


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
    sent = None if letter is None else command_of_bytes(letter.value)
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
        problem.headers.update(answers.outcome_headers(outcome))
        problem.members["first"] = _first_use(found.first)
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
