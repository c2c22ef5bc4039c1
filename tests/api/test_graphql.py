"""GraphQL: the reads of the GET routes with their scopes, one snapshot, bounded before and while it reads."""

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import pytest
from graphql import GraphQLObjectType
from psycopg import Connection

from creditfold.api import graphql_account, graphql_reads, graphql_schema
from creditfold.api.accounts import balances_of
from creditfold.api.ends import LogEnds
from creditfold.common.waiting import wait_until
from creditfold.ledger.limits import MAX_AMOUNT
from creditfold.projections.access.audit import Actor
from creditfold.projections.access.operations import begin_operation, record_end
from creditfold.projections.access.scopes import SCOPES
from creditfold.projections.connections import connected
from helpers.doors import Door
from helpers.graphql_documents import everything
from helpers.support import HANG_S

pytestmark = pytest.mark.stack

CORE = graphql_schema.SCHEMA._schema
ACCOUNT = "mine-1"
#: All fields that read, with whether they are an account's; those that are read below with a whole account aren't here.
FIELDS = {
    (kind == "Account", name)
    for kind in ("Account", "Query")
    for name in CORE.type_map[kind].fields
    if name not in ("account", "is_closed", "frozen", "account_count")
}


class Twin(NamedTuple):
    """A GET route with what it is asked, and the field with the arguments that ask the same."""

    path: str
    field: str
    params: dict[str, str] | None = None
    arguments: str = ""
    as_of: str | None = None

    def filled(self, places: Mapping[str, str]) -> "Twin":
        """The same with what its capitals stand for."""

        def text(value: str) -> str:
            for name, place in places.items():
                value = value.replace(name, place)
            return value

        params = self.params and {name: text(value) for name, value in self.params.items()}
        return self._replace(path=text(self.path), params=params, arguments=text(self.arguments))

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
    Twin(f"{OF}/lots", "lots", {"as_of": LONG_AGO, "every": "true"}, "(every: true)", as_of=LONG_AGO),
    Twin(f"{OF}/holds", "holds", {"as_of": "soon"}, as_of="soon"),
    Twin(f"{OF}/balances", "balances", {"as_of": LONG_AGO, "use": "x"}, '(use: "x")', as_of=LONG_AGO),
    Twin(f"{OF}/lots", "lots"),
    Twin(f"{OF}/lots", "lots", {"every": "true"}, "(every: true)"),
    Twin(f"{OF}/lots", "lots", {"limit": "1"}, "(limit: 1)"),
    Twin(f"{OF}/holds", "holds", {"limit": "1001"}, "(limit: 1001)"),
    Twin(f"{OF}/schedules", "schedules", {"cursor": "x"}, '(cursor: "x")'),
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
    Twin(f"{OF}/commands/s", "command", {"at": "SPEND"}, '(command_id: "s", at: "SPEND")'),
    Twin(f"{OF}/commands/s", "command", {"at": "GRANT"}, '(command_id: "s", at: "GRANT")'),
    Twin(f"{OF}/commands/g", "command", {"at": "LETTER"}, '(command_id: "g", at: "LETTER")'),
    Twin(f"{OF}/commands/g", "command", {"at": "0:99999999"}, '(command_id: "g", at: "0:99999999")'),
    Twin(f"{OF}/commands/g", "command", {"at": "soon"}, '(command_id: "g", at: "soon")'),
    Twin(f"{OF}/history", "history", {"limit": "2"}, "(limit: 2)"),
    Twin(
        f"{OF}/history",
        "history",
        {"since": LONG_AGO, "until": LONG_AGO},
        f'(since: "{LONG_AGO}", until: "{LONG_AGO}")',
    ),
    Twin(f"{OF}/history", "history", {"cursor": "x"}, '(cursor: "x")'),
    Twin(f"{OF}/ended", "ended"),
    Twin(f"{OF}/ended", "ended", {"limit": "1"}, "(limit: 1)"),
    Twin(f"{OF}/ended", "ended", {"limit": "0"}, "(limit: 0)"),
    Twin(f"{OF}/commands/s/trace", "trace", None, '(command_id: "s")'),
    Twin(f"{OF}/commands/g/trace", "trace", {"limit": "1"}, '(command_id: "g", limit: 1)'),
    Twin(f"{OF}/commands/g/trace", "trace", {"cursor": "x"}, '(command_id: "g", cursor: "x")'),
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
    Twin("/v1/journal", "journal", {"since": LONG_AGO}, f'(since: "{LONG_AGO}")'),
    Twin("/v1/journal", "journal", {"until": LONG_AGO, "cursor": "x"}, f'(until: "{LONG_AGO}", cursor: "x")'),
    Twin("/v1/rejections", "rejections", {"until": LONG_AGO}, f'(until: "{LONG_AGO}")'),
    Twin("/v1/accounts", "accounts"),
    Twin("/v1/accounts", "accounts", {"limit": "1"}, "(limit: 1)"),
    Twin("/v1/accounts", "accounts", {"account_prefix": "theirs-"}, '(account_prefix: "theirs-")'),
    Twin("/v1/accounts", "accounts", {"command_id": "s"}, '(command_id: "s")'),
    Twin("/v1/accounts", "accounts", {"metadata[order]": "1"}, '(metadata: [{key: "order", value: "1"}])'),
    Twin("/v1/accounts", "accounts", {"metadata[what]": "1"}, '(metadata: [{key: "what", value: "1"}])'),
    Twin("/v1/accounts", "accounts", {"state": "open", "asset": "gold"}, '(state: "open", asset: "gold")'),
    Twin("/v1/accounts", "accounts", {"state": "ajar"}, '(state: "ajar")'),
    Twin(
        "/v1/accounts",
        "accounts",
        {"asset": "credits", "balance": "held", "least": "1", "most": str(MAX_AMOUNT)},
        f'(asset: "credits", balance: "held", least: 1, most: {MAX_AMOUNT})',
    ),
    Twin("/v1/accounts", "accounts", {"least": "-1"}, "(least: -1)"),
    Twin("/v1/accounts", "accounts", {"ends_before": "2099-01-01T00:00:00Z"}, '(ends_before: "2099-01-01T00:00:00Z")'),
    Twin("/v1/accounts", "accounts", {"cursor": "x"}, '(cursor: "x")'),
    Twin("/v1/ended", "ended", {"limit": "1"}, "(limit: 1)"),
    Twin("/v1/ended", "ended", {"cursor": "x"}, '(cursor: "x")'),
    Twin("/v1/ended/totals", "ended_totals", {"limit": "100"}),
    Twin("/v1/ended/totals", "ended_totals", {"by": "class", "limit": "1"}, '(by: "class", limit: 1)'),
    Twin("/v1/spent", "spent", {"limit": "100"}),
    Twin("/v1/spent", "spent", {"by": "source,class", "asset": "credits"}, '(by: "source,class", asset: "credits")'),
    Twin("/v1/spent", "spent", {"by": "weather"}, '(by: "weather")'),
    Twin("/v1/spent", "spent", {"limit": "0"}, "(limit: 0)"),
    Twin("/v1/spent", "spent", {"limit": "1500"}, "(limit: 1500)"),
    Twin("/v1/dead-letters", "dead_letters"),
    Twin("/v1/dead-letters", "dead_letters", {"open": "true", "limit": "1"}, "(open: true, limit: 1)"),
    Twin(
        "/v1/dead-letters",
        "dead_letters",
        {"reason": "command_id_reused", "account": ACCOUNT, "since": LONG_AGO},
        f'(reason: "command_id_reused", account: "{ACCOUNT}", since: "{LONG_AGO}")',
    ),
    Twin(
        "/v1/dead-letters",
        "dead_letters",
        {"partition": "0", "until": LONG_AGO},
        f'(partition: 0, until: "{LONG_AGO}")',
    ),
    Twin("/v1/dead-letters", "dead_letters", {"reason": "gloom"}, '(reason: "gloom")'),
    Twin("/v1/dead-letters", "dead_letters", {"cursor": "x"}, '(cursor: "x")'),
    Twin("/v1/dead-letters/LETTER", "dead_letter", None, '(position: "LETTER")'),
    Twin("/v1/dead-letters/SPEND", "dead_letter", None, '(position: "SPEND")'),
    Twin("/v1/log/PARTITION/OFFSET", "log_record", None, "(partition: PARTITION, offset: OFFSET)"),
    Twin("/v1/log/0/99999999", "log_record", None, "(partition: 0, offset: 99999999)"),
    Twin("/v1/log/999/0", "log_record", None, "(partition: 999, offset: 0)"),
    Twin(f"/v1/log/0/{2**62}", "log_record", None, f"(partition: 0, offset: {2**62})"),
    Twin("/v1/generations", "generations"),
    Twin("/v1/rules", "rules"),
    Twin("/v1/operations", "operations", {"limit": "1"}, "(limit: 1)"),
    Twin("/v1/operations", "operations", {"cursor": "x"}, '(cursor: "x")'),
    Twin("/v1/operations/OPERATION", "operation", None, "(number: OPERATION)"),
    Twin("/v1/operations/77777", "operation", None, "(number: 77777)"),
    Twin("/v1/operations/0", "operation", None, "(number: 0)"),
    Twin("/v1/keys", "keys"),
    Twin("/v1/audit", "audit", {"limit": "2"}, "(limit: 2)"),
    Twin("/v1/audit", "audit", {"cursor": "x"}, '(cursor: "x")'),
)

