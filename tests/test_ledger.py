"""The rules: tables of decisions, and properties of the fold that must hold for any history."""

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creditfold.ledger import (
    Accepted,
    Account,
    Book,
    Command,
    Entry,
    Grant,
    Rejected,
    RejectionReason,
    Spend,
    Verdict,
    decide,
    evolve,
)
from creditfold.ledger.decisions import RULES
from creditfold.ledger.folding import Body, body_of
from creditfold.ledger.limits import MAX_AMOUNT, MAX_BALANCE, is_id, is_note
from creditfold.ledger.validity import check

ACCEPTED = None
SHORT = RejectionReason.INSUFFICIENT_CREDITS
FULL = RejectionReason.BALANCE_LIMIT_EXCEEDED


def grant(amount: int, asset: str = "credits", command_id: str = "g") -> Grant:
    return Grant(command_id, "ann", asset, amount)


def spend(amount: int, asset: str = "credits", command_id: str = "s") -> Spend:
    return Spend(command_id, "ann", asset, amount)


# balances before            | command                | balance after  | rejection
DECISIONS = [
    ({}, grant(1), 1, ACCEPTED),
    ({}, grant(MAX_AMOUNT), MAX_AMOUNT, ACCEPTED),
    ({"credits": 5}, grant(3), 8, ACCEPTED),
    ({"gold": 5}, grant(3), 3, ACCEPTED),
    ({"credits": MAX_BALANCE - 3}, grant(3), MAX_BALANCE, ACCEPTED),
    ({"credits": 5}, spend(1), 4, ACCEPTED),
    ({"credits": 5}, spend(5), 0, ACCEPTED),
    ({"credits": 5, "gold": 9}, spend(9, "gold"), 0, ACCEPTED),
    ({}, spend(1), 0, SHORT),
    ({"credits": 0}, spend(1), 0, SHORT),
    ({"credits": 5}, spend(6), 5, SHORT),
    ({"gold": 9}, spend(6), 0, SHORT),
    ({"credits": 5}, spend(MAX_AMOUNT), 5, SHORT),
    ({"credits": MAX_BALANCE - 3}, grant(4), MAX_BALANCE - 3, FULL),
    ({"credits": MAX_BALANCE}, grant(1), MAX_BALANCE, FULL),
]


@pytest.mark.parametrize(("before", "command", "after", "rejection"), DECISIONS)
def test_decisions(before: dict[str, int], command: Command, after: int, rejection: RejectionReason | None) -> None:
    """A command is accepted or rejected; other assets never move."""
    state = Account(7, before)
    outcome = decide(state, command)
    assert (outcome.balance, outcome.rejection, outcome.version, outcome.rules) == (after, rejection, 8, RULES)
    assert outcome.change == after - before.get(command.asset, 0)
    assert evolve(state, outcome) == Account(8, {**before, command.asset: after})
    assert state == Account(7, before)


def test_every_reason_is_reached() -> None:
    """A reason without a case is a gap in the table, and the table keeps the enum's order."""
    reached = list(dict.fromkeys(rejection for *_, rejection in DECISIONS if rejection))
    assert reached == [RejectionReason.INSUFFICIENT_CREDITS, RejectionReason.BALANCE_LIMIT_EXCEEDED]


def test_a_rejection_on_an_unknown_account_counts_as_a_decision() -> None:
    """Each decision has its number, so a reader sees that none is missing."""
    book = Book()
    book.apply(spend(1))
    assert book.accounts == {"ann": Account(1, {"credits": 0})}


