"""The phrases and remedies that several of the doctor's checks share. Checks nothing."""

from collections.abc import Mapping

from creditfold.common.checks import Check
from creditfold.common.errors import ResourceError
from creditfold.common.settings import Settings
from creditfold.log.admin import kafka_tool

#: Most partitions that one sentence names.
MAX_NAMED = 10


def unknown(subject: str, name: str, refusal: ResourceError, why: str) -> Check:
    """The check of what Kafka refuses to report: its refusal."""
    return Check(subject, name, "unknown", refusal.message, why, refusal.remedy or "Look into the brokers' logs.")


def unknown_setting(topic: str, settings: Settings, name: str) -> Check:
    """The check of a topic's setting that Kafka doesn't show to this user."""
    return Check(
        topic,
        name,
        "unknown",
        "Kafka doesn't show it to this user",
        "What can't be seen can't be relied on.",
        kafka_tool(
            settings, "kafka-acls.sh", f"--add --allow-principal User:... --operation DescribeConfigs --topic {topic}"
        ),
    )


def setting_change(settings: Settings, topic: str, name: str, value: str | int) -> str:
    """The command of Kafka that changes a setting of a topic."""
    return kafka_tool(
        settings, "kafka-configs.sh", f"--alter --entity-type topics --entity-name {topic} --add-config {name}={value}"
    )


def named(numbers: list[int]) -> str:
    """Numbers for a sentence, MAX_NAMED at most."""
    return cut([str(number) for number in numbers])


def counted(counts: Mapping[int, int]) -> str:
    """Counts by partition for a sentence, MAX_NAMED at most."""
    return cut([f"{count} in partition {partition}" for partition, count in counts.items()])


def cut(words: list[str]) -> str:
    """Words by commas, MAX_NAMED at most, and how many more there are."""
    more = len(words) - MAX_NAMED
    return ", ".join(words[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
