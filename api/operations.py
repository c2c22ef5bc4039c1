"""The routes of long operations, and how another route begins one.

An operation goes on when its client leaves, and when the server is stopped. Owns what is said of it; what it does is
processors/rebuild's, where it is kept projections/access's.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import Path, Query, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.body import model_of
from creditfold.api.keys import actor_of
from creditfold.api.parameters import PAGE, Cursor, Limit, cursor_of, place_of
from creditfold.api.problems import RETRY_S, ProblemError, maybe_made, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.ledger.limits import MAX_REASON, is_note
from creditfold.processors.operations import ACTIVATE, DIFF, REBUILD, VERIFY, start_process
from creditfold.projections.access.operations import (
    CANCELLED,
    FAILED,
    INTERRUPTED,
    Operation,
    OperationUnderWayError,
    UnknownOperationError,
    begin_operation,
    cancel_operation,
    operation_of,
    operations,
    record_end,
)
from creditfold.projections.generations.catalog import GenerationError, NoGenerationError

router = Routes(tags=["operation"])

#: What opens the operations of a kind.
SCOPES = {REBUILD: "operate:generations", VERIFY: "operate:generations", ACTIVATE: "operate:generations"}
SCOPES[DIFF] = "operate:rules"

Operator = Annotated[Caller, needs("operate:*", everywhere=True)]
Number = Annotated[int, Path(description="The operation's number.", ge=1, le=2**31 - 1)]


def _kept(text: str) -> str:
    if not text.strip() or not is_note(text, MAX_REASON):
        raise ValueError("must be a text that can be kept")
    return text


Why = Annotated[str, Field(description="Why, for the audit.", min_length=1, max_length=MAX_REASON)]
WhyQuery = Annotated[
    str, AfterValidator(_kept), Query(description="Why, for the audit.", min_length=1, max_length=MAX_REASON)
]


class ActionBody(BaseModel):
    """What every action of an operator says."""

    model_config = ConfigDict(strict=True, extra="forbid")

    why: Annotated[str, AfterValidator(_kept)] = Field(
        description="Why, for the audit.", min_length=1, max_length=MAX_REASON
    )


class OperationAnswer(Answer):
    """A long operation: who wants it, how far it is, and what came of it."""

    operation: int = Field(description="Its number.")
    kind: str
    state: str = Field(
        description="starting, running, cancelling, done, failed, cancelled, or interrupted: its process ended before "
        "the operation did."
    )
    generation: int | None = Field(description="That it is about, or that it makes.")
    parameters: dict[str, Any]
    who: str
    why: str
    begun_at: datetime
    reported_at: datetime = Field(description="When it said last how far it is.")
    ended_at: datetime | None
    step: str = Field(description="What it does now.")
    done: int = Field(description="Records behind the step.")
    total: int = Field(description="Records of the step; 0 where there is nothing to count.")
    result: dict[str, Any] | None
    error: dict[str, str] | None = Field(description="code, message and remedy of one that failed.")
    remedy: str | None = Field(description="How to go on after one that failed, was cancelled or was interrupted.")


class OperationsAnswer(Answer):
    """A page of operations, newest first."""

    operations: list[OperationAnswer]
    next: str | None = Field(description="The cursor of the next page; None after the last.")


@router.get("/v1/operations", operation_id="operations", response_model=OperationsAnswer, responses=responses())
async def list_operations(request: Request, caller: Operator, limit: Limit = PAGE, cursor: Cursor = None) -> Response:
    """Long operations, newest first: those of the kinds that the caller's scopes open."""
    return answers.render(
        await service_of(request).query(operations_page, caller, operation_behind(cursor), limit), 200, _FRESH
    )


def operation_behind(cursor: str | None) -> int | None:
    """The operation behind which a page begins. Raises ProblemError."""
    return None if cursor is None else int(place_of("operations", cursor, (0,))[0])


def operations_page(connection: Connection[Any], caller: Caller, before: int | None, limit: int) -> OperationsAnswer:
    """The answer of a page of operations of the kinds that the caller's scopes open."""
    kinds = [kind for kind, scope in SCOPES.items() if scope in caller.scopes]
    found = operations(connection, kinds, before=before, limit=limit + 1)
    page = found[:limit]
    return OperationsAnswer.model_construct(
        operations=[answer_of(one) for one in page],
        next=cursor_of("operations", (page[-1].number,)) if len(found) > limit else None,
    )


@router.get(
    "/v1/operations/{number}", operation_id="operation", response_model=OperationAnswer, responses=responses(404)
)
async def show_operation(
    request: Request,
    caller: Operator,
    number: Number,
) -> Response:
    """A long operation: how far it is, and what came of it."""
    found = await service_of(request).query(operation_for, caller, number)
    waits = {} if found.has_ended else {"Retry-After": str(RETRY_S)}
    return answers.render(answer_of(found), 200, {**_FRESH, **waits})


