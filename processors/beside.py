"""Reads a few records with librdkafka where aiokafka can't parse their batch. Knows neither Faust nor PostgreSQL.

aiokafka decodes the names of headers while it parses, so one name that isn't UTF-8 makes all of its batch unreadable.
librdkafka hands out the record first and its headers when asked.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import methodcaller
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from creditfold.processors.chunks import Record
from creditfold.schemas.errors import CreditfoldError

READ_RECORDS = 500
READ_TIMEOUT_S = 15.0
#: Stands for headers that can't be told.
UNREADABLE_HEADERS = (("unreadable-headers", None),)


_headers_of = methodcaller("headers")


class UnreadableError(CreditfoldError):
    """Records that no client can read."""


class BesideRecord(NamedTuple):
    """A record as librdkafka tells of it. `timestamp` is in milliseconds UTC."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class SideReader:
    """Reads by partition and offset, outside any consumer group.

    Args:
        kafka: librdkafka settings that every client of ours starts from.
    """

    def __init__(self, kafka: Mapping[str, str]) -> None:
        self._kafka = kafka

    def read(self, topic: str, partition: int, start: int) -> tuple[int, list[Record]]:
        """Read at most READ_RECORDS committed records from an offset on; gives the offset after them, and them.

        Raises UnreadableError when there is nothing that can be read within READ_TIMEOUT_S.
        """
        conf = {
            **self._kafka,
            "group.id": "creditfold-beside",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "log_level": 2,
        }
        consumer = Consumer(conf)
        try:
            consumer.assign([TopicPartition(topic, partition, start)])
            deadline = time.monotonic() + READ_TIMEOUT_S
            while time.monotonic() < deadline:
                messages = consumer.consume(READ_RECORDS, 1.0)
                if messages:
                    records = [_record(message) for message in messages]
                    return records[-1].offset + 1, records
            raise UnreadableError(f"Nothing can be read from {topic} {partition}:{start}.", "Look at the broker's log.")
        except KafkaException as error:
            raise UnreadableError(f"{topic} {partition}:{start} can't be read: {error.args[0].str()}.") from error
        finally:
            consumer.close()


def _record(message: Message) -> Record:
    if message.error() is not None:
        raise KafkaException(message.error())
    headers: Any = UNREADABLE_HEADERS
    # The client gives back a result and an error at once, which Python notices in an indirect call only.
    with suppress(SystemError, ValueError):
        headers = _headers_of(message) or ()
    return BesideRecord(message.offset() or 0, message.timestamp()[1], message.key(), message.value(), headers)
