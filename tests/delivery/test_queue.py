"""The queue of an endpoint: nothing is missing and nothing out of order, whatever fails and whenever it is killed."""

from collections import defaultdict
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from creditfold.delivery.events import Event
from creditfold.delivery.queue import MAX_STORED, READ_AHEAD, Item, Line, Queue, Reached, State
from creditfold.projections.queries.windows import Place

START = Reached(Place(0))


def event(account: str, number: int) -> Event:
    return Event("command.accepted", f"{account}\0{number}", number, {}, account=account, position=f"0:{number}")


def lines_of(accounts: str, first: int = 0) -> tuple[list[Line], Reached]:
    """A line of each of these accounts, at offsets from `first` on; and how far that is."""
    found = [
        Line(Reached(Place(at)), [(f"{account}{at}", event(account, at))]) for at, account in enumerate(accounts, first)
    ]
    return found, Reached(Place(first + len(accounts)))


def filled(accounts: str) -> Queue:
    queue = Queue({0: START})
    queue.extend(0, *lines_of(accounts))
    return queue


def taken(queue: Queue, now_s: float = 0.0) -> list[Item]:
    """All that may be sent now."""
    return list(iter(lambda: queue.next(now_s), None))


def ids(items: list[Item]) -> list[str]:
    return [item.webhook_id for item in items]


def test_of_each_lane_one_is_sent_at_a_time() -> None:
    """In the order in which they came; the next when the one before it was delivered."""
    queue = filled("aabba")
    a0, b2 = taken(queue)
    assert (a0.webhook_id, b2.webhook_id, queue.sending) == ("a0", "b2", 2)
    queue.deliver(b2)
    assert ids(taken(queue)) == ["b3"]
    queue.deliver(a0)
    (a1,) = taken(queue)
    assert queue.checkpoint(0.0).cursors == {0: Reached(Place(1))}
    queue.deliver(a1)
    assert ids(taken(queue)) == ["a4"]


def test_what_fails_holds_up_its_own_lane_and_no_cursor() -> None:
    """It is stored, and so is what is behind it in its lane; the others go on, and the cursor with them."""
    queue = filled("abab")
    a0, b1 = taken(queue)
    queue.fail(a0, "status 500", due_s=5.0)
    queue.deliver(b1)
    (b3,) = taken(queue)
    queue.deliver(b3)
    changes = queue.checkpoint(0.0)
    assert (ids(changes.new), changes.changed, changes.gone) == (["a0", "a2"], [], [])
    assert changes.cursors == {0: Reached(Place(4))}
    assert (taken(queue, 4.9), queue.next_due_s()) == ([], 5.0)
    (again,) = taken(queue, 5.0)
    queue.deliver(again)
    (a2,) = taken(queue, 5.0)
    queue.deliver(a2)
    assert queue.checkpoint(5.0).gone == ["a0", "a2"]
    assert queue.stored == 0


def test_what_is_slow_holds_up_no_cursor_either() -> None:
    """After a second what is being sent is stored; delivered then, its row goes."""
    queue = filled("ab")
    a0, b1 = taken(queue)
    queue.deliver(b1)
    assert queue.checkpoint(0.9).cursors == {}
    changes = queue.checkpoint(1.1)
    assert (ids(changes.new), changes.cursors) == (["a0"], {0: Reached(Place(2))})
    queue.deliver(a0)
    assert queue.checkpoint(1.2).gone == ["a0"]


def test_what_is_given_up_lets_its_lane_go_on() -> None:
    """Its row stays, with its error."""
    queue = filled("aa")
    (a0,) = taken(queue)
    queue.park(a0, "status 500")
    assert ids(taken(queue)) == ["a1"]
    changes = queue.checkpoint(0.0)
    assert [(item.webhook_id, item.state, item.error) for item in changes.new] == [("a0", State.PARKED, "status 500")]
    assert changes.cursors == {0: Reached(Place(1))}
    assert queue.stored == 0


def test_what_is_read_ahead_has_a_bound() -> None:
    """And so has what is stored: beyond it, all else waits in the journal."""
    queue = filled("a" * READ_AHEAD)
    assert not queue.has_room
    (a0,) = taken(queue)
    queue.fail(a0, "", 5.0)
    assert len(queue.checkpoint(0.0).new) == READ_AHEAD
    assert queue.has_room
    queue.restore(Item(f"x{number}", "x") for number in range(MAX_STORED - READ_AHEAD))
    assert not queue.has_room


def test_a_retreat_lets_go_of_what_was_read_ahead() -> None:
    """But not of what has something behind it that was delivered, which is stored: it isn't sent twice."""
    queue = filled("abcd")
    *_, c2, d3 = taken(queue)
    queue.deliver(c2)
    queue.fail(d3, "", 5.0)
    queue = filled("abcabc")
    a0, _, c2 = (queue.next(0.0) for _ in range(3))
    assert a0 is not None
    assert c2 is not None
    queue.fail(a0, "", 5.0)
    queue.deliver(c2)
    changes = queue.checkpoint(0.0, retreat=True)
    assert ids(changes.new) == ["a0", "a3", "b1"]
    # c5 and b4 are let go, and are read again.
    assert changes.cursors == {0: Reached(Place(4))}
    assert queue.place(0) == Place(4)
    queue.extend(0, *lines_of("bc", 4))
    assert ids(taken(queue)) == ["c5"]


