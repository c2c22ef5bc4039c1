"""Where a partition stands in one state of the database, for what looks at it as the fold would and writes nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from psycopg import AsyncConnection, sql
from psycopg.rows import TupleRow

from creditfold.common.position import Position
from creditfold.ledger import Body, Known
from creditfold.log.partitioner import partition_of
from creditfold.projections.failures import NotPreparedError
from creditfold.projections.store.account_loader import AccountLoader
from creditfold.projections.store.columns import joined
from creditfold.projections.store.statements import statements
from creditfold.projections.tables.scripts import refuse_other_layout, schema_of


class Snapshot(NamedTuple):
    """Where an account's partition stands, in the transaction that `snapshot_of` opened.

    Fields:
        connection: in that transaction.
        generation: the live one.
        topic_id: of the log that it is folded from.
        partitions: of the command topic.
        next: position of the next record to fold.
        clock_ms: the log's clock, in milliseconds since 1970 UTC.
        rules: version of the rules in force.
        minute: that of the last tick.
        now_ms: the database server's clock, in milliseconds since 1970 UTC.
    """

    connection: AsyncConnection[TupleRow]
    generation: int
    topic_id: str
    partitions: int
    next: Position
    clock_ms: int
    rules: int
    minute: int
    now_ms: int

    @property
    def accounts(self) -> AccountLoader:
        """Loads accounts as they are in the transaction."""
        return AccountLoader(self.connection, self.generation, finds_ids=True)

    async def load_known(self, keys: list[tuple[str, str]]) -> Known:
        """The bodies of those (account, command id) keys that were decided already."""
        query = statements(self.generation).load_known
        cursor = await self.connection.execute(query, joined(keys), binary=True)
        return {(row[0], row[1]): Body(*row[2:]) for row in await cursor.fetchall()}


@asynccontextmanager
async def snapshot_of(connection: AsyncConnection[TupleRow], account: str) -> AsyncIterator[Snapshot]:
    """See one state of the live generation while the block runs, from an account's partition.

    Args:
        connection: of a user who may read the generation's tables; in no transaction.
        account: its id.

    Raises NotPreparedError, LayoutError.
    """
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor = await connection.execute("SELECT number, layout FROM ledger.generations WHERE state = 'live'")
        live = await cursor.fetchone()
        if live is None:
            raise NotPreparedError("No generation is live.", "Run `creditfold init`.")
        refuse_other_layout(*live)
        schema = sql.Identifier(schema_of(live[0]))
        cursor = await connection.execute(sql.SQL("SELECT topic_id, partitions FROM {}.source").format(schema))
        ((topic_id, partitions),) = await cursor.fetchall()
        partition = partition_of(account.encode(), partitions)
        cursor = await connection.execute(
            sql.SQL(
                """SELECT next_offset, clock_ms, rules, tick_minute, floor(extract(epoch FROM now()) * 1000)::bigint
                   FROM {}.progress WHERE log_partition = %s"""
            ).format(schema),
            (partition,),
        )
        ((next_offset, *rest),) = await cursor.fetchall()
        yield Snapshot(connection, live[0], topic_id, partitions, Position(partition, next_offset), *rest)
