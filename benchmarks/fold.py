"""How fast the fold is, against what a team would otherwise pick, in one run on the same PostgreSQL server.

    python benchmarks/fold.py --commands 1000000 --accounts 100000

Two logs, one after the other: plain commands (80% spends and 20% grants of random accounts, drawn from a seed), and
credits: grants of which half expire, spends of two uses, 10% holds, most of them captured or released later, and 2%
refunds. Each is appended first, then timed from the first chunk to lag zero. Right
before each the baseline decides plain operations, in batches of 100 by 4 clients and one at a time by 16: it does less
(no log, no lots, no reasons), and its figure has no broker in it, while ours includes Kafka, which shares the machine.
"""

import argparse
import json
import time
from typing import Any

import baseline
import disk
import psutil
from load import LOGS, PLAIN, bytes_needed, produce
from rig import (
    CHUNK_RECORDS,
    Workers,
    argument_parser,
    by_quarter,
    console,
    database,
    ledger,
    middle,
    servers,
    servers_cpu_s,
    show_columns,
    workers,
)

from creditfold.common.settings import Settings
from creditfold.log.offsets import end_offsets
from creditfold.projections.connections import connected
from creditfold.projections.queries.progress import progress

#: How often to look at how far the fold is, in seconds.
LOOK_EVERY_S = 0.1


def fold(settings: Settings, number: int) -> dict[str, Any]:
    """Run so many workers until they have folded the log. Rates are in records/s, memory in MB of all workers."""
    launched, wal = time.perf_counter(), disk.wal_position(settings.dsn)
    with workers(settings, number) as running:
        figures = watch(settings, running, launched)
    figures["wal_bytes_per_command"] = round((disk.wal_position(settings.dsn) - wal) / figures["folded"], 1)
    return figures


def watch(settings: Settings, running: Workers, launched: float) -> dict[str, Any]:
    """Figures of workers from their first chunk to the end that the log has now."""
    end = sum(end_offsets(settings, settings.commands_topic, range(settings.partitions)).values())
    memory: list[int] = []
    first = started = 0.0
    cpu_before: dict[str, float] = {}
    with connected(settings.dsn) as connection:
        before = sum(row.next_offset for row in progress(connection))
        done = before
        while done < end:
            running.check()
            done = sum(row.next_offset for row in progress(connection))
            # Even if that look finds all folded: then the figures are there, and 0.
            if done > before and not started:
                started, first = time.perf_counter(), done
                # A start takes seconds of CPU time, which are no business of a command's.
                cpu_before = {"workers": running.cpu_s(), **servers_cpu_s(settings)}
                psutil.cpu_times_percent()  # Starts its count.
            if started:
                memory.append(running.memory())
            if done < end:
                time.sleep(LOOK_EVERY_S)
        ended = time.perf_counter()
    machine, cpu = psutil.cpu_times_percent(), {"workers": running.cpu_s(), **servers_cpu_s(settings)}
    return {
        "fold_per_s": round((done - first) / (ended - started)) if started else 0,
        "seconds": round(ended - started, 1),
        "cold_start_s": round(started - launched, 2),
        "cpu_us_per_command": {
            name: round((cpu[name] - seconds) / (done - first) * 1e6, 1) if done > first else 0.0
            for name, seconds in cpu_before.items()
        },
        # Time that the machine's host gave to others: on a shared machine it explains a low rate.
        "machine_stolen_percent": getattr(machine, "steal", 0.0),
        "machine_idle_percent": machine.idle,
        "memory_mb_by_quarter": by_quarter(memory),
        "stages_s": [report["stages_s"] for report in running.reports()],
        "folded": done - before,
    }


def compare(settings: Settings, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of a log of that kind, and of the baseline right before it."""
    accounts = options.accounts
    with console.status("the baseline"), database(settings, "bench_baseline") as dsn:
        baseline.prepare(dsn, accounts)
        batched = baseline.measure(dsn, baseline.batched(options.commands, accounts))
        # It is slower by so much that a fifth of the operations takes as long.
        single = baseline.measure(dsn, baseline.single(options.commands // 5, accounts))
        needs = disk.in_postgres(dsn, options.commands + options.commands // 5)
    with ledger(settings, "fold") as own:
        appended = produce(own, name, options.commands, accounts, options.seed)
        with console.status(f"folding {name}"):
            figures = fold(own, options.workers)
        needed = bytes_needed(name, options.commands, accounts, options.seed)
        sizes = disk.in_kafka(own, options.commands, needed) | disk.in_postgres(own.dsn, options.commands)
    return {
        "append_per_s": round(appended),
        **figures,
        **sizes,
        "baseline_batched_per_s": batched["per_s"],
        "baseline_single_per_s": single["per_s"],
        "baseline_bytes_per_command": needs["postgres_bytes_per_command"],
        "to_baseline_batched": round(figures["fold_per_s"] / batched["per_s"], 2),
        "to_baseline_single": round(figures["fold_per_s"] / single["per_s"], 2),
    }


def main() -> None:
    """Run the benchmark and print it as a table, or as JSON."""
    parser = argument_parser(
        __doc__, commands=1_000_000, accounts=100_000, workers=1, seed=1, chunk_records=CHUNK_RECORDS, rounds=3
    )
    parser.add_argument("--log", choices=LOGS, action="append", help="only this one; may be given again")
    options = parser.parse_args()

    with servers(options.chunk_records) as settings:
        found: dict[str, dict[str, Any]] = {}
        for name in options.log or LOGS:
            rounds = [compare(settings, name, options) for _ in range(options.rounds)]
            ratios = [figures["to_baseline_batched"] for figures in rounds]
            found[name] = {**middle(rounds, "to_baseline_batched"), "to_baseline_batched_in_each": ratios}
    for figures in found.values():
        if PLAIN in found:
            figures["of_plain"] = round(figures["fold_per_s"] / max(found[PLAIN]["fold_per_s"], 1), 2)
    if options.json:
        asked = {name: getattr(options, name) for name in ("commands", "accounts", "workers")}
        print(json.dumps({**asked, "logs": found}))
        return
    title = f"The fold, end to end with Kafka: {options.commands:,} commands, {options.accounts:,} accounts"
    show_columns(found, f"{title}, {options.workers} workers")
    console.print("The baseline is PostgreSQL alone, called by asyncpg: no log, no broker, no lots, no reasons.")


if __name__ == "__main__":
    main()
