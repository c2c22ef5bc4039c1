"""Delivery by processes that are killed, frozen out and left by PostgreSQL: nothing missing, no other id, in order."""

import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.delivery.signing import secret_text
from helpers.fork_server import start_anew
from helpers.kafka_cluster import make_certificates
from helpers.receivers import LOOPBACK, OK, Answer, Call, Receiver, make_endpoint, wait_for_calls
from helpers.stack_under_test import StackUnderTest
from helpers.support import HANG_S, WorkerProcess, append, fold_log, record, worker

pytestmark = pytest.mark.stack

ACCOUNTS = [f"user-{number}" for number in range(8)]
LEASE = "projections.delivery.leadership.LEASE_S=2.0"


@pytest.fixture
def ledger(ledger_settings: Settings) -> Settings:
    """A ledger with an empty log."""
    settings = ledger_settings.model_copy(update={"webhook_allowed_networks": LOOPBACK})
    fold_log(settings)
    return settings


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


def delivery(settings: Settings, folder: Path, name: str) -> WorkerProcess:
    return WorkerProcess(settings, folder, name, command="delivery", constants=[LEASE])


def grant(settings: Settings, numbers: range) -> None:
    append(settings, [record("Grant", f"g{number}", name, 10) for number in numbers for name in ACCOUNTS])
    fold_log(settings)


def assert_all_came(receiver: Receiver, count: int) -> None:
    """Each line of each account by one id, first in its order, however often."""
    for name in ACCOUNTS:
        calls = receiver.of(name)
        assert list(dict.fromkeys(call.event["data"]["version"] for call in calls)) == list(range(1, count + 1))
        assert len({(call.id, call.body) for call in calls}) == count


def test_killed_at_any_request_nothing_is_missing(ledger: Settings, receiver: Receiver, tmp_path: Path) -> None:
    """Between a request and its answer, between an answer and the checkpoint; another process goes on."""
    make_endpoint(ledger, receiver.url, types=["command.accepted"])
    kills = {1, 2, 30, 31, 90}
    running: list[WorkerProcess] = []

    def answer(call: Call) -> Answer:
        if len(receiver.calls) in kills:
            kills.discard(len(receiver.calls))
            running[-1].send(signal.SIGKILL)
        return (500, {}, b"") if call.account == ACCOUNTS[0] and len(receiver.of(ACCOUNTS[0])) == 1 else OK

    receiver.answer = answer
    grant(ledger, range(20))
    try:
        for number in range(6):
            running.append(delivery(ledger, tmp_path, f"delivery-{number}"))
            assert wait_until(lambda: running[-1].process.poll() is not None or is_done(receiver), HANG_S)
    finally:
        running[-1].stop()
    assert not kills
    assert_all_came(receiver, 20)


class FreshDelivery(WorkerProcess):
    """One that reads when it starts whom the system trusts."""

    start_program = start_anew


def test_a_receiver_by_tls_is_called_where_its_authority_is_trusted(
    ledger: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the certificates of the system, or those that SSL_CERT_FILE names."""
    files = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server)
    monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
    with Receiver(context) as receiver:
        _, key = make_endpoint(ledger, receiver.url, types=["command.accepted"])
        grant(ledger, range(2))
        with worker(ledger, tmp_path, "delivery", kind=FreshDelivery, command="delivery"):
            calls = wait_for_calls(receiver, 2 * len(ACCOUNTS))
    assert receiver.url.startswith("https://127.0.0.1:")
    assert Webhook(secret_text(key)).verify(calls[0].body, dict(calls[0].headers)) == calls[0].event
    assert_all_came(receiver, 2)


def is_done(receiver: Receiver) -> bool:
    return len(receiver.ids()) == 20 * len(ACCOUNTS)


def test_one_leads_and_another_takes_over(ledger: Settings, receiver: Receiver, tmp_path: Path) -> None:
    """Where the first is frozen, and where it ends; one that wakes up writes nothing any more."""
    make_endpoint(ledger, receiver.url, types=["command.accepted"])
    first = delivery(ledger, tmp_path, "first")
    try:
        assert wait_until(lambda: first.said("delivers webhooks"), HANG_S)
        with worker(ledger, tmp_path, "second", command="delivery", constants=[LEASE]) as second:
            grant(ledger, range(5))
            wait_for_calls(receiver, 5 * len(ACCOUNTS))
            assert not second.said("delivers webhooks")
            first.send(signal.SIGSTOP)
            assert wait_until(lambda: second.said("delivers webhooks"), HANG_S)
            first.send(signal.SIGCONT)
            assert wait_until(lambda: first.said("delivers no more"), HANG_S)
            grant(ledger, range(5, 10))
            assert wait_until(lambda: len(receiver.ids()) == 10 * len(ACCOUNTS), HANG_S)
        grant(ledger, range(10, 12))
        assert wait_until(lambda: len(receiver.ids()) == 12 * len(ACCOUNTS), HANG_S)
    finally:
        assert first.stop() == 0
    assert_all_came(receiver, 12)


def test_postgresql_comes_back(stack: StackUnderTest, ledger: Settings, receiver: Receiver, tmp_path: Path) -> None:
    """The process waits for it, and goes on by itself."""
    make_endpoint(ledger, receiver.url, types=["command.accepted"])
    with worker(ledger, tmp_path, "delivery", command="delivery", constants=[LEASE]) as running:
        grant(ledger, range(3))
        wait_for_calls(receiver, 3 * len(ACCOUNTS))
        stack.restart_postgres(kill=True)
        grant(ledger, range(3, 6))
        assert wait_until(lambda: len(receiver.ids()) == 6 * len(ACCOUNTS), HANG_S)
        assert running.process.poll() is None
    assert_all_came(receiver, 6)
