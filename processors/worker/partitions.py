"""One lane a partition: takes its chunks in order, each in one PostgreSQL transaction, until it is told to stop.

Lanes overlap: while PostgreSQL writes one partition's chunk, Python decodes another's. Small chunks of several lanes
share a transaction, which costs about as much as one of them alone. What can't be folded so is folded alone, and a lane
retries for ever with back-off: an outage or a defect holds up its own partition only, and `creditfold status --check`
reports it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import structlog
from psycopg import AsyncConnection
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential, wait_random

from creditfold.common.errors import CreditfoldError
from creditfold.ledger import UnknownRulesError
from creditfold.log.bookmark import Bookmark
from creditfold.processors.fold import fast as quick
from creditfold.processors.fold.account_cache import Memory, Seen, Share, fold_chunk, fold_together
from creditfold.processors.fold.chunk import Chunk, Read, controls, has_transfers
from creditfold.processors.worker.meter import Meter
from creditfold.projections.failures import is_outage, outage_event, why
from creditfold.projections.store.claim import Claim, Stored, claim, live_bookmarks, release, stored
from creditfold.projections.store.send import KnownCommandError
from creditfold.projections.store.transaction import ChunkGapError, ChunkTransaction, FencedError, SetBackError

#: How long a stopping lane may take to finish the chunk that it is writing, in seconds.
GRACE_S = 5.0

#: Accounts and lots that a worker remembers from one chunk to the next, shared out among its lanes. An account with one
#: lot takes some 1.2 KB, a light one of the compiled core a third of it; so many keep a worker below 300 MB.
WORKER_ACCOUNTS = 70_000
WORKER_LOTS = 200_000

#: Command ids of its last records that a worker recognizes, and the size of the filter by which it does. A command that
#: comes twice nearly always does so at once, and only what is recognized is looked up.
RECENT_IDS = 2**18
RECENT_BYTES = 2**22

#: How many chunks of a partition are looked up whole after one in which an older id came again.
DOUBTED_CHUNKS = 100

#: Records of the largest chunk that shares a transaction with other partitions', and those of all that one may hold.
#: Larger ones gain nothing, and fold faster beside each other.
SMALL_CHUNK = 250
ROUND_RECORDS = 1_000

#: Lanes, or rounds of small chunks, in work at a time: more are no faster, and a chunk in work takes much memory.
LANES_AT_ONCE = 2

log = structlog.get_logger()


class RulesTooNewError(CreditfoldError):
    """The log goes over to rules that this release doesn't have."""


class Work(NamedTuple):
    """What a lane is at: since when by the monotonic clock, its turn waited for included; how often it failed, and why.

    A failure for which another server is to blame doesn't count as a try.
    """

    since: float
    tries: int = 0
    why: str = ""