#: The scopes that open something to read.
READING = tuple(scope for scope in SCOPES if not scope.startswith(("append:", "manual:")))
#: Keys by what they may read, and where.
KEYS: dict[str, tuple[tuple[str, ...], str]] = {
    "balances": (("read:balance",), ""),
    "statements of some": (("read:statement",), "mine-"),
    "accounts of some": (("read:balance", "read:personal"), "mine-"),
    "all": (READING, ""),
    "others": (READING, "theirs-"),
    "letters": (("operate:dead-letters",), ""),
    "letters of some": (("operate:dead-letters", "operate:generations", "operate:rules"), "mine-"),
    "generations": (("operate:generations",), ""),
    "rules": (("operate:rules",), ""),
    "metrics": (("operate:metrics",), ""),
    "keys of some": (("keys", "audit"), "mine-"),
    "audit": (("audit",), ""),
    "words alone": (("read:personal",), ""),
    "no read": (("append:grant", "manual:grant"), ""),
}
#: Those that open nothing at all.
CLOSED = ("letters of some", "words alone", "no read")


@pytest.fixture(scope="module")
def filled(door: Door) -> Mapping[str, str]:
    """An account with something of everything; what the table's capitals stand for."""
    ends = {"expires_at": "2035-01-01T00:00:00Z", "reason": "welcome"}
    door.grant(ACCOUNT, 100, key="g", **ends)
    for key, what, body in (
        ("b", "grants", {"asset": "credits", "amount": 40, "scope": "boosts"}),
        *((f"void-{n}", "grants", {"asset": "credits", "amount": n}) for n in (1, 2, 3)),
        *((f"voided-{n}", "voids", {"grant": f"void-{n}"}) for n in (1, 2, 3)),
        ("s", "spends", {"asset": "credits", "amount": 30, "metadata": {"order": "1"}}),
        ("no", "spends", {"asset": "credits", "amount": 900}),
        ("h", "holds", {"asset": "credits", "amount": 20, "deadline": "2099-01-01T00:00:00Z"}),
        ("t", "transfers", {"asset": "credits", "amount": 5, "to": "theirs-1"}),
        ("m", "schedules", {"asset": "credits", "amount": 5, "period": "months", "first_at": "2099-01-01T00:00:00Z"}),
        ("gold", "grants", {"asset": "gold", "amount": MAX_AMOUNT}),
    ):
        assert door.append(ACCOUNT, what, key, **body).status_code in (201, 422)
    letter = door.append(ACCOUNT, "grants", "g", asset="credits", amount=7)
    assert letter.status_code == 409, letter.text
    with connected(door.settings.dsn) as connection:
        by = Actor("tests", "here", "a test needs it")
        operation = begin_operation(connection, "rules.diff", {"rules": None}, by=by).number
        record_end(connection, operation, error={"code": "x", "message": "It is the tests' own.", "remedy": ""})
    # It settles by itself, and changes what is read once more.
    assert wait_until(lambda: door.http.get(f"{OF}/transfers").json()["transfers"] == [], HANG_S)
    at = {key: door.http.get(f"{OF}/commands/{key}").json()["position"] for key in ("g", "s")}
    partition, _, offset = letter.json()["position"].partition(":")
    return {
        "GRANT": at["g"],
        "SPEND": at["s"],
        "LETTER": letter.json()["position"],
        "PARTITION": partition,
        "OFFSET": offset,
        "OPERATION": str(operation),
    }


