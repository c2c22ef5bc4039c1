"""The doctor finds each thing that loses commands or makes balances wrong: in facts, and on real servers."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    NewPartitions,
)

from creditfold.cli.main import _run
from creditfold.common.checks import Check, worst_first
from creditfold.common.position import Log, Position
from creditfold.common.settings import Settings, load_settings
from creditfold.common.waiting import wait_until
from creditfold.log import admin
from creditfold.log.admin import KafkaUnavailableError, TopicError, TopicMissingError
from creditfold.log.bookmark import Bookmark
from creditfold.log.doctor.facts import FoldedLog, KafkaFacts, LogExtent, TopicFacts, kafka_facts
from creditfold.log.doctor.kafka_checks import examine_kafka
from creditfold.log.open_transactions import OpenTransaction
from creditfold.log.topics import PartitionState, TopicInfo, describe_topic
from creditfold.processors.doctor import UnsafeError, examine, refuse_unsafe
from creditfold.projections.doctor.postgres import (
    Collations,
    DatabaseFacts,
    examine_postgres,
    judge_searchable,
    outside,
)
from creditfold.projections.sessions import ServerSetting
from helpers.command_line import use
from helpers.databases import role, with_dsn
from helpers.stack_under_test import free_port
from helpers.support import HANG_S, alter, append, delete_before, execute, fold_log, make_anew, query, record

SETTINGS = Settings(partitions=2, commands_topic="commands", outcomes_topic="outcomes", dead_letters_topic="dead")
NOW_MS = 1_800_000_000_000
LAYOUT = (PartitionState(0, 1, (1, 2, 3), (1, 2, 3)), PartitionState(1, 2, (2, 3, 1), (1, 2, 3)))
COMMANDS = TopicInfo("commands", "id", 2, "LogAppendTime", "delete", -1, -1, 1_000_000, 2, False, LAYOUT)
OUTCOMES = COMMANDS._replace(
    name="outcomes", topic_id="o", timestamp_type="CreateTime", max_message_bytes=1_000_000 + 65_536
)
DEAD = OUTCOMES._replace(name="dead", topic_id="d")
EXTENT = LogExtent({0: 0, 1: 0}, {0: 9, 1: 5}, {0: NOW_MS - 60_000})
KAFKA = KafkaFacts(
    frozenset({1, 2, 3}),
    {1: False, 2: False, 3: False},
    TopicFacts("commands", COMMANDS),
    TopicFacts("outcomes", OUTCOMES),
    TopicFacts("dead", DEAD),
    EXTENT,
)
FOLDED = FoldedLog(Log("commands", "id", 2), {0: 9, 1: 3})
REFUSED = TopicError("Kafka refused.", "")
MISSING = TopicMissingError("There is none.", "")

Bad = tuple[str, str, str]


def bad(checks: list[Check]) -> list[Bad]:
    """What isn't well."""
    return [(check.subject, check.name, check.state) for check in checks if check.state != "ok"]


def held(topic: str, since_ms: int | None) -> KafkaFacts:
    """Healthy facts but for a transaction that is open in one topic."""
    facts: TopicFacts = getattr(KAFKA, topic)
    found = [OpenTransaction(facts.name, 1, 7, 3, since_ms)]
    return KAFKA._replace(**{topic: facts._replace(open_transactions=found)})


def of(topic: str, **changed: Any) -> KafkaFacts:
    """Healthy facts but for one topic's description."""
    facts = getattr(KAFKA, topic)
    return KAFKA._replace(**{topic: facts._replace(info=facts.info._replace(**changed))})


def all_of(**changed: Any) -> KafkaFacts:
    """Healthy facts but for every topic's description."""
    topics = {name: of(name, **changed) for name in ("commands", "outcomes", "dead_letters")}
    return KAFKA._replace(**{name: getattr(facts, name) for name, facts in topics.items()})


def each(name: str, state: str) -> list[Bad]:
    return [(topic, name, state) for topic in ("commands", "outcomes", "dead")]


def replicated(replicas: int) -> tuple[PartitionState, ...]:
    brokers = tuple(range(1, replicas + 1))
    return tuple(PartitionState(partition, 1, brokers, brokers) for partition in (0, 1))


