"""Owns the topics' settings: creates the topics, describes one, and reports what makes one unfit to be the log.

Refuses to know what the records mean, and never changes or deletes a topic that exists.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection

# The package says what it exports to people, in its documentation, but not to the type checker.
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from creditfold.common.position import Log
from creditfold.common.settings import Settings
from creditfold.common.waiting import PAUSE_S, wait_until
from creditfold.log.admin import (
    PROPAGATION_S,
    REQUEST_S,
    KafkaAdmin,
    TopicError,
    TopicMissingError,
    read_config,
    topic_id_text,
)

FOREVER = -1
#: A dead letter is its record, with headers about it; an outcome has its command's texts and what it came to.
HEADROOM_BYTES = 65_536


class PartitionState(NamedTuple):
    """Where one partition's replicas are, by broker id; `leader` is None while it has none."""

    partition: int
    leader: int | None
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


class TopicInfo(NamedTuple):
    """What a topic is. Times are in milliseconds, sizes in bytes; -1 is no limit, None what Kafka doesn't show us."""

    name: str
    topic_id: str
    partitions: int
    timestamp_type: str | None
    cleanup_policy: str | None
    retention_ms: int | None
    retention_bytes: int | None
    max_message_bytes: int | None = None
    min_in_sync: int | None = None
    unclean_election: bool | None = None
    layout: tuple[PartitionState, ...] = ()

    @property
    def log(self) -> Log:
        """Its identity, by which a projection knows the log that it was folded from."""
        return Log(self.name, self.topic_id, self.partitions)


def topic_names(settings: Settings) -> tuple[str, str, str]:
    """The names of the topics: commands, outcomes, dead letters."""
    return settings.commands_topic, settings.outcomes_topic, settings.dead_letters_topic


