"""The topics are made as the ledger needs them, and another log is distinguished."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import ConfigResource, ConfigSource, ResourceType
from pydantic import SecretStr
from tenacity import stop_after_attempt

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log import admin, topics
from creditfold.log.admin import KafkaAdmin, KafkaUnavailableError, LeaderMissingError, TopicError, TopicMissingError
from creditfold.log.offsets import end_offsets, log_ends, start_offsets
from creditfold.log.topics import (
    TopicInfo,
    check_topic,
    create_topics,
    describe_log,
    describe_topic,
    topic_config,
    topic_names,
    topic_problems,
)
from helpers.ledgers import topics_made, with_topics_of_its_own
from helpers.stack_under_test import StackUnderTest, free_port
from helpers.support import HANG_S

SETTINGS = Settings(partitions=4)
KINDS = ("commands", "outcomes", "dead_letters")
GOOD = TopicInfo("creditfold.commands.v1", "id", 4, "LogAppendTime", "delete", -1, -1)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, []),
        ({"partitions": 6}, ["6 partitions, CREDITFOLD_PARTITIONS says 4"]),
        ({"timestamp_type": "CreateTime"}, ["message.timestamp.type is CreateTime"]),
        ({"cleanup_policy": "compact"}, ["cleanup.policy is compact"]),
        ({"retention_ms": 604_800_000}, ["retention.ms is 604800000"]),
        ({"retention_bytes": 1_000}, ["retention.bytes is 1000"]),
        ({"retention_ms": None}, ["retention.ms is unknown"]),
        ({"partitions": 1, "retention_ms": 5}, ["1 partitions", "retention.ms is 5"]),
    ],
)
def test_what_is_wrong_with_a_topic(changed: dict[str, object], words: list[str]) -> None:
    """One sentence for each thing."""
    problems = topic_problems(GOOD._replace(**changed), SETTINGS)  # type: ignore[arg-type]
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))


def test_the_topics_of_tests_are_as_ours(ledger_database: Settings) -> None:
    """They are made by fewer requests."""
    theirs = ledger_database
    ours = theirs.model_copy(
        update={f"{kind}_topic": f"ours-{name}" for kind, name in zip(KINDS, topic_names(theirs), strict=True)}
    )
    with topics_made(theirs):
        assert create_topics(theirs) == []
        client = KafkaAdmin(ours).client
        try:
            assert create_topics(ours) == list(topic_names(ours))
            for name, other in zip(topic_names(ours), topic_names(theirs), strict=True):
                made = describe_topic(ours, name)
                assert describe_topic(theirs, other)._replace(name=name, topic_id=made.topic_id) == made
        finally:
            for answer in client.delete_topics(list(topic_names(ours))).values():
                answer.result()


@pytest.mark.parametrize(("replication", "safe"), [(1, False), (2, False), (3, True), (5, True)])
def test_three_replicas_need_two_in_sync(replication: int, safe: bool) -> None:
    """With fewer, two in sync would mean that no broker may be missing."""
    config = topic_config(Settings(replication=replication))
    assert (config.get("min.insync.replicas"), config.get("unclean.leader.election.enable")) == (
        ("2", "false") if safe else (None, None)
    )


def test_the_topic_is_the_truth(ledger_settings: Settings) -> None:
    """Kept for ever, timed by the broker; making it again changes nothing. Its name, id and partitions identify it."""
    info = describe_topic(ledger_settings)
    assert describe_log(ledger_settings) == info.log == (ledger_settings.commands_topic, info.topic_id, 4)
    assert info[:7] == GOOD._replace(name=ledger_settings.commands_topic, topic_id=info.topic_id)[:7]
    assert info.max_message_bytes == ledger_settings.max_message_bytes
    assert [(len(state.replicas), state.in_sync == state.replicas) for state in info.layout] == [(1, True)] * 4
    assert create_topics(ledger_settings) == []
    assert describe_topic(ledger_settings) == info
    assert check_topic(ledger_settings) == []
    assert check_topic(ledger_settings.model_copy(update={"partitions": 5})) != []


def test_one_of_many_creators_creates_it(ledger_settings: Settings) -> None:
    """The others find it there, each of the topics."""
    settings = renamed(ledger_settings, "race")
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create_topics, [settings] * 8))
    assert sorted(name for names in created for name in names) == sorted(topic_names(settings))


def renamed(settings: Settings, suffix: str) -> Settings:
    """The settings of another set of topics."""
    fields = ("commands_topic", "outcomes_topic", "dead_letters_topic")
    return settings.model_copy(update={field: f"{getattr(settings, field)}.{suffix}" for field in fields})


def test_the_other_topics_are_made_to_the_log_s_measure(ledger_settings: Settings) -> None:
    """As many partitions as the log has, whatever the settings say now, and room for more than its largest batch."""
    first = renamed(ledger_settings, "measure").model_copy(update={"partitions": 3, "max_message_bytes": 70_000})
    assert create_topics(first) == list(topic_names(first))
    missing = {name: f"{name}.later" for name in (first.outcomes_topic, first.dead_letters_topic)}
    later = first.model_copy(
        update={
            "outcomes_topic": missing[first.outcomes_topic],
            "dead_letters_topic": missing[first.dead_letters_topic],
            "partitions": 5,
            "max_message_bytes": 90_000,
        }
    )
    assert create_topics(later) == list(missing.values())
    for name in (*missing, *missing.values()):
        info = describe_topic(later, name)
        assert (info.partitions, info.cleanup_policy, info.retention_ms, info.retention_bytes) == (3, "delete", -1, -1)
        assert info.max_message_bytes == 70_000 + 65_536
        admin = KafkaAdmin(later)
        (entries,) = admin.client.describe_configs([ConfigResource(ResourceType.TOPIC, name)]).values()
        kept = entries.result()["compression.type"]
        # Said by the topic itself, and not by whatever the broker's default is.
        assert (kept.value, kept.source) == ("producer", ConfigSource.DYNAMIC_TOPIC_CONFIG.value)


def test_a_missing_topic(stack: StackUnderTest) -> None:
    """The error says how to make it, and asking hasn't made it."""
    settings = stack.settings.model_copy(update={"commands_topic": "creditfold.never.made"})
    for ask in (describe_topic, check_topic, lambda s: end_offsets(s, s.commands_topic, [0])):
        with pytest.raises(TopicMissingError, match=r"creditfold\.never\.made.*creditfold up"):
            ask(settings)


