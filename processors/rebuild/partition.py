"""Folds a partition of the log into a generation, from where that stands to an end that is given, as fast as it can.

Owns the read side and what is kept in memory between two transactions. The fold itself, and the transaction, are those
of the workers. Knows neither Faust nor who else folds.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from creditfold.common.errors import CreditfoldError
from creditfold.ledger.limits import MAX_OCCURRED_AT
from creditfold.log.batch_reader import BatchReader
from creditfold.log.record import LogRecord
from creditfold.processors.fold import fast as quick
from creditfold.processors.fold.account_cache import Memory, Seen, fold_chunk
from creditfold.processors.fold.chunk import Read
from creditfold.projections.store.claim import Claim, claim, finds_ids
from creditfold.projections.store.transaction import ChunkTransaction, SetBackError

#: Most records of a transaction. Large, since an account that comes up again in the same one is written once.
CHUNK_RECORDS = 25_000

#: Records of the first piece of a partition: the fold begins while the next is fetched.
FIRST_RECORDS = 4_000

#: Pieces of so many records in a transaction of a bulk fold: the state of an account is written once in each. And how
#: many accounts a transaction may have to write before it takes no further piece.
PIECES = 8
MOST_UNSAVED = 50_000

#: How long a transaction stays open for a further piece, in seconds.
PIECE_PATIENCE_S = 0.5

#: How long a piece takes of a replay that keeps to a rate, in seconds: others find PostgreSQL free in between.
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


class Job(NamedTuple):
    """What a replay is of. Can be sent to another process.

    Args:
        kafka: librdkafka settings that every client of ours starts from.
        topic: the command topic.
        partitions: its partition count.
        generation: number of the generation to fold into.
        ends: the next offset at which to stop, by partition.
        until_ms: the log's clock beyond which to stop, if that comes first.
        forced_rules: version of the rules that decides everything, if not the log's own.
        bulk: whether so much is to be folded that a filter of known ids pays.
        most_per_s: how many records a second a process may fold; None for as many as it can.
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
    """Records of one partition up to before offset `end`, and whether that is where the replay ends."""

    end: int
    records: Sequence[LogRecord]
    is_last: bool


class Replay:
    """The fold of one partition of a job, from where the generation stands to the job's end.

    Args:
        job: what to fold, and where to.
        partition: of the command topic.
        pool: connections; it takes one at a time.
    """

    def __init__(self, job: Job, partition: int, pool: AsyncConnectionPool[AsyncConnection[TupleRow]]) -> None:
        self._job = job
        self.partition = partition
        self._pool = pool
        self._claim = Claim(0, 0, job.generation)
        self._position = 0
        self._pieces: _Pieces | None = None
        self._memory = Memory()
        self._seen = Seen(min(FILTER_BYTES_EACH * job.ends[partition] + 1, FILTER_BYTES)) if job.bulk else None
        # What is to be waited for the rate's sake.
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
        """Let go of what was begun, and of all that is remembered."""
        self._memory, self._seen = Memory(), None
        if self._pieces is not None:
            await self._pieces.close()

    async def run(self) -> None:
        """Fold to the end what was begun.

        Raises FencedError when somebody else claims the partition meanwhile, SetBackError when commits were lost,
        UnindexedError when the generation's
        journal must be looked into by command id and has no index for it, StalledError when the log gives no more,
        UnreadableError, UnknownRulesError, or what PostgreSQL raises. What is committed stays, and another replay goes
        on behind it.
        """
        try:
            if self._pieces is not None:
                known = await finds_ids(self._pool, self._job.generation)
                self._claim = self._claim._replace(finds_ids=known)
                self._memory = Memory(KEPT_ACCOUNTS, CHUNK_RECORDS, is_fresh=self._position == 0, seen=self._seen)
                if self._seen is not None and self._position:
                    await self._recall(self._seen)
                await self._fold_all(self._pieces)
        finally:
            await self.end()

    async def _fold_all(self, pieces: "_Pieces") -> None:
        piece = await pieces.next()
        reads = self._read(piece)
        while piece is not None:
            async with self._pool.connection() as connection, connection.transaction():
                transaction = ChunkTransaction(connection, self.partition, self._claim)
                progress = await transaction.lock()
                if progress.next_offset != self._position:
                    raise SetBackError(
                        f"Partition {self.partition} of generation {self._job.generation} stands at "
                        f"{progress.next_offset}, and this fold left it at {self._position}: PostgreSQL lost commits.",
                        "Run the same again (a rebuild with --resume): it goes on where the partition stands.",
                    )
                for _ in range(PIECES if self._job.bulk else 1):
                    await self._fold(transaction, piece, reads)
                    is_left = self._position < piece.end
                    reads = [read for read in reads if read[0].offset >= self._position] if is_left else []
                    # More would be too much for this transaction, or it would be open while the log is waited for.
                    is_enough = is_left or transaction.unsaved >= MOST_UNSAVED
                    if is_enough or self._owed_s > 0 or not await pieces.comes_soon():
                        break
                    piece = await pieces.next()
                    reads = self._read(piece)
                    if piece is None:
                        break
                await transaction.save_state()
            self._memory.trim()
            # In no transaction, which would keep PostgreSQL from tidying up behind the live fold.
            await asyncio.sleep(max(0.0, self._owed_s))
            self._owed_s = 0.0
            if piece is not None and self._position >= piece.end:
                piece = await pieces.next()
                reads = self._read(piece)

    async def _recall(self, seen: Seen) -> None:
        """Fill the filter with what an earlier run has folded."""
        async with self._pool.connection() as connection, connection.transaction():
            async for account, command_id in ChunkTransaction(connection, self.partition, self._claim).known_ids():
                seen.note(account, command_id)

    def _read(self, piece: Piece | None) -> list[Read]:
        if piece is None:
            return []
        return quick.read(piece.records, self.partition, self._job.partitions, self._memory.light)

    async def _fold(self, transaction: ChunkTransaction, piece: Piece, reads: list[Read]) -> None:
        if piece.end <= self._position:
            return
        began, before = time.monotonic(), self._position
        self._position = await fold_chunk(
            transaction,
            transaction.progress,
            reads,
            piece.end,
            self._memory,
            forced=self._job.forced_rules,
            save_state=not self._job.bulk,
        )
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
        """Tell whether the next piece is there within PIECE_PATIENCE_S, or that there is none is known."""
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
