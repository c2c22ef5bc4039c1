"""Folds the chunks of a worker's partitions: small ones together, others alone, each again and again until it is done.

Owns the connections, the turns and the retries. An outage or a defect holds up its own partition only, and `creditfold
status --check` reports it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import structlog
from psycopg import AsyncConnection
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool
from tenacity import AsyncRetrying, retry_if_exception, wait_exponential, wait_random

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.common.spans import SPANS
from creditfold.ledger import UnknownRulesError
from creditfold.processors.fold import fast
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.chunk import Chunk, Read, controls, has_transfers
from creditfold.processors.fold.transaction import (
    Share,
    chunk_transaction,
    contexts_before,
    fold_chunk,
    fold_together,
)
from creditfold.processors.worker.meter import Meter
from creditfold.processors.worker.partition import Partition
from creditfold.processors.worker.rounds import Rounds, SmallChunk
from creditfold.projections.store.claim import Claim
from creditfold.projections.store.send import KnownCommandError
from creditfold.projections.store.transaction import ChunkGapError, ChunkTransaction, FencedError, SetBackError

#: Accounts and lots that a worker caches from one chunk to the next, shared out among its partitions. An account with
#: one lot takes some 1.2 KB, one on the fast path of the compiled core a third of it; a worker stays below 300 MB.
WORKER_ACCOUNTS = 70_000
WORKER_LOTS = 200_000

#: Command ids of its last records that a worker recognizes, and the size of the filter by which it does, in bytes. A
#: command that comes twice nearly always does so at once, and only what is recognized is looked up.
RECENT_IDS = 2**18
RECENT_BYTES = 2**22

#: Of how many chunks of a partition all ids are looked up after one in which an older id came again.
DOUBTED_CHUNKS = 100

#: Chunks, or rounds of small ones, folded at a time: more are no faster, and a chunk at work takes much memory.
FOLDS_AT_ONCE = 2

log = structlog.get_logger()


class RulesTooNewError(CreditfoldError):
    """The log goes over to rules that this release doesn't have."""


