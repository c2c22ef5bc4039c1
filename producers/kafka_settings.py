"""The settings of a producer's librdkafka client: those that the log's promises demand, and defaults for the others.

Makes no client.
"""

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError

from creditfold.producers.models.errors import ProducerSettingError

#: The settings that every producer has; another value of the caller's is refused, not silently replaced.
FORCED: Mapping[str, str | int | bool] = {
    "enable.idempotence": True,
    "acks": "all",
    # librdkafka's default agrees with Java's and aiokafka's choice of partition on about one key in eight only.
    "partitioner": "murmur2_random",
}
DEFAULTS: Mapping[str, str | int | bool] = {
    "client.id": "creditfold-producer",
    # librdkafka writes some twenty lines a second while Kafka is away; its error callback says the same, once.
    "log_level": 2,
    # As fast as lz4 here, and the smallest on a disk that keeps the log without end.
    "compression.type": "zstd",
    "linger.ms": 5,
    # The default of ten seconds would eat a third of the delivery timeout after Kafka is back.
    "reconnect.backoff.max.ms": 1_000,
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 262_144,
}
# A new topic needs a moment to be known to every broker; a mistyped one should not wait for the whole timeout.
_TOPIC_GRACE_MS = 5_000
# Time that a client gets to find Kafka, besides its longest pause before it connects again.
_FIND_S = 2.0


def client_config(
    kafka: Mapping[str, str | int],
    *,
    delivery_timeout_s: float,
    queue_records: int,
    on_error: Callable[[KafkaError], None],
) -> dict[str, Any]:
    """The whole configuration of a client.

    Args:
        kafka: the caller's librdkafka settings.
        delivery_timeout_s: seconds that a record may wait for its confirmation.
        queue_records: most records that wait unconfirmed.
        on_error: called for each error that the client reports of itself.

    Raises:
        ProducerSettingError: the caller sets one of FORCED to another value.
    """
    timeout_ms = int(delivery_timeout_s * 1000)
    ours = {
        "queue.buffering.max.messages": queue_records,
        "topic.metadata.propagation.max.ms": min(_TOPIC_GRACE_MS, timeout_ms // 2),
    }
    forced = {**FORCED, "delivery.timeout.ms": timeout_ms}
    for name, value in forced.items():
        if name in kafka and str(kafka[name]).lower() != str(value).lower():
            raise ProducerSettingError(f"{name} must be {value!r} for the log's promises.", "Leave it out.")
    return {**DEFAULTS, **ours, **kafka, **forced, "error_cb": on_error}


def find_timeout_s(kafka: Mapping[str, str | int]) -> float:
    """Seconds within which a client with these settings finds Kafka, if Kafka is there."""
    # The client adds up to a fifth to its pause at random.
    return _FIND_S + 1.2 * float({**DEFAULTS, **kafka}["reconnect.backoff.max.ms"]) / 1000
