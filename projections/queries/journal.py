"""An account's journal: its decisions, what was rejected and why.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, instants are aware datetimes in UTC.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection

from creditfold.projections.connections import rows_of
from creditfold.schemas.outcome import Decision


class Rejection(NamedTuple):
    """A rejected command: `amount` is what it asked for, `balance` what was available, in the smallest unit."""

    log_partition: int
    log_offset: int
    account_id: str
    version: int
    command_id: str
    kind: str
    asset: str
    amount: int
    balance: int
    rejection: str
    decided_at: datetime
    source: str
    note: str
    step: int | None = None
    details: dict[str, Any] | None = None


def history(connection: Connection[Any], account: str, limit: int, before: int | None = None) -> Sequence[Decision]:
    """An account's latest decisions, newest first.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        limit: how many at most.
        before: only lines of a smaller version, to page backwards; None for the newest.

    Returns:
        Decisions, newest first; empty for an account that was never used.

    Example:
        >>> [(line.kind, line.accepted) for line in history(connection, "ada", limit=2)]
        [('batch', False), ('create_schedule', True)]
    """
    return rows_of(
        connection,
        Decision,
        """SELECT * FROM ledger.journal WHERE account_id = %s AND (%s::bigint IS NULL OR version < %s)
           ORDER BY version DESC LIMIT %s""",
        (account, before, before, limit),
    )


def first_decision(connection: Connection[Any], account: str, command_id: str) -> Decision | None:
    """The decision about the first command of an id.

    It doesn't report what became of a record: one of the same id with another body is a dead letter. `outcome_at` looks
    a record up.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: the command's account.
        command_id: the command's id.

    Returns:
        The decision; None if the fold hasn't decided about such a command.

    Example:
        >>> first_decision(connection, "ada", "order-1").change
        -180
    """
    rows = rows_of(
        connection,
        Decision,
        "SELECT * FROM ledger.journal WHERE account_id = %s AND command_id = %s",
        (account, command_id),
    )
    return rows[0] if rows else None


def rejections(connection: Connection[Any], limit: int, account: str | None = None) -> Sequence[Rejection]:
    """The latest rejections, newest first.

    Args:
        connection: a reader's connection to the projection (`connected`).
        limit: how many at most.
        account: only this account's; None for those of all accounts.

    Returns:
        Rejections, newest first.

    Example:
        >>> rejections(connection, limit=1, account="ada")[0].rejection
        'insufficient_credits'
    """
    if account is None:
        return rows_of(
            connection,
            Rejection,
            """SELECT * FROM ledger.rejections
               ORDER BY decided_at DESC, log_partition DESC, log_offset DESC LIMIT %s""",
            (limit,),
        )
    # In the same order by the account's own lines: by the instant, those of all accounts would be gone through.
    query = "SELECT * FROM ledger.rejections WHERE account_id = %s ORDER BY version DESC LIMIT %s"
    return rows_of(connection, Rejection, query, (account, limit))


def rejection_totals(connection: Connection[Any]) -> dict[str, int]:
    """How many commands were rejected, by reason. Counts all of them, which takes long on a long journal.

    Args:
        connection: a reader's connection to the projection (`connected`).

    Returns:
        Counts by reason, ordered by reason.

    Example:
        >>> rejection_totals(connection)
        {'insufficient_credits': 2}
    """
    cursor = connection.execute(
        "SELECT rejection, count(*) FROM ledger.rejections GROUP BY rejection ORDER BY rejection"
    )
    return dict(cursor.fetchall())


class FailedBatch(NamedTuple):
    """A rejected batch, and the index of the step that was looked up, from 0."""

    batch: Decision
    asked: int


def failed_batches(connection: Connection[Any], account: str, step: str) -> Sequence[FailedBatch]:
    """The rejected batches that had a step of an id.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: the batch's account.
        step: the command id of the step.

    Returns:
        Batches, newest first.

    Example:
        >>> [(found.asked, found.batch.step) for found in failed_batches(connection, "ada", "step-1")]
        [(0, 1)]
    """
    rows = connection.execute(
        """SELECT j.command_id, (s.at - 1)::integer
           FROM ledger.rejections j
           CROSS JOIN LATERAL json_array_elements(j.details -> 'steps') WITH ORDINALITY AS s (step, at)
           WHERE j.account_id = %s AND j.kind = 'batch' AND s.step ->> 'command_id' = %s ORDER BY j.version DESC""",
        (account, step),
    ).fetchall()
    found = ((first_decision(connection, account, command_id), asked) for command_id, asked in rows)
    return [FailedBatch(batch, asked) for batch, asked in found if batch is not None]
