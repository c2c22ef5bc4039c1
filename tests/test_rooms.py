"""The rooms import each other one way only, and the wheel holds what the tree holds."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import ROOMS, ROOT, built_wheel

# Which rooms each room may import; itself is always allowed.
ARROWS = {
    "schemas": set(),
    "ledger": set(),
    "stack": {"schemas"},
    "producers": {"schemas", "ledger"},
    "projections": {"schemas", "ledger"},
    "processors": {"schemas", "ledger", "projections", "stack"},
    "cli": {"schemas", "ledger", "producers", "processors", "projections", "stack"},
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
    """Full names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "creditfold"}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    """An arrow that isn't drawn in ARROWS is a mistake, or a decision to write down."""
    for path in (ROOT / room).glob("*.py"):
        rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("creditfold.")}
        assert rooms - {room} <= ARROWS[room], path


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


def test_rooms_stay_flat() -> None:
    """A nested package would be imported from the tree and be missing from the wheel."""
    nested = [path for room in ROOMS for path in (ROOT / room).glob("*/*.py") if "__pycache__" not in path.parts]
    assert nested == []


def test_the_wheel_holds_every_file_and_works_alone(tmp_path: Path) -> None:
    """The built wheel names what the tree names, and imports with the sources out of reach."""
    wheel = built_wheel(tmp_path)
    names = set(zipfile.ZipFile(wheel).namelist())
    suffixes = {".py", ".pyi", ".pyx", ".avsc", ".sql", ".json", ".txt", ".xml", ".typed"}
    expected = {
        f"creditfold/{room}/{path.name}"
        for room in ROOMS
        for path in (ROOT / room).iterdir()
        if path.suffix in suffixes and path.is_file()
    }
    assert {name for name in names if name.startswith("creditfold/")} == expected
    zipfile.ZipFile(wheel).extractall(tmp_path / "alone")
    script = (
        "import creditfold.cli.main, creditfold.processors.app, creditfold.projections.setup;"
        " import creditfold.schemas.wire as w;"
        " assert 'alone' in w.__file__;"
        " print(w.decode(w.encode('Grant', dict(command_id='1', account='a', asset='c', amount=7))).fields)"
    )
    # -S would hide the dependencies too; PYTHONPATH comes before the editable install.
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "alone"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "'amount': 7" in run.stdout
