"""The route of GraphQL: a document in, its answer out, read in one snapshot.

Owns the request, the order of checks, and the form of errors: what is wrong with the request as such is a problem
document as everywhere, what is wrong with a query or a field stands in `errors`. Which fields there are is the schema's
to say, how much may be asked for the bounds'.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Header, Query, Request
from fastapi.responses import Response
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLSchema,
    execute_sync,
    get_operation_ast,
    specified_rules,
    validate,
)
from graphql.execution.values import get_variable_values
from graphql.validation import MaxIntrospectionDepthRule
from psycopg import Connection
from pydantic import BaseModel, ConfigDict, Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.at_least import reflecting
from creditfold.api.body import model_of
from creditfold.api.graphql_bounds import MOST_COST, measured, parsed
from creditfold.api.graphql_reads import Reads, RecordOf
from creditfold.api.graphql_schema import SCHEMA
from creditfold.api.log_record import record_of
from creditfold.api.parameters import MOST_CURSOR, positions_of
from creditfold.api.problems import ProblemError, of_error, only_reads, responses
from creditfold.api.routes import Routes
from creditfold.api.service import QUERY_S, Reading, service_of
from creditfold.common.position import Position
from creditfold.projections import queries
from creditfold.projections.access.scopes import SCOPES
from creditfold.projections.connections import snapshot
from creditfold.projections.queries.progress import Standing, standing_of

router = Routes(tags=["graphql"])

#: The form of the answer where the client accepts it; JSON as such else.
MEDIA_TYPE = "application/graphql-response+json"
#: Errors of one document that are listed.
_MOST_ERRORS = 20
#: Under strawberry's schema, the one that documents are checked and answered by.
_CORE: GraphQLSchema = SCHEMA._schema
_RULES = [*specified_rules, MaxIntrospectionDepthRule]
#: The scopes that open fields beside those that begin with `read:`.
_READING = tuple(scope for scope in SCOPES if scope.startswith("operate:") or scope in ("keys", "audit"))


class GraphqlBody(BaseModel):
    """A request of GraphQL."""

    model_config = ConfigDict(strict=True, extra="forbid", populate_by_name=True)

    query: str = Field(description="The document. At most 16,384 characters and 1,000 tokens.")
    variables: dict[str, Any] | None = Field(None, description="Values of the operation's variables.")
    operation_name: str | None = Field(
        None, alias="operationName", description="The operation, where the document has several."
    )
    extensions: dict[str, Any] | None = Field(None, description="Not looked at.")


class GraphqlAnswer(BaseModel):
    """An answer of GraphQL."""

    data: dict[str, Any] | None = Field(None, description="What was asked for; null where nothing was read.")
    errors: list[dict[str, Any]] | None = Field(
        None, description="What failed. `extensions` has what a problem has: code, status, remedy, request_id."
    )
    extensions: dict[str, Any] | None = Field(None, description="`cost` of the query, and `most_cost`.")


class _Prepared(NamedTuple):
    """A document that may be answered."""

    document: DocumentNode
    cost: int


class _Answered(NamedTuple):
    """What became of a query, and the state that it was read in; `is_of_all`: not of positions' partitions alone."""

    result: ExecutionResult
    standing: Standing
    positions: Sequence[Position]
    is_of_all: bool


class InvalidQueryError(Exception):
    """A document that can't be answered.

    Args:
        errors: what is wrong with it.
    """

    def __init__(self, errors: Iterable[GraphQLError]) -> None:
        super().__init__()
        self.errors = list(errors)


def prepare(body: GraphqlBody) -> _Prepared:
    """Check a document whole, before anything is read. Raises InvalidQueryError."""
    try:
        document = parsed(body.query)
        wrong = validate(_CORE, document, _RULES, max_errors=_MOST_ERRORS)
        if wrong:
            raise InvalidQueryError(wrong)
        operation = get_operation_ast(document, body.operation_name)
        if operation is None:
            raise GraphQLError("The document has no such operation, or several of which none is named.")
        variables = get_variable_values(
            _CORE, operation.variable_definitions or (), body.variables or {}, max_errors=_MOST_ERRORS
        )
        if isinstance(variables, list):
            raise InvalidQueryError(variables)
        return _Prepared(document, measured(_CORE, document, operation, variables))
    except GraphQLError as error:
        raise InvalidQueryError([error]) from None
    except ProblemError as problem:
        raise InvalidQueryError([GraphQLError(problem.detail, original_error=problem)]) from None


