"""How a long-running process logs: for people, or one JSON object a line. Knows no event."""

import logging
import sys

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor


def configure_logging(*, json_logs: bool, verbose: bool) -> None:
    """Send every log line to standard error: for people, or one JSON object a line."""
    shared: list[Processor] = [
        # What is known of all that is done just now, such as the request that it is done for.
        structlog.contextvars.merge_contextvars,
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
    # Whoever uses the pool logs that once, with what it does about it.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


class OnceInAWhile(logging.Filter):
    """Lets a library's line through once in ten seconds: an outage makes aiokafka write a hundred a second."""

    EVERY_S = 10.0

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a line; all of ours are written."""
        if record.name.startswith("creditfold."):
            return True
        # The template and not the text, which holds ids and times. Libraries have a bounded number of those.
        key = (record.name, str(record.msg))
        if record.created - self._last.get(key, 0.0) < self.EVERY_S:
            return False
        self._last[key] = record.created
        return True
