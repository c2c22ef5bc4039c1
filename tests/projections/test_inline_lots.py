"""Lots that stand in balances, on a real PostgreSQL: read by everyone as those that have rows, and checked like them.

The compiled core puts them there. Here SQL does, so that Python's own core, which must go on from them, meets them too.
"""

import random

import pytest

from creditfold.common.settings import Settings
from creditfold.projections.connections import connected, snapshot
from creditfold.projections.proof.chain import check_self
from creditfold.projections.proof.state import wrong_state
from helpers.credit_folds import fold_in_pieces, in_memory, lines_of, lots_in, lots_of, stored_lines
from helpers.credit_histories import history
from helpers.support import execute, query

pytestmark = pytest.mark.both_cores


#: Lots that nothing keeps from standing in their balance, neither their state nor their name.
PLAIN = """is_live AND held = 0 AND scope = '' AND NOT (is_pending OR is_lapsed OR is_void)
           AND command_id COLLATE "C" ~ '^[!#-\\[\\]-~]+$'"""

#: Puts them there: the short form where it says all.
INLINE = f"""
    WITH moved AS (DELETE FROM ledger_0001.lots WHERE {PLAIN} RETURNING *), lines AS (
        SELECT account_id, asset, min(next_at_ms) AS next_at_ms, string_agg(
            concat_ws(' ', command_id, made, effective_at_ms, amount, remaining, log_offset,
                CASE WHEN (number, lot_class, priority, expires_at_ms, source, amount - remaining)
                          <> (1, 'paid', 50, 0, 'issued', spent)
                THEN concat_ws(' ', number, lot_class, priority, expires_at_ms, source,
                               expired, voided, forfeited, reissued, transferred) END), E'\\n') AS lots
        FROM moved GROUP BY account_id, asset)
    UPDATE ledger_0001.balances b
    SET lots = concat_ws(E'\\n', nullif(b.lots, ''), l.lots), next_at_ms = least(b.next_at_ms, l.next_at_ms)
    FROM lines l
    WHERE (b.account_id, b.asset) = (l.account_id, l.asset)"""


#: What will end, by the view for sums, and by the lots.
ENDING, SORTED = "SELECT account_id, asset, class, remaining, held, expires_at", "ORDER BY 1, 2, 3, 4, 5, 6"
LIVE = "FROM ledger.lots WHERE is_live AND state IN ('pending', 'active') AND expires_at IS NOT NULL"


@pytest.mark.parametrize("seed", [0, 2, 4])
async def test_a_fold_goes_on_from_lots_in_balances(prepared: Settings, seed: int) -> None:
    """Wherever a history stops, and lots are put into their balances, the rest comes to the same; nothing is wrong."""
    records = history(seed, 400, plain=seed / 6)
    whole, chance = in_memory(records), random.Random(seed)
    for end in (100, 200, 300, len(records)):
        await fold_in_pieces(prepared, records[:end], chance, None)
        before = lots_in(prepared)
        states = query(prepared, "SELECT * FROM ledger.lots ORDER BY account_id, command_id, number")
        execute(prepared, INLINE)
        assert query(prepared, "SELECT count(*) > 0 FROM ledger_0001.inline_lots") == [(True,)]
        assert lots_in(prepared) == before
        assert query(prepared, "SELECT * FROM ledger.lots ORDER BY account_id, command_id, number") == states
        assert query(prepared, f"{ENDING} FROM ledger.expiring {SORTED}") == query(
            prepared, f"{ENDING} {LIVE} {SORTED}"
        )
        with connected(prepared.dsn) as connection, snapshot(connection):
            assert [found.holds for found in check_self(connection, 1)] == [True]
            assert wrong_state(connection, 1, 10) == []
    assert stored_lines(prepared) == lines_of(whole)
    assert before == lots_of(dict(whole.accounts))


#: What is done to a balance with lots in it, and what of it is found out.
TAMPERED = {
    "a credit more": ("lots = regexp_replace(lots, ' (\\d+) (\\d+) (\\d+) (\\d+)', ' \\1 \\2 1\\3 1\\4')", {"lots"}),
    "another class": ("lots = replace(lots, ' paid ', ' promo ')", {"lots"}),
    "no line of a lot": ("lots = 'garbage'", {"balances", "lots"}),
    "numbers too long": ("lots = regexp_replace(lots, ' \\d+ ', ' ' || repeat('9', 40) || ' ')", {"balances", "lots"}),
    "too large": ("lots = regexp_replace(lots, ' \\d+ ', ' ' || repeat('9', 19) || ' ')", {"balances", "lots"}),
    "a lot twice": ("lots = lots || E'\\n' || lots", {"lots"}),
    "none": ("lots = ''", {"balances", "lots"}),
    # A tick finds by it what is due, and would otherwise miss the end of the lot.
    "another end": ("next_at_ms = next_at_ms + 1", {"balances"}),
}


async def test_what_is_tampered_with_is_found_and_named(prepared: Settings) -> None:
    """Also what is no lot at all, of which no reader may stumble. Each is undone for the next."""
    await fold_in_pieces(prepared, history(4, 300), random.Random(1), None)
    execute(prepared, INLINE)
    execute(prepared, "CREATE TABLE public.kept AS SELECT * FROM ledger_0001.balances")
    with_lots = "SELECT account_id FROM public.kept WHERE lots LIKE '%% paid %%' AND next_at_ms > 0"
    ((account,),) = query(prepared, f"{with_lots} ORDER BY account_id LIMIT 1")
    for what, (change, found_in) in TAMPERED.items():
        where = f"WHERE account_id = '{account}' AND lots LIKE '% paid %'"
        assert execute(prepared, f"UPDATE ledger_0001.balances SET {change} {where}") > 0, what
        with connected(prepared.dsn) as connection, snapshot(connection):
            rows = wrong_state(connection, 1, 100)
        # The sums of hours are by the classes of lots, which these may no longer have.
        rows = [row for row in rows if row.what != "hourly_totals"]
        assert {row.account_id for row in rows} == {account}, what
        assert {row.what for row in rows} == found_in, what
        for view in ("lots", "expiring"):
            assert query(prepared, f"SELECT count(*) >= 0, min(expires_at) < now() FROM ledger.{view}")[0][0]
        execute(prepared, "DELETE FROM ledger_0001.balances")
        execute(prepared, "INSERT INTO ledger_0001.balances SELECT * FROM public.kept")
