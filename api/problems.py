"""Every error as a problem document of RFC 9457: what went wrong, what to do next, and whether the command may count.

Owns the codes, their HTTP statuses, and the handlers that turn an exception into a document. Knows no route.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from psycopg import Error as PostgresError
from psycopg_pool import PoolTimeout
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.producers import (
    AppendError,
    DoubtfulCommandError,
    InvalidCommandError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    QueueFullError,
    RecordTooLargeError,
)
from creditfold.projections import failures
from creditfold.projections.connections import PostgresUnavailableError

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
#: Seconds after which to try again where a server is away.
RETRY_S = 1


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(description="Names the kind of the problem; docs/http.md has a section of that name.")
    title: str = Field(description="The kind in a few words; the same for each problem of the kind.")
    status: int = Field(description="The HTTP status.")
    code: str = Field(description="The kind, for a program to act on.", min_length=1)
    detail: str = Field(description="What went wrong, in one sentence.", min_length=1)
    remedy: str = Field(description="What to do next.", min_length=1)
    request_id: str = Field(min_length=1, description="Also in the header X-Request-Id, and in the server's log.")
    maybe_written: bool = Field(
        description="Whether a command of this request may be in the log all the same. Sent again under the same key, "
        "it counts once."
    )
    position: str | None = Field(
        None, description="Where the command is in the log, `partition:offset`, if that is known."
    )
    first: dict[str, Any] | None = Field(
        None,
        description="With idempotency_key_reused: position, decided_at, kind, asset, amount and accepted of the "
        "command that stands.",
    )
    problems: list[str] | None = Field(None, description="What is wrong, field by field.")


class ProblemError(Exception):
    """Ends a request with a problem document.

    Args:
        status: the HTTP status.
        code: the kind.
        detail: what went wrong, in one sentence.
        remedy: what to do next.
        maybe_written: whether a command of the request may be in the log.
        headers: further headers of the answer.
        members: further members of the document, by name.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        remedy: str = "",
        *,
        maybe_written: bool = False,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.maybe_written = maybe_written
        self.headers = dict(headers or {})
        self.members = members


def unauthenticated(detail: str) -> ProblemError:
    """The problem of a request that names no caller who is known here."""
    return ProblemError(
        401,
        "unauthenticated",
        detail,
        "Send Authorization: Bearer cfk_...; `creditfold keys create` makes a key.",
        headers={"WWW-Authenticate": 'Bearer realm="creditfold"'},
    )


def headers_too_large() -> ProblemError:
    """The problem of a request whose head is beyond the bound."""
    return ProblemError(
        431,
        "headers_too_large",
        "The request's line and headers are too large.",
        "Send shorter ones.",
        headers={"Connection": "close"},
    )


def document(request: Request, problem: ProblemError) -> dict[str, Any]:
    """The problem document of an error, for one request."""
    known = {
        "type": f"urn:creditfold:problem:{problem.code.replace('_', '-')}",
        "title": problem.code.replace("_", " ").capitalize(),
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "remedy": problem.remedy,
        "request_id": getattr(request.state, "request_id", ""),
        "maybe_written": problem.maybe_written,
    }
    return known | {name: value for name, value in problem.members.items() if value is not None}


def answer(request: Request, problem: ProblemError) -> Response:
    """The answer that carries a problem document."""
    return Response(as_json(document(request, problem)), problem.status, problem.headers, MEDIA_TYPE)


def as_json(found: Mapping[str, Any]) -> bytes:
    """A problem document in UTF-8, on one line."""
    # What JSON can hold and UTF-8 can't, half of a surrogate pair, is repeated as the escape that it came as.
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")


