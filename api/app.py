"""The application: every route, the answers of errors, and what is opened and closed with it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from creditfold.api import (
    account_lists,
    accounts,
    alert_rules,
    books,
    bulk,
    command_outcome,
    commands,
    dead_letters,
    ended,
    expiring,
    generations,
    graphql,
    hours,
    journal,
    keys,
    log_record,
    metrics,
    openapi,
    operation,
    operations,
    outcomes,
    problems,
    reference,
    rules,
    search,
    statement,
    trace,
    webhooks,
)
from creditfold.api.entry import Entry
from creditfold.api.metrics import Metrics
from creditfold.api.routes import Direct
from creditfold.api.service import Service
from creditfold.common.settings import Settings, load_settings
from creditfold.processors.ledger_metrics import LedgerMetrics

#: The headers that a page of another origin may send, where it may ask at all, and those that it may look at.
_SENT = (
    *("Authorization", "Content-Type", "Creditfold-Why", "Idempotency-Key", "If-None-Match", "Last-Event-ID"),
    *("Prefer", "Traceparent", "X-Request-ID"),
)
_SHOWN = (
    *("Creditfold-Complete-To", "Creditfold-Count", "Creditfold-Generation", "Creditfold-Position", "ETag"),
    *(
        "Idempotency-Replayed",
        "Location",
        "Preference-Applied",
        "RateLimit",
        "RateLimit-Policy",
        "Retry-After",
        "X-Request-ID",
    ),
)


#: Those that have routes.
_MODULES = (
    *(commands, command_outcome, bulk, search, accounts, account_lists, trace, statement, expiring, ended, hours),
    *(journal, books, outcomes, graphql, keys, dead_letters, log_record, generations, rules, operations, operation),
    *(webhooks, alert_rules, reference, metrics),
)


def create_app(
    settings: Settings | None = None, *, is_open: bool = False, install: Callable[[FastAPI], None] | None = None
) -> FastAPI:
    """Make the application that `creditfold serve` runs.

    Args:
        settings: where Kafka and PostgreSQL are; the environment's if not given.
        is_open: whether requests without a key may do everything. For a machine of one's own.
        install: adds what a browser shows (`creditfold.console.app.install`); None for the door alone.

    Returns:
        An application for an ASGI server.

    Raises:
        InvalidSettingError: a setting is bad.

    Example:
        >>> app = create_app(settings)
        >>> app.openapi()["openapi"]
        '3.1.0'
    """
    chosen = load_settings() if settings is None else settings
    measured = Metrics([LedgerMetrics(chosen)])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Made here: a producer belongs to the event loop that uses it.
        service = app.state.service = Service(chosen, measured, is_open=is_open)
        await service.open()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="creditfold",
        version="1",
        summary="A ledger for closed virtual currencies: append, read, preview and follow.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/", "description": "The door that serves this document."}],
        openapi_tags=[{"name": name, "description": what} for name, what in openapi.TAGS.items()],
        lifespan=lifespan,
        # A redirect would go to wherever the header Host says, and take the key along.
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        # It would look for a collector at each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    for module in _MODULES:
        module.router.add_to(app)
    app.state.metrics = measured
    if install is not None:
        install(app)
    problems.install(app)
    direct = Direct(route for module in _MODULES for route in module.router.routes)
    app.add_middleware(Entry, metrics=measured, direct=direct, logs=chosen.api_log_requests)
    if chosen.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=chosen.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
            allow_headers=_SENT,
            expose_headers=_SHOWN,
        )
    openapi.complete(app)
    return app
