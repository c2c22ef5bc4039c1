"""The Makefile's own words: what it says where the Python that it was given can't be used."""

import os
import subprocess
import sys
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


def test_an_install_that_fails_says_what_to_do_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After pip's own words; nothing is taken for installed."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    done = make(f"{tmp_path}/venv/.installed", f"VENV={tmp_path}/venv", f"PYTHON={sys.executable}")
    assert done.returncode == 2
    assert "No matching distribution found for setuptools" in done.stderr
    assert "error: pip could not install what is needed; what it says is above.\ntry: mend the network" in done.stderr
    assert not (tmp_path / "venv" / ".installed").exists()


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANG_S)
