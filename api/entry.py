"""What each request passes on its way to its route, and its answer on the way back, in one step.

Owns the order: the request's id, then the metrics, then what has no one meaning, then the body where it is small, then
the route. Each of these knows only itself. Knows no route.
"""

import re
import uuid
from collections.abc import Iterable

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from creditfold.api.body import SmallBodies
from creditfold.api.metrics import FOR_METRICS, Metrics, Watch, answer_alone
from creditfold.api.problems import ProblemError, answer, answer_to
from creditfold.api.requests import make_plain
from creditfold.api.routes import Direct

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII).fullmatch


class Entry:
    """Where requests come in.

    Args:
        app: has the routes that aren't direct, and answers for those that there aren't.
        metrics: of the application.
        direct: the routes that are called most.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, direct: Direct) -> None:
        self._app = app
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
        try:
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
                watch.see_head(message["status"])
            state = scope["state"]
            fields = [(b"x-request-id", state["request_id"].encode())]
            if "headers" in state:
                fields += _encoded(state["headers"].items())
            message["headers"] = [*message["headers"], *fields]
        await send(message)

    return answered


def _encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in fields]
