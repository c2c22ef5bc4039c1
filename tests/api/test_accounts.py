"""Reading an account over HTTP."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import Connection

from creditfold.api import answers, at_least
from creditfold.api.parameters import cursor_of
from creditfold.common.instants import milliseconds_of
from creditfold.common.waiting import wait_until
from creditfold.projections import queries
from creditfold.projections.connections import connected, snapshot
from creditfold.projections.queries.progress import Standing
from helpers.doors import Door
from helpers.support import HANG_S

pytestmark = pytest.mark.stack


def test_an_account_that_was_never_used_reads_as_nothing(door: Door, account: str) -> None:
    """With 200: there is no account to make before the first grant."""
    answer = door.http.get(f"/v1/accounts/{account}", params={"expand": "lots,holds"})
    assert answer.status_code == 200
    assert answer.json() == {
        "account": account,
        "is_closed": False,
        "frozen": None,
        "balances": [],
        "lots": [],
        "lots_next": None,
        "holds": [],
        "holds_next": None,
    }
    assert door.http.get(f"/v1/accounts/{account}", params={"expand": "lots,hold"}).status_code == 400
    assert door.http.get(f"/v1/accounts/{account}/balances").json() == []
    for part in ("lots", "holds", "transfers", "schedules"):
        assert door.http.get(f"/v1/accounts/{account}/{part}").json() == {part: [], "next": None}


def test_an_answer_says_which_state_it_reflects(door: Door, account: str) -> None:
    """And can be asked for not before one's own write."""
    position = door.grant(account, 10).headers["Creditfold-Position"]
    answer = door.http.get(f"/v1/accounts/{account}", params={"at_least": position})
    assert answer.headers["Creditfold-Generation"] == "1"
    partition, offset = answer.headers["Creditfold-Position"].split(":")
    assert [partition, int(offset) >= int(position.split(":")[1])] == [position.split(":")[0], True]
    assert answer.json()["balances"][0]["available"] == 10
    # The append time of that record at least, though it may be later than the last look at the log.
    decided = door.http.get(f"/v1/accounts/{account}/history").json()["lines"][0]["decided_at"]
    assert decided <= answer.headers["Creditfold-Complete-To"] <= answers.rfc3339(datetime.now(UTC))
    for bad, status in (("soon", 400), ("99:0", 400)):
        assert door.http.get(f"/v1/accounts/{account}", params={"at_least": bad}).status_code == status