def ahead(ms: int) -> KafkaFacts:
    return KAFKA._replace(extent=EXTENT._replace(newest_ms={0: NOW_MS - 1, 1: NOW_MS + ms}))


def led(leader: int | None, in_sync: tuple[int, ...]) -> tuple[PartitionState, ...]:
    return (LAYOUT[0], PartitionState(1, leader, (2, 3, 1), in_sync))


UNTOLD = {
    "timestamp_type": None,
    "cleanup_policy": None,
    "retention_ms": None,
    "retention_bytes": None,
    "max_message_bytes": None,
    "min_in_sync": None,
    "unclean_election": None,
}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (KAFKA, []),
        # Each topic by itself.
        (KAFKA._replace(commands=TopicFacts("commands", MISSING), extent=MISSING), [("commands", "exists", "danger")]),
        (KAFKA._replace(outcomes=TopicFacts("outcomes", MISSING)), [("outcomes", "exists", "danger")]),
        (KAFKA._replace(dead_letters=TopicFacts("dead", MISSING)), [("dead", "exists", "danger")]),
        (KAFKA._replace(dead_letters=TopicFacts("dead", REFUSED)), [("dead", "description", "unknown")]),
        (all_of(cleanup_policy="compact"), each("cleanup.policy", "danger")),
        (of("commands", cleanup_policy="compact,delete"), [("commands", "cleanup.policy", "danger")]),
        (all_of(retention_ms=604_800_000), each("retention.ms", "danger")),
        (all_of(retention_bytes=1), each("retention.bytes", "danger")),
        (of("commands", timestamp_type="CreateTime"), [("commands", "message.timestamp.type", "danger")]),
        (of("outcomes", timestamp_type="LogAppendTime"), []),
        (all_of(unclean_election=True), each("unclean.leader.election.enable", "danger")),
        # Replicas.
        (
            all_of(layout=replicated(1), min_in_sync=1)._replace(brokers=frozenset({1})),
            each("replication factor", "warning"),
        ),
        (
            all_of(layout=replicated(1), min_in_sync=1)._replace(brokers=frozenset({1, 2})),
            each("replication factor", "warning"),
        ),
        (all_of(layout=replicated(1), min_in_sync=1), each("replication factor", "danger")),
        (all_of(layout=replicated(2), min_in_sync=1), each("replication factor", "warning")),
        (all_of(min_in_sync=1), each("min.insync.replicas", "danger")),
        (all_of(min_in_sync=3), each("min.insync.replicas", "warning")),
        (of("commands", layout=led(1, (1, 2))), [("commands", "replicas", "warning")]),
        (of("commands", layout=led(1, (1,))), [("commands", "replicas", "danger")]),
        (of("commands", layout=led(None, (1, 2, 3))), [("commands", "replicas", "danger")]),
        # The topics among each other.
        (of("outcomes", partitions=1), [("outcomes", "partitions", "danger")]),
        (of("dead_letters", partitions=3), [("dead", "partitions", "warning")]),
        (of("dead_letters", max_message_bytes=999_999), [("dead", "max.message.bytes", "danger")]),
        (of("outcomes", max_message_bytes=1_000_000), [("outcomes", "max.message.bytes", "warning")]),
        # More partitions than were folded: the others have as many as they should.
        (
            of("commands", partitions=3),
            [("commands", "partitions as set", "warning"), ("projection", "source partitions", "danger")],
        ),
        (of("commands", topic_id="another"), [("projection", "source topic's id", "danger")]),
        # How far the log reaches.
        (KAFKA._replace(extent=EXTENT._replace(starts={0: 4, 1: 0})), [("commands", "start of the log", "danger")]),
        (KAFKA._replace(extent=EXTENT._replace(ends={0: 8, 1: 5})), [("commands", "end of the log", "danger")]),
        (KAFKA._replace(extent=EXTENT._replace(old=[Position(1, 0)])), [("commands", "first records", "danger")]),
        (KAFKA._replace(extent=REFUSED), [("commands", "offsets", "unknown")]),
        (KAFKA._replace(extent=EXTENT._replace(newest_ms=REFUSED)), [("commands", "append times", "unknown")]),
        (ahead(5_000), []),
        (ahead(5_001), [("commands", "append times", "warning")]),
        (ahead(300_001), [("commands", "append times", "danger")]),
        (KAFKA._replace(extent=EXTENT._replace(newest_ms={})), []),
        # Transactions: one that began just now is nobody's trouble.
        (held("commands", NOW_MS - 4_000), []),
        (held("commands", NOW_MS - 6_000), [("commands", "open transactions", "danger")]),
        (held("outcomes", NOW_MS - 6_000), [("outcomes", "open transactions", "warning")]),
        (held("dead_letters", None), [("dead", "open transactions", "warning")]),
        (
            KAFKA._replace(commands=KAFKA.commands._replace(open_transactions=REFUSED)),
            [("commands", "open transactions", "unknown")],
        ),
        # The brokers.
        (KAFKA._replace(auto_create={1: False, 2: True}), [("brokers", "auto.create.topics.enable", "warning")]),
        (KAFKA._replace(auto_create={1: False, 2: None}), [("brokers", "auto.create.topics.enable", "unknown")]),
        (KAFKA._replace(auto_create={}), [("brokers", "auto.create.topics.enable", "unknown")]),
    ],
)
def test_what_kafka_reports_is_judged(facts: KafkaFacts, expected: list[Bad]) -> None:
    """Each fault is named, and nothing else."""
    checks = examine_kafka(facts, SETTINGS, FOLDED, NOW_MS)
    assert sorted(bad(checks)) == sorted(expected)
    assert all(check.why and (check.remedy or check.state == "ok") for check in checks)


