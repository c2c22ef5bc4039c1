"""Owns the topics' settings: creates the topics, describes one, and reports what makes one unfit to be the log.

Refuses to know what the records mean, and never changes or deletes a topic that exists.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection

# The package says what it exports to people, in its documentation, but not to the type checker.
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from creditfold.common.position import Log
from creditfold.common.processes import wait_until
from creditfold.common.settings import Settings
from creditfold.log.admin import PROPAGATION_S, REQUEST_S, KafkaAdmin, TopicError, read_config, spelled

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
    """What a topic is. Times are in milliseconds, sizes in bytes; -1 is no limit, None what Kafka doesn't tell us."""

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


def create_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing, the command topic first. Returns the names of those that this call created.

    Raises KafkaUnavailableError, or TopicError where Kafka refuses (more replicas than brokers, no right to).
    """
    admin = KafkaAdmin(settings)
    commands, outcomes, dead_letters = topic_names(settings)
    created = _made(admin, settings, commands, settings.partitions, topic_config(settings))
    # An outcome stands in the partition of its command, so the others get the partitions that the log has, and not
    # those that the settings would give it.
    log = admin.ask(lambda: _described(admin.client, commands), commands)
    config = _side_config(settings, log.max_message_bytes or settings.max_message_bytes)
    created += _made(admin, settings, outcomes, log.partitions, config)
    created += _made(admin, settings, dead_letters, log.partitions, config)
    return created


def _made(admin: KafkaAdmin, settings: Settings, name: str, partitions: int, config: dict[str, str]) -> list[str]:
    topic = NewTopic(name, num_partitions=partitions, replication_factor=settings.replication, config=config)
    created = admin.ask(lambda: _created(admin, topic), name)
    # Kafka answers before each broker has heard of the topic, and a client that asks too early is told there is none.
    if not wait_until(lambda: _known(admin, name), PROPAGATION_S):
        raise TopicError(f"The topic {name} was created but can't be seen.", "Look into the broker's log.")
    return [name] if created else []


def _created(admin: KafkaAdmin, topic: NewTopic) -> bool:
    if _known(admin, topic.topic):
        return False
    try:
        admin.client.create_topics([topic], request_timeout=REQUEST_S)[topic.topic].result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise
    return True


def topic_config(settings: Settings) -> dict[str, str]:
    """Return Kafka's settings of a log that is the truth: kept for ever, and timed by the broker."""
    return _kept_for_ever(settings) | {
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(settings.max_message_bytes),
    }


def _side_config(settings: Settings, log_message_bytes: int) -> dict[str, str]:
    """The same of the topics that are written from the log, whose records are larger than the log's.

    Their batches stay compressed as the publisher sends them, whatever the broker's own `compression.type` is: the
    publisher's codec is one that every client can read.
    """
    return _kept_for_ever(settings) | {
        "max.message.bytes": str(log_message_bytes + HEADROOM_BYTES),
        "compression.type": "producer",
    }


def _kept_for_ever(settings: Settings) -> dict[str, str]:
    config = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    if settings.replication >= 3:
        config |= {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}
    return config


def _known(admin: KafkaAdmin, name: str) -> bool:
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
    return admin.ask(lambda: _described(admin.client, topic), topic)


def describe_log(settings: Settings) -> Log:
    """Return the command topic's identity. Raises what describe_topic raises."""
    return describe_topic(settings).log


def _described(client: AdminClient, name: str) -> TopicInfo:
    topic = client.describe_topics(TopicCollection([name]), request_timeout=REQUEST_S)[name].result()
    config = read_config(client, ConfigResource(ResourceType.TOPIC, name))
    unclean = config.get("unclean.leader.election.enable")
    return TopicInfo(
        name=name,
        topic_id=spelled(topic.topic_id),
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
    """Say in one sentence each what makes the command topic unfit to be the truth; empty if nothing does.

    Raises what describe_topic raises.
    """
    return topic_problems(describe_topic(settings), settings)


def topic_problems(info: TopicInfo, settings: Settings) -> list[str]:
    """The same for a topic that was described already."""
    judged = [
        (
            info.partitions == settings.partitions,
            f"It has {info.partitions} partitions, CREDITFOLD_PARTITIONS says {settings.partitions}; "
            "the count decides which account lies where and never changes.",
        ),
        (
            info.timestamp_type == "LogAppendTime",
            f"Its message.timestamp.type is {_told(info.timestamp_type)}; it must be LogAppendTime, "
            "the ledger's clock.",
        ),
        (
            info.cleanup_policy == "delete",
            f"Its cleanup.policy is {_told(info.cleanup_policy)}; it must be delete, or records of the log get lost.",
        ),
        (
            info.retention_ms == FOREVER,
            f"Its retention.ms is {_told(info.retention_ms)}; it must be -1, or records of the log get lost.",
        ),
        (
            info.retention_bytes == FOREVER,
            f"Its retention.bytes is {_told(info.retention_bytes)}; it must be -1, or records of the log get lost.",
        ),
    ]
    return [problem for fine, problem in judged if not fine]


def _told(value: str | int | None) -> str:
    return "unknown" if value is None else str(value)