@router.post(
    "/v1/operations/{number}:cancel",
    operation_id="cancel_operation",
    response_model=OperationAnswer,
    responses={
        200: {"description": "It has ended: by this, or before it."},
        202: {"model": OperationAnswer, "description": "It is being cancelled. Location shows when it has ended."},
        **responses(404, 409, 413, 415),
    },
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ActionBody.model_json_schema()}}}
    },
)
async def cancel(request: Request, caller: Operator, number: Number) -> Response:
    """Have a rebuild, a comparison or a diff end early, in order: what a rebuild folded stays, to be resumed.

    Nothing changes where it has ended already. An activation can't be cancelled.
    """
    return await begin_cancel(request, caller, number, await model_of(request, ActionBody))


async def begin_cancel(request: Request, caller: Caller, number: int, body: ActionBody) -> Response:
    """Have an operation end early, and answer with what it is by now. Raises ProblemError."""

    def cancelled(connection: Connection[Any]) -> Operation:
        found = operation_for(connection, caller, number)
        if found.kind == ACTIVATE and not found.has_ended:
            raise ProblemError(
                409,
                "operation_not_cancellable",
                "An activation isn't cancelled: it switches whole, or changes nothing.",
                "Wait for its end; to go back, activate the generation that was live before.",
            )
        return cancel_operation(connection, number, actor_of(request, caller, body.why))

    with maybe_made(f"GET /v1/operations/{number} shows whether it is being cancelled; asking again does no harm."):
        found = await service_of(request).query(cancelled)
    if found.has_ended:
        return answers.render(answer_of(found), 200, _FRESH)
    return answers.render(answer_of(found), 202, _under_way(found))


def _under_way(found: Operation) -> dict[str, str]:
    return {"Location": f"/v1/operations/{found.number}", "Retry-After": str(RETRY_S), **_FRESH}


def operation_for(connection: Connection[Any], caller: Caller, number: int) -> Operation:
    """The operation of a number. Raises ProblemError where there is none, or the caller may not see it."""
    try:
        found = operation_of(connection, number)
    except UnknownOperationError as error:
        raise ProblemError(404, "operation_unknown", error.message, error.remedy) from None
    caller.refuse_scope(SCOPES[found.kind])
    return found


_FRESH = {"Cache-Control": "no-store"}

#: How the route of an operation is documented.
BEGUN: dict[int | str, dict[str, Any]] = {
    202: {"model": OperationAnswer, "description": "Begun. Location shows how far it is, and what came of it."},
    **responses(404, 409, 413, 415),
}


async def begin(
    request: Request,
    caller: Caller,
    kind: str,
    body: ActionBody,
    prepare: Callable[[Connection[Any]], tuple[Mapping[str, Any], int | None, Mapping[str, Any]]],
) -> Response:
    """Begin an operation, and answer with where it shows how far it is.

    Args:
        request: that asks for it.
        caller: who does.
        kind: of the operation.
        body: says why.
        prepare: looks whether it can be done, and gives its parameters, the generation that it is about if any, and
            what it is going to change.

    Raises:
        ProblemError: another one of this kind is under way, or `prepare` refuses.
    """
    service = service_of(request)

    def begun(connection: Connection[Any]) -> Operation:
        parameters, generation, before = prepare(connection)
        by = actor_of(request, caller, body.why)
        return begin_operation(connection, kind, parameters, by=by, generation=generation, before=before)

    def started() -> None:
        start_process(service.settings, operation)

    try:
        with maybe_made(
            "GET /v1/operations shows whether it began; one that only seems to is interrupted in a minute."
        ):
            operation = await service.query(begun)
    except OperationUnderWayError as error:
        where = {"Location": f"/v1/operations/{error.number}"}
        raise ProblemError(
            409, "operation_under_way", error.message, error.remedy, headers=where, operation=error.number
        ) from None
    except GenerationError as error:
        raise refused(error) from None
    try:
        await service.operate(started)
    except OSError as error:
        failed = {"code": "no_process", "message": f"No process could be started: {error.strerror}.", "remedy": ""}
        await service.query(record_end, operation.number, error=failed)
        raise ProblemError(503, "no_process", failed["message"], "Try again.", operation=operation.number) from None
    return answers.render(answer_of(operation), 202, _under_way(operation))


def refused(error: GenerationError) -> ProblemError:
    """The problem of a generation that can't be used for what was asked."""
    if isinstance(error, NoGenerationError):
        return ProblemError(404, "generation_unknown", error.message, "GET /v1/generations lists them.")
    status = 400 if error.exit_code == 2 else 409
    return ProblemError(status, f"{error.error_code}_refused", error.message, error.remedy)


def answer_of(found: Operation) -> OperationAnswer:
    """The answer that an operation is."""
    own = found._asdict()
    return OperationAnswer.model_construct(**own, operation=found.number, remedy=_remedy(found))


def _remedy(found: Operation) -> str | None:
    if found.state not in (FAILED, CANCELLED, INTERRUPTED):
        return None
    said = (found.error or {}).get("remedy", "")
    if found.kind == REBUILD and found.generation is not None:
        number = found.generation
        ours = (
            f'POST /v1/generations:rebuild with "resume": {number} goes on; DELETE /v1/generations/{number} frees it.'
        )
    elif found.kind == ACTIVATE:
        ours = "GET /v1/generations shows which one is live; activate it again if it isn't that one."
    else:
        ours = "Begin another one"
        ours += "." if found.state == CANCELLED else "; what this one made for itself is dropped then."
    return f"{said} {ours}".strip()
