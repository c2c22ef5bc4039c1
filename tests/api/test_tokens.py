"""Tokens of an identity provider: a real key pair, a small provider on loopback, and all that isn't taken."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from joserfc.jwk import RSAKey

from creditfold.api import tokens
from creditfold.common.settings import Settings
from helpers.doors import Door, serving
from helpers.identity_provider import IdentityProvider, provider_at, settings_with
from helpers.stack_under_test import free_port
from helpers.support import HANG_S

pytestmark = pytest.mark.stack

#: What isn't a limit: passed over, each would let its token do more than was meant.
NO_LIMITS: tuple[tuple[str, Any], ...] = (
    ("account_prefix", ""),
    ("account_prefix", 5),
    ("account_prefix", "a\nb"),
    ("assets", []),
    ("assets", "credits"),
    ("assets", ["credits", 5]),
    ("most_amount", 0),
    ("most_amount", True),
    ("most_amount", 5.5),
    ("most_amount", 2**53),
    ("prefix", "eu-"),
)


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    """A provider that serves."""
    with provider_at(free_port()) as found:
        yield found


def settings_of(door: Door, provider: IdentityProvider, **more: str) -> Settings:
    """The door's, with a provider."""
    return door.settings.model_copy(update={**settings_with(provider), **more})


@contextmanager
def asking(url: str) -> Iterator[Callable[[str], httpx.Response]]:
    """Asks a door for its progress with a token."""
    with httpx.Client(base_url=url, timeout=HANG_S, trust_env=False) as client:
        yield lambda text: client.get("/v1/progress", headers={"Authorization": f"Bearer {text}"})


@pytest.fixture(scope="module")
def ask(door: Door, provider: IdentityProvider) -> Iterator[Callable[[str], httpx.Response]]:
    """Asks a door that takes the provider's tokens."""
    with serving(settings_of(door, provider)) as url, asking(url) as asked:
        yield asked


def test_a_token_opens_what_its_scope_says(door: Door, provider: IdentityProvider) -> None:
    """Its subject is the source of its commands; scopes of others mean nothing here; keys are good as ever."""
    with serving(settings_of(door, provider)) as url:
        for key, alg in ((provider.keys[0], "RS256"), (provider.keys[1], "ES256")):
            text = provider.token(key, alg, scope="openid append:grant read:statement", aud=["other", "creditfold"])
            headers = {"Authorization": f"Bearer {text}", "Idempotency-Key": alg, "Prefer": "wait=30"}
            with httpx.Client(base_url=url, headers=headers, timeout=HANG_S, trust_env=False) as ann:
                body = {"asset": "credits", "amount": 5}
                granted = ann.post("/v1/accounts/by-token/grants", json=body)
                assert (granted.status_code, granted.json()["decision"]["source"]) == (201, "jwt:ann"), granted.text
                assert ann.get("/v1/accounts/by-token").json()["code"] == "scope_missing"
        with asking(url) as asked:
            assert asked(door.make_key("read:balance").text).status_code == 200


def test_a_token_is_limited_by_its_claims(door: Door, provider: IdentityProvider) -> None:
    """As a key is: to a prefix of accounts, to assets, to a largest amount."""
    limits = {
        "creditfold_account_prefix": "eu-",
        "creditfold_assets": ["credits", "gold"],
        "creditfold_most_amount": 100,
    }
    text = provider.token(scope="append:grant read:balance read:statement", **limits)
    headers = {"Authorization": f"Bearer {text}", "Prefer": "wait=30"}
    with (
        serving(settings_of(door, provider)) as url,
        httpx.Client(base_url=url, headers=headers, timeout=HANG_S, trust_env=False) as ann,
    ):
        for number, (account, asset, amount, code) in enumerate(
            (
                ("eu-1", "gold", 100, None),
                ("us-1", "gold", 100, "account_out_of_reach"),
                ("eu-1", "iron", 100, "asset_out_of_reach"),
                ("eu-1", "gold", 101, "amount_over_limit"),
            )
        ):
            body = {"asset": asset, "amount": amount}
            answer = ann.post(f"/v1/accounts/{account}/grants", json=body, headers={"Idempotency-Key": str(number)})
            assert (answer.status_code, answer.json().get("code")) == (403 if code else 201, code)
        assert ann.get("/v1/accounts/us-1").json()["code"] == "account_out_of_reach"
        assert ann.get("/v1/journal").json()["code"] == "account_out_of_reach"


def test_what_a_token_lacks_or_has_wrong_is_refused(
    ask: Callable[[str], httpx.Response], provider: IdentityProvider
) -> None:
    """Each with 401 in words, without a part of the token."""
    stranger = RSAKey.generate_key(2048, {"kid": "rsa"})
    now = int(time.time())
    good = provider.token()
    head, body, signature = good.split(".")
    bad = {
        "ended": provider.token(exp=now - 60),
        "without an end": provider.token(exp=None),
        "an end that is no number": provider.token(exp="tomorrow"),
        "not yet": provider.token(nbf=now + 3_600),
        "of another issuer": provider.token(iss="https://id.example.org"),
        "without an issuer": provider.token(iss=None),
        "for another": provider.token(aud="shop"),
        "for nobody": provider.token(aud=None),
        "of nobody": provider.token(sub=None),
        "of a name that can't be kept": provider.token(sub="a\nb"),
        "signed by another": provider.token(stranger),
        "of an algorithm that isn't allowed": provider.token(alg="RS512"),
        "signed by what everybody can read": provider.token(provider.shared, "HS256"),
        "not signed": f"eyJhbGciOiJub25lIn0.{body}.",
        "changed": f"{head}.{body[:-2]}AA.{signature}",
        "garbage": "a.b.c",
        "empty": "..",
        "long": f"{good}{'a' * tokens.LONGEST}",
        **{f"{name}={value!r}": provider.token(**{f"creditfold_{name}": value}) for name, value in NO_LIMITS},
    }
    assert ask(good).status_code == 200
    for name, text in bad.items():
        answer = ask(text)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (name, answer.text)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert all(len(part) < 8 or part not in answer.text for part in text.split(".")), name
    assert ask(provider.token(exp=10**400)).status_code == 200
    assert ask(provider.token(scope=None)).status_code == 403
    assert ask(provider.token(scope=["read:balance"])).status_code == 403