class ChunkFolder:
    """Folds chunks.

    Args:
        pool: connections, opened and closed by the caller.
        partitions: partition count of the command topic.
        retry_max_s: longest pause between tries, in seconds.
        on_lost: called with a partition whose chunks no longer connect, and whether another worker has claimed it; it
            must be claimed and sought again.
        on_hopeless: called with an error after which no worker of this release can go on.
        on_transfers: called when transfers were folded: some may have to be moved on.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[AsyncConnection[TupleRow]],
        partitions: int,
        retry_max_s: float,
        *,
        on_lost: Callable[[int, bool], None],
        on_hopeless: Callable[[CreditfoldError], Awaitable[None]],
        on_transfers: Callable[[], None],
    ) -> None:
        self.meter = Meter()
        self.rounds = Rounds(self._fold_round)
        #: Set when a chunk is done.
        self.room = asyncio.Event()
        #: Among how many partitions the cached accounts are shared out.
        self.sharing = 1
        self._pool = pool
        self._partitions = partitions
        self._retry_max_s = retry_max_s
        self.on_lost = on_lost
        self._on_hopeless = on_hopeless
        self.on_transfers = on_transfers
        self._ids = fast.new_filter(RECENT_BYTES, RECENT_IDS)
        self._turns = asyncio.Semaphore(FOLDS_AT_ONCE)

    async def fold_until_done(self, chunk: Chunk, partition: Partition) -> None:
        """Fold a chunk, however often it takes, unless the partition is claimed anew meanwhile."""
        retrying = AsyncRetrying(
            wait=wait_exponential(multiplier=0.1, max=self._retry_max_s) + wait_random(0, 0.1),
            retry=retry_if_exception(_is_worth_another_try),
            before_sleep=partition.failed,
        )
        try:
            if await self.rounds.fold(chunk, partition):
                return
            partition.is_alone = True
            async for attempt in retrying:
                with attempt:
                    if chunk.epoch != partition.claim.epoch:
                        return
                    try:
                        await self._fold_alone(chunk, partition)
                    except KnownCommandError:
                        partition.lookups = DOUBTED_CHUNKS
                        await self._fold_alone(chunk, partition)
        except (FencedError, ChunkGapError, SetBackError) as error:
            if chunk.epoch == partition.claim.epoch:
                log.warning("partition lost", partition=chunk.partition, why=error.message)
                self.on_lost(chunk.partition, isinstance(error, FencedError))
        except UnknownRulesError as error:
            await self._on_hopeless(
                RulesTooNewError(
                    f"Partition {chunk.partition} goes over to rules {error.args[0]}, which this release doesn't have.",
                    "Run workers of a release that has them; they go on where this one stands.",
                )
            )
        finally:
            partition.is_alone = False
            self.room.set()

    async def _fold_alone(self, chunk: Chunk, partition: Partition) -> None:
        cache = self._take_cache(partition)
        await self.fold(chunk, partition.claim, cache)
        partition.folded(chunk, cache)

    def _take_cache(self, partition: Partition) -> AccountCache:
        # A try that fails leaves nothing behind that the next could believe.
        cache, partition.cache = partition.cache or AccountCache(ids=self._ids), None
        cache.trusts = partition.lookups == 0
        cache.resize(WORKER_ACCOUNTS // self.sharing, WORKER_LOTS // self.sharing)
        return cache

    async def fold(self, chunk: Chunk, won: Claim, cache: AccountCache | None = None) -> int:
        """Fold what is new of a chunk, in one transaction, or in several if it comes to very much.

        Args:
            chunk: of a partition.
            won: this worker's claim of it.
            cache: of this claim, each of whose transactions must have been committed.

        Returns the partition's next offset.

        Raises FencedError, ChunkGapError, SetBackError, UnknownRulesError, KnownCommandError, or what PostgreSQL
        raises; of the transaction in which it does nothing is written then.
        """
        cache = cache or AccountCache()
        reads: list[Read] = []
        at = chunk.start
        while at < chunk.end:
            async with self._connection() as connection:
                if not reads:
                    # Not before: a chunk that waits for its turn needs no more memory than its records take.
                    with self.meter.stage("decode"):
                        reads = fast.read(chunk.records, chunk.partition, self._partitions, cache.store)
                at = await self._fold_some(connection, chunk, reads, won, cache)
            cache.trim()
        if has_transfers(reads):
            self.on_transfers()
        return at

    async def _fold_some(
        self,
        connection: AsyncConnection[TupleRow],
        chunk: Chunk,
        reads: list[Read],
        won: Claim,
        cache: AccountCache,
    ) -> int:
        began_ns = time.time_ns()
        async with chunk_transaction(connection, chunk.partition, won, cache) as transaction:
            progress = transaction.progress
            if cache.progress is not None and cache.progress != progress:
                # What is cached isn't what is stored: commits were lost behind it.
                raise SetBackError(
                    f"Partition {chunk.partition} stands at {progress.next_offset}, "
                    f"and this worker's last commit left it at {cache.progress.next_offset}."
                )
            if chunk.end <= progress.next_offset:
                cache.progress = progress
                return progress.next_offset
            if chunk.start > progress.next_offset:
                raise ChunkGapError(
                    f"Partition {chunk.partition} stands at {progress.next_offset}, the chunk starts at {chunk.start}."
                )
            if reads and reads[0][0].offset < progress.next_offset:
                reads = [read for read in reads if read[0].offset >= progress.next_offset]
            with self.meter.stage("fold"):
                at = await fold_chunk(transaction, reads, chunk.end, cache)
        self._count(reads, chunk.end, at, transaction)
        _make_spans(chunk.partition, reads, at, began_ns)
        return at

    def _count(self, reads: Sequence[Read], end: int, at: int, transaction: ChunkTransaction) -> None:
        self.meter.count(reads if at == end else [read for read in reads if read[0].offset < at], transaction.tally)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[TupleRow]]:
        async with self._turns, self._pool.connection() as connection:
            try:
                yield connection
            except ReadOnlySqlTransaction:
                # The server became a standby: the pool must find the new primary instead of this one again.
                await connection.close()
                raise

    async def _fold_round(self, taken: Sequence[SmallChunk]) -> None:
        """Fold chunks of several partitions in one transaction, those excepted that are known to need one alone."""
        began_ns = time.time_ns()
        async with self._connection() as connection:
            shares: list[tuple[SmallChunk, Share]] = []
            for small in taken:
                chunk, partition = small.chunk, small.partition
                if not partition.can_share(chunk) or partition.cache is None:
                    continue
                with self.meter.stage("decode"):
                    reads = fast.read(chunk.records, chunk.partition, self._partitions, partition.cache.store)
                if not controls(reads):
                    progress = partition.cache.progress
                    transaction = ChunkTransaction(connection, chunk.partition, partition.claim, progress)
                    shares.append((small, Share(transaction, reads, chunk.end, self._take_cache(partition))))
            if not shares:
                return
            with self.meter.stage("fold"):
                reached = await fold_together(connection, [share for _, share in shares])
        for (small, share), at in zip(shares, reached, strict=True):
            share.cache.trim()
            self._count(share.reads, share.end, at, share.transaction)
            _make_spans(small.chunk.partition, share.reads, at, began_ns)
            small.partition.folded(small.chunk, share.cache)
            small.finish(done=at >= small.chunk.end)
        if any(has_transfers(share.reads) for _, share in shares):
            self.on_transfers()


def _make_spans(partition: int, reads: Sequence[Read], end: int, began_ns: int) -> None:
    """A span for each record before an offset that came with a trace's context, from when its chunk began until now."""
    if SPANS.are_kept:
        for offset, _, context in contexts_before(reads, end):
            position = str(Position(partition, offset))
            with SPANS.begin("fold", "consumer", context, {"creditfold.position": position}, began_ns=began_ns):
                pass


def _is_worth_another_try(error: BaseException) -> bool:
    # A cancellation is no Exception, and must end the task.
    return isinstance(error, Exception) and not isinstance(
        error, FencedError | ChunkGapError | SetBackError | UnknownRulesError
    )
