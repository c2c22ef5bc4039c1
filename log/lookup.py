"""Looks one record of the log up by its position. Refuses to know what it means."""

import time

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.log.admin import KafkaAdmin, KafkaUnavailableError
from creditfold.log.offsets import bounds
from creditfold.log.reader import LogReader
from creditfold.log.record import LogRecord
from creditfold.log.topics import describe_topic

#: Seconds in which the broker must send the record.
READ_S = 10.0


class NoSuchRecordError(CreditfoldError):
    """The log has no record at a position."""

    exit_code = 2


def record_at(settings: Settings, position: Position, admin: KafkaAdmin | None = None) -> LogRecord:
    """The record at a position; by a client of its own if none is given.

    Raises:
        NoSuchRecordError: there is none: not yet, not any more, or never, as where a transaction ended.
        KafkaUnavailableError: no broker answers, or sends it in time.
    """
    admin, topic = admin or KafkaAdmin(settings), settings.commands_topic
    partitions = describe_topic(settings, admin=admin).log.partitions
    partition, offset = position
    if partition >= partitions:
        raise NoSuchRecordError(f"The log has no partition {partition}.", f"Its partitions are 0 to {partitions - 1}.")
    starts, ends = bounds(admin, topic, [partition])
    if not starts[partition] <= offset < ends[partition]:
        raise NoSuchRecordError(
            f"The log has no record at {position}.",
            f"Partition {partition} begins at offset {starts[partition]} and ends before {ends[partition]}.",
        )
    return _read(settings, position)


def _read(settings: Settings, position: Position) -> LogRecord:
    deadline = time.monotonic() + READ_S
    with LogReader(settings.kafka_client, settings.commands_topic, *position) as reader:
        while time.monotonic() < deadline:
            records = reader.take(1, deadline - time.monotonic()).records
            if records and records[0].offset == position.offset:
                return records[0]
            if records or reader.position > position.offset:
                raise NoSuchRecordError(
                    f"What is at {position} of the log is no record that counts.",
                    "A transaction was aborted or ended there; see the records next to it.",
                )
    raise KafkaUnavailableError(f"Kafka hasn't sent {position} within {READ_S:g} s.", "Try again.")
