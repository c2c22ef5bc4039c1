"""The `status` command: how the servers are, and how far the fold is; and the health checks of the parts and the whole.

Owns the sampling and what is shown. What is well and what isn't is judged in `processors/health.py`.
"""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from creditfold.cli.shared.arguments import JsonOption
from creditfold.cli.shared.output import counted, print_json, print_table, say
from creditfold.common.errors import CreditfoldError

if TYPE_CHECKING:
    from creditfold.common.checks import Check
    from creditfold.common.settings import Settings
    from creditfold.log.offsets import End
    from creditfold.log.open_transactions import OpenTransaction
    from creditfold.processors.health import Judgement, Problem
    from creditfold.projections.queries.background import InTransit
    from creditfold.projections.queries.health import DatabaseHealth
    from creditfold.projections.queries.heartbeats import Heartbeat, Role
    from creditfold.projections.queries.progress import PartitionProgress
    from creditfold.stack.embedded import ServiceStatus

T = TypeVar("T")

COUNTS = ("records", "accepted", "rejected", "duplicates", "dead_letters")


class UnhealthyError(CreditfoldError):
    """A process or the ledger isn't well."""


class HeldBackError(UnhealthyError):
    """Records wait behind a transaction that somebody has left open."""


class PartitionStatus(NamedTuple):
    """One partition between two samples. `rate` is in records a second, `lag` in records at the second sample.

    `end_offset` is the partition's very end, and `held` how many of its last records an open transaction holds back.
    What a server that is away would show is None. `doing` is what its owner does, and `stuck` whether that is a fault.
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
    """A worker or publisher, by its last sign of life `age_s` ago, and the partitions that it held then."""

    role: str
    name: str
    condition: str
    age_s: float
    partitions: tuple[int, ...]


class Sample(NamedTuple):
    """Where the fold and the log stood at an instant of the monotonic clock.

    `ends` are the log's very ends, `stable` those that committed readers can reach. What a server that is away would
    show is empty.
    """

    at: float
    progress: "Mapping[int, PartitionProgress]"
    ends: Mapping[int, int]
    stable: Mapping[int, int]


class Look(NamedTuple):
    """All that is seen. `errors` are those of what can't be seen."""

    first: Sample
    second: Sample
    health: "DatabaseHealth | None"
    open_transactions: "Sequence[OpenTransaction] | None"
    waiting_s: Mapping[int, float]
    postgres_folder: str | None
    errors: Sequence[CreditfoldError]


