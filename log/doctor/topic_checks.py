"""Checks each topic by itself: its settings, replicas and open transactions. Pure: reads no server."""

from creditfold.common.checks import Check, State
from creditfold.common.errors import ResourceError
from creditfold.common.settings import Settings
from creditfold.log.admin import TopicMissingError, kafka_tool
from creditfold.log.doctor.facts import FoldedLog, KafkaFacts, TopicFacts
from creditfold.log.doctor.wording import cut, named, setting_change, unknown, unknown_setting
from creditfold.log.open_transactions import remedy
from creditfold.log.topics import FOREVER, TopicInfo

_WHY = {
    "cleanup.policy": "Compaction removes records whose key came again, and what is removed can't be folded again.",
    "retention.ms": "Older records are removed, and what is removed can't be folded again.",
    "retention.bytes": "The oldest records are removed, and what is removed can't be folded again.",
    "message.timestamp.type": "The append time is the ledger's clock; otherwise each producer's clock would be.",
}


def examine_topic(
    topic: TopicFacts, facts: KafkaFacts, settings: Settings, folded: FoldedLog | None, now_ms: int
) -> list[Check]:
    """Check one topic, whichever of the three it is."""
    info = topic.info
    if isinstance(info, TopicMissingError):
        return [_missing_log(topic.name, folded) if topic is facts.commands else _missing_side(topic.name)]
    if isinstance(info, ResourceError):
        return [unknown(topic.name, "description", info, "A topic that can't be described can't be checked.")]
    return [
        Check(info.name, "exists", "ok", f"id {info.topic_id}, {info.partitions} partitions", "It is needed.", ""),
        *check_retention(info, settings),
        *([check_timestamps(info, settings)] if topic is facts.commands else []),
        check_replication(info, len(facts.brokers), settings),
        check_min_in_sync(info, settings),
        check_election(info, settings),
        check_replicas(info, settings),
        check_open_transactions(topic, facts, settings, now_ms),
    ]


def _missing_log(name: str, folded: FoldedLog | None) -> Check:
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


def check_retention(info: TopicInfo, settings: Settings) -> list[Check]:
    """Nothing of it may be removed, neither by age nor by size nor because a key came again."""
    return [
        _config(info.name, settings, "cleanup.policy", info.cleanup_policy, "delete"),
        _config(info.name, settings, "retention.ms", info.retention_ms, FOREVER),
        _config(info.name, settings, "retention.bytes", info.retention_bytes, FOREVER),
    ]


def check_timestamps(info: TopicInfo, settings: Settings) -> Check:
    """The log's clock is the broker's."""
    return _config(info.name, settings, "message.timestamp.type", info.timestamp_type, "LogAppendTime")


def check_replication(info: TopicInfo, brokers: int, settings: Settings) -> Check:
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


def check_min_in_sync(info: TopicInfo, settings: Settings) -> Check:
    """An acknowledged record must be on two brokers, and one broker may be missing."""
    name, least, replicas = "min.insync.replicas", info.min_in_sync, _replication(info)
    if least is None:
        return unknown_setting(info.name, settings, name)
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
        setting_change(settings, info.name, name, 2 if replicas >= 3 else 1),
    )


def check_election(info: TopicInfo, settings: Settings) -> Check:
    """A replica that lags must not become the leader."""
    name = "unclean.leader.election.enable"
    if info.unclean_election is None:
        return unknown_setting(info.name, settings, name)
    return Check(
        info.name,
        name,
        "danger" if info.unclean_election else "ok",
        str(info.unclean_election).lower(),
        "A replica that lags would become the leader, and what it lacks is lost though it was acknowledged.",
        setting_change(settings, info.name, name, "false"),
    )


def check_replicas(info: TopicInfo, settings: Settings) -> Check:
    """Each partition has a leader, and all its replicas are in sync."""
    offline = [state.partition for state in info.layout if state.leader is None]
    starved = [state.partition for state in info.layout if len(state.in_sync) < (info.min_in_sync or 1)]
    behind = [state.partition for state in info.layout if len(state.in_sync) < len(state.replicas)]
    if offline:
        seen = f"no leader: {named(offline)}"
    elif starved:
        seen = f"fewer than min.insync.replicas: {named(starved)}"
    else:
        seen = f"not all in sync: {named(behind)}" if behind else "all in sync"
    return Check(
        info.name,
        "replicas",
        "danger" if offline or starved else "warning" if behind else "ok",
        seen,
        "Until they are back, fewer brokers than planned hold the records, or none can take new ones.",
        "Start the brokers that are missing; "
        + kafka_tool(settings, "kafka-topics.sh", "--describe --under-replicated-partitions"),
    )


def check_open_transactions(topic: TopicFacts, facts: KafkaFacts, settings: Settings, now_ms: int) -> Check:
    """Nobody's transaction has been open for long: what was committed behind its start waits for it."""
    name, why = "open transactions", "What stands behind an open transaction isn't read by anybody until it ends."
    if isinstance(topic.open_transactions, ResourceError):
        return unknown(topic.name, name, topic.open_transactions, why)
    long = [one for one in topic.open_transactions if one.is_long(now_ms)]
    return Check(
        topic.name,
        name,
        "ok" if not long else "danger" if topic is facts.commands else "warning",
        cut([one.description(now_ms) for one in long]) if long else "none that is open for long",
        why,
        remedy(settings, long[0]) if long else "",
    )


def _config(topic: str, settings: Settings, name: str, value: str | int | None, wanted: str | int) -> Check:
    if value is None:
        return unknown_setting(topic, settings, name)
    state: State = "ok" if value == wanted else "danger"
    return Check(topic, name, state, str(value), _WHY[name], setting_change(settings, topic, name, wanted))


def _replication(info: TopicInfo) -> int:
    return min((len(state.replicas) for state in info.layout), default=0)
