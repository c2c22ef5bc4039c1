"""The pages on a door: who gets in, what support is asked for, and what hostile input does there."""

import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from creditfold.common.waiting import wait_until
from creditfold.console import command
from creditfold.console.pages import POLICY
from creditfold.console.visits import COOKIE, LOGIN_COOKIE
from helpers.console import Visitor, hidden_fields, links_of, text_of
from helpers.doors import Door
from helpers.support import HANG_S

pytestmark = pytest.mark.stack

#: Bytes of a page at most.
MOST_BYTES = 100_000
HOSTILE = "<script>alert(1)</script>\"'><img src=x>"


# Login


def test_who_isnt_logged_in_is_led_to_the_login_and_back(door: Door) -> None:
    """Under a new id, in a cookie that no script and no other site gets."""
    with Visitor(door.url) as stranger:
        led = stranger.http.get("/console/accounts/ada?asset=x")
        assert led.status_code == 303
        assert led.headers["Location"] == "/console/login?next=%2Fconsole%2Faccounts%2Fada%3Fasset%3Dx"
        page = stranger.http.get(led.headers["Location"])
        assert "/console/accounts/ada?asset=x" in links_of(page.text)
        key = door.make_key("read:balance").text
        answer = stranger.http.post("/console/login", data={**hidden_fields(page.text), "key": key})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/console/accounts/ada?asset=x")
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/console" in cookie
        assert key not in cookie
        assert stranger.http.cookies[COOKIE] != stranger.http.cookies[LOGIN_COOKIE]
        assert key not in stranger.page("/console")


def asked(url: str, **more: Any) -> httpx.Response:
    """The answer to somebody who isn't logged in."""
    return httpx.get(url, timeout=HANG_S, trust_env=False, **more)


def test_the_login_page_ends_no_session(visitor: Visitor) -> None:
    """A link of another site leads there, with no cookie along: who has a session goes on with it."""
    answer = asked(f"{visitor.http.base_url}/console/login")
    assert LOGIN_COOKIE in answer.cookies
    assert COOKIE not in answer.cookies
    assert visitor.http.get("/console").status_code == 200


@pytest.mark.parametrize("key", ["", "nonsense", "cfk_abc_def", "cfk_" + "a" * 5_000])
def test_a_wrong_key_opens_nothing(door: Door, key: str) -> None:
    """And isn't shown again."""
    with Visitor(door.url) as stranger:
        answer = stranger.log_in(key)
        assert answer.status_code == 401
        assert not key or key not in answer.text
        assert stranger.http.get("/console").status_code == 303
        # The next one may be right.
        assert stranger.log_in(door.make_key("read:balance").text).status_code == 303


def test_after_a_logout_the_cookie_opens_nothing(door: Door) -> None:
    """Whoever kept it."""
    with Visitor(door.url) as visitor:
        visitor.log_in(door.make_key("read:balance").text)
        kept = visitor.http.cookies[COOKIE]
        assert visitor.send(visitor.page("/console"), "/console/logout").status_code == 303
        assert asked(f"{door.url}/console", cookies={COOKIE: kept}).status_code == 303


def test_the_cookie_is_for_tls_only_unless_the_door_is_this_machines(door: Door) -> None:
    """A key mustn't go over the network in clear."""
    for host, is_secure in (("localhost:1", False), ("[::1]:1", False), ("door.example", True)):
        cookie = asked(f"{door.url}/console/login", headers={"Host": host}).headers["Set-Cookie"]
        assert ("Secure" in cookie) == is_secure


