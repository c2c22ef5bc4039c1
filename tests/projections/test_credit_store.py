"""Credits on a real PostgreSQL: however a history is cut into transactions, and whatever is remembered between them, it
comes to the same as a fold in memory: the same chain, the same lots, the same answers to what comes next."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from psycopg import AsyncCursor
from psycopg.rows import TupleRow
from test_chunks import FakeRecord
from test_store import lanes_of, prepared

from creditfold.common.settings import Settings
from creditfold.ledger import CreditBook
from creditfold.ledger.account import Account
from creditfold.processors.fold import account_cache as memory_module
from creditfold.processors.fold import fast as quick
from creditfold.processors.fold.account_cache import Memory, Seen, fold_chunk
from creditfold.processors.fold.chunk import Chunk, fold, read_records
from creditfold.processors.worker import partitions as lanes_module
from creditfold.processors.worker.partitions import Lanes
from creditfold.projections.connections import connected, fold_pool, snapshot
from creditfold.projections.proof.chain import check_self, lines
from creditfold.projections.results import ChunkResult
from creditfold.projections.store.chain import START, Line, activation_line, dead_letter_line, extend, journal_line
from creditfold.projections.store.claim import claim
from creditfold.projections.store.load import CreditStore
from creditfold.projections.store.send import KnownCommandError
from creditfold.projections.store.transaction import ChunkTransaction
from creditfold.projections.tables.credits import LOTS, Table
from creditfold.schemas.wire import encode
from helpers.credit_histories import history
from helpers.support import query

pytestmark = pytest.mark.both_cores

__all__ = ["prepared"]


def in_memory(records: Sequence[FakeRecord]) -> ChunkResult:
    return fold(read_records(records, 0, 1), CreditBook(), len(records))


def lines_of(result: ChunkResult) -> list[Line]:
    found = [(offset, journal_line(0, offset, entry)) for offset, entry in result.journal]
    found += [(letter.log_offset, dead_letter_line(0, letter)) for letter in result.dead_letters]
    found += [(row.log_offset, activation_line(0, row)) for row in result.activations]
    return sorted(found, key=lambda line: line[0])


def stored_lines(settings: Settings) -> list[Line]:
    with connected(settings.dsn) as connection:
        return list(lines(connection, 1, 0, 0, 2**40))


async def folded(
    settings: Settings, records: Sequence[FakeRecord], chance: random.Random, memory: Memory | None
) -> None:
    """Fold records in transactions of any size: without a memory one by one, with one in several pieces too."""
    async with fold_pool(settings.dsn, "test", 2) as pool:
        won = await claim(pool, 0, "test")
        at = won.next_offset
        while at < len(records):
            pieces = chance.choice((1, 4)) if memory is not None else 1
            async with pool.connection() as connection, connection.transaction():
                transaction = ChunkTransaction(connection, 0, won)
                await transaction.lock()
                for _ in range(pieces):
                    end = min(len(records), at + chance.choice((1, 3, 10, 40)))
                    own = memory or Memory()
                    reads = quick.read(records[at:end], 0, 1, own.light)
                    reached = await fold_chunk(
                        transaction, transaction.progress, reads, end, own, save_state=pieces == 1
                    )
                    assert reached > at
                    at = reached
                    if reached < end or at == len(records):
                        break
                await transaction.save_state()
            if memory is not None:
                memory.trim()


def forget_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers recognize no id, or hardly any."""
    monkeypatch.setattr(Seen, "note", lambda *_: False)
    new_filter = quick.new_filter
    monkeypatch.setattr(quick, "new_filter", lambda *_: new_filter(64, 1))


def lots_in(settings: Settings) -> dict[tuple[str, str, int], tuple[int, ...]]:
    rows = query(
        settings,
        """SELECT account_id, command_id, number, amount, remaining, held, spent, expired, voided, forfeited, reissued,
                  transferred FROM ledger_0001.all_lots""",
    )
    return {row[:3]: row[3:] for row in rows}


def lots_of(accounts: dict[str, Account]) -> dict[tuple[str, str, int], tuple[int, ...]]:
    return {
        (name, *lot.id): (
            lot.amount,
            lot.remaining,
            lot.held,
            lot.spent,
            lot.expired,
            lot.voided,
            lot.forfeited,
            lot.reissued,
            lot.transferred,
        )
        for name, account in accounts.items()
        for lot in account.lots.values()
    }