def ask(client: httpx.Client, query: str, at_least: str | None = None, **variables: Any) -> httpx.Response:
    """Post a document."""
    params = {} if at_least is None else {"at_least": at_least}
    return client.post("/graphql", json={"query": query, "variables": variables}, params=params)


#: What may differ between two answers, by field.
_OF_NOW = {"expiring": {"at", "until"}, "keys": {"used_at"}, "generations": {"size_bytes"}}


def _without_now(twin: Twin, found: Any) -> Any:
    if isinstance(found, list):
        return [_without_now(twin, one) for one in found]
    leave_out = _OF_NOW.get(twin.field, set())
    return {name: value for name, value in found.items() if name not in leave_out}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_reads_by_graphql_what_it_reads_by_get_and_nothing_else(
    door: Door, filled: Mapping[str, str], name: str
) -> None:
    """The same values, and of what is refused the same status; the code too, unless two of them fit."""
    scopes, prefix = KEYS[name]
    read: set[tuple[bool, str]] = set()
    with door.with_key(door.make_key(*scopes, account_prefix=prefix).text) as client:
        # What is asked wrongly is the same for all.
        for asked in TWINS if name == "all" else {twin.path: twin for twin in reversed(TWINS)}.values():
            twin = asked.filled(filled)
            got, answer = client.get(twin.path, params=twin.params), ask(client, twin.document)
            if answer.status_code != 200:
                assert (answer.status_code, answer.json()["code"]) == (got.status_code, "scope_missing"), twin
                continue
            content = answer.json()
            data = content["data"].get("account") if twin.is_of_account else content["data"]
            if got.status_code in (200, 202):
                assert "errors" not in content, (twin, content)
                found = data[twin.field]
                if got.status_code == 202:
                    found = {key: value for key, value in found.items() if key in got.json()}
                assert _without_now(twin, found) == _without_now(twin, got.json()), twin
                read.add((twin.is_of_account, twin.field))
                continue
            (error,) = content["errors"]
            assert (data or {}).get(twin.field) is None
            # Another's account is refused before its field's arguments are looked at.
            is_out_of_reach = prefix == "theirs-" and twin.is_of_account
            assert error["extensions"]["status"] == (403 if is_out_of_reach else got.status_code), (twin, error)
            if error["extensions"]["status"] != 403:
                assert error["extensions"]["code"] == got.json()["code"], twin
                assert error["extensions"].get("first") == got.json().get("first"), twin
    assert bool(read) == (name not in CLOSED), "the table shows nothing"
    if name == "all":
        assert read == FIELDS, "these fields are not compared with what a GET route answers"