def test_more_replicas_than_brokers(stack: StackUnderTest) -> None:
    """Kafka's own words reach the user."""
    settings = stack.settings.model_copy(update={"commands_topic": "creditfold.too.many", "replication": 3})
    with pytest.raises(TopicError, match="replica"):
        create_topics(settings)


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is there, so nobody is waited for."""
    monkeypatch.setattr(admin, "CONNECT_S", 1.0)


@pytest.mark.usefixtures("_hasty")
def test_kafka_away(capfd: pytest.CaptureFixture[str]) -> None:
    """One error with a remedy, and no noise of the client library."""
    settings = Settings(kafka_bootstrap=f"127.0.0.1:{free_port()}")

    def reported() -> str:
        with pytest.raises(KafkaUnavailableError, match=r"creditfold up.*CREDITFOLD_KAFKA_BOOTSTRAP") as error:
            describe_topic(settings)
        return str(error.value)

    # A slow machine may not let it try to connect in time.
    assert wait_until(lambda: "refused" in reported(), HANG_S)
    assert capfd.readouterr() == ("", "")


def test_offsets_are_those_of_committed_records(ledger_settings: Settings) -> None:
    """
    partition | records            | start | end
    0         | none               | 0     | 0
    1         | 3                  | 0     | 3
    2         | 2 in an open one   | 0     | 0, and 3 after the commit with its marker
    """
    topic = ledger_settings.commands_topic
    plain = Producer(ledger_settings.kafka_client)
    for _ in range(3):
        plain.produce(topic, b"x", partition=1)
    plain.flush(HANG_S)
    transactional = Producer({**ledger_settings.kafka_client, "transactional.id": ledger_settings.group})
    transactional.init_transactions(HANG_S)
    transactional.begin_transaction()
    for _ in range(2):
        transactional.produce(topic, b"x", partition=2)
    transactional.flush(HANG_S)
    assert end_offsets(ledger_settings, topic, range(3)) == {0: 0, 1: 3, 2: 0}
    transactional.commit_transaction(HANG_S)
    # The coordinator answers the commit first and writes the markers after.
    assert wait_until(lambda: end_offsets(ledger_settings, topic, range(3)) == {0: 0, 1: 3, 2: 3}, HANG_S)
    assert start_offsets(ledger_settings, topic, range(3)) == {0: 0, 1: 0, 2: 0}
    assert end_offsets(ledger_settings, topic, []) == {}
    # A partition that the topic hasn't is as missing as a topic.
    with pytest.raises(TopicMissingError):
        end_offsets(ledger_settings, topic, [0, 99])


@pytest.mark.usefixtures("_hasty")
def test_an_error_remembers_nothing_secret() -> None:
    """The password is no part of what is said about a Kafka that is away."""
    settings = Settings(
        kafka_bootstrap=f"127.0.0.1:{free_port()}",
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_username="u",
        kafka_password=SecretStr("hunter2"),
    )
    with pytest.raises(KafkaUnavailableError) as error:
        KafkaAdmin(settings).ask(lambda: None)
    assert "hunter2" not in str(error.value)


def test_a_kafka_that_is_away_is_asked_once(ledger_database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a broker was asked that answered before is asked again."""
    kept, asked = KafkaAdmin(ledger_database), []

    class Silent:
        poll = staticmethod(kept.client.poll)

        def list_topics(self, **_: Any) -> None:
            asked.append("topics")
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    monkeypatch.setattr(kept, "client", Silent())
    with pytest.raises(KafkaUnavailableError):
        kept.ask(lambda: asked.append("question"))
    assert asked == ["topics"]


