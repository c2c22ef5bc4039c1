"""What stack tests share: worker processes, raw appends, waiting, and a second fold that shares no code with ours."""

import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from operator import methodcaller
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import fastavro
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from creditfold.common.errors import CreditfoldError
from creditfold.common.settings import READER, Settings
from creditfold.common.waiting import wait_until
from creditfold.log import admin
from creditfold.log.admin import KafkaAdmin, KafkaUnavailableError
from creditfold.log.offsets import end_offsets, start_offsets
from creditfold.log.topics import create_topics, describe_log
from creditfold.processors.rebuild.partition import RebuildJob
from creditfold.processors.rebuild.processes import fold_here
from creditfold.projections.queries.progress import PartitionProgress, progress
from creditfold.projections.tables.setup import prepare
from creditfold.schemas.wire import encode
from helpers.fork_server import Process
from helpers.kept_sessions import session

ROOT = Path(__file__).resolve().parents[2]
WITH_CONSTANTS = str(ROOT / "tests" / "programs" / "with_constants.py")
#: Longest wait for what must come, in seconds: only a hang exceeds it, however slow the machine is.
HANG_S = 300.0
#: The option by which a command waits for Kafka, and then for the fold, as long.
PATIENT = ("--timeout", str(HANG_S))
#: How long a transaction of a test may be open, in milliseconds: as long as the broker lets it.
TRANSACTION_MS = 900_000
#: What tests that draw at random draw from; they print it.
SEED = int(os.environ.get("CREDITFOLD_TEST_SEED", random.randrange(10**6)))
ROOMS = (
    "common",
    "schemas",
    "ledger",
    "log",
    "producers",
    "processors",
    "projections",
    "stack",
    "client",
    "delivery",
    "api",
    "console",
    "cli",
)


def built_wheel(folder: Path) -> Path:
    """Build the package's plain wheel into a folder."""
    # From a copy, so that an old build folder can't lend it a file, and the tree stays clean.
    source = folder / "source"
    for room in (*ROOMS, "building"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, env=os.environ | {"CREDITFOLD_CORE": "plain"}, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def ran(*command: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end, whatever that is; options are those of subprocess.run."""
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.run(command, **{"check": False, **piped, **options})  # noqa: PLW1510 - It is among them.


def write_program(path: Path, script: str) -> None:
    """Write a script of the shell that stands for another program."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    path.chmod(0o755)


def environment(settings: Settings) -> dict[str, str]:
    """The process environment under which `creditfold` reads these settings."""
    ours = {
        f"CREDITFOLD_{name.upper()}": str(value.get_secret_value() if hasattr(value, "get_secret_value") else value)
        for name, value in settings
        if value is not None
    }
    # The tests' own choice of the core holds for what they start, too.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CREDITFOLD_") or name == "CREDITFOLD_CORE"
    }
    return kept | ours


T = TypeVar("T")


class WorkerProcess:
    """A `creditfold worker`, or another command that runs until stopped, in a process of its own, its log in a file."""

    program: tuple[str, ...] = ("-m", "creditfold.cli.main")
    #: How it is started. A test of what happens while it imports takes `start_anew`.
    start_program: Callable[..., "subprocess.Popen[bytes]"] = Process

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        name: str = "worker",
        command: str = "worker",
        constants: Sequence[str] = (),
    ) -> None:
        """Start it, with constants of modules set otherwise: `processors.worker.app.SESSION_S=6`."""
        if constants:
            self.program = (WITH_CONSTANTS, *(f"creditfold.{one}" for one in constants))
        self.log = folder / f"{name}.log"
        self._command = command
        self._settings = settings
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._said_before = len(self.text()) if self.log.exists() else 0
        with self.log.open("ab") as log:
            return type(self).start_program(
                [*self.program, self._command, "--json-logs"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self._settings),
            )

    def send(self, what: signal.Signals) -> None:
        self.process.send_signal(what)

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait()

    def restart(self, **changed: Any) -> None:
        """Start again, under another process id and with some settings changed."""
        self._settings = self._settings.model_copy(update=changed)
        self.process = self._start()

    def stop(self, bound_s: float = HANG_S) -> int:
        """Ask it to stop; give back its exit code."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            return self.process.wait(bound_s)
        except subprocess.TimeoutExpired as error:
            self.kill()
            # Not hiding what may have gone wrong before.
            raise AssertionError(f"the {self._command} did not stop in {bound_s} s:\n{self.text()[-3000:]}") from error

    def lines(self) -> list[dict[str, Any]]:
        """Its log, one object a line; what isn't JSON is left out, and so is a line that is being written."""
        written, _, _ = self.text().rpartition("\n")
        return [json.loads(line) for line in written.splitlines() if line.startswith("{")]

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def latest(self) -> str:
        """Its log since it was started the last time."""
        return self.text()[self._said_before :]

    def said(self, event: str) -> bool:
        return any(event in str(line.get("event")) for line in self.lines())


