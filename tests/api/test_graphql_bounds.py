"""What is asked by GraphQL is bounded before anything is read: by size, depth, aliases and cost."""

import pytest
from graphql import get_introspection_query

from creditfold.api.graphql import GraphqlBody, InvalidQueryError, prepare
from creditfold.api.graphql_bounds import MOST_COST
from creditfold.api.graphql_schema import SCHEMA
from creditfold.api.problems import of_error
from helpers.graphql_documents import braced, everything

CORE = SCHEMA._schema
LINES = "query($n: Int = 100) {journal(limit: $n) {lines{position allocations{lot amount}}}}"
#: Documents, and what refuses each; None where it may be asked.
DOCUMENTS: dict[str, tuple[str, str | None]] = {
    "introspection": (get_introspection_query(), None),
    "twenty accounts": (
        braced(f'a{n}: account(account: "a{n}") {{balances{{asset available}}}}' for n in range(20)),
        None,
    ),
    "a page of the journal": ("{journal(limit: 1000) {lines" + everything(CORE.type_map["Decision"]) + "}}", None),
    "no GraphQL": ("{", "invalid_query"),
    "nothing": ("", "invalid_query"),
    "a field that there isn't": ("{nothing}", "invalid_query"),
    "an argument of another type": ("{account(account: 5) {frozen}}", "invalid_query"),
    "a time that is none": ('{expiring(until: "soon") {asset}}', "invalid_query"),
    "a mutation": ("mutation {progress{partition}}", "invalid_query"),
    "two operations": ("query a {progress{partition}} query b {progress{partition}}", "invalid_query"),
    "fragments in a circle": ("{...a} fragment a on Query {...b} fragment b on Query {...a}", "invalid_query"),
    "many characters": ("{progress{partition}} #" + "x" * 16_384, "query_too_large"),
    "many tokens": (braced(["progress"] * 1_000), "query_too_large"),
    "many comments": ("{progress{partition}}" + "#\n" * 1_001, "query_too_large"),
    "brackets in brackets": ("{" * 40, "query_too_large"),
    "lists of lists": (f"query($a: {'[' * 40}String{']' * 40}) {{totals{{asset}}}}", "query_too_large"),
    "a field again and again": ("{progress" + braced(["partition"] * 6) + "}", "query_too_large"),
    "many fragments": (
        "{...f0}" + "".join(f"fragment f{n} on Query {{totals{{asset}}}} " for n in range(21)),
        "query_too_large",
    ),
    "fragments that double": (
        "{...f0} fragment f19 on Query {totals{asset}} "
        + "".join(f"fragment f{n} on Query {{...f{n + 1} ...f{n + 1}}} " for n in range(19)),
        "query_too_costly",
    ),
    "many aliases": (braced(f"a{n}: progress{{partition}}" for n in range(31)), "query_too_many_aliases"),
    "many reads": (
        braced(f'a{n}: account(account: "a{n}") {{...f}}' for n in range(30))
        + "fragment f on Account {lots{lots{asset}} holds{holds{asset}} transfers{transfers{asset}} "
        "schedules{schedules{asset}} frozen is_closed "
        "balances{asset} expiring{at}}",
        "query_too_costly",
    ),
    "a page of accounts": (
        "{accounts(limit: 300) {accounts" + everything(CORE.type_map["FoundAccount"]) + "}}",
        None,
    ),
    "five records of the log": (
        braced(f"r{n}: log_record(partition: 0, offset: {n}) {{position}}" for n in range(5)),
        "query_too_costly",
    ),
    "two proofs": ("{a: trial_balance{balances} b: trial_balance{balances}}", "query_too_costly"),
    "long pages": (
        braced(f"a{n}: journal(limit: 1000) {{lines{{position account amount kind}}}}" for n in range(12)),
        "query_too_costly",
    ),
    "long pages of dead letters": (
        braced(
            f"a{n}: dead_letters(limit: 1000) {{dead_letters{{position reason detail state why}}}}" for n in range(12)
        ),
        "query_too_costly",
    ),
    "long pages of sums": (
        "{spent(limit: 10000) {rows{asset lot_class source reason spent}}}",
        "query_too_costly",
    ),
    "introspection in itself": ("{__schema{types{fields{type{fields{type{fields{name}}}}}}}}", "invalid_query"),
    "a type of a type": (
        "{__schema{types{fields{type{" + "ofType{" * 12 + "name" + "}" * 12 + "}}}}}",
        "query_too_deep",
    ),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_refused_before_anything_is_read(name: str) -> None:
    """By its size, its depth, its aliases, or what it would cost."""
    query, code = DOCUMENTS[name]
    if code is None:
        assert prepare(GraphqlBody(query=query)).cost <= MOST_COST
        return
    with pytest.raises(InvalidQueryError) as refused:
        prepare(GraphqlBody(query=query))
    problems = {_code_of(error.original_error) for error in refused.value.errors}
    assert problems == {code}


def _code_of(cause: Exception | None) -> str:
    problem = None if cause is None else of_error(cause)
    return "invalid_query" if problem is None else problem.code


def test_limits_multiply() -> None:
    """Those of variables and defaults too; one below 1 counts as 1."""
    costs = {
        n: prepare(GraphqlBody(query=LINES, variables=None if n is None else {"n": n})).cost for n in (1, 11, None)
    }
    line = (costs[11] - costs[1]) / 10
    assert line > 2
    assert costs[None] == costs[1] + 99 * line
    assert prepare(GraphqlBody(query=LINES, variables={"n": -10})).cost == costs[1]
