"""The routes of operation: health, progress, schemas. Those of health need no key."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.problems import CONTENT, ProblemError, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.projections import queries

router = Routes(tags=["operation"])

#: Of a route that needs no key.
PUBLIC: dict[str, Any] = {"security": []}


_COUNT = "Of all accounts, so not for a key that is limited to a prefix."


class LiveAnswer(Answer):
    """That the process serves requests."""

    live: Literal[True]


class ReadyAnswer(Answer):
    """Which servers answer."""

    ready: bool
    kafka: bool
    postgresql: bool


class ProgressAnswer(Answer):
    """How far one partition is folded, and how many records had which outcome."""

    partition: int
    next_offset: int
    accepted: int | None = Field(description=_COUNT)
    rejected: int | None = Field(description=_COUNT)
    duplicates: int | None = Field(description=_COUNT)
    dead_letters: int | None = Field(description=_COUNT)
    clock: datetime | None
    folded_at: datetime | None
    rules: int
    generation: int


@router.get(
    "/health/live",
    operation_id="live",
    response_model=LiveAnswer,
    openapi_extra=PUBLIC,
    responses=responses(is_public=True),
)
async def live() -> Response:
    """Whether the process serves requests. Needs no key."""
    return answers.render(LiveAnswer(live=True))


@router.get(
    "/health/ready",
    operation_id="ready",
    response_model=ReadyAnswer,
    openapi_extra=PUBLIC,
    responses={
        **responses(is_public=True),
        503: {"model": ReadyAnswer, "description": "A server doesn't answer.", "content": CONTENT},
    },
)
async def ready(request: Request) -> Response:
    """Whether Kafka and PostgreSQL answer, asked now. Needs no key."""
    kafka, postgresql = await service_of(request).readiness()
    answer = ReadyAnswer(ready=kafka and postgresql, kafka=kafka, postgresql=postgresql)
    return answers.render(answer, 200 if answer.ready else 503, {"Cache-Control": "no-store"})


@router.get("/v1/progress", operation_id="progress", response_model=list[ProgressAnswer], responses=responses())
async def progress(request: Request, caller: Annotated[Caller, needs("read:balance")]) -> Response:
    """How far each partition of the log is folded."""
    read = await service_of(request).read(None, queries.progress)
    return answers.render(progress_of(read.found, caller), 200, answers.state_headers(read))


def progress_of(rows: Sequence[queries.PartitionProgress], caller: Caller) -> list[ProgressAnswer]:
    """The answer of how far partitions are folded; without counts for who is limited to some accounts."""
    hidden = dict.fromkeys(("accepted", "rejected", "duplicates", "dead_letters")) if caller.account_prefix else {}
    return [ProgressAnswer.model_validate({**row._asdict(), "partition": row.log_partition, **hidden}) for row in rows]


@router.get(
    "/schemas/{schema_id}",
    operation_id="schema",
    responses=responses(404, is_public=True),
    openapi_extra=PUBLIC,
)
async def schema(
    request: Request,
    schema_id: Annotated[int, Path(description="The id that the log's records carry.")],
) -> Response:
    """The Avro schema of an id, as the log's records carry it. Needs no key: the schemas are public."""
    from creditfold.schemas.registry import load_lock

    row = next((row for row in load_lock() if row.id == schema_id), None)
    if row is None:
        raise ProblemError(404, "schema_unknown", f"There is no schema {schema_id}.", "schemas/lock.json lists them.")
    return JSONResponse(row.schema)
