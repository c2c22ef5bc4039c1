"""What people decided about dead letters: recorded once each, beside the generations, and read with the letters.

Owns the SQL of ledger.dead_letter_decisions and of the views that show it. Refuses to know what is appended and how.
The table's primary key is what keeps a letter from being decided twice, whoever tries and however often.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import LiteralString, NamedTuple

from psycopg import Connection, sql
from psycopg.errors import InsufficientPrivilege, LockNotAvailable
from psycopg.rows import TupleRow

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log, Position
from creditfold.projections.connections import pinned, rows_of
from creditfold.projections.failures import NotPreparedError
from creditfold.projections.tables.setup import live, refuse_other_layout, schema_of, source_of

#: States of a dead letter that still have something to be done about them.
OPEN, REDRIVING = "open", "redriving"


class NotAllowedToDecideError(CreditfoldError):
    """This user of PostgreSQL may read the ledger and not decide about its dead letters."""


class UnderWayError(CreditfoldError):
    """Somebody else is redriving the same letter at this moment."""

    exit_code = 3


class TreatedLetter(NamedTuple):
    """A dead letter and its state: open, redriving (its record may be in the log or not), redriven or discarded.

    `to_partition` and `to_offset` say where its record is that mends it. A letter that is redriven without
    `decided_at` was decided in another database; the log alone tells of it.
    """

    log_partition: int
    log_offset: int
    state: str
    reason: str
    detail: str
    appended_at: datetime | None
    key: bytes | None
    value: bytes | None
    headers: list[list[str | None]]
    decided_by: str | None
    decided_at: datetime | None
    note: str | None
    corrected: bool | None
    to_partition: int | None
    to_offset: int | None

    @property
    def position(self) -> Position:
        """Where its record is."""
        return Position(self.log_partition, self.log_offset)

    @property
    def to(self) -> Position | None:
        """Where the record is that mends it, once that is known."""
        return _place(self.to_partition, self.to_offset)


def _place(partition: int | None, offset: int | None) -> Position | None:
    return None if partition is None or offset is None else Position(partition, offset)


class Decided(NamedTuple):
    """One decision. `key` and `value` are what a redrive appends, `to_partition` and `to_offset` where that is."""

    decision: str
    decided_by: str
    decided_at: datetime
    note: str
    corrected: bool
    key: bytes | None
    value: bytes | None
    to_partition: int | None
    to_offset: int | None

    @property
    def to(self) -> Position | None:
        """Where the redriven record is; None for a discarded letter and for a redrive that isn't finished."""
        return _place(self.to_partition, self.to_offset)


class Wish(NamedTuple):
    """What somebody wants to decide: `redrive`, with the bytes to append, or `discard`."""

    decision: str
    decided_by: str
    note: str
    corrected: bool = False
    key: bytes | None = None
    value: bytes | None = None


class Filter(NamedTuple):
    """Which dead letters: of a reason, of a record's key, appended at or after an instant. None is any."""

    reason: str | None = None
    key: bytes | None = None
    since: datetime | None = None


class Selected(NamedTuple):
    """A dead letter that a filter found, without its bytes."""

    log_partition: int
    log_offset: int
    reason: str

    @property
    def position(self) -> Position:
        """Where its record is."""
        return Position(self.log_partition, self.log_offset)


class Mends(NamedTuple):
    """What a record's headers said of the dead letter that it mends."""

    of_partition: int
    of_offset: int
    decided_by: str
    note: str

    @property
    def of(self) -> Position:
        """Where the mended letter is."""
        return Position(self.of_partition, self.of_offset)


_LETTERS: LiteralString = """
    SELECT log_partition, log_offset, state, reason, detail, appended_at, key, value, headers,
           decided_by, decided_at, note, corrected, to_partition, to_offset
    FROM ledger.dead_letters JOIN ledger.dead_letter_states USING (log_partition, log_offset)
"""
_DECIDED: LiteralString = """
    SELECT decision, decided_by, decided_at, note, corrected, key, value, to_partition, to_offset
    FROM ledger.dead_letter_decisions WHERE (topic_id, log_partition, log_offset) = (%s, %s, %s)
"""


@contextmanager
def deciding(dsn: str) -> Iterator[Connection[TupleRow]]:
    """A connection that may decide. Raises NotAllowedToDecideError for a user who may only read."""
    with pinned(dsn) as connection:
        try:
            yield connection
        except InsufficientPrivilege as error:
            raise NotAllowedToDecideError(
                f"This PostgreSQL user may not decide about dead letters: {error.diag.message_primary}.",
                "Use the user that made the tables: name it in CREDITFOLD_POSTGRES_DSN.",
            ) from error


def live_log(connection: Connection[TupleRow]) -> Log:
    """The log whose dead letters are shown: that of the live generation."""
    found = live(connection)
    if found is None:
        raise NotPreparedError("The database holds no ledger.", "Run `creditfold init`.")
    refuse_other_layout(*found)
    return source_of(connection, found[0])


def letters(
    connection: Connection[TupleRow], limit: int, reason: str | None = None, *, only_open: bool = False
) -> Sequence[TreatedLetter]:
    """The latest dead letters, newest first, of all reasons or of one, of all states or the open ones."""
    query = (
        _LETTERS
        + """WHERE (%s::text IS NULL OR reason = %s) AND (NOT %s OR state = 'open')
             ORDER BY appended_at DESC NULLS LAST, log_partition DESC, log_offset DESC LIMIT %s"""
    )
    return rows_of(connection, TreatedLetter, query, (reason, reason, only_open, limit))


