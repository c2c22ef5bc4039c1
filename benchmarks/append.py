"""How fast commands reach the log, against how fast one worker folds them, in one run on the same servers.

    python benchmarks/append.py --commands 500000

In each round one process appends a log's commands as docs/producing.md advises: it makes each of its fields, hands them
to `append_many` and waits for the log's answers. Then one worker folds them. Then `creditfold import` appends the same
commands from files: JSON Lines and CSV, plain and gzip. No two of these run at once, so each has the machine with its
servers to itself. Rates and CPU time are those of the process that appends; Kafka's is reported too. The ratios are of
one round: how many commands are appended while one is folded. The middle round counts.
"""

import csv
import gc
import gzip
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fold import fold
from load import CREDITS, LOGS, PLAIN
from rig import CREDITFOLD, argument_parser, console, ledger, middle, servers, servers_cpu_s, show_columns, start

from creditfold.common.settings import Settings, load_settings
from creditfold.producers import Command, CommandProducer
from creditfold.producers.models.commands import MODELS

FORMATS = ("jsonl", "csv", "jsonl.gz", "csv.gz")


def fields_of(command: Command) -> dict[str, Any]:
    """What a service says of a command: what it must say, and what it says beyond that."""
    return {"type": command.type, **command.model_dump(exclude_defaults=True)}


def append(settings: Settings, log: str, commands: int, accounts: int, seed: int) -> dict[str, Any]:
    """Append commands from this process; only what a service would do is timed."""
    drawn = [
        (MODELS[fields["type"]], {name: value for name, value in fields.items() if name != "type"})
        for fields in map(fields_of, LOGS[log](commands, accounts, seed))
    ]
    # What a service does not have is a million commands in memory, through which Python looks for cycles.
    gc.collect()
    gc.freeze()
    with CommandProducer(settings.kafka_client, settings.commands_topic) as producer:
        producer.cluster_id()  # It is connected, as one that has run for a while.
        began, cpu = time.perf_counter(), time.process_time()
        producer.append_many(model(**fields) for model, fields in drawn)
        producer.flush()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"per_s": round(commands / took), "cpu_us": round(cpu / commands * 1e6, 2)}


def write_files(folder: Path, log: str, commands: int, accounts: int, seed: int) -> dict[str, Path]:
    """The same commands as files, by their formats."""
    rows = [fields_of(command) for command in LOGS[log](commands, accounts, seed)]
    paths = {format: folder / f"commands.{format}" for format in FORMATS}
    write_lines(paths["jsonl"], rows)
    with paths["csv"].open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    for format in ("jsonl", "csv"):
        with gzip.open(paths[f"{format}.gz"], "wb") as packed:
            packed.write(paths[format].read_bytes())
    return paths


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Commands as JSON Lines."""
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def run(settings: Settings, command: Sequence[str], commands: int) -> tuple[dict[str, Any], dict[str, float]]:
    """What a command prints as JSON, and the CPU time for each of so many commands: its own from its start, Kafka's."""
    before, kafka = resource.getrusage(resource.RUSAGE_CHILDREN), servers_cpu_s(settings)["Kafka"]
    process = start(settings, command, stdout=subprocess.PIPE)
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    after, kafka = resource.getrusage(resource.RUSAGE_CHILDREN), servers_cpu_s(settings)["Kafka"] - kafka
    own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(said), {"own": round(own / commands * 1e6, 2), "kafka": round(kafka / commands * 1e6, 2)}


def import_(settings: Settings, file: Path, commands: int) -> dict[str, Any]:
    """Import a file by the command line."""
    done, cpu = run(settings, [*CREDITFOLD, "import", str(file), "--json"], commands)
    if (done["appended"], done["bad"]) != (commands, 0):
        raise SystemExit(f"of {commands:,} commands {done['appended']:,} were appended, and {done['bad']:,} were bad")
    return {"per_s": round(commands / done["seconds"]), "cpu_us": cpu["own"], "kafka_cpu_us": cpu["kafka"]}


def compare(on: Settings, log: str, commands: int, accounts: int, seed: int) -> dict[str, Any]:
    """Rates of one round, and their ratios to the fold's."""
    asked = [f"--{name}={value}" for name, value in (("commands", commands), ("accounts", accounts), ("seed", seed))]
    script = [sys.executable, __file__, "--append-only", f"--log={log}", *asked]
    with ledger(on, "append") as own:
        with console.status(f"appending {log}"):
            appended, cpu = run(own, script, commands)
        with console.status(f"folding {log}"):
            folded = fold(own, 1)
    figures: dict[str, Any] = {
        "fold": {"per_s": folded["fold_per_s"], "cpu_us": folded["cpu_us_per_command"].get("workers")},
        "append": {**appended, "kafka_cpu_us": cpu["kafka"]},
    }
    with ledger(on, "import") as own, console.status(f"importing {log}"):
        # By its path an import finds its progress again.
        folder = own.data_dir / own.group
        folder.mkdir()
        for format, path in write_files(folder, log, commands, accounts, seed).items():
            figures[f"import {format}"] = import_(own, path, commands)
    for one in figures.values():
        one["to_fold"] = round(one["per_s"] / max(folded["fold_per_s"], 1), 2)
    return figures


def main() -> None:
    """Run the benchmark and print it as a table, or as JSON."""
    parser = argument_parser(__doc__, commands=500_000, accounts=100_000, seed=1, rounds=3)
    parser.add_argument("--log", choices=LOGS, action="append", help="only this one; may be given again")
    parser.add_argument("--append-only", action="store_true", help="append to the log of the settings, and print JSON")
    options = parser.parse_args()
    logs = options.log or [PLAIN, CREDITS]
    asked = options.commands, options.accounts, options.seed
    if options.append_only:
        print(json.dumps(append(load_settings(), logs[0], *asked)))
        return
    found: dict[str, dict[str, Any]] = {}
    with servers() as settings:
        for log in logs:
            rounds = [compare(settings, log, *asked) for _ in range(options.rounds)]
            found[log] = summary(rounds)
    if options.json:
        print(json.dumps({"commands": options.commands, "accounts": options.accounts, "logs": found}))
        return
    for log, figures in found.items():
        show_columns(figures, f"{log}: {options.commands:,} commands of {options.accounts:,} accounts")


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each way that of the middle ratio, with the ratios of all rounds."""
    ways: dict[str, Any] = {}
    for way in rounds[0]:
        each = [one[way] for one in rounds]
        ways[way] = {**middle(each, "to_fold"), "to_fold_in_each": [one["to_fold"] for one in each]}
    return ways


if __name__ == "__main__":
    main()
