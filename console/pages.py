"""How a page is made and sent: templates, the header fields of each answer, and errors as pages.

Owns what a browser may do with a page. Knows no route.
"""

from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FunctionLoader, StrictUndefined

from creditfold.api import problems
from creditfold.api.problems import ProblemError
from creditfold.console import words

log = structlog.get_logger()

#: Where the console is.
ROOT = "/console"
#: No script, style or connection but the door's own, and in nobody's frame.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
SECURITY = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # With no-referrer a browser would say of our own forms that they are of no origin.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    # For browsers that don't know frame-ancestors.
    "X-Frame-Options": "DENY",
}
#: What is on a page is somebody's: no cache keeps it.
_HEADERS = {**SECURITY, "Cache-Control": "no-store"}


class Page(APIRoute):
    """A route that answers with pages, and with a page where it can't."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                wrong = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()[:5])
                return problem_page(
                    request, ProblemError(400, "invalid_request", f"The request is invalid: {wrong[:500]}.")
                )
            except Exception as error:
                found = problems.of_error(error)
                if found is None:
                    log.error("a page failed by a defect", path=request.url.path, exc_info=error)
                    found = ProblemError(
                        500, "internal_error", "The page failed; this is a defect.", "Report it with the request id."
                    )
                return problem_page(request, found)

        return answer


def render(request: Request, template: str, status: int = 200, /, **values: Any) -> Response:
    """The answer that a template makes of values."""
    known = {"visit": getattr(request.state, "visit", None), "path": request.url.path}
    text = _environment().get_template(template).render(**known, **values)
    return Response(text, status, _HEADERS, "text/html")


def problem_page(request: Request, problem: ProblemError) -> Response:
    """The page of an error; of a visitor who isn't logged in, the way to the login."""
    if problem.status == 401 and request.method == "GET":
        return moved(f"{ROOT}/login?next={quote(_own_path(request), safe='')}")
    missing = problem.members.get("scope")
    answer = render(
        request,
        "problem.html",
        problem.status,
        problem=problem,
        scope=missing,
        request_id=getattr(request.state, "request_id", ""),
    )
    answer.headers.update({name: value for name, value in problem.headers.items() if name == "Retry-After"})
    return answer


def moved(path: str) -> Response:
    """The answer that sends a browser to another page."""
    return RedirectResponse(path, 303, _HEADERS)


def safe_next(path: str) -> str:
    """Where to go after a login: a page of the console and of nobody else."""
    is_ours = path == ROOT or path.startswith((f"{ROOT}/", f"{ROOT}?"))
    return path if is_ours and "\\" not in path and path.isprintable() else ROOT


def link(*parts: str, **query: object) -> str:
    """The path of a page, each part of it escaped; what of the query is None is left out."""
    path = "/".join((ROOT, *(quote(part, safe="") for part in parts)))
    asked = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items() if value is not None)
    return f"{path}?{asked}" if asked else path


def _own_path(request: Request) -> str:
    raw = request.scope.get("raw_path") or request.url.path.encode()
    query = request.scope["query_string"]
    return (raw + (b"?" + query if query else b"")).decode("latin-1")


@cache
def _environment() -> Environment:
    made = Environment(
        autoescape=True,
        loader=FunctionLoader(_template),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(_FILTERS)
    made.globals["link"] = link
    return made


_FILTERS: Mapping[str, Callable[..., Any]] = {
    "number": words.number,
    "day": words.day,
    "moment": words.moment,
    "short": words.short,
    "shown": words.shown,
    "span": words.span,
    "plain": words.plain,
}


def _template(name: str) -> str:
    return files("creditfold.console").joinpath("templates", name).read_text("utf-8")
