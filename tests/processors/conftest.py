"""Fixtures of the tests of publishers."""

from collections.abc import Iterator

import pytest

from creditfold.common.settings import Settings
from creditfold.processors.publisher.partition import Pool
from creditfold.projections.connections import outbox_pool
from helpers.support import HANG_S


@pytest.fixture
def pool(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """Connections of outboxes in this process, which give up nothing that is only slow."""
    monkeypatch.setattr("creditfold.processors.publisher.partition.TRANSACTION_MS", 600_000)
    for name in ("INIT_S", "COMMIT_S", "CONFIRM_S"):
        monkeypatch.setattr(f"creditfold.processors.publisher.partition.{name}", HANG_S)
    with outbox_pool(ledger_settings.dsn, "test", 4) as opened:
        yield opened
