"""The outcomes as they are folded, for any number of readers: one follower reads the journal for all of them.

Owns the newest outcomes, bounded in number, which its readers share. A reader that isn't there yet, or that fell behind
them, reads the journal by itself, page by page, at its own pace. So a slow one is never buffered for, and one that
waits costs neither a thread nor a connection. Knows no route and no SQL.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import structlog

from creditfold.projections import queries
from creditfold.projections.queries.feed import DecisionPage, PlacedDecision, decisions_after
from creditfold.projections.queries.windows import Place

log = structlog.get_logger()

#: Outcomes that are kept for readers, and those read at a time.
KEPT, PAGE = 5_000, 500
#: Seconds between two looks at the journal while somebody follows it, and after one that failed.
LOOK_S, RETRY_S = 0.05, 1.0

_START = Place(0)


class Kept:
    """The newest outcomes, numbered as they come.

    Args:
        places: by partition, the place from which on they are kept.
    """

    def __init__(self, places: Mapping[int, Place]) -> None:
        self._lines: deque[PlacedDecision] = deque()
        #: By partition, the place behind the last of them.
        self.places = dict(places)
        #: The number of the first of them, and that of the next one to come.
        self.first = self.end = 0

    def add(self, page: DecisionPage) -> None:
        """Keep what a page has, in place of the oldest."""
        self._lines.extend(page.lines)
        self.places.update(page.places)
        self.end += len(page.lines)
        while len(self._lines) > KEPT:
            self._lines.popleft()
        self.first = self.end - len(self._lines)

    def since(self, number: int) -> Sequence[PlacedDecision]:
        """Those from a number on that is kept, a page of them at most."""
        start = number - self.first
        return list(islice(self._lines, start, start + PAGE))


class Feed:
    """Outcomes for readers. Its follower runs while there is one.

    Args:
        ask: asks PostgreSQL by a function of `projections.queries`.
    """

    def __init__(self, ask: Callable[..., Awaitable[Any]]) -> None:
        self._ask = ask
        self._readers = 0
        self._follower: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        #: The newest outcomes; None until the follower has begun.
        self.kept: Kept | None = None

    async def places(self) -> dict[int, Place]:
        """By partition, the place behind all that is folded now."""
        found = await self._ask(queries.standing)
        return {partition: Place(offset) for partition, offset in found.next_offsets.items()}

    async def page(self, places: Mapping[int, Place], account_prefix: str = "") -> DecisionPage:
        """The next page of the journal behind some places."""
        page: DecisionPage = await self._ask(decisions_after, places, PAGE, account_prefix)
        return page

    def enter(self) -> None:
        """Have one more reader."""
        self._readers += 1
        if self._follower is None:
            self._follower = asyncio.create_task(self._follow())

    def leave(self) -> None:
        """Have one reader less; after the last one nothing is read any more."""
        self._readers -= 1
        if not self._readers and self._follower is not None:
            self._follower.cancel()
            self._follower = self.kept = None

    async def await_news(self, timeout_s: float) -> None:
        """Wait until more is kept, at most some seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout_s)

    async def _follow(self) -> None:
        is_well = True
        while True:
            try:
                kept = self.kept = self.kept or Kept(await self.places())
                page = await self.page(kept.places)
            except Exception as error:
                if is_well:
                    log.warning("outcomes can't be followed; trying again", why=str(error))
                is_well = False
                await asyncio.sleep(RETRY_S)
                continue
            is_well = True
            if page.lines or page.places != kept.places:
                kept.add(page)
                news, self._news = self._news, asyncio.Event()
                news.set()
            if page.is_last:
                await asyncio.sleep(LOOK_S)


class FeedReader:
    """One reader of a feed, that has entered it.

    Args:
        feed: what it reads.
        places: by partition, the place behind all that it knows.
        account_prefix: begins the accounts whose outcomes it gets.
    """

    def __init__(self, feed: Feed, places: Mapping[int, Place], account_prefix: str) -> None:
        self.places = dict(places)
        self._feed = feed
        self._account_prefix = account_prefix
        # The number of the next kept outcome; None while it reads the journal by itself.
        self._number: int | None = None

    async def next(self, timeout_s: float) -> Sequence[PlacedDecision]:
        """The next outcomes, each once and in the order of the log in its partition; `places` is then behind them.

        None at all where some seconds have passed, or where all that came is of other accounts.
        """
        kept = self._feed.kept
        if self._number is None or kept is None or self._number < kept.first:
            self._number = None
            return await self._from_journal()
        if self._number == kept.end:
            await self._feed.await_news(timeout_s)
            if self._number < kept.first:
                return ()
        lines = kept.since(self._number)
        self._number += len(lines)
        fresh = [line for line in lines if self._is_fresh(line)]
        for line in lines:
            self._advance(line.decision.log_partition, line.place)
        if self._number == kept.end:
            for partition, place in kept.places.items():
                self._advance(partition, place)
        return fresh

    def _is_fresh(self, line: PlacedDecision) -> bool:
        return line.decision.account_id.startswith(self._account_prefix) and line.place > self.places.get(
            line.decision.log_partition, _START
        )

    def _advance(self, partition: int, place: Place) -> None:
        if place > self.places.get(partition, _START):
            self.places[partition] = place

    async def _from_journal(self) -> Sequence[PlacedDecision]:
        """A page of the journal. The last one leads to what is kept, if that began no later than the page ends."""
        kept = self._feed.kept
        number, goal = (None, {}) if kept is None else (kept.end, dict(kept.places))
        try:
            page = await self._feed.page(self.places, self._account_prefix)
        except Exception as error:
            log.warning("outcomes can't be read; trying again", why=str(error))
            await asyncio.sleep(RETRY_S)
            return ()
        self.places.update(page.places)
        if page.is_last and number is not None and all(self.places[one] >= goal[one] for one in goal):
            self._number = number
        elif not page.lines:
            await asyncio.sleep(LOOK_S)
        return page.lines