def test_what_kafka_does_not_say_is_unknown() -> None:
    """Every setting that a broker keeps to itself, and no crash."""
    checks = examine_kafka(all_of(**UNTOLD), SETTINGS, FOLDED, NOW_MS)
    assert {state for _, _, state in bad(checks)} == {"unknown"}
    names = [name for subject, name, _ in bad(checks) if subject == "outcomes"]
    settings = ["cleanup.policy", "retention.ms", "retention.bytes", "min.insync.replicas"]
    assert names == [*settings, "unclean.leader.election.enable", "max.message.bytes"]
    assert ("commands", "message.timestamp.type", "unknown") in bad(checks)


@pytest.mark.parametrize(
    ("folded", "expected"),
    [
        (None, []),
        (FoldedLog(Log("commands", "id", 2), {0: 9, 1: 5}), []),
        (FoldedLog(Log("others", "id", 2), {0: 99}), [("projection", "source topic", "danger")]),
        (FoldedLog(Log("commands", "old", 2), {0: 99}), [("projection", "source topic's id", "danger")]),
        (
            FoldedLog(Log("commands", "id", 1), {0: 9}),
            [
                ("projection", "source partitions", "danger"),
                ("outcomes", "partitions", "warning"),
                ("dead", "partitions", "warning"),
            ],
        ),
    ],
)
def test_the_projection_must_be_of_this_log(folded: FoldedLog | None, expected: list[Bad]) -> None:
    """One that was folded from another log has no offsets to compare."""
    assert sorted(bad(examine_kafka(KAFKA, SETTINGS, folded, NOW_MS))) == sorted(expected)


@pytest.mark.parametrize(
    ("folded", "words"), [(None, "Make it with `creditfold init`"), (FOLDED, "don't run `creditfold init`")]
)
def test_a_lost_log_must_not_be_made_anew(folded: FoldedLog | None, words: str) -> None:
    """Where something was folded from it; where nothing was, it is made."""
    facts = KAFKA._replace(commands=TopicFacts("commands", MISSING), extent=MISSING)
    (lost,) = [check for check in examine_kafka(facts, SETTINGS, folded, NOW_MS) if check.state == "danger"]
    assert words in lost.remedy


