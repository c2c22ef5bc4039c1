"""Decisions across accounts in the order of the log, from a place on in each partition: what followers read.

Reads the views in schema `ledger` only, a page at a time. One record of the log can have many lines: a tick has those
of every account with something due. So a page may end in the middle of an offset, and where it ends is a `Place`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from psycopg import Connection

from creditfold.projections.connections import rows_of, snapshot
from creditfold.projections.queries.progress import progress
from creditfold.projections.queries.windows import Place
from creditfold.schemas.outcome import Decision

#: Offsets that are looked at for a page in each partition, however few of them have lines that are asked for.
SPAN = 20_000

_LINES = """
    SELECT * FROM ledger.journal
    WHERE log_partition = %s AND log_offset >= %s AND log_offset < %s
        AND (log_offset, account_id COLLATE "C", version) > (%s, %s, %s) AND starts_with(account_id, %s)
    ORDER BY log_offset, account_id COLLATE "C", version LIMIT %s"""


class PlacedDecision(NamedTuple):
    """A line of the journal, and the place behind it: that of the next offset where it is the last one of its own."""

    decision: Decision
    place: Place


class DecisionPage(NamedTuple):
    """Lines of the journal, in the order of the log within each partition.

    Fields:
        lines: those found.
        places: by partition, the place behind all that was looked at.
        is_last: whether that is all that is folded.
    """

    lines: Sequence[PlacedDecision]
    places: Mapping[int, Place]
    is_last: bool


def decisions_after(
    connection: Connection[Any], places: Mapping[int, Place], limit: int, account_prefix: str = ""
) -> DecisionPage:
    """The next lines of the journal behind a place of each partition.

    Args:
        connection: a reader's connection to the projection (`connected`), in no transaction.
        places: by partition. One that isn't there is read from its first offset.
        limit: of lines; each partition has an equal share of it, one line at least.
        account_prefix: begins the accounts whose lines are asked for.

    Returns:
        A page, of one snapshot. It may have no lines and not be the last one.
    """
    with snapshot(connection):
        folded = progress(connection)
        # Shared out, so that no partition waits for another one's end.
        share = max(1, limit // max(1, len(folded)))
        found: list[PlacedDecision] = []
        reached: dict[int, Place] = {}
        for row in folded:
            partition, start = row.log_partition, places.get(row.log_partition, Place(0))
            end = min(row.next_offset, start.offset + SPAN)
            lines, reached[partition] = _lines(connection, partition, start, end, (share, account_prefix))
            found += lines
        # Looked at again: the views may have come to show a generation that isn't folded so far.
        again = progress(connection)
    if [row.generation for row in again] != [row.generation for row in folded]:
        return DecisionPage((), dict(places), is_last=False)
    is_last = all(reached[row.log_partition] >= Place(row.next_offset) for row in folded)
    return DecisionPage(found, reached, is_last)


def _lines(
    connection: Connection[Any], partition: int, start: Place, end: int, asked: tuple[int, str]
) -> tuple[list[PlacedDecision], Place]:
    """Lines of one partition up to before an offset, and the place behind them; `asked` is how many, and of whom."""
    limit, account_prefix = asked
    if end <= start.offset:
        return [], start
    # One more, to know whether the last one of the page is the last one of its offset.
    rows = rows_of(connection, Decision, _LINES, (partition, start.offset, end, *start, account_prefix, limit + 1))
    offsets = [*(row.log_offset for row in rows[1:]), end]
    lines = [
        PlacedDecision(
            row,
            Place(row.log_offset + 1)
            if following > row.log_offset
            else Place(row.log_offset, row.account_id, row.version),
        )
        for row, following in zip(rows[:limit], offsets, strict=False)
    ]
    return lines, Place(end) if len(rows) <= limit else lines[-1].place
