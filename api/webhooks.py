"""The routes of webhooks: endpoints made, changed, rotated, tried and removed, what was sent, and sending it again.

Owns who may do so to which endpoint: a caller that is limited to accounts of a prefix has the endpoints whose prefixes
lie within. What an endpoint is, and that each change is audited, is projections/delivery's to say. A secret is in the
answer that made it, and nowhere else.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Path, Query, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import BaseModel, ConfigDict, Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.body import model_of
from creditfold.api.keys import MOST_OVERLAP_S, Reason, actor_of
from creditfold.api.parameters import PAGE, BodyInstant, Cursor, Limit, cursor_of, place_of
from creditfold.api.problems import ProblemError, maybe_made, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.common.position import Position
from creditfold.common.trace_context import present_traceparent
from creditfold.delivery.events import test_event
from creditfold.delivery.filters import refuse_unknown_types
from creditfold.delivery.identity import webhook_id
from creditfold.delivery.resending import resend_range
from creditfold.delivery.signing import new_key, public_text, secret_text
from creditfold.ledger.limits import MAX_ACCOUNT, MAX_REASON
from creditfold.projections.delivery.deliveries import (
    Attempt,
    Delivery,
    DeliveryFilter,
    EndpointCounts,
    NewDelivery,
    UnknownDeliveryError,
    add_deliveries,
    attempts,
    counts,
    deliveries,
    resend_one,
    resend_parked,
)
from creditfold.projections.delivery.endpoints import (
    MAX_DESCRIPTION,
    MAX_PREFIXES,
    MAX_URL,
    OVERLAP,
    Endpoint,
    EndpointRotatedError,
    SigningKey,
    TooManyEndpointsError,
    UnknownEndpointError,
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    disable_endpoint,
    enable_endpoint,
    endpoint_of,
    endpoints,
    rotate_endpoint,
    signing_keys,
)

router = Routes(tags=["webhooks"])

#: What an answer with a secret says to whatever stands between, and one that changes by the moment.
_ONCE = {"Cache-Control": "no-store"}
_UNCERTAIN = "GET /v1/webhook-endpoints shows whether it was made. A secret that nobody saw is lost: rotate it."

EndpointId = Annotated[str, Path(description="The endpoint's id.", pattern="^[0-9A-Za-z_]{1,64}$")]
WebhookManager = Annotated[Caller, needs("webhooks")]
ReasonQuery = Annotated[str, Query(description="Why, for the audit.", min_length=1, max_length=MAX_REASON)]
Prefixes = list[Annotated[str, Field(min_length=1, max_length=MAX_ACCOUNT)]]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class NewEndpointBody(_Body):
    """What an endpoint is to be."""

    url: str = Field(description="That is called, by https.", min_length=1, max_length=MAX_URL)
    reason: Reason
    description: str = Field("", description="What it is for, in a few words.", max_length=MAX_DESCRIPTION)
    types: list[str] = Field([], description="Of the events that it gets; none given: all.", max_length=100)
    account_prefixes: Prefixes = Field(
        [], description="One begins each account that it is called about; none given: any.", max_length=MAX_PREFIXES
    )
    from_start: bool = Field(False, description="Send all that was ever decided, not only what comes.")


class EndpointChangeBody(_Body):
    """What of an endpoint is to be otherwise; what isn't given stays."""

    reason: Reason
    url: str | None = Field(None, description="That is called, by https.", min_length=1, max_length=MAX_URL)
    description: str | None = Field(None, description="What it is for, in a few words.", max_length=MAX_DESCRIPTION)
    types: list[str] | None = Field(None, description="Of the events that it gets; empty: all.", max_length=100)
    account_prefixes: Prefixes | None = Field(
        None, description="One begins each account that it is called about; empty: any.", max_length=MAX_PREFIXES
    )


class SecretRotationBody(_Body):
    """How an endpoint gets a new secret."""

    reason: Reason
    overlap_s: int = Field(
        int(OVERLAP.total_seconds()), description="Seconds for which the old one signs too.", ge=0, le=MOST_OVERLAP_S
    )


class EnablingBody(_Body):
    """How an endpoint is called again."""

    reason: Reason
    from_now: bool = Field(False, description="Leave out what came meanwhile.")


class ChangeReasonBody(_Body):
    """Why something is done."""

    reason: Reason


