"""The routes of access: keys made, listed, rotated and revoked, and the audit of who did what.

Owns who may give what to whom: nobody gives more than they have. What a key is, and that each change is audited, is
projections/access's to say. A key's text is in the answer that made it, and nowhere else.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Path, Query, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import BaseModel, ConfigDict, Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.body import model_of
from creditfold.api.parameters import PAGE, BodyInstant, Cursor, Limit, cursor_of, place_of
from creditfold.api.problems import ProblemError, maybe_made, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.ledger.limits import MAX_ACCOUNT, MAX_AMOUNT, MAX_ASSET, MAX_REASON, MAX_SOURCE
from creditfold.projections.access.audit import Actor, audit_lines
from creditfold.projections.access.keys import (
    MOST_REQUESTS,
    OVERLAP,
    SLOWEST,
    Key,
    KeyNameTakenError,
    KeyRotatedError,
    NewKey,
    UnknownKeyError,
    create_key,
    key_of,
    keys,
    revoke_key,
    rotate_key,
)
from creditfold.projections.access.scopes import refuse_unknown

router = Routes(tags=["access"])

#: What an answer with a key's text says to whatever stands between.
_ONCE = {"Cache-Control": "no-store"}
MOST_OVERLAP_S = 30 * 86_400


Reason = Annotated[str, Field(description="Why, for the audit.", min_length=1, max_length=MAX_REASON)]
KeyId = Annotated[str, Path(description="The key's id.", pattern="^[0-9A-Za-z]{1,64}$")]
KeyManager = Annotated[Caller, needs("keys")]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class NewKeyBody(_Body):
    """What a key is to be."""

    name: str = Field(description="Becomes the source of each of its commands.", min_length=1, max_length=MAX_SOURCE)
    scopes: list[str] = Field(description="What it opens.", min_length=1)
    reason: Reason
    account_prefix: str = Field("", description="Begins every account that it may touch.", max_length=MAX_ACCOUNT)
    assets: list[Annotated[str, Field(min_length=1, max_length=MAX_ASSET)]] = Field(
        [], description="Those that it may name; none given: any.", max_length=1_000
    )
    most_amount: int | None = Field(None, description="Largest amount of one command.", ge=1, le=MAX_AMOUNT)
    rate: float | None = Field(
        None, description="Requests a second; as the settings say if not given.", ge=SLOWEST, le=MOST_REQUESTS
    )
    burst: int | None = Field(
        None, description="Requests at once; as many as in a second if not given.", ge=1, le=MOST_REQUESTS
    )
    expires_at: BodyInstant = Field(None, description="When it ends; never if not given.")


class RotationBody(_Body):
    """How a key gets a new text."""

    reason: Reason
    overlap_s: int = Field(
        int(OVERLAP.total_seconds()), description="Seconds for which the old text stays good.", ge=0, le=MOST_OVERLAP_S
    )
    expires_at: BodyInstant = Field(None, description="When the new text ends; as the old one if not given.")


class KeyAnswer(Answer):
    """A key, without its text."""

    id: str
    name: str
    scopes: list[str]
    account_prefix: str
    assets: list[str]
    most_amount: int | None
    rate: float | None
    burst: int | None
    made_at: datetime
    used_at: datetime | None = Field(description="Up to half a minute late.")
    revoked_at: datetime | None
    expires_at: datetime | None = Field(description="Of its newest text.")


class NewKeyAnswer(KeyAnswer):
    """A key with its text."""

    text: str = Field(description="Shown this once and stored nowhere.")


class AuditLineAnswer(Answer):
    """One action of somebody's."""

    number: int
    at: datetime
    who: str
    address: str = Field(description="From where.")
    action: str
    target: str
    reason: str
    request_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditAnswer(Answer):
    """A page of the audit, newest first."""

    lines: list[AuditLineAnswer]
    next: str | None = Field(description="The cursor of the next page; None after the last.")


def actor_of(request: Request, caller: Caller, reason: str) -> Actor:
    """Who acts by a request, for the audit."""
    address = request.client.host if request.client else ""
    return Actor(caller.name, address, reason, str(request.state.request_id))


@router.get("/v1/keys", operation_id="keys", response_model=list[KeyAnswer], responses=responses())
async def list_keys(request: Request, caller: KeyManager) -> Response:
    """All keys, revoked ones last; a caller that is limited to a prefix sees those within it."""
    return answers.render(await service_of(request).query(keys_seen_by, caller), 200, _ONCE)


def keys_seen_by(connection: Connection[Any], caller: Caller) -> list[KeyAnswer]:
    """The answer of all keys that a caller may see."""
    found = keys(connection)
    return [KeyAnswer.model_validate(key) for key in found if key.account_prefix.startswith(caller.account_prefix)]


