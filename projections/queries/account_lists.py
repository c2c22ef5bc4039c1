"""What an account has, page by page: lots, holds, transfers and schedules, in orders that no write changes.

Reads the views in schema `ledger` only. Each order is by what a row keeps as long as it is listed. So who goes on
behind the last row of a page reads nothing twice, and misses nothing that was there all the time. What is over can be
any number of rows, and is read by the key that finds it; what is live is as much as the fold has in memory anyway.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.common.instants import milliseconds_of
from creditfold.projections.connections import rows_of
from creditfold.projections.queries.journal import last_version
from creditfold.projections.queries.lots import (
    SELECT_HOLDS,
    SELECT_LOTS,
    SELECT_SCHEDULES,
    SELECT_TRANSFERS,
    Hold,
    Lot,
    Schedule,
    Transfer,
)
from creditfold.projections.queries.lots_as_of import SELECT_HOLDS_AS_OF, SELECT_LOTS_AS_OF

# Behind every instant, in milliseconds.
_NEVER = 2**63 - 1


class Listing(NamedTuple):
    """Some rows of an account in an order.

    Args:
        kind: what a row is.
        select: the query of them, up to its conditions.
        where: what they must be, in SQL.
        order: what they are ordered by, in SQL.
        place: the values of these of a row: whole numbers and texts.
        like: a place of the same form.
        as_of: the query of the rows as they were after a line of the journal; None where that isn't known.
    """

    kind: type[Any]
    select: LiteralString
    where: LiteralString
    order: tuple[LiteralString, ...]
    place: Callable[[Any], Sequence[Any]]
    like: Sequence[Any]
    as_of: LiteralString | None = None


def _in_spending_order(lot: Lot) -> Sequence[Any]:
    ends, begins = _ms(lot.expires_at, _NEVER), _ms(lot.effective_at, 0)
    return (lot.asset, lot.priority, int(lot.scope is None), ends, int(lot.lot_class != "promo"), begins, lot.made)


def _ms(moment: datetime | None, otherwise: int) -> int:
    return otherwise if moment is None else milliseconds_of(moment)


def _by_command(row: Hold | Transfer | Schedule) -> Sequence[Any]:
    return (row.command_id,)


_COMMAND: LiteralString = 'l.command_id COLLATE "C"'
# The index of open transfers is by partition first.
_IN_TRANSIT: LiteralString = "l.is_open AND l.log_partition = ANY (ARRAY(SELECT log_partition FROM ledger.progress))"

#: Lots in which something remains or is held, by asset and in the order in which spends take from them.
LIVE_LOTS = Listing(
    Lot,
    SELECT_LOTS,
    "l.is_live",
    (
        'l.asset COLLATE "C"',
        "l.priority",
        "(l.scope IS NULL)::integer",
        "coalesce((extract(epoch FROM l.expires_at) * 1000)::bigint, 9223372036854775807)",
        "(l.class <> 'promo')::integer",
        "coalesce((extract(epoch FROM l.effective_at) * 1000)::bigint, 0)",
        "l.made",
    ),
    _in_spending_order,
    ("", 0, 0, 0, 0, 0, 0),
    SELECT_LOTS_AS_OF,
)
#: All lots there ever were, by the ids of the commands that made them.
EVERY_LOT = Listing(
    Lot,
    SELECT_LOTS,
    "true",
    (_COMMAND, "l.number"),
    lambda lot: (lot.command_id, lot.number),
    ("", 0),
    SELECT_LOTS_AS_OF,
)
#: Open holds, the first to lapse first.
OPEN_HOLDS = Listing(
    Hold,
    SELECT_HOLDS,
    "l.is_open",
    ("coalesce((extract(epoch FROM l.deadline) * 1000)::bigint, 9223372036854775807)", "l.made"),
    lambda hold: (_ms(hold.deadline, _NEVER), hold.made),
    (0, 0),
    SELECT_HOLDS_AS_OF,
)
#: All holds there ever were, transfers that are in transit, all transfers, and all schedules, by their ids.
EVERY_HOLD = Listing(Hold, SELECT_HOLDS, "true", (_COMMAND,), _by_command, ("",), SELECT_HOLDS_AS_OF)
IN_TRANSIT = Listing(Transfer, SELECT_TRANSFERS, _IN_TRANSIT, (_COMMAND,), _by_command, ("",))
EVERY_TRANSFER = Listing(Transfer, SELECT_TRANSFERS, "true", (_COMMAND,), _by_command, ("",))
EVERY_SCHEDULE = Listing(Schedule, SELECT_SCHEDULES, "true", (_COMMAND,), _by_command, ("",))


def listed(
    connection: Connection[Any],
    account: str,
    listing: Listing,
    limit: int,
    after: Sequence[Any] | None = None,
    *,
    asset: str | None = None,
    until_ms: int | None = None,
    until: int | None = None,
) -> Sequence[Any]:
    """Some of what an account has, or had, in an order that no write changes.

    As of an instant or an offset it is what was decided until then, as a rebuild that ends there has it: what began or
    ended since the account was last settled isn't counted. It takes as long as the account's journal until then is.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        listing: what, and in which order: `LIVE_LOTS`, `EVERY_LOT`, `OPEN_HOLDS`, `EVERY_HOLD`, `IN_TRANSIT`,
            `EVERY_TRANSFER` or `EVERY_SCHEDULE`.
        limit: how many rows at most.
        after: only what comes behind that place, which is `listing.place` of a row; None for the first.
        asset: only what is of this asset; None for all.
        until_ms: as of an instant of the log's clock in milliseconds since 1970 UTC, inclusive; None for any.
        until: as of an offset of the account's partition, inclusive; None for any.

    Returns:
        Rows of the listing's kind; amounts are in the asset's smallest unit. As of a time, `log_offset` is that of the
        record that last moved something of it.

    Raises:
        ValueError: an instant or an offset is given, and the listing is known of the present only: it has no `as_of`.

    Example:
        >>> [(lot.command_id, lot.remaining) for lot in listed(connection, "ada", LIVE_LOTS, 10)]
        [('welcome', 280)]
    """
    order: LiteralString = ", ".join(listing.order)
    names: dict[str, Any] = {"account": account, "asset": asset, "limit": limit}
    query = listing.select
    if until_ms is not None or until is not None:
        if listing.as_of is None:
            raise ValueError(f"the {listing.kind.__name__} of an account is known of the present only")
        query = listing.as_of
        names["version"] = last_version(connection, account, until_ms=until_ms, until=until)
    query += "WHERE l.account_id = %(account)s AND " + listing.where
    if asset is not None:
        query += " AND l.asset = %(asset)s"
    if after is not None:
        query += " AND (" + order + ") > (" + ", ".join(_PLACE[: len(after)]) + ")"
        names |= {f"after_{number}": value for number, value in enumerate(after)}
    query += " ORDER BY " + order + " LIMIT %(limit)s"
    return rows_of(connection, listing.kind, query, names)


# The parameters of a place's values.
_PLACE = tuple(f"%(after_{number})s" for number in range(len(LIVE_LOTS.order)))


def listed_row(
    connection: Connection[Any], account: str, listing: Listing, command_id: str, number: int | None = None
) -> Any | None:
    """One row of what an account has, also where a listing doesn't have it any more: it keeps its place there.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        listing: of which kind it is.
        command_id: the command that made it.
        number: of the command's lots, from 1; None for what isn't a lot.

    Returns:
        A row of the listing's kind; None if the account has no such.

    Example:
        >>> lot = listed_row(connection, "ada", LIVE_LOTS, "welcome", 1)
        >>> listed(connection, "ada", LIVE_LOTS, 10, LIVE_LOTS.place(lot))
        []
    """
    query: LiteralString = listing.select + "WHERE l.account_id = %s AND l.command_id = %s"
    if number is not None:
        query += " AND l.number = %s"
    names = (account, command_id) if number is None else (account, command_id, number)
    rows = rows_of(connection, listing.kind, query, names)
    return rows[0] if rows else None
