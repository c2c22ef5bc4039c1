"""A log that lost its end, and one that grew past it again: whoever goes on where it stopped notices, and refuses.

The loss is real: the broker is stopped, the end of its file is cut off, and it starts again.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log import continuity
from creditfold.log.archive.folder import ArchiveError
from creditfold.log.archive.writer import archive_topic
from creditfold.log.bookmark import NO_RECORD, Bookmark, LastRecord, last_record
from creditfold.log.continuity import READ_S, LogReplacedError, UnreadError, refusals
from creditfold.log.offsets import End, log_ends
from creditfold.log.partitioner import partition_of
from creditfold.log.reader import LogReader, UnreadableError
from creditfold.processors import health
from creditfold.processors.doctor import examine
from creditfold.processors.publisher.partition import OutcomesCutError, Pool
from creditfold.processors.rebuild.steps import ActivationOptions, Request, activate, rebuild
from creditfold.processors.rebuild.verify import diff, verify
from creditfold.processors.status import refuse_other_history, take_sample
from helpers.log_surgery import cut_end, spoil_last_batch
from helpers.outboxes import opened, publish_to
from helpers.published import assert_published, next_offsets, wait_until_published
from helpers.stack_under_test import EmbeddedStack, StackUnderTest
from helpers.support import (
    HANG_S,
    Cli,
    Quiet,
    Raw,
    WorkerProcess,
    all_progress,
    append,
    fold_log,
    publisher,
    query,
    read_topic,
    record,
    wait_until_folded,
    worker,
)

#: One account of each partition, by its number.
ACCOUNTS = {partition_of(f"user-{number}".encode(), 4): f"user-{number}" for number in range(40)}


@pytest.fixture
def surgery(stack: StackUnderTest) -> StackUnderTest:
    """The stack, if its broker's files can be reached."""
    if not isinstance(stack, EmbeddedStack):
        pytest.skip("the broker's files can be reached in the embedded stack only")
    return stack


#: What is looked for in half a minute else, a worker and a publisher look for each second.
WORKER = (
    "processors.worker.app.COMPARE_LOG_EVERY_S=1",
    "processors.worker.transport.REFUSED_PAUSE_S=1",
    "processors.worker.transport.UNREADABLE_PAUSE_S=1",
    "processors.worker.transport.UNREAD_PAUSE_S=1",
    "processors.worker.transport.FALLBACK_S=3",
    "log.continuity.READ_S=3",
)
PUBLISHER = (
    "processors.publisher.main.CHECK_EVERY_S=1",
    "processors.publisher.main.COMPARE_EVERY_S=1",
    "processors.publisher.main.REFUSED_PAUSE_S=1",
    "log.continuity.READ_S=3",
)


def grant(partition: int, command_id: str, amount: int = 1) -> Raw:
    return record("Grant", command_id, ACCOUNTS[partition], amount)


def append_each(settings: Settings, records: list[Raw]) -> None:
    """Append records, each in a batch of its own, which can be cut off alone."""
    producer = Producer({**settings.kafka_client, "partitioner": "murmur2_random", "acks": "all"})
    for one in records:
        producer.produce(settings.commands_topic, one.value, one.key)
        assert producer.flush(HANG_S) == 0


def lose_ends(stack: StackUnderTest, *ends: tuple[str, int, int], kill: bool = False) -> None:
    """Have the broker come back without some records: of a topic's partition those from an offset on."""
    stack.stop_kafka(kill=kill)
    try:
        for topic, partition, offset in ends:
            cut_end(stack.settings.data_dir, topic, partition, offset)
    finally:
        stack.start_kafka()


def bookmarks(settings: Settings) -> dict[int, Bookmark]:
    return {row.log_partition: row.bookmark for row in all_progress(settings)}


def refused(running: WorkerProcess, partition: int, what: str = "fold a") -> list[dict[str, Any]]:
    said = (line for line in running.lines() if line.get("event") == f"refuses to {what} partition")
    return [line for line in said if line["partition"] == partition]


