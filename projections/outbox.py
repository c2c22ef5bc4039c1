"""What the publisher asks: journal and dead letters of one partition between two offsets. Knows no Kafka.

Reads the views in schema `ledger` only. Another process may put another generation behind them at any time, so
what belongs together is read in one transaction: `read_window` and `decision_at` want a connection that begins one, at
the isolation level "repeatable read".
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege

from creditfold.projections.connections import rows_of

#: Offsets of the log that one window spans at most.
WINDOW_OFFSETS = 4_000
#: Dead letters of one window, at most so many and, unless it is a single one, at most so many bytes.
WINDOW_DEAD_LETTERS = 1_000
WINDOW_DEAD_BYTES = 8 * 2**20


class JournalRow(NamedTuple):
    """One decision. Instants are in ms UTC, `occurred_at_ms` is 0 if unknown, `note` is the command's reason."""

    log_offset: int
    account: str
    version: int
    command_id: str
    kind: str
    asset: str
    amount: int
    balance: int
    rejection: str | None
    rules: int
    decided_at_ms: int
    occurred_at_ms: int
    source: str
    note: str


class DeadRow(NamedTuple):
    """One record that can't be folded; `headers` are pairs of an escaped name and base64 text."""

    log_offset: int
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None
    headers: list[list[str | None]]


class Window(NamedTuple):
    """What the fold made of a partition's records from somewhere to before offset `end`, in the order of the log."""

    end: int
    journal: Sequence[JournalRow]
    dead_letters: Sequence[DeadRow]


# The views show instants of microseconds, made of whole milliseconds; rounding gives these back exactly.
_JOURNAL = """
    SELECT log_offset, account_id, version, command_id, kind, asset, amount, balance, rejection, rules,
           round(date_part('epoch', decided_at) * 1000)::bigint,
           coalesce(round(date_part('epoch', occurred_at) * 1000)::bigint, 0), source, note
    FROM ledger.journal WHERE log_partition = %s AND log_offset >= %s AND log_offset < %s ORDER BY log_offset"""

_SIZES = """
    SELECT log_offset, coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0) + octet_length(headers::text)
    FROM ledger.dead_letters WHERE log_partition = %s AND log_offset >= %s AND log_offset < %s
    ORDER BY log_offset LIMIT %s"""

_DEAD_LETTERS = """
    SELECT log_offset, reason, detail, key, value, headers
    FROM ledger.dead_letters WHERE log_partition = %s AND log_offset >= %s AND log_offset < %s ORDER BY log_offset"""


# The index by position is a BRIN index of whatever table the view shows. Pages that it has no summary of yet are all
# read by every window, and PostgreSQL makes summaries once a minute or so.
_SUMMARISE = """
    SELECT brin_summarize_new_values(index.oid) FROM (
        SELECT DISTINCT pg_index.indexrelid FROM pg_rewrite
        JOIN pg_depend ON pg_depend.objid = pg_rewrite.oid AND refclassid = 'pg_class'::regclass
        JOIN pg_index ON pg_index.indrelid = pg_depend.refobjid
        WHERE ev_class = 'ledger.journal'::regclass
    ) AS of_journal JOIN pg_class AS index ON index.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
    WHERE amname = 'brin'"""


def summarise(connection: Connection[Any]) -> bool:
    """Have the journal's latest pages found by position. Tell whether this user may ask for that; only owners may."""
    try:
        connection.execute(_SUMMARISE)
    except InsufficientPrivilege:
        return False
    return True


def folded_to(connection: Connection[Any], partitions: Iterable[int]) -> Mapping[int, int]:
    """For each of these partitions the offset before which everything is folded."""
    cursor = connection.execute(
        "SELECT log_partition, next_offset FROM ledger.progress WHERE log_partition = ANY(%s)", (list(partitions),)
    )
    return dict(cursor.fetchall())


def read_window(
    connection: Connection[Any], partition: int, outcomes_from: int, dead_letters_from: int, folded: int
) -> Window | None:
    """Read the next decisions and dead letters from two offsets on, up to before `folded` at most; both up to the same.

    None if there is nothing to read, or if the views have come to lie behind a projection that isn't folded so far.
    """
    start = min(outcomes_from, dead_letters_from)
    if start >= folded:
        return None
    if outcomes_from <= start:
        end = min(start + WINDOW_OFFSETS, folded)
        journal = _decisions(connection, partition, start, end)
    else:
        # Only dead letters are missing there, and few of those: no need to look at a few offsets at a time.
        end = min(outcomes_from, folded)
        journal = []
    first_dead = max(start, dead_letters_from)
    sizes = connection.execute(_SIZES, (partition, first_dead, end, WINDOW_DEAD_LETTERS)).fetchall()
    end = _cut(sizes, end)
    dead_letters = _dead_letters(connection, partition, first_dead, end) if sizes else []
    # Looked at again: a view that came to look at another generation shows it as it was when our transaction began.
    if folded_to(connection, [partition]).get(partition, 0) < end:
        return None
    return Window(end, [row for row in journal if row.log_offset < end], dead_letters)


def decision_at(connection: Connection[Any], partition: int, offset: int) -> JournalRow | None:
    """What was decided about the record at an offset, None if nothing was."""
    rows = _decisions(connection, partition, offset, offset + 1)
    return rows[0] if rows else None


def _decisions(connection: Connection[Any], partition: int, start: int, end: int) -> list[JournalRow]:
    # Without the driver's look-up of names for each row.
    return [JournalRow._make(row) for row in connection.execute(_JOURNAL, (partition, start, end))]


def _dead_letters(connection: Connection[Any], partition: int, start: int, end: int) -> list[DeadRow]:
    return rows_of(connection, DeadRow, _DEAD_LETTERS, (partition, start, end))


def _cut(sizes: Sequence[tuple[int, int]], end: int) -> int:
    """Where a window must end for its dead letters to be as few and as small as they may be together."""
    for number, total in enumerate(accumulate(size for _, size in sizes)):
        if number and total > WINDOW_DEAD_BYTES:
            return sizes[number][0]
    return sizes[-1][0] + 1 if len(sizes) == WINDOW_DEAD_LETTERS else end
