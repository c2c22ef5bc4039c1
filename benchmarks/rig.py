"""What all benchmarks stand on: servers of their own, a ledger on them, workers, and how figures are shown.

Everything lives in a temporary folder and on free ports, so that several can run at once, and is removed at the end,
whatever that is: see guard.py.
Durable as in production: fsync and synchronous_commit are on.
"""

import argparse
import json
import os
import random
import socket
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
from guard import guarded, watch
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from creditfold.common.settings import Settings
from creditfold.log.topics import create_topics, describe_log
from creditfold.projections.tables.setup import prepare
from creditfold.stack.embedded import service_status, up

console = Console(stderr=True)
_numbers = count(1)

CHUNK_RECORDS: int = Settings.model_fields["chunk_records"].default

#: What runs `creditfold`.
CREDITFOLD = (sys.executable, "-m", "creditfold.cli.main")

#: Below those that the system gives to outgoing connections.
PORTS = range(30_000, 30_400)


@contextmanager
def servers(chunk_records: int = CHUNK_RECORDS, prefix: str = "cf-bench-") -> Iterator[Settings]:
    """A Kafka and a PostgreSQL with an empty ledger."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    # PostgreSQL runs as another user where root starts it.
    folder.chmod(0o755)
    port, controller = free_ports(2)
    settings = Settings(
        data_dir=folder,
        jars_dir=Path(os.environ.get("CREDITFOLD_JARS_DIR", ".creditfold/jars")),
        kafka_bootstrap=f"127.0.0.1:{port}",
        kafka_controller_port=controller,
        chunk_records=chunk_records,
    )
    with guarded(environment(settings)):
        up(settings)
        prepare(settings.dsn, describe_log(settings))
        warm(settings)
        yield settings


def warm(on: Settings) -> None:
    """Have PostgreSQL as it is after its first minutes, for whatever is measured on it.

    A new server makes each of its WAL files, filled with zeros, when it is needed, and is given its buffers' memory
    page by page; later it takes old files and has the memory. That is a sixth of its CPU time in the first million
    commands.
    """
    with console.status("warming PostgreSQL up"), database(on, "bench_warm") as dsn, psycopg.connect(dsn) as connection:
        connection.execute(_TOUCH_BUFFERS)
        for _ in range(WARM_WAL_MB):
            connection.execute("SELECT pg_logical_emit_message(false, 'warm', repeat('x', 1048576))")


#: So much that no checkpoint comes by itself meanwhile: the one at the end keeps as many files as were written.
WARM_WAL_MB = 600
# Somewhat more than there are, row by row: COPY and CREATE TABLE AS would use the same few again and again.
_TOUCH_BUFFERS = """
    CREATE TABLE filler (filler text);
    ALTER TABLE filler ALTER filler SET STORAGE PLAIN;
    INSERT INTO filler SELECT repeat('x', 7800)
    FROM generate_series(1, 1.2 * pg_size_bytes(current_setting('shared_buffers')) / 8192)
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise SystemExit(f"no free ports from {PORTS.start} to {PORTS.stop - 1}")


@contextmanager
def ledger(on: Settings, name: str, **changes: Any) -> Iterator[Settings]:
    """A ledger of its own on servers that run: topics, a consumer group and a database, which is removed at the end.

    Args:
        on: settings of the servers.
        name: of the ledger; its topics stay, so a number makes it one that no other has.
        changes: of other settings.
    """
    own = f"bench_{name}_{next(_numbers)}"
    topics = {f"{kind}_topic": f"creditfold.{kind}.{own}" for kind in ("commands", "outcomes", "dead_letters")}
    with database(on, own) as dsn:
        settings = on.model_copy(update={"postgres_dsn": SecretStr(dsn), "group": own, **topics, **changes})
        create_topics(settings)
        prepare(settings.dsn, describe_log(settings), settings.searchable_keys)
        yield settings


@contextmanager
def another_fold(of: Settings, name: str, *, prepared: bool = True) -> Iterator[Settings]:
    """A database for another projection of a log that is there, with a consumer group of its own; removed at the end.

    Args:
        of: settings of the log's ledger.
        name: of the projection.
        prepared: whether to make its tables.
    """
    own = f"bench_{name}_{next(_numbers)}"
    with database(of, own) as dsn:
        settings = of.model_copy(update={"postgres_dsn": SecretStr(dsn), "group": own})
        if prepared:
            prepare(settings.dsn, describe_log(settings))
        yield settings


@contextmanager
def database(on: Settings, name: str) -> Iterator[str]:
    """An empty database on the same server, removed at the end; gives its connection string."""
    with psycopg.connect(on.dsn, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        yield make_conninfo(on.dsn, dbname=name)
        connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))
        # What one benchmark wrote must not be written to disk while the next is timed.
        connection.execute("CHECKPOINT")


