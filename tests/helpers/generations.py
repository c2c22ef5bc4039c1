"""Random histories of plain commands, and what the generations hold that were folded of them."""

import random
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from creditfold.cli.read.past import then_of
from creditfold.common.settings import Settings
from creditfold.log.partitioner import partition_of
from creditfold.projections import queries
from creditfold.projections.connections import connected
from creditfold.projections.generations.catalog import Generation, generation, generations
from helpers.support import Quiet, Raw, query, record

WATCH = Quiet()


def history(count: int, seed: int = 1, start: int = 0) -> Iterator[Raw]:
    """`count` commands of 60 accounts, with duplicates, reused ids and noise among them."""
    chance = random.Random(seed)
    for number in range(start, start + count):
        account, amount = f"user-{chance.randrange(60)}", chance.randint(1, 30)
        kind = "Grant" if chance.random() < 0.4 else "Spend"
        yield record(kind, f"c{number}", account, amount, reason="tab\there\\", metadata={"n": str(number % 3)})
        if number % 17 == 0:
            yield record(kind, f"c{number}", account, amount, reason="tab\there\\", metadata={"n": str(number % 3)})
        if number % 29 == 0:
            yield record(kind, f"c{number}", account, amount + 1)
        if number % 31 == 0:
            yield Raw(b"noise\0" + bytes([number % 256]), b"key")


def read(settings: Settings, number: int) -> Generation:
    with connected(settings.dsn) as connection:
        return generation(connection, number)


def states(settings: Settings) -> dict[int, str]:
    with connected(settings.dsn) as connection:
        return {row.number: row.state for row in generations(connection)}


TABLES = (
    *("balances", "journal", "dead_letters", "activations", "redrives", "checkpoints", "accounts", "lots", "holds"),
    *("spends", "transfers", "schedules", "totals", "hourly_totals", "metadata"),
)
BALANCE = ("account_id", "asset", "available", "pending", "held", "debt", "credit_limit", "version", "log_offset")


def rows_of(settings: Settings, number: int) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of a generation, and its progress but for who folded it when."""
    schema = f"ledger_{number:04}"
    found = {table: sorted(query(settings, f"SELECT * FROM {schema}.{table}"), key=repr) for table in TABLES}
    progress = """SELECT log_partition, next_offset, clock_ms, accepted, rejected, duplicates, dead_letters,
                         activations, ticks, tick_minute, rules, chain FROM {}.progress ORDER BY 1"""
    return {**found, "progress": query(settings, progress.format(schema))}


def balances_of(settings: Settings, number: int) -> list[tuple[Any, ...]]:
    return query(settings, f"SELECT {', '.join(BALANCE)} FROM ledger_{number:04}.balances")


def as_of(settings: Settings, when: Callable[[int], str]) -> list[tuple[Any, ...]]:
    """Balances of all accounts as the command line shows them."""
    found: list[tuple[Any, ...]] = []
    with connected(settings.dsn) as connection:
        for (account,) in connection.execute("SELECT DISTINCT account_id FROM ledger.journal").fetchall():
            partition, then = then_of(connection, account, when(partition_of(account.encode(), 4)))
            rows = queries.balances_as_of(connection, account, partition, **then)
            found += map(attrgetter(*BALANCE), rows)
    return found
