"""From the journal's rows to messages, as tables: which record, which fields, which schema, and what is left out."""

import json
from typing import Any

import pytest

from creditfold.ledger import KINDS
from creditfold.ledger.commands import Terms
from creditfold.ledger.facts import Bucket, Fact, FactKind, LotId, Move
from creditfold.ledger.facts_json import facts_as_json
from creditfold.processors.publisher.messages import Outcome, announces, outcome_message, read_outcome
from creditfold.projections.queries import windows as outbox
from creditfold.projections.queries.windows import JournalRow, Place
from creditfold.schemas.wire import decode

#: A spend of 5 with a fact that took them out of one lot.
SPENT = Fact(
    FactKind.SPENT, 1_000, "credits", "c", (Move(LotId("g", 2), Bucket.REMAINING, Bucket.SPENT, 5),), detail="more"
)
MADE = Fact(FactKind.GRANTED, 1_000, "credits", "g", terms=Terms("promo", 10, 2_000, 3_000, "ads"))
OWED = Fact(FactKind.REPAID, 1_000, "credits", "c", (Move(None, Bucket.REMAINING, Bucket.DEBT, 1),))
PLAIN = JournalRow(4, "bob", 3, "c", "spend", "credits", 5, 7, None, 1, 1_000, 900, "shop", "why", -5)
PLAIN = PLAIN._replace(details="", facts=facts_as_json([SPENT], "credits"))


def credit(kind: str, *facts: Fact, **other: Any) -> JournalRow:
    """A row after which 1 is pending, 2 are held and 3 are owed."""
    row = PLAIN._replace(kind=kind, pending=1, held=2, debt=3, facts=facts_as_json(facts, "credits"))
    return row._replace(**other)


@pytest.mark.parametrize(
    ("row", "written"),
    [
        (PLAIN, "CommandAccepted"),
        (PLAIN._replace(rejection="insufficient_credits"), "Rejected"),
        (credit("grant", MADE, command_id=None), "CommandAccepted"),
        (credit("spend", rejection="hold_not_found"), "Rejected"),
        (credit("hold", rejection="deadline_passed", pending=0, held=0, debt=0), "Rejected"),
        (credit("settled", SPENT, command_id=None), "Settled"),
        *((credit(kind), "CommandAccepted") for kind in KINDS.values()),
    ],
    ids=lambda value: f"{value.kind}-{value.command_id}" if isinstance(value, JournalRow) else None,
)
def test_each_row_has_its_record(row: JournalRow, written: str) -> None:
    """By whether it was accepted, and whether it is of what time did."""
    message = outcome_message(0, row)
    assert decode(message.value).record == written
    assert (message.key, message.headers) == (b"bob", [("creditfold-position", b"0:4")])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (credit("hold"), {"kind": "hold", "amount": 5, "pending": 1, "held": 2, "debt": 3, "details": "", "facts": []}),
        (credit("hold", details='{"use":"ads"}'), {"details": '{"use":"ads"}'}),
        (credit("close", command_id=None), {"command_id": "", "kind": "close"}),
        (credit("settled", command_id=None), {"change": -5, "balance": 7, "pending": 1, "held": 2, "debt": 3}),
        (credit("batch", rejection="no", step=0), {"kind": "batch", "rejection": "no", "step": 0, "debt": 3}),
        (credit("batch", rejection="no"), {"step": -1}),
        (PLAIN, {"pending": 0, "held": 0, "debt": 0, "details": "", "occurred_at": 900, "reason": "why"}),
    ],
)
def test_a_row_s_columns_are_the_fields(row: JournalRow, expected: dict[str, Any]) -> None:
    """As they are, and -1 for no step."""
    outcome = read_back(row)
    assert {name: outcome.fields[name] for name in expected} == expected


def read_back(row: JournalRow, most_bytes: int = 10**6) -> Outcome:
    message = outcome_message(0, row, most_bytes)
    headers = [(name, value.encode() if isinstance(value, str) else value) for name, value in message.headers]
    outcome = read_outcome(message.value, headers, 0)
    assert outcome is not None
    assert outcome.place == row.place
    return outcome


NO_LOT = {"lot_class": "", "priority": 0, "effective_at": 0, "expires_at": 0, "scope": ""}


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (
            SPENT,
            {
                "kind": "spent",
                "ref": "c",
                "detail": "more",
                "moves": [{"lot": "g", "number": 2, "source": "remaining", "target": "spent", "amount": 5}],
                **NO_LOT,
            },
        ),
        (
            OWED,
            {
                "kind": "repaid",
                "ref": "c",
                "detail": "",
                "moves": [{"lot": "", "number": 0, "source": "remaining", "target": "debt", "amount": 1}],
                **NO_LOT,
            },
        ),
        (
            MADE,
            {
                "kind": "granted",
                "ref": "g",
                "detail": "",
                "moves": [],
                "lot_class": "promo",
                "priority": 10,
                "effective_at": 2_000,
                "expires_at": 3_000,
                "scope": "ads",
            },
        ),
    ],
    ids=["spent", "repaid", "granted"],
)
def test_facts_are_the_journal_s(fact: Fact, expected: dict[str, Any]) -> None:
    """Each with its moves and the terms of the lot that it made."""
    assert read_back(credit("capture", fact)).fields["facts"] == [{"at": 1_000, **expected}]