def start(
    settings: Settings, command: Sequence[str], variables: Mapping[str, str] | None = None, **streams: Any
) -> psutil.Popen:
    """Run a command on these settings in a process of its own, which ends with the benchmark at the latest.

    Args:
        settings: of the ledger.
        command: with its arguments.
        variables: of the environment, besides those of the settings.
        streams: as of `subprocess.Popen`.
    """
    process = psutil.Popen(command, env=environment(settings) | dict(variables or {}), **streams)
    watch(process)
    return process


@contextmanager
def workers(
    settings: Settings,
    number: int,
    command: Sequence[str] = CREDITFOLD,
    variables: Mapping[str, str] | None = None,
) -> Iterator["Workers"]:
    """Workers that run until the block ends.

    Args:
        settings: of the ledger.
        number: how many.
        command: what runs `creditfold`.
        variables: of the environment, besides those of the settings.
    """
    logs = [settings.data_dir / f"{settings.group}-worker-{nth}.log" for nth in range(number)]
    with ExitStack() as closing:
        running = []
        for path in logs:
            log = closing.enter_context(path.open("wb"))
            process = start(settings, [*command, "worker", "--json-logs"], variables, stdout=log, stderr=log)
            closing.callback(process.wait, 30)
            closing.callback(process.terminate)
            running.append(process)
        yield Workers(running, logs)


class Workers(NamedTuple):
    """Processes and their logs."""

    processes: list[psutil.Popen]
    logs: list[Path]

    def check(self) -> None:
        """End the benchmark if one of them has ended."""
        if any(process.poll() is not None for process in self.processes):
            raise SystemExit("a worker ended:\n" + "".join(path.read_text()[-3000:] for path in self.logs))

    def memory(self) -> int:
        """Bytes that all of them hold."""
        return sum(process.memory_info().rss for process in self.processes)

    def cpu_s(self) -> float:
        """Seconds of CPU time that all of them took."""
        return sum(cpu.user + cpu.system for cpu in (process.cpu_times() for process in self.processes))

    def reports(self) -> list[dict[str, Any]]:
        """The last report of each that has given one."""
        found = []
        for path in self.logs:
            lines = [line for line in path.read_text().splitlines() if '"stages_s"' in line]
            found += [json.loads(lines[-1])] if lines else []
        return found


def servers_cpu_s(settings: Settings) -> dict[str, float]:
    """Seconds of CPU time that Kafka and PostgreSQL took since they were started, by name."""
    # A ledger of its own names its database as if it were on a server of somebody else's.
    ours = service_status(settings.model_copy(update={"postgres_dsn": None}))
    return {status.name: _cpu_s(status.pid) for status in ours if status.pid is not None}


def _cpu_s(pid: int) -> float:
    process = psutil.Process(pid)
    # The time of sessions that have ended is counted with their parent.
    times = [process.cpu_times()]
    total = times[0].children_user + times[0].children_system
    for child in process.children():
        try:
            times.append(child.cpu_times())
        except psutil.NoSuchProcess:
            continue
    return float(total + sum(one.user + one.system for one in times))


def environment(settings: Settings) -> dict[str, str]:
    """Under which `creditfold` reads these settings."""
    ours = {
        f"CREDITFOLD_{name.upper()}": str(value.get_secret_value() if isinstance(value, SecretStr) else value)
        for name, value in settings
        if value is not None
    }
    return os.environ | ours


def middle(rounds: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """The round whose figure of that name is neither the greatest nor the least; of two, the one with the lesser."""
    return sorted(rounds, key=itemgetter(name))[(len(rounds) - 1) // 2]


def percentiles(found: Sequence[float]) -> dict[str, float]:
    """Milliseconds below which half, 90% and 99% of so many seconds lie, and the most, by the nearest rank."""
    if not found:
        return {}
    ordered = sorted(found)
    at = {f"p{part}_ms": ordered[max(0, -(-len(ordered) * part // 100) - 1)] for part in (50, 90, 99)}
    return {name: round(value * 1e3, 1) for name, value in (at | {"max_ms": ordered[-1]}).items()}


def by_quarter(memory: Sequence[float]) -> list[int]:
    """The median of each quarter of the bytes that were held one after the other, in MB."""
    quarter = max(len(memory) // 4, 1)
    parts = (memory[n * quarter : (n + 1) * quarter] or memory[-1:] or [0] for n in range(4))
    return [round(statistics.median(part) / 2**20) for part in parts]


def argument_parser(description: str | None, **defaults: int) -> argparse.ArgumentParser:
    """A parser of a benchmark's arguments: --json, and an option for each of these numbers, by name and default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=default, help=f"{HELP.get(name, '')} (default {default:,})")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


#: What is said of options that don't explain themselves.
HELP = {
    "rounds": "how often each is measured; the middle one counts",
    "workers": "one and PostgreSQL fill two cores; more only contend",
    "per_second": "commands appended a second for the latency",
    "long": "commands of the long log; 0 for none",
}


def show_columns(columns: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Print figures as a table with a column for each of several runs."""
    table = Table("figure", *columns, title=title)
    for name in dict.fromkeys(name for figures in columns.values() for name in figures):
        cells = (json.dumps(figures[name]) if name in figures else "" for figures in columns.values())
        table.add_row(name, *cells)
    Console().print(table)
