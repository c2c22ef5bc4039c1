"""Checks whether anything that Kafka reports can lose a command or make a balance wrong. Pure: reads no server.

Refuses to know how the facts were collected (`facts.py`) and how they are shown, and knows of the projection only which
log it was folded from and how far.
"""

from collections.abc import Mapping

from creditfold.common.checks import Check
from creditfold.common.position import Log
from creditfold.common.settings import Settings
from creditfold.log.admin import kafka_tool
from creditfold.log.doctor.extent_checks import examine_extent
from creditfold.log.doctor.facts import FoldedLog, KafkaFacts, LogExtent
from creditfold.log.doctor.topic_checks import examine_topic
from creditfold.log.doctor.wording import named, setting_change, unknown, unknown_setting
from creditfold.log.topics import HEADROOM_BYTES, TopicInfo, topic_names


def examine_kafka(facts: KafkaFacts, settings: Settings, folded: FoldedLog | None, now_ms: int) -> list[Check]:
    """Check everything that Kafka reported.

    Args:
        facts: what Kafka reported.
        settings: what the topics should be.
        folded: what the projection was folded from; None where there is no ledger.
        now_ms: this machine's time, in milliseconds UTC.

    Returns:
        One check for each thing examined, in the order of the topics.
    """
    checks = [check_names(settings)]
    for topic in (facts.commands, facts.outcomes, facts.dead_letters):
        checks += examine_topic(topic, facts, settings, folded, now_ms)
    if folded is not None:
        checks.append(check_source_topic(facts.commands.name, folded.log.topic))
    if isinstance(facts.commands.info, TopicInfo):
        checks += _examine_log(facts.commands.info, facts, settings, folded, now_ms)
    checks.append(check_auto_create(facts.auto_create))
    return checks


def _examine_log(
    info: TopicInfo, facts: KafkaFacts, settings: Settings, folded: FoldedLog | None, now_ms: int
) -> list[Check]:
    same = folded if folded is not None and folded.log[:2] == info.log[:2] else None
    checks = [check_setting(info, settings)]
    checks += check_source(info, folded.log) if folded is not None else []
    partitions = same.log.partitions if same is not None else info.partitions
    for topic in (facts.outcomes, facts.dead_letters):
        if isinstance(topic.info, TopicInfo):
            checks.append(check_side_partitions(topic.info, partitions, settings))
            checks.append(check_side_size(topic.info, info.max_message_bytes, settings))
    if isinstance(facts.extent, LogExtent):
        return checks + examine_extent(info.name, facts.extent, same, now_ms)
    return [*checks, unknown(info.name, "offsets", facts.extent, "They show whether records are lost.")]


def check_names(settings: Settings) -> Check:
    """The topics must be three, or an outcome would be read as a command."""
    names = topic_names(settings)
    return Check(
        "settings",
        "topic names",
        "ok" if len(set(names)) == len(names) else "danger",
        ", ".join(names),
        "What is written about the log must not be written into it.",
        "Give CREDITFOLD_COMMANDS_TOPIC, CREDITFOLD_OUTCOMES_TOPIC and CREDITFOLD_DEAD_LETTERS_TOPIC three names.",
    )


def check_setting(info: TopicInfo, settings: Settings) -> Check:
    """The setting counts when the topic is made; a topic that has another count may have been given partitions."""
    return Check(
        info.name,
        "partitions as set",
        "ok" if info.partitions == settings.partitions else "warning",
        f"{info.partitions}, and CREDITFOLD_PARTITIONS is {settings.partitions}",
        "The count decides where an account lies. Partitions that were added later tear accounts apart.",
        f"If the topic was made with {info.partitions}, set CREDITFOLD_PARTITIONS={info.partitions}.",
    )