@pytest.mark.parametrize(("seed", "most"), [*((seed, None) for seed in range(5)), (0, 5), (1, 5)])
@pytest.mark.parametrize("plain", [0, 0.5, 0.95])
@pytest.mark.parametrize("remembers", [False, True])
async def test_any_split_comes_to_the_same(
    prepared: Settings, seed: int, *, remembers: bool, plain: float, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chains, lots and balances; totals that balance; chains that follow from the rows; also if hardly any lot may be
    loaded at once, and hardly anything made in one transaction, or written of a tick."""
    if most is not None:
        monkeypatch.setattr(memory_module, "MOST_MADE", most)
        monkeypatch.setattr(memory_module, "MOST_LOTS", most)
    records = history(seed, 400, plain=plain)
    whole = in_memory(records)
    assert min(whole.accepted, whole.rejected) > 20
    memory = Memory(3 if seed % 2 else 20, is_fresh=True, seen=Seen(2**16)) if remembers else None
    await folded(prepared, records, random.Random(seed), memory)
    assert stored_lines(prepared) == lines_of(whole)
    assert query(prepared, "SELECT chain FROM ledger.progress") == [
        (extend(START, 0, whole.next_offset, lines_of(whole))[0],)
    ]
    counts = query(
        prepared, "SELECT accepted, rejected, duplicates, dead_letters, ticks, tick_minute FROM ledger_0001.progress"
    )
    assert counts == [
        (whole.accepted, whole.rejected, whole.duplicates, len(whole.dead_letters), whole.ticks, whole.minute)
    ]
    assert lots_in(prepared) == lots_of(dict(whole.accounts))
    stored = query(prepared, "SELECT account_id, asset, available, pending, held, debt FROM ledger_0001.balances")
    accounts = whole.accounts
    assert {row[:2]: row[2:] for row in stored} == {row[:2]: accounts[row[0]].balance(row[1]) for row in stored}
    with connected(prepared.dsn) as connection, snapshot(connection):
        assert [found.holds for found in check_self(connection, 1)] == [True]


@pytest.mark.parametrize("seed", range(4))
async def test_an_id_that_isn_t_recognized_is_found_out(
    prepared: Settings, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a worker takes for new, the journal's key knows better, and the chunk is folded as if it had asked."""
    known: list[bool] = []
    fold_some = Lanes._fold_from_memory

    async def counted(self: Lanes, chunk: Chunk, lane: Any) -> None:
        try:
            await fold_some(self, chunk, lane)
        except KnownCommandError:
            known.append(True)
            raise
        known.append(False)

    forget_ids(monkeypatch)
    monkeypatch.setattr(Lanes, "_fold_from_memory", counted)
    monkeypatch.setattr(lanes_module, "DOUBTED_CHUNKS", 2)
    # Few accounts are remembered, so that they are loaded again, too.
    monkeypatch.setattr(lanes_module, "WORKER_ACCOUNTS", 3)
    records = history(seed, 400, plain=seed / 4)
    whole = in_memory(records)
    assert whole.duplicates > 0
    chance, at = random.Random(seed), 0
    async with lanes_of(prepared) as lanes:
        won = (await lanes.claim([0]))[0]
        while at < len(records):
            end = min(len(records), at + chance.choice((1, 3, 10)))
            lanes.put([Chunk(0, won.epoch, at, end, records[at:end])])
            while lanes.offsets()[0] < end:
                await lanes.wait_for_room(1.0)
            at = end
    assert 0 < known.count(True) < whole.duplicates + 20
    assert stored_lines(prepared) == lines_of(whole)
    counts = query(prepared, "SELECT accepted, rejected, duplicates, dead_letters FROM ledger_0001.progress")
    assert counts == [(whole.accepted, whole.rejected, whole.duplicates, len(whole.dead_letters))]


async def test_what_time_does_without_a_line_is_written_too(prepared: Settings) -> None:
    """A lot that is wholly held when it ends has no fact then; it isn't due any more all the same."""

    def record(name: str, at_ms: int, offset: int, **fields: object) -> FakeRecord:
        key = b"ann" if "account" in fields else None
        return FakeRecord(offset, at_ms, key, encode(name, fields))

    grant = {"command_id": "g", "account": "ann", "asset": "credits", "amount": 5, "expires_at": 60_000}
    hold = {"command_id": "h", "account": "ann", "asset": "credits", "amount": 5, "deadline": 90_000_000}
    records = [
        record("Grant", 1_000, 0, **grant),
        record("Hold", 1_000, 1, **hold),
        record("Tick", 120_000, 2, command_id="t", minute=2),
    ]
    await folded(prepared, records, random.Random(1), None)
    lots = query(prepared, "SELECT is_lapsed, next_at_ms, log_offset FROM ledger_0001.lots")
    assert lots == [(True, None, 2)]


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
    monkeypatch.setattr(memory_module, "MOST_MADE", 150)
    monkeypatch.setattr(memory_module, "MOST_LOTS", 120)
    loaded: list[AsyncCursor[TupleRow]] = []
    ask = CreditStore._ask

    async def counted(self: CreditStore, table: Table, *values: Any) -> Any:
        cursor = await ask(self, table, *values)
        if table is LOTS:
            loaded.append(cursor)
        return cursor

    monkeypatch.setattr(CreditStore, "_ask", counted)
    async with lanes_of(prepared) as lanes:
        won = (await lanes.claim([0]))[0]
        for records in (made, spends, [tick]):
            end = records[-1].offset + 1
            # A memory that keeps nothing.
            assert await lanes.fold(Chunk(0, won.epoch, records[0].offset, end, records), won, Memory()) == end
    # A schedule makes 50 lots in 51 facts.
    text = "SELECT count(*) FROM ledger_0001.journal WHERE kind = %s GROUP BY xmin ORDER BY 1"
    assert query(prepared, text, ("create_schedule",)) == [(2,)] * 6
    assert {count for (count,) in query(prepared, text, ("spend",))} <= {1, 2}
    assert max(cursor.rowcount for cursor in loaded) == 121
    whole = in_memory([*made, *spends, tick])
    assert stored_lines(prepared) == lines_of(whole)
    assert lots_in(prepared) == lots_of(dict(whole.accounts))
    assert query(prepared, "SELECT expired > 0 FROM ledger_0001.totals") == [(True,)]
