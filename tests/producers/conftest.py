"""Fixtures of the tests of imports."""

from pathlib import Path

import pytest

from creditfold.common.settings import Settings
from helpers.imports import Import


@pytest.fixture
def work(ledger_settings: Settings, tmp_path: Path) -> Import:
    """An import of a JSON Lines file that isn't written yet."""
    return Import(ledger_settings, tmp_path, tmp_path / "commands.jsonl")