def test_a_form_without_the_sessions_token_is_refused(door: Door, visitor: Visitor) -> None:
    """Neither another site's nor one of another session; a login neither."""
    with Visitor(door.url) as other:
        other.log_in(door.make_key("read:balance").text)
        foreign = hidden_fields(other.page("/console"))
    for fields in ({}, {"csrf_token": ""}, {"csrf_token": "0" * 64}, foreign):
        assert visitor.http.post("/console/logout", data=fields).status_code == 403
        assert visitor.http.post("/console/login", data={**fields, "key": "x"}).status_code == 403
    assert visitor.http.get("/console").status_code == 200


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 303), ("none", 303), ("same-site", 403), ("cross-site", 403), ("", 403)]
)
def test_a_form_that_another_sites_page_sends_is_refused(door: Door, site: str, status: int) -> None:
    """As a browser says it, even with the token: a neighbour may have planted cookies that it knows the token of."""
    key = door.make_key("read:balance").text
    with Visitor(door.url) as visitor:
        fields = hidden_fields(visitor.page("/console/login"))
        headers = {"Sec-Fetch-Site": site}
        answer = visitor.http.post("/console/login", data={**fields, "key": key}, headers=headers)
        assert answer.status_code == status
        assert (COOKIE in visitor.http.cookies) == (status == 303)
        visitor.log_in(key)
        page = visitor.page("/console")
        assert visitor.http.post("/console/logout", data=hidden_fields(page), headers=headers).status_code == status


@pytest.mark.parametrize("path", ["/console/x", "/console/accounts/a/b/c", "/console/%3Cb%3E", "/console/accounts/"])
def test_what_isnt_there_is_said_on_a_page(visitor: Visitor, path: str) -> None:
    """With the header fields of every page; whoever asks."""
    answer = visitor.http.get(path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert "The console has no page" in text_of(answer.text)
    assert "<b>" not in answer.text


def test_a_slash_at_the_end_leads_to_the_search(visitor: Visitor) -> None:
    """People write one."""
    assert visitor.http.get("/console/").headers["Location"] == "/console"


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"csrf_token=1&csrf_token=2", "application/x-www-form-urlencoded", 400),
        (b"csrf_token", "application/x-www-form-urlencoded", 400),
        (b"csrf_token=%FF", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"f%d=1" % n for n in range(100)), "application/x-www-form-urlencoded", 400),
        (b"x=" + b"1" * 2_000_000, "application/x-www-form-urlencoded", 413),
        (b'{"csrf_token": "1"}', "application/json", 415),
    ],
)
def test_a_form_that_is_none_is_refused(visitor: Visitor, body: bytes, media_type: str, status: int) -> None:
    """As a page, which says why."""
    answer = visitor.http.post("/console/logout", content=body, headers={"Content-Type": media_type})
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


def test_a_page_says_which_scope_is_missing(door: Door) -> None:
    """And shows what the others open."""
    door.grant("scoped", 10)
    with Visitor(door.url) as visitor:
        visitor.log_in(door.make_key("read:balance", account_prefix="scoped").text)
        assert "needs the scope read:statement" in text_of(visitor.page("/console/accounts/scoped/commands/x", 403))
        account = text_of(visitor.page("/console/accounts/scoped"))
        assert "What happened is shown to keys with the scope read:statement" in account
        assert "granted" not in account
        assert "may touch accounts that begin with" in text_of(visitor.page("/console/accounts/other", 403))


