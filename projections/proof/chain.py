"""The hash chain over a generation's outcomes, computed again from its rows. Reads only."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from creditfold.common.position import MAX_OFFSET
from creditfold.projections.store.chain import START, Line, extend, link
from creditfold.projections.tables.scripts import schema_of, script


def lines(connection: Connection[TupleRow], number: int, partition: int, start: int, end: int) -> Iterator[Line]:
    """The lines of a partition's outcomes from one offset to before another, in order, computed from the rows."""
    text = script("proof/lines.sql", schema=schema_of(number), partition=partition, start=start, end=end)
    with connection.cursor() as cursor, cursor.copy(text) as copy:
        for row in copy:
            offset, _, line = bytes(row).partition(b"\t")
            yield int(offset), line.removesuffix(b"\n")


def chain_at(connection: Connection[TupleRow], number: int, partition: int, offset: int) -> bytes:
    """The chain over everything before an offset that the generation has folded.

    It is read where it is stored for that offset, and else computed from the last checkpoint on, so that the rows of
    at most some ten thousand offsets are read.
    """
    progress, checkpoints = (sql.Identifier(schema_of(number), table) for table in ("progress", "checkpoints"))
    row = connection.execute(
        sql.SQL(
            """SELECT next_offset, chain FROM {} WHERE log_partition = %(partition)s AND next_offset = %(offset)s
               UNION ALL
               (SELECT next_offset, chain FROM {} WHERE log_partition = %(partition)s AND next_offset <= %(offset)s
                ORDER BY next_offset DESC LIMIT 1)
               ORDER BY next_offset DESC LIMIT 1"""
        ).format(progress, checkpoints),
        {"partition": partition, "offset": offset},
    ).fetchone()
    start, chain = (row[0], bytes(row[1])) if row else (0, START)
    if start == offset:
        return chain
    with connection.transaction():
        # A few rows of a journal of any size: by the index on their place, whatever the planner believes of it.
        connection.execute("SET LOCAL enable_seqscan = off")
        found, _ = extend(chain, start, offset, lines(connection, number, partition, start, offset))
        connection.execute("SET LOCAL enable_seqscan = on")
    return found


class SelfCheck(NamedTuple):
    """Whether a partition's rows are those that its chain was made of.

    `from_offset` and `to_offset` bound the first place where they aren't, as narrowly as the checkpoints allow.
    """

    partition: int
    next_offset: int
    chain: str
    holds: bool
    from_offset: int | None
    to_offset: int | None


def check_self(connection: Connection[TupleRow], number: int) -> Iterator[SelfCheck]:
    """Compute each partition's chain from the rows again, and compare it with the one that was kept.

    Must run in a snapshot: the live generation moves.
    """
    progress = sql.SQL("SELECT log_partition, next_offset, chain FROM {} ORDER BY log_partition").format(
        sql.Identifier(schema_of(number), "progress")
    )
    for partition, end, kept in connection.execute(progress).fetchall():
        stored = sorted(_checkpoints(connection, number, partition).items())
        chain, wrong = _recomputed(lines(connection, number, partition, 0, end), stored)
        holds = chain == bytes(kept) and wrong is None
        first = None if holds else end if wrong is None else min(wrong, end)
        before = max((offset for offset, _ in stored if first is not None and offset < first), default=0)
        yield SelfCheck(partition, end, chain.hex(), holds, None if holds else before, first)


def _recomputed(found: Iterator[Line], stored: Sequence[tuple[int, bytes]]) -> tuple[bytes, int | None]:
    """The chain of lines, and the first kept checkpoint that isn't the chain at its place."""
    chain, wrong, pending = START, None, iter([*stored, (MAX_OFFSET, b"")])
    place, kept = next(pending)
    for offset, line in found:
        while place <= offset:
            wrong = place if wrong is None and kept != chain else wrong
            place, kept = next(pending)
        chain = link(chain, line)
    while place < MAX_OFFSET:
        wrong = place if wrong is None and kept != chain else wrong
        place, kept = next(pending)
    return chain, wrong


def _checkpoints(connection: Connection[TupleRow], number: int, partition: int) -> Mapping[int, bytes]:
    query = sql.SQL("SELECT next_offset, chain FROM {} WHERE log_partition = %s").format(
        sql.Identifier(schema_of(number), "checkpoints")
    )
    return {offset: bytes(chain) for offset, chain in connection.execute(query, (partition,)).fetchall()}


def parting(connection: Connection[TupleRow], left: int, right: int, partition: int, end: int) -> tuple[int, bool]:
    """Where two generations part in a partition, before an offset.

    Returns the last checkpoint at which they agree, and whether they agree at the end.
    """
    if chain_at(connection, left, partition, end) == chain_at(connection, right, partition, end):
        return end, True
    mine, theirs = (_checkpoints(connection, number, partition) for number in (left, right))
    agreed = [offset for offset in mine if offset <= end and mine[offset] == theirs.get(offset)]
    return max(agreed, default=0), False
