"""An archive holds the log and nothing else, brings it back at the same positions, and reports when it is damaged."""

import asyncio
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from fastavro import reader as read_container
from pydantic import SecretStr

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log import admin
from creditfold.log.admin import KafkaAdmin, KafkaUnavailableError, TopicMissingError
from creditfold.log.archive import restore
from creditfold.log.archive import writer as archive_writer
from creditfold.log.archive.folder import FORMAT, Archive, ArchiveDamagedError, ArchiveError, chained
from creditfold.log.archive.restore import RestoreError, RestoreProgress, restore_topic
from creditfold.log.archive.target import GapWriter
from creditfold.log.archive.writer import ArchiveProgress, archive_topic
from creditfold.log.offsets import End, end_offsets, log_ends, start_offsets
from creditfold.log.reader import LogReader, UnreadableError
from creditfold.log.topics import check_topic, create_topics, describe_topic, topic_config
from creditfold.projections.connections import connected
from creditfold.projections.proof.dates import proofs
from helpers.command_line import run
from helpers.databases import other_topic
from helpers.forgetful_kafka import ForgetfulKafka
from helpers.fork_server import Process
from helpers.ledgers import new_database
from helpers.stack_under_test import StackUnderTest, free_port
from helpers.support import (
    HANG_S,
    TRANSACTION_MS,
    Done,
    Raw,
    alter,
    append,
    append_misnamed,
    delete_before,
    environment,
    fold_log,
    make_anew,
    query,
    record,
)

HELD = str(Path(__file__).parents[1] / "programs" / "held.py")
IN_1997 = 852_076_800_000
PARTITIONS = range(4)
LARGE = random.Random(1).randbytes(1_000_000)

Records = list[tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]


class Picture(NamedTuple):
    """A partition as its readers see it: where it begins and ends, and (offset, time, key, value, headers)."""

    start: int
    end: int
    records: Records


def picture(settings: Settings) -> list[Picture]:
    """All partitions of a topic."""
    topic = settings.commands_topic
    starts, ends = start_offsets(settings, topic, PARTITIONS), end_offsets(settings, topic, PARTITIONS)
    return [Picture(starts[place], ends[place], records(settings, place, starts, ends)) for place in PARTITIONS]


