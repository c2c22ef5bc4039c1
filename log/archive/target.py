"""Writes to a topic that is being restored: its settings, records at given offsets, and offsets that hold none.

Owns what makes the offsets equal the archive's. Where the old log had no record for its readers, the new one gets as
many offsets of aborted transactions, which no reader gets. Refuses to know where the records come from.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import TIMESTAMP_CREATE_TIME, Consumer, KafkaError, Message, Producer, TopicPartition

# The package says what it exports to people, in its documentation, but not to the type checker.
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    ResourceType,
)

from creditfold.common.errors import ResourceError
from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.admin import ONCE_S, PROPAGATION_S, REQUEST_S, KafkaAdmin
from creditfold.log.record import LogRecord

# Offsets of one aborted transaction: less than the client's queue has room for, and than a transaction has time for.
GAP_OFFSETS = 50_000
TRANSACTION_S = 60.0
DELIVERY_S = 120.0
# What a client may send at most; the topic has the say about it, after compression.
CLIENT_BYTES = 1_000_000_000

AGAIN = "Run it again when that is mended: it goes on where it was."
_ANEW = "Stop whatever writes to the topic, delete the topic, and run it again."

_TYPE = "message.timestamp.type"
#: Kafka's setting of a topic that keeps the times of its records.
GIVEN_TIMES = {_TYPE: "CreateTime"}
_LIMITS = ("message.timestamp.before.max.ms", "message.timestamp.after.max.ms")
_MOST = str(2**63 - 1)
#: The first and the last of no times at all.
_NO_TIMES = (int(_MOST), 0)


class RestoreError(ResourceError):
    """The archive can't be brought into this topic."""


class RestoreTopic:
    """The topic's settings while it is being restored."""

    def __init__(self, settings: Settings) -> None:
        self._name = settings.commands_topic
        self._admin = KafkaAdmin(settings)
        self._resource = (ResourceType.TOPIC, self._name)

    def keep_given_times(self) -> None:
        """Let the topic keep the times of its records, however old."""
        self._set(GIVEN_TIMES)
        # A broker shows a setting a moment before it applies it. When it shows this one, it has applied the former.
        self._set(dict.fromkeys(_LIMITS, _MOST))

    def set_own_times(self) -> None:
        """Let the broker set the times from now on, as the ledger needs it."""
        self._set({_TYPE: "LogAppendTime"})
        self._set(dict.fromkeys(_LIMITS))

    def max_message_bytes(self) -> int:
        """The largest batch that the topic takes."""
        return int(self._settings()["max.message.bytes"].value)

    def cut(self, partition: int, offset: int) -> None:
        """Let the partition begin at an offset, as the archived log did."""
        place = TopicPartition(self._name, partition, offset)
        self._ask(lambda client: client.delete_records([place], request_timeout=REQUEST_S))

    def _settings(self) -> dict[str, Any]:
        resource = ConfigResource(*self._resource)
        found: dict[str, Any] = self._ask(lambda client: client.describe_configs([resource], request_timeout=REQUEST_S))
        return found

    def _ask(self, question: Callable[[AdminClient], Mapping[Any, Future[Any]]]) -> Any:
        """What came of the one thing that is asked for."""

        def asked() -> Any:
            (answer,) = question(self._admin.client).values()
            return answer.result()

        return self._admin.ask(asked, self._name)

    def _set(self, wanted: Mapping[str, str | None]) -> None:
        entries = [
            ConfigEntry(
                name,
                value,
                incremental_operation=AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET,
            )
            for name, value in wanted.items()
        ]
        resource = ConfigResource(*self._resource, incremental_configs=entries)
        self._ask(lambda client: client.incremental_alter_configs([resource], request_timeout=REQUEST_S))
        if not wait_until(lambda: self._shows(wanted), PROPAGATION_S):
            raise RestoreError(f"The topic {self._name} doesn't take on its settings: {dict(wanted)}.", AGAIN)

    def _shows(self, wanted: Mapping[str, str | None]) -> bool:
        shown = self._settings()
        return all(
            shown[name].source != ConfigSource.DYNAMIC_TOPIC_CONFIG.value
            if value is None
            else shown[name].value == value
            for name, value in wanted.items()
        )