def status(
    interval: Annotated[float, typer.Option(min=0.05, max=60, help="Seconds between the two samples.")] = 1.0,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1, and say why, unless the ledger as a whole is well.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show how the servers are, and for each partition how far it is folded, how fast, and what its owner does.

    --check judges the ledger as a whole: each partition has a live worker that has caught up or is at work, nothing
    due is overdue, no open transaction holds it back. `creditfold worker --check` and `creditfold publisher --check`
    judge the processes of one machine.

    \b
    Examples:
      creditfold status
      creditfold status --check     for monitoring
      creditfold status --json --interval 5
    """
    from creditfold.common.settings import load_settings
    from creditfold.processors.health import condition

    settings = load_settings()
    services = _services(settings)
    if not json:
        _print_services(services)
    look = look_at(settings, interval)
    judgement = judge(settings, look)
    partitions = compare(look.first, look.second, judgement)
    heartbeats = look.health.heartbeats if look.health is not None else []
    processes = [_process_status(one, condition(one)) for one in heartbeats]
    warnings = _warnings(settings, look)
    if json:
        document = _document(settings, processes, partitions, look)
        print_json({**document, "services": services, "warnings": warnings})
    else:
        _print_all(settings, processes, partitions, look, warnings)
    if look.errors:
        raise look.errors[0]
    if check:
        if look.second.ends:
            refuse_other_history(settings, look.second)
        refuse_unhealthy(judgement.problems)
        refuse_held_back(settings, look.open_transactions or (), time.time_ns() // 1_000_000)


def check_machine(settings: "Settings", role: "Role", *, live: bool) -> None:
    """Raise UnhealthyError unless the processes of a role on this machine are well; say what is done.

    Args:
        settings: where PostgreSQL is.
        role: which processes.
        live: pass whatever a restart can't mend: what they wait for, and signs that can't be read.
    """
    from creditfold.processors.health import judge_machine
    from creditfold.processors.heartbeat import is_ours
    from creditfold.projections.connections import connected
    from creditfold.projections.queries.heartbeats import heartbeats

    try:
        with connected(settings.dsn, "creditfold check") as connection:
            found = heartbeats(connection, role)
    except CreditfoldError as error:
        if not live:
            raise
        say(f"It can't be seen how the {role} is, which is no reason to restart it: {error.message}")
        return
    refuse_unhealthy(judge_machine(role, found, socket.gethostname(), is_ours, live=live))
    say(f"The {role} is {'alive' if live else 'well'}.")


def refuse_unhealthy(problems: "Sequence[Problem]") -> None:
    """Raise UnhealthyError if there is a problem."""
    if problems:
        what = "; ".join(problem.what for problem in problems)
        raise UnhealthyError(f"Unhealthy: {what}.", problems[0].remedy)


def look_at(settings: "Settings", interval_s: float) -> Look:
    """Take two samples, and see what else there is. Raises LogChangedError; what a server refuses becomes an error."""
    from creditfold.projections.connections import connected
    from creditfold.projections.queries.health import data_folder, database_health

    errors: list[CreditfoldError] = []
    first = _sample(settings, errors, lambda: _progress(settings))
    # Not a wait for readiness: a rate needs time to pass.
    time.sleep(interval_s)
    health: DatabaseHealth | None = None
    folder: str | None = None

    def asked() -> "Sequence[PartitionProgress]":
        nonlocal health, folder
        with connected(settings.dsn) as connection:
            health, folder = database_health(connection), data_folder(connection)
        return health.progress

    second = _sample(settings, errors, asked if first.progress else _nothing)
    held = _told(lambda: open_transactions_of(settings, first, second), errors) if second.ends else None
    waiting_s = _waiting_s(settings, health, second) if health is not None else {}
    return Look(first, second, health, held, waiting_s, folder, errors)


def _nothing() -> "Sequence[PartitionProgress]":
    return ()


def _waiting_s(settings: "Settings", health: "DatabaseHealth", sample: Sample) -> dict[int, float]:
    """For how many seconds the next record waits of each partition that seems to be left alone.

    One that nobody can read has waited for longer than anybody can say.
    """
    from creditfold.log.open_transactions import append_times
    from creditfold.processors.health import suspects

    offsets = suspects(health, _both_ends(sample))
    since = append_times(settings, settings.commands_topic, offsets) if offsets else {}
    now_ms = time.time_ns() // 1_000_000
    return {
        partition: (now_ms - since[partition]) / 1000 if partition in since else float("inf") for partition in offsets
    }


def _told(question: Callable[[], T], errors: list[CreditfoldError]) -> T | None:
    try:
        return question()
    except CreditfoldError as error:
        errors.append(error)
        return None


def judge(settings: "Settings", look: Look) -> "Judgement":
    """What is wrong with the ledger, as far as it can be seen."""
    from creditfold.processors.health import Judgement, Reached, judge_ledger

    if look.health is None:
        return Judgement([], {}, frozenset())
    return judge_ledger(look.health, Reached(_both_ends(look.second), look.waiting_s), settings.tick_seconds)


def _both_ends(sample: Sample) -> "dict[int, End]":
    from creditfold.log.offsets import End

    return {partition: End(stable, sample.ends[partition]) for partition, stable in sample.stable.items()}


def open_transactions_of(settings: "Settings", first: Sample, second: Sample) -> "list[OpenTransaction]":
    """The transactions that held records of the log back in both samples, and those that hold back what is published.

    A topic of outcomes that can't be described has none.
    """
    from creditfold.common.processes import StackError
    from creditfold.log.admin import KafkaAdmin
    from creditfold.log.offsets import End
    from creditfold.log.open_transactions import open_transactions, open_transactions_at

    ends = {
        partition: End(stable, second.ends[partition])
        for partition, stable in second.stable.items()
        if first.stable.get(partition) == stable < first.ends[partition]
    }
    found = open_transactions_at(settings, settings.commands_topic, ends)
    admin = KafkaAdmin(settings)
    for topic in (settings.outcomes_topic, settings.dead_letters_topic):
        with suppress(StackError):
            found += open_transactions(settings, topic, second.ends, admin)
    return found


def take_sample(settings: "Settings") -> Sample:
    """Read the projection's progress and the log's ends. Raises CreditfoldError's kin."""
    errors: list[CreditfoldError] = []
    sample = _sample(settings, errors, lambda: _progress(settings))
    if errors:
        raise errors[0]
    return sample


def _sample(
    settings: "Settings", errors: list[CreditfoldError], progress: "Callable[[], Sequence[PartitionProgress]]"
) -> Sample:
    """The same of the servers that answer; one that didn't before isn't asked again.

    PostgreSQL first: the fold goes on meanwhile, and must not seem to be ahead of the log's end.
    """
    from creditfold.log.admin import KafkaUnavailableError
    from creditfold.log.offsets import log_ends
    from creditfold.log.topics import describe_log

    rows = _told(progress, errors) or ()
    ends: dict[int, End] = {}
    if not any(isinstance(error, KafkaUnavailableError) for error in errors):

        def asked() -> "dict[int, End]":
            known = [row.log_partition for row in rows] or list(range(describe_log(settings).partitions))
            return log_ends(settings, settings.commands_topic, known)

        ends = _told(asked, errors) or {}
    return Sample(
        time.monotonic(),
        {row.log_partition: row for row in rows},
        {partition: end.high for partition, end in ends.items()},
        {partition: end.stable for partition, end in ends.items()},
    )


def _progress(settings: "Settings") -> "list[PartitionProgress]":
    from creditfold.projections import queries
    from creditfold.projections.connections import connected
    from creditfold.projections.tables.source import LogChangedError

    with connected(settings.dsn) as connection:
        rows = list(queries.progress(connection))
    topics = {row.topic for row in rows} or {settings.commands_topic}
    if topics != {settings.commands_topic}:
        raise LogChangedError(
            f"The projection was folded from {', '.join(sorted(topics))}, the settings name {settings.commands_topic}.",
            "Set CREDITFOLD_COMMANDS_TOPIC or CREDITFOLD_POSTGRES_DSN to what belongs together.",
        )
    return rows


def transit_of(transit: "InTransit | None") -> dict[str, object] | None:
    """How many transfers are on their way, and for how many seconds the oldest is; None where that can't be seen."""
    if transit is None:
        return None
    return {"transfers": transit.transfers, "oldest_s": round(_age_s(transit), 3) if transit.transfers else None}


def _age_s(transit: "InTransit") -> float:
    return max(0.0, time.time() - (transit.oldest_ms or 0) / 1000)


def compare(first: Sample, second: Sample, judgement: "Judgement") -> list[PartitionStatus]:
    """What happened between two samples, by partition, and what is done about it."""
    seconds = max(second.at - first.at, 1e-6)
    return [
        _status(partition, first, second, seconds, judgement)
        for partition in sorted(second.progress.keys() | second.ends.keys())
    ]


def _status(partition: int, first: Sample, second: Sample, seconds: float, judgement: "Judgement") -> PartitionStatus:
    now, before, end = second.progress.get(partition), first.progress.get(partition), second.ends.get(partition)
    return PartitionStatus(
        partition=partition,
        next_offset=None if now is None else now.next_offset,
        end_offset=end,
        lag=None if now is None or end is None else end - now.next_offset,
        held=None if end is None else end - second.stable[partition],
        rate=None if now is None or before is None else (now.records - before.records) / seconds,
        stuck=partition in judgement.stuck,
        **{name: None if now is None else getattr(now, name) for name in (*COUNTS, "clock", "folded_at", "owner")},
        doing=judgement.doing.get(partition, ""),
    )


def _process_status(one: "Heartbeat", condition: str) -> ProcessStatus:
    held = tuple(part.partition for part in one.sign.partitions if part.held_s == 0)
    return ProcessStatus(one.sign.role, one.sign.owner, condition, round(one.age_s, 3), held)


def _warnings(settings: "Settings", look: Look) -> "list[Check]":
    """What else an operator should know: dead letters in number, disks that are nearly full."""
    from creditfold.common.disks import disks, judge_disk
    from creditfold.processors.health import judge_dead_letters

    found = [judge_disk(disk) for disk in disks(settings, look.postgres_folder)]
    if look.health is not None:
        found.append(judge_dead_letters(look.health.dead_letters, "projection"))
    return [check for check in found if check.state != "ok"]


def refuse_other_history(settings: "Settings", sample: Sample) -> None:
    """Raise LogReplacedError if the log has other records than were folded: workers leave those partitions alone."""
    from creditfold.log.continuity import replacements

    bookmarks = {partition: row.bookmark for partition, row in sample.progress.items()}
    for error in replacements(settings, settings.commands_topic, bookmarks):
        raise error


def refuse_held_back(settings: "Settings", held: "Sequence[OpenTransaction]", now_ms: int) -> None:
    """Raise HeldBackError if records wait behind a transaction that has been open for long at an instant."""
    from creditfold.log.open_transactions import remedy

    long = [one for one in held if one.is_long(now_ms)]
    if long:
        raise HeldBackError(
            f"An open transaction holds back {', '.join(f'{one.topic} {one.description(now_ms)}' for one in long)}.",
            remedy(settings, long[0]),
        )


def _services(settings: "Settings") -> "list[ServiceStatus]":
    from creditfold.cli.run.background import background_publisher, background_worker
    from creditfold.stack.embedded import ServiceStatus, service_status

    services = service_status(settings)
    for name, daemon in (("worker", background_worker(settings)), ("publisher", background_publisher(settings))):
        if (pid := daemon.pid) is not None:
            services.append(ServiceStatus(name, "running", pid, "in the background", str(daemon.log_path)))
    return services


def _print_services(services: "Sequence[ServiceStatus]") -> None:
    print_table(
        ("service", "state", "pid", "address", "log"),
        [(row.name, row.state, str(row.pid or ""), row.address, row.log_path) for row in services],
    )


def _print_all(
    settings: "Settings",
    processes: Sequence[ProcessStatus],
    partitions: Sequence[PartitionStatus],
    look: Look,
    warnings: "Sequence[Check]",
) -> None:
    if processes:
        say("")
        _print_processes(processes)
    if partitions:
        say("")
        _print_partitions(settings, partitions)
    for one in look.open_transactions or ():
        say(f"Open transaction: {one.topic} {one.description(time.time_ns() // 1_000_000)}.")
    transit = look.health.transit if look.health is not None else None
    if transit is not None and transit.transfers:
        say(f"In transit: {counted(transit.transfers, 'transfer')}, the oldest for {_age_s(transit):,.0f} s.")
    for check in warnings:
        say(f"{check.state}: {check.subject}: {check.name}: {check.seen}", f"  try  {check.remedy}")


def _print_processes(processes: Sequence[ProcessStatus]) -> None:
    rows = [
        (
            row.role,
            row.name,
            ", ".join(map(str, row.partitions)),
            f"{row.age_s:.0f} s ago",
            row.condition,
        )
        for row in processes
    ]
    print_table(("process", "name", "partitions", "last sign", "condition"), rows)


def _print_partitions(settings: "Settings", partitions: Sequence[PartitionStatus]) -> None:
    columns = ("partition", "next", "end", "lag", "held", "rate/s", *COUNTS[1:], "clock", "folded at", "owner", "doing")
    rows: list[tuple[object, ...]] = [
        (
            str(row.partition),
            row.next_offset,
            row.end_offset,
            row.lag,
            row.held,
            None if row.rate is None else round(row.rate),
            *(getattr(row, name) for name in COUNTS[1:]),
            row.clock,
            row.folded_at,
            row.owner,
            row.doing,
        )
        for row in partitions
    ]
    totals = totals_of(partitions)
    rate = totals["rate"]
    rows.append(
        (
            "total",
            totals["next_offset"],
            totals["end_offset"],
            totals["lag"],
            totals["held"],
            None if rate is None else round(rate),
            *(totals[name] for name in COUNTS[1:]),
            None,
            None,
            "",
            "",
        )
    )
    print_table([name.replace("_", " ") for name in columns], rows, f"topic {settings.commands_topic}")


def totals_of(partitions: Sequence[PartitionStatus]) -> dict[str, Any]:
    """The sums over all partitions; None where one can't be seen."""
    names = ("next_offset", "end_offset", "lag", "held", "rate", *COUNTS)
    return {name: _sum([getattr(row, name) for row in partitions]) for name in names}


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _document(
    settings: "Settings", processes: Sequence[ProcessStatus], partitions: Sequence[PartitionStatus], look: Look
) -> dict[str, object]:
    seen = bool(partitions)
    return {
        "topic": settings.commands_topic,
        "processes": processes if look.health is not None else None,
        "partitions": partitions if seen else None,
        "totals": totals_of(partitions) if seen else None,
        "open_transactions": look.open_transactions,
        "in_transit": transit_of(look.health.transit) if look.health is not None else None,
    }