def test_a_log_that_grew_past_its_lost_end_is_refused_and_the_rest_goes_on(
    ledger_settings: Settings, surgery: StackUnderTest, tmp_path: Path
) -> None:
    """The worker names what it misses, folds the other partitions, and goes on by itself after the remedy.

    Whatever else goes on where it stopped refuses: an archive, a rebuild, a switch, a diff. Doctor and verify say so.
    What was folded, but not published, when the log lost it, isn't published.
    """
    settings, topic = ledger_settings, ledger_settings.commands_topic
    append_each(settings, [grant(1, f"kept-{n}") for n in range(2)] + [grant(1, f"lost-{n}") for n in range(3)])
    append(settings, [grant(partition, "first") for partition in (0, 2, 3)])
    fold_log(settings)
    before = rebuild(settings, Request(), Quiet()).number
    archive_topic(settings, tmp_path / "backup")
    lose_ends(surgery, (topic, 1, 2))
    append_each(settings, [grant(1, f"new-{n}") for n in range(4)])
    with worker(settings, tmp_path, "again", constants=WORKER) as again:
        assert wait_until(lambda: len(refused(again, 1)) > 0, HANG_S), again.text()[-3000:]
        why, remedy = refused(again, 1)[0]["why"], refused(again, 1)[0]["remedy"]
        assert f"Partition 1 of {topic} is folded to offset 5" in why
        assert "the record that the topic holds at 1:4 is another one" in why
        assert "What it holds from 1:2 on was appended since." in why
        assert "creditfold rebuild" in remedy
        append(settings, [grant(partition, "second") for partition in (0, 2, 3)])
        for partition in (0, 2, 3):
            assert wait_until(lambda partition=partition: next_offsets(settings)[partition] == 2, HANG_S)
        # Nobody owns it, so nobody ticks it or moves its transfers on.
        assert query(settings, "SELECT next_offset, owner FROM ledger.progress WHERE log_partition = 1") == [(5, "")]
        assert_published_without(settings, tmp_path, 1, outcomes=6)
        for going_on in (
            lambda: archive_topic(settings, tmp_path / "backup"),
            lambda: rebuild(settings, Request(resume=before), Quiet()),
            lambda: activate(settings, before, ActivationOptions(differences=True, note="x"), Quiet()),
            lambda: diff(settings, None, 20, Quiet()),
        ):
            with pytest.raises((ArchiveError, LogReplacedError), match="the topic holds at 1:4 is another one"):
                going_on()
        assert "is another one" in verify(settings, None, None, 20, Quiet()).conclusion
        with pytest.raises(LogReplacedError):
            refuse_other_history(settings, take_sample(settings))
        (check,) = [check for check in examine(settings) if check.name == "last folded records"]
        assert (check.state, check.seen) == ("danger", why)
        done = rebuild(settings, Request(), Quiet())
        activate(settings, done.number, ActivationOptions(differences=True, note="the log lost its end"), Quiet())
        wait_until_folded(settings)
    found = query(settings, "SELECT command_id FROM ledger.journal WHERE log_partition = 1 ORDER BY log_offset")
    assert [row[0] for row in found] == ["kept-0", "kept-1", "new-0", "new-1", "new-2", "new-3"]
    assert verify(settings, None, None, 20, Quiet()).equal


def assert_published_without(settings: Settings, folder: Path, refused_partition: int, outcomes: int) -> None:
    """A publisher leaves one partition alone, says so, and publishes so many outcomes of the others."""
    with publisher(settings, folder, constants=PUBLISHER) as running:
        assert wait_until(lambda: len(read_topic(settings, settings.outcomes_topic)) == outcomes, HANG_S)
        found = lambda: refused(running, refused_partition, "publish the")  # noqa: E731
        assert wait_until(lambda: len(found()) > 0, HANG_S), running.text()[-3000:]
        assert "is another one" in found()[0]["why"]
    others = {0, 1, 2, 3} - {refused_partition}
    assert {seen.partition for seen in read_topic(settings, settings.outcomes_topic)} == others