def test_an_unknown_command_raises() -> None:
    """There is no silent default branch."""
    with pytest.raises(TypeError, match="SimpleNamespace"):
        decide(Account(), SimpleNamespace(asset="credits"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "outcome",
    [
        Accepted("credits", -6, -1, 8),
        Accepted("credits", 1, 7, 8),
        Accepted("credits", 1, 6, 9),
        Rejected("credits", SHORT, 4, 8),
    ],
)
def test_an_outcome_of_another_state_is_not_applied(outcome: Accepted | Rejected) -> None:
    """Never below zero, nothing made from nothing, no decision left out."""
    with pytest.raises(ValueError, match="doesn't follow"):
        evolve(Account(7, {"credits": 5}), outcome)


def test_the_same_id_has_its_effect_once() -> None:
    """The first outcome stands, a rejection too, whatever the balance is by then."""
    book = Book()
    assert isinstance(book.apply(spend(5, command_id="1")), Entry)
    assert isinstance(book.apply(grant(9, command_id="2")), Entry)
    assert book.apply(spend(5, command_id="1")) is Verdict.DUPLICATE
    assert book.apply(grant(9, command_id="2")) is Verdict.DUPLICATE
    assert book.accounts["ann"] == Account(2, {"credits": 9})


@pytest.mark.parametrize(
    "other",
    [
        grant(8, command_id="1"),
        spend(9, command_id="1"),
        grant(9, "gold", command_id="1"),
        grant(9, command_id="1")._replace(occurred_at=1),
        grant(9, command_id="1")._replace(reason="x"),
        grant(9, command_id="1")._replace(source="x"),
        grant(9, command_id="1")._replace(metadata={"x": ""}),
    ],
)
def test_the_same_id_with_another_body_is_told_apart(other: Command) -> None:
    """Whatever field differs; the first outcome stands."""
    book = Book()
    book.apply(grant(9, command_id="1"))
    assert book.apply(other) is Verdict.COMMAND_ID_REUSED
    assert book.accounts["ann"] == Account(1, {"credits": 9})


def test_ids_are_unique_within_their_account_only() -> None:
    """Two services may number their commands alike for different accounts."""
    book = Book()
    assert isinstance(book.apply(Grant("1", "ann", "credits", 5)), Entry)
    assert isinstance(book.apply(Grant("1", "bob", "credits", 5)), Entry)


def test_the_clock_never_goes_back() -> None:
    """A record that was appended 'before' its forerunner is decided at the forerunner's time."""
    book = Book(clock_ms=100)
    for appended_at, shows in ((90, 100), (120, 120), (119, 120), (-1, 120), (2**63 - 1, 120), (121, 121)):
        book.advance(appended_at)
        assert book.clock_ms == shows


metadata = st.dictionaries(st.text("ab\0=,", max_size=2), st.text("ab\0=,", max_size=2), max_size=3)


@given(st.sampled_from([Grant, Spend]), metadata, metadata)
def test_bodies_differ_when_commands_do(kind: Any, one: dict[str, str], other: dict[str, str]) -> None:
    """Texts that could run into each other don't, for any metadata that a valid command can have."""
    first, second = kind("1", "ann", "c", 1, metadata=one), kind("1", "ann", "c", 1, metadata=other)
    if all(check(kind.__name__, command) is None for command in (first, second)):
        assert (body_of(first) == body_of(second)) == (one == other)


def test_bodies_ignore_the_order_of_metadata_and_fields_at_their_default() -> None:
    """What a map's order was on the wire says nothing."""
    one = Grant("1", "ann", "c", 1, metadata={"a": "1", "b": "2"})
    other = Grant("1", "ann", "c", 1, 0, "", "", {"b": "2", "a": "1"})
    assert body_of(one) == body_of(other)


def test_digests_of_metadata_stay_what_they_are() -> None:
    """They are stored, and compared with those of other releases: a change would make duplicates look reused."""
    assert body_of(Grant("1", "ann", "credits", 5)) == Body("grant", "credits", 5, 0, "", "", b"")
    full = Spend("1", "bob", "gold", 7, 8, "shop", "why\nnot", {"k": "v", "a": "ü"})
    assert body_of(full) == Body(
        "spend", "gold", 7, 8, "shop", "why\nnot", bytes.fromhex("be84540d7071a39224186ee5fe363628")
    )


VALID = {
    "command_id": "1",
    "account": "ann",
    "asset": "credits",
    "amount": 5,
    "occurred_at": 0,
    "source": "",
    "reason": "",
    "metadata": {},
}

# field | valid values | invalid values
LIMITS: list[tuple[str, Sequence[Any], Sequence[Any]]] = [
    (
        "command_id",
        ["x" * 64, "ü", "a b", "😀" * 64],
        ["", "x" * 65, "\0", "a\nb", " a", "a ", "\u00a0a", "a\x85", "\ud800"],
    ),
    ("account", ["x" * 128], ["", "x" * 129, "a\0b", "\t"]),
    ("asset", ["x" * 64], ["", "x" * 65, "\x7f"]),
    ("amount", [1, 2**53 - 1], [0, -1, 2**53, 2**63 - 1, -(2**63), True, 1.0, "1", None]),
    ("occurred_at", [0, 253_402_300_799_999], [-1, 253_402_300_800_000, 2**63 - 1, False]),
    ("source", ["", "x" * 128, "a\nb"], ["x" * 129, "a\0"]),
    ("reason", ["", "x" * 1024], ["x" * 1025, "\0", "\udfff"]),
    (
        "metadata",
        [{"k": ""}, {str(n): "" for n in range(32)}, {"k" * 64: "v" * 1024}],
        [
            {"": "v"},
            {str(n): "" for n in range(33)},
            {"k" * 65: ""},
            {"k": "v" * 1025},
            {"k": "\0"},
            {"a\0": ""},
            {"k": 1},
        ],
    ),
]


@pytest.mark.parametrize(("field", "good", "bad"), LIMITS)
def test_limits(field: str, good: Sequence[Any], bad: Sequence[Any]) -> None:
    """What is wrong without looking at state names the field."""
    for value in good:
        assert check("Grant", Grant(**{**VALID, field: value})) is None, value
    for value in bad:
        assert field in (check("Spend", Spend(**{**VALID, field: value})) or ""), value
    assert check("Void", []) == "unknown command"


@given(st.text())
def test_clean_texts_can_be_stored(text: str) -> None:
    """Every id and note that passes is UTF-8 without NUL, which is what PostgreSQL takes."""
    if is_id(text, 100) or is_note(text, 100):
        assert b"\0" not in text.encode()


# Few accounts, ids and amounts, so that duplicates, reuse and rejections are frequent.
commands = st.builds(
    lambda kind, command_id, account, asset, amount: kind(str(command_id), account, asset, amount),
    st.sampled_from([Grant, Spend]),
    st.integers(0, 30),
    st.sampled_from(["ann", "bob", "eve"]),
    st.sampled_from(["credits", "gold"]),
    st.sampled_from([1, 2, 3, 50, MAX_AMOUNT]),
)
histories = st.lists(commands, max_size=60)


def fold(history: Sequence[Command], book: Book | None = None) -> tuple[Book, list[Entry | Verdict]]:
    book = book or Book()
    return book, [book.apply(command) for command in history]


@given(histories)
def test_nothing_falls_below_zero_and_nothing_is_lost(history: list[Command]) -> None:
    """Balances are what accepted grants brought less what accepted spends took, and never negative, at every step."""
    book, results = fold(history)
    sums: dict[tuple[str, str], int] = {}
    versions: dict[str, int] = {}
    for entry in results:
        if isinstance(entry, Verdict):
            continue
        key = (entry.command.account, entry.command.asset)
        sign = 1 if isinstance(entry.command, Grant) else -1
        accepted = entry.outcome.rejection is None
        sums[key] = sums.get(key, 0) + (sign * entry.command.amount if accepted else 0)
        versions[key[0]] = versions.get(key[0], 0) + 1
        assert sums[key] == entry.outcome.balance >= 0
        assert versions[key[0]] == entry.outcome.version
        if not accepted:
            assert entry.command.amount > entry.outcome.balance
    assert sums == {(name, asset): n for name, state in book.accounts.items() for asset, n in state.available.items()}


@given(histories, st.lists(st.integers(0, 60)))
def test_any_split_into_chunks_gives_the_same_state_and_outcomes(history: list[Command], cuts: list[int]) -> None:
    """Each chunk starts with only what its own commands can touch, as the store loads it."""
    whole, expected = fold(history)
    accounts: dict[str, Account] = {}
    known: dict[tuple[str, str], Body] = {}
    got = []
    bounds = [0, *sorted({min(cut, len(history)) for cut in cuts}), len(history)]
    for start, end in itertools.pairwise(bounds):
        chunk = history[start:end]
        touched = {(command.account, command.command_id) for command in chunk}
        book, results = fold(
            chunk,
            Book(
                {name: accounts[name] for name, _ in touched if name in accounts},
                {key: known[key] for key in touched if key in known},
            ),
        )
        accounts |= book.accounts
        known |= book.known
        got += results
    assert (accounts, known, got) == (whole.accounts, whole.known, expected)


@settings(max_examples=200)
@given(histories, st.data())
def test_duplicates_in_any_later_order_change_nothing(history: list[Command], data: st.DataObject) -> None:
    """Redelivery of anything already in the log, shuffled, however often."""
    book, results = fold(history)
    before = dict(book.accounts)
    decided = [entry.command for entry in results if isinstance(entry, Entry)]
    again = data.draw(st.lists(st.sampled_from(decided), max_size=60)) if decided else []
    assert all(result is Verdict.DUPLICATE for result in fold(again, book)[1])
    assert book.accounts == before


@given(histories)
def test_accounts_do_not_touch_each_other(history: list[Command]) -> None:
    """One account's history decides its state, whatever happens in between."""
    whole, _ = fold(history)
    for name in ("ann", "bob", "eve"):
        alone, _ = fold([command for command in history if command.account == name])
        assert alone.accounts.get(name) == whole.accounts.get(name)


@given(histories)
def test_a_replay_is_a_loop_over_evolve(history: list[Command]) -> None:
    """What was decided is applied without choosing again."""
    book, results = fold(history)
    states: dict[str, Account] = {}
    for entry in results:
        if isinstance(entry, Entry):
            name = entry.command.account
            states[name] = evolve(states.get(name, Account()), entry.outcome)
    assert states == book.accounts
