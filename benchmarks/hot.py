"""What it costs that all commands are of one account, against commands of 100,000 accounts.

    python benchmarks/hot.py --commands 300000

All commands of an account are in one partition, so one worker folds them. It is measured against one worker, which
shows what the account itself costs, and against as many as `--workers` says, which shows what the partition costs. The
baseline does both in batches and one at a time, where every client waits for the row that all of them lock. All in one
run on the same servers, ours and the baseline in turn.
"""

import json
from typing import Any

import baseline
from fold import fold
from load import LOGS, PLAIN, produce
from rig import another_fold, argument_parser, console, database, ledger, servers, show_columns

from creditfold.common.settings import Settings


def ours(settings: Settings, log: str, commands: int, accounts: int, workers: set[int]) -> dict[str, Any]:
    """Rates of so many workers each, over the same log."""
    found = {}
    with ledger(settings, "hot") as own:
        produce(own, log, commands, accounts, 1)
        for number in sorted(workers):
            with another_fold(own, "hot") as again, console.status(f"{accounts:,} accounts, {number} workers"):
                figures = fold(again, number)
            found[_by(number)] = figures["fold_per_s"]
            found[f"cpu_us_per_command{_by(number).removeprefix('per_s')}"] = figures["cpu_us_per_command"]
    return found


def _by(workers: int) -> str:
    return f"per_s_by_{workers}_workers"


def theirs(settings: Settings, operations: int, accounts: int) -> dict[str, Any]:
    """Rates of the baseline."""
    with database(settings, "bench_baseline") as dsn, console.status(f"{accounts:,} accounts, the baseline"):
        baseline.prepare(dsn, accounts)
        return {
            "baseline_batched_per_s": baseline.measure(dsn, baseline.batched(operations, accounts))["per_s"],
            "baseline_single_per_s": baseline.measure(dsn, baseline.single(operations // 10, accounts))["per_s"],
        }


def main() -> None:
    """Run the benchmark and print it as a table, or as JSON."""
    parser = argument_parser(__doc__, commands=300_000, accounts=100_000, workers=2)
    parser.add_argument("--log", choices=LOGS, default=PLAIN)
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with servers() as settings:
        for name, accounts in (("uniform", options.accounts), ("hot", 1)):
            figures = ours(settings, options.log, options.commands, accounts, {1, options.workers})
            found[name] = figures | theirs(settings, options.commands, accounts)
    uniform, hot = found["uniform"], found["hot"]
    found["hot to uniform"] = {
        name: round(hot[name] / uniform[name], 2) for name in hot if isinstance(hot[name], int) and uniform[name]
    }
    if options.json:
        print(json.dumps({"commands": options.commands, "workers": options.workers, "runs": found}))
        return
    show_columns(found, f"One hot account against {options.accounts:,}: {options.log}")


if __name__ == "__main__":
    main()
