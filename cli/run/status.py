"""The `status` command: how the servers are, and how far the fold is. Owns its words.

What is observed, and what of it is well, is in `processors/status.py`.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.shared.arguments import JsonOption
from creditfold.cli.shared.output import counted, print_json, print_table, say

if TYPE_CHECKING:
    from creditfold.common.settings import Settings
    from creditfold.processors.status import LedgerStatus, PartitionStatus, ProcessStatus
    from creditfold.stack.embedded import ServiceStatus

_OUTCOMES = ("accepted", "rejected", "duplicates", "dead_letters")


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
    from creditfold.processors.status import ledger_status, refuse_unwell

    settings = load_settings()
    services = _services(settings)
    if not json:
        _print_services(services)
    found = ledger_status(settings, interval)
    if json:
        print_json({**_document(settings, found), "services": services, "warnings": found.warnings})
    else:
        _print_all(settings, found)
    if found.seen.errors:
        raise found.seen.errors[0]
    if check:
        refuse_unwell(settings, found)


def _services(settings: "Settings") -> "list[ServiceStatus]":
    from creditfold.processors.daemons import Background, daemon
    from creditfold.processors.door import url_of
    from creditfold.stack.embedded import ServiceStatus, service_status

    services = service_status(settings)
    roles: dict[Background, tuple[str, str]] = {
        "worker": ("worker", "in the background"),
        "publisher": ("publisher", "in the background"),
        "delivery": ("delivery", "in the background"),
        "serve": ("HTTP door", url_of(settings)),
    }
    for role, (name, address) in roles.items():
        process = daemon(settings, role)
        if (pid := process.pid) is not None:
            services.append(ServiceStatus(name, "running", pid, address, str(process.log_path)))
    return services


def _print_services(services: "Sequence[ServiceStatus]") -> None:
    print_table(
        ("service", "state", "pid", "address", "log"),
        [(row.name, row.state, str(row.pid or ""), row.address, row.log_path) for row in services],
    )


def _print_all(settings: "Settings", found: "LedgerStatus") -> None:
    if found.processes:
        say("")
        _print_processes(found.processes)
    if found.partitions:
        say("")
        _print_partitions(settings, found.partitions)
    for one in found.seen.open_transactions or ():
        say(f"Open transaction: {one.topic} {one.description(time.time_ns() // 1_000_000)}.")
    transit = found.transit
    if transit is not None and transit.oldest_s is not None:
        say(f"In transit: {counted(transit.transfers, 'transfer')}, the oldest for {transit.oldest_s:,.0f} s.")
    for check in found.warnings:
        say(f"{check.state}: {check.subject}: {check.name}: {check.seen}", f"  try  {check.remedy}")


def _print_processes(processes: "Sequence[ProcessStatus]") -> None:
    rows = [
        (row.role, row.name, ", ".join(map(str, row.partitions)), f"{row.age_s:.0f} s ago", row.condition)
        for row in processes
    ]
    print_table(("process", "name", "partitions", "last sign", "condition"), rows)


def _print_partitions(settings: "Settings", partitions: "Sequence[PartitionStatus]") -> None:
    from creditfold.processors.status import totals_of

    columns = ("partition", "next", "end", "lag", "held", "rate/s", *_OUTCOMES, "clock", "folded at", "owner", "doing")
    names = ("next_offset", "end_offset", "lag", "held", "rate", *_OUTCOMES, "clock", "folded_at", "owner", "doing")
    rows = [(str(row.partition), *(_rounded(getattr(row, name)) for name in names)) for row in partitions]
    # Offsets of several partitions add up to nothing that anybody could use.
    totals = {**totals_of(partitions), "next_offset": None, "end_offset": None}
    rows.append(("total", *(_rounded(totals.get(name)) for name in names)))
    print_table([name.replace("_", " ") for name in columns], rows, f"topic {settings.commands_topic}")


def _rounded(value: object) -> object:
    return round(value) if isinstance(value, float) else value


def _document(settings: "Settings", found: "LedgerStatus") -> dict[str, object]:
    from creditfold.processors.status import totals_of

    return {
        "topic": settings.commands_topic,
        "processes": found.processes if found.seen.health is not None else None,
        "partitions": found.partitions or None,
        "totals": totals_of(found.partitions) if found.partitions else None,
        "open_transactions": found.seen.open_transactions,
        "in_transit": found.transit,
    }
