"""What each request passes on its way to its route, and its answer on the way back, in one step.

Owns the order: the request's id, then the metrics, then the context of its trace, then what has no one meaning, then
the body where it is small, then the route. Each of these knows only itself. Knows no route.
"""

import re
import uuid
from collections.abc import Iterable, Mapping

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from creditfold.api.body import SmallBodies
from creditfold.api.metrics import FOR_METRICS, NO_ROUTE, Metrics, Watch, answer_alone, route_of
from creditfold.api.problems import ProblemError, answer, answer_to
from creditfold.api.requests import make_plain
from creditfold.api.routes import Direct
from creditfold.common.spans import SPANS, Span
from creditfold.common.trace_context import trace_context, trace_id_of, traceparent_of

log = structlog.get_logger()

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII).fullmatch


class Entry:
    """Where requests come in.

    Args:
        app: has the routes that aren't direct, and answers for those that there aren't.
        metrics: of the application.
        direct: the routes that are called most.
        logs: whether each request is logged.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, direct: Direct, *, logs: bool) -> None:
        self._app = app
        self._logs = logs
        self._metrics = metrics
        self._direct = direct
        self._routed = SmallBodies(self._route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if identified(scope).get(FOR_METRICS):
            await (await answer_alone(scope, self._metrics))(scope, receive, sending(scope, send))
            return
        watch = self._metrics.begin()
        send = sending(scope, send, watch)
        span = SPANS.begin(scope["method"], "server", traceparent_of(scope["headers"]))
        known = _known_of(scope, span)
        try:
            with trace_context(span.traceparent), bound_contextvars(**known):
                try:
                    make_plain(scope)
                except ProblemError as problem:
                    await answer(Request(scope), problem)(scope, receive, send)
                else:
                    await self._routed(scope, receive, send)
        except Exception:
            # Answered further out.
            watch.status = watch.status or 500
            raise
        finally:
            self._metrics.end(scope, watch)
            if self._logs:
                _log(known, scope, watch)
            _end(span, scope, watch)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._direct.find(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            found = await route.answer(request)
        except Exception as error:
            found = await answer_to(request, error)
        await found(scope, receive, send)


def _known_of(scope: Scope, span: Span) -> dict[str, str]:
    """What every line has that is logged while a request is served."""
    known = {"request_id": str(scope["state"]["request_id"])}
    if span.traceparent is not None:
        known["trace_id"] = trace_id_of(span.traceparent)
    return known


def _log(known: Mapping[str, str], scope: Scope, watch: Watch) -> None:
    about = dict(known)
    key = next((value.decode("utf-8", "replace") for name, value in scope["headers"] if name == b"idempotency-key"), "")
    if key:
        about["command_id"] = key
    if watch.position:
        about["position"] = watch.position
    # One whose client left before its answer has no status.
    route = route_of(scope)
    ms = round(watch.seconds * 1000, 1)
    log.info("request", method=scope["method"], route=route, status=watch.status, ms=ms, **about)


def _end(span: Span, scope: Scope, watch: Watch) -> None:
    """End a request's span, named as OpenTelemetry names those of HTTP."""
    if not span.is_kept:
        return
    route = route_of(scope)
    if route != NO_ROUTE:
        span.rename(f"{scope['method']} {route}")
        span.set("http.route", route)
    span.set("http.request.method", scope["method"])
    span.set("creditfold.request_id", str(scope["state"]["request_id"]))
    if watch.status is not None:
        span.set("http.response.status_code", watch.status)
        if watch.status >= 500:
            span.fail(f"status {watch.status}")
    span.end()


def identified(scope: Scope) -> dict[str, object]:
    """The state of a request, which is given an id: its sender's if that is a plain one."""
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
    state: dict[str, object] = scope.setdefault("state", {})
    state["request_id"] = given if _REQUEST_ID(given) else uuid.uuid4().hex
    return state


def sending(scope: Scope, send: Send, watch: Watch | None = None) -> Send:
    """What takes a request's answer: says the request's id in it, and the header fields of its rate limit."""

    async def answered(message: Message) -> None:
        if message["type"] == "http.response.start":
            if watch is not None:
                watch.see_head(message["status"], message["headers"])
            state = scope["state"]
            fields = [(b"x-request-id", state["request_id"].encode())]
            if "headers" in state:
                fields += _encoded(state["headers"].items())
            message["headers"] = [*message["headers"], *fields]
        await send(message)

    return answered


def _encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in fields]
