"""What an account's credits are made of, as rows: lots, holds, transfers, schedules; and whether the account is shut.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, instants are aware datetimes in UTC;
None stands for what an account's owner didn't set. All of it is as of the account's last settling by the log's clock.
"""

from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.projections.connections import rows_of
from creditfold.projections.queries.journal import last_version


class Lot(NamedTuple):
    """Credits that came in together, and where each part of them is.

    `command_id` made it, `source` is the system account that it came from. `state` is pending, active, empty, expired
    or voided; a live one has something remaining or held.
    """

    account_id: str
    command_id: str
    number: int
    asset: str
    amount: int
    remaining: int
    held: int
    spent: int
    expired: int
    voided: int
    forfeited: int
    reissued: int
    transferred: int
    state: str
    is_live: bool
    # `class` is no name for a field here.
    lot_class: str
    priority: int
    scope: str | None
    effective_at: datetime | None
    expires_at: datetime | None
    source: str
    made: int
    log_partition: int
    log_offset: int

    def unsettled_state(self, now: datetime) -> str | None:
        """The state that time has brought by `now` and the fold hasn't recorded; None where the stored one holds."""
        if self.state in ("pending", "active") and self.is_live:
            if self.expires_at is not None and self.expires_at <= now:
                return "expired"
            if self.state == "pending" and self.effective_at is not None and self.effective_at <= now:
                return "active"
        return None


class Hold(NamedTuple):
    """Credits set aside: what was taken, and what is still held. `state` is open, lapsed or closed."""

    account_id: str
    command_id: str
    asset: str
    taken: int
    held: int
    state: str
    deadline: datetime | None
    slices: list[list[Any]]
    made: int
    log_partition: int
    log_offset: int

    def unsettled_state(self, now: datetime) -> str | None:
        """The state that time has brought by `now` and the fold hasn't recorded; None where the stored one holds."""
        return "lapsed" if self.state == "open" and self.deadline is not None and self.deadline <= now else None


class Transfer(NamedTuple):
    """Credits sent to another account. `state` is in_transit or settled."""

    account_id: str
    command_id: str
    asset: str
    to_account: str
    amount: int
    state: str
    parcels: list[list[Any]]
    log_partition: int
    log_offset: int


class Schedule(NamedTuple):
    """A grant that recurs. `state` is active, finished (no turn is left) or ended (by a command)."""

    account_id: str
    command_id: str
    asset: str
    amount: int
    every: int
    period: str
    state: str
    next_number: int
    next_at: datetime | None
    first_at: datetime | None
    until: datetime | None
    cap: int | None
    lot_class: str
    priority: int
    scope: str | None
    expires_after_ms: int | None
    made: int
    log_partition: int
    log_offset: int


class AccountState(NamedTuple):
    """Whether an account is closed, and what its freeze forbids, if it is frozen."""

    account_id: str
    is_closed: bool
    frozen: str | None
    version: int
    log_partition: int
    log_offset: int


SELECT_LOTS: LiteralString = """SELECT l.account_id, l.command_id, l.number, l.asset, l.amount, l.remaining, l.held,
    l.spent, l.expired, l.voided, l.forfeited, l.reissued, l.transferred, l.state, l.is_live, l.class AS lot_class,
    l.priority, l.scope, l.effective_at, l.expires_at, l.source, l.made, l.log_partition, l.log_offset
    FROM ledger.lots l """


SELECT_HOLDS: LiteralString = """SELECT l.account_id, l.command_id, l.asset, l.taken, l.held, l.state, l.deadline,
    l.slices, l.made, l.log_partition, l.log_offset FROM ledger.holds l """


SELECT_TRANSFERS: LiteralString = """SELECT l.account_id, l.command_id, l.asset, l.to_account, l.amount, l.state,
    l.parcels, l.log_partition, l.log_offset FROM ledger.transfers l """


SELECT_SCHEDULES: LiteralString = """SELECT l.account_id, l.command_id, l.asset, l.amount, l.every, l.period, l.state,
    l.next_number, l.next_at, l.first_at, l.until, l.cap, l.class AS lot_class, l.priority, l.scope, l.expires_after_ms,
    l.made, l.log_partition, l.log_offset FROM ledger.schedules l """


def account_state(connection: Connection[Any], account: str) -> AccountState | None:
    """Whether an account is frozen or closed.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.

    Returns:
        The account's state; None for an account that was never frozen or closed, and is open.

    Example:
        >>> account_state(connection, "bob").frozen
        'spending'
    """
    rows = rows_of(connection, AccountState, "SELECT * FROM ledger.accounts WHERE account_id = %s", (account,))
    return rows[0] if rows else None


def account_state_as_of(
    connection: Connection[Any], account: str, *, until_ms: int | None = None, until: int | None = None
) -> AccountState | None:
    """Whether an account was frozen or closed, by what was decided up to an instant or an offset of its partition.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        until_ms: an instant of the log's clock in milliseconds since 1970 UTC, inclusive; None for any.
        until: offset of the last record that counts; None for any.

    Returns:
        The account's state; None for an account that was neither frozen nor closed by then.

    Example:
        >>> account_state_as_of(connection, "bob", until_ms=0)
    """
    rows = connection.execute(
        """SELECT f.fact ->> 'kind', f.fact ->> 'detail', j.version, j.log_partition, j.log_offset
           FROM ledger.journal j CROSS JOIN LATERAL json_array_elements(j.facts) AS f (fact)
           WHERE j.account_id = %(account)s AND j.kind IN ('freeze', 'unfreeze', 'close') AND j.accepted
             AND j.version <= %(version)s
           ORDER BY j.version""",
        {"account": account, "version": last_version(connection, account, until_ms=until_ms, until=until)},
    ).fetchall()
    found: AccountState | None = None
    for kind, detail, *place in rows:
        state = found or AccountState(account, False, None, *place)
        if kind in ("frozen", "unfrozen"):
            state = state._replace(frozen=detail if kind == "frozen" else None)
        found = AccountState(account, state.is_closed or kind == "closed", state.frozen, *place)
    return found
