"""How routes come into an application, and how the ones that are called most are found and called.

FastAPI tries one route after the other, looks for each parameter of the one that fits, and validates it, whether the
request has it or not; that takes more than what most routes do. Here a path is looked up by its shape, parameters that
aren't there get their defaults at once, and FastAPI sees the others. Knows no route.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import Scope

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


class Routes(APIRouter):
    """The routes of a module, each of which refuses parameters of the query that it doesn't take.

    Args:
        route_class: what its routes are.
        options: FastAPI's own.
    """

    def __init__(self, route_class: type[APIRoute] = APIRoute, **options: Any) -> None:
        # A route of ours does it itself.
        dependencies = [] if issubclass(route_class, Route) else [Depends(checked)]
        super().__init__(route_class=route_class, dependencies=dependencies, **options)

    def add_to(self, app: FastAPI) -> None:
        """Have an application answer by them.

        As they are: what FastAPI includes it makes anew for each application, all at once, at the first request, which
        waits a fifth of a second for it.
        """
        app.router.routes.extend(self.routes)


class Direct:
    """All routes of this kind at once: looked at first; the application has the others, and what fits none.

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

    def find(self, scope: Scope) -> Route | None:
        """The route that fits a request, which then knows of it, if there is one."""
        *_, last = parts = scope["path"].split("/")
        for end in (last, ""):
            route = self._routes.get((scope["method"], len(parts), end))
            found = None if route is None else route.path_regex.match(scope["path"])
            if route is not None and found is not None:
                scope.update(endpoint=route.endpoint, route=route, path_params=found.groupdict())
                return route
        return None


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
        self._path = [(field.alias, field) for field in dependant.path_params]
        self._query = dependant.query_params
        self._headers = [(_header_of(one), one, one.field_info.is_required()) for one in dependant.header_params]
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
        scope = request.scope
        for alias, field in self._path:
            errors += _add(values, field, scope["path_params"][alias], request.path_params)
        if self._query and (self._needs_query or scope["query_string"]):
            found, wrong = request_params_to_args(self._query, request.query_params)
            values.update(found)
            errors += wrong
        if self._headers:
            # The first of a name counts, as Starlette has it.
            given = dict(reversed(scope["headers"]))
            for header, field, is_required in self._headers:
                if header in given:
                    errors += _add(values, field, given[header].decode("latin-1"), request.headers)
                elif is_required:
                    errors += request_params_to_args([field], request.headers)[1]
        return values, errors


def _add(values: dict[str, Any], field: Any, value: str, given: Any) -> list[Any]:
    """Add what a field makes of a text; else return what is wrong with it, in FastAPI's words."""
    found, errors = field.validate(value)
    if errors:
        return request_params_to_args([field], given)[1]
    values[field.name] = found
    return []


def _header_of(field: Any) -> bytes:
    name = field.alias.replace("_", "-") if field.alias == field.name else field.alias
    return bytes(name.lower(), "latin-1")
