"""One partition that this worker has claimed: its claim, where its fold stands, the queue of its chunks.

A partition is *idle*, *queued* (a chunk waits for the task that empties the queue) or *at work*. Folds nothing itself.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import structlog
from tenacity import RetryCallState

from creditfold.log.bookmark import Bookmark
from creditfold.processors.fold import fast
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.chunk import Chunk
from creditfold.projections.failures import is_full, is_outage, outage_event, why
from creditfold.projections.store.claim import Claim, Stored

#: How long a partition that is stopped may take to finish the chunk at work, in seconds.
GRACE_S = 5.0

log = structlog.get_logger()


class Work(NamedTuple):
    """A chunk at work: since when by the monotonic clock, its turn waited for included; how often it failed, and why.

    A failure that is an outage of another server's doesn't count as a try.
    """

    since: float
    tries: int = 0
    why: str = ""


class CommittedState(NamedTuple):
    """Where a worker has left a partition: its claim, the next offset as last committed, and whether it has no work."""

    claim: Claim
    next_offset: int
    is_idle: bool

    def contradicts(self, at: Stored | None, *, is_settled: bool) -> bool:
        """Whether what was read in PostgreSQL afterwards can't have come of this.

        Args:
            at: what was read, None if the partition isn't there.
            is_settled: whether the partition's state was this before and after that, so that no commit was under way.
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
        """How a partition differs from how it was left, for the log."""
        own = f"generation {self.claim.generation} at {self.next_offset} under epoch {self.claim.epoch}"
        if at is None:
            return f"this worker left {own}, and PostgreSQL has nothing of it"
        return f"this worker left {own}, and PostgreSQL has {at.generation} at {at.next_offset} under epoch {at.epoch}"


class Partition:
    """A claimed partition.

    Args:
        number: of the command topic's.
        fold: folds one of its chunks, however long it takes.
    """

    def __init__(self, number: int, fold: "Callable[[Chunk, Partition], Awaitable[None]]") -> None:
        self.number = number
        self.claim = Claim(0, -1, 0)
        #: Where the fold stands, as last committed.
        self.bookmark = Bookmark(0)
        #: Good for the next chunk under this claim, between whose transactions nobody else writes; None if not there.
        self.cache: AccountCache | None = None
        #: Whether a chunk is at work that shares its transaction with no other partition's.
        self.is_alone = False
        #: Of how many more chunks every command id is looked up.
        self.lookups = 0
        #: None while no chunk is at work.
        self.work: Work | None = None
        self._fold = fold
        self._queue: asyncio.Queue[Chunk] = asyncio.Queue()
        self._working = asyncio.Lock()
        self._task = asyncio.create_task(self._run(), name=f"partition-{number}")

    @property
    def next_offset(self) -> int:
        """The next offset to fold, as last committed."""
        return self.bookmark.next_offset

    @property
    def is_full(self) -> bool:
        """Whether a chunk waits already behind the one at work."""
        return not self._queue.empty()

    @property
    def is_idle(self) -> bool:
        """Whether no chunk is at work or waits."""
        return self._queue.empty() and not self._working.locked()

    @property
    def committed(self) -> CommittedState:
        """Where this worker has left the partition."""
        return CommittedState(self.claim, self.next_offset, self.is_idle)

    def can_share(self, chunk: Chunk) -> bool:
        """Whether it is known that a small chunk can be folded in one transaction with other partitions'."""
        stands = None if self.cache is None else self.cache.progress
        return (
            stands is not None
            and stands.rules == fast.RULES
            and (stands.epoch, stands.next_offset) == (self.claim.epoch, chunk.start)
            and chunk.epoch == self.claim.epoch
        )

    def renew(self, won: Claim) -> None:
        """Go on under a new claim; what was queued under the old one is void."""
        self.claim, self.bookmark, self.cache = won, won.bookmark, None
        self._empty_queue()

    def queue(self, chunk: Chunk) -> None:
        """Queue a chunk, unless it was fetched under an older claim."""
        if chunk.epoch == self.claim.epoch:
            self._queue.put_nowait(chunk)

    def folded(self, chunk: Chunk, cache: AccountCache) -> None:
        """Take over where a transaction that was committed has left the partition, unless it was claimed anew."""
        self.lookups = max(0, self.lookups - 1)
        if chunk.epoch == self.claim.epoch:
            self.cache = cache
            if cache.progress is not None:
                self.bookmark = cache.progress.bookmark

    def failed(self, state: RetryCallState) -> None:
        """Log why a try failed that is followed by another one, and show it in `work`."""
        error = state.outcome.exception() if state.outcome else None
        if self.work is not None and error is not None:
            tries = self.work.tries + (0 if is_outage(error) and not is_full(error) else 1)
            self.work = self.work._replace(tries=tries, why=why(error))
        wait_s = round(state.next_action.sleep, 1) if state.next_action else 0.0
        about = {"partition": self.number, "retry_in_s": wait_s, "attempt": state.attempt_number}
        if error is not None and is_outage(error):
            log.warning(outage_event(error), why=why(error), **about)
        else:
            log.error("a chunk can't be folded, trying again", exc_info=error, **about)

    async def stop(self) -> None:
        """Finish the chunk at work within GRACE_S, then end."""
        self._empty_queue()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._working.acquire(), GRACE_S)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def _empty_queue(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()

    async def _run(self) -> None:
        while True:
            chunk = await self._queue.get()
            async with self._working:
                self.work = Work(time.monotonic())
                try:
                    await self._fold(chunk, self)
                finally:
                    self.work = None
