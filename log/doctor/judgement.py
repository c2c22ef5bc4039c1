"""Judges what Kafka tells of itself by whether it can lose a command or make a balance wrong. Pure: asks nobody.

Refuses to know how the facts were collected (`facts.py`) and how they are shown, and knows of the projection only which
log it was folded from and how far.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from creditfold.common.checks import Check, State
from creditfold.common.position import Log
from creditfold.common.processes import StackError
from creditfold.common.settings import Settings
from creditfold.log.continuity import REPLACED, LogReplacedError
from creditfold.log.doctor.facts import KafkaFacts, Reach, TopicFacts
from creditfold.log.open_transactions import remedy
from creditfold.log.reader import LogTruncatedError
from creditfold.log.topics import FOREVER, HEADROOM_BYTES, TopicInfo, TopicMissingError, kafka_tool, topic_names

FUTURE_WARNING_MS = 5_000
FUTURE_DANGER_MS = 300_000
MAX_NAMED = 10

_WHY = {
    "cleanup.policy": "Compaction removes records whose key came again, and what is removed can't be folded again.",
    "retention.ms": "Older records are removed, and what is removed can't be folded again.",
    "retention.bytes": "The oldest records are removed, and what is removed can't be folded again.",
    "message.timestamp.type": "The append time is the ledger's clock; otherwise each producer's clock would be.",
}


class Folded(NamedTuple):
    """What the projection says of itself: the log that it was folded from, and each partition's next offset.

    `refused` are the partitions in which the log isn't what was folded of it, and why; or why that can't be known.
    """

    log: Log
    next_offsets: Mapping[int, int]
    refused: Mapping[int, LogTruncatedError] | StackError = MappingProxyType({})


def examine_kafka(facts: KafkaFacts, settings: Settings, folded: Folded | None, now_ms: int) -> list[Check]:
    """Judge everything that Kafka told, at this machine's time `now_ms`. `folded` is None where there is no ledger."""
    checks = [judge_names(settings)]
    for topic in (facts.commands, facts.outcomes, facts.dead_letters):
        checks += judge_topic(topic, facts, settings, folded, now_ms)
    if folded is not None:
        checks.append(judge_source_topic(facts.commands.name, folded.log.topic))
    if isinstance(facts.commands.info, TopicInfo):
        checks += _examine_log(facts.commands.info, facts, settings, folded, now_ms)
    checks.append(judge_auto_create(facts.auto_create))
    return checks


def _examine_log(
    info: TopicInfo, facts: KafkaFacts, settings: Settings, folded: Folded | None, now_ms: int
) -> list[Check]:
    same = folded if folded is not None and folded.log[:2] == info.log[:2] else None
    checks = [judge_setting(info, settings)]
    checks += judge_source(info, folded.log) if folded is not None else []
    partitions = same.log.partitions if same is not None else info.partitions
    for topic in (facts.outcomes, facts.dead_letters):
        if isinstance(topic.info, TopicInfo):
            checks.append(judge_side_partitions(topic.info, partitions, settings))
            checks.append(judge_side_size(topic.info, info.max_message_bytes, settings))
    if isinstance(facts.reach, Reach):
        return checks + examine_reach(info.name, facts.reach, same, now_ms)
    return [*checks, unknown(info.name, "offsets", facts.reach, "They show whether records are lost.")]


def unknown(subject: str, name: str, refusal: StackError, why: str) -> Check:
    """What Kafka refuses to tell."""
    return Check(subject, name, "unknown", refusal.message, why, refusal.remedy or "Look into the brokers' logs.")


# The settings


def judge_names(settings: Settings) -> Check:
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


def judge_setting(info: TopicInfo, settings: Settings) -> Check:
    """The setting counts when the topic is made; a topic that has another count may have been given partitions."""
    return Check(
        info.name,
        "partitions as set",
        "ok" if info.partitions == settings.partitions else "warning",
        f"{info.partitions}, and CREDITFOLD_PARTITIONS is {settings.partitions}",
        "The count decides where an account lies. Partitions that were added later tear accounts apart.",
        f"If the topic was made with {info.partitions}, set CREDITFOLD_PARTITIONS={info.partitions}.",
    )


# Each topic by itself


