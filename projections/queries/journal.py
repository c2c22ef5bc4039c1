"""An account's journal: its decisions, what was rejected and why.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, instants are aware datetimes in UTC.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.common.instants import EPOCH
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


def history(
    connection: Connection[Any],
    account: str,
    limit: int,
    before: int | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Sequence[Decision]:
    """An account's latest decisions, newest first.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        limit: how many at most.
        before: only lines of a smaller version, to page backwards; None for the newest.
        since: only lines decided at this instant or later; None for any.
        until: only lines decided before this instant; None for any.

    Returns:
        Decisions, newest first; empty for an account that was never used.

    Example:
        >>> [(line.kind, line.accepted) for line in history(connection, "ada", limit=2)]
        [('batch', False), ('create_schedule', True)]
    """
    first = 0 if since is None else last_version(connection, account, since)
    last = before and before - 1
    if until is not None:
        ended = last_version(connection, account, until)
        last = ended if last is None else min(last, ended)
    return rows_of(
        connection,
        Decision,
        """SELECT * FROM ledger.journal
           WHERE account_id = %s AND version > %s AND (%s::bigint IS NULL OR version <= %s)
           ORDER BY version DESC LIMIT %s""",
        (account, first, last, last, limit),
    )


# Versions go from 1 without gaps, and neither the clock nor the log goes back: the last version before an instant or an
# offset is found by halving what is left, each step by the account's index.
_LAST_VERSION: LiteralString = """
    WITH RECURSIVE halves (low, high) AS (
        SELECT 0::bigint, coalesce((SELECT max(version) FROM ledger.journal WHERE account_id = %(account)s), 0)
        UNION ALL
        SELECT CASE WHEN c.counts THEN j.version ELSE h.low END, CASE WHEN c.counts THEN h.high ELSE j.version - 1 END
        FROM halves h
        JOIN ledger.journal j ON j.account_id = %(account)s AND j.version = (h.low + h.high + 1) / 2
        CROSS JOIN LATERAL (
            SELECT (%(before)s::timestamptz IS NULL OR j.decided_at < %(before)s)
                   AND (%(until_ms)s::bigint IS NULL OR j.decided_at <= to_timestamp(%(until_ms)s::bigint / 1000.0))
                   AND (%(until)s::bigint IS NULL OR j.log_offset <= %(until)s) AS counts
        ) c
        WHERE h.low < h.high
    )
    SELECT high FROM halves WHERE low = high
"""


def last_version(
    connection: Connection[Any],
    account: str,
    before: datetime | None = None,
    *,
    until_ms: int | None = None,
    until: int | None = None,
) -> int:
    """The version of an account's last line of those that count; 0 without one.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        before: an instant before which they were decided; None for any.
        until_ms: the last instant that counts, in milliseconds since 1970 UTC; None for any.
        until: the last offset of the account's partition that counts; None for any.
    """
    values = {"account": account, "before": before, "until_ms": until_ms, "until": until}
    row = connection.execute(_LAST_VERSION, values).fetchone()
    return 0 if row is None else int(row[0])


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


def rejections(
    connection: Connection[Any],
    limit: int,
    account: str | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Sequence[Rejection]:
    """The latest rejections, newest first.

    Args:
        connection: a reader's connection to the projection (`connected`).
        limit: how many at most.
        account: only this account's; None for those of all accounts.
        since: only those decided at this instant or later; None for any.
        until: only those decided before this instant; None for any.

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
            """SELECT * FROM ledger.rejections WHERE decided_at >= %(since)s AND decided_at < %(until)s
               ORDER BY decided_at DESC, log_partition DESC, log_offset DESC LIMIT %(limit)s""",
            {"limit": limit, **_time(since, until)},
        )
    # In the same order by the account's own lines: by the instant, those of all accounts would be gone through.
    first = 0 if since is None else last_version(connection, account, since)
    last = None if until is None else last_version(connection, account, until)
    query = """SELECT * FROM ledger.rejections
               WHERE account_id = %s AND version > %s AND (%s::bigint IS NULL OR version <= %s)
               ORDER BY version DESC LIMIT %s"""
    return rows_of(connection, Rejection, query, (account, first, last, last, limit))


def _time(since: datetime | None, until: datetime | None) -> dict[str, datetime]:
    # Both ends are always there, so that the planner sees a range of the index. No clock is outside of these.
    return {"since": since or EPOCH, "until": until or _NEVER}


_NEVER = datetime.max.replace(tzinfo=UTC)


def rejection_totals(
    connection: Connection[Any], *, since: datetime | None = None, until: datetime | None = None
) -> dict[str, int]:
    """How many commands were rejected, by reason. Counts them, which takes long where they are many.

    Args:
        connection: a reader's connection to the projection (`connected`).
        since: only those decided at this instant or later; None for any.
        until: only those decided before this instant; None for any.

    Returns:
        Counts by reason, ordered by reason.

    Example:
        >>> rejection_totals(connection)
        {'insufficient_credits': 2}
    """
    cursor = connection.execute(
        """SELECT rejection, count(*) FROM ledger.rejections WHERE decided_at >= %(since)s AND decided_at < %(until)s
           GROUP BY rejection ORDER BY rejection""",
        _time(since, until),
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