def test_a_running_worker_folds_nothing_of_another_history(
    ledger_settings: Settings, surgery: StackUnderTest, tmp_path: Path
) -> None:
    """The broker crashes, loses its ends and has other records before the worker asks again, fewer or as many.

    It needn't be further: of partition 2 it has one of the three that were lost, of partition 1 one more than these.
    """
    settings, topic, grown = ledger_settings, ledger_settings.commands_topic, {1: 4, 2: 1}
    for partition in grown:
        append_each(settings, [grant(partition, name) for name in ("kept-0", "kept-1", "lost-0", "lost-1", "lost-2")])
    with worker(settings, tmp_path, constants=WORKER) as running:
        wait_until_folded(settings)
        running.send(signal.SIGSTOP)
        lose_ends(surgery, *((topic, partition, 2) for partition in grown), kill=True)
        for partition, records in grown.items():
            append_each(settings, [grant(partition, f"new-{n}") for n in range(records)])
        running.send(signal.SIGCONT)
        for partition in grown:
            assert wait_until(lambda partition=partition: refused(running, partition), HANG_S), running.text()[-3000:]
            append_each(settings, [grant(partition, f"later-{n}") for n in range(4)])
        append(settings, [grant(3, "elsewhere")])
        assert wait_until(lambda: next_offsets(settings)[3] == 1, HANG_S)
        for partition in grown:
            last = lambda partition=partition: refused(running, partition)[-1]["why"]  # noqa: E731
            assert wait_until(lambda last=last: "is another one" in last(), HANG_S)
    for partition in grown:
        assert next_offsets(settings)[partition] == 5
        found = query(
            settings,
            "SELECT command_id FROM ledger.journal WHERE log_partition = %s ORDER BY log_offset",
            (partition,),
        )
        assert [row[0] for row in found] == ["kept-0", "kept-1", "lost-0", "lost-1", "lost-2"]


def test_outcomes_that_their_topic_lost_are_published_again(
    ledger_settings: Settings, surgery: StackUnderTest, tmp_path: Path
) -> None:
    """Ends of the outcomes topic are lost under a publisher, which has nothing to publish in one partition.

    In another one it has something just then, by which it notices the loss.
    """
    settings, topic = ledger_settings, ledger_settings.outcomes_topic
    with (
        worker(settings, tmp_path, constants=WORKER),
        publisher(settings, tmp_path, constants=PUBLISHER) as running,
    ):
        for name in ("first", "second", "third"):
            append(settings, [grant(partition, name) for partition in range(4)])
            wait_until_folded(settings)
            wait_until_published(settings)
        running.send(signal.SIGSTOP)
        lose_ends(surgery, (topic, 0, 2), (topic, 1, 2), kill=True)
        append(settings, [grant(partition, "fourth") for partition in (1, 2, 3)])
        wait_until_folded(settings)
        running.send(signal.SIGCONT)
        assert wait_until(lambda: len(read_topic(settings, topic)) == 15, HANG_S), running.text()[-3000:]
        assert_published(settings)


