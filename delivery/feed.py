"""Reads what is to be delivered, once for all endpoints that stand near the end of it.

Owns the pages that are kept: those that were read last of each partition, as far as they follow each other. An endpoint
that stands within them is served from there; one that is further behind reads by itself, a few at a time. Knows no
endpoint, and no HTTP.
"""

import asyncio
import json
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from creditfold.common.position import Log
from creditfold.delivery.events import Event, LineAlert, event_of_letter, events_of
from creditfold.delivery.queue import Reached
from creditfold.projections.delivery.endpoints import NOTICES
from creditfold.projections.delivery.reading import Alerted, Ends, Notice, Page, notices_after, page_after
from creditfold.projections.queries.windows import DeadRow, JournalRow, Place

#: Lines of a partition that are kept.
KEPT_LINES = 4_000
#: Endpoints that read by themselves at once.
MOST_BEHIND = 2


class FeedLine(NamedTuple):
    """A line of a feed: how far the feed is before it and behind it, and its events."""

    before: Reached
    after: Reached
    events: Sequence[Event]


class Batch(NamedTuple):
    """Lines of a feed that follow each other, and how far it is behind the last of them."""

    start: Place
    lines: Sequence[FeedLine]
    end: Reached


class Reader(Protocol):
    """Asks PostgreSQL in a transaction, beside the event loop."""

    def __call__(self, question: Callable[..., Any], *arguments: Any, **options: Any) -> Awaitable[Any]:
        """What a question finds."""


class _Kept:
    """The batches of one feed that were read last, without a gap."""

    def __init__(self, batch: Batch) -> None:
        self._batches = deque([batch])

    @property
    def start(self) -> Place:
        return self._batches[0].start

    @property
    def end(self) -> Place:
        return self._batches[-1].end.place

    def add(self, batch: Batch) -> None:
        self._batches.append(batch)
        while len(self._batches) > 1 and sum(len(one.lines) for one in self._batches) > KEPT_LINES:
            self._batches.popleft()

    def after(self, place: Place) -> Batch:
        """What comes after a place that lies within."""
        batch = next(one for one in self._batches if one.end.place > place)
        if batch.start == place:
            return batch
        first = bisect_right(batch.lines, place, key=lambda line: line.after.place)
        return Batch(place, batch.lines[first:], batch.end)


class Feed:
    """All that is to be delivered, by partition, and the notices.

    Args:
        read: asks PostgreSQL.
    """

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._kept: dict[int, _Kept] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._behind = asyncio.Semaphore(MOST_BEHIND)
        self._reading: dict[tuple[int, Place], asyncio.Task[Batch | None]] = {}
        self._ends: Ends | None = None
        self._news = asyncio.Event()

    def set_ends(self, ends: Ends) -> bool:
        """Serve up to there from now on; returns whether that is news."""
        if ends == self._ends:
            return False
        if self._ends is not None and ends.log != self._ends.log:
            self._kept.clear()
        self._ends = ends
        news, self._news = self._news, asyncio.Event()
        news.set()
        return True

    @property
    def news(self) -> asyncio.Event:
        """Set when there is more than there was when this was asked for."""
        return self._news

    def has_more(self, feed: int, place: Place) -> bool:
        """Whether something may come after a place."""
        return place.offset < self._until(feed)

    def behind(self, feed: int, place: Place) -> int:
        """By how many offsets a place is before the end of what is folded of a partition; 0 of notices."""
        return 0 if feed == NOTICES or self._ends is None else max(self._ends.folded.get(feed, 0) - place.offset, 0)

    def _until(self, feed: int) -> int:
        if self._ends is None:
            return 0
        if feed == NOTICES:
            # Its places are numbers, and come after the last one.
            return self._ends.notices
        folded = self._ends.folded.get(feed, 0)
        return min(folded, self._ends.evaluated[feed].offset) if feed in self._ends.evaluated else folded

    async def after(self, feed: int, place: Place) -> Batch | None:
        """What comes after a place; None where nothing does just now. Raises what PostgreSQL raises."""
        kept = self._kept.get(feed)
        if kept is not None and kept.start <= place < kept.end:
            return kept.after(place)
        if kept is not None and place < kept.start:
            return await self._shared(feed, place, is_behind=True)
        async with self._locks.setdefault(feed, asyncio.Lock()):
            # Another one may have read it meanwhile.
            kept = self._kept.get(feed)
            if kept is not None and kept.start <= place < kept.end:
                return kept.after(place)
            batch = await self._shared(feed, place, is_behind=False)
            if batch is not None:
                self._keep(feed, batch)
            return batch

    def _keep(self, feed: int, batch: Batch) -> None:
        kept = self._kept.get(feed)
        if kept is not None and kept.end == batch.start:
            kept.add(batch)
        elif kept is None or batch.end.place > kept.end:
            self._kept[feed] = _Kept(batch)

    async def _shared(self, feed: int, place: Place, *, is_behind: bool) -> Batch | None:
        """What comes after a place, read once for all who ask at the same time."""
        found = self._reading.get((feed, place))
        if found is None:
            found = self._reading[feed, place] = asyncio.create_task(self._page(feed, place, is_behind=is_behind))
            found.add_done_callback(lambda _: self._reading.pop((feed, place), None))
        return await asyncio.shield(found)

    async def _page(self, feed: int, place: Place, *, is_behind: bool) -> Batch | None:
        async with self._behind if is_behind else nullcontext():
            return await self._read_page(feed, place)

    async def _read_page(self, feed: int, place: Place) -> Batch | None:
        ends, until = self._ends, self._until(feed)
        if ends is None or not self.has_more(feed, place):
            return None
        found: Batch | None = await (
            self._read(notices, place)
            if feed == NOTICES
            else self._read(lines, ends.log, feed, place, until, with_alerts=feed in ends.evaluated)
        )
        return found