def create_topics(settings: Settings, config: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Create the topics that are missing, the command topic first. Returns the names of those that this call created.

    `config` has Kafka's settings of a new command topic that differ from those of a log.

    Raises KafkaUnavailableError, or TopicError where Kafka refuses (more replicas than brokers, no right to).
    """
    admin = KafkaAdmin(settings)
    commands, outcomes, dead_letters = topic_names(settings)
    created = _ensure(admin, settings, commands, settings.partitions, {**topic_config(settings), **config})
    # An outcome goes into the partition of its command, so the other topics get as many partitions as the log has,
    # whatever the settings say.
    # That one broker knows the topic, as was just seen, doesn't say that the next one that is asked does.
    known = Retrying(
        stop=stop_after_delay(PROPAGATION_S),
        wait=wait_fixed(PAUSE_S),
        retry=retry_if_exception_type(TopicMissingError),
        reraise=True,
    )
    log = known(admin.ask, lambda: _describe(admin.client, commands), commands)
    config = derived_config(settings, log.max_message_bytes or settings.max_message_bytes)
    created += _ensure(admin, settings, outcomes, log.partitions, config)
    created += _ensure(admin, settings, dead_letters, log.partitions, config)
    return created


def _ensure(admin: KafkaAdmin, settings: Settings, name: str, partitions: int, config: dict[str, str]) -> list[str]:
    topic = NewTopic(name, num_partitions=partitions, replication_factor=settings.replication, config=config)
    created = admin.ask(lambda: _create(admin, topic), name)
    # Kafka answers before each broker knows the topic, and a client that asks too early gets the answer that it is
    # missing.
    if not wait_until(lambda: _is_known(admin, name), PROPAGATION_S):
        raise TopicError(f"The topic {name} was created but can't be seen.", "Look into the broker's log.")
    return [name] if created else []


def _create(admin: KafkaAdmin, topic: NewTopic) -> bool:
    if _is_known(admin, topic.topic):
        return False
    try:
        admin.client.create_topics([topic], request_timeout=REQUEST_S)[topic.topic].result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise
    return True


def topic_config(settings: Settings) -> dict[str, str]:
    """Return Kafka's settings of the command topic: never deleted from, and timed by the broker."""
    return _unlimited_retention(settings) | {
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(settings.max_message_bytes),
    }


def derived_config(settings: Settings, log_message_bytes: int) -> dict[str, str]:
    """Kafka's settings of the topics that are written from the log, whose records are larger than the log's.

    Their batches stay compressed as the publisher sends them, whatever the broker's own `compression.type` is: the
    publisher's codec is one that every client can read.
    """
    return _unlimited_retention(settings) | {
        "max.message.bytes": str(log_message_bytes + HEADROOM_BYTES),
        "compression.type": "producer",
    }


def _unlimited_retention(settings: Settings) -> dict[str, str]:
    config = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    if settings.replication >= 3:
        config |= {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}
    return config


def _is_known(admin: KafkaAdmin, name: str) -> bool:
    asked = admin.client.describe_topics(TopicCollection([name]), request_timeout=REQUEST_S)
    try:
        return all(partition.leader is not None for partition in asked[name].result().partitions)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return False
        raise


def describe_topic(settings: Settings, name: str | None = None, admin: KafkaAdmin | None = None) -> TopicInfo:
    """Describe a topic, the command topic unless `name` says another; by a client of its own if none is given.

    Raises TopicMissingError, KafkaUnavailableError or TopicError.
    """
    admin, topic = admin or KafkaAdmin(settings), name or settings.commands_topic
    return admin.ask(lambda: _describe(admin.client, topic), topic)


def describe_log(settings: Settings, admin: KafkaAdmin | None = None) -> Log:
    """Return the command topic's identity. Raises what describe_topic raises."""
    return describe_topic(settings, admin=admin).log


def _describe(client: AdminClient, name: str) -> TopicInfo:
    topic = client.describe_topics(TopicCollection([name]), request_timeout=REQUEST_S)[name].result()
    config = read_config(client, ConfigResource(ResourceType.TOPIC, name))
    unclean = config.get("unclean.leader.election.enable")
    return TopicInfo(
        name=name,
        topic_id=topic_id_text(topic.topic_id),
        partitions=len(topic.partitions),
        timestamp_type=config.get("message.timestamp.type"),
        cleanup_policy=config.get("cleanup.policy"),
        retention_ms=_number(config, "retention.ms"),
        retention_bytes=_number(config, "retention.bytes"),
        max_message_bytes=_number(config, "max.message.bytes"),
        min_in_sync=_number(config, "min.insync.replicas"),
        unclean_election=None if unclean is None else unclean == "true",
        layout=tuple(_state(partition) for partition in topic.partitions),
    )


def _state(partition: Any) -> PartitionState:
    return PartitionState(
        partition.id,
        partition.leader.id if partition.leader is not None else None,
        tuple(node.id for node in partition.replicas),
        tuple(node.id for node in partition.isr),
    )


def _number(config: Mapping[str, str], name: str) -> int | None:
    return int(config[name]) if name in config else None


def check_topic(settings: Settings) -> list[str]:
    """Return what makes the command topic unfit to be the log, one sentence each; empty if nothing does.

    Raises what describe_topic raises.
    """
    return topic_problems(describe_topic(settings), settings)


def topic_problems(info: TopicInfo, settings: Settings) -> list[str]:
    """Return what makes a topic that was described already unfit to be the log, one sentence each."""
    judged = [
        (
            info.partitions == settings.partitions,
            f"It has {info.partitions} partitions, CREDITFOLD_PARTITIONS says {settings.partitions}; "
            "the count decides which account lies where and never changes.",
        ),
        (
            info.timestamp_type == "LogAppendTime",
            f"Its message.timestamp.type is {_shown(info.timestamp_type)}; it must be LogAppendTime, "
            "the ledger's clock.",
        ),
        (
            info.cleanup_policy == "delete",
            f"Its cleanup.policy is {_shown(info.cleanup_policy)}; it must be delete, or records of the log get lost.",
        ),
        (
            info.retention_ms == FOREVER,
            f"Its retention.ms is {_shown(info.retention_ms)}; it must be -1, or records of the log get lost.",
        ),
        (
            info.retention_bytes == FOREVER,
            f"Its retention.bytes is {_shown(info.retention_bytes)}; it must be -1, or records of the log get lost.",
        ),
    ]
    return [problem for fine, problem in judged if not fine]


def _shown(value: str | int | None) -> str:
    return "unknown" if value is None else str(value)
