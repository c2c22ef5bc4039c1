"""Fixtures of the tests of PostgreSQL: an empty projection, and one with a log folded into it."""

from collections.abc import Iterator

import pytest

from creditfold.common.settings import Settings
from creditfold.projections.tables.setup import prepare
from helpers.generations import history
from helpers.ledgers import filled_once, ledger_to_copy, new_database, patience, with_topics_of_its_own
from helpers.stack_under_test import StackUnderTest
from helpers.store import LOG
from helpers.support import append, execute, fold_log


@pytest.fixture(scope="session")
def empty_projection(stack: StackUnderTest) -> Iterator[Settings]:
    """What `prepared` copies: making the tables anew takes longer than all else of many a small test."""
    with filled_once(stack.settings, lambda empty: prepare(empty.dsn, LOG)) as settings:
        yield settings


@pytest.fixture
def prepared(empty_projection: Settings) -> Iterator[Settings]:
    """A database with an empty projection of one partition."""
    with patience(), new_database(empty_projection, empty_projection) as settings:
        yield with_topics_of_its_own(settings)


@pytest.fixture
def folded(ledger_settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """A ledger with some records folded into its live generation, and no worker running.

    They are five hundred, enough for each partition to have over a hundred. A module whose tests stop a fold in the
    middle says with FOLDED that it needs more.
    """
    fold_history(ledger_settings, getattr(request.module, "FOLDED", 500))
    return ledger_settings


@pytest.fixture(scope="module")
def folded_once(stack: StackUnderTest) -> Iterator[Settings]:
    """What `copied` copies. A module may have another ledger copied."""
    with ledger_to_copy(stack.settings, lambda ledger: fold_history(ledger, 500)) as ledger:
        yield ledger


@pytest.fixture
def copied(folded_once: Settings) -> Iterator[Settings]:
    """As `folded`, of fewer records, for a test that leaves the log as it is: the log of several, its own database."""
    with patience(), new_database(folded_once, folded_once) as settings:
        yield settings


def fold_history(ledger: Settings, count: int) -> None:
    append(ledger, history(count))
    fold_log(ledger)
    # Who waits for a worker's claim would take this fold's for one.
    execute(ledger, "UPDATE ledger_0001.progress SET owner = ''")
