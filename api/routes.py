"""The routes that are called most: found by a path's shape, and what a request doesn't say is known before it comes.

FastAPI tries one route after the other, looks for each parameter of the one that fits, and validates it, whether the
request has it or not; that takes more than what most routes do. Here a path is looked up, parameters that aren't there
get their defaults at once, and FastAPI sees the others. Knows no route.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from creditfold.api.requests import checked


class Route(APIRoute):
    """A route that makes its answer itself, and reads its body itself."""

    #: Answers a request.
    answer: Callable[[Request], Coroutine[Any, Any, Response]]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        arguments = _Arguments(self.dependant)

        async def handle(request: Request) -> Response:
            await checked(request)
            values, errors = await arguments.of(request, {})
            if errors:
                raise RequestValidationError(errors)
            answer: Response = await arguments.call(**values)
            return answer

        self.answer = handle
        return handle


class Direct(BaseRoute):
    """All routes of this kind at once: in front of the others, which get what fits none of these.

    Args:
        routes: of an application.
    """

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes: dict[tuple[str, int, str], Route] = {}
        for route in routes:
            if isinstance(route, Route):
                *_, last = parts = route.path.split("/")
                for method in route.methods or ():
                    self._routes.setdefault((method, len(parts), "" if last.startswith("{") else last), route)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether one of the routes fits a request, and what is then to be known of it."""
        if scope["type"] != "http":
            return Match.NONE, {}
        *_, last = parts = scope["path"].split("/")
        for end in (last, ""):
            route = self._routes.get((scope["method"], len(parts), end))
            found = None if route is None else route.path_regex.match(scope["path"])
            if route is not None and found is not None:
                return Match.FULL, {"endpoint": route.endpoint, "route": route, "path_params": found.groupdict()}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that one of the routes fits."""
        route: Route = scope["route"]
        answer = await route.answer(Request(scope, receive, send))
        await answer(scope, receive, send)


class _Arguments:
    """What a route's function, or one that it depends on, is called with.

    Args:
        dependant: as FastAPI has read the function.
    """

    def __init__(self, dependant: Dependant) -> None:
        if dependant.call is None or dependant.body_params or dependant.cookie_params:
            raise TypeError(f"{dependant.path} takes what only FastAPI's own route reads.")
        self.call: Callable[..., Awaitable[Any]] = dependant.call
        self._request_name = dependant.request_param_name
        self._dependencies = [(one.name, _Arguments(one)) for one in dependant.dependencies]
        self._path = dependant.path_params
        self._query = dependant.query_params
        self._headers = [(_header_of(field), field) for field in dependant.header_params]
        optional = [field for field in (*self._query, *dependant.header_params) if not field.field_info.is_required()]
        self._defaults = {field.name: field.get_default() for field in optional}
        self._needs_query = any(field.field_info.is_required() for field in self._query)

    async def of(self, request: Request, known: dict[Any, Any]) -> tuple[dict[str, Any], list[Any]]:
        """The arguments by name, and what is wrong with them. `known` has what was depended on already."""
        values = dict(self._defaults)
        errors: list[Any] = []
        for name, dependency in self._dependencies:
            if dependency.call not in known:
                found, wrong = await dependency.of(request, known)
                errors += wrong
                if wrong:
                    continue
                known[dependency.call] = await dependency.call(**found)
            if name is not None:
                values[name] = known[dependency.call]
        if self._request_name is not None:
            values[self._request_name] = request
        errors += self._add(values, self._path, request.path_params)
        if self._query and (self._needs_query or request.scope["query_string"]):
            errors += self._add(values, self._query, request.query_params)
        if self._headers:
            given = {name for name, _ in request.scope["headers"]}
            there = [field for name, field in self._headers if name in given or field.field_info.is_required()]
            errors += self._add(values, there, request.headers)
        return values, errors

    def _add(self, values: dict[str, Any], fields: list[Any], given: Any) -> list[Any]:
        found, errors = request_params_to_args(fields, given)
        values.update(found)
        return errors


def _header_of(field: Any) -> bytes:
    name = field.alias.replace("_", "-") if field.alias == field.name else field.alias
    return bytes(name.lower(), "latin-1")
