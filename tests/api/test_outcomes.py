"""Following outcomes over HTTP: resume, filters, readers side by side, and those that are slow, or may read no more."""

import select
import socket
import threading
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from creditfold.api import feed, outcomes, streams
from creditfold.api.service import READERS
from creditfold.common.waiting import wait_until
from creditfold.processors.rebuild.steps import ActivationOptions, Request, activate, rebuild
from helpers.doors import Door, sent_lines, serving
from helpers.event_stream import Event, following, next_of
from helpers.generations import WATCH
from helpers.support import HANG_S

pytestmark = pytest.mark.stack


def grants(door: Door, prefix: str, count: int, first: int = 0, **more: Any) -> set[str]:
    """Append grants of four accounts, wait until they are folded, and return their names."""
    lines = [
        {
            "type": "grant",
            "account": f"{prefix}{number % 4}",
            "command_id": str(number),
            "asset": "credits",
            "amount": 1,
            **more,
        }
        for number in range(first, first + count)
    ]
    for answer in sent_lines(door, *lines, Prefer="wait=30"):
        assert answer["status"] in (201, 202), answer
    return {f"{line['account']}/{line['command_id']}" for line in lines}


def test_an_outcome_comes_when_it_is_decided(door: Door, account: str) -> None:
    """From now on, accepted and rejected ones; its id names its position."""
    with following(door.http, account_prefix=account) as found:
        assert next(found).data is None
        position = door.grant(account, 5, key="g", reason="welcome").json()["position"]
        door.append(account, "spends", key="s", asset="credits", amount=6)
        granted, refused = next_of(found, 2)
    assert granted.data is not None
    assert refused.data is not None
    assert (granted.data["position"], granted.data["accepted"], granted.data["available"]) == (position, True, 5)
    assert (granted.data["reason"], refused.data["rejection"]) == ("welcome", "insufficient_credits")
    assert position in granted.id.split(",")
    with (
        door.with_key(door.make_key("read:statement").text) as reader,
        following(reader, after="start", account_prefix=account) as found,
    ):
        (event,) = next_of(found, 1)
    assert event.data is not None
    assert (event.data["available"], event.data["reason"], event.data["source"]) == (5, None, None)


