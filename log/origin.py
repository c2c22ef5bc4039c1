"""Finds out whether a log was made before version 1 of the rules, by the first record that each partition still has.

Of a record it knows the schema id alone. A partition that is empty, or whose first record can't be read or is no record
of ours, shows nothing. One that begins with a record of version 1 shows that the log is no old one: what began another
partition is a stray, and a dead letter.
"""

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, TopicPartition

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.common.settings import READER, Settings
from creditfold.log.admin import KafkaAdmin, LeaderMissingError
from creditfold.log.offsets import bounds
from creditfold.schemas.wire import is_before_version_1

#: How long Kafka may take to return the first records, in seconds.
READ_S = 5.0
#: What is fetched of a partition at once, in bytes: a larger batch comes as a whole, but only one with each answer.
FETCH_BYTES = 4_096

REMEDY = (
    "Begin a new topic and fold that anew: name it in CREDITFOLD_COMMANDS_TOPIC and an empty database in "
    "CREDITFOLD_POSTGRES_DSN, run `creditfold init`, and append to it. The old topic stays as it is."
)


class OldLogError(CreditfoldError):
    """The log was made before version 1 of the rules, and can't be folded."""


def refuse_old_log(settings: Settings, topic: str, partitions: Iterable[int], admin: KafkaAdmin | None = None) -> None:
    """Raise OldLogError if a log was made before version 1, or what end_offsets raises.

    Reads one record of each partition, and takes READ_S at most where Kafka doesn't return them.
    """
    try:
        starts, ends = bounds(admin or KafkaAdmin(settings), topic, list(partitions))
    except LeaderMissingError:
        # Who reads the log waits for that partition alone.
        return
    if old := old_positions(settings, topic, starts, ends):
        raise OldLogError(
            f"The log {topic} was made before version 1 of the rules, as its record {old[0]} shows.", REMEDY
        )


def old_positions(settings: Settings, topic: str, starts: Mapping[int, int], ends: Mapping[int, int]) -> list[Position]:
    """Return the first records of an old log's partitions, by the partitions' bounds; none for a log of version 1."""
    left = {partition for partition, start in starts.items() if start < ends[partition]}
    if not left:
        return []
    consumer = Consumer(
        {
            **settings.kafka_client,
            **READER,
            "log_level": 0,
            "fetch.message.max.bytes": FETCH_BYTES,
            "queued.min.messages": 1,
        }
    )
    found: list[Position] = []
    try:
        consumer.assign([TopicPartition(topic, partition, starts[partition]) for partition in left])
        deadline = time.monotonic() + READ_S
        while left and time.monotonic() < deadline:
            message = consumer.poll(0.1)
            if message is None or (partition := message.partition()) not in left:
                continue
            # An error is the partition's end, or a record that nobody can read.
            is_old = is_before_version_1(message.value()) if message.error() is None else None
            if is_old is False:
                return []
            if is_old:
                found.append(Position(partition, message.offset() or 0))
            left.remove(partition)
            # What is behind it would be fetched before the others' records.
            consumer.incremental_unassign([TopicPartition(topic, partition)])
    finally:
        consumer.close()
    return sorted(found)
