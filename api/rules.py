"""The routes of the rules' versions: which are in force, and what other ones would have decided."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.body import model_of
from creditfold.api.generations import DIFFERENCES, Differences
from creditfold.api.operations import BEGUN, ActionBody, OperationAnswer, begin
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.common.position import Position
from creditfold.ledger import known_rules
from creditfold.processors.operations import DIFF
from creditfold.projections import queries
from creditfold.projections.generations.catalog import live_number

router = Routes(tags=["operation"])

Operator = Annotated[Caller, needs("operate:rules", everywhere=True)]


class ActivationAnswer(Answer):
    """A record of the log that brought a version of the rules into force in its partition."""

    position: str
    rules: int
    activated_at: datetime
    source: str | None = Field(description="Who did it; with the scope read:personal only, as the reason.")
    reason: str | None


class RulesAnswer(Answer):
    """The versions of the rules that this release has, and which are in force."""

    known: list[int]
    in_force: dict[str, int] = Field(description="By partition.")
    activations: list[ActivationAnswer]


class DiffBody(ActionBody):
    """By which rules history is decided again."""

    rules: int | None = Field(
        None, description="Their version; if not given those that the log has in force, by this release's code.", ge=1
    )
    limit: Differences = DIFFERENCES


@router.get("/v1/rules", operation_id="rules", response_model=RulesAnswer, responses=responses())
async def rules(request: Request, caller: Operator) -> Response:
    """Which versions of the rules this release has, and which is in force in each partition since when."""
    return answers.render(await service_of(request).query(rules_in_force, caller))


def rules_in_force(connection: Connection[Any], caller: Caller) -> RulesAnswer:
    """The answer of which versions there are, and which is in force where."""
    is_personal = "read:personal" in caller.scopes
    return RulesAnswer.model_construct(
        known=list(known_rules()),
        in_force={str(row.log_partition): row.rules for row in queries.progress(connection)},
        activations=[
            ActivationAnswer.model_construct(
                position=str(Position(row.log_partition, row.log_offset)),
                rules=row.rules,
                activated_at=row.activated_at,
                source=row.source if is_personal else None,
                reason=row.note if is_personal else None,
            )
            for row in queries.activations(connection)
        ],
    )


@router.post(
    "/v1/rules:diff",
    operation_id="diff",
    status_code=202,
    response_model=OperationAnswer,
    responses=BEGUN,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": DiffBody.model_json_schema()}}}
    },
)
async def diff(request: Request, caller: Operator) -> Response:
    """Decide history again by other rules, or by this release's code, and show what would be decided otherwise."""
    return await begin_diff(request, caller, await model_of(request, DiffBody))


async def begin_diff(request: Request, caller: Caller, wanted: DiffBody) -> Response:
    """Begin to decide history again, and answer with where it shows how far that is. Raises ProblemError."""
    if wanted.rules is not None and wanted.rules not in known_rules():
        known = ", ".join(map(str, known_rules()))
        raise ProblemError(
            404, "rules_unknown", f"This release has no rules {wanted.rules}.", f"It has {known}; see GET /v1/rules."
        )

    def prepare(connection: Connection[Any]) -> tuple[Mapping[str, Any], int | None, Mapping[str, Any]]:
        return {"rules": wanted.rules, "limit": wanted.limit}, live_number(connection), {}

    return await begin(request, caller, DIFF, wanted, prepare)
