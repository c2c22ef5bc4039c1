"""The login by an identity provider: a small one on loopback, and all that isn't taken of it."""

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from creditfold.api.limits import Rate
from creditfold.api.problems import ProblemError
from creditfold.common.settings import Settings
from creditfold.console import provider as provider_module
from creditfold.console import sessions
from creditfold.console.provider import LASTS_S, Attempts
from creditfold.console.visits import COOKIE, PROVIDER_COOKIE
from helpers.console import Visitor, links_of, text_of
from helpers.doors import Door, serving
from helpers.identity_provider import CLIENT, IdentityProvider, provider_at, settings_with
from helpers.stack_under_test import free_port
from helpers.support import HANG_S

stack = pytest.mark.stack


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    """A provider that serves."""
    with provider_at(free_port()) as found:
        yield found


@pytest.fixture(scope="module")
def console(door: Door, provider: IdentityProvider) -> Iterator[str]:
    """The address of a door whose console has a login by the provider."""
    port = free_port()
    given = settings_with(provider, f"http://127.0.0.1:{port}")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sessions, "FAILURES", Rate(1e6, 10**6))
        with serving(door.settings.model_copy(update=given), port=port) as url:
            yield url


@pytest.fixture
def ann(console: str, provider: IdentityProvider) -> Iterator[Visitor]:
    """Somebody with a browser; the provider has nothing wrong."""
    provider.access, provider.ids, provider.answer, provider.metadata = {}, {}, None, {}
    with Visitor(console) as found:
        yield found


def begin(visitor: Visitor, following: str = "/console?q=x") -> httpx.URL:
    """Follow the link of the login; where the provider is asked."""
    page = visitor.page(httpx.URL("/console/login", params={"next": following}).raw_path.decode())
    (link,) = [one for one in links_of(page) if one.startswith("/console/login/provider")]
    led = visitor.http.get(link)
    assert led.status_code == 303, led.text
    return httpx.URL(led.headers["Location"])


def allowed(asked: httpx.URL, who: str = "ann") -> str:
    """Log in at the provider; where that leads back to."""
    assert httpx.get(asked, timeout=HANG_S, trust_env=False).status_code == 200
    back = httpx.post(asked, data={"who": who}, timeout=HANG_S, trust_env=False)
    assert back.status_code == 303
    return back.headers["Location"]


def refused(visitor: Visitor, back: str, status: int = 401) -> str:
    """Follow what must not log in; what the login says."""
    answer = visitor.http.get(back)
    assert answer.status_code == status, answer.text
    assert COOKIE not in visitor.http.cookies
    assert "Log in" in text_of(answer.text)
    return text_of(answer.text)


@stack
def test_who_logs_in_there_is_logged_in_here(ann: Visitor, provider: IdentityProvider) -> None:
    """Under a new id, led to where they wanted, as who the token says, with its scopes and its prefix."""
    provider.access = {"scope": "openid read:balance", "creditfold_account_prefix": "eu-"}
    asked = begin(ann)
    answer = ann.http.get(allowed(asked))
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0;url=/console?q=x">' in answer.text
    cookie = next(one for one in answer.headers.get_list("Set-Cookie") if one.startswith(COOKIE))
    assert "SameSite=strict" in cookie
    assert "HttpOnly" in cookie
    assert "jwt:ann" in ann.page("/console")
    assert "needs the scope read:statement" in text_of(ann.page("/console/accounts/eu-1/commands/x", 403))
    assert "accounts that begin with 'eu-' only" in text_of(ann.page("/console/accounts/us-1", 403))
    assert ann.send(ann.page("/console"), "/console/logout").status_code == 303
    assert ann.http.get("/console").status_code == 303


@stack
def test_no_secret_of_a_login_is_where_it_could_be_read(ann: Visitor, provider: IdentityProvider) -> None:
    """The verifier and the client's secret stay here; the browser has random ids; each login has others."""
    seen = [parse_qs(urlsplit(str(begin(ann))).query) for _ in range(2)]
    for name in ("state", "nonce", "code_challenge"):
        assert seen[0][name] != seen[1][name]
    assert not {"code_verifier", "client_secret"} & seen[0].keys()
    (cookie,) = [one for one in ann.http.cookies.jar if one.name == PROVIDER_COOKIE]
    assert cookie.path == "/console/login"
    assert cookie.value not in str(seen)


@stack
def test_a_provider_that_wants_the_secret_posted_gets_it_so(
    ann: Visitor, provider: IdentityProvider, door: Door
) -> None:
    """As its metadata say."""
    provider.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"]}
    port = free_port()
    given = settings_with(provider, f"http://127.0.0.1:{port}")
    with serving(door.settings.model_copy(update=given), port=port) as url, Visitor(url) as other:
        assert other.http.get(allowed(begin(other))).status_code == 200
        assert "jwt:ann" in other.page("/console")


