"""The records of the log that can't be folded, each with what was decided about it.

Reads the views in schema `ledger` only. Instants are aware datetimes in UTC.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from creditfold.common.position import Position
from creditfold.projections.connections import rows_of

#: States of a dead letter that still have something to be done about them.
OPEN, REDRIVING = "open", "redriving"


class DeadLetterState(NamedTuple):
    """A dead letter and its state: open, redriving (its record may be in the log or not), redriven or discarded.

    `to_partition` and `to_offset` are the position of the record that was sent in its place. A letter that is redriven
    without `decided_at` was decided in another database; only the log records it.
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
        """Position of the record that was sent in its place, once that is known."""
        return position_of(self.to_partition, self.to_offset)


def position_of(partition: int | None, offset: int | None) -> Position | None:
    """A position of two columns, None where they are NULL."""
    return None if partition is None or offset is None else Position(partition, offset)


class LetterFilter(NamedTuple):
    """Which dead letters. None is any.

    Of a reason, of a record's key, appended from an instant on and before another one, of a partition of the log.
    """

    reason: str | None = None
    key: bytes | None = None
    since: datetime | None = None
    until: datetime | None = None
    partition: int | None = None


class LetterKey(NamedTuple):
    """A dead letter that a filter found, without its bytes."""

    log_partition: int
    log_offset: int
    reason: str

    @property
    def position(self) -> Position:
        """Where its record is."""
        return Position(self.log_partition, self.log_offset)


class LetterTotal(NamedTuple):
    """Dead letters of one reason and state: how many, of how many record keys, when the first and last were appended.

    The instants are None where no letter of them has a time.
    """

    reason: str
    state: str
    letters: int
    keys: int
    first_at: datetime | None
    last_at: datetime | None


_LETTERS: LiteralString = """
    SELECT log_partition, log_offset, state, reason, detail, appended_at, key, value, headers,
           decided_by, decided_at, note, corrected, to_partition, to_offset
    FROM ledger.dead_letters JOIN ledger.dead_letter_states USING (log_partition, log_offset)
"""

_KEYS: LiteralString = """
    SELECT log_partition, log_offset, reason
    FROM ledger.dead_letters JOIN ledger.dead_letter_states USING (log_partition, log_offset)
"""

_TOTALS: LiteralString = """
    SELECT reason, state, count(*) AS letters, count(DISTINCT key) AS keys, min(appended_at) AS first_at,
           max(appended_at) AS last_at
    FROM ledger.dead_letters JOIN ledger.dead_letter_states USING (log_partition, log_offset)
"""
_BY_STATE: LiteralString = """
    AND (NOT %(only_open)s OR state = 'open') GROUP BY reason, state ORDER BY count(*) DESC, reason, state
"""

# By what the indexes have: when a letter was appended, before all others where that isn't known; and keys that are no
# longer than an account's may be.
_OF_FILTER: LiteralString = """
    WHERE (%(reason)s::text IS NULL OR reason COLLATE "C" = %(reason)s)
        AND (%(key)s::bytea IS NULL
             OR key = %(key)s AND (octet_length(key) <= 512 OR octet_length(%(key)s::bytea) > 512))
        AND (%(since)s::timestamptz IS NULL OR coalesce(appended_at, '-infinity') >= %(since)s)
        AND (%(until)s::timestamptz IS NULL
             OR appended_at IS NOT NULL AND coalesce(appended_at, '-infinity') < %(until)s)
        AND (%(partition)s::integer IS NULL OR log_partition = %(partition)s)
"""


def dead_letters(
    connection: Connection[TupleRow],
    limit: int,
    reason: str | None = None,
    *,
    only_open: bool = False,
    since: datetime | None = None,
    until: datetime | None = None,
    account: str | None = None,
    partition: int | None = None,
    before: tuple[datetime | None, Position] | None = None,
) -> Sequence[DeadLetterState]:
    """The latest dead letters, newest first.

    Args:
        connection: a reader's connection to the projection (`connected`).
        limit: how many at most.
        reason: only those of this reason; None for all.
        only_open: whether to leave out those that were decided about.
        since: only those appended at this instant or later; None for any.
        until: only those appended before this instant; None for any.
        account: only those whose record's key is this account; None for any.
        partition: only those of this partition of the log; None for any.
        before: only those that come after this one here: when it was appended, and where it is.

    Returns:
        Dead letters with their state and bytes.

    Example:
        >>> [(letter.reason, letter.state) for letter in dead_letters(connection, limit=10, only_open=True)]
        [('command_id_reused', 'open')]
    """
    query = (
        _LETTERS
        + _OF_FILTER
        + """AND (NOT %(only_open)s OR state = 'open')
             AND (%(at)s::timestamptz IS NULL
                  OR (coalesce(appended_at, '-infinity'), log_partition, log_offset) < (%(at)s, %(part)s, %(offset)s))
             ORDER BY coalesce(appended_at, '-infinity') DESC, log_partition DESC, log_offset DESC LIMIT %(limit)s"""
    )
    at, (part, offset) = before or (None, (None, None))
    place = {"at": at if before is None or at is not None else "-infinity", "part": part, "offset": offset}
    wanted = LetterFilter(reason, None if account is None else account.encode(), since, until, partition)
    values = {**wanted._asdict(), **place, "only_open": only_open, "limit": limit}
    return rows_of(connection, DeadLetterState, query, values)


def dead_letter(connection: Connection[TupleRow], position: Position) -> DeadLetterState | None:
    """The dead letter made of the record at a position.

    Args:
        connection: a reader's connection to the projection (`connected`).
        position: where the record is in the log.

    Returns:
        The dead letter; None if the record at the position isn't one.

    Example:
        >>> position = dead_letters(connection, limit=1)[0].position
        >>> dead_letter(connection, position).detail
        "command id 'order-1' of this account was decided before with another body"
    """
    rows = rows_of(
        connection, DeadLetterState, _LETTERS + "WHERE (log_partition, log_offset) = (%s, %s)", tuple(position)
    )
    return rows[0] if rows else None


def dead_letters_with(connection: Connection[TupleRow], text: str) -> Sequence[DeadLetterState]:
    """The dead letters whose value contains a text, in the log's order. Reads all dead letters.

    Args:
        connection: a reader's connection to the projection (`connected`).
        text: searched for in UTF-8, such as a command id.

    Returns:
        Dead letters, by partition and offset.

    Example:
        >>> len(dead_letters_with(connection, "order-1"))
        1
    """
    query = _LETTERS + "WHERE position(%s IN value) > 0 ORDER BY log_partition, log_offset"
    return rows_of(connection, DeadLetterState, query, (text.encode(),))


def letter_totals(
    connection: Connection[TupleRow], wanted: LetterFilter, *, only_open: bool = False
) -> Sequence[LetterTotal]:
    """How many dead letters of a filter there are, by reason and state, the most first. Reads all of them."""
    query = _TOTALS + _OF_FILTER + _BY_STATE
    return rows_of(connection, LetterTotal, query, {"only_open": only_open, **wanted._asdict()})


def selected(
    connection: Connection[TupleRow], wanted: LetterFilter, states: Sequence[str], limit: int | None = None
) -> Sequence[LetterKey]:
    """The letters of a filter in some states, oldest first, which is the order in which they were meant."""
    query = (
        _KEYS
        + _OF_FILTER
        + """AND state = ANY(%(states)s)
             ORDER BY coalesce(appended_at, '-infinity'), log_partition, log_offset LIMIT %(limit)s"""
    )
    return rows_of(connection, LetterKey, query, {"states": list(states), "limit": limit, **wanted._asdict()})
