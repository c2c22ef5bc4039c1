"""The routes that append one command, or preview it.

Owns how a request becomes a command. What is valid is the producers' to say, what is accepted the fold's.
"""

from typing import Annotated, Any, cast

from fastapi import Header, Query, Request
from fastapi.responses import Response
from pydantic import BeforeValidator

from creditfold.api.access import Caller, needs
from creditfold.api.answers import AcceptedAnswer, OutcomeAnswer
from creditfold.api.append import Prefer, append, preference_of
from creditfold.api.body import json_object
from creditfold.api.manual import Why, append_by_hand
from creditfold.api.parameters import Account, as_utf8
from creditfold.api.preview import PreviewAnswer, preview_of
from creditfold.api.problems import CONTENT, ProblemError, only_reads, responses
from creditfold.api.routes import Route, Routes
from creditfold.api.service import service_of
from creditfold.producers import parse_command
from creditfold.producers.models.commands import MODELS, Command
from creditfold.projections.access.scopes import MANUAL

router = Routes(tags=["commands"], route_class=Route)

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

IdempotencyKey = Annotated[
    str,
    BeforeValidator(as_utf8),
    Header(
        description="The command's id, in UTF-8. It never ends: the same key with the same body counts once.",
        min_length=1,
        max_length=128,
    ),
]


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
