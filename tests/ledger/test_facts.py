"""Facts make the account: whatever was decided, its facts applied to empty accounts come to the same state."""

from collections import Counter
from functools import cache
from typing import Any

import pytest

from creditfold.ledger import CreditBook, CreditEntry, Verdict
from creditfold.ledger.account import Account
from creditfold.ledger.apply import apply
from creditfold.ledger.commands import (
    CreateSchedule,
    Freeze,
    Grant,
    Hold,
    Parcel,
    Period,
    ReceiveTransfer,
    Release,
    SetCreditLimit,
    Spend,
    Terms,
    VoidGrant,
)
from creditfold.ledger.facts import PARTICULARS, Accepted, Bucket, CorruptStateError, Fact, FactKind, LotId, Move
from creditfold.ledger.facts_json import facts_as_json, facts_of_json
from creditfold.ledger.rows import Changes, take_changes
from creditfold.ledger.time import settle
from creditfold.processors.fold.chunk import fold, read_records
from creditfold.projections.store.results import ChunkResult
from helpers.credit_histories import HOUR_MS, history
from helpers.journal_replay import Line, order_of_spending, replay, rows

pytestmark = pytest.mark.both_cores

SEEDS = range(12)
YEAR_MS = 365 * 24 * HOUR_MS


@cache
def folded(seed: int) -> tuple[ChunkResult, list[Line], dict[str, list[Any]]]:
    """A history's fold, the lines of its journal as they are stored, and the rows of its accounts."""
    records = history(seed, 700)
    result = fold(read_records(records, 0, 1), CreditBook(), len(records))
    lines = []
    for offset, entry in result.journal:
        assert isinstance(entry, CreditEntry)
        text = facts_as_json(entry.facts, entry.asset)
        assert tuple(facts_of_json(text, entry.asset)) == entry.facts
        lines.append(Line(offset, entry.account, entry.version, entry.asset, text))
    return result, lines, rows(result.accounts)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_journal_s_facts_make_the_accounts(seed: int) -> None:
    """Lot by lot, and every other row; and what is spent next and what falls due next is the same, too."""
    result, lines, written = folded(seed)
    replayed = replay(lines)
    assert rows(replayed) == written
    assert order_of_spending(replayed) == order_of_spending(result.accounts)
    for name, account in result.accounts.items():
        later = result.clock_ms + YEAR_MS
        for one in (replayed[name], account):
            # What is made is numbered by its record; one that came to no fact may have been the last.
            one.begin(result.next_offset)
        assert settle(replayed[name], later) == settle(account, later)
    assert rows(replayed) == rows(result.accounts)


def test_those_histories_have_all_there_is() -> None:
    """Every kind of fact, particulars where they aren't usual, and rows in every table, or they would prove less."""
    kinds: Counter[str] = Counter()
    tables: Counter[str] = Counter()
    for seed in SEEDS:
        _, lines, written = folded(seed)
        tables += Counter({table: len(some) for table, some in written.items()})
        for fact in (fact for line in lines for fact in facts_of_json(line.facts, line.asset)):
            kinds[fact.kind] += 1
            kinds[f"{fact.kind} with particulars"] += bool(fact.particulars)
    # Transfers arrive in other partitions. Only there can a lot that isn't its command's first become active.
    assert {kind for kind in FactKind if not kinds[kind]} == {FactKind.ARRIVED, FactKind.REFUSED}
    assert {kind for kind in PARTICULARS if not kinds[f"{kind} with particulars"]} == {FactKind.ACTIVATED}
    assert {table for table in Changes._fields if not tables[table]} == {"changed_lots", "outlined"}


def test_arrivals_are_replayed() -> None:
    """Lots that are pending by the receiver's clock, which is another partition's, become active one by one."""
    terms = [Terms(effective_at=500), Terms(effective_at=400, scope="cafe"), Terms(effective_at=400), Terms()]
    parcels = tuple(Parcel("g", 3, each) for each in terms)
    book = CreditBook(clock_ms=100)
    outcomes = [
        book.apply(SetCreditLimit("l", "ann", "credits", 9), 1),
        book.apply(Spend("s", "ann", "credits", 4), 2),
        book.apply(ReceiveTransfer("~in", "ann", "credits", "bob", "t", parcels), 3),
        book.apply(Freeze("f", "ann", "all"), 4),
        book.apply(ReceiveTransfer("~again", "ann", "credits", "bob", "u", parcels), 5),
    ]
    lines = []
    for offset, outcome in enumerate(outcomes, start=1):
        assert isinstance(outcome, Accepted)
        lines += [(offset, entry) for entry in outcome.entries]
    book.advance(450)
    settled = book.tick(1, 6)
    assert not isinstance(settled, Verdict)
    lines += [(6, entry) for entry in settled]
    assert [fact.particulars for entry in settled for fact in entry.facts] == [(2,), (3,), ()]
    replayed = replay(
        Line(offset, entry.account, entry.version, entry.asset, facts_as_json(entry.facts, entry.asset))
        for offset, entry in lines
    )
    assert rows(replayed) == rows(book.accounts)
    assert order_of_spending(replayed) == order_of_spending(book.accounts)


def test_a_lot_of_which_all_is_held_expires_when_something_comes_back() -> None:
    """Until then time does nothing in it: its row waits for no instant, and it isn't written."""
    book = CreditBook(clock_ms=100)
    book.apply(Grant("g", "ann", "credits", 5, expires_at=200), 1)
    book.apply(Hold("h", "ann", "credits", 5, 300), 2)
    lot = book.accounts["ann"].lots[LotId("g", 1)]
    assert (lot.is_live, lot.next_at) == (True, None)
    book.advance(250)
    assert book.settle(["ann"], 3) == []
    assert book.accounts["ann"].changed[lot] == 2
    outcome = book.apply(Release("r", "ann", "h", 2), 4)
    assert isinstance(outcome, Accepted)
    assert [fact.kind for fact in outcome.facts] == [FactKind.RELEASED, FactKind.EXPIRED]
    assert (lot.is_lapsed, lot.expired, lot.held) == (True, 2, 3)


