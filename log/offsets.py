"""How far a topic reaches: the offsets at which its partitions begin and end, and their newest timestamps.

Refuses to know what the records mean.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from creditfold.common.settings import Settings
from creditfold.log.admin import REQUEST_S, KafkaAdmin, topic_id_text


class End(NamedTuple):
    """A partition's end: `stable` for readers of committed records, `high` behind the very last record.

    They differ while a transaction is open in the partition.
    """

    stable: int
    high: int


def start_offsets(settings: Settings, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """Return the first offset of each partition. Raises what end_offsets raises."""
    return _offsets(_listed(settings, topic, partitions, OffsetSpec.earliest()))  # type: ignore[no-untyped-call]


def end_offsets(settings: Settings, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """Return for each partition the offset after the last one that a read_committed reader can reach.

    Raises TopicMissingError, KafkaUnavailableError or TopicError.
    """
    return _offsets(_listed(settings, topic, partitions, OffsetSpec.latest()))  # type: ignore[no-untyped-call]


def log_ends(
    settings: Settings, topic: str, partitions: Iterable[int], admin: KafkaAdmin | None = None
) -> dict[int, End]:
    """Return both ends of each partition, by a client of its own if none is given. Raises what end_offsets raises."""
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    # The very end first: what is appended in between then doesn't seem to be held back.
    levels = (IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED)
    high, stable = _list_offsets(admin or KafkaAdmin(settings), topic, partitions, (latest, latest), levels)
    ends = _offsets(high)
    return {partition: End(end, max(end, ends[partition])) for partition, end in _offsets(stable).items()}


def last_ends(admin: KafkaAdmin, topic: str, bound_s: float) -> tuple[str, dict[int, int]]:
    """Return a topic's id, and for each partition the offset behind its very last record.

    Asked once, with `bound_s` seconds for each of two answers, for whoever asks over and over. Raises KafkaException.
    """
    described = admin.client.describe_topics(TopicCollection([topic]), request_timeout=bound_s)[topic].result()
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    places = {TopicPartition(topic, partition.id): latest for partition in described.partitions}
    isolation = IsolationLevel.READ_UNCOMMITTED
    answers = admin.client.list_offsets(places, isolation_level=isolation, request_timeout=bound_s)
    ends = {place.partition: int(answer.result().offset) for place, answer in answers.items()}
    return topic_id_text(described.topic_id), ends


def bounds(admin: KafkaAdmin, topic: str, partitions: Iterable[int]) -> tuple[dict[int, int], dict[int, int]]:
    """Return what start_offsets and end_offsets do, by one client. Raises what end_offsets raises."""
    first, last = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
    starts, ends = _list_offsets(admin, topic, partitions, (first, last))
    return _offsets(starts), _offsets(ends)


def newest_timestamps(settings: Settings, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """Return the latest timestamp, in ms, among the records of each partition that has any.

    Raises what end_offsets raises; TopicError too where the brokers are older than 3.0.
    """
    found = _listed(settings, topic, partitions, OffsetSpec.max_timestamp())  # type: ignore[no-untyped-call]
    return {partition: int(place.timestamp) for partition, place in found.items() if place.timestamp >= 0}


def _offsets(places: Mapping[int, Any]) -> dict[int, int]:
    return {partition: int(place.offset) for partition, place in places.items()}


def _listed(settings: Settings, topic: str, partitions: Iterable[int], spec: OffsetSpec) -> dict[int, Any]:
    (found,) = _list_offsets(KafkaAdmin(settings), topic, partitions, (spec,))
    return found


def _list_offsets(
    admin: KafkaAdmin,
    topic: str,
    partitions: Iterable[int],
    specs: Sequence[OffsetSpec],
    levels: Sequence[IsolationLevel] | None = None,
) -> list[dict[int, Any]]:
    """What is at some places of each partition, asked one after the other, as readers of some levels see it."""
    isolations = levels or [IsolationLevel.READ_COMMITTED] * len(specs)
    places = [TopicPartition(topic, partition) for partition in partitions]
    if not places:
        return [{} for _ in specs]

    def asked() -> list[dict[int, Any]]:
        # Asked for the offsets of a topic that isn't there, the client complains of missing leaders.
        if topic not in admin.topics:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        found = []
        for spec, isolation in zip(specs, isolations, strict=True):
            wanted = dict.fromkeys(places, spec)
            answers = admin.client.list_offsets(wanted, isolation_level=isolation, request_timeout=REQUEST_S)
            found.append({place.partition: answer.result() for place, answer in answers.items()})
        return found

    return admin.ask(asked, topic)
