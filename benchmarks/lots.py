"""What a spend costs in an account with many lots: alive, or spent and expired long ago.

    python benchmarks/lots.py --spends 20000

Folds grants and then spends of one account, in memory and into a PostgreSQL of its own, for growing numbers of lots.
A spend among many live lots must not cost in proportion to them, and dead lots must cost nothing.
"""

import asyncio
import json
import time
from typing import Any

from load import Record
from rich.table import Table
from rig import argument_parser, console, database, servers

from creditfold.common.position import Log
from creditfold.common.settings import Settings
from creditfold.ledger import CreditBook, Grant, Spend
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.chunk import read_records
from creditfold.processors.fold.transaction import chunk_transaction, fold_chunk
from creditfold.projections.connections import fold_pool
from creditfold.projections.store.claim import claim
from creditfold.projections.tables.setup import prepare
from creditfold.schemas.wire import encode

NOW_MS = 1_800_000_000_000
CHUNK = 1_000


def grants(count: int, dead: int) -> list[Grant]:
    """Lots of one credit each: some that ended before the log began, the others with ends ahead."""
    expired = [Grant(f"d{n}", "ann", "credits", 1, effective_at=1, expires_at=2) for n in range(dead)]
    return expired + [Grant(f"g{n}", "ann", "credits", 1, expires_at=NOW_MS + 10**9 + n) for n in range(count)]


def in_memory(live: int, dead: int, spends: int) -> float:
    """Microseconds a spend of nothing but the rules. Each grant tops up what the spends take."""
    book = CreditBook()
    book.advance(NOW_MS)
    for command in grants(live, dead):
        book.apply(command)
    start = time.process_time()
    for number in range(spends):
        book.apply(Spend(f"s{number}", "ann", "credits", 1))
        book.apply(Grant(f"t{number}", "ann", "credits", 1, expires_at=NOW_MS + 2 * 10**9 + number))
    return (time.process_time() - start) / spends / 2 * 1e6


def records(live: int, dead: int, spends: int) -> tuple[list[Record], int]:
    """The same as records of a log, and where the measured ones begin."""
    found: list[Record] = []

    def add(command: Grant | Spend) -> None:
        value = encode(type(command).__name__, command._asdict())
        found.append(Record(len(found), NOW_MS, b"ann", value))

    for command in grants(live, dead):
        add(command)
    start = len(found)
    for number in range(spends):
        add(Spend(f"s{number}", "ann", "credits", 1))
        add(Grant(f"t{number}", "ann", "credits", 1, expires_at=NOW_MS + 2 * 10**9 + number))
    return found, start


async def into_postgres(settings: Settings, live: int, dead: int, spends: int) -> tuple[float, float]:
    """Microseconds a command as a worker folds it; with what it remembers, and loading the account for each chunk."""
    log, start = records(live, dead, spends)
    middle = start + (len(log) - start) // 2
    taken = []
    with database(settings, f"lots_{live}_{dead}") as dsn:
        prepare(dsn, Log("lots", "an-id", 1))
        async with fold_pool(dsn, "lots", 2) as pool:
            won = await claim(pool, 0, "lots")
            for since, until, remembers in ((0, start, True), (start, middle, True), (middle, len(log), False)):
                cache, began = AccountCache(10), time.perf_counter()
                for at in range(since, until, CHUNK):
                    end = min(until, at + CHUNK)
                    async with pool.connection() as on, chunk_transaction(on, 0, won, cache) as transaction:
                        await fold_chunk(transaction, read_records(log[at:end], 0, 1), end, cache)
                    cache = cache if remembers else AccountCache(10)
                taken.append((time.perf_counter() - began) / max(until - since, 1) * 1e6)
    return taken[1], taken[2]


def main() -> None:
    """Run the benchmark and print it as a table, or as JSON."""
    parser = argument_parser(__doc__, spends=20_000)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with servers() as settings:
        for live, dead in ((10, 0), (100, 0), (1_000, 0), (10_000, 0), (50_000, 0), (10, 10_000), (10, 50_000)):
            with console.status(f"{live} live lots, {dead} dead ones"):
                remembering, loading = asyncio.run(into_postgres(settings, live, dead, options.spends))
                memory = in_memory(live, dead, options.spends)
            figures = (memory, remembering, loading)
            rows.append(
                {"live": live, "dead": dead} | dict(zip(COLUMNS, (round(one, 1) for one in figures), strict=True))
            )
    if options.json:
        print(json.dumps(rows))
        return
    table = Table("live lots", "dead lots", *COLUMNS, title=f"Microseconds a command, {CHUNK:,} to a transaction")
    for row in rows:
        table.add_row(f"{row['live']:,}", f"{row['dead']:,}", *(f"{row[name]:,.1f}" for name in COLUMNS))
    console.print(table)


COLUMNS = ("rules alone", "a worker", "a worker that remembers nothing")


if __name__ == "__main__":
    main()
