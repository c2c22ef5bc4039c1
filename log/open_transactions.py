"""Finds transactions that are open in a topic, and what waits behind them. Ends none, and knows no record's meaning.

A reader of committed records gets no further than the first record of the oldest open transaction, whichever producer
wrote what stands behind it. So what waits is counted to a partition's very end, and since when it waits is the append
time of that first record.
"""

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from creditfold.common.settings import Settings
from creditfold.log.admin import KafkaAdmin, kafka_tool
from creditfold.log.offsets import End, log_ends

#: A transaction that is open for longer than this, in seconds, is worth an alert: a healthy program commits within one.
LONG_OPEN_S = 5.0

#: Longest wait for the first records of the transactions, in seconds.
READ_S = 5.0


class OpenTransaction(NamedTuple):
    """An open transaction that keeps committed readers from going on.

    `start` is the offset of its first record, `waiting` counts the offsets from there to the partition's end,
    `since_ms` is the first record's append time in ms UTC, None where it can't be read.
    """

    topic: str
    partition: int
    start: int
    waiting: int
    since_ms: int | None

    def open_s(self, now_ms: int) -> float | None:
        """For how many seconds it has been open at an instant in ms UTC."""
        return None if self.since_ms is None else max(0.0, (now_ms - self.since_ms) / 1000)

    def is_long(self, now_ms: int) -> bool:
        """Whether it is worth an alert; so is one whose age isn't known."""
        seconds = self.open_s(now_ms)
        return seconds is None or seconds > LONG_OPEN_S

    def description(self, now_ms: int) -> str:
        """Where it is, for how long it has been open, and how many records wait, for people."""
        seconds = self.open_s(now_ms)
        since = "" if seconds is None else f" for {seconds:,.0f} s"
        return f"partition {self.partition} from offset {self.start} on{since} ({self.waiting:,} records wait)"


def open_transactions(
    settings: Settings, topic: str, partitions: Iterable[int], admin: KafkaAdmin | None = None
) -> list[OpenTransaction]:
    """The oldest open transaction of each partition that has one. Raises what end_offsets raises."""
    return open_transactions_at(settings, topic, log_ends(settings, topic, partitions, admin))


def open_transactions_at(settings: Settings, topic: str, ends: Mapping[int, End]) -> list[OpenTransaction]:
    """The oldest open transaction of each partition, by ends that are known already.

    The append time is missing where the transaction ended meanwhile.
    """
    held = {partition: end for partition, end in sorted(ends.items()) if end.stable < end.high}
    since = append_times(settings, topic, {partition: end.stable for partition, end in held.items()}) if held else {}
    return [
        OpenTransaction(topic, partition, end.stable, end.high - end.stable, since.get(partition))
        for partition, end in held.items()
    ]


def append_times(settings: Settings, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
    """The append time of the record at an offset of each partition, committed or not, where it can be read."""
    consumer = Consumer(
        {
            **settings.kafka_client,
            "group.id": "creditfold-reader",  # Demanded by the client; never joined, nothing is committed.
            "enable.auto.commit": False,
            "isolation.level": "read_uncommitted",
            "auto.offset.reset": "error",
            "queued.min.messages": 1,
            "fetch.message.max.bytes": 4_096,
            "log_level": 0,
        }
    )
    found: dict[int, int] = {}
    try:
        consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in offsets.items()])
        deadline = time.monotonic() + READ_S
        while len(found) < len(offsets) and time.monotonic() < deadline:
            for message in consumer.consume(len(offsets), 0.2):
                partition = message.partition()
                if message.error() is None and partition is not None:
                    found.setdefault(partition, message.timestamp()[1])
    except KafkaException:
        # How many records wait is known without it.
        return found
    finally:
        consumer.close()
    return found


def remedy(settings: Settings, one: OpenTransaction) -> str:
    """What to do about an open transaction."""
    place = f"--topic {one.topic} --partition {one.partition}"
    return (
        "It ends when its producer commits or aborts, or at its transaction.timeout.ms. See whose it is: "
        + kafka_tool(settings, "kafka-transactions.sh", f"describe-producers {place}")
        + " ; abort it, and lose what was written in it: "
        + kafka_tool(settings, "kafka-transactions.sh", f"abort {place} --start-offset {one.start}")
    )
