"""A rebuild, a comparison or an activation that somebody began over HTTP, in a process of its own.

Owns how it records how far it is and what came of it, that it ends early when somebody wants it to, and that it goes
behind whoever else wants the processor. How it is started is processors/operations.py's, what is recorded of it
projections/access's, what is done that of the other modules here.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from creditfold.common.errors import CreditfoldError
from creditfold.common.logging import configure_logging
from creditfold.common.settings import Settings
from creditfold.processors.operations import ACTIVATE, DIFF, REBUILD, VERIFY
from creditfold.processors.rebuild import documents, steps
from creditfold.processors.rebuild.processes import NICENESS, FoldProcesses, fold_processes_at_once
from creditfold.processors.rebuild.verify import diff, verify
from creditfold.projections.access.operations import (
    Operation,
    is_to_end,
    record_end,
    record_generation,
    record_progress,
    running,
)
from creditfold.projections.connections import connected, pinned
from creditfold.projections.generations.removal import drop_leftovers

#: Seconds between two records of how far an operation is.
RECORD_EVERY_S = 0.5
#: Seconds between two looks whether somebody wants it to end early.
LOOK_EVERY_S = 0.5


class _Recorder:
    """Observes a fold, and records now and then how far it is."""

    def __init__(self, connection: Connection[TupleRow], number: int) -> None:
        self._connection = connection
        self._number = number
        self._step, self._total, self._next = "", 0, 0.0

    def begin(self, step: str, done: int, total: int) -> None:
        """A step begins."""
        self._step, self._total, self._next = step, total, 0.0
        self.report(done)

    def report(self, done: int) -> None:
        """The step has `done` records behind it."""
        if (now := time.monotonic()) >= self._next or done >= self._total:
            self._next = now + RECORD_EVERY_S
            record_progress(self._connection, self._number, self._step, done, self._total)


class Work(NamedTuple):
    """What the kinds of operations share: the settings, the operation, and where it records itself."""

    settings: Settings
    operation: Operation
    connection: Connection[TupleRow]
    observer: steps.ProgressObserver
    started: FoldProcesses | None

    def record_generation(self, number: int) -> None:
        """Record which generation is made."""
        record_generation(self.connection, self.operation.number, number)


def run(settings: Settings, number: int, processes: int) -> None:
    """Do an operation that was begun, and record what came of it. Where this is killed, it was interrupted.

    Args:
        settings: where the servers are.
        number: of the operation.
        processes: that fold at a time, for a rebuild; else 0.
    """
    # The processes before there is a thread or a connection here.
    with (
        fold_processes_at_once(processes) if processes else nullcontext() as started,
        pinned(settings.dsn, "creditfold operation") as connection,
        running(connection, number) as operation,
    ):
        if operation.kind != ACTIVATE:
            # Readers and the live fold go first; at the end of an activation the latter stands still.
            os.nice(NICENESS)
        work = Work(settings, operation, connection, _Recorder(connection, number), started)
        record_end(connection, number, **_outcome(work))


def _outcome(work: Work) -> dict[str, Any]:
    """What an operation comes to, as `record_end` takes it: a result, an error in words, or that it ended early."""
    result = None
    try:
        with _ended_early(work):
            result = _KINDS[work.operation.kind](work, work.operation.parameters)
    except KeyboardInterrupt:
        # It may have come when all was done.
        return {"result": result, "is_cancelled": result is None}
    except CreditfoldError as error:
        return {"error": {"code": error.error_code, "message": error.message, "remedy": error.remedy}}
    except Exception as error:
        if work.connection.closed:
            # Nothing can be recorded, and so it was interrupted.
            raise
        traceback.print_exc()
        message = f"The operation failed by a defect: {type(error).__name__}."
        return {"error": {"code": "internal_error", "message": message, "remedy": "Report it, with the server's log."}}
    return {"result": result}


@contextmanager
def _ended_early(work: Work) -> Iterator[None]:
    """End the block as Ctrl-C ends a command, by KeyboardInterrupt, when somebody wants the operation to end early."""
    # Whoever started the server in the background may have had the signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    has_ended = threading.Event()
    arguments = (work.settings.dsn, work.operation.number, threading.main_thread().ident, has_ended)
    thread = threading.Thread(target=_look, args=arguments, name="cancellation", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        # A signal that was on its way has come by then.
        thread.join()


def _look(dsn: str, number: int, main_thread: int, has_ended: threading.Event) -> None:
    """Look over and over whether an operation is to end early, and interrupt the main thread then, once."""
    # So that each signal waits where the main thread has it wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while not has_ended.wait(LOOK_EVERY_S):
        # Where PostgreSQL is away the operation ends by that, or goes on with the next look.
        with suppress(CreditfoldError), connected(dsn, "creditfold operation") as connection:
            while not has_ended.is_set():
                if is_to_end(connection, number):
                    signal.pthread_kill(main_thread, signal.SIGINT)
                    return
                has_ended.wait(LOOK_EVERY_S)


def _rebuild(work: Work, given: Mapping[str, Any]) -> dict[str, Any]:
    offsets = given["until_offsets"]
    request = steps.Request(
        given["resume"],
        until_ms=given["until_ms"],
        until_offsets=None if offsets is None else {int(partition): offset for partition, offset in offsets.items()},
        tablespace=given["tablespace"],
        processes=given["processes"],
        note=given["note"],
        most_per_s=given["rate"],
    )
    done = steps.rebuild(work.settings, request, work.observer, work.record_generation, work.started)
    return documents.of_generation(done)


def _verify(work: Work, given: Mapping[str, Any]) -> dict[str, Any]:
    drop_leftovers(work.connection)
    return documents.of_comparison(verify(work.settings, given["left"], given["right"], given["limit"], work.observer))


def _activate(work: Work, given: Mapping[str, Any]) -> dict[str, Any]:
    options = steps.ActivationOptions(given["accept_differences"], given["log_replaced"], work.operation.why)
    return documents.of_switch(steps.activate(work.settings, given["generation"], options, work.observer))


def _diff(work: Work, given: Mapping[str, Any]) -> dict[str, Any]:
    drop_leftovers(work.connection)
    return documents.of_diff(diff(work.settings, given["rules"], given["limit"], work.observer))


_KINDS: Mapping[str, Callable[[Work, Mapping[str, Any]], dict[str, Any]]] = {
    REBUILD: _rebuild,
    VERIFY: _verify,
    ACTIVATE: _activate,
    DIFF: _diff,
}


def main() -> None:
    """Do the operation that standard input names; none where the server was killed before it wrote that."""
    if not (given := sys.stdin.read()):
        return
    order = json.loads(given)
    configure_logging(json_logs=True, verbose=False)
    try:
        run(Settings(**order["settings"]), order["operation"], order["processes"])
    except CreditfoldError as error:
        sys.exit(f"operation {order['operation']}: {error}")


if __name__ == "__main__":
    main()
