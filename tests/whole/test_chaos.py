"""Chaos on the real stack: workers and servers die in every way while commands, duplicates and poison pour in.

Afterwards every record has exactly one outcome, the balances equal a fold that shares no code with ours, and each
decision about some accounts came by a webhook, under one id. CI runs the short form; `make chaos`
(CREDITFOLD_CHAOS_COMMANDS) the long one. The seed is printed, and can be given.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import psutil
import pytest
from confluent_kafka import Producer

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.processors.rebuild.steps import ActivationOptions, Request, activate, rebuild
from creditfold.producers import CommandProducer, DeliveryFailedError, Outcome
from creditfold.producers.models.commands import Encoded
from creditfold.stack.embedded import service_status
from helpers.log_surgery import cut_end
from helpers.projection_copy import copy_of
from helpers.published import assert_published, wait_until_published
from helpers.receivers import LOOPBACK, OK, Answer, Call, Receiver, make_endpoint
from helpers.small_disk import ROOMY_KB, SmallDisk
from helpers.stack_under_test import EmbeddedStack, StackUnderTest
from helpers.support import (
    SEED,
    BriefWorker,
    Quiet,
    Raw,
    SecondFold,
    WorkerProcess,
    all_progress,
    append,
    assert_equals_second_fold,
    lag,
    publisher,
    query,
    read_log,
    record,
    wait_until_folded,
    worker,
)

pytestmark = pytest.mark.compiled_core

COMMANDS = int(os.environ.get("CREDITFOLD_CHAOS_COMMANDS", "12000"))
ACCOUNTS = 3_000
A_SECOND = 2_000
BOUND_S = 120.0
#: Room for the ledger's tables and two copies of them.
#: Pauses of webhooks' retries, in seconds; by default there are hours between them.
RETRIES = "delivery.retries.SCHEDULE_S=" + repr((0.2,) * 100)
DISK_KB = max(ROOMY_KB, 4 * COMMANDS)


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


class Scene(NamedTuple):
    """What faults strike: the servers, the processes on them, and the disk that the ledger's tables lie on, if any."""

    settings: Settings
    stack: StackUnderTest
    workers: list[WorkerProcess]
    publishers: list[WorkerProcess]
    deliverers: list[WorkerProcess]
    disk: SmallDisk | None

    @property
    def processes(self) -> list[WorkerProcess]:
        """All that a fault may have ended."""
        return [*self.workers, *self.publishers, *self.deliverers]


class Subscriber:
    """Receives webhooks about accounts whose names begin with PREFIX, and refuses one now and then."""

    PREFIX = "user-2"
    TYPES = ("command.accepted", "command.rejected")

    def __init__(self, receiver: Receiver) -> None:
        self.url = receiver.url
        #: The ids of the requests about each account's version, which are in the order in which they came first.
        self.ids: dict[tuple[str, int], set[str]] = {}
        self.calls = 0
        self._chance = random.Random(SEED)
        self._lock = threading.Lock()
        self._receiver = receiver
        receiver.answer = self._answer

    def _answer(self, call: Call) -> Answer:
        with self._lock:
            # A long run has a million.
            self._receiver.calls.clear()
            self.calls += 1
            if self._chance.random() < 0.02:
                return 500, {}, b""
            self.ids.setdefault((call.account, call.event["data"]["version"]), set()).add(call.id)
            return OK

    def assert_each_came_by_one_id(self, settings: Settings) -> None:
        """For every decision about those accounts one id was delivered at least once, in the account's order."""
        decided = query(
            settings,
            """SELECT account_id, version FROM ledger.journal
               WHERE starts_with(account_id, %s) AND command_id IS NOT NULL ORDER BY 1, 2""",
            (self.PREFIX,),
        )
        assert wait_until(lambda: len(self.ids) >= len(decided), BOUND_S * 2), (len(self.ids), len(decided))
        assert sorted(self.ids) == sorted(decided)
        assert {len(found) for found in self.ids.values()} == {1}
        assert len(set.union(*self.ids.values())) == len(decided)
        for account in {account for account, _ in decided}:
            versions = [version for name, version in self.ids if name == account]
            assert versions == sorted(versions), account


Fault: TypeAlias = Callable[[Scene, random.Random], None]


