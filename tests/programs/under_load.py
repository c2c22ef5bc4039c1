"""Runs the tests as a slow machine does: with two busy processes beside them, and at last once pinned to one core.

    python tests/programs/under_load.py --times 5     what `make test-under-load TIMES=5` does
    python tests/programs/under_load.py pytest -k chaos     the same with another command

Each run has a seed of its own, which is printed before it and decides everything that is drawn: `--seed` repeats one.
Ends at the first run that fails, with its exit code. Owns no test; knows the target of the Makefile that runs them all.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[2]
BUSY = 2
#: Runs every test there is.
TESTS = ["make", "--no-print-directory", "tests"]


class Done(NamedTuple):
    """One run: how it was slowed, its seed, its seconds and its exit code."""

    how: str
    seed: int
    seconds: float
    code: int


@contextmanager
def busy() -> Iterator[None]:
    """Have processes take all of the processor that they get."""
    # Not longer than this process, which may be killed.
    loop = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    processes = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(BUSY)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def one_core() -> Iterator[None]:
    """Have this process and all that it starts share one core."""
    process = psutil.Process()
    before = process.cpu_affinity()
    assert before
    process.cpu_affinity(before[:1])
    try:
        yield
    finally:
        process.cpu_affinity(before)


#: What slows a run, by its name. macOS pins nothing.
WAYS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    f"{BUSY} busy processes beside": busy,
    **({"one core": one_core} if hasattr(psutil.Process, "cpu_affinity") else {}),
}


def run(command: Sequence[str], how: str, seed: int) -> Done:
    """Run a command in a way, with everything drawn from a seed."""
    print(f"{how}, seed {seed}", flush=True)
    options = f"{os.environ.get('PYTEST_ADDOPTS', '')} --hypothesis-seed={seed}".strip()
    environment = {**os.environ, "PYTEST_ADDOPTS": options, "CREDITFOLD_TEST_SEED": str(seed)}
    began = time.monotonic()
    with WAYS[how]():
        code = subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode
    return Done(how, seed, time.monotonic() - began, code)


def main() -> int:
    """Run the tests as often as asked. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Run the tests as a slow machine does.")
    parser.add_argument("--times", type=int, default=1, help="how many runs with busy processes, one after the other")
    parser.add_argument("--seed", type=int, help="of the first run; those after it count on from there")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, in place of every test")
    chosen = parser.parse_args()
    seed = random.randrange(10**6) if chosen.seed is None else chosen.seed
    done: list[Done] = []
    beside, *pinned = WAYS
    for number, how in enumerate([beside] * chosen.times + pinned):
        done.append(run(chosen.command or TESTS, how, seed + number))
        if done[-1].code:
            break
    for one in done:
        print(f"{'failed' if one.code else 'passed'}  {one.seconds / 60:5.1f} min  seed {one.seed}  {one.how}")
    return done[-1].code


if __name__ == "__main__":
    sys.exit(main())
