"""GraphQL: the reads of the GET routes with their scopes, one snapshot, bounded before and while it reads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest
from graphql import GraphQLObjectType
from psycopg import Connection

from creditfold.api import graphql_schema
from creditfold.api.accounts import balances_of
from creditfold.common.waiting import wait_until
from creditfold.ledger.limits import MAX_AMOUNT
from helpers.doors import Door
from helpers.graphql_documents import everything
from helpers.support import HANG_S

pytestmark = pytest.mark.stack

CORE = graphql_schema.SCHEMA._schema
ACCOUNT = "mine-1"


class Twin(NamedTuple):
    """A GET route with what it is asked, and the field with the arguments that ask the same."""

    path: str
    field: str
    params: dict[str, str] | None = None
    arguments: str = ""
    as_of: str | None = None

    @property
    def is_of_account(self) -> bool:
        return self.path.startswith("/v1/accounts/")

    @property
    def document(self) -> str:
        holder = CORE.type_map["Account" if self.is_of_account else "Query"]
        assert isinstance(holder, GraphQLObjectType)
        field = f"{self.field}{self.arguments}{everything(holder.fields[self.field].type)}"
        as_of = f', as_of: "{self.as_of}"' if self.as_of else ""
        return f'{{account(account: "{ACCOUNT}"{as_of}){{{field}}}}}' if self.is_of_account else f"{{{field}}}"


OF = f"/v1/accounts/{ACCOUNT}"
LONG_AGO = "2020-01-01T00:00:00Z"
#: Each field at least once, rightly and wrongly.
TWINS = (
    Twin(f"{OF}/balances", "balances"),
    Twin(f"{OF}/balances", "balances", {"use": "boosts"}, '(use: "boosts")'),
    Twin(f"{OF}/balances", "balances", {"as_of": LONG_AGO}, as_of=LONG_AGO),
    Twin(f"{OF}/balances", "balances", {"as_of": "soon"}, as_of="soon"),
    Twin(f"{OF}/balances", "balances", {"as_of": LONG_AGO, "use": "x"}, '(use: "x")', as_of=LONG_AGO),
    Twin(f"{OF}/lots", "lots"),
    Twin(f"{OF}/lots", "lots", {"every": "true"}, "(every: true)"),
    Twin(f"{OF}/holds", "holds"),
    Twin(f"{OF}/transfers", "transfers", {"every": "true"}, "(every: true)"),
    Twin(f"{OF}/schedules", "schedules"),
    Twin(f"{OF}/expiring", "expiring", {"within": "9999d"}, '(within: "9999d")'),
    Twin(f"{OF}/expiring", "expiring", {"within": "soon"}, '(within: "soon")'),
    Twin(f"{OF}/statement", "statement", {"limit": "2"}, "(limit: 2)"),
    Twin(f"{OF}/statement", "statement", {"from": LONG_AGO, "asset": "gold"}, f'(from: "{LONG_AGO}", asset: "gold")'),
    Twin(f"{OF}/statement", "statement", {"until": LONG_AGO}, f'(until: "{LONG_AGO}")'),
    Twin(f"{OF}/statement", "statement", {"limit": "1001"}, "(limit: 1001)"),
    Twin(f"{OF}/statement", "statement", {"limit": "0"}, "(limit: 0)"),
    Twin(f"{OF}/statement", "statement", {"asset": ""}, '(asset: "")'),
    Twin(f"{OF}/statement", "statement", {"cursor": "x"}, '(cursor: "x")'),
    Twin(f"{OF}/commands/s", "command", None, '(command_id: "s")'),
    Twin(f"{OF}/commands/none", "command", None, '(command_id: "none")'),
    Twin(f"{OF}/commands/s/trace", "trace", None, '(command_id: "s")'),
    Twin(f"{OF}/commands/none/trace", "trace", None, '(command_id: "none")'),
    Twin("/v1/expiring", "expiring"),
    Twin("/v1/journal", "journal", {"limit": "3"}, "(limit: 3)"),
    Twin("/v1/journal", "journal", {"from": "0:0"}, '(from: "0:0")'),
    Twin("/v1/journal", "journal", {"from": "0:0", "cursor": "x"}, '(from: "0:0", cursor: "x")'),
    Twin("/v1/rejections", "rejections"),
    Twin("/v1/rejections", "rejections", {"from": "99:0"}, '(from: "99:0")'),
    Twin("/v1/totals", "totals"),
    Twin("/v1/trial-balance", "trial_balance", {"asset": "gold"}, '(asset: "gold")'),
    Twin("/v1/trial-balance", "trial_balance", {"at": "here"}, '(at: "here")'),
    Twin("/v1/progress", "progress"),
)

#: Keys by what they may read, and where.
KEYS: dict[str, tuple[tuple[str, ...], str]] = {
    "balances": (("read:balance",), ""),
    "statements of some": (("read:statement",), "mine-"),
    "all": (("read:balance", "read:statement", "read:personal"), ""),
    "others": (("read:balance", "read:statement", "read:personal"), "theirs-"),
    "words alone": (("read:personal",), ""),
    "no read": (("audit",), ""),
}


@pytest.fixture(scope="module")
def filled(door: Door) -> None:
    """An account with something of everything."""
    ends = {"expires_at": "2035-01-01T00:00:00Z", "reason": "welcome"}
    door.grant(ACCOUNT, 100, key="g", **ends)
    for key, what, body in (
        ("b", "grants", {"asset": "credits", "amount": 40, "scope": "boosts"}),
        ("s", "spends", {"asset": "credits", "amount": 30, "metadata": {"order": "1"}}),
        ("no", "spends", {"asset": "credits", "amount": 900}),
        ("h", "holds", {"asset": "credits", "amount": 20, "deadline": "2099-01-01T00:00:00Z"}),
        ("t", "transfers", {"asset": "credits", "amount": 5, "to": "theirs-1"}),
        ("m", "schedules", {"asset": "credits", "amount": 5, "period": "months", "first_at": "2099-01-01T00:00:00Z"}),
        ("gold", "grants", {"asset": "gold", "amount": MAX_AMOUNT}),
    ):
        assert door.append(ACCOUNT, what, key, **body).status_code in (201, 422)
    # It settles by itself, and changes what is read once more.
    assert wait_until(lambda: door.http.get(f"{OF}/transfers").json() == [], HANG_S)


def ask(client: httpx.Client, query: str, at_least: str | None = None, **variables: Any) -> httpx.Response:
    """Post a document."""
    params = {} if at_least is None else {"at_least": at_least}
    return client.post("/graphql", json={"query": query, "variables": variables}, params=params)


def _without_now(twin: Twin, found: Any) -> Any:
    return {**found, "at": "", "until": ""} if twin.field == "expiring" and isinstance(found, dict) else found


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("name", KEYS)
def test_a_key_reads_by_graphql_what_it_reads_by_get_and_nothing_else(door: Door, name: str) -> None:
    """The same values, and of what is refused the same status; the code too, unless two of them fit."""
    scopes, prefix = KEYS[name]
    statuses = set()
    with door.with_key(door.make_key(*scopes, account_prefix=prefix).text) as client:
        # What is asked wrongly is the same for all.
        for twin in TWINS if name == "all" else {twin.path: twin for twin in reversed(TWINS)}.values():
            got, answer = client.get(twin.path, params=twin.params), ask(client, twin.document)
            statuses.add(got.status_code)
            if answer.status_code != 200:
                assert (answer.status_code, answer.json()["code"]) == (got.status_code, "scope_missing"), twin
                continue
            content = answer.json()
            data = content["data"].get("account") if twin.is_of_account else content["data"]
            if got.status_code == 200:
                assert "errors" not in content, (twin, content)
                assert _without_now(twin, data[twin.field]) == _without_now(twin, got.json()), twin
                continue
            (error,) = content["errors"]
            assert (data or {}).get(twin.field) is None
            # Another's account is refused before its field's arguments are looked at.
            is_out_of_reach = prefix == "theirs-" and twin.is_of_account
            assert error["extensions"]["status"] == (403 if is_out_of_reach else got.status_code), (twin, error)
            if error["extensions"]["status"] != 403:
                assert error["extensions"]["code"] == got.json()["code"], twin
    assert (200 in statuses) == ("read:balance" in scopes or "read:statement" in scopes), "the table shows nothing"


@pytest.mark.usefixtures("filled")
def test_an_account_is_read_whole_as_get_reads_it(door: Door) -> None:
    """Amounts up to 2^53 - 1 to the last digit; an account that was never used is empty; so is the past."""
    balances, lots, holds = (everything(CORE.type_map[name]) for name in ("Balance", "Lot", "Hold"))
    whole = f"{{account is_closed frozen balances{balances} lots{lots} holds{holds}}}"
    answer = ask(door.http, f'{{a: account(account: "{ACCOUNT}"){whole} b: account(account: "never"){whole}}}')
    found = door.http.get(OF, params={"expand": "lots,holds"})
    assert answer.json()["data"]["a"] == found.json()
    assert {row["asset"]: row["available"] for row in found.json()["balances"]}["gold"] == MAX_AMOUNT
    assert str(MAX_AMOUNT) in answer.text
    empty = {"account": "never", "is_closed": False, "frozen": None, "balances": [], "lots": [], "holds": []}
    assert answer.json()["data"]["b"] == empty
    assert answer.headers["Creditfold-Generation"] == found.headers["Creditfold-Generation"]
    assert found.headers["Creditfold-Position"] in answer.headers["Creditfold-Position"].split(",")
    door.append("of-past", "freezes")
    frozen = door.append("of-past", "unfreezes").json()["position"]
    past = ask(door.http, f'{{account(account: "of-past", as_of: "{LONG_AGO}") {{frozen lots{{asset}}}}}}').json()
    assert (past["data"]["account"], past["errors"][0]["extensions"]["code"]) == (
        {"frozen": None, "lots": None},
        "invalid_as_of",
    )
    assert past["errors"][0]["path"] == ["account", "lots"]
    ahead = frozen.split(":")[0] + ":999999999"
    later = ask(door.http, f'{{account(account: "of-past", as_of: "{ahead}") {{frozen}}}}')
    assert (later.status_code, later.json()["code"]) == (503, "not_yet_folded")


def test_all_fields_see_one_snapshot(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is folded between two of them is in neither; with at_least what was appended is."""
    first = door.grant(account, 5).json()["position"]
    later: list[str] = []

    def meanwhile(connection: Connection[Any], name: str, use: str | None) -> Any:
        found = balances_of(connection, name, use)
        if not later:
            later.append(door.grant(account, 7).json()["position"])
        return found

    monkeypatch.setattr(graphql_schema, "balances_of", meanwhile)
    query = "query($a: String!) {account(account: $a) {balances{available} lots{amount}}}"
    answer = ask(door.http, query, a=account)
    assert answer.json()["data"]["account"] == {"balances": [{"available": 5}], "lots": [{"amount": 5}]}
    seen = int(answer.headers["Creditfold-Position"].split(":")[1])
    assert int(first.split(":")[1]) <= seen < int(later[0].split(":")[1])
    again = ask(door.http, query, at_least=later[0], a=account)
    assert again.json()["data"]["account"]["balances"] == [{"available": 12}]
    monkeypatch.setattr("creditfold.api.graphql.AT_LEAST_S", 0.1)
    ahead = ask(door.http, query, at_least=later[0].split(":")[0] + ":999999999", a=account)
    assert (ahead.status_code, ahead.json()["code"]) == (503, "not_yet_folded")
    bad = ask(door.http, query, at_least="soon", a=account)
    assert (bad.status_code, bad.json()["code"]) == (400, "invalid_position")