def test_what_is_well_again_is_sent_at_once() -> None:
    """And that is no further try."""
    queue = filled("ab")
    for item in taken(queue):
        queue.fail(item, "", 300.0)
    queue.hasten(1.0)
    assert [(item.webhook_id, item.tries) for item in taken(queue, 1.0)] == [("a0", 0), ("b1", 0)]


def test_what_is_sent_again_by_hand_is_brought_forward() -> None:
    """What waits for its next try is due then; what was let go of comes anew."""
    queue = filled("ab")
    for item in taken(queue):
        queue.fail(item, "", 300.0)
    queue.checkpoint(0.0)
    queue.restore([Item("a0", "a", due_s=2.0), Item("old", "b", due_s=0.0)])
    assert ids(taken(queue, 2.0)) == ["a0"]
    assert queue.stored == 3


def test_a_row_of_what_was_delivered_just_now_goes() -> None:
    """Somebody had it sent again while it was being sent."""
    queue = filled("a")
    (a0,) = taken(queue)
    queue.deliver(a0)
    queue.restore([Item("a0", "a")])
    assert taken(queue) == []
    assert queue.checkpoint(0.0).gone == ["a0"]


class Database:
    """What outlives a crash: the cursor and the rows."""

    def __init__(self) -> None:
        self.place = START
        self.rows: dict[str, tuple[str, int, bool]] = {}

    def save(self, queue: Queue, now_s: float, retreat: bool) -> None:
        changes = queue.checkpoint(now_s, retreat=retreat)
        self.place = changes.cursors.get(0, self.place)
        for item in changes.new:
            self.rows.setdefault(item.webhook_id, (item.lane, item.tries, item.state == State.PARKED))
        for item in changes.changed:
            assert item.webhook_id in self.rows
            self.rows[item.webhook_id] = (item.lane, item.tries, item.state == State.PARKED)
        for webhook_id in changes.gone:
            del self.rows[webhook_id]

    def opened(self) -> Queue:
        queue = Queue({0: self.place})
        queue.restore(
            Item(webhook_id, lane, tries=tries) for webhook_id, (lane, tries, parked) in self.rows.items() if not parked
        )
        return queue


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["read", "send", "deliver", "fail", "park", "save", "retreat", "kill", "hasten"]),
        st.integers(0, 50),
    ),
    max_size=120,
)


def step(queue: Queue, what: str, chosen: int, now_s: float, ended: list[tuple[str, str]]) -> None:
    """Do one thing to a queue; what was delivered or given up is added to what ended."""
    sending = [item for item in queue._known.values() if item.state == State.SENDING]
    item = sending[chosen % len(sending)] if sending else None
    if what == "send":
        queue.next(now_s)
    elif what == "hasten":
        queue.hasten(now_s)
    elif item is not None and what == "deliver":
        ended.append((item.lane, item.webhook_id))
        queue.deliver(item)
    elif item is not None and what == "park":
        ended.append((item.lane, item.webhook_id))
        queue.park(item, "")
    elif item is not None and what == "fail":
        queue.fail(item, "", now_s + chosen / 5)


def assert_in_order(accounts: str, ended: list[tuple[str, str]]) -> None:
    """Of each lane, what ended first ended in order, and nothing is missing."""
    first: dict[str, list[str]] = defaultdict(list)
    for lane, webhook_id in ended:
        if webhook_id not in first[lane]:
            first[lane].append(webhook_id)
    expected: dict[str, list[str]] = defaultdict(list)
    for at, account in enumerate(accounts):
        expected[account].append(f"{account}{at}")
    assert first == expected


@given(st.text("abc", min_size=1, max_size=30), STEPS)
def test_nothing_is_missing_and_nothing_out_of_order(accounts: str, steps: list[tuple[str, Any]]) -> None:
    """Whatever fails, is slow, is given up, or is killed between any two steps: each event ends, in order."""
    database, now_s, ended = Database(), 0.0, list[tuple[str, str]]()
    queue = database.opened()

    def read(count: int) -> None:
        at = queue.place(0).offset
        queue.extend(0, *lines_of(accounts[at : at + count], at))

    for what, chosen in steps:
        now_s += 0.3
        if what == "read":
            read(chosen % 5)
        elif what in ("save", "retreat"):
            database.save(queue, now_s, what == "retreat")
        elif what == "kill":
            queue = database.opened()
        else:
            step(queue, what, chosen, now_s, ended)
    now_s += 100.0
    while queue.place(0).offset < len(accounts) or queue._known:
        read(5)
        queue.next(now_s)
        step(queue, "deliver", 0, now_s, ended)
        if not queue.has_room:
            database.save(queue, now_s, False)
    database.save(queue, now_s, False)
    assert_in_order(accounts, ended)
    assert database.place == Reached(Place(len(accounts)))
    assert all(parked for _, _, parked in database.rows.values())
    assert (queue.stored, queue.sending, queue._lanes) == (0, 0, {})
