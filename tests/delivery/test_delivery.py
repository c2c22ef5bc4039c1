"""Delivery on a real ledger: each event at least once, in the order of its account, by one id, whatever happens."""

import json
import threading
import time
from collections.abc import Iterator

import pytest
from standardwebhooks import Webhook

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.delivery import queue, retries, runner
from creditfold.delivery.resending import resend_range
from creditfold.delivery.signing import new_key, secret_text
from creditfold.processors.rebuild.steps import ActivationOptions, Request, activate, rebuild
from creditfold.projections.connections import connected
from creditfold.projections.delivery.deliveries import Attempt, DeliveryFilter, attempts, deliveries, resend_parked
from creditfold.projections.delivery.endpoints import endpoint_of, rotate_endpoint
from creditfold.projections.delivery.rules import create_rule
from helpers.command_line import use
from helpers.ledgers import new_database, patience, topics_made, with_topics_of_its_own
from helpers.receivers import (
    BY,
    LOOPBACK,
    OK,
    Answer,
    Call,
    Receiver,
    delivering,
    make_endpoint,
    wait_for_calls,
)
from helpers.stack_under_test import StackUnderTest
from helpers.support import HANG_S, Cli, Quiet, append, fold_log, query, record

pytestmark = pytest.mark.stack

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def ledger(stack: StackUnderTest) -> Iterator[Settings]:
    """A ledger that several tests use, each with endpoints for accounts of its own."""
    with patience(), new_database(stack.settings) as database, topics_made(with_topics_of_its_own(database)) as own:
        settings = own.model_copy(update={"webhook_allowed_networks": LOOPBACK})
        fold_log(settings)
        yield settings


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries after moments."""
    monkeypatch.setattr(retries, "SCHEDULE_S", (0.05, 0.1))


def grant(settings: Settings, *accounts: str, count: int = 1, first: int = 0) -> None:
    """Give each account credits some times, and fold it."""
    numbers = range(first, first + count)
    append(settings, [record("Grant", f"g{number}", name, 10) for number in numbers for name in accounts])
    fold_log(settings)


def versions(receiver: Receiver, account: str) -> list[int]:
    """The versions of an account's lines, each once, in the order in which they came first."""
    return list(dict.fromkeys(call.event["data"]["version"] for call in receiver.of(account)))


def tried(settings: Settings, endpoint_id: str) -> list[Attempt]:
    """An endpoint's requests, the oldest first."""
    with connected(settings.dsn) as connection:
        return list(reversed(attempts(connection, endpoint_id)))


def waiting(settings: Settings, endpoint_id: str) -> int:
    """How many rows of an endpoint wait, or are parked."""
    text = "SELECT count(*) FROM ledger_delivery.deliveries WHERE endpoint_id = %s"
    return int(query(settings, text, (endpoint_id,))[0][0])


def test_each_line_is_delivered_in_the_order_of_its_account(ledger: Settings, receiver: Receiver) -> None:
    """Signed as the standard has it, and nothing of accounts and types that the endpoint isn't for."""
    _, key = make_endpoint(ledger, receiver.url, account_prefixes=["one-"], types=["command.accepted"])
    accounts = [f"one-{number}" for number in range(20)]
    grant(ledger, *accounts, "other", count=10)
    with delivering(ledger):
        calls = wait_for_calls(receiver, 200)
    assert len(calls) == 200
    for name in accounts:
        assert versions(receiver, name) == list(range(1, 11))
    assert len(receiver.ids()) == 200
    assert Webhook(secret_text(key)).verify(calls[0].body, dict(calls[0].headers)) == calls[0].event


def test_what_fails_holds_up_its_account_alone(ledger: Settings, receiver: Receiver, quick: None) -> None:
    """It is sent again by the same id, and what is behind it then comes in order; each attempt is kept."""
    failed: list[str] = []

    def answer(call: Call) -> Answer:
        if call.account == "fails-1" and len(failed) < 2:
            failed.append(call.id)
            return 500, {}, b"no " * 1_000
        return OK

    receiver.answer = answer
    endpoint, _ = make_endpoint(ledger, receiver.url, account_prefixes=["fails-"], types=["command.accepted"])
    grant(ledger, "fails-1", "fails-2", count=5)
    with delivering(ledger):
        wait_for_calls(receiver, 12)
        assert wait_until(lambda: len(tried(ledger, endpoint.id)) == 12, HANG_S)
    assert failed[0] == failed[1]
    assert versions(receiver, "fails-1") == versions(receiver, "fails-2") == [1, 2, 3, 4, 5]
    first = [one for one in tried(ledger, endpoint.id) if one.webhook_id == failed[0]]
    assert [(one.try_number, one.status, one.error) for one in first] == [
        (1, 500, "status 500"),
        (2, 500, "status 500"),
        (3, 200, ""),
    ]
    assert first[0].answer == (b"no " * 1_000)[:1_024]
    assert waiting(ledger, endpoint.id) == 0


