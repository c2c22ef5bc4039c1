"""The rooms import each other one way only, their tests not each other, and the wheel holds what the tree holds."""

import ast
import re
import sys
import tomllib
import zipfile
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from helpers.support import ROOMS, ROOT, built_wheel, ran

#: Which rooms each room imports; a room's own modules always may import each other. What is in none of these rows is a
#: mistake, or a decision to write down. "/" leads to a room within a room, which has arrows of its own.
ARROWS = {
    "common": "",
    "schemas": "common",
    "ledger": "",
    "log": "common schemas",
    "log/archive": "common log",
    "log/doctor": "common log",
    "projections": "common",
    "projections/tables": "common ledger projections",
    "projections/store": "common ledger log projections projections/tables",
    "projections/queries": "common schemas ledger log projections projections/tables",
    "projections/access": "common ledger producers/models projections",
    "projections/delivery": "common ledger projections projections/access projections/queries",
    "projections/generations": "common log projections projections/tables projections/store projections/queries",
    "projections/proof": "common projections projections/tables projections/store projections/queries",
    "projections/doctor": "common log projections projections/tables projections/queries projections/generations",
    "producers": "common schemas ledger producers/models",
    "producers/models": "common schemas ledger",
    "processors": "common schemas ledger log log/doctor producers producers/models projections projections/tables"
    " projections/access projections/generations projections/queries projections/doctor projections/proof",
    "processors/fold": "common schemas ledger log projections/store",
    "processors/worker": "common schemas ledger log projections projections/tables projections/store"
    " projections/queries processors processors/fold",
    "processors/rebuild": "common ledger log projections projections/tables projections/store"
    " projections/access projections/generations projections/proof processors processors/fold",
    "processors/publisher": "common schemas ledger log projections projections/tables projections/queries processors",
    "stack": "common log",
    "delivery": "common ledger processors projections projections/access projections/delivery projections/queries"
    " projections/tables",
    "client": "common",
    "api": "common schemas ledger log producers producers/models delivery projections projections/access"
    " projections/delivery projections/queries"
    " projections/generations projections/proof processors processors/fold",
    "console": "common schemas ledger api processors processors/fold producers producers/models projections"
    " projections/queries",
    "cli/shared": "common ledger projections stack",
    "cli/append": "common schemas producers producers/models projections/queries processors cli/shared",
    "cli/read": "common schemas ledger log producers projections projections/queries processors/publisher cli/shared",
    "cli/rebuild": "common ledger projections projections/queries projections/generations projections/proof processors"
    " processors/rebuild cli/shared",
    "cli/run": "common delivery log log/archive api console projections projections/access projections/delivery"
    " projections/proof projections/tables projections/queries processors processors/worker processors/publisher stack"
    " cli/shared",
    "cli/demo": "common ledger log producers producers/models projections projections/queries processors stack"
    " cli/append cli/run cli/shared",
    "cli": "common log projections cli/append cli/read cli/rebuild cli/run cli/demo cli/shared",
}

# Everything that the pure room may import from outside: no clock, no random source, no environment, no I/O.
PURE = {
    "bisect",
    "calendar",
    "collections",
    "contextlib",
    "datetime",
    "enum",
    "hashlib",
    "heapq",
    "json",
    "re",
    "typing",
}