def test_a_search_stays_within_a_key(door: Door, filled: Mapping[str, str]) -> None:
    """Within its prefix, by words only with the scope for them; counted as HEAD counts."""
    by_words = '(metadata: [{key: "order", value: "1"}])'
    with door.with_key(door.make_key("read:balance", account_prefix="mine-").text) as client:
        elsewhere = ask(client, '{accounts(account_prefix: "theirs-") {accounts{account}}}').json()
        assert elsewhere["errors"][0]["extensions"]["code"] == "account_out_of_reach"
        for name, selected in (("accounts", "accounts{account}"), ("account_count", "number")):
            refused = ask(client, f"{{{name}{by_words} {{{selected}}}}}").json()
            assert refused["data"] == {name: None}
            assert refused["errors"][0]["extensions"]["code"] == "scope_missing"
        counted = ask(client, "{account_count {number has_more}}").json()["data"]["account_count"]
        head = client.head("/v1/accounts").headers["Creditfold-Count"]
        assert counted == {"number": int(head), "has_more": False} == {"number": 1, "has_more": False}
    twice = ask(door.http, '{accounts(metadata: [{key: "order", value: "1"}, {key: "order", value: "2"}]) {next}}')
    assert twice.json()["errors"][0]["extensions"]["code"] == "ambiguous_request"
    half = ask(door.http, "query($n: Long) {accounts(least: $n) {next}}", n=1.5)
    assert (half.status_code, half.json()["errors"][0]["extensions"]["code"]) == (400, "invalid_query")


