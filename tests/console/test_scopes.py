"""The table of pages and scopes, held both ways: each page has one row, needs a login, and nothing else opens it."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from creditfold.console.app import install
from creditfold.projections.access.scopes import SCOPES
from helpers.console import Visitor, hidden_fields
from helpers.doors import Door

pytestmark = pytest.mark.stack


class Row(NamedTuple):
    """What opens a page.

    Fields:
        scope: the one that does; with `*` at its end each that begins so; empty: any login does; None: no login is
            needed.
        reach: `account`: the path names one, and a key of another prefix is refused; `all`: it is about all accounts,
            and a key that is limited to a prefix is refused; `own`: it shows a limited key what is of its prefix.
        also: others that open it, too.
    """

    scope: str | None
    reach: Literal["account", "all", "own"] = "own"
    also: tuple[str, ...] = ()


#: Each page. A new one needs a row, and a row a page.
TABLE: dict[str, Row] = {
    "GET /console/static/{name}": Row(None),
    "GET /console/login": Row(None),
    "POST /console/login": Row(None),
    "GET /console/login/provider": Row(None),
    "GET /console/login/callback": Row(None),
    "POST /console/logout": Row(""),
    "GET /console/": Row(None),
    "GET /console/{path:path}": Row(None),
    "GET /console": Row("read:balance"),
    "GET /console/accounts/{account}": Row("read:balance", "account"),
    "GET /console/accounts/{account}/commands/{command_id}": Row("read:statement", "account"),
    "GET /console/accounts/{account}/commands/{command_id}/trace": Row("read:statement", "account"),
    "GET /console/accounts/{account}/lines/{version}": Row("read:statement", "account"),
    "GET /console/accounts/{account}/grant": Row("manual:grant", "account", ("append:grant",)),
    "POST /console/accounts/{account}/grant": Row("manual:grant", "account", ("append:grant",)),
    "GET /console/accounts/{account}/refund": Row("manual:refund", "account", ("append:refund",)),
    "POST /console/accounts/{account}/refund": Row("manual:refund", "account", ("append:refund",)),
    "GET /console/accounts/{account}/void-grant": Row("manual:void_grant", "account", ("append:void_grant",)),
    "POST /console/accounts/{account}/void-grant": Row("manual:void_grant", "account", ("append:void_grant",)),
    "GET /console/books": Row("read:statement", "all"),
    "GET /console/books/classes": Row("read:statement", "all"),
    "GET /console/books/ending": Row("read:statement", "all"),
    "GET /console/books/proof": Row("read:statement", "all"),
    "GET /console/operation": Row("operate:*", "all"),
    "GET /console/transfers": Row("read:balance", "all"),
    "GET /console/operations/{number}": Row("operate:*", "all"),
    "POST /console/operations/{number}/cancel": Row("operate:*", "all"),
    "GET /console/rebuild": Row("operate:generations", "all"),
    "POST /console/rebuild": Row("operate:generations", "all"),
    "GET /console/rules": Row("operate:rules", "all"),
    "POST /console/rules": Row("operate:rules", "all"),
    "GET /console/dead-letters/{position}": Row("operate:dead-letters", "all"),
    "POST /console/dead-letters/{position}/{what}": Row("operate:dead-letters", "all"),
    "GET /console/generations/{number}": Row("operate:generations", "all"),
    "POST /console/generations/{number}/{what}": Row("operate:generations", "all"),
    "GET /console/log": Row("operate:dead-letters", "all"),
    "GET /console/log/{partition}/{offset}": Row("operate:dead-letters", "all"),
}
#: What stands for a name in a path, where `1` isn't something that such a page can be asked for.
NAMES = {"account": "mine-1", "name": "console.css"}


def test_each_page_has_a_row_and_each_row_a_page() -> None:
    """Whoever adds a page says here what opens it. None is in the API's document."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    install(app)
    pages = {f"{method} {route.path}" for route in iter_route_contexts(app.routes) for method in route.methods or ()}
    assert pages == TABLE.keys()
    assert app.openapi()["paths"] == {}


class Asking:
    """Asks each page with a login of one scope alone, or with none, and looks at the status only."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._visitors: dict[tuple[str | None, bool], Visitor] = {}

    def _visitor(self, scope: str | None, *, elsewhere: bool) -> Visitor:
        found = self._visitors.get((scope, elsewhere))
        if found is None:
            found = self._visitors[scope, elsewhere] = Visitor(self._door.url)
            if scope is not None:
                limits = {"account_prefix": "theirs-"} if elsewhere else {}
                found.log_in(self._door.make_key(scope, **limits).text)
        return found

    def status(self, name: str, scope: str | None, *, elsewhere: bool = False) -> int:
        """The status that a page answers with; `elsewhere`: to a key of another account's prefix."""
        method, _, path = name.partition(" ")
        url = re.sub(r"{(\w+)}", lambda found: NAMES.get(found[1], "1"), path)
        visitor = self._visitor(scope, elsewhere=elsewhere)
        if method == "GET":
            return visitor.http.get(url).status_code
        # The token is on any page of a session, also on one that says what is missing.
        fields = hidden_fields(visitor.http.get("/console/accounts/none").text) if scope is not None else {}
        return visitor.http.post(url, data=fields).status_code

    def close(self) -> None:
        """Close the connections."""
        for visitor in self._visitors.values():
            visitor.http.close()


@pytest.fixture(scope="module")
def asking(door: Door) -> Iterator[Asking]:
    """Logins of each scope, made once."""
    found = Asking(door)
    yield found
    found.close()


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.scope])
def test_a_page_is_opened_by_its_scope_and_by_nothing_else(asking: Asking, name: str) -> None:
    """No login: to the login. Every other scope alone: 403. Its scope: not. Another prefix: 403 where it is named."""
    row = TABLE[name]
    scope = row.scope or ""
    assert asking.status(name, None) == (303 if name.startswith("GET") else 401)
    statuses = {one: asking.status(name, one) for one in SCOPES}
    begins, star, _ = scope.partition("*")
    opening = {one for one in SCOPES if one in (scope, *row.also) or (star and one.startswith(begins))}
    assert {one for one, status in statuses.items() if status != 403} == opening
    for one in opening:
        assert statuses[one] not in (401, 405, 500)
        assert (asking.status(name, one, elsewhere=True) == 403) == (row.reach in ("account", "all"))


def test_what_needs_no_scope(asking: Asking) -> None:
    """The files and the login are everybody's, the logout is everybody's who is logged in."""
    assert asking.status("GET /console/static/{name}", None) == 200
    assert asking.status("GET /console/login", None) == 200
    assert asking.status("POST /console/login", None) == 403
    assert asking.status("POST /console/logout", None) == 401
    assert asking.status("POST /console/logout", "audit") == 303
