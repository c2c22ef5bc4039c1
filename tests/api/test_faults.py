"""Kafka and PostgreSQL frozen, killed and back, and the door's own end: what it answered is what the log has."""

import signal
import threading
import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.offsets import end_offsets
from creditfold.log.partitioner import partition_of
from helpers.doors import BulkCall, Door
from helpers.event_stream import following
from helpers.holds import freeze
from helpers.published import decoded
from helpers.stack_under_test import StackUnderTest, free_port
from helpers.support import HANG_S, WorkerProcess, query, read_log, wait_until_folded, worker

pytestmark = pytest.mark.stack

#: A frozen server is given up after seconds; the test waits for each of them.
BRIEF = ("api.service.QUERY_S=3.0", "api.service.READY_S=3.0", "api.append.CONFIRM_S=1.0")


@contextmanager
def served(settings: Settings, folder: Path, *constants: str) -> Iterator[tuple[Door, WorkerProcess]]:
    """A door that serves in a process of its own."""
    chosen = settings.model_copy(update={"api_port": free_port()})
    with worker(chosen, folder, "door", command="serve", constants=constants) as process:
        door = Door(chosen, f"http://127.0.0.1:{chosen.api_port}")
        assert wait_until(lambda: ready(door) is not None, HANG_S), process.text()[-3000:]
        with door.http:
            yield door, process


def ready(door: Door) -> dict[str, Any] | None:
    """What the door reports of its servers; None where it doesn't answer."""
    try:
        answer = httpx.get(f"{door.url}/health/ready", timeout=HANG_S, trust_env=False)
    except httpx.TransportError:
        return None
    found: dict[str, Any] = answer.json()
    assert answer.status_code == (200 if found["ready"] else 503)
    return found


def is_ready(door: Door, *, kafka: bool = True, postgresql: bool = True) -> bool:
    return ready(door) == {"ready": kafka and postgresql, "kafka": kafka, "postgresql": postgresql}


class Attempt(NamedTuple):
    """One request of a client: whether it was acknowledged, and whether its command may be in the log."""

    key: str
    is_acknowledged: bool
    maybe_written: bool


class Client(threading.Thread):
    """Grants 1 over and over, and sends what wasn't acknowledged again under the same key, as a service does."""

    def __init__(self, door: Door, account: str, prefer: str) -> None:
        super().__init__(daemon=True)
        self.attempts: list[Attempt] = []
        self.answered: Counter[int] = Counter()
        self.failure: Exception | None = None
        self._door, self._account, self._prefer = door, account, prefer
        self._is_over = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            with httpx.Client(headers=self._door.http.headers, timeout=HANG_S, trust_env=False) as http:
                while not self._is_over.is_set():
                    key = uuid.uuid4().hex
                    while not self._send(http, key):
                        self._is_over.wait(0.05)
                    # Often on its way, and not so fast that it takes the processor from what it waits for.
                    self._is_over.wait(0.1)
        except Exception as error:
            self.failure = error

    def _send(self, http: httpx.Client, key: str) -> bool:
        url = f"{self._door.url}/v1/accounts/{self._account}/grants"
        headers = {"Idempotency-Key": key, "Prefer": self._prefer}
        try:
            answer = http.post(url, json={"asset": "credits", "amount": 1}, headers=headers)
        except httpx.TransportError:
            self.attempts.append(Attempt(key, is_acknowledged=False, maybe_written=True))
            return False
        self.answered[answer.status_code] += 1
        is_acknowledged = answer.status_code in (200, 201, 202)
        if not is_acknowledged:
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), answer.text
        self.attempts.append(Attempt(key, is_acknowledged, not is_acknowledged and answer.json()["maybe_written"]))
        return is_acknowledged

    def goes_on(self, bound_s: float = HANG_S) -> bool:
        """Whether commands are acknowledged that were sent from now on."""
        begun = len(self.attempts)
        keys = {one.key for one in self.attempts[-1:]}
        return wait_until(
            lambda: any(one.is_acknowledged and one.key not in keys for one in self.attempts[begun:]), bound_s
        )

    def end(self) -> None:
        self._is_over.set()
        self.join(HANG_S)
        assert self.failure is None, self.failure
        assert not self.is_alive()


