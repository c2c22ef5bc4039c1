"""What readers see as available now is what the fold decides at that instant: by the rules, and by the view."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection, sql

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.partitioner import partition_of
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.fast import new_filter
from creditfold.projections import queries
from creditfold.projections.connections import snapshot
from creditfold.projections.tables.scripts import schema_of
from creditfold.projections.tables.views import VIEWS
from creditfold.schemas.wire import encode
from helpers import credit_histories
from helpers.command_line import use
from helpers.credit_folds import fold_in_pieces, in_memory
from helpers.credit_histories import HOUR_MS, USES, Writer, history
from helpers.credit_topics import Appended, append_all
from helpers.databases import planned_once
from helpers.records import FakeRecord
from helpers.support import HANG_S, Cli, fold_log, query, record, worker

#: An account's asset: available, pending, held, debt.
Figures = dict[tuple[str, str], tuple[int, int, int, int]]


class Debtor(Writer):
    """Writes what time has most to do with: debt, lots that begin and end, holds. And no schedules."""

    def _makers(self) -> Sequence[tuple[Callable[[str], Any], int]]:
        return (
            (self.windowed, 20),
            (self.large_spend, 25),
            (self.hold, 14),
            (self.capture, 2),
            (self.refund, 4),
            (self.void, 3),
            (self.transfer, 1),
            (self.large_limit, 5),
            (self.unfreeze, 1),
        )

    def large_spend(self, account: str) -> tuple[str, dict[str, Any]]:
        """A spend that takes all there is and more, where it may."""
        name, fields = self.spend(account)
        return name, fields | {"amount": self.amount(30), "partial": False, "effective_at": 0}

    def large_limit(self, account: str) -> tuple[str, dict[str, Any]]:
        name, fields = self.limit(account)
        return name, fields | {"limit": 60}

    def windowed(self, account: str) -> tuple[str, dict[str, Any]]:
        """A grant that begins later, mostly, and ends soon after."""
        name, fields = self.grant(account)
        begins = self.now + self.chance.randint(-5, 30) * HOUR_MS
        fields["effective_at"] = begins if self.chance.random() < 0.7 else 0
        fields["expires_at"] = begins + self.chance.randint(6, 40) * HOUR_MS if self.chance.random() < 0.7 else 0
        fields["scope"] = self.chance.choice(("", "", "", "ads"))
        return name, fields


def expected(records: Sequence[FakeRecord], at_ms: int) -> dict[str, Any]:
    """The accounts after a tick at an instant, which settles them all."""
    # Its minute may lie a day ahead, and mustn't be one of which there was a tick; the clock is what it decides by.
    minute = at_ms // 60_000 + 1
    tick = FakeRecord(len(records), at_ms, None, encode("Tick", {"command_id": f"tick-0-{minute}", "minute": minute}))
    return dict(in_memory([*records, tick]).accounts)


def figures(accounts: dict[str, Any]) -> Figures:
    """What accounts have."""
    return {
        (name, asset): tuple(account.balance(asset)) for name, account in accounts.items() for asset in account.holdings
    }


def viewed(connection: Connection[Any], at_ms: int) -> tuple[Figures, set[tuple[str, str]]]:
    """What the view shows at an instant, and the balances of which it says that a schedule's turn is missing."""
    body = VIEWS["balances_now"].format(schema=sql.Identifier(schema_of(1)), number=1).as_string(connection)
    assert body.count("now()") == 1
    rows = connection.execute(
        f"""SELECT account_id, asset, available, pending, held, debt, schedule_due
            FROM ({body.replace("now()", f"to_timestamp({at_ms} / 1000.0)")}) v"""  # type: ignore[arg-type]
    ).fetchall()
    return {row[:2]: row[2:6] for row in rows}, {row[:2] for row in rows if row[6]}


def not_empty(found: Figures) -> Figures:
    return {key: amounts for key, amounts in found.items() if any(amounts)}


