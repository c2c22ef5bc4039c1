"""The publishers' consumer group: its name, its members, how far it says it is. Publishes nothing itself.

What it says serves lag tools and health checks; no publisher goes on from there.
"""

import socket

from confluent_kafka.admin import AdminClient

from creditfold.common.settings import Settings

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
