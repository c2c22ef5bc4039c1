"""How fast a rebuild is against the live fold, in one run on the same machine, and what it costs the live fold.

    python benchmarks/rebuild.py --commands 3000000

Folds one log several times, each time in a new database: live with one worker or with two, in turn, and right behind
it with `creditfold rebuild`, start-up and indexes included; compares the digests. The middle ratio counts.
Then commands are appended at a fixed rate (open loop: each has its moment, whether the one before was answered or not)
and timed until they are visible in PostgreSQL: without a rebuild, during one, and during one at a limited rate.
"""

import argparse
import json
import statistics
import subprocess
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from typing import Any

import psutil
from fold import fold
from guard import watch
from load import LOGS, PLAIN, plain, produce
from rig import CREDITFOLD, another_fold, console, environment, middle, servers, show, show_columns

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.producers import CommandProducer
from creditfold.projections.connections import connected
from creditfold.projections.tables.scripts import schema_of

#: Records a second of the rebuild that is to leave the live fold its latency.
PACED = 10_000


def start(settings: Settings, *arguments: str) -> psutil.Popen:
    """Run `creditfold` in a process of its own."""
    command = [*CREDITFOLD, *arguments]
    process = psutil.Popen(command, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    watch(process)
    return process


def rebuilt(settings: Settings) -> dict[str, Any]:
    """Rebuild once; gives the command's document, seconds, and memory of all processes in MB by quarter of the run."""
    began, memory = time.perf_counter(), []
    process = start(settings, "rebuild", "--json")
    while process.poll() is None:
        memory.append(resident(process))
        time.sleep(0.1)
    seconds = time.perf_counter() - began
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the rebuild ended with {process.returncode}")
    quarter = max(len(memory) // 4, 1)
    by_quarter = [round(statistics.median(memory[n * quarter : (n + 1) * quarter]) / 2**20) for n in range(4)]
    return {**json.loads(out), "wall_s": seconds, "memory_mb_by_quarter": by_quarter}


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


class Latency:
    """Times commands from the moment at which each is due to the moment at which a reader can see it."""

    def __init__(self, settings: Settings, per_s: int, seed: int) -> None:
        self._settings = settings
        self._per_s = per_s
        self._seed = seed
        self._sent: deque[tuple[float, Future[Position]]] = deque()
        self._done = threading.Event()

    def measure(self, seconds: float, until: psutil.Popen | None = None) -> dict[str, float]:
        """Append for so long, or until a process ends; gives milliseconds."""
        sender = threading.Thread(target=self._send, args=(seconds, until))
        sender.start()
        found = self._watch()
        sender.join()
        if not found:
            raise SystemExit("the rebuild ended before a command was timed: take a longer log")
        found.sort()
        at = {"p50_ms": 0.5, "p99_ms": 0.99}
        return {name: round(found[int(len(found) * part)] * 1e3, 1) for name, part in at.items()} | {
            "max_ms": round(found[-1] * 1e3, 1),
            "commands": len(found),
        }

    def _send(self, seconds: float, until: psutil.Popen | None) -> None:
        kafka = self._settings.kafka_client | {"linger.ms": "1"}
        with CommandProducer(kafka, self._settings.commands_topic) as producer:
            stream = plain(10**9, 1_000, self._seed)
            # A producer's first commands wait for its connections, half a second, which is no business of the fold.
            producer.append_many(islice(stream, 100))
            producer.flush()
            began = time.perf_counter()
            for number, command in enumerate(stream):
                due = began + number / self._per_s
                if due - began > seconds or (until is not None and until.poll() is not None):
                    break
                if (wait := due - time.perf_counter()) > 0:
                    time.sleep(wait)
                self._sent.append((due, producer.submit(command)))
        self._done.set()

    def _watch(self) -> list[float]:
        found: list[float] = []
        waiting: list[tuple[float, Position]] = []
        with connected(self._settings.dsn) as connection:
            while not self._done.is_set() or self._sent or waiting:
                while self._sent and self._sent[0][1].done():
                    due, delivery = self._sent.popleft()
                    waiting.append((due, delivery.result()))
                rows = connection.execute("SELECT log_partition, next_offset FROM ledger.progress").fetchall()
                now, ends = time.perf_counter(), dict(rows)
                found += [now - due for due, position in waiting if ends[position.partition] > position.offset]
                waiting = [one for one in waiting if ends[one[1].partition] <= one[1].offset]
                time.sleep(0.002)
        return found


def main() -> None:
    """Run the benchmark and print it as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=3_000_000)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--per-second", type=int, default=500, help="commands appended a second for the latency")
    parser.add_argument("--rounds", type=int, default=3, help="live folds and rebuilds by each number of workers")
    parser.add_argument("--log", choices=LOGS, default=PLAIN)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
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
        worker = start(settings, "worker")
        try:
            with console.status("latency"):
                Latency(settings, options.per_second, 7).measure(5)
                figures["latency_alone"] = Latency(settings, options.per_second, 8).measure(15)
                for name, more in (("", ()), (f"_of_{PACED}_a_second", ("--rate", str(PACED)))):
                    beside = start(settings, "rebuild", "--json", *more)
                    timed = Latency(settings, options.per_second, 9 + len(more)).measure(120, beside)
                    figures[f"latency_beside_a_rebuild{name}"] = timed
                    with suppress(psutil.NoSuchProcess):
                        beside.terminate()  # One that keeps to a rate would take minutes more.
                    beside.communicate()
        finally:
            worker.terminate()
            worker.wait(30)
    if options.json:
        print(json.dumps(figures))
        return
    columns = {name: figures.pop(name) for name in ("one_worker", "two_workers")}
    show_columns(columns, "A rebuild against the live fold")
    show(figures, "From due to visible, one live worker", as_json=False)


if __name__ == "__main__":
    main()