@pytest.mark.parametrize(("writer", "seed"), [(Writer, 1), (Writer, 2), *((Debtor, seed) for seed in (3, 5, 6))])
async def test_now_is_what_a_tick_would_make_of_it(
    prepared: Settings, writer: type[Writer], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At states on the way of a history and instants ahead of each: lots that begin, end or both, holds, debt."""
    monkeypatch.setattr(credit_histories, "Writer", writer)
    records = history(seed, 300, plain=0.2)
    memory, chance = AccountCache(3, is_fresh=True, ids=new_filter(2**16)), random.Random(seed)
    differing = by_view = repaid = 0
    found_at_once = Counter[bool]()
    with planned_once(prepared) as connection:
        for count in (120, 210, len(records)):
            await fold_in_pieces(prepared, records[:count], chance, memory)
            clock = max(one.timestamp for one in records[:count])
            stored = figures(dict(in_memory(records[:count]).accounts))
            for hours in (0, 3, 12, 40, 2_000):
                at_ms = clock + hours * HOUR_MS
                accounts = expected(records[:count], at_ms)
                then = not_empty(figures(accounts))
                with snapshot(connection):
                    seen: Figures = {}
                    standing, at_once = queries.standing_and_balances(connection, list(accounts), at_ms)
                    assert standing == queries.standing(connection)
                    assert at_once.keys() <= accounts.keys()
                    for name, account in accounts.items():
                        rows = queries.balances_now(connection, name, at_ms)
                        assert at_once.get(name, rows) == rows
                        found_at_once[name in at_once] += 1
                        seen |= {(name, row.asset): (row.available, row.pending, row.held, row.debt) for row in rows}
                        assert {row.asset: row.stored_available for row in rows if row.stored_available} == {
                            asset: amounts[0] for (of, asset), amounts in stored.items() if of == name and amounts[0]
                        }
                        wanted = chance.choice(USES)
                        usable = queries.usable_now(connection, name, wanted, at_ms)
                        assert [row.available_for_use for row in usable] == [
                            account.available(row.asset, wanted) for row in usable
                        ]
                    shown, incomplete = viewed(connection, at_ms)
                assert not_empty(seen) == then
                complete = {key: shown[key] for key in shown if key not in incomplete}
                assert not_empty(complete) == {key: amounts for key, amounts in then.items() if key in complete}
                # What has no row in the view was brought by a schedule alone.
                assert writer is Writer or not_empty(shown) == then
                differing += then != not_empty(stored)
                by_view += sum(shown[key] != stored.get(key, (0, 0, 0, 0)) for key in complete)
                repaid += sum(shown[key][3] < stored.get(key, (0, 0, 0, 0))[3] for key in complete)
    # Or it would prove nothing.
    assert (differing > 5, by_view > 2, min(found_at_once[True], found_at_once[False]) > 5) == (True, True, True)
    assert writer is Writer or repaid > 0


def test_credits_that_ended_are_not_shown_though_nobody_folds(
    ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: Cli
) -> None:
    """On the real stack: no worker runs when a lot ends; view and command know it, and the fold agrees afterwards."""
    # Nobody ticks but who is asked to.
    ledger_settings = ledger_settings.model_copy(update={"tick_seconds": 0.0})
    use(ledger_settings, monkeypatch)
    ((now_ms,),) = query(ledger_settings, "SELECT floor(extract(epoch FROM now()) * 1000)::bigint")
    # Appended an hour ago: what begins or ends half an hour later hasn't yet, by the log's clock.
    then = now_ms - HOUR_MS
    later = then + HOUR_MS // 2
    records = [
        record("Grant", "ends", "ann", 40, expires_at=later),
        record("Grant", "stays", "ann", 7),
        record("Grant", "begins", "ann", 5, effective_at=later),
        record("Hold", "hold", "ann", 10, deadline=later + 1_000),
        *(record("Grant", f"much-{number}", "rich", 2**53 - 1) for number in range(3)),
    ]
    appended = []
    for one in records:
        assert one.key is not None
        appended.append(Appended(partition_of(one.key, 4), FakeRecord(0, then, one.key, one.value)))
    append_all(ledger_settings, appended)
    fold_log(ledger_settings)
    before = "SELECT available, pending, held FROM ledger.balances WHERE account_id = 'ann'"
    after = "SELECT available, pending, held, stored_available FROM ledger.balances_now WHERE account_id = 'ann'"
    # A sum above 2^53 is an exact number in JSON, whatever a reader makes of it.
    assert f'"available": {3 * (2**53 - 1)},' in bare("balance", "rich", "--json").out
    # Of the ending lot 30 are left, and 10 are held.
    assert query(ledger_settings, before) == [(37, 5, 10)]
    assert wait_until(lambda: query(ledger_settings, after) == [(12, 0, 0, 37)], HANG_S), query(ledger_settings, after)
    assert query(ledger_settings, before) == [(37, 5, 10)]
    done = bare("balance", "ann", "--json")
    assert [(row["available"], row["stored_available"], row["held"]) for row in done.json] == [(12, 37, 0)]
    shown = bare("balance", "ann").out.split()
    assert shown[:5] == ["account", "asset", "available", "stored", "version"]
    assert bare("lots", "ann").out.count("expired (not settled)") == 1
    assert bare("lots", "ann").out.count("active (not settled)") == 1
    assert "lapsed (not settled)" in bare("holds", "ann").out
    with worker(ledger_settings, tmp_path):
        assert bare("tick").code == 0
        assert wait_until(lambda: query(ledger_settings, before) == [(12, 0, 0)], HANG_S), query(
            ledger_settings, before
        )