class ResendBody(_Body):
    """What is sent again: one event, or a range of positions, or what was given up, of a filter."""

    reason: Reason
    webhook_id: str | None = Field(None, description="Of one event that waits or was given up.", max_length=64)
    first: str | None = Field(None, description="The first position of a range, `partition:offset`.", max_length=40)
    last: str | None = Field(None, description="The last position of the range.", max_length=40)
    type: str | None = Field(None, description="Of what was given up, only events of this type.", max_length=64)
    account_prefix: str = Field("", description="Only of accounts that begin so.", max_length=MAX_ACCOUNT)
    since: BodyInstant = Field(None, description="Only what failed first at this instant or later.")
    until: BodyInstant = Field(None, description="Only what failed first before this instant.")


class EndpointAnswer(Answer):
    """An endpoint, without its secret."""

    id: str
    url: str
    description: str
    owner: str
    types: list[str]
    account_prefixes: list[str]
    state: str = Field(description="enabled, or disabled.")
    disabled_why: str
    disabled_at: datetime | None
    failing_since: datetime | None = Field(description="When a request failed first since one didn't.")
    made_at: datetime
    public_keys: list[str] = Field(description="That verify `v1a`, the newest first.")
    behind: int = Field(description="Offsets of the log that it hasn't been through.")
    pending: int = Field(description="Events that wait for their next try, or behind one that does.")
    parked: int = Field(description="Events that were given up.")


class NewEndpointAnswer(EndpointAnswer):
    """An endpoint with its secret."""

    secret: str = Field(description="That verifies `v1`; shown this once.")


class DeliveryAnswer(Answer):
    """An event that waits for an endpoint, or was given up."""

    webhook_id: str
    type: str
    account: str | None
    position: str | None = Field(description="Where the log has what it is about.")
    state: str = Field(description="pending, or parked.")
    tries: int
    next_at: datetime | None = Field(description="When it is sent again.")
    error: str = Field(description="Of the last try.")
    made_at: datetime


class DeliveriesAnswer(Answer):
    """A page of what waits for an endpoint or was given up, oldest first."""

    deliveries: list[DeliveryAnswer]
    next: str | None = Field(description="The cursor of the next page; None after the last.")


class AttemptAnswer(Answer):
    """One request, and how its answer began."""

    webhook_id: str
    type: str
    account: str | None
    at: datetime
    try_number: int
    status: int | None = Field(description="None where there was no answer.")
    latency_ms: int
    error: str
    answer: str = Field(description="Its first KiB, what isn't UTF-8 replaced.")


class AttemptsAnswer(Answer):
    """A page of an endpoint's requests, newest first."""

    attempts: list[AttemptAnswer]
    next: str | None = Field(description="The cursor of the next page; None after the last.")


class ResentAnswer(Answer):
    """How many events are sent again."""

    deliveries: int


def _body_of(kind: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}


def refuse_reach(caller: Caller, prefixes: Sequence[str]) -> None:
    """Raise ProblemError unless all accounts that begin with one of these prefixes are within the caller's reach."""
    for prefix in prefixes or ("",):
        caller.refuse_account(prefix)


def _is_within(caller: Caller, endpoint: Endpoint) -> bool:
    return all(prefix.startswith(caller.account_prefix) for prefix in endpoint.account_prefixes or ("",))


def _own(connection: Connection[Any], endpoint_id: str, caller: Caller) -> Endpoint:
    found = endpoint_of(connection, endpoint_id)
    refuse_reach(caller, found.account_prefixes)
    return found


def _refuse_plain(request: Request, url: str | None) -> None:
    if (
        url is not None
        and url.startswith("http:")
        and not service_of(request).settings.webhook_allowed_networks.strip()
    ):
        raise ProblemError(
            400,
            "invalid_endpoint",
            "The URL is without TLS, and no network is allowed for that.",
            "Send a URL of https; CREDITFOLD_WEBHOOK_ALLOWED_NETWORKS names networks of receivers of your own.",
        )


@router.get(
    "/v1/webhook-endpoints",
    operation_id="webhook_endpoints",
    response_model=list[EndpointAnswer],
    responses=responses(),
)
async def list_endpoints(request: Request, caller: WebhookManager) -> Response:
    """All endpoints; a caller that is limited to a prefix sees those within it."""

    def found(connection: Connection[Any]) -> list[EndpointAnswer]:
        standing = counts(connection)
        return [
            _answer_of(one, signing_keys(connection, one.id), standing.get(one.id))
            for one in endpoints(connection)
            if _is_within(caller, one)
        ]

    return answers.render(await service_of(request).query(found), 200, _ONCE)


