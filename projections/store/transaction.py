"""The store: one transaction writes what a chunk decided and moves the partition's offset with it.

Owns exactly-once in effect: a chunk's transaction locks its `progress` row under the epoch that this worker claimed,
so two workers can't write the same partition, and a record is never folded twice. No epoch is given twice, even where
PostgreSQL lost its last commits, or was restored: an epoch and an offset name one state. Small chunks of several
partitions share a transaction that asks for no lock first: it fails if they don't all stand where this worker left
them. Decides nothing.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from typing import NamedTuple

from psycopg import AsyncConnection
from psycopg.errors import InvalidSchemaName, UndefinedTable
from psycopg.rows import TupleRow

from creditfold.common.errors import CreditfoldError
from creditfold.ledger import Body, Known
from creditfold.log.bookmark import NO_RECORD, Bookmark, LastRecord
from creditfold.projections.store.account_loader import AccountLoader
from creditfold.projections.store.claim import Claim
from creditfold.projections.store.columns import joined
from creditfold.projections.store.results import Tally
from creditfold.projections.store.rows import Rows
from creditfold.projections.store.send import Draft, send, send_state, send_together
from creditfold.projections.store.statements import statements


class FencedError(CreditfoldError):
    """Another worker has claimed the partition since; nothing was written."""


class ChunkGapError(CreditfoldError):
    """Records between the stored offset and the chunk's start are missing; nothing was written."""


class SetBackError(CreditfoldError):
    """A partition doesn't stand where this worker's last commit left it; nothing was written."""


class Progress(NamedTuple):
    """Where a partition's fold stands: the next offset to fold, the claim's epoch, the log's clock.

    `rules` is the version in force, `chain` the digest of all outcomes so far, `minute` that of the last tick, and
    `last` the last record that was folded.
    """

    next_offset: int
    epoch: int
    clock_ms: int
    rules: int
    chain: bytes
    minute: int
    last: LastRecord = NO_RECORD

    @property
    def bookmark(self) -> Bookmark:
        """Where the fold of the log stopped."""
        return Bookmark(self.next_offset, self.last, self.clock_ms)


class ChunkTransaction:
    """The work on one chunk inside an open transaction: lock, load, then write.

    Args:
        connection: in a transaction that the caller commits, except with `write_together`.
        partition: of the command topic.
        claim: this worker's.
        progress: where the partition stands, if that is known without a lock: `write_together` checks it.
    """

    def __init__(
        self,
        connection: AsyncConnection[TupleRow],
        partition: int,
        claim: Claim,
        progress: Progress | None = None,
    ) -> None:
        self.connection = connection
        self.partition = partition
        self.generation = claim.generation
        #: The keys of metadata that the generation indexes.
        self.searchable = claim.searchable
        self._epoch = claim.epoch
        self._sql = statements(claim.generation)
        self._progress = progress
        #: What was written in it so far.
        self.tally = Tally()
        #: Loads accounts, in this transaction.
        self.accounts = AccountLoader(connection, claim.generation, finds_ids=claim.finds_ids)

    async def lock(self) -> Progress:
        """Lock the partition's progress until the transaction ends. Raises FencedError."""
        try:
            cursor = await self.connection.execute(self._sql.lock, (self.partition,), binary=True)
        except (UndefinedTable, InvalidSchemaName) as error:
            # Another generation was made the live one, and this one was dropped before we noticed.
            raise FencedError(f"Generation {self.generation} is gone.") from error
        row = await cursor.fetchone()
        if row is None or row[1] != self._epoch:
            raise FencedError(f"Partition {self.partition} was claimed by another worker.")
        next_offset, epoch, clock_ms, rules, chain, minute, *last = row
        self._progress = Progress(next_offset, epoch, clock_ms, rules, chain, minute, LastRecord(*last))
        return self._progress

    @property
    def progress(self) -> Progress:
        """Where the partition stands in this transaction. Raises RuntimeError if it is neither known nor locked."""
        if self._progress is None:
            raise RuntimeError("It isn't known where the partition stands.")
        return self._progress

    async def load_known(self, keys: Collection[tuple[str, str]]) -> Known:
        """Read the bodies of those (account, command id) keys that were decided already. Raises UnindexedError."""
        if not keys:
            return {}
        self.accounts.refuse_unindexed()
        cursor = await self.connection.execute(self._sql.load_known, joined(keys), binary=True)
        return {(row[0], row[1]): Body(*row[2:]) for row in await cursor.fetchall()}

    async def known_ids(self) -> AsyncIterator[tuple[str, str]]:
        """Every (account, command id) of the partition that was decided, in no order, without holding them all."""
        async with self.connection.cursor("known_ids") as cursor:
            cursor.itersize = 10_000
            await cursor.execute(self._sql.known_ids, (self.partition,))
            async for account, command_id in cursor:
                yield account, command_id

    async def write(self, draft: Draft) -> None:
        """Write what was decided and move the offset. Can be done again.

        The partition must be locked. The state of the accounts is written by `save_state`, before the transaction ends.

        Raises KnownCommandError if a command was decided before.
        """
        await send(self.connection, self.generation, draft)
        self.advance(draft)

    def advance(self, draft: Draft) -> None:
        """Stand where a draft that was sent ends."""
        result, before = draft.result, self.progress
        self.tally.add(result)
        self._progress = Progress(
            result.next_offset,
            before.epoch,
            result.clock_ms,
            result.rules,
            draft.chain,
            result.minute,
            result.last or before.last,
        )

    async def save_state(self, rows: Rows) -> None:
        """Write the state of accounts."""
        # Sent together: PostgreSQL writes one table after the other while another partition is folded here.
        async with self.connection.cursor(binary=True) as cursor, self.connection.pipeline():
            await send_state(cursor, self.generation, [rows])


class Write(NamedTuple):
    """What is to be written in a partition's transaction: a draft, and the state of its accounts."""

    transaction: ChunkTransaction
    draft: Draft
    state: Rows


async def write_together(writes: Sequence[Write]) -> None:
    """Write what was decided in several partitions, and move their offsets, in one transaction.

    Args:
        writes: at least one, of different partitions of one generation, on one connection, which is in no transaction
            and in autocommit; each partition is known to stand where its fold began.

    Raises DisplacedError if one doesn't stand there, KnownCommandError if a command was decided before.
    """
    expected = [(one.transaction.progress.next_offset, one.transaction.progress.epoch) for one in writes]
    first = writes[0].transaction
    drafts, states = [one.draft for one in writes], [one.state for one in writes]
    await send_together(first.connection, first.generation, drafts, states, expected)
    for one in writes:
        one.transaction.advance(one.draft)
