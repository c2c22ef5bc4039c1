"""What the publisher reads: journal and dead letters of one partition between two offsets. Knows no Kafka.

Reads the views in schema `ledger` only. Another process may point them at another generation at any time, so
what belongs together is read in one transaction: `read_windows` and `decision_at` need a connection that begins one, at
the isolation level "repeatable read".

One record of the log can have many rows: a tick has those of every account with something due. So a window may
end in the middle of an offset, and where it ends is a `Place`.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from psycopg import Connection

from creditfold.common.position import Log
from creditfold.projections.connections import rows_of
from creditfold.projections.tables.source import LogChangedError

#: Offsets of the log that one window spans at most.
WINDOW_OFFSETS = 4_000
#: Decisions of one window at most; it also ends with the decision that brings its texts to WINDOW_CHARACTERS.
WINDOW_ROWS = 4_000
WINDOW_CHARACTERS = 8 * 2**20
#: Dead letters of one window at most, and their bytes at most, unless it is a single one.
WINDOW_DEAD_LETTERS = 1_000
WINDOW_DEAD_BYTES = 8 * 2**20


# Rows that come from PostgreSQL at a time. Texts of one that have more bytes come when it is their turn: a row can have
# megabytes of facts.
_FETCHED_ROWS = 200
_LONG_BYTES = 100_000


class Place(NamedTuple):
    """A place between the journal's rows: after that of an account's version at an offset, or before all of an offset.

    Python orders texts as UTF-8 orders their bytes, so places compare as their rows follow each other.
    """

    offset: int
    account: str = ""
    version: int = 0


class JournalRow(NamedTuple):
    """One outcome. Instants are in ms UTC, `occurred_at_ms` is 0 if unknown, `note` is the command's reason.

    `command_id` is None for what time did, and for a further asset that a command touched. `details` and `facts` are
    JSON; a command without details has None.
    """

    log_offset: int
    account: str
    version: int
    command_id: str | None
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
    change: int = 0
    pending: int = 0
    held: int = 0
    debt: int = 0
    step: int | None = None
    details: str | None = None
    facts: str = "[]"

    @property
    def place(self) -> Place:
        """The place after this row."""
        return Place(self.log_offset, self.account, self.version)


class DeadRow(NamedTuple):
    """One record that can't be folded; `headers` are pairs of an escaped name and base64 text.

    `appended_at_ms` is in milliseconds since 1970 UTC, 0 if it isn't known.
    """

    log_offset: int
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None
    headers: list[list[str | None]]
    appended_at_ms: int = 0


class Window(NamedTuple):
    """What the fold made of a partition's records from somewhere up to a place, in the order of the log.

    At one offset the decisions are in the order of their accounts' bytes, and of the versions within an account.
    `traces` are the contexts of the traces that records came with (`traceparent`), by their offsets; few have one.
    """

    end: Place
    journal: Sequence[JournalRow]
    dead_letters: Sequence[DeadRow]
    traces: Mapping[int, str] = {}


# The views show instants of microseconds, made of whole milliseconds; rounding gives these back exactly.
_COLUMNS = """
    SELECT log_offset, account_id, version, command_id, kind, asset, amount, balance, rejection, rules,
        round(date_part('epoch', decided_at) * 1000)::bigint,
        coalesce(round(date_part('epoch', occurred_at) * 1000)::bigint, 0), source, note, change, pending, held, debt,
        step, """

# No facts are an empty text: they are JSON.
_TOO_LONG = ""
_JOURNAL = f"""{_COLUMNS}
        CASE WHEN octet_length(details::text) <= {_LONG_BYTES} THEN details::text END,
        CASE WHEN octet_length(facts::text) + coalesce(octet_length(details::text), 0) <= {_LONG_BYTES} THEN facts::text
             ELSE '{_TOO_LONG}' END
    FROM ledger.journal
    WHERE log_partition = %s AND log_offset >= %s AND log_offset < %s
        AND (log_offset, account_id COLLATE "C", version) > (%s, %s, %s)
    ORDER BY log_offset, account_id COLLATE "C", version"""

_DECISION = f"""{_COLUMNS} details::text, facts::text FROM ledger.journal
    WHERE log_partition = %s AND log_offset = %s AND account_id = %s AND version = %s"""

_SIZES = """
    SELECT log_offset, coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0) + octet_length(headers::text)
    FROM ledger.dead_letters WHERE log_partition = %s AND log_offset >= %s AND log_offset < %s
    ORDER BY log_offset LIMIT %s"""

_DEAD_LETTERS = """
    SELECT log_offset, reason, detail, key, value, headers,
        coalesce(round(date_part('epoch', appended_at) * 1000)::bigint, 0) AS appended_at_ms
    FROM ledger.dead_letters WHERE log_partition = %s AND log_offset >= %s AND log_offset < %s ORDER BY log_offset"""


_TRACES = """
    SELECT log_offset, traceparent FROM ledger.trace_contexts
    WHERE log_partition = %s AND log_offset >= %s AND log_offset < %s"""


def folded_to(connection: Connection[Any], log: Log, partitions: Iterable[int]) -> Mapping[int, int]:
    """For each of these partitions of a log the offset before which everything is folded.

    Raises LogChangedError if the live generation is folded from another log.
    """
    rows = connection.execute(
        "SELECT log_partition, next_offset, topic, topic_id FROM ledger.progress WHERE log_partition = ANY(%s)",
        (list(partitions),),
    ).fetchall()
    for _, _, topic, topic_id in rows:
        if (topic, topic_id) != (log.topic, log.topic_id):
            raise LogChangedError(
                f"The live generation is folded from {topic} (id {topic_id}) now, and this publisher is of {log.topic} "
                f"(id {log.topic_id}).",
                f"Start it with CREDITFOLD_COMMANDS_TOPIC={topic}: it goes on where this one ended.",
            )
    return {partition: next_offset for partition, next_offset, _, _ in rows}


def read_windows(
    connection: Connection[Any], log: Log, partition: int, starts: tuple[Place, int], folded: int
) -> Generator[Window]:
    """Read the next decisions and dead letters of a log's partition, up to before `folded` at most; both to the same.

    Yields windows one after the other; all but the last end in the middle of an offset. Yields none if there is
    nothing to read, or if the views were switched to a projection that isn't folded so far.

    Args:
        connection: in a transaction, of which all is read.
        log: what the projection must be folded from.
        partition: of it.
        starts: the place from which decisions are read, and the offset from which dead letters are.
        folded: the offset before which everything is said to be folded.

    Raises LogChangedError if the views were switched to a projection of another log.
    """
    outcomes_from, dead_letters_from = starts
    start = min(outcomes_from.offset, dead_letters_from)
    if start >= folded:
        return
    only_dead_letters = outcomes_from.offset > start
    # Where only dead letters are missing, there are few of them: no need to look at a few offsets at a time.
    end = min(outcomes_from.offset if only_dead_letters else start + WINDOW_OFFSETS, folded)
    first_dead = max(start, dead_letters_from)
    sizes = connection.execute(_SIZES, (partition, first_dead, end, WINDOW_DEAD_LETTERS)).fetchall()
    end = _cut(sizes, end)
    dead_letters = rows_of(connection, DeadRow, _DEAD_LETTERS, (partition, first_dead, end)) if sizes else []
    traces = dict(connection.execute(_TRACES, (partition, start, end)).fetchall())
    rows = iter(()) if only_dead_letters else _decisions(connection, partition, outcomes_from, end)
    batches = _batches(rows)
    journal = next(batches)
    # Looked at again: a view that came to look at another generation shows it as it was when our transaction began.
    if folded_to(connection, log, [partition]).get(partition, 0) < end:
        return
    for following in batches:
        place = journal[-1].place
        yield Window(place, journal, [letter for letter in dead_letters if letter.log_offset < place.offset], traces)
        dead_letters = [letter for letter in dead_letters if letter.log_offset >= place.offset]
        journal = following
    yield Window(Place(end), journal, dead_letters, traces)


def decision_at(connection: Connection[Any], partition: int, place: Place) -> JournalRow | None:
    """The journal's row before a place, None if there is none."""
    row = connection.execute(_DECISION, (partition, *place)).fetchone()
    return None if row is None else JournalRow._make(row)


