"""The `status` command: how the servers are, and how far the fold is. Owns the sampling and the verdict.

Health is progress: a partition is well when its offset moves or nothing is left to fold, whatever processes live.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from creditfold.cli.arguments import JsonOption
from creditfold.cli.output import counted, print_json, print_table, say
from creditfold.schemas.errors import CreditfoldError

if TYPE_CHECKING:
    from creditfold.projections.queries import PartitionProgress
    from creditfold.projections.transit import InTransit
    from creditfold.stack.embedded import ServiceStatus
    from creditfold.stack.open_transactions import OpenTransaction
    from creditfold.stack.settings import Settings

COUNTS = ("records", "accepted", "rejected", "duplicates", "dead_letters")


class StuckError(CreditfoldError):
    """A partition has records to fold and doesn't move."""


class HeldBackError(CreditfoldError):
    """Records wait behind a transaction that somebody has left open."""


class PartitionStatus(NamedTuple):
    """One partition between two samples. `rate` is in records a second, `lag` in records at the second sample.

    `end_offset` is the partition's very end, and `held` how many of its last records an open transaction holds back.
    """

    partition: int
    next_offset: int
    end_offset: int
    lag: int
    held: int
    rate: float
    stuck: bool
    records: int
    accepted: int
    rejected: int
    duplicates: int
    dead_letters: int
    clock: datetime | None
    folded_at: datetime | None
    owner: str


class Sample(NamedTuple):
    """Where the fold and the log stood at an instant of the monotonic clock.

    `ends` are the log's very ends, `stable` those that committed readers can reach.
    """

    at: float
    progress: "Mapping[int, PartitionProgress]"
    ends: Mapping[int, int]
    stable: Mapping[int, int]


