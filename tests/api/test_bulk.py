"""Appending many commands over HTTP, one a line: order, repeats, bad lines, limits, cuts, a bounded window."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from creditfold.api import access, bulk, streams
from creditfold.api.body import MOST_BYTES
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.processors.startup import prepare_ledger
from helpers.doors import BulkCall, Door, sent_lines, serving
from helpers.ledgers import new_database, patience, topics_made, with_topics_of_its_own
from helpers.stack_under_test import StackUnderTest, free_port
from helpers.support import HANG_S, WorkerProcess, worker

pytestmark = pytest.mark.stack


def grant(account: str, command_id: str, amount: int = 1, kind: str = "grant", **more: Any) -> dict[str, Any]:
    """A line."""
    fields = {"asset": "credits", "amount": amount}
    return {"type": kind, "account": account, "command_id": command_id, **fields, **more}


def available(door: Door, account: str) -> int:
    """What an account has."""
    return sum(row["available"] for row in door.http.get(f"/v1/accounts/{account}/balances").json())


def test_answers_come_while_lines_are_sent(door: Door, account: str) -> None:
    """One line, its outcome, the next line: neither side waits for the other's end."""
    call = BulkCall(door.url, Authorization=door.http.headers["Authorization"], Prefer="wait=30")
    for number in (1, 2, 3):
        call.send(grant(account, f"g-{number}"))
        answer = call.answer()
        assert answer is not None
        assert (answer["line"], answer["status"], answer["command_id"]) == (number, 201, f"g-{number}")
        assert answer["decision"]["available"] == number
    call.end()
    assert call.answer() is None


def test_each_line_has_its_own_answer_in_order(door: Door, account: str) -> None:
    """Accepted, repeated, reused, rejected, each as a single command; what the lines are of one account, in turn."""
    found = sent_lines(
        door,
        grant(account, "g", 100),
        grant(account, "s", 30, kind="spend"),
        grant(account, "s", 30, kind="spend"),
        grant(account, "s", 31, kind="spend"),
        grant(account, "t", 1000, kind="spend"),
        grant(f"{account}-2", "g", 5),
        json.dumps(grant(account, "last", 2)).encode(),
        Prefer="wait=30",
    )
    assert [(one["line"], one["status"], one.get("outcome", one.get("code"))) for one in found] == [
        (1, 201, "accepted"),
        (2, 201, "accepted"),
        (3, 200, "duplicate"),
        (4, 409, "idempotency_key_reused"),
        (5, 422, "rejected"),
        (6, 201, "accepted"),
        (7, 201, "accepted"),
    ]
    assert found[2]["decision"] == found[1]["decision"]
    assert found[4]["reason"] == "insufficient_credits"
    assert {one["decision"]["source"] for one in found if one.get("decision")} == {found[0]["decision"]["source"]}
    assert {one["generation"] for one in found} == {1}
    assert available(door, account) == 72


def test_whoever_does_not_wait_gets_positions(door: Door, account: str) -> None:
    """Each line's own, once the log has it; the same key twice is a repeat all the same."""
    lines = [grant(account, f"g-{number % 50}") for number in range(100)]
    found = sent_lines(door, *lines, Prefer="respond-async")
    assert [(one["line"], one["status"], one["outcome"]) for one in found] == [
        (number, 202, "pending") for number in range(1, 101)
    ]
    places = [tuple(map(int, one["position"].split(":"))) for one in found]
    assert places == sorted(set(places))
    door.http.get(f"/v1/accounts/{account}", params={"at_least": found[-1]["position"]}).raise_for_status()
    assert available(door, account) == 50


#: A line, the status of its answer, and what the answer says of it.
BAD_LINES: dict[str, tuple[bytes, int, str]] = {
    "no JSON": (b"grant", 400, "not JSON"),
    "cut": (b'{"type": "grant"', 400, "not JSON"),
    "two": (b'{"type": "grant"} {"type": "grant"}', 400, "not JSON"),
    "a list": (b"[1]", 400, "no JSON object"),
    "latin": (b'{"type": "gr\xe9nt"}', 400, "not UTF-8"),
    "deep": (b"[" * 10_000, 400, "nested"),
    "nothing": (b"{}", 400, "type"),
    "unknown": (b'{"type": "gift"}', 400, "type"),
    "a number for a type": (b'{"type": 1}', 400, "type"),
    "no account": (b'{"type": "unfreeze", "command_id": "u"}', 400, "account"),
    "source": (b'{"type": "grant", "source": "me"}', 400, "source"),
    "ends otherwise": (b'{"type":"grant","command_id":"x","account":"b","asset":"c","amount":1]', 400, "not JSON"),
    "source of a plain one": (
        b'{"type":"grant","command_id":"x","account":"b","asset":"c","amount":1,"source":"me"}',
        400,
        "source",
    ),
    "confirmed": (b'{"type": "unfreeze", "command_id": "u", "account": "b", "confirmed": 1}', 400, "confirmed"),
}


