"""Runs a worker: waits for Kafka and PostgreSQL, prepares the projection, folds until it is told to stop."""

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TypeVar, cast

import structlog
from faust import Worker
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random

from creditfold.processors.app import FoldApp, create_app
from creditfold.processors.heartbeat import Heart, Signs
from creditfold.projections.failures import PostgresUnavailableError
from creditfold.projections.setup import prepare
from creditfold.schemas.errors import CreditfoldError
from creditfold.schemas.position import Log
from creditfold.stack.core import running_core
from creditfold.stack.settings import Settings
from creditfold.stack.topics import KafkaUnavailableError, describe_topic, topic_problems

T = TypeVar("T")

#: A worker that is told to stop ends within this time, in seconds. What it writes has GRACE_S of it.
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


def end_now() -> None:
    """End the process, which was told to stop and has nothing left to lose."""
    log.warning("the stop took too long and is cut short", seconds=STOP_WITHIN_S)
    os._exit(0)


def run_worker(settings: Settings, *, json_logs: bool = False, verbose: bool = False) -> NoReturn:
    """Fold the command topic until SIGTERM or SIGINT, then exit with 0.

    Raises LogChangedError or TopicMissingError when there is nothing right to fold, WorkerFailedError when the fold
    can't go on. An outage of Kafka or PostgreSQL is waited for, at the start as later.
    """
    configure_logging(json_logs=json_logs, verbose=verbose)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    signs = Signs()
    with Heart(settings.dsn, "worker", signs):
        ledger_log = wait_until_ready(settings, signs)
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
        try:
            worker.execute_from_commandline()
        except CreditfoldError:
            raise
        except Exception as error:
            raise WorkerFailedError(
                f"The worker failed: {error!r}.", "Start it again; it goes on where it was."
            ) from error


def wait_until_ready(settings: Settings, signs: Signs) -> Log:
    """Wait for Kafka and PostgreSQL, and bind the projection to the topic, making its tables where they are missing."""
    return when_available(settings, lambda: _bind(settings), signs)


def when_available(settings: Settings, question: Callable[[], T], signs: Signs) -> T:
    """Ask again, with growing pauses, for as long as Kafka or PostgreSQL is away, and let the signs show it."""

    def say_why(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        why = error.message if isinstance(error, CreditfoldError) else str(error)
        signs.waits_for("Kafka" if isinstance(error, KafkaUnavailableError) else "PostgreSQL", why)
        log.warning("waiting", why=why)

    retrying = Retrying(
        wait=wait_exponential(multiplier=0.2, max=settings.retry_max_s) + wait_random(0, 0.1),
        retry=retry_if_exception_type((KafkaUnavailableError, PostgresUnavailableError)),
        before_sleep=say_why,
        reraise=True,
    )
    answer = retrying(question)
    signs.found("Kafka")
    signs.found("PostgreSQL")
    return answer


def _bind(settings: Settings) -> Log:
    topic = describe_topic(settings)
    for problem in topic_problems(topic, settings.model_copy(update={"partitions": topic.partitions})):
        log.warning("the topic is unsafe", topic=topic.name, problem=problem)
    prepare(settings.dsn, topic.log)
    return topic.log


def configure_logging(*, json_logs: bool, verbose: bool) -> None:
    """Send every log line to standard error: for people, or one JSON object a line."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Processor] = [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]
    if json_logs:
        last = [
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.addFilter(OnceInAWhile())
    logging.basicConfig(handlers=[handler], level=logging.INFO if verbose else logging.WARNING, force=True)
    logging.getLogger("creditfold").setLevel(logging.INFO)
    # The lanes say the same, once, and with what they do about it.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


class OnceInAWhile(logging.Filter):
    """Lets a library's line through once in ten seconds: an outage makes aiokafka write a hundred a second."""

    EVERY_S = 10.0

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to write a line; ours all are."""
        if record.name.startswith("creditfold."):
            return True
        # The template and not the text, which holds ids and times. Libraries have a bounded number of those.
        key = (record.name, str(record.msg))
        if record.created - self._last.get(key, 0.0) < self.EVERY_S:
            return False
        self._last[key] = record.created
        return True


def leave(signum: int, frame: FrameType | None) -> None:
    """End a process that has nothing under way yet; a signal's handler."""
    raise SystemExit(0)
