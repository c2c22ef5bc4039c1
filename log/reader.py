"""Reads one partition of a topic as it is: committed records in their order, and how far the log reaches behind them.

Owns the one reader that is used outside Faust. Refuses to know what the records mean, and joins no consumer group.
"""

import time
from collections.abc import Mapping
from operator import methodcaller
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from creditfold.common.brokers import finds_kafka
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.common.settings import READER
from creditfold.log.record import UNREADABLE_HEADERS, LogRecord, LogSlice

#: After how many seconds without a record the client must show that it still finds Kafka, and within how many: more
#: than its longest pause before it tries again to connect.
_SILENCE_S = 5.0
_FIND_S = 3.0
#: How many seconds one call of the client waits for a first record, and for more behind it.
_FIRST_S = 0.1
_BEHIND_S = 0.02

_headers_of = methodcaller("headers")


class UnreadableError(CreditfoldError):
    """Records can't be read from the log."""


class LogReader:
    """Reads a partition from an offset on; each `take` continues where the last one ended.

    Args:
        kafka: librdkafka settings that every client of ours starts from.
        topic: its name.
        partition: of the topic.
        start: offset of the first record wanted.
        epoch: of the leader when the record right before it was written, where that was read before: what follows it
            must be of the same log. -1 where it isn't known.
    """

    def __init__(self, kafka: Mapping[str, str], topic: str, partition: int, start: int, epoch: int = -1) -> None:
        self.position = start
        # As of the record right before the position.
        self._epoch = epoch
        self._place = (topic, partition)
        self._kafka = kafka
        self._consumer = self._new_consumer()
        self._last_answer = time.monotonic()

    def _new_consumer(self) -> Consumer:
        consumer = Consumer(
            {
                **self._kafka,
                **READER,
                "log_level": 2,
                # What is fetched ahead is memory; the client's own bounds are 100,000 records or 64 MB.
                "queued.min.messages": 20_000,
                "queued.max.messages.kbytes": 16_384,
                # The client fetches nothing for this time after it had enough: its own second would be lost waiting.
                "fetch.queue.backoff.ms": 10,
            }
        )
        # By the epoch Kafka notices that the log has lost its end meanwhile, and goes on with other records.
        consumer.assign([TopicPartition(*self._place, self.position, leader_epoch=self._epoch)])
        return consumer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def take(self, most: int, timeout_s: float) -> LogSlice:
        """Return the next records, at once where there are any.

        Args:
            most: how many records at most.
            timeout_s: how long to wait where there are none, in seconds; three more where Kafka doesn't answer.

        Returns:
            Fewer records at the log's end, none where nothing came in time.

        Raises:
            UnreadableError: the offset isn't in the topic any more, or the client gives up.
        """
        records: list[LogRecord] = []
        deadline = time.monotonic() + timeout_s
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            # One call waits for the whole number or the whole time: at first for one, then for what is right behind it.
            messages = self._consumer.consume(
                most - len(records) if records else 1, min(left, _BEHIND_S if records else _FIRST_S)
            )
            at_end, before = False, self.position
            newest: Message | None = None
            for message in messages:
                error = message.error()
                if error is None:
                    record = _record(message)
                    records.append(record)
                    self.position = record.offset + 1
                    newest = message
                elif self._is_end(message, error):
                    at_end = True
            if self.position > before:
                epoch = None if newest is None else newest.leader_epoch()
                # What lies between the last record and the log's end may be of a later epoch.
                is_behind = newest is not None and self.position == (newest.offset() or 0) + 1
                self._epoch = epoch if is_behind and epoch is not None else -1
            now = time.monotonic()
            if at_end or self.position > before:
                self._last_answer = now
            elif now - self._last_answer >= _SILENCE_S:
                self._replace_if_lost()
            if at_end or len(records) >= most or now >= deadline or (records and not messages):
                return LogSlice(self.position, records)

    def _replace_if_lost(self) -> None:
        """Replace the client where it has lost all brokers; see common/brokers.py."""
        if not finds_kafka(self._consumer, self._place[0], _FIND_S):
            lost, self._consumer = self._consumer, self._new_consumer()
            lost.close()
        self._last_answer = time.monotonic()

    def _is_end(self, message: Message, error: KafkaError) -> bool:
        if error.code() == KafkaError._PARTITION_EOF:
            self.position = max(self.position, message.offset() or 0)
            return True
        if error.retriable() or error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT):
            return False
        topic, partition = self._place
        raise UnreadableError(
            f"{topic} {Position(partition, self.position)} can't be read: {error.str()}.",
            "See `creditfold doctor`; is the record still in the topic?",
        )


def _record(message: Message) -> LogRecord:
    # The client returns a result and an error at once, which Python notices in an indirect call only.
    try:
        headers: Any = _headers_of(message) or ()
    except (SystemError, ValueError):
        headers = UNREADABLE_HEADERS
    # Like LogRecord(...), which takes twice as long.
    return tuple.__new__(
        LogRecord, (message.offset() or 0, message.timestamp()[1], message.key(), message.value(), headers)
    )