def records(settings: Settings, place: int, starts: dict[int, int], ends: dict[int, int]) -> Records:
    found: Records = []
    with LogReader(settings.kafka_client, settings.commands_topic, place, starts[place]) as reader:
        while reader.position < ends[place]:
            found += [(*each[:4], list(each.headers)) for each in reader.take(1_000, 1.0).records]
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of an archive with its content; what a killed run left unfinished is none."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def cli(settings: Settings, *arguments: str | Path) -> Done:
    """Run `creditfold` in this process."""
    done = run(settings, *map(str, arguments), check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def commands(count: int, prefix: str = "c") -> list[Raw]:
    """Grants and spends of 50 accounts, some of them rejected."""
    return [
        record("Spend" if n % 3 == 2 else "Grant", f"{prefix}{n}", f"user-{n % 50}", 1 + n % 40) for n in range(count)
    ]


ODD = [
    Raw(None, None, 0),
    Raw(b"", b"", 0),
    Raw(None, b"only a key", 0),
    Raw(b"\xff\x00 no command", None, 1),
    Raw(LARGE, b"large", 1),
    Raw(b"x", b"k", 2, (("twice", b"1"), ("twice", None), ("", b""), ("näme", "wärt".encode()))),
]


def transactions(settings: Settings, *endings: tuple[int, int, str]) -> None:
    """Transactions one after the other: partition, number of records, and how it ends."""
    producer = Producer(
        {
            **settings.kafka_client,
            "transactional.id": f"test-{settings.commands_topic}",
            "transaction.timeout.ms": TRANSACTION_MS,
        }
    )
    producer.init_transactions(HANG_S)
    for number, (partition, count, ending) in enumerate(endings):
        producer.begin_transaction()
        for each in range(count):
            raw = record("Grant", f"t{number}-{each}", f"t{number}", 1)
            producer.produce(settings.commands_topic, raw.value, raw.key, partition=partition)
        producer.flush(HANG_S)
        _ = producer.commit_transaction(HANG_S) if ending == "commit" else producer.abort_transaction(HANG_S)


def write_odd_log(settings: Settings) -> None:
    """Commands, duplicates, dead letters of all kinds, and holes; the last partition begins and ends with one."""
    transactions(settings, (3, 2, "abort"))
    append(settings, commands(600), **{"message.max.bytes": 2_000_000})
    append(settings, [*ODD, *commands(30)], **{"message.max.bytes": 2_000_000})
    asyncio.run(append_misnamed(settings, [Raw(b"noise", b"k")], 0))
    transactions(
        settings,
        *((0, 1, "commit"), (0, 3, "commit"), (1, 5, "abort"), (1, 1, "abort")),
        *((2, 2, "commit"), (2, 4, "abort"), (2, 1, "commit")),
    )
    append(settings, commands(50, "last"))
    transactions(settings, (3, 3, "abort"), (0, 1, "commit"))


def create(settings: Settings, partitions: int = 4, **config: str) -> None:
    """Make a topic that is wrong in something."""
    wanted = topic_config(settings) | {name.replace("_", "."): value for name, value in config.items()}
    topic = NewTopic(settings.commands_topic, num_partitions=partitions, replication_factor=1, config=wanted)
    client = KafkaAdmin(settings).client
    client.create_topics([topic])[settings.commands_topic].result()
    assert wait_until(lambda: settings.commands_topic in client.list_topics(timeout=HANG_S).topics, HANG_S)


# There and back.


def test_an_archive_brings_back_the_same_log(ledger_settings: Settings, stack: StackUnderTest, tmp_path: Path) -> None:
    """Each record with its offset, time, key, value and headers, each hole, each end; and the topic is fit to go on.

    Its fold equals the old one's: balances, journal and dead letters, row by row, with positions and times.
    """
    write_odd_log(ledger_settings)
    before = picture(ledger_settings)
    assert all(len(each.records) < each.end for each in before), "each partition has holes"
    assert [before[3].records[0][0], before[3].records[-1][0] + 1 < before[3].end] == [3, True]
    report = archive_topic(ledger_settings, tmp_path, offsets_per_file=50)
    assert report.records == sum(len(each.records) for each in before)
    assert Archive(tmp_path).check().problems == []
    with new_database(other_topic(ledger_settings)) as target:
        restored = restore_topic(target, tmp_path)
        assert restored.records == report.records
        assert picture(target) == before
        assert restored.topic_id == describe_topic(target).topic_id != report.topic_id
        assert check_topic(target) == []
        fold_log(ledger_settings)
        fold_log(target)
        live, again = tables(ledger_settings), tables(target)
    assert all(len(rows) >= least for rows, least in zip(live, [50, 600, len(ODD)], strict=True))
    assert again == live
    append(target, [Raw(b"x", b"y", 2)])
    assert picture(target)[2].records[-1][1] >= before[2].records[-1][1]


def tables(settings: Settings) -> list[list[tuple[Any, ...]]]:
    """What a fold came to."""
    return [
        query(settings, f"SELECT * FROM ledger.{name} ORDER BY {keys}")
        for name, keys in [
            ("balances", "account_id, asset"),
            ("journal", "log_partition, log_offset"),
            ("dead_letters", "log_partition, log_offset"),
        ]
    ]


def test_an_empty_log(ledger_settings: Settings, tmp_path: Path) -> None:
    """It has an archive as well, and this a topic."""
    assert archive_topic(ledger_settings, tmp_path).records == 0
    assert Archive(tmp_path).check().problems == []
    target = other_topic(ledger_settings)
    assert restore_topic(target, tmp_path).records == 0
    assert picture(target) == [Picture(0, 0, [])] * 4
    assert check_topic(target) == []


def test_a_time_long_ago_and_one_to_come(ledger_settings: Settings, tmp_path: Path) -> None:
    """The records keep their times, whatever the broker thinks of these."""
    most = str(2**63 - 1)
    alter(
        ledger_settings,
        ledger_settings.commands_topic,
        message_timestamp_type="CreateTime",
        message_timestamp_after_max_ms=most,
    )
    producer = Producer(ledger_settings.kafka_client)
    times = [IN_1997, 1, 4_000_000_000_000, IN_1997 - 1]
    for at in times:
        producer.produce(ledger_settings.commands_topic, b"v", partition=0, timestamp=at)
    assert producer.flush(HANG_S) == 0
    archive_topic(ledger_settings, tmp_path)
    target = other_topic(ledger_settings)
    restore_topic(target, tmp_path)
    assert [each[1] for each in picture(target)[0].records] == times
    assert picture(target) == picture(ledger_settings)


def test_a_log_without_its_beginning(
    ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run says so; the restored log begins where the archived one did, so that no fold takes it for a whole one."""
    append(ledger_settings, [Raw(b"v", b"k", place) for place in (0, 1, 1) for _ in range(10)])
    delete_before(ledger_settings, ledger_settings.commands_topic, 0, 1)
    delete_before(ledger_settings, ledger_settings.commands_topic, 1, 13)
    report = archive_topic(ledger_settings, tmp_path)
    assert [warning.split(";")[0] for warning in report.warnings] == [
        "The log of partition 0 began at 1 when it was first archived",
        "The log of partition 1 began at 13 when it was first archived",
    ]
    target = other_topic(ledger_settings)
    monkeypatch.setattr(restore, "MAX_LEADING_GAP", 12)
    with pytest.raises(RestoreError, match="began at 13; up to 12 offsets"):
        restore_topic(target, tmp_path)
    monkeypatch.undo()
    restore_topic(target, tmp_path)
    assert picture(target) == picture(ledger_settings)
    assert restore_topic(target, tmp_path).records == 0


# A run after a run.


def test_a_second_run_adds_what_is_new(ledger_settings: Settings, tmp_path: Path) -> None:
    """Files that are there stay as they are; a range that was cut short is gone on with in a file of its own."""
    append(ledger_settings, [Raw(b"v", b"k", 0)] * 25)
    archive_topic(ledger_settings, tmp_path, offsets_per_file=10)
    first = tree(tmp_path)
    assert archive_topic(ledger_settings, tmp_path, offsets_per_file=10).records == 0
    assert tree(tmp_path) == first
    append(ledger_settings, [Raw(b"v", b"k", 0)] * 7)
    assert archive_topic(ledger_settings, tmp_path, offsets_per_file=10).records == 7
    ranges = [(file.first, file.last, file.records) for file in Archive(tmp_path).index(0).files]
    assert ranges == [(0, 9, 10), (10, 19, 10), (20, 24, 5), (25, 29, 5), (30, 31, 2)]
    grown = tree(tmp_path)
    assert {name: grown[name] for name in first if name.endswith(".avro")} == {
        name: content for name, content in first.items() if name.endswith(".avro")
    }
    target = other_topic(ledger_settings)
    restore_topic(target, tmp_path)
    assert picture(target) == picture(ledger_settings)


def test_large_records_end_a_file_early(
    ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The range is shorter then, and the next one begins behind it."""
    monkeypatch.setattr(archive_writer, "FILE_BYTES", 1_500_000)
    append(ledger_settings, [Raw(LARGE, b"k", 0)] * 5, **{"message.max.bytes": 2_000_000})
    archive_topic(ledger_settings, tmp_path)
    assert [(file.first, file.last) for file in Archive(tmp_path).index(0).files] == [(0, 1), (2, 3), (4, 4)]
    assert Archive(tmp_path).check().problems == []


def test_a_crash_at_any_write_costs_nothing(
    ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies there before and after each fsync and each rename, gone on with: the archive of a quiet run."""
    append(ledger_settings, [Raw(b"v%d" % n, b"k", 1) for n in range(15)])
    quiet, left = tmp_path / "quiet", list[Path]()

    def copied(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            left.append(tmp_path / f"left-{len(left)}")
            shutil.copytree(quiet, left[-1])
            return real(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", copied(os.fsync))
        patched.setattr(Path, "replace", copied(Path.replace))
        archive_topic(ledger_settings, quiet, offsets_per_file=10)
    assert len(left) > 25
    # A folder that is as one before it is gone on with as that was.
    contents = [
        {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}
        for folder in left
    ]
    for number, folder in enumerate(left):
        if contents[number] not in contents[:number]:
            archive_topic(ledger_settings, folder, offsets_per_file=10)
            assert tree(folder) == tree(quiet), folder


def test_killed_again_and_again_it_gets_done(ledger_settings: Settings, tmp_path: Path) -> None:
    """SIGKILL at random places; what is whole stays, and the end is that of an undisturbed run."""
    append(ledger_settings, [Raw(b"v%d" % n, b"k", n % 4) for n in range(1_200)])
    folder, drawn = tmp_path / "killed", random.Random(7)
    arguments = ("archive", folder, "--offsets-per-file", "10")

    def files() -> int:
        return sum(1 for _ in folder.glob("*/*.avro"))

    for _ in range(4):
        more = drawn.randrange(1, 25)
        enough = files() + more
        # It goes on behind that, but never to its end before it is killed.
        stands = ("creditfold.log.archive.writer:write_whole", str(more + 15), str(tmp_path / "held"))
        process = Process([HELD, *stands, *map(str, arguments)], env=environment(ledger_settings))
        assert wait_until(lambda enough=enough: files() >= enough, HANG_S, 0.01)  # type: ignore[misc]
        process.kill()
        assert process.wait() == -signal.SIGKILL
        (tmp_path / "held").unlink(missing_ok=True)
    archive_topic(ledger_settings, folder, offsets_per_file=10)
    archive_topic(ledger_settings, tmp_path / "quiet", offsets_per_file=10)
    assert tree(folder) == tree(tmp_path / "quiet")
    assert files() == 120


def test_a_full_disk_breaks_nothing(ledger_settings: Settings, tmp_path: Path) -> None:
    """The error says so, what was archived stays good, and the run is finished when there is room."""
    append(ledger_settings, [Raw(b"v", b"k", 0), Raw(b"v", b"k", 1)])
    append(ledger_settings, [Raw(LARGE, b"k", 1)], **{"message.max.bytes": 2_000_000})
    program = [sys.executable, "-m", "creditfold.cli.main", "archive", str(tmp_path)]
    limited = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *program]
    done = subprocess.run(
        limited, env=environment(ledger_settings), capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Can't write the archive {tmp_path}: File too large." in done.stderr
    assert "try: Make room" in done.stderr
    assert list(tmp_path.rglob("*.tmp")) == []
    assert cli(ledger_settings, "archive", tmp_path, "--check").code == 0
    assert cli(ledger_settings, "archive", tmp_path).code == 0
    assert [each.records for each in Archive(tmp_path).check().partitions] == [1, 2, 0, 0]


def test_one_run_at_a_time(ledger_settings: Settings, tmp_path: Path) -> None:
    """Two would write the same file."""
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(ArchiveError, match="Another run writes"):
            archive_topic(ledger_settings, tmp_path)
    finally:
        os.close(handle)
    archive_topic(ledger_settings, tmp_path)


# The wrong log, the wrong folder.


def test_an_archive_takes_one_log_only(ledger_settings: Settings, tmp_path: Path) -> None:
    """A topic of the same name, made anew, is another log."""
    append(ledger_settings, commands(5))
    archive_topic(ledger_settings, tmp_path)
    before = tree(tmp_path)
    make_anew(ledger_settings)
    with pytest.raises(ArchiveError, match="another log, even if its name is the same"):
        archive_topic(ledger_settings, tmp_path)
    assert tree(tmp_path) == before


def test_a_topic_made_anew_in_the_middle_is_noticed(ledger_settings: Settings, tmp_path: Path) -> None:
    """Nothing of that file is taken for the archived log's."""
    append(ledger_settings, [Raw(b"v", b"k", 0)] * 300)

    def meanwhile(_: ArchiveProgress) -> None:
        if not made:
            make_anew(ledger_settings)
            made.append(1)

    made: list[int] = []
    with pytest.raises((ArchiveError, TopicMissingError, UnreadableError)):
        archive_topic(ledger_settings, tmp_path, on_progress=meanwhile)
    assert made
    assert Archive(tmp_path).index(0).files == ()


def test_a_log_that_lost_records_is_not_gone_on_with(
    ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its end, or so many at its beginning that there would be a gap."""
    append(ledger_settings, [Raw(b"v", b"k", 1)] * 10)
    archive_topic(ledger_settings, tmp_path)
    with monkeypatch.context() as patched:
        ends = {0: 0, 1: 9, 2: 0, 3: 0}
        patched.setattr(archive_writer, "log_ends", lambda *_: {place: End(end, end) for place, end in ends.items()})
        with pytest.raises(ArchiveError, match="ends at 9, before the end of the archive at 10"):
            archive_topic(ledger_settings, tmp_path)
    append(ledger_settings, [Raw(b"v", b"k", 1)] * 10)
    delete_before(ledger_settings, ledger_settings.commands_topic, 1, 11)
    with pytest.raises(ArchiveError, match="begins at 11, behind the end of the archive at 10"):
        archive_topic(ledger_settings, tmp_path)


def test_a_folder_of_other_things_is_left_alone(ledger_settings: Settings, tmp_path: Path) -> None:
    """It isn't empty, and is no archive."""
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(ArchiveError, match="isn't empty, and is no archive"):
        archive_topic(ledger_settings, tmp_path)
    assert tree(tmp_path) == {"thesis.txt": b"x"}


def test_kafka_away(good_archive: Path, target: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both say where they looked for it, and nothing is made."""
    monkeypatch.setattr(admin, "CONNECT_S", 0.5)
    away = target.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"})
    with pytest.raises(KafkaUnavailableError):
        archive_topic(away, tmp_path / "archive")
    assert not (tmp_path / "archive").exists()
    done = cli(away, "restore", good_archive)
    assert (done.code, done.out) == (1, "")
    assert f"error: Kafka doesn't answer at {away.kafka_bootstrap}" in done.err
    assert cli(away, "archive", good_archive, "--check").code == 0


# Damage.


@pytest.fixture(scope="module")
def good_settings(stack: StackUnderTest) -> Settings:
    """A topic whose partitions 0 and 1 have thirty records each."""
    # Tests of other files may come in between, after which this is made again.
    topic = f"creditfold.test.damage-{uuid.uuid4().hex}"
    settings = stack.settings.model_copy(update={"commands_topic": topic, "partitions": 4})
    create_topics(settings)
    append(settings, [Raw(b"v%d" % n, b"k", n % 2) for n in range(60)])
    return settings


@pytest.fixture(scope="module")
def good_archive(good_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its archive, in files of ten records."""
    folder = tmp_path_factory.mktemp("good") / "archive"
    archive_topic(good_settings, folder, offsets_per_file=10)
    return folder


@pytest.fixture
def target(good_settings: Settings) -> Iterator[Settings]:
    """A name for a topic to restore the good archive into; what comes to be of that name is deleted."""
    made = other_topic(good_settings, uuid.uuid4().hex)
    yield made
    # Kept until the answer is there: it would go with the client.
    admin = KafkaAdmin(made)
    with suppress(KafkaException):
        admin.client.delete_topics([made.commands_topic])[made.commands_topic].result(HANG_S)


FIRST, SECOND, THIRD = (f"{n:020}-{n + 9:020}.avro" for n in (0, 10, 20))
ZERO = "partition-00000"


def truncate(folder: Path) -> None:
    with (folder / ZERO / SECOND).open("r+b") as file:
        file.truncate(100)


def flip(folder: Path) -> None:
    path = folder / ZERO / SECOND
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = folder / ZERO / "index.json"
    index = json.loads(path.read_text())
    change(index["files"])
    path.write_text(json.dumps(index))


def chain_anew(files: list[dict[str, Any]]) -> None:
    chain = ""
    for file in files:
        file["chain"] = chain = chained(chain, file["sha256"])


def miscount(folder: Path) -> None:
    edit(folder, lambda files: files[1].update(records=9))


def forget_one(folder: Path) -> None:
    """The file and its line."""
    edit(folder, lambda files: files.pop(1))
    (folder / ZERO / SECOND).unlink()


def exchange(folder: Path) -> None:
    """The second file is replaced by the other partition's, and the index says so: its chain is another."""
    shutil.copy(folder / "partition-00001" / SECOND, folder / ZERO / SECOND)
    other = json.loads((folder / "partition-00001" / "index.json").read_text())["files"][1]
    edit(folder, lambda files: files[1].update(sha256=other["sha256"], bytes=other["bytes"]))


def rename_range(folder: Path) -> None:
    """A file claims the range before its own, and the index agrees with it in everything."""

    def change(files: list[dict[str, Any]]) -> None:
        for name in ("sha256", "bytes"):
            files[1][name] = files[2][name]
        chain_anew(files)

    edit(folder, change)
    shutil.copy(folder / ZERO / THIRD, folder / ZERO / SECOND)


def not_avro(folder: Path) -> None:
    def change(files: list[dict[str, Any]]) -> None:
        files[1].update(sha256=hashlib.sha256(b"nonsense").hexdigest(), bytes=8)
        chain_anew(files)

    (folder / ZERO / SECOND).write_bytes(b"nonsense")
    edit(folder, change)


def swap_partitions(folder: Path) -> None:
    (folder / ZERO).rename(folder / "x")
    (folder / "partition-00001").rename(folder / ZERO)
    (folder / "x").rename(folder / "partition-00001")


DAMAGES: list[tuple[Callable[[Path], object], str, str]] = [
    (truncate, f"{ZERO}/{SECOND}", "has 100 bytes"),
    (flip, f"{ZERO}/{SECOND}", "has another checksum"),
    (lambda folder: (folder / ZERO / SECOND).unlink(), f"{ZERO}/{SECOND}", "is missing"),
    (miscount, f"{ZERO}/{SECOND}", "holds 10 records, and the index says 9"),
    (forget_one, f"{ZERO}/index.json", f"names {THIRD} where the range from 10 on must come"),
    (exchange, f"{ZERO}/index.json", f"has a broken chain at {SECOND}"),
    (rename_range, f"{ZERO}/{SECOND}", "holds the offset 20 out of its place"),
    (not_avro, f"{ZERO}/{SECOND}", "can't be read as Avro"),
    (swap_partitions, f"{ZERO}/index.json", "belongs to partition 1"),
    (lambda folder: (folder / ZERO / "index.json").unlink(), f"{ZERO}/index.json", "is missing"),
    (lambda folder: (folder / ZERO / "index.json").write_text("{"), f"{ZERO}/index.json", "is no index"),
    (lambda folder: shutil.rmtree(folder / ZERO), f"{ZERO}/index.json", "is missing"),
]


@pytest.mark.parametrize(("damage", "path", "what"), DAMAGES, ids=[f"{path}-{what}" for _, path, what in DAMAGES])
def test_damage_is_named_and_not_restored(
    good_archive: Path,
    target: Settings,
    tmp_path: Path,
    *,
    damage: Callable[[Path], object],
    path: str,
    what: str,
) -> None:
    """The check says which file and what; a restore stops before the first record of the damaged file."""
    folder = tmp_path / "archive"
    shutil.copytree(good_archive, folder)
    damage(folder)
    found = [problem for problem in Archive(folder).check().problems if problem.path == path]
    assert len(found) == 1
    assert found[0].what.startswith(what)
    create_topics(target)
    with pytest.raises(ArchiveDamagedError) as raised:
        restore_topic(target, folder)
    assert raised.value.problem == found[0]
    # What isn't seen from outside is noticed when it's the file's turn; what was confirmed until then may stay.
    least, most = {flip: (1, 10), rename_range: (1, 10), not_avro: (1, 10), miscount: (1, 20)}.get(damage, (0, 0))
    assert least <= end_offsets(target, target.commands_topic, [0])[0] <= most


def test_a_stranger_among_the_files(good_archive: Path, tmp_path: Path) -> None:
    """In a partition's folder or beside it, it is named, and nothing else is."""
    folder = tmp_path / "archive"
    shutil.copytree(good_archive, folder)
    shutil.copy(folder / ZERO / FIRST, folder / ZERO / f"{30:020}-{39:020}.avro")
    (folder / "notes.txt").write_text("x")
    assert Archive(folder).check().problems == [
        (f"{ZERO}/{30:020}-{39:020}.avro", "isn't in the index"),
        ("notes.txt", "isn't part of the archive"),
    ]


@pytest.mark.parametrize("manifest", ["{", "[]", "{}", '{"format": 1}', '{"format": 1, "topic": 7}', "\xff"])
def test_a_manifest_that_is_none(tmp_path: Path, manifest: str) -> None:
    """It is damaged, whatever it is."""
    (tmp_path / "manifest.json").write_text(manifest, "latin-1")
    with pytest.raises(ArchiveDamagedError, match="is no manifest"):
        Archive(tmp_path)


def test_a_newer_archive(good_archive: Path, tmp_path: Path) -> None:
    """It may hold what this version doesn't know, so it isn't read."""
    newer = json.loads((good_archive / "manifest.json").read_text()) | {"format": FORMAT + 1, "more": True}
    (tmp_path / "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(ArchiveError, match=f"is of format {FORMAT + 1}") as raised:
        Archive(tmp_path)
    assert raised.value.remedy == "Use the version that wrote it, or a newer one."


def test_no_archive(target: Settings, tmp_path: Path) -> None:
    """Neither for a check nor for a restore, and no topic is made of it."""
    for arguments in (("archive", tmp_path, "--check"), ("restore", tmp_path), ("restore", tmp_path / "nowhere")):
        done = cli(target, *arguments)
        assert (done.code, done.out) == (1, "")
        assert "is no archive: it has no manifest.json" in done.err
    with pytest.raises(TopicMissingError):
        describe_topic(target)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / ZERO / "index.json").unlink(), "index.json is missing"),
        (lambda folder: (folder / ZERO / THIRD).unlink(), f"{THIRD} is missing"),
        (truncate, "has 100 bytes"),
        (forget_one, "names"),
        (lambda folder: (folder / ZERO / "notes").touch(), "notes in .* isn't in the index"),
    ],
)
def test_nothing_is_added_to_a_damaged_archive(
    good_archive: Path, good_settings: Settings, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    """Its files may be all that is left of the log, so nothing is written over or beside them."""
    folder = tmp_path / "archive"
    shutil.copytree(good_archive, folder)
    append(good_settings, [Raw(b"new", b"k", 0)])
    damage(folder)
    before = tree(folder)
    with pytest.raises(ArchiveError, match=words):
        archive_topic(good_settings, folder, offsets_per_file=10)
    assert tree(folder) == before


# Only into what is empty.


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda topic: append(topic, [Raw(b"other", b"k", 0)]), "isn't empty: partition 0 ends at 1, and the archive"),
        (
            lambda topic: append(topic, [Raw(b"other", b"k", n % 2) for n in range(60)]),
            "isn't empty, and what it has at 0:0 isn't the archive's",
        ),
        (lambda topic: append(topic, [Raw(b"v0", b"k", 0)] * 31), "isn't empty: partition 0 ends at 31"),
    ],
)
@pytest.mark.parametrize("times", ["LogAppendTime", "CreateTime"])
def test_a_topic_with_other_records_is_refused(
    good_archive: Path, target: Settings, times: str, spoil: Callable[[Settings], None], words: str
) -> None:
    """Be they fewer, as many, or more, and even if the topic looks like one in the middle of a restore."""
    create_topics(target)
    alter(target, target.commands_topic, message_timestamp_type=times)
    spoil(target)
    before = picture(target)
    with pytest.raises(RestoreError) as raised:
        restore_topic(target, good_archive)
    # In the middle of a restore, fewer or as many would be sound if they were the archive's, so they are compared.
    compared = times == "CreateTime" and "ends at 1," in words
    assert ("isn't empty, and what it has at 0:0" if compared else words) in raised.value.message
    assert "CREDITFOLD_COMMANDS_TOPIC" in raised.value.remedy
    assert picture(target) == before
    assert describe_topic(target).timestamp_type == times