@pytest.mark.parametrize(
    ("next_offsets", "words"),
    [
        ({0: 4, 1: 2}, "a rebuild is impossible"),
        ({0: 3, 1: 2}, "Partition 0 was not folded past the gap"),
        ({}, "Partition 0, 1 was not folded past the gap"),
        (None, "restore the topic from a backup."),
    ],
)
def test_a_gap_says_what_is_left(next_offsets: dict[int, int] | None, words: str) -> None:
    """How much is gone, where, and whether the balances hold it."""
    folded = None if next_offsets is None else FOLDED._replace(next_offsets=next_offsets)
    facts = KAFKA._replace(extent=EXTENT._replace(starts={0: 4, 1: 2}))
    (gap,) = [check for check in examine_kafka(facts, SETTINGS, folded, NOW_MS) if check.state == "danger"]
    assert gap.seen == "6 offsets are gone: 4 in partition 0, 2 in partition 1"
    assert words in gap.remedy


def test_many_partitions_are_not_all_named() -> None:
    """Ten, and how many more."""
    facts = KAFKA._replace(extent=EXTENT._replace(starts=dict.fromkeys(range(12), 1)))
    (gap,) = [check for check in examine_kafka(facts, SETTINGS, None, NOW_MS) if check.name == "start of the log"]
    assert gap.seen.startswith("12 offsets are gone: 1 in partition 0, ")
    assert gap.seen.endswith("1 in partition 9 and 2 more")


def test_settings_are_judged_too() -> None:
    """One name for two topics, and another count of partitions than the topic has."""
    same = SETTINGS.model_copy(update={"outcomes_topic": "commands"})
    assert ("settings", "topic names", "danger") in bad(examine_kafka(KAFKA, same, FOLDED, NOW_MS))
    other = SETTINGS.model_copy(update={"partitions": 8})
    assert bad(examine_kafka(KAFKA, other, FOLDED, NOW_MS)) == [("commands", "partitions as set", "warning")]


@pytest.mark.parametrize(("protocol", "secured"), [("PLAINTEXT", False), ("SASL_SSL", True)])
def test_remedies_are_commands_to_copy(protocol: str, secured: bool) -> None:
    """With the address and topic in force; where Kafka asks who one is, with the file that says so."""
    settings = SETTINGS.model_copy(update={"kafka_bootstrap": "k:9092", "kafka_security_protocol": protocol})
    (check,) = [
        check
        for check in examine_kafka(of("commands", retention_ms=5), settings, FOLDED, NOW_MS)
        if check.state == "danger"
    ]
    extra = " --command-config client.properties" if secured else ""
    assert check.remedy == (
        f"kafka-configs.sh --bootstrap-server k:9092{extra} --alter --entity-type topics --entity-name commands"
        " --add-config retention.ms=-1"
    )