@router.post(
    "/v1/webhook-endpoints",
    operation_id="create_webhook_endpoint",
    status_code=201,
    response_model=NewEndpointAnswer,
    responses=responses(409, 413, 415),
    openapi_extra=_body_of(NewEndpointBody),
)
async def create(request: Request, caller: WebhookManager) -> Response:
    """Have an endpoint called about what is decided from now on.

    It gets what `read:statement` reads, which the caller must have, of accounts within the caller's reach.
    """
    wanted, key = await model_of(request, NewEndpointBody), new_key()
    caller.refuse_scope("read:statement")
    refuse_reach(caller, wanted.account_prefixes)
    refuse_unknown_types(wanted.types)
    _refuse_plain(request, wanted.url)
    fields = wanted.model_dump(exclude={"url", "reason"})

    def change(connection: Connection[Any]) -> NewEndpointAnswer:
        by = actor_of(request, caller, wanted.reason)
        made = create_endpoint(connection, wanted.url, key, by=by, owner=caller.name, **fields)
        return _with_secret(connection, made, key)

    return answers.render(await _changed(request, change), 201, _ONCE)


@router.get(
    "/v1/webhook-endpoints/{endpoint_id}",
    operation_id="webhook_endpoint",
    response_model=EndpointAnswer,
    responses=responses(404),
)
async def show(request: Request, caller: WebhookManager, endpoint_id: EndpointId) -> Response:
    """An endpoint: what it gets, and how far it is."""

    def found(connection: Connection[Any]) -> EndpointAnswer:
        return _whole(connection, _own(connection, endpoint_id, caller))

    return answers.render(await _changed(request, found), 200, _ONCE)


@router.patch(
    "/v1/webhook-endpoints/{endpoint_id}",
    operation_id="change_webhook_endpoint",
    response_model=EndpointAnswer,
    responses=responses(404, 413, 415),
    openapi_extra=_body_of(EndpointChangeBody),
)
async def change(request: Request, caller: WebhookManager, endpoint_id: EndpointId) -> Response:
    """Change what an endpoint gets, or where it is; what is sent from now on goes there."""
    wanted = await model_of(request, EndpointChangeBody)
    caller.refuse_scope("read:statement")
    if wanted.account_prefixes is not None:
        refuse_reach(caller, wanted.account_prefixes)
    refuse_unknown_types(wanted.types or [])
    _refuse_plain(request, wanted.url)

    def changed(connection: Connection[Any]) -> EndpointAnswer:
        _own(connection, endpoint_id, caller)
        by = actor_of(request, caller, wanted.reason)
        return _whole(
            connection, change_endpoint(connection, endpoint_id, by=by, **wanted.model_dump(exclude={"reason"}))
        )

    return answers.render(await _changed(request, changed), 200, _ONCE)


@router.delete(
    "/v1/webhook-endpoints/{endpoint_id}",
    operation_id="delete_webhook_endpoint",
    response_model=EndpointAnswer,
    responses=responses(404),
)
async def delete(request: Request, caller: WebhookManager, endpoint_id: EndpointId, reason: ReasonQuery) -> Response:
    """Remove an endpoint with all that waits for it, and answer with what it was."""

    def changed(connection: Connection[Any]) -> EndpointAnswer:
        found = _whole(connection, _own(connection, endpoint_id, caller))
        delete_endpoint(connection, endpoint_id, by=actor_of(request, caller, reason))
        return found

    return answers.render(await _changed(request, changed))


@router.post(
    "/v1/webhook-endpoints/{endpoint_id}:rotate",
    operation_id="rotate_webhook_secret",
    response_model=NewEndpointAnswer,
    responses=responses(404, 409, 413, 415),
    openapi_extra=_body_of(SecretRotationBody),
)
async def rotate(request: Request, caller: WebhookManager, endpoint_id: EndpointId) -> Response:
    """Give an endpoint a new secret and a new key; the old ones sign too for a while."""
    wanted, key = await model_of(request, SecretRotationBody), new_key()
    caller.refuse_scope("read:statement")

    def changed(connection: Connection[Any]) -> NewEndpointAnswer:
        _own(connection, endpoint_id, caller)
        by, overlap = actor_of(request, caller, wanted.reason), timedelta(seconds=wanted.overlap_s)
        return _with_secret(connection, rotate_endpoint(connection, endpoint_id, key, by=by, overlap=overlap), key)

    return answers.render(await _changed(request, changed), 200, _ONCE)


