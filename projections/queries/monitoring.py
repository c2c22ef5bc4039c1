"""Reads what monitoring shows of a ledger besides its health: sums over all lots, by class and by when they end.

Reads the views in schema `ledger` only. Amounts are whole numbers in the asset's smallest unit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import Connection

from creditfold.projections.connections import rows_of


class Outstanding(NamedTuple):
    """The credits of an asset and class that accounts have: remaining and held, those whose window isn't open too."""

    asset: str
    lot_class: str
    amount: int


class EndingSoon(NamedTuple):
    """The credits of an asset that end within some days unless they are spent before."""

    asset: str
    days: int
    amount: int


def outstanding(connection: Connection[Any]) -> Sequence[Outstanding]:
    """The credits that all accounts have, by asset and class. Reads all live lots.

    Args:
        connection: a reader's connection to the projection (`connected`).

    Returns:
        One row for each asset and class, ordered by both.

    Example:
        >>> outstanding(connection)
        [Outstanding(asset='credits', lot_class='paid', amount=620)]
    """
    rows = rows_of(
        connection,
        Outstanding,
        """SELECT asset, class AS lot_class, sum(remaining::numeric + held) AS amount FROM ledger.lots WHERE is_live
           GROUP BY 1, 2 ORDER BY 1, 2""",
    )
    return [row._replace(amount=int(row.amount)) for row in rows]


def ending_soon(connection: Connection[Any], days: Sequence[int]) -> Sequence[EndingSoon]:
    """The credits of all accounts that end within some days. Reads all live lots with an end.

    Args:
        connection: a reader's connection to the projection (`connected`).
        days: each asked for by itself, so that the longest counts all of the shorter ones too.

    Returns:
        One row for each asset that anything ends of and each number of days, ordered by both.

    Example:
        >>> ending_soon(connection, [1, 30])
        []
    """
    rows = rows_of(
        connection,
        EndingSoon,
        """SELECT asset, days, sum(CASE WHEN expires_at_ms < now_ms + days * 86400000::bigint
                                        THEN remaining::numeric + held ELSE 0 END) AS amount
           FROM ledger.expiring
           CROSS JOIN (SELECT floor(extract(epoch FROM now()) * 1000)::bigint AS now_ms) AS n
           CROSS JOIN unnest(%(days)s::integer[]) AS days
           WHERE expires_at_ms > now_ms GROUP BY 1, 2 ORDER BY 1, 2""",
        {"days": list(days)},
    )
    return [row._replace(amount=int(row.amount)) for row in rows]
