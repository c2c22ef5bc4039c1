"""Writes the figures into docs/benchmarks.md and docs/scale.md, and draws docs/benchmarks.svg.

    python benchmarks/report.py --fresh

Runs each benchmark and keeps its JSON; without --fresh only those that have none yet, so that one can be run again, or
elsewhere. The prose of the documents is written by hand; only what stands between `<!-- figures: NAME -->` and
`<!-- end -->` is replaced. The figures say whether a goal is met, and what wasn't measured says so.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil, log10
from pathlib import Path
from typing import Any, NamedTuple

from figures import Figures, at
from load import PLAIN
from plot import draw
from rebuild import PACED

from creditfold.ledger import folding

ROOT = Path(__file__).parent.parent
DOCS = ("benchmarks.md", "scale.md")
PLOT = ROOT / "docs" / "benchmarks.svg"

#: The benchmarks, by the names of their scripts.
NAMES = ("fold", "append", "latency", "hot", "rebuild", "scale", "stages", "lots", "door")

BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

#: Memory counts as flat where the last tenth of a log takes at most so many times what the third took.
FLAT = 1.1

#: For which docs/scale.md does its sums, and what a shard's server is taken to give. Not measured.
RATES = (100_000, 1_000_000)
SHARD_CORES = 8
SHARD_WAL_MB = 400


class Goal(NamedTuple):
    """What is wanted of a figure, which is at a place of the results: at least, or at most, so much."""

    what: str
    place: tuple[str | int, ...]
    bound: float
    unit: str = ""
    at_most: bool = False

    def row(self, results: Figures) -> tuple[str, str, str, str]:
        """What, the goal, the figure, and whether it is met."""
        wanted = f"{'at most' if self.at_most else 'at least'} {self.bound:g}{self.unit}"
        found = at(results, *self.place)
        if found is None:
            return self.what, wanted, "", "not measured"
        is_met = found <= self.bound if self.at_most else found >= self.bound
        return self.what, wanted, f"{found:g}{self.unit}", "met" if is_met else "**not met**"


#: What the ways of benchmarks/append.py are called.
WAYS = {
    "fold": "folded by one worker",
    "append": "made and appended by one process",
    "import jsonl": "imported from JSON Lines",
    "import csv": "imported from CSV",
    "import jsonl.gz": "imported from JSON Lines, gzip",
    "import csv.gz": "imported from CSV, gzip",
}

GOALS = (
    Goal("fold, against the baseline in batches of 100", ("fold", "logs", PLAIN, "to_baseline_batched"), 1.25),
    Goal("fold, against the baseline one at a time", ("fold", "logs", PLAIN, "to_baseline_single"), 5),
    *(
        Goal(f"{what}, against the fold", ("append", "logs", PLAIN, way, "to_fold"), 1)
        for way, what in WAYS.items()
        if way != "fold"
    ),
    Goal("one hot account against uniform, one worker", ("hot", "runs", "hot to uniform", "per_s_by_1_workers"), 0.9),
    Goal("the same, two workers", ("hot", "runs", "hot to uniform", "per_s_by_2_workers"), 0.9),
    Goal("rebuild against the live fold of one worker", ("rebuild", "one_worker", "ratio"), 2),
    Goal("due to visible at 10,000/s, half", ("latency", "rates", "10000/s", "p50_ms"), 15, " ms", True),
    Goal("due to visible at 10,000/s, 99%", ("latency", "rates", "10000/s", "p99_ms"), 50, " ms", True),
    Goal("due to visible at 1,000/s, 99%", ("latency", "rates", "1000/s", "p99_ms"), 25, " ms", True),
    Goal("memory of a worker, at its most", ("scale", "long", "most_mb"), 300, " MB", True),
    Goal("memory in the last tenth of a long log to the third", ("derived", "growth"), FLAT, "", True),
    Goal("memory with the most accounts", ("derived", "memory_mb"), 300, " MB", True),
    Goal("Kafka's bytes against what the data needs", ("fold", "logs", PLAIN, "kafka_to_needed"), 1.5, "", True),
    Goal("PostgreSQL's bytes against that", ("fold", "logs", PLAIN, "postgres_to_needed"), 1.5, "", True),
    Goal("cold start to the first fold", ("derived", "cold_start_s"), 3, " s", True),
)


#: Those of the HTTP door, whose figures are written by themselves too (door.py --markdown).
SPENDS, READS = "spends that wait", "reads of a balance"
DOOR_GOALS = (
    Goal("a spend that waits for its outcome, at 500/s, half", ("door", "requests", SPENDS, "p50_ms"), 25, " ms", True),
    Goal("the same, 99%", ("door", "requests", SPENDS, "p99_ms"), 60, " ms", True),
    Goal("a read of a balance, at 1,000/s, 99%", ("door", "requests", READS, "p99_ms"), 10, " ms", True),
    *(
        Goal(f"the fold's latency alone to that beside {kind}", ("door", "fold", f"beside {kind}", "ratio"), 0.9)
        for kind in (SPENDS, READS)
    ),
    Goal("lines of one request a second", ("door", "bulk", "per_s"), 20_000),
    Goal("memory in its last quarter to the second", ("door", "bulk", "growth"), FLAT, "", True),
)


def derived(results: Figures) -> dict[str, float]:
    """Figures that follow from others."""
    found: dict[str, float] = {}
    tenths = at(results, "scale", "long", "memory_mb_by_tenth") or []
    if len(tenths) == 10 and tenths[2] and tenths[9]:
        found["growth"] = round(tenths[9] / tenths[2], 2)
    accounts = at(results, "scale", "accounts") or []
    if accounts:
        found["memory_mb"] = max(accounts[-1]["memory_mb_by_quarter"])
    starts = [row["cold_start_s"] for row in at(results, "scale", "workers") or [] if row["workers"] == 1]
    if starts:
        found["cold_start_s"] = round(statistics.median(starts), 2)
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    if isinstance(value, int | float):
        return f"{value:,}"
    return str(value)


def by_run(head: str, runs: Figures, rows: Iterable[tuple[str, str]]) -> str:
    """A table of figures, each with what it is called, with a column for each run."""
    found = ((what, *(one.get(name) for one in runs.values())) for what, name in rows)
    return table((head, *runs), found)


def goals(results: Figures) -> str:
    """The goals, and whether they are met."""
    return table(("what", "goal", "measured", ""), (goal.row(results) for goal in GOALS))


def machine(results: Figures) -> str:
    """Where the figures come from."""
    about = results.get("machine", {})
    where = f"{about.get('cpus')} cores of {about.get('cpu')}, {about.get('system')}, Python {about.get('python')}"
    return f"{where}; the core {about.get('core')}.\n"


def fold(results: Figures) -> str:
    """Rates, CPU time and memory of each log."""
    logs = at(results, "fold", "logs") or {}
    rows = (
        ("commands a second, end to end", "fold_per_s"),
        ("the baseline in batches, operations a second", "baseline_batched_per_s"),
        ("the baseline one at a time", "baseline_single_per_s"),
        ("ratio to the baseline in batches", "to_baseline_batched"),
        ("ratio to the baseline one at a time", "to_baseline_single"),
        ("memory of the workers together by quarter, MB", "memory_mb_by_quarter"),
        ("machine idle, per cent", "machine_idle_percent"),
        ("machine given to others by its host, per cent", "machine_stolen_percent"),
    )
    found = [(what, *(figures.get(name) for figures in logs.values())) for what, name in rows]
    for part in ("workers", "PostgreSQL", "Kafka"):
        cells = (at(figures, "cpu_us_per_command", part) for figures in logs.values())
        found.append((f"CPU time of {part}, µs a command", *cells))
    asked = results.get("fold", {})
    said = f"\n{_cell(asked.get('commands'))} commands of {_cell(asked.get('accounts'))} accounts"
    return table(("", *logs), found) + f"{said}, {asked.get('workers')} workers.\n"


def append(results: Figures) -> str:
    """Rates and CPU time of what appends commands, and those of the fold."""
    logs = at(results, "append", "logs") or {}
    rows = [
        (log, WAYS[way], *(one.get(name) for name in ("per_s", "to_fold", "to_fold_in_each", "cpu_us", "kafka_cpu_us")))
        for log, ways in logs.items()
        for way, one in ways.items()
    ]
    head = ("", "", "a second", "to the fold", "in each round", "CPU time, µs a command", "Kafka's meanwhile")
    asked = results.get("append", {})
    return (
        table(head, rows) + f"\n{_cell(asked.get('commands'))} commands of {_cell(asked.get('accounts'))} accounts.\n"
    )


def disk(results: Figures) -> str:
    """Bytes a command."""
    logs = at(results, "fold", "logs") or {}
    rows = (
        ("Kafka, compressed", "kafka_bytes_per_command"),
        ("what its data needs", "kafka_bytes_needed"),
        ("ratio", "kafka_to_needed"),
        ("PostgreSQL, indexes included", "postgres_bytes_per_command"),
        ("what its data needs", "postgres_bytes_needed"),
        ("ratio", "postgres_to_needed"),
        ("written ahead by PostgreSQL (WAL)", "wal_bytes_per_command"),
        ("the baseline's tables and indexes", "baseline_bytes_per_command"),
    )
    return by_run("bytes a command", logs, rows)


def latency(results: Figures) -> str:
    """Milliseconds from due to visible."""
    rates = at(results, "latency", "rates") or {}
    rows = []
    for name, one in rates.items():
        rows.append((name, *(one.get(part) for part in PARTS), one.get("appended_per_s")))
        for title, part in (("to the log's answer", "to_the_log"), ("from there", "from_the_log")):
            if part in one:
                rows.append((f"... {title}", *(one[part].get(name) for name in PARTS), None))
    each = {name: one["p50_ms_of_each"] for name, one in rates.items() if "p50_ms_of_each" in one}
    pauses: Figures = next((one["a_look_every_ms"] for one in rates.values() if "a_look_every_ms" in one), {})
    said = f"\n{results.get('latency', {}).get('workers')} worker, {at(results, 'latency', 'seconds')} s at each rate. "
    said += f"A look every {pauses.get('p50_ms')} ms, 99% of them within {pauses.get('p99_ms')} ms.\n"
    said += "Half within, in each round: " + "; ".join(f"{_cell(ms)} ms at {name}" for name, ms in each.items()) + ".\n"
    return table(("", "half within, ms", "90%", "99%", "all", "done a second"), rows) + said


PARTS = ("p50_ms", "p90_ms", "p99_ms", "max_ms")


def hot(results: Figures) -> str:
    """Rates of one account against many."""
    runs = at(results, "hot", "runs") or {}
    rows = (
        ("one worker", "per_s_by_1_workers"),
        ("two workers", "per_s_by_2_workers"),
        ("the baseline in batches", "baseline_batched_per_s"),
        ("the baseline one at a time", "baseline_single_per_s"),
    )
    said = f"\n{_cell(at(results, 'hot', 'commands'))} commands.\n"
    return by_run("a second", runs, rows) + said


def rebuild(results: Figures) -> str:
    """The rebuild against the live fold."""
    found = results.get("rebuild", {})
    runs = {"one worker": found.get("one_worker", {}), "two workers": found.get("two_workers", {})}
    rows = (
        ("live fold, a second", "live_per_s"),
        ("rebuild", "rebuild_per_s"),
        ("ratio", "ratio"),
        ("ratio in each round", "ratio_of_each"),
        ("memory of the rebuild's processes together by quarter, MB", "memory_mb_by_quarter"),
    )
    said = f"\n{_cell(found.get('commands'))} commands, start-up and indexes of the rebuild included.\n"
    beside = (
        ("alone", "latency_alone"),
        ("during a rebuild", "latency_beside_a_rebuild"),
        (f"during one of {PACED:,} a second", f"latency_beside_a_rebuild_of_{PACED}_a_second"),
    )
    latency = ((what, at(found, name, "p50_ms"), at(found, name, "p99_ms")) for what, name in beside)
    live = table(("one live worker, due to visible", "half within, ms", "99%"), latency)
    return by_run("", runs, rows) + said + "\n" + live


def door(results: Figures) -> str:
    """Requests to the HTTP door at fixed rates, what they cost the fold, and many lines of one request."""
    text = table(("what", "goal", "measured", ""), (goal.row(results) for goal in DOOR_GOALS))
    rows: list[tuple[Any, ...]] = []
    cpu: dict[str, Mapping[str, Any]] = {}
    for kind, one in (at(results, "door", "requests") or {}).items():
        rows.append((kind, *(one.get(part) for part in PARTS), one.get("done_per_s")))
        cpu[kind] = one["cpu_us_per_request"]
    for name, one in (at(results, "door", "fold") or {}).items():
        ratios = (one.get("ratio_of_each"), one.get("ratio_of_99"))
        rows.append((f"the fold, {name}", *(one.get(part) for part in PARTS), one.get("appended_per_s"), *ratios))
    head = ("", "half within, ms", "90%", "99%", "all", "done a second", "alone to this, in each round", "of the 99%")
    text += "\n" + table(head, ((*row, *(None,) * (len(head) - len(row))) for row in rows))
    bulk = at(results, "door", "bulk") or {}
    if bulk:
        cpu["a line of many"] = bulk["cpu_us_per_line"]
    names = dict.fromkeys(name for one in cpu.values() for name in one)
    text += "\n" + table(("CPU time, µs", *cpu), ((name, *(one.get(name) for one in cpu.values())) for name in names))
    if bulk:
        text += f"\n{_cell(bulk['lines'])} lines in one request; memory of `creditfold serve` by quarter: "
        text += f"{_cell(bulk['memory_mb_by_quarter'])} MB.\n"
    return text


def scale(results: Figures) -> str:
    """Workers, partitions, accounts and the length of the log."""
    grid = at(results, "scale", "workers") or []
    workers = sorted({row["workers"] for row in grid})
    rates = {(row["partitions"], row["workers"]): row["fold_per_s"] for row in grid}
    partitions = sorted({row["partitions"] for row in grid})
    text = table(
        ("commands a second", *(f"{number} worker{'s' * (number > 1)}" for number in workers)),
        ((f"{size} partitions", *(rates.get((size, number)) for number in workers)) for size in partitions),
    )
    rows = (
        (
            row["accounts"],
            row["fold_per_s"],
            at(row, "cpu_us_per_command", "PostgreSQL"),
            max(row["memory_mb_by_quarter"]),
        )
        for row in at(results, "scale", "accounts") or []
    )
    head = ("accounts in the tables", "commands a second, one worker", "PostgreSQL's CPU, µs a command", "memory, MB")
    text += f"\n{_cell(at(results, 'scale', 'commands'))} commands in each run.\n\n" + table(head, rows)
    long = at(results, "scale", "long") or {}
    if long:
        text += f"\nMemory of one worker over {long['commands']:,} commands, by tenths, in MB: "
        text += f"{_cell(long['memory_mb_by_tenth'])}.\n"
    return text


def journal(results: Figures) -> str:
    """What a command costs among the rows that the journal has, and among ten times as many."""
    tenths = at(results, "scale", "long", "by_tenth") or []
    if len(tenths) < 2:
        return "Not measured.\n"
    rows: list[tuple[Any, ...]] = [
        (one["journal_rows"], "measured", one["fold_per_s"], one["postgres_cpu_us_per_command"])
        for one in (*tenths[:-1:3], tenths[-1])
    ]
    (few, *_, least), (many, *_, most) = rows[0], rows[-1]
    # An index grows by a level, and by so much more that isn't in the processor's caches, with each power of its rows.
    more = (most - least) / log10(many / few)
    rows.append((10 * many, "extrapolated", None, round(most + more, 1)))
    return table(("rows of the journal", "", "commands a second, one worker", "PostgreSQL's CPU, µs a command"), rows)


def lots(results: Figures) -> str:
    """What a command costs in an account with many lots."""
    found: Any = results.get("lots") or []
    names = [name for name in (found[0] if found else {}) if name not in ("live", "dead")]
    return table(
        ("live lots", "dead ones", *(f"{name}, µs" for name in names)),
        ((one["live"], one["dead"], *(one[name] for name in names)) for one in found),
    )


def stages(results: Figures) -> str:
    """CPU time of a worker by stage."""
    logs = {name: at(one, "worker") or {} for name, one in (at(results, "stages", "logs") or {}).items()}
    names = dict.fromkeys(stage for one in logs.values() for stage in one.get("cpu_us_per_command", {}))
    rows: list[tuple[Any, ...]] = [
        (stage, *(at(one, "cpu_us_per_command", stage) for one in logs.values())) for stage in names
    ]
    rows += [
        (f"{server}, meanwhile", *(at(one, "servers_us_per_command", server) for one in logs.values()))
        for server in ("PostgreSQL", "Kafka")
    ]
    return table(("µs a command", *logs), rows)


def arithmetic(results: Figures) -> str:
    """What 10^5 and 10^6 commands a second take, from the figures of one machine."""
    log = at(results, "fold", "logs", PLAIN) or {}
    lane = at(results, "hot", "runs", "hot", "per_s_by_1_workers")
    cpu: Mapping[str, float] = log.get("cpu_us_per_command", {})
    if not (cpu and lane):
        return "Not measured.\n"
    bytes_per_command = ("wal", "postgres", "kafka")
    wal, kept, appended = (float(log[f"{name}_bytes_per_command"]) for name in bytes_per_command)

    def shards(rate: int) -> int:
        by_cpu = cpu["PostgreSQL"] * rate / 1e6 / SHARD_CORES
        return ceil(max(by_cpu, wal * rate / 1e6 / SHARD_WAL_MB))

    def terabytes(size: float) -> Callable[[int], float]:
        return lambda rate: round(size * rate * 86_400 / 1e12, 2)

    sums: Mapping[str, Callable[[int], float]] = {
        "cores for workers": lambda rate: ceil(cpu["workers"] * rate / 1e6),
        "cores for PostgreSQL": lambda rate: ceil(cpu["PostgreSQL"] * rate / 1e6),
        "cores for Kafka, one replica": lambda rate: ceil(cpu["Kafka"] * rate / 1e6),
        "partitions, with half of each one's rate in use": lambda rate: ceil(2 * rate / lane),
        "WAL, MB a second": lambda rate: round(wal * rate / 1e6),
        f"PostgreSQL shards of {SHARD_CORES} cores and {SHARD_WAL_MB} MB of WAL a second": shards,
        "tables and indexes, TB a day": terabytes(kept),
        "Kafka's log, TB a day and replica": terabytes(appended),
    }
    rows: list[tuple[Any, ...]] = [
        (f"CPU of {name}, µs a command", "measured", used, used) for name, used in cpu.items()
    ]
    rows.append(("one partition, a second (all commands of one account)", "measured", lane, lane))
    rows += [(what, "extrapolated", *(value(rate) for rate in RATES)) for what, value in sums.items()]
    return table(("", "", *(f"{rate:,} a second" for rate in RATES)), rows)


BLOCKS: Mapping[str, Callable[[Figures], str]] = {
    one.__name__: one
    for one in (
        *(goals, machine, fold, append, disk, latency, hot, rebuild),
        *(scale, journal, lots, stages, arithmetic, door),
    )
}


#: Whose results a block is made of, where its name doesn't say that.
SOURCES = {"disk": "fold", "arithmetic": "hot", "journal": "scale"}


def fill(text: str, results: Figures) -> str:
    """A document with its blocks of figures written anew. Raises KeyError for a name that there isn't."""

    def block(name: str) -> str:
        write = BLOCKS[name]
        return write(results) if SOURCES.get(name, name) in results or name == "goals" else "Not measured.\n"

    return BLOCK.sub(lambda found: found[1] + block(found[2]) + found[3], text)


