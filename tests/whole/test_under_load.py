"""What slows the tests does so, names the seed that repeats a run, and reports what failed."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from helpers.support import HANG_S, ROOT, ran

SCRIPT = ROOT / "tests" / "programs" / "under_load.py"
#: Writes down how it is slowed and what it is to draw from, and fails on its second call.
PROBE = """
import json, os, sys, psutil
path = sys.argv[1]
seen = json.load(open(path)) if os.path.exists(path) else []
busy = [one for one in psutil.Process().parent().children() if one.cmdline()[-1].endswith(": pass")]
seen.append([len(busy), len(psutil.Process().cpu_affinity()), os.environ["CREDITFOLD_TEST_SEED"],
             os.environ["PYTEST_ADDOPTS"]])
json.dump(seen, open(path, "w"))
sys.exit(7 if len(seen) == int(sys.argv[2]) else 0)
"""


@pytest.mark.skipif(not hasattr(psutil.Process, "cpu_affinity"), reason="nothing can be pinned here")
def test_runs_are_slowed_in_both_ways_until_one_fails(tmp_path: Path) -> None:
    """Each with a seed; that of the one that fails and its exit code are reported, and no busy process is left."""
    seen = tmp_path / "seen"
    command = [sys.executable, str(SCRIPT), "--times", "2", "--seed", "41", sys.executable, "-c", PROBE, str(seen)]
    # This test may be run by what it tests.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    cores = len(psutil.Process().cpu_affinity())
    expected = [
        [busy, pinned, seed, f"--hypothesis-seed={seed}"]
        for busy, pinned, seed in ((2, cores, "41"), (2, cores, "42"), (0, 1, "43"))
    ]
    for fails, last in ((3, "seed 43  one core"), (2, "seed 42  2 busy processes beside")):
        seen.unlink(missing_ok=True)
        done = ran(*command, str(fails), env=environment)
        assert json.loads(seen.read_text()) == expected[:fails]
        assert done.returncode == 7
        lines = done.stdout.splitlines()[-fails:]
        assert [line.split()[0] for line in lines] == ["passed"] * (fails - 1) + ["failed"]
        assert lines[-1].endswith(last)
    assert not [one for one in psutil.Process().children(recursive=True) if is_busy(one)]


def is_busy(process: psutil.Process) -> bool:
    """Whether it is one of those that take all of the processor that they get."""
    with suppress(psutil.NoSuchProcess):
        return any(argument.endswith(": pass") for argument in process.cmdline())
    return False


def test_no_busy_process_outlives_its_killed_parent() -> None:
    """They would take a machine's processor for ever."""
    waits = [sys.executable, "-c", "import sys; print('waits', flush=True); sys.stdin.read()"]
    with subprocess.Popen([sys.executable, str(SCRIPT), *waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        while one.stdout.readline() != b"waits\n":
            assert one.poll() is None
        busy = [child for child in psutil.Process(one.pid).children() if is_busy(child)]
        assert len(busy) == 2
        one.kill()
    assert not psutil.wait_procs(busy, timeout=HANG_S)[1]
