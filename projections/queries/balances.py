"""What readers ask: balances, histories, rejections, dead letters, progress. Reads the views in schema `ledger` only.

Amounts are in the asset's smallest unit, instants are aware datetimes in UTC.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.log.bookmark import Bookmark, LastRecord
from creditfold.projections.connections import rows_of
from creditfold.schemas.outcome import Decision


class NotYetFoldedError(CreditfoldError):
    """The fold hasn't reached a position in the time given."""

    exit_code = 4


class Balance(NamedTuple):
    """An account's credits of one asset, after its journal line number `version`, as of a position of the log.

    `credit_limit` is how large its debt may become.
    """

    account_id: str
    asset: str
    available: int
    version: int
    log_partition: int
    log_offset: int
    pending: int = 0
    held: int = 0
    debt: int = 0
    credit_limit: int = 0


class Rejection(NamedTuple):
    """A command without effect; `balance` is what there was."""

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


class DeadRecord(NamedTuple):
    """A record of the log that can't be folded, with its bytes; `headers` are pairs of name and base64 text."""

    log_partition: int
    log_offset: int
    reason: str
    detail: str
    appended_at: datetime | None
    key: bytes | None
    value: bytes | None
    headers: list[list[str | None]]


class RulesActivated(NamedTuple):
    """A record from which on its partition is decided by another version of the rules."""

    log_partition: int
    log_offset: int
    rules: int
    activated_at: datetime
    command_id: str
    source: str
    note: str


class PartitionProgress(NamedTuple):
    """How far one partition is folded, and what its records came to."""

    topic: str
    log_partition: int
    next_offset: int
    accepted: int
    rejected: int
    duplicates: int
    dead_letters: int
    records: int
    clock: datetime | None
    folded_at: datetime | None
    epoch: int
    owner: str
    activations: int = 0
    rules: int = 1
    generation: int = 0
    chain: bytes = b""
    ticks: int = 0
    topic_id: str = ""
    last_offset: int = -1
    last_digest: bytes = b""

    @property
    def bookmark(self) -> Bookmark:
        """Where the fold of the log stopped."""
        clock_ms = 0 if self.clock is None else round(self.clock.timestamp() * 1000)
        return Bookmark(self.next_offset, LastRecord(self.last_offset, self.last_digest), clock_ms)


def bookmarks(connection: Connection[Any]) -> dict[int, Bookmark]:
    """Where the live generation's fold of each partition stopped reading the log."""
    return {row.log_partition: row.bookmark for row in progress(connection)}


def balances(connection: Connection[Any], account: str) -> Sequence[Balance]:
    """An account's balances, by asset; empty for an account that was never used."""
    query = "SELECT * FROM ledger.balances WHERE account_id = %s ORDER BY asset"
    return rows_of(connection, Balance, query, (account,))


def balances_as_of(
    connection: Connection[Any], account: str, partition: int, *, until_ms: int | None = None, until: int | None = None
) -> Sequence[Balance]:
    """An account's balances after the last decision up to an instant or an offset of its partition, by asset.

    Equal to those of a rebuild that ends there.

    Args:
        connection: to the projection.
        account: its id.
        partition: the one that the account belongs in.
        until_ms: of the log's clock, in milliseconds UTC, inclusive.
        until: offset of the last record that counts.

    Raises NotYetFoldedError when the fold hasn't passed that offset.
    """
    if until is not None and not _has_passed(connection, Position(partition, until)):
        raise NotYetFoldedError(
            f"The fold has not reached {Position(partition, until)} yet.", "See `creditfold status`, and ask again."
        )
    return rows_of(
        connection,
        Balance,
        """WITH past AS (
               SELECT * FROM ledger.journal
               WHERE account_id = %s AND (%s::bigint IS NULL OR decided_at <= to_timestamp(%s::bigint / 1000.0))
                 AND (%s::bigint IS NULL OR log_offset <= %s) AND asset <> ''
           ), limits AS (
               SELECT DISTINCT ON (asset) asset, (details ->> 'limit')::bigint AS credit_limit
               FROM past WHERE kind = 'set_credit_limit' AND accepted ORDER BY asset, version DESC
           )
           SELECT DISTINCT ON (asset) account_id, asset, balance AS available, version, log_partition, log_offset,
                  pending, held, debt, coalesce(credit_limit, 0) AS credit_limit
           FROM past LEFT JOIN limits USING (asset) ORDER BY asset, version DESC""",
        (account, until_ms, until_ms, until, until),
    )


