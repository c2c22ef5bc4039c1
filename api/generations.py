"""The routes of generations: listed, rebuilt, verified, activated, dropped, each action with a reason and audited.

Owns what a request may say. How a generation is folded, compared and switched is processors/rebuild's.
"""

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Path, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.body import model_of
from creditfold.api.keys import actor_of
from creditfold.api.operations import BEGUN, ActionBody, OperationAnswer, WhyQuery, begin, refused
from creditfold.api.parameters import BodyInstant
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.common.documents import as_json
from creditfold.common.instants import EPOCH, milliseconds_of
from creditfold.common.position import next_offsets_of
from creditfold.ledger.limits import MAX_REASON
from creditfold.processors.operations import ACTIVATE, REBUILD, VERIFY
from creditfold.projections.access.audit import audited
from creditfold.projections.connections import pinned
from creditfold.projections.generations.catalog import (
    Generation,
    GenerationError,
    SameGenerationError,
    generation,
    generations,
    live_number,
    refuse_live,
    refuse_unready,
)
from creditfold.projections.generations.removal import drop, leftovers

router = Routes(tags=["operation"])

#: PostgreSQL's largest integer.
MOST_NUMBER = 2**31 - 1
#: Differences of a comparison that are named, unless asked otherwise, and at most.
DIFFERENCES, MOST_DIFFERENCES = 20, 1_000

Operator = Annotated[Caller, needs("operate:generations", everywhere=True)]
Number = Annotated[int, Path(description="The generation's number.", ge=1, le=MOST_NUMBER)]
Differences = Annotated[int, Field(description="Differences that are named.", ge=1, le=MOST_DIFFERENCES)]


class RebuildBody(ActionBody):
    """How the log is folded anew."""

    resume: int | None = Field(None, description="Go on with this generation.", ge=1, le=MOST_NUMBER)
    until: BodyInstant = Field(None, description="The last instant of the log's clock that counts (RFC 3339).")
    until_positions: list[str] = Field(
        [], description="The last record of its partition that counts, `partition:offset`.", max_length=10_000
    )
    processes: int | None = Field(
        None, description="That fold at a time; one for each core if not given.", ge=1, le=256
    )
    rate: int | None = Field(None, description="Records a second at most; the live fold keeps its latency.", ge=1)
    tablespace: str | None = Field(None, description="PostgreSQL's, of the new tables.", min_length=1, max_length=63)
    note: str = Field("", description="What it is for, for people.", max_length=MAX_REASON)


class VerifyBody(ActionBody):
    """What a generation is compared with."""

    against: int | None = Field(
        None,
        description="Another generation; the live one if not given, or of that a fresh fold.",
        ge=1,
        le=MOST_NUMBER,
    )
    limit: Differences = DIFFERENCES


class ActivationBody(ActionBody):
    """What an activation accepts."""

    accept_differences: bool = Field(False, description="Switch although decisions differ.")
    log_replaced: bool = Field(False, description="The log was restored into a new topic, of which this was folded.")


class GenerationAnswer(Answer):
    """A generation: a fold of the log, with tables of its own."""

    number: int
    state: str = Field(description="building, ready, live or retired.")
    purpose: str
    is_partial: bool = Field(description="For looking at only: it ends early, or other rules decided everything.")
    is_leftover: bool = Field(description="Left by a comparison that was killed; nobody uses it.")
    layout: int
    forced_rules: int | None
    until: datetime | None
    until_offsets: dict[str, int] | None
    topic: str
    records: int
    next_offsets: dict[str, int]
    digest: str = Field(description="The same where offsets and decisions are the same.")
    size_bytes: int
    searchable: list[str] = Field(description="Keys of metadata that accounts can be searched by.")
    indexes_balances: bool = Field(description="Whether searches by balance, and by what ends, have an index.")
    made_at: datetime
    ready_at: datetime | None
    activated_at: datetime | None
    retired_at: datetime | None
    note: str


@router.get("/v1/generations", operation_id="generations", response_model=list[GenerationAnswer], responses=responses())
async def list_generations(request: Request, caller: Operator) -> Response:
    """All generations, oldest first: what they are, how far they are folded, how large they are."""
    return answers.render(await service_of(request).query(all_generations))


def all_generations(connection: Connection[Any]) -> list[GenerationAnswer]:
    """The answer of all generations, oldest first."""
    left = leftovers(connection)
    return [_answer_of(row, is_leftover=row.number in left) for row in generations(connection)]


@router.post(
    "/v1/generations:rebuild",
    operation_id="rebuild",
    status_code=202,
    response_model=OperationAnswer,
    responses=BEGUN,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": RebuildBody.model_json_schema()}}}
    },
)
async def rebuild(request: Request, caller: Operator) -> Response:
    """Fold the log into a new generation besides the live one, or go on with one that was interrupted.

    Readers notice nothing. With `until` or `until_positions` it ends there, and is for looking at only.
    """
    return await begin_rebuild(request, caller, await model_of(request, RebuildBody))


