"""What people decided about dead letters: recorded once each, in a table that outlives every generation.

Owns the SQL of ledger.dead_letter_decisions. Refuses to know what is appended and how. The table's primary key is what
keeps a letter from being decided twice, whoever tries and however often.
"""

from collections.abc import Iterator
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
from creditfold.projections.queries.dead_letters import position_of
from creditfold.projections.tables.scripts import refuse_other_layout, schema_of
from creditfold.projections.tables.source import live, source_of


class NotAllowedToDecideError(CreditfoldError):
    """This user of PostgreSQL may read the ledger and not decide about its dead letters."""


class RedriveUnderWayError(CreditfoldError):
    """Somebody else is redriving the same letter at this moment."""

    exit_code = 3


class LetterDecision(NamedTuple):
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
        return position_of(self.to_partition, self.to_offset)


class NewDecision(NamedTuple):
    """A decision to be recorded: `redrive`, with the bytes to append, or `discard`."""

    decision: str
    decided_by: str
    note: str
    corrected: bool = False
    key: bytes | None = None
    value: bytes | None = None


class MendedLetter(NamedTuple):
    """What a record's headers said of the dead letter that it mends."""

    of_partition: int
    of_offset: int
    decided_by: str
    note: str

    @property
    def of(self) -> Position:
        """Where the mended letter is."""
        return Position(self.of_partition, self.of_offset)


_DECIDED: LiteralString = """
    SELECT decision, decided_by, decided_at, note, corrected, key, value, to_partition, to_offset
    FROM ledger.dead_letter_decisions WHERE (topic_id, log_partition, log_offset) = (%s, %s, %s)
"""


@contextmanager
def decision_connection(dsn: str) -> Iterator[Connection[TupleRow]]:
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


def letter_mended_by(connection: Connection[TupleRow], position: Position) -> MendedLetter | None:
    """What the record at a position says that it mends, or None."""
    rows = rows_of(
        connection,
        MendedLetter,
        """SELECT of_partition, of_offset, decided_by, note FROM ledger.redrives
           WHERE (log_partition, log_offset) = (%s, %s)""",
        tuple(position),
    )
    return rows[0] if rows else None


def mending_record(connection: Connection[TupleRow], position: Position) -> Position | None:
    """Where the log has the first record that says it mends the letter at a position, as far as it is folded."""
    row = connection.execute(
        """SELECT log_partition, log_offset FROM ledger.redrives
           WHERE (of_partition, of_offset) = (%s, %s) ORDER BY log_partition, log_offset LIMIT 1""",
        tuple(position),
    ).fetchone()
    return None if row is None else Position(*row)


def decision_about(connection: Connection[TupleRow], topic_id: str, position: Position) -> LetterDecision | None:
    """What was decided about a letter, or None if nothing was yet."""
    rows = rows_of(connection, LetterDecision, _DECIDED, (topic_id, *position))
    return rows[0] if rows else None


def record_decision(connection: Connection[TupleRow], topic_id: str, position: Position, wish: NewDecision) -> bool:
    """Record a decision, which is final; False if there is one already, which stands.

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
def hold_decision(
    connection: Connection[TupleRow], topic_id: str, position: Position, timeout_s: float
) -> Iterator[LetterDecision]:
    """Hold a letter's decision for a block, alone: the lock goes with the transaction, and so with a killed process.

    Raises RedriveUnderWayError if somebody else has held it for `timeout_s` seconds.
    """
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(timeout_s * 1000)}ms",))
        try:
            rows = rows_of(connection, LetterDecision, _DECIDED + "FOR UPDATE", (topic_id, *position))
        except LockNotAvailable:
            raise RedriveUnderWayError(
                f"{position} is being redriven by somebody else at this moment.",
                f"See what came of it: creditfold dead-letters show {position}",
            ) from None
        yield rows[0]


def record_redrive(connection: Connection[TupleRow], topic_id: str, position: Position, to: Position) -> None:
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
