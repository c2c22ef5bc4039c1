"""Runs a worker: waits for Kafka and PostgreSQL, prepares the projection, folds until it is stopped."""

import asyncio
import gc
import os
import signal
import threading
from typing import NoReturn, cast

import structlog
from faust import Worker

from creditfold.common.core import running_core
from creditfold.common.errors import CreditfoldError
from creditfold.common.logging import configure_logging
from creditfold.common.settings import Settings
from creditfold.common.spans import SPANS
from creditfold.log.rights import READ, WRITE, refuse_missing_rights
from creditfold.processors.exposition import exposed
from creditfold.processors.heartbeat import Heart, Signs
from creditfold.processors.startup import leave, wait_until_ready, when_available
from creditfold.processors.worker.app import FoldApp, create_app

#: A worker that is stopped ends within this time, in seconds. What it writes has GRACE_S of it.
STOP_WITHIN_S = 12.0

#: How seldom Python looks for reference cycles by itself, as `gc.set_threshold` takes it.
GC_THRESHOLDS = (5_000_000, 20, 50)

log = structlog.get_logger()


class WorkerFailedError(CreditfoldError):
    """The worker ended by itself."""


class BoundedWorker(Worker):
    """Faust's worker, which ends in time after a signal, whatever Faust or aiokafka wait for.

    A join waits for members that are gone until their sessions have run out. Ending in the middle is safe: the offset
    is in PostgreSQL, in one transaction with what was folded.
    """

    def _schedule_shutdown(self, signal: signal.Signals) -> None:
        timer = threading.Timer(STOP_WITHIN_S, end_now)
        timer.daemon = True  # A stop in time doesn't wait for it.
        timer.start()
        cast(FoldApp, self.app).signs.end()
        super()._schedule_shutdown(signal)

    async def _sentinel_task(self) -> None:
        # Faust waits a second, once all is stopped. What closes its connection does so in the loop's next turns.
        for _ in range(10):
            await asyncio.sleep(0)


def end_now() -> None:
    """End the process, which was stopped and has nothing left to lose."""
    log.warning("the stop took too long and is cut short", seconds=STOP_WITHIN_S)
    os._exit(0)


def run_worker(settings: Settings, *, json_logs: bool = False, verbose: bool = False) -> NoReturn:
    """Fold the command topic until SIGTERM or SIGINT, then exit with 0.

    Raises LogChangedError or TopicMissingError when there is nothing right to fold, MissingRightError where Kafka
    doesn't let this user, WorkerFailedError when the fold can't go on. An outage of Kafka or PostgreSQL is waited for,
    at the start as later.
    """
    configure_logging(json_logs=json_logs, verbose=verbose)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    signs = Signs()
    with Heart(settings.dsn, "worker", signs), SPANS.sent("worker", settings.otlp_endpoint):
        ledger_log = wait_until_ready(settings, signs)
        needed = {ledger_log.topic: (READ, WRITE)}
        when_available(settings, lambda: refuse_missing_rights(settings, needed, settings.group), signs)
        app = create_app(settings, ledger_log, signs)
        core = running_core()
        log.info(
            "worker starts",
            owner=app.owner,
            topic=ledger_log.topic,
            partitions=ledger_log.partitions,
            core=core.name,
        )
        if core.warning:
            log.warning(core.warning)
        # The chunks in work are millions of tuples, dropped all at once and without cycles; looking for some takes up
        # to a quarter of the time. The app looks now and then. What start-up left need never be looked at again.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        worker = BoundedWorker(app, quiet=True, redirect_stdouts=False, override_logging=False)
        worker.spinner = None  # It draws on standard output even when quiet.
        meter = app.partitions.folder.meter
        try:
            with exposed([meter], settings.metrics_at("worker"), "worker_metrics_address"):
                worker.execute_from_commandline()
        except CreditfoldError:
            raise
        except Exception as error:
            raise WorkerFailedError(
                f"The worker failed: {error!r}.", "Start it again; it goes on where it was."
            ) from error
