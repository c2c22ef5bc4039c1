"""Appends what workers themselves add to the log: ticks, and the commands that follow from transfers.

Owns a Kafka producer. Refuses to know what a record means, and to retry: what wasn't confirmed may be in the log or
not, and the caller decides by the state that it finds later.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

#: How long a record may wait for its confirmation, in seconds.
DELIVERY_S = 10.0
#: How long closing may wait for Kafka, in seconds.
CLOSE_S = 1.0
_POLL_S = 0.05

_CONFIG: Mapping[str, str | int | bool] = {
    "client.id": "creditfold-worker",
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "zstd",
    "linger.ms": 1,
    "delivery.timeout.ms": int(DELIVERY_S * 1000),
    # Else librdkafka writes some twenty lines a second while Kafka is away.
    "log_level": 2,
}

log = structlog.get_logger()
_log = logging.getLogger("creditfold.processors.kafka")


class NewRecord(NamedTuple):
    """A record for a partition of the log. A control record has no key."""

    partition: int
    key: bytes | None
    value: bytes


class Appender:
    """Appends to one topic. Any thread may use it; nothing connects before it is opened or used.

    Args:
        kafka: librdkafka settings that every client of ours starts from.
        topic: the command topic.
    """

    def __init__(self, kafka: Mapping[str, str], topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._making = Lock()
        self._producer: Producer | None = None
        self._closing = False

    def append(self, records: Sequence[NewRecord]) -> list[int | None]:
        """Append records and wait, DELIVERY_S at most. Returns the offset of each, None where it isn't known."""
        batch = _Deliveries(len(records))
        if self._closing:
            return batch.offsets
        deadline = time.monotonic() + DELIVERY_S
        producer: Producer | None = None
        try:
            producer = self.open()
            for number, record in enumerate(records):
                self._produce(producer, record, partial(batch.confirm, number), deadline)
            while batch.waits and time.monotonic() < deadline + _POLL_S and not self._closing:
                producer.poll(_POLL_S)
            if batch.waits:
                batch.error = batch.error or KafkaError(KafkaError._MSG_TIMED_OUT)
        except KafkaException as error:
            batch.error = batch.error or error.args[0]
        if batch.error is not None and not self._closing:
            log.warning("Kafka didn't take records, trying again later", why=batch.error.str())
            self._discard_broken(producer, batch.error)
        return batch.offsets

    def _produce(self, producer: Producer, record: NewRecord, confirm: Any, deadline: float) -> None:
        while True:
            try:
                producer.produce(self._topic, record.value, record.key, record.partition, on_delivery=confirm)
                return
            except BufferError:
                if self._closing or time.monotonic() > deadline:
                    raise KafkaException(KafkaError(KafkaError._QUEUE_FULL)) from None
                producer.poll(_POLL_S)

    def open(self) -> Producer:
        """Begin to connect, without waiting, so that the first record needn't wait for it. Returns the producer."""
        with self._making:
            if self._producer is None:
                self._producer = Producer({**self._kafka, **_CONFIG}, logger=_log)
            return self._producer

    def _discard_broken(self, producer: Producer | None, error: KafkaError) -> None:
        # An idempotent producer that lost count of its records takes no more, and one that waited in vain may have lost
        # all brokers (common/brokers.py); the next append makes a new one.
        if error.fatal() or error.code() in (KafkaError._FATAL, KafkaError._MSG_TIMED_OUT):
            with self._making:
                # Another thread may have discarded it, and a third have opened the next.
                if self._producer is producer:
                    self._producer = None

    def close(self) -> None:
        """End what is under way in another thread, and close the connection. Takes CLOSE_S at most."""
        self._closing = True
        with self._making:
            if self._producer is not None:
                self._producer.purge()
                self._producer.flush(CLOSE_S)
                self._producer = None


class _Deliveries:
    """The confirmations of records that were sent together."""

    def __init__(self, count: int) -> None:
        self.offsets: list[int | None] = [None] * count
        self.error: KafkaError | None = None
        # A list, since two threads may poll and no count is safe from that.
        self._answered: list[int] = []

    @property
    def waits(self) -> bool:
        """Whether a record is still on its way."""
        return len(self._answered) < len(self.offsets)

    def confirm(self, number: int, error: KafkaError | None, message: Message) -> None:
        """Record what became of a record: its offset, or the error."""
        offset = message.offset()
        if error is not None:
            self.error = error
        elif offset is not None and offset >= 0:
            self.offsets[number] = offset
        self._answered.append(number)
