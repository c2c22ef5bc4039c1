"""The partitions that this worker has claimed, each of which folds its chunks in order until it is stopped.

They overlap: while PostgreSQL writes one partition's chunk, Python decodes another's. Owns claims and which partitions
are held; how a chunk is folded is folder.py's.
"""

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress

import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from creditfold.log.bookmark import Bookmark
from creditfold.processors.fold.chunk import Chunk
from creditfold.processors.worker.folder import ChunkFolder
from creditfold.processors.worker.partition import Partition, Work
from creditfold.projections.store.claim import Claim, claim, live_bookmarks, release, stored

log = structlog.get_logger()


class Partitions:
    """The claimed partitions.

    Args:
        pool: connections, opened and closed by the caller.
        folder: folds their chunks. Its `on_lost` is also called with partitions that PostgreSQL has otherwise than they
            were left, and its `on_transfers` when partitions were claimed.
        owner: this worker's name in `progress`.
    """

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[TupleRow]], folder: ChunkFolder, owner: str) -> None:
        self.folder = folder
        self._pool = pool
        self._owner = owner
        self._partitions: dict[int, Partition] = {}
        # Whose chunks are fetched.
        self._held: set[int] = set()

    async def claim(self, partitions: Collection[int]) -> dict[int, Claim]:
        """Claim partitions; chunks fetched under older claims are void from now on."""
        # While the claims are made, what PostgreSQL has of them is newer than what is known here.
        self._held.difference_update(partitions)
        claims = {partition: await claim(self._pool, partition, self._owner) for partition in sorted(partitions)}
        for number, won in claims.items():
            if number not in self._partitions:
                self._partitions[number] = Partition(number, self.folder.fold_until_done)
            self._partitions[number].renew(won)
        self.folder.meter.claims += len(claims)
        self.folder.on_transfers()
        return claims

    async def bookmarks(self, partitions: Collection[int]) -> dict[int, Bookmark]:
        """Where the live generation's fold of these partitions stands, whoever has claimed them."""
        return await live_bookmarks(self._pool, partitions)

    def folded(self) -> dict[int, Bookmark]:
        """Where each partition's fold by this worker stood a moment ago, of those with a claim."""
        return {number: one.bookmark for number, one in self._partitions.items() if one.claim.epoch > 0}

    async def release(self, partition: int) -> None:
        """Have nobody own a partition, this worker or a former one: nobody ticks it, and what is queued is void."""
        await release(self._pool, partition)
        if (released := self._partitions.pop(partition, None)) is not None:
            await released.stop()

    def hold(self, partitions: Collection[int]) -> None:
        """Hold these partitions, and no others: of those nothing stays cached, and nobody looks where they stand."""
        self._held = set(partitions)
        self.folder.sharing = max(1, len(self._held))
        for number, one in self._partitions.items():
            if number not in partitions:
                one.cache = None

    def queue(self, chunks: Iterable[Chunk]) -> None:
        """Queue chunks, each behind its partition's earlier ones."""
        for chunk in chunks:
            if chunk.partition in self._partitions:
                self._partitions[chunk.partition].queue(chunk)

    def without_room(self) -> set[int]:
        """Partitions that need no chunk before `wait_for_room` has ended.

        Those that have one waiting already, for more would only fill memory; and while small chunks are folded
        together, all but those that have a large one at work: what comes meanwhile is better fetched at once.
        """
        self.folder.room.clear()
        together = self.folder.rounds.are_busy
        return {number for number, one in self._partitions.items() if one.is_full or (together and not one.is_alone)}

    async def wait_for_room(self, timeout_s: float) -> None:
        """Wait until a chunk is done, or was since `without_room` was called; `timeout_s` seconds at most."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.folder.room.wait(), timeout_s)

    def idle(self) -> dict[int, int]:
        """The next offset of each partition that has nothing to do."""
        return {number: one.next_offset for number, one in self._partitions.items() if one.is_idle}

    def offsets(self) -> dict[int, int]:
        """The next offset to fold, by partition, as last committed."""
        return {number: one.next_offset for number, one in self._partitions.items()}

    def work(self) -> dict[int, Work]:
        """What each partition is at that has something to do. Safe to call from another thread."""
        partitions = list(self._partitions.items())
        return {number: work for number, one in partitions if (work := one.work) is not None}

    async def give_up_displaced(self) -> None:
        """Give up the held partitions that don't stand in PostgreSQL where this worker left them.

        Without new commands nothing else shows it. Raises what PostgreSQL raises.
        """
        before = {number: one.committed for number, one in self._partitions.items() if number in self._held}
        if not before:
            return
        found = await stored(self._pool, before)
        for number, left in before.items():
            one = self._partitions.get(number)
            # Claimed anew since, or given up: what was read is about what is over.
            if one is None or one.claim is not left.claim or number not in self._held:
                continue
            at = found.get(number)
            if left.contradicts(at, is_settled=one.committed == left):
                is_fenced = left.is_fenced(at)
                write = log.info if is_fenced else log.warning
                write("partition lost", partition=number, why=left.why_lost(at))
                self._held.discard(number)
                self.folder.on_lost(number, is_fenced)

    async def stop(self) -> None:
        """Let each partition finish the chunk at work, for a while, then end them."""
        partitions, self._partitions = list(self._partitions.values()), {}
        await asyncio.gather(*(one.stop() for one in partitions))
        await self.folder.rounds.stop()