class Lanes:
    """The lanes of the partitions that this worker has claimed.

    Args:
        pool: connections, opened and closed by the caller.
        partitions: partition count of the command topic.
        owner: this worker's name in `progress`.
        retry_max_s: longest pause between tries, in seconds.
        on_lost: called with a partition whose chunks no longer connect; it must be claimed and sought again.
        on_hopeless: called with an error after which no worker of this release can go on.
        on_transfers: called when partitions were claimed, or transfers folded: some may have to be moved on.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[AsyncConnection[TupleRow]],
        partitions: int,
        owner: str,
        retry_max_s: float,
        *,
        on_lost: Callable[[int, bool], None],
        on_hopeless: Callable[[CreditfoldError], Awaitable[None]],
        on_transfers: Callable[[], None] = lambda: None,
    ) -> None:
        self.meter = Meter()
        self._pool = pool
        self._partitions = partitions
        self._owner = owner
        self._retry_max_s = retry_max_s
        self._on_lost = on_lost
        self._on_hopeless = on_hopeless
        self._on_transfers = on_transfers
        self._lanes: dict[int, Lane] = {}
        self._seen = Seen(RECENT_BYTES, RECENT_IDS)
        # Whose chunks are fetched; among them what is remembered is shared out.
        self._held: set[int] = set()
        self._room = asyncio.Event()
        self._turns = asyncio.Semaphore(LANES_AT_ONCE)
        # Small chunks that the next transaction takes, and such transactions under way.
        self._small: list[_Small] = []
        self._rounds: set[asyncio.Task[None] | None] = set()

    async def claim(self, partitions: Collection[int]) -> dict[int, Claim]:
        """Claim partitions; chunks fetched under older claims are void from now on."""
        # While the claims are made, what PostgreSQL has of them is newer than what the lanes know.
        self._held.difference_update(partitions)
        claims = {partition: await claim(self._pool, partition, self._owner) for partition in sorted(partitions)}
        for partition, won in claims.items():
            if partition not in self._lanes:
                self._lanes[partition] = Lane(self, partition)
            self._lanes[partition].renew(won)
        self._on_transfers()
        return claims

    async def bookmarks(self, partitions: Collection[int]) -> dict[int, Bookmark]:
        """Where the live generation's fold of these partitions stands, whoever has claimed them."""
        return await live_bookmarks(self._pool, partitions)

    def folded(self) -> dict[int, Bookmark]:
        """Where each partition's fold by this worker stood a moment ago, of those with a claim."""
        return {partition: lane.bookmark for partition, lane in self._lanes.items() if lane.claim.epoch > 0}

    async def release(self, partition: int) -> None:
        """Have nobody own a partition, this worker or a former one: nobody ticks it, and what is queued is void."""
        await release(self._pool, partition)
        if (lane := self._lanes.pop(partition, None)) is not None:
            await lane.stop()

    def keep(self, partitions: Collection[int]) -> None:
        """Hold these partitions, and no others: of those nothing is remembered, and nobody looks where they stand."""
        self._held = set(partitions)
        for partition, lane in self._lanes.items():
            if partition not in partitions:
                lane.memory = None

    def put(self, chunks: Iterable[Chunk]) -> None:
        """Queue chunks, each behind its partition's earlier ones."""
        for chunk in chunks:
            if chunk.partition in self._lanes:
                self._lanes[chunk.partition].put(chunk)

    def busy(self) -> set[int]:
        """Partitions that need no chunk before `wait_for_room` has ended.

        Those that have one waiting already, for more would only fill memory; and while small chunks are folded
        together, all but those that have a large one in work: what comes meanwhile is better fetched at once.
        """
        self._room.clear()
        together = bool(self._rounds or self._small)
        return {
            partition for partition, lane in self._lanes.items() if lane.is_full or (together and not lane.is_alone)
        }

    def waiting(self) -> dict[int, int]:
        """The next offset of each partition whose lane has nothing to do."""
        return {partition: lane.next_offset for partition, lane in self._lanes.items() if lane.is_idle}

    def offsets(self) -> dict[int, int]:
        """The next offset to fold, by partition, as last written."""
        return {partition: lane.next_offset for partition, lane in self._lanes.items()}

    async def give_up_displaced(self) -> None:
        """Give up the held partitions that don't stand in PostgreSQL where their lanes left them.

        Without new commands nothing else shows it. Raises what PostgreSQL raises.
        """
        before = {partition: lane.committed for partition, lane in self._lanes.items() if partition in self._held}
        if not before:
            return
        found = await stored(self._pool, before)
        for partition, left in before.items():
            lane = self._lanes.get(partition)
            # Claimed anew since, or given up: what was asked is about what is over.
            if lane is None or lane.claim is not left.claim or partition not in self._held:
                continue
            at = found.get(partition)
            if left.contradicts(at, is_settled=lane.committed == left):
                is_fenced = left.is_fenced(at)
                say = log.info if is_fenced else log.warning
                say("partition lost", partition=partition, why=left.why_lost(at))
                self._held.discard(partition)
                self._on_lost(partition, is_fenced)

    def work(self) -> dict[int, Work]:
        """What each lane is at that has something to do. Safe to call from another thread."""
        lanes = list(self._lanes.items())
        return {partition: work for partition, lane in lanes if (work := lane.work) is not None}

    async def wait_for_room(self, timeout_s: float) -> None:
        """Wait until a lane finishes a chunk, or has finished one since `busy` was asked, at most so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._room.wait(), timeout_s)

    async def stop(self) -> None:
        """Let each lane finish the chunk that it is writing, for a while, then end them."""
        lanes, self._lanes = list(self._lanes.values()), {}
        await asyncio.gather(*(lane.stop() for lane in lanes))
        rounds = [task for task in self._rounds if task is not None]
        for task in rounds:
            task.cancel()
        await asyncio.gather(*rounds, return_exceptions=True)

    async def fold(self, chunk: Chunk, won: Claim, memory: Memory | None = None) -> int:
        """Fold what is new of a chunk, and give back the partition's next offset.

        In one transaction, or in several if it comes to very much.

        A memory must be of this claim, and each of its transactions must have been committed.

        Raises FencedError, ChunkGapError, SetBackError, UnknownRulesError, KnownCommandError, or what PostgreSQL
        raises; of the transaction in which it does nothing is written then.
        """
        memory = memory or Memory()
        reads: list[Read] = []
        at = chunk.start
        while at < chunk.end:
            async with self._connection() as connection:
                if not reads:
                    # Not before: a lane that waits for its turn needs no more memory than its records take.
                    with self.meter.stage("decode"):
                        reads = quick.read(chunk.records, chunk.partition, self._partitions, memory.light)
                at = await self._fold_some(connection, chunk, reads, won, memory)
            memory.trim()
        if has_transfers(reads):
            self._on_transfers()
        return at

    async def _fold_some(
        self,
        connection: AsyncConnection[TupleRow],
        chunk: Chunk,
        reads: list[Read],
        won: Claim,
        memory: Memory,
    ) -> int:
        async with connection.transaction():
            transaction = ChunkTransaction(connection, chunk.partition, won)
            progress = await transaction.lock()
            if memory.progress is not None and memory.progress != progress:
                # What is remembered isn't what is stored: commits were lost behind it.
                raise SetBackError(
                    f"Partition {chunk.partition} stands at {progress.next_offset}, "
                    f"and this worker's last commit left it at {memory.progress.next_offset}."
                )
            if chunk.end <= progress.next_offset:
                return progress.next_offset
            if chunk.start > progress.next_offset:
                raise ChunkGapError(
                    f"Partition {chunk.partition} stands at {progress.next_offset}, the chunk starts at {chunk.start}."
                )
            if reads and reads[0][0].offset < progress.next_offset:
                reads = [read for read in reads if read[0].offset >= progress.next_offset]
            with self.meter.stage("fold"):
                at = await fold_chunk(transaction, progress, reads, chunk.end, memory)
        self._count(reads, chunk.end, at)
        return at

    def _count(self, reads: Sequence[Read], end: int, at: int) -> None:
        self.meter.count(len(reads) if at == end else sum(1 for read in reads if read[0].offset < at))

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[TupleRow]]:
        async with self._turns, self._pool.connection() as connection:
            try:
                yield connection
            except ReadOnlySqlTransaction:
                # The server became a standby: the pool must find the new primary instead of this one again.
                await connection.close()
                raise

    async def fold_until_done(self, chunk: Chunk, lane: "Lane") -> None:
        """Fold a chunk, however often it takes, unless the partition is claimed anew meanwhile."""
        retrying = AsyncRetrying(
            wait=wait_exponential(multiplier=0.1, max=self._retry_max_s) + wait_random(0, 0.1),
            retry=retry_if_exception(_is_worth_another_try),
            before_sleep=lane.failed,
        )
        try:
            if await self._fold_in_a_round(chunk, lane):
                return
            lane.is_alone = True
            async for attempt in retrying:
                with attempt:
                    if chunk.epoch != lane.claim.epoch:
                        return
                    try:
                        await self._fold_from_memory(chunk, lane)
                    except KnownCommandError:
                        lane.doubts = DOUBTED_CHUNKS
                        await self._fold_from_memory(chunk, lane)
        except (FencedError, ChunkGapError, SetBackError) as error:
            if chunk.epoch == lane.claim.epoch:
                log.warning("partition lost", partition=chunk.partition, why=error.message)
                self._on_lost(chunk.partition, isinstance(error, FencedError))
        except UnknownRulesError as error:
            await self._on_hopeless(
                RulesTooNewError(
                    f"Partition {chunk.partition} goes over to rules {error.args[0]}, which this release doesn't have.",
                    "Run workers of a release that has them; they go on where this one stands.",
                )
            )
        finally:
            lane.is_alone = False
            self._room.set()

    async def _fold_from_memory(self, chunk: Chunk, lane: "Lane") -> None:
        memory = self._take_memory(lane)
        self._folded(chunk, lane, memory, await self.fold(chunk, lane.claim, memory))

    def _take_memory(self, lane: "Lane") -> Memory:
        # A try that fails leaves nothing behind that the next could believe.
        memory, lane.memory = lane.memory or Memory(seen=self._seen), None
        memory.trusts = lane.doubts == 0
        sharing = max(1, len(self._held))
        memory.keep(WORKER_ACCOUNTS // sharing, WORKER_LOTS // sharing)
        return memory

    def _folded(self, chunk: Chunk, lane: "Lane", memory: Memory, next_offset: int) -> None:
        lane.doubts = max(0, lane.doubts - 1)
        if chunk.epoch == lane.claim.epoch:
            lane.memory, lane.next_offset = memory, next_offset
            if memory.progress is not None:
                lane.bookmark = memory.progress.bookmark

    async def _fold_in_a_round(self, chunk: Chunk, lane: "Lane") -> bool:
        """Fold a small chunk together with other lanes'; False if it must be folded alone, or what is left of it."""
        if len(chunk.records) > SMALL_CHUNK or not lane.shares(chunk):
            return False
        small = _Small(chunk, lane, asyncio.get_running_loop().create_future())
        self._small.append(small)
        self._start_round()
        try:
            return await small.is_done
        finally:
            if small in self._small:
                self._small.remove(small)

    def _start_round(self, ended: "asyncio.Task[None] | None" = None) -> None:
        self._rounds.discard(ended)
        if self._small and not self._rounds:
            task = asyncio.create_task(self._fold_round(), name="round")
            self._rounds.add(task)
            task.add_done_callback(self._start_round)

    async def _fold_round(self) -> None:
        taken = self._next_round()
        try:
            if taken:
                await self._fold_small(taken)
        except Exception as error:
            # Alone, each finds what is wrong with its own partition, if it is that.
            log.info("small chunks can't be folded together", chunks=len(taken), why=repr(error)[:200])
        finally:
            for small in taken:
                small.finish(done=False)

    def _next_round(self) -> "list[_Small]":
        taken: list[_Small] = []
        room = ROUND_RECORDS
        for small in list(self._small):
            # A transaction is of one generation.
            is_alike = small.lane.claim.generation == self._small[0].lane.claim.generation
            if is_alike and len(small.chunk.records) <= room:
                room -= len(small.chunk.records)
                taken.append(small)
        self._small = [small for small in self._small if small not in taken]
        return taken

    async def _fold_small(self, taken: "Sequence[_Small]") -> None:
        """Fold chunks of several partitions in one transaction, those excepted that are known to need one alone."""
        async with self._connection() as connection:
            shares: list[tuple[_Small, Share]] = []
            for small in taken:
                chunk, lane = small.chunk, small.lane
                if not lane.shares(chunk) or lane.memory is None:
                    continue
                with self.meter.stage("decode"):
                    reads = quick.read(chunk.records, chunk.partition, self._partitions, lane.memory.light)
                if not controls(reads):
                    transaction = ChunkTransaction(connection, chunk.partition, lane.claim, lane.memory.progress)
                    shares.append((small, Share(transaction, reads, chunk.end, self._take_memory(lane))))
            if not shares:
                return
            with self.meter.stage("fold"):
                reached = await fold_together(connection, [share for _, share in shares])
        for (small, share), at in zip(shares, reached, strict=True):
            share.memory.trim()
            self._count(share.reads, share.end, at)
            self._folded(small.chunk, small.lane, share.memory, at)
            small.finish(done=at >= small.chunk.end)
        if any(has_transfers(share.reads) for _, share in shares):
            self._on_transfers()