def _execute(
    connection: Connection[Any],
    record: RecordOf,
    body: GraphqlBody,
    document: DocumentNode,
    *,
    caller: Caller,
    deadline: float,
) -> _Answered:
    """Answer a query in one snapshot. Raises what ended its reads."""
    with snapshot(connection):
        rows = queries.progress(connection)
        reads = Reads(connection, rows, record, caller, deadline)
        result = execute_sync(
            _CORE,
            document,
            context_value=reads,
            variable_values=body.variables,
            operation_name=body.operation_name,
        )
        failure = reads.failure or next(filter(None, map(_defect, result.errors or ())), None)
        if failure is not None:
            raise failure
    positions = [reads.positions[partition] for partition in sorted(reads.positions)]
    return _Answered(result, standing_of(rows), positions, reads.is_of_all or not positions)


_RESPONSES = responses(408, 413, 415)
# A query that can't be answered has errors in GraphQL's own form.
_RESPONSES[400]["model"] = GraphqlAnswer


def _defect(error: GraphQLError) -> Exception | None:
    """What an error of a field comes from, where that is neither the caller's doing nor a server's."""
    cause = error.original_error
    return cause if isinstance(cause, Exception) and of_error(cause) is None else None


@router.post(
    "/graphql",
    operation_id="graphql",
    response_model=GraphqlAnswer,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": GraphqlBody.model_json_schema()}}}
    },
    responses=_RESPONSES,
    dependencies=[Depends(only_reads)],
)
async def graphql(
    request: Request,
    caller: Annotated[Caller, needs("read:*", *_READING)],
    at_least: Annotated[
        str | None,
        Query(
            description="Positions, `partition:offset`, by comma, that the answer must reflect; waits for them.",
            max_length=MOST_CURSOR,
        ),
    ] = None,
    accept: Annotated[str, Header(description="`application/graphql-response+json`, or JSON as such.")] = "",
) -> Response:
    """Read by GraphQL what the GET routes read, all of one snapshot, each field with the scope of its route."""
    # Clients write null for what they don't say.
    body = await model_of(request, GraphqlBody, with_null=True)
    service = service_of(request)
    media_type = MEDIA_TYPE if MEDIA_TYPE in accept.lower() else "application/json"
    positions = positions_of(at_least)
    try:
        async with service.in_time(), service.graphs:
            prepared = await service.run(prepare, body)
    except InvalidQueryError as invalid:
        wrong = {"errors": [_error_of(error, request) for error in invalid.errors]}
        return Response(answers.as_json(wrong), 400, media_type=media_type)

    async def ask() -> _Answered:
        deadline = time.monotonic() + QUERY_S
        record = partial(record_of, service.settings, admin=service.admin)
        async with service.in_time(), service.graphs:
            return await service.query(_execute, record, body, prepared.document, caller=caller, deadline=deadline)

    answered = await reflecting(service, positions, ask)
    read = None if answered.is_of_all else [position.partition for position in answered.positions]
    complete_to = service.ends.complete_to(answered.standing, read)
    found = Reading(None, None, answered.standing.generation, complete_to)
    headers = answers.state_headers(found) | answers.positions_header(answered.positions)
    headers["Cache-Control"] = "private, no-cache"
    content = _content(answered.result, request, prepared.cost)
    return Response(await service.run(answers.as_json, content), 200, headers, media_type)


def _content(result: ExecutionResult, request: Request, cost: int) -> dict[str, Any]:
    errors = {"errors": [_error_of(error, request) for error in result.errors]} if result.errors else {}
    return {"data": result.data, **errors, "extensions": {"cost": cost, "most_cost": MOST_COST}}


def _error_of(error: GraphQLError, request: Request) -> Mapping[str, Any]:
    """An error with what a problem document has."""
    cause = error.original_error
    problem = of_error(cause) if isinstance(cause, Exception) else None
    said = problem or ProblemError(
        400, "invalid_query", error.message, "docs/schema.graphql has the schema; a client can check its queries by it."
    )
    found = error.formatted
    return {
        **found,
        "message": said.detail,
        "extensions": {
            "code": said.code,
            "status": int(said.status),
            "remedy": said.remedy,
            "request_id": request.state.request_id,
            **{name: value for name, value in said.members.items() if value is not None},
        },
    }
