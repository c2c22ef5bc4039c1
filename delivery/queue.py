"""What an endpoint is sent next, and how far its cursors are. Pure: it does nothing, and time is an argument.

An event comes in from a feed (a partition of the log) and waits in its lane, that of its account. Of each lane the
first one is sent; where that fails, the others wait behind it, and no other lane does. What is stuck, the first of a
lane and all behind it, is *stored* as rows, so that the cursor passes it; all else is in memory alone, and the cursor
stays before it. So at any instant the journal from the cursor on, and the rows, are all that isn't delivered.

How an item ends:

        waiting -> sending -> delivered            its row, if it has one, goes
           ^          |
           +----------+  failed: a row, and a pause
                      |
                      +-> parked                   its row stays, the lane goes on
"""

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import count
from typing import NamedTuple

from creditfold.delivery.events import Event
from creditfold.projections.queries.windows import Place

#: Seconds for which one may be sent until what waits behind it is stored.
SLOW_S = 1.0
#: Events of an endpoint that are read ahead of what is delivered.
READ_AHEAD = 256
#: Rows of an endpoint with which its cursor stops.
MAX_STORED = 1_000


class State(Enum):
    """Where an item is."""

    WAITING = "waiting"
    SENDING = "sending"
    DELIVERED = "delivered"
    PARKED = "parked"


class Item:
    """An event for one endpoint.

    Args:
        webhook_id: its id.
        lane: what it is in order with.
        event: None for one whose row was read, and whose body is there.
        kind: its type.
        account: that it is about.
        position: where the log has it.
        traceparent: the context of the trace that it belongs to; empty for none.
        tries: how often it was sent in vain.
        due_s: when it may be sent, in seconds since 1970.
    """

    __slots__ = (
        "account", "began_s", "due_s", "error", "event", "is_stored", "kind", "lane", "position", "state",
        "traceparent", "tries", "webhook_id",
    )  # fmt: skip

    def __init__(
        self,
        webhook_id: str,
        lane: str,
        event: Event | None = None,
        *,
        kind: str = "",
        account: str = "",
        position: str = "",
        traceparent: str = "",
        tries: int = 0,
        due_s: float = 0.0,
    ) -> None:
        self.webhook_id = webhook_id
        self.lane = lane
        self.event = event
        self.kind = kind
        self.account = account
        self.position = position
        self.traceparent = traceparent
        self.tries = tries
        self.due_s = due_s
        self.state = State.WAITING
        self.began_s = 0.0
        self.error = ""
        #: Whether a row of it is there, or is written by the present checkpoint.
        self.is_stored = event is None

    def __repr__(self) -> str:
        return f"Item({self.webhook_id}, {self.state.value}, {self.tries} tries)"


class Reached(NamedTuple):
    """How far a feed is: its place, and the last line before it."""

    place: Place
    account: str = ""
    version: int = 0


class Line(NamedTuple):
    """What one line of a feed came to for the endpoint: how far the feed is before it, and the events by their ids."""

    before: Reached
    events: Sequence[tuple[str, Event]]


class Changes(NamedTuple):
    """What is to be written at once: cursors that moved, items whose rows are new or changed, ids whose rows go."""

    cursors: dict[int, Reached]
    new: list[Item]
    changed: list[Item]
    gone: list[str]


class _Track:
    """A feed: what was read of it and isn't behind the cursor, in its order."""

    def __init__(self, reached: Reached) -> None:
        self.read = reached
        self.cursor = reached
        self.lines: deque[tuple[Reached, list[Item]]] = deque()

    def advance(self) -> bool:
        """Move the cursor behind all that is delivered or stored; whether it moved."""
        lines, old = self.lines, self.cursor
        while lines and all(item.state == State.DELIVERED or item.is_stored for item in lines[0][1]):
            lines.popleft()
        self.cursor = lines[0][0] if lines else self.read
        return self.cursor != old