#: 1,000 facts of two moves each: about 75 kB, without moves 21 kB; and details of 10 kB.
LONG = credit(
    "close",
    *[Fact(FactKind.SPENT, 1_000, "credits", "c", SPENT.moves * 2, detail="more")] * 1_000,
    details=json.dumps({"text": "ü" * 5_000}, ensure_ascii=False),
)


@pytest.mark.parametrize(
    ("most_bytes", "left_out"),
    [
        (100_000, {}),
        (60_000, {"moves": 2_000}),
        (25_000, {"moves": 2_000, "details": 10_012}),
        (1_000, {"moves": 2_000, "details": 10_012, "facts": 1_000}),
        (10, {"moves": 2_000, "details": 10_012, "facts": 1_000}),
    ],
)
def test_what_is_too_long_is_left_out_in_turn(most_bytes: int, left_out: dict[str, int]) -> None:
    """Moves, then details, then facts; headers say how much. Balances stay whatever happens."""
    outcome = read_back(LONG, most_bytes)
    assert outcome.left_out == left_out
    facts = outcome.fields["facts"]
    assert len(facts) == (0 if "facts" in left_out else 1_000)
    assert sum(len(fact["moves"]) for fact in facts) == (0 if left_out else 2_000)
    assert (outcome.fields["details"] == "") == ("details" in left_out)
    assert (outcome.fields["balance"], outcome.fields["held"]) == (7, 2)
    message = outcome_message(0, LONG, most_bytes)
    size = len(message.value or b"") + sum(len(name) + len(value or b"") for name, value in message.headers)
    assert size <= max(most_bytes, 1_000)


def test_what_has_nothing_to_leave_out_is_sent_whole() -> None:
    """What has neither details nor facts is sent as it is, and the broker says what it thinks of it."""
    rejected = credit("spend", rejection="hold_not_found")
    assert outcome_message(0, rejected, 10) == outcome_message(0, rejected)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({}, True),
        ({"facts": "[]"}, True),
        ({"account": "ann"}, False),
        ({"version": 2}, False),
        ({"command_id": "d"}, False),
        ({"command_id": None}, False),
        ({"decided_at_ms": 1}, False),
        ({"balance": 6}, False),
        ({"pending": 0}, False),
        ({"held": 0}, False),
        ({"debt": 0}, False),
        ({"kind": "settled"}, False),
    ],
)
def test_what_was_published_is_compared_with_the_journal(other: dict[str, Any], same: bool) -> None:
    """By who, which of their outcomes, when, and what there was after it."""
    row = credit("hold")
    assert announces(read_back(row), row._replace(**other)) is same
    assert not announces(read_back(row), None)
    assert announces(read_back(PLAIN), PLAIN)
    settled = credit("settled", command_id=None)
    assert announces(read_back(settled), settled)


def test_places_follow_each_other_as_bytes_do() -> None:
    """Of an offset, then of an account's name in UTF-8, then of a version."""
    names = ["", "A", "Z", "a", "ab", "b", "z", "~", "\x80", "é", "\uffff", "\U00010000"]
    places = [Place(offset, name, version) for offset in (1, 2) for name in names for version in (1, 2)]
    assert places == sorted(places)
    assert places == sorted(places, key=lambda place: (place.offset, place.account.encode(), place.version))
    assert Place(1, names[-1], 10**6) < Place(2) < Place(2, "A", 1)


def test_windows_are_bounded_by_rows_and_by_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row more begins the next one; no rows are one batch of none."""
    monkeypatch.setattr(outbox, "WINDOW_ROWS", 3)
    monkeypatch.setattr(outbox, "WINDOW_CHARACTERS", 100)

    def lengths(*texts: int) -> list[int]:
        return [len(batch) for batch in outbox._batches(PLAIN._replace(facts="x" * text) for text in texts)]

    assert lengths() == [0]
    assert lengths(1, 1, 1) == [3]
    assert lengths(1, 1, 1, 1) == [3, 1]
    assert lengths(150, 1, 150, 1) == [1, 2, 1]


def test_what_isn_t_ours_leaves_nothing_out() -> None:
    """A header that is no number says nothing."""
    value = outcome_message(0, PLAIN).value
    outcome = read_outcome(
        value, [("creditfold-position", b"0:4"), ("creditfold-truncated-moves", b"x"), ("other", b"1")], 0
    )
    assert outcome is not None
    assert outcome.left_out == {}
    assert decode(value).record == outcome.record
