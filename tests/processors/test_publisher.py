"""The publisher on the real stack: each outcome and dead letter once, in order, whatever dies and whenever."""

import asyncio
import base64
import random
import signal
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition as AioTopicPartition
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log import batch_reader
from creditfold.log.admin import KafkaUnavailableError, LeaderMissingError, TopicMissingError
from creditfold.log.offsets import end_offsets
from creditfold.log.partitioner import partition_of
from creditfold.log.tail import OpenTransactionError
from creditfold.log.topics import describe_topic, topic_names
from creditfold.processors.heartbeat import Signs
from creditfold.processors.publisher import main as processors_publisher
from creditfold.processors.publisher import messages as outcomes
from creditfold.processors.publisher.group import outcomes_group
from creditfold.processors.publisher.messages import Outgoing
from creditfold.processors.publisher.partition import (
    OtherOutcomesError,
    Outbox,
    OutcomesLostError,
    Pool,
    with_smaller_messages,
)
from creditfold.processors.rebuild.steps import ActivationOptions, Request, activate, rebuild
from creditfold.processors.startup import when_available
from creditfold.projections.queries import windows as outbox_queries
from creditfold.projections.queries.windows import DeadRow, JournalRow
from creditfold.projections.tables.source import LogChangedError
from creditfold.schemas.wire import encode
from helpers.forgetful_kafka import ForgetfulKafka
from helpers.outboxes import (
    of_each_partition,
    opened,
    publish_all,
    publish_to,
    publish_until_killed,
    publish_until_overtaken,
    topics_of,
)
from helpers.published import (
    assert_published,
    decoded,
    fold,
    mixed,
    next_offsets,
    position_of,
    published_to,
    wait_until_published,
)
from helpers.stack_under_test import StackUnderTest
from helpers.support import (
    HANG_S,
    SEED,
    Quiet,
    Raw,
    WorkerProcess,
    all_progress,
    alter,
    append,
    delete_before,
    make_anew,
    publisher,
    query,
    read_topic,
    record,
    wait_until_folded,
    worker,
)

KILLS = 3


# The whole, with a publisher process.


#: Numbers of codecs in a batch's attributes.
NONE, GZIP = 0, 1


async def codecs_of(settings: Settings, topic: str) -> set[int]:
    """The codecs of a topic's batches with records, read from the bytes that the broker keeps."""
    client = await batch_reader._connect(settings.kafka_client, topic)
    found = set()
    try:
        for partition, end in end_offsets(settings, topic, range(settings.partitions)).items():
            at = 0
            while at < end:
                leader = client.cluster.leader_for_partition(AioTopicPartition(topic, partition))
                request = FetchRequest(500, 1, 10_000_000, 0, [(topic, [(partition, at, 10_000_000)])])
                answer = batch_reader._without_replica(await client.send(leader, request))
                records = MemoryRecords(bytes(answer[0][1][0][-1]))
                while (batch := records.next_batch()) is not None:
                    at = batch.next_offset
                    if not batch.is_control_batch:
                        found.add(batch.compression_type)
    finally:
        await client.close()
    return found