@router.post(
    "/v1/keys",
    operation_id="create_key",
    status_code=201,
    response_model=NewKeyAnswer,
    responses=responses(409, 413, 415),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": NewKeyBody.model_json_schema()}}}
    },
)
async def create(request: Request, caller: KeyManager) -> Response:
    """Make a key, with no scope that the caller's own hasn't, within the caller's limits, and not for longer."""
    wanted = await model_of(request, NewKeyBody)
    refuse_unknown(wanted.scopes)
    as_key = Key("", wanted.name, wanted.scopes, wanted.account_prefix, wanted.assets, wanted.most_amount)
    limits = service_of(request).limits
    caller.refuse_beyond(as_key, wanted.expires_at, limits.rate_of(wanted.rate, wanted.burst))
    fields = wanted.model_dump(exclude={"name", "scopes", "reason"})
    new = await _changed(
        request,
        lambda connection: create_key(
            connection, wanted.name, wanted.scopes, by=actor_of(request, caller, wanted.reason), **fields
        ),
    )
    return _shown(new, 201)


@router.post(
    "/v1/keys/{key_id}:rotate",
    operation_id="rotate_key",
    response_model=NewKeyAnswer,
    responses=responses(404, 409, 413, 415),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": RotationBody.model_json_schema()}}}
    },
)
async def rotate(request: Request, key_id: KeyId, caller: KeyManager) -> Response:
    """Give a key a new text; the old one stays good for a while.

    The new text opens what the key's scopes say, so that the caller must have them all.
    """
    wanted = await model_of(request, RotationBody)

    def change(connection: Connection[Any]) -> NewKey:
        key = key_of(connection, key_id)
        rate = service_of(request).limits.rate_of(key.rate, key.burst)
        caller.refuse_beyond(key, wanted.expires_at or key.expires_at, rate)
        by = actor_of(request, caller, wanted.reason)
        overlap = timedelta(seconds=wanted.overlap_s)
        return rotate_key(connection, key_id, by=by, overlap=overlap, expires_at=wanted.expires_at)

    return _shown(await _changed(request, change), 200)


@router.delete("/v1/keys/{key_id}", operation_id="revoke_key", response_model=KeyAnswer, responses=responses(404))
async def revoke(
    request: Request,
    key_id: KeyId,
    caller: KeyManager,
    reason: Annotated[str, Query(description="Why, for the audit.", min_length=1, max_length=MAX_REASON)],
) -> Response:
    """Have a key open nothing any more, at the latest two seconds from now. Its row stays, for the audit.

    A caller that is limited to a prefix may revoke those within it.
    """

    def change(connection: Connection[Any]) -> Key:
        caller.refuse_account(key_of(connection, key_id).account_prefix)
        return revoke_key(connection, key_id, by=actor_of(request, caller, reason))

    return answers.render(KeyAnswer.model_validate(await _changed(request, change)))


@router.get("/v1/audit", operation_id="audit", response_model=AuditAnswer, responses=responses())
async def audit(
    request: Request, caller: Annotated[Caller, needs("audit")], limit: Limit = PAGE, cursor: Cursor = None
) -> Response:
    """What operators did, newest first: who, when, from where, why, before and after."""
    caller.refuse_prefix()
    return answers.render(await service_of(request).query(audit_page, line_behind(cursor), limit))


def line_behind(cursor: str | None) -> int | None:
    """The line behind which a page of the audit begins. Raises ProblemError."""
    return None if cursor is None else int(place_of("audit", cursor, (0,))[0])


def audit_page(connection: Connection[Any], before: int | None, limit: int) -> AuditAnswer:
    """The answer of a page of the audit, with the cursor of the next one."""
    lines = audit_lines(connection, before=before, limit=limit + 1)
    page = lines[:limit]
    return AuditAnswer(
        lines=[AuditLineAnswer.model_validate(line) for line in page],
        next=cursor_of("audit", (page[-1].number,)) if len(lines) > limit else None,
    )


def _shown(new: NewKey, status: int) -> Response:
    return answers.render(NewKeyAnswer.model_validate({**new.key._asdict(), "text": new.text}), status, _ONCE)


async def _changed(request: Request, change: Callable[[Connection[Any]], Any]) -> Any:
    """What a change gives. Raises ProblemError; where PostgreSQL left in its middle, one that says it may be made."""
    try:
        with maybe_made("GET /v1/keys shows whether it was made. A text that nobody saw is lost: revoke its key."):
            return await service_of(request).query(change)
    except UnknownKeyError as error:
        raise ProblemError(404, "key_unknown", error.message, error.remedy) from None
    except KeyNameTakenError as error:
        raise ProblemError(409, "key_name_taken", error.message, error.remedy) from None
    except KeyRotatedError as error:
        raise ProblemError(409, "key_rotated", error.message, error.remedy) from None
