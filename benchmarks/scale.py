"""How the fold grows: with workers and partitions, with accounts that there are, and with the length of the log.

    python benchmarks/scale.py
    python benchmarks/scale.py --accounts 10000000 --long 10000000      an hour, and 10 GB

Workers and partitions: the same commands, in a log of each number of partitions, folded by each number of workers.
Accounts: commands of accounts that are all there already, drawn from so many that hardly any comes up twice in a chunk.
They aren't folded but copied: one account is folded, and its rows are written again under other names, which is a
simulation of their tables and indexes, though not of their journal. Length: memory, rate and PostgreSQL's CPU time by
tenths of a log, and so of a journal. Nothing here is extrapolated; docs/scale.md and the report do that, and say so.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import psycopg
from fold import fold
from load import LOGS, PLAIN, produce
from psycopg.sql import SQL, Identifier
from rich.console import Console
from rich.table import Table
from rig import another_fold, argument_parser, console, ledger, servers, servers_cpu_s, show_columns, workers

from creditfold.common.settings import Settings
from creditfold.log.offsets import end_offsets
from creditfold.log.topics import describe_log
from creditfold.processors.rebuild.partition import RebuildJob
from creditfold.processors.rebuild.processes import fold_here
from creditfold.producers import CommandProducer, Grant
from creditfold.projections.connections import connected
from creditfold.projections.queries.progress import progress

#: The account whose rows are copied.
PATTERN = "pattern"


def by_workers(on: Settings, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rates of each number of workers over a log of each number of partitions."""
    for partitions in options.partitions:
        with ledger(on, "scale", partitions=partitions) as log:
            produce(log, options.log, options.commands, 100_000, 1)
            for number in options.workers:
                with another_fold(log, "scale") as own, console.status(f"{partitions} partitions, {number} workers"):
                    figures = fold(own, number)
                kept = ("fold_per_s", "cold_start_s", "cpu_us_per_command", "memory_mb_by_quarter")
                yield {"partitions": partitions, "workers": number, **{name: figures[name] for name in kept}}


def by_accounts(on: Settings, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rates and memory of one worker with so many accounts in the tables."""
    for accounts in options.accounts:
        with ledger(on, "accounts") as own:
            with console.status(f"making {accounts:,} accounts"):
                make_accounts(own, accounts)
            produce(own, options.log, options.commands, accounts, 1)
            with console.status(f"folding commands of {accounts:,} accounts"):
                figures = fold(own, 1)
        kept = ("fold_per_s", "cpu_us_per_command", "memory_mb_by_quarter", "wal_bytes_per_command")
        yield {"accounts": accounts, **{name: figures[name] for name in kept}}


def make_accounts(own: Settings, accounts: int) -> None:
    """Fold one account and write its rows again under the names of others."""
    with CommandProducer(own.kafka_client, own.commands_topic) as producer:
        producer.append(Grant(command_id=PATTERN, account=PATTERN, asset="credits", amount=20))
    log = describe_log(own)
    ends = end_offsets(own, log.topic, range(log.partitions))
    # As a rebuild does, which needs no worker to come up.
    fold_here(RebuildJob(own.kafka_client, log.topic, log.partitions, 1, ends), own.dsn)
    with connected(own.dsn) as connection:
        for table in ("balances", "lots"):
            copy_rows(connection, table, accounts)
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def copy_rows(connection: psycopg.Connection[Any], table: str, accounts: int) -> None:
    """Write the pattern's rows of a table once more for each other account."""
    source = SQL("{}.{}").format(Identifier("ledger_0001"), Identifier(table))
    columns = [
        column.name for column in connection.execute(SQL("SELECT * FROM {} LIMIT 0").format(source)).description or []
    ]
    others = [Identifier(name) for name in columns if name != "account_id"]
    connection.execute(
        SQL(
            "INSERT INTO {0} (account_id, {1}) SELECT 'user-' || nth, {1} FROM {0}, generate_series(0, %s) nth"
            " WHERE account_id = %s"
        ).format(source, SQL(", ").join(others)),
        (accounts - 1, PATTERN),
    )


def by_length(on: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """One worker over a long log of 100,000 accounts, by tenths: memory in MB, its rate, and PostgreSQL's CPU time."""
    with ledger(on, "long") as own:
        produce(own, options.log, options.long, 100_000, 1)
        memory: list[list[int]] = [[] for _ in range(10)]
        marks: list[Mark] = []
        with workers(own, 1) as running, connected(own.dsn) as connection, console.status("a long log"):
            began = time.perf_counter()
            done = 0
            while done < options.long:
                running.check()
                done = sum(row.records for row in progress(connection))
                tenth = min(done * 10 // options.long, 9)
                if done:
                    memory[tenth].append(running.memory())
                if done and (tenth >= len(marks) or done >= options.long):
                    marks.append(Mark(done, time.perf_counter(), servers_cpu_s(own)["PostgreSQL"]))
                time.sleep(0.1)
            took = time.perf_counter() - began
    return {
        "commands": options.long,
        "memory_mb_by_tenth": [round(statistics.median(found) / 2**20) if found else None for found in memory],
        "most_mb": round(max(max(found, default=0) for found in memory) / 2**20),
        "by_tenth": [between(before, after) for before, after in pairwise(marks)],
        "seconds_with_start": round(took, 1),
    }


class Mark(NamedTuple):
    """A moment of a fold: how many records were folded, when, and how much CPU time PostgreSQL had taken."""

    done: int
    at: float
    cpu_s: float


def between(before: Mark, after: Mark) -> dict[str, Any]:
    """What a stretch of a long log took. There is a journal line for each command."""
    count = max(after.done - before.done, 1)
    return {
        "journal_rows": after.done,
        "fold_per_s": round(count / (after.at - before.at)),
        "postgres_cpu_us_per_command": round((after.cpu_s - before.cpu_s) / count * 1e6, 1),
    }


def main() -> None:
    """Run the benchmark and print it as tables, or as JSON."""
    parser = argument_parser(__doc__, commands=200_000, long=1_000_000)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--partitions", type=int, nargs="*", default=[4, 16, 64])
    parser.add_argument("--accounts", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--log", choices=LOGS, default=PLAIN)
    options = parser.parse_args()
    with servers() as settings:
        found: dict[str, Any] = {
            "commands": options.commands,
            "workers": list(by_workers(settings, options)),
            "accounts": list(by_accounts(settings, options)),
            "long": by_length(settings, options) if options.long else {},
        }
    if options.json:
        print(json.dumps(found))
        return
    grid = {f"{row['partitions']} x {row['workers']}": row for row in found["workers"]}
    show_columns(grid, f"Partitions x workers, {options.commands:,} commands: {options.log}")
    show_columns({f"{row['accounts']:,}": row for row in found["accounts"]}, "Accounts that there are, one worker")
    if found["long"]:
        tenths = found["long"].pop("by_tenth")
        show_columns({"": found["long"]}, "A long log, one worker")
        table = Table(
            "rows of the journal", "commands a second", "PostgreSQL's CPU, µs", title="By rows of the journal"
        )
        for row in tenths:
            table.add_row(*(f"{value:,}" for value in row.values()))
        Console().print(table)


if __name__ == "__main__":
    main()
