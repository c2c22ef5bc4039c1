"""Logs in by an identity provider: OpenID Connect's authorization code flow, with PKCE, a state and a nonce.

Owns what the provider is asked, what it must answer, and the logins under way, each of one browser, for some minutes
and for one answer. The ID token shows whose login it is; the access token is what the session has in place of a key, so
that its scopes and limits are api/tokens.py's to say. Knows no route.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import structlog
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.discovery import get_well_known_url
from requests import RequestException

from creditfold.api.access import Caller
from creditfold.api.problems import ProblemError, unauthenticated
from creditfold.api.service import Service
from creditfold.api.tokens import ANSWER_S, AWAY_S, FRESH_S, UNANSWERED, document_at, provider_away
from creditfold.common.settings import Settings, is_safe_url
from creditfold.console.pages import ROOT
from creditfold.console.sessions import new_id
from creditfold.console.words import short

log = structlog.get_logger()

#: Where the provider leads a browser back to.
CALLBACK = f"{ROOT}/login/callback"
#: Seconds that a login at the provider may take, and how many are under way.
LASTS_S = 600.0
MOST_ATTEMPTS = 10_000
#: Seconds for the exchange of a code.
EXCHANGE_S = 15.0
#: Characters of what a provider says that are shown.
MOST_SAID = 300


class Attempt(NamedTuple):
    """A login under way: the digest of its browser's id, what its answer must have, and where it leads to."""

    browser: bytes
    nonce: str
    verifier: str
    following: str
    began: float

    def __repr__(self) -> str:
        return "Attempt(...)"


class Attempts:
    """The logins that are under way in a process, by digests of their states."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[bytes, Attempt] = OrderedDict()

    def begin(self, browser_id: str, following: str, now: float | None = None) -> tuple[str, Attempt]:
        """Begin a login in a browser; returns its state and what is kept of it."""
        at = time.monotonic() if now is None else now
        state, found = new_id(), Attempt(_digest(browser_id), new_id(), secrets.token_urlsafe(48), following, at)
        self._attempts[_digest(state)] = found
        while len(self._attempts) > MOST_ATTEMPTS:
            self._attempts.popitem(last=False)
        return state, found

    def take(self, state: str, browser_id: str, now: float | None = None) -> Attempt:
        """The login of a state, which counts once. Raises ProblemError where it isn't one of this browser."""
        at = time.monotonic() if now is None else now
        found = self._attempts.pop(_digest(state), None)
        if found is None or not hmac.compare_digest(found.browser, _digest(browser_id)):
            raise unauthenticated(
                "This login isn't known here: it was answered before, or it began in another browser or elsewhere."
            )
        if at - found.began > LASTS_S:
            raise unauthenticated(f"The login took more than {LASTS_S / 60:.0f} minutes.")
        return found


class _Metadata(NamedTuple):
    """What a provider publishes of itself; `names_itself`: its answers have the parameter `iss` (RFC 9207)."""

    authorization_url: str
    token_url: str
    methods: tuple[str, ...]
    names_itself: bool
    at: float


