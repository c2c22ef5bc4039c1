"""Observes how far the fold is and how its processes are, and refuses a ledger or a process that isn't well.

Owns the sampling and the comparison of two samples. What is well is judged in `processors/health.py`. Knows no output.
A server that is away becomes an error in the observation: what can be seen without it is reported all the same.
"""

import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from creditfold.common.checks import Check
from creditfold.common.disks import check_disk, disks
from creditfold.common.errors import CreditfoldError, ResourceError
from creditfold.common.settings import Settings
from creditfold.log.admin import KafkaAdmin, KafkaUnavailableError
from creditfold.log.continuity import replacements
from creditfold.log.offsets import End, log_ends
from creditfold.log.open_transactions import (
    OpenTransaction,
    append_times,
    open_transactions,
    open_transactions_at,
    remedy,
)
from creditfold.log.origin import OldLogError, refuse_old_log
from creditfold.log.topics import describe_log
from creditfold.processors.health import (
    Judgement,
    Problem,
    Reached,
    condition,
    judge_dead_letters,
    judge_ledger,
    judge_machine,
    suspects,
)
from creditfold.processors.heartbeat import is_ours
from creditfold.projections import queries
from creditfold.projections.connections import connected
from creditfold.projections.queries.background import InTransit
from creditfold.projections.queries.health import DatabaseHealth, data_folder, database_health
from creditfold.projections.queries.heartbeats import Heartbeat, Role, heartbeats
from creditfold.projections.queries.progress import PartitionProgress
from creditfold.projections.tables.source import LogChangedError

T = TypeVar("T")

COUNTS = ("records", "accepted", "rejected", "duplicates", "dead_letters")


class UnhealthyError(CreditfoldError):
    """A process or the ledger isn't well."""


class HeldBackError(UnhealthyError):
    """Records wait behind a transaction that was left open."""


class PartitionStatus(NamedTuple):
    """One partition between two samples. `rate` is in records a second, `lag` in records at the second sample.

    `end_offset` is the partition's end, open transactions included, and `held` how many of its last records an open
    transaction holds back. `doing` is what its owner does, `stuck` whether that is a fault. Fields of a server that is
    away are None.
    """

    partition: int
    next_offset: int | None
    end_offset: int | None
    lag: int | None
    held: int | None
    rate: float | None
    stuck: bool
    records: int | None
    accepted: int | None
    rejected: int | None
    duplicates: int | None
    dead_letters: int | None
    clock: datetime | None
    folded_at: datetime | None
    owner: str | None
    doing: str


class ProcessStatus(NamedTuple):
    """A worker or publisher by its last sign of life, `age_s` seconds ago, and the partitions that it held then."""

    role: str
    name: str
    condition: str
    age_s: float
    partitions: tuple[int, ...]


class Sample(NamedTuple):
    """Where the fold and the log stood at an instant of the monotonic clock.

    Fields of a server that is away are empty.
    """

    at: float
    progress: Mapping[int, PartitionProgress]
    ends: Mapping[int, End]


class Transit(NamedTuple):
    """How many transfers are in transit, and the age in seconds of the oldest; None where there is none."""

    transfers: int
    oldest_s: float | None


class Observation(NamedTuple):
    """Two samples and what else was seen at the second. `errors` are those of servers that are away, and of an old log.

    `waiting_s` has, for partitions whose owner seems to do nothing, how long the next record has waited, in seconds.
    """

    first: Sample
    second: Sample
    health: DatabaseHealth | None
    open_transactions: Sequence[OpenTransaction] | None
    waiting_s: Mapping[int, float]
    postgres_folder: str | None
    errors: Sequence[CreditfoldError]


class LedgerStatus(NamedTuple):
    """An observation by partition and by process, what is wrong with the ledger, and what an operator should know."""

    seen: Observation
    partitions: Sequence[PartitionStatus]
    processes: Sequence[ProcessStatus]
    problems: Sequence[Problem]
    warnings: Sequence[Check]
    transit: Transit | None


def ledger_status(
    settings: Settings, interval_s: float, earlier: Sample | None = None, admin: KafkaAdmin | None = None
) -> LedgerStatus:
    """Observe the ledger as `observe` does, and judge it. Raises LogChangedError."""
    seen = observe(settings, interval_s, earlier, admin)
    judgement = judge(settings, seen)
    health = seen.health
    return LedgerStatus(
        seen,
        compare(seen.first, seen.second, judgement),
        [_process_status(one) for one in health.heartbeats] if health is not None else [],
        judgement.problems,
        _warnings(settings, seen),
        transit_of(health.transit) if health is not None else None,
    )


