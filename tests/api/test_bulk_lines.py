"""Each kind of line that many commands are answered with is as the OpenAPI document has it, without a server."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from creditfold.api.access import Caller
from creditfold.api.append import Preference
from creditfold.api.bulk import Bulk, _Line, _unexplained
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.producers import AppendError, InvalidCommandError, OutcomeUnknownError
from creditfold.schemas.outcome import CommandOutcome, Decision, OutcomeKind
from helpers.bulk_lines import schema_of, see_documented

AT, NOW = Position(3, 7), datetime(2026, 6, 1, tzinfo=UTC)
DECISION = Decision(3, 7, "ada", 1, "g-1", "grant", "credits", 5, 5, 5, True, None, 1, NOW, None, "shop", "")
REJECTED = DECISION._replace(accepted=False, rejection="insufficient_credits", change=0)


def outcome(kind: OutcomeKind, decision: Decision | None, reason: str | None = None) -> CommandOutcome:
    return CommandOutcome(kind, AT, decision, reason=reason, detail="said", generation=4)


def append_errors(kind: type[AppendError] = AppendError) -> Iterator[AppendError]:
    """One of each class of errors of an append."""
    if issubclass(kind, InvalidCommandError):
        yield kind(("amount must be a whole number",))
    elif issubclass(kind, OutcomeUnknownError):
        yield from (kind("It isn't known.", "Ask.", position) for position in (None, AT))
    else:
        yield kind("It failed.", "Try again.")
    for one in kind.__subclasses__():
        yield from append_errors(one)


#: What becomes of a line, the schema of its answer, and its status; of an outcome each kind there is.
FOUND: list[tuple[Any, str, int | None]] = [
    (outcome(OutcomeKind.ACCEPTED, DECISION), "OutcomeAnswer", 201),
    (outcome(OutcomeKind.REJECTED, REJECTED, "insufficient_credits"), "OutcomeAnswer", 422),
    (outcome(OutcomeKind.DUPLICATE, DECISION), "OutcomeAnswer", 200),
    (outcome(OutcomeKind.DEAD_LETTER, None, "invalid_command"), "Problem", 422),
    (outcome(OutcomeKind.DEAD_LETTER, None, "command_id_reused"), "Problem", 409),
    (AT, "AcceptedAnswer", 202),
    (_unexplained(CreditfoldError("Nothing is shown.", "Ask."), AT), "Problem", 500),
    (ValueError("a defect"), "Problem", 500),
    *((error, "Problem", None) for error in append_errors()),
]


def answered(found: Any) -> dict[str, Any]:
    """The line with which a door answers what became of a command."""
    app = SimpleNamespace(state=SimpleNamespace(service=None))
    request = Request({"type": "http", "app": app, "headers": [], "state": {"request_id": "r-1"}})
    bulk = Bulk(request, Caller("shop", frozenset()), Preference(0.0, None))
    line: dict[str, Any] = json.loads(bulk._answer(_Line(9, None, '\u00e4da "1"', "g-1"), found))
    return line


@pytest.mark.parametrize(("found", "schema", "status"), FOUND, ids=lambda one: str(getattr(one, "kind", type(one))))
def test_each_kind_of_line_is_as_it_is_documented(found: Any, schema: str, status: int | None) -> None:
    """With each member of its schema and no other, its line's number and its status."""
    line = answered(found)
    see_documented(line)
    assert (line["line"], schema_of(line)) == (9, schema)
    assert status is None or line["status"] == status
    if schema != "Problem":
        assert (line["account"], line["command_id"], line["position"]) == ('\u00e4da "1"', "g-1", "3:7")


def test_no_kind_is_missing() -> None:
    """A new one needs a row."""
    assert {one.kind for one, _, _ in FOUND if isinstance(one, CommandOutcome)} == set(OutcomeKind)


def test_a_line_that_says_something_else_is_found() -> None:
    """Or the comparison would hold for anything."""
    pending = answered(AT)
    for wrong in (
        {name: value for name, value in pending.items() if name != "command_id"},
        {**pending, "colour": "red"},
        {**pending, "generation": 4},
        {**pending, "position": 7},
        {**pending, "outcome": "accepted"},
    ):
        with pytest.raises(AssertionError):
            see_documented(wrong)
