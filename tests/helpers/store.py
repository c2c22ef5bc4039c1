"""Folds partitions as a worker does, in the process of the tests, and ends what it leans on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.processors.worker.folder import ChunkFolder
from creditfold.processors.worker.partitions import Partitions
from creditfold.projections.connections import fold_pool
from helpers.support import HANG_S, query

LOG = Log("creditfold.commands.v1", "an-id", 1)


async def fail(error: CreditfoldError) -> None:
    raise error


@asynccontextmanager
async def lanes_of(
    settings: Settings, lost: list[tuple[int, bool]] | None = None, partitions: int = 1
) -> AsyncIterator[Partitions]:
    given_up = [] if lost is None else lost
    async with fold_pool(settings.dsn, "test", 2) as pool:
        folder = ChunkFolder(
            pool,
            partitions,
            0.5,
            on_lost=lambda partition, fenced: given_up.append((partition, fenced)),
            on_hopeless=fail,
            on_transfers=lambda: None,
        )
        lanes = Partitions(pool, folder, "test")
        try:
            yield lanes
        finally:
            await lanes.stop()


async def wait_until_blocked(settings: Settings) -> None:
    """Wait until some session of the test's database waits for a lock."""
    text = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    assert await asyncio.to_thread(wait_until, lambda: query(settings, text) != [(0,)], HANG_S)


def kill(settings: Settings, pid: int) -> bool:
    """End a session of PostgreSQL as an administrator, a network or a crash would."""
    return bool(query(settings, "SELECT pg_terminate_backend(%s, 120000)", (pid,))[0][0])
