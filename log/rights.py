"""Whether Kafka gives this user the rights that a process needs, asked before it starts.

A consumer that may not read, or not join its group, waits without a word for what never comes.
"""

from collections.abc import Collection, Mapping

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined]

from creditfold.common.errors import ResourceError
from creditfold.common.settings import Settings
from creditfold.log.admin import ONCE_S, REQUEST_S, KafkaAdmin

READ, WRITE = AclOperation.READ, AclOperation.WRITE


class MissingRightError(ResourceError):
    """Kafka doesn't give this user a right that the process can't do without."""


def refuse_missing_rights(settings: Settings, topics: Mapping[str, Collection[AclOperation]], group: str) -> None:
    """Raise MissingRightError unless this user may do all of it. A Kafka that doesn't say so passes.

    Args:
        settings: where Kafka is, and who the user is.
        topics: what must be allowed with each topic.
        group: the consumer group that must be joined.

    Raises KafkaUnavailableError, or what describing a topic raises.
    """
    admin = KafkaAdmin(settings)
    for topic, needed in topics.items():
        described = admin.ask(
            lambda topic=topic: admin.client.describe_topics(  # type: ignore[misc]
                TopicCollection([topic]), include_authorized_operations=True, request_timeout=REQUEST_S
            )[topic].result(),
            topic,
        )
        allowed = described.authorized_operations
        missing = [] if allowed is None else [one.name.lower() for one in needed if one not in allowed]
        if missing:
            raise _missing(settings, " and ".join(missing), f"the topic {topic}")
    try:
        asked = admin.client.describe_consumer_groups(
            [group], include_authorized_operations=True, request_timeout=ONCE_S
        )
        allowed = asked[group].result().authorized_operations
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise _missing(settings, "read", f"the group {group}") from None
        # Just then its coordinator moves, or is away: joining waits for that, and this isn't known.
        return
    if allowed is not None and READ not in allowed:
        raise _missing(settings, "read", f"the group {group}")


def _missing(settings: Settings, right: str, resource: str) -> MissingRightError:
    return MissingRightError(
        f"Kafka gives the user {settings.kafka_username!r} no right to {right} {resource}.",
        "Give it (kafka-acls.sh; docs/operating.md lists the rights of each process), or set another user in "
        "CREDITFOLD_KAFKA_USERNAME.",
    )
