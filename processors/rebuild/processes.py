"""Folds the log into a generation with a process for each core, one partition after the other in each.

Owns the processes and what becomes of them when one fails, or the one that started them dies. How far the fold is, is
read from PostgreSQL by whoever wants to know: only what is committed there counts.
"""

import asyncio
import gc
import multiprocessing
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from creditfold.common.errors import CreditfoldError
from creditfold.ledger import UnknownRulesError
from creditfold.log import batch_reader
from creditfold.processors.rebuild.partition import PartitionRebuild, RebuildJob
from creditfold.projections.connections import fold_pool
from creditfold.projections.failures import explained
from creditfold.projections.generations.indexes import index_ids
from creditfold.projections.sessions import REBUILD
from creditfold.projections.store.account_loader import UnindexedError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    # Generic for the type checker only.
    Pipe: TypeAlias = Connection[Any, Any]

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[TupleRow]]

#: How often `on_tick` is called, in seconds.
TICK_EVERY_S = 0.25

ORPHAN_CHECK_S = 0.5

#: By how much a process that folds in bulk steps back behind others.
NICENESS = 10

#: A turn, which whichever process reads it next takes: a partition's place in the order, or that there is none left.
_TURN = struct.Struct("=H")
_NONE_LEFT = 2**16 - 1


class RebuildError(CreditfoldError):
    """A fold into a generation ended early. What is committed stays."""


class Failure(NamedTuple):
    """Why a process ended early, in words that can be sent to another one."""

    message: str
    remedy: str


class ProcessTask(NamedTuple):
    """What a process is to do: the job, and its partitions in the order of their turns."""

    job: RebuildJob
    dsn: str
    order: list[int]


class FoldProcesses:
    """Processes that fold one job together. They start at once, wait for it, and are ended with the block.

    Args:
        processes: how many.
    """

    def __init__(self, processes: int) -> None:
        context: Any = multiprocessing.get_context("fork" if _can_fork() else "spawn")
        # A number that they share would be a file in /dev/shm or a temporary folder, and neither may be writable.
        taken, self._turns = context.Pipe(duplex=False)
        self._running: dict[BaseProcess, Pipe] = {}
        try:
            with _signals_held():
                for _ in range(processes):
                    ours, theirs = context.Pipe()
                    process = context.Process(target=_work, args=(os.getpid(), taken, theirs))
                    process.start()
                    theirs.close()
                    self._running[process] = ours
        except BaseException:
            _end(self._running)
            raise
        finally:
            taken.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._turns.close()
        _end(self._running)

    def fold(self, job: RebuildJob, dsn: str, on_tick: Callable[[], None]) -> None:
        """Fold every partition of a job to its end. Only once, inside the block.

        Args:
            job: what to fold, and where to.
            dsn: PostgreSQL.
            on_tick: called every TICK_EVERY_S seconds; what it raises ends the fold.

        Raises RebuildError when a process fails.
        """
        # The largest first, so that the last ones to end are short.
        order = sorted(job.ends, key=lambda partition: -job.ends[partition])
        running = self._running
        if not running:
            raise RuntimeError("These processes have folded already.")
        # More would only open connections.
        for process in list(running)[len(order) :]:
            _end({process: running.pop(process)})
        for pipe in running.values():
            # One that has died already is reported below.
            with suppress(BrokenPipeError, ConnectionResetError):
                pipe.send(ProcessTask(job, dsn, order))
        _write_turns(self._turns, len(order), len(running))
        while running:
            wait([process.sentinel for process in running], TICK_EVERY_S)
            on_tick()
            for process in [process for process in running if not process.is_alive()]:
                _refuse_failure(process, running.pop(process))


@contextmanager
def fold_processes_at_once(processes: int) -> Iterator[FoldProcesses | None]:
    """Processes for the block, which may not need them, where they start in moments; None elsewhere."""
    if not _can_fork():
        yield None
        return
    with FoldProcesses(processes) as started:
        yield started


def _can_fork() -> bool:
    """Whether a copy of this process would be whole: threads, also those of libraries, are left out of one."""
    # Linux alone shows all of them, where it is let.
    with suppress(OSError):
        return len(os.listdir("/proc/self/task")) == 1
    return False


@contextmanager
def _signals_held() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM wait until each process that is started meanwhile can be ended with this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fold_here(job: RebuildJob, dsn: str) -> None:
    """Fold every partition of a job to its end in this process. Raises RebuildError."""
    try:
        asyncio.run(_fold_each(job, job.ends, dsn, "creditfold rebuild"))
    except Exception as error:
        failure = _explained(error)
        raise RebuildError(failure.message, failure.remedy) from error


async def _fold_each(job: RebuildJob, partitions: Iterable[int], dsn: str, application: str) -> None:
    """Fold partitions one after the other, on sessions of this name.

    Not two at a time: while PostgreSQL writes the one, the core is PostgreSQL's, and two would share one's cache.
    """
    turns = iter(partitions)
    async with fold_pool(dsn, application, 3, REBUILD) as pool:
        upcoming = asyncio.create_task(_next(job, turns, pool))
        try:
            while (rebuild := await upcoming) is not None:
                upcoming = asyncio.create_task(_next(job, turns, pool, rebuild))
                await _fold(rebuild, job, pool)
        finally:
            upcoming.cancel()
            for begun in await asyncio.gather(upcoming, return_exceptions=True):
                if isinstance(begun, PartitionRebuild):
                    await begun.end()


