"""Tokens of an identity provider (JWT), verified by the keys that it publishes (JWKS): the callers they stand for.

Owns which tokens are taken: signed with an allowed algorithm by a key of the provider, of this issuer, for this
audience, neither ended nor not yet valid. Knows no route. The provider is asked seldom, however many tokens come.
"""

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any, NamedTuple

import structlog
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import ClaimError, ExpiredTokenError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry, Token

from creditfold.api.access import Caller
from creditfold.api.problems import RETRY_S, ProblemError, unauthenticated
from creditfold.common.settings import Settings
from creditfold.ledger.limits import MAX_ACCOUNT, MAX_AMOUNT, MAX_ASSET, MAX_OCCURRED_AT, MAX_SOURCE, is_id
from creditfold.projections.access.keys import SUBJECT
from creditfold.projections.access.scopes import SCOPES

log = structlog.get_logger()

#: Characters of a token.
LONGEST = 8_192
#: Seconds by which the provider's clock and ours may differ.
LEEWAY_S = 30
#: Seconds after which the keys are asked for again, and between two askings where tokens name keys that aren't known.
FRESH_S, SELDOM_S = 600.0, 30.0
#: Seconds between two askings of a provider that doesn't answer, for an answer, and for which keys stay good meanwhile.
AWAY_S, ANSWER_S, KEPT_S = 1.0, 5.0, 3_600.0
MOST_BYTES = 262_144
#: What begins the names of claims that mean something here alone.
OURS = "creditfold_"


class _Published(NamedTuple):
    keys: KeySet
    at: float


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: another address may be anybody's."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


#: What goes wrong where a provider is asked for a document.
UNANSWERED = (OSError, ValueError, HTTPException)


def document_at(url: str) -> dict[str, Any]:
    """A JSON object that a provider publishes. Raises one of UNANSWERED."""
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - Settings has the scheme.
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=ANSWER_S) as answer:
        text = answer.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def fetched(url: str) -> KeySet:
    """The keys that a provider publishes, those of shared secrets left out.

    Raises:
        OSError, ValueError, HTTPException, JoseError: there are none.
    """
    keys = document_at(url).get("keys")
    if not isinstance(keys, list):
        raise ValueError("it is no key set")
    # A key that everybody can read must not verify what only its owner may sign.
    return KeySet.import_key_set({"keys": [key for key in keys if isinstance(key, dict) and key.get("kty") != "oct"]})


class Tokens:
    """Verifies tokens of the provider that the settings name.

    Args:
        settings: with its key set's address, its name, the audience that tokens are for, and the algorithms.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.api_jwks_url
        self._issuer = settings.api_jwt_issuer or ""
        self._algorithms = settings.jwt_algorithms
        self._claims = JWTClaimsRegistry(
            leeway=LEEWAY_S,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": settings.api_jwt_audience or ""},
            sub={"essential": True},
            exp={"essential": True},
        )
        self._published: _Published | None = None
        self._next_asking = 0.0
        self._asking = asyncio.Lock()
        self._background: asyncio.Task[None] | None = None

    def may_be(self, text: str) -> bool:
        """Whether a text is of the form of a token, and tokens are taken at all."""
        return self._url is not None and text.count(".") == 2

    async def caller(self, text: str) -> Caller:
        """The caller that a token stands for.

        Raises:
            ProblemError: it isn't taken, or the provider doesn't answer and its keys aren't known.
        """
        return caller_of((await self._verified(text, lambda token: self._claims.validate(token.claims))).claims)

    async def login_name(self, text: str, client_id: str, nonce: str, access_token: str) -> str:
        """The name of the caller that an ID token says a login was of, verified as OpenID Connect Core 3.1.3.7 has it.

        Args:
            text: of the ID token.
            client_id: for which it must be.
            nonce: of the login that it must answer.
            access_token: that came with it.

        Raises:
            ProblemError: it isn't taken, or the provider doesn't answer and its keys aren't known.
        """
        asked = {"client_id": client_id, "nonce": nonce, "access_token": access_token}
        wanted = {"iss": {"essential": True, "value": self._issuer}, "aud": {"essential": True, "value": client_id}}

        def validate(token: Token) -> None:
            CodeIDToken(token.claims, token.header, wanted, asked).validate(leeway=LEEWAY_S)

        return _name_of((await self._verified(text, validate)).claims)

    async def _verified(self, text: str, validate: Callable[[Token], None]) -> Token:
        """A token that a key of the provider signed, and whose claims are valid. Raises ProblemError."""
        if len(text) > LONGEST:
            raise unauthenticated("The token is too long.")
        published = await self._known()
        try:
            try:
                token = jwt.decode(text, published.keys, self._algorithms)
            except InvalidKeyIdError:
                # Of a key that is new, or of nobody.
                await self._refresh(published)
                again = self._published
                if again is None or again is published:
                    raise
                token = jwt.decode(text, again.keys, self._algorithms)
            validate(token)
        except ExpiredTokenError:
            raise unauthenticated("The token has ended.") from None
        except ClaimError as error:
            raise unauthenticated(f"The token's claim {error.claim} isn't what it must be here.") from None
        except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            # Without the cause, which may have a part of the token.
            raise unauthenticated("The token can't be verified.") from None
        return token

    async def _known(self) -> _Published:
        """The provider's keys. Nobody waits for those that are only to be looked at again."""
        known = self._published
        if known is None or time.monotonic() - known.at > KEPT_S:
            await self._refresh(known)
        elif time.monotonic() - known.at > FRESH_S and not self._asking.locked():
            self._background = asyncio.create_task(self._refresh(known))
        known = self._published
        if known is None or time.monotonic() - known.at > KEPT_S:
            raise provider_away("so that no token can be verified")
        return known

    async def _refresh(self, known: _Published | None) -> None:
        """Ask for the keys, unless somebody did a moment ago; those that are known stay where they can't be had."""
        async with self._asking:
            # Whoever waited here finds what the one before has found.
            if self._published is known and time.monotonic() >= self._next_asking:
                await self._ask()

    async def _ask(self) -> None:
        try:
            keys = await asyncio.to_thread(fetched, self._url or "")
        except (OSError, ValueError, TypeError, KeyError, HTTPException, JoseError) as error:
            self._next_asking = time.monotonic() + AWAY_S
            log.warning("the identity provider's keys can't be had", url=self._url, why=str(error))
        else:
            now = time.monotonic()
            self._published, self._next_asking = _Published(keys, now), now + SELDOM_S