def test_pages_follow_each_other_as_those_of_get_do(door: Door, filled: Mapping[str, str]) -> None:
    """The cursor of either is one of the other; one of another field, or another account, is none."""
    pages = {"history": f"{OF}/history", "ended": f"{OF}/ended", "accounts": "/v1/accounts"}
    cursors = {}
    for field, path in pages.items():
        cursors[field] = door.http.get(path, params={"limit": 1}).json()["next"]
        inner = f'{field}(limit: 1, cursor: "{cursors[field]}") {{next}}'
        document = f'{{account(account: "{ACCOUNT}") {{{inner}}}}}' if path.startswith(OF) else f"{{{inner}}}"
        data = ask(door.http, document).json()["data"]
        found = data.get("account", data)[field]["next"]
        assert found is not None or field == "accounts"
        assert found == door.http.get(path, params={"limit": 1, "cursor": cursors[field]}).json()["next"]
    wrong = (
        f'account(account: "{ACCOUNT}") {{history(cursor: "{cursors["ended"]}") {{next}}}}',
        f'account(account: "theirs-1") {{ended(cursor: "{cursors["ended"]}") {{next}}}}',
        f'ended(cursor: "{cursors["ended"]}") {{next}}',
        f'accounts(cursor: "{cursors["accounts"]}", state: "closed") {{next}}',
    )
    for field in wrong:
        assert ask(door.http, f"{{{field}}}").json()["errors"][0]["extensions"]["code"] == "invalid_cursor", field


@pytest.mark.usefixtures("filled")
def test_an_account_is_read_whole_as_get_reads_it(door: Door) -> None:
    """Amounts up to 2^53 - 1 to the last digit; an account that was never used is empty; so is the past."""
    balances, lots, holds = (everything(CORE.type_map[name]) for name in ("Balance", "Lots", "Holds"))
    whole = f"{{account is_closed frozen balances{balances} lots{lots} holds{holds}}}"
    answer = ask(door.http, f'{{a: account(account: "{ACCOUNT}"){whole} b: account(account: "never"){whole}}}')
    found = door.http.get(OF, params={"expand": "lots,holds"})

    def as_by_get(account: dict[str, Any]) -> dict[str, Any]:
        lists = {name: account[name][name] for name in ("lots", "holds")}
        return {**account, **lists, **{f"{name}_next": account[name]["next"] for name in lists}}

    assert as_by_get(answer.json()["data"]["a"]) == found.json()
    assert {row["asset"]: row["available"] for row in found.json()["balances"]}["gold"] == MAX_AMOUNT
    assert str(MAX_AMOUNT) in answer.text
    lists = {"lots": [], "lots_next": None, "holds": [], "holds_next": None}
    empty = {"account": "never", "is_closed": False, "frozen": None, "balances": [], **lists}
    assert as_by_get(answer.json()["data"]["b"]) == empty
    assert answer.headers["Creditfold-Generation"] == found.headers["Creditfold-Generation"]
    assert found.headers["Creditfold-Position"] in answer.headers["Creditfold-Position"].split(",")
    door.append("of-past", "freezes")
    frozen = door.append("of-past", "unfreezes").json()["position"]
    past = ask(
        door.http, f'{{account(account: "of-past", as_of: "{LONG_AGO}") {{frozen lots{{next}} transfers{{next}}}}}}'
    ).json()
    assert (past["data"]["account"], past["errors"][0]["extensions"]["code"]) == (
        {"frozen": None, "lots": {"next": None}, "transfers": None},
        "invalid_as_of",
    )
    assert past["errors"][0]["path"] == ["account", "transfers"]
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

    monkeypatch.setattr(graphql_account, "balances_of", meanwhile)
    query = "query($a: String!) {account(account: $a) {balances{available} lots{lots{amount}}}}"
    answer = ask(door.http, query, a=account)
    assert answer.json()["data"]["account"] == {"balances": [{"available": 5}], "lots": {"lots": [{"amount": 5}]}}
    seen = int(answer.headers["Creditfold-Position"].split(":")[1])
    assert int(first.split(":")[1]) <= seen < int(later[0].split(":")[1])
    again = ask(door.http, query, at_least=later[0], a=account)
    assert again.json()["data"]["account"]["balances"] == [{"available": 12}]
    monkeypatch.setattr("creditfold.api.at_least.AT_LEAST_S", 0.1)
    ahead = ask(door.http, query, at_least=later[0].split(":")[0] + ":999999999", a=account)
    assert (ahead.status_code, ahead.json()["code"]) == (503, "not_yet_folded")
    bad = ask(door.http, query, at_least="soon", a=account)
    assert (bad.status_code, bad.json()["code"]) == (400, "invalid_position")