def of_error(error: Exception) -> ProblemError | None:
    """The problem that an exception of ours or of a client library stands for; None for a defect."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, AppendError):
        return _of_append(error)
    if isinstance(error, PoolTimeout | PostgresUnavailableError):
        return _away("PostgreSQL", getattr(error, "message", "PostgreSQL doesn't answer in time."))
    if isinstance(error, PostgresError):
        known = failures.explained(error)
        return None if known is None else of_error(known)
    if isinstance(error, CreditfoldError):
        if error.away:
            return _away(error.away, error.message)
        status = HTTPStatus.BAD_REQUEST if error.exit_code == 2 else HTTPStatus.SERVICE_UNAVAILABLE
        return ProblemError(status, error.error_code, error.message, error.remedy)
    return None


def only_reads(request: Request) -> None:
    """Say of a request that it changes nothing, though its method would let it: a defect has changed nothing then.

    A dependency of a route that only reads; else called as soon as a request is known to be a preview.
    """
    request.state.only_reads = True


def _may_have_written(request: Request) -> bool:
    return request.method not in _READING and not getattr(request.state, "only_reads", False)


#: The methods that change nothing.
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


@contextmanager
def maybe_made(remedy: str) -> Iterator[None]:
    """Say of a change in PostgreSQL whose answer was lost that it may be made, and how to see whether it was.

    Raises:
        ProblemError: PostgreSQL left in the middle of the change.
    """
    try:
        yield
    except PoolTimeout:  # It hasn't begun.
        raise
    except (ProblemError, PostgresError) as error:
        problem = of_error(error)
        if problem is None or problem.status != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        problem.maybe_written = True
        problem.remedy = remedy
        raise problem from error


_CONFIRM = 'Correct the command. If it is meant as it is, send it with "confirmed": true among its fields.'


def _of_append(error: AppendError) -> ProblemError:
    position: Position | None = getattr(error, "position", None)
    members = {"position": None if position is None else str(position)}
    if isinstance(error, InvalidCommandError):
        # What is doubtful is confirmed in another way than in Python.
        remedy = _CONFIRM if isinstance(error, DoubtfulCommandError) else error.remedy
        return ProblemError(
            HTTPStatus.BAD_REQUEST, error.error_code, error.message, remedy, problems=list(error.problems)
        )
    if isinstance(error, RecordTooLargeError):
        return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "record_too_large", error.message, error.remedy)
    status = HTTPStatus.TOO_MANY_REQUESTS if isinstance(error, QueueFullError) else HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, OutcomeUnknownError) and not isinstance(error, OutcomeTimeoutError):
        status = HTTPStatus.INTERNAL_SERVER_ERROR if position is not None else status
    return ProblemError(
        status,
        error.error_code,
        error.message,
        error.remedy,
        maybe_written=error.maybe_written,
        headers={"Retry-After": str(RETRY_S)},
        **members,
    )


def _away(server: str, message: str) -> ProblemError:
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"{server.lower()}_unavailable",
        message,
        f"Try again; if it stays so, look at {server} and at GET /health/ready.",
        headers={"Retry-After": str(RETRY_S)},
    )


async def _known(request: Request, error: Exception) -> Response:
    problem = of_error(error)
    if problem is None:
        return await _unknown(request, error)
    return answer(request, problem)


async def _unknown(request: Request, error: Exception) -> Response:
    log.error("a request failed by a defect", path=request.url.path, request_id=_id_of(request), exc_info=error)
    return answer(
        request,
        ProblemError(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "internal_error",
            "The server failed; this is a defect.",
            "Report it with the request id. A command that is sent again under the same key counts once.",
            # A command may have been handed over before the defect.
            maybe_written=_may_have_written(request),
        ),
    )


async def _http(request: Request, error: Exception) -> Response:
    found = cast(HTTPException, error)
    status = HTTPStatus(found.status_code)
    remedy = "GET /openapi.json lists every route, and what it takes."
    problem = ProblemError(
        status, status.phrase.lower().replace(" ", "_").replace("-", "_"), f"{found.detail}.", remedy
    )
    problem.headers.update(found.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        problem.headers["Allow"] = ", ".join(_allowed(request))
    return answer(request, problem)


async def _gone(request: Request, _: Exception) -> Response:
    # Nobody reads it. What a body without its end asked for wasn't done.
    return answer(
        request, ProblemError(400, "body_incomplete", "The client left before the body's end.", "Send it whole.")
    )


async def _invalid(request: Request, error: Exception) -> Response:
    errors = cast(RequestValidationError, error).errors()
    found = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in errors]
    return answer(
        request,
        ProblemError(
            HTTPStatus.BAD_REQUEST,
            "invalid_request",
            f"The request is invalid: {'; '.join(found)[:500]}.",
            "GET /openapi.json says what each parameter may be.",
            problems=[one[:200] for one in found[:20]],
        ),
    )


#: What answers an error, by its class or the nearest of those that it derives from.
_HANDLERS: dict[type[BaseException], Callable[[Request, Exception], Awaitable[Response]]] = {
    **dict.fromkeys((ProblemError, CreditfoldError, PostgresError, PoolTimeout), _known),
    HTTPException: _http,
    ClientDisconnect: _gone,
    RequestValidationError: _invalid,
}


async def answer_to(request: Request, error: Exception) -> Response:
    """The answer of a request that ended with an error. Raises a defect again: it is answered further out."""
    handle = next((_HANDLERS[kind] for kind in type(error).__mro__ if kind in _HANDLERS), None)
    if handle is None:
        raise error
    return await handle(request, error)


def install(app: FastAPI) -> None:
    """Have an application answer each of its errors with a problem document."""
    for kind, handle in _HANDLERS.items():
        app.add_exception_handler(cast(type[Exception], kind), handle)
    app.add_exception_handler(Exception, _unknown)


def _id_of(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))


def _allowed(request: Request) -> list[str]:
    """The methods that a path has; of one with an action, such as `:rotate`, not those of the path without."""
    found: dict[int, set[str]] = {}
    for route in iter_route_contexts(request.app.routes):
        shape, path = route.path or "", request.scope["path"]
        if re.fullmatch(re.sub(r"\\\{.*?\\\}", "[^/]+", re.escape(shape)), path):
            found.setdefault(len(re.sub(r"\{.*?\}", "", shape)), set()).update(route.methods or ())
    return sorted(found[max(found)]) if found else []


def responses(*statuses: int, is_public: bool = False) -> dict[int | str, dict[str, Any]]:
    """The documentation of problem answers, for a route; those that every route may give are added.

    Args:
        statuses: that the route may answer.
        is_public: whether it needs no key, and so refuses none.
    """
    always = {400, 431, 500, 503} if is_public else {400, 401, 403, 429, 431, 500, 503}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": dict(CONTENT)}
        for status in sorted(always.union(statuses))
    }


#: The documentation of an answer's content where it is a problem.
CONTENT: dict[str, Any] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
