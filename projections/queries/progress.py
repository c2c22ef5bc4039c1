"""How far the log is folded, by partition, and under which rules; and waiting for it.

Reads the views in schema `ledger` only. Instants are aware datetimes in UTC.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.log.bookmark import Bookmark, LastRecord
from creditfold.projections.connections import rows_of


class NotYetFoldedError(CreditfoldError):
    """The fold hasn't reached a position within the time given."""

    exit_code = 4


class RulesActivated(NamedTuple):
    """A record from which on its partition is decided by another version of the rules."""

    log_partition: int
    log_offset: int
    rules: int
    activated_at: datetime
    command_id: str
    source: str
    note: str


class PartitionProgress(NamedTuple):
    """How far one partition is folded, and how many of its records had which outcome.

    `clock` is the log's clock and `folded_at` the database server's when the last chunk was written; both are aware
    datetimes in UTC.
    """

    topic: str
    log_partition: int
    next_offset: int
    accepted: int
    rejected: int
    duplicates: int
    dead_letters: int
    records: int
    clock: datetime | None
    folded_at: datetime | None
    epoch: int
    owner: str
    activations: int = 0
    rules: int = 1
    generation: int = 0
    chain: bytes = b""
    ticks: int = 0
    topic_id: str = ""
    last_offset: int = -1
    last_digest: bytes = b""

    @property
    def bookmark(self) -> Bookmark:
        """Where the fold of the log stopped."""
        clock_ms = 0 if self.clock is None else round(self.clock.timestamp() * 1000)
        return Bookmark(self.next_offset, LastRecord(self.last_offset, self.last_digest), clock_ms)


def bookmarks(connection: Connection[Any]) -> dict[int, Bookmark]:
    """Where the live generation's fold of each partition stopped reading the log.

    Args:
        connection: a reader's connection to the projection (`connected`).

    Returns:
        A bookmark by partition.

    Example:
        >>> sorted(bookmarks(connection))
        [0, 1, 2, 3]
    """
    return {row.log_partition: row.bookmark for row in progress(connection)}


def progress(connection: Connection[Any]) -> Sequence[PartitionProgress]:
    """How far each partition is folded.

    Args:
        connection: a reader's connection to the projection (`connected`).

    Returns:
        One row for each partition, ordered by partition.

    Example:
        >>> sum(partition.dead_letters for partition in progress(connection))
        1
    """
    return rows_of(connection, PartitionProgress, "SELECT * FROM ledger.progress ORDER BY log_partition", ())


class Standing(NamedTuple):
    """How far a generation is folded: the next offset of each partition, and the log's clock where it has one.

    `topic_id` is of the log that it is folded from.
    """

    generation: int
    next_offsets: Mapping[int, int]
    clocks: Mapping[int, datetime]
    topic_id: str

    def reflects(self, position: Position) -> bool:
        """Whether a position is folded in it."""
        return self.next_offsets.get(position.partition, 0) > position.offset


def standing(connection: Connection[Any]) -> Standing:
    """How far the log is folded, and by which generation; for whoever asks over and over.

    Args:
        connection: a reader's connection to the projection (`connected`).

    Returns:
        The next offset and the log's clock by partition, and the generation, which is 0 where nothing was prepared.

    Example:
        >>> found = standing(connection)
        >>> found.generation, sorted(found.next_offsets)
        (1, [0, 1, 2, 3])
    """
    query = "SELECT generation, topic_id, log_partition, next_offset, clock FROM ledger.progress"
    return standing_of_fields(connection.execute(query, prepare=True).fetchall())


def standing_of(rows: Iterable[PartitionProgress]) -> Standing:
    """What `standing` returns, of the rows of `progress`."""
    return standing_of_fields(
        [(row.generation, row.topic_id, row.log_partition, row.next_offset, row.clock) for row in rows]
    )


def standing_of_fields(rows: Sequence[Any]) -> Standing:
    """The same, of rows of generation, topic's id, partition, next offset and clock."""
    return Standing(
        generation=rows[0][0] if rows else 0,
        next_offsets={partition: offset for *_, partition, offset, _ in rows},
        clocks={partition: clock for *_, partition, _, clock in rows if clock is not None},
        topic_id=rows[0][1] if rows else "",
    )


def activations(connection: Connection[Any]) -> Sequence[RulesActivated]:
    """The records that brought another version of the rules into force.

    Args:
        connection: a reader's connection to the projection (`connected`).

    Returns:
        One row for each record, by partition and offset.

    Example:
        >>> activations(connection)
        []
    """
    query = "SELECT * FROM ledger.activations ORDER BY log_partition, log_offset"
    return rows_of(connection, RulesActivated, query)


def wait_for(connection: Connection[Any], position: Position, timeout_s: float) -> None:
    """Wait until the fold has passed a position, to read one's own writes.

    Args:
        connection: a reader's connection in autocommit (`connected`): a transaction might see one state throughout.
        position: as an append returns it.
        timeout_s: how long to wait, in seconds.

    Raises:
        NotYetFoldedError: the time is over, or there is no such partition.

    Example:
        >>> wait_for(connection, first_decision(connection, "ada", "order-1").position, timeout_s=10.0)
    """
    deadline, pause_s = time.monotonic() + timeout_s, 0.002
    while not has_passed(connection, position):
        if time.monotonic() >= deadline:
            raise NotYetFoldedError(
                f"The fold has not reached {position} within {timeout_s:g} s. The command is in the log.",
                f"In `creditfold status`, next of partition {position.partition} must pass {position.offset}. Where it "
                "stands still, no worker folds it (`creditfold worker` starts one), or a worker's log says why.",
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)


def has_passed(connection: Connection[Any], position: Position) -> bool:
    """Whether the fold has passed a position. Raises NotYetFoldedError where there is no such partition."""
    row = connection.execute(
        "SELECT next_offset > %s FROM ledger.progress WHERE log_partition = %s", (position.offset, position.partition)
    ).fetchone()
    if row is None:
        raise NotYetFoldedError(
            f"The projection has no partition {position.partition}.", "See `creditfold status` for the topic it folds."
        )
    return bool(row[0])