@stack
def test_a_login_counts_once_and_in_its_own_browser(ann: Visitor, console: str) -> None:
    """Neither a repeated answer, nor one that another browser is led to, nor a made-up one."""
    said = "This login isn't known here"
    back = allowed(begin(ann))
    with Visitor(console) as other:
        assert said in refused(other, back)
        begin(other)
        assert said in refused(other, allowed(begin(ann)))
    back = allowed(begin(ann))
    assert ann.http.get(back).status_code == 200
    ann.http.cookies.delete(COOKIE)
    assert said in refused(ann, back)
    state = parse_qs(urlsplit(str(begin(ann))).query)["state"][0]
    for path in ("", "?code=x", "?code=x&state=", f"?code=x&state={state[:-1]}", "?state=%FF&code=x"):
        answer = ann.http.get(f"/console/login/callback{path}")
        assert answer.status_code in (400, 401), path
        assert COOKIE not in ann.http.cookies


@stack
def test_a_login_that_takes_long_is_over(ann: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so."""
    asked = begin(ann)
    monkeypatch.setattr(provider_module, "LASTS_S", -1.0)
    assert "The login took more than" in refused(ann, allowed(asked))


@stack
def test_a_refusal_of_the_provider_is_shown_as_text(ann: Visitor) -> None:
    """With where the login was to lead, for the next one."""
    answer = ann.http.get(allowed(begin(ann), who=""))
    assert answer.status_code == 401
    assert "The identity provider refused the login: access_denied: <b>Not</b> today." in text_of(answer.text)
    assert "<b>" not in answer.text
    assert "next=%2Fconsole%3Fq%3Dx" in answer.text


NOW = int(time.time())
ID_TOKENS: dict[str, tuple[dict[str, Any], str]] = {
    "of another login": ({"nonce": "other"}, "nonce"),
    "without a nonce": ({"nonce": None}, "nonce"),
    "for another client": ({"aud": "shop"}, "aud"),
    "for several, given to another": ({"aud": [CLIENT, "shop"], "azp": "shop"}, "azp"),
    "for several, given to nobody": ({"aud": [CLIENT, "shop"]}, "azp"),
    "of another issuer": ({"iss": "https://id.example"}, "iss"),
    "ended": ({"exp": NOW - 60}, "has ended"),
    "of a clock far ahead": ({"iat": NOW + 86_400}, "iat"),
    "of no time": ({"iat": None}, "iat"),
    "of nobody": ({"sub": None}, "sub"),
    "of another access token": ({"at_hash": "x"}, "at_hash"),
}


@stack
@pytest.mark.parametrize("name", ID_TOKENS)
def test_an_id_token_that_answers_no_login_of_ours_is_refused(
    ann: Visitor, provider: IdentityProvider, name: str
) -> None:
    """Naming the claim."""
    provider.ids, said = ID_TOKENS[name]
    found = refused(ann, allowed(begin(ann)))
    assert "The identity provider's ID token isn't taken" in found
    assert said in found


@stack
def test_a_clock_that_is_a_little_off_does_no_harm(ann: Visitor, provider: IdentityProvider) -> None:
    """Half a minute, as with every token."""
    provider.ids = {"iat": int(time.time()) + 15}
    assert ann.http.get(allowed(begin(ann))).status_code == 200


ACCESS_TOKENS: dict[str, tuple[dict[str, Any], str]] = {
    "for another": ({"aud": "shop"}, "access token isn't taken. The token's claim aud"),
    "ended": ({"exp": NOW - 60}, "access token isn't taken. The token has ended."),
    "of another person": ({"sub": "eve"}, "two tokens are of two people"),
    "without a scope": ({"scope": None}, "has no scope of the ledger's"),
    "with scopes of others": ({"scope": "openid profile"}, "has no scope of the ledger's"),
    "with a limit that is none": ({"creditfold_prefix": "eu-"}, "creditfold_prefix is no limit"),
}


@stack
@pytest.mark.parametrize("name", ACCESS_TOKENS)
def test_an_access_token_that_opens_nothing_begins_no_session(
    ann: Visitor, provider: IdentityProvider, name: str
) -> None:
    """And the login says why."""
    provider.access, said = ACCESS_TOKENS[name]
    assert said in refused(ann, allowed(begin(ann)))


ANSWERS: dict[str, tuple[tuple[int, str], int, str]] = {
    "an error": ((400, '{"error": "invalid_grant"}'), 401, "refused the login: invalid_grant"),
    "a secret it doesn't know": ((401, '{"error": "invalid_client"}'), 401, "refused the login: invalid_client"),
    "a failure": ((500, "oops"), 503, "doesn't answer"),
    "no JSON": ((200, "<html>"), 503, "doesn't answer"),
    "a list": ((200, "[]"), 503, "doesn't answer"),
    "another address": ((307, ""), 503, "doesn't answer"),
    "nothing in it": ((200, "{}"), 401, "isn't taken"),
    "a key of ours": ((200, json.dumps({"access_token": "cfk_x", "id_token": "a.b.c"})), 401, "isn't taken"),
}


@stack
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_without_tokens_is_none(ann: Visitor, provider: IdentityProvider, name: str) -> None:
    """Whatever the provider says in place of them."""
    asked = begin(ann)
    provider.answer, status, said = ANSWERS[name]
    assert said in refused(ann, allowed(asked), status)


@stack
def test_an_answer_of_another_provider_is_refused(ann: Visitor) -> None:
    """By the name that it has to give itself; so is one that leaves it out where it is said to be there."""
    for replacement in ("iss=https%3A%2F%2Fid.example", "x=y"):
        back = allowed(begin(ann))
        assert "of another identity provider" in refused(ann, f"{back.partition('&iss=')[0]}&{replacement}")


@stack
def test_a_provider_that_is_away_or_says_another_name_is_named(
    door: Door, provider: IdentityProvider, ann: Visitor
) -> None:
    """With 503; the ledger's own keys are good all the same."""
    given = settings_with(provider, "http://127.0.0.1:1")
    away = {**given, "api_jwt_issuer": f"http://127.0.0.1:{free_port()}"}
    with serving(door.settings.model_copy(update=away)) as url, Visitor(url) as visitor:
        answer = visitor.http.get("/console/login/provider")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "The identity provider doesn't answer" in text_of(answer.text)
        assert visitor.log_in(door.make_key("read:balance").text).status_code == 303
    for wrong in ({"issuer": "https://id.example"}, {"token_endpoint": "http://id.example/token"}):
        provider.metadata = wrong
        with serving(door.settings.model_copy(update=given)) as url, Visitor(url) as visitor:
            assert visitor.http.get("/console/login/provider").status_code == 503


@stack
def test_an_address_may_fail_so_often_by_a_provider_too(
    ann: Visitor, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch, door: Door
) -> None:
    """Since each has it asked for tokens."""
    monkeypatch.setattr(sessions, "FAILURES", Rate(0.001, 2))
    port = free_port()
    given = settings_with(provider, f"http://127.0.0.1:{port}")
    provider.answer = (400, '{"error": "invalid_grant"}')
    with serving(door.settings.model_copy(update=given), port=port) as url, Visitor(url) as visitor:
        statuses = [visitor.http.get(allowed(begin(visitor))).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]


@stack
def test_a_login_leads_to_the_console_only(ann: Visitor) -> None:
    """However the link was made."""
    answer = ann.http.get(allowed(begin(ann, "//evil.example")))
    assert '0;url=/console"' in answer.text


@stack
def test_without_a_provider_nothing_is_offered(door: Door) -> None:
    """Neither the link nor what it leads to."""
    with Visitor(door.url) as visitor:
        assert "provider" not in visitor.page("/console/login")
        for path in ("/console/login/provider", "/console/login/callback?code=x&state=y"):
            assert "No identity provider is set here." in text_of(visitor.page(path, 404))


# Without a door


def test_a_login_is_of_one_browser_for_some_minutes() -> None:
    """Each state counts once, however it ends."""
    attempts = Attempts()
    state, attempt = attempts.begin("browser", "/console", now=0.0)
    assert attempts.take(state, "browser", now=LASTS_S) == attempt
    for other in ("browser", "other", ""):
        state, _ = attempts.begin("browser", "/console", now=0.0)
        with pytest.raises(ProblemError, match=r"more than 10 minutes|isn't known"):
            attempts.take(state, other, now=LASTS_S + 1)
        with pytest.raises(ProblemError, match="isn't known"):
            attempts.take(state, "browser", now=0.0)


def test_there_are_no_more_logins_than_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten; none is shown by what is kept."""
    monkeypatch.setattr(provider_module, "MOST_ATTEMPTS", 2)
    attempts = Attempts()
    states = [attempts.begin("browser", "/console", now=0.0)[0] for _ in range(3)]
    assert not any(state in repr(vars(attempts)) for state in states)
    with pytest.raises(ProblemError):
        attempts.take(states[0], "browser", now=0.0)
    assert [attempts.take(state, "browser", now=0.0).following for state in states[1:]] == ["/console"] * 2


KNOWN = {
    "api_jwks_url": "https://id.example/jwks",
    "api_jwt_issuer": "https://id.example",
    "api_jwt_audience": "a",
    "console_url": "https://ledger.example",
    "console_oidc_client_id": "console",
}


@pytest.mark.parametrize(
    "given",
    [
        {"api_jwks_url": None},
        {"console_url": None},
        {"console_url": "http://ledger.example"},
        {"console_url": "https://ledger.example/"},
        {"console_url": "https://ann@ledger.example"},
        {"api_jwt_issuer": "id"},
        {"api_jwt_issuer": "http://id.example"},
        {"console_oidc_scopes": "profile"},
    ],
)
def test_settings_that_would_lead_a_login_astray_are_refused(given: dict[str, Any]) -> None:
    """Without a way back, or by a line that others can change."""
    assert Settings(**KNOWN).console_oidc_client_id == "console"
    with pytest.raises(ValueError, match=r"console_|api_"):
        Settings(**{**KNOWN, **given})
