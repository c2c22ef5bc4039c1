"""Runs `creditfold` as beside a Kafka that starts: it knows no topic until after the group's first assignment."""

from typing import Any

from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer.group_coordinator import GroupCoordinator

from creditfold.cli.main import main

update, assign = ClusterMetadata.update_metadata, GroupCoordinator._perform_assignment
assigned = False


def update_metadata(self: ClusterMetadata, metadata: Any) -> None:
    """Take what a broker answers, without its topics before the first assignment."""
    if not assigned:
        metadata.topics = []
    update(self, metadata)


async def perform_assignment(self: GroupCoordinator, response: Any) -> Any:
    """Assign, then let topics be known."""
    global assigned
    try:
        return await assign(self, response)
    finally:
        assigned = True


ClusterMetadata.update_metadata = update_metadata
GroupCoordinator._perform_assignment = perform_assignment
main()
