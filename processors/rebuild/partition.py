"""Folds a partition of the log into a generation, from where that stands to an end that is given, as fast as it can.

Owns the read side and when a transaction ends. The fold itself, and the transaction, are those
of the workers. Knows neither Faust nor who else folds.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from creditfold.common.errors import CreditfoldError
from creditfold.ledger.limits import MAX_OCCURRED_AT
from creditfold.log.batch_reader import BatchReader
from creditfold.log.record import LogRecord
from creditfold.processors.fold import fast
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.chunk import Read
from creditfold.processors.fold.transaction import chunk_transaction, fold_chunk
from creditfold.projections.store.claim import Claim, claim, finds_ids
from creditfold.projections.store.transaction import ChunkTransaction, SetBackError

if TYPE_CHECKING:
    from creditfold.processors.fold import plain
    from creditfold.processors.fold.id_filter import IdFilter

#: Most records of a piece. Large, since an account that comes up again in the same one is written once.
CHUNK_RECORDS = 25_000

#: Records of the first piece of a partition: the fold begins while the next is fetched.
FIRST_RECORDS = 4_000

#: Most pieces of a transaction, which writes the state of an account once; and how many accounts it may have to write
#: before it takes no further piece.
PIECES = 8
MOST_UNSAVED = 50_000

#: How long a transaction stays open for a further piece, in seconds.
PIECE_PATIENCE_S = 0.5

#: How long a piece takes of a rebuild that keeps to a rate, in seconds: others find PostgreSQL free in between.
PACED_PIECE_S = 0.1

#: Bytes of a filter of all of a partition's command ids, for each record and at most. The compiled core's, which has
#: seven bits an id, takes a first new one for an old one among some five million; Python's takes every 32nd.
FILTER_BYTES_EACH = 32
FILTER_BYTES = 2**25

#: Accounts kept in memory between two transactions.
KEPT_ACCOUNTS = 100_000

#: How long the log may give nothing before its promised end is reached, in seconds.
STALL_S = 60.0


class StalledError(CreditfoldError):
    """The log gives no more records, although there are some before the end."""


class RebuildJob(NamedTuple):
    """What a rebuild folds. Can be sent to another process.

    Args:
        kafka: librdkafka settings that every client of ours starts from.
        topic: the command topic.
        partitions: its partition count.
        generation: number of the generation to fold into.
        ends: the next offset at which to stop, by partition.
        until_ms: the log's clock beyond which to stop, if that comes first.
        forced_rules: version of the rules that decides everything, if not the log's own.
        bulk: whether so much is to be folded that a filter of known ids pays.
        most_per_s: most records a second that a process folds; None for no limit.
    """

    kafka: Mapping[str, str]
    topic: str
    partitions: int
    generation: int
    ends: Mapping[int, int]
    until_ms: int | None = None
    forced_rules: int | None = None
    bulk: bool = False
    most_per_s: float | None = None


class Piece(NamedTuple):
    """Records of one partition up to before offset `end`, and whether that is where the rebuild ends."""

    end: int
    records: Sequence[LogRecord]
    is_last: bool


class PartitionRebuild:
    """The fold of one partition of a job, from where the generation stands to the job's end.

    Args:
        job: what to fold, and where to.
        partition: of the command topic.
        pool: connections; it takes one at a time.
    """

    def __init__(self, job: RebuildJob, partition: int, pool: AsyncConnectionPool[AsyncConnection[TupleRow]]) -> None:
        self._job = job
        self.partition = partition
        self._pool = pool
        self._claim = Claim(0, 0, job.generation)
        self._position = 0
        self._pieces: _Pieces | None = None
        self._cache = AccountCache()
        self._ids = (
            fast.new_filter(min(FILTER_BYTES_EACH * job.ends[partition] + 1, FILTER_BYTES)) if job.bulk else None
        )
        # Seconds to sleep to keep to `most_per_s`.
        self._owed_s = 0.0

    @property
    def _piece_records(self) -> int:
        """Most records of a piece."""
        paced = self._job.most_per_s
        return CHUNK_RECORDS if paced is None else max(1, min(CHUNK_RECORDS, round(paced * PACED_PIECE_S)))

    async def begin(self, owner: str) -> None:
        """Claim the partition, and begin to fetch it if there is anything to fold."""
        self._claim = await claim(self._pool, self.partition, owner, self._job.generation)
        self._position = self._claim.next_offset
        end = self._job.ends[self.partition]
        if self._position < end:
            reader = BatchReader(self._job.kafka, self._job.topic, self.partition, self._position)
            self._pieces = _Pieces(reader, end, self._job.until_ms, self._piece_records)

    async def fetched(self) -> None:
        """Wait until nothing is left to be fetched, or until it is ended."""
        if self._pieces is not None:
            await self._pieces.are_all.wait()

    async def end(self) -> None:
        """Close what was begun, and drop the cache."""
        self._cache, self._ids = AccountCache(), None
        if self._pieces is not None:
            await self._pieces.close()

    async def run(self) -> None:
        """Fold to the end what was begun.

        What is committed stays, whatever is raised, what PostgreSQL raises too, and another rebuild goes on behind it.

        Raises:
            FencedError: somebody else claimed the partition meanwhile.
            SetBackError: commits were lost.
            UnindexedError: commands must be looked up by their ids, and the generation's journal has no index for it.
            StalledError: the log gives no more.
            UnreadableError: the log can't be read.
            UnknownRulesError: the log goes over to rules that this release doesn't have.
        """
        try:
            if self._pieces is not None:
                known = await finds_ids(self._pool, self._job.generation)
                self._claim = self._claim._replace(finds_ids=known)
                self._cache = AccountCache(KEPT_ACCOUNTS, CHUNK_RECORDS, is_fresh=self._position == 0, ids=self._ids)
                if self._ids is not None and self._position:
                    await self._add_known(self._ids)
                await self._fold_all(self._pieces)
        finally:
            await self.end()

    async def _fold_all(self, pieces: "_Pieces") -> None:
        piece = await pieces.next()
        reads = self._read(piece)
        while piece is not None:
            async with (
                self._pool.connection() as connection,
                chunk_transaction(connection, self.partition, self._claim, self._cache) as transaction,
            ):
                progress = transaction.progress
                if progress.next_offset != self._position:
                    raise SetBackError(
                        f"Partition {self.partition} of generation {self._job.generation} stands at "
                        f"{progress.next_offset}, and this fold left it at {self._position}: PostgreSQL lost commits.",
                        "Run the same again (a rebuild with --resume): it goes on where the partition stands.",
                    )
                for _ in range(PIECES):
                    await self._fold(transaction, piece, reads)
                    is_left = self._position < piece.end
                    reads = [read for read in reads if read[0].offset >= self._position] if is_left else []
                    # More would be too much for this transaction, or it would be open while the log is waited for.
                    is_enough = is_left or self._cache.unsaved >= MOST_UNSAVED
                    if is_enough or self._owed_s > 0 or not await pieces.comes_soon():
                        break
                    piece = await pieces.next()
                    reads = self._read(piece)
                    if piece is None:
                        break
            self._cache.trim()
            # In no transaction, which would keep PostgreSQL from tidying up behind the live fold.
            await asyncio.sleep(max(0.0, self._owed_s))
            self._owed_s = 0.0
            if piece is not None and self._position >= piece.end:
                piece = await pieces.next()
                reads = self._read(piece)

    async def _add_known(self, ids: "plain.Filter | IdFilter") -> None:
        """Add to the filter what an earlier run has folded."""
        async with self._pool.connection() as connection, connection.transaction():
            async for account, command_id in ChunkTransaction(connection, self.partition, self._claim).known_ids():
                ids.add(account, command_id)

    def _read(self, piece: Piece | None) -> list[Read]:
        if piece is None:
            return []
        return fast.read(piece.records, self.partition, self._job.partitions, self._cache.store)

    async def _fold(self, transaction: ChunkTransaction, piece: Piece, reads: list[Read]) -> None:
        if piece.end <= self._position:
            return
        began, before = time.monotonic(), self._position
        self._position = await fold_chunk(transaction, reads, piece.end, self._cache, forced=self._job.forced_rules)
        if self._job.most_per_s is not None:
            folded = sum(1 for record, _ in reads if before <= record.offset < self._position)
            self._owed_s += folded / self._job.most_per_s - (time.monotonic() - began)


class _Pieces:
    """The pieces of a partition up to an end, each fetched while the one before it is folded. Closes the reader."""

    def __init__(self, reader: BatchReader, end: int, until_ms: int | None, most: int) -> None:
        self._reader = reader
        self._most = most
        self._end = end
        self._until_ms = until_ms
        self._upcoming: asyncio.Task[Piece] | None = None
        #: Set when none is left to be fetched.
        self.are_all = asyncio.Event()
        self._fetch(min(most, FIRST_RECORDS))

    def _fetch(self, most: int) -> None:
        self._upcoming = asyncio.create_task(self._fetched(most))

    async def _fetched(self, most: int) -> Piece:
        piece = await _next_piece(self._reader, self._end, self._until_ms, most)
        if piece.is_last:
            self.are_all.set()
        return piece

    async def comes_soon(self) -> bool:
        """Whether within PIECE_PATIENCE_S the next piece is there, or it is known that there is none."""
        if self._upcoming is None:
            return True
        done, _ = await asyncio.wait({self._upcoming}, timeout=PIECE_PATIENCE_S)
        return bool(done)

    async def next(self) -> Piece | None:
        """The next piece, None behind the last. Raises StalledError."""
        if self._upcoming is None:
            return None
        piece = await self._upcoming
        self._upcoming = None
        if not piece.is_last:
            self._fetch(self._most)
        return piece

    async def close(self) -> None:
        """Close the reader, behind a fetch under way. Can be done again."""
        if self._upcoming is not None:
            await asyncio.wait({self._upcoming})
            self._upcoming = None
        await self._reader.close()
        self.are_all.set()


async def _next_piece(reader: BatchReader, end: int, until_ms: int | None, most: int) -> Piece:
    deadline = time.monotonic() + STALL_S
    start = reader.position
    while time.monotonic() < deadline:
        # No more than there are: the client would wait for them.
        taken = await reader.take(min(most, max(end - start, 1)), 1.0)
        if taken.end > start:
            return cut(taken.end, taken.records, end, until_ms)
    raise StalledError(
        f"The log gives nothing behind offset {start}, although it goes to {end}.",
        "Look at the broker's log; run the same again to go on.",
    )


def cut(taken_end: int, records: Sequence[LogRecord], end: int, until_ms: int | None) -> Piece:
    """Cut off what lies at or behind an end, or behind an instant of the log's clock."""
    if until_ms is not None:
        late = next((record for record in records if until_ms < record.timestamp <= MAX_OCCURRED_AT), None)
        if late is not None and late.offset < end:
            end, taken_end = late.offset, max(taken_end, late.offset)
    if taken_end < end:
        return Piece(taken_end, records, is_last=False)
    return Piece(end, [record for record in records if record.offset < end], is_last=True)
