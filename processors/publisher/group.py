"""The publishers' consumer group: its name, its members, how far it says it is. Publishes nothing itself.

What it says serves lag tools and health checks; no publisher goes on from there.
"""

import socket
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from creditfold.common.settings import Settings
from creditfold.log.admin import KafkaUnavailableError

REQUEST_S = 10.0


def outcomes_group(settings: Settings) -> str:
    """The consumer group by which publishers share the partitions."""
    return f"{settings.group}-outcomes"


def client_id(pid: int) -> str:
    """The name by which Kafka knows a publisher of this machine in that group."""
    return f"creditfold-publisher-{socket.gethostname()}-{pid}"


def owning_members(settings: Settings, group: str) -> dict[str, int]:
    """For each member of a consumer group that has partitions, by its client id, how many. Raises KafkaException."""
    admin = AdminClient({**settings.kafka_client, "log_level": 0})
    found = admin.describe_consumer_groups([group], request_timeout=REQUEST_S)[group].result()
    counts = {member.client_id: len(member.assignment.topic_partitions) for member in found.members}
    return {name: count for name, count in counts.items() if count}


def published_offsets(settings: Settings, topic: str, partitions: int) -> Mapping[int, int]:
    """For each partition of the log the offset before which everything is published; 0 if nobody has said so.

    Raises KafkaUnavailableError.
    """
    consumer = Consumer({**settings.kafka_client, "group.id": outcomes_group(settings), "log_level": 0})
    try:
        places = consumer.committed([TopicPartition(topic, partition) for partition in range(partitions)], REQUEST_S)
        return {place.partition: max(place.offset, 0) for place in places}
    except KafkaException as error:
        raise KafkaUnavailableError(
            f"Kafka doesn't tell how far outcomes are published: {error.args[0].str()}.", "See `creditfold status`."
        ) from error
    finally:
        consumer.close()
