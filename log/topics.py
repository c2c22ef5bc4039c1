"""Owns the topics' settings: creates them, describes one, says what is wrong with the log, and where it ends.

Refuses to know what the records mean, and never changes or deletes a topic that exists.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition

# The package says what it exports to people, in its documentation, but not to the type checker.
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from creditfold.common.position import Log
from creditfold.common.processes import StackError, wait_until
from creditfold.common.settings import Settings

CONNECT_S = 5.0
REQUEST_S = 15.0
PROPAGATION_S = 15.0
FOREVER = -1
#: A dead letter is its record, with headers about it; an outcome has its command's texts and what it came to.
HEADROOM_BYTES = 65_536

T = TypeVar("T")

_AWAY = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.SASL_AUTHENTICATION_FAILED,
}


# A partition that was just made or has just moved: the metadata names a leader that doesn't know of it yet.
_MOVING = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
}

# How the client says that somebody answers, but not to this: by what it says, since it has no code for most of it.
_CONNECTING = (
    (
        r"sasl|authentication",
        "Kafka at {bootstrap} doesn't let this user in: {reason}.",
        "Check CREDITFOLD_KAFKA_USERNAME, CREDITFOLD_KAFKA_PASSWORD, CREDITFOLD_KAFKA_SASL_MECHANISM and "
        "CREDITFOLD_KAFKA_SECURITY_PROTOCOL.",
    ),
    (
        r"\bssl\b|\btls\b|certificate|security\.protocol|wrong version number|broker version",
        "Kafka at {bootstrap} is reached, but speaks otherwise than the settings say: {reason}.",
        "Check CREDITFOLD_KAFKA_SECURITY_PROTOCOL (is that port for TLS, or plain?) and CREDITFOLD_KAFKA_CA_FILE.",
    ),
)

_FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}

# A broker that is too old to be asked, or that doesn't answer this user.
_NOT_TOLD = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._UNSUPPORTED_FEATURE,
}


def _is_moving(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in _MOVING


_WHILE_MOVING = Retrying(
    stop=stop_after_delay(PROPAGATION_S), wait=wait_fixed(0.1), retry=retry_if_exception(_is_moving), reraise=True
)


class TopicError(StackError):
    """Kafka answered, and refused."""


class TopicMissingError(TopicError):
    """There is no such topic."""


class KafkaUnavailableError(StackError):
    """No broker answers."""

    away = "Kafka"


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


class _Trouble:
    """Why Kafka is away, as a client hears it."""

    def __init__(self) -> None:
        self.reason = ""

    def note(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.reason = error.str()


class KafkaAdmin:
    """An administration client that keeps quiet while Kafka is away and remembers why it is.

    Its threads and connections go with the last reference to it, and with them the answer to a future of its client:
    keep it until that is there.
    """

    def __init__(self, settings: Settings) -> None:
        self._bootstrap = settings.kafka_bootstrap
        self.topics: set[str] = set()
        # Not a method of this object: the client would keep alive who keeps it, and the garbage collector may come so
        # seldom that a process runs out of what it has for a thousand clients.
        self._trouble = _Trouble()
        # librdkafka prints each failed connection to standard error; the reason goes into our error instead.
        quiet: dict[str, Any] = {"log_level": 0, "error_cb": self._trouble.note}
        self.client = AdminClient({**settings.kafka_client, **quiet})

    def ask(self, question: Callable[[], T], topic: str = "") -> T:
        """Return the answer to a question. Raises KafkaUnavailableError, TopicMissingError or TopicError."""
        try:
            # Where nobody answers, the metadata says so sooner than a request that waits for a controller.
            self.topics = set(self.client.list_topics(timeout=CONNECT_S).topics)
            return _WHILE_MOVING(question)
        except KafkaException as error:
            # What the client heard while it tried says more than that it gave up.
            self.client.poll(0)
            raise explained(error.args[0], self._bootstrap, topic, self._trouble.reason) from error


def explained(error: KafkaError, bootstrap: str, topic: str = "", heard: str = "") -> StackError:
    """What an error of Kafka's client means, with a remedy.

    Args:
        error: what the client raised.
        bootstrap: the servers that were asked.
        topic: what was asked about.
        heard: why the client couldn't connect, if it said so.
    """
    reason = (heard or error.str()).rstrip(".")
    if error.code() in _AWAY:
        for pattern, message, remedy in _CONNECTING:
            if re.search(pattern, reason, re.IGNORECASE):
                reached = KafkaUnavailableError(message.format(bootstrap=bootstrap, reason=reason), remedy)
                reached.away = ""
                return reached
        return KafkaUnavailableError(
            f"Kafka doesn't answer at {bootstrap}: {reason}.",
            "Start it with `creditfold up`, or set CREDITFOLD_KAFKA_BOOTSTRAP to where it is.",
        )
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        return TopicMissingError(
            f"Kafka at {bootstrap} has no such topic or partition{f': {topic}' if topic else ''}.",
            "Create it with `creditfold up` or `creditfold init`, or name the right one: CREDITFOLD_COMMANDS_TOPIC, "
            "CREDITFOLD_OUTCOMES_TOPIC, CREDITFOLD_DEAD_LETTERS_TOPIC.",
        )
    return TopicError(
        f"Kafka at {bootstrap} refused a request{f' about the topic {topic}' if topic else ''}: "
        f"{error.str().rstrip('.')}.",
        _remedy(error),
    )


def _remedy(error: KafkaError) -> str:
    if error.code() in _FORBIDDEN:
        return "Give the user in CREDITFOLD_KAFKA_USERNAME the right to (kafka-acls.sh), or name another user."
    return "See the broker's log, and `creditfold doctor`."


def kafka_answers(settings: Settings, bound_s: float = 1.0, cluster_id: str | None = None) -> bool:
    """Tell whether Kafka, or the cluster of that id, answers a metadata request within `bound_s` seconds."""
    with contextlib.suppress(KafkaException):
        answer = KafkaAdmin(settings).client.list_topics(timeout=bound_s)
        return cluster_id is None or answer.cluster_id == cluster_id
    return False


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


def spelled(topic_id: object) -> str:
    """A topic's id in the spelling of Kafka's own tools, which is base64 for URLs."""
    return str(topic_id).translate(str.maketrans("+/", "-_"))


def _state(partition: Any) -> PartitionState:
    return PartitionState(
        partition.id,
        partition.leader.id if partition.leader is not None else None,
        tuple(node.id for node in partition.replicas),
        tuple(node.id for node in partition.isr),
    )


def _number(config: Mapping[str, str], name: str) -> int | None:
    return int(config[name]) if name in config else None


def read_config(client: AdminClient, resource: ConfigResource) -> dict[str, str]:
    """Return the settings of a topic or broker; empty where Kafka won't tell this user. Raises KafkaException."""
    try:
        entries = client.describe_configs([resource], request_timeout=REQUEST_S)[resource].result()
    except KafkaException as error:
        if error.args[0].code() in _NOT_TOLD:
            return {}
        raise
    return {name: entry.value for name, entry in entries.items() if entry.value is not None}


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