@pytest.mark.parametrize(
    ("partitions", "config", "words"),
    [
        (3, {}, "has 3 partitions, and the archive 4"),
        (4, {"cleanup_policy": "compact"}, "doesn't keep its records for ever"),
        (4, {"retention_ms": "604800000"}, "doesn't keep its records for ever"),
    ],
)
def test_a_topic_that_is_no_log_is_refused(
    good_archive: Path, target: Settings, partitions: int, config: dict[str, str], words: str
) -> None:
    """It would spread the accounts otherwise, or lose the records."""
    create(target, partitions, **config)
    with pytest.raises(RestoreError, match=words):
        restore_topic(target, good_archive)
    assert set(end_offsets(target, target.commands_topic, range(partitions)).values()) == {0}


def test_the_archived_topic_itself_is_refused(good_archive: Path, good_settings: Settings) -> None:
    """Even where it has lost its end, it isn't for a restore to write to."""
    with pytest.raises(RestoreError, match="is the one that was archived"):
        restore_topic(good_settings, good_archive)


def test_an_empty_topic_that_is_there_already(good_archive: Path, good_settings: Settings, target: Settings) -> None:
    """It gets the records with their times, though the broker set them before."""
    create_topics(target)
    restore_topic(target, good_archive)
    # Behind what was archived the topic may have more, of another test.
    originals = [each.records[:30] for each in picture(good_settings)]
    assert [each.records for each in picture(target)] == originals


