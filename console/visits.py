"""A request to the console: who makes it, and what its form says.

Owns the cookie, and that nothing is done for a form that another site sent. What a caller may do is api/access's.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from fastapi.responses import Response

from creditfold.api.access import Caller, admitted
from creditfold.api.body import whole_body
from creditfold.api.problems import ProblemError, unauthenticated
from creditfold.api.requests import is_loopback, refuse_other_pages
from creditfold.api.service import service_of
from creditfold.console.pages import ROOT
from creditfold.console.sessions import Sessions
from creditfold.ledger.limits import MAX_REASON, is_note

#: The cookies of a session, and of a login's form, which who comes by a link of another site sees without the first.
COOKIE, LOGIN_COOKIE = "creditfold_console", "creditfold_login"
#: The cookie of a login at the identity provider, which leads back here from its own site.
PROVIDER_COOKIE = "creditfold_provider"
#: The field of each form that has the session's token.
TOKEN = "csrf_token"  # noqa: S105 - The name of a field.
#: Fields of a form at most.
MOST_FIELDS = 40
FORM = "application/x-www-form-urlencoded"


class Visit(NamedTuple):
    """A request of somebody who is logged in: who calls, and the token for the forms of the page."""

    caller: Caller
    token: str

    def has(self, scope: str) -> bool:
        """Whether the visitor has a scope."""
        return self.caller.has(scope)

    @property
    def is_limited(self) -> bool:
        """Whether the visitor may see some accounts only."""
        return bool(self.caller.account_prefix)


def sessions_of(request: Request) -> Sessions:
    """The sessions of the application that a request came to."""
    found: Sessions = request.app.state.console_sessions
    return found


async def visit_of(request: Request) -> Visit:
    """The visit that a request is. Raises ProblemError where nobody is logged in, or a form lacks its token."""
    sessions, session_id = sessions_of(request), request.cookies.get(COOKIE, "")
    session = sessions.find(session_id)
    if session is None:
        raise unauthenticated("Nobody is logged in here, or the login has ended.")
    caller = await caller_of(request, session.key)
    visit = request.state.visit = Visit(admitted(request, caller), sessions.token(session_id))
    if request.method == "POST":
        await refuse_forged(request, session_id)
    return visit


async def caller_of(request: Request, key: str) -> Caller:
    """The caller that a key stands for; without one, who may do everything where the door says so.

    Raises ProblemError where it opens nothing.
    """
    service = service_of(request)
    if key:
        return await service.caller_of_key(key)
    if not service.is_open:
        raise unauthenticated("There is no key.")
    refuse_other_pages(request, ())
    return await service.authenticate(request)


async def refuse_forged(request: Request, session_id: str) -> None:
    """Raise ProblemError for a form that isn't of a page of ours."""
    # A browser says so itself; a neighbour of our domain could have given it cookies whose token it knows.
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise ProblemError(403, "other_origin", "A page of another site sent the form.", "Send it from its own page.")
    form = await form_of(request)
    if not sessions_of(request).is_token(session_id, form.get(TOKEN, "")):
        raise ProblemError(
            403,
            "csrf_token_missing",
            "The form has no token of this login, so that another site may have sent it.",
            "Go back, load the page again, and send the form from there.",
        )


async def form_of(request: Request) -> Mapping[str, str]:
    """The fields of a form. Raises ProblemError for what is none, or has a field twice."""
    known: Mapping[str, str] | None = getattr(request.state, "form", None)
    if known is not None:
        return known
    body = await whole_body(request, FORM)
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=MOST_FIELDS,
            errors="strict",
        )  # fmt: skip
    except ValueError:
        raise ProblemError(400, "invalid_body", "The body is no form.", "Send the form of the page.") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ProblemError(400, "ambiguous_request", "The form has a field twice.", "Send the form of the page.")
    request.state.form = found
    return found


def why_of(form: Mapping[str, str]) -> str:
    """The reason that a form gives for an action. Raises ProblemError where there is none that can be kept."""
    text = form.get("why", "").strip()
    if not text or not is_note(text, MAX_REASON):
        raise ProblemError(
            400,
            "reason_missing",
            "The action has no reason that can be kept.",
            f"Say why in 1 to {MAX_REASON:,} characters.",
        )
    return text


def set_cookie(request: Request, answer: Response, session_id: str, name: str = COOKIE) -> None:
    """Have a browser send an id along: to the console only, and for no page of another site."""
    answer.set_cookie(name, session_id, path=ROOT, httponly=True, samesite="strict", secure=is_secure(request))


def set_provider_cookie(request: Request, answer: Response, browser_id: str, lasts_s: float) -> None:
    """Have a browser send an id along to the pages of login, also where the identity provider's page leads there."""
    answer.set_cookie(
        PROVIDER_COOKIE,
        browser_id,
        max_age=int(lasts_s),
        path=f"{ROOT}/login",
        httponly=True,
        samesite="lax",
        secure=is_secure(request),
    )


def is_secure(request: Request) -> bool:
    """Whether the cookie is for connections by TLS only: unless the browser came to this machine's own address."""
    host = request.headers.get("host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return not is_loopback(name)


AnyVisit = Annotated[Visit, Depends(visit_of)]


def needs(scope: str, *others: str, everywhere: bool = False) -> Any:
    """The dependency of a page that a scope opens, or one of the others.

    A scope that ends in `*` is any that begins so. `everywhere`: the page is about all accounts, and a visitor who is
    limited to some is refused.
    """

    async def check(visit: AnyVisit) -> Visit:
        refuse_scope(visit.caller, scope, *others)
        if everywhere:
            visit.caller.refuse_prefix()
        return visit

    check.scope = scope  # type: ignore[attr-defined]
    return Depends(check)


def refuse_scope(caller: Caller, scope: str, *others: str) -> None:
    """Raise ProblemError, which names the scope, unless a caller has it or one of the others."""
    if any(map(caller.has, (scope, *others))):
        return
    try:
        caller.refuse_scope(scope)
    except ProblemError as problem:
        problem.members["scope"] = " or ".join((scope, *others))
        raise
