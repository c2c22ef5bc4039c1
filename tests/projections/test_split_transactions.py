"""Credits on a real PostgreSQL: however a history is cut into transactions, and whatever is remembered between them, it
comes to the same as a fold in memory: the same chain, the same lots, the same answers to what comes next."""

import random
from typing import Any

import pytest
from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from creditfold.common.settings import Settings
from creditfold.processors.fold import transaction as fold_module
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.chunk import Chunk
from creditfold.processors.fold.fast import new_filter
from creditfold.processors.worker import folder as folder_module
from creditfold.processors.worker.folder import ChunkFolder
from creditfold.processors.worker.partition import Partition
from creditfold.projections.store.account_loader import AccountLoader
from creditfold.projections.store.send import KnownCommandError
from creditfold.projections.tables.account_tables import LOTS, Table
from creditfold.schemas.wire import encode
from helpers.credit_folds import (
    assert_folded_to,
    fold_in_pieces,
    forget_ids,
    in_memory,
    lines_of,
    lots_in,
    lots_of,
    stored_lines,
)
from helpers.credit_histories import history
from helpers.records import FakeRecord
from helpers.store import lanes_of
from helpers.support import query

pytestmark = pytest.mark.both_cores


@pytest.mark.parametrize(("seed", "most"), [(0, None), (1, None), (2, None), (0, 5), (1, 5)])
@pytest.mark.parametrize("plain", [0, 0.5, 0.95])
@pytest.mark.parametrize("remembers", [False, True])
async def test_any_split_comes_to_the_same(
    prepared: Settings, seed: int, *, remembers: bool, plain: float, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chains, lots and balances; totals that balance; chains that follow from the rows; also if hardly any lot may be
    loaded at once, and hardly anything made in one transaction, or written of a tick."""
    if most is not None:
        monkeypatch.setattr(fold_module, "MOST_MADE", most)
        monkeypatch.setattr(fold_module, "MOST_LOTS", most)
    # What is rare comes about where few commands are plain ones.
    count = 400 if plain == 0 else 300
    records = history(seed, count if most is None else count // 2, plain=plain)
    whole = in_memory(records)
    assert min(whole.accepted, whole.rejected) > 20
    cache = AccountCache(3 if seed % 2 else 20, is_fresh=True, ids=new_filter(2**16)) if remembers else None
    await fold_in_pieces(prepared, records, random.Random(seed), cache)
    assert stored_lines(prepared) == lines_of(whole)
    assert_folded_to(prepared, [whole])
    assert lots_in(prepared) == lots_of(dict(whole.accounts))


@pytest.mark.parametrize("seed", range(4))
async def test_an_id_that_isn_t_recognized_is_found_out(
    prepared: Settings, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a worker takes for new, the journal's key knows better, and the chunk is folded as if it had asked."""
    known: list[bool] = []
    fold_some = ChunkFolder._fold_alone

    async def counted(self: ChunkFolder, chunk: Chunk, partition: Partition) -> None:
        try:
            await fold_some(self, chunk, partition)
        except KnownCommandError:
            known.append(True)
            raise
        known.append(False)

    forget_ids(monkeypatch)
    monkeypatch.setattr(ChunkFolder, "_fold_alone", counted)
    monkeypatch.setattr(folder_module, "DOUBTED_CHUNKS", 2)
    # Few accounts are remembered, so that they are loaded again, too.
    monkeypatch.setattr(folder_module, "WORKER_ACCOUNTS", 3)
    records = history(seed, 250, plain=seed / 4)
    whole = in_memory(records)
    assert whole.duplicates > 0
    chance, at = random.Random(seed), 0
    async with lanes_of(prepared) as lanes:
        won = (await lanes.claim([0]))[0]
        while at < len(records):
            end = min(len(records), at + chance.choice((1, 3, 10)))
            lanes.queue([Chunk(0, won.epoch, at, end, records[at:end])])
            while lanes.offsets()[0] < end:
                await lanes.wait_for_room(1.0)
            at = end
    assert 0 < known.count(True) < whole.duplicates + 20
    assert stored_lines(prepared) == lines_of(whole)
    assert_folded_to(prepared, [whole])


async def test_nothing_is_written_without_a_line(prepared: Settings) -> None:
    """A lot of which all is held when it ends has no fact then, and isn't due; what comes back to it expires."""

    def record(name: str, at_ms: int, offset: int, **fields: object) -> FakeRecord:
        key = b"ann" if "account" in fields else None
        return FakeRecord(offset, at_ms, key, encode(name, fields))

    grant = {"command_id": "g", "account": "ann", "asset": "credits", "amount": 5, "expires_at": 60_000}
    hold = {"command_id": "h", "account": "ann", "asset": "credits", "amount": 5, "deadline": 90_000_000}
    records = [
        record("Grant", 1_000, 0, **grant),
        record("Hold", 1_000, 1, **hold),
        record("Tick", 120_000, 2, command_id="t", minute=2),
        record("Release", 120_000, 3, command_id="back", account="ann", hold="h", amount=2),
    ]
    lots = "SELECT is_lapsed, next_at_ms, held, expired, log_offset FROM ledger_0001.lots"
    await fold_in_pieces(prepared, records[:3], random.Random(1), None)
    assert query(prepared, lots) == [(False, None, 5, 0, 1)]
    assert query(prepared, "SELECT max(log_offset) FROM ledger_0001.journal") == [(1,)]
    await fold_in_pieces(prepared, records, random.Random(1), None)
    assert query(prepared, lots) == [(True, None, 3, 2, 3)]


def of_ann(kind: str, offset: int, at_ms: int, account: str = "ann", **fields: object) -> FakeRecord:
    """A command's record."""
    fields = {"account": account, "asset": "credits", **fields}
    return FakeRecord(offset, at_ms, account.encode(), encode(kind, fields))


async def test_a_chunk_that_makes_very_much_is_written_in_several_transactions(
    prepared: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schedules that begin long ago: of a chunk no more is in memory than one or two of them; so it is when spends
    load their lots again, and when a tick has all of them expire."""
    days, day_ms = 50, 86_400_000
    now = days * day_ms
    terms = {"amount": 1, "period": "days", "first_at": 1, "expires_after_ms": 2 * now, "every": 1}
    names = [f"user-{number}" for number in range(12)]
    made = [of_ann("CreateSchedule", n, now, name, command_id="s", **terms) for n, name in enumerate(names)]
    spends = [of_ann("Spend", n, now, name, command_id="x", amount=3) for n, name in enumerate(names, 12)]
    tick = FakeRecord(24, 4 * now, None, encode("Tick", {"command_id": "t", "minute": 9}))
    monkeypatch.setattr(fold_module, "MOST_MADE", 150)
    monkeypatch.setattr(fold_module, "MOST_LOTS", 120)
    loaded: list[AsyncCursor[TupleRow]] = []
    ask = AccountLoader._ask

    async def counted(self: AccountLoader, table: Table, *values: Any) -> Any:
        cursor = await ask(self, table, *values)
        if table is LOTS:
            loaded.append(cursor)
        return cursor

    monkeypatch.setattr(AccountLoader, "_ask", counted)
    async with lanes_of(prepared) as lanes:
        won = (await lanes.claim([0]))[0]
        for records in (made, spends, [tick]):
            end = records[-1].offset + 1
            # A cache that keeps nothing.
            assert (
                await lanes.folder.fold(Chunk(0, won.epoch, records[0].offset, end, records), won, AccountCache())
                == end
            )
    # A schedule makes 50 lots in 51 facts.
    text = "SELECT count(*) FROM ledger_0001.journal WHERE kind = %s GROUP BY xmin ORDER BY 1"
    assert query(prepared, text, ("create_schedule",)) == [(2,)] * 6
    assert {count for (count,) in query(prepared, text, ("spend",))} <= {1, 2}
    assert max(cursor.rowcount for cursor in loaded) == 121
    whole = in_memory([*made, *spends, tick])
    assert stored_lines(prepared) == lines_of(whole)
    assert lots_in(prepared) == lots_of(dict(whole.accounts))
    assert query(prepared, "SELECT expired > 0 FROM ledger_0001.totals") == [(True,)]