def test_a_record_too_large_for_the_topic(ledger_settings: Settings, tmp_path: Path) -> None:
    """The error names the setting, and the run goes on when it is raised."""
    append(ledger_settings, [Raw(b"small", b"k", 0), Raw(LARGE, b"k", 0)], **{"message.max.bytes": 2_000_000})
    archive_topic(ledger_settings, tmp_path)
    target = other_topic(ledger_settings)
    create(target, max_message_bytes="100000")
    with pytest.raises(RestoreError, match="Kafka refused 0:1") as raised:
        restore_topic(target, tmp_path)
    assert "max.message.bytes" in raised.value.remedy
    alter(target, target.commands_topic, max_message_bytes="2000000")
    assert restore_topic(target, tmp_path).records == 1
    assert picture(target) == picture(ledger_settings)


def test_a_second_writer_is_noticed(ledger_settings: Settings, tmp_path: Path) -> None:
    """No record stands at another offset than before without a word."""
    append(ledger_settings, [Raw(b"v", b"k", 0)] * 5_000)
    archive_topic(ledger_settings, tmp_path)
    target = other_topic(ledger_settings)

    def meanwhile(progress: RestoreProgress) -> None:
        if progress.records == 1_000:
            append(target, [Raw(b"intruder", b"k", 0)])

    with pytest.raises(RestoreError, match="something else writes to the topic") as raised:
        restore_topic(target, tmp_path, on_progress=meanwhile)
    assert "delete the topic" in raised.value.remedy
    with pytest.raises(RestoreError, match="isn't empty"):
        restore_topic(target, tmp_path)