def gather(folder: Path, names: Sequence[str], *, fresh: bool) -> dict[str, Any]:
    """The benchmarks' results, each run if it has none yet, or anew."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        target = folder / f"{name}.json"
        if fresh or not target.exists():
            print(f"{name} ...", file=sys.stderr)
            script = Path(__file__).with_name(f"{name}.py")
            done = subprocess.run([sys.executable, script, "--json"], stdout=subprocess.PIPE, check=True)
            target.write_bytes(done.stdout)
    (folder / "machine.json").write_text(json.dumps(this_machine()), "utf-8")
    results = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}
    return results | {"derived": derived(results)}


def this_machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        cpu = found[1] if found else cpu
    core = "in plain Python" if str(folding.__file__).endswith(".py") else "compiled"
    versions = {"system": platform.system(), "python": platform.python_version(), "core": core}
    return {"cpus": os.cpu_count(), "cpu": cpu, **versions}


def main() -> None:
    """Run what is missing, write the documents and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / ".creditfold" / "benchmarks", help="folder of the JSON")
    parser.add_argument("--fresh", action="store_true", help="run every benchmark, whether there is a result or not")
    options = parser.parse_args()
    results = gather(options.results, NAMES, fresh=options.fresh)
    for name in DOCS:
        path = ROOT / "docs" / name
        path.write_text(fill(path.read_text("utf-8"), results), "utf-8")
    draw(results, PLOT)
    print(goals(results))


if __name__ == "__main__":
    main()
