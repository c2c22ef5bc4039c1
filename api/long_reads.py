"""Questions to PostgreSQL that may take as long as they do, each by a connection of its own.

Owns that they end when the door closes. Knows no question.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from psycopg import Connection, Error
from psycopg.rows import TupleRow

from creditfold.projections.connections import connected, snapshot

#: Questions at once.
LONG = 3
#: Seconds that PostgreSQL has to be asked to end them.
CANCEL_S = 2.0
#: Seconds until it is asked again.
AGAIN_S = 0.05


class LongReads:
    """Asks questions without a bound, in threads of their own.

    Args:
        dsn: PostgreSQL's connection string.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._threads = ThreadPoolExecutor(LONG, thread_name_prefix="creditfold-long")
        self._connections: set[Connection[TupleRow]] = set()
        self._is_closed = False

    async def ask(self, question: Callable[[Connection[Any]], Any]) -> Any:
        """Ask a question in a snapshot of its own. Raises what `connected` raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, question)

    def _ask(self, question: Callable[[Connection[Any]], Any]) -> Any:
        with connected(self._dsn, "creditfold-api-long") as connection:
            self._connections.add(connection)
            try:
                # Behind that: what closes sees the connection, or this sees that it is closed.
                if self._is_closed:
                    raise CancelledError
                with snapshot(connection):
                    return question(connection)
            finally:
                self._connections.discard(connection)

    async def close(self) -> None:
        """Have PostgreSQL end what is asked: a process ends when its threads do."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        bound = time.monotonic() + CANCEL_S
        # Not once: a question that is between two statements then goes on to the next.
        while self._connections and time.monotonic() < bound:
            for connection in list(self._connections):
                with suppress(Error):
                    await asyncio.to_thread(connection.cancel_safe, timeout=CANCEL_S)
            await asyncio.sleep(AGAIN_S)
