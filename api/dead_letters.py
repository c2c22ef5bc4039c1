"""The routes of dead letters: listed, redriven, discarded.

Owns what a request may say, and that nobody appends by a correction what they may not append. What can be done about a
letter is processors/letters.py's and redrive.py's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import Path, Query, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.body import model_of
from creditfold.api.keys import actor_of
from creditfold.api.letters import (
    DeadLettersAnswer,
    LetterResultsAnswer,
    OneDeadLetterAnswer,
    letter_behind,
    one_letter,
    over_http,
    page_of,
    result_answer,
    unknown_letter,
)
from creditfold.api.parameters import PAGE, BodyInstant, Cursor, Limit, Since, Until
from creditfold.api.problems import RETRY_S, ProblemError, only_reads, responses
from creditfold.api.routes import Routes
from creditfold.api.service import Reading, Service, service_of
from creditfold.common.position import MAX_PARTITION, Position
from creditfold.ledger.limits import MAX_ACCOUNT
from creditfold.processors import letters
from creditfold.processors.letters import LetterResult, Selection, UnknownLetterError
from creditfold.processors.redrive import Redriver
from creditfold.producers.redrive import Corrections, RedriveRefusedError
from creditfold.projections import queries
from creditfold.projections.access.audit import audited
from creditfold.projections.queries import DeadLetterState, decisions
from creditfold.projections.queries.dead_letters import LetterFilter, LetterKey
from creditfold.projections.queries.decisions import NewDecision, RedriveUnderWayError
from creditfold.projections.queries.progress import Standing
from creditfold.schemas.dead_letters import DeadLetterReason

router = Routes(tags=["operation"])

Operator = Annotated[Caller, needs("operate:dead-letters", everywhere=True)]
Preview = Annotated[bool, Query(description="Show what would be done, and do nothing.")]
#: Letters of one request at most: each is appended by itself, and waited for.
MOST_LETTERS = 1_000
#: Seconds that each wait of a redrive takes at most: for the fold, for Kafka, for another operator.
REDRIVE_S = 10.0
_REASONS = [reason.value for reason in DeadLetterReason]


def _reason(value: str | None) -> str | None:
    if value is not None and value not in _REASONS:
        raise ValueError(f"must be one of {', '.join(_REASONS)}")
    return value


Reason = Annotated[str | None, AfterValidator(_reason)]
LetterReason = Annotated[
    Reason, Query(description="Only those of this reason.", json_schema_extra={"enum": [*_REASONS]})
]
LetterAccount = Annotated[
    str | None, Query(description="Only those with this key.", min_length=1, max_length=MAX_ACCOUNT)
]
LetterPartition = Annotated[int | None, Query(description="Only those of this one.", ge=0, le=MAX_PARTITION)]
LetterPosition = Annotated[str, Path(description="Of the record, `partition:offset`.", max_length=60)]


class LettersBody(BaseModel):
    """Which dead letters, by their positions or by a filter, and why."""

    model_config = ConfigDict(strict=True, extra="forbid")

    why: str = Field("", description="For the audit, and kept with the decision; needed but for a preview.")
    positions: list[str] = Field([], description="Of their records, `partition:offset`.", max_length=MOST_LETTERS)
    partition: int | None = Field(None, description="The open ones of this partition.", ge=0, le=MAX_PARTITION)
    reason: Reason = Field(None, description="The open ones of this reason.", json_schema_extra={"enum": [*_REASONS]})
    account: str | None = Field(None, description="The open ones with this key.", min_length=1, max_length=MAX_ACCOUNT)
    since: BodyInstant = Field(None, description="The open ones appended at this instant or later (RFC 3339).")
    until: BodyInstant = Field(None, description="The open ones appended before this instant (RFC 3339).")
    every: bool = Field(False, description="All open ones.")
    limit: int = Field(PAGE, description="Of those that a filter finds, the oldest ones.", ge=1, le=MOST_LETTERS)

    def selection(self) -> Selection:
        """The letters that are meant. Raises ProblemError unless one way says which."""
        key = None if self.account is None else self.account.encode()
        wanted = LetterFilter(self.reason, key, self.since, self.until, self.partition)
        if bool(self.positions) + (wanted != LetterFilter()) + self.every != 1:
            raise ProblemError(
                400,
                "invalid_request",
                "Positions, a filter or every say which dead letters are meant: one of them does.",
                "Send positions, or some of partition, reason, account, since and until, or every.",
            )
        return Selection(tuple(dict.fromkeys(map(Position.parse, self.positions))), wanted)


class RedriveBody(LettersBody):
    """Which dead letters, why, and what differs from what they hold: as `creditfold dead-letters redrive` has it."""

    fields: dict[str, Any] = Field({}, description="Fields of the command that differ.")
    metadata: dict[str, str] = Field({}, description="Metadata that differ.")
    type: str | None = Field(None, description="The command's type, if that differs.", max_length=60)
    command: dict[str, Any] | None = Field(None, description="The whole command instead, with its type.")
    confirmed: bool = Field(False, description="Whether what looks like a mistake is meant.")

    def corrections(self) -> Corrections:
        """What differs. Raises ProblemError where it says two things."""
        if self.command is not None and (self.fields or self.metadata or self.type is not None):
            raise ProblemError(
                400, "invalid_request", "command is the whole command.", "Leave out fields, metadata and type, or it."
            )
        return Corrections(self.fields, self.metadata, self.type, self.command, self.confirmed)


@router.get("/v1/dead-letters", operation_id="dead_letters", response_model=DeadLettersAnswer, responses=responses())
async def list_dead_letters(
    request: Request,
    caller: Operator,
    *,
    reason: LetterReason = None,
    open: Annotated[bool, Query(description="Only those about which nothing was decided yet.")] = False,
    account: LetterAccount = None,
    partition: LetterPartition = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """The records of the log that can't be folded, newest first: why, what they hold, what was decided about them."""
    wanted: dict[str, Any] = {
        "reason": reason,
        "only_open": open,
        "account": account,
        "partition": partition,
        "since": since,
        "until": until,
        "before": letter_behind(cursor),
    }
    # One more than is wanted shows whether there are more.
    read = await service_of(request).read(None, partial(queries.dead_letters, limit=limit + 1, **wanted))
    return answers.render(page_of(read.found, limit, caller), 200, answers.state_headers(read))


