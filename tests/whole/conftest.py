"""Owns what the tests of the whole share: a package index that is away, and programs that stand for others."""

import os

import pytest


@pytest.fixture
def without_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without a network: pip finds no index, and nothing in its place."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
