"""The log that a generation is folded from, and which generation is live."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from psycopg import AsyncConnection, Connection, sql
from psycopg.errors import UndefinedTable
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log
from creditfold.projections.tables.scripts import schema_of


class LogChangedError(CreditfoldError):
    """The topic isn't the one that the projection was folded from."""


def live(connection: Connection[TupleRow]) -> tuple[int, int] | None:
    """Number and layout of the live generation; None where none is."""
    row = connection.execute("SELECT number, layout FROM ledger.generations WHERE state = 'live'").fetchone()
    return None if row is None else (row[0], row[1])


def source_of(connection: Connection[TupleRow], number: int) -> Log:
    """The log that a generation is folded from."""
    source = sql.Identifier(schema_of(number), "source")
    row = connection.execute(sql.SQL("SELECT topic, topic_id, partitions FROM {}").format(source)).fetchone()
    if row is None:
        raise CreditfoldError(f"Generation {number} names no log.", f"Drop it: creditfold drop {number}")
    return Log(*row)


def searchable_of(connection: Connection[TupleRow], number: int) -> Sequence[str]:
    """The keys of metadata that a generation indexes; none of one whose layout knows no such."""
    source = sql.Identifier(schema_of(number), "source")
    row = connection.execute(sql.SQL("SELECT to_jsonb(s) -> 'searchable' FROM {} s").format(source)).fetchone()
    return [] if row is None or row[0] is None else list(row[0])


async def sources_of(pool: AsyncConnectionPool[AsyncConnection[TupleRow]], numbers: Iterable[int]) -> list[Log]:
    """The logs that generations are folded from, leaving out those that are gone by now."""
    found = []
    async with pool.connection() as connection:
        for number in numbers:
            source = sql.SQL("SELECT topic, topic_id, partitions FROM {}").format(
                sql.Identifier(schema_of(number), "source")
            )
            with suppress(UndefinedTable):
                row = await (await connection.execute(source)).fetchone()
                found += [Log(*row)] if row else []
    return found


def refuse_other_log(folded: Log, found: Log) -> None:
    """Raise LogChangedError if the topic found isn't the one that was folded."""
    if folded != found:
        raise LogChangedError(
            f"The projection was folded from {_describe(folded)}, but the topic now is {_describe(found)}.",
            "Folding on would give wrong balances. Point creditfold at the old log, or at an empty database.",
        )


def _describe(log: Log) -> str:
    return f"{log.topic} (id {log.topic_id}, {log.partitions} partitions)"