def history(connection: Connection[Any], account: str, limit: int, before: int | None = None) -> Sequence[Decision]:
    """An account's latest decisions, newest first: at most `limit`, those before version `before` if given."""
    return rows_of(
        connection,
        Decision,
        """SELECT * FROM ledger.journal WHERE account_id = %s AND (%s::bigint IS NULL OR version < %s)
           ORDER BY version DESC LIMIT %s""",
        (account, before, before, limit),
    )


def first_decision(connection: Connection[Any], account: str, command_id: str) -> Decision | None:
    """What was decided about the first command of an id, or None if nothing was yet.

    Not what became of a record: one of the same id with another body is a dead letter, of which this says nothing.
    `outcomes.outcome_at` looks that up.
    """
    rows = rows_of(
        connection,
        Decision,
        "SELECT * FROM ledger.journal WHERE account_id = %s AND command_id = %s",
        (account, command_id),
    )
    return rows[0] if rows else None


def rejections(connection: Connection[Any], limit: int, account: str | None = None) -> Sequence[Rejection]:
    """The latest rejections, newest first, of all accounts or of one."""
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
    """How many commands were rejected, by reason. Counts all of them: takes its time on a long journal."""
    cursor = connection.execute(
        "SELECT rejection, count(*) FROM ledger.rejections GROUP BY rejection ORDER BY rejection"
    )
    return dict(cursor.fetchall())


def dead_letters(connection: Connection[Any], limit: int, reason: str | None = None) -> Sequence[DeadRecord]:
    """The latest dead letters, newest offset first, of all reasons or of one."""
    return rows_of(
        connection,
        DeadRecord,
        """SELECT * FROM ledger.dead_letters WHERE %s::text IS NULL OR reason = %s
           ORDER BY appended_at DESC NULLS LAST, log_partition DESC, log_offset DESC LIMIT %s""",
        (reason, reason, limit),
    )


def dead_letter(connection: Connection[Any], position: Position) -> DeadRecord | None:
    """The dead letter made of the record at a position, or None."""
    rows = rows_of(
        connection,
        DeadRecord,
        "SELECT * FROM ledger.dead_letters WHERE log_partition = %s AND log_offset = %s",
        tuple(position),
    )
    return rows[0] if rows else None


def progress(connection: Connection[Any]) -> Sequence[PartitionProgress]:
    """How far each partition is folded."""
    return rows_of(connection, PartitionProgress, "SELECT * FROM ledger.progress ORDER BY log_partition", ())


def activations(connection: Connection[Any]) -> Sequence[RulesActivated]:
    """Every change of the rules, by partition."""
    query = "SELECT * FROM ledger.activations ORDER BY log_partition, log_offset"
    return rows_of(connection, RulesActivated, query)


def wait_for(connection: Connection[Any], position: Position, timeout_s: float) -> None:
    """Wait until the fold has passed a position. Raises NotYetFoldedError after `timeout_s` seconds."""
    deadline, pause_s = time.monotonic() + timeout_s, 0.002
    while not _has_passed(connection, position):
        if time.monotonic() >= deadline:
            raise NotYetFoldedError(
                f"The fold has not reached {position} within {timeout_s:g} s. The command is in the log.",
                f"In `creditfold status`, next of partition {position.partition} must pass {position.offset}. Where it "
                "stands still, no worker folds it (`creditfold worker` starts one), or a worker's log says why.",
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)


def _has_passed(connection: Connection[Any], position: Position) -> bool:
    row = connection.execute(
        "SELECT next_offset > %s FROM ledger.progress WHERE log_partition = %s", (position.offset, position.partition)
    ).fetchone()
    if row is None:
        raise NotYetFoldedError(
            f"The projection has no partition {position.partition}.", "See `creditfold status` for the topic it folds."
        )
    return bool(row[0])
