"""The pages of login and logout."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from creditfold.api.problems import ProblemError
from creditfold.api.service import service_of
from creditfold.console.pages import ROOT, Page, moved, render, safe_next
from creditfold.console.sessions import new_id
from creditfold.console.visits import (
    COOKIE,
    LOGIN_COOKIE,
    AnyVisit,
    caller_of,
    form_of,
    is_secure,
    refuse_forged,
    sessions_of,
    set_cookie,
)

router = APIRouter(route_class=Page, include_in_schema=False)

#: The characters of a key or a token at most.
MOST_KEY = 8_192


@router.get("/console/login")
async def show_login(request: Request, next: Annotated[str, Query(max_length=2_000)] = ROOT) -> Response:
    """The form that asks for a key."""
    return _form(request, safe_next(next))


@router.post("/console/login")
async def login(request: Request) -> Response:
    """Begin a session with a key, under a new id."""
    sessions = sessions_of(request)
    await refuse_forged(request, request.cookies.get(LOGIN_COOKIE, ""))
    form = await form_of(request)
    address = request.client.host if request.client else ""
    sessions.refuse_failures(address)
    key, following = form.get("key", "").strip()[:MOST_KEY], safe_next(form.get("next", ROOT))
    try:
        await caller_of(request, key)
    except ProblemError as problem:
        if problem.status != 401:
            raise
        return _form(request, following, problem.detail)
    sessions.forget_failures(address)
    sessions.end(request.cookies.get(COOKIE, ""))
    answer = moved(following)
    set_cookie(request, answer, sessions.begin(key))
    return answer


@router.post("/console/logout")
async def logout(request: Request, visit: AnyVisit) -> Response:
    """End the session."""
    sessions_of(request).end(request.cookies.get(COOKIE, ""))
    answer = moved(f"{ROOT}/login")
    answer.delete_cookie(COOKIE, path=ROOT, httponly=True, samesite="strict", secure=is_secure(request))
    return answer


def _form(request: Request, following: str, error: str = "") -> Response:
    # An id of no session: only who sees the page knows its token.
    form_id = request.cookies.get(LOGIN_COOKIE) or new_id()
    answer = render(
        request,
        "login.html",
        401 if error else 200,
        next=following,
        error=error,
        token=sessions_of(request).token(form_id),
        is_open=service_of(request).is_open,
    )
    set_cookie(request, answer, form_id, LOGIN_COOKIE)
    return answer