@pytest.mark.usefixtures("_hasty")
def test_an_administration_client_goes_with_its_last_reference() -> None:
    """It has threads and one of the process's 1,024 keys of thread-local data, which can't wait for the collector."""
    settings = Settings(kafka_bootstrap=f"127.0.0.1:{free_port()}")
    gc.disable()
    try:
        left = weakref.ref(KafkaAdmin(settings).client)
        assert left() is None
        admin = KafkaAdmin(settings)
        after_an_error = weakref.ref(admin.client)
        with pytest.raises(KafkaUnavailableError):
            admin.ask(lambda: None)
        del admin
        assert after_an_error() is None
    finally:
        gc.enable()


def test_a_client_that_is_kept_finds_a_kafka_that_is_back(
    ledger_settings: Settings, stack: StackUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, however Kafka ended; why it couldn't connect then isn't said of what comes later."""
    topic, kept = ledger_settings.commands_topic, KafkaAdmin(ledger_settings)
    ends = log_ends(ledger_settings, topic, range(4), kept)
    for kill in (False, True):
        stack.stop_kafka(kill=kill)
        monkeypatch.setattr(admin, "CONNECT_S", 1.0)
        try:
            with pytest.raises(KafkaUnavailableError):
                log_ends(ledger_settings, topic, range(4), kept)
        finally:
            stack.start_kafka()
        kept._last_error.reason = "of the outage"
        monkeypatch.setattr(admin, "CONNECT_S", HANG_S)
        assert log_ends(ledger_settings, topic, range(4), kept) == ends
        assert kept._last_error.reason == ""


#: What Kafka's protocol calls retriable of the answers to an administration client, by their numbers there; but for a
#: topic that isn't known, which has a meaning of its own, and for a request that took too long.
PASSING = (5, 6, 9, 13, 14, 15, 16, 41, 56, 74, 75, 78, 83)


def test_a_partition_that_is_moving_is_asked_again(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka names a new partition's leader before the leader knows of it, and its leaders are looked up each time."""
    answers: list[int] = []
    client = KafkaAdmin(ledger_settings)

    def question() -> str:
        assert ledger_settings.commands_topic in client.topics
        client.topics = set()
        if answers:
            raise KafkaException(KafkaError(answers.pop()))
        return "answer"

    # The last is the client's own, of an answer that named no leader at all.
    for code in (*PASSING, KafkaError._NOENT):
        answers.append(code)
        assert client.ask(question) == "answer"
    # Its broker died, and another one leads.
    answers[:] = [KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT]
    assert client.ask(question) == "answer"
    monkeypatch.setattr(admin.WHILE_MOVING, "stop", stop_after_attempt(2))
    answers[:] = [KafkaError._TIMED_OUT] * 2
    with pytest.raises(KafkaUnavailableError, match="Timed out"):
        client.ask(question)
    answers[:] = [KafkaError.LEADER_NOT_AVAILABLE] * 2
    with pytest.raises(LeaderMissingError, match=r"Leader not available.*creditfold doctor"):
        client.ask(question)


def test_a_broker_that_does_not_know_a_new_topic_yet_is_asked_again(
    ledger_database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one knew it: each request may go to another broker."""
    describe, asked = topics._describe, []

    def describe_late(*arguments: Any) -> TopicInfo:
        asked.append(arguments)
        if len(asked) == 1:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return describe(*arguments)

    settings = with_topics_of_its_own(ledger_database)
    monkeypatch.setattr(topics, "_describe", describe_late)
    with topics_made(settings):
        assert create_topics(settings) == []
        assert len(asked) == 2
