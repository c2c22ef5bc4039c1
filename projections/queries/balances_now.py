"""An account's balances at the time of asking, by the rules themselves, and how much of them a use could take.

Reads the views in schema `ledger` only, loads the account from them, and settles it in memory as the fold would at its
next record. Writes nothing, and implements no rule of its own. The view `ledger.balances_now` shows the same to readers
of SQL, except the turns of schedules. Now is the database server's clock, or the log's clock of the partition where
that is ahead.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.common.errors import CreditfoldError
from creditfold.ledger.account import Account
from creditfold.ledger.facts import CorruptStateError
from creditfold.ledger.folding import as_json
from creditfold.ledger.lots import EPOCH, NEVER
from creditfold.ledger.rows import (
    AccountRow,
    BalanceRow,
    HoldRow,
    LotRow,
    Rows,
    ScheduleRow,
    SpendRow,
    TransferRow,
    lots_named,
    open_account,
)
from creditfold.ledger.time import settle
from creditfold.projections.queries.balances import Balance, balances
from creditfold.projections.queries.progress import Standing, standing_of_fields


class BalanceNow(NamedTuple):
    """An account's credits of one asset at an instant, in the asset's smallest unit.

    `stored_available` is what was available when the fold last settled the account, as of `version` and the position.
    """

    account_id: str
    asset: str
    available: int
    stored_available: int
    version: int
    log_partition: int
    log_offset: int
    pending: int
    held: int
    debt: int
    credit_limit: int
    at: datetime


class UsableBalance(NamedTuple):
    """A balance at an instant, and how much of it is available for a use."""

    account_id: str
    asset: str
    use: str
    available_for_use: int
    available: int
    stored_available: int
    version: int
    log_partition: int
    log_offset: int
    pending: int
    held: int
    debt: int
    credit_limit: int
    at: datetime


class InconsistentAccountError(CreditfoldError):
    """An account's rows contradict each other, so its present balances can't be computed."""


def clock(connection: Connection[Any], partition: int | None = None) -> datetime:
    """The instant that counts as now: the server's clock, or the log's clock where that is ahead.

    Args:
        connection: a reader's connection to the projection (`connected`).
        partition: whose clock counts; None for the latest of all partitions.

    Returns:
        An aware datetime in UTC.

    Example:
        >>> clock(connection).tzname()
        'UTC'
    """
    ((found,),) = connection.execute(
        """SELECT greatest(now(), max(clock)) FROM ledger.progress
           WHERE %(partition)s::integer IS NULL OR log_partition = %(partition)s""",
        {"partition": partition},
    ).fetchall()
    moment: datetime = found
    return moment


def balances_now(connection: Connection[Any], account: str, at_ms: int | None = None) -> Sequence[BalanceNow]:
    """An account's balances as the fold would find them at its next record.

    Lots that ended, lots whose window opened, holds that lapsed and turns of schedules since the account was last
    settled are counted. Must run in a snapshot (`creditfold.projections.connections.snapshot`).

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        at_ms: the instant in milliseconds since 1970 UTC, not before the log's clock; None for now.

    Returns:
        One row for each asset, ordered by asset; empty for an account that was never used.

    Raises:
        InconsistentAccountError: the account's rows contradict each other.

    Example:
        >>> from creditfold.projections.connections import snapshot
        >>> with snapshot(connection):
        ...     [(row.available, row.stored_available) for row in balances_now(connection, "ada")]
        [(280, 280)]
    """
    _, found = standing_and_balances(connection, [account], at_ms)
    return found[account] if account in found else _rows(settled_account(connection, account, at_ms))


# Balances as they are stored, whether something has fallen due since they were (then they aren't those of now), and
# the standing: a row for each partition, with a balance where an account of it has one, and one for each more of them.
# What is due is looked for once for each account, however many balances it has; a schedule may be of an asset without
# one.
_STORED: LiteralString = """
    WITH p AS MATERIALIZED (
        SELECT generation, topic_id, log_partition, next_offset, clock, coalesce(%(at)s, greatest(now(), clock)) AS at
        FROM ledger.progress
    ), due AS MATERIALIZED (
        SELECT l.account_id FROM ledger.lots l JOIN p USING (log_partition)
        WHERE l.account_id = ANY (%(accounts)s::text[]) AND l.is_live
              AND (l.state = 'pending' AND l.effective_at <= p.at OR l.state = 'active' AND l.expires_at <= p.at)
        UNION
        SELECT h.account_id FROM ledger.holds h JOIN p USING (log_partition)
        WHERE h.account_id = ANY (%(accounts)s::text[]) AND h.is_open AND h.deadline <= p.at
        UNION
        SELECT s.account_id FROM ledger.schedules s JOIN p USING (log_partition)
        WHERE s.account_id = ANY (%(accounts)s::text[]) AND s.state = 'active' AND s.next_at <= p.at
    )
    SELECT b.account_id, b.asset, b.available, b.available, b.version, b.log_partition, b.log_offset,
           b.pending, b.held, b.debt, b.credit_limit, p.at, b.account_id IN (SELECT account_id FROM due),
           p.generation, p.topic_id, p.log_partition, p.next_offset, p.clock
    FROM p LEFT JOIN ledger.balances b
         ON b.log_partition = p.log_partition AND b.account_id = ANY (%(accounts)s::text[])
    ORDER BY b.asset"""
_IS_DUE = len(BalanceNow._fields)


def standing_and_balances(
    connection: Connection[Any], accounts: Sequence[str], at_ms: int | None = None
) -> tuple[Standing, Mapping[str, Sequence[BalanceNow]]]:
    """The rows of `balances_now` of several accounts, and how far the log is folded, by one statement.

    Args:
        connection: a reader's connection to the projection (`connected`).
        accounts: their ids.
        at_ms: as for `balances_now`.

    Returns:
        The rows by account. One isn't there where something has fallen due since it was settled, or where it has no
        balance: `balances_now` finds that out.

    Example:
        >>> standing_and_balances(connection, ["nobody"])[1]
        {}
    """
    at = None if at_ms is None else _moment(at_ms)
    rows = connection.execute(_STORED, {"at": at, "accounts": list(accounts)}, prepare=True).fetchall()
    found: dict[str, list[BalanceNow]] = {}
    due = set()
    for row in rows:
        account = row[0]
        if account is None:
            continue
        if row[_IS_DUE]:
            due.add(account)
        found.setdefault(account, []).append(BalanceNow._make(row[:_IS_DUE]))
    for account in due:
        del found[account]
    return standing_of_fields([row[_IS_DUE + 1 :] for row in rows]), found


def usable_now(
    connection: Connection[Any], account: str, use: str, at_ms: int | None = None
) -> Sequence[UsableBalance]:
    """The balances of `balances_now`, and how much of each a spend for a use could take.

    It could take from lots without scope, or of that scope. Must run in a snapshot
    (`creditfold.projections.connections.snapshot`).

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        use: the use, as a spend names it.
        at_ms: the instant in milliseconds since 1970 UTC, not before the log's clock; None for now.

    Returns:
        One row for each asset, ordered by asset. `available_for_use` is in the asset's smallest unit.

    Raises:
        InconsistentAccountError: the account's rows contradict each other.

    Example:
        >>> from creditfold.projections.connections import snapshot
        >>> with snapshot(connection):
        ...     usable_now(connection, "ada", "boosts")[0].available_for_use
        280
    """
    found = settled_account(connection, account, at_ms)
    return [
        UsableBalance(use=use, available_for_use=found.account.available(row.asset, use), **row._asdict())
        for row in _rows(found)
    ]


class SettledAccount(NamedTuple):
    """An account at an instant, and its balances as they are stored."""

    name: str
    account: Account
    stored: Sequence[Balance]
    partition: int
    at: datetime


def _rows(found: SettledAccount) -> list[BalanceNow]:
    stored = {row.asset: row for row in found.stored}
    # A schedule may have added an asset that the account never had.
    added = [asset for asset in found.account.holdings if any(found.account.balance(asset))]
    rows = []
    for asset in sorted({*stored, *added}):
        now = found.account.balance(asset)
        last = stored.get(asset) or Balance(found.name, asset, 0, 0, found.partition, 0)
        rows.append(
            BalanceNow(
                account_id=found.name,
                asset=asset,
                available=now.available,
                stored_available=last.available,
                version=last.version,
                log_partition=last.log_partition,
                log_offset=last.log_offset,
                pending=now.pending,
                held=now.held,
                debt=now.debt,
                credit_limit=last.credit_limit,
                at=found.at,
            )
        )
    return rows


def settled_account(connection: Connection[Any], name: str, at_ms: int | None) -> SettledAccount:
    """An account as the fold would find it at an instant, now if None. Must run in a snapshot.

    Raises InconsistentAccountError.
    """
    stored = balances(connection, name)
    schedules = _schedules(connection, name)
    partition = next((row.log_partition for row in stored), None)
    if partition is None:
        partition = next((number for number, _ in schedules), None)
    at = clock(connection, partition) if at_ms is None else _moment(at_ms)
    rows = Rows(
        AccountRow(),
        [BalanceRow(row.asset, row.available, row.pending, row.held, row.debt, row.credit_limit) for row in stored],
        _lots(connection, name, "l.is_live"),
        holds=_holds(connection, name),
        # Which spends are owed makes no difference to how much is.
        spends=[SpendRow(row.asset, row.asset, 0, row.debt, "[]") for row in stored if row.debt],
        transfers=_transfers(connection, name),
        schedules=[row for _, row in schedules],
    )
    there = {(lot.command_id, lot.number) for lot in rows.lots}
    missing = [lot for lot in dict.fromkeys(lots_named(rows)) if lot not in there]
    more = [lot for key in missing for lot in _lots(connection, name, "l.command_id = %s AND l.number = %s", *key)]
    try:
        account = open_account(name, rows._replace(lots=[*rows.lots, *more]))
        settle(account, (at - EPOCH) // timedelta(milliseconds=1))
    except CorruptStateError as error:
        raise InconsistentAccountError(
            f"The tables contradict each other: {error}.",
            "`creditfold verify` finds what is wrong, `creditfold rebuild` folds the log anew.",
        ) from error
    return SettledAccount(name, account, stored, partition or 0, at)


def _lots(connection: Connection[Any], account: str, condition: LiteralString, *values: Any) -> list[LotRow]:
    query: LiteralString = """SELECT command_id, number, asset, class, priority, effective_at, expires_at, scope, made,
        source, amount, remaining, held, spent, expired, voided, forfeited, reissued, transferred, state, is_live
        FROM ledger.lots l WHERE account_id = %s AND """
    found = []
    for row in connection.execute(query + condition, (account, *values)):
        command_id, number, asset, lot_class, priority, effective_at, expires_at, scope, *rest, state, is_live = row
        window = (_ms(effective_at), _ms(expires_at))
        states = (state == "pending", state == "expired", state == "voided", is_live)
        found.append(
            LotRow._make((command_id, number, asset, lot_class, priority, *window, scope or "", *rest, *states, None))
        )
    return found


def _holds(connection: Connection[Any], account: str) -> list[HoldRow]:
    cursor = connection.execute(
        """SELECT command_id, asset, deadline, made, taken, slices FROM ledger.holds
           WHERE account_id = %s AND state = 'open'""",
        (account,),
    )
    return [
        HoldRow(command_id, asset, _ms(deadline) or NEVER, made, taken, as_json(slices), True, False, None)
        for command_id, asset, deadline, made, taken, slices in cursor
    ]


def _transfers(connection: Connection[Any], account: str) -> list[TransferRow]:
    # What is on its way may come back, and so leaves a schedule less room.
    cursor = connection.execute(
        """SELECT command_id, asset, to_account, parcels FROM ledger.transfers
           WHERE account_id = %s AND is_open
             AND log_partition = ANY (ARRAY(SELECT log_partition FROM ledger.progress))""",
        (account,),
    )
    return [TransferRow(command_id, asset, to, as_json(parcels), True) for command_id, asset, to, parcels in cursor]


def _schedules(connection: Connection[Any], account: str) -> list[tuple[int, ScheduleRow]]:
    """The schedules that have a turn left, each with the account's partition."""
    cursor = connection.execute(
        """SELECT log_partition, command_id, asset, amount, period, first_at, every, until, cap, class, priority,
                  expires_after_ms, scope, made, next_number
           FROM ledger.schedules WHERE account_id = %s AND state = 'active'""",
        (account,),
    )
    found = []
    for partition, *head, first_at, every, until, cap, lot_class, priority, after, scope, made, number in cursor:
        terms = (cap or 0, lot_class, priority, after or 0, scope or "")
        row = (*head, _ms(first_at), every, _ms(until), *terms, made, number, True, None)
        found.append((partition, ScheduleRow._make(row)))
    return found


def _moment(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


def _ms(moment: datetime | None) -> int:
    return 0 if moment is None else (moment - EPOCH) // timedelta(milliseconds=1)