@pytest.mark.parametrize("kept", [feed.KEPT, 7], ids=["kept", "fallen behind"])
def test_whoever_goes_on_loses_nothing_and_gets_nothing_twice(
    door: Door, account: str, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """From each id on comes what was not there yet: of the past, and of what is decided meanwhile."""
    monkeypatch.setattr(feed, "KEPT", kept)
    monkeypatch.setattr(feed, "PAGE", 5)
    prefix = f"{kept}-{account[:60]}"
    expected = grants(door, prefix, 30)
    seen: list[Event] = []
    last = "start"
    for step in range(6):
        with following(door.http, last, account_prefix=prefix) as found:
            expected |= grants(door, prefix, 10, 30 + 10 * step)
            seen += next_of(found, 15)
            last = seen[-1].id
    assert len(seen) == len(expected)
    assert {event.name for event in seen} == expected
    for partition in range(4):
        offsets = [
            int(event.data["position"].split(":")[1])
            for event in seen
            if event.data is not None and event.data["position"].startswith(f"{partition}:")
        ]
        assert offsets == sorted(offsets)


def test_two_readers_get_what_each_may_read(door: Door, account: str) -> None:
    """A key of a prefix gets its accounts' outcomes only, whatever it asks for."""
    mine, theirs = f"{account}-mine-", f"{account}-theirs-"
    with door.with_key(door.make_key("read:statement", account_prefix=mine).text) as limited, ExitStack() as stack:
        own = stack.enter_context(following(limited))
        every = stack.enter_context(following(door.http, account_prefix=account))
        expected = grants(door, theirs, 10)
        wanted = grants(door, mine, 10)
        assert {event.name for event in next_of(own, 10)} == wanted
        assert {event.name for event in next_of(every, 20)} == expected | wanted
        refused = limited.get("/v1/outcomes", params={"account_prefix": account})
        assert (refused.status_code, refused.json()["code"]) == (403, "account_out_of_reach")


def test_a_heartbeat_moves_the_id_past_what_others_did(
    door: Door, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever hears of nothing would read it all again."""
    monkeypatch.setattr(outcomes, "HEARTBEAT_S", 0.2)
    with following(door.http, account_prefix=f"{account}-nobody") as found:
        position = door.grant(account, 1).json()["position"]
        for event in found:
            assert event.data is None
            if position in event.id.split(","):
                break


@pytest.mark.parametrize("vector", ["0", "0:x", "0:1,0:2", "99:0", "0:1,,1:1", "-1:0", "0:-1"])
def test_a_bad_vector_is_refused(door: Door, vector: str) -> None:
    """Before anything is sent."""
    answer = door.http.get("/v1/outcomes", headers={"Last-Event-ID": vector})
    assert answer.status_code == 400, answer.text
    assert answer.json()["remedy"]


def test_a_slow_reader_is_cut(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, with what it didn't take; whoever reads gets all of it."""
    expected = grants(door, account, 6_000, reason="x" * 1_000)
    host, _, port = door.url.removeprefix("http://").partition(":")
    key = door.http.headers["Authorization"]
    with monkeypatch.context() as patched, socket.socket() as slow:
        patched.setattr(streams, "TAKEN_S", 0.5)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.connect((host, int(port)))
        slow.sendall(
            f"GET /v1/outcomes?after=start HTTP/1.1\r\nHost: {host}\r\nAuthorization: {key}\r\n\r\n".encode("ascii")
        )
        poll = select.poll()
        poll.register(slow, select.POLLERR | select.POLLHUP)
        assert wait_until(lambda: bool(poll.poll(0)), HANG_S)
    with following(door.http, "start", account_prefix=account) as found:
        assert {event.name for event in next_of(found, 6_000)} == expected


def test_many_readers_take_no_thread_each(door: Door, account: str) -> None:
    """Sixty get the same outcome; there are as many threads as for one."""
    with ExitStack() as stack, following(door.http, account_prefix=account) as one:
        door.grant(account, 1)
        next_of(one, 1)
        before = threading.active_count()
        client = stack.enter_context(door.with_key(door.make_key("read:statement").text))
        readers = [stack.enter_context(following(client, account_prefix=account)) for _ in range(60)]
        for reader in readers:
            next(reader)
        granted = door.grant(account, 2).json()
        for reader in readers:
            (event,) = next_of(reader, 1)
            assert event.data is not None
            assert event.data["position"] == granted["position"]
        assert threading.active_count() <= before + READERS


def test_outcomes_of_one_position_are_known_together(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id names a position with the last of its outcomes: whoever was cut before gets them all again."""
    monkeypatch.setattr(feed, "PAGE", 2)
    steps = [{"type": "grant", "command_id": f"step-{n}", "asset": "credits", "amount": 1} for n in range(5)]
    position = door.append(account, "batches", key="b", steps=steps).json()["position"]
    with following(door.http, "start", account_prefix=account) as found:
        seen = next_of(found, 6)
    assert [event.data["position"] for event in seen if event.data] == [position] * 6
    assert [position in event.id.split(",") for event in seen] == [False] * 5 + [True]
    with following(door.http, seen[3].id, account_prefix=account) as found:
        assert [event.name for event in next_of(found, 6)] == [event.name for event in seen]
    with following(door.http, seen[-1].id, account_prefix=account) as found:
        door.grant(account, 1, key="next")
        assert next_of(found, 1)[0].name == f"{account}/next"


def test_the_stream_of_a_revoked_key_ends(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, though nothing is asked any more."""
    monkeypatch.setattr(outcomes, "HEARTBEAT_S", 0.2)
    key = door.make_key("read:statement")
    with door.with_key(key.text) as reader, following(reader) as found:
        next(found)
        door.http.delete(f"/v1/keys/{key.key.id}", params={"reason": "a test"}).raise_for_status()
        assert all(event.data is None for event in found)


def test_a_stream_ends_with_the_server(door: Door) -> None:
    """As a whole answer, so that the reader connects again."""
    with ExitStack() as stack:
        with serving(door.settings, is_open=True) as url:
            client = stack.enter_context(httpx.Client(base_url=url, timeout=HANG_S, trust_env=False))
            found = stack.enter_context(following(client))
            next(found)
        assert all(event.data is None for event in found)


def test_a_switch_of_generations_loses_nothing_and_repeats_nothing(door: Door, account: str) -> None:
    """On a stream that is open, behind an id from before the switch, and for reads that wait for a position."""
    expected = grants(door, account, 10)
    rebuilt = rebuild(door.settings, Request(processes=1), WATCH)
    with following(door.http, "start", account_prefix=account) as found:
        seen = next_of(found, 10)
        activate(door.settings, rebuilt.number, ActivationOptions(), WATCH)
        expected |= grants(door, account, 10, 10)
        seen += next_of(found, 10)
    assert len(seen) == len(expected)
    assert {event.name for event in seen} == expected
    with following(door.http, seen[4].id, account_prefix=account) as found:
        again = next_of(found, 15)
    # In the order of each partition; which one is read first is another matter.
    assert sorted(event.name for event in again) == sorted(event.name for event in seen[5:])
    for event in (seen[0], seen[-1]):
        assert event.data is not None
        read = door.http.get(f"/v1/accounts/{event.data['account']}", params={"at_least": event.data["position"]})
        assert (read.status_code, read.headers["Creditfold-Generation"]) == (200, str(rebuilt.number))