class RestoreAppender:
    """Appends records to one partition at a time, and checks that each lands at its offset.

    `next` is the offset that the next record must have.
    """

    def __init__(self, settings: Settings, max_message_bytes: int) -> None:
        self._topic = settings.commands_topic
        self._partition = 0
        self.next = self._confirmed = 0
        self._fault: RestoreError | None = None
        self._tried: int | None = None
        #: The first and the last of the times that were given.
        self._times = _NO_TIMES
        self._producer = Producer(
            {
                **settings.kafka_client,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "zstd",
                "linger.ms": 5,
                "message.max.bytes": CLIENT_BYTES,
                "batch.size": min(1_000_000, max_message_bytes),
                "queue.buffering.max.kbytes": 65_536,
                "delivery.timeout.ms": int(DELIVERY_S * 1000),
                "log_level": 0,
            }
        )

    def begin(self, partition: int, offset: int) -> None:
        """Go on at a position. Everything before must be flushed."""
        self._partition = partition
        self.next = self._confirmed = offset
        self._times = _NO_TIMES

    def append(self, record: LogRecord) -> None:
        """Append the record whose offset is `next`. Raises RestoreError, for an earlier one too."""
        if not record.timestamp:
            # The client takes a zero for the present, and the broker would too.
            raise RestoreError(f"{Position(self._partition, record.offset)} has the time zero, which can't be given.")
        first, last = self._times
        self._times = (min(first, record.timestamp), max(last, record.timestamp))
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers) if record.headers else None,
                    partition=self._partition,
                    timestamp=record.timestamp,
                    on_delivery=self._delivered,
                )
                break
            except BufferError:
                self._producer.poll(0.1)
        self.next += 1
        if self._tried != self._partition:
            # The first one alone: whatever is wrong with the topic, it is better known before there are many.
            self.flush()
            self._tried = self._partition
        elif self.next % 64 == 0:
            self._producer.poll(0)
        if self._fault is not None:
            raise self._fault

    def flush(self) -> None:
        """Wait until each record is confirmed. Raises RestoreError."""
        left = self._producer.flush(DELIVERY_S)
        if self._fault is not None:
            raise self._fault
        if left or self._confirmed != self.next:
            raise RestoreError(f"Kafka didn't confirm {left} records in {DELIVERY_S:.0f} s.", AGAIN)

    def close(self) -> None:
        """Drop what isn't confirmed, as there is after a failure only."""
        self._producer.purge()
        self._producer.flush(1.0)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if self._fault is not None:
            return
        if error is not None:
            self._fault = self._refused(error)
            return
        offset = message.offset()
        # A broker that sees a retried batch again may confirm it without its offset. The next one shows it.
        if offset is not None and offset >= 0 and offset != self._confirmed:
            self._fault = RestoreError(
                f"A record landed at {Position(self._partition, offset)} instead of "
                f"{Position(self._partition, self._confirmed)}: something else writes to the topic.",
                _ANEW,
            )
        elif not self._is_given(*message.timestamp()):
            self._fault = RestoreError(f"The topic {self._topic} sets the records' times by itself.", _ANEW)
        self._confirmed += 1

    def _is_given(self, kind: int, time_ms: int) -> bool:
        """Whether a record has a time of ours, as far as its confirmation shows."""
        # A broker that sees a retried batch again confirms it with that batch's time, as one that the topic has set.
        first, last = self._times
        return kind == TIMESTAMP_CREATE_TIME or first <= time_ms <= last

    def _refused(self, error: KafkaError) -> RestoreError:
        too_large = error.code() == KafkaError.MSG_SIZE_TOO_LARGE
        remedy = "Raise the topic's max.message.bytes to that of the archived topic, and run it again."
        where = Position(self._partition, self._confirmed)
        return RestoreError(f"Kafka refused {where}: {error.str()}.", remedy if too_large else AGAIN)


class GapWriter:
    """Writes offsets that no reader gets: gaps.

    An aborted transaction of n records takes n + 1 offsets, the last one for its mark. One whose only record the
    broker refuses, as too large, takes one for its mark.
    """

    def __init__(self, settings: Settings, max_message_bytes: int) -> None:
        self._topic = settings.commands_topic
        self._too_large = max_message_bytes + 1
        self._ends = Consumer(
            {
                **settings.kafka_client,
                "group.id": "creditfold-restore",
                "isolation.level": "read_committed",
                "log_level": 0,
            }
        )
        self._producer = Producer(
            {
                **settings.kafka_client,
                # Equal in each run, so that the broker ends what an earlier run left open.
                "transactional.id": f"creditfold-restore-{self._topic}",
                "message.max.bytes": CLIENT_BYTES,
                "compression.type": "none",
                "linger.ms": 1,
                "log_level": 0,
            }
        )
        self._producer.init_transactions(TRANSACTION_S)

    def close(self) -> None:
        """Close the connections."""
        self._ends.close()

    def fill(self, partition: int, start: int, end: int) -> None:
        """Make a partition that ends at `start` end at `end`. Raises RestoreError."""
        at = start
        while at < end:
            self._abort_one(partition, min(end - at, GAP_OFFSETS) - 1)
            at = self._end_behind(partition, at)
        if at != end:
            raise RestoreError(
                f"Partition {partition} ends at {at} instead of {end}: something else writes to the topic.", _ANEW
            )

    def _end_behind(self, partition: int, offset: int) -> int:
        # The broker answers before the marker is in the log, and its end counts the marker.
        if not wait_until(lambda: self._end(partition) > offset, TRANSACTION_S, pause_s=0.002):
            raise RestoreError(f"No gap came into being at {Position(partition, offset)}.", AGAIN)
        return self._end(partition)

    def _abort_one(self, partition: int, records: int) -> None:
        self._producer.begin_transaction()
        for _ in range(records):
            self._producer.produce(self._topic, partition=partition)
        if not records:
            self._producer.produce(self._topic, os.urandom(self._too_large), partition=partition)
        self._producer.flush(TRANSACTION_S)
        self._producer.abort_transaction(TRANSACTION_S)

    def _end(self, partition: int) -> int:
        return int(self._ends.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=ONCE_S)[1])
