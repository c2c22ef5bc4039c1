"""The Makefile's own words: what it says where the Python that it was given can't be used."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from helpers.support import HANG_S, ROOT, ran, write_program


@pytest.mark.parametrize("chosen", ["old", "missing"])
@pytest.mark.parametrize("target", ["demo", "test", "bench", "up"])
def test_a_python_that_is_too_old_is_refused_at_once(tmp_path: Path, chosen: str, target: str) -> None:
    """Before anything is installed, whatever is to be made, and nothing is left behind."""
    python, environment = tmp_path / "python", tmp_path / "venv"
    if chosen == "old":
        write_program(python, "exit 1")
    done = make(target, f"PYTHON={python}", f"VENV={environment}")
    assert done.returncode == 2
    assert f"error: {python} is not a Python of 3.11 or later that runs.\ntry: leave PYTHON out" in done.stderr
    assert not environment.exists()


def test_an_environment_of_an_older_python_is_refused_at_once(tmp_path: Path) -> None:
    """One that was made before this was checked, or by hand."""
    python = tmp_path / "bin" / "python"
    write_program(python, "exit 1")
    done = make("demo", f"VENV={tmp_path}")
    assert done.returncode == 2
    assert f"try: rm -rf {tmp_path}" in done.stderr


SITE = importlib.metadata.distribution("pip").locate_file("")
#: A Python whose environments have a copy of this one's pip, which takes a tenth of the time of Python's own copy. That
#: comes to the other environment that is made here.
QUICK = f"""\
case "$2" in venv)
    "{sys.executable}" -m venv --without-pip "$3"
    exec cp -R "{SITE}"/pip "{SITE}"/pip-*.dist-info "$3"/lib/python*/site-packages
esac
exec "{sys.executable}" "$@"
"""


@pytest.mark.usefixtures("without_index")
def test_an_install_that_fails_says_what_to_do_next(tmp_path: Path) -> None:
    """After pip's own words; nothing is taken for installed."""
    write_program(tmp_path / "python", QUICK)
    done = make(f"{tmp_path}/venv/.installed", f"VENV={tmp_path}/venv", f"PYTHON={tmp_path}/python")
    assert done.returncode == 2
    assert "No matching distribution found for setuptools" in done.stderr
    assert "error: pip could not install what is needed; what it says is above.\ntry: mend the network" in done.stderr
    assert not (tmp_path / "venv" / ".installed").exists()


@pytest.mark.usefixtures("without_index")
def test_an_environment_that_was_killed_while_it_was_made_is_made_whole(tmp_path: Path) -> None:
    """It has a Python and no pip; the next call goes on to what pip says."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    done = make(f"{tmp_path}/venv/.installed", f"VENV={tmp_path}/venv", f"PYTHON={sys.executable}")
    assert "No module named pip" not in done.stderr
    assert "No matching distribution found for setuptools" in done.stderr


def test_what_was_installed_for_a_python_that_is_gone_is_installed_anew(tmp_path: Path) -> None:
    """After an upgrade of the system's Python the environment's is a link to nothing."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(tmp_path / "gone")
    marks = [tmp_path / f".installed{kind}" for kind in ("", "-dev", "-bench")]
    for mark in marks:
        mark.touch()
    assert make("demo", f"VENV={tmp_path}", f"PYTHON={tmp_path}/none").returncode == 2
    assert not any(mark.exists() for mark in marks)


@pytest.mark.parametrize("target", ["demo", "up"])
@pytest.mark.parametrize("core", ["compiled", "any"])
def test_where_the_compiled_core_is_demanded_nothing_starts_without(tmp_path: Path, target: str, core: str) -> None:
    """It is waited for before the first import of ours; otherwise it is compiled beside."""
    compiles = 'case "$1" in *compilation.py) exit 1;; esac'
    for name, script in (("python", compiles), ("creditfold", 'echo "creditfold $*"')):
        write_program(tmp_path / "bin" / name, script)
    (tmp_path / ".installed").touch()
    done = make(target, f"VENV={tmp_path}", f"PYTHON={sys.executable}", *(["COMPILED=1"] if core == "compiled" else []))
    assert (done.returncode == 0) == (core == "any")
    assert (f"creditfold {target}" in done.stdout) == (core == "any")


def test_ci_goes_on_where_neither_a_compiler_nor_a_pooler_can_be_had(tmp_path: Path) -> None:
    """A compiler comes as a wheel, and the tests of poolers are left out."""
    for name, script in (("apt-get", "exit 100"), ("make", 'echo "make $*"')):
        write_program(tmp_path / name, script)
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = ran(tmp_path / "bash", ROOT / ".ci" / "run", env={"PATH": str(tmp_path)}, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert "no C compiler: the one that comes as a wheel is taken" in done.stdout
    assert done.stdout.endswith("make test\n")


@pytest.mark.parametrize(
    ("marker", "runs"), [("", ["plain"]), ("both_cores", ["compiled", "plain"]), ("compiled_core", ["compiled"])]
)
@pytest.mark.parametrize(("target", "kind"), [("tests", ""), ("tests", "stack"), ("test-stack", "stack")])
def test_each_test_runs_on_the_cores_that_its_marker_names(
    marker: str, runs: list[str], target: str, kind: str
) -> None:
    """And all of them run in plain Python where there is no compiled core."""
    for option, expected in (("PLAIN=", runs), ("PLAIN=1", ["plain"])):
        done = make("-n", target, option, f"PYTHON={sys.executable}")
        selections = re.findall(r"/pytest .* -m '(.*?)'", done.stdout)
        cores = ["plain"] if option == "PLAIN=1" else ["compiled", "plain"]
        # Without an expression, all are chosen.
        chosen = [
            not each or Expression.compile(each).evaluate(lambda name, **_: name in (kind, marker))
            for each in selections
        ]
        assert [core for core, does in zip(cores, chosen, strict=True) if does] == expected


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    # Not with what the make that runs the tests was given.
    unset = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "CREDITFOLD_CORE")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return ran("make", *arguments, cwd=ROOT, env=kept, timeout=HANG_S)
