"""The publishers' consumer group: its name, and the names of its members. Publishes nothing itself."""

import socket

from creditfold.common.settings import Settings


def outcomes_group(settings: Settings) -> str:
    """The consumer group by which publishers share the partitions."""
    return f"{settings.group}-outcomes"


def client_id(pid: int) -> str:
    """The name by which Kafka knows a publisher of this machine in that group."""
    return f"creditfold-publisher-{socket.gethostname()}-{pid}"
