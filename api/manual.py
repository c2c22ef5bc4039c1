"""A command that a person appends by hand, to help somebody: with a reason, and in the audit before it is in the log.

Nothing is appended that the audit doesn't have: where it can't be written, the request is answered with 503. The second
line, of what came of it, is missing where the server is killed in between; the command's outcome shows it then.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
from fastapi import Header, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import BeforeValidator

from creditfold.api.access import Caller
from creditfold.api.keys import actor_of
from creditfold.api.parameters import as_utf8
from creditfold.api.service import service_of
from creditfold.ledger.limits import MAX_REASON
from creditfold.producers.models.commands import Command
from creditfold.projections import queries
from creditfold.projections.access.audit import record_action

log = structlog.get_logger()

Why = Annotated[
    str,
    BeforeValidator(as_utf8),
    Header(
        alias="Creditfold-Why",
        description="Why a person appends this by hand, in UTF-8: it is in the audit then, with what came of it.",
        max_length=4 * MAX_REASON,
    ),
]
#: Of a balance, what the audit has.
_BALANCES = ("available", "pending", "held", "debt")


async def append_by_hand(
    request: Request, caller: Caller, command: Command, why: str, append: Callable[[], Awaitable[Response]]
) -> Response:
    """Append a command with two lines in the audit: what the account has before, and what came of it.

    Args:
        request: that asks for it.
        caller: who does.
        command: as it is to be appended.
        why: the reason.
        append: appends it, and answers with the outcome.

    Raises:
        ReasonMissingError: the reason is blank, or can't be kept. Nothing was appended.
        ProblemError: what the append raises.
    """
    service, by = service_of(request), actor_of(request, caller, why)
    line = {**by._asdict(), "action": f"commands.{command.type}", "target": command.account}

    def begin(connection: Connection[Any]) -> None:
        found = queries.balances(connection, command.account)
        balances = {row.asset: {name: getattr(row, name) for name in _BALANCES} for row in found}
        before = {"command_id": command.command_id, **command.fields, "balances": balances}
        record_action(connection, **line, before=before)

    await service.query(begin)
    after: dict[str, Any] = {"error": "The request ended before its answer."}
    try:
        answer = await append()
        after = _in_brief(json.loads(bytes(answer.body)))
    except Exception as error:
        after = {"error": str(error)}
        raise
    finally:
        try:
            await service.query(record_action, **line, after=after)
        except Exception as error:  # The command is in the log or isn't, whatever becomes of this line.
            log.warning("the audit lacks what came of a command", request_id=by.request_id, why=str(error))
    return answer


def _in_brief(outcome: dict[str, Any]) -> dict[str, Any]:
    """What the audit has of an outcome: where it is, how it was decided, and what the account has then."""
    decision = outcome.get("decision") or {}
    balances = {decision["asset"]: {name: decision[name] for name in _BALANCES}} if decision.get("asset") else {}
    known = {name: outcome[name] for name in ("outcome", "reason", "position") if outcome.get(name) is not None}
    return {"command_id": outcome["command_id"], **known, "balances": balances}
