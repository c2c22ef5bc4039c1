"""Sums over all accounts in a time: what was spent and what ended, by the lots' class, and by source and reason.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, instants are aware datetimes in UTC.
The fold keeps the sums by hours of the log's clock, so a time begins and ends with an hour, and its sums are there
however many commands it had.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection, sql

from creditfold.common.errors import CreditfoldError
from creditfold.projections.connections import rows_of

#: By what sums can be told apart, besides the asset.
GROUPS = ("class", "source", "reason")

#: What class is called of what was spent without credits.
DEBT = "debt"


class PartialHourError(CreditfoldError):
    """A time begins or ends within an hour."""

    exit_code = 2


class SpentSum(NamedTuple):
    """What was spent of one asset, what came back by refunds, and what repaid debt.

    `lot_class` is `debt` for what was spent without having it; what repaid it later is in `repaid`, by the class of the
    lots that it came from. `lot_class`, `source` and `reason` are None where the sums aren't told apart by them.
    """

    asset: str
    lot_class: str | None
    source: str | None
    reason: str | None
    spent: int
    refunded: int
    repaid: int


class EndedSum(NamedTuple):
    """What ended of one asset: expired, voided or forfeited; and what lapsed holds gave back (`lapsed`).

    `source` and `reason` are those of the command that ended it, empty where time did. They and `lot_class` are None
    where the sums aren't told apart by them.
    """

    asset: str
    what: str
    lot_class: str | None
    source: str | None
    reason: str | None
    amount: int


def spent(
    connection: Connection[Any],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    asset: str | None = None,
    by: Collection[str] = GROUPS,
    limit: int = 1_000,
) -> Sequence[SpentSum]:
    """What was spent in a time, over all accounts, the most first within an asset.

    Args:
        connection: a reader's connection to the projection (`connected`).
        since: the first instant that counts, the beginning of an hour in UTC; None for any.
        until: the first instant that doesn't count any more, the beginning of an hour; None for all that is folded.
        asset: only this asset; None for all.
        by: which of GROUPS tell sums apart.
        limit: how many rows at most.

    Returns:
        A row for each combination that there was. Of a reason the first 100 characters are kept.

    Raises:
        PartialHourError: the time begins or ends within an hour.

    Example:
        >>> [(row.asset, row.lot_class, row.spent, row.refunded) for row in spent(connection, by=["class"])]
        [('credits', 'paid', 180, 0)]
    """
    rows = rows_of(connection, SpentSum, _SPENT[_chosen(by)], _values(since, until, asset, limit))
    # Sums of PostgreSQL's are decimals, since they may be larger than its largest whole numbers.
    return [SpentSum(*row[:4], *map(int, row[4:])) for row in rows]


def ended_totals(
    connection: Connection[Any],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    asset: str | None = None,
    by: Collection[str] = GROUPS,
    limit: int = 1_000,
) -> Sequence[EndedSum]:
    """What ended in a time, over all accounts, the most first within an asset and what it came to.

    Args:
        connection: a reader's connection to the projection (`connected`).
        since: the first instant that counts, the beginning of an hour in UTC; None for any.
        until: the first instant that doesn't count any more, the beginning of an hour; None for all that is folded.
        asset: only this asset; None for all.
        by: which of GROUPS tell sums apart.
        limit: how many rows at most.

    Returns:
        A row for each combination that there was. Of a reason the first 100 characters are kept.

    Raises:
        PartialHourError: the time begins or ends within an hour.

    Example:
        >>> ended_totals(connection)
        []
    """
    rows = rows_of(connection, EndedSum, _ENDED[_chosen(by)], _values(since, until, asset, limit))
    return [row._replace(amount=int(row.amount)) for row in rows]


def _values(since: datetime | None, until: datetime | None, asset: str | None, limit: int) -> dict[str, Any]:
    for moment in (since, until):
        if moment is not None and (moment.minute, moment.second, moment.microsecond) != (0, 0, 0):
            raise PartialHourError(
                f"{moment:%Y-%m-%dT%H:%M:%S}Z is within an hour, and these sums are kept by hours.",
                f"Name the beginning of an hour in UTC, such as {moment:%Y-%m-%dT%H}:00Z.",
            )
    # Both ends are always there, so that the planner sees a range of the index.
    return {"since": since or _FIRST, "until": until or _LAST, "asset": asset, "limit": limit}


_FIRST, _LAST = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))


def _chosen(by: Collection[str]) -> tuple[bool, ...]:
    return tuple([name in by for name in GROUPS])


_OF_TIME: LiteralString = """
    FROM ledger.hourly_totals
    WHERE hour >= %(since)s AND hour < %(until)s AND what = ANY({what})
          AND (%(asset)s::text IS NULL OR asset = %(asset)s)
"""
_SPENT_TEXT: LiteralString = (
    """SELECT asset, {groups}, coalesce(sum(amount) FILTER (WHERE what = 'spent'), 0) AS spent,
              coalesce(sum(amount) FILTER (WHERE what = 'refunded'), 0) AS refunded,
              coalesce(sum(amount) FILTER (WHERE what = 'repaid'), 0) AS repaid"""
    + _OF_TIME
    + "GROUP BY 1, 2, 3, 4 ORDER BY asset, spent DESC, refunded DESC, repaid DESC, 2, 3, 4 LIMIT %(limit)s"
)
_ENDED_TEXT: LiteralString = (
    "SELECT asset, what, {groups}, sum(amount) AS amount"
    + _OF_TIME
    + "GROUP BY 1, 2, 3, 4, 5 ORDER BY asset, what, amount DESC, 3, 4, 5 LIMIT %(limit)s"
)
_GROUPED: tuple[LiteralString, ...] = ("coalesce(class, 'debt')", "source", "reason")


def _statements(text: LiteralString, what: Sequence[str]) -> dict[tuple[bool, ...], sql.Composed]:
    """A statement for each choice of GROUPS."""
    found = {}
    for choice in range(2 ** len(GROUPS)):
        chosen = tuple([bool(choice & 1 << place) for place in range(len(GROUPS))])
        parts = [
            sql.SQL("{} AS {}").format(sql.SQL(value if is_there else "NULL::text"), sql.Identifier(name))
            for value, name, is_there in zip(_GROUPED, ("lot_class", "source", "reason"), chosen, strict=True)
        ]
        found[chosen] = sql.SQL(text).format(groups=sql.SQL(", ").join(parts), what=sql.Literal(list(what)))
    return found


_SPENT = _statements(_SPENT_TEXT, ("spent", "refunded", "repaid"))
_ENDED = _statements(_ENDED_TEXT, ("expired", "voided", "forfeited", "lapsed"))
