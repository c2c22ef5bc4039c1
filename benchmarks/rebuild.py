"""How fast a rebuild is against the live fold, in one run on the same machine, and what it costs the live fold.

    python benchmarks/rebuild.py --commands 3000000

Folds one log several times, each time in a new database: live with one worker or with two, in turn, and right behind
it with `creditfold rebuild`, start-up and indexes included; compares the digests. The middle ratio counts.
Then commands are appended at a fixed rate (open loop: each has its moment, whether the one before was answered or not)
and timed until they are visible in PostgreSQL: without a rebuild, during one, and during one at a limited rate.
"""

import json
import subprocess
import time
from contextlib import suppress
from typing import Any

import latency
import psutil
from fold import fold
from load import LOGS, PLAIN, produce
from rig import (
    CREDITFOLD,
    another_fold,
    argument_parser,
    by_quarter,
    console,
    middle,
    servers,
    show_columns,
    start,
    workers,
)

from creditfold.common.settings import Settings
from creditfold.projections.connections import connected
from creditfold.projections.tables.scripts import schema_of

#: Records a second of the rebuild that is to leave the live fold its latency.
PACED = 10_000


def begun(settings: Settings, *options: str) -> psutil.Popen:
    """Start a rebuild, whose document can be read from the process."""
    command = [*CREDITFOLD, "rebuild", "--json", *options]
    return start(settings, command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def rebuilt(settings: Settings) -> dict[str, Any]:
    """Rebuild once; gives the command's document, seconds, and memory of all processes in MB by quarter of the run."""
    began, memory = time.perf_counter(), []
    process = begun(settings)
    while process.poll() is None:
        memory.append(resident(process))
        time.sleep(0.1)
    seconds = time.perf_counter() - began
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the rebuild ended with {process.returncode}")
    return {**json.loads(out), "wall_s": seconds, "memory_mb_by_quarter": by_quarter(memory)}


def resident(process: psutil.Popen) -> int:
    """Memory of a process and of those that it started, in bytes."""
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_info().rss
    except psutil.Error:
        pass
    return total


def pair(log: Settings, workers: int) -> dict[str, Any]:
    """Fold a log live by so many workers, and rebuild that, in a database of their own; gives both, and their ratio."""
    with another_fold(log, "rebuild") as settings:
        live = fold(settings, workers)
        again = rebuilt(settings)
        with connected(settings.dsn) as connection:
            chains, others = (
                connection.execute(f"SELECT chain FROM {schema}.progress ORDER BY log_partition").fetchall()
                for schema in ("ledger", schema_of(again["number"]))
            )
    if chains != others:
        raise SystemExit("the rebuild came to something else than the live fold")
    rate = live["folded"] / again["wall_s"]
    return {
        "live_per_s": live["fold_per_s"],
        "rebuild_per_s": round(rate),
        "ratio": round(rate / max(live["fold_per_s"], 1), 2),
        "memory_mb_by_quarter": again["memory_mb_by_quarter"],
        "machine_stolen_percent": live["machine_stolen_percent"],
    }


def timed(settings: Settings, per_s: int, seed: int, seconds: float, beside: psutil.Popen | None = None) -> Any:
    """Latencies of commands that are appended at a rate for so long, or until a process ends."""

    def is_over() -> bool:
        return beside is not None and beside.poll() is not None

    return latency.ours(settings, latency.Run(per_s, seconds, 1_000, seed), 0.0, 0.003, is_over)


def main() -> None:
    """Run the benchmark and print it as a table, or as JSON."""
    parser = argument_parser(__doc__, commands=3_000_000, accounts=100_000, per_second=500, rounds=3)
    parser.add_argument("--log", choices=LOGS, default=PLAIN)
    options = parser.parse_args()
    with servers() as settings:
        produce(settings, options.log, options.commands, options.accounts, 1)
        pairs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
        for again in range(options.rounds):
            for number, found in pairs.items():
                with console.status(f"folding live by {number}, and rebuilding, {again + 1} of {options.rounds}"):
                    found.append(pair(settings, number))
        one, two = (
            {**middle(found, "ratio"), "ratio_of_each": [each["ratio"] for each in found]} for found in pairs.values()
        )
        figures: dict[str, Any] = {
            "commands": options.commands,
            "one_worker": one,
            "two_workers": two,
        }
        with console.status("folding what the latency is measured on"):
            fold(settings, 1)
        with workers(settings, 1), console.status("latency"):
            timed(settings, options.per_second, 7, 5)
            figures["latency_alone"] = timed(settings, options.per_second, 8, 15)
            for name, more in (("", ()), (f"_of_{PACED}_a_second", ("--rate", str(PACED)))):
                beside = begun(settings, *more)
                found = timed(settings, options.per_second, 9 + len(more), 120, beside)
                figures[f"latency_beside_a_rebuild{name}"] = found
                with suppress(psutil.NoSuchProcess):
                    beside.terminate()  # One that keeps to a rate would take minutes more.
                beside.communicate()
    if options.json:
        print(json.dumps(figures))
        return
    columns = {name: figures.pop(name) for name in ("one_worker", "two_workers")}
    show_columns(columns, "A rebuild against the live fold")
    show_columns({"value": figures}, "From due to visible, one live worker")


if __name__ == "__main__":
    main()