def refuse_unwell(settings: Settings, status: LedgerStatus) -> None:
    """Raise UnhealthyError or LogReplacedError unless the ledger as a whole is well."""
    second = status.seen.second
    if second.ends:
        refuse_other_history(settings, second)
    refuse_unhealthy(status.problems)
    refuse_held_back(settings, status.seen.open_transactions or (), time.time_ns() // 1_000_000)


def refuse_unhealthy(problems: Sequence[Problem]) -> None:
    """Raise UnhealthyError if there is a problem."""
    if problems:
        what = "; ".join(problem.what for problem in problems)
        raise UnhealthyError(f"Unhealthy: {what}.", problems[0].remedy)


def observe(
    settings: Settings, interval_s: float, earlier: Sample | None = None, admin: KafkaAdmin | None = None
) -> Observation:
    """Take two samples and see what else there is. Raises LogChangedError.

    Args:
        settings: where the servers are.
        interval_s: seconds between the two.
        earlier: one that was taken before, in place of the first of the two.
        admin: what Kafka is asked by; a client of its own if none is given.
    """
    asked = admin or KafkaAdmin(settings)
    errors: list[CreditfoldError] = []
    first = earlier
    if first is None:
        first = _sample(settings, errors, lambda: _progress(settings), asked)
        # Not a wait for readiness: a rate needs time to pass.
        time.sleep(interval_s)
    health: DatabaseHealth | None = None
    folder: str | None = None

    def progress() -> Sequence[PartitionProgress]:
        nonlocal health, folder
        if earlier is None and not first.progress:
            return ()
        with connected(settings.dsn) as connection:
            found = database_health(connection)
            _refuse_other_topic(settings, found.progress)
            health, folder = found, data_folder(connection)
        return health.progress

    second = _sample(settings, errors, progress, asked)
    if second.ends:
        _or_error(lambda: refuse_old_log(settings, settings.commands_topic, second.ends, asked), errors)
        # Before that of a missing ledger, whose remedy would be to make one of this log.
        errors.sort(key=lambda error: not isinstance(error, OldLogError))
    held = _or_error(lambda: open_transactions_of(settings, first, second, asked), errors) if second.ends else None
    waiting_s = _waiting_s(settings, health, second) if health is not None else {}
    return Observation(first, second, health, held, waiting_s, folder, errors)


def waited_s(
    settings: Settings, progress: Collection[PartitionProgress], ends: Mapping[int, End]
) -> Mapping[int, float]:
    """Seconds for which the first record that isn't folded has been in the log, of each partition that is behind.

    One whose record can't be read is left out. Raises CreditfoldError where Kafka doesn't answer.
    """
    behind = {
        row.log_partition: row.next_offset
        for row in progress
        if row.log_partition in ends and row.next_offset < ends[row.log_partition].high
    }
    since = append_times(settings, settings.commands_topic, behind) if behind else {}
    now_ms = time.time_ns() // 1_000_000
    return {partition: max(now_ms - at_ms, 0) / 1000 for partition, at_ms in since.items()}


def _waiting_s(settings: Settings, health: DatabaseHealth, sample: Sample) -> dict[int, float]:
    """Seconds that the next record has waited, of each partition whose owner seems to do nothing.

    Infinite for a record that can't be read.
    """
    offsets = suspects(health, sample.ends)
    since = append_times(settings, settings.commands_topic, offsets) if offsets else {}
    now_ms = time.time_ns() // 1_000_000
    return {
        partition: (now_ms - since[partition]) / 1000 if partition in since else float("inf") for partition in offsets
    }


def _or_error(question: Callable[[], T], errors: list[CreditfoldError]) -> T | None:
    try:
        return question()
    except CreditfoldError as error:
        errors.append(error)
        return None


def judge(settings: Settings, seen: Observation) -> Judgement:
    """What is wrong with the ledger, as far as it can be seen."""
    if seen.health is None:
        return Judgement([], {}, frozenset())
    return judge_ledger(seen.health, Reached(seen.second.ends, seen.waiting_s), settings.tick_seconds)


def open_transactions_of(settings: Settings, first: Sample, second: Sample, admin: KafkaAdmin) -> list[OpenTransaction]:
    """The transactions that held back records of the log in both samples, and those that hold back what is published.

    Of a topic of outcomes or dead letters that can't be described, none.
    """
    ends = {
        partition: end
        for partition, end in second.ends.items()
        if (before := first.ends.get(partition)) is not None and before.stable == end.stable < before.high
    }
    found = open_transactions_at(settings, settings.commands_topic, ends)
    for topic in (settings.outcomes_topic, settings.dead_letters_topic):
        with suppress(ResourceError):
            found += open_transactions(settings, topic, second.ends, admin)
    return found


def take_sample(settings: Settings) -> Sample:
    """Read the projection's progress and the log's ends. Raises CreditfoldError."""
    errors: list[CreditfoldError] = []
    sample = _sample(settings, errors, lambda: _progress(settings), KafkaAdmin(settings))
    if errors:
        raise errors[0]
    return sample


def _sample(
    settings: Settings,
    errors: list[CreditfoldError],
    progress: Callable[[], Sequence[PartitionProgress]],
    admin: KafkaAdmin,
) -> Sample:
    """Sample the servers that answer; one that is away adds to `errors`, and isn't asked again.

    PostgreSQL first: the fold goes on meanwhile, and must not seem to be ahead of the log's end.
    """
    rows = _or_error(progress, errors) or ()
    ends: dict[int, End] = {}
    if not any(isinstance(error, KafkaUnavailableError) for error in errors):

        def read_ends() -> dict[int, End]:
            known = [row.log_partition for row in rows] or list(range(describe_log(settings, admin).partitions))
            return log_ends(settings, settings.commands_topic, known, admin)

        ends = _or_error(read_ends, errors) or {}
    return Sample(time.monotonic(), {row.log_partition: row for row in rows}, ends)


def _progress(settings: Settings) -> list[PartitionProgress]:
    with connected(settings.dsn) as connection:
        rows = list(queries.progress(connection))
    _refuse_other_topic(settings, rows)
    return rows


def _refuse_other_topic(settings: Settings, rows: Sequence[PartitionProgress]) -> None:
    topics = {row.topic for row in rows} or {settings.commands_topic}
    if topics != {settings.commands_topic}:
        raise LogChangedError(
            f"The projection was folded from {', '.join(sorted(topics))}, the settings name {settings.commands_topic}.",
            "Set CREDITFOLD_COMMANDS_TOPIC or CREDITFOLD_POSTGRES_DSN to what belongs together.",
        )


def compare(first: Sample, second: Sample, judgement: Judgement) -> list[PartitionStatus]:
    """Compare two samples by partition, with what each partition's owner does."""
    seconds = max(second.at - first.at, 1e-6)
    return [
        _status(partition, first, second, seconds, judgement)
        for partition in sorted(second.progress.keys() | second.ends.keys())
    ]


def _status(partition: int, first: Sample, second: Sample, seconds: float, judgement: Judgement) -> PartitionStatus:
    now, before, end = second.progress.get(partition), first.progress.get(partition), second.ends.get(partition)
    return PartitionStatus(
        partition=partition,
        next_offset=None if now is None else now.next_offset,
        end_offset=None if end is None else end.high,
        lag=None if now is None or end is None else end.high - now.next_offset,
        held=None if end is None else end.high - end.stable,
        rate=None if now is None or before is None else (now.records - before.records) / seconds,
        stuck=partition in judgement.stuck,
        **{name: None if now is None else getattr(now, name) for name in (*COUNTS, "clock", "folded_at", "owner")},
        doing=judgement.doing.get(partition, ""),
    )


def _process_status(one: Heartbeat) -> ProcessStatus:
    held = tuple(part.partition for part in one.sign.partitions if part.held_s == 0)
    return ProcessStatus(one.sign.role, one.sign.owner, condition(one), round(one.age_s, 3), held)


def _warnings(settings: Settings, seen: Observation) -> list[Check]:
    """What isn't ok without being a fault of the ledger: many dead letters, disks that are nearly full."""
    found = [check_disk(disk) for disk in disks(settings, seen.postgres_folder)]
    if seen.health is not None:
        found.append(judge_dead_letters(seen.health.dead_letters, "projection"))
    return [check for check in found if check.state != "ok"]


def check_machine(settings: Settings, role: Role, *, live: bool) -> str:
    """Judge the processes of a role on this machine, and return what to report. Raises UnhealthyError.

    Args:
        settings: where PostgreSQL is.
        role: which processes.
        live: pass whatever a restart can't mend: what they wait for, and signs that can't be read.
    """
    try:
        with connected(settings.dsn, "creditfold check") as connection:
            found = heartbeats(connection, role)
    except CreditfoldError as error:
        if not live:
            raise
        return f"The {role}'s state can't be read, which is no reason to restart it: {error.message}"
    refuse_unhealthy(judge_machine(role, found, socket.gethostname(), is_ours, live=live))
    return f"The {role} is {'alive' if live else 'well'}."


def refuse_other_history(settings: Settings, sample: Sample) -> None:
    """Raise LogReplacedError if the log has other records than were folded: workers leave those partitions alone."""
    bookmarks = {partition: row.bookmark for partition, row in sample.progress.items()}
    for error in replacements(settings, settings.commands_topic, bookmarks):
        raise error


def refuse_held_back(settings: Settings, held: Sequence[OpenTransaction], now_ms: int) -> None:
    """Raise HeldBackError if records wait behind a transaction that has been open for long at an instant."""
    long = [one for one in held if one.is_long(now_ms)]
    if long:
        raise HeldBackError(
            f"An open transaction holds back {', '.join(f'{one.topic} {one.description(now_ms)}' for one in long)}.",
            remedy(settings, long[0]),
        )


def transit_of(transit: InTransit | None) -> Transit | None:
    """The transfers in transit, with the age of the oldest by this machine's clock; None where they can't be seen."""
    if transit is None:
        return None
    age_s = max(0.0, time.time() - (transit.oldest_ms or 0) / 1000)
    return Transit(transit.transfers, round(age_s, 3) if transit.transfers else None)


def totals_of(partitions: Sequence[PartitionStatus]) -> dict[str, Any]:
    """The sums over all partitions; None where one of them is."""
    names = ("next_offset", "end_offset", "lag", "held", "rate", *COUNTS)
    return {name: _sum([getattr(row, name) for row in partitions]) for name in names}


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