@pytest.mark.parametrize("name", ["account", "search", "graphql"])
def test_no_answer_is_of_a_state_before_the_one_that_was_asked_for(
    door: Door, account: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Where another generation is shown between the look at the fold and the read, and isn't folded so far."""
    partition, offset = map(int, door.grant(account, 10).headers["Creditfold-Position"].split(":"))
    seen: list[int] = []
    standing = queries.standing

    def ahead_once(connection: Connection[Any]) -> Standing:
        found = standing(connection)
        seen.append(1)
        ahead = {one: offset + 10**6 for one, offset in found.next_offsets.items()}
        return found._replace(next_offsets=ahead) if len(seen) == 1 else found

    monkeypatch.setattr(at_least, "AT_LEAST_S", 0.5)
    monkeypatch.setattr(queries, "standing", ahead_once)
    asked: dict[str, Any] = {"params": {"at_least": f"{partition}:{offset + 10**5}"}}
    if name == "graphql":
        query = f'{{account(account: "{account}") {{balances{{available}}}}}}'
        answer = door.http.post("/graphql", json={"query": query}, **asked)
    else:
        answer = door.http.get("/v1/accounts" + (f"/{account}" if name == "account" else ""), **asked)
    assert (answer.status_code, answer.json()["code"]) == (503, "not_yet_folded")
    assert seen


def test_an_answer_that_is_known_is_not_sent_again(door: Door, account: str) -> None:
    """By its ETag, until something changes."""
    door.grant(account, 10)
    url = f"/v1/accounts/{account}"
    tag = door.http.get(url).headers["ETag"]
    assert door.http.get(url, headers={"If-None-Match": tag}).status_code == 304
    door.grant(account, 1)
    assert door.http.get(url, headers={"If-None-Match": tag}).status_code == 200


def test_an_account_changes_without_a_new_version(door: Door, account: str) -> None:
    """So its version is no ETag: what ends by itself, and what a use could take, differ between two answers of one."""
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    door.grant(account, 10, expires_at=ends.isoformat())
    door.grant(account, 5, scope="boosts")
    with connected(door.settings.dsn) as connection, snapshot(connection):
        end_ms = milliseconds_of(ends)
        before, after = (queries.balances_now(connection, account, end_ms + more) for more in (-1, 0))
    assert [(row.available, row.version) for row in (*before, *after)] == [(15, 2), (5, 2)]
    url = f"/v1/accounts/{account}/balances"
    answers_of = [door.http.get(url, params=params) for params in ({}, {"use": "boosts"}, {"use": "ads"})]
    assert {answer.json()[0]["version"] for answer in answers_of} == {2}
    assert len({answer.headers["ETag"] for answer in answers_of}) == 3


def test_what_an_account_is_made_of_is_read(door: Door, account: str) -> None:
    """Lots, holds, transfers and schedules, with instants in UTC."""
    door.grant(account, 100, key="g", expires_at="2098-01-01T00:00:00Z", scope="boosts")
    door.grant(account, 100, key="h")
    monthly = {"asset": "credits", "amount": 5, "period": "months", "first_at": "2090-01-01T00:00:00Z"}
    for route, key, body in (
        ("holds", "hold", {"asset": "credits", "amount": 10, "deadline": "2097-01-01T00:00:00Z"}),
        ("transfers", "gift", {"asset": "credits", "amount": 5, "to": f"{account}-2"}),
        ("schedules", "monthly", monthly),
    ):
        answer = door.append(account, route, key=key, **body)
        assert answer.status_code == 201, answer.text
    url = f"/v1/accounts/{account}"
    lots = door.http.get(f"{url}/lots").json()["lots"]
    assert [(lot["command_id"], lot["expires_at"], lot["scope"]) for lot in lots] == [
        ("g", "2098-01-01T00:00:00.000Z", "boosts"),
        ("h", None, None),
    ]
    assert [hold["held"] for hold in door.http.get(f"{url}/holds").json()["holds"]] == [10]
    (gift,) = door.http.get(f"{url}/transfers?every=true").json()["transfers"]
    assert gift["to_account"] == f"{account}-2"
    (found,) = door.http.get(f"{url}/schedules").json()["schedules"]
    assert found["next_at"] == "2090-01-01T00:00:00.000Z"
    (balance,) = door.http.get(f"{url}/balances", params={"use": "boosts"}).json()
    assert (balance["available"], balance["available_for_use"]) == (185, 185)


def pages_of(door: Door, url: str, name: str, **asked: Any) -> Iterator[list[dict[str, Any]]]:
    """The pages of a list."""
    cursor: str | None = None
    while True:
        page = door.http.get(url, params={**asked, **({"cursor": cursor} if cursor else {})}).json()
        yield page[name]
        if (cursor := page["next"]) is None:
            return


@pytest.fixture(scope="module")
def listed_account(door: Door) -> str:
    """An account with six of each, the earliest of which ends last; the first hold is released."""
    account = "has much"
    for number in range(6):
        door.grant(account, 10, key=f"a{number}", expires_at=f"209{9 - number}-01-01T00:00:00Z")
        for what, key, body in (
            ("holds", f"h{number}", {"amount": 1, "deadline": f"208{9 - number}-01-01T00:00:00Z"}),
            ("transfers", f"t{number}", {"amount": 1, "to": "another"}),
            ("schedules", f"s{number}", {"amount": 1, "period": "months", "first_at": f"209{9 - number}-01-01"}),
        ):
            assert door.append(account, what, key, asset="credits", **body).status_code == 201
    assert door.append(account, "releases", hold="h0").status_code == 201
    door.grant(account, 5, key="over")
    assert door.append(account, "voids", grant="over").status_code == 201
    return account


#: What is asked for, and the ids of its rows in the order of the pages.
LISTS = {
    "lots": ["a5", "a4", "a3", "a2", "a1", "a0"],
    "lots?every=true": ["a0", "a1", "a2", "a3", "a4", "a5", "over"],
    "holds": ["h5", "h4", "h3", "h2", "h1"],
    "holds?every=true": ["h0", "h1", "h2", "h3", "h4", "h5"],
    "transfers?every=true": ["t0", "t1", "t2", "t3", "t4", "t5"],
    "schedules": ["s0", "s1", "s2", "s3", "s4", "s5"],
}


@pytest.mark.parametrize("asked", LISTS)
def test_what_an_account_has_is_read_by_pages(door: Door, listed_account: str, asked: str) -> None:
    """Each row once, in one order, by any number of rows."""
    name, _, every = asked.partition("?every=")
    more = {"every": every} if every else {}
    for limit in (1, 2, len(LISTS[asked]), 1000):
        pages = list(pages_of(door, f"/v1/accounts/{listed_account}/{name}", name, limit=limit, **more))
        assert [row["command_id"] for page in pages for row in page] == LISTS[asked]
        assert all(len(page) == limit for page in pages[:-1])


def test_pages_of_what_an_account_has_are_stable_under_writes(door: Door, account: str) -> None:
    """What is spent, released or added between two pages has no other row come twice, or not at all."""
    for number in range(5):
        door.grant(account, 10, key=f"a{number}", expires_at=f"209{number}-01-01T00:00:00Z")
        body = {"asset": "credits", "amount": 1, "deadline": f"208{number}-01-01T00:00:00Z"}
        assert door.append(account, "holds", f"h{number}", **body).status_code == 201
    found: dict[str, list[str]] = {}
    lists = {name: pages_of(door, f"/v1/accounts/{account}/{name}", name, limit=2) for name in ("lots", "holds")}
    first = {name: next(pages) for name, pages in lists.items()}
    assert door.append(account, "captures", hold="h1").status_code == 201
    assert door.append(account, "spends", asset="credits", amount=18).status_code == 201
    door.grant(account, 10, key="sooner", expires_at="2089-01-01T00:00:00Z")
    door.grant(account, 10, key="later", expires_at="2095-01-01T00:00:00Z")
    body = {"asset": "credits", "amount": 1, "deadline": "2087-01-01T00:00:00Z"}
    assert door.append(account, "holds", "last", **body).status_code == 201
    for name, pages in lists.items():
        found[name] = [row["command_id"] for page in (first[name], *pages) for row in page]
    assert found == {"lots": ["a0", "a1", "a2", "a3", "a4", "later"], "holds": ["h0", "h1", "h2", "h3", "h4", "last"]}


def test_a_cursor_is_of_one_list_of_one_account(door: Door, listed_account: str) -> None:
    """Of another account, of another list or of all there was it is refused; so is what nobody was given."""
    url = f"/v1/accounts/{listed_account}"
    cursor = door.http.get(f"{url}/lots", params={"limit": 1}).json()["next"]
    holds = door.http.get(f"{url}/holds", params={"limit": 1}).json()["next"]
    for path, bad in (
        ("/v1/accounts/another/lots", {"cursor": cursor}),
        (f"{url}/lots", {"cursor": cursor, "every": "true"}),
        (f"{url}/lots", {"cursor": holds}),
        (f"{url}/lots", {"cursor": cursor_of("lots", ("", "zz", 0, 0, 0, 0, 0, 0))}),
        (f"{url}/transfers", {"cursor": cursor_of("transfers", ("", "00"))}),
        (f"{url}/schedules", {"cursor": "x"}),
    ):
        answer = door.http.get(path, params=bad)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor"), (path, bad)
    for limit in (0, 1001):
        assert door.http.get(f"{url}/lots", params={"limit": limit}).status_code == 400


def test_what_is_expanded_is_cut_and_says_where_to_go_on(
    door: Door, listed_account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 1,000 rows of each; the cursors are those of the lists."""
    monkeypatch.setattr("creditfold.api.accounts.MOST_PAGE", 2)
    url = f"/v1/accounts/{listed_account}"
    found = door.http.get(url, params={"expand": "lots,holds"}).json()
    for name in ("lots", "holds"):
        rest = door.http.get(f"{url}/{name}", params={"cursor": found[f"{name}_next"]}).json()
        assert (len(found[name]), rest["next"]) == (2, None)
        assert [row["command_id"] for row in (*found[name], *rest[name])] == LISTS[name]


def test_a_key_of_some_accounts_learns_no_counts_of_others(door: Door, account: str) -> None:
    """How far the fold is, which `at_least` goes by, and not how many commands of all accounts had which outcome."""
    door.grant(account, 1)
    counts = ("accepted", "rejected", "duplicates", "dead_letters")
    query = {"query": f"{{progress{{partition next_offset {' '.join(counts)}}}}}"}
    rows = {}
    for prefix in ("", "mine-"):
        with door.with_key(door.make_key("read:balance", account_prefix=prefix).text) as reader:
            rows[prefix] = reader.get("/v1/progress").json()
            named = [{name: row[name] for name in ("partition", "next_offset", *counts)} for row in rows[prefix]]
            assert reader.post("/graphql", json=query).json()["data"]["progress"] == named
    assert sum(row["accepted"] for row in rows[""]) > 0
    nothing = dict.fromkeys(counts)
    assert [{**row, **nothing} for row in rows[""]] == rows["mine-"]


def test_health_needs_no_key_and_all_else_does(door: Door, account: str) -> None:
    """What is malformed, unknown or of another scheme is refused with a challenge."""
    with door.with_key(None) as stranger:
        assert stranger.get("/health/live").json() == {"live": True}
        ready = {"ready": True, "kafka": True, "postgresql": True}
        assert wait_until(lambda: stranger.get("/health/ready").json() == ready, HANG_S)
        refused = stranger.get(f"/v1/accounts/{account}")
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    real = door.make_key("read:balance").text
    for text in ("nothing", real[:-1] + ("0" if real[-1] != "0" else "1"), "cfk_" + "a" * 62):
        with door.with_key(text) as stranger:
            assert stranger.get(f"/v1/accounts/{account}").status_code == 401


def test_a_key_opens_what_its_scopes_and_limits_say(door: Door) -> None:
    """Who may spend may not grant, nor in a batch; not elsewhere, not in another asset, and not more than allowed."""
    kinds = ("spend", "batch", "transfer", "set_credit_limit", "capture", "release", "refund")
    scopes = [f"append:{kind}" for kind in kinds]
    key = door.make_key(*scopes, account_prefix="shop-", assets=["credits"], most_amount=10)
    door.grant("shop-1", 100)
    spend = {"asset": "credits", "amount": 10}
    step = {"type": "grant", "command_id": "x", "asset": "credits", "amount": 1}
    with door.with_key(key.text) as shop:

        def status(account: str, route: str, **body: object) -> int:
            headers = {"Idempotency-Key": f"{account}-{route}"}
            return shop.post(f"/v1/accounts/{account}/{route}", json=body, headers=headers).status_code

        assert status("shop-1", "spends", **spend) in (201, 202)
        assert status("shop-1", "grants", **spend) == 403
        assert status("shop-1", "batches", steps=[step]) == 403
        assert status("mall-1", "spends", **spend) == 403
        assert status("shop-1", "spends", asset="gold", amount=10) == 403
        assert status("shop-1", "spends", asset="credits", amount=11) == 403
        assert status("shop-1", "transfers", **spend, to="mall-1") == 403
        assert status("shop-1", "transfers", **spend, to="shop-2") in (201, 202)
        assert status("shop-1", "credit-limits", asset="credits", limit=11) == 403
        # Without an amount it is all that there is, which may be more.
        for route, of in (("captures", "hold"), ("releases", "hold"), ("refunds", "spend")):
            assert status("shop-1", route, **{of: "other"}) == 403
            assert status("shop-2", route, **{of: "other"}, amount=10) in (202, 422)
        assert shop.get("/v1/accounts/shop-1").status_code == 403
