"""The journal of all accounts, partition by partition from a place on, and the sums of where all credits are.

Reads the views in schema `ledger` only. Within a partition the lines are in the log's order, and lines never change:
who goes on where a page ended misses nothing and reads nothing twice, whatever is written meanwhile.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.common.errors import CreditfoldError
from creditfold.projections.connections import rows_of
from creditfold.projections.queries.progress import progress
from creditfold.schemas.outcome import Decision


class UnknownPartitionError(CreditfoldError):
    """A partition is named that the projection doesn't have."""

    exit_code = 2


class JournalPlace(NamedTuple):
    """A place in a partition's journal: after that line of an offset, or before all lines of it."""

    partition: int
    offset: int
    account: str = ""
    version: int = 0


class JournalPage(NamedTuple):
    """Lines of the journal; `places` are where the next page begins, and `has_more` is whether it has lines already."""

    lines: Sequence[Decision]
    places: Sequence[JournalPlace]
    has_more: bool


class Total(NamedTuple):
    """Where all credits of an asset are, and where they came from: the sums over all partitions.

    credits - debt + spent + expired + voided + forfeited + reissued + in_transit = issued.
    """

    asset: str
    credits: int
    debt: int
    issued: int
    spent: int
    expired: int
    voided: int
    forfeited: int
    reissued: int
    in_transit: int


def journal(
    connection: Connection[Any],
    places: Sequence[JournalPlace] = (),
    limit: int = 100,
    *,
    only_rejected: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
) -> JournalPage:
    """Lines of the journal of all accounts, oldest first, partition by partition.

    Must run in a snapshot (`creditfold.projections.connections.snapshot`). A time is half-open, by the log's clock.

    Args:
        connection: a reader's connection to the projection (`connected`).
        places: where to begin, a place for each partition that is read; none for all partitions from their beginnings.
        limit: how many lines at most.
        only_rejected: whether to leave out what was accepted.
        since: the first instant that counts; None for any.
        until: the first instant that doesn't count any more; None for any. The next page must be asked for with it.

    Returns:
        The page. At one offset, lines are in the order of their accounts' bytes, and of the versions within an account.

    Raises:
        UnknownPartitionError: a place is in a partition that there isn't.

    Example:
        >>> from creditfold.projections.connections import snapshot
        >>> with snapshot(connection):
        ...     page = journal(connection, limit=1_000)
        ...     again = journal(connection, page.places)
        >>> sum(line.account_id == "ada" for line in page.lines), len(again.lines), again.has_more
        (6, 0, False)
    """
    ends = {row.log_partition: row.next_offset for row in progress(connection)}
    lines: list[Decision] = []
    unfinished: list[JournalPlace] = []
    finished: list[JournalPlace] = []
    for begin in places or [JournalPlace(partition, 0) for partition in ends]:
        if begin.partition not in ends:
            raise UnknownPartitionError(
                f"The projection has no partition {begin.partition}.", f"It has 0 to {len(ends) - 1}."
            )
        place, end = _of_time(connection, begin, ends[begin.partition], since, until)
        # One more than there is room for shows whether there are more.
        room = limit - len(lines)
        found = _lines(connection, place, end, room + 1, only_rejected=only_rejected)
        lines += found[:room]
        if len(found) <= room:
            finished.append(JournalPlace(place.partition, max(place.offset, end)))
        elif room:
            last = found[room - 1]
            unfinished.append(JournalPlace(place.partition, last.log_offset, last.account_id, last.version))
        else:
            unfinished.append(place)
    # Those first, so that no partition waits for another one that is written all the time.
    return JournalPage(lines, [*unfinished, *finished], bool(unfinished))


# The log's clock never goes back within a partition: the first line at an instant is found by halving what is left.
_FIRST_OFFSET: LiteralString = """
    WITH RECURSIVE halves (low, high) AS (
        SELECT 0::bigint, %(end)s::bigint
        UNION ALL
        SELECT CASE WHEN n.decided_at < %(at)s THEN n.log_offset + 1 ELSE h.low END,
               CASE WHEN n.decided_at < %(at)s THEN h.high ELSE (h.low + h.high) / 2 END
        FROM halves h
        LEFT JOIN LATERAL (
            SELECT log_offset, decided_at FROM ledger.journal
            WHERE log_partition = %(partition)s AND log_offset >= (h.low + h.high) / 2 AND log_offset < h.high
            ORDER BY log_offset LIMIT 1
        ) n ON true
        WHERE h.low < h.high
    )
    SELECT high FROM halves WHERE low = high
"""


def _of_time(
    connection: Connection[Any], place: JournalPlace, end: int, since: datetime | None, until: datetime | None
) -> tuple[JournalPlace, int]:
    """Where the lines of a time begin, not before a place, and the offset behind them, `end` at most."""
    if since is not None and (first := _first_offset(connection, place.partition, end, since)) > place.offset:
        place = JournalPlace(place.partition, first)
    return place, end if until is None else _first_offset(connection, place.partition, end, until)


def _first_offset(connection: Connection[Any], partition: int, end: int, at: datetime) -> int:
    """Before which offset of a partition everything was decided before an instant; `end` at most."""
    row = connection.execute(_FIRST_OFFSET, {"partition": partition, "end": end, "at": at}).fetchone()
    return end if row is None else int(row[0])


def _lines(
    connection: Connection[Any], place: JournalPlace, end: int, limit: int, *, only_rejected: bool
) -> list[Decision]:
    # Up to where the fold stands: of a record further on, some lines may be written and others not.
    return rows_of(
        connection,
        Decision,
        """SELECT * FROM ledger.journal
           WHERE log_partition = %(partition)s AND log_offset >= %(offset)s AND log_offset < %(end)s
             AND (log_offset, account_id COLLATE "C", version) > (%(offset)s, %(account)s, %(version)s)
             AND (NOT %(only_rejected)s OR rejection IS NOT NULL)
           ORDER BY log_offset, account_id COLLATE "C", version LIMIT %(limit)s""",
        {**place._asdict(), "end": end, "limit": limit, "only_rejected": only_rejected},
    )


def totals(connection: Connection[Any]) -> Sequence[Total]:
    """Where all credits are and where they came from, by asset; kept by the fold, so that none is counted anew.

    Args:
        connection: a reader's connection to the projection (`connected`).

    Returns:
        One row for each asset, ordered by asset. Credits in transit are in no account.

    Example:
        >>> [(row.asset, row.spent) for row in totals(connection)]
        [('credits', 180)]
    """
    rows = connection.execute(
        """SELECT asset, sum(credits), sum(debt), sum(issued), sum(spent), sum(expired), sum(voided), sum(forfeited),
                  sum(reissued), sum(in_transit)
           FROM ledger.totals GROUP BY asset ORDER BY asset"""
    )
    # Sums of PostgreSQL's are decimals, since they may be larger than its largest whole numbers.
    return [Total(asset, *map(int, amounts)) for asset, *amounts in rows]
