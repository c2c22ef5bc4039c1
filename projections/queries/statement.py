"""An account's statement: what it had, what changed it between two instants, and what it had then.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, instants are aware datetimes in UTC.
The log's clock never goes back, so the lines of a time are those between two versions, which are found by the
account's index, however long its journal is.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection

from creditfold.common.position import Position
from creditfold.projections.connections import rows_of
from creditfold.projections.queries.balances import Balance, balances_after
from creditfold.projections.queries.journal import last_version

#: The columns of a statement as a table of one kind of row: first opening rows, then lines, then closing ones.
COLUMNS = (
    *("row", "asset", "decided_at_utc", "kind", "amount", "change", "available", "pending", "held", "debt"),
    *("command_id", "source", "reason", "version", "partition", "offset"),
)


class StatementBalance(NamedTuple):
    """What an account had of one asset, in its smallest unit."""

    asset: str
    available: int = 0
    pending: int = 0
    held: int = 0
    debt: int = 0

    def cells(self, row: str) -> Sequence[object]:
        """Its row of a table, as `opening` or `closing`."""
        return (row, self.asset, None, None, None, None, *self[1:], *(None,) * 6)


class StatementLine(NamedTuple):
    """One accepted line of the journal about an asset, and what the account had of that asset after it."""

    log_partition: int
    log_offset: int
    version: int
    decided_at: datetime
    kind: str
    asset: str
    amount: int
    change: int
    available: int
    pending: int
    held: int
    debt: int
    command_id: str | None
    source: str | None
    note: str | None

    @property
    def position(self) -> Position:
        """Position of the record that was decided."""
        return Position(self.log_partition, self.log_offset)

    def cells(self) -> Sequence[object]:
        """Its row of a table."""
        amounts = (self.amount, self.change, self.available, self.pending, self.held, self.debt)
        about = (self.command_id, self.source, self.note, self.version, self.log_partition, self.log_offset)
        return ("line", self.asset, self.decided_at, self.kind, *amounts, *about)


class StatementPlace(NamedTuple):
    """A place in a statement: `after` is the version of the last line that was read.

    The statement is of the lines whose versions are greater than `first` and at most `last`.
    """

    first: int
    last: int
    after: int


class Statement(NamedTuple):
    """Balances before and after a time, and a page of the lines in it, oldest first.

    For each asset, `opening` and the changes of all lines come to `closing`. `following` is where the next page begins,
    None after the last.
    """

    account_id: str
    opening: Sequence[StatementBalance]
    lines: Sequence[StatementLine]
    closing: Sequence[StatementBalance]
    following: StatementPlace | None


def statement(
    connection: Connection[Any],
    account: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    asset: str | None = None,
    limit: int = 1_000,
    place: StatementPlace | None = None,
) -> Statement:
    """An account's balances before a time, the lines in it, and the balances after it.

    The time is half-open, by the log's clock, so that the statements of two months that follow each other have each
    line once. Must run in a snapshot (`creditfold.projections.connections.snapshot`). Rejections change nothing and are
    left out.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        since: the first instant that counts; None for the account's beginning.
        until: the first instant that doesn't count any more; None for all that is folded.
        asset: only this asset; None for all.
        limit: how many lines at most.
        place: where the page begins, of the page before; `since` and `until` are then what they were for that one.

    Returns:
        The statement, with the page's lines.

    Example:
        >>> from creditfold.projections.connections import snapshot
        >>> with snapshot(connection):
        ...     found = statement(connection, "ada", limit=2)
        >>> [(line.kind, line.change, line.available) for line in found.lines], found.closing[0].available
        ([('grant', 500, 500), ('spend', -180, 320)], 280)
    """
    if place is None:
        first = 0 if since is None else last_version(connection, account, since)
        # Not less, where somebody has the time end before it begins.
        last = max(first, last_version(connection, account, until))
        place = StatementPlace(first, last, first)
    rows = _lines(connection, account, asset, place, limit + 1)
    following = place._replace(after=rows[limit - 1].version) if len(rows) > limit else None
    had = {row.asset: _balance(row) for row in balances_after(connection, account, place.first)}
    has = {row.asset: _balance(row) for row in balances_after(connection, account, place.last)}
    assets = [name for name in has if asset in (None, name)]
    opening = [had.get(name) or StatementBalance(name) for name in assets]
    return Statement(account, opening, rows[:limit], [has[name] for name in assets], following)


def last_changes(connection: Connection[Any], account: str, asset: str, most: int) -> Sequence[StatementLine]:
    """The changes of an asset among the last lines of an account's journal, oldest first, without balances before them.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        asset: that changed.
        most: how many of the last lines are looked at, of whatever asset.

    Returns:
        The lines of the asset.

    Example:
        >>> [line.available for line in last_changes(connection, "ada", "credits", 100)]
        [500, 320, 280, 280]
    """
    last = last_version(connection, account)
    first = max(0, last - most)
    return _lines(connection, account, asset, StatementPlace(first, last, first), most)


def _lines(
    connection: Connection[Any], account: str, asset: str | None, place: StatementPlace, limit: int
) -> list[StatementLine]:
    return rows_of(
        connection,
        StatementLine,
        """SELECT log_partition, log_offset, version, decided_at, kind, asset, amount, change, balance AS available,
                  pending, held, debt, command_id, source, note
           FROM ledger.journal
           WHERE account_id = %(account)s AND version > %(after)s AND version <= %(last)s AND accepted AND asset <> ''
             AND (%(asset)s::text IS NULL OR asset = %(asset)s)
           ORDER BY version LIMIT %(limit)s""",
        {"account": account, "asset": asset, "limit": limit, **place._asdict()},
    )


def _balance(row: Balance) -> StatementBalance:
    return StatementBalance(row.asset, row.available, row.pending, row.held, row.debt)
