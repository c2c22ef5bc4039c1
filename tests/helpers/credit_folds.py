"""Folds histories, in PostgreSQL in transactions of any size or in memory, and compares what they come to."""

import random
from collections.abc import Sequence

import pytest
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from creditfold.common.settings import Settings
from creditfold.ledger import CreditBook
from creditfold.ledger.account import Account
from creditfold.processors.fold import fast
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.chunk import fold, read_records
from creditfold.processors.fold.transaction import chunk_transaction, fold_chunk
from creditfold.projections.connections import connected, fold_pool, snapshot
from creditfold.projections.proof.chain import check_self, lines
from creditfold.projections.store.chain import START, Line, activation_line, dead_letter_line, extend, journal_line
from creditfold.projections.store.claim import claim
from creditfold.projections.store.results import ChunkResult
from helpers.records import FakeRecord
from helpers.support import query


def in_memory(records: Sequence[FakeRecord], partition: int = 0, partitions: int = 1) -> ChunkResult:
    return fold(read_records(records, partition, partitions), CreditBook(), len(records))


def lines_of(result: ChunkResult, partition: int = 0) -> list[Line]:
    found = [(offset, journal_line(partition, offset, entry)) for offset, entry in result.journal]
    found += [(letter.log_offset, dead_letter_line(partition, letter)) for letter in result.dead_letters]
    found += [(row.log_offset, activation_line(partition, row)) for row in result.activations]
    return sorted(found, key=lambda line: line[0])


def assert_folded_to(settings: Settings, results: Sequence[ChunkResult]) -> None:
    """What is stored is what a fold of each partition in memory came to, and follows from its own lines."""
    stored = query(
        settings,
        """SELECT next_offset, chain, accepted, rejected, duplicates, dead_letters, ticks, tick_minute
           FROM ledger_0001.progress ORDER BY log_partition""",
    )
    assert stored == [
        (
            result.next_offset,
            extend(START, 0, result.next_offset, lines_of(result, partition))[0],
            *(result.accepted, result.rejected, result.duplicates),
            *(len(result.dead_letters), result.ticks, result.minute),
        )
        for partition, result in enumerate(results)
    ]
    accounts = {name: account for result in results for name, account in result.accounts.items()}
    balances = query(settings, "SELECT account_id, asset, available, pending, held, debt FROM ledger_0001.balances")
    assert {row[:2]: row[2:] for row in balances} == {row[:2]: accounts[row[0]].balance(row[1]) for row in balances}
    with connected(settings.dsn) as connection, snapshot(connection):
        assert all(found.holds for found in check_self(connection, 1))


def stored_lines(settings: Settings) -> list[Line]:
    with connected(settings.dsn) as connection:
        return list(lines(connection, 1, 0, 0, 2**40))


async def fold_in_pieces(
    settings: Settings, records: Sequence[FakeRecord], chance: random.Random, cache: AccountCache | None
) -> None:
    """Fold records in transactions of any size: without a cache one by one, with one in several pieces too."""
    async with fold_pool(settings.dsn, "test", 2) as pool:
        await fold_on(pool, records, chance, cache)


async def fold_on(
    pool: AsyncConnectionPool[AsyncConnection[TupleRow]],
    records: Sequence[FakeRecord],
    chance: random.Random,
    cache: AccountCache | None,
) -> None:
    """The same on sessions that stay: for the next records they know the tables."""
    won = await claim(pool, 0, "test")
    at = won.next_offset
    while at < len(records):
        pieces = chance.choice((1, 4)) if cache is not None else 1
        own = cache or AccountCache()
        async with pool.connection() as connection, chunk_transaction(connection, 0, won, own) as transaction:
            for _ in range(pieces):
                end = min(len(records), at + chance.choice((1, 3, 10, 40)))
                reads = fast.read(records[at:end], 0, 1, own.store)
                reached = await fold_chunk(transaction, reads, end, own)
                assert reached > at
                at = reached
                if reached < end or at == len(records):
                    break
        own.trim()


def forget_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have workers recognize no id, or hardly any."""
    new_filter = fast.new_filter
    monkeypatch.setattr(fast, "new_filter", lambda *_: new_filter(64, 1))


#: What the credits of a lot are made of.
PARTS = ("amount", "remaining", "held", "spent", "expired", "voided", "forfeited", "reissued", "transferred")


def lots_in(settings: Settings) -> dict[tuple[str, str, int], tuple[int, ...]]:
    rows = query(settings, f"SELECT account_id, command_id, number, {', '.join(PARTS)} FROM ledger_0001.all_lots")
    return {row[:3]: row[3:] for row in rows}


def lots_of(accounts: dict[str, Account]) -> dict[tuple[str, str, int], tuple[int, ...]]:
    lots = ((name, lot) for name, account in accounts.items() for lot in account.lots.values())
    return {(name, *lot.id): tuple(getattr(lot, part) for part in PARTS) for name, lot in lots}
