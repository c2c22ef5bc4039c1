"""The journal as PostgreSQL has it is enough to make every row of state: its facts, and nothing else."""

import itertools
from typing import Any

import pytest

from creditfold.common.settings import Settings
from helpers.credit_topics import append_all, topic
from helpers.journal_replay import Line, replay, rows
from helpers.support import fold_log, query

#: The tables of state, and their columns in the order of the rows of `ledger.credit_state`.
TABLES = {
    "lots": "SELECT * FROM ledger_0001.all_lots",
    "holds": """SELECT account_id, command_id, asset, deadline_ms, made, taken, slices, is_open, is_lapsed, next_at_ms,
                       log_partition, log_offset FROM ledger_0001.holds""",
    "spends": """SELECT account_id, command_id, asset, made, debt, slices, log_partition, log_offset
                 FROM ledger_0001.spends""",
    "transfers": """SELECT account_id, command_id, asset, to_account, parcels, is_open, log_partition, log_offset
                    FROM ledger_0001.transfers""",
    "schedules": """SELECT account_id, command_id, asset, amount, period, first_at_ms, every, until_ms, cap, lot_class,
                           priority, expires_after_ms, scope, made, next_number, is_open, next_at_ms, log_partition,
                           log_offset FROM ledger_0001.schedules""",
    "accounts": """SELECT account_id, max(j.version), coalesce(is_closed, false), coalesce(frozen, '')
                   FROM ledger_0001.journal j LEFT JOIN ledger_0001.accounts USING (account_id) GROUP BY 1, 3, 4""",
    "balances": """SELECT account_id, asset, available, pending, held, debt, credit_limit FROM ledger_0001.balances
                   WHERE (available, pending, held, debt, credit_limit) <> (0, 0, 0, 0, 0)""",
}


def test_the_stored_facts_make_every_row_of_state(ledger_settings: Settings) -> None:
    """Folded as a worker does, in chunks, with accounts that are forgotten and loaded again."""
    append_all(ledger_settings, topic(8, 1_500))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("creditfold.processors.rebuild.partition.CHUNK_RECORDS", 20)
        patched.setattr("creditfold.processors.rebuild.partition.KEPT_ACCOUNTS", 5)
        fold_log(ledger_settings)
    journal = query(
        ledger_settings,
        """SELECT log_partition, account_id, log_offset, version, asset, facts FROM ledger_0001.journal
           ORDER BY log_partition, account_id, version""",
    )
    found: dict[str, list[Any]] = {table: [] for table in TABLES}
    for partition, lines in itertools.groupby(journal, key=lambda row: row[0]):
        facts = [Line(offset, name, version, asset, text) for _, name, offset, version, asset, text in lines]
        for table, some in rows(replay(facts), partition).items():
            found.setdefault(table, []).extend(some)
    kept = {table: [tuple(row) for row in query(ledger_settings, text)] for table, text in TABLES.items()}
    for table, some in kept.items():
        assert some, table
        assert sorted(found[table], key=repr) == sorted(some, key=repr), table
