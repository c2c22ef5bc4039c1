"""The Makefile's own words: what it says where the Python that it was given can't be used."""

import subprocess
from pathlib import Path

import pytest
from support import HANG_S, ROOT


@pytest.mark.parametrize("chosen", ["old", "missing"])
@pytest.mark.parametrize("target", ["demo", "test", "bench", "up"])
def test_a_python_that_is_too_old_is_refused_at_once(tmp_path: Path, chosen: str, target: str) -> None:
    """Before anything is installed, whatever is to be made, and nothing is left behind."""
    python, environment = tmp_path / "python", tmp_path / "venv"
    if chosen == "old":
        python.write_text("#!/bin/sh\nexit 1\n")
        python.chmod(0o755)
    done = make(target, f"PYTHON={python}", f"VENV={environment}")
    assert done.returncode == 2
    assert f"error: {python} is not a Python of 3.11 or later that runs.\ntry: leave PYTHON out" in done.stderr
    assert not environment.exists()


def test_an_environment_of_an_older_python_is_refused_at_once(tmp_path: Path) -> None:
    """One that was made before this was checked, or by hand."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    done = make("demo", f"VENV={tmp_path}")
    assert done.returncode == 2
    assert f"try: rm -rf {tmp_path}" in done.stderr


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANG_S)