def test_a_new_key_is_asked_for_and_nobody_can_make_the_door_ask_often(
    door: Door, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the id in a token, at most once in a while."""
    monkeypatch.setattr(tokens, "SELDOM_S", 86_400.0)
    with serving(settings_of(door, provider)) as url, asking(url) as asked:
        assert asked(provider.token()).status_code == 200
        before = provider.asked
        provider.keys.append(RSAKey.generate_key(2048, {"kid": "next"}))
        strangers = [RSAKey.generate_key(2048, {"kid": f"stranger-{n}"}) for n in range(3)]
        # Too soon after the first time.
        assert [asked(provider.token(key)).status_code for key in (provider.keys[-1], *strangers)] == [401] * 4
        assert provider.asked == before
    monkeypatch.setattr(tokens, "SELDOM_S", 0.0)
    with serving(settings_of(door, provider)) as url, asking(url) as asked:
        provider.keys.pop()
        assert asked(provider.token()).status_code == 200
        provider.keys.append(RSAKey.generate_key(2048, {"kid": "last"}))
        before = provider.asked
        assert [asked(provider.token(provider.keys[-1])).status_code for _ in range(3)] == [200] * 3
        assert provider.asked == before + 1
    provider.keys.pop()


def test_a_provider_that_is_away_is_named(door: Door, provider: IdentityProvider) -> None:
    """With 503, where its keys aren't known; the ledger's own keys are good all the same."""
    with (
        serving(settings_of(door, provider, api_jwks_url=f"http://127.0.0.1:{free_port()}/")) as url,
        asking(url) as asked,
    ):
        away = asked(provider.token())
        assert (away.status_code, away.json()["code"]) == (503, "identity_provider_unavailable")
        assert away.headers["Retry-After"] == "1"
        assert asked(door.make_key("read:balance").text).status_code == 200
    # Where no provider is named, a token is no key.
    with asking(door.url) as asked:
        assert asked(provider.token()).status_code == 401


@pytest.mark.parametrize(
    "given",
    [
        {"api_jwks_url": "http://id.example/jwks", "api_jwt_issuer": "i", "api_jwt_audience": "a"},
        {"api_jwks_url": "file:///etc/keys", "api_jwt_issuer": "i", "api_jwt_audience": "a"},
        {"api_jwks_url": "https://id.example/jwks", "api_jwt_issuer": "i"},
        {"api_jwks_url": "https://id.example/jwks", "api_jwt_audience": "a"},
        {"api_jwt_algorithms": "HS256"},
        {"api_jwt_algorithms": "none"},
    ],
)
def test_settings_that_would_let_others_in_are_refused(given: dict[str, Any]) -> None:
    """Keys by a line that others can change, tokens of anybody or for anybody, secrets that are shared."""
    with pytest.raises(ValueError, match="api_"):
        Settings(**given)


def test_a_door_without_keys_serves_no_page_of_another_origin(door: Door) -> None:
    """Nor a name that a page's owner has lead to loopback; its own pages and programs it does."""
    with serving(door.settings, is_open=True) as url:
        port = url.rpartition(":")[2]
        for headers, status in (
            ({}, 200),
            ({"Host": f"localhost:{port}"}, 200),
            ({"Origin": url}, 200),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "http://["}, 403),
            ({"Host": f"evil.example:{port}"}, 403),
            ({"Host": "["}, 403),
            ({"Host": f"[::1]:{port}"}, 200),
            ({"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}, 403),
        ):
            answer = httpx.get(f"{url}/v1/progress", headers=headers, timeout=HANG_S, trust_env=False)
            assert answer.status_code == status, (headers, answer.text)


def test_pages_of_other_origins_may_ask_where_that_is_set(door: Door) -> None:
    """And nowhere else: closed unless set."""
    page = {"Origin": "https://desk.example"}
    asked = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Idempotency-Key"}
    url = "/v1/accounts/ann/grants"
    closed = [door.http.options(url, headers=asked), door.http.get("/v1/progress", headers=page)]
    assert [name for answer in closed for name in answer.headers if name.startswith("access-control")] == []
    with (
        serving(door.settings.model_copy(update={"api_cors_origins": "https://desk.example, https://b.example"})) as at,
        httpx.Client(base_url=at, timeout=HANG_S, trust_env=False) as client,
    ):
        preflight = client.options(url, headers=asked)
        assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, page["Origin"])
        assert "Idempotency-Key" in preflight.headers["Access-Control-Allow-Headers"]
        refused = client.get("/v1/progress", headers=page)
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, page["Origin"])
        assert "RateLimit" in refused.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in refused.headers
        other = client.options(url, headers={**asked, "Origin": "https://evil.example"})
        assert (other.status_code, "Access-Control-Allow-Origin" in other.headers) == (400, False)
