"""Small chunks of several partitions, folded together round by round: a transaction costs about as much as for one.

Owns which chunks a round takes. A chunk that can't be folded so is left to be folded alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from creditfold.processors.fold.chunk import Chunk
from creditfold.processors.worker.partition import Partition

#: Records of the largest chunk that shares a transaction with other partitions', and those of all that one may hold.
#: Larger ones gain nothing, and fold faster each in a transaction of its own.
SMALL_CHUNK = 250
ROUND_RECORDS = 1_000

log = structlog.get_logger()


class SmallChunk:
    """A chunk that waits for a round."""

    def __init__(self, chunk: Chunk, partition: Partition) -> None:
        self.chunk = chunk
        self.partition = partition
        self.is_done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def finish(self, *, done: bool) -> None:
        """Say whether the whole chunk is folded, if that wasn't said before and is still waited for."""
        if not self.is_done.done():
            self.is_done.set_result(done)


class Rounds:
    """The rounds of one worker, one at a time.

    Args:
        fold: folds chunks in one transaction, and calls `finish` of those of which it folded something.
    """

    def __init__(self, fold: Callable[[Sequence[SmallChunk]], Awaitable[None]]) -> None:
        self._fold = fold
        self._waiting: list[SmallChunk] = []
        self._tasks: set[asyncio.Task[None] | None] = set()

    @property
    def are_busy(self) -> bool:
        """Whether a round is under way or to come."""
        return bool(self._tasks or self._waiting)

    async def fold(self, chunk: Chunk, partition: Partition) -> bool:
        """Fold a small chunk together with others; False if it, or what is left of it, must be folded alone."""
        if len(chunk.records) > SMALL_CHUNK or not partition.can_share(chunk):
            return False
        small = SmallChunk(chunk, partition)
        self._waiting.append(small)
        self._start()
        try:
            return await small.is_done
        finally:
            if small in self._waiting:
                self._waiting.remove(small)

    async def stop(self) -> None:
        """End the round under way."""
        tasks = [task for task in self._tasks if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, ended: "asyncio.Task[None] | None" = None) -> None:
        self._tasks.discard(ended)
        if self._waiting and not self._tasks:
            task = asyncio.create_task(self._run(), name="round")
            self._tasks.add(task)
            task.add_done_callback(self._start)

    async def _run(self) -> None:
        taken = self._next()
        try:
            if taken:
                await self._fold(taken)
        except Exception as error:
            # Folded alone, each partition meets its own trouble, if it has any.
            log.info("small chunks can't be folded together", chunks=len(taken), why=repr(error)[:200])
        finally:
            for small in taken:
                small.finish(done=False)

    def _next(self) -> list[SmallChunk]:
        taken: list[SmallChunk] = []
        room = ROUND_RECORDS
        for small in list(self._waiting):
            # A transaction is of one generation.
            is_alike = small.partition.claim.generation == self._waiting[0].partition.claim.generation
            if is_alike and len(small.chunk.records) <= room:
                room -= len(small.chunk.records)
                taken.append(small)
        self._waiting = [small for small in self._waiting if small not in taken]
        return taken