def start_offsets(settings: Settings, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """Return the first offset of each partition. Raises what end_offsets raises."""
    return _offsets(_places(settings, topic, partitions, OffsetSpec.earliest()))  # type: ignore[no-untyped-call]


def end_offsets(settings: Settings, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """Return for each partition the offset after the last one that a read_committed reader can reach.

    Raises TopicMissingError, KafkaUnavailableError or TopicError.
    """
    return _offsets(_places(settings, topic, partitions, OffsetSpec.latest()))  # type: ignore[no-untyped-call]


class End(NamedTuple):
    """A partition's end: `stable` for readers of committed records, `high` behind the very last record.

    They differ while a transaction is open in the partition.
    """

    stable: int
    high: int


def log_ends(
    settings: Settings, topic: str, partitions: Iterable[int], admin: KafkaAdmin | None = None
) -> dict[int, End]:
    """Return both ends of each partition, by a client of its own if none is given. Raises what end_offsets raises."""
    admin, numbers = admin or KafkaAdmin(settings), list(partitions)
    latest = (OffsetSpec.latest(),)  # type: ignore[no-untyped-call]
    # The very end first: what is appended in between then doesn't seem to be held back.
    (high,) = _asked(admin, topic, numbers, latest, IsolationLevel.READ_UNCOMMITTED)
    (stable,) = _asked(admin, topic, numbers, latest)
    ends = _offsets(high)
    return {partition: End(end, max(end, ends[partition])) for partition, end in _offsets(stable).items()}


def bounds(admin: KafkaAdmin, topic: str, partitions: Iterable[int]) -> tuple[dict[int, int], dict[int, int]]:
    """Return what start_offsets and end_offsets do, by one client. Raises what end_offsets raises."""
    first, last = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
    starts, ends = _asked(admin, topic, partitions, (first, last))
    return _offsets(starts), _offsets(ends)


def _offsets(places: Mapping[int, Any]) -> dict[int, int]:
    return {partition: int(place.offset) for partition, place in places.items()}


def newest_timestamps(settings: Settings, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """Return the latest timestamp, in ms, among the records of each partition that has any.

    Raises what end_offsets raises; TopicError too where the brokers are older than 3.0.
    """
    found = _places(settings, topic, partitions, OffsetSpec.max_timestamp())  # type: ignore[no-untyped-call]
    return {partition: int(place.timestamp) for partition, place in found.items() if place.timestamp >= 0}


def _places(settings: Settings, topic: str, partitions: Iterable[int], spec: OffsetSpec) -> dict[int, Any]:
    (found,) = _asked(KafkaAdmin(settings), topic, partitions, (spec,))
    return found


def _asked(
    admin: KafkaAdmin,
    topic: str,
    partitions: Iterable[int],
    specs: Sequence[OffsetSpec],
    isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
) -> list[dict[int, Any]]:
    places = [TopicPartition(topic, partition) for partition in partitions]
    if not places:
        return [{} for _ in specs]

    def asked() -> list[dict[int, Any]]:
        # Asked for the offsets of a topic that isn't there, the client complains of missing leaders.
        if topic not in admin.topics:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        answers: list[dict[TopicPartition, Future[Any]]] = [
            admin.client.list_offsets(dict.fromkeys(places, spec), isolation_level=isolation, request_timeout=REQUEST_S)
            for spec in specs
        ]
        return [{place.partition: answer.result() for place, answer in one.items()} for one in answers]

    return admin.ask(asked, topic)


def kafka_tool(settings: Settings, script: str, arguments: str) -> str:
    """How one of Kafka's own tools is called against the broker of these settings."""
    secured = "" if settings.kafka_security_protocol == "PLAINTEXT" else " --command-config client.properties"
    return f"{script} --bootstrap-server {settings.kafka_bootstrap}{secured} {arguments}"