def test_slow_queries_leave_readers_to_other_reads(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two run at once; the third waits, and a GET route doesn't."""
    running, go_on = threading.Semaphore(0), threading.Event()

    def held(connection: Connection[Any], name: str, use: str | None) -> Any:
        running.release()
        assert go_on.wait(HANG_S)
        return []

    monkeypatch.setattr(graphql_schema, "balances_of", held)
    query = f'{{account(account: "{account}") {{balances{{asset}}}}}}'
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(ask, door.http, query) for _ in range(3)]
        try:
            assert all(running.acquire(timeout=HANG_S) for _ in range(2))
            assert [door.http.get(f"/v1/accounts/{account}/lots").status_code for _ in range(10)] == [200] * 10
            assert "creditfold_http_readers_busy 2.0" in door.http.get("/metrics").text
            assert not running.acquire(blocking=False)
        finally:
            go_on.set()
        assert [one.result(HANG_S).status_code for one in asked] == [200] * 3


def test_what_fails_for_all_is_one_problem(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks, and the end of the time; what is only too long is an error of its field."""
    door.grant(account, 5)
    door.grant(account, 5)
    query = f'{{account(account: "{account}") {{balances{{asset}} lots{{asset}}}}}}'

    def broken(connection: Connection[Any], name: str, use: str | None) -> Any:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with monkeypatch.context() as patched:
        patched.setattr(graphql_schema, "balances_of", broken)
        answer = ask(door.http, query)
        assert (answer.status_code, answer.json()["code"]) == (503, "postgresql_unavailable"), answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
    with monkeypatch.context() as patched:
        patched.setattr(graphql_schema.Reads, "begin", _late)
        answer = ask(door.http, query)
        assert (answer.status_code, answer.json()["code"]) == (503, "query_too_slow")
    with monkeypatch.context() as patched:
        patched.setattr(graphql_schema, "MOST_ROWS", 2)
        answer = ask(door.http, query)
        assert answer.json()["data"]["account"] == {"balances": [{"asset": "credits"}], "lots": None}
        assert answer.json()["errors"][0]["extensions"]["code"] == "answer_too_large"
    assert ask(door.http, query).status_code == 200


_BEGIN = graphql_schema.Reads.begin


def _late(reads: graphql_schema.Reads) -> None:
    reads._deadline = 0.0
    _BEGIN(reads)


def test_a_request_is_one_document_in_json(door: Door) -> None:
    """No batch, no GET, nothing that isn't known; each error with what a problem has."""
    query = "{progress{partition}}"
    for content, status, code in (
        ([{"query": query}], 400, "invalid_body"),
        ({"query": query, "id": 1}, 400, "invalid_request"),
        ({"variables": {}}, 400, "invalid_request"),
        ({"query": 5}, 400, "invalid_request"),
    ):
        answer = door.http.post("/graphql", json=content)
        assert (answer.status_code, answer.json()["code"]) == (status, code), content
    assert door.http.get("/graphql", params={"query": query}).status_code == 405
    assert door.http.post("/graphql", data={"query": query}).status_code == 415
    assert door.http.post("/graphql", json={"query": query}, params={"query": query}).status_code == 400
    ours = "application/graphql-response+json"
    for accept, media in ((f"{ours}, application/json;q=0.9", ours), ("*/*", "application/json")):
        headers = {"Accept": accept, "X-Request-ID": "mine"}
        answer = door.http.post(
            "/graphql", json={"query": query, "operationName": None, "variables": None}, headers=headers
        )
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, media)
        wrong = door.http.post("/graphql", json={"query": "{nothing}"}, headers=headers)
        assert (wrong.status_code, wrong.headers["Content-Type"]) == (400, media)
        (error,) = wrong.json()["errors"]
        assert error["locations"] == [{"line": 1, "column": 2}]
        assert error["extensions"].pop("remedy")
        assert error["extensions"] == {"code": "invalid_query", "status": 400, "request_id": "mine"}