def test_voided_lots_of_which_all_is_held_are_named() -> None:
    """Nothing moves out of them, so their numbers say which they are."""
    book = CreditBook(clock_ms=100)
    schedule = CreateSchedule("d", "ann", "credits", 5, Period.DAYS, 1, expires_after_ms=10 * 24 * HOUR_MS)
    book.apply(schedule, 1)
    book.advance(2 * 24 * HOUR_MS + 1)
    book.apply(Hold("h", "ann", "credits", 7, 9 * 24 * HOUR_MS), 2)
    outcome = book.apply(VoidGrant("v", "ann", "d"), 3)
    assert isinstance(outcome, Accepted)
    (fact,) = outcome.facts
    assert (fact.particulars, [(move.lot.number, move.amount) for move in fact.moves if move.lot]) == (
        ((1,),),
        [(2, 3), (3, 5)],
    )
    assert all(lot.is_void for lot in book.accounts["ann"].lots.values())


G = LotId("g", 1)
GRANTED = Fact(FactKind.GRANTED, 1, "credits", "g", (Move(G, Bucket.ISSUED, Bucket.REMAINING, 5),), Terms())


def took(kind: FactKind, amount: int, source: Bucket, target: Bucket, lot: LotId | None = G, *more: Any) -> Fact:
    """A fact that moves an amount of a lot."""
    return Fact(kind, 2, "credits", "x", (Move(lot, source, target, amount),), particulars=more)


# a fact that doesn't fit a lot of 5 credits, and what is said of it
UNFIT = [
    (took(FactKind.SPENT, 6, Bucket.REMAINING, Bucket.SPENT), "6 are spent of lot"),
    (took(FactKind.HELD, 6, Bucket.REMAINING, Bucket.HELD, G, 9), "6 remaining are taken"),
    (took(FactKind.EXPIRED, 4, Bucket.REMAINING, Bucket.EXPIRED), "1 remain in lot"),
    (took(FactKind.VOIDED, 4, Bucket.REMAINING, Bucket.VOIDED), "1 remain in lot"),
    (took(FactKind.FORFEITED, 6, Bucket.REMAINING, Bucket.FORFEITED), "6 remaining are taken"),
    (took(FactKind.FORFEITED, 1, Bucket.ISSUED, Bucket.FORFEITED), "nothing of a lot is issued"),
    (took(FactKind.FORFEITED, 1, Bucket.HELD, Bucket.FORFEITED), "1 held are taken"),
    (took(FactKind.SPENT, 1, Bucket.REMAINING, Bucket.SPENT, LotId("other")), "there is no lot"),
    (took(FactKind.FORFEITED, 1, Bucket.REMAINING, Bucket.FORFEITED, None), "no lot is named"),
    (took(FactKind.REFUNDED, 1, Bucket.SPENT, Bucket.REMAINING), "1 spent are taken"),
    (Fact(FactKind.REFUNDED, 2, "credits", "x"), "there is no spend 'x'"),
    (took(FactKind.RELEASED, 1, Bucket.HELD, Bucket.REMAINING), "there is no hold 'x'"),
    (Fact(FactKind.COMPLETED, 2, "credits", "x"), "there is no transfer 'x'"),
    (Fact(FactKind.CANCELLED, 2, "credits", "x"), "there is no schedule 'x'"),
    (Fact(FactKind.ARRIVED, 2, "credits", "x", GRANTED.moves), "no lot is described"),
    (Fact(FactKind.ACTIVATED, 2, "credits", "x"), "there is no lot"),
]


@pytest.mark.parametrize(("fact", "said"), UNFIT)
def test_a_fact_that_does_not_fit_is_refused(fact: Fact, said: str) -> None:
    """Nothing is taken from where it isn't, nor of what there isn't."""
    account = Account()
    apply(account, [GRANTED])
    with pytest.raises(CorruptStateError, match=said):
        apply(account, [fact])


def test_more_than_a_spend_took_can_not_come_back() -> None:
    """Nor more of a debt be paid than is owed."""
    account = Account()
    owed = Move(None, Bucket.DEBT, Bucket.SPENT, 2)
    spent = Fact(FactKind.SPENT, 2, "credits", "s", (Move(G, Bucket.REMAINING, Bucket.SPENT, 3), owed))
    other = Fact(FactKind.SPENT, 2, "credits", "t", (Move(G, Bucket.REMAINING, Bucket.SPENT, 2),))
    apply(account, [GRANTED, spent, other])
    for move in (Move(G, Bucket.SPENT, Bucket.REMAINING, 4), Move(None, Bucket.SPENT, Bucket.DEBT, 3)):
        with pytest.raises(CorruptStateError, match=r"4 too many|3 of spend 's'|1 too many"):
            apply(account, [Fact(FactKind.REFUNDED, 3, "credits", "s", (move,))])


@pytest.mark.parametrize("part", ["amount", "remaining", "held", "spent", "expired", "voided", "transferred"])
def test_a_lot_whose_parts_do_not_add_up_is_never_written(part: str) -> None:
    """Whatever brought it about."""
    account = Account()
    apply(account, [GRANTED])
    lot = account.lots[G]
    setattr(lot, part, getattr(lot, part) + 1)
    with pytest.raises(CorruptStateError, match="don't make up its amount"):
        take_changes("ann", account, 0, Changes([], [], [], [], [], [], []))
