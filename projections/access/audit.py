"""The audit of what operators did through the HTTP door: who, when, from where, why, and what changed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection, Error
from psycopg.types.json import Jsonb

from creditfold.common.errors import CreditfoldError
from creditfold.ledger.limits import MAX_REASON, is_note
from creditfold.projections.connections import rows_of


class AuditLine(NamedTuple):
    """One action. `before` and `after` are what it changed, None where there is nothing to show."""

    number: int
    at: datetime
    who: str
    address: str
    action: str
    target: str
    reason: str
    request_id: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None


class ReasonMissingError(CreditfoldError):
    """An action whose reason isn't given, or can't be kept."""

    exit_code = 2


class Actor(NamedTuple):
    """Who acts: their name, from where, why, and by which request if by one."""

    who: str
    address: str
    reason: str
    request_id: str = ""


def record_action(
    connection: Connection[Any],
    *,
    who: str,
    address: str,
    action: str,
    target: str,
    reason: str,
    request_id: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Add an action to the audit. Raises ReasonMissingError."""
    if not reason.strip() or not is_note(reason, MAX_REASON):
        raise ReasonMissingError("The action has no reason.", f"Say why in 1 to {MAX_REASON:,} characters.")
    connection.execute(
        """INSERT INTO ledger_access.audit (who, address, action, target, reason, request_id, before, after)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s)""",
        (who, address, action, target, reason, request_id, _json(before), _json(after)),
    )


@contextmanager
def audited(
    connection: Connection[Any], by: Actor, action: str, target: str, before: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Record an action that takes more than one transaction by two lines of one request: when it begins, and its end.

    Nothing is done that the audit doesn't have: what is killed in the middle has the first line.

    Args:
        connection: in autocommit.
        by: who acts, and why.
        action: its name.
        target: what it is done to.
        before: what it is going to change.

    Yields:
        What it came to, to be filled in. Where the block fails, that is the error.

    Raises:
        ReasonMissingError: nobody says why. Nothing was done.
    """
    record_action(connection, **by._asdict(), action=action, target=target, before=before)
    after: dict[str, Any] = {}
    try:
        yield after
    except BaseException as error:
        after["error"] = str(error)[:1_000] or type(error).__name__
        with suppress(Error):
            record_action(connection, **by._asdict(), action=action, target=target, after=after)
        raise
    record_action(connection, **by._asdict(), action=action, target=target, after=after)


def audit_lines(connection: Connection[Any], *, before: int | None = None, limit: int = 100) -> Sequence[AuditLine]:
    """The latest actions, newest first; `before` is the number of the line to go on behind."""
    return rows_of(
        connection,
        AuditLine,
        """SELECT number, at, who, address, action, target, reason, request_id, before, after FROM ledger_access.audit
           WHERE %s::bigint IS NULL OR number < %s ORDER BY number DESC LIMIT %s""",
        (before, before, limit),
    )


def _json(value: Mapping[str, Any] | None) -> Jsonb | None:
    return None if value is None else Jsonb(value)
