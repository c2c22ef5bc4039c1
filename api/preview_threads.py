"""Threads in which previews are decided, each with an event loop and a connection of its own.

An account with very many lots takes long to be read, decided on and answered. That keeps one of these threads, and at
most the previews that come next: no other request, since nothing of it runs on the server's loop. Knows no route.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeAlias, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from creditfold.projections.connections import reader_pool_async

T = TypeVar("T")
Work: TypeAlias = Callable[[AsyncConnection[TupleRow]], Awaitable[T]]

#: Seconds that a thread gets to end with the server; one that still decides then ends with the process.
CLOSE_S = 5.0


class PreviewThreads:
    """So many threads, and who waits for one. For one event loop, which must run when this is made.

    Args:
        dsn: of the database.
        size: how many threads, and so how many previews at once.
    """

    def __init__(self, dsn: str, size: int) -> None:
        self._threads = [_PreviewThread(dsn) for _ in range(size)]
        self._free: asyncio.Queue[_PreviewThread] = asyncio.Queue()

    def open(self) -> None:
        """Start the threads; they connect when they have something to do."""
        for thread in self._threads:
            thread.start()
            self._free.put_nowait(thread)

    async def run(self, work: Work[T]) -> T:
        """Do work with a connection, in the next thread that is free. After a cancel it goes on to its end there.

        Args:
            work: is given a connection in autocommit.

        Returns:
            What the work returns; raises what it raises, and PoolTimeout where PostgreSQL can't be reached.
        """
        thread = await self._free.get()
        done = asyncio.wrap_future(thread.begin(work))
        done.add_done_callback(lambda done: self._take_back(thread, done))
        return await asyncio.shield(done)

    def _take_back(self, thread: "_PreviewThread", done: "asyncio.Future[T]") -> None:
        self._free.put_nowait(thread)
        # Looked at, though nobody may have waited for it.
        if not done.cancelled():
            done.exception()

    async def close(self) -> None:
        """End the threads."""
        await asyncio.gather(*(asyncio.to_thread(thread.close) for thread in self._threads))


class _PreviewThread:
    """One thread, its loop, and its connection."""

    def __init__(self, dsn: str) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self._pool: AsyncConnectionPool[AsyncConnection[TupleRow]] = reader_pool_async(dsn, "creditfold-preview", 1)
        # A daemon, so that a decision that takes long doesn't keep the process.
        self._thread = threading.Thread(target=self._loop.run_forever, name="creditfold-preview", daemon=True)

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    def begin(self, work: Work[T]) -> Future[T]:
        """Begin to do work; returns the future of its result."""
        return asyncio.run_coroutine_threadsafe(self._do(work), self._loop)

    async def _do(self, work: Work[T]) -> T:
        if self._pool.closed:
            await self._pool.open(wait=False)
        async with self._pool.connection() as connection:
            return await work(connection)

    async def _end(self) -> None:
        await self._pool.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def close(self) -> None:
        """Close the connection and end the thread, if it has nothing to do by then."""
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()
