"""Fixtures of the tests of PostgreSQL: an empty projection, and one with a log folded into it."""

import pytest

from creditfold.common.settings import Settings
from creditfold.projections.tables.setup import prepare
from helpers.generations import history
from helpers.store import LOG
from helpers.support import append, fold_log


@pytest.fixture
def prepared(ledger_database: Settings) -> Settings:
    """A database with an empty projection of one partition."""
    assert prepare(ledger_database.dsn, LOG)
    return ledger_database


@pytest.fixture
def folded(ledger_settings: Settings) -> Settings:
    """A ledger with some thousand records folded into its live generation, and no worker running."""
    append(ledger_settings, history(3_000))
    fold_log(ledger_settings)
    return ledger_settings
