"""The committed GraphQL schema: what is served, of the same names as the routes' answers, and nothing taken away."""

import subprocess
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from graphql import GraphQLObjectType, build_schema, find_breaking_changes

from creditfold.api import create_app
from creditfold.api.graphql_reads import Reading
from creditfold.api.graphql_schema import SCHEMA, as_text
from creditfold.api.openapi import operations
from creditfold.common.settings import Settings
from helpers.support import ROOT

FILE = ROOT / "docs" / "schema.graphql"
CORE = SCHEMA._schema


def test_the_committed_schema_is_the_one_that_is_served() -> None:
    """`make api` writes it."""
    assert FILE.read_text("utf-8") == as_text(), "run `make api`"


#: What reads by GraphQL what each GET route reads. HEAD is here where it says something that GET doesn't.
FIELDS: dict[str, tuple[str, ...]] = {
    "GET /v1/accounts": ("Query.accounts",),
    "HEAD /v1/accounts": ("Query.account_count",),
    "GET /v1/accounts/{account}": (
        *("Account.account", "Account.is_closed", "Account.frozen"),
        *("Account.balances", "Account.lots", "Account.holds"),
    ),
    "GET /v1/accounts/{account}/balances": ("Account.balances",),
    "GET /v1/accounts/{account}/lots": ("Account.lots",),
    "GET /v1/accounts/{account}/holds": ("Account.holds",),
    "GET /v1/accounts/{account}/transfers": ("Account.transfers",),
    "GET /v1/accounts/{account}/schedules": ("Account.schedules",),
    "GET /v1/accounts/{account}/expiring": ("Account.expiring",),
    "GET /v1/accounts/{account}/statement": ("Account.statement",),
    "GET /v1/accounts/{account}/history": ("Account.history",),
    "GET /v1/accounts/{account}/ended": ("Account.ended",),
    "GET /v1/accounts/{account}/commands/{command_id}": ("Account.command",),
    "GET /v1/accounts/{account}/commands/{command_id}/trace": ("Account.trace",),
    "GET /v1/journal": ("Query.journal",),
    "GET /v1/rejections": ("Query.rejections",),
    "GET /v1/expiring": ("Query.expiring",),
    "GET /v1/ended": ("Query.ended",),
    "GET /v1/ended/totals": ("Query.ended_totals",),
    "GET /v1/spent": ("Query.spent",),
    "GET /v1/totals": ("Query.totals",),
    "GET /v1/trial-balance": ("Query.trial_balance",),
    "GET /v1/dead-letters": ("Query.dead_letters",),
    "GET /v1/dead-letters/{position}": ("Query.dead_letter",),
    "GET /v1/log/{partition}/{offset}": ("Query.log_record",),
    "GET /v1/generations": ("Query.generations",),
    "GET /v1/rules": ("Query.rules",),
    "GET /v1/operations": ("Query.operations",),
    "GET /v1/operations/{number}": ("Query.operation",),
    "GET /v1/keys": ("Query.keys",),
    "GET /v1/audit": ("Query.audit",),
    "GET /v1/progress": ("Query.progress",),
}
#: Why a route has no field.
_MANAGED = "what is managed and not what was decided; nothing is asked about it together with an account"
INSTEAD = {
    "GET /v1/outcomes": "a stream without an end; GraphQL's own, subscriptions, would be a second way to follow",
    "GET /v1/webhook-endpoints": _MANAGED,
    "GET /v1/webhook-endpoints/{endpoint_id}": _MANAGED,
    "GET /v1/webhook-endpoints/{endpoint_id}/deliveries": _MANAGED,
    "GET /v1/webhook-endpoints/{endpoint_id}/attempts": _MANAGED,
    "GET /v1/alert-rules": _MANAGED,
}
#: Why a parameter of the routes is no argument of the fields.
NO_ARGUMENTS = {
    "at_least": "the whole request waits, for any number of positions",
    "wait": "nothing waits in a snapshot; at_least does before it",
    "expand": "a query names what it wants",
    "as_of": "an argument of `account`, for all that is below it",
    "format": "there is one form",
    "accept": "there is one form",
    "if-none-match": "a query has no ETag",
}