def provider_away(consequence: str) -> ProblemError:
    """The problem of a provider that doesn't answer."""
    return ProblemError(
        503,
        "identity_provider_unavailable",
        f"The identity provider doesn't answer, {consequence}.",
        "Try again, or use a key of the ledger's own.",
        headers={"Retry-After": str(RETRY_S)},
    )


def caller_of(claims: Mapping[str, Any]) -> Caller:
    """The caller of verified claims: its scopes are those of the claim `scope` that there are here.

    Its limits are those of the claims `creditfold_account_prefix`, `creditfold_assets` and `creditfold_most_amount`;
    of one that is left out, none.

    Raises:
        ProblemError: its subject can't be the source of a command, or a limit isn't one.
    """
    name = _name_of(claims)
    if not is_id(name, MAX_SOURCE):
        raise unauthenticated("The token's claim sub can't be kept as the source of a command.")
    said = claims.get("scope", "")
    scopes = said.split() if isinstance(said, str) else ()
    # As a claim it may be larger than any instant, or any float.
    ends = datetime.fromtimestamp(min(claims["exp"], MAX_OCCURRED_AT / 1_000), UTC)
    limits = _limits_of(claims)
    return Caller(name, frozenset(scopes) & SCOPES.keys(), expires_at=ends, **limits)


def _name_of(claims: Mapping[str, Any]) -> str:
    return f"{SUBJECT}{claims['sub']}"


def _limits_of(claims: Mapping[str, Any]) -> dict[str, Any]:
    """The limits that claims say, by their names. Raises ProblemError.

    One that is malformed or unknown was meant to be a limit, so it isn't passed over.
    """
    found = {name.removeprefix(OURS): value for name, value in claims.items() if name.startswith(OURS)}
    for name, value in found.items():
        if name not in _LIMITS or not _LIMITS[name](value):
            raise unauthenticated(f"The token's claim {OURS}{name[:60]} is no limit of a caller.")
    return found


def _is_text(value: Any, longest: int) -> bool:
    return isinstance(value, str) and is_id(value, longest)


#: The limits that claims may say, each with what it must be.
_LIMITS: Mapping[str, Callable[[Any], bool]] = {
    "account_prefix": lambda value: _is_text(value, MAX_ACCOUNT),
    # An empty list would be none.
    "assets": lambda value: isinstance(value, list) and bool(value) and all(_is_text(one, MAX_ASSET) for one in value),
    "most_amount": lambda value: type(value) is int and 0 < value <= MAX_AMOUNT,
}
