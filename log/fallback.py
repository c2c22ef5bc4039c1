"""Reads a few records with librdkafka where aiokafka can't parse their batch. Knows neither Faust nor PostgreSQL.

aiokafka decodes the names of headers while it parses, so one name that isn't UTF-8 makes all of its batch unreadable.
librdkafka hands out the record first and its headers when asked.
"""

import time
from collections.abc import Mapping, Sequence

from creditfold.log.reader import LogReader, UnreadableError
from creditfold.log.record import LogRecord

READ_RECORDS = 500
READ_TIMEOUT_S = 15.0


class SideReader:
    """Reads by partition and offset, outside any consumer group.

    Args:
        kafka: librdkafka settings that every client of ours starts from.
    """

    def __init__(self, kafka: Mapping[str, str]) -> None:
        self._kafka = kafka

    def read(self, topic: str, partition: int, start: int) -> tuple[int, Sequence[LogRecord]]:
        """Read at most READ_RECORDS committed records from an offset on; gives the offset after them, and them.

        Raises UnreadableError when there is nothing that can be read within READ_TIMEOUT_S.
        """
        with LogReader(self._kafka, topic, partition, start) as reader:
            deadline = time.monotonic() + READ_TIMEOUT_S
            while time.monotonic() < deadline:
                taken = reader.take(READ_RECORDS, 1.0)
                if taken.records:
                    return taken.end, taken.records
        raise UnreadableError(f"Nothing can be read from {topic} {partition}:{start}.", "Look at the broker's log.")