def lines(connection: Any, log: Log, partition: int, place: Place, until: int, *, with_alerts: bool) -> Batch | None:
    """What comes after a place of a partition; asked beside the event loop, where the events are made, too."""
    page = page_after(connection, log, partition, place, until, with_alerts=with_alerts)
    return None if page is None else _batch(page, partition, place)


def _batch(page: Page, partition: int, start: Place) -> Batch:
    found: list[FeedLine] = []
    reached = Reached(start)
    alerts = _by_line(page.alerts)
    for row in _in_order(page):
        after = Reached(_place_of(row))
        events: Sequence[Event] = [event_of_letter(row, partition)] if isinstance(row, DeadRow) else ()
        if isinstance(row, JournalRow):
            after = Reached(row.place, row.account, row.version)
            events = events_of(row, partition, alerts.get((row.account, row.version), ()))
        elif reached.account:
            after = reached._replace(place=after.place)
        context = page.traces.get(row.log_offset, "")
        for event in events:
            event.traceparent = context
        found.append(FeedLine(reached, after, events))
        reached = after
    return Batch(start, found, reached._replace(place=page.end))


def _in_order(page: Page) -> list[JournalRow | DeadRow]:
    rows: list[JournalRow | DeadRow] = [*page.journal, *page.dead_letters]
    return sorted(rows, key=_place_of)


def _place_of(row: JournalRow | DeadRow) -> Place:
    # A record has either lines or a dead letter, whose place is that of the next record.
    return row.place if isinstance(row, JournalRow) else Place(row.log_offset + 1)


def _by_line(alerts: Sequence[Alerted]) -> Mapping[tuple[str, int], Sequence[LineAlert]]:
    return {
        key: [LineAlert(*key, one.rule_id, one.type, one.data) for one in some]
        for key, some in groupby(alerts, key=lambda one: (one.account_id, one.version))
    }


def notices(connection: Any, place: Place) -> Batch | None:
    """The notices after a place."""
    found = [
        FeedLine(Reached(Place(before)), Reached(Place(one.number)), [_event(one)])
        for before, one in _with_before(notices_after(connection, place.offset), place.offset)
    ]
    return Batch(place, found, found[-1].after) if found else None


def _with_before(rows: Sequence[Notice], first: int) -> Sequence[tuple[int, Notice]]:
    return list(zip([first, *(one.number for one in rows)], rows, strict=False))


def _event(row: Notice) -> Event:
    return Event(row.type, row.identity, row.at_ms, json.loads(row.data), account=row.account_id, owner=row.owner)