DATABASE = DatabaseFacts(
    {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"},
    "UTF8",
    0.1,
    False,
    True,
    True,
    FOLDED.log,
    {partition: Bookmark(offset) for partition, offset in FOLDED.next_offsets.items()},
)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"settings": {**DATABASE.settings, "fsync": "off"}}, [("fsync", "danger")]),
        ({"settings": {**DATABASE.settings, "full_page_writes": "off"}}, [("full_page_writes", "danger")]),
        ({"settings": {**DATABASE.settings, "synchronous_commit": "off"}}, [("synchronous_commit", "warning")]),
        ({"settings": {**DATABASE.settings, "synchronous_commit": "remote_apply"}}, []),
        ({"encoding": "LATIN1"}, [("server encoding", "danger")]),
        ({"clock_ahead_s": 2.0}, []),
        ({"clock_ahead_s": 2.1}, [("clock", "warning")]),
        ({"clock_ahead_s": -2.1}, [("clock", "warning")]),
        ({"may_write": False}, [("writing", "danger")]),
        ({"read_only": True}, [("writing", "danger")]),
        ({"source": None}, [("ledger", "unknown")]),
        ({"source": None, "prepared": False}, [("ledger", "warning")]),
        (
            {"session_settings": [ServerSetting("DateStyle", "German", "for the role")]},
            [("session settings", "warning")],
        ),
        ({"lacking": ["there is no role creditfold_reader"]}, [("readers", "warning")]),
        ({"collations": Collations("ledger", [])}, [("collation", "warning")]),
        ({"collations": Collations(None, ["ledger.mine"])}, [("collation", "danger")]),
    ],
)
def test_what_postgresql_reports_is_judged(changed: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """Each fault is named, and nothing else."""
    checks = examine_postgres(DATABASE._replace(**changed))
    assert [(check.name, check.state) for check in checks if check.state != "ok"] == expected
    assert all(check.why and check.remedy for check in checks)


def test_a_key_that_is_declared_and_not_kept_is_named() -> None:
    """Searches by it are refused until a generation keeps it. One that is kept and no longer declared does no harm."""
    found = {kept: judge_searchable(kept, ["a", "b"]) for kept in ((), ("a",), ("a", "b", "c"))}
    assert [(check.state, check.seen) for check in found.values()] == [
        ("warning", "a, b isn't kept"),
        ("warning", "b isn't kept"),
        ("ok", "a, b, c"),
    ]
    assert judge_searchable((), ()).state == "ok"


@pytest.mark.parametrize(("instant", "ahead"), [(9.5, -0.5), (10.0, 0.0), (17.0, 0.0), (20.0, 0.0), (23.0, 3.0)])
def test_a_clock_is_not_off_by_how_long_it_took_to_ask(instant: float, ahead: float) -> None:
    """Asked at 10, answered at 20: a server that took so long, on a busy machine, has a clock that is well."""
    assert outside(instant, 10.0, 20.0) == ahead


def test_the_worst_come_first_and_the_well_need_no_remedy() -> None:
    """In the order in which they were found otherwise."""
    states = ["ok", "unknown", "danger", "warning", "ok", "danger"]
    checks = [Check("s", str(n), state, "", "why", "do") for n, state in enumerate(states)]  # type: ignore[arg-type]
    ordered = worst_first(checks)
    assert [check.name for check in ordered] == ["2", "5", "3", "1", "0", "4"]
    assert [check.remedy for check in ordered] == ["do", "do", "do", "do", "", ""]


@pytest.mark.parametrize(
    ("state", "strict", "refused"),
    [
        ("ok", True, False),
        ("warning", False, False),
        ("unknown", False, False),
        ("danger", False, True),
        ("warning", True, True),
        ("unknown", True, True),
    ],
)
def test_danger_is_refused_and_with_strict_everything_bad(state: Any, strict: bool, refused: bool) -> None:
    """The error names the checks."""
    checks = [Check("topic", "thing", state, "", "", ""), Check("topic", "other", "ok", "", "", "")]
    if not refused:
        refuse_unsafe(checks, strict=strict)
        return
    with pytest.raises(UnsafeError, match=r"Not safe: topic thing\."):
        refuse_unsafe(checks, strict=strict)


# On real servers.

Doctor = Callable[..., tuple[int, list[Bad]]]


@pytest.fixture
def doctor(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Runs `creditfold doctor --json` on a ledger with its tables made, or on other settings; what is dangerous."""

    def run(*arguments: str, settings: Settings = ledger_settings) -> tuple[int, list[Bad]]:
        use(settings, monkeypatch)
        code = _run([*(arguments or ("doctor", "--json"))])
        out = capsys.readouterr().out
        load_settings.cache_clear()
        if arguments:
            return code, []
        found = [(row["subject"], row["name"], row["state"]) for row in json.loads(out)["checks"]]
        return code, [row for row in found if row[2] == "danger"]

    assert run("init")[0] == 0
    return run


def test_a_healthy_development_stack_has_warnings_only(doctor: Doctor, ledger_settings: Settings) -> None:
    """One broker has one replica, and that's all; nothing that can be asked is unknown."""
    assert doctor() == (0, [])
    warned = [check for check in examine(ledger_settings) if check.state != "ok"]
    assert {(check.name, check.state) for check in warned} == {("replication factor", "warning")}
    assert len(warned) == 3
    assert doctor("doctor", "--strict")[0] == 1


def test_the_report_for_people(
    doctor: Doctor, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is bad comes first, with its reason and remedy; what is well takes a line for each subject."""
    topic = ledger_settings.commands_topic
    alter(ledger_settings, topic, cleanup_policy="compact")
    use(ledger_settings, monkeypatch)
    assert _run(["doctor"]) == 1
    load_settings.cache_clear()
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split() == ["state", "subject", "check", "seen"]
    assert lines[1].split() == ["danger", topic, "cleanup.policy", "compact"]
    assert [line.split()[0] for line in lines[2:5]] == ["warning"] * 3
    assert f"danger: {topic}: cleanup.policy: compact" in lines
    assert f"--entity-name {topic} --add-config cleanup.policy=delete" in said.out
    assert lines[-1].startswith("1 danger, 3 warning, 0 unknown, ")
    assert said.err.startswith(f"error: Not safe: {topic} cleanup.policy.\n")


def test_a_changed_setting_of_a_topic_is_named(doctor: Doctor, ledger_settings: Settings) -> None:
    """And no more once it is mended by what the remedy says."""
    log, letters = ledger_settings.commands_topic, ledger_settings.dead_letters_topic
    changed = {
        "cleanup.policy": "compact",
        "retention.ms": "604800000",
        "retention.bytes": "1000000000",
        "message.timestamp.type": "CreateTime",
        "unclean.leader.election.enable": "true",
    }
    alter(ledger_settings, log, **changed)
    # Dead letters find no room in a topic that takes less than the log does.
    alter(ledger_settings, letters, max_message_bytes="1000")
    code, found = doctor()
    wanted = [*((log, name, "danger") for name in changed), (letters, "max.message.bytes", "danger")]
    assert (code, sorted(found)) == (1, sorted(wanted))
    for check in examine(ledger_settings):
        if check.state == "danger":
            name, _, value = check.remedy.rpartition(" ")[2].partition("=")
            alter(ledger_settings, check.subject, **{name: value})
    assert doctor() == (0, [])


def test_added_partitions_are_danger(doctor: Doctor, ledger_settings: Settings) -> None:
    """The log has another count than the projection; then the outcomes have too few."""
    add_partition(ledger_settings)
    assert doctor() == (1, [("projection", "source partitions", "danger")])


def add_partition(settings: Settings) -> None:
    """A fifth one, of the log."""
    client, topic = AdminClient(settings.kafka_client), settings.commands_topic
    client.create_partitions([NewPartitions(topic, 5)])[topic].result(HANG_S)
    assert wait_until(lambda: describe_topic(settings).partitions == 5, HANG_S)


@pytest.mark.unprepared
def test_outcomes_with_fewer_partitions_than_the_log(ledger_settings: Settings) -> None:
    """Before anything is folded, the log's own count is the measure."""
    add_partition(ledger_settings)
    found = [check for check in examine(ledger_settings) if check.state == "danger"]
    assert [(check.subject, check.name) for check in found] == [
        (ledger_settings.outcomes_topic, "partitions"),
        (ledger_settings.dead_letters_topic, "partitions"),
    ]
    assert "--partitions 5" in found[0].remedy


def test_a_gap_at_the_start_is_danger(doctor: Doctor, ledger_settings: Settings) -> None:
    """First one that the balances hold, then one that was never folded."""
    topic = ledger_settings.commands_topic
    append(ledger_settings, [record("Grant", f"g{n}", "alice", 5) for n in range(9)])
    fold_log(ledger_settings)
    ((partition,),) = query(ledger_settings, "SELECT log_partition FROM ledger.balances")
    assert doctor() == (0, [])

    def gap_before(offset: int) -> Check:
        delete_before(ledger_settings, topic, partition, offset)
        assert doctor() == (1, [(topic, "start of the log", "danger")])
        return examine(ledger_settings)[0]

    gap = gap_before(4)
    assert gap.seen == f"4 offsets are gone: 4 in partition {partition}"
    assert "a rebuild is impossible" in gap.remedy
    append(ledger_settings, [record("Grant", f"h{n}", "alice", 5) for n in range(9)])
    gap = gap_before(12)
    assert f"Partition {partition} was not folded past the gap" in gap.remedy


def test_a_log_shorter_than_what_was_folded_is_danger(doctor: Doctor, ledger_settings: Settings) -> None:
    """As a topic restored from an old backup would be, under its old id."""
    execute(ledger_settings, "UPDATE ledger_0001.progress SET next_offset = 7 WHERE log_partition = 2")
    assert doctor() == (1, [(ledger_settings.commands_topic, "end of the log", "danger")])


def test_a_record_from_the_future_is_reported(ledger_settings: Settings) -> None:
    """The broker takes a producer's word for the time where the topic lets it."""
    topic = ledger_settings.commands_topic
    most = str(2**63 - 1)
    alter(ledger_settings, topic, message_timestamp_type="CreateTime", message_timestamp_after_max_ms=most)
    producer = Producer(ledger_settings.kafka_client)
    for ahead_ms, state in ((0, "ok"), (60_000, "warning"), (3_600_000, "danger")):
        now_ms = time.time_ns() // 1_000_000
        for shift_ms in (0, ahead_ms, 0):
            producer.produce(topic, b"x", partition=1, timestamp=now_ms + shift_ms)
        assert producer.flush(HANG_S) == 0
        facts = kafka_facts(ledger_settings)
        assert isinstance(facts.extent, LogExtent)
        assert facts.extent.newest_ms == {1: now_ms + ahead_ms}
        checks = {check.name: check.state for check in examine_kafka(facts, ledger_settings, None, now_ms)}
        assert checks["append times"] == state


def test_another_topic_than_the_one_folded_is_danger(doctor: Doctor, ledger_settings: Settings) -> None:
    """First one that isn't there, then one that is."""
    other = ledger_settings.model_copy(update={"commands_topic": f"{ledger_settings.commands_topic}.other"})
    mixed = ("projection", "source topic", "danger")
    assert doctor(settings=other) == (1, [(other.commands_topic, "exists", "danger"), mixed])
    swapped = ledger_settings.model_copy(
        update={
            "commands_topic": ledger_settings.outcomes_topic,
            "outcomes_topic": ledger_settings.commands_topic,
        }
    )
    code, found = doctor(settings=swapped)
    assert code == 1
    assert mixed in found


def test_a_topic_made_anew_is_danger(doctor: Doctor, ledger_settings: Settings) -> None:
    """It has the name and the partitions of the old one, and is another log."""
    make_anew(ledger_settings)
    assert doctor() == (1, [("projection", "source topic's id", "danger")])


def test_a_user_that_may_only_read_is_reported(doctor: Doctor, ledger_settings: Settings) -> None:
    """It can't fold, and it doesn't see what was folded."""
    with role(ledger_settings, "IN ROLE creditfold_reader") as reader:
        assert doctor(settings=reader) == (1, [("PostgreSQL", "writing", "danger")])
        assert ("PostgreSQL", "ledger", "unknown") in bad(examine(reader))


def test_settings_of_the_session_are_seen(doctor: Doctor, ledger_settings: Settings) -> None:
    """A database may have its own."""
    name = ledger_settings.group  # The fixture gives both one name.
    execute(ledger_settings, f"ALTER DATABASE {name} SET synchronous_commit = off")
    assert ("PostgreSQL", "synchronous_commit", "warning") in bad(examine(ledger_settings))
    execute(ledger_settings, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert doctor() == (1, [("PostgreSQL", "writing", "danger")])


def test_a_server_away_leaves_the_other_examined(
    doctor: Doctor, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all is well again once both are there."""
    topic = ledger_settings.commands_topic
    alter(ledger_settings, topic, retention_ms="5000000000")
    without_postgres = with_dsn(ledger_settings, host="127.0.0.1", port=str(free_port()))
    assert doctor(settings=without_postgres) == (
        1,
        [(topic, "retention.ms", "danger"), ("PostgreSQL", "answer", "danger")],
    )
    alter(ledger_settings, topic, retention_ms="-1")
    without_kafka = ledger_settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"})
    with monkeypatch.context() as patched:
        patched.setattr(admin, "CONNECT_S", 0.5)
        assert doctor(settings=without_kafka) == (1, [("Kafka", "answer", "danger")])
        with pytest.raises(KafkaUnavailableError):
            kafka_facts(without_kafka)
        assert ("PostgreSQL", "fsync") in {(check.subject, check.name) for check in examine(without_kafka)}
    assert doctor() == (0, [])