def test_every_answer_forbids_frames_caches_and_scripts_of_others(door: Door, visitor: Visitor) -> None:
    """Errors and files too."""
    for path in ("/console", "/console/login", "/console/accounts/none", "/console/accounts/a/commands/b"):
        headers = visitor.http.get(path).headers
        assert headers["Content-Security-Policy"] == POLICY
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store"
    for name in ("console.css", "htmx.min.js"):
        answer = visitor.http.get(f"/console/static/{name}")
        assert (answer.status_code, answer.headers["X-Content-Type-Options"]) == (200, "nosniff")
        again = visitor.http.get(f"/console/static/{name}", headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
    for name in ("vendored.json", "..%2Fapp.py", "%2Fetc%2Fpasswd"):
        assert visitor.http.get(f"/console/static/{name}").status_code in (400, 404)
    assert "unsafe" not in POLICY
    assert "frame-ancestors 'none'" in POLICY


# The three questions of support


def test_where_did_the_credits_go(door: Door, visitor: Visitor) -> None:
    """Search, account, trace: three clicks."""
    door.append("spender", "grants", "g-1", asset="credits", amount=100)
    door.append("spender", "spends", "order-7", asset="credits", amount=70, metadata={"order": "A-17"})
    for wanted in ("spend", "order-7", "A-17"):
        found = visitor.page(f"/console?q={wanted}")
        assert "/console/accounts/spender" in links_of(found)
    account = visitor.page("/console/accounts/spender")
    said = text_of(account)
    assert "spent 70 credits" in said
    assert "granted 100 credits" in said
    assert "/console/accounts/spender/commands/order-7/trace" in links_of(account)
    trace = text_of(visitor.page("/console/accounts/spender/commands/order-7/trace"))
    assert "It spent 70, of which 0 were refunded" in trace
    assert "g-1 , a lot of 100 credits made by a grant: 30 remain, 70 spent" in trace


def test_a_trace_looks_through_so_many_lines_for_a_page(
    door: Door, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there are moves behind them or not, the page says so and leads on."""
    monkeypatch.setattr(command, "MOST_LINES", 2)
    door.append("long", "grants", "g-early", asset="credits", amount=9)
    for number in range(5):
        door.append("long", "grants", f"g-{number}", asset="other", amount=1)
    door.append("long", "spends", "s-late", asset="credits", amount=4)
    page = visitor.page("/console/accounts/long/commands/g-early/trace")
    pages = [page]
    while rest := [link for link in links_of(page) if "cursor=" in link]:
        page = visitor.page(rest[0])
        pages.append(page)
    said = [text_of(one) for one in pages]
    assert len(said) == 3
    assert all("2 lines of the account were looked through" in one for one in said[:-1])
    assert ["s-late" in one for one in said] == [False, False, True]
    assert "It moved no credits" not in "".join(said)


def test_why_was_it_refused(door: Door, visitor: Visitor) -> None:
    """Search by the command's id, why: two clicks; with what to do about it."""
    door.grant("refused", 10)
    door.append("refused", "spends", "order-9", asset="credits", amount=500)
    why = "/console/accounts/refused/commands/order-9"
    assert why in links_of(visitor.page("/console?q=order-9"))
    said = text_of(visitor.page(why))
    assert "Refused on" in said
    assert "there is too little for this use" in said
    assert "10 credits were available then" in said
    assert "Grant what is lacking, or ask for less." in said
    # It moved nothing that could be traced.
    assert [link for link in links_of(visitor.page(why)) if link.endswith("/trace")] == []
    assert "refused a spend of 500 credits: there is too little" in text_of(visitor.page("/console/accounts/refused"))
    unknown = visitor.page("/console/accounts/refused/commands/never", 404)
    assert "has no command never as far as it is folded" in text_of(unknown)


def test_when_do_they_end(door: Door, visitor: Visitor) -> None:
    """Search, account: two clicks; in words, as bars, and as a table."""
    ends = datetime.now(UTC) + timedelta(days=40)
    instant = ends.strftime("%Y-%m-%dT%H:%M:%SZ")
    door.append("ending", "grants", "soon", asset="credits", amount=50, expires_at=instant, lot_class="promo")
    door.grant("ending", 30)
    door.append("ending", "holds", "h-1", asset="credits", amount=5, deadline=instant)
    page = visitor.page("/console/accounts/ending")
    said = text_of(page)
    assert re.search(rf"45 credits end on {ends.day} {ends:%B %Y}", said)
    assert page.count("<rect") == 4
    assert "soon 45 5 50 promo active" in said
    assert "39 d 23 h left" in said
    assert f"set aside 5 credits until {ends.day} {ends:%B %Y}" in said


def test_each_asset_has_its_own_lots_and_plot(door: Door, visitor: Visitor) -> None:
    """The first one's, unless another is chosen; however many lots others have."""
    for n in range(28):
        door.append("assets", "grants", f"coin-{n:02}", asset="coins", amount=1)
    door.append("assets", "grants", "gem", asset="gems", amount=7)
    page = visitor.page("/console/accounts/assets")
    assert "Lots of coins" in text_of(page)
    assert "There are more; these are spent first." in text_of(page)
    (other,) = [link for link in links_of(page) if link == "/console/accounts/assets?asset=gems"]
    said = text_of(visitor.page(other))
    assert "Lots of gems" in said
    assert "gem 7 0 7 paid active" in said
    assert "between 0 and 7" in visitor.page(other)


def test_a_long_statement_goes_on_and_each_line_leads_on(door: Door, visitor: Visitor) -> None:
    """A page stays small however much happened, and every line leads to *why* and *trace*."""
    for n in range(30):
        door.append("long", "grants", f"g-{n:02}", asset="credits", amount=n + 1, reason='"' * 1_024)
    page = visitor.page("/console/accounts/long")
    assert len(page.encode()) < MOST_BYTES
    shown = re.findall(r"/commands/(g-\d\d)/trace", page.partition('id="statement"')[2])
    (older,) = [link for link in links_of(page) if "before=" in link]
    rest = visitor.page(older.partition("#")[0])
    shown += re.findall(r"/commands/(g-\d\d)/trace", rest.partition('id="statement"')[2])
    assert shown == [f"g-{n:02}" for n in reversed(range(30))]


def account_with_brief_credits(door: Door) -> str:
    """An account with 9 credits that end in a moment. Another one is taken where they came too late."""
    for number in itertools.count():
        account = f"timed-{number}"
        ends = datetime.now(UTC) + timedelta(milliseconds=700)
        door.append(account, "grants", "brief", asset="credits", amount=9, expires_at=ends.isoformat())
        (*_, first) = door.http.get(f"/v1/accounts/{account}/history").json()["lines"]
        if datetime.fromisoformat(first["decided_at"]) < ends:
            return account
    raise AssertionError


def test_what_time_did_has_a_why_too(door: Door, visitor: Visitor) -> None:
    """It names the lot that ended, whose trace it leads to."""
    account = account_with_brief_credits(door)

    def has_ended() -> bool:
        # Each command settles the account.
        door.append(account, "grants", asset="credits", amount=1)
        return "9 credits ended unspent" in text_of(visitor.page(f"/console/accounts/{account}"))

    assert wait_until(has_ended, HANG_S)
    (line, *_) = [link for link in links_of(visitor.page(f"/console/accounts/{account}")) if "/lines/" in link]
    said = text_of(visitor.page(line))
    assert "9 credits ended unspent (brief)" in said
    assert "time did" in said
    assert visitor.page(f"/console/accounts/{account}/lines/9999", 404)


# Hostile input


def test_markup_in_what_others_wrote_is_shown_as_text(door: Door, visitor: Visitor) -> None:
    """In an account's name, a command's id, a scope and a reason: none becomes a tag or leaves an attribute."""
    account = quote(f"evil/{HOSTILE}", safe="")
    done = door.append(account, "grants", HOSTILE, asset="credits", amount=5, reason=HOSTILE, scope=HOSTILE)
    assert done.status_code == 201, done.text
    page = f"/console/accounts/{account}"
    command = f"{page}/commands/{quote(HOSTILE, safe='')}"
    for path in (f"/console?q={account}", page, command, f"{command}/trace", f"/console?q={quote(HOSTILE)}"):
        shown = visitor.page(path)
        assert HOSTILE in text_of(shown)
        assert re.findall(r"<script(?! src=)|<img", shown) == []
        # With its attributes' values away, a tag has nothing of what was written.
        assert not [tag for tag in re.findall(r"<[^>]*>", re.sub(r'"[^"]*"', '""', shown)) if "alert" in tag]


def test_no_page_has_style_or_script_of_its_own(visitor: Visitor) -> None:
    """The policy would refuse them."""
    for path in ("/console", "/console/login", "/console/accounts/ending", "/console/accounts/none/commands/x"):
        page = visitor.http.get(path).text
        assert re.findall(r"<style|\sstyle=|<script(?! src=)|javascript:", page) == []
