"""What follows from a transfer on its way, and when a partition is ticked. Pure: no Kafka, no PostgreSQL, no clock."""

import pytest

from creditfold.ledger import CreditBook, Tick, Verdict
from creditfold.ledger.commands import Close, Command, Grant, ReceiveTransfer, SettleTransfer, Terms, Transfer
from creditfold.ledger.facts import Accepted
from creditfold.ledger.facts_json import facts_as_json
from creditfold.ledger.rows import Changes, take_changes
from creditfold.ledger.transfers import (
    arrival,
    arrival_id,
    kept_parcels,
    settlement,
    settlement_id,
    why_returned,
)
from creditfold.log import appender
from creditfold.log.appender import Appender, NewRecord
from creditfold.log.partitioner import partition_of
from creditfold.processors.fold.chunk import read_records
from creditfold.processors.ticks import LastTick, Ticker, number_of_tick, tick_record, wants_tick
from creditfold.processors.worker import transfers as transfers_module
from creditfold.processors.worker.background import IDLE_S, LONG_S, PAGE_S, SHORT_S, pause_after
from creditfold.processors.worker.transfers import Sending, TransferForwarder, arrival_key
from creditfold.projections.queries.background import Arrival, OpenTransfer, Standing
from helpers.records import FakeRecord
from helpers.transfers import following_command

PARTITIONS = 4
ANN, BOB = "ann", "bob"
HOME, AWAY = (partition_of(name.encode(), PARTITIONS) for name in (ANN, BOB))
IN, OUT = arrival_id(ANN, "t"), settlement_id(ANN, "t")
OPEN = OpenTransfer(HOME, ANN, "t", "credits", BOB, 100)
PARCELS = '[["g",1,5,"paid",50,7,0,""]]'
ARRIVED, REFUSED = Arrival("", "[]"), Arrival("", '[{"kind":"refused","at":1,"ref":"t","detail":"account_closed"}]')


def standings(next_offset: int = 10) -> dict[int, Standing]:
    """Where all partitions stand."""
    return {partition: Standing(next_offset, "me", 0, 0) for partition in range(PARTITIONS)}


def round_of(one: TransferForwarder, *arrived: Arrival, transfer: OpenTransfer = OPEN, **stand: int) -> list[Sending]:
    """What a forwarder appends for one transfer, whose receiver may have decided."""
    found = {arrival_key(transfer): arrived[0]} if arrived else {}
    plan = one.plan([transfer], found, standings(**stand))
    return one.ends(plan) + one.arrivals(plan, {transfer.key: PARCELS})


def folded(sending: Sending) -> Command:
    """The command that the fold of its partition makes of a record."""
    record = FakeRecord(0, 0, sending.record.key, sending.record.value)
    ((_, content),) = read_records([record], sending.record.partition, PARTITIONS)
    assert isinstance(content, ReceiveTransfer | SettleTransfer)
    return content


class Reported:
    """A log that keeps its warnings."""

    def __init__(self) -> None:
        self.why: list[str] = []

    def warning(self, event: str, **values: str) -> None:
        assert event == "a transfer is stuck in transit"
        assert (values["account"], values["transfer"], values["to"]) == (ANN, "t", BOB)
        self.why.append(values["why"])


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Reported:
    """What the forwarder warns of."""
    found = Reported()
    monkeypatch.setattr(transfers_module, "log", found)
    return found


# What follows, of a decision and of what is kept of it.


@pytest.mark.parametrize("receiver", ["open", "closed"])
def test_rows_report_the_same_as_decisions(receiver: str) -> None:
    """The two commands made of a transfer's row and of its arrival's line are those made of the decisions."""
    sender, other = CreditBook(clock_ms=100), CreditBook(clock_ms=200)
    sender.apply(Grant("g", ANN, "credits", 5, lot_class="promo", scope="ads", expires_at=900))
    sender.apply(Grant("h", ANN, "credits", 5, priority=9))
    if receiver == "closed":
        other.apply(Close("c", BOB))
    sent = Transfer("t", ANN, "credits", 7, BOB, use="ads")
    outcome = sender.apply(sent)
    assert not isinstance(outcome, Verdict)
    rows = Changes([], [], [], [], [], [], [])
    take_changes(ANN, sender.accounts[ANN], 0, rows)
    ((name, command_id, asset, to_account, parcels, *_),) = rows.transfers
    coming = following_command(sent, outcome)
    assert coming == arrival(name, command_id, asset, to_account, kept_parcels(parcels))
    assert isinstance(coming, ReceiveTransfer)
    assert len(coming.parcels) == 2
    arrived = other.apply(coming)
    assert isinstance(arrived, Accepted)
    line = next(entry for entry in arrived.entries if entry.command_id == IN)
    assert following_command(coming, arrived) == settlement(ANN, "t", why_returned(facts_as_json(line.facts)))
    assert why_returned(facts_as_json(line.facts)) == ("" if receiver == "open" else "account_closed")