@router.get(
    "/v1/dead-letters/{position}",
    operation_id="dead_letter",
    response_model=OneDeadLetterAnswer,
    responses=responses(404),
)
async def show_dead_letter(
    request: Request,
    caller: Operator,
    position: LetterPosition,
) -> Response:
    """One dead letter, also with what was decided about the command that had its id first."""
    read = await service_of(request).read(None, one_letter, Position.parse(position), caller)
    return answers.render(read.found, 200, answers.state_headers(read))


@router.post(
    "/v1/dead-letters:redrive",
    operation_id="redrive",
    response_model=LetterResultsAnswer,
    responses=responses(404, 409, 413, 415),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": RedriveBody.model_json_schema()}}}
    },
)
async def redrive(request: Request, caller: Operator, *, preview: Preview = False) -> Response:
    """Append the commands of dead letters again, corrected if needed, each once, ever, and wait for their outcomes.

    One that was interrupted is finished by the same request again. A correction needs the scope, the limits and the
    amounts of the command that it makes.
    """
    if preview:
        only_reads(request)
    return await redrive_letters(request, caller, await model_of(request, RedriveBody), preview=preview)


async def redrive_letters(request: Request, caller: Caller, body: RedriveBody, *, preview: bool) -> Response:
    """Redrive dead letters, or show what would come of it. Raises ProblemError."""
    selection, corrections = body.selection(), body.corrections()
    selection.refuse_one_id(corrections)
    service = service_of(request)

    def do(connection: Connection[Any]) -> _Done:
        with ExitStack() as closing:
            redriver = Redriver(connection, service.settings, caller.name, body.why, corrections, REDRIVE_S, closing)
            # A redrive whose decision was lost with a database shows in the log alone.
            redriver.await_fold()
            standing = queries.standing(connection)
            found = letters.chosen(connection, selection, letters.TO_REDRIVE, body.limit + 1)

            def act(row: DeadLetterState) -> LetterResult:
                if corrections.any:
                    caller.refuse_command(redriver.judge(row).command)
                return letters.would_be_redriven(redriver, row) if preview else letters.redriven(redriver, row)

            with _audited(connection, request, caller, body, ("redrive", found[: body.limit], preview)) as results:
                _act_on(service, connection, (selection, found[: body.limit]), act, results)
                results[:] = [letters.with_outcome(redriver, row) for row in results]
            return results, len(found) > body.limit, standing

    return await _answered(service, caller, do, preview=preview)