def imports_of(path: Path) -> set[str]:
    """Full names of what a file imports, wherever in it, and of the modules that it may be from."""
    text, found = path.read_text("utf-8"), set()
    if path.suffix == ".pyx":
        return set(re.findall(r"from (creditfold[\w.]+) c?import", text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def modules() -> dict[str, Path]:
    """Every module of ours by its full name, and each room by its own."""
    paths = [path for room in ROOMS for kind in ("*.py", "*.pyx") for path in (ROOT / room).rglob(kind)]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {f"creditfold.{name.removesuffix('.__init__')}": path for path, name in names.items()}


MODULES = modules()


def room_of(module: str) -> str:
    """The room that a module is in, as its folder."""
    return MODULES[module].parent.relative_to(ROOT).as_posix()


def imported(module: str) -> set[str]:
    """The modules of ours that one imports; that a module's room is imported before it is Python's doing."""
    names = imports_of(MODULES[module]) & MODULES.keys()
    return {name for name in names if not module.startswith(f"{name}.")} - {module}


@pytest.mark.parametrize("room", sorted({room_of(module) for module in MODULES}))
def test_a_room_imports_what_its_arrows_say(room: str) -> None:
    """Neither less nor more."""
    found = {room_of(name) for module in MODULES if room_of(module) == room for name in imported(module)}
    assert found - {room} == set(ARROWS[room].split())


def test_no_import_runs_back_up() -> None:
    """Neither from room to room nor from module to module is there a way that comes back."""
    for arrows in ({room: own.split() for room, own in ARROWS.items()}, {name: imported(name) for name in MODULES}):
        TopologicalSorter(arrows).prepare()


def test_a_circle_would_be_found() -> None:
    """Or the test above would pass for want of what it tests."""
    with pytest.raises(CycleError):
        TopologicalSorter({"log": ["common"], "common": ["log"]}).prepare()


def test_the_ledger_does_no_io() -> None:
    """The rules know nothing but their arguments."""
    for path in (ROOT / "ledger").glob("*.py"):
        outside = {name.split(".")[0] for name in imports_of(path) if not name.startswith("creditfold")}
        # One string in place of equal ones is no contact with the outside, which all else of `sys` is.
        assert outside - {"sys"} <= PURE, path
        taken = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
        assert {alias.name for node in taken if node.module == "sys" for alias in node.names} <= {"intern"}, path
        assert "import sys" not in path.read_text("utf-8"), path


def test_the_ledger_calls_no_clock_environment_or_file() -> None:
    """Builtins that reach outside stay out of the pure room too."""
    for path in (ROOT / "ledger").glob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Name)}
        assert not names & {"open", "input", "print", "exec", "eval", "hash", "id", "set", "frozenset", "__import__"}, (
            path
        )
        # What those of the pure modules have that isn't pure.
        attributes = {
            node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)
        }
        assert not attributes & {"now", "today", "utcnow", "fromtimestamp", "astimezone"}, path


#: The folders of tests: one for each room, and those of what is about no single one.
TEST_FOLDERS = {*ROOMS, "whole", "helpers", "programs"}
#: How long a function of the tests may be, in lines; what needs more is several tests, or a table.
LONGEST = 60


TEST_MODULES = sorted((ROOT / "tests").rglob("*.py"))


def test_the_tests_are_in_the_folders_of_their_rooms() -> None:
    """What several need is no test, and a test is in no folder of helpers."""
    for path in TEST_MODULES:
        folder = path.relative_to(ROOT / "tests").parent.as_posix()
        if path.name == "conftest.py":
            assert folder in {".", *TEST_FOLDERS}
        else:
            assert folder in TEST_FOLDERS, path
            assert path.name.startswith("test_") != (folder in {"helpers", "programs"}), path


def test_no_test_module_imports_another() -> None:
    """What two of them need is a helper, or a fixture of a conftest.py, and helpers need no test."""
    tests = {path.stem for path in TEST_MODULES if path.name.startswith(("test_", "conftest"))}
    for path in TEST_MODULES:
        assert not {part for name in imports_of(path) for part in name.split(".")} & tests, path


def test_no_function_of_the_tests_is_longer_than_a_screen() -> None:
    """One scenario with forty checks says of the first that fails only."""
    for path in TEST_MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or 0) - node.lineno < LONGEST, f"{path}: {node.name}"


def test_every_folder_with_modules_is_a_package_of_the_wheel() -> None:
    """One that isn't listed would be imported from the tree and be missing from the wheel."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in MODULES.values()}
    assert sorted(packages) == sorted(f"creditfold.{'.'.join(folder.parts)}" for folder in folders)
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders)


def test_the_wheel_holds_every_file_and_works_alone(tmp_path: Path) -> None:
    """The built wheel names what the tree names, and imports with the sources out of reach."""
    wheel = built_wheel(tmp_path)
    names = set(zipfile.ZipFile(wheel).namelist())
    suffixes = {".py", ".pyi", ".pyx", ".avsc", ".sql", ".json", ".txt", ".xml", ".typed", ".html", ".js", ".css"}
    expected = {
        f"creditfold/{path.relative_to(ROOT).as_posix()}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.suffix in suffixes and path.is_file()
    }
    assert {name for name in names if name.startswith("creditfold/")} == expected
    zipfile.ZipFile(wheel).extractall(tmp_path / "alone")
    script = (
        "import creditfold.cli.main, creditfold.processors.worker.app, creditfold.projections.tables.setup;"
        " import creditfold.schemas.wire as w;"
        " assert 'alone' in w.__file__;"
        " print(w.decode(w.encode('Grant', dict(command_id='1', account='a', asset='c', amount=7))).fields)"
    )
    # -S would hide the dependencies too; PYTHONPATH comes before the editable install.
    alone = {"PYTHONPATH": str(tmp_path / "alone"), "PATH": ""}
    done = ran(sys.executable, "-c", script, cwd=tmp_path, env=alone)
    assert done.returncode == 0, done.stderr
    assert "'amount': 7" in done.stdout