def test_the_ids_never_change() -> None:
    """They are in logs: another id for the same transfer would bring it twice."""
    assert IN == "~in:cf3fbfe8427f341350fbfd20b736c004"
    assert OUT == "~out:cf3fbfe8427f341350fbfd20b736c004"


# The forwarder.


def test_an_arrival_is_appended_then_the_end() -> None:
    """Each once, to its own account's partition, as the fold reads them."""
    one = TransferForwarder(PARTITIONS)
    (coming,) = round_of(one)
    parcel = (("g", 5, Terms("paid", 50, 7, 0, "")),)
    assert folded(coming) == ReceiveTransfer(IN, BOB, "credits", ANN, "t", parcel)
    one.appended(coming.command_id, 10)
    assert round_of(one) == []
    (end,) = round_of(one, ARRIVED, next_offset=11)
    assert folded(end) == SettleTransfer(OUT, ANN, "t", "")
    one.appended(end.command_id, 20)
    assert round_of(one, ARRIVED, next_offset=11) == []


# What there is to see, what was appended before at which offset, and what is appended: nothing, an arrival or an end.
CASES = [
    # decided         appended    folded to  appends
    (None,            {},         10,        IN),
    (None,            {IN: None}, 10,        IN),    # It may not have reached the log.
    (None,            {IN: 10},   10,        None),  # It isn't folded yet.
    (None,            {IN: 9},    10,        None),  # It was folded, and nothing came of it.
    (ARRIVED,         {},         10,        OUT),
    (ARRIVED,         {IN: 9},    10,        OUT),
    (REFUSED,         {},         10,        OUT),
    (ARRIVED,         {OUT: 10},  10,        None),
    (ARRIVED,         {OUT: 9},   10,        None),
]  # fmt: skip


@pytest.mark.usefixtures("reported")
@pytest.mark.parametrize(("decided", "before", "next_offset", "expected"), CASES)
def test_what_is_appended(
    decided: Arrival | None, before: dict[str, int | None], next_offset: int, expected: str | None
) -> None:
    """By state, and by what is remembered."""
    one = TransferForwarder(PARTITIONS)
    for command_id, offset in before.items():
        one.appended(command_id, offset)
    found = round_of(one, *([decided] if decided else []), next_offset=next_offset)
    assert [sending.command_id for sending in found] == ([expected] if expected else [])
    if decided is REFUSED:
        assert folded(found[0]) == SettleTransfer(OUT, ANN, "t", "account_closed")


def test_what_a_log_may_have_lost_is_appended_again() -> None:
    """What was appended and isn't folded yet is taken for granted no more."""
    one = TransferForwarder(PARTITIONS)
    one.appended(IN, 10)
    assert round_of(one) == []
    one.forget_offsets()
    assert [sending.command_id for sending in round_of(one, next_offset=99)] == [IN]


def test_a_transfer_without_hope_is_reported_once(reported: Reported) -> None:
    """It stays in transit, and isn't appended again and again; the others go on."""
    one = TransferForwarder(PARTITIONS)
    one.appended(IN, 9)
    assert [round_of(one), round_of(one), round_of(one, next_offset=99)] == [[], [], []]
    assert reported.why == [f"the fold made nothing of the record at {AWAY}:9"]
    other = OPEN._replace(transfer="t2")
    assert len(round_of(one, transfer=other)) == 1


def test_an_arrival_that_would_be_a_dead_letter_is_not_appended(reported: Reported) -> None:
    """More parcels than a record may bring."""
    one = TransferForwarder(PARTITIONS)
    plan = one.plan([OPEN], {}, standings())
    parcels = "[" + ",".join([PARCELS[1:-1]] * 1_001) + "]"
    assert one.arrivals(plan, {OPEN.key: parcels}) == []
    assert round_of(one) == []
    assert reported.why == ["parcels are not 1 to 1000"]