def test_what_is_read_of_all_accounts_is_complete_by_all_partitions(
    door: Door, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of single accounts is read along; what is of accounts alone by theirs."""
    position = door.grant(account, 5).json()["position"]
    asked: list[Any] = []

    def seen(ends: LogEnds, standing: Any, partitions: Any = None) -> Any:
        asked.append(partitions)
        return _COMPLETE_TO(ends, standing, partitions)

    monkeypatch.setattr(LogEnds, "complete_to", seen)
    of_account = f'account(account: "{account}") {{frozen}}'
    for document in (f"{{{of_account}}}", f"{{{of_account} totals {{asset}}}}", "{totals {asset}}"):
        assert ask(door.http, document).status_code == 200
    assert asked == [[int(position.split(":")[0])], None, None]


_COMPLETE_TO = LogEnds.complete_to


def test_slow_queries_leave_readers_to_other_reads(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two run at once; the third waits, and a GET route doesn't."""
    running, go_on = threading.Semaphore(0), threading.Event()

    def held(connection: Connection[Any], name: str, use: str | None) -> Any:
        running.release()
        assert go_on.wait(HANG_S)
        return []

    monkeypatch.setattr(graphql_account, "balances_of", held)
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
    query = f'{{account(account: "{account}") {{balances{{asset}} lots{{lots{{asset}}}}}}}}'

    def broken(connection: Connection[Any], name: str, use: str | None) -> Any:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with monkeypatch.context() as patched:
        patched.setattr(graphql_account, "balances_of", broken)
        answer = ask(door.http, query)
        assert (answer.status_code, answer.json()["code"]) == (503, "postgresql_unavailable"), answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
    with monkeypatch.context() as patched:
        patched.setattr(graphql_reads.Reads, "begin", _late)
        answer = ask(door.http, query)
        assert (answer.status_code, answer.json()["code"]) == (503, "query_too_slow")
    with monkeypatch.context() as patched:
        patched.setattr(graphql_reads, "MOST_ROWS", 2)
        answer = ask(door.http, query)
        assert answer.json()["data"]["account"] == {"balances": [{"asset": "credits"}], "lots": None}
        assert answer.json()["errors"][0]["extensions"]["code"] == "answer_too_large"
    assert ask(door.http, query).status_code == 200


_BEGIN = graphql_reads.Reads.begin


def _late(reads: graphql_reads.Reads) -> None:
    reads._deadline = 0.0
    _BEGIN(reads)


#: Fields that take a text `$a`.
TEXTS = (
    "accounts(account_prefix: $a) {next}",
    "accounts(command_id: $a) {next}",
    "accounts(metadata: [{key: $a, value: $a}]) {next}",
    "account_count(asset: $a) {number}",
    "dead_letters(account: $a) {next}",
    "dead_letter(position: $a) {state}",
    "trial_balance(asset: $a) {balances}",
    "spent(asset: $a) {has_more}",
    "journal(from: $a) {next}",
    "journal(cursor: $a) {next}",
    "account(account: $a) {frozen balances{asset}}",
    *(
        f'account(account: "{ACCOUNT}") {{{one}}}'
        for one in (
            "balances(use: $a) {asset}",
            "command(command_id: $a) {outcome}",
            'command(command_id: "g", at: $a) {outcome}',
            "trace(command_id: $a) {spent}",
            "statement(asset: $a) {next}",
            "expiring(within: $a) {at}",
        )
    ),
    f'account(account: "{ACCOUNT}", as_of: $a) {{frozen}}',
)


@pytest.mark.parametrize("field", TEXTS)
def test_a_text_that_no_url_may_have_is_refused(door: Door, field: str) -> None:
    """A NUL, which PostgreSQL keeps in no text, and half of a surrogate pair, which UTF-8 has no form for."""
    for text, statuses in (('"\\u0000"', {200}), ('"a\\u0000b"', {200}), ('"\\ud800"', {200, 400})):
        body = f'{{"query": {json.dumps("query($a: String!) {" + field + "}")}, "variables": {{"a": {text}}}}}'
        answer = door.http.post("/graphql", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in statuses, (text, answer.text)
        found = answer.json()
        problems = [one["extensions"] for one in found["errors"]] if "errors" in found else [found]
        assert {problem.get("status") for problem in problems} == {400}, (text, answer.text)


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