class Queue:
    """Everything of one endpoint that is read and not delivered.

    Args:
        cursors: by feed, where it goes on.
    """

    def __init__(self, cursors: dict[int, Reached]) -> None:
        self._tracks = {feed: _Track(reached) for feed, reached in cursors.items()}
        self._lanes: dict[str, deque[Item]] = {}
        self._known: dict[str, Item] = {}
        # Of each lane the first, by when it is due. One that isn't the first any more, or has another time, means
        # nothing.
        self._heads: list[tuple[float, int, Item]] = []
        self._numbers = count()
        self._touched: dict[str, Item] = {}
        self.stored = 0
        self.sending = 0

    # What comes in

    def place(self, feed: int) -> Place:
        """The place behind all that was read of a feed."""
        return self._tracks[feed].read.place

    @property
    def feeds(self) -> Iterable[int]:
        """All feeds."""
        return self._tracks.keys()

    @property
    def has_room(self) -> bool:
        """Whether more is to be read."""
        return len(self._known) - self.stored < READ_AHEAD and self.stored < MAX_STORED

    def restore(self, items: Iterable[Item]) -> None:
        """Take in items that have rows, in their order. One that is known already is sent as soon as the row says."""
        for item in items:
            known = self._known.get(item.webhook_id)
            if known is not None:
                self._bring_forward(known, item)
            elif item.webhook_id in self._touched:
                # It ended just now, and its row isn't written yet: so it goes, or stays parked.
                self._touched[item.webhook_id].is_stored = True
            else:
                self.stored += 1
                self._add(item)

    def _bring_forward(self, known: Item, stored: Item) -> None:
        self.stored += not known.is_stored
        known.is_stored = True
        if known.state == State.WAITING:
            known.due_s, known.tries = min(known.due_s, stored.due_s), min(known.tries, stored.tries)
            self._push(known)

    def extend(self, feed: int, lines: Iterable[Line], read: Reached) -> None:
        """Take in what was read of a feed, up to a place. What is known already, by its row, comes no second time."""
        track = self._tracks[feed]
        for line in lines:
            items = []
            for webhook_id, event in line.events:
                if webhook_id not in self._known and webhook_id not in self._touched:
                    item = Item(
                        webhook_id,
                        event.lane,
                        event,
                        kind=event.type,
                        account=event.account,
                        position=event.position,
                        traceparent=event.traceparent,
                    )
                    self._add(item)
                    items.append(item)
            if items:
                track.lines.append((line.before, items))
        track.read = read

    def _add(self, item: Item) -> None:
        self._known[item.webhook_id] = item
        lane = self._lanes.setdefault(item.lane, deque())
        lane.append(item)
        if len(lane) == 1:
            self._push(item)

    def _push(self, item: Item) -> None:
        if self._lanes[item.lane][0] is item:
            heapq.heappush(self._heads, (item.due_s, next(self._numbers), item))

    # What is sent

    def next(self, now_s: float) -> Item | None:
        """The next to be sent, which is being sent from now on; None if nothing is due."""
        heads = self._heads
        while heads and heads[0][0] <= now_s:
            due_s, _, item = heapq.heappop(heads)
            if self._is_head(item) and item.due_s == due_s:
                item.state, item.began_s = State.SENDING, now_s
                self.sending += 1
                return item
        return None

    def next_due_s(self) -> float | None:
        """When the next is due, of those that aren't being sent; None if there is none."""
        heads = self._heads
        while heads and not (self._is_head(heads[0][2]) and heads[0][2].due_s == heads[0][0]):
            heapq.heappop(heads)
        return heads[0][0] if heads else None

    def _is_head(self, item: Item) -> bool:
        lane = self._lanes.get(item.lane)
        return lane is not None and lane[0] is item and item.state == State.WAITING

    def deliver(self, item: Item) -> None:
        """An item was delivered; the next of its lane may be sent."""
        self._end(item, State.DELIVERED)

    def park(self, item: Item, error: str) -> None:
        """An item was sent in vain for the last time; the next of its lane may be sent."""
        item.tries, item.error = item.tries + 1, error
        self._end(item, State.PARKED)

    def fail(self, item: Item, error: str, due_s: float) -> None:
        """An item was sent in vain, and is sent again at a time; its lane waits."""
        item.tries, item.error, item.due_s, item.state = item.tries + 1, error, due_s, State.WAITING
        self.sending -= 1
        self._touched[item.webhook_id] = item
        self._push(item)

    def _end(self, item: Item, state: State) -> None:
        item.state = state
        self.sending -= 1
        self._touched[item.webhook_id] = item
        del self._known[item.webhook_id]
        if item.is_stored:
            self.stored -= 1
        lane = self._lanes[item.lane]
        lane.popleft()
        if lane:
            self._push(lane[0])
        else:
            del self._lanes[item.lane]

    def hasten(self, now_s: float) -> None:
        """Send what waits for its next try at once, without that try being one more: the endpoint is well again."""
        for lane in self._lanes.values():
            item = lane[0]
            if item.state == State.WAITING and item.due_s > now_s:
                item.due_s, item.tries = now_s, max(item.tries - 1, 0)
                self._touched[item.webhook_id] = item
                self._push(item)

    # What is written

    def checkpoint(self, now_s: float, *, retreat: bool = False) -> Changes:
        """What is to be written now, which counts as written.

        Args:
            now_s: the present instant.
            retreat: whether to let go of what was read ahead: nothing is delivered just now. What is behind it, and was
                delivered or is stored, has what is before it stored too; so nothing is sent twice for that.
        """
        new = [item for item in self._stuck(now_s) if not item.is_stored]
        for track in self._tracks.values() if retreat else ():
            new += self._retreat(track, {item.webhook_id for item in new})
        touched = list(self._touched.values())
        changed = [item for item in touched if item.state != State.DELIVERED and item.is_stored]
        gone = [item.webhook_id for item in touched if item.state == State.DELIVERED and item.is_stored]
        parked = [item for item in touched if item.state == State.PARKED and not item.is_stored]
        self.stored += len(new)
        for item in (*new, *parked):
            item.is_stored = True
        self._touched.clear()
        cursors = {feed: track.cursor for feed, track in self._tracks.items() if track.advance()}
        return Changes(cursors, new + parked, changed, gone)

    def _stuck(self, now_s: float) -> Iterable[Item]:
        for lane in self._lanes.values():
            head = lane[0]
            is_slow = head.state == State.SENDING and now_s - head.began_s > SLOW_S
            if head.tries or head.is_stored or is_slow:
                yield from lane

    def _retreat(self, track: _Track, stored: set[str]) -> list[Item]:
        """Let go of the lines at the end of a feed that nothing was done about; returns those before to be stored."""
        while track.lines and all(self._is_idle(item, stored) for item in track.lines[-1][1]):
            reached, items = track.lines.pop()
            for item in reversed(items):
                self._let_go(item)
            track.read = reached
        left = [item for _, items in track.lines for item in items]
        return [
            item
            for item in left
            if not item.is_stored and item.webhook_id not in stored and item.state in (State.WAITING, State.SENDING)
        ]

    def _is_idle(self, item: Item, stored: set[str]) -> bool:
        return item.state == State.WAITING and not item.is_stored and item.webhook_id not in stored

    def _let_go(self, item: Item) -> None:
        del self._known[item.webhook_id]
        lane = self._lanes[item.lane]
        # Those behind it in its lane were let go before, being behind it in the feed; not those that are sent again.
        lane.remove(item)
        if not lane:
            del self._lanes[item.lane]
        elif self._is_head(lane[0]):
            self._push(lane[0])
