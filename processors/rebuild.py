"""Folds the log into a generation with a process for each core, one partition after the other in each.

Owns the processes and what becomes of them when one fails, or the one that started them dies. How far the fold is, is
read from PostgreSQL by whoever wants to know: only what is committed there counts.
"""

import asyncio
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import psycopg

from creditfold.ledger import UnknownRulesError
from creditfold.processors.replay import Job, Replay
from creditfold.projections.connections import REBUILD_OPTIONS, fold_pool, is_outage, no_room
from creditfold.schemas.errors import CreditfoldError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    # Generic for the type checker only.
    Pipe: TypeAlias = Connection[Any, Any]

#: How often the caller is told that time has passed, in seconds.
TELL_EVERY_S = 0.25

ORPHAN_CHECK_S = 0.5

#: By how much a process that folds in bulk steps back behind others.
NICENESS = 10


class RebuildError(CreditfoldError):
    """A fold into a generation ended early. What is committed stays."""


class Failure(NamedTuple):
    """Why a process ended early, in words that can be sent to another one."""

    message: str
    remedy: str


class Task(NamedTuple):
    """What a process is to do: the job, its partitions in the order of their turns, and the process that started it."""

    job: Job
    dsn: str
    order: list[int]
    parent: int


def fold_into(job: Job, dsn: str, processes: int, on_tick: Callable[[], None]) -> None:
    """Fold every partition of a job to its end.

    Args:
        job: what to fold, and where to.
        dsn: PostgreSQL.
        processes: at most so many, and no more than there are partitions.
        on_tick: called every TELL_EVERY_S seconds; what it raises ends the fold.

    Raises RebuildError when a process fails; the others are ended then.
    """
    context = multiprocessing.get_context("spawn")
    # The largest first, so that the last ones to end are short.
    order = sorted(job.ends, key=lambda partition: -job.ends[partition])
    turn = context.Value("i", 0)
    running: dict[BaseProcess, Pipe] = {}
    process: BaseProcess
    try:
        for _ in range(max(1, min(processes, len(order)))):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(Task(job, dsn, order, os.getpid()), turn, theirs))
            process.start()
            theirs.close()
            running[process] = ours
        while running:
            wait([process.sentinel for process in running], TELL_EVERY_S)
            on_tick()
            for process in [process for process in running if not process.is_alive()]:
                _refuse_failure(process, running.pop(process))
    finally:
        _end(running)


def fold_here(job: Job, dsn: str) -> None:
    """Fold every partition of a job to its end in this process. Raises RebuildError."""
    try:
        asyncio.run(_fold_each(job, job.ends, dsn, "creditfold rebuild"))
    except Exception as error:
        failure = _explained(error)
        raise RebuildError(failure.message, failure.remedy) from error


async def _fold_each(job: Job, partitions: Iterable[int], dsn: str, application: str) -> None:
    """Fold partitions one after the other, on sessions of this name.

    Not two at a time: while PostgreSQL writes the one, the core is PostgreSQL's, and two would share one's cache.
    """
    async with fold_pool(dsn, application, 3, REBUILD_OPTIONS) as pool:
        for partition in partitions:
            await Replay(job, partition, pool).run(f"rebuild {os.getpid()}")


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


def _work(task: Task, turn: Any, pipe: "Pipe") -> None:
    """Take partitions by turn and fold each, until there are none left."""
    # Ctrl-C reaches every process of a terminal; the parent says what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The live fold, and whoever else wants the processor, goes first.
    os.nice(NICENESS)
    # Records make no cycles, and looking for some among a chunk's tuples takes a tenth of the time.
    gc.disable()
    try:
        asyncio.run(_fold_all(task, turn))
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
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    full = no_room(error)
    if full is not None:
        return Failure(full.message, full.remedy)
    if is_outage(error) or isinstance(error, psycopg.Error):
        return Failure(f"PostgreSQL ended the fold: {first}.", "What is folded stays.")
    return Failure(f"The fold failed: {error!r}.", "What is folded stays; if it fails again, it is a defect.")


async def _fold_all(task: Task, turn: Any) -> None:
    watch = asyncio.create_task(_end_with(task.parent))
    await _fold_each(task.job, _turns(task.order, turn), task.dsn, f"creditfold rebuild {os.getpid()}")
    watch.cancel()


def _turns(order: Sequence[int], turn: Any) -> Iterator[int]:
    """The partitions whose turn it is when this process asks, until there are none left."""
    while True:
        with turn.get_lock():
            number, turn.value = turn.value, turn.value + 1
        if number >= len(order):
            return
        yield order[number]


async def _end_with(parent: int) -> None:
    """End at once when the parent is gone: nobody would tell how far this is, or stop it."""
    while os.getppid() == parent:  # noqa: ASYNC110 - Nothing tells a process that its parent has died.
        await asyncio.sleep(ORPHAN_CHECK_S)
    os._exit(1)
