"""The fold over many accounts: bodies, bounds and the clock, and properties that must hold for any history.

What each command does is tests/ledger/test_credits.py's.
"""

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creditfold.ledger import Command, CreditBook, CreditEntry, Grant, Spend, Verdict, decide_one
from creditfold.ledger.account import Account
from creditfold.ledger.folding import Body, Known, body_of
from creditfold.ledger.limits import MAX_AMOUNT, is_id, is_note
from creditfold.ledger.validity import check

pytestmark = pytest.mark.both_cores


def test_an_unknown_command_raises() -> None:
    """There is no silent default branch."""
    with pytest.raises(TypeError, match="SimpleNamespace"):
        decide_one(Account(), SimpleNamespace(asset="credits"), 0)


def test_the_clock_never_goes_back() -> None:
    """A record that was appended 'before' its forerunner is decided at the forerunner's time."""
    book = CreditBook(clock_ms=100)
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
    other = Grant("1", "ann", "c", 1, occurred_at=0, source="", reason="", metadata={"b": "2", "a": "1"})
    assert body_of(one) == body_of(other)


def test_digests_of_metadata_stay_what_they_are() -> None:
    """They are stored, and compared with those of other releases: a change would make duplicates look reused."""
    assert body_of(Grant("1", "ann", "credits", 5)) == Body("grant", "credits", 5, 0, "", "", b"")
    origin: dict[str, Any] = {"occurred_at": 8, "source": "shop", "reason": "why\nnot"}
    full = Spend("1", "bob", "gold", 7, **origin, metadata={"k": "v", "a": "ü"})
    assert body_of(full) == Body(
        "spend", "gold", 7, 8, "shop", "why\nnot", bytes.fromhex("be84540d7071a39224186ee5fe363628")
    )


def test_what_is_no_command_is_none() -> None:
    """Whatever it has."""
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


def fold(history: Sequence[Command], book: CreditBook | None = None) -> tuple[CreditBook, list[CreditEntry | Verdict]]:
    """Fold plain commands, each of which comes to one line or a verdict."""
    book = book or CreditBook()
    results = [book.apply(command) for command in history]
    return book, [result if isinstance(result, Verdict) else result.entries[0] for result in results]


def holdings(book: CreditBook) -> dict[tuple[str, str], int]:
    """What is available in each account of each asset, without those that have nothing."""
    found = {(name, asset): book.available(name, asset) for name in book.accounts for asset in ("credits", "gold")}
    return {place: amount for place, amount in found.items() if amount}


def pictures(accounts: dict[str, Account]) -> dict[str, Any]:
    """All that later commands can see of accounts."""
    return {
        name: (account.version, [(lot.id, lot.amount, lot.remaining, lot.spent) for lot in account.lots.values()])
        for name, account in accounts.items()
    }


@given(histories)
def test_nothing_falls_below_zero_and_nothing_is_lost(history: list[Command]) -> None:
    """Balances are what accepted grants brought less what accepted spends took, and never negative, at every step."""
    book, results = fold(history)
    sums: dict[tuple[str, str], int] = {}
    versions: dict[str, int] = {}
    for entry in results:
        if isinstance(entry, Verdict):
            continue
        key = (entry.account, entry.asset)
        sign = 1 if entry.kind == "grant" else -1
        accepted = entry.rejection is None
        sums[key] = sums.get(key, 0) + (sign * entry.amount if accepted else 0)
        versions[entry.account] = versions.get(entry.account, 0) + 1
        assert sums[key] == entry.balance.available >= 0
        assert versions[entry.account] == entry.version
        if not accepted:
            assert entry.amount > entry.balance.available
    assert {place: amount for place, amount in sums.items() if amount} == holdings(book)


@given(histories, st.lists(st.integers(0, 60)))
def test_any_split_into_chunks_gives_the_same_state_and_outcomes(history: list[Command], cuts: list[int]) -> None:
    """Each chunk starts with only what its own commands can touch, as the store loads it."""
    whole, expected = fold(history)
    accounts: dict[str, Account] = {}
    known: Known = {}
    got: list[CreditEntry | Verdict] = []
    bounds = [0, *sorted({min(cut, len(history)) for cut in cuts}), len(history)]
    for start, end in itertools.pairwise(bounds):
        chunk = history[start:end]
        touched = {(command.account, command.command_id) for command in chunk}
        book, results = fold(
            chunk,
            CreditBook(
                {name: accounts[name] for name, _ in touched if name in accounts},
                {key: known[key] for key in touched if key in known},
            ),
        )
        accounts |= book.accounts
        known |= book.known
        got += results
    assert (pictures(accounts), known, got) == (pictures(whole.accounts), whole.known, expected)