class Provider:
    """The identity provider that the settings name.

    Args:
        settings: with its name, and who the console is to it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._issuer = settings.api_jwt_issuer or ""
        self._metadata: _Metadata | None = None
        self._next_asking = 0.0
        self._asking = asyncio.Lock()

    async def leading(self, state: str, attempt: Attempt) -> str:
        """Where a browser is sent to log in. Raises ProblemError where the provider doesn't answer."""
        url, _ = self._client(found := await self._known()).create_authorization_url(
            found.authorization_url,
            state,
            attempt.verifier,
            nonce=attempt.nonce,
            # Some give an access token that the door can read for an audience only; others pass it over.
            audience=self._settings.api_jwt_audience,
        )
        return str(url)

    async def answered(self, service: Service, attempt: Attempt, answer: Mapping[str, str]) -> tuple[str, Caller]:
        """The access token that an answer of the provider is worth, and the caller that it stands for.

        Args:
            service: which verifies tokens.
            attempt: that was answered.
            answer: the parameters of the address that the provider led back to.

        Raises:
            ProblemError: with 401 where somebody else answered, the provider refused, or its tokens open nothing.
        """
        found = await self._known()
        issuer = answer.get("iss")
        if issuer != self._issuer and (issuer is not None or found.names_itself):
            raise unauthenticated("The answer is of another identity provider.")
        if "error" in answer or not answer.get("code"):
            raise refusal(answer.get("error", "no code"), answer.get("error_description", ""))
        tokens = await self._exchanged(found, attempt, answer["code"])
        id_token, access_token = (str(tokens.get(name) or "") for name in ("id_token", "access_token"))
        client_id = self._settings.console_oidc_client_id or ""
        try:
            name = await service.tokens.login_name(id_token, client_id, attempt.nonce, access_token)
        except ProblemError as problem:
            raise _of(problem, "The identity provider's ID token isn't taken") from None
        try:
            caller = await service.caller_of_key(access_token)
        except ProblemError as problem:
            raise _of(problem, "The identity provider's access token isn't taken") from None
        if caller.name != name:
            raise unauthenticated("The identity provider's two tokens are of two people.")
        if not caller.scopes:
            raise unauthenticated(
                "The identity provider's access token has no scope of the ledger's, so that it opens nothing. Whoever "
                "looks after the provider gives scopes."
            )
        return access_token, caller

    async def _exchanged(self, found: _Metadata, attempt: Attempt, code: str) -> Mapping[str, Any]:
        def exchange() -> Mapping[str, Any]:
            with self._client(found) as client:
                tokens: Mapping[str, Any] = client.fetch_token(
                    found.token_url,
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=attempt.verifier,
                    timeout=ANSWER_S,
                    # Another address may be anybody's.
                    allow_redirects=False,
                )
            return tokens

        try:
            async with asyncio.timeout(EXCHANGE_S):
                return await asyncio.to_thread(exchange)
        except OAuthError as error:
            log.warning("the identity provider refused a login's code", why=short(str(error.error), MOST_SAID))
            raise refusal(str(error.error), str(error.description or "")) from None
        except (RequestException, TimeoutError, ValueError, KeyError, TypeError) as error:
            # Without its text, which may have the code.
            log.warning("the identity provider gave no tokens", why=type(error).__name__)
            raise provider_away("so that nobody can log in by it") from None

    def _client(self, found: _Metadata) -> Any:
        settings = self._settings
        secret = settings.console_oidc_client_secret
        method = "none"
        if secret is not None:
            # Basic is what all have to take; but of a secret with a percent sign or a plus not all make the same.
            method = "client_secret_post" if "client_secret_post" in found.methods else "client_secret_basic"
        return OAuth2Session(
            settings.console_oidc_client_id,
            None if secret is None else secret.get_secret_value(),
            token_endpoint_auth_method=method,
            redirect_uri=f"{settings.console_url}{CALLBACK}",
            scope=settings.console_oidc_scopes,
            code_challenge_method="S256",
        )

    async def _known(self) -> _Metadata:
        """What the provider publishes, asked for now and then. Raises ProblemError where it doesn't answer."""
        async with self._asking:
            known, now = self._metadata, time.monotonic()
            if known is not None and now - known.at <= FRESH_S:
                return known
            if now >= self._next_asking:
                self._next_asking = now + AWAY_S
                try:
                    known = self._metadata = await asyncio.to_thread(_published, self._issuer)
                except (*UNANSWERED, KeyError, TypeError) as error:
                    log.warning("the identity provider's metadata can't be had", issuer=self._issuer, why=str(error))
            if known is None:
                raise provider_away("so that nobody can log in by it")
            return known


def _published(issuer: str) -> _Metadata:
    """What a provider publishes of itself. Raises one of UNANSWERED, or KeyError for what says too little."""
    found = document_at(get_well_known_url(issuer, external=True))
    if found.get("issuer") != issuer:
        raise ValueError("it is the metadata of another issuer")
    urls = [str(found[name]) for name in ("authorization_endpoint", "token_endpoint")]
    if not all(map(is_safe_url, urls)):
        raise ValueError("its addresses are neither https:// nor http:// on loopback")
    methods = tuple(map(str, found.get("token_endpoint_auth_methods_supported") or ()))
    names_itself = found.get("authorization_response_iss_parameter_supported") is True
    return _Metadata(urls[0], urls[1], methods, names_itself, time.monotonic())


def refusal(code: str, description: str) -> ProblemError:
    """The problem of a login that the provider refused."""
    said = f"{code}: {description}" if description else code
    return unauthenticated(f"The identity provider refused the login: {short(said, MOST_SAID)}.")


def _of(problem: ProblemError, what: str) -> ProblemError:
    """A problem of a token, which says of which one."""
    return problem if problem.status != 401 else unauthenticated(f"{what}. {problem.detail}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