@router.post(
    "/v1/dead-letters:discard",
    operation_id="discard",
    response_model=LetterResultsAnswer,
    responses=responses(404, 409, 413, 415),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": LettersBody.model_json_schema()}}}
    },
)
async def discard(request: Request, caller: Operator, *, preview: Preview = False) -> Response:
    """Decide that nothing is done about dead letters. They stay, and can't be redriven any more."""
    if preview:
        only_reads(request)
    return await discard_letters(request, caller, await model_of(request, LettersBody), preview=preview)


async def discard_letters(request: Request, caller: Caller, body: LettersBody, *, preview: bool) -> Response:
    """Discard dead letters, or show what would come of it. Raises ProblemError."""
    selection, service = body.selection(), service_of(request)

    def do(connection: Connection[Any]) -> _Done:
        topic_id = decisions.live_log(connection).topic_id
        standing = queries.standing(connection)
        wish = None if preview else NewDecision("discard", caller.name, body.why)
        found = letters.chosen(connection, selection, letters.TO_DISCARD, body.limit + 1)

        def act(row: DeadLetterState) -> LetterResult:
            return letters.discarded(connection, topic_id, row, wish)

        with _audited(connection, request, caller, body, ("discard", found[: body.limit], preview)) as results:
            _act_on(service, connection, (selection, found[: body.limit]), act, results)
        return results, len(found) > body.limit, standing

    return await _answered(service, caller, do, preview=preview)


#: The results of a request, whether there are more letters, and how far the log was folded when these were looked up.
_Done = tuple[Sequence[LetterResult], bool, Standing]


async def _answered(
    service: Service, caller: Caller, do: Callable[[Connection[Any]], _Done], *, preview: bool
) -> Response:
    """Do something about letters in a thread of operators, and answer with the results. Raises ProblemError."""

    def decided() -> _Done:
        with decisions.decision_connection(service.settings.dsn) as connection:
            return do(connection)

    try:
        results, has_more, standing = await service.operate(decided)
    except UnknownLetterError as error:
        raise unknown_letter(error) from None
    except RedriveUnderWayError as error:
        retry = {"Retry-After": str(RETRY_S)}
        raise ProblemError(409, error.error_code, error.message, over_http(error.remedy), headers=retry) from None
    except RedriveRefusedError as error:
        raise ProblemError(409, error.error_code, error.message, over_http(error.remedy)) from None
    answer = LetterResultsAnswer.model_construct(
        results=[result_answer(row, caller) for row in results], has_more=has_more
    )
    complete_to = service.ends.complete_to(standing) if preview else None
    known = [row.generation for row in results if row.generation is not None]
    headers = answers.state_headers(Reading(None, None, max(known, default=standing.generation), complete_to))
    return answers.render(answer, 200, headers | answers.positions_header([row.to for row in results if row.to]))


@contextmanager
def _audited(
    connection: Connection[Any],
    request: Request,
    caller: Caller,
    body: LettersBody,
    action: tuple[str, Sequence[LetterKey], bool],
) -> Iterator[list[LetterResult]]:
    """Have what is done about letters in the audit, unless it is a preview; the block adds the results to the list."""
    name, found, is_preview = action
    results: list[LetterResult] = []
    if is_preview or not found:
        yield results
        return
    target = str(found[0].position) if len(found) == 1 else f"{len(found)} dead letters"
    before = {"letters": {str(row.position): row.reason for row in found}}
    corrections = body.model_dump(exclude_defaults=True, include=_CORRECTING)
    by = actor_of(request, caller, body.why)
    with audited(connection, by, f"dead-letters.{name}", target, {**before, **corrections}) as after:
        try:
            yield results
        finally:
            # Also of those before a failure.
            after["letters"] = {str(row.position): _in_words(row) for row in results}


_CORRECTING = {"fields", "metadata", "type", "command"}


def _in_words(row: LetterResult) -> str:
    return row.result if row.to is None else f"{row.result}, {row.to}"


def _act_on(
    service: Service,
    connection: Connection[Any],
    selected: tuple[Selection, Sequence[LetterKey]],
    act: Callable[[DeadLetterState], LetterResult],
    results: list[LetterResult],
) -> None:
    """Do the same with each letter, until the server stops. A refusal is raised where one letter is named."""
    selection, found = selected

    def on_done(count: int) -> None:
        if service.is_stopping and count < len(found):
            raise ProblemError(
                503,
                "server_stopping",
                f"The server stops; {count} of {len(found)} dead letters were done.",
                "Send the same request again: it goes on with the others.",
            )

    if selection.one is not None:
        results.append(act(letters.letter_at(connection, selection.one)))
    else:
        letters.each(connection, found, act, results, on_done)
