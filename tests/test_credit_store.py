"""Credits on a real PostgreSQL: however a history is cut into transactions, and whatever is remembered between them, it
comes to the same as a fold in memory: the same chain, the same lots, the same answers to what comes next."""

import random
from collections.abc import Sequence

import pytest
from credit_histories import history
from support import query
from test_chunks import FakeRecord
from test_store import prepared

from creditfold.ledger import CREDIT_RULES, Book, CreditEntry
from creditfold.ledger.credit_account import Account
from creditfold.processors.chunks import fold, read_records
from creditfold.processors.memory import Memory, fold_chunk
from creditfold.projections.chain import (
    START,
    Line,
    activation_line,
    credit_line,
    dead_letter_line,
    extend,
    journal_line,
)
from creditfold.projections.compare import check_self, snapshot
from creditfold.projections.connections import connected, fold_pool
from creditfold.projections.generations import lines
from creditfold.projections.results import ChunkResult
from creditfold.projections.store import ChunkTransaction, claim
from creditfold.schemas.wire import encode
from creditfold.stack.settings import Settings

__all__ = ["prepared"]


def in_memory(records: Sequence[FakeRecord]) -> ChunkResult:
    return fold(read_records(records, 0, 1), Book(), len(records))


def lines_of(result: ChunkResult) -> list[Line]:
    found = [
        (offset, credit_line(0, offset, entry) if isinstance(entry, CreditEntry) else journal_line(0, offset, entry))
        for offset, entry in result.journal
    ]
    found += [(letter.log_offset, dead_letter_line(0, letter)) for letter in result.dead_letters]
    found += [(row.log_offset, activation_line(0, row)) for row in result.activations]
    return sorted(found, key=lambda line: line[0])


def stored_lines(settings: Settings) -> list[Line]:
    with connected(settings.dsn) as connection:
        return list(lines(connection, 1, 0, 0, 2**40))


async def folded(
    settings: Settings, records: Sequence[FakeRecord], chance: random.Random, memory: Memory | None
) -> None:
    """Fold records in transactions of any size; without a memory, as workers do."""
    async with fold_pool(settings.dsn, "test", 2) as pool:
        won = await claim(pool, 0, "test")
        at = won.next_offset
        while at < len(records):
            end = min(len(records), at + chance.choice((1, 3, 10, 40)))
            async with pool.connection() as connection, connection.transaction():
                transaction = ChunkTransaction(connection, 0, won)
                progress = await transaction.lock()
                reads = read_records(records[at:end], 0, 1)
                await fold_chunk(transaction, progress, reads, end, memory or Memory())
            if memory is not None:
                memory.trim()
            at = end


def lots_in(settings: Settings) -> dict[tuple[str, str, int], tuple[int, ...]]:
    rows = query(
        settings,
        """SELECT account_id, command_id, number, amount, remaining, held, spent, expired, voided, forfeited, reissued,
                  transferred FROM ledger_0001.lots""",
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


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("remembers", [False, True])
async def test_any_split_comes_to_the_same(prepared: Settings, seed: int, remembers: bool) -> None:
    """Chains, lots and balances; totals that balance; chains that follow from the rows."""
    records = history(seed, 400, rules_from=seed % 2 * 30)
    whole = in_memory(records)
    assert whole.rules == CREDIT_RULES
    assert min(whole.accepted, whole.rejected) > 20
    memory = Memory(3, is_fresh=True, bulk=True) if remembers else None
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


async def test_what_time_does_without_a_line_is_written_too(prepared: Settings) -> None:
    """A lot that is wholly held when it ends has no fact then; it isn't due any more all the same."""

    def record(name: str, at_ms: int, offset: int, **fields: object) -> FakeRecord:
        key = b"ann" if "account" in fields else None
        return FakeRecord(offset, at_ms, key, encode(name, fields))

    grant = {"command_id": "g", "account": "ann", "asset": "credits", "amount": 5, "expires_at": 60_000}
    hold = {"command_id": "h", "account": "ann", "asset": "credits", "amount": 5, "deadline": 90_000_000}
    records = [
        record("ActivateRules", 1_000, 0, command_id="r", rules=2),
        record("Grant", 1_000, 1, **grant),
        record("Hold", 1_000, 2, **hold),
        record("Tick", 120_000, 3, command_id="t", minute=2),
    ]
    await folded(prepared, records, random.Random(1), None)
    lots = query(prepared, "SELECT is_lapsed, next_at_ms, log_offset FROM ledger_0001.lots")
    assert lots == [(True, None, 3)]