class BulkClient(Client):
    """Sends lines, some at a time, and those that weren't acknowledged again with the next ones."""

    def run(self) -> None:
        keys: list[str] = []
        try:
            while keys or not self._is_over.is_set():
                keys += [uuid.uuid4().hex for _ in range(10 - len(keys))] if not self._is_over.is_set() else []
                keys = self._send_lines(keys)
                self._is_over.wait(0.2)
        except Exception as error:
            self.failure = error

    def _send_lines(self, keys: list[str]) -> list[str]:
        """Send a line for each key; returns those that weren't acknowledged."""
        fields = {"type": "grant", "account": self._account, "asset": "credits", "amount": 1}
        answers: dict[int, dict[str, Any]] = {}
        with suppress(OSError, HTTPException):
            key = self._door.http.headers["Authorization"]
            call = BulkCall(self._door.url, Authorization=key, Prefer=self._prefer)
            call.send(*({**fields, "command_id": key} for key in keys))
            call.end()
            answers = {answer["line"]: answer for answer in iter(call.answer, None)}
        found = []
        for number, key in enumerate(keys, 1):
            answer = answers.get(number)
            is_acknowledged = answer is not None and answer["status"] in (200, 201, 202)
            maybe_written = not is_acknowledged and (answer is None or answer["maybe_written"])
            found.append(Attempt(key, is_acknowledged, maybe_written))
        self.attempts += found
        return [one.key for one in found if not one.is_acknowledged]


class Follower(threading.Thread):
    """Follows all outcomes from the start, and goes on where it was whenever its stream ends."""

    def __init__(self, door: Door) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[str, int]] = []
        self._door = door
        self._last = "start"
        self._is_over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._is_over.is_set():
            with (
                suppress(httpx.TransportError, AssertionError),
                self._door.with_key(self._door.http.headers["Authorization"].split()[1]) as http,
                following(http, self._last) as found,
            ):
                for event in found:
                    self._last = event.id
                    if event.data is not None:
                        self.seen.append((event.data["account"], event.data["version"]))
                    if self._is_over.is_set():
                        return
            self._is_over.wait(0.05)

    def end(self) -> None:
        """See that it got each line of the journal once, those of an account in their order."""
        lines = query(self._door.settings, "SELECT account_id, version FROM ledger.journal")
        assert wait_until(lambda: len(self.seen) >= len(lines), HANG_S), (len(self.seen), len(lines))
        self._is_over.set()
        self.join(HANG_S)
        assert sorted(self.seen) == sorted(lines)
        for account in {name for name, _ in lines}:
            versions = [version for name, version in self.seen if name == account]
            assert versions == sorted(versions)


@contextmanager
def under_load(door: Door) -> Iterator[tuple[Client, Client]]:
    """Clients that wait for outcomes, that don't, and that send many lines; and one that follows.

    Compares at the end what they were answered with the log, the balances and the journal.
    """
    follower = Follower(door)
    clients = Client(door, "quick", "respond-async"), Client(door, "patient", "wait=1")
    bulk = BulkClient(door, "bulk", "respond-async")
    try:
        assert all(client.goes_on() for client in (*clients, bulk))
        yield clients
        assert all(client.goes_on() for client in (*clients, bulk))
    finally:
        for client in (*clients, bulk):
            client.end()
    wait_until_folded(door.settings)
    follower.end()
    appended = Counter(decoded(seen.value)[1]["command_id"] for seen in read_log(door.settings))
    for client, account in zip((*clients, bulk), ("quick", "patient", "bulk"), strict=True):
        sure = Counter(one.key for one in client.attempts if one.is_acknowledged)
        maybe = Counter(one.key for one in client.attempts if one.maybe_written)
        # Each answer that acknowledges stands for a record of its own; one that says no stands for none. One that isn't
        # sure may stand for several: what was given up while it was on its way is sent again in another batch, and that
        # one may be given up too.
        wrong = {
            key: (account, n, sure[key], maybe[key])
            for key, n in appended.items()
            if key in sure and (n < sure[key] if maybe[key] else n != sure[key])
        }
        assert not wrong, wrong
        assert sure.keys() <= appended.keys()
        text = "SELECT available FROM ledger.balances WHERE asset = 'credits' AND account_id = '{}'"
        assert query(door.settings, text.format(account)) == [(len(sure),)]


