"""Chaos on the real stack: workers and servers die in every way while commands, duplicates and poison pour in.

Afterwards every record has exactly one outcome, and the balances equal a fold that shares no code with ours. CI runs
the short form; `make chaos` (CREDITFOLD_CHAOS_COMMANDS) the long one. The seed is printed, and can be given.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from stack_under_test import StackUnderTest
from support import (
    Raw,
    WorkerProcess,
    all_progress,
    assert_equals_second_fold,
    lag,
    record,
    wait_until_folded,
    worker,
)

from creditfold.producers import CommandProducer, DeliveryFailedError, Outcome
from creditfold.producers.commands import Encoded
from creditfold.schemas.position import Position
from creditfold.stack.processes import wait_until
from creditfold.stack.settings import Settings

COMMANDS = int(os.environ.get("CREDITFOLD_CHAOS_COMMANDS", "25000"))
SEED = int(os.environ.get("CREDITFOLD_CHAOS_SEED", random.randrange(10**6)))
ACCOUNTS = 3_000
A_SECOND = 2_000
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
    striking = faults(chance, stack)
    share = threading.Semaphore(0)

    def pour() -> None:
        try:
            poured = paced(commands(random.Random(SEED + 1)), share, COMMANDS // len(striking))
            append_all(settings, poured)
        except BaseException as error:
            failures.append(error)

    with ExitStack() as running:
        workers = [running.enter_context(worker(settings, tmp_path, name)) for name in ("one", "two")]
        assert wait_until(lambda: owners(settings) == pids(workers), BOUND_S)
        pouring = threading.Thread(target=pour, daemon=True)
        pouring.start()
        for fault, target in aimed(striking, workers, chance):
            # Each fault strikes while its share of the commands is appended and folded.
            share.release()
            wait_for_progress(settings, folded(settings) + chance.randrange(100, COMMANDS // len(striking) // 2))
            fault(target)
            for process in workers:
                if process.process.poll() is not None:
                    process.restart()
        share.release(len(striking))
        pouring.join(BOUND_S * 2)
        assert not pouring.is_alive()
        assert failures == []
        wait_until_folded(settings, BOUND_S * 2)
        # A worker that was started again just now has to be up before it can be stopped cleanly.
        assert wait_until(lambda: owners(settings) == pids(workers), BOUND_S)
        assert [process.stop() for process in workers] == [0, 0]

    second = assert_equals_second_fold(settings)
    assert len(second.outcomes) == COMMANDS
    assert len(second.dead) > 0
    assert second.duplicates > 0
    claims = sum(line.get("event") == "claimed" for process in workers for line in process.lines())
    print(f"{len(second.dead)} dead letters, {second.duplicates} duplicates, {claims} times partitions were claimed")
    # All partitions were claimed before the first fault, and none of the first two processes lived to the end.
    assert claims > len(workers)


def append_all(settings: Settings, records: Iterable[Raw]) -> None:
    """Append all by the producer that services use; again what it tells to send again."""
    left: list[Raw] = []

    def keep_failed(raw: Raw, outcome: Outcome) -> None:
        if not isinstance(outcome, Position):
            assert isinstance(outcome, DeliveryFailedError), outcome
            left.append(raw)

    with CommandProducer(settings.kafka_client, settings.commands_topic, delivery_timeout_s=180) as producer:
        while True:
            for raw in records:
                producer.append_encoded([Encoded(raw.key, raw.value or b"")], partial(keep_failed, raw))
            producer.flush()
            if not left:
                return
            records, left[:] = list(left), []


def paced(records: Iterable[Raw], share: threading.Semaphore, size: int) -> Iterator[Raw]:
    """The records, A_SECOND of them a second, and as many shares of `size` as were given out."""
    for number, raw in enumerate(records):
        if number % size == 0:
            share.acquire()
        if number % 20 == 0:
            time.sleep(20 / A_SECOND)
        yield raw


def aimed(
    striking: list[Callable[[WorkerProcess], None]], workers: list[WorkerProcess], chance: random.Random
) -> Iterator[tuple[Callable[[WorkerProcess], None], WorkerProcess]]:
    """Every fault with the worker that it meets: any, but that one is killed and the other stopped at least once."""
    killed, stopped = chance.sample(workers, 2)
    fixed = {WorkerProcess.kill: killed, stop: stopped}
    for fault in striking:
        yield fault, fixed.pop(fault, None) or chance.choice(workers)


def faults(chance: random.Random, stack: StackUnderTest) -> list[Callable[[WorkerProcess], None]]:
    """Every fault at least once, in a random order; more of them in a long run."""
    each: list[Callable[[WorkerProcess], None]] = [
        WorkerProcess.kill,
        stop,
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


def stop(target: WorkerProcess) -> None:
    target.stop()


def pause(target: WorkerProcess) -> None:
    """Freeze a worker for longer than Kafka waits for it, then let it wake as a zombie in the middle of its chunk."""
    if target.process.poll() is None:
        target.send(signal.SIGSTOP)
        # Its partitions move to the other worker when the session has run out.
        threading.Event().wait(12)
        target.send(signal.SIGCONT)


def folded(settings: Settings) -> int:
    return sum(row.records for row in all_progress(settings))


def owners(settings: Settings) -> set[str]:
    """Pids of the partitions' owners, who may be dead. An owner is host:pid."""
    return {row.owner.split(":")[-1] for row in all_progress(settings)}


def pids(workers: list[WorkerProcess]) -> set[str]:
    return {str(process.process.pid) for process in workers}


def wait_for_progress(settings: Settings, records: int) -> None:
    """Wait until so many records are folded."""
    assert wait_until(lambda: folded(settings) >= records, BOUND_S), (
        f"{folded(settings)} records folded, {records} expected, {lag(settings)} to fold"
    )
