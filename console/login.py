"""The pages of login, by a key or by an identity provider, and of logout."""

from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response

from creditfold.api.problems import ProblemError
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.console.pages import ROOT, Page, link, moved, render, safe_next
from creditfold.console.provider import CALLBACK, LASTS_S, Attempts, Provider
from creditfold.console.sessions import new_id
from creditfold.console.visits import (
    COOKIE,
    LOGIN_COOKIE,
    PROVIDER_COOKIE,
    AnyVisit,
    caller_of,
    form_of,
    is_secure,
    refuse_forged,
    sessions_of,
    set_cookie,
    set_provider_cookie,
)

router = Routes(route_class=Page, include_in_schema=False)

#: The characters of a key or a token at most.
MOST_KEY = 8_192
#: Characters of where a login leads to.
MOST_NEXT = 2_000
Next = Annotated[str, Query(max_length=MOST_NEXT)]


@router.get("/console/login")
async def show_login(request: Request, next: Next = ROOT) -> Response:
    """The form that asks for a key, and the way to the identity provider."""
    return _form(request, safe_next(next))


@router.post("/console/login")
async def login(request: Request) -> Response:
    """Begin a session with a key, under a new id."""
    sessions = sessions_of(request)
    await refuse_forged(request, request.cookies.get(LOGIN_COOKIE, ""))
    form = await form_of(request)
    address = _address(request)
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


@router.get("/console/login/provider")
async def begin_login(request: Request, next: Next = ROOT) -> Response:
    """Leads to the identity provider. A link, since a policy of forms holds for where their answers lead to as well."""
    provider, attempts = _provider(request)
    browser_id = request.cookies.get(PROVIDER_COOKIE) or new_id()
    state, attempt = attempts.begin(browser_id, safe_next(next))
    answer = moved(await provider.leading(state, attempt))
    set_provider_cookie(request, answer, browser_id, LASTS_S)
    return answer


@router.get(CALLBACK)
async def end_login(request: Request) -> Response:
    """Where the identity provider leads back to: begins a session with its token, under a new id."""
    provider, attempts = _provider(request)
    sessions, address = sessions_of(request), _address(request)
    following = ROOT
    try:
        attempt = attempts.take(request.query_params.get("state", ""), request.cookies.get(PROVIDER_COOKIE, ""))
        following = attempt.following
        sessions.refuse_failures(address)
        key, _ = await provider.answered(service_of(request), attempt, request.query_params)
    except ProblemError as problem:
        if problem.status not in (401, 503):
            raise
        return _form(request, following, problem.detail, problem.status)
    sessions.forget_failures(address)
    # Not a redirect: a browser that comes from another site sends its new cookie with what a page of ours leads to.
    answer = render(request, "welcome.html", next=following)
    set_cookie(request, answer, sessions.begin(key))
    return answer


@router.post("/console/logout")
async def logout(request: Request, visit: AnyVisit) -> Response:
    """End the session."""
    sessions_of(request).end(request.cookies.get(COOKIE, ""))
    answer = moved(f"{ROOT}/login")
    answer.delete_cookie(COOKIE, path=ROOT, httponly=True, samesite="strict", secure=is_secure(request))
    return answer


def _provider(request: Request) -> tuple[Provider, Attempts]:
    """The identity provider, and the logins under way there. Raises ProblemError where none is set."""
    settings, state = service_of(request).settings, request.app.state
    if settings.console_oidc_client_id is None:
        raise ProblemError(404, "no_identity_provider", "No identity provider is set here.", "Log in with a key.")
    if state.console_provider is None:
        state.console_provider = Provider(settings)
    return state.console_provider, state.console_attempts


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _form(request: Request, following: str, error: str = "", status: int = 401) -> Response:
    settings = service_of(request).settings
    is_provided = settings.console_oidc_client_id is not None
    # An id of no session: only who sees the page knows its token.
    form_id = request.cookies.get(LOGIN_COOKIE) or new_id()
    answer = render(
        request,
        "login.html",
        status if error else 200,
        next=following,
        error=error,
        token=sessions_of(request).token(form_id),
        is_open=service_of(request).is_open,
        provider=settings.console_oidc_name if is_provided else None,
        provider_link=link("login", "provider", next=following),
    )
    set_cookie(request, answer, form_id, LOGIN_COOKIE)
    return answer