def test_each_get_route_has_a_field_or_a_reason() -> None:
    """Whoever adds a route says here what reads it by GraphQL, or why nothing does; and the other way round."""
    document = create_app(Settings()).openapi()
    routes = {
        f"{method.upper()} {path}"
        for path, method, _ in operations(document)
        if method in ("get", "head") and path.startswith("/v1/")
    }
    assert routes - FIELDS.keys() - INSTEAD.keys() == set(), "these routes have neither a field nor a reason"
    assert (FIELDS.keys() | INSTEAD.keys()) - routes == set(), "these have no route any more"
    named = {field for fields in FIELDS.values() for field in fields}
    kinds = {kind: CORE.type_map[kind] for kind in ("Query", "Account")}
    there = {f"{kind}.{name}" for kind, found in kinds.items() for name in found.fields} - {"Query.account"}
    assert there == named, "these fields read what no route does, or aren't there"


@pytest.mark.parametrize("route", FIELDS)
def test_a_field_takes_what_its_route_takes_and_has_its_scope(route: str) -> None:
    """Its parameters of path and query, but for those that have a reason; and nothing beyond."""
    app = create_app(Settings())
    method, _, path = route.partition(" ")
    described = app.openapi()["paths"][path][method.lower()].get("parameters", ())
    parameters = {one["name"] for one in described} - NO_ARGUMENTS.keys()
    if path.startswith("/v1/accounts/"):
        parameters.remove("account")
    arguments, scopes = set(), set()
    for field in FIELDS[route]:
        kind, _, name = field.partition(".")
        arguments |= set(CORE.type_map[kind].fields[name].args)
        definition = SCHEMA.get_type_by_name(kind).get_field(name)
        scopes |= {one.scope for one in definition.extensions if isinstance(one, Reading)}
    if route == "GET /v1/accounts/{account}":
        # Of the lists, which the route expands to their first pages.
        arguments -= {"every", "limit", "cursor"}
    assert arguments == parameters
    (endpoint,) = (one for one in iter_route_contexts(app.routes) if one.path == path and method in (one.methods or ()))
    assert scopes == {call.scope for call in _calls(endpoint.route.dependant) if hasattr(call, "scope")}


def _calls(dependant: Any) -> Iterator[Any]:
    for one in dependant.dependencies:
        yield one.call
        yield from _calls(one)


def test_whole_numbers_have_room_for_every_amount() -> None:
    """GraphQL's own Int, which ends at 2^31 - 1, is for arguments only."""
    types = [one for one in CORE.type_map.values() if isinstance(one, GraphQLObjectType) and one.name[:2] != "__"]
    assert len(types) > 20
    small = [f"{one.name}.{name}" for one in types for name, field in one.fields.items() if "Int" in str(field.type)]
    assert small == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("lots(every: Boolean! = false,", "parcels(every: Boolean! = false,"),
        ("lots(every: Boolean! = false, ", "lots("),
        ("  is_closed: Boolean\n", "  is_closed: String\n"),
        ("account(account: String!,", "account(account: String!, why: String!,"),
    ],
)
def test_a_breaking_change_is_found(before: str, after: str) -> None:
    """And none where there is none."""
    text = as_text()
    assert text.count(before) == 1
    assert find_breaking_changes(build_schema(text), build_schema(text.replace(before, after))) != []
    assert find_breaking_changes(build_schema(text), CORE) == []


def committed(revision: str) -> str | None:
    """The schema of a revision; None where it had none."""
    command = ["git", "show", f"{revision}:docs/schema.graphql"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return shown.stdout if shown.returncode == 0 else None


def test_nothing_that_was_released_is_taken_away() -> None:
    """Compared with the last released version; before the first, what differs from the last commit is shown only."""
    described = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    tag = described.stdout.strip()
    released = committed(tag or "HEAD")
    found = [] if released is None else find_breaking_changes(build_schema(released), CORE)
    if tag:
        assert found == []
    elif found:
        said = [change.description for change in found]
        warnings.warn("\n".join(["not released, and different from the last commit:", *said]), stacklevel=1)