def test_dead_endpoints_slow_nobody(ledger: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers nobody, and ones that nothing listens for: the other one has all; nothing grows for them."""
    monkeypatch.setattr(queue, "MAX_STORED", 100)
    held = threading.Event()

    def hang(call: Call) -> Answer:
        held.wait(HANG_S)
        return OK

    with Receiver() as deaf:
        deaf.answer = hang
        dead = ["http://127.0.0.1:1/", "http://127.0.0.1:2/", deaf.url]
        endpoints = [make_endpoint(ledger, url, account_prefixes=["dead-"])[0] for url in dead]
        make_endpoint(ledger, receiver.url, account_prefixes=["dead-"], types=["command.accepted"])
        grant(ledger, *[f"dead-{number}" for number in range(40)], count=15)
        with delivering(ledger):
            wait_for_calls(receiver, 600)
            assert len(deaf.calls) <= runner.FEW
            # Each would have 1,200, one of each kind for each grant. What was read ahead comes on top of the bound.
            assert all(waiting(ledger, one.id) <= 100 + 3 * queue.READ_AHEAD for one in endpoints)
            held.set()
    for number in range(40):
        assert versions(receiver, f"dead-{number}") == list(range(1, 16))


def test_what_is_given_up_can_be_sent_again(ledger: Settings, receiver: Receiver, quick: None) -> None:
    """Parked after the last try, its lane going on; then what was parked, and then a range of positions, by its ids."""
    receiver.answer = lambda call: (503, {}, b"") if call.event["data"]["version"] == 1 else OK
    endpoint, _ = make_endpoint(ledger, receiver.url, account_prefixes=["parked-"], types=["command.accepted"])
    grant(ledger, "parked-1", count=3)

    def parked() -> list[str]:
        with connected(ledger.dsn) as connection:
            return [one.webhook_id for one in deliveries(connection, endpoint.id, DeliveryFilter("parked"))]

    with delivering(ledger):
        assert wait_until(lambda: len(parked()) == 1, HANG_S)
        wait_for_calls(receiver, 5)
        assert [call.event["data"]["version"] for call in receiver.calls] == [1, 1, 1, 2, 3]
        receiver.answer = lambda _: OK
        (given_up,) = parked()
        with connected(ledger.dsn) as connection:
            assert resend_parked(connection, endpoint.id, DeliveryFilter(type="lot.granted"), by=BY) == 0
            assert resend_parked(connection, endpoint.id, DeliveryFilter(account_prefix="parked"), by=BY) == 1
        assert wait_for_calls(receiver, 6)[5].id == given_up
        ids = receiver.ids()
        assert wait_until(lambda: waiting(ledger, endpoint.id) == 0, HANG_S)
        positions = [Position.parse(call.event["data"]["position"]) for call in receiver.calls]
        with connected(ledger.dsn) as connection:
            assert resend_range(connection, endpoint.id, min(positions), max(positions), by=BY) == 3
        again = wait_for_calls(receiver, 9)[6:]
    assert [call.event["data"]["version"] for call in again] == [1, 2, 3]
    assert {call.id for call in again} == set(ids)
    assert parked() == []


def test_an_endpoint_that_is_gone_is_called_no_more(ledger: Settings, receiver: Receiver) -> None:
    """By 410; its owner's other endpoint hears of it, and nobody else's."""
    with Receiver() as gone, Receiver() as stranger:
        gone.answer = lambda _: (410, {}, b"")
        named = {"account_prefixes": ["gone-"]}
        endpoint, _ = make_endpoint(ledger, gone.url, owner="ann", **named)
        make_endpoint(ledger, receiver.url, owner="ann", types=["endpoint.disabled"], **named)
        make_endpoint(ledger, stranger.url, owner="bob", types=["endpoint.disabled", "lot.granted"], **named)
        grant(ledger, "gone-1")
        with delivering(ledger):
            (call,) = wait_for_calls(receiver, 1)
            wait_for_calls(stranger, 1)
        assert {one.event["type"] for one in stranger.calls} == {"lot.granted"}
        assert len(gone.calls) <= runner.FEW
    assert call.event["data"] == {"endpoint": endpoint.id, "url": gone.url, "reason": "it answered 410 Gone"}
    with connected(ledger.dsn) as connection:
        found = endpoint_of(connection, endpoint.id)
    assert (found.state, found.disabled_why) == ("disabled", "it answered 410 Gone")


def test_one_that_fails_for_long_is_disabled(
    ledger: Settings, receiver: Receiver, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since when it fails outlives the process; its first success begins anew."""
    monkeypatch.setattr(runner, "DISABLE_AFTER_S", 0.1)
    endpoint, _ = make_endpoint(ledger, "http://127.0.0.1:1/", account_prefixes=["long-"])
    grant(ledger, "long-1")

    def state() -> str:
        with connected(ledger.dsn) as connection:
            return endpoint_of(connection, endpoint.id).state

    with delivering(ledger):
        assert wait_until(lambda: state() == "disabled", HANG_S)


def test_a_receiver_that_asks_for_time_gets_it(ledger: Settings, receiver: Receiver, quick: None) -> None:
    """By 429 and Retry-After: nothing is sent to it meanwhile, of no account."""
    receiver.answer = lambda _: (429, {"Retry-After": "1"}, b"") if len(receiver.calls) == 1 else OK
    make_endpoint(ledger, receiver.url, account_prefixes=["busy-"], types=["command.accepted"])
    grant(ledger, "busy-1", count=2)
    with delivering(ledger):
        first, second, _ = wait_for_calls(receiver, 3)
    assert second.at - first.at >= 1.0
    assert second.id == first.id


def test_no_request_leaves_for_where_it_may_not(ledger: Settings, receiver: Receiver) -> None:
    """A redirect to the address of a cloud's metadata isn't followed, and no private address is called."""
    receiver.answer = lambda _: (307, {"Location": "http://169.254.169.254/latest/meta-data/"}, b"")
    named = {"account_prefixes": ["inside-"], "types": ["command.accepted"]}
    redirected, _ = make_endpoint(ledger, receiver.url, **named)
    private, _ = make_endpoint(ledger, "https://10.0.0.7/", **named)
    plain, _ = make_endpoint(ledger, "http://203.0.113.1/", **named)
    grant(ledger, "inside-1")
    with delivering(ledger):
        assert wait_until(lambda: all(tried(ledger, one.id) for one in (redirected, private, plain)), HANG_S)
    errors = [tried(ledger, one.id)[0].error for one in (redirected, private, plain)]
    assert errors == [
        "status 307, which leads to 'http://169.254.169.254/latest/meta-data/'",
        "10.0.0.7 is no public address",
        "203.0.113.1 is not in a network that may be called without TLS",
    ]


def test_a_rotated_secret_signs_beside_the_old_one(ledger: Settings, receiver: Receiver) -> None:
    """Whoever has either verifies; a request that is replayed later isn't of its time."""
    endpoint, old = make_endpoint(ledger, receiver.url, account_prefixes=["turn-"], types=["command.accepted"])
    new = new_key()
    with delivering(ledger):
        grant(ledger, "turn-1")
        wait_for_calls(receiver, 1)
        with connected(ledger.dsn) as connection:
            rotate_endpoint(connection, endpoint.id, new, by=BY)
        grant(ledger, "turn-1", first=1)

        def is_rotated() -> bool:
            return len(receiver.calls[-1].headers["webhook-signature"].split(" ")) == 4

        assert wait_until(lambda: len(receiver.calls) == 2, HANG_S)
        for number in range(2, 100):
            if is_rotated():
                break
            grant(ledger, "turn-1", first=number)
            assert wait_until(lambda count=number: len(receiver.calls) > count, HANG_S)
    last = receiver.calls[-1]
    for key in (old, new):
        assert Webhook(secret_text(key)).verify(last.body, dict(last.headers)) == last.event


def test_alerts_come_with_their_lines_and_once(ledger: Settings, receiver: Receiver) -> None:
    """In the order of the account, behind the line that they are about, from the state on that the rule began at."""
    types = ["command.accepted", "balance.dropped", "balance.recovered"]
    make_endpoint(ledger, receiver.url, account_prefixes=["low-"], types=types)
    grant(ledger, "low-1")
    with connected(ledger.dsn) as connection:
        made = create_rule(connection, "dropped", by=BY, owner="tests", account_prefix="low-", below=8, rearm_at=12)
    with delivering(ledger):
        append(ledger, [record("Spend", f"s{n}", "low-1", 3) for n in range(2)])
        append(ledger, [record("Grant", "g9", "low-1", 9), record("Spend", "s9", "low-1", 12)])
        fold_log(ledger)
        calls = wait_for_calls(receiver, 8)
    found = [(call.event["type"].partition(".")[2], call.event["data"]["version"]) for call in calls]
    assert found == [
        *[("accepted", 1), ("accepted", 2), ("dropped", 2), ("accepted", 3), ("accepted", 4), ("recovered", 4)],
        *[("accepted", 5), ("dropped", 5)],
    ]
    assert {call.event["data"]["rule"] for call in calls if "balance" in call.event["type"]} == {made.id}
    assert len(receiver.ids()) == 8


def test_credits_that_end_soon_are_said_once(ledger: Settings, receiver: Receiver) -> None:
    """What is left of a lot; not of one that ended soon when the rule was made, nor of one that is spent."""
    make_endpoint(ledger, receiver.url, account_prefixes=["soon-"], types=["credits.expiring_soon"])
    soon = int(time.time() * 1_000) + DAY_MS // 2
    lots = {"soon-1": soon, "soon-2": soon + 9 * DAY_MS}
    append(ledger, [record("Grant", "old", name, 5, expires_at=at) for name, at in lots.items()])
    fold_log(ledger)
    with connected(ledger.dsn) as connection:
        named = {"by": BY, "owner": "tests", "account_prefix": "soon-"}
        rule = create_rule(connection, "expiring", within_ms=DAY_MS, **named)
    watched = "SELECT account_id, remaining FROM ledger_delivery.alert_lots WHERE rule_id = %s"
    assert query(ledger, watched, (rule.id,)) == [("soon-2", 5)]
    more = [record("Grant", "new", name, 9, expires_at=soon) for name in ("soon-3", "soon-4")]
    append(ledger, [*more, *[record("Spend", "s", name, 4) for name in ("soon-2", "soon-3")]])
    append(ledger, [record("Spend", "s", "soon-4", 9)])
    fold_log(ledger)
    with delivering(ledger):
        (call,) = wait_for_calls(receiver, 1)
        assert wait_until(lambda: query(ledger, watched, (rule.id,)) == [("soon-2", 1)], HANG_S)
    data = call.event["data"]
    assert (data["account"], data["lot"], data["remaining"]) == ("soon-3", "new", 5)
    assert len(receiver.calls) == 1


def test_events_are_shown_while_somebody_develops(
    ledger: Settings, receiver: Receiver, bare: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And sent to a receiver on this machine, signed; those from now on, by a filter."""
    use(ledger, monkeypatch)
    grant(ledger, "heard-1")
    stop = threading.Event()

    def go_on() -> None:
        numbers = iter(range(1, 10_000))
        while not stop.wait(0.2):
            grant(ledger, "heard-1", "heard-2", first=next(numbers))

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        words = ("--type", "lot.granted", "--prefix", "heard-2", "--forward", receiver.url)
        done = bare("webhooks", "listen", *words, "--limit", "2", "--json")
    finally:
        stop.set()
        thread.join(HANG_S)
    assert done.code == 0, done.err
    shown = [json.loads(line) for line in done.out.splitlines()]
    assert [(one["type"], one["data"]["account"]) for one in shown] == [("lot.granted", "heard-2")] * 2
    assert receiver.ids() == [one["webhook_id"] for one in shown]
    secret = done.err.split("signed with ")[1].split()[0]
    last = receiver.calls[-1]
    assert Webhook(secret).verify(last.body, dict(last.headers)) == last.event


def test_a_rebuild_and_a_switch_change_no_id(ledger: Settings, receiver: Receiver) -> None:
    """Delivery goes on where it was, and no alert comes twice; what is sent again has its id."""
    types = ["command.accepted", "balance.dropped"]
    endpoint, _ = make_endpoint(ledger, receiver.url, account_prefixes=["switch-"], types=types)
    with connected(ledger.dsn) as connection:
        create_rule(connection, "dropped", by=BY, owner="tests", account_prefix="switch-1", below=25)
    with delivering(ledger):
        grant(ledger, "switch-1", "switch-2", count=3)
        append(ledger, [record("Spend", "s", "switch-1", 9)])
        fold_log(ledger)
        wait_for_calls(receiver, 8)
        done = rebuild(ledger, Request(), Quiet())
        activate(ledger, done.number, ActivationOptions(), Quiet())
        ids = receiver.ids()
        positions = [Position.parse(call.event["data"]["position"]) for call in receiver.of("switch-1")]
        with connected(ledger.dsn) as connection:
            assert resend_range(connection, endpoint.id, min(positions), max(positions), by=BY) >= 5
        assert wait_until(lambda: len(receiver.of("switch-1")) >= 10, HANG_S)
    assert set(receiver.ids()) == set(ids)
    assert len(ids) == 8
