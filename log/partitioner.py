"""Which partition of the log an account's records are in. Knows neither accounts nor records, but a record's key."""

from confluent_kafka import murmur2


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key by Kafka's default partitioner (murmur2, made positive, modulo)."""
    return int(murmur2(key, partitions))
