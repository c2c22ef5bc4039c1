"""Rebuilds and diffs that are begun, looked at and cancelled from the console."""

from typing import Any

import pytest

from creditfold.api.problems import ProblemError
from creditfold.common.waiting import wait_until
from creditfold.console.long_operations import Example, examples_of, rebuild_of
from creditfold.processors import operations
from creditfold.projections.access.audit import Actor
from creditfold.projections.access.operations import begin_operation, record_end
from creditfold.projections.access.operations import running as taken
from creditfold.projections.connections import connected
from helpers.console import Visitor, links_of, text_of
from helpers.doors import Door
from helpers.holds import gate_in
from helpers.support import HANG_S, query

stack = pytest.mark.stack


def begun(visitor: Visitor, path: str, **fields: str) -> str:
    """Send the form of a page, with its preview where it has one; where the operation is shown."""
    answer = visitor.send(visitor.page(path), path.partition("?")[0], **fields)
    if answer.status_code == 200:
        answer = visitor.send(answer.text, path.partition("?")[0], action="confirm")
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


def ended(visitor: Visitor, path: str) -> str:
    """The page of an operation once it has ended."""
    assert wait_until(lambda: "ended on" in visitor.page(path), HANG_S), text_of(visitor.page(path))
    return visitor.page(path)


@stack
def test_a_rebuild_is_previewed_cancelled_and_gone_on_with(door: Door, visitor: Visitor) -> None:
    """The preview begins nothing; each step is by somebody, with a reason, in the audit."""
    door.grant("rebuilt", 5)
    before = door.http.get("/v1/operations").json()["operations"]
    preview = visitor.send(visitor.page("/console/rebuild"), "/console/rebuild", why="<b>drill</b>", note="a test")
    said = text_of(preview.text)
    assert "The log is folded into a new generation. Generation 1 stays live" in said
    assert "<b>drill</b>" in said
    assert "<b>" not in preview.text
    assert door.http.get("/v1/operations").json()["operations"] == before
    number = query(door.settings, "SELECT coalesce(last_value, 0) + 1 FROM pg_sequences WHERE sequencename = "
                   "'generations_number_seq'")[0][0]  # fmt: skip
    with gate_in(door.settings, number) as gate:
        for partition in range(door.settings.partitions):
            gate.close(partition, 0)
        shown = visitor.send(preview.text, "/console/rebuild", action="confirm").headers["Location"]
        assert wait_until(lambda: gate.waiting() > 0, HANG_S)
        assert "Generations rebuild" in text_of(visitor.page(shown))
        # Sent twice it is one operation, which the second answer leads to.
        again = visitor.send(preview.text, "/console/rebuild", action="confirm")
        assert again.status_code == 409
        assert shown in links_of(again.text)
        page, path = visitor.page(shown), f"{shown}/cancel"
        assert visitor.send(page, path, why="r").status_code == 400
        assert visitor.send(page, path, why=" ", sure="yes").status_code == 400
        assert "cancel" not in text_of(visitor.page(shown)).partition("Cancel")[0]
        assert visitor.send(page, path, why="enough", sure="yes").headers["Location"] == shown
        over = text_of(ended(visitor, shown))
    assert "cancelled" in over
    assert "Cancel it" not in over
    actions = [(one["action"], one["reason"]) for one in door.http.get("/v1/audit").json()["lines"]]
    assert ("generations.rebuild", "<b>drill</b>") in actions
    assert ("operations.cancel", "enough") in actions
    resume = f"/console/rebuild?resume={number}"
    assert resume in links_of(visitor.page(f"/console/generations/{number}"))
    done = text_of(ended(visitor, begun(visitor, resume, why="go on")))
    assert "done" in done
    assert f"Generation {number}" in done
    answer = visitor.send(visitor.page("/console/rebuild?resume=999"), "/console/rebuild", why="r")
    assert answer.status_code == 404


