"""Claims of partitions: which worker may write, from where, and in which generation.

Owns fencing: each claim has an epoch that is given once, and a transaction under an older one writes nothing. Folds
nothing.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import LiteralString, NamedTuple

from psycopg import AsyncConnection
from psycopg.errors import InvalidSchemaName, ReadOnlySqlTransaction, UndefinedTable
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from creditfold.common.errors import CreditfoldError
from creditfold.log.bookmark import NO_RECORD, Bookmark, LastRecord
from creditfold.projections.failures import NotPreparedError
from creditfold.projections.store.statements import END_BLOCKERS, LIVE, LOOKS, SWITCHING, statements
from creditfold.projections.tables.scripts import refuse_other_layout

#: How long a claim waits for the former owner's transaction, in seconds.
CLAIM_PATIENCE_S = 3.0


class Claim(NamedTuple):
    """A claimed partition: where its fold stands, under which epoch, in which generation.

    `finds_ids` says that commands can be looked up in the journal by their ids. `last` is the last record that was
    folded, `clock_ms` the log's clock, `searchable` are the keys of metadata that the generation indexes.
    """

    next_offset: int
    epoch: int
    generation: int
    finds_ids: bool = True
    last: LastRecord = NO_RECORD
    clock_ms: int = 0
    searchable: frozenset[str] = frozenset()

    @property
    def bookmark(self) -> Bookmark:
        """Where the fold of the log stopped."""
        return Bookmark(self.next_offset, self.last, self.clock_ms)


async def claim(
    pool: AsyncConnectionPool[AsyncConnection[TupleRow]], partition: int, owner: str, generation: int | None = None
) -> Claim:
    """Take over a partition: from now on every older claim is fenced. Commits at once.

    A former owner may have been frozen inside a transaction, with the row locked, and no time-out of PostgreSQL reaches
    a session that waits for its client in the middle of a COPY. After CLAIM_PATIENCE_S such a session is ended.

    Args:
        pool: connections to take one from, and another one to end a former owner's.
        partition: of the command topic.
        owner: name of who claims.
        generation: whose partition; the live one if not given.

    Raises NotPreparedError where there is none, LayoutError when another release made it.
    """
    async with pool.connection() as connection:
        # Asked, and not what the connection was opened with: a pooler in between has a number of its own for that.
        row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
        claiming = asyncio.ensure_future(_claim(connection, partition, owner, generation))
        try:
            done, _ = await asyncio.wait({claiming}, timeout=CLAIM_PATIENCE_S)
            if not done:
                async with pool.connection() as other:
                    await other.execute(END_BLOCKERS, (row and row[0], SWITCHING))
            return await claiming
        finally:
            claiming.cancel()


async def _claim(connection: AsyncConnection[TupleRow], partition: int, owner: str, generation: int | None) -> Claim:
    async with connection.transaction():
        if generation is None:
            generation, layout = await _live(connection)
            refuse_other_layout(generation, layout)
        cursor = await connection.execute(statements(generation).claim, (owner, partition))
        row = await cursor.fetchone()
    if row is None:
        raise CreditfoldError(
            f"The projection has no partition {partition}.", "The topic has grown; that is not supported."
        )
    next_offset, epoch, clock_ms, *last, searchable = row
    found = Claim(next_offset, epoch, generation, last=LastRecord(*last), clock_ms=clock_ms)
    return found._replace(searchable=frozenset(searchable))


async def live_bookmarks(
    pool: AsyncConnectionPool[AsyncConnection[TupleRow]], partitions: Collection[int]
) -> dict[int, Bookmark]:
    """Where the live generation's fold of partitions stopped. Raises LayoutError when another release made it."""
    async with pool.connection() as connection, connection.transaction():
        generation, layout = await _live(connection)
        refuse_other_layout(generation, layout)
        cursor = await connection.execute(statements(generation).bookmarks, (list(partitions),))
        rows = await cursor.fetchall()
    return {partition: Bookmark(at, LastRecord(*last), clock_ms) for partition, at, clock_ms, *last in rows}


async def release(pool: AsyncConnectionPool[AsyncConnection[TupleRow]], partition: int) -> None:
    """Take a partition of the live generation from whoever has claimed it: nothing is written under that claim."""
    async with pool.connection() as connection, connection.transaction():
        generation, _ = await _live(connection)
        await connection.execute(statements(generation).release, (partition,))


async def finds_ids(pool: AsyncConnectionPool[AsyncConnection[TupleRow]], generation: int) -> bool:
    """Whether commands can be looked up in a generation's journal by their ids: a rebuild may do without for long."""
    async with pool.connection() as connection:
        row = await (await connection.execute(statements(generation).finds_ids)).fetchone()
    return row == (True,)


async def _live(connection: AsyncConnection[TupleRow]) -> tuple[int, int]:
    # A switch that this waited for leaves it no row: the new live one isn't in its snapshot. The next sees it.
    try:
        for _ in range(LOOKS):
            row = await (await connection.execute(LIVE)).fetchone()
            if row is not None:
                return row[0], row[1]
    except (UndefinedTable, InvalidSchemaName) as error:
        raise NotPreparedError(
            "The database holds no ledger.", "Restore it, or run `creditfold init` to fold the log anew."
        ) from error
    raise NotPreparedError("No generation is live.", "Run `creditfold init`.")


class Stored(NamedTuple):
    """Where a partition of the live generation stands in PostgreSQL, and under which claim."""

    generation: int
    epoch: int
    next_offset: int


async def stored(
    pool: AsyncConnectionPool[AsyncConnection[TupleRow]], partitions: Collection[int]
) -> Mapping[int, Stored]:
    """Where partitions of the live generation stand, of one instant; those that aren't there are left out.

    Raises what PostgreSQL raises; of a standby, which may lag behind, that is ReadOnlySqlTransaction.
    """
    async with pool.connection() as connection:
        try:
            cursor = await connection.execute(_STORED, (list(partitions),))
        except (UndefinedTable, InvalidSchemaName):
            return {}
        rows = await cursor.fetchall()
        if any(is_standby for *_, is_standby in rows):
            # The pool must find the primary instead of this one again.
            await connection.close()
            raise ReadOnlySqlTransaction("the server has become a standby")
    return {partition: Stored(*at) for partition, *at, _ in rows}


_STORED: LiteralString = """
    SELECT log_partition, generation, epoch, next_offset, pg_is_in_recovery()
    FROM ledger.progress WHERE log_partition = ANY(%s)"""