def check_side_partitions(info: TopicInfo, partitions: int, settings: Settings) -> Check:
    """An outcome goes into the partition of its command, so that partition must be there."""
    few = info.partitions < partitions
    return Check(
        info.name,
        "partitions",
        "ok" if info.partitions == partitions else "danger" if few else "warning",
        f"{info.partitions}, and the log has {partitions}",
        "What is announced of a command goes into the partition of its number.",
        kafka_tool(settings, "kafka-topics.sh", f"--alter --topic {info.name} --partitions {partitions}")
        if few
        else "The surplus stays empty. Kafka takes no partitions away; a reader may leave them out.",
    )


def check_side_size(info: TopicInfo, log_bytes: int | None, settings: Settings) -> Check:
    """What the log took must fit in with headers."""
    name = "max.message.bytes"
    if info.max_message_bytes is None or log_bytes is None:
        return unknown_setting(info.name, settings, name)
    room = info.max_message_bytes - log_bytes
    return Check(
        info.name,
        name,
        "ok" if room >= HEADROOM_BYTES else "warning" if room >= 0 else "danger",
        f"{info.max_message_bytes}, and the log's is {log_bytes}",
        "A record that the log took must fit in, with what is said about it.",
        setting_change(settings, info.name, name, log_bytes + HEADROOM_BYTES),
    )


_ANOTHER_LOG = "Another log folded into these balances makes them wrong."


def check_source_topic(name: str, source: str) -> Check:
    """The settings name the topic that the projection was folded from."""
    return Check(
        "projection",
        "source topic",
        "ok" if source == name else "danger",
        f"{source}, and the settings name {name}",
        _ANOTHER_LOG,
        f"Set CREDITFOLD_COMMANDS_TOPIC={source}, or CREDITFOLD_POSTGRES_DSN to the database of {name}.",
    )


def check_source(info: TopicInfo, source: Log) -> list[Check]:
    """The topic is still the one of this name that the projection was folded from, with as many partitions."""
    if source.topic != info.name:
        return []
    made_anew = Check(
        "projection",
        "source topic's id",
        "ok" if source.topic_id == info.topic_id else "danger",
        f"{source.topic_id}, and the topic's is {info.topic_id}",
        f"The topic was deleted and made anew. {_ANOTHER_LOG}",
        "Keep the database, which holds what the old log came to: run `pg_dump` on it. Restore the old log, or set "
        "CREDITFOLD_POSTGRES_DSN to an empty database to begin again.",
    )
    return [made_anew, _check_source_partitions(info, source)] if made_anew.state == "ok" else [made_anew]


def _check_source_partitions(info: TopicInfo, source: Log) -> Check:
    return Check(
        "projection",
        "source partitions",
        "ok" if source.partitions == info.partitions else "danger",
        f"{source.partitions}, and the topic has {info.partitions}",
        "The partition of an account follows from the count: a changed count tears accounts apart.",
        "Stop all producers and workers. Kafka takes no partitions away: make another topic (`creditfold init` with "
        f"another CREDITFOLD_COMMANDS_TOPIC and CREDITFOLD_PARTITIONS={source.partitions}), copy partitions 0 to "
        f"{source.partitions - 1} into the same ones of it, fold it into an empty database, and have every command "
        "since the change sent again, with its id.",
    )


def check_auto_create(auto_create: Mapping[int, bool | None]) -> Check:
    """A mistyped name must not become a topic."""
    creating = [broker for broker, enabled in auto_create.items() if enabled]
    silent = [broker for broker, enabled in auto_create.items() if enabled is None]
    name, why = "auto.create.topics.enable", "A mistyped name becomes a topic that loses its records after a week."
    if creating:
        remedy = "Write auto.create.topics.enable=false into each broker's server.properties and restart it."
        return Check("brokers", name, "warning", f"true on broker {named(creating)}", why, remedy)
    if silent or not auto_create:
        seen = f"not shown by broker {named(silent)}" if silent else "no broker shows it"
        remedy = "Look into each broker's server.properties, or let this user describe the brokers' settings."
        return Check("brokers", name, "unknown", seen, why, remedy)
    return Check("brokers", name, "ok", "false", why, "")
