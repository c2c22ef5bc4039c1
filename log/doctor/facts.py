"""Collects what Kafka reports of itself, for the doctor: its brokers, the topics, how far the log reaches.

Checks nothing and changes nothing. What Kafka refuses to report is a fact too: the refusal stands in its place.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

from creditfold.common.errors import ResourceError
from creditfold.common.position import Log, Position
from creditfold.common.settings import Settings
from creditfold.log.admin import REQUEST_S, KafkaAdmin, KafkaUnavailableError, read_config
from creditfold.log.continuity import LogTruncatedError
from creditfold.log.offsets import bounds, newest_timestamps
from creditfold.log.open_transactions import OpenTransaction, open_transactions
from creditfold.log.origin import old_positions
from creditfold.log.topics import TopicInfo, describe_topic, topic_names

T = TypeVar("T")


class LogExtent(NamedTuple):
    """How far the log reaches, by partition: its first offset, the one after its last, its latest timestamp in ms.

    A partition without a leader can't be asked and is left out; one without records has no timestamp. `old` are the
    first records of partitions that were written before version 1 of the rules.
    """

    starts: Mapping[int, int]
    ends: Mapping[int, int]
    newest_ms: Mapping[int, int] | ResourceError
    old: Sequence[Position] = ()


class FoldedLog(NamedTuple):
    """What the projection says of itself: the log that it was folded from, and each partition's next offset.

    `refused` are the partitions in which the log isn't what was folded of it, and why; or why that can't be known.
    """

    log: Log
    next_offsets: Mapping[int, int]
    refused: Mapping[int, LogTruncatedError] | ResourceError = MappingProxyType({})


class TopicFacts(NamedTuple):
    """A topic's name, its description or why there is none, and the transactions that are open in it."""

    name: str
    info: TopicInfo | ResourceError
    open_transactions: Sequence[OpenTransaction] | ResourceError = ()


class KafkaFacts(NamedTuple):
    """What Kafka reports. `auto_create` is by broker id, None for a broker that doesn't show it."""

    brokers: frozenset[int]
    auto_create: Mapping[int, bool | None]
    commands: TopicFacts
    outcomes: TopicFacts
    dead_letters: TopicFacts
    extent: LogExtent | ResourceError


def kafka_facts(settings: Settings) -> KafkaFacts:
    """Ask Kafka. Raises KafkaUnavailableError; every other refusal becomes a fact."""
    admin = KafkaAdmin(settings)
    asked = answer_or_refusal(lambda: admin.ask(lambda: _brokers(admin)))
    live = frozenset[int]() if isinstance(asked, ResourceError) else asked
    commands, outcomes, dead_letters = (_topic_facts(settings, name) for name in topic_names(settings))
    return KafkaFacts(
        # A broker that is down is none of the live ones, but replicas are still placed on it.
        live | _placed(topic.info for topic in (commands, outcomes, dead_letters)),
        {broker: admin.ask(lambda broker=broker: _auto_create(admin, broker)) for broker in sorted(live)},  # type: ignore[misc]
        commands,
        outcomes,
        dead_letters,
        commands.info if isinstance(commands.info, ResourceError) else _extent(settings, commands.info),
    )


def _topic_facts(settings: Settings, name: str) -> TopicFacts:
    info = answer_or_refusal(lambda: describe_topic(settings, name))
    if isinstance(info, ResourceError):
        return TopicFacts(name, info)
    return TopicFacts(name, info, answer_or_refusal(lambda: open_transactions(settings, name, _led(info))))


def answer_or_refusal(question: Callable[[], T]) -> T | ResourceError:
    """Return the answer, or Kafka's refusal to give one. Raises KafkaUnavailableError where Kafka doesn't answer."""
    try:
        return question()
    except KafkaUnavailableError:
        raise
    except ResourceError as refusal:
        return refusal


def _brokers(admin: KafkaAdmin) -> frozenset[int]:
    return frozenset(node.id for node in admin.client.describe_cluster(request_timeout=REQUEST_S).result().nodes)


def _placed(infos: Iterable[TopicInfo | ResourceError]) -> frozenset[int]:
    layouts = (info.layout for info in infos if isinstance(info, TopicInfo))
    return frozenset(broker for layout in layouts for state in layout for broker in state.replicas)


def _auto_create(admin: KafkaAdmin, broker: int) -> bool | None:
    try:
        config = read_config(admin.client, ConfigResource(ResourceType.BROKER, str(broker)))
    except KafkaException:
        # It has just gone away, or is none that can be asked. The other facts still count.
        return None
    value = config.get("auto.create.topics.enable")
    return None if value is None else value == "true"


def _extent(settings: Settings, info: TopicInfo) -> LogExtent | ResourceError:
    led = _led(info)

    def asked() -> LogExtent:
        starts, ends = bounds(KafkaAdmin(settings), info.name, led)
        newest = answer_or_refusal(lambda: newest_timestamps(settings, info.name, led))
        return LogExtent(starts, ends, newest, old_positions(settings, info.name, starts, ends))

    return answer_or_refusal(asked)


def _led(info: TopicInfo) -> list[int]:
    return [state.partition for state in info.layout if state.leader is not None]
