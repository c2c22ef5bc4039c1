"""Why Kafka doesn't confirm: what librdkafka's errors mean for a command, in our errors and remedies.

Keeps the client's last trouble and whether it can go on. Sends nothing.
"""

import logging
import time

from confluent_kafka import KafkaError

from creditfold.producers.models.errors import (
    RESEND,
    AppendError,
    BrokerUnavailableError,
    DeliveryFailedError,
    NotAllowedError,
    ProducerBrokenError,
    ProducerClosedError,
    RecordTooLargeError,
    UnknownTopicError,
)

_LOG_AGAIN_S = 10.0

_PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}
_TOO_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_NO_TOPIC = {
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.TOPIC_EXCEPTION,
}
_NOT_ALLOWED = {
    KafkaError._AUTHENTICATION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}

_log = logging.getLogger("creditfold.producers.kafka")


class Diagnosis:
    """What is known of a producer's trouble with Kafka.

    Attributes:
        broken: the error that the client can't go on from, once there is one.
        timed_out: how many records ran out of time so far.
    """

    def __init__(self, topic: str, delivery_timeout_s: float) -> None:
        self._topic = topic
        self._delivery_timeout_s = delivery_timeout_s
        self._last_trouble = ("", 0.0)
        self._logged: dict[int, float] = {}
        self.broken: ProducerBrokenError | None = None
        self.timed_out = 0

    def record(self, error: KafkaError) -> None:
        """Keep an error that the client reports of itself, and log it; the client goes on unless it is fatal."""
        # It says why when a delivery runs out of time.
        now = time.monotonic()
        self._last_trouble = (error.str(), now)
        if now - self._logged.get(error.code(), -_LOG_AGAIN_S) >= _LOG_AGAIN_S:
            self._logged[error.code()] = now
            _log.warning("kafka trouble: %s", error.str())
        if error.fatal():
            self.break_down(error)

    def break_down(self, error: KafkaError) -> ProducerBrokenError:
        """Keep the first error that the client can't go on from, and return it."""
        self.broken = self.broken or ProducerBrokenError(
            f"The producer can't go on: {error.str()}.", f"Make a new producer. For what was unconfirmed: {RESEND}"
        )
        return self.broken

    def explain(self, error: KafkaError, partition: int, *, is_closed: bool) -> AppendError:
        """What an error means for one record.

        Args:
            error: the record's.
            partition: of the record; -1 where none was chosen, since no broker was found.
            is_closed: whether the producer is closed.
        """
        code = error.code()
        if code == KafkaError._MSG_TIMED_OUT:
            self.timed_out += 1
        if error.fatal() or code == KafkaError._FATAL:
            return self.break_down(error)
        if self.broken is not None and code in _PURGED:
            return self.broken
        if code in _TOO_LARGE:
            return RecordTooLargeError(
                "Kafka refused the command's batch as too large.",
                "Raise the topic's max.message.bytes to 1048588, or set the producer's batch.size below it.",
            )
        if code in _NO_TOPIC:
            return UnknownTopicError(
                f"Kafka has no topic {self._topic!r}.", "Create it (creditfold init), or correct the topic's name."
            )
        if code in _NOT_ALLOWED:
            return NotAllowedError(
                f"Kafka doesn't let this client write to {self._topic!r}: {error.str()}.",
                "Check the user, the password and the topic's access list.",
            )
        if code == KafkaError._PURGE_QUEUE and is_closed:
            return ProducerClosedError("The producer was closed before the command was sent.", RESEND)
        if code == KafkaError._MSG_TIMED_OUT and partition < 0:
            return self.unavailable()
        return DeliveryFailedError(f"The log didn't confirm the command: {error.str()}.{self.last_trouble()}", RESEND)

    def unavailable(self) -> BrokerUnavailableError:
        """The error for a broker that didn't answer within the delivery timeout."""
        return BrokerUnavailableError(
            f"Kafka didn't answer within {self._delivery_timeout_s:g} s.{self.last_trouble()}",
            "Check that the broker runs (`creditfold up` starts one here) and that the bootstrap servers are right,"
            " then send it again.",
        )

    def last_trouble(self) -> str:
        """A sentence, with a space before it, about the client's last error; empty where there was none."""
        text, when = self._last_trouble
        return f" Last trouble, {time.monotonic() - when:.0f} s ago: {text}." if text else ""
