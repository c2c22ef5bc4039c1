"""The routes of the rules of alerts: made, listed, removed. What a rule is, projections/delivery says."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import BaseModel, ConfigDict, Field

from creditfold.api import answers
from creditfold.api.answers import Answer
from creditfold.api.body import model_of
from creditfold.api.keys import Reason, actor_of
from creditfold.api.problems import ProblemError, maybe_made, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.api.webhooks import ReasonQuery, WebhookManager
from creditfold.ledger.limits import MAX_ACCOUNT, MAX_ASSET, MAX_BALANCE
from creditfold.projections.delivery.rules import (
    MAX_WITHIN_MS,
    AlertRule,
    UnknownRuleError,
    alert_rule_of,
    alert_rules,
    create_rule,
    delete_rule,
)

router = Routes(tags=["webhooks"])

_FRESH = {"Cache-Control": "no-store"}
RuleId = Annotated[str, Path(description="The rule's id.", pattern="^[0-9A-Za-z_]{1,64}$")]


class NewRuleBody(BaseModel):
    """What a rule watches."""

    model_config = ConfigDict(strict=True, extra="forbid")

    kind: Literal["dropped", "depleted", "expiring"]
    reason: Reason
    account_prefix: str = Field("", description="Begins the accounts that are watched.", max_length=MAX_ACCOUNT)
    asset: str = Field("", description="That is watched; empty: any.", max_length=MAX_ASSET)
    below: int = Field(1, description="Of `dropped`: the bound.", ge=1, le=MAX_BALANCE)
    rearm_at: int | None = Field(
        None, description="An account has recovered at this; at the bound if not given.", ge=1, le=MAX_BALANCE
    )
    within_s: int = Field(
        0, description="Of `expiring`: seconds before the end of a lot.", ge=0, le=MAX_WITHIN_MS // 1000
    )


class RuleAnswer(Answer):
    """A rule of alerts."""

    id: str
    kind: str
    owner: str
    account_prefix: str
    asset: str | None
    below: int | None
    rearm_at: int | None
    within_s: int | None
    made_at: datetime


@router.get("/v1/alert-rules", operation_id="alert_rules", response_model=list[RuleAnswer], responses=responses())
async def list_rules(request: Request, caller: WebhookManager) -> Response:
    """All rules of alerts; a caller that is limited to a prefix sees those within it."""

    def found(connection: Connection[Any]) -> list[RuleAnswer]:
        rows = alert_rules(connection)
        return [_answer_of(row) for row in rows if row.account_prefix.startswith(caller.account_prefix)]

    return answers.render(await service_of(request).query(found), 200, _FRESH)


@router.post(
    "/v1/alert-rules",
    operation_id="create_alert_rule",
    status_code=201,
    response_model=RuleAnswer,
    responses=responses(413, 415),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": NewRuleBody.model_json_schema()}}}
    },
)
async def create(request: Request, caller: WebhookManager) -> Response:
    """Have it said once when an account drops below a bound, has nothing left, or is about to lose credits.

    It begins at the present state: what is below its bound already isn't said.
    """
    wanted = await model_of(request, NewRuleBody)
    caller.refuse_account(wanted.account_prefix)
    fields = wanted.model_dump(include={"account_prefix", "asset", "below", "rearm_at"})

    def made(connection: Connection[Any]) -> AlertRule:
        by, within_ms = actor_of(request, caller, wanted.reason), wanted.within_s * 1000
        return create_rule(connection, wanted.kind, by=by, owner=caller.name, within_ms=within_ms, **fields)

    return answers.render(_answer_of(await _changed(request, made)), 201, _FRESH)


@router.delete(
    "/v1/alert-rules/{rule_id}", operation_id="delete_alert_rule", response_model=RuleAnswer, responses=responses(404)
)
async def delete(request: Request, caller: WebhookManager, rule_id: RuleId, reason: ReasonQuery) -> Response:
    """Remove a rule of alerts."""

    def removed(connection: Connection[Any]) -> AlertRule:
        caller.refuse_account(alert_rule_of(connection, rule_id).account_prefix)
        return delete_rule(connection, rule_id, by=actor_of(request, caller, reason))

    return answers.render(_answer_of(await _changed(request, removed)))


async def _changed(request: Request, change: Callable[[Connection[Any]], AlertRule]) -> AlertRule:
    try:
        with maybe_made("GET /v1/alert-rules shows whether it was made."):
            return await service_of(request).query(change)
    except UnknownRuleError as error:
        raise ProblemError(404, "alert_rule_unknown", error.message, error.remedy) from None


def _answer_of(rule: AlertRule) -> RuleAnswer:
    is_of_lots = rule.kind == "expiring"
    return RuleAnswer.model_validate(
        {
            **rule._asdict(),
            "asset": rule.asset or None,
            "below": None if is_of_lots else rule.below,
            "rearm_at": None if is_of_lots else rule.rearm_at,
            "within_s": rule.within_ms // 1000 if is_of_lots else None,
        }
    )