def status(
    interval: Annotated[float, typer.Option(min=0.05, max=60, help="Seconds between the two samples.")] = 1.0,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 unless every partition moves or has nothing left.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show how the servers are, and for each partition how far it is folded and how fast.

    \b
    Examples:
      creditfold status
      creditfold status --check     for a health check
      creditfold status --json --interval 5
    """
    from creditfold.stack.settings import load_settings

    settings = load_settings()
    services = _services(settings)
    if not json:
        _print_services(services)
    try:
        first, second = take_samples(settings, interval)
        partitions = compare(first, second)
        held = open_transactions_of(settings, first, second)
        transit = _in_transit(settings)
    except CreditfoldError:
        # The servers' state is told even where there is nothing else to tell; the error says why.
        if json:
            unknown = dict.fromkeys(("partitions", "totals", "open_transactions", "in_transit"))
            print_json({"topic": settings.commands_topic, "services": services, **unknown})
        raise
    if json:
        document = _document(settings, services, partitions)
        print_json({**document, "open_transactions": held, "in_transit": transit_of(transit)})
    else:
        say("")
        _print_partitions(settings, partitions)
        for one in held:
            say(f"Open transaction: {one.topic} {one.words(time.time_ns() // 1_000_000)}.")
        if transit is not None and transit.transfers:
            say(f"In transit: {counted(transit.transfers, 'transfer')}, the oldest for {_age_s(transit):,.0f} s.")
    if check:
        refuse_other_history(settings, second)
        refuse_stuck(partitions)
        refuse_held_back(settings, held, time.time_ns() // 1_000_000)


def take_samples(settings: "Settings", interval_s: float) -> tuple[Sample, Sample]:
    """Take two samples. Raises what a missing server, topic or projection raises."""
    first = take_sample(settings)
    # Not a wait for readiness: a rate needs time to pass.
    time.sleep(interval_s)
    return first, take_sample(settings)


def open_transactions_of(settings: "Settings", first: Sample, second: Sample) -> "list[OpenTransaction]":
    """The transactions that held records of the log back in both samples, and those that hold back what is published.

    A topic of outcomes that can't be described has none.
    """
    from creditfold.stack.open_transactions import held_back, open_transactions
    from creditfold.stack.processes import StackError
    from creditfold.stack.topics import End, KafkaAdmin

    ends = {
        partition: End(stable, second.ends[partition])
        for partition, stable in second.stable.items()
        if first.stable.get(partition) == stable < first.ends[partition]
    }
    found = held_back(settings, settings.commands_topic, ends)
    admin = KafkaAdmin(settings)
    for topic in (settings.outcomes_topic, settings.dead_letters_topic):
        with suppress(StackError):
            found += open_transactions(settings, topic, second.ends, admin)
    return found


def take_sample(settings: "Settings") -> Sample:
    """Read the projection's progress and the log's ends. Raises CreditfoldError's kin."""
    from creditfold.projections import queries
    from creditfold.projections.connections import connected
    from creditfold.projections.setup import LogChangedError
    from creditfold.stack.topics import log_ends

    with connected(settings.dsn) as connection:
        rows = queries.progress(connection)
    topics = {row.topic for row in rows} or {settings.commands_topic}
    if topics != {settings.commands_topic}:
        raise LogChangedError(
            f"The projection was folded from {', '.join(sorted(topics))}, the settings name {settings.commands_topic}.",
            "Set CREDITFOLD_COMMANDS_TOPIC or CREDITFOLD_POSTGRES_DSN to what belongs together.",
        )
    ends = log_ends(settings, settings.commands_topic, [row.log_partition for row in rows])
    return Sample(
        time.monotonic(),
        {row.log_partition: row for row in rows},
        {partition: end.high for partition, end in ends.items()},
        {partition: end.stable for partition, end in ends.items()},
    )


def _in_transit(settings: "Settings") -> "InTransit | None":
    from creditfold.projections.connections import connected
    from creditfold.projections.transit import in_transit

    with connected(settings.dsn) as connection:
        return in_transit(connection)


def transit_of(transit: "InTransit | None") -> dict[str, object] | None:
    """How many transfers are on their way, and for how many seconds the oldest is; None where that can't be seen."""
    if transit is None:
        return None
    return {"transfers": transit.transfers, "oldest_s": round(_age_s(transit), 3) if transit.transfers else None}


def _age_s(transit: "InTransit") -> float:
    return max(0.0, time.time() - (transit.oldest_ms or 0) / 1000)


def compare(first: Sample, second: Sample) -> list[PartitionStatus]:
    """What happened between two samples, by partition."""
    seconds = max(second.at - first.at, 1e-6)
    return [_status(partition, first, second, seconds) for partition in sorted(second.progress)]


def _status(partition: int, first: Sample, second: Sample, seconds: float) -> PartitionStatus:
    now, before = second.progress[partition], first.progress[partition]
    end = second.ends[partition]
    moved = now.next_offset - before.next_offset
    # Stuck is who had work all the time between the samples and did none of it; what an open transaction holds back is
    # no work yet.
    stuck = moved == 0 and first.stable[partition] > before.next_offset
    return PartitionStatus(
        partition,
        now.next_offset,
        end,
        end - now.next_offset,
        end - second.stable[partition],
        (now.records - before.records) / seconds,
        stuck,
        now.records,
        now.accepted,
        now.rejected,
        now.duplicates,
        now.dead_letters,
        now.clock,
        now.folded_at,
        now.owner,
    )


def refuse_stuck(partitions: Sequence[PartitionStatus]) -> None:
    """Raise StuckError if a partition has records to fold and didn't move."""
    beyond = [row for row in partitions if row.lag < 0]
    if beyond:
        raise StuckError(
            f"The log is shorter than what was folded in partition {_names(beyond)}.",
            "It isn't the log that the projection was folded from, or it lost records: stop the workers, restore it.",
        )
    stuck = [row for row in partitions if row.stuck]
    if stuck:
        raise StuckError(
            f"Stuck: partition {_names(stuck)} with {sum(row.lag for row in stuck):,} records to fold.",
            "Is a worker running? Start one with `creditfold worker`, or look into its log.",
        )


def refuse_other_history(settings: "Settings", sample: Sample) -> None:
    """Raise LogReplacedError if the log has other records than were folded: workers leave those partitions alone."""
    from creditfold.stack.continuity import replacements

    bookmarks = {partition: row.bookmark for partition, row in sample.progress.items()}
    for error in replacements(settings, settings.commands_topic, bookmarks):
        raise error


def refuse_held_back(settings: "Settings", held: "Sequence[OpenTransaction]", now_ms: int) -> None:
    """Raise HeldBackError if records wait behind a transaction that has been open for long at an instant."""
    from creditfold.stack.open_transactions import remedy

    long = [one for one in held if one.is_long(now_ms)]
    if long:
        raise HeldBackError(
            f"An open transaction holds back {', '.join(f'{one.topic} {one.words(now_ms)}' for one in long)}.",
            remedy(settings, long[0]),
        )


def _names(partitions: Sequence[PartitionStatus]) -> str:
    return ", ".join(str(row.partition) for row in partitions)


def _services(settings: "Settings") -> "list[ServiceStatus]":
    from creditfold.cli.background import background_publisher, background_worker
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


def _print_partitions(settings: "Settings", partitions: Sequence[PartitionStatus]) -> None:
    columns = ("partition", "next", "end", "lag", "held", "rate/s", *COUNTS[1:], "clock", "folded at", "owner")
    rows: list[tuple[object, ...]] = [
        (
            str(row.partition),
            row.next_offset,
            row.end_offset,
            row.lag,
            row.held,
            round(row.rate),
            *(getattr(row, name) for name in COUNTS[1:]),
            row.clock,
            row.folded_at,
            row.owner,
        )
        for row in partitions
    ]
    totals = totals_of(partitions)
    counts = (totals[name] for name in COUNTS[1:])
    rows.append(
        (
            "total",
            totals["next_offset"],
            totals["end_offset"],
            totals["lag"],
            totals["held"],
            round(totals["rate"]),
            *counts,
            None,
            None,
            "",
        )
    )
    print_table([name.replace("_", " ") for name in columns], rows, f"topic {settings.commands_topic}")


def totals_of(partitions: Sequence[PartitionStatus]) -> dict[str, Any]:
    """The sums over all partitions."""
    names = ("next_offset", "end_offset", "lag", "held", "rate", *COUNTS)
    return {name: sum(getattr(row, name) for row in partitions) for name in names}


def _document(
    settings: "Settings", services: "Sequence[ServiceStatus]", partitions: Sequence[PartitionStatus]
) -> dict[str, object]:
    return {
        "topic": settings.commands_topic,
        "services": services,
        "partitions": partitions,
        "totals": totals_of(partitions),
    }