class Committed(NamedTuple):
    """Where a lane has left its partition: its claim, the next offset as last committed, and whether it has no work."""

    claim: Claim
    next_offset: int
    is_idle: bool

    def contradicts(self, at: Stored | None, *, is_settled: bool) -> bool:
        """Whether what was read in PostgreSQL afterwards can't have come of this.

        Args:
            at: what was read, None if the partition isn't there.
            is_settled: whether the lane stood so before and after that, so that no commit was under way.
        """
        if at is None or (at.generation, at.epoch) != (self.claim.generation, self.claim.epoch):
            return True
        if is_settled and self.is_idle:
            return at.next_offset != self.next_offset
        return at.next_offset < self.next_offset

    def is_fenced(self, at: Stored | None) -> bool:
        """Whether another worker has simply claimed the partition since."""
        return (
            at is not None
            and at.generation == self.claim.generation
            and at.epoch > self.claim.epoch
            and at.next_offset >= self.next_offset
        )

    def why_lost(self, at: Stored | None) -> str:
        """What to say of a partition that isn't as it was left."""
        own = f"generation {self.claim.generation} at {self.next_offset} under epoch {self.claim.epoch}"
        if at is None:
            return f"this worker left {own}, and PostgreSQL has nothing of it"
        return f"this worker left {own}, and PostgreSQL has {at.generation} at {at.next_offset} under epoch {at.epoch}"


