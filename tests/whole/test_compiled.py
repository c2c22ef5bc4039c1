"""The core that is tested is the one that was asked for: Python's own, or the compiled one."""

import importlib.util
import runpy
from pathlib import Path

import pytest

from helpers.support import IS_COMPILED

pytestmark = pytest.mark.both_cores

ROOT = Path(__file__).parents[2]
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
MODULES: tuple[str, ...] = SETUP["COMPILED"]
CYTHON: tuple[str, ...] = SETUP["CYTHON"]


@pytest.mark.parametrize("path", MODULES)
def test_each_module_is_the_one_that_was_asked_for(path: str) -> None:
    """A module that wasn't compiled, or comes from elsewhere, would make the other tests prove nothing."""
    module = importlib.import_module(f"creditfold.{path.removesuffix('.py').replace('/', '.')}")
    file = Path(str(module.__file__))
    assert (file.suffix == ".so") == IS_COMPILED
    assert file.is_relative_to(ROOT / ".creditfold" / "compiled") == IS_COMPILED
    assert (file == ROOT / path) != IS_COMPILED


@pytest.mark.parametrize("path", CYTHON)
def test_the_quick_ways_are_there_in_the_compiled_core_only(path: str) -> None:
    """Without one, its tests would be left out."""
    found = importlib.util.find_spec(f"creditfold.{path.replace('/', '.')}")
    assert (found is not None) == IS_COMPILED


def test_the_whole_ledger_is_compiled() -> None:
    """A new module of the room is compiled without a word."""
    ledger = {f"ledger/{path.name}" for path in (ROOT / "ledger").glob("*.py")} - {"ledger/__init__.py"}
    assert ledger <= {*MODULES}