def _decisions(connection: Connection[Any], partition: int, place: Place, end: int) -> Iterator[JournalRow]:
    """Rows after a place up to before an offset, which stay at the server until they are asked for."""
    with connection.cursor("decisions") as cursor:
        cursor.itersize = _FETCHED_ROWS
        cursor.execute(_JOURNAL, (partition, place.offset, end, *place))
        # Without the driver's look-up of names for each row.
        for row in cursor:
            made = JournalRow._make(row)
            if made.facts == _TOO_LONG:
                # In the same snapshot, so it is there.
                whole = decision_at(connection, partition, made.place)
                made = made if whole is None else whole
            yield made


def _batches(rows: Iterable[JournalRow]) -> Iterator[list[JournalRow]]:
    """Rows in batches that fit a window; the last batch may be empty, and is if there are no rows."""
    batch: list[JournalRow] = []
    characters = 0
    for row in rows:
        if len(batch) >= WINDOW_ROWS or characters >= WINDOW_CHARACTERS:
            yield batch
            batch, characters = [], 0
        batch.append(row)
        characters += len(row.facts) + len(row.details or "")
    yield batch


def _cut(sizes: Sequence[tuple[int, int]], end: int) -> int:
    """Where a window must end for its dead letters to be as few and as small as they may be together."""
    for number, total in enumerate(accumulate(size for _, size in sizes)):
        if number and total > WINDOW_DEAD_BYTES:
            return sizes[number][0]
    return sizes[-1][0] + 1 if len(sizes) == WINDOW_DEAD_LETTERS else end
