"""Is the work tree slower than another revision? Compares the two in one run, in turn, as ratios.

    python benchmarks/check.py --base HEAD~1

Checks out the revision into a temporary folder and folds the same commands by workers of both, one after the other.
Each has a log that its own code has imported from a file of them, since the two may write a command differently, and
for each fold a database of its own that its own code has prepared. What comes first changes from round to round. The
rate is what counts, and on a machine that others use it wavers; CPU time of worker and PostgreSQL for each command,
printed too, varies less. Exits with 1 if the median ratio of rates is below the threshold.

Both are run in plain Python, whatever was compiled.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from append import fields_of, write_lines
from load import LOGS, PLAIN
from rich.table import Table
from rig import CREDITFOLD, another_fold, argument_parser, console, environment, ledger, servers, servers_cpu_s, workers

from creditfold.common.settings import Settings
from creditfold.log.offsets import end_offsets
from creditfold.projections.connections import connected

ROOT = Path(__file__).parent.parent

#: Records of the log that are folded: commands, and what comes before them.
FOLDED = "SELECT coalesce(sum(next_offset), 0)::bigint FROM ledger.progress"


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """The files of a revision in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="cf-base-") as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, revision], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def code_of(tree: Path) -> dict[str, str]:
    """The environment in which Python finds the package `creditfold` in a tree, whatever is installed."""
    # The rooms lie there under the package's name, for the type checkers.
    found = {"PYTHONPATH": str(tree / ".link"), "CREDITFOLD_CORE": "plain"}
    script = "import creditfold.processors as room; print(room.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", script], env=environment(Settings()) | found, capture_output=True, text=True, check=True
    )
    if not Path(said.stdout.strip()).resolve().is_relative_to(tree.resolve()):
        raise SystemExit(f"Python finds {said.stdout.strip()} and not the code in {tree}")
    return found


def make_log(log: Settings, tree: Path, kind: str, count: int, accounts: int) -> None:
    """Append commands of a kind of log to an empty one, by a tree's own code."""
    # By its path an import finds its progress again.
    file = log.data_dir / f"{log.group}.jsonl"
    write_lines(file, map(fields_of, LOGS[kind](count, accounts, 1)))
    # By the revision's own `init`: before version 1 that appended which rules decide, and others did without it.
    with another_fold(log, "make", prepared=False) as own:
        for command in (["init"], ["import", str(file)]):
            variables = environment(own) | code_of(tree)
            subprocess.run([*CREDITFOLD, *command], env=variables, check=True, stdout=subprocess.DEVNULL)


def fold(log: Settings, tree: Path, number: int) -> dict[str, float]:
    """Fold a log that is there by so many workers of a tree; gives records a second and CPU microseconds a record."""
    code = code_of(tree)
    with another_fold(log, "check", prepared=False) as own:
        subprocess.run([*CREDITFOLD, "init"], env=environment(own) | code, check=True, stdout=subprocess.DEVNULL)
        with connected(own.dsn) as connection:
            end = sum(end_offsets(own, own.commands_topic, range(own.partitions)).values())
            before = servers_cpu_s(own)
            with workers(own, number, variables=code) as running:
                while not (first := _folded(connection)):
                    running.check()
                    time.sleep(0.02)
                began, cpu = time.perf_counter(), running.cpu_s()
                while (done := _folded(connection)) < end:
                    running.check()
                    time.sleep(0.02)
                took, cpu = time.perf_counter() - began, running.cpu_s() - cpu
            after = servers_cpu_s(own)
            # Nobody reports the time of a server that isn't ours.
            postgres = after.get("PostgreSQL", 0.0) - before.get("PostgreSQL", 0.0)
    return {
        "per_s": (done - first) / took,
        "worker_us": cpu / (done - first) * 1e6,
        "postgres_us": postgres / done * 1e6,
    }


def _folded(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute(FOLDED).fetchone()
    return int(row[0]) if row else 0


def ratios(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Least, median and greatest ratio of each figure, the work tree's to the base's of the same round."""
    found = {}
    for name in rounds[0]["base"]:
        each = sorted(one["work"][name] / (one["base"][name] or 1.0) for one in rounds)
        found[name] = {"min": each[0], "median": statistics.median(each), "max": each[-1]}
    return found


def main() -> None:
    """Run the comparison and print it as a table, or as JSON."""
    parser = argument_parser(__doc__, commands=200_000, accounts=100_000, workers=1, rounds=5)
    parser.add_argument("--base", required=True, help="a revision that git knows")
    parser.add_argument("--threshold", type=float, default=0.9, help="least median ratio of rates")
    parser.add_argument("--log", choices=LOGS, default=PLAIN)
    options = parser.parse_args()
    rounds: list[dict[str, dict[str, float]]] = []
    with (
        checkout(options.base) as tree,
        servers() as settings,
        ledger(settings, "work") as work,
        ledger(settings, "base") as base,
    ):
        trees, logs = {"work": ROOT, "base": tree}, {"work": work, "base": base}
        for name, log in logs.items():
            with console.status(f"appending: {name}"):
                make_log(log, trees[name], options.log, options.commands, options.accounts)
        for number in range(options.rounds):
            found = {}
            for name in sorted(trees, reverse=number % 2 == 0):
                with console.status(f"round {number + 1}: {name}"):
                    found[name] = fold(logs[name], trees[name], options.workers)
            rounds.append(found)
    compared = ratios(rounds)
    is_good = compared["per_s"]["median"] >= options.threshold
    if options.json:
        print(json.dumps({"base": options.base, "rounds": rounds, "ratios": compared, "passed": is_good}))
    else:
        _print(options.base, rounds, compared)
    sys.exit(0 if is_good else 1)


def _print(base: str, rounds: list[dict[str, dict[str, float]]], compared: dict[str, dict[str, float]]) -> None:
    table = Table(
        "", "rate, records/s", "worker, CPU µs a record", "PostgreSQL, CPU µs", title=f"The work tree to {base}"
    )
    for number, one in enumerate(rounds):
        cells = [f"{one['work'][name]:,.0f} to {one['base'][name]:,.0f}" for name in compared]
        table.add_row(f"round {number + 1}", *cells)
    table.add_section()
    for kind in ("min", "median", "max"):
        table.add_row(f"ratio, {kind}", *(f"{found[kind]:.2f}" for found in compared.values()))
    console.print(table)


if __name__ == "__main__":
    main()
