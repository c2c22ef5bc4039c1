"""Whatever goes away while transfers are on their way, on the real stack: each of them comes to its one end.

Transfers are held at two places, by workers that append nothing more of them: sent and not brought to their receivers;
received, and their senders not reported.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.processors.rebuild.steps import ActivationOptions, Request, activate, rebuild
from creditfold.projections.connections import connected, snapshot
from creditfold.projections.proof.trial_balance import trial_balance
from helpers.command_line import run
from helpers.generations import WATCH, rows_of
from helpers.stack_under_test import StackUnderTest
from helpers.support import HANG_S, ROOT, Raw, WorkerProcess, all_progress, append, query, wait_until_folded
from helpers.transfer_records import account_in, check_ends, grant, in_transit, of, transfer

SENDERS = [account_in(number, f"sender{number}") for number in range(4)]
RECEIVERS = [account_in(number, f"receiver{number}") for number in range(4)]
CLOSED = account_in(2, "closed")


class Holding(WorkerProcess):
    """A worker that appends nothing more of some transfers while a file is there."""

    program = (str(ROOT / "tests" / "programs" / "held_transfers.py"),)


@pytest.fixture
def held(ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file."""
    path = tmp_path / "held"
    path.touch()
    monkeypatch.setenv("HELD_TRANSFERS", str(path))
    return path


@contextmanager
def workers(settings: Settings, folder: Path) -> Iterator[list[WorkerProcess]]:
    """Two workers, so that most transfers go from one to the other."""
    running = [Holding(settings, folder, name) for name in ("one", "two")]
    try:
        yield running
    finally:
        for process in running:
            process.kill()


def transfers(batch: str) -> list[Raw]:
    """Of both kinds, from each partition to each other and within it, and to an account that sends them back."""
    return [
        transfer(sender, f"{place}-{batch}-{number}", 1 + number, receiver)
        for place in ("out", "end")
        for sender in SENDERS
        for number, receiver in enumerate([*RECEIVERS, CLOSED])
    ]


def there_and_back(settings: Settings) -> None:
    """Make another generation the live one, and then the first again."""
    number = rebuild(settings, Request(), WATCH).number
    for one in (number, 1):
        activate(settings, one, ActivationOptions(), WATCH)
        append(settings, [grant(name, f"under-{one}", 1) for name in SENDERS])
        wait_until_folded(settings)
        assert len(query(settings, f"SELECT FROM ledger_{one:04}.transfers WHERE is_open")) == BATCH


def restart_all(running: list[WorkerProcess], group: str) -> None:
    """Kill all workers, and start others, in a group that needn't wait until the dead ones' sessions have run out."""
    for process in running:
        process.kill()
    for process in running:
        process.restart(group=group)


BATCH = len(transfers(""))
Fault = Callable[[StackUnderTest, Settings, list[WorkerProcess]], None]
FAULTS: dict[str, Fault] = {
    "kafka-stopped": lambda stack, _, __: stack.restart_kafka(),
    "kafka-killed": lambda stack, _, __: stack.restart_kafka(kill=True),
    "postgres-stopped": lambda stack, _, __: stack.restart_postgres(),
    "postgres-killed": lambda stack, _, __: stack.restart_postgres(kill=True),
    "workers-killed": lambda _, settings, running: restart_all(running, f"{settings.group}-again"),
    "another-generation": lambda _, settings, __: there_and_back(settings),
}
#: The last of them, of whose middle it is looked at what a rebuild makes.
LAST = list(FAULTS)[-1]


def test_transfers_on_their_way_come_to_their_end(
    stack: StackUnderTest, ledger_settings: Settings, tmp_path: Path, held: Path
) -> None:
    """One fault after the other, each with transfers of its own on their way, by two workers that live through it.

    Nothing stays in transit, each is settled once, all sums are zero, and the log folded anew comes to the same: to its
    end, and to a moment at which some were on their way.
    """
    settings = ledger_settings.model_copy(update={"tick_seconds": 0, "retry_max_s": 1.0})
    append(settings, [of("Close", CLOSED, "close")])
    append(settings, [grant(name, f"g{number}", 100) for name in SENDERS for number in range(5)])
    with workers(settings, tmp_path) as running:
        for batch, (name, fault) in enumerate(FAULTS.items()):
            before = batch * BATCH
            held.touch()
            append(settings, transfers(name))
            wait_until_folded(settings)
            assert wait_until(lambda before=before: arrived(settings) == before + BATCH // 2, HANG_S), name
            wait_until_folded(settings)
            if name == LAST:
                offsets = {row.log_partition: row.next_offset for row in all_progress(settings)}
                then = rows_of(settings, 1)
            assert in_transit(settings) == BATCH, name
            fault(stack, settings, running)
            # What was away is back, when something new is folded everywhere.
            append(settings, [grant(sender, f"after-{name}", 1) for sender in SENDERS])
            wait_until_folded(settings)
            assert (in_transit(settings), arrived(settings)) == (BATCH, before + BATCH // 2), name
            held.unlink()
            ended = wait_until(lambda: in_transit(settings) == 0, HANG_S)
            assert ended, (name, [process.text()[-2000:] for process in running])
            wait_until_folded(settings)
    assert check_ends(settings) == len(FAULTS) * BATCH
    assert query(settings, "SELECT sum(in_transit) FROM ledger_0001.totals") == [(0,)]
    with connected(settings.dsn) as connection, snapshot(connection):
        assert trial_balance(connection).faults == []
    assert rows_of(settings, rebuild(settings, Request(), WATCH).number) == rows_of(settings, 1)
    assert rows_of(settings, rebuild(settings, Request(until_offsets=offsets), WATCH).number) == then


def test_status_shows_what_is_on_its_way(ledger_settings: Settings, tmp_path: Path, held: Path) -> None:
    """How many transfers, and for how long the oldest is."""
    began = time.monotonic()
    sender, receiver = SENDERS[0], RECEIVERS[1]
    append(ledger_settings, [grant(sender, "g", 10), transfer(sender, "out-1", 4, receiver)])
    with workers(ledger_settings, tmp_path):
        wait_until_folded(ledger_settings)
        shown = run(ledger_settings, "status", "--json", "--interval", "0.1", check=False).stdout
        reported = json.loads(shown)["in_transit"]
        assert reported["transfers"] == 1
        assert 0 <= reported["oldest_s"] <= time.monotonic() - began
        held.unlink()
        assert wait_until(lambda: in_transit(ledger_settings) == 0, HANG_S)


def arrived(settings: Settings) -> int:
    (found,) = query(settings, "SELECT count(*) FROM ledger_0001.journal WHERE kind = 'receive_transfer'")
    return int(found[0])
