"""Checks whether records that a transaction committed are there for readers of committed records.

Kafka's confirmation of a commit doesn't say so. A coordinator ends a transaction by a marker in each of its partitions,
and a marker counts for whatever transaction of that producer and epoch a partition has open when it comes: one that
comes late, or that an operator's tool wrote, aborts the records of a transaction that is committed a moment later
(KIP-890; clients of librdkafka keep their epoch from one transaction to the next). Owns one reader. Knows no record's
meaning, and ends no transaction.
"""

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, TopicPartition

from creditfold.common.errors import CreditfoldError
from creditfold.common.settings import READER


class HiddenRecordError(CreditfoldError):
    """A record whose transaction was committed can't be read."""

    def __init__(self, topic: str, partition: int, offset: int, why: str) -> None:
        super().__init__(
            f"{topic} {partition}:{offset} was committed, and can't be read: {why}.",
            "It is published again at once, unless a transaction is open before it. If this comes again and again, see "
            "`kafka-transactions.sh describe-producers` and the brokers' logs.",
        )


class Visibility:
    """Reads single records of one partition number, in any topics. For one thread; connects when it is first needed.

    Args:
        kafka: librdkafka settings that every client of ours starts from.
        partition: of each topic.
    """

    def __init__(self, kafka: Mapping[str, str], partition: int) -> None:
        self._kafka = kafka
        self._partition = partition
        self._consumer: Consumer | None = None
        self._awaited: dict[str, int] = {}

    def expect(self, offsets: Mapping[str, int]) -> None:
        """Begin to read, by topic, the record at an offset; what was expected before no longer is. Doesn't wait."""
        self._awaited = dict(offsets)
        if self._consumer is None:
            self._consumer = self._new_consumer()
        self._consumer.assign([TopicPartition(topic, self._partition, offset) for topic, offset in offsets.items()])

    def confirm(self, timeout_s: float) -> None:
        """Return when everything expected was read. Raises HiddenRecordError for what is aborted, gone, or not come."""
        if not self._awaited or self._consumer is None:
            return
        deadline = time.monotonic() + timeout_s
        while self._awaited:
            left = deadline - time.monotonic()
            if left <= 0:
                topic, offset = next(iter(self._awaited.items()))
                why = f"after {timeout_s:.0f} s a transaction is open there, or the broker doesn't answer"
                raise HiddenRecordError(topic, self._partition, offset, why)
            self._poll(self._consumer, left)
        # Or the client would go on fetching what isn't read.
        self._consumer.unassign()

    def _poll(self, consumer: Consumer, timeout_s: float) -> None:
        message = consumer.poll(timeout_s)
        if message is None or (topic := message.topic() or "") not in self._awaited:
            return
        wanted, error = self._awaited[topic], message.error()
        at = message.offset() or 0
        if error is None and at == wanted:
            del self._awaited[topic]
        elif error is None or error.code() == KafkaError._PARTITION_EOF:
            # The end that readers see may still be before it.
            if at > wanted:
                raise HiddenRecordError(topic, self._partition, wanted, "its transaction is aborted there")
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise HiddenRecordError(topic, self._partition, wanted, "the topic doesn't hold it any more")

    def _new_consumer(self) -> Consumer:
        return Consumer(
            {
                **self._kafka,
                **READER,
                "log_level": 2,
                # One record is wanted: the broker sends the batch that it is in, whatever its size. And at once, not
                # after the second for which the client fetches nothing when it had enough.
                "queued.min.messages": 1,
                "fetch.queue.backoff.ms": 1,
                "fetch.message.max.bytes": 1_024,
            }
        )

    def close(self) -> None:
        """Close the connection."""
        if self._consumer is not None:
            self._consumer.close()
