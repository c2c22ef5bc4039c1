"""Delivers to one endpoint: reads ahead, sends what is due, and writes checkpoints. Owns its tasks, and its pace.

How many requests are under way is bounded: few at first, and more as they succeed. An endpoint that fails again and
again is *ailing*: nothing is read for it, what was read ahead goes back into the journal, and one request at a time
tries whether it is well again. So a dead endpoint costs a request now and then, and no other one notices.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import structlog

from creditfold.common.spans import SPANS
from creditfold.common.trace_context import TRACEPARENT
from creditfold.delivery.feed import Batch, Feed
from creditfold.delivery.filters import Wanted
from creditfold.delivery.identity import webhook_id
from creditfold.delivery.meter import Meter
from creditfold.delivery.queue import MAX_STORED, READ_AHEAD, Changes, Item, Line, Queue, Reached, State
from creditfold.delivery.retries import Verdict, pause_s, retry_after_s, verdict
from creditfold.delivery.sender import Answer, Sender
from creditfold.delivery.signing import Signer
from creditfold.projections.delivery.checkpoints import (
    Checkpoint,
    Cursor,
    Row,
    Tried,
    body_of,
    cursors_of,
    save_checkpoint,
    waiting,
)
from creditfold.projections.delivery.endpoints import Endpoint, SigningKey, endpoint_of, signing_keys

#: Requests to an endpoint at once: at first and after a failure at least, and at most.
FEW, MOST = 2, 32
#: Failures in a row after which an endpoint is ailing.
AILING = 5
#: Seconds between two checkpoints where something was delivered, and where only cursors moved.
CHECKPOINT_S = 0.25
CURSORS_S = 2.0
#: Seconds after which an endpoint is looked at where nothing happens.
IDLE_S = 1.0
#: Requests that bring a checkpoint forward.
MOST_TRIED = 500
#: Seconds for which an endpoint fails until it is disabled.
DISABLE_AFTER_S = 5 * 86_400.0
#: Rows that are read at once when it begins; more than there can be.
MOST_ROWS = 4 * (MAX_STORED + READ_AHEAD)

log = structlog.get_logger()


class Writer(Protocol):
    """Asks PostgreSQL on a connection in autocommit, beside the event loop."""

    def __call__(self, question: Callable[..., Any], *arguments: Any, **options: Any) -> Awaitable[Any]:
        """What a question finds."""


class Tools(NamedTuple):
    """What the runners of a process share: where they read, write and send, who leads, and what is counted."""

    feed: Feed
    write: Writer
    sender: Sender
    epoch: int
    meter: Meter


class _Opened(NamedTuple):
    """An endpoint as it is in the database."""

    endpoint: Endpoint
    keys: list[SigningKey]
    cursors: list[Cursor]


def _open(connection: Any, endpoint_id: str) -> _Opened:
    endpoint, keys = endpoint_of(connection, endpoint_id), list(signing_keys(connection, endpoint_id))
    return _Opened(endpoint, keys, cursors_of(connection, endpoint_id))


def _waiting(connection: Any, endpoint_id: str, after: int) -> tuple[list[Item], int]:
    rows = waiting(connection, endpoint_id, after, MOST_ROWS)
    items = [
        Item(
            row.webhook_id,
            row.lane,
            kind=row.type,
            account=row.account_id,
            position=row.position,
            traceparent=row.traceparent,
            tries=row.tries,
            due_s=row.next_at.timestamp(),
        )
        for row in rows
    ]
    return items, rows[-1].number if rows else after


class Runner:
    """One endpoint's delivery, for as long as `run` runs; whoever cancels it loses nothing.

    Args:
        endpoint_id: of the endpoint.
        tools: what the runners share.
    """

    def __init__(self, endpoint_id: str, tools: Tools) -> None:
        self._id = endpoint_id
        self._tools = tools
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._queue = Queue({})
        self._sends: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._tried: list[Tried] = []
        self._failures = 0
        self._slots = FEW
        self._rests_until_s = 0.0
        self._disabled_why = ""
        self._is_changed = False
        self._last_number = 0
        self._moved: dict[int, Reached] = {}
        self._failing_since: datetime | None = None
        self._keys_until: datetime | None = None
        self._room = asyncio.Event()
        self._trouble: Exception | None = None
        self._saved_at = self._moved_at = time.monotonic()

    def note_change(self) -> None:
        """The endpoint was changed, or has more to be sent again."""
        self._is_changed = True
        self._news.set()

    async def run(self) -> None:
        """Deliver until cancelled.

        Raises:
            SupersededError: another process leads.
            EndpointGoneError: the endpoint was deleted or disabled.
            UnknownEndpointError: it was deleted before it began.
        """
        self._begin_anew()
        opened: _Opened = await self._tools.write(_open, self._id)
        self._take(opened)
        self._failing_since = opened.endpoint.failing_since
        self._queue = Queue({one.partition: Reached(one.place, *one[2:]) for one in opened.cursors})
        await self._restore()
        reading = asyncio.create_task(self._read_ahead())
        try:
            while not self._disabled_why:
                self._fill()
                await self._await_news(reading)
                if self._is_changed:
                    await self._reload()
                if self._is_time():
                    await self._save()
            await self._save()
        finally:
            self._tools.meter.standing.pop(self._id, None)
            await _cancelled(reading, *self._sends)

    def _take(self, opened: _Opened) -> None:
        endpoint = self._endpoint = opened.endpoint
        self._wanted = Wanted.of(endpoint)
        self._signer = Signer(opened.keys)
        ends = [key.expires_at for key in opened.keys if key.expires_at is not None]
        self._keys_until = min(ends, default=None)

    # What comes in

    async def _read_ahead(self) -> None:
        feed = self._tools.feed
        while True:
            news = feed.news
            has_read = False
            for number in self._queue.feeds:
                if self._is_reading and feed.has_more(number, self._queue.place(number)):
                    has_read |= await self._read(number)
            if not has_read:
                self._room.clear()
                await _set_or_late(news if self._is_reading else self._room, IDLE_S)

    @property
    def _is_reading(self) -> bool:
        return self._queue.has_room and not self._is_ailing

    @property
    def _is_ailing(self) -> bool:
        return self._failures >= AILING

    async def _read(self, number: int) -> bool:
        place = self._queue.place(number)
        batch = await self._tools.feed.after(number, place)
        # It may have become ailing, and gone back.
        if batch is None or not self._is_reading or self._queue.place(number) != place:
            return False
        self._queue.extend(number, *self._chosen(batch))
        self._fill()
        return True

    def _chosen(self, batch: Batch) -> tuple[list[Line], Reached]:
        """The lines of a batch that have events for the endpoint, as far as there is room, and how far that is."""
        found: list[Line] = []
        wanted, count = self._wanted, 0
        for line in batch.lines:
            events = [event for event in line.events if wanted.takes(event)]
            if events:
                if count >= READ_AHEAD:
                    return found, line.before
                count += len(events)
                found.append(Line(line.before, [(webhook_id(self._id, one.type, one.key), one) for one in events]))
        return found, batch.end

    async def _reload(self) -> None:
        """Hear of what was changed or is to be sent again."""
        self._is_changed = False
        await self._save()
        self._take(await self._tools.write(_open, self._id))
        await self._restore()

    async def _restore(self) -> None:
        items, self._last_number = await self._tools.write(_waiting, self._id, self._last_number)
        self._queue.restore(items)

    # What is sent

    def _fill(self) -> None:
        """Begin as many requests as there may be."""
        now_s = time.time()
        if self._disabled_why or self._trouble is not None or now_s < self._rests_until_s:
            return
        slots = 1 if self._is_ailing else self._slots
        while self._queue.sending < slots:
            item = self._queue.next(now_s)
            if item is None:
                return
            task = asyncio.create_task(self._send(item))
            self._sends.add(task)
            task.add_done_callback(self._sends.discard)

    async def _send(self, item: Item) -> None:
        try:
            await self._deliver(item)
        except Exception as error:
            self._trouble = error
        self._fill()
        self._room.set()
        self._news.set()

    async def _deliver(self, item: Item) -> None:
        body = (
            item.event.body if item.event is not None else await self._tools.write(body_of, self._id, item.webhook_id)
        )
        if body is None:
            # Its row is gone: the endpoint was deleted, or what was given up was forgotten.
            self._queue.deliver(item)
            return
        now = datetime.now(UTC)
        content = body.encode()
        headers = self._signer.headers(item.webhook_id, int(now.timestamp()), content)
        answer = await self._sent(item, headers, content)
        self._settle(item, now, answer)

    async def _sent(self, item: Item, headers: dict[str, str], content: bytes) -> Answer:
        send = self._tools.sender.send
        if not item.traceparent:
            return await send(self._endpoint.url, headers, content)
        attributes = {"creditfold.position": item.position, "creditfold.webhook_id": item.webhook_id}
        with SPANS.begin(f"deliver {item.kind}", "client", item.traceparent, attributes) as span:
            answer = await send(self._endpoint.url, {**headers, TRACEPARENT: span.traceparent or ""}, content)
            span.set("creditfold.try", item.tries + 1)
            if answer.status is not None:
                span.set("http.response.status_code", answer.status)
            if answer.error:
                span.fail(answer.error)
            return answer

    def _settle(self, item: Item, at: datetime, answer: Answer) -> None:
        """Take in what came of a request."""
        tried = (item.tries + 1, answer.status, answer.latency_ms, answer.error, answer.head)
        self._tried.append(Tried(item.webhook_id, item.kind, item.account, at, *tried))
        found = verdict(answer.status)
        if found == Verdict.DELIVERED:
            self._succeed(item)
        else:
            self._fail(item, answer)
        if found == Verdict.GONE:
            self._disabled_why = "it answered 410 Gone"

    def _succeed(self, item: Item) -> None:
        self._queue.deliver(item)
        self._tools.meter.delivered += 1
        self._slots = min(self._slots + 1, MOST)
        if self._is_ailing:
            self._queue.hasten(time.time())
        self._failures, self._failing_since = 0, None

    def _fail(self, item: Item, answer: Answer) -> None:
        now = datetime.now(UTC)
        rest_s = retry_after_s(answer.status, answer.retry_after, now)
        if rest_s:
            self._rests_until_s = max(self._rests_until_s, now.timestamp() + rest_s)
        # Drawn for the pause alone.
        pause = pause_s(item.tries + 1, random.random())  # noqa: S311
        if pause is None:
            self._queue.park(item, answer.error)
            self._tools.meter.parked += 1
        else:
            self._queue.fail(item, answer.error, now.timestamp() + max(pause, rest_s))
        self._tools.meter.failed += 1
        self._failures += 1
        self._slots = max(self._slots // 2, FEW)
        self._failing_since = self._failing_since or now
        if (now - self._failing_since).total_seconds() > DISABLE_AFTER_S:
            self._disabled_why = f"every request failed since {self._failing_since:%Y-%m-%d %H:%M} UTC"

    # What is written

    async def _await_news(self, reading: "asyncio.Task[None]") -> None:
        """Wait until something ended, is due, or is to be written. Raises what went wrong in reading or sending."""
        if reading.done():
            reading.result()
        if self._trouble is not None:
            raise self._trouble
        due_s = self._queue.next_due_s()
        bound = CHECKPOINT_S if self._tried or self._queue.sending else IDLE_S
        if due_s is not None:
            bound = min(max(max(due_s, self._rests_until_s) - time.time(), 0.01), bound)
        await _set_or_late(self._news, bound)
        self._news.clear()

    def _is_time(self) -> bool:
        since_s = time.monotonic() - self._saved_at
        return since_s >= CHECKPOINT_S or len(self._tried) >= MOST_TRIED

    async def _save(self) -> None:
        """Write a checkpoint, unless nothing is worth it."""
        self._saved_at = time.monotonic()
        self._meter()
        if self._keys_until is not None and self._keys_until <= datetime.now(UTC):
            self._keys_until, self._is_changed = None, True
        changes = self._queue.checkpoint(time.time(), retreat=self._is_ailing)
        cursors = self._due_cursors(changes)
        tried, self._tried = self._tried, []
        made = Checkpoint(
            cursors,
            [_row(item, is_new=True) for item in changes.new] + [_row(item, is_new=False) for item in changes.changed],
            changes.gone,
            tried,
            self._failing_since,
            self._disabled_why,
        )
        if not made.is_empty:
            await self._tools.write(save_checkpoint, self._tools.epoch, self._id, made)

    def _due_cursors(self, changes: Changes) -> list[Cursor]:
        """The cursors to be written: all that moved, with whatever else is; by themselves now and then only."""
        self._moved = {**self._moved, **changes.cursors}
        has_more = bool(changes.new or changes.changed or changes.gone or self._tried)
        if not has_more and time.monotonic() - self._moved_at < CURSORS_S:
            return []
        self._moved_at = time.monotonic()
        moved, self._moved = self._moved, {}
        return [Cursor(feed, *reached) for feed, reached in moved.items()]

    def _meter(self) -> None:
        feed, queue = self._tools.feed, self._queue
        behind = sum(feed.behind(number, queue.place(number)) for number in queue.feeds)
        self._tools.meter.standing[self._id] = (queue.stored, behind)


def _row(item: Item, *, is_new: bool) -> Row:
    state = "parked" if item.state == State.PARKED else "pending"
    body = item.event.body if is_new and item.event is not None else None
    next_at = datetime.fromtimestamp(item.due_s, UTC)
    return Row(
        item.webhook_id,
        item.lane,
        item.kind,
        item.account,
        item.position,
        item.traceparent,
        body,
        state,
        item.tries,
        next_at,
        item.error,
    )


async def _set_or_late(event: asyncio.Event, bound_s: float) -> None:
    """Wait until an event is set, at most some seconds."""
    # By asyncio.wait_for a cancel would be lost where the event is set at the same time.
    with suppress(TimeoutError):
        async with asyncio.timeout(bound_s):
            await event.wait()


async def _cancelled(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