@stack
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"why": ""}, "no reason"),
        ({"why": "a\u0000b"}, "no reason"),
        ({"why": "r", "rate": "fast"}, "rate must be a whole number"),
        ({"why": "r", "rate": "0"}, "rate"),
        ({"why": "r", "processes": "9999"}, "processes"),
        ({"why": "r", "until": "yesterday"}, "until"),
    ],
)
def test_a_form_of_a_rebuild_that_is_filled_in_wrongly_comes_back(
    visitor: Visitor, fields: dict[str, str], said: str
) -> None:
    """As it was, with what is wrong with it; and nothing begins, however it is sent."""
    for action in ("preview", "confirm"):
        answer = visitor.send(visitor.page("/console/rebuild"), "/console/rebuild", action=action, **fields)
        assert answer.status_code == 400
        assert said in text_of(answer.text)
    answer = visitor.send(visitor.page("/console/rebuild"), "/console/rebuild", why="r", until_positions="0:x")
    assert "is not a position" in text_of(visitor.send(answer.text, "/console/rebuild", action="confirm").text)


@stack
def test_rules_are_tried_on_history(door: Door, visitor: Visitor) -> None:
    """By those in force history comes to the same."""
    door.grant("ruled", 5)
    page = visitor.page("/console/rules")
    said = text_of(page)
    assert "This release has version 1." in said
    assert f"version 1 in {door.settings.partitions} partitions" in said
    assert visitor.send(page, "/console/rules", why="").status_code == 400
    assert visitor.send(page, "/console/rules", why="r", rules="99").status_code == 404
    said = text_of(ended(visitor, begun(visitor, "/console/rules", why="before the upgrade", rules="1")))
    assert "Rules diff" in said
    assert "changed 0" in said
    assert "before the upgrade" in said


def outcome(what: str, **more: Any) -> dict[str, Any]:
    """What a record came to, as an operation keeps it."""
    nothing = {"reason": "", "change": None, "balance": None}
    return {"what": what, "account": "<u>ann</u>", "command_id": "s-1", "kind": "spend", **nothing, **more}


CHANGES = [
    {"position": "0:7", "left": outcome("accepted", change=-5, balance=1_000), "right": None},
    {"position": "0:9", "left": outcome("accepted"), "right": outcome("rejected", reason="insufficient_credits")},
]
EXAMPLES = [
    Example("<u>ann</u>", "s-1", "0:7", "spend accepted, change -5, balance 1,000", "nothing"),
    Example("<u>ann</u>", "s-1", "0:9", "spend accepted", "spend rejected, there is too little for this use"),
]


@stack
def test_a_diff_shows_accounts_that_differ(door: Door, visitor: Visitor) -> None:
    """Each leads to the account and to why; a name is text."""
    by = Actor("tests", "here", "a test needs it")
    with connected(door.settings.dsn) as connection:
        made = begin_operation(connection, operations.DIFF, {"rules": 1}, by=by)
        with taken(connection, made.number):
            record_end(connection, made.number, result={"changed": 2, "changes": CHANGES, "totals": {}})
    page = visitor.page(f"/console/operations/{made.number}")
    assert "<u>" not in page
    for example in EXAMPLES:
        assert " ".join(example) in text_of(page)
    assert "/console/accounts/%3Cu%3Eann%3C%2Fu%3E/commands/s-1" in links_of(page)


@stack
def test_only_who_may_begin_or_cancel_is_offered_to(door: Door) -> None:
    """By the scope of the operation's kind."""
    with Visitor(door.url) as rules:
        rules.log_in(door.make_key("operate:rules").text)
        links = links_of(rules.page("/console/operation"))
        assert "/console/rules" in links
        assert "/console/rebuild" not in links
        assert "operate:generations" in text_of(rules.page("/console/rebuild", 403))


def test_examples_are_of_comparisons_too() -> None:
    """Those of accounts have the first record of each."""
    assert examples_of({"changes": CHANGES}) == EXAMPLES
    assert examples_of({"accounts": [{"account": "ann", "records": 3, "first": CHANGES[0]}]}) == EXAMPLES[:1]
    assert examples_of({"equal": True, "accounts": []}) == []
    assert examples_of({"accounts": 5}) == []


def test_a_form_says_what_a_rebuild_is_to_be() -> None:
    """What is left out isn't said."""
    found = rebuild_of({"why": " r ", "rate": " 5 ", "until_positions": "0:1\r\n1:2", "processes": "", "x": "y"})
    assert found.model_dump(exclude_defaults=True) == {"why": "r", "rate": 5, "until_positions": ["0:1", "1:2"]}
    with pytest.raises(ProblemError):
        rebuild_of({"why": "r", "resume": "-1"})