class _Small:
    """A chunk that waits to be folded with others."""

    def __init__(self, chunk: Chunk, lane: "Lane", is_done: "asyncio.Future[bool]") -> None:
        self.chunk = chunk
        self.lane = lane
        self.is_done = is_done

    def finish(self, *, done: bool) -> None:
        """Tell the lane whether the chunk is folded, unless it was told before or doesn't wait any more."""
        if not self.is_done.done():
            self.is_done.set_result(done)


class Lane:
    """One partition's queue and the task that empties it."""

    def __init__(self, lanes: Lanes, partition: int) -> None:
        self.claim = Claim(0, -1, 0)
        #: Good for the next chunk under this claim, whose transactions nobody else's can come between.
        self.memory: Memory | None = None
        #: Whether a chunk is in work that shares its transaction with no other lane's.
        self.is_alone = False
        #: How many chunks to look up whole.
        self.doubts = 0
        self.next_offset = 0
        self.bookmark = Bookmark(0)
        #: What it is at; None while no chunk is in work.
        self.work: Work | None = None
        self._lanes = lanes
        self._queue: asyncio.Queue[Chunk] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(), name=f"lane-{partition}")
        self._working = asyncio.Lock()

    @property
    def is_full(self) -> bool:
        """Whether a chunk waits already behind the one in work."""
        return not self._queue.empty()

    def shares(self, chunk: Chunk) -> bool:
        """Whether it is known that a small chunk can be folded with other lanes'."""
        stands = None if self.memory is None else self.memory.progress
        return (
            stands is not None
            and stands.rules == quick.RULES
            and (stands.epoch, stands.next_offset) == (self.claim.epoch, chunk.start)
            and chunk.epoch == self.claim.epoch
        )

    @property
    def committed(self) -> Committed:
        """Where this lane has left its partition."""
        return Committed(self.claim, self.next_offset, self.is_idle)

    @property
    def is_idle(self) -> bool:
        """Whether no chunk is in work or waits."""
        return self._queue.empty() and not self._working.locked()

    def renew(self, won: Claim) -> None:
        """Go on under a new claim; what was queued under the old one is void."""
        self.claim, self.next_offset, self.bookmark = won, won.next_offset, won.bookmark
        self.memory = None
        while not self._queue.empty():
            self._queue.get_nowait()

    def put(self, chunk: Chunk) -> None:
        """Queue a chunk, unless it was fetched under an older claim."""
        if chunk.epoch == self.claim.epoch:
            self._queue.put_nowait(chunk)

    async def stop(self) -> None:
        """Finish the chunk in work within the grace time, then end."""
        while not self._queue.empty():
            self._queue.get_nowait()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._working.acquire(), GRACE_S)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            chunk = await self._queue.get()
            async with self._working:
                self.work = Work(time.monotonic())
                try:
                    await self._lanes.fold_until_done(chunk, self)
                finally:
                    self.work = None

    def failed(self, state: RetryCallState) -> None:
        """A try failed, and another one follows: remember and log why."""
        error = state.outcome.exception() if state.outcome else None
        if self.work is not None and error is not None:
            tries = self.work.tries + (0 if is_outage(error) else 1)
            self.work = self.work._replace(tries=tries, why=why(error))
        _say_why(state)


def _is_worth_another_try(error: BaseException) -> bool:
    # A cancellation is no Exception, and must end the lane.
    return isinstance(error, Exception) and not isinstance(
        error, FencedError | ChunkGapError | SetBackError | UnknownRulesError
    )


def _say_why(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    wait_s = round(state.next_action.sleep, 1) if state.next_action else 0.0
    if error is not None and is_outage(error):
        log.warning(outage_event(error), retry_in_s=wait_s, attempt=state.attempt_number, why=why(error))
    else:
        log.error(
            "a chunk can't be folded, trying again", retry_in_s=wait_s, attempt=state.attempt_number, exc_info=error
        )