async def _next(
    job: RebuildJob, turns: Iterator[int], pool: Pool, behind: PartitionRebuild | None = None
) -> PartitionRebuild | None:
    """Begin with the partition whose turn it is, when one before it is fetched: then its first records are there."""
    if behind is not None:
        await behind.fetched()
    partition = next(turns, None)
    return None if partition is None else await _begun(job, partition, pool)


async def _begun(job: RebuildJob, partition: int, pool: Pool) -> PartitionRebuild:
    rebuild = PartitionRebuild(job, partition, pool)
    await rebuild.begin(f"rebuild {os.getpid()}")
    return rebuild


async def _fold(rebuild: PartitionRebuild, job: RebuildJob, pool: Pool) -> None:
    """Fold what was begun; where it has to look a command up, make what it is found by, and begin again."""
    try:
        await rebuild.run()
        return
    except UnindexedError:
        pass
    # A command that came before or is about another, a batch, or records of which more was made than a transaction may
    # hold, whose ids were noted already. From here on the index is kept, which takes longer.
    async with pool.connection() as connection:
        await index_ids(connection, job.generation)
    again = await _begun(job, rebuild.partition, pool)
    await again.run()


def _refuse_failure(process: BaseProcess, pipe: "Pipe") -> None:
    process.join()
    failure = None
    with suppress(EOFError, OSError):
        failure = pipe.recv() if pipe.poll() else None
    pipe.close()
    if failure is not None:
        raise RebuildError(failure.message, failure.remedy)
    if process.exitcode:
        raise RebuildError(f"A fold process ended with code {process.exitcode}.", "What is folded stays.")


def _end(running: Mapping[BaseProcess, "Pipe"]) -> None:
    for process in running:
        process.terminate()
    for process, pipe in running.items():
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
        pipe.close()


def _work(parent: int, turns: "Pipe", pipe: "Pipe") -> None:
    """Wait for a task, then take partitions by turn and fold each, until there are none left."""
    # Ctrl-C, which reaches every process of a terminal, stays blocked: the parent says what becomes of it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    # The live fold, and whoever else wants the processor, goes first.
    os.nice(NICENESS)
    # Records make no cycles, and looking for some among a chunk's tuples takes a tenth of the time.
    gc.disable()
    batch_reader.prepare()
    try:
        while not pipe.poll(ORPHAN_CHECK_S):
            if os.getppid() != parent:
                return
        task: ProcessTask = pipe.recv()
    except EOFError:
        return  # Whoever started this is gone.
    try:
        asyncio.run(_fold_all(task, turns, parent))
    except BaseException as error:
        pipe.send(_explained(error))
        sys.exit(1)


def _explained(error: BaseException) -> Failure:
    if isinstance(error, CreditfoldError):
        return Failure(error.message, error.remedy)
    if isinstance(error, UnknownRulesError):
        return Failure(
            f"The log goes over to rules {error.args[0]}, which this release doesn't have.", "Use one that has them."
        )
    known = explained(error)
    if known is not None:
        return Failure(known.message, f"{known.remedy} What is folded stays.")
    if isinstance(error, psycopg.Error):
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Failure(f"PostgreSQL ended the fold: {first}.", "What is folded stays.")
    return Failure(f"The fold failed: {error!r}.", "What is folded stays; if it fails again, it is a defect.")


async def _fold_all(task: ProcessTask, turns: "Pipe", parent: int) -> None:
    watch = asyncio.create_task(_end_with(parent))
    await _fold_each(task.job, _turns(task.order, turns), task.dsn, f"creditfold rebuild {os.getpid()}")
    watch.cancel()


def _write_turns(turns: "Pipe", partitions: int, processes: int) -> None:
    """Write down a turn for each partition, and for each process that there are none left."""
    # Without the connection's own framing: each is taken by one read, whichever process reads.
    left = b"".join(_TURN.pack(number) for number in (*range(partitions), *(_NONE_LEFT for _ in range(processes))))
    # Nobody reads any more where all have died, which is reported elsewhere.
    with suppress(BrokenPipeError):
        while left:
            left = left[os.write(turns.fileno(), left) :]


def _turns(order: Sequence[int], turns: "Pipe") -> Iterator[int]:
    """The partitions whose turn it is when this process asks, until there are none left."""
    while taken := os.read(turns.fileno(), _TURN.size):
        (number,) = _TURN.unpack(taken)
        if number == _NONE_LEFT:
            return
        yield order[number]


async def _end_with(parent: int) -> None:
    """End at once when the parent is gone: nobody would show how far this is, or stop it."""
    while os.getppid() == parent:  # noqa: ASYNC110 - Nothing signals to a process that its parent has died.
        await asyncio.sleep(ORPHAN_CHECK_S)
    os._exit(1)
