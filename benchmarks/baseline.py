"""What a team would otherwise pick: PostgreSQL with a table, a journal and a function, called by asyncpg.

Its tables and functions are in baseline.sql. Measured on the same server as the ledger, with the same durability and
the same draw of operations; there is no Kafka in it.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import asyncpg
import psycopg
from load import draw
from psycopg.conninfo import conninfo_to_dict
from rig import percentiles

BATCH = 100
BATCH_CLIENTS = 4
SINGLE_CLIENTS = 16

#: What each account begins with, so that the first spends aren't all rejected.
CREDITS = 20

ONE = "SELECT decide($1, $2, $3)"
MANY = "SELECT decide_all($1, $2, $3)"

#: Sends operations by their ids, accounts and amounts.
Call: TypeAlias = Callable[[list[str], list[int], list[int]], Awaitable[Any]]


class Load(NamedTuple):
    """What is asked: so many operations of so many accounts, `batch` to a call, by `clients` at once."""

    operations: int
    accounts: int
    batch: int
    clients: int
    seed: int = 1


def batched(operations: int, accounts: int, seed: int = 1) -> Load:
    """In batches of 100 by 4 clients."""
    return Load(operations, accounts, BATCH, BATCH_CLIENTS, seed)


def single(operations: int, accounts: int, seed: int = 1) -> Load:
    """One at a time by 16 clients."""
    return Load(operations, accounts, 1, SINGLE_CLIENTS, seed)


def prepare(dsn: str, accounts: int) -> None:
    """Make the tables, the functions and the accounts in an empty database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(Path(__file__).with_name("baseline.sql").read_text("utf-8"))
        connection.execute(
            "INSERT INTO wallet SELECT number, %s FROM generate_series(0, %s) number", [CREDITS, accounts - 1]
        )
        connection.execute("VACUUM ANALYZE wallet")
        connection.execute("CHECKPOINT")


def measure(dsn: str, load: Load) -> dict[str, float]:
    """Decide operations in a closed loop: each client sends its next when it has its answer."""
    return asyncio.run(_measure(dsn, load))


async def _measure(dsn: str, load: Load) -> dict[str, float]:
    taken: list[float] = []
    share = max(load.operations // load.clients // load.batch, 1) * load.batch

    async def client(number: int, call: Call) -> None:
        chance = random.Random(f"{load.seed}-{number}")
        for start in range(0, share, load.batch):
            drawn = [draw(chance, load.accounts) for _ in range(load.batch)]
            ids = [f"{load.seed}-{load.batch}-{number}-{start + step}" for step in range(load.batch)]
            began = time.perf_counter()
            await call(ids, [account for account, _ in drawn], [amount for _, amount in drawn])
            taken.append(time.perf_counter() - began)

    async with calls(dsn, load.clients, load.batch) as ready:
        began = time.perf_counter()
        await asyncio.gather(*(client(number, call) for number, call in enumerate(ready)))
        seconds = time.perf_counter() - began
    return {"per_s": round(share * load.clients / seconds), **percentiles(taken)}


@asynccontextmanager
async def calls(dsn: str, clients: int, batch: int) -> AsyncIterator[list[Call]]:
    """A connection for each client, with its statement prepared."""
    async with AsyncExitStack() as closing:
        ready: list[Call] = []
        for _ in range(clients):
            connection = await asyncpg.connect(**_place(dsn))
            closing.push_async_callback(connection.close)
            statement = await connection.prepare(ONE if batch == 1 else MANY)
            ready.append(_one(statement) if batch == 1 else statement.fetchval)
        yield ready


def _one(statement: Any) -> Call:
    async def call(ids: list[str], accounts: list[int], amounts: list[int]) -> Any:
        return await statement.fetchval(ids[0], accounts[0], amounts[0])

    return call


def _place(dsn: str) -> dict[str, Any]:
    # asyncpg has names of its own for what libpq knows.
    parts = conninfo_to_dict(dsn)
    found = {"host": parts["host"], "port": int(parts.get("port") or 5432), "user": parts.get("user")}
    return found | {"database": parts.get("dbname"), "password": parts.get("password")}
