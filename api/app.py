"""The application: every route, the answers of errors, and what is opened and closed with it."""

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from creditfold.api import (
    account_lists,
    accounts,
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
)
from creditfold.api.body import SmallBodies
from creditfold.api.metrics import MeasuredRequests, Metrics
from creditfold.api.requests import PlainRequests, checked
from creditfold.api.routes import Direct
from creditfold.api.service import Service
from creditfold.common.settings import Settings, load_settings

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII).fullmatch

#: The headers that a page of another origin may send, where it may ask at all, and those that it may look at.
_SENT = (
    *("Authorization", "Content-Type", "Creditfold-Why", "Idempotency-Key", "If-None-Match", "Last-Event-ID"),
    *("Prefer", "X-Request-ID"),
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
    *(reference, metrics),
)


def create_app(settings: Settings | None = None, *, is_open: bool = False) -> FastAPI:
    """Make the application that `creditfold serve` runs.

    Args:
        settings: where Kafka and PostgreSQL are; the environment's if not given.
        is_open: whether requests without a key may do everything. For a machine of one's own.

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
    measured = Metrics()

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
        dependencies=[Depends(checked)],
        # A redirect would go to wherever the header Host says, and take the key along.
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        # It would look for a collector at each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    for module in _MODULES:
        app.include_router(module.router)
    app.router.routes.insert(0, Direct(route for module in _MODULES for route in module.router.routes))
    app.state.metrics = measured
    problems.install(app)
    app.add_middleware(SmallBodies)
    app.add_middleware(PlainRequests)
    app.add_middleware(MeasuredRequests, metrics=measured)
    app.add_middleware(RequestIds)
    if chosen.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=chosen.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=_SENT,
            expose_headers=_SHOWN,
        )
    openapi.complete(app)
    return app


class RequestIds:
    """Gives each request an id, its sender's if that is a plain one, and says it in the answer.

    So it does with the header fields of the request's rate limit.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        request_id = given if _REQUEST_ID(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {"x-request-id": request_id, **scope["state"].get("headers", {})}
                message["headers"] = [*message["headers"], *((k.lower().encode(), v.encode()) for k, v in own.items())]
            await send(message)

        await self._app(scope, receive, answer)
