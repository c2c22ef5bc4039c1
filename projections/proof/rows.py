"""Rows that don't follow from the journal, that no fold can have made, or that the chain doesn't cover. Reads only."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from creditfold.projections.connections import rows_of
from creditfold.projections.tables.scripts import schema_of, script


class WrongBalance(NamedTuple):
    """A balance that isn't what the account's last line left. None stands for a row that isn't there.

    `should_be` is of what is available.
    """

    account_id: str
    asset: str
    log_partition: int
    available: int | None
    should_be: int | None
    version: int | None
    version_should_be: int | None
    pending: int | None
    pending_should_be: int | None
    held: int | None
    held_should_be: int | None
    debt: int | None
    debt_should_be: int | None
    log_offset: int | None
    log_offset_should_be: int | None


class RowOutsideLog(NamedTuple):
    """A row at an offset, or of a partition, that the fold has never reached. `what` is the table."""

    what: str
    log_partition: int
    log_offset: int
    account: str


class UnchainedDifference(NamedTuple):
    """A difference that the chain doesn't cover: a dead letter's headers, a redrive, or a partition's progress."""

    what: str
    log_partition: int
    log_offset: int


def rows_outside_log(connection: Connection[TupleRow], number: int, limit: int) -> Sequence[RowOutsideLog]:
    """Rows where the fold has never been, which neither the chain nor a replay covers. Must run in a snapshot."""
    return rows_of(
        connection, RowOutsideLog, script("proof/rows_outside_the_log.sql", schema=schema_of(number), most=limit)
    )


def unchained_differences(
    connection: Connection[TupleRow], left: int, right: int, ends: Mapping[int, int], limit: int
) -> Sequence[UnchainedDifference]:
    """What differs outside the chain before these offsets: headers of dead letters, redrives, and the counts.

    The counts and the clock are compared in partitions where both generations stand at the same offset.
    """
    found: list[UnchainedDifference] = []
    for partition, end in ends.items():
        mine, theirs = (
            script(
                "proof/differing_lines.sql", schema=schema_of(one), other=schema_of(two), partition=partition, end=end
            )
            for one, two in ((left, right), (right, left))
        )
        query = _UNCHAINED.format(mine=mine, theirs=theirs, most=limit - len(found))
        found += rows_of(connection, UnchainedDifference, query)
    return found


_UNCHAINED = sql.SQL("""
    SELECT what, log_partition, log_offset
    FROM ({mine}) AS m FULL JOIN ({theirs}) AS t USING (what, log_partition, log_offset)
    WHERE m.content IS DISTINCT FROM t.content
    ORDER BY log_offset LIMIT {most}
""")


def wrong_balances(connection: Connection[TupleRow], number: int, limit: int) -> Sequence[WrongBalance]:
    """Balances that don't follow from the journal, at most `limit`. Must run in a snapshot."""
    return rows_of(connection, WrongBalance, script("proof/wrong_balances.sql", schema=schema_of(number), most=limit))