def test_what_is_remembered_is_bounded_and_what_is_read_at_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten command is appended again, as a duplicate; a transfer of any size goes alone."""
    one = TransferForwarder(PARTITIONS, remembered=2)
    for number in range(3):
        one.appended(arrival_id(ANN, f"t{number}"), 10)
    again = [round_of(one, transfer=OPEN._replace(transfer=f"t{number}")) for number in range(3)]
    assert [len(found) for found in again] == [1, 0, 0]
    monkeypatch.setattr(transfers_module, "BYTES_AT_ONCE", 250)
    for size, count in ((100, 2), (1_000, 1)):
        page = [OPEN._replace(transfer=f"u{number}", size=size) for number in range(5)]
        assert len(one.plan(page, {}, standings()).arrivals) == count


@pytest.mark.parametrize(
    ("before", "seen", "appended", "is_more", "after"),
    [
        (IDLE_S, 0, 0, False, IDLE_S),
        (IDLE_S, 3, 3, False, SHORT_S),
        (SHORT_S, 3, 0, False, SHORT_S * 2),
        (LONG_S, 3, 0, False, LONG_S),
        (IDLE_S, 3, 0, False, LONG_S),
        (LONG_S, 3, 0, True, PAGE_S),
        (LONG_S, 0, 0, False, IDLE_S),
    ],
)
def test_pauses(before: float, seen: int, appended: int, is_more: bool, after: float) -> None:
    """Short while something moves, longer while transfers wait, long without any."""
    assert pause_after(before, seen, appended, is_more) == after


# Ticks.

NOW_MS = 60_000 * 1_000 + 5
DUE = Standing(50, "me", NOW_MS, 900, is_due=True)


@pytest.mark.parametrize(
    ("standing", "last", "every_s", "expected"),
    [
        (DUE, None, 60, True),
        (DUE._replace(is_due=False), None, 60, False),
        (DUE, LastTick(41), 60, False),  # Less than a minute ago.
        (DUE, LastTick(40), 60, True),
        (DUE, LastTick(41), 2, True),
        (DUE, LastTick(10, 50), 60, False),  # In the log, and not folded yet.
        (DUE, LastTick(10, 49), 60, True),
        (DUE._replace(minute=1_000), None, 60, False),  # Another worker's of this minute.
        (DUE._replace(minute=1_000), None, 2, True),
        (DUE._replace(minute=1_001), None, 60, True),  # Of one whose clock is ahead.
    ],
)
def test_when_a_partition_is_ticked(standing: Standing, last: LastTick | None, every_s: float, expected: bool) -> None:
    """When something is due, once in a while, and not while the last one waits."""
    assert wants_tick(standing, last, NOW_MS, 100, every_s) is expected


@pytest.mark.parametrize(("minute", "number"), [(0, 1_000), (999, 1_000), (1_000, 1_001), (5_000, 5_001)])
def test_the_number_of_a_tick(minute: int, number: int) -> None:
    """The minute, or the one after the last tick's; so the fold takes it, whatever a worker's clock once said."""
    assert number_of_tick(DUE._replace(minute=minute), NOW_MS) == number
    assert CreditBook(minute=minute).tick(number) == []
    assert CreditBook(minute=number).tick(number) is Verdict.DUPLICATE


def test_a_tick_is_a_control_record_that_the_fold_reads() -> None:
    """Without a key, to its own partition, with an id of partition and number."""
    made = tick_record(3, 1_000, NOW_MS)
    assert (made.partition, made.key) == (3, None)
    ((_, content),) = read_records([FakeRecord(0, 0, None, made.value)], 3, PARTITIONS)
    assert content == Tick("tick-3-1000", 1_000, NOW_MS, "creditfold worker")


def test_a_ticker_remembers_by_partition() -> None:
    """One tick a partition and period; one that may be lost is tried again in the next."""
    ticker = Ticker(60)
    owned = {0: DUE, 2: DUE._replace(is_due=False), 3: DUE}
    assert [one.partition for one in ticker.due(owned, NOW_MS, 100)] == [0, 3]
    ticker.appended(0, 50, 100)
    ticker.appended(3, None, 100)
    assert ticker.due(owned, NOW_MS, 101) == []
    assert [one.partition for one in ticker.due(owned, NOW_MS, 160)] == [3]
    # A log that lost its end lost the tick too.
    ticker.forget_offsets()
    assert ticker.due(owned, NOW_MS, 101) == []
    assert [one.partition for one in ticker.due(owned, NOW_MS, 160)] == [0, 3]


# The appender.


def test_an_appender_without_kafka_gives_up_and_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reports that nothing is known, and keeps nobody waiting."""
    monkeypatch.setattr(appender, "DELIVERY_S", 0.3)
    monkeypatch.setattr(appender, "_CONFIG", {**appender._CONFIG, "delivery.timeout.ms": 300})
    one = Appender({"bootstrap.servers": "127.0.0.1:1"}, "topic")
    producer = one.open()
    assert one.append([NewRecord(0, None, b"a"), NewRecord(1, b"k", b"b")]) == [None, None]
    # It may have lost Kafka for ever.
    assert one.open() is not producer
    one.close()
    assert one.append([NewRecord(0, None, b"a")]) == [None]