def judge_topic(
    topic: TopicFacts, facts: KafkaFacts, settings: Settings, folded: Folded | None, now_ms: int
) -> list[Check]:
    """What must be so for each of the topics."""
    info = topic.info
    if isinstance(info, TopicMissingError):
        return [_missing_log(topic.name, folded) if topic is facts.commands else _missing_side(topic.name)]
    if isinstance(info, StackError):
        return [unknown(topic.name, "description", info, "Nothing can be told of a topic that can't be described.")]
    return [
        Check(info.name, "exists", "ok", f"id {info.topic_id}, {info.partitions} partitions", "It is needed.", ""),
        *judge_retention(info, settings),
        *([judge_timestamps(info, settings)] if topic is facts.commands else []),
        judge_replication(info, len(facts.brokers), settings),
        judge_min_in_sync(info, settings),
        judge_election(info, settings),
        judge_replicas(info, settings),
        judge_open_transactions(topic, facts, settings, now_ms),
    ]


def _missing_log(name: str, folded: Folded | None) -> Check:
    why = "It is the truth: without it nothing can be appended, and nothing folded again."
    remedy = "Make it with `creditfold init`, if this is a new ledger."
    if folded is not None and folded.log.topic == name:
        remedy = (
            "Stop the producers and the workers, restore the topic from a backup, and don't run `creditfold init`: the "
            "projection was folded from it, and a new topic of this name would be another log."
        )
    return Check(name, "exists", "danger", "there is no such topic", why, remedy)


def _missing_side(name: str) -> Check:
    why = "What comes of the log is announced in it."
    return Check(name, "exists", "danger", "there is no such topic", why, "creditfold init")


def judge_retention(info: TopicInfo, settings: Settings) -> list[Check]:
    """Nothing of it may be removed, neither by age nor by size nor because a key came again."""
    return [
        _config(info.name, settings, "cleanup.policy", info.cleanup_policy, "delete"),
        _config(info.name, settings, "retention.ms", info.retention_ms, FOREVER),
        _config(info.name, settings, "retention.bytes", info.retention_bytes, FOREVER),
    ]


def judge_timestamps(info: TopicInfo, settings: Settings) -> Check:
    """The log's clock is the broker's."""
    return _config(info.name, settings, "message.timestamp.type", info.timestamp_type, "LogAppendTime")


def judge_replication(info: TopicInfo, brokers: int, settings: Settings) -> Check:
    """Three replicas survive the loss of one broker while another is down for maintenance."""
    replicas = _replication(info)
    state: State = "ok" if replicas >= 3 else "danger" if replicas == 1 and brokers >= 3 else "warning"
    remedy = "For production run three brokers and set CREDITFOLD_REPLICATION=3 before `creditfold init`."
    if brokers >= 3:
        remedy = (
            kafka_tool(settings, "kafka-reassign-partitions.sh", "--execute --reassignment-json-file replicas.json")
            + " with three brokers for each partition in replicas.json"
        )
    return Check(
        info.name,
        "replication factor",
        state,
        f"{replicas}, on {brokers} broker{'' if brokers == 1 else 's'}",
        "With one replica a broken disk is the end of the log.",
        remedy,
    )


def judge_min_in_sync(info: TopicInfo, settings: Settings) -> Check:
    """An acknowledged record must be on two brokers, and one broker may be missing."""
    name, least, replicas = "min.insync.replicas", info.min_in_sync, _replication(info)
    if least is None:
        return _not_told(info.name, settings, name)
    lonely = replicas >= 3 and least < 2
    blocking = least > replicas or (replicas > 1 and least == replicas)
    return Check(
        info.name,
        name,
        "danger" if lonely else "warning" if blocking else "ok",
        f"{least}, of {replicas} replicas",
        "Nothing can be appended while a single broker is missing, or ever."
        if blocking
        else "A record that one broker alone acknowledged is lost with it.",
        _alter(settings, info.name, name, 2 if replicas >= 3 else 1),
    )


def judge_election(info: TopicInfo, settings: Settings) -> Check:
    """A replica that lags must not become the leader."""
    name = "unclean.leader.election.enable"
    if info.unclean_election is None:
        return _not_told(info.name, settings, name)
    return Check(
        info.name,
        name,
        "danger" if info.unclean_election else "ok",
        str(info.unclean_election).lower(),
        "A replica that lags would become the leader, and what it lacks is lost though it was acknowledged.",
        _alter(settings, info.name, name, "false"),
    )