def letter(connection: Connection[TupleRow], position: Position) -> TreatedLetter | None:
    """The dead letter made of the record at a position, or None."""
    rows = rows_of(
        connection, TreatedLetter, _LETTERS + "WHERE (log_partition, log_offset) = (%s, %s)", tuple(position)
    )
    return rows[0] if rows else None


def selected(connection: Connection[TupleRow], wanted: Filter, states: Sequence[str]) -> Sequence[Selected]:
    """The letters of a filter in some states, oldest first, which is the order in which they were meant."""
    return rows_of(
        connection,
        Selected,
        """SELECT log_partition, log_offset, reason
           FROM ledger.dead_letters JOIN ledger.dead_letter_states USING (log_partition, log_offset)
           WHERE state = ANY(%(states)s) AND (%(reason)s::text IS NULL OR reason = %(reason)s)
             AND (%(key)s::bytea IS NULL OR key = %(key)s)
             AND (%(since)s::timestamptz IS NULL OR appended_at >= %(since)s)
           ORDER BY appended_at NULLS FIRST, log_partition, log_offset""",
        {"states": list(states), **wanted._asdict()},
    )


def mends(connection: Connection[TupleRow], position: Position) -> Mends | None:
    """What the record at a position says that it mends, or None."""
    rows = rows_of(
        connection,
        Mends,
        """SELECT of_partition, of_offset, decided_by, note FROM ledger.redrives
           WHERE (log_partition, log_offset) = (%s, %s)""",
        tuple(position),
    )
    return rows[0] if rows else None


def mended_at(connection: Connection[TupleRow], position: Position) -> Position | None:
    """Where the log has the first record that says it mends the letter at a position, as far as it is folded."""
    row = connection.execute(
        """SELECT log_partition, log_offset FROM ledger.redrives
           WHERE (of_partition, of_offset) = (%s, %s) ORDER BY log_partition, log_offset LIMIT 1""",
        tuple(position),
    ).fetchone()
    return None if row is None else Position(*row)


def decided(connection: Connection[TupleRow], topic_id: str, position: Position) -> Decided | None:
    """What was decided about a letter, or None if nothing was yet."""
    rows = rows_of(connection, Decided, _DECIDED, (topic_id, *position))
    return rows[0] if rows else None


def decide(connection: Connection[TupleRow], topic_id: str, position: Position, wish: Wish) -> bool:
    """Record a decision, for ever; False if there is one already, which stands.

    The primary key decides between two who try at once: the second waits for the first and gets False.
    """
    cursor = connection.execute(
        """INSERT INTO ledger.dead_letter_decisions
               (topic_id, log_partition, log_offset, decision, decided_by, note, corrected, key, value)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",
        (topic_id, *position, *wish),
    )
    return cursor.rowcount == 1


@contextmanager
def held(connection: Connection[TupleRow], topic_id: str, position: Position, timeout_s: float) -> Iterator[Decided]:
    """Hold a letter's decision for a block, alone: the lock goes with the transaction, and so with a killed process.

    Raises UnderWayError if somebody else has held it for `timeout_s` seconds.
    """
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(timeout_s * 1000)}ms",))
        try:
            rows = rows_of(connection, Decided, _DECIDED + "FOR UPDATE", (topic_id, *position))
        except LockNotAvailable:
            raise UnderWayError(
                f"{position} is being redriven by somebody else at this moment.",
                f"See what came of it: creditfold dead-letters show {position}",
            ) from None
        yield rows[0]


def complete(connection: Connection[TupleRow], topic_id: str, position: Position, to: Position) -> None:
    """Record where a redriven record is."""
    connection.execute(
        """UPDATE ledger.dead_letter_decisions SET to_partition = %s, to_offset = %s
           WHERE (topic_id, log_partition, log_offset) = (%s, %s, %s)""",
        (*to, topic_id, *position),
    )


def carry_discards(connection: Connection[TupleRow], old: int, new: int) -> None:
    """Keep discarded what was, where one generation takes another's place whose log was restored into another topic.

    Its records are the same at the same places. What was redriven is found in the log itself, if that has the redriven
    command; a redrive that was interrupted is open again.
    """
    connection.execute(
        sql.SQL(
            """INSERT INTO ledger.dead_letter_decisions
                   (topic_id, log_partition, log_offset, decision, decided_by, decided_at, note, corrected)
               SELECT s.topic_id, log_partition, log_offset, d.decision, d.decided_by, d.decided_at, d.note, d.corrected
               FROM {old}.source JOIN ledger.dead_letter_decisions d USING (topic_id)
               JOIN {old}.dead_letters o USING (log_partition, log_offset)
               JOIN {new}.dead_letters n USING (log_partition, log_offset)
               CROSS JOIN {new}.source s
               WHERE d.decision = 'discard' AND s.topic_id <> d.topic_id
                   AND (o.key, o.value) IS NOT DISTINCT FROM (n.key, n.value)
               ON CONFLICT DO NOTHING"""
        ).format(old=sql.Identifier(schema_of(old)), new=sql.Identifier(schema_of(new)))
    )