# As at a first start: whoever comes first makes the tables.
@pytest.mark.unprepared
def test_every_outcome_and_dead_letter_is_published_once_and_in_order(
    ledger_settings: Settings, tmp_path: Path
) -> None:
    """Grants, spends, rejections, duplicates, reused ids and poison; published while they are folded; then again.

    The first publisher starts before everything else, on a database without tables.
    """
    topics = ledger_settings.outcomes_topic, ledger_settings.dead_letters_topic
    with publisher(ledger_settings, tmp_path) as running:
        assert wait_until(lambda: running.text().count("owns a partition") == 4, HANG_S), running.text()
        assert read_topic(ledger_settings, ledger_settings.outcomes_topic) == []
        with worker(ledger_settings, tmp_path):
            append(ledger_settings, mixed(2_000))
            wait_until_folded(ledger_settings)
        wait_until_published(ledger_settings)
        assert assert_published(ledger_settings) == (2_000, 2_000 // 50 + 3 * (2_000 // 40))
        kinds = Counter(decoded(seen.value)[0] for seen in read_topic(ledger_settings, ledger_settings.outcomes_topic))
        assert set(kinds) == {"CommandAccepted", "Rejected"}
        assert running.stop() == 0
        assert not [line for line in running.lines() if line["level"] in ("error", "critical")]
    for topic in topics:
        # By the one codec that kafkajs has. A batch that compression would make larger goes as it is.
        found = asyncio.run(codecs_of(ledger_settings, topic))
        assert GZIP in found
        assert found <= {NONE, GZIP}
    ends = end_offsets(ledger_settings, ledger_settings.outcomes_topic, range(4))
    with publisher(ledger_settings, tmp_path, "again") as again:
        own = [f'"partition": {partition}, "published_to"' for partition in range(4)]
        assert wait_until(lambda: all(text in again.text() for text in own), HANG_S)
        # One more command goes through, so the publisher has surely looked at what there was.
        fold(ledger_settings, [record("Grant", "last", "user-1", 5)])
        wait_until_published(ledger_settings)
    moved = end_offsets(ledger_settings, ledger_settings.outcomes_topic, range(4))
    # The message, and the marker of its transaction.
    assert sorted(moved[partition] - ends[partition] for partition in range(4)) == [0, 0, 0, 2]
    assert_published(ledger_settings)


#: A publisher's session is as brief as brokers grant one, and it looks at its topics each second.
BRIEF = ("processors.publisher.main.SESSION_MS=6_000", "processors.publisher.main.CHECK_EVERY_S=1")
#: It lasts as long as a test may: longer than that its client would have to be asked.
LASTING = ("processors.publisher.main.SESSION_MS=300_000",)


def test_publishers_killed_at_random_lose_and_double_nothing(ledger_settings: Settings, tmp_path: Path) -> None:
    """Two publishers share the partitions; either is killed again and again while the fold goes on."""
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    settings = ledger_settings.model_copy(update={"chunk_records": 100, "retry_max_s": 1.0})
    with ExitStack() as running:
        running.enter_context(worker(settings, tmp_path))
        both = [WorkerProcess(settings, tmp_path, name, "publisher", BRIEF) for name in ("one", "two")]
        for one in both:
            running.callback(one.kill)
        # Few, since each waits for a session's end; what a death does at any step, outboxes of this process show below.
        for seed in range(KILLS):
            before = sum(published_to(settings).values())
            append(settings, mixed(500, seed))
            # One of them is in the middle of publishing, and sometimes already behind it.
            floor = before + chance.choice((0, 0, 100))
            assert wait_until(lambda floor=floor: sum(published_to(settings).values()) > floor, HANG_S, 0.02)
            target = both[seed % 2]
            target.kill()
            target.restart()
        wait_until_folded(settings)
        wait_until_published(settings)
        # Up to here one that has just been started would die of the signal.
        assert all(wait_until(lambda one=one: "publisher starts" in one.latest(), HANG_S) for one in both)
        assert [process.stop() for process in both] == [0, 0]
    assert assert_published(settings)[0] == KILLS * 500


def test_generations_are_switched_under_a_publisher(ledger_settings: Settings, tmp_path: Path) -> None:
    """There and back while it publishes: it goes on where it was, since positions are the same in every generation."""
    append(ledger_settings, mixed(800))
    with worker(ledger_settings, tmp_path), publisher(ledger_settings, tmp_path):
        wait_until_folded(ledger_settings)
        rebuild(ledger_settings, Request(), Quiet())
        for turn, number in enumerate((2, 1, 2)):
            append(ledger_settings, mixed(500, 2 + turn))
            activate(ledger_settings, number, ActivationOptions(), Quiet())
        wait_until_folded(ledger_settings)
        wait_until_published(ledger_settings)
    assert_published(ledger_settings)


def test_two_publishers_share_the_partitions(ledger_settings: Settings, tmp_path: Path) -> None:
    """Each has half; when one is stopped, the other takes over at once: no session ends while the test runs."""
    with (
        publisher(ledger_settings, tmp_path, "one", constants=LASTING) as one,
        publisher(ledger_settings, tmp_path, "two", constants=LASTING) as two,
    ):
        assert wait_until(lambda: owners(ledger_settings) == [2, 2], HANG_S), one.text() + two.text()
        assert one.stop() == 0
        assert wait_until(lambda: owners(ledger_settings) == [4], HANG_S)
        fold(ledger_settings, list(mixed(300)))
        wait_until_published(ledger_settings)
        assert two.stop() == 0
    assert_published(ledger_settings)


def owners(settings: Settings) -> list[int]:
    """How many partitions each member of the publishers' group has."""
    admin, group = AdminClient({**settings.kafka_client, "log_level": 0}), outcomes_group(settings)
    members = admin.describe_consumer_groups([group], request_timeout=HANG_S)[group].result().members
    return sorted(count for member in members if (count := len(member.assignment.topic_partitions)))


def test_a_frozen_publisher_is_fenced(ledger_settings: Settings, tmp_path: Path) -> None:
    """Stopped for longer than its session while it publishes, it wakes up as a zombie, is refused, and joins again."""
    settings = ledger_settings.model_copy(update={"chunk_records": 50, "retry_max_s": 1.0})
    with worker(settings, tmp_path), publisher(settings, tmp_path, "zombie", constants=BRIEF) as zombie:
        assert wait_until(lambda: zombie.text().count("owns a partition") == 4, HANG_S)
        pouring = threading.Thread(target=lambda: [append(settings, mixed(250, seed)) for seed in range(8)])
        pouring.start()
        assert wait_until(lambda: sum(published_to(settings).values()) > 100, HANG_S, 0.02)
        zombie.send(signal.SIGSTOP)
        with publisher(settings, tmp_path, "successor") as successor:
            pouring.join()
            wait_until_folded(settings)
            wait_until_published(settings)
            assert assert_published(settings)[0] == 2_000
            zombie.send(signal.SIGCONT)
            # Both work again, and what comes now comes once too.
            assert wait_until(lambda: owners(settings) == [2, 2], HANG_S)
            append(settings, mixed(500, 99))
            wait_until_folded(settings)
            wait_until_published(settings)
            assert successor.stop() == 0
        assert zombie.process.poll() is None
        assert zombie.stop() == 0
    assert assert_published(settings)[0] == 2_500


def test_outages_are_waited_out(stack: StackUnderTest, ledger_settings: Settings, tmp_path: Path) -> None:
    """PostgreSQL and Kafka are stopped and killed under a publisher that has work; it says so and goes on."""
    settings = ledger_settings.model_copy(update={"chunk_records": 100, "retry_max_s": 1.0})
    with worker(settings, tmp_path), publisher(settings, tmp_path) as running:
        for number, outage in enumerate(
            [stack.restart_postgres, lambda: stack.restart_postgres(kill=True), lambda: stack.restart_kafka(kill=True)]
        ):
            append(settings, mixed(400, number))
            outage()
            append(settings, mixed(100, 100 + number))
            wait_until_folded(settings)
            wait_until_published(settings)
            assert running.process.poll() is None
        stack.stop_postgres()
        try:
            assert wait_until(lambda: running.said("PostgreSQL is away"), HANG_S), running.text()[-2000:]
            # Who waits can be stopped.
            assert running.stop() == 0
        finally:
            stack.start_postgres()
        assert "Traceback" not in running.text()
        assert len(running.lines()) < 500
    assert assert_published(settings)[0] == 1_500


# Topics that are wrong.


class Hung:
    """An outbox whose client never comes back from its first step, until it is let go."""

    def __init__(self, lets_go: threading.Event) -> None:
        self.lets_go = lets_go
        self.published_to = 0
        self.closed = threading.Event()

    def open(self) -> None:
        self.lets_go.wait()
        raise KafkaException(KafkaError(KafkaError._FENCED))

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def lone(ledger_settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> processors_publisher.Publisher:
    """A publisher in this process, of no group."""
    commands, results, dead_letters = (describe_topic(ledger_settings, name) for name in topic_names(ledger_settings))
    made = processors_publisher.Publisher(ledger_settings, (commands, results, dead_letters), pool)
    monkeypatch.setattr(made, "_make_outbox", lambda topics, number: Outbox(ledger_settings, topics, number, pool))
    return made


def test_a_thread_that_hangs_is_left_to_another(
    lone: processors_publisher.Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever time-out its client was given; when it comes back it ends."""
    first, second = Hung(threading.Event()), Hung(threading.Event())
    outboxes = iter([first, second])
    monkeypatch.setattr(lone, "_make_outbox", lambda topics, partition: next(outboxes))
    # There is nothing folded to compare the log with.
    monkeypatch.setattr(lone, "_refusals", lambda partitions: {})
    lone._begin(3)
    hung = lone._threads[3]
    lone._leave_hung()
    assert lone._threads[3] is hung
    monkeypatch.setattr(processors_publisher, "HANG_S", 0.2)
    assert wait_until(lambda: hung.hangs, HANG_S)
    lone._leave_hung()
    assert lone._threads[3] is not hung
    first.lets_go.set()
    hung.join(HANG_S)
    assert not hung.is_alive()
    assert first.closed.is_set()
    lone._threads[3].stop()
    second.lets_go.set()
    lone._end([3])


def test_a_partition_without_a_leader_is_waited_for(
    lone: processors_publisher.Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a Kafka that is away is, and unlike a topic that is gone."""
    found = iter([LeaderMissingError("none"), KafkaUnavailableError("away"), TopicMissingError("gone")])

    def check_topics(*_: Any) -> None:
        raise next(found)

    monkeypatch.setattr(processors_publisher, "check_topics", check_topics)
    monkeypatch.setattr(processors_publisher, "CHECK_EVERY_S", 0.0)
    lone._watch_topics()
    assert isinstance(lone._wrong, TopicMissingError)


def test_a_process_waits_at_its_start_for_whoever_leads() -> None:
    """For a partition without a leader as for a Kafka that is away, and not for a topic that isn't there."""
    signs, found = Signs(), [TopicMissingError("gone"), KafkaUnavailableError("away"), LeaderMissingError("none")]
    shown = []

    def question() -> str:
        shown.append(signs.sign("publisher").waits_for)
        raise found.pop()

    with pytest.raises(TopicMissingError):
        when_available(Settings(retry_max_s=0.01), question, signs)
    assert shown == ["", "Kafka: none", "Kafka: away"]


def test_what_is_published_while_kafka_says_where_a_topic_ends_is_not_lost(
    ledger_settings: Settings, lone: processors_publisher.Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window that lands between answer and comparison is behind that end, and no outbox begins anew for it."""
    fold(ledger_settings, [Raw(record("Grant", f"g{number}", "u", 5).value, b"u", 3) for number in range(2)])
    ask, interruptions = processors_publisher.log_ends, []
    lone._begin(3)
    thread = lone._threads[3]
    monkeypatch.setattr(thread, "interrupt", interruptions.append)
    thread.set_folded(1)
    assert wait_until(lambda: thread.published_to == 1, HANG_S)

    def answered_late(*asked: Any) -> Any:
        ends = ask(*asked)
        thread.set_folded(2)
        assert wait_until(lambda: thread.published_to == 2, HANG_S)
        return ends

    monkeypatch.setattr(processors_publisher, "log_ends", answered_late)
    lone._notice_lost_ends()
    lone._end([3])
    assert interruptions == []
    assert_published(ledger_settings)


class Forgetting(WorkerProcess):
    """A publisher whose clients never look for Kafka again when there is none in an answer."""

    program = (str(Path(__file__).parents[1] / "helpers" / "forgetful_kafka.py"),)


def test_a_publisher_whose_clients_lost_kafka_for_ever_goes_on(ledger_settings: Settings, tmp_path: Path) -> None:
    """The group's member and the producers are replaced, and nothing is published twice or not at all."""
    with ForgetfulKafka(ledger_settings) as kafka, worker(ledger_settings, tmp_path):
        append(ledger_settings, [record("Grant", f"a{number}", f"u{number}", 5) for number in range(200)])
        with publisher(kafka.settings, tmp_path, kind=Forgetting) as running:
            wait_until_folded(ledger_settings)
            wait_until_published(ledger_settings)
            assert wait_until(lambda: running.text().count("owns a partition") == 4, HANG_S), running.text()
            kafka.forget()
            assert wait_until(lambda: running.said("the group's member has lost all brokers"), HANG_S), running.text()
            append(ledger_settings, [record("Grant", f"b{number}", f"u{number}", 5) for number in range(200)])
            wait_until_folded(ledger_settings)
            wait_until_published(ledger_settings)
    assert assert_published(ledger_settings) == (400, 0)


def test_an_outcomes_topic_made_anew_is_noticed_and_filled_again(ledger_settings: Settings, tmp_path: Path) -> None:
    """The running publisher stops with 1; the next one publishes all outcomes again, and no dead letter twice."""
    fold(ledger_settings, list(mixed(300)))
    with publisher(ledger_settings, tmp_path, constants=BRIEF) as running:
        wait_until_published(ledger_settings)
        # Or it might look in between, when there is no topic, which is another error.
        running.send(signal.SIGSTOP)
        make_anew(ledger_settings, ledger_settings.outcomes_topic)
        running.send(signal.SIGCONT)
        assert running.process.wait(HANG_S) == 1
        assert "was deleted and made anew" in running.text()
    with publisher(ledger_settings, tmp_path, "next"):
        wait_until_published(ledger_settings)
    assert_published(ledger_settings)


@pytest.mark.parametrize("wrong", ["missing", "partitions"])
def test_a_wrong_topic_is_refused_with_a_remedy(ledger_settings: Settings, tmp_path: Path, wrong: str) -> None:
    """No topic of that name, or one with other partitions: exit 1."""
    if wrong == "missing":
        settings = ledger_settings.model_copy(update={"outcomes_topic": "nobody-made-this"})
        remedy = "Create it with `creditfold init`"
    else:
        settings, remedy = ledger_settings, "has 3 partitions, the log has 4"
        make_anew(settings, settings.dead_letters_topic, 3)
    running = WorkerProcess(settings, tmp_path, "wrong", "publisher")
    assert running.process.wait(HANG_S) == 1
    assert remedy in running.text()


def test_a_truncated_outcomes_topic_is_refused(ledger_settings: Settings, tmp_path: Path) -> None:
    """All outcomes of a partition deleted: it isn't known how far they came, so nothing is published there."""
    fold(ledger_settings, list(mixed(300)))
    with publisher(ledger_settings, tmp_path):
        wait_until_published(ledger_settings)
    ends = end_offsets(ledger_settings, ledger_settings.outcomes_topic, range(4))
    truncate(ledger_settings, ledger_settings.outcomes_topic, 0)
    fold(ledger_settings, list(mixed(300, 2)))
    with publisher(ledger_settings, tmp_path, "again") as again:
        refused = "refuses to publish the partition"
        assert wait_until(lambda: again.said(refused), HANG_S)
        # The others are published as ever.
        wanted = {row.log_partition: row.next_offset for row in all_progress(ledger_settings) if row.log_partition}
        assert wait_until(lambda: published_to(ledger_settings).items() >= wanted.items(), HANG_S)
        (line,) = (line for line in again.lines() if line["event"] == refused)
        assert (line["partition"], line["level"]) == (0, "error")
        assert "were deleted" in line["why"]
    now = end_offsets(ledger_settings, ledger_settings.outcomes_topic, range(4))
    assert now[0] == ends[0]
    assert all(now[partition] > ends[partition] for partition in (1, 2, 3))


def truncate(settings: Settings, topic: str, partition: int) -> None:
    """Delete every record of a partition, as retention would."""
    end = end_offsets(settings, topic, [partition])[partition]
    assert end > 0
    delete_before(settings, topic, partition, end)


# One partition's outbox, in this process.


@pytest.mark.parametrize("dead_letters_only", [False, True], ids=["both", "dead-letters"])
def test_a_death_at_any_step_loses_and_doubles_nothing(
    ledger_settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch, dead_letters_only: bool
) -> None:
    """Killed before a transaction, in it, before its commit, and after its commit before it knows; then begun anew.

    Each partition has some of these deaths, one after the other.
    """
    monkeypatch.setattr(outbox_queries, "WINDOW_OFFSETS", 40)
    poison = [Raw(b"poison %d" % number, b"k", partition=number % 4) for number in range(800)]
    fold(ledger_settings, poison if dead_letters_only else list(mixed(1_000)))
    moments = [
        ("begin_transaction", 1, False),
        ("begin_transaction", 2, True),
        ("produce", 3, True),
        ("commit_transaction", 1, False),
        ("commit_transaction", 1, True),
        ("commit_transaction", 2, True),
        ("commit_transaction", 3, False),
        ("commit_transaction", 3, True),
    ]

    def die_again_and_again(partition: int, folded: int) -> None:
        # Kept, since nobody closes what the dead had open.
        kept = [publish_until_killed(ledger_settings, pool, partition, folded, one) for one in moments[partition::4]]
        with opened(ledger_settings, pool, partition) as outbox:
            publish_to(outbox, folded)
        assert len(kept) == 2

    of_each_partition(ledger_settings, die_again_and_again)
    assert_published(ledger_settings)


def test_a_zombie_in_the_middle_of_a_transaction_is_fenced(ledger_settings: Settings, pool: Pool) -> None:
    """It has sent everything but its commit when another takes over; the commit is refused."""
    fold(ledger_settings, list(mixed(300)))
    publish_until_overtaken(
        ledger_settings, pool, next_offsets(ledger_settings)[0], lambda zombie: bool(zombie._landed)
    )
    assert_published(ledger_settings)


def test_the_window_s_dead_letters_are_few_and_small(
    ledger_settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large dead letters are read a few at a time, whatever the window; outcomes between them keep their order."""
    monkeypatch.setattr(outbox_queries, "WINDOW_DEAD_BYTES", 5_000)
    monkeypatch.setattr(outbox_queries, "WINDOW_DEAD_LETTERS", 7)
    large = [Raw(b"x" * 2_000, b"k", partition=0) for _ in range(6)]
    small = [Raw(b"x", b"k", partition=0) for _ in range(20)]
    granted = [record("Grant", f"g{n}", "alice", 1) for n in range(50)]
    fold(ledger_settings, [*large, *granted, Raw(b"y" * 20_000, b"k", partition=0), *small])
    folded = next_offsets(ledger_settings)[0]
    with opened(ledger_settings, pool, 0) as outbox:
        counts = []
        while (count := outbox.publish(folded)) is not None:
            counts.append(count.dead_letters)
    assert sum(counts) == 27
    assert counts[:3] == [2, 2, 2]
    assert max(counts) == 7
    publish_all(ledger_settings, pool)
    assert_published(ledger_settings)


def test_views_that_lie_behind_give_no_window(ledger_settings: Settings, pool: Pool) -> None:
    """What was said to be folded isn't, because another projection is behind the views now: nothing is passed over."""
    fold(ledger_settings, [record("Grant", f"g{n}", "alice", 1) for n in range(20)])
    (partition,) = (number for number, folded in next_offsets(ledger_settings).items() if folded)
    with opened(ledger_settings, pool, partition) as outbox:
        assert outbox.publish(21) is None
        assert outbox.published_to == 0
        count = outbox.publish(20)
        assert count is not None
        assert count.outcomes == 20


def test_a_stranger_s_records_are_passed_over(ledger_settings: Settings, pool: Pool) -> None:
    """Garbage at the end of both topics, in any number and aborted too, changes nothing about where it goes on."""
    fold(ledger_settings, list(mixed(300)))
    publish_all(ledger_settings, pool)
    ends = {topic: end_offsets(ledger_settings, topic, range(4)) for topic in both_topics(ledger_settings)}
    strangers_write(ledger_settings)
    fold(ledger_settings, list(mixed(300, 2)))
    publish_all(ledger_settings, pool)
    for topic, rows in zip(both_topics(ledger_settings), ("journal", "dead_letters"), strict=True):
        mine = [
            seen
            for seen in read_topic(ledger_settings, topic)
            if seen.value is None or (not seen.value.startswith(b"foreign") and seen.header("foreign") is None)
        ]
        positions = [(seen.partition, position_of(seen)) for seen in mine]
        assert positions == query(ledger_settings, f"SELECT log_partition, log_offset FROM ledger.{rows} ORDER BY 1, 2")
        assert all(end_offsets(ledger_settings, topic, [p])[p] > ends[topic][p] for p in range(4))


def both_topics(settings: Settings) -> tuple[str, str]:
    return settings.outcomes_topic, settings.dead_letters_topic


def strangers_write(settings: Settings) -> None:
    """No header of ours, headers of ours that are garbage, and a committed and an aborted transaction."""
    outcome = encode(
        "Rejected",
        dict.fromkeys(("account", "command_id", "kind", "asset", "rejection"), "x")
        | dict.fromkeys(("log_partition", "log_offset", "version", "amount", "balance", "rules", "decided_at"), 1),
    )
    mark = ("foreign", b"yes")
    messages: list[tuple[bytes, list[tuple[str, bytes | None]]]] = [
        (b"foreign", []),
        (b"foreign", [("creditfold-position", b"0:999999")]),
        (outcome, [("creditfold-position", b"0:999999"), mark]),
        (outcome, [mark]),
        (b"foreign", [("creditfold-topic", settings.commands_topic.encode()), ("creditfold-partition", b"x")]),
        (b"foreign", [("creditfold-topic", b"other"), ("creditfold-partition", b"0"), ("creditfold-offset", b"9999")]),
        (b"foreign", [("creditfold-position", None)]),
    ]
    producer = Producer({**settings.kafka_client, "transactional.id": f"stranger-{settings.outcomes_topic}"})
    producer.init_transactions(HANG_S)
    for ending in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        for topic in both_topics(settings):
            for partition in range(4):
                for value, headers in messages * 40:
                    producer.produce(topic, value, partition=partition, headers=list(headers))  # type: ignore[arg-type]
        producer.flush(HANG_S)
        ending(HANG_S)


def test_a_letter_of_another_topic_is_ours_only_if_its_record_is(ledger_settings: Settings, pool: Pool) -> None:
    """At our positions: other bytes are a stranger's, the same ones are what was published before a restore."""
    poison = [Raw(b"poison %d" % number, b"k", partition=number % 4) for number in range(12)]
    fold(ledger_settings, [*poison, Raw(b"\0" * 100_000, b"k" * 9_000, partition=0)])
    rows = query(ledger_settings, "SELECT log_partition, log_offset, key, value FROM ledger.dead_letters ORDER BY 1, 2")
    producer = Producer(ledger_settings.kafka_client)
    for number, (partition, offset, key, value) in enumerate(rows):
        row = DeadRow(offset, "undecodable", "", key, value if number % 2 else value[:-1], [])
        letter = outcomes.dead_letter_message("former", partition, row, 70_000)
        where = ledger_settings.dead_letters_topic
        producer.produce(where, letter.value, letter.key, partition=partition, headers=letter.headers)
    assert producer.flush(HANG_S) == 0
    for _ in range(2):
        # The second time they begin behind what they published the first time.
        publish_all(ledger_settings, pool)
    own = [
        (seen.partition, position_of(seen))
        for seen in read_topic(ledger_settings, ledger_settings.dead_letters_topic)
        if seen.header("creditfold-topic") != b"former"
    ]
    assert own == [row[:2] for number, row in enumerate(rows) if not number % 2]


def test_a_publisher_of_another_log_than_the_live_one_publishes_nothing(ledger_settings: Settings, pool: Pool) -> None:
    """Asked in the transaction in which it reads, so that no switch comes in between."""
    fold(ledger_settings, list(mixed(50)))
    topics = topics_of(ledger_settings)
    former = topics._replace(log=topics.log._replace(topic_id="former"))
    with opened(ledger_settings, pool, 0, former) as outbox, pytest.raises(LogChangedError, match="COMMANDS_TOPIC="):
        outbox.publish(next_offsets(ledger_settings)[0])
    assert read_topic(ledger_settings, ledger_settings.dead_letters_topic) == []


def test_a_stranger_s_open_transaction_is_waited_for(
    ledger_settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hides our own last outcomes from readers; going on from the last visible one would publish them twice."""
    fold(ledger_settings, list(mixed(100)))
    stranger = Producer(
        {**ledger_settings.kafka_client, "transactional.id": "hanging", "transaction.timeout.ms": 600_000}
    )
    stranger.init_transactions(HANG_S)
    stranger.begin_transaction()
    stranger.produce(ledger_settings.outcomes_topic, b"foreign", partition=0)
    stranger.flush(HANG_S)
    outbox = Outbox(ledger_settings, topics_of(ledger_settings), 0, pool)
    with monkeypatch.context() as patched:
        patched.setattr("creditfold.log.tail.OPEN_TRANSACTION_S", 1.0)
        with pytest.raises(OpenTransactionError):
            outbox.open()
    outbox.close()
    stranger.abort_transaction(HANG_S)
    publish_all(ledger_settings, pool)
    assert_published(ledger_settings)


def test_another_log_s_outcomes_are_refused(ledger_settings: Settings, pool: Pool) -> None:
    """The topic's last outcome says of its position what the journal doesn't: nothing is added to it."""
    fold(ledger_settings, [record("Grant", f"g{n}", "alice", 1) for n in range(20)])
    (partition,) = (number for number, folded in next_offsets(ledger_settings).items() if folded)
    row = JournalRow(4, "bob", 1, "other", "grant", "credits", 1, 1, None, 1, 0, 0, "", "")
    message = outcomes.outcome_message(partition, row)
    producer = Producer(ledger_settings.kafka_client)
    producer.produce(
        ledger_settings.outcomes_topic, message.value, message.key, partition=partition, headers=message.headers
    )
    assert producer.flush(HANG_S) == 0
    with opened(ledger_settings, pool, partition) as outbox:
        # Not before the fold has come there.
        assert outbox.publish(4) == (0, 0)
        with pytest.raises(OtherOutcomesError, match="'bob'"):
            outbox.publish(20)
    assert len(read_topic(ledger_settings, ledger_settings.outcomes_topic)) == 1


def test_dead_letters_deleted_by_retention_are_no_obstacle(ledger_settings: Settings, pool: Pool) -> None:
    """Whoever keeps them for a while only gets those that are new; but outcomes that are gone are refused."""
    fold(ledger_settings, list(mixed(300)))
    publish_all(ledger_settings, pool)
    # So that the last outcome lies behind the last dead letter.
    fold(ledger_settings, [record("Grant", f"g{n}", f"user-{n}", 1) for n in range(100)])
    publish_all(ledger_settings, pool)
    for partition in range(4):
        truncate(ledger_settings, ledger_settings.dead_letters_topic, partition)
    fold(ledger_settings, [Raw(b"new", b"k", partition=number) for number in range(4)])
    publish_all(ledger_settings, pool)
    assert [seen.value for seen in read_topic(ledger_settings, ledger_settings.dead_letters_topic)] == [b"new"] * 4
    truncate(ledger_settings, ledger_settings.outcomes_topic, 1)
    outbox = Outbox(ledger_settings, topics_of(ledger_settings), 1, pool)
    with pytest.raises(OutcomesLostError, match="delete the topic"):
        outbox.open()
    outbox.close()


def test_a_fatal_error_that_the_client_lost_is_one_of_kafka(
    ledger_settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises one and calls back all the same, in which Python may lose it; the outbox is given up for that too."""
    fold(ledger_settings, [record("Grant", "g-1", "ada", 5)])

    def lost(_: float) -> int:
        raise SystemError("flush returned NULL without setting an exception")

    with opened(ledger_settings, pool, partition_of(b"ada", 4)) as outbox:
        real = outbox._producer
        monkeypatch.setattr(outbox, "_producer", Overlaid(real, flush=lost))
        with pytest.raises(KafkaException, match="_FATAL"):
            outbox.publish(1)


class Overlaid:
    """A client with some of its calls replaced; those of its class can't be."""

    def __init__(self, client: Any, **replaced: Any) -> None:
        self._client = client
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def test_a_dead_letter_too_large_for_its_topic_is_cut(ledger_settings: Settings, pool: Pool) -> None:
    """By the size that the topic is said to take, and, if it takes less than that, after it has refused."""
    alter(ledger_settings, ledger_settings.dead_letters_topic, max_message_bytes="100000")
    noise = random.Random(1).randbytes(300_000)
    fold(ledger_settings, [Raw(noise, b"k", partition=0, headers=(("h", b"v"),))])
    topics = topics_of(ledger_settings)
    assert topics.dead_letter_bytes == 100_000
    hoped = topics._replace(dead_letter_bytes=1_000_000)
    with opened(ledger_settings, pool, 0, hoped) as outbox, pytest.raises(KafkaException) as refused:
        outbox.publish(1)
    smaller = with_smaller_messages(hoped, refused.value)
    assert smaller.dead_letter_bytes <= 65_536
    assert with_smaller_messages(hoped, ValueError()) == hoped
    publish_all(ledger_settings, pool, smaller)
    make_anew(ledger_settings, ledger_settings.dead_letters_topic)
    publish_all(ledger_settings, pool, topics)
    (seen,) = read_topic(ledger_settings, ledger_settings.dead_letters_topic)
    assert seen.value == noise[:65_536]
    assert seen.key == b"k"
    assert seen.headers[0] == ("h", b"v")
    assert seen.header("creditfold-truncated") == b"300000"
    assert seen.header("creditfold-reason") == b"oversize"


# What needs no server.


def dead(
    value: bytes | None = b"v", key: bytes | None = b"k", headers: list[list[str | None]] | None = None
) -> DeadRow:
    return DeadRow(7, "not_framed", "why", key, value, headers or [])


def size(message: Outgoing) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in message.headers)
    return len(message.key or b"") + len(message.value or b"") + headers


@pytest.mark.parametrize(
    ("row", "cut"),
    [
        (dead(b"x" * 70_000), ["creditfold-truncated"]),
        (
            dead(key=b"x" * 200_000),
            ["creditfold-truncated", "creditfold-truncated-key", "creditfold-truncated-headers"],
        ),
        (
            dead(headers=[["h", base64.b64encode(b"x" * 200_000).decode()]]),
            ["creditfold-truncated", "creditfold-truncated-key", "creditfold-truncated-headers"],
        ),
    ],
    ids=["value", "key", "headers"],
)
def test_what_is_cut_says_so(row: DeadRow, cut: list[str]) -> None:
    """Whatever is too large about it, the message fits, and says what it lacks."""
    message = outcomes.dead_letter_message("commands", 3, row, 69_000)
    assert size(message) <= 69_000
    assert [name for name, _ in message.headers if name.startswith("creditfold-truncated")] == cut
    whole = outcomes.dead_letter_message("commands", 3, row, 1_000_000)
    assert (whole.key, whole.value) == (row.key, row.value)
    assert not [name for name, _ in whole.headers if name.startswith("creditfold-truncated")]


@pytest.mark.parametrize(
    ("given", "attempt"), [(b"2", b"2"), (b"017", b"017"), (b"", b"1"), (b"-3", b"1"), (b"x", b"1"), (b"9" * 50, b"1")]
)
def test_the_attempt_is_the_redrive_s(given: bytes, attempt: bytes) -> None:
    """A header that is no number is nobody's attempt."""
    row = dead(headers=[["redrive-attempt", base64.b64encode(given).decode()]])
    message = outcomes.dead_letter_message("commands", 3, row, 1_000_000)
    assert dict(message.headers)["creditfold-attempt"] == attempt


def test_a_header_s_name_comes_back_as_it_was() -> None:
    """Names are kept escaped; the two kinds that the client can't send stay so."""
    names = ["plain", "Größe\n\t", "\U0001f600", "a\\nb", "", "with\0nul", "half\ud800"]
    rows: list[list[str | None]] = [[name.encode("unicode_escape").decode(), None] for name in names]
    message = outcomes.dead_letter_message("commands", 3, dead(headers=rows), 1_000_000)
    sent = [name for name, _ in message.headers[: len(names)]]
    assert sent == [*names[:5], "with\\x00nul", "half\\ud800"]


def test_an_accepted_command_of_an_unknown_kind_is_refused() -> None:
    """A newer worker's decision isn't published as something that it isn't."""
    row = JournalRow(4, "bob", 1, "c", "teleport", "credits", 1, 1, None, 1, 0, 0, "", "")
    with pytest.raises(outcomes.UnknownKindError, match="teleport"):
        outcomes.outcome_message(0, row)
    assert outcomes.outcome_message(0, row._replace(rejection="no")).value is not None