def test_what_lives_through_the_loss_joins_no_histories(
    ledger_settings: Settings, surgery: StackUnderTest, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two outboxes commit nothing behind a lost end, and a reader doesn't read on, over one restart of the broker.

    The next message of an outbox lands where an earlier one was: the transaction is given up, and another outbox begins
    there. Where something of the same producer is left, as in partition 1, Kafka misses the numbers between by itself.
    What reads on, as a long archive does, ends with an error: by the leader's epoch, also where its client lost Kafka
    for so long that another one takes its place, and where one begins behind what another reader has read.
    """
    settings, topic, commands = ledger_settings, ledger_settings.outcomes_topic, ledger_settings.commands_topic
    append(settings, [grant(partition, f"g-{number}") for number in range(4) for partition in (0, 1)])
    fold_log(settings)
    append_each(settings, [grant(3, f"kept-{n}") for n in range(2)] + [grant(3, f"lost-{n}") for n in range(2)])
    found: list[int] = []

    def read_up_to(reader: LogReader, offset: int) -> None:
        while reader.position < offset:
            found.extend(one.offset for one in reader.take(10, 1.0).records)

    with (
        LogReader(settings.kafka_client, commands, 3, 0) as reader,
        LogReader(settings.kafka_client, commands, 3, 0) as another_reader,
        opened(settings, pool, 0) as first,
        opened(settings, pool, 1) as second,
    ):
        read_up_to(reader, 4)
        read_up_to(another_reader, 4)
        for outbox in (first, second):
            assert [outbox.publish(folded) for folded in (1, 2, 3)] == [(1, 0)] * 3
        lose_ends(surgery, (topic, 0, 0), (topic, 1, 2), (commands, 3, 2))
        append_each(settings, [grant(3, f"new-{n}") for n in range(6)])
        with pytest.raises(UnreadableError):
            read_up_to(reader, 8)
        monkeypatch.setattr("creditfold.log.reader.finds_kafka", lambda *_: False)
        another_reader._replace_if_lost()
        with pytest.raises(UnreadableError):
            read_up_to(another_reader, 8)
        follower = LogReader(settings.kafka_client, commands, 3, 4, another_reader._epoch)
        with follower, pytest.raises(UnreadableError):
            read_up_to(follower, 8)
        for outbox in (first, second):
            cut = r"offset 6, and is at 0|out of order|sequence"
            with pytest.raises((OutcomesCutError, KafkaException), match=cut):
                outbox.publish(4)
    assert found == [0, 1, 2, 3] * 2
    assert [seen.partition for seen in read_topic(settings, topic)] == [1]
    for partition in (0, 1):
        with opened(settings, pool, partition) as another:
            publish_to(another, 4)
            assert another.ends[topic] > 6
    assert_published(settings)


@pytest.fixture
def transactional(ledger_settings: Settings) -> Iterator[Producer]:
    """A producer with transactions, which is given its place in the middle of one if need be."""
    conf = {"transactional.id": ledger_settings.group, "transaction.timeout.ms": 600_000}
    producer = Producer({**ledger_settings.kafka_client, **conf})
    producer.init_transactions(HANG_S)
    yield producer
    producer.purge()


def test_what_cannot_be_read_keeps_nobody_else_waiting(
    ledger_settings: Settings, surgery: StackUnderTest, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of partition 1 the last folded record, of 2 the first that is not folded: both stand still and are shown."""
    settings, topic = ledger_settings, ledger_settings.commands_topic
    append_each(settings, [grant(partition, "first") for partition in range(4)])
    fold_log(settings)
    append_each(settings, [grant(partition, "second") for partition in (0, 2, 3)])
    surgery.stop_kafka()
    try:
        spoil_last_batch(settings.data_dir, topic, 1)
        spoil_last_batch(settings.data_dir, topic, 2)
    finally:
        surgery.start_kafka()
    monkeypatch.setattr(continuity, "READ_S", 2.0)

    def unread() -> UnreadError:
        with pytest.raises(UnreadError, match=f"doesn't return the records of {topic} at ") as raised:
            refusals(settings, topic, bookmarks(settings) | {3: Bookmark(9)})
        return raised.value

    # A slow machine may not give others in time, either.
    assert wait_until(lambda: (found := unread()).partitions == {1} and found.refused.keys() == {3}, HANG_S)
    with worker(settings, tmp_path, "again", constants=WORKER) as again:
        for partition in (0, 3):
            assert wait_until(lambda partition=partition: next_offsets(settings)[partition] == 2, HANG_S), again.text()

        def waiting() -> list[list[int]]:
            return [line["partitions"] for line in again.lines() if line["event"] == "waiting to claim partitions"]

        # There, too, others may not be given in time at first.
        assert wait_until(lambda: [1] in waiting(), HANG_S), waiting()
        assert wait_until(lambda: again.said("records can't be read at all"), HANG_S), again.text()[-3000:]
        monkeypatch.setattr(health, "IDLE_S", 0.0)
        monkeypatch.setattr(health, "UNOWNED_S", 0.0)

        def stuck() -> list[int]:
            rows = cli("status", "--json", "--interval", "0.05").json["partitions"]
            return [row["partition"] for row in rows if row["stuck"]]

        assert wait_until(lambda: stuck() == [1, 2], HANG_S), cli("status").out


def test_a_slow_kafka_is_waited_for_while_it_answers(
    ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each partition's record takes nearly as long as Kafka may take to answer; more records come behind it."""
    settings, topic = ledger_settings, ledger_settings.commands_topic
    append(settings, [grant(partition, f"grant-{number}") for number in range(50) for partition in range(4)])
    marks = {}
    for partition in range(4):
        with LogReader(settings.kafka_client, topic, partition, 0) as reader:
            (first, *_) = reader.take(50, HANG_S).records
        marks[partition] = Bookmark(1, last_record(*first[:4]))
    now_s = 0.0

    def slowly(*record: Any) -> LastRecord:
        nonlocal now_s
        now_s += READ_S * 1.1
        return last_record(*record)

    monkeypatch.setattr(continuity, "last_record", slowly)
    monkeypatch.setattr(continuity, "time", SimpleNamespace(monotonic=lambda: now_s))
    assert refusals(settings, topic, marks) == {}
    assert now_s > READ_S * 4


def test_nothing_of_an_ordinary_log_is_taken_for_another_history(
    ledger_settings: Settings, stack: StackUnderTest, tmp_path: Path, transactional: Producer
) -> None:
    """Control records, aborted ones, stretches of nothing else, a tick, crashes of the worker and of the broker."""
    settings, producer = ledger_settings, transactional

    def write(name: str, *, commit: bool, records: int = 3) -> None:
        producer.begin_transaction()
        for partition in range(4):
            for number in range(records):
                raw = grant(partition, f"{name}-{number}")
                producer.produce(settings.commands_topic, raw.value, raw.key, partition)
        (producer.commit_transaction if commit else producer.abort_transaction)(HANG_S)

    for number, commit in enumerate([False, False, True, True, False, True]):
        write(f"log-{number}", commit=commit)
        # By another group, nobody waits until the session of a killed one has run out.
        alone = settings.model_copy(update={"group": f"{settings.group}-{number}"})
        running = WorkerProcess(alone, tmp_path, f"log-{number}", constants=WORKER)
        try:
            # Where all that is new is aborted, nothing waits to be folded.
            assert wait_until(lambda running=running: running.said("claimed"), HANG_S)
            wait_until_folded(settings)
            if number == 3:
                stack.restart_kafka(kill=True)
                append(settings, [grant(partition, "after the crash") for partition in range(4)])
                wait_until_folded(settings)
            if number % 2 == 0:
                assert running.stop() == 0
        finally:
            running.kill()
        assert not running.said("refuses"), running.text()[-3000:]
        assert refusals(settings, settings.commands_topic, bookmarks(settings)) == {}
    # An open transaction hides what is behind its start, which was never folded.
    producer.begin_transaction()
    producer.produce(settings.commands_topic, b"open", b"open", 0)
    producer.flush(HANG_S)
    append(settings, [grant(0, "behind an open transaction")])
    assert refusals(settings, settings.commands_topic, bookmarks(settings)) == {}
    producer.abort_transaction(HANG_S)
    with worker(settings, tmp_path, "last", constants=WORKER):
        wait_until_folded(settings)
    assert verify(settings, None, None, 20, Quiet()).equal


def test_what_a_bookmark_may_meet(ledger_settings: Settings, transactional: Producer) -> None:
    """Records at 0 and 1, an aborted one at 2, a control record at 3, records at 4 and 5."""
    settings, topic = ledger_settings, ledger_settings.commands_topic
    append_each(settings, [grant(0, "zero"), grant(0, "one")])
    transactional.begin_transaction()
    transactional.produce(topic, b"aborted", b"key", 0)
    transactional.flush(HANG_S)
    transactional.abort_transaction(HANG_S)
    # Kafka answers before the control record is there.
    assert wait_until(lambda: log_ends(settings, topic, [0]) == {0: End(4, 4)}, HANG_S)
    append_each(settings, [grant(0, "four"), grant(0, "five")])
    with LogReader(settings.kafka_client, topic, 0, 0) as reader:
        found = {}
        while reader.position < 6:
            found |= {one.offset: last_record(*one[:4]) for one in reader.take(10, 1.0).records}
    assert found.keys() == {0, 1, 4, 5}
    other = LastRecord(1, bytes(16))

    def meets(next_offset: int, last: LastRecord = NO_RECORD) -> str:
        errors = refusals(settings, topic, {0: Bookmark(next_offset, last), 3: Bookmark(0)})
        assert errors.keys() <= {0}
        return str(errors.get(0, ""))

    for next_offset, last in (
        (0, NO_RECORD),
        (1, found[0]),
        (2, found[1]),
        (3, found[1]),
        (4, found[1]),
        (6, found[5]),
    ):
        assert meets(next_offset, last) == ""
    assert "the record that the topic holds at 0:1 is another one" in meets(2, other)
    assert "the record that the topic holds at 0:1 is another one" in meets(4, other)
    # Its control record was lost, and a record came in its place.
    assert "the topic holds a record at 0:4 that wasn't there" in meets(5, found[1])
    assert "the topic holds a record at 0:0 that wasn't there" in meets(2)
    assert "the topic holds no record at 0:2 any more" in meets(3, LastRecord(2, bytes(16)))
    assert "is folded to offset 7, but the topic holds 0 to 6" in meets(7, found[5])
    place = TopicPartition(topic, 0, 2)
    admin = AdminClient(settings.kafka_client)
    admin.delete_records([place])[place].result(HANG_S)
    # What was deleted can't be compared, and is no other history.
    assert meets(2, other) == meets(4, other) == ""
    assert "but the topic holds 2 to 6" in meets(1, found[0])


def test_a_database_without_records_yet_is_no_other_history(ledger_settings: Settings) -> None:
    """Nothing was folded: nothing can be missing."""
    assert set(bookmarks(ledger_settings).values()) == {Bookmark(0)}
    assert refusals(ledger_settings, ledger_settings.commands_topic, bookmarks(ledger_settings)) == {}
