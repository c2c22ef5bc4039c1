"""The table of routes and scopes, held both ways: each route has one row, and nothing else opens it."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from creditfold.api import create_app
from creditfold.common.settings import Settings
from creditfold.projections.access.scopes import SCOPES
from helpers.doors import Door

pytestmark = pytest.mark.stack


class Row(NamedTuple):
    """What opens a route.

    Fields:
        scope: the one that does, each other one alone doesn't; with `*` at its end each that begins so; None: no key is
            needed.
        reach: `account`: the path names one, and a key of another prefix is refused; `all`: it is about all accounts,
            and a key that is limited to a prefix is refused; `own`: it shows a limited key what is of its prefix;
            `none`: it says nothing of accounts.
        also: others that open it, too.
    """

    scope: str | None
    reach: Literal["account", "all", "own", "none"] = "none"
    also: tuple[str, ...] = ()


#: Those of the GET routes beside `read:*`.
READING = tuple(scope for scope in SCOPES if scope.startswith("operate:") or scope in ("keys", "audit"))
#: Each route of the application. A new one needs a row, and a row a route.
TABLE: dict[str, Row] = {
    "POST /v1/accounts/{account}/grants": Row("append:grant", "account", ("manual:grant",)),
    "POST /v1/accounts/{account}/spends": Row("append:spend", "account"),
    "POST /v1/accounts/{account}/holds": Row("append:hold", "account"),
    "POST /v1/accounts/{account}/captures": Row("append:capture", "account"),
    "POST /v1/accounts/{account}/releases": Row("append:release", "account"),
    "POST /v1/accounts/{account}/refunds": Row("append:refund", "account", ("manual:refund",)),
    "POST /v1/accounts/{account}/voids": Row("append:void_grant", "account", ("manual:void_grant",)),
    "POST /v1/accounts/{account}/transfers": Row("append:transfer", "account"),
    "POST /v1/accounts/{account}/freezes": Row("append:freeze", "account"),
    "POST /v1/accounts/{account}/unfreezes": Row("append:unfreeze", "account"),
    "POST /v1/accounts/{account}/closings": Row("append:close", "account"),
    "POST /v1/accounts/{account}/credit-limits": Row("append:set_credit_limit", "account"),
    "POST /v1/accounts/{account}/schedules": Row("append:create_schedule", "account"),
    "POST /v1/accounts/{account}/schedule-cancellations": Row("append:cancel_schedule", "account"),
    "POST /v1/accounts/{account}/batches": Row("append:batch", "account"),
    "POST /v1/commands": Row("append:*", "own"),
    "GET /v1/accounts/{account}/commands/{command_id}": Row("read:statement", "account"),
    "GET /v1/accounts": Row("read:balance", "own"),
    "HEAD /v1/accounts": Row("read:balance", "own"),
    "GET /v1/accounts/{account}": Row("read:balance", "account"),
    "GET /v1/accounts/{account}/balances": Row("read:balance", "account"),
    "GET /v1/accounts/{account}/lots": Row("read:balance", "account"),
    "GET /v1/accounts/{account}/holds": Row("read:balance", "account"),
    "GET /v1/accounts/{account}/transfers": Row("read:balance", "account"),
    "GET /v1/accounts/{account}/schedules": Row("read:balance", "account"),
    "GET /v1/accounts/{account}/statement": Row("read:statement", "account"),
    "GET /v1/outcomes": Row("read:statement", "own"),
    "GET /v1/keys": Row("keys", "own"),
    "POST /v1/keys": Row("keys", "own"),
    "DELETE /v1/keys/{key_id}": Row("keys", "own"),
    "POST /v1/keys/{key_id}:rotate": Row("keys", "own"),
    "GET /v1/webhook-endpoints": Row("webhooks", "own"),
    "POST /v1/webhook-endpoints": Row("webhooks", "own"),
    "GET /v1/webhook-endpoints/{endpoint_id}": Row("webhooks", "own"),
    "PATCH /v1/webhook-endpoints/{endpoint_id}": Row("webhooks", "own"),
    "DELETE /v1/webhook-endpoints/{endpoint_id}": Row("webhooks", "own"),
    "POST /v1/webhook-endpoints/{endpoint_id}:rotate": Row("webhooks", "own"),
    "POST /v1/webhook-endpoints/{endpoint_id}:disable": Row("webhooks", "own"),
    "POST /v1/webhook-endpoints/{endpoint_id}:enable": Row("webhooks", "own"),
    "POST /v1/webhook-endpoints/{endpoint_id}:test": Row("webhooks", "own"),
    "POST /v1/webhook-endpoints/{endpoint_id}:resend": Row("webhooks", "own"),
    "GET /v1/webhook-endpoints/{endpoint_id}/deliveries": Row("webhooks", "own"),
    "GET /v1/webhook-endpoints/{endpoint_id}/attempts": Row("webhooks", "own"),
    "GET /v1/alert-rules": Row("webhooks", "own"),
    "POST /v1/alert-rules": Row("webhooks", "own"),
    "DELETE /v1/alert-rules/{rule_id}": Row("webhooks", "own"),
    "GET /v1/audit": Row("audit", "all"),
    "GET /v1/accounts/{account}/expiring": Row("read:balance", "account"),
    "GET /v1/accounts/{account}/commands/{command_id}/trace": Row("read:statement", "account"),
    "GET /v1/expiring": Row("read:statement", "all"),
    "GET /v1/accounts/{account}/history": Row("read:statement", "account"),
    "GET /v1/spent": Row("read:statement", "all"),
    "GET /v1/ended": Row("read:statement", "all"),
    "GET /v1/ended/totals": Row("read:statement", "all"),
    "GET /v1/accounts/{account}/ended": Row("read:statement", "account"),
    "GET /v1/journal": Row("read:statement", "all"),
    "GET /v1/rejections": Row("read:statement", "all"),
    "GET /v1/totals": Row("read:statement", "all"),
    "GET /v1/trial-balance": Row("read:statement", "all"),
    "GET /v1/dead-letters": Row("operate:dead-letters", "all"),
    "GET /v1/dead-letters/{position}": Row("operate:dead-letters", "all"),
    "POST /v1/dead-letters:redrive": Row("operate:dead-letters", "all"),
    "POST /v1/dead-letters:discard": Row("operate:dead-letters", "all"),
    "GET /v1/log/{partition}/{offset}": Row("operate:dead-letters", "all"),
    "GET /v1/generations": Row("operate:generations", "all"),
    "POST /v1/generations:rebuild": Row("operate:generations", "all"),
    "POST /v1/generations/{number}:verify": Row("operate:generations", "all"),
    "POST /v1/generations/{number}:activate": Row("operate:generations", "all"),
    "DELETE /v1/generations/{number}": Row("operate:generations", "all"),
    "GET /v1/rules": Row("operate:rules", "all"),
    "POST /v1/rules:diff": Row("operate:rules", "all"),
    "GET /v1/operations": Row("operate:*", "all"),
    "GET /v1/operations/{number}": Row("operate:*", "all"),
    "POST /v1/operations/{number}:cancel": Row("operate:*", "all"),
    "GET /v1/progress": Row("read:balance"),
    "GET /health/live": Row(None),
    "GET /health/ready": Row(None),
    "GET /schemas/{schema_id}": Row(None),
    "GET /metrics": Row("operate:metrics"),
    "POST /graphql": Row("read:*", "own", READING),
    "GET /openapi.json": Row(None),
    "GET /docs": Row(None),
    "GET /docs/{name}": Row(None),
}
#: What stands for a name in a path, where `1` isn't something that such a route can be asked for.
NAMES = {"account": "mine-1"}


def routes() -> set[str]:
    """The application's routes, each as its method and its path; HEAD, where GET brings it along, not by itself."""
    found = set()
    for route in iter_route_contexts(create_app(Settings()).routes):
        methods = route.methods or {"ANY"}
        found |= {f"{method} {route.path}" for method in methods if method != "HEAD" or "GET" not in methods}
    return found


