"""How long a search across accounts takes, and what it costs the fold that they can be searched by metadata.

    python benchmarks/search.py --accounts 1000000

Loads accounts into the tables of a real projection, each with a balance, a line of the journal and an order, some of
them with lots that end, holds, debts, or shut, and asks for a page of each kind of search, whose values change from
time to time. Then folds commands that say which order they are of, which is declared, isn't, or isn't said at all.
"""

import asyncio
import gc
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psutil
import psycopg
from load import Record, draw
from rich.table import Table
from rig import argument_parser, console, database, servers

from creditfold.common.position import Log
from creditfold.processors.fold import fast
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.transaction import chunk_transaction, fold_chunk
from creditfold.projections import queries
from creditfold.projections.connections import connected, fold_pool, snapshot
from creditfold.projections.queries import AccountFilter
from creditfold.projections.store.claim import claim
from creditfold.projections.tables.setup import prepare
from creditfold.schemas.wire import encode

LOG = Log("search", "an-id", 1)
NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
CHUNK = 8_000

#: Half of the accounts have less than 64 credits, few have many. One of 50 has a lot that ends within 400 days in its
#: balance, one of 100 in a row of its own; one of 200 has a hold, one of 1,000 owes, one of 100 is frozen or closed.
FILL = """
    CREATE TEMP TABLE many AS SELECT n, 'user-' || n AS name, dice, {now} + {day} * (dice % 400 + 1) AS ends
    FROM generate_series(1, {accounts}) n CROSS JOIN LATERAL mod(n * 7919::bigint, 1000003) AS dice;
    INSERT INTO ledger_0001.journal
        SELECT n, 1, 5, 5, 5, {now}, 0, 0, 0, 0, 0, 1, NULL, name, 'c-' || n, 'grant', 'credits', NULL, 'shop', '', '',
               '', '[]' FROM many;
    INSERT INTO ledger_0001.balances (available, held, debt, version, log_offset, next_at_ms, log_partition,
                                      account_id, asset, lots)
        SELECT floor(64 * (1000003.0 / (dice + 1) - 1))::bigint, CASE WHEN n % 200 = 0 THEN dice % 50 + 1 ELSE 0 END,
               CASE WHEN n % 1000 = 0 THEN 5 ELSE 0 END, 1, n,
               CASE WHEN n % 50 = 0 THEN ends END, 0, name, 'credits', repeat('x', 60)
        FROM many;
    INSERT INTO ledger_0001.lots
        SELECT {now}, ends, n, 10, 10, 0, 0, 0, 0, 0, 0, 0, ends, n, 1, 0, 50, false, false, false, true, name,
               'l-' || n, 'credits', 'paid', '', 'issued'
        FROM many WHERE n % 100 = 7;
    INSERT INTO ledger_0001.holds
        SELECT name, 'h-' || n, 'credits', {now}, n, 5, '[]', true, false, {now}, 0, n FROM many WHERE n % 200 = 0;
    INSERT INTO ledger_0001.spends SELECT name, 's-' || n, 'credits', n, 5, '[]', 0, n FROM many WHERE n % 1000 = 0;
    INSERT INTO ledger_0001.accounts
        SELECT name, 1, n % 200 = 3, CASE WHEN n % 200 = 3 THEN '' ELSE 'spending' END, 0, n
        FROM many WHERE n % 100 = 3;
    INSERT INTO ledger_0001.metadata SELECT n, 0, name, 'order_id', 'o-' || n FROM many;
    UPDATE ledger_0001.progress SET next_offset = {accounts} + 1;
"""


def kinds(accounts: int) -> dict[str, Callable[[random.Random], AccountFilter]]:
    """The kinds of search, each of a value that chance takes."""

    def some(chance: random.Random) -> int:
        return chance.randint(1, accounts)

    def soon(chance: random.Random) -> datetime:
        return datetime.fromtimestamp((NOW_MS + chance.randint(1, 400) * DAY_MS) / 1000, UTC)

    return {
        "by a command": lambda chance: AccountFilter(command_id=f"c-{some(chance)}"),
        "by metadata": lambda chance: AccountFilter(metadata={"order_id": f"o-{some(chance)}"}),
        "by prefix": lambda chance: AccountFilter(prefix=f"user-{some(chance)}"[: chance.randint(5, 11)]),
        "all": lambda chance: AccountFilter(),
        "frozen": lambda chance: AccountFilter(state="frozen"),
        "closed, by prefix": lambda chance: AccountFilter(state="closed", prefix=f"user-{chance.randint(1, 99)}"),
        "open, by balance": lambda chance: AccountFilter(state="open", asset="credits", least=chance.randint(1, 99)),
        "at least": lambda chance: AccountFilter(asset="credits", least=int(10 ** chance.uniform(0, 7))),
        "at most": lambda chance: AccountFilter(asset="credits", most=int(10 ** chance.uniform(0, 7))),
        "between": lambda chance: AccountFilter(
            asset="credits", least=(least := int(10 ** chance.uniform(0, 6))), most=least * 2
        ),
        "held": lambda chance: AccountFilter(asset="credits", balance_of="held", least=chance.randint(1, 50)),
        "owed": lambda chance: AccountFilter(asset="credits", balance_of="debt", least=1),
        "what ends": lambda chance: AccountFilter(ends_before=soon(chance)),
        "what ends, by balance": lambda chance: AccountFilter(
            asset="credits", least=chance.randint(1, 1_000), ends_before=soon(chance)
        ),
    }