def judge_replicas(info: TopicInfo, settings: Settings) -> Check:
    """Each partition has a leader, and all its replicas are in sync."""
    offline = [state.partition for state in info.layout if state.leader is None]
    starved = [state.partition for state in info.layout if len(state.in_sync) < (info.min_in_sync or 1)]
    behind = [state.partition for state in info.layout if len(state.in_sync) < len(state.replicas)]
    if offline:
        seen = f"no leader: {_named(offline)}"
    elif starved:
        seen = f"fewer than min.insync.replicas: {_named(starved)}"
    else:
        seen = f"not all in sync: {_named(behind)}" if behind else "all in sync"
    return Check(
        info.name,
        "replicas",
        "danger" if offline or starved else "warning" if behind else "ok",
        seen,
        "Until they are back, fewer brokers than planned hold the records, or none can take new ones.",
        "Start the brokers that are missing; "
        + kafka_tool(settings, "kafka-topics.sh", "--describe --under-replicated-partitions"),
    )


def judge_open_transactions(topic: TopicFacts, facts: KafkaFacts, settings: Settings, now_ms: int) -> Check:
    """Nobody's transaction has been open for long: what was committed behind its start waits for it."""
    name, why = "open transactions", "What stands behind an open transaction isn't read by anybody until it ends."
    if isinstance(topic.open_transactions, StackError):
        return unknown(topic.name, name, topic.open_transactions, why)
    long = [one for one in topic.open_transactions if one.is_long(now_ms)]
    return Check(
        topic.name,
        name,
        "ok" if not long else "danger" if topic is facts.commands else "warning",
        _cut([one.words(now_ms) for one in long]) if long else "none that is open for long",
        why,
        remedy(settings, long[0]) if long else "",
    )


# The topics among each other, and with the projection


def judge_side_partitions(info: TopicInfo, partitions: int, settings: Settings) -> Check:
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


def judge_side_size(info: TopicInfo, log_bytes: int | None, settings: Settings) -> Check:
    """What the log took must fit in with headers."""
    name = "max.message.bytes"
    if info.max_message_bytes is None or log_bytes is None:
        return _not_told(info.name, settings, name)
    room = info.max_message_bytes - log_bytes
    return Check(
        info.name,
        name,
        "ok" if room >= HEADROOM_BYTES else "warning" if room >= 0 else "danger",
        f"{info.max_message_bytes}, and the log's is {log_bytes}",
        "A record that the log took must fit in, with what is said about it.",
        _alter(settings, info.name, name, log_bytes + HEADROOM_BYTES),
    )


_ANOTHER_LOG = "Another log folded into these balances makes them wrong."


def judge_source_topic(name: str, source: str) -> Check:
    """The settings name the topic that the projection was folded from."""
    return Check(
        "projection",
        "source topic",
        "ok" if source == name else "danger",
        f"{source}, and the settings name {name}",
        _ANOTHER_LOG,
        f"Set CREDITFOLD_COMMANDS_TOPIC={source}, or CREDITFOLD_POSTGRES_DSN to the database of {name}.",
    )


def judge_source(info: TopicInfo, source: Log) -> list[Check]:
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
    return [made_anew, _judge_source_partitions(info, source)] if made_anew.state == "ok" else [made_anew]


def _judge_source_partitions(info: TopicInfo, source: Log) -> Check:
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


# How far the log reaches


def examine_reach(name: str, reach: Reach, folded: Folded | None, now_ms: int) -> list[Check]:
    """The log is whole from 0 to where it was folded, and no record comes from the future."""
    newest = reach.newest_ms
    why = "It shows whether the brokers' clocks agree with this machine's."
    clock = (
        unknown(name, "append times", newest, why)
        if isinstance(newest, StackError)
        else judge_append_times(name, newest, now_ms)
    )
    next_offsets = folded.next_offsets if folded is not None else None
    start, end = judge_start(name, reach.starts, next_offsets), judge_end(name, reach.ends, next_offsets or {})
    return [start, end, *([judge_history(name, folded)] if folded is not None else []), clock]


def judge_start(name: str, starts: Mapping[int, int], next_offsets: Mapping[int, int] | None) -> Check:
    """A log that doesn't start at 0 has lost what came before. `next_offsets` is None where the fold can't be asked."""
    gone = {partition: start for partition, start in sorted(starts.items()) if start > 0}
    unfolded = [partition for partition, start in gone.items() if (next_offsets or {}).get(partition, 0) < start]
    if next_offsets is not None and not unfolded:
        remedy = (
            "The balances still hold what is gone, but a rebuild is impossible without a backup of the topic. Back the "
            "database up with `pg_dump`, and find out who removed records (kafka-delete-records.sh, retention)."
        )
    else:
        remedy = "Stop the workers, and restore the topic from a backup." + (
            f" Partition {_named(unfolded)} was not folded past the gap: no balance holds all of what is gone."
            if next_offsets is not None
            else ""
        )
    return Check(
        name,
        "start of the log",
        "danger" if gone else "ok",
        f"{sum(gone.values())} offsets are gone: {_counted(gone)}" if gone else "0 in every partition",
        "What lies before a partition's start is lost from the truth.",
        remedy,
    )