class BriefWorker(WorkerProcess):
    """A worker whose session is as brief as brokers grant one."""

    SESSION_S = 6
    program = (
        WITH_CONSTANTS,
        f"creditfold.processors.worker.app.SESSION_S={SESSION_S}",
    )


@contextmanager
def worker(
    settings: Settings, folder: Path, name: str = "worker", kind: type[WorkerProcess] = WorkerProcess, **options: Any
) -> Iterator[WorkerProcess]:
    """A worker for the length of a block."""
    running = kind(settings, folder, name, **options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def publisher(
    settings: Settings, folder: Path, name: str = "publisher", **options: Any
) -> AbstractContextManager[WorkerProcess]:
    """A publisher for the length of a block."""
    return worker(settings, folder, name, command="publisher", **options)


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


#: Runs a command with its arguments in the test's own process.
Cli: TypeAlias = Callable[..., Done]


class Raw(NamedTuple):
    """A record as it is appended, valid or not. `partition` -1 is the key's own."""

    value: bytes | None
    key: bytes | None
    partition: int = -1
    headers: tuple[tuple[str, bytes | None], ...] = ()


def record(kind: str, command_id: str, account: str, amount: int, **fields: Any) -> Raw:
    """A command's record, without the checks of the producer library."""
    body = {"command_id": command_id, "account": account, "asset": "credits", "amount": amount, **fields}
    return Raw(encode(kind, body), account.encode())


def append(settings: Settings, records: Iterable[Raw], **conf: Any) -> None:
    """Append raw records and wait until the broker has them all."""
    failures: list[str] = []
    producer = _fresh_producer({**settings.kafka_client, **conf})

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            failures.append(str(error))

    for raw in records:
        place = {} if raw.partition < 0 else {"partition": raw.partition}
        while True:
            try:
                producer.produce(
                    settings.commands_topic,
                    value=raw.value,
                    key=raw.key,
                    headers=list(raw.headers),
                    on_delivery=delivered,
                    **place,
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(HANG_S) == 0
    assert failures == []


def _fresh_producer(conf: dict[str, Any]) -> Producer:
    """A producer that nobody else has used. The one after it is made at once: getting its id takes half a second."""
    usual = {
        "partitioner": "murmur2_random",
        "linger.ms": 5,
        "enable.idempotence": True,
        "reconnect.backoff.max.ms": 500,  # Its own are 10 s, which are waited when a broker is back long since.
        "log_level": 2,  # One that waits to be used may outlive its broker.
    }
    key = tuple(sorted(conf.items()))
    found = _spare.pop(key, None) or Producer(usual | conf)
    # One alone is kept: servers come and go.
    _spare.clear()
    _spare[key] = Producer(usual | conf)
    return found


#: The producer that is used next, by what it was made of.
_spare: dict[tuple[Any, ...], Producer] = {}


def make_anew(settings: Settings, topic: str | None = None, partitions: int | None = None) -> None:
    """Delete a topic, the log's if no other is named, and create it under the same name.

    Without a number of partitions it has what this release gives it.
    """
    name, client = topic or settings.commands_topic, KafkaAdmin(settings).client
    client.delete_topics([name])[name].result(HANG_S)
    assert wait_until(lambda: name not in client.list_topics(timeout=HANG_S).topics, HANG_S)
    if partitions is None:
        assert wait_until(lambda: name in create_topics(settings), HANG_S)
    else:
        client.create_topics([NewTopic(name, partitions, 1)])[name].result(HANG_S)

    def is_there() -> bool:
        known = client.list_topics(timeout=HANG_S).topics.get(name)
        return known is not None and len(known.partitions) == (partitions or settings.partitions)

    assert wait_until(is_there, HANG_S)


def misname_header(batch: Any) -> None:
    """Give the one header "ZZ" of an aiokafka batch a name that is no UTF-8, as another client may."""
    raw = bytearray(batch._build())
    at = raw.index(b"ZZ")
    raw[at : at + 2] = b"\xff\xfe"
    raw[17:21] = calc_crc32c(bytes(raw[21:])).to_bytes(4, "big")
    batch._buffer = bytes(raw)


async def append_misnamed(settings: Settings, records: Sequence[Raw], odd: int) -> None:
    """Append records to the first partition as one batch; the one numbered `odd` has a header named by no UTF-8."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, max_batch_size=2**20)
    await producer.start()
    try:
        batch = producer.create_batch()
        for number, raw in enumerate(records):
            headers = [("ZZ", b"")] if number == odd else []
            assert batch.append(key=raw.key, value=raw.value, timestamp=None, headers=headers) is not None
        misname_header(batch)
        await (await producer.send_batch(batch, settings.commands_topic, partition=0))
    finally:
        await producer.stop()


def alter(settings: Settings, topic: str, **options: str) -> None:
    """Change options of a topic, a dot in a name as a _ here, and wait until its broker goes by them.

    A broker shows a change a moment before its log has it, and takes changes one after the other: once it shows another
    one of no importance, the log has the first.
    """
    _alter(settings, topic, {name.replace("_", "."): value for name, value in options.items()})
    _alter(settings, topic, {"flush.ms": str(10**9 + int.from_bytes(os.urandom(3), "big"))})


def _alter(settings: Settings, topic: str, wanted: Mapping[str, str]) -> None:
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in wanted.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    client = KafkaAdmin(settings).client
    client.incremental_alter_configs([resource])[resource].result(HANG_S)

    def is_shown() -> bool:
        asked = ConfigResource(ResourceType.TOPIC, topic)
        shown = client.describe_configs([asked])[asked].result(HANG_S)
        return all(shown[name].value == value for name, value in wanted.items())

    assert wait_until(is_shown, HANG_S)


def delete_before(settings: Settings, topic: str, partition: int, offset: int) -> None:
    """Delete the records of a partition that are before an offset, as retention would."""
    place = TopicPartition(topic, partition, offset)
    client = KafkaAdmin(settings).client  # It answers as long as it lives.
    client.delete_records([place])[place].result(HANG_S)
    assert wait_until(lambda: start_offsets(settings, topic, [partition]) == {partition: offset}, HANG_S)


class Quiet:
    """Observes how far a rebuild is, and shows nothing."""

    def begin(self, step: str, done: int, total: int) -> None:
        """A step begins."""

    def report(self, done: int) -> None:
        """The number of records behind."""
        assert done >= 0


def all_progress(settings: Settings) -> list[PartitionProgress]:
    """Progress of every partition; empty while PostgreSQL or the projection isn't there."""
    try:
        with session(settings) as connection:
            return list(progress(connection))
    except CreditfoldError:
        return []


def patiently(question: Callable[[], T]) -> T:
    """Ask Kafka, again where it doesn't answer in the product's own time: a busy machine may need longer."""
    deadline = time.monotonic() + HANG_S
    while True:
        try:
            return question()
        except KafkaUnavailableError:
            if time.monotonic() > deadline:
                raise


def lag(settings: Settings) -> int | None:
    """Offsets still to fold, or None while that can't be said."""
    rows = all_progress(settings)
    try:
        ends = end_offsets(settings, settings.commands_topic, range(settings.partitions))
    except CreditfoldError:
        return None
    return sum(ends[row.log_partition] - row.next_offset for row in rows) if rows else None


def wait_until_folded(settings: Settings, bound_s: float = HANG_S) -> None:
    """Wait until the fold has reached the end of every partition.

    Kafka is asked first, and again when the fold is where the log ended then: a question to it costs twenty times as
    much as one to PostgreSQL.
    """
    ends: dict[int, int] = {}

    def is_folded() -> bool:
        rows = all_progress(settings)
        if ends and not (rows and all(row.next_offset >= ends[row.log_partition] for row in rows)):
            return False
        with suppress(CreditfoldError):
            ends.update(end_offsets(settings, settings.commands_topic, range(settings.partitions)))
            return bool(rows) and all(row.next_offset == ends[row.log_partition] for row in rows)
        return False

    assert wait_until(is_folded, bound_s), f"lag is {lag(settings)} after {bound_s} s"


def fold_log(settings: Settings) -> None:
    """Fold the log into generation 1 to its end, in this process and with no worker running.

    A rebuild's fold is the workers' fold, and needs no process to come up.
    """
    log = describe_log(settings)
    prepare(settings.dsn, log, settings.searchable_keys, by_balance=settings.searchable_balances)
    ends = end_offsets(settings, log.topic, range(log.partitions))
    fold_here(RebuildJob(settings.kafka_client, log.topic, log.partitions, 1, ends), settings.dsn)


def execute(settings: Settings, text: str) -> int:
    """Run a statement; returns how many rows it changed."""
    with session(settings) as connection:
        return connection.execute(text).rowcount  # type: ignore[call-overload]  # Tests write their own SQL.


def query(settings: Settings, text: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    with session(settings) as connection:
        return connection.execute(text, values).fetchall()  # type: ignore[arg-type]


class Seen(NamedTuple):
    """A committed message of a topic, as a service sees it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]

    def header(self, name: str) -> bytes | None:
        """The last of a name."""
        return dict(self.headers).get(name)


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """Its headers; none where one has a name that the client can't read."""
    # The client returns a result and an error at once, which Python notices in an indirect call only.
    try:
        return list(methodcaller("headers")(message) or [])
    except (SystemError, ValueError):
        return []


def read_topic(settings: Settings, topic: str) -> list[Seen]:
    """Every committed message of a topic, by partition, in order, by another client than the ledger's readers."""
    # By the client's own half of a second, the end behind a transaction's mark would be waited for.
    conf = {**settings.kafka_client, **READER, "enable.partition.eof": False, "fetch.wait.max.ms": 10}
    consumer, partitions = Consumer(conf), range(settings.partitions)
    # By this client, which knows the leaders then: else it often looked for them a second later.
    bounds = {partition: _bounds(consumer, TopicPartition(topic, partition)) for partition in partitions}
    ends = {partition: end for partition, (_, end) in bounds.items()}
    left = {partition for partition, (start, end) in bounds.items() if end > start}
    consumer.assign([TopicPartition(topic, partition, bounds[partition][0]) for partition in left])
    found: list[Seen] = []
    while left:
        # It waits so long for what isn't there, too.
        for message in consumer.consume(10_000, 0.01):
            assert message.error() is None, message.error()
            found.append(
                Seen(message.partition(), message.offset(), message.key(), message.value(), headers_of(message))
            )
        for place in consumer.position([TopicPartition(topic, partition) for partition in left]):
            if place.offset >= ends[place.partition]:
                left.discard(place.partition)
    consumer.close()
    return sorted(found, key=lambda seen: seen[:2])


def _bounds(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """Where a partition begins and ends for readers of what is committed; asked again while it has no leader."""
    deadline = time.monotonic() + HANG_S
    while True:
        try:
            start, end = consumer.get_watermark_offsets(place, HANG_S)
            return start, end
        except KafkaException as error:
            if error.args[0].code() not in NO_LEADER or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


#: What Kafka answers while a broker that was away comes back: what passes, or nothing.
NO_LEADER = {*admin._MOVING, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN}


def read_log(settings: Settings) -> list[Seen]:
    """Every committed record of the log."""
    return read_topic(settings, settings.commands_topic)


class SecondFold:
    """An independent fold: plain dictionaries, its own decoding, no code of the ledger's."""

    def __init__(self, partitions: int) -> None:
        lock = json.loads((ROOT / "schemas" / "lock.json").read_text("utf-8"))["schemas"]
        self._schemas = {row["id"]: (row["schema"]["name"], fastavro.parse_schema(row["schema"])) for row in lock}
        self._partitions = partitions
        self.balances: dict[tuple[str, str], int] = {}
        self.outcomes: dict[tuple[str, str], tuple[int, int, bool]] = {}  # (partition, offset, accepted)
        self._bodies: dict[tuple[str, str], str] = {}
        self.duplicates = 0
        self.dead: set[tuple[int, int]] = set()

    def take(self, entry: Seen) -> None:
        """Fold one record."""
        try:
            magic, schema_id = struct.unpack(">bI", (entry.value or b"")[:5])
            name, schema = self._schemas[schema_id]
            stream = io.BytesIO((entry.value or b"")[5:])
            body: Any = fastavro.schemaless_reader(stream, schema, None)
            sound = magic == 0 and not stream.read() and 1 <= body["amount"] < 2**53 and entry.key is not None
            sound = (
                sound and entry.key == body["account"].encode() and body["account"] != "" and body["command_id"] != ""
            )
        except Exception:
            sound = False
        if not sound:
            self.dead.add((entry.partition, entry.offset))
            return
        key, text = (body["account"], body["command_id"]), json.dumps([name, body], sort_keys=True)
        if key in self._bodies:
            if self._bodies[key] == text:
                self.duplicates += 1
            else:
                self.dead.add((entry.partition, entry.offset))
            return
        self._bodies[key] = text
        purse = (body["account"], body["asset"])
        after = self.balances.get(purse, 0) + (body["amount"] if name == "Grant" else -body["amount"])
        self.outcomes[key] = (entry.partition, entry.offset, after >= 0)
        self.balances[purse] = after if after >= 0 else self.balances.get(purse, 0)


def assert_equals_second_fold(settings: Settings) -> SecondFold:
    """Every record of the log has exactly one outcome in the projection, and every balance is what it must be."""
    second = SecondFold(settings.partitions)
    entries = read_log(settings)
    for entry in entries:
        second.take(entry)
    stored = query(settings, "SELECT account_id, command_id, log_partition, log_offset, accepted FROM ledger.journal")
    assert len(stored) == len(second.outcomes)
    assert {(row[0], row[1]): row[2:] for row in stored} == second.outcomes
    rows = query(settings, "SELECT account_id, asset, available FROM ledger.balances")
    assert {row[:2]: row[2] for row in rows} == second.balances
    assert set(query(settings, "SELECT log_partition, log_offset FROM ledger.dead_letters")) == second.dead
    counted = query(settings, "SELECT sum(records), sum(duplicates), sum(dead_letters) FROM ledger.progress")
    assert counted == [(len(entries), second.duplicates, len(second.dead))]
    sums = query(settings, "SELECT account_id, asset, sum(change)::bigint FROM ledger.journal GROUP BY 1, 2")
    assert {row[:2]: row[2] for row in sums} == second.balances
    return second


#: Whether these tests are to run on the compiled core.
IS_COMPILED = os.environ["CREDITFOLD_CORE"] == "compiled"
