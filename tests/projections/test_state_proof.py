"""Credits on the real stack: rebuilt and verified, also over a log that goes over to other rules."""

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from creditfold.common.settings import Settings
from creditfold.ledger import RULESETS
from creditfold.log.offsets import end_offsets
from creditfold.processors.fold.transaction import fold_chunk
from creditfold.processors.rebuild.processes import RebuildError
from creditfold.processors.rebuild.steps import Request, rebuild
from creditfold.processors.rebuild.verify import Comparison, diff, verify
from helpers.command_line import run
from helpers.credit_topics import PARTITIONS, Appended, append_all, topic
from helpers.generations import WATCH, as_of, balances_of, rows_of
from helpers.ledgers import ledger_to_copy
from helpers.stack_under_test import StackUnderTest
from helpers.support import execute, fold_log, query
from programs.rules_two import decide_two


@pytest.fixture(scope="module")
def folded_once(stack: StackUnderTest) -> Iterator[Settings]:
    """A ledger of credits in its live generation, searched by what some commands say."""
    settings = stack.settings.model_copy(update={"searchable_metadata": "k"})
    with ledger_to_copy(settings, lambda ledger: _fold(ledger, topic(8, 600))) as ledger:
        yield ledger


def _fold(settings: Settings, records: list[Appended]) -> None:
    append_all(settings, records)
    fold_log(settings)