def judge_end(name: str, ends: Mapping[int, int], next_offsets: Mapping[int, int]) -> Check:
    """A log that ends before what was folded has lost its end."""
    short = {
        partition: next_offsets[partition] - end
        for partition, end in sorted(ends.items())
        if next_offsets.get(partition, 0) > end
    }
    return Check(
        name,
        "end of the log",
        "danger" if short else "ok",
        f"{sum(short.values())} folded offsets are gone: {_counted(short)}" if short else "nothing folded lies beyond",
        "Balances count commands that the log no longer has, and new ones would be skipped in their place.",
        "Stop the producers and the workers, and restore the topic from a backup or from a replica that still has it.",
    )


def judge_history(name: str, folded: Folded) -> Check:
    """The last records that were folded are still in the log, where they were."""
    title, refused = "last folded records", folded.refused
    why = "A log that lost its end and grew past it has other commands at offsets that were folded; they are skipped."
    if isinstance(refused, StackError):
        return unknown(name, title, refused, why)
    # One that ends too early is the business of the checks above.
    replaced = {partition: error for partition, error in refused.items() if isinstance(error, LogReplacedError)}
    seen = " ".join(error.message for error in replaced.values())
    return Check(name, title, "danger" if replaced else "ok", seen or "where they were", why, REPLACED)


def judge_append_times(name: str, newest_ms: Mapping[int, int], now_ms: int) -> Check:
    """A record from the future means that a broker's clock, or this machine's, is wrong."""
    ahead = {partition: newest - now_ms for partition, newest in sorted(newest_ms.items())}
    late = [partition for partition, ms in ahead.items() if ms > FUTURE_WARNING_MS]
    worst = max(ahead.values(), default=0)
    seen = f"{worst / 1000:.1f} s in the future: partition {_named(late)}" if late else "none in the future"
    return Check(
        name,
        "append times",
        "ok" if not late else "danger" if worst > FUTURE_DANGER_MS else "warning",
        seen,
        "The log's clock never goes back: after a record from the future it stands still until that time has come.",
        "Set the clocks of the brokers and of this machine by NTP; `chronyc tracking` shows how far off they are.",
    )


# The brokers


def judge_auto_create(auto_create: Mapping[int, bool | None]) -> Check:
    """A mistyped name must not become a topic."""
    creating = [broker for broker, enabled in auto_create.items() if enabled]
    silent = [broker for broker, enabled in auto_create.items() if enabled is None]
    name, why = "auto.create.topics.enable", "A mistyped name becomes a topic that loses its records after a week."
    if creating:
        remedy = "Write auto.create.topics.enable=false into each broker's server.properties and restart it."
        return Check("brokers", name, "warning", f"true on broker {_named(creating)}", why, remedy)
    if silent or not auto_create:
        seen = f"not told by broker {_named(silent)}" if silent else "no broker tells"
        remedy = "Look into each broker's server.properties, or let this user describe the brokers' settings."
        return Check("brokers", name, "unknown", seen, why, remedy)
    return Check("brokers", name, "ok", "false", why, "")


# Words


def _config(topic: str, settings: Settings, name: str, value: str | int | None, wanted: str | int) -> Check:
    if value is None:
        return _not_told(topic, settings, name)
    state: State = "ok" if value == wanted else "danger"
    return Check(topic, name, state, str(value), _WHY[name], _alter(settings, topic, name, wanted))


def _not_told(topic: str, settings: Settings, name: str) -> Check:
    return Check(
        topic,
        name,
        "unknown",
        "Kafka doesn't tell this user",
        "What can't be seen can't be relied on.",
        kafka_tool(
            settings, "kafka-acls.sh", f"--add --allow-principal User:... --operation DescribeConfigs --topic {topic}"
        ),
    )


def _alter(settings: Settings, topic: str, name: str, value: str | int) -> str:
    return kafka_tool(
        settings, "kafka-configs.sh", f"--alter --entity-type topics --entity-name {topic} --add-config {name}={value}"
    )


def _replication(info: TopicInfo) -> int:
    return min((len(state.replicas) for state in info.layout), default=0)


def _named(numbers: list[int]) -> str:
    return _cut([str(number) for number in numbers])


def _counted(counts: Mapping[int, int]) -> str:
    return _cut([f"{count} in partition {partition}" for partition, count in counts.items()])


def _cut(words: list[str]) -> str:
    more = len(words) - MAX_NAMED
    return ", ".join(words[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