@router.post(
    "/v1/webhook-endpoints/{endpoint_id}:disable",
    operation_id="disable_webhook_endpoint",
    response_model=EndpointAnswer,
    responses=responses(404, 413, 415),
    openapi_extra=_body_of(ChangeReasonBody),
)
async def disable(request: Request, caller: WebhookManager, endpoint_id: EndpointId) -> Response:
    """Call an endpoint no more. What is for it waits until it is enabled again."""
    wanted = await model_of(request, ChangeReasonBody)

    def changed(connection: Connection[Any]) -> EndpointAnswer:
        _own(connection, endpoint_id, caller)
        by = actor_of(request, caller, wanted.reason)
        return _whole(connection, disable_endpoint(connection, endpoint_id, by=by))

    return answers.render(await _changed(request, changed), 200, _ONCE)


@router.post(
    "/v1/webhook-endpoints/{endpoint_id}:enable",
    operation_id="enable_webhook_endpoint",
    response_model=EndpointAnswer,
    responses=responses(404, 413, 415),
    openapi_extra=_body_of(EnablingBody),
)
async def enable(request: Request, caller: WebhookManager, endpoint_id: EndpointId) -> Response:
    """Call an endpoint again, and send it what came meanwhile."""
    wanted = await model_of(request, EnablingBody)

    def changed(connection: Connection[Any]) -> EndpointAnswer:
        _own(connection, endpoint_id, caller)
        by = actor_of(request, caller, wanted.reason)
        return _whole(connection, enable_endpoint(connection, endpoint_id, by=by, from_now=wanted.from_now))

    return answers.render(await _changed(request, changed), 200, _ONCE)


@router.post(
    "/v1/webhook-endpoints/{endpoint_id}:test",
    operation_id="test_webhook_endpoint",
    status_code=202,
    response_model=ResentAnswer,
    responses=responses(404, 413, 415),
    openapi_extra=_body_of(ChangeReasonBody),
)
async def try_out(request: Request, caller: WebhookManager, endpoint_id: EndpointId) -> Response:
    """Send an endpoint an `endpoint.test`, whatever it asks for. Its attempts show what came of it."""
    wanted = await model_of(request, ChangeReasonBody)
    context = present_traceparent() or ""

    def added(connection: Connection[Any]) -> ResentAnswer:
        _own(connection, endpoint_id, caller)
        event = test_event(endpoint_id, round(datetime.now(UTC).timestamp() * 1000))
        key = webhook_id(endpoint_id, event.type, event.key)
        new = NewDelivery(key, event.lane, event.type, "", "", context, event.body)
        by = actor_of(request, caller, wanted.reason)
        return ResentAnswer(deliveries=add_deliveries(connection, endpoint_id, [new], by=by))

    return answers.render(await _changed(request, added), 202, _ONCE)


@router.post(
    "/v1/webhook-endpoints/{endpoint_id}:resend",
    operation_id="resend_webhooks",
    status_code=202,
    response_model=ResentAnswer,
    responses=responses(404, 413, 415),
    openapi_extra=_body_of(ResendBody),
)
async def resend(request: Request, caller: WebhookManager, endpoint_id: EndpointId) -> Response:
    """Send events again, by the same ids: one, a range of positions, or what was given up."""
    wanted = await model_of(request, ResendBody)
    is_range = wanted.first is not None or wanted.last is not None
    if wanted.webhook_id is not None and is_range:
        raise ProblemError(
            400, "invalid_request", "It is one event, and a range.", "Send webhook_id, or first and last."
        )
    positions = (Position.parse(wanted.first or ""), Position.parse(wanted.last or "")) if is_range else None

    def sent(connection: Connection[Any]) -> ResentAnswer:
        _own(connection, endpoint_id, caller)
        by = actor_of(request, caller, wanted.reason)
        if wanted.webhook_id is not None:
            return ResentAnswer(deliveries=resend_one(connection, endpoint_id, wanted.webhook_id, by=by))
        if positions is not None:
            return ResentAnswer(deliveries=resend_range(connection, endpoint_id, *positions, by=by))
        given_up = DeliveryFilter(None, wanted.type, wanted.account_prefix, wanted.since, wanted.until)
        return ResentAnswer(deliveries=resend_parked(connection, endpoint_id, given_up, by=by))

    return answers.render(await _changed(request, sent), 202, _ONCE)


