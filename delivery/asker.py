"""Asks PostgreSQL beside the event loop. Owns the threads that wait for the answers; knows no question."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool


class Asker:
    """Asks PostgreSQL in threads, each question on a connection of a pool.

    Args:
        pool: of the connections.
        size: how many ask at once.
    """

    def __init__(self, pool: ConnectionPool[Connection[TupleRow]], size: int) -> None:
        self._pool = pool
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="creditfold-delivery")

    async def __call__(self, question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What a question finds."""
        ask = partial(self._ask, question, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def _ask(self, question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with self._pool.connection() as connection:
            return question(connection, *arguments, **options)

    def close(self) -> None:
        """End the threads, when they are done."""
        self._threads.shutdown(wait=False, cancel_futures=True)
