"""Where CPU time goes for each command, by stage: in the fold alone, and in a whole worker.

    python benchmarks/stages.py --commands 200000

First the fold alone: records that lie in memory, in the chunks that a worker would get, one after the other in one
process, with the real PostgreSQL and no Kafka. What the process computes is shown by stage; what PostgreSQL's session
computes for it, and how long the process only waited, stand beside it. Then a worker as it runs, from Kafka, for the
rest: what the Kafka client and Faust take. Both are sampled (benchmarks/sampling.py).
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from fold import watch
from load import LOGS, Record, produce
from rich.console import Console
from rich.table import Table
from rig import CHUNK_RECORDS, argument_parser, console, database, ledger, servers, workers
from sampling import sampled

from creditfold.common.position import Log
from creditfold.common.settings import Settings
from creditfold.log.partitioner import partition_of
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.chunk import read_records
from creditfold.processors.fold.fast import new_filter
from creditfold.processors.fold.transaction import chunk_transaction, fold_chunk
from creditfold.processors.worker.folder import RECENT_BYTES, RECENT_IDS, WORKER_ACCOUNTS, WORKER_LOTS
from creditfold.processors.worker.main import GC_THRESHOLDS
from creditfold.producers.models.commands import encode_command
from creditfold.projections.connections import fold_pool
from creditfold.projections.store.claim import claim
from creditfold.projections.tables.setup import prepare

PARTITIONS = 8


def records(log: str, count: int, accounts: int) -> list[list[Record]]:
    """The records of each partition of a log."""
    found: list[list[Record]] = [[] for _ in range(PARTITIONS)]
    # The commands' deadlines count from now: appended later, all holds would be refused.
    now_ms = int(time.time() * 1000)
    for number, command in enumerate(LOGS[log](count, accounts, 1)):
        record = encode_command(command)
        known = found[partition_of(record.key or b"", PARTITIONS)]
        known.append(Record(len(known), now_ms + number // 50, record.key, record.value))
    return found


def chunks(log: list[list[Record]], size: int) -> Iterator[tuple[int, list[Record]]]:
    """Partitions and what is to be folded of each next, in turn."""
    longest = max(map(len, log))
    for start in range(0, longest, size):
        for partition, known in enumerate(log):
            if chunk := known[start : start + size]:
                yield partition, chunk


async def alone(dsn: str, log: str, count: int, accounts: int, size: int) -> dict[str, Any]:
    """Fold records that lie in memory, and report where the time goes."""
    prepare(dsn, Log("stages", "an-id", PARTITIONS))
    appended = records(log, count, accounts)
    # A worker doesn't hold its log in memory, where garbage collection would go through it again and again. It looks
    # for garbage as seldom as here.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    async with fold_pool(dsn, "stages", 1) as pool:
        claims = [await claim(pool, partition, "stages") for partition in range(PARTITIONS)]
        ids = new_filter(RECENT_BYTES, RECENT_IDS)
        accounts_each, lots_each = WORKER_ACCOUNTS // PARTITIONS, WORKER_LOTS // PARTITIONS
        caches = [AccountCache(accounts_each, lots=lots_each, ids=ids) for _ in range(PARTITIONS)]
        async with pool.connection() as connection:
            session = psutil.Process(connection.info.backend_pid)
        before, began, own = session.cpu_times(), time.perf_counter(), time.process_time()
        with sampled() as sampler:
            for partition, chunk in chunks(appended, size):
                cache = caches[partition]
                async with (
                    pool.connection() as connection,
                    chunk_transaction(connection, partition, claims[partition], cache) as transaction,
                ):
                    reads = read_records(chunk, partition, PARTITIONS)
                    await fold_chunk(transaction, reads, chunk[-1].offset + 1, cache)
                cache.trim()
        took, own, after = time.perf_counter() - began, time.process_time() - own, session.cpu_times()
    gc.unfreeze()
    spent = after.user + after.system - before.user - before.system
    return {
        **sampler.report(count),
        "process_us_per_command": round(own / count * 1e6, 2),
        "postgres_us_per_command": round(spent / count * 1e6, 2),
        "waiting_us_per_command": round((took - own) / count * 1e6, 2),
        "commands_per_s": round(count / took),
    }


def whole(settings: Settings, log: str, count: int, accounts: int) -> dict[str, Any]:
    """Run one worker from Kafka, and report where its time goes, its start included."""
    target = settings.data_dir / f"{settings.group}.json"
    command = [sys.executable, str(Path(__file__).with_name("sampling.py")), str(target)]
    produce(settings, log, count, accounts, 1)
    launched = time.perf_counter()
    with workers(settings, 1, command) as running:
        figures = watch(settings, running, launched)
    if not target.exists():
        raise SystemExit("the worker wrote nothing:\n" + running.logs[0].read_text("utf-8")[-3000:])
    found = json.loads(target.read_text("utf-8"))
    functions = Counter(found["functions_s"]).most_common(25)
    return {
        "cpu_us_per_command": {
            name: round(seconds / count * 1e6, 2) for name, seconds in Counter(found["stages_s"]).most_common()
        },
        "functions_us_per_command": {name: round(seconds / count * 1e6, 2) for name, seconds in functions},
        "servers_us_per_command": figures["cpu_us_per_command"],
        "commands_per_s": figures["fold_per_s"],
    }


def main() -> None:
    """Run the benchmark and print it as tables, or as JSON."""
    parser = argument_parser(__doc__, commands=200_000, accounts=100_000, chunk_records=CHUNK_RECORDS)
    parser.add_argument("--log", choices=LOGS, action="append", help="only this one; may be given again")
    parser.add_argument("--alone", action="store_true", help="only the fold alone, without a worker")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with servers(options.chunk_records) as settings:
        for name in options.log or LOGS:
            with console.status(f"the fold alone: {name}"), database(settings, "bench_stages") as dsn:
                folded = alone(dsn, name, options.commands, options.accounts, options.chunk_records)
                found[name] = {"alone": asyncio.run(folded)}
            if not options.alone:
                with ledger(settings, "stages") as own:
                    found[name]["worker"] = whole(own, name, options.commands, options.accounts)
    if options.json:
        print(json.dumps({"commands": options.commands, "logs": found}))
        return
    for name, kinds in found.items():
        for kind, figures in kinds.items():
            _print(f"{name}: {kind}", figures)


def _print(title: str, figures: dict[str, Any]) -> None:
    table = Table("microseconds a command", "", title=title)
    for kind, value in figures.items():
        table.add_section()
        for name, part in (value if isinstance(value, dict) else {"": value}).items():
            table.add_row(name or kind, f"{part:,.2f}" if isinstance(part, float) else f"{part:,}")
    Console(width=int(os.environ.get("COLUMNS", "120"))).print(table)


if __name__ == "__main__":
    main()
