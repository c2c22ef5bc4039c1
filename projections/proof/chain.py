"""The hash chain over a generation's outcomes, computed again from its rows. Reads only."""

from collections.abc import Iterator

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from creditfold.projections.store.chain import START, Line, extend
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