def test_a_bad_line_has_an_answer_and_ends_nothing(door: Door, account: str) -> None:
    """Each says what is wrong; empty lines count as lines, and have no answer."""
    lines = [line + b"\n" for line, _, _ in BAD_LINES.values()]
    found = sent_lines(door, *lines, b"\n \r\n", grant(account, "g", 7), Prefer="wait=30")
    for number, (answer, (name, (_, status, said))) in enumerate(zip(found, BAD_LINES.items(), strict=False), 1):
        assert (answer["line"], answer["status"], answer["maybe_written"]) == (number, status, False), name
        assert said in json.dumps(answer), (name, answer)
        assert answer["remedy"], name
    assert (len(found), found[-1]["line"]) == (len(lines) + 1, len(lines) + 3)
    assert found[-1]["status"] == 201


def test_each_line_is_held_to_the_limits_of_the_key(door: Door) -> None:
    """Who may spend may not grant, in no line and in no batch; others are appended."""
    key = door.make_key("append:spend", "append:batch", account_prefix="bulk-", assets=["credits"], most_amount=10)
    door.grant("bulk-1", 100)
    step = {"type": "grant", "command_id": "x", "asset": "credits", "amount": 1}
    batch = {"type": "batch", "account": "bulk-1", "command_id": "b", "steps": [step]}
    found = sent_lines(
        door,
        grant("bulk-1", "a", 10, kind="spend"),
        grant("bulk-1", "b", 11, kind="spend"),
        grant("mall-1", "c", 10, kind="spend"),
        grant("bulk-1", "d", 10, kind="spend", asset="gold"),
        grant("bulk-1", "e", 10),
        batch,
        grant("bulk-1", "f", 10, kind="spend"),
        Authorization=f"Bearer {key.text}",
        Prefer="respond-async",
    )
    assert [one["status"] for one in found] == [202, 403, 403, 403, 403, 403, 202]
    door.http.get("/v1/accounts/bulk-1", params={"at_least": found[-1]["position"]}).raise_for_status()
    assert available(door, "bulk-1") == 80
    with door.with_key(door.make_key("read:balance").text) as reader:
        refused = reader.post("/v1/commands", content=b"{}")
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    with door.with_key(key.text) as spender:
        refused = spender.post("/v1/commands", content=b"{}", headers={"Content-Type": "text/csv"})
        assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")


