"""The committed GraphQL schema: what is served, of the same names as the routes' answers, and nothing taken away."""

import subprocess
import warnings

import pytest
from graphql import GraphQLObjectType, build_schema, find_breaking_changes

from creditfold.api.graphql_schema import SCHEMA, as_text
from helpers.support import ROOT

FILE = ROOT / "docs" / "schema.graphql"
CORE = SCHEMA._schema


def test_the_committed_schema_is_the_one_that_is_served() -> None:
    """`make api` writes it."""
    assert FILE.read_text("utf-8") == as_text(), "run `make api`"


def test_whole_numbers_have_room_for_every_amount() -> None:
    """GraphQL's own Int, which ends at 2^31 - 1, is for arguments only."""
    types = [one for one in CORE.type_map.values() if isinstance(one, GraphQLObjectType) and one.name[:2] != "__"]
    assert len(types) > 20
    small = [f"{one.name}.{name}" for one in types for name, field in one.fields.items() if "Int" in str(field.type)]
    assert small == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("lots(every: Boolean! = false)", "parcels(every: Boolean! = false)"),
        ("lots(every: Boolean! = false)", "lots"),
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
