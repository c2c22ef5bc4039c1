"""How fast the fold is: appends commands to a fresh log, then times workers from the first chunk to lag zero.

    python benchmarks/fold.py --commands 1000000 --accounts 100000

Starts a Kafka and a PostgreSQL of its own in a temporary folder and removes them again. Three logs, one after the
other, so that their rates can be compared: plain commands (80% spends and 20% grants of random accounts, drawn from a
seed) under rules 1 and under rules 2, and credits: grants of which half expire, spends of two uses, 10% holds, most of
them captured or released later, and 2% refunds. Durable as in production: fsync and synchronous_commit are on.
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
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr
from rich.console import Console
from rich.progress import track
from rich.table import Table

from creditfold.producers import Command, CommandProducer, Grant, Spend
from creditfold.producers.commands import Capture, Hold, Refund, Release, encode_activation
from creditfold.projections.connections import connected
from creditfold.projections.queries import progress
from creditfold.projections.setup import prepare
from creditfold.stack.embedded import down, up
from creditfold.stack.settings import Settings
from creditfold.stack.topics import create_topics, describe_log

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


def credits_mix(count: int, accounts: int, seed: int) -> Iterator[Command]:
    """The same, with lots of several kinds, holds, captures, releases and refunds."""
    chance, now = random.Random(seed), int(time.time() * 1000)
    holds: deque[tuple[str, str]] = deque()
    spends: deque[tuple[str, str]] = deque(maxlen=1_000)
    for number in range(count):
        account, id, dice = f"user-{chance.randrange(accounts)}", f"{seed}-{number}", chance.random()
        amount, use = chance.randint(1, 25), chance.choice(("", "ads"))
        if dice < 0.2:
            ends = now + chance.randint(1, 365) * DAY_MS if chance.random() < 0.5 else 0
            lot_class, scope = chance.choice(("paid", "promo")), chance.choice(("", "", "", "ads"))
            yield Grant(
                command_id=id,
                account=account,
                asset="credits",
                amount=2 * amount,
                lot_class=lot_class,
                expires_at=ends,
                scope=scope,
            )
        elif dice < 0.3:
            holds.append((account, id))
            yield Hold(command_id=id, account=account, asset="credits", amount=amount, deadline=now + DAY_MS)
        elif dice < 0.38 and len(holds) > 100:
            account, hold = holds.popleft()
            if dice < 0.35:
                yield Capture(command_id=id, account=account, hold=hold)
            else:
                yield Release(command_id=id, account=account, hold=hold)
        elif dice < 0.4 and spends:
            account, spend = chance.choice(spends)
            yield Refund(command_id=id, account=account, spend=spend, amount=1)
        else:
            spends.append((account, id))
            yield Spend(command_id=id, account=account, asset="credits", amount=amount, use=use)


#: What is appended, by the name of the log, and under which rules.
LOGS: dict[str, tuple[Callable[[int, int, int], Iterator[Command]], int]] = {
    "plain, rules 1": (commands, 1),
    "plain, rules 2": (commands, 2),
    "credits": (credits_mix, 2),
}
DAY_MS = 86_400_000


def produce(settings: Settings, log: str, count: int, accounts: int, seed: int) -> float:
    """Append the commands; gives back commands per second, pydantic and encoding included."""
    make, rules = LOGS[log]
    start = time.perf_counter()
    with CommandProducer(settings.kafka_client, settings.commands_topic) as producer:
        if rules > 1:
            for partition in range(settings.partitions):
                producer.append_record(encode_activation(rules, partition))
        stream = track(make(count, accounts, seed), f"appending {log}", count, console=console)
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
        f"CREDITFOLD_{name.upper()}": str(value.get_secret_value() if isinstance(value, SecretStr) else value)
        for name, value in settings
        if value is not None
    }
    return os.environ | ours


@contextmanager
def ledger(servers: Settings, name: str) -> Iterator[Settings]:
    """A ledger of its own on servers that run: topics, a consumer group and a database, removed at the end."""
    own = f"bench_{name}"
    dsn = SecretStr(make_conninfo(servers.dsn, dbname=own))
    topics = {f"{kind}_topic": f"creditfold.{kind}.{own}" for kind in ("commands", "outcomes", "dead_letters")}
    settings = servers.model_copy(update={"postgres_dsn": dsn, "group": own, **topics})
    with psycopg.connect(servers.dsn, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(own)))
        create_topics(settings)
        prepare(settings.dsn, describe_log(settings))
        yield settings
        connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(own)))


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
        found: dict[str, dict[str, Any]] = {}
        for number, name in enumerate(LOGS):
            with ledger(settings, str(number)) as own:
                appended = produce(own, name, options.commands, options.accounts, options.seed)
                with console.status(f"folding {name}"):
                    figures = fold(own, options.commands, options.workers)
                found[name] = {"append_per_s": round(appended), **figures, **disk(own, options.commands)}
    plain = found["plain, rules 1"]["fold_per_s"]
    for figures in found.values():
        figures["of_plain_rules_1"] = round(figures["fold_per_s"] / plain, 2)
        figures["of_plain_rules_2"] = round(figures["fold_per_s"] / found["plain, rules 2"]["fold_per_s"], 2)
    if options.json:
        print(json.dumps({"commands": options.commands, "accounts": options.accounts, "logs": found}))
        return
    title = (
        f"The fold, end to end: {options.commands:,} commands, {options.accounts:,} accounts, {options.workers} workers"
    )
    table = Table("figure", *found, title=title)
    for row in found["credits"]:
        table.add_row(row, *(json.dumps(figures[row]) for figures in found.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