def searched(dsn: str, accounts: int, times: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a page of 100 and of counting, and of processor time of both processes, by the kind of search."""
    prepare(dsn, LOG, ["order_id"], by_balance=True)
    with psycopg.connect(dsn, autocommit=True) as connection, console.status(f"loading {accounts:,} accounts"):
        connection.execute(FILL.format(accounts=accounts, now=NOW_MS, day=DAY_MS).encode(), binary=False)
        connection.execute("VACUUM ANALYZE")
    found = {}
    with connected(dsn) as connection:
        processes = psutil.Process(), psutil.Process(connection.info.backend_pid)
        for name, make in kinds(accounts).items():
            chance = random.Random(1)
            with console.status(f"searching: {name}"):
                before = sum(map(_cpu_s, processes))
                pages = [_timed(_page, connection, make(chance)) for _ in range(times)]
                cpu_s = sum(map(_cpu_s, processes)) - before
                counts = [_timed(_count, connection, make(chance)) for _ in range(times // 4 + 2)]
            found[name] = {
                "half_ms": _percentile(pages, 50),
                "p95_ms": _percentile(pages, 95),
                "p99_ms": _percentile(pages, 99),
                "cpu_ms": round(cpu_s / times * 1000, 1),
                "counted_p95_ms": _percentile(counts, 95),
            }
    return found


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _page(connection: psycopg.Connection[Any], wanted: AccountFilter) -> None:
    with snapshot(connection):
        queries.search_accounts(connection, wanted)


def _count(connection: psycopg.Connection[Any], wanted: AccountFilter) -> None:
    with snapshot(connection):
        queries.count_accounts(connection, wanted)


def _timed(
    work: Callable[[psycopg.Connection[Any], AccountFilter], None],
    connection: psycopg.Connection[Any],
    wanted: AccountFilter,
) -> float:
    began = time.perf_counter()
    work(connection, wanted)
    return (time.perf_counter() - began) * 1000


def _percentile(values: list[float], percent: int) -> float:
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 1)


#: What is folded: whether commands say an order, which keys are declared, and whether balances are indexed.
FOLDS: dict[str, tuple[bool, list[str], bool]] = {
    "nothing": (False, [], False),
    "nothing, with balances indexed": (False, [], True),
    "an order, not declared": (True, [], False),
    "an order, declared": (True, ["order_id"], False),
}


def records(count: int, accounts: int, *, says: bool) -> Iterator[Record]:
    """Plain commands, which say which order they are of or don't."""
    chance = random.Random(1)
    for number in range(count):
        account, amount = draw(chance, accounts)
        name, metadata = f"user-{account}", {"order_id": f"o-{number}"} if says else {}
        body = {"command_id": f"c-{number}", "account": name, "asset": "credits", "amount": abs(amount)}
        value = encode("Grant" if amount > 0 else "Spend", {**body, "metadata": metadata})
        yield Record(number, NOW_MS + number // 50, name.encode(), value)


async def folded(dsn: str, log: list[Record], searchable: list[str], *, by_balance: bool = False) -> dict[str, float]:
    """CPU microseconds a command of this process and of PostgreSQL."""
    prepare(dsn, LOG, searchable, by_balance=by_balance)
    gc.collect()
    gc.freeze()
    async with fold_pool(dsn, "search", 1) as pool:
        won = await claim(pool, 0, "search")
        cache = AccountCache(200_000, is_fresh=True, ids=fast.new_filter(2**25))
        async with pool.connection() as connection:
            session = psutil.Process(connection.info.backend_pid)
        before, own = session.cpu_times(), time.process_time()
        for at in range(0, len(log), CHUNK):
            chunk = log[at : at + CHUNK]
            async with (
                pool.connection() as connection,
                chunk_transaction(connection, 0, won, cache) as transaction,
            ):
                await fold_chunk(transaction, fast.read(chunk, 0, 1, cache.store), at + len(chunk), cache)
        own, after = time.process_time() - own, session.cpu_times()
    gc.unfreeze()
    postgres = after.user + after.system - before.user - before.system
    return {"process_us": own / len(log) * 1e6, "postgres_us": postgres / len(log) * 1e6}


def main() -> None:
    """Run the benchmark and print it as tables, or as JSON."""
    parser = argument_parser(__doc__, accounts=1_000_000, times=200, commands=200_000, rounds=3)
    options = parser.parse_args()
    with servers() as settings:
        with database(settings, "bench_search") as dsn:
            found = searched(dsn, options.accounts, options.times)
        costs: dict[str, list[dict[str, float]]] = {name: [] for name in FOLDS}
        logs = {says: list(records(options.commands, 100_000, says=says)) for says in (False, True)}
        for number in range(options.rounds):
            for name, (says, searchable, by_balance) in FOLDS.items():
                with console.status(f"folding, round {number + 1}: {name}"), database(settings, "bench_fold") as dsn:
                    work = folded(dsn, logs[says], searchable, by_balance=by_balance)
                    costs[name].append(asyncio.run(work))
    medians = {
        name: {kind: round(statistics.median(one[kind] for one in rounds), 2) for kind in rounds[0]}
        for name, rounds in costs.items()
        if rounds
    }
    if options.json:
        print(json.dumps({"accounts": options.accounts, "searches": found, "folds": medians}))
        return
    table = Table(
        "search",
        "half, ms",
        "95 %, ms",
        "99 %, ms",
        "CPU, ms",
        "counted, 95 %, ms",
        title=f"{options.accounts:,} accounts",
    )
    for name, row in found.items():
        table.add_row(name, *(f"{value:.1f}" for value in row.values()))
    console.print(table)
    table = Table("the commands say", "process, CPU µs", "PostgreSQL, CPU µs", title="The fold, for each command")
    for name, row in medians.items():
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    console.print(table)


if __name__ == "__main__":
    main()