def test_every_rebuild_comes_to_the_same(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row: in bulk, by processes, as a large one; and in small pieces."""
    before = rows_of(copied, 1)
    kept = ("lots", "holds", "spends", "transfers", "schedules", "accounts", "totals", "metadata")
    assert all(before[table] for table in kept)
    kinds = {row[3] for row in before["hourly_totals"]}
    assert kinds >= {"spent", "refunded", "repaid", "expired", "voided", "lapsed"}
    with monkeypatch.context() as patched:
        patched.setattr("creditfold.processors.rebuild.steps.FEW_RECORDS", 0)
        rebuild(copied, Request(processes=2), WATCH)
    assert rows_of(copied, 2) == before == rows_of(copied, 1)
    _rebuild_in_pieces(copied, before, 3, monkeypatch)


def test_old_records_are_decided_by_the_old_rules(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules 2 come into force in the middle: every replay decides what was before by rules 1, row by row the same."""
    monkeypatch.setitem(RULESETS, 2, decide_two)
    _fold(ledger_settings, topic(5, 450, next_rules=2))
    by_rules = query(ledger_settings, "SELECT rules, count(*) > 100 FROM ledger_0001.journal GROUP BY 1 ORDER BY 1")
    assert by_rules == [(1, True), (2, True)]
    first = "SELECT max(log_offset) FROM ledger_0001.journal WHERE rules = 1 AND log_partition = a.log_partition"
    assert query(ledger_settings, f"SELECT count(*) FROM ledger_0001.activations a WHERE log_offset > ({first})") == [
        (4,)
    ]
    large = "SELECT count(*) > 0 FROM ledger_0001.journal WHERE kind = 'spend' AND amount > 10 AND rules = %s AND"
    assert query(ledger_settings, f"{large} rejection IS NULL", (1,)) == [(True,)]
    assert query(ledger_settings, f"{large} rejection IS NULL", (2,)) == [(False,)]
    _rebuild_in_pieces(ledger_settings, rows_of(ledger_settings, 1), 2, monkeypatch)
    verdict = verify(ledger_settings, None, None, 20, WATCH)
    assert verdict.equal, verdict
    again = diff(ledger_settings, None, 20, WATCH)
    assert again.changed == 0


def _rebuild_in_pieces(
    settings: Settings, before: Mapping[str, Any], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rebuild with hardly any account kept from one transaction to the next."""
    with monkeypatch.context() as patched:
        patched.setattr("creditfold.processors.rebuild.partition.CHUNK_RECORDS", 7)
        patched.setattr("creditfold.processors.rebuild.partition.KEPT_ACCOUNTS", 9)
        rebuild(settings, Request(), WATCH)
    after = rows_of(settings, number)
    unlike = {table: sorted({*rows} ^ {*before[table]})[:4] for table, rows in after.items() if rows != before[table]}
    assert unlike == {}


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_bulk_fold_killed_at_each_step_comes_to_the_same(
    copied: Settings, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    """Whoever goes on finds whole transactions."""
    before = rows_of(copied, 1)
    monkeypatch.setattr("creditfold.processors.rebuild.partition.CHUNK_RECORDS", 60 // pieces)
    monkeypatch.setattr("creditfold.processors.rebuild.partition.PIECES", pieces)
    calls = itertools.count()

    async def fold_one(*arguments: Any, **options: Any) -> int:
        # Each run comes as far as one transaction.
        if next(calls) % (pieces + 1) == pieces:
            raise InterruptedError
        return await fold_chunk(*arguments, **options)

    monkeypatch.setattr("creditfold.processors.rebuild.partition.fold_chunk", fold_one)
    request = Request()
    for _ in range(200):
        try:
            done = rebuild(copied, request, WATCH)
            break
        except RebuildError:
            request = Request(resume=2)
    else:
        pytest.fail("it never ends")
    assert done.number == 2
    assert next(calls) > 4 * (pieces + 1)
    after = rows_of(copied, 2)
    assert {table: rows for table, rows in after.items() if rows != before[table]} == {}


def test_generations_are_compared_where_both_have_been(copied: Settings) -> None:
    """Rows that changed since in the one that is ahead say nothing."""
    offsets = {partition: end // 2 for partition, end in _ends(copied).items()}
    half = rebuild(copied, Request(until_offsets=offsets), WATCH)
    verdict = verify(copied, 1, half.number, 20, WATCH)
    assert verdict.equal, verdict


def _ends(settings: Settings) -> Mapping[int, int]:
    return end_offsets(settings, settings.commands_topic, range(PARTITIONS))


def test_a_balance_as_of_then_equals_a_rebuild_until_then(copied: Settings) -> None:
    """By the instants of records and one before any of them, or by an offset of each partition."""
    chance = random.Random(3)
    clocks = [row[0] for row in query(copied, "SELECT DISTINCT clock_ms FROM ledger_0001.journal ORDER BY 1")]
    for moment in (clocks[0] - 1, clocks[0], clocks[len(clocks) * 3 // 5], clocks[-1]):
        done = rebuild(copied, Request(until_ms=moment), WATCH)
        then = datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds")
        assert sorted(balances_of(copied, done.number)) == sorted(as_of(copied, lambda _, then=then: then))
    for _ in range(2):
        offsets = {partition: chance.randrange(1, end) for partition, end in _ends(copied).items()}
        done = rebuild(copied, Request(until_offsets=offsets), WATCH)
        reported = as_of(copied, lambda partition, ends=offsets: f"{partition}:{ends[partition] - 1}")
        assert sorted(balances_of(copied, done.number)) == sorted(reported)


# the table, what is done to one row of it, whether its own generation shows it, and not only a comparison
TAMPERED = [
    ("balances", "pending = pending + 1", True),
    ("balances", "held = held + 1", True),
    ("balances", "debt = debt + 1", True),
    ("balances", "credit_limit = credit_limit + 1", True),
    ("accounts", "is_closed = NOT is_closed", True),
    ("accounts", "frozen = 'everything'", True),
    ("accounts", "version = version + 1", True),
    ("lots", "remaining = remaining + 1, spent = spent - 1 WHERE spent > 0", True),
    ("lots", "amount = amount + 1, remaining = remaining + 1", True),
    ("lots", "priority = priority + 1", True),
    ("lots", "expires_at_ms = expires_at_ms + 1", True),
    ("lots", "next_at_ms = 5", True),
    ("lots", "is_void = NOT is_void", False),
    ("lots", "log_offset = log_offset - 1 WHERE log_offset > 0", False),
    ("holds", "slices = '[]' WHERE slices <> '[]'", False),
    ("holds", "deadline_ms = deadline_ms + 1", False),
    ("spends", "debt = debt + 1", False),
    ("transfers", "is_open = NOT is_open", False),
    ("schedules", "next_number = next_number + 1", False),
    ("totals", "issued = issued + 1, spent = spent + 1", True),
    ("hourly_totals", "amount = amount + 1", True),
    ("hourly_totals", "reason = 'another'", True),
    ("metadata", "value = 'another'", False),
    ("metadata", "account_id = 'nobody'", True),
    ("metadata", "key = 'another'", True),
]


def test_a_tampered_row_of_state_is_found_and_named(copied: Settings) -> None:
    """Whichever table, by what the journal says or by the other generation; each is mended before the next."""
    rebuild(copied, Request(), WATCH)
    for table, change, is_wrong in TAMPERED:
        _tamper_one(copied, table, change)
        verdict = verify(copied, 1, 2, 20, WATCH)
        assert not verdict.equal, (table, change)
        assert "changed after it was written" in verdict.conclusion or is_wrong, (table, change)
        assert "changed after" in verdict.conclusion, (table, change)
        wrong = [*verdict.left_wrong_balances, *verdict.left_wrong_state]
        assert bool(wrong) == is_wrong, (table, change, wrong)
        # A row of another key is two: one that is missing, and one that is there.
        in_state = {row.what for row in verdict.state_differences}
        assert table in ("totals", "hourly_totals") or in_state == {table}
        assert (verdict.right_wrong_state, verdict.right_wrong_balances) == ([], [])
        _mend(copied, table)
    _lines_are_named(copied)
    _deleted_and_made_up(copied)
    assert verify(copied, 1, 2, 20, WATCH).equal


# which of an account's lines of one record, and what is done to it
LINES = [
    ("kind = 'settled'", "UPDATE ledger_0001.journal SET facts = '[]'"),
    ("kind = 'settled'", "DELETE FROM ledger_0001.journal"),
    ("step IS NULL AND kind = 'batch' AND rejection IS NULL", "DELETE FROM ledger_0001.journal"),
    ("held > 0 AND kind = 'hold'", "UPDATE ledger_0001.journal SET held = held - 1"),
]


def _lines_are_named(settings: Settings) -> None:
    """One of several lines of a record: the record and its account are named, once, and no other."""
    for condition, change in LINES:
        row = f"(SELECT min(ctid) FROM ledger_0001.journal WHERE {condition})"
        place = query(settings, f"SELECT account_id, log_offset FROM ledger_0001.journal WHERE ctid = {row}")[0]
        assert execute(settings, f"{change} WHERE ctid = {row}") == 1
        verdict = verify(settings, 1, 2, 20, WATCH)
        (found,) = verdict.accounts
        assert (found.account, found.first.log_offset, found.records) == (*place, 1), (condition, change)
        assert not verdict.equal
        _mend(settings, "journal")


def _tamper_one(settings: Settings, table: str, change: str) -> None:
    what, _, condition = change.partition(" WHERE ")
    row = f"(SELECT min(ctid) FROM ledger_0001.{table} WHERE {condition or 'true'})"
    assert execute(settings, f"UPDATE ledger_0001.{table} SET {what} WHERE ctid = {row}") == 1, (table, change)


def _mend(settings: Settings, table: str) -> None:
    execute(settings, f"DELETE FROM ledger_0001.{table}")
    execute(settings, f"INSERT INTO ledger_0001.{table} SELECT * FROM ledger_0002.{table}")


def _deleted_and_made_up(settings: Settings) -> None:
    """Rows that are missing on either side, in every table at once, and what the command line says of it."""
    tables = ("accounts", "lots", "holds", "spends", "transfers", "schedules", "totals", "hourly_totals")
    for table in tables:
        execute(settings, f"DELETE FROM ledger_0001.{table} WHERE ctid = (SELECT min(ctid) FROM ledger_0001.{table})")
    for one, other in ((1, 2), (2, 1)):
        verdict = verify(settings, one, other, 20, WATCH)
        assert {row.what for row in verdict.state_differences} == {*tables} - {"totals", "hourly_totals"}
        assert {row.what for row in _wrong_state(verdict, 1)} >= {"accounts", "lots", "totals", "hourly_totals"}
    done = run(settings, "verify", "--json", check=False)
    assert done.returncode == 5
    found: Any = json.loads(done.stdout)
    assert {row["what"] for row in found["left_wrong_state"]} == {"accounts", "lots", "totals", "hourly_totals"}
    shown = run(settings, "verify", "1", "2", check=False).stdout
    assert "isn't there" in shown
    assert "doesn't follow from its journal" in shown
    for table in tables:
        _mend(settings, table)


def _wrong_state(verdict: Comparison, number: int) -> Any:
    return verdict.left_wrong_state if verdict.left == number else verdict.right_wrong_state
