"""Runs a process that delivers, until it is stopped: its signals, its signs of life, its connections."""

import asyncio
import os
import signal
from contextlib import suppress

import structlog

from creditfold.common.logging import configure_logging
from creditfold.common.settings import Settings
from creditfold.common.spans import SPANS
from creditfold.delivery.asker import Asker
from creditfold.delivery.deliverer import READERS, WRITERS, Deliverer
from creditfold.delivery.metrics import DeliveryMetrics
from creditfold.processors.exposition import exposed
from creditfold.processors.heartbeat import Heart, Signs, owner_name
from creditfold.processors.startup import leave, when_available
from creditfold.projections.connections import connected, delivery_pool, outbox_pool
from creditfold.projections.delivery.reading import ends
from creditfold.projections.failures import NotPreparedError, PostgresUnavailableError

log = structlog.get_logger()


def run_delivery(settings: Settings, *, json_logs: bool = False, verbose: bool = False) -> None:
    """Deliver webhooks until SIGTERM or SIGINT. An outage of PostgreSQL is waited for, at the start as later."""
    configure_logging(json_logs=json_logs, verbose=verbose)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    signs = Signs()
    with Heart(settings.dsn, "delivery", signs), SPANS.sent("delivery", settings.otlp_endpoint):
        when_available(settings, lambda: _refuse_unprepared(settings), signs)
        application = f"creditfold delivery {os.getpid()}"
        with (
            delivery_pool(settings.dsn, application, WRITERS) as writers,
            outbox_pool(settings.dsn, f"{application} reading", READERS) as readers,
        ):
            write, read = Asker(writers, WRITERS), Asker(readers, READERS)

            def turn(state: str) -> None:
                signs.turn("loop")
                signs.state = "running"

            deliverer = Deliverer(owner_name(), settings.webhook_allowed_networks, write, read, turn)
            shown = [DeliveryMetrics(lambda: deliverer.meter.counts)]
            try:
                with exposed(shown, settings.metrics_at("delivery"), "delivery_metrics_address"):
                    asyncio.run(_until_stopped(deliverer))
            finally:
                signs.end()
                write.close()
                read.close()


def _refuse_unprepared(settings: Settings) -> None:
    """Raise PostgresUnavailableError while the tables aren't there: whoever folds makes them."""
    try:
        with connected(settings.dsn, "creditfold delivery") as connection:
            is_prepared = ends(connection) is not None
    except NotPreparedError as error:
        raise PostgresUnavailableError(error.message, error.remedy) from None
    if not is_prepared:
        raise PostgresUnavailableError("The ledger is being switched.", "It goes on by itself.")


async def _until_stopped(deliverer: Deliverer) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT):
        if task is not None:
            loop.add_signal_handler(number, task.cancel)
    log.info("delivery starts")
    with suppress(asyncio.CancelledError):
        await deliverer.run()