def test_each_route_has_a_row_and_each_row_a_route() -> None:
    """Whoever adds a route says here what opens it; whoever removes one removes its row."""
    found = routes()
    assert found - TABLE.keys() == set(), "these routes have no row in TABLE: which scope opens them, alone?"
    assert TABLE.keys() - found == set(), "these rows of TABLE have no route any more"


class Asking:
    """Asks each route with a key of one scope alone, or with none, and looks at the status only."""

    def __init__(self, door: Door, client: httpx.Client) -> None:
        self._client = client
        self._alone = {scope: door.make_key(scope).text for scope in SCOPES}
        self._elsewhere = {scope: door.make_key(scope, account_prefix="theirs-").text for scope in SCOPES}

    def status(self, name: str, scope: str | None, *, elsewhere: bool = False) -> int:
        """The status that a route answers a key with; `elsewhere`: one of another account's prefix."""
        method, _, path = name.partition(" ")
        url = re.sub(r"{(\w+)[^}]*}", lambda found: NAMES.get(found[1], "1"), path)
        headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        if scope is not None:
            headers["Authorization"] = f"Bearer {(self._elsewhere if elsewhere else self._alone)[scope]}"
        # Not read to its end: some answers have none. An empty body keeps a route that is opened from doing anything.
        with self._client.stream(method, url, headers=headers) as answer:
            return answer.status_code


@pytest.fixture(scope="module")
def asking(door: Door) -> Iterator[Asking]:
    """Keys of each scope, made once."""
    with door.with_key(None) as client:
        yield Asking(door, client)


@pytest.mark.parametrize("name", TABLE)
def test_a_route_is_opened_by_its_scope_and_by_nothing_else(asking: Asking, name: str) -> None:
    """No key: 401. Every other scope alone: 403. Its scope: neither. Another prefix: 403 where accounts are named."""
    row = TABLE[name]
    if row.scope is None:
        assert asking.status(name, None) not in (401, 403)
        return
    assert asking.status(name, None) == 401
    statuses = {scope: asking.status(name, scope) for scope in SCOPES}
    begins, star, _ = row.scope.partition("*")
    opening = {scope for scope in SCOPES if scope in (row.scope, *row.also) or (star and scope.startswith(begins))}
    assert {scope for scope, status in statuses.items() if status != 403} == opening
    for scope in opening:
        assert statuses[scope] not in (401, 405, 500)
        refused = asking.status(name, scope, elsewhere=True) == 403
        assert refused == (row.reach in ("account", "all"))