# Only for CI is a time known: a long run takes what it takes, and each wait in it has a bound of its own.
@pytest.mark.timeout(900 if COMMANDS <= 12_000 else 0)
@pytest.mark.chaos
def test_nothing_is_lost_or_done_twice_whatever_dies(
    stack: StackUnderTest, disk: SmallDisk | None, ledger_settings: Settings, tmp_path: Path
) -> None:
    """Two workers and a publisher; each killed, stopped and frozen, and so the servers, while commands are folded.

    Besides: transactions of others that stay open, a disk that is full, a projection that is set back, and in the end a
    log that loses its end.
    """
    chance = random.Random(SEED)
    # Small chunks, so that every fault meets many transactions, however few commands there are to it.
    more = {"chunk_records": 100, "retry_max_s": 1.0, "webhook_allowed_networks": LOOPBACK}
    settings = ledger_settings.model_copy(update=more)
    failures: list[BaseException] = []
    striking = faults(chance, disk)
    # Once it has lost its end, the log is not what was published.
    losses = 1 + COMMANDS // 250_000
    print(f"seed {SEED}, {COMMANDS} commands, {len(striking)} faults, and {losses} times the log loses its end")
    share = threading.Semaphore(0)

    def pour() -> None:
        try:
            poured = paced(commands(random.Random(SEED + 1)), share, COMMANDS // len(striking))
            append_all(settings, poured)
        except BaseException as error:
            failures.append(error)

    if disk is not None:
        move_to(settings, disk)
    with ExitStack() as running:
        workers = [running.enter_context(worker(settings, tmp_path, name, BriefWorker)) for name in ("one", "two")]
        publishers = [running.enter_context(publisher(settings, tmp_path))]
        subscriber = Subscriber(running.enter_context(Receiver()))
        make_endpoint(settings, subscriber.url, account_prefixes=[Subscriber.PREFIX], types=list(Subscriber.TYPES))
        delivery = worker(settings, tmp_path, "delivery", command="delivery", constants=[RETRIES])
        scene = Scene(settings, stack, workers, publishers, [running.enter_context(delivery)], disk)
        assert wait_until(lambda: owners(settings) == pids(workers), BOUND_S)
        pouring = threading.Thread(target=pour, daemon=True)
        pouring.start()
        strike_each(scene, striking, share, chance)
        pouring.join(BOUND_S * 2)
        assert not pouring.is_alive()
        assert failures == []
        wait_until_folded(settings, BOUND_S * 2)
        wait_until_published(settings, BOUND_S * 2)
        # A worker that was started again just now has to be up before it can be stopped cleanly.
        assert wait_until(lambda: owners(settings) == pids(workers), BOUND_S)
        second = assert_each_folded_and_published_once(settings)
        subscriber.assert_each_came_by_one_id(settings)
        for _ in range(losses if isinstance(stack, EmbeddedStack) else 0):
            lose_end_of_log(scene, chance)
            again = assert_equals_second_fold(settings)
            assert again.outcomes.keys() == second.outcomes.keys()
        assert [process.stop() for process in scene.processes] == [0, 0, 0, 0]
    claims = sum(line.get("event") == "claimed" for process in workers for line in process.lines())
    print(f"{len(second.dead)} dead letters, {second.duplicates} duplicates, {claims} times partitions were claimed")
    print(f"{len(subscriber.ids)} webhooks in {subscriber.calls} requests")
    # Some were refused, and came again.
    assert subscriber.calls > len(subscriber.ids) > 0
    # All partitions were claimed before the first fault, and none of the first two processes lived to the end.
    assert claims > len(workers)


def strike_each(scene: Scene, striking: Sequence[Fault], share: threading.Semaphore, chance: random.Random) -> None:
    """Have each fault strike while its share of the commands is appended and folded; start again what it ended."""
    for fault in striking:
        share.release()
        most = COMMANDS // len(striking) // 2
        wait_for_progress(scene.settings, folded(scene.settings) + chance.randrange(1, most))
        fault(scene, chance)
        for process in scene.processes:
            if process.process.poll() is not None:
                process.restart()
    share.release(len(striking))


def assert_each_folded_and_published_once(settings: Settings) -> SecondFold:
    """Each command has come to one outcome, as a second fold has it, and both topics hold what the projection holds."""
    second = assert_equals_second_fold(settings)
    assert len(second.outcomes) == COMMANDS
    assert len(second.dead) > 0
    assert second.duplicates > 0
    assert assert_published(settings) == (COMMANDS, len(second.dead))
    return second


def move_to(settings: Settings, disk: SmallDisk) -> None:
    """Have the ledger's tables on a disk that can be filled."""
    disk.resize(DISK_KB)
    activate(
        settings, rebuild(settings, Request(tablespace=disk.tablespace), Quiet()).number, ActivationOptions(), Quiet()
    )


def append_all(settings: Settings, records: Iterable[Raw]) -> None:
    """Append all by the producer that services use; again what it reports to send again."""
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


def faults(chance: random.Random, disk: SmallDisk | None) -> list[Fault]:
    """Every fault at least once, in a random order; more of them in a long run."""
    each: list[Fault] = [
        *(partial(strike, WorkerProcess.kill, worker) for worker in (0, 1)),
        *(partial(strike, stop, worker) for worker in (0, 1)),
        partial(strike, pause, None),
        *(
            partial(strike, what, target)
            for what in (WorkerProcess.kill, stop, pause)
            for target in (PUBLISHER, DELIVERY)
        ),
        lambda scene, _: scene.stack.restart_postgres(),
        lambda scene, _: scene.stack.restart_postgres(kill=True),
        lambda scene, _: scene.stack.restart_kafka(),
        lambda scene, _: scene.stack.restart_kafka(kill=True),
        partial(freeze, "Kafka"),
        partial(freeze, "PostgreSQL"),
        leave_transaction_open,
        set_projection_back,
        *([] if disk is None else [fill_disk]),
    ]
    drawn = [*each, *(chance.choice(each) for _ in range(max(2, COMMANDS // 10_000)))]
    chance.shuffle(drawn)
    return drawn


#: Numbers of the publisher, and of what delivers webhooks, among a scene's processes.
PUBLISHER, DELIVERY = 2, 3


def strike(what: Callable[[WorkerProcess], object], target: int | None, scene: Scene, chance: random.Random) -> None:
    """Do something to a process by its number, to any worker if there is none."""
    what(chance.choice(scene.workers) if target is None else scene.processes[target])


def stop(target: WorkerProcess) -> None:
    target.stop()


def pause(target: WorkerProcess) -> None:
    """Freeze a worker for longer than Kafka waits for it, then let it wake as a zombie in the middle of its chunk."""
    if target.process.poll() is None:
        target.send(signal.SIGSTOP)
        # Its partitions move to the other worker when the session has run out.
        threading.Event().wait(BriefWorker.SESSION_S + 2)
        target.send(signal.SIGCONT)


def freeze(name: str, scene: Scene, chance: random.Random) -> None:
    """Have a server of ours stand still for some seconds, with all of its processes: it neither answers nor refuses."""
    (pid,) = [status.pid for status in service_status(scene.stack.settings) if status.name == name]
    if pid is None:
        return
    server = psutil.Process(pid)
    frozen = [server, *server.children(recursive=True)]
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    threading.Event().wait(chance.uniform(1, 8))
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def leave_transaction_open(scene: Scene, chance: random.Random) -> None:
    """Somebody's transaction holds a partition back for some seconds and is given up: its record counts for nothing."""
    settings = scene.settings
    stranger = Producer({**settings.kafka_client, "transactional.id": f"stranger-{chance.random()}"})
    stranger.init_transactions(BOUND_S)
    stranger.begin_transaction()
    stranger.produce(settings.commands_topic, b"never", b"never", partition=chance.randrange(settings.partitions))
    stranger.flush(BOUND_S)
    threading.Event().wait(chance.uniform(1, 4))
    stranger.abort_transaction(BOUND_S)


def fill_disk(scene: Scene, chance: random.Random) -> None:
    """The disk of the ledger's tables has no room for some seconds."""
    assert scene.disk is not None
    scene.disk.fill()
    threading.Event().wait(chance.uniform(1, 4))
    scene.disk.resize(DISK_KB)


def set_projection_back(scene: Scene, chance: random.Random) -> None:
    """Processes find a database that is earlier than they left it, as after a fail-over that lost commits."""
    with copy_of(scene.settings) as copy:
        at = folded(scene.settings)
        # While its share comes in, something is folded that is lost again; perhaps nothing, at the share's end.
        wait_until(lambda: folded(scene.settings) > at, 5)
        copy.put_back()


def lose_end_of_log(scene: Scene, chance: random.Random) -> None:
    """The log loses its end, and what was lost is sent again in another order, so that it grows past it.

    Workers refuse the partition until the operator has done what they say, with all of them running.
    """
    settings, partition = scene.settings, chance.randrange(scene.settings.partitions)
    entries = [entry for entry in read_log(settings) if entry.partition == partition]
    before = [Raw(entry.value, entry.key, partition) for entry in entries]
    refused = refusals(scene)
    scene.stack.stop_kafka(kill=True)
    cut_end(scene.stack.settings.data_dir, settings.commands_topic, partition, chance.choice(entries[-200:]).offset)
    scene.stack.start_kafka()
    kept = sum(entry.partition == partition for entry in read_log(settings))
    assert kept < len(before)
    lost = before[kept:]
    append(settings, [*reversed(lost), *lost])
    assert wait_until(lambda: refusals(scene) > refused, BOUND_S)
    made = rebuild(settings, Request(), Quiet())
    activate(settings, made.number, ActivationOptions(differences=True, note="the log lost its end"), Quiet())
    wait_until_folded(settings, BOUND_S)


def refusals(scene: Scene) -> int:
    """How often a worker has refused a partition."""
    return sum(
        line.get("event") == "refuses to fold a partition" for process in scene.workers for line in process.lines()
    )


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