@pytest.fixture
def ledger(ledger_settings: Settings, tmp_path: Path) -> Iterator[tuple[Settings, WorkerProcess]]:
    """A ledger with a worker."""
    with worker(ledger_settings, tmp_path) as folding:
        yield ledger_settings, folding


def look_without_postgresql(door: Door, quick: Client) -> None:
    """Appends go on, reads are refused, and the health says why."""
    assert wait_until(partial(is_ready, door, postgresql=False), HANG_S), ready(door)
    assert quick.goes_on()
    read = door.http.get("/v1/accounts/quick")
    assert (read.status_code, read.headers["Retry-After"]) == (503, "1"), read.text
    assert read.json()["code"] == "postgresql_unavailable"
    waited = door.append("quick", "grants", wait_s=1, asset="other", amount=1)
    assert waited.status_code == 202, waited.text
    assert httpx.get(f"{door.url}/health/live", timeout=HANG_S, trust_env=False).status_code == 200


def postgresql_goes_away(stack: StackUnderTest, door: Door, quick: Client) -> None:
    """Frozen and back, killed and back: no read fails afterwards."""
    stack.freeze("postgres")
    try:
        look_without_postgresql(door, quick)
    finally:
        stack.thaw("postgres")
    assert wait_until(partial(is_ready, door), HANG_S), ready(door)
    stack.stop_postgres(kill=True)
    try:
        look_without_postgresql(door, quick)
    finally:
        stack.start_postgres()
    assert wait_until(partial(is_ready, door), HANG_S), ready(door)
    reads = [door.http.get(path) for path in ["/v1/accounts/quick", "/v1/accounts/quick/lots", "/v1/progress"] * 10]
    assert {answer.status_code for answer in reads} == {200}


def complete_to(door: Door, path: str) -> datetime:
    """Up to when a read has all of the log."""
    answer = door.http.get(path)
    assert answer.status_code == 200, answer.text
    return datetime.fromisoformat(answer.headers["Creditfold-Complete-To"])


def look_without_kafka(door: Door) -> None:
    """Reads go on and say how old they are, appends are refused and may be written, and the health says why."""
    stopped = datetime.now(UTC)
    assert wait_until(partial(is_ready, door, kafka=False), HANG_S), ready(door)
    for path in ("/v1/accounts/quick", "/v1/accounts/quick/lots", "/v1/totals", "/v1/progress"):
        assert complete_to(door, path) <= stopped
    refused = door.append("other", "grants", wait_s=1, asset="credits", amount=1)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1"), refused.text
    assert refused.json()["maybe_written"]
    url, headers = "/v1/accounts/other/grants", {"Idempotency-Key": "async", "Prefer": "respond-async"}
    unconfirmed = door.http.post(url, json={"asset": "credits", "amount": 1}, headers=headers)
    # Not after the half minute in which the producer gives up.
    assert (unconfirmed.status_code, unconfirmed.json()["code"]) == (503, "outcome_timeout"), unconfirmed.text
    assert (unconfirmed.headers["Retry-After"], unconfirmed.json()["maybe_written"]) == ("1", True)
    # One of many neither, whether its outcome is waited for or not: the first line is answered while others are sent.
    for prefer in ("respond-async", "wait=1"):
        call = BulkCall(door.url, Authorization=door.http.headers["Authorization"], Prefer=prefer)
        call.send({"type": "grant", "account": "other", "command_id": "many", "asset": "credits", "amount": 1})
        line = call.answer()
        assert line is not None
        assert (line["line"], line["status"], line["code"]) == (1, 503, "outcome_timeout")
        assert line["maybe_written"]
        call.cut()