async def begin_rebuild(request: Request, caller: Caller, wanted: RebuildBody) -> Response:
    """Begin to fold the log anew, and answer with where it shows how far that is. Raises ProblemError."""
    if wanted.resume is not None and (
        wanted.until is not None or wanted.until_positions or wanted.tablespace or wanted.note
    ):
        raise ProblemError(
            400, "invalid_request", "resume goes on as the rebuild was begun.", "Leave out the other members."
        )
    offsets = next_offsets_of(wanted.until_positions) if wanted.until_positions else None

    def prepare(connection: Connection[Any]) -> tuple[Mapping[str, Any], int | None, Mapping[str, Any]]:
        if wanted.resume is not None:
            refuse_live(generation(connection, wanted.resume))
        parameters = {
            "resume": wanted.resume,
            "until_ms": None if wanted.until is None else milliseconds_of(wanted.until),
            "until_offsets": offsets,
            "processes": wanted.processes or os.cpu_count() or 1,
            "rate": wanted.rate,
            "tablespace": wanted.tablespace,
            "note": wanted.note,
        }
        return parameters, wanted.resume, {"live": live_number(connection)}

    return await begin(request, caller, REBUILD, wanted, prepare)


@router.post(
    "/v1/generations/{number}:verify",
    operation_id="verify",
    status_code=202,
    response_model=OperationAnswer,
    responses=BEGUN,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": VerifyBody.model_json_schema()}}}
    },
)
async def verify(request: Request, caller: Operator, number: Number) -> Response:
    """Prove that a generation is what the log says: compare it with the live one, the live one with a fresh fold."""
    return await begin_verification(request, caller, number, await model_of(request, VerifyBody))


async def begin_verification(request: Request, caller: Caller, number: int, wanted: VerifyBody) -> Response:
    """Begin to compare a generation, and answer with where it shows how far that is. Raises ProblemError."""

    def prepare(connection: Connection[Any]) -> tuple[Mapping[str, Any], int | None, Mapping[str, Any]]:
        live = live_number(connection)
        other = wanted.against
        if other is None:
            other = None if number == live else live
        for one in (number, *(() if other is None else (other,))):
            generation(connection, one)
        if number == other:
            raise SameGenerationError("These are one and the same.", "Name another one.")
        left, right = (number, None) if other is None else (other, number)
        return {"left": left, "right": right, "limit": wanted.limit}, number, {}

    return await begin(request, caller, VERIFY, wanted, prepare)


@router.post(
    "/v1/generations/{number}:activate",
    operation_id="activate",
    status_code=202,
    response_model=OperationAnswer,
    responses=BEGUN,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ActivationBody.model_json_schema()}},
        }
    },
)
async def activate(request: Request, caller: Operator, number: Number) -> Response:
    """Make a generation the live one, which readers see and workers fold, brought up to it and proven to be equal.

    Going back is activating the old one.
    """
    return await begin_activation(request, caller, number, await model_of(request, ActivationBody))


async def begin_activation(request: Request, caller: Caller, number: int, wanted: ActivationBody) -> Response:
    """Begin to switch to a generation, and answer with where it shows how far that is. Raises ProblemError."""

    def prepare(connection: Connection[Any]) -> tuple[Mapping[str, Any], int | None, Mapping[str, Any]]:
        found = generation(connection, number)
        refuse_live(found)
        refuse_unready(found)
        parameters = {"generation": number, **wanted.model_dump(exclude={"why"})}
        return parameters, number, {"live": live_number(connection)}

    return await begin(request, caller, ACTIVATE, wanted, prepare)


@router.delete(
    "/v1/generations/{number}",
    operation_id="drop",
    response_model=GenerationAnswer,
    responses=responses(404, 409),
)
async def drop_generation(request: Request, caller: Operator, number: Number, why: WhyQuery) -> Response:
    """Remove a generation and its tables for good, and answer with what it was. The live one is refused."""
    service, by = service_of(request), actor_of(request, caller, why)

    def do() -> Generation:
        with pinned(service.settings.dsn, "creditfold drop") as connection:
            found = generation(connection, number)
            before = as_json(found)
            with audited(connection, by, "generations.drop", f"generation {number}", before) as after:
                drop(connection, number)
                after["state"] = "dropped"
            return found

    try:
        return answers.render(_answer_of(await service.operate(do), is_leftover=False))
    except GenerationError as error:
        raise refused(error) from None


def _answer_of(row: Generation, *, is_leftover: bool) -> GenerationAnswer:
    until = None if row.until_ms is None else EPOCH + timedelta(milliseconds=row.until_ms)
    until_offsets = None if row.until_offsets is None else _by_text(row.until_offsets)
    own = {**row._asdict(), "next_offsets": _by_text(row.next_offsets), "until_offsets": until_offsets}
    return GenerationAnswer.model_construct(
        **own, is_partial=row.is_partial, is_leftover=is_leftover, until=until, topic=row.log.topic
    )


def _by_text(offsets: Mapping[int, int]) -> dict[str, int]:
    return {str(partition): offset for partition, offset in offsets.items()}
