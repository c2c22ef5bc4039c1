"""Credits that will end: of one account by lot and by day, of all accounts by month.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, instants are aware datetimes in UTC.
One account is brought to the present first, as `balances_now` does; all accounts are as they were last settled.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.common.instants import MAX_INSTANT, MILLISECOND, milliseconds_of
from creditfold.ledger.lots import EPOCH
from creditfold.projections.connections import rows_of
from creditfold.projections.queries.balances_now import settled_account


class ExpiringLot(NamedTuple):
    """A lot whose window closes, and what it would lose: `remaining`, and what of `held` comes back after that."""

    command_id: str
    number: int
    asset: str
    lot_class: str
    scope: str | None
    remaining: int
    held: int
    expires_at: datetime


class ExpiringDay(NamedTuple):
    """What ends on a day of the calendar in UTC, of one asset."""

    day: date
    asset: str
    lots: int
    remaining: int
    held: int


class ExpiringMonth(NamedTuple):
    """What ends in a month in UTC, of one asset and all accounts; `month` is its first day."""

    month: date
    asset: str
    lots: int
    remaining: int
    held: int


class NextEnd(NamedTuple):
    """What of an asset of an account ends at an instant."""

    asset: str
    remaining: int
    expires_at: datetime


class Expiring(NamedTuple):
    """What of an account's credits ends after `at` and until `until`, that instant included, the first to end first."""

    account_id: str
    at: datetime
    until: datetime
    lots: Sequence[ExpiringLot]

    @property
    def days(self) -> Sequence[ExpiringDay]:
        """The same by day and asset."""
        sums: dict[tuple[date, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        for lot in self.lots:
            found = sums[lot.expires_at.date(), lot.asset]
            found[:] = (found[0] + 1, found[1] + lot.remaining, found[2] + lot.held)
        return [ExpiringDay(*key, *sums[key]) for key in sorted(sums)]


def expiring(connection: Connection[Any], account: str, within_ms: int, at_ms: int | None = None) -> Expiring:
    """The credits of an account that will end within a time, unless they are spent before.

    Must run in a snapshot (`creditfold.projections.connections.snapshot`).

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        within_ms: how long from then on, in milliseconds.
        at_ms: the instant in milliseconds since 1970 UTC, not before the log's clock; None for now.

    Returns:
        The lots that end in it, and the same by day.

    Raises:
        InconsistentAccountError: the account's rows contradict each other.

    Example:
        >>> from creditfold.projections.connections import snapshot
        >>> with snapshot(connection):
        ...     expiring(connection, "ada", within_ms=30 * 86_400_000).lots
        []
    """
    settled = settled_account(connection, account, at_ms)
    until_ms = min(milliseconds_of(settled.at) + within_ms, MAX_INSTANT)
    lots = [
        ExpiringLot(
            *lot.id,
            asset=lot.asset,
            lot_class=str(lot.terms.lot_class),
            scope=lot.terms.scope or None,
            remaining=lot.remaining,
            held=lot.held,
            expires_at=EPOCH + timedelta(milliseconds=lot.terms.expires_at),
        )
        for lot in settled.account.lots.values()
        if 0 < lot.terms.expires_at <= until_ms and lot.remaining + lot.held and not (lot.is_lapsed or lot.is_void)
    ]
    # What is held of a lot that ended already ends as soon as it comes back.
    lots = [lot for lot in lots if lot.expires_at > settled.at]
    lots.sort(key=lambda lot: (lot.expires_at, lot.asset, lot.command_id, lot.number))
    return Expiring(account, settled.at, EPOCH + timedelta(milliseconds=until_ms), lots)


def next_ends(
    connection: Connection[Any], account: str, limit: int, until: datetime, at_ms: int | None = None
) -> Sequence[NextEnd]:
    """The first of an account's credits to end from now on, as the account was last settled.

    Takes a fraction of what `expiring` does in an account with many lots or holds: nothing is settled, and what is held
    isn't counted.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        limit: how many instants at most, each of one asset.
        until: the first instant that doesn't count any more.
        at_ms: the instant from which on, in milliseconds since 1970 UTC; None for now.

    Returns:
        What ends, the first to end first.

    Example:
        >>> from datetime import UTC, datetime
        >>> next_ends(connection, "ada", 3, datetime(2100, 1, 1, tzinfo=UTC))
        []
    """
    at = None if at_ms is None else EPOCH + timedelta(milliseconds=at_ms)
    return rows_of(
        connection,
        NextEnd,
        """SELECT asset, sum(remaining)::bigint AS remaining, expires_at FROM ledger.lots
           WHERE account_id = %(account)s AND is_live AND state IN ('pending', 'active') AND remaining > 0
             AND expires_at < %(until)s
             AND expires_at > coalesce(%(at)s, (SELECT greatest(now(), max(clock)) FROM ledger.progress))
           GROUP BY expires_at, asset ORDER BY expires_at, asset LIMIT %(limit)s""",
        {"account": account, "until": until, "at": at, "limit": limit},
    )


_NOW_MS: LiteralString = """
    SELECT floor(extract(epoch FROM greatest(now(), max(clock))) * 1000)::bigint FROM ledger.progress
"""


def expiring_totals(connection: Connection[Any], until: datetime | None = None) -> Sequence[ExpiringMonth]:
    """The credits of all accounts that will end, by month. Reads all live lots.

    Args:
        connection: a reader's connection to the projection (`connected`).
        until: the first instant that doesn't count any more; None for any.

    Returns:
        One row for each month and asset, ordered by month.

    Example:
        >>> expiring_totals(connection)
        []
    """
    # As a value: of an instant that it must look up itself, the planner expects that next to nothing ends after it.
    ((now_ms,),) = connection.execute(_NOW_MS).fetchall()
    rows = rows_of(
        connection,
        ExpiringMonth,
        # By day in whole numbers first: what calendars take for each lot is most of the time.
        """SELECT date_trunc('month', date '1970-01-01' + day)::date AS month, asset, sum(lots) AS lots,
                  sum(remaining) AS remaining, sum(held) AS held
           FROM (
               SELECT (expires_at_ms / 86400000)::integer AS day, asset, count(*) AS lots, sum(remaining) AS remaining,
                      sum(held) AS held
               FROM ledger.expiring
               WHERE expires_at_ms > %(now_ms)s AND expires_at_ms < %(until_ms)s
               GROUP BY 1, 2
           ) AS days
           GROUP BY 1, 2 ORDER BY 1, 2""",
        {"now_ms": now_ms, "until_ms": MAX_INSTANT + 1 if until is None else -(-(until - EPOCH) // MILLISECOND)},
    )
    # Sums of PostgreSQL's are decimals, since they may be larger than its largest whole numbers.
    return [row._replace(lots=int(row.lots), remaining=int(row.remaining), held=int(row.held)) for row in rows]
