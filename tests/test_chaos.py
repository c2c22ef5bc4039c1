"""Chaos on the real stack: workers and servers die in every way while commands, duplicates and poison pour in.

Afterwards every record has exactly one outcome, and the balances equal a fold that shares no code with ours. CI runs
the short form; `make chaos` (CREDITFOLD_CHAOS_COMMANDS) the long one. The seed is printed, and can be given.
"""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from stack_under_test import StackUnderTest
from support import (
    Raw,
    WorkerProcess,
    all_progress,
    append,
    assert_equals_second_fold,
    lag,
    query,
    record,
    wait_until_folded,
    worker,
)

from creditfold.stack.processes import wait_until
from creditfold.stack.settings import Settings

COMMANDS = int(os.environ.get("CREDITFOLD_CHAOS_COMMANDS", "25000"))
SEED = int(os.environ.get("CREDITFOLD_CHAOS_SEED", random.randrange(10**6)))
ACCOUNTS = 3_000
BOUND_S = 120.0


def commands(chance: random.Random) -> Iterator[Raw]:
    """COMMANDS records, and on top of them duplicates (5%), reused ids (1%) and poison (1%)."""
    recent: list[tuple[str, str, str, int]] = []
    for number in range(COMMANDS):
        kind = "Grant" if chance.random() < 0.3 else "Spend"
        body = (kind, f"c{number}", f"user-{int(chance.paretovariate(0.4)) % ACCOUNTS}", chance.randint(1, 40))
        recent = [*recent[-200:], body]
        yield record(*body)
        if chance.random() < 0.05:
            yield record(*chance.choice(recent))
        if chance.random() < 0.01:
            kind, command_id, account, amount = chance.choice(recent)
            yield record(kind, command_id, account, amount + 1)
        if chance.random() < 0.01:
            yield Raw(chance.randbytes(chance.randrange(1, 50)), chance.randbytes(3))


@pytest.mark.chaos
def test_nothing_is_lost_or_done_twice_whatever_dies(
    stack: StackUnderTest, ledger_settings: Settings, tmp_path: Path
) -> None:
    """Two workers; SIGKILL, SIGTERM, SIGSTOP and SIGCONT, PostgreSQL and Kafka stopped and killed, while folding."""
    print(f"seed {SEED}, {COMMANDS} commands")
    chance = random.Random(SEED)
    # Small chunks, so that every fault meets many transactions.
    settings = ledger_settings.model_copy(update={"chunk_records": 200, "retry_max_s": 1.0})
    failures: list[BaseException] = []

    def pour() -> None:
        try:
            append(settings, commands(random.Random(SEED + 1)), **{"delivery.timeout.ms": 180_000})
        except BaseException as error:
            failures.append(error)

    with ExitStack() as running:
        workers = [running.enter_context(worker(settings, tmp_path, name)) for name in ("one", "two")]
        pouring = threading.Thread(target=pour)
        pouring.start()
        wait_for_progress(settings, 1)
        for fault in faults(chance, stack):
            target = chance.choice(workers)
            before = folded(settings)
            fault(target)
            # Each fault strikes while the fold moves, unless everything is folded already.
            wait_for_progress(settings, before + chance.randrange(100, 2_000), done=lambda: not pouring.is_alive())
            for process in workers:
                if process.process.poll() is not None:
                    process.restart()
        pouring.join(BOUND_S * 2)
        assert not pouring.is_alive()
        assert failures == []
        wait_until_folded(settings, BOUND_S * 2)
        # A worker that was started again just now has to be up before it can be stopped cleanly. An owner is host:pid,
        # and may still be one that was killed.
        pids = {str(process.process.pid) for process in workers}
        assert wait_until(lambda: {row.owner.split(":")[-1] for row in all_progress(settings)} == pids, BOUND_S)
        assert [process.stop() for process in workers] == [0, 0]

    second = assert_equals_second_fold(settings)
    assert len(second.outcomes) == COMMANDS
    assert len(second.dead) > 0
    assert second.duplicates > 0
    claims = query(settings, "SELECT min(epoch) FROM ledger.progress")[0][0]
    print(f"{len(second.dead)} dead letters, {second.duplicates} duplicates, at least {claims} claims a partition")
    assert claims > 2


def faults(chance: random.Random, stack: StackUnderTest) -> list[Callable[[WorkerProcess], None]]:
    """Every fault at least once, in a random order; more of them in a long run."""
    each: list[Callable[[WorkerProcess], None]] = [
        WorkerProcess.kill,
        lambda target: target.stop() and None,
        pause,
        lambda _: stack.restart_postgres(),
        lambda _: stack.restart_postgres(kill=True),
        lambda _: stack.restart_kafka(),
        lambda _: stack.restart_kafka(kill=True),
    ]
    more = [chance.choice(each) for _ in range(COMMANDS // 20_000)]
    drawn = [*each, *more]
    chance.shuffle(drawn)
    return drawn


def pause(target: WorkerProcess) -> None:
    """Freeze a worker for longer than Kafka waits for it, then let it wake as a zombie in the middle of its chunk."""
    if target.process.poll() is None:
        target.send(signal.SIGSTOP)
        # Its partitions move to the other worker when the session has run out.
        threading.Event().wait(12)
        target.send(signal.SIGCONT)


def folded(settings: Settings) -> int:
    return sum(row.records for row in all_progress(settings))


def wait_for_progress(settings: Settings, records: int, done: Callable[[], bool] = lambda: False) -> None:
    """Wait until so many records are folded."""

    def enough() -> bool:
        return folded(settings) >= records or (done() and lag(settings) == 0)

    assert wait_until(enough, BOUND_S), f"{folded(settings)} records folded, {records} expected"
