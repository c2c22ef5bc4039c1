"""The trial balance on a real PostgreSQL: it balances whatever the history, then and now, and finds any tampering."""

import random

import psycopg
import pytest

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.fast import new_filter
from creditfold.projections.connections import connected, snapshot
from creditfold.projections.proof.trial_balance import TrialBalance, trial_balance
from creditfold.projections.queries import UnknownPartitionError
from creditfold.projections.queries.progress import NotYetFoldedError
from helpers.credit_folds import fold_in_pieces
from helpers.credit_histories import history
from helpers.support import query

pytestmark = pytest.mark.both_cores


TAMPERING = {
    "the balances come to": "UPDATE {}.balances SET available = available + 1 WHERE {one}",
    "the lots come to": "UPDATE {}.lots SET remaining = remaining - 1, spent = spent + 1 WHERE {one} AND remaining > 0",
    "of lots: the lots come to": "UPDATE {}.lots SET expired = expired - 1, spent = spent + 1"
    " WHERE {one} AND expired > 0",
    "the journal's changes come to": "UPDATE {}.journal SET change = change + 1 WHERE {one} AND change <> 0",
    "the moves come to": """UPDATE {}.journal
                            SET facts = replace(facts, '"issued","remaining",', '"issued","remaining",1')
                            WHERE {one} AND facts LIKE '%"issued","remaining",%'""",
    "the totals come to": "UPDATE {}.totals SET issued = issued + 1, spent = spent + 1 WHERE {one}",
    "the two sides differ": "UPDATE {}.journal SET balance = balance + 1 WHERE {one} AND (account_id, version) IN"
    " (SELECT account_id, max(version) FROM {}.journal WHERE asset = 'credits' GROUP BY account_id)",
}


def drawn_up(settings: Settings, **given: object) -> TrialBalance:
    with connected(settings.dsn) as connection, snapshot(connection):
        return trial_balance(connection, **given)  # type: ignore[arg-type]


async def test_it_balances_at_every_position_and_finds_what_was_tampered_with(prepared: Settings) -> None:
    """Each tampering is found by the check that is for it, and undone again; an account's own fault names it."""
    records = history(7, 400)
    await fold_in_pieces(prepared, records, random.Random(7), AccountCache(3, is_fresh=True, ids=new_filter(2**16)))
    present = drawn_up(prepared)
    assert (present.faults, present.is_present, present.ends) == ([], True, {0: 400})
    assert {row.asset for row in present.assets} == {"credits", "gold"}
    (credits,) = drawn_up(prepared, asset="credits").assets
    assert credits in present.assets
    assert min(credits.available, credits.issued, credits.spent, credits.expired, credits.voided) > 0
    for offset in (0, 30, 59, 60, 100, 250):
        then = drawn_up(prepared, at=[Position(0, offset)])
        assert (then.faults, then.is_present) == ([], False)
        clock = query(prepared, "SELECT max(decided_at) FROM ledger.journal WHERE log_offset <= %s", (offset,))[0][0]
        assert drawn_up(prepared, until=clock).faults == []
    assert drawn_up(prepared, at=[Position(0, 399)]) == present
    with pytest.raises(NotYetFoldedError):
        drawn_up(prepared, at=[Position(0, 400)])
    with pytest.raises(UnknownPartitionError):
        drawn_up(prepared, at=[Position(77, 0)])
    for said, statement in TAMPERING.items():
        with psycopg.connect(prepared.dsn) as connection:
            tampered = statement.replace("{one}", "asset = 'credits'").replace("{}", "ledger_0001")
            assert connection.execute(tampered).rowcount > 0, statement
            faults = trial_balance(connection).faults
            connection.rollback()
        assert any(said.removeprefix("of lots: ") in fault.what for fault in faults), (statement, faults)
        assert all(fault.asset == "credits" for fault in faults)
        assert len(faults) <= 40
    assert drawn_up(prepared).faults == []
    with psycopg.connect(prepared.dsn) as connection:
        connection.execute(
            "UPDATE ledger_0001.balances SET debt = debt + 1 WHERE account_id = 'bob' AND asset = 'credits'"
        )
        faults = trial_balance(connection, asset="credits").faults
    assert [fault.account_id for fault in faults] == [None, "bob"]