def kafka_goes_away(stack: StackUnderTest, door: Door) -> None:
    """Frozen and back, killed and back: what was not acknowledged counts once at most."""
    stack.freeze("kafka")
    try:
        look_without_kafka(door)
    finally:
        stack.thaw("kafka")
    thawed = datetime.now(UTC)
    assert wait_until(partial(is_ready, door), HANG_S), ready(door)
    # Whatever may be in the log counts once, sent again under its id.
    for key in ("async", "many"):
        assert door.append("other", "grants", key=key, asset="credits", amount=1).status_code in (200, 201)
    assert sum(row["available"] for row in door.http.get("/v1/accounts/other/balances").json()) in (2, 3)
    assert wait_until(lambda: complete_to(door, "/v1/totals") > thawed, HANG_S)
    stack.stop_kafka(kill=True)
    try:
        look_without_kafka(door)
    finally:
        stack.start_kafka()
    assert wait_until(partial(is_ready, door), HANG_S), ready(door)


def test_appends_and_reads_go_on_while_the_other_s_server_is_away(
    stack: StackUnderTest, ledger: tuple[Settings, WorkerProcess], tmp_path: Path
) -> None:
    """Appends without PostgreSQL, reads without Kafka: what was acknowledged is in the log, once."""
    with served(ledger[0], tmp_path, *BRIEF) as (door, process), under_load(door) as (quick, patient):
        postgresql_goes_away(stack, door, quick)
        # All is as it was before, until the next goes away.
        assert all(client.goes_on() for client in (quick, patient))
        kafka_goes_away(stack, door)
        assert "Traceback" not in process.text()


def assert_age_by_the_fold(door: Door, account: str) -> None:
    """What isn't folded is missing in what reads say, for its own partition and for all; the others are of now."""
    written = datetime.now(UTC)
    own = partition_of(account.encode(), door.settings.partitions)
    names = (f"other-{number}" for number in count())
    other = next(name for name in names if partition_of(name.encode(), door.settings.partitions) != own)
    # No record came there for long: the answer is of now all the same.
    assert wait_until(lambda: complete_to(door, f"/v1/accounts/{other}") > written, HANG_S)
    assert max(complete_to(door, path) for path in (f"/v1/accounts/{account}", "/v1/totals")) <= written


def test_a_write_that_waits_is_answered_before_the_end(ledger: tuple[Settings, WorkerProcess], tmp_path: Path) -> None:
    """With its outcome, or after some seconds with the word that it may count."""
    settings, folding = ledger
    for is_decided in (True, False):
        patience = HANG_S if is_decided else 0.5
        bounds = (f"api.service.STOP_WAIT_S={patience}", f"api.server.STOP_S={int(HANG_S)}")
        with served(settings, tmp_path, *bounds) as (door, process):
            door.grant("ada", 5)
            with waiting_write(door, folding) as found:
                process.send(signal.SIGTERM)
                if is_decided:
                    # It takes no more, and still has this one.
                    assert wait_until(lambda door=door: ready(door) is None, HANG_S)
                    folding.send(signal.SIGCONT)
            assert process.process.wait(HANG_S) == 0
            folding.send(signal.SIGCONT)
        (answer,) = found
        if is_decided:
            assert (answer.status_code, answer.json()["outcome"]) == (201, "accepted")
        else:
            assert (answer.status_code, answer.json()["code"]) == (503, "server_stopping")
            assert answer.json()["maybe_written"]


@contextmanager
def waiting_write(door: Door, folding: WorkerProcess) -> Iterator[list[httpx.Response]]:
    """A write that is in the log and not decided while the block runs: its worker is frozen. Its answer is given."""
    freeze(folding)
    before = sum(ends_of(door.settings))
    found: list[httpx.Response] = []
    writing = threading.Thread(target=lambda: found.append(door.append("ada", "grants", asset="a", amount=1)))
    writing.start()
    assert wait_until(lambda: sum(ends_of(door.settings)) > before, HANG_S)
    assert_age_by_the_fold(door, "ada")
    yield found
    writing.join(HANG_S)


def ends_of(settings: Settings) -> Collection[int]:
    return end_offsets(settings, settings.commands_topic, range(settings.partitions)).values()
