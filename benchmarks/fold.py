"""How fast the fold is: appends commands to a fresh log, then times workers from the first chunk to lag zero.

    python benchmarks/fold.py --commands 1000000 --accounts 100000

Starts a Kafka and a PostgreSQL of its own in a temporary folder and removes them again. The commands are 80% spends and
20% grants of random accounts, drawn from a seed. Durable as in production: fsync and synchronous_commit are on.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from creditfold.producers import Command, CommandProducer, Grant, Spend
from creditfold.projections.connections import connected
from creditfold.projections.queries import progress
from creditfold.projections.setup import prepare
from creditfold.stack.embedded import down, up
from creditfold.stack.settings import Settings
from creditfold.stack.topics import describe_log

console = Console(stderr=True)

CHUNK_RECORDS: int = Settings.model_fields["chunk_records"].default


def commands(count: int, accounts: int, seed: int) -> Iterator[Command]:
    """The same commands for the same arguments."""
    chance = random.Random(seed)
    for number in range(count):
        account = f"user-{chance.randrange(accounts)}"
        if chance.random() < 0.2:
            yield Grant(command_id=f"{seed}-{number}", account=account, asset="credits", amount=chance.randint(1, 50))
        else:
            yield Spend(command_id=f"{seed}-{number}", account=account, asset="credits", amount=chance.randint(1, 25))


def produce(settings: Settings, count: int, accounts: int, seed: int) -> float:
    """Append the commands; gives back commands per second, pydantic and encoding included."""
    start = time.perf_counter()
    with CommandProducer(settings.kafka_client, settings.commands_topic) as producer:
        stream = track(commands(count, accounts, seed), "appending", count, console=console)
        producer.append_many(stream)
        producer.flush()
    return count / (time.perf_counter() - start)


def fold(settings: Settings, count: int, workers: int) -> dict[str, Any]:
    """Run workers until they have folded `count` records. Rates are in records/s, memory in bytes of all workers."""
    env = environment(settings)
    logs = [settings.data_dir / f"worker-{number}.log" for number in range(workers)]
    command = [sys.executable, "-m", "creditfold.cli.main", "worker", "--json-logs"]
    memory: list[int] = []
    first = started = 0.0
    launched = time.perf_counter()
    with ExitStack() as closing:
        running = []
        for path in logs:
            log = closing.enter_context(path.open("wb"))
            process = psutil.Popen(command, stdout=log, stderr=log, env=env)
            closing.callback(process.wait, 30)
            closing.callback(process.terminate)
            running.append(process)
        connection = closing.enter_context(connected(settings.dsn))
        while (done := sum(row.records for row in progress(connection))) < count:
            if any(process.poll() is not None for process in running):
                raise SystemExit("a worker ended:\n" + "".join(path.read_text()[-3000:] for path in logs))
            if done and not started:
                started, first = time.perf_counter(), done
                psutil.cpu_times_percent()  # Starts its count.
            if started:
                memory.append(sum(process.memory_info().rss for process in running))
            time.sleep(0.1)
        ended = time.perf_counter()
        spent = [process.cpu_times() for process in running]
        machine = psutil.cpu_times_percent()
    reports = [
        [json.loads(line)["stages_s"] for line in path.read_text().splitlines() if '"stages_s"' in line]
        for path in logs
    ]
    quarter = max(len(memory) // 4, 1)
    return {
        "fold_per_s": round((count - first) / (ended - started)),
        "cold_start_s": round(started - launched, 2),
        "worker_cpu_us_per_command": round(sum(cpu.user + cpu.system for cpu in spent) / count * 1e6, 1),
        # Time that the machine's host gave to others: on a shared machine it explains a low rate.
        "machine_stolen_percent": getattr(machine, "steal", 0.0),
        "machine_idle_percent": machine.idle,
        "seconds": round(ended - started, 1),
        "memory_mb_by_quarter": [
            round(statistics.median(memory[n * quarter : (n + 1) * quarter] or memory[-1:]) / 2**20) for n in range(4)
        ],
        "stages_s": [stages[-1] for stages in reports if stages],
    }


def disk(settings: Settings, count: int) -> dict[str, float]:
    """Bytes per command, in Kafka's log and in PostgreSQL with its indexes."""
    logs = (settings.data_dir / "kafka").rglob(f"{settings.commands_topic}-*/*.log")
    with connected(settings.dsn) as connection:
        (size,) = connection.execute("SELECT pg_database_size(current_database())").fetchone() or (0,)
    return {
        "kafka_bytes_per_command": round(sum(path.stat().st_size for path in logs) / count, 1),
        "postgres_bytes_per_command": round(size / count, 1),
    }


def show(figures: dict[str, Any], title: str, *, as_json: bool) -> None:
    """Print figures as a table, or as one JSON object."""
    if as_json:
        print(json.dumps(figures))
        return
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        table.add_row(name, json.dumps(value))
    Console().print(table)


def environment(settings: Settings) -> dict[str, str]:
    """Under which `creditfold` reads these settings."""
    ours = {
        f"CREDITFOLD_{name.upper()}": str(value)
        for name, value in settings
        if name != "postgres_dsn" and value is not None
    }
    return os.environ | ours


@contextmanager
def servers(folder: Path, port: int, chunk_records: int = CHUNK_RECORDS) -> Iterator[Settings]:
    """A Kafka and a PostgreSQL of its own with an empty ledger, removed at the end."""
    folder.chmod(0o755)
    settings = Settings(
        data_dir=folder,
        jars_dir=Path(os.environ.get("CREDITFOLD_JARS_DIR", ".creditfold/jars")),
        kafka_bootstrap=f"127.0.0.1:{port}",
        kafka_controller_port=port + 1,
        chunk_records=chunk_records,
    )
    try:
        up(settings)
        prepare(settings.dsn, describe_log(settings))
        yield settings
    finally:
        down(settings)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run the benchmark and print it as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chunk-records", type=int, default=CHUNK_RECORDS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()

    with servers(Path(tempfile.mkdtemp(prefix="cf-bench-")), 29392, options.chunk_records) as settings:
        figures: dict[str, Any] = {"commands": options.commands, "accounts": options.accounts}
        figures["workers"] = options.workers
        figures["append_per_s"] = round(produce(settings, options.commands, options.accounts, options.seed))
        with console.status("folding"):
            figures |= fold(settings, options.commands, options.workers)
        figures |= disk(settings, options.commands)
    show(figures, "The fold, end to end", as_json=options.json)


if __name__ == "__main__":
    main()
