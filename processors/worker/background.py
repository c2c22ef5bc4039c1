"""The background tasks of a worker, besides folding: it ticks where something is due, and forwards transfers.

Owns the pauses of the tasks and their retries: an outage, or a defect here, never holds up the fold. Which partitions
are this worker's is what `progress` says of the live generation; what a former owner still appends is a duplicate.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from creditfold.log.appender import Appender
from creditfold.processors.ticks import Ticker
from creditfold.processors.worker.transfers import Sending, TransferForwarder, arrival_key
from creditfold.projections.failures import is_outage, outage_event, why
from creditfold.projections.queries.background import LiveGeneration, TransferKey

#: Transfers on their way that are looked at in a round, over all partitions, and in each of them at least.
TRANSFERS_AT_ONCE = 1_000
LEAST_OF_A_PARTITION = 10

#: Pauses between two rounds of forwarding, in seconds: after it appended something, which grows to that of transfers
#: that wait for their receivers; at most, where more of them are to be looked at; and that of none on their way, which
#: news from the fold ends.
SHORT_S = 0.03
LONG_S = 0.5
PAGE_S = 0.1
IDLE_S = 2.0

#: How often to look for something due, in seconds: often enough for a tick every `every_s`, and at least this often.
LOOK_S = 10.0


def pause_after(before_s: float, seen: int, appended: int, is_more: bool) -> float:
    """The pause behind a round of forwarding, in seconds.

    Args:
        before_s: the pause before the round.
        seen: transfers on their way that it looked at.
        appended: records that it appended.
        is_more: whether there are more transfers to look at.
    """
    if appended:
        return SHORT_S
    if not seen:
        return IDLE_S
    return min(before_s * 2, PAGE_S if is_more else LONG_S)


_START: TransferKey = ("", "")

log = structlog.get_logger()


class BackgroundTasks:
    """The background tasks of one worker.

    Args:
        pool: connections, opened and closed by the caller.
        appender: for the command topic; closed here.
        owner: this worker's name in `progress`.
        partitions: partition count of the command topic.
        tick_s: seconds from one tick of a partition to the next at least; 0 for no ticks.
        retry_max_s: longest pause between tries, in seconds.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[AsyncConnection[TupleRow]],
        appender: Appender,
        owner: str,
        partitions: int,
        *,
        tick_s: float,
        retry_max_s: float,
    ) -> None:
        self._pool = pool
        self._appender = appender
        self._owner = owner
        self._tick_s = tick_s
        self._retry_max_s = retry_max_s
        self._forwarder = TransferForwarder(partitions)
        self._ticker = Ticker(tick_s)
        self._after: dict[int, TransferKey] = {}
        self._pause_s = IDLE_S
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, in tasks of their own, unless it has."""
        if self._tasks:
            return
        self._appender.open()
        self._tasks = [
            asyncio.create_task(self._run("transfers", self._forward, self._wait_for_news), name="transfers")
        ]
        if self._tick_s > 0:
            self._tasks.append(asyncio.create_task(self._run("ticks", self._tick, asyncio.sleep), name="ticks"))

    async def stop(self) -> None:
        """End, whatever is under way: the next owner finds all that is left to do."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(self._appender.close)

    def forget_offsets(self) -> None:
        """Append again what was appended and isn't folded yet: the log may have lost its end."""
        self._forwarder.forget_offsets()
        self._ticker.forget_offsets()

    def wake(self) -> None:
        """Look at transfers soon: one may have been sent or have arrived."""
        self._news.set()

    async def _run(
        self, name: str, work: Callable[[], Awaitable[float]], wait: Callable[[float], Awaitable[None]]
    ) -> None:
        """Do a task again and again; `work` returns the pause until the next time, in seconds."""
        backoff_s = LONG_S
        while True:
            try:
                pause = await work()
                backoff_s = LONG_S
            except Exception as error:
                pause = backoff_s = min(backoff_s * 2, self._retry_max_s)
                if is_outage(error):
                    log.warning(outage_event(error), task=name, retry_in_s=pause, why=why(error))
                else:
                    log.error("a background task failed, trying again", task=name, retry_in_s=pause, exc_info=error)
            await wait(pause)

    async def _wait_for_news(self, pause_s: float) -> None:
        # News may come a hundred times a second.
        await asyncio.sleep(min(pause_s, SHORT_S))
        if pause_s > SHORT_S:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause_s - SHORT_S)

    async def _tick(self) -> float:
        """Append the ticks that are due now."""
        now_ms = time.time_ns() // 1_000_000
        async with self._pool.connection() as connection:
            transit = await LiveGeneration.of_live(connection)
            owned = {} if transit is None else await transit.due(self._owner, now_ms)
        ticks = self._ticker.due(owned, now_ms, time.monotonic())
        if ticks:
            offsets = await asyncio.to_thread(self._appender.append, ticks)
            for record, offset in zip(ticks, offsets, strict=True):
                self._ticker.appended(record.partition, offset, time.monotonic())
        return min(self._tick_s / 2, LOOK_S)

    async def _forward(self) -> float:
        self._news.clear()
        seen, appended = await self._forward_page()
        self._pause_s = pause_after(self._pause_s, seen, appended, bool(self._after))
        return self._pause_s

    async def _forward_page(self) -> tuple[int, int]:
        """Forward some transfers on their way; returns how many were looked at, and how many records were appended."""
        async with self._pool.connection() as connection:
            transit = await LiveGeneration.of_live(connection)
            if transit is None:
                return 0, 0
            # First, so that what was folded before is seen in what is read next.
            standings = await transit.standings()
            owned = [partition for partition, standing in standings.items() if standing.owner == self._owner]
            most = max(LEAST_OF_A_PARTITION, TRANSFERS_AT_ONCE // max(len(owned), 1))
            page = await transit.open_transfers({p: self._after.get(p, _START) for p in owned}, most)
            if not page:
                # Behind the last page there may be earlier ones.
                seen = len(self._after)
                self._after = {}
                return seen, 0
            self._set_next_page(owned, [(one.partition, one.key) for one in page], most)
            arrivals = await transit.arrivals([arrival_key(one) for one in page])
            plan = self._forwarder.plan(page, arrivals, standings)
            parcels = await transit.parcels([one.key for one in plan.arrivals])
        sending = self._forwarder.ends(plan) + self._forwarder.arrivals(plan, parcels)
        return len(page), await self._send(sending)

    def _set_next_page(self, owned: Sequence[int], page: Sequence[tuple[int, TransferKey]], most: int) -> None:
        """Go on behind a partition's page, or begin anew where that was the last."""
        self._after = {}
        for partition in owned:
            keys = [key for of, key in page if of == partition]
            if len(keys) == most:
                self._after[partition] = keys[-1]

    async def _send(self, sending: Sequence[Sending]) -> int:
        if not sending:
            return 0
        offsets = await asyncio.to_thread(self._appender.append, [one.record for one in sending])
        for one, offset in zip(sending, offsets, strict=True):
            self._forwarder.appended(one.command_id, offset)
        return len(sending) - offsets.count(None)