def test_a_revoked_key_appends_nothing_more(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a stream that it opened before, either; one that is rotated goes on with its old text."""
    monkeypatch.setattr(bulk, "CHECK_S", 0.0)
    monkeypatch.setattr(access, "FRESH_S", 0.0)
    key = door.make_key("append:grant")
    call = BulkCall(door.url, Authorization=f"Bearer {key.text}", Prefer="respond-async")
    call.send(grant(account, "g-1"))
    answer = call.answer()
    assert answer is not None
    assert answer["status"] == 202
    door.http.post(f"/v1/keys/{key.key.id}:rotate", json={"reason": "a test"}).raise_for_status()
    call.send(grant(account, "g-2"))
    answer = call.answer()
    assert answer is not None
    assert answer["status"] == 202, answer
    door.http.delete(f"/v1/keys/{key.key.id}", params={"reason": "a test"}).raise_for_status()
    call.send(grant(account, "g-3"))
    assert [(one["line"], one["status"]) for one in call.answers()] == [(3, 401)]
    door.grant(account, 1)
    assert available(door, account) == 3


def test_what_was_cut_and_is_sent_again_ends_the_same(door: Door, account: str) -> None:
    """What was appended stays, a line that was cut in its middle is none, and nothing counts twice."""
    lines = [grant(account, f"g-{number}") for number in range(2_000)]
    call = BulkCall(door.url, Authorization=door.http.headers["Authorization"], Prefer="respond-async")
    call.send(*lines[:1_200], json.dumps(grant(account, "half", 1_000)).encode()[:-1])
    assert call.answer() is not None
    call.cut()
    found = sent_lines(door, *lines, Prefer="respond-async")
    assert [one["line"] for one in found] == list(range(1, 2_001))
    door.http.get(f"/v1/accounts/{account}", params={"at_least": found[-1]["position"]}).raise_for_status()
    assert available(door, account) == 2_000
    assert door.http.get(f"/v1/accounts/{account}/commands/half").status_code == 404


def test_a_stream_ends_with_the_server(door: Door, account: str) -> None:
    """What was read is answered, and the last line says that there is no more."""
    with serving(door.settings, is_open=True) as url:
        call = BulkCall(url, Prefer="respond-async")
        call.send(grant(account, "g"))
        answer = call.answer()
    assert answer is not None
    assert answer["status"] == 202
    assert [(one["line"], one["status"], one["code"]) for one in call.answers()] == [(2, 503, "server_stopping")]


def test_a_line_that_is_too_long_ends_the_stream(door: Door, account: str) -> None:
    """Those before it have their answers, what comes behind it isn't read."""
    for end in (b"\n", b""):
        long = grant(account, "long", reason="x" * MOST_BYTES)
        found = sent_lines(door, grant(account, "g"), json.dumps(long).encode() + end, Prefer="respond-async")
        assert [(one["line"], one["status"], one.get("code")) for one in found] == [
            (1, 202, None),
            (2, 413, "line_too_long"),
        ]


def test_a_sender_that_reads_no_answer_is_cut(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is read while answers aren't taken: not a sender's 400 MB."""
    monkeypatch.setattr(streams, "TAKEN_S", 1.0)
    call = BulkCall(door.url, Authorization=door.http.headers["Authorization"])
    block = (b"x" * 1_000 + b"\n") * 1_000
    sent = 0
    with suppress(OSError):
        while sent < 400:
            call.send(block)
            sent += 1
    assert 0 < sent < 400
    call.connection.close()
    assert door.grant(account, 1).status_code == 201


class Unfolded:
    """A door in a process of its own, on a ledger that no worker folds."""

    def __init__(self, settings: Settings, process: WorkerProcess) -> None:
        self.url = f"http://127.0.0.1:{settings.api_port}"
        self._pid = process.process.pid

    def is_ready(self) -> bool:
        """Whether it serves."""
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=HANG_S, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def most_kib(self) -> int:
        """The most memory that it ever had, in KiB."""
        status = Path(f"/proc/{self._pid}/status").read_text("ascii")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


@pytest.fixture(scope="module")
def unfolded(stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Unfolded, str]]:
    """A door on a ledger without a worker, and a key of it."""
    folder = tmp_path_factory.mktemp("unfolded")
    with patience(), new_database(stack.settings) as database, topics_made(with_topics_of_its_own(database)) as made:
        settings = made.model_copy(update={"api_port": free_port()})
        prepare_ledger(settings)
        key = Door(settings, "http://localhost").make_key("append:grant", "append:spend")
        # Kafka is there, however slow it is.
        patient = (f"api.append.CONFIRM_S={HANG_S}",)
        with worker(settings, folder, "serve", command="serve", constants=patient) as process:
            door = Unfolded(settings, process)
            assert wait_until(door.is_ready, HANG_S), process.text()[-3_000:]
            yield door, f"Bearer {key.text}"


def test_a_line_that_is_not_decided_in_time_has_its_position(unfolded: tuple[Unfolded, str]) -> None:
    """It is in the log; its outcome comes later."""
    door, key = unfolded
    call = BulkCall(door.url, Authorization=key, Prefer="wait=1")
    call.send(grant("a", "g"), b"{}\n")
    call.end()
    found = call.answers()
    assert [(one["line"], one["status"], one.get("outcome")) for one in found] == [(1, 202, "pending"), (2, 400, None)]
    assert found[0]["position"]


def many(call: BulkCall, count: int) -> list[str]:
    """Send that many lines of 40 accounts, and read the answers meanwhile; returns the positions."""

    def send() -> None:
        for start in range(0, count, 1_000):
            call.send(*(grant(f"account-{n % 40}", f"{count}-{n}") for n in range(start, start + 1_000)))
        call.end()

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    found = call.answers()
    sender.join(HANG_S)
    assert [one["line"] for one in found] == list(range(1, count + 1))
    return [one["position"] for one in found]


def test_memory_does_not_grow_with_the_number_of_lines(unfolded: tuple[Unfolded, str]) -> None:
    """Ten times as many lines take what a tenth of them took."""
    door, key = unfolded
    most = {}
    for count in (10_000, 100_000):
        positions = many(BulkCall(door.url, Authorization=key, Prefer="respond-async"), count)
        assert len(set(positions)) == count
        most[count] = door.most_kib()
    assert most[100_000] < 1.25 * most[10_000], most