# Killed, and gone on with.


class Killed(BaseException):
    """As a crash: nothing catches it."""


def test_a_hole_left_open_is_finished(
    ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead before or after the end of a transaction, again and again: each run ends it and makes what is missing."""
    transactions(
        ledger_settings,
        *((0, 4, "abort"), (0, 1, "commit"), (0, 2, "abort"), (0, 1, "commit"), (1, 2, "commit")),
        *((1, 3, "abort"), (2, 1, "commit"), (2, 2, "abort"), (3, 1, "commit"), (3, 1, "commit")),
    )
    append(ledger_settings, [Raw(b"v", b"k", 0)])
    archive_topic(ledger_settings, tmp_path)
    target = other_topic(ledger_settings)
    for name, survived in (("abort_transaction", 0), ("flush", 0), ("abort_transaction", 1), ("flush", 1)):
        with monkeypatch.context() as patched:
            patched.setattr(GapWriter, "_abort_one", dying(name, survived))
            with pytest.raises(Killed):
                restore_topic(target, tmp_path)
    restore_topic(target, tmp_path)
    assert picture(target) == picture(ledger_settings)
    assert check_topic(target) == []


def dying(name: str, survived: int) -> Callable[[GapWriter, int, int], None]:
    """GapWriter._abort_one that dies at the call of a method of its producer, after so many were made."""
    whole = GapWriter._abort_one
    made = [0]

    class Dying:
        def __init__(self, producer: Producer) -> None:
            self._producer = producer

        def __getattr__(self, wanted: str) -> Any:
            if wanted == name and made[0] > survived:
                self._producer.flush(HANG_S)
                raise Killed
            return getattr(self._producer, wanted)

    def call(holes: GapWriter, partition: int, count: int) -> None:
        made[0] += 1
        producer = holes._producer
        holes._producer = Dying(producer)  # type: ignore[assignment]
        try:
            whole(holes, partition, count)
        finally:
            holes._producer = producer

    return call


def test_a_killed_restore_goes_on(
    ledger_settings: Settings, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """SIGKILL in the middle of records and holes, several times; the topic comes out the same."""
    for number in range(4):
        append(ledger_settings, [Raw(b"v%d-%d" % (number, n), b"k", n % 4) for n in range(400)])
        transactions(ledger_settings, *((place, number + 1, "abort") for place in PARTITIONS))
    archive_topic(ledger_settings, tmp_path, offsets_per_file=500)
    before = picture(ledger_settings)
    whole = sum(each.end for each in before)
    target, drawn = other_topic(ledger_settings), random.Random(3)
    held = tmp_path_factory.mktemp("held") / "held"
    create_topics(target)

    client = KafkaAdmin(target)

    def length() -> int:
        return sum(end.stable for end in log_ends(target, target.commands_topic, PARTITIONS, client).values())

    for _ in range(3):
        more = drawn.randrange(1, whole // 5)
        enough = length() + more
        # It goes on behind that, but never to its end before it is killed.
        stands = ("creditfold.log.archive.target:RestoreAppender.append", str(more + 200), str(held))
        process = Process([HELD, *stands, "restore", str(tmp_path)], env=environment(target), stderr=subprocess.DEVNULL)
        assert wait_until(lambda enough=enough: length() >= enough, HANG_S, 0.01)  # type: ignore[misc]
        process.kill()
        assert process.wait() == -signal.SIGKILL
        held.unlink(missing_ok=True)
    restore_topic(target, tmp_path)
    assert picture(target) == before
    assert check_topic(target) == []


def test_a_broker_that_dies_in_the_middle(
    stack: StackUnderTest, ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both runs, of an archive and of a restore, wait for it and go on, each record once and in its place."""
    append(ledger_settings, [Raw(b"v%d" % n, b"k", n % 2) for n in range(10_000)])
    before = picture(ledger_settings)
    archive_topic(ledger_settings, tmp_path / "quiet", offsets_per_file=1_000)
    target = other_topic(ledger_settings)
    monkeypatch.setattr(restore, "PROGRESS_RECORDS", 100)
    in_the_middle = threading.Barrier(2, lambda: stack.restart_kafka(kill=True), HANG_S)
    waited = set[str]()

    def die_once(name: str) -> None:
        if name not in waited:
            waited.add(name)
            in_the_middle.wait()

    with ThreadPoolExecutor() as pool:
        archiving = pool.submit(
            *(archive_topic, ledger_settings, tmp_path / "disturbed"),
            offsets_per_file=1_000,
            on_progress=lambda _: die_once("archive"),
        )
        restore_topic(
            target,
            tmp_path / "quiet",
            on_progress=lambda reported: reported.records < 1_000 or die_once("restore"),  # type: ignore[func-returns-value]
        )
        archiving.result(HANG_S)
    assert waited == {"archive", "restore"}
    assert tree(tmp_path / "disturbed") == tree(tmp_path / "quiet")
    assert picture(target) == before


def test_an_answer_that_is_lost_stops_no_restore(
    ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka confirms a batch that is sent again with the batch's time, as if the topic set times by itself."""
    append(ledger_settings, [Raw(b"v%d" % n, b"k", n % 2) for n in range(2_000)])
    archive_topic(ledger_settings, tmp_path)
    monkeypatch.setattr(restore, "PROGRESS_RECORDS", 100)
    with ForgetfulKafka(other_topic(ledger_settings)) as kafka:
        # That of the first record, which is sent alone; and in both partitions some of many records.
        kafka.lose(1)
        restore_topic(
            kafka.settings,
            tmp_path,
            on_progress=lambda reported: kafka.lose(1) if reported.records % 500 == 100 else None,
        )
    assert picture(other_topic(ledger_settings)) == picture(ledger_settings)


def test_a_topic_that_begins_to_set_times_stops_the_restore(
    ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(ledger_settings, [Raw(b"v%d" % n, b"k", 0) for n in range(2_000)])
    archive_topic(ledger_settings, tmp_path)
    monkeypatch.setattr(restore, "PROGRESS_RECORDS", 100)
    target = other_topic(ledger_settings)

    def set_times(reported: RestoreProgress) -> None:
        if reported.records == 500:
            entry = ConfigEntry("message.timestamp.type", "LogAppendTime", incremental_operation=AlterConfigOpType.SET)
            resource = ConfigResource(ResourceType.TOPIC, target.commands_topic, incremental_configs=[entry])
            client = KafkaAdmin(target).client
            client.incremental_alter_configs([resource])[resource].result(HANG_S)
            assert wait_until(lambda: describe_topic(target).timestamp_type == "LogAppendTime", HANG_S)

    with pytest.raises(RestoreError, match="sets the records' times by itself"):
        restore_topic(target, tmp_path, on_progress=set_times)


# The command line.


def test_what_the_commands_print(ledger_settings: Settings, tmp_path: Path) -> None:
    """For people and for programs."""
    append(ledger_settings, [Raw(b"v", b"k", n % 2) for n in range(1_234)])
    delete_before(ledger_settings, ledger_settings.commands_topic, 0, 17)
    folder, target = tmp_path / "archive", other_topic(ledger_settings)
    done = cli(ledger_settings, "archive", folder)
    assert done.code == 0
    assert done.out.startswith("archived 1,217 records in ")
    assert f"{folder} holds 1,217 records in 2 files, " in done.out
    assert done.err.startswith("warning: The log of partition 0 began at 17 when")
    again = json.loads(cli(ledger_settings, "archive", folder, "--json").out)
    assert (again["records"], again["bytes"], len(again["warnings"])) == (0, 0, 1)
    assert [(each["first"], each["next"], each["records"]) for each in again["partitions"]] == [
        (17, 617, 600),
        (0, 617, 617),
        (0, 0, 0),
        (0, 0, 0),
    ]
    checked = json.loads(cli(target, "archive", folder, "--check", "--json").out)
    assert (checked["good"], checked["problems"]) == (True, [])
    assert checked["partitions"] == again["partitions"]
    restored = json.loads(cli(target, "restore", folder, "--json").out)
    assert (restored["topic"], restored["records"]) == (target.commands_topic, 1_217)
    repeated = cli(ledger_settings, "restore", folder, "--topic", target.commands_topic)
    assert repeated.out.startswith("restored 0 records in ")
    assert "1,217 records were there already and equal the archive's" in repeated.out
    assert (repeated.code, repeated.err) == (0, "")


def test_when_the_log_was_archived_is_kept_for_the_metrics(ledger_settings: Settings, tmp_path: Path) -> None:
    """Where there is a ledger; an archive is good all the same where that can't be written."""
    assert (done := cli(ledger_settings, "archive", tmp_path)).code == 0
    assert done.err == ""
    with connected(ledger_settings.dsn) as connection:
        assert set(proofs(connection)) == {"archive"}
    away = ledger_settings.model_copy(update={"postgres_dsn": SecretStr("host=127.0.0.1 port=1 dbname=none")})
    done = cli(away, "archive", tmp_path)
    assert (done.code, done.out[:9]) == (0, "archived ")
    assert done.err.startswith("warning: the metrics don't show this archive: ")


def test_a_check_that_finds_something_fails(good_archive: Path, stack: StackUnderTest, tmp_path: Path) -> None:
    """With 1, and the file's name."""
    folder = tmp_path / "archive"
    shutil.copytree(good_archive, folder)
    flip(folder)
    done = cli(stack.settings, "archive", folder, "--check")
    assert done.code == 1
    assert done.out.splitlines()[0] == f"bad: {ZERO}/{SECOND} has another checksum than the index says"
    assert f"{folder} is damaged" in done.out
    reported = cli(stack.settings, "archive", folder, "--check", "--json")
    assert reported.code == 1
    assert [problem["path"] for problem in reported.json["problems"]] == [f"{ZERO}/{SECOND}"]


def test_a_file_is_plain_avro(good_archive: Path) -> None:
    """Any reader of Avro object container files can read it, with no code of ours."""
    with (good_archive / ZERO / SECOND).open("rb") as stream:
        found: Any = read_container(stream)
        assert found.codec == "deflate"
        assert found.writer_schema["name"] == "creditfold.archive.Record"
        rows = list(found)
    assert [row["offset"] for row in rows] == list(range(10, 20))
    assert rows[0]["value"] == b"v20"
    assert (rows[0]["key"], rows[0]["headers"]) == (b"k", [])