@router.get(
    "/v1/webhook-endpoints/{endpoint_id}/deliveries",
    operation_id="webhook_deliveries",
    response_model=DeliveriesAnswer,
    responses=responses(404),
)
async def list_deliveries(
    request: Request,
    caller: WebhookManager,
    endpoint_id: EndpointId,
    *,
    state: Annotated[str | None, Query(description="pending, or parked.", pattern="^(pending|parked)$")] = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """What waits for an endpoint, or was given up, oldest first."""
    after = 0 if cursor is None else int(place_of("webhook-deliveries", cursor, (0,))[0])

    def found(connection: Connection[Any]) -> DeliveriesAnswer:
        _own(connection, endpoint_id, caller)
        rows = deliveries(connection, endpoint_id, DeliveryFilter(state), after=after, limit=limit + 1)
        following = cursor_of("webhook-deliveries", (rows[limit - 1].number,)) if len(rows) > limit else None
        return DeliveriesAnswer(deliveries=[_delivery_of(row) for row in rows[:limit]], next=following)

    return answers.render(await _changed(request, found), 200, _ONCE)


@router.get(
    "/v1/webhook-endpoints/{endpoint_id}/attempts",
    operation_id="webhook_attempts",
    response_model=AttemptsAnswer,
    responses=responses(404),
)
async def list_attempts(
    request: Request,
    caller: WebhookManager,
    endpoint_id: EndpointId,
    *,
    webhook_id: Annotated[str | None, Query(description="Only those of this event.", max_length=64)] = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """An endpoint's requests, newest first, with how their answers began."""
    before = None if cursor is None else int(place_of("webhook-attempts", cursor, (0,))[0])

    def found(connection: Connection[Any]) -> AttemptsAnswer:
        _own(connection, endpoint_id, caller)
        rows = attempts(connection, endpoint_id, webhook_id=webhook_id, before=before, limit=limit + 1)
        following = cursor_of("webhook-attempts", (rows[limit - 1].number,)) if len(rows) > limit else None
        return AttemptsAnswer(attempts=[_attempt_of(row) for row in rows[:limit]], next=following)

    return answers.render(await _changed(request, found), 200, _ONCE)


def _whole(connection: Connection[Any], endpoint: Endpoint) -> EndpointAnswer:
    return _answer_of(endpoint, signing_keys(connection, endpoint.id), counts(connection).get(endpoint.id))


def _with_secret(connection: Connection[Any], endpoint: Endpoint, key: SigningKey) -> NewEndpointAnswer:
    return NewEndpointAnswer(**_whole(connection, endpoint).model_dump(), secret=secret_text(key))


def _answer_of(endpoint: Endpoint, keys: Sequence[SigningKey], standing: EndpointCounts | None) -> EndpointAnswer:
    behind, pending, parked = (0, 0, 0) if standing is None else (standing.behind, standing.pending, standing.parked)
    return EndpointAnswer.model_validate(
        {
            **endpoint._asdict(),
            "public_keys": [public_text(key) for key in keys],
            "behind": behind,
            "pending": pending,
            "parked": parked,
        }
    )


def _delivery_of(row: Delivery) -> DeliveryAnswer:
    own = {
        **row._asdict(),
        "account": row.account_id or None,
        "position": row.position or None,
        "next_at": row.next_at if row.state == "pending" else None,
    }
    return DeliveryAnswer.model_validate(own)


def _attempt_of(row: Attempt) -> AttemptAnswer:
    own = {**row._asdict(), "account": row.account_id or None, "answer": row.answer.decode(errors="replace")}
    return AttemptAnswer.model_validate(own)


async def _changed(request: Request, change: Callable[[Connection[Any]], Answer]) -> Answer:
    """What a change or a question gives. Raises ProblemError."""
    try:
        if request.method == "GET":
            return await service_of(request).query(change)
        with maybe_made(_UNCERTAIN):
            return await service_of(request).query(change)
    except UnknownEndpointError as error:
        raise ProblemError(404, "endpoint_unknown", error.message, error.remedy) from None
    except UnknownDeliveryError as error:
        raise ProblemError(404, "delivery_unknown", error.message, error.remedy) from None
    except EndpointRotatedError as error:
        raise ProblemError(409, "endpoint_rotated", error.message, error.remedy) from None
    except TooManyEndpointsError as error:
        raise ProblemError(409, "too_many_endpoints", error.message, error.remedy) from None
