"""The rules of credits as tables: a history, then what it came to.

A history is commands and instants: a number moves the log's clock there, DELIVER brings transfers to their ends. The
clock begins at 100, so lots that end at 200 and holds until 150 lie ahead.
"""

import gc
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest

from creditfold.ledger.book import CreditBook
from creditfold.ledger.commands import (
    Batch,
    CancelSchedule,
    Capture,
    Close,
    Command,
    CreateSchedule,
    Freeze,
    FreezeScope,
    Grant,
    Hold,
    LotClass,
    Period,
    Refund,
    Release,
    SetCreditLimit,
    Spend,
    Step,
    Terms,
    Transfer,
    Unfreeze,
    VoidGrant,
)
from creditfold.ledger.facts import Accepted, Bucket, Fact, FactKind, LotId, Rejected
from creditfold.ledger.folding import Verdict
from creditfold.ledger.limits import MAX_AMOUNT, MAX_PARCELS
from creditfold.ledger.reasons import RejectionReason
from helpers.transfers import following_command

pytestmark = pytest.mark.both_cores

START = 100
DELIVER = "deliver"
ALL, SPENDING = FreezeScope.ALL, FreezeScope.SPENDING
PROMO, PAID = LotClass.PROMO, LotClass.PAID
R = RejectionReason

Item: TypeAlias = Command | int | str
Result: TypeAlias = Accepted | Rejected | Verdict


def grant(
    amount: int,
    command_id: str = "g",
    account: str = "ann",
    asset: str = "credits",
    *,
    starts: int = 0,
    ends: int = 0,
    **terms: Any,
) -> Grant:
    return Grant(command_id, account, asset, amount, effective_at=starts, expires_at=ends, **terms)


def spend(
    amount: int, command_id: str = "s", asset: str = "credits", *, use: str = "", partial: bool = False, at: int = 0
) -> Spend:
    return Spend(command_id, "ann", asset, amount, use=use, partial=partial, effective_at=at)


def hold(amount: int, deadline: int = 150, command_id: str = "h", asset: str = "credits", use: str = "") -> Hold:
    return Hold(command_id, "ann", asset, amount, deadline, use)


def capture(amount: int = 0, command_id: str = "c", hold_id: str = "h", final: bool = False) -> Capture:
    return Capture(command_id, "ann", hold_id, amount, final)


def release(amount: int = 0, command_id: str = "r", hold_id: str = "h") -> Release:
    return Release(command_id, "ann", hold_id, amount)


def refund(amount: int = 0, command_id: str = "f", spend_id: str = "s", reissue: bool = False, ends: int = 0) -> Refund:
    return Refund(command_id, "ann", spend_id, amount, reissue, ends)


def void(grant_id: str = "g", command_id: str = "v", number: int = 0) -> VoidGrant:
    return VoidGrant(command_id, "ann", grant_id, number)


def transfer(amount: int, command_id: str = "t", sender: str = "ann", to: str = "bob", use: str = "") -> Transfer:
    return Transfer(command_id, sender, "credits", amount, to, use)


def freeze(scope: FreezeScope, command_id: str = "z", account: str = "ann") -> Freeze:
    return Freeze(command_id, account, scope)


def unfreeze(command_id: str = "u", account: str = "ann") -> Unfreeze:
    return Unfreeze(command_id, account)


def close(command_id: str = "x", account: str = "ann", forfeit: bool = False) -> Close:
    return Close(command_id, account, forfeit)


def limit(amount: int, command_id: str = "l") -> SetCreditLimit:
    return SetCreditLimit(command_id, "ann", "credits", amount)


def batch(*steps: Step, command_id: str = "b") -> Batch:
    return Batch(command_id, "ann", steps)


def daily(amount: int, first_at: int, command_id: str = "d", **options: Any) -> CreateSchedule:
    return CreateSchedule(command_id, "ann", "credits", amount, Period.DAYS, first_at, **options)


def monthly(amount: int, first_at: int, command_id: str = "m", **options: Any) -> CreateSchedule:
    return CreateSchedule(command_id, "ann", "credits", amount, Period.MONTHS, first_at, **options)


def cancel(schedule_id: str = "d", command_id: str = "n") -> CancelSchedule:
    return CancelSchedule(command_id, "ann", schedule_id)


def day(text: str) -> int:
    """Milliseconds of the midnight (or other instant) that an ISO date names, in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


DAY = 86_400_000
#: 512 grants that leave room for 511 more credits: no command alone can bring an account near its limit.
FULL = [grant(MAX_AMOUNT, f"full{number}") for number in range(512)]


class Ledger:
    """A book that asserts that each lot's parts add up and are what the facts moved, and each balance to its lots."""

    def __init__(self, *history: Item) -> None:
        self.book = CreditBook()
        self.minutes = 0
        self.book.advance(START)
        self.results: list[Result] = []
        self._sent: list[tuple[Command, Accepted]] = []
        self._moved: Counter[tuple[str, LotId | None, str]] = Counter()
        self.do(*history)

    def do(self, *history: Item) -> Result | None:
        """Fold a history in which only the last command may fail; gives what came of it."""
        result: Result | None = None
        for item in history:
            assert result is None or isinstance(result, Accepted), (result, "before", item)
            if isinstance(item, int):
                self.book.advance(item)
            elif isinstance(item, str):
                self._deliver()
            else:
                result = self._apply(item)
        self._check()
        return result

    def facts(self, *history: Item) -> list[str]:
        """Fold a history; gives what its last command, and time before it, did."""
        result = self.do(*history)
        assert isinstance(result, Accepted), result
        return reported(result.settled + result.facts)

    def tick(self, clock_ms: int = 0) -> list[str]:
        """Let time pass for everybody; gives what it did to ann."""
        return self.tick_all(clock_ms).get("ann", [])

    def tick_all(self, clock_ms: int = 0) -> dict[str, list[str]]:
        """Let time pass for everybody; gives what it did, by account."""
        self.book.advance(clock_ms)
        self.minutes += 1
        entries = self.book.tick(self.minutes)
        assert not isinstance(entries, Verdict)
        settled: dict[str, list[Fact]] = {}
        for entry in entries:
            settled.setdefault(entry.account, []).extend(entry.facts)
        for account, facts in settled.items():
            self._count(account, facts)
        self._check()
        return {account: reported(facts) for account, facts in settled.items()}

    def state(self, account: str = "ann") -> str:
        """Where each lot's credits are, and what is owed: "g: 3 remaining, 7 spent; 2 debt"."""
        lots = self.book.accounts[account].lots if account in self.book.accounts else {}
        debt = self.book.balance(account, "credits").debt
        told_lots = [f"{name(lot_id)}: {parts(lot)}" for lot_id, lot in lots.items()]
        return "; ".join([*told_lots, *([f"{debt} debt"] if debt else [])]) or "nothing"

    def lots(self, account: str = "ann") -> list[Any]:
        """All lots that an account ever had."""
        return [*self.book.accounts[account].lots.values()] if account in self.book.accounts else []

    def terms(self, command_id: str) -> Any:
        """The terms of the lot that a command of ann's made."""
        return self.book.accounts["ann"].lots[LotId(command_id, 1)].terms

    def balance(self, account: str = "ann", asset: str = "credits") -> str:
        """What an account has, such as "3 available, 2 held"."""
        balance = self.book.balance(account, asset)
        return ", ".join(f"{amount} {word}" for word, amount in balance._asdict().items() if amount) or "nothing"

    def _apply(self, command: Command) -> Result:
        result = self.book.apply(command)
        self.results.append(result)
        if not isinstance(result, Verdict):
            self._count(command.account, result.settled)
        if isinstance(result, Accepted):
            self._count(command.account, result.facts)
        if isinstance(result, Accepted) and following_command(command, result):
            self._sent.append((command, result))
        return result

    def _deliver(self) -> None:
        while self._sent:
            following = following_command(*self._sent.pop(0))
            assert following is not None
            assert isinstance(self._apply(following), Accepted)

    def _count(self, account: str, facts: Iterable[Fact]) -> None:
        for move in (move for fact in facts for move in fact.moves):
            self._moved[account, move.lot, move.source] -= move.amount
            self._moved[account, move.lot, move.target] += move.amount

    def _check(self) -> None:
        for account_id, account in self.book.accounts.items():
            sums: dict[str, list[int]] = {}
            for lot_id, lot in account.lots.items():
                assert sum(getattr(lot, part) for part in PARTS) == lot.amount
                assert min(getattr(lot, part) for part in PARTS) >= 0
                assert {part: self._moved[account_id, lot_id, part] for part in MOVED} == {
                    part: getattr(lot, part) for part in MOVED
                }
                found = sums.setdefault(lot.asset, [0, 0, 0])
                found[1 if lot.is_pending else 0] += lot.remaining
                found[2] += lot.held
            for asset, found in sums.items():
                balance = self.book.balance(account_id, asset)
                assert [balance.available, balance.pending, balance.held] == found
                assert balance.total == sum(found) - balance.debt
            for scheduled in account.schedules.values():
                own = [lot for lot in account.lots.values() if lot.schedule is scheduled]
                assert scheduled.kept == sum(lot.remaining + lot.held for lot in own)


PARTS = ("remaining", "held", "spent", "expired", "voided", "forfeited", "reissued", "transferred")
#: Those that a lot has nothing of at first and that mean the same to every fact.
MOVED = (Bucket.REMAINING, Bucket.HELD, Bucket.EXPIRED, Bucket.VOIDED, Bucket.FORFEITED)


def name(lot_id: LotId) -> str:
    return lot_id.command_id if lot_id.number == 1 else f"{lot_id.command_id}/{lot_id.number}"


def parts(lot: Any) -> str:
    found = ", ".join(f"{getattr(lot, part)} {part}" for part in PARTS if getattr(lot, part))
    return found + " (pending)" if lot.is_pending and lot.remaining else found


def reported(facts: Iterable[Fact]) -> list[str]:
    """Facts such as "200 expired g 7": when, what, about what, and how much was moved."""
    return [
        " ".join([str(fact.at_ms), fact.kind, fact.ref, *(str(move.amount) for move in fact.moves)]).strip()
        for fact in facts
    ]


def facts_of(result: Result | None) -> tuple[Fact, ...]:
    assert isinstance(result, Accepted), result
    return result.facts


def paid(result: Result | None, *into: Bucket) -> list[str]:
    """What each lot gave to what the last command took, in order, such as ["g 5"]."""
    moves = [move for fact in facts_of(result) for move in fact.moves]
    return [f"{name(move.lot)} {move.amount}" for move in moves if move.lot and move.target in into]


def case(case_id: str, *row: Any) -> Any:
    return pytest.param(*row, id=case_id)


def table(text: str) -> list[Any]:
    """Cases of an id, a history and what it comes to, one a line."""
    rows = [line.strip().split(" | ") for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return [case(case_id, history.rstrip(), came_to) for case_id, history, came_to in rows]


def rejections(text: str) -> list[Any]:
    """Cases of a reason, a history and the commands that are rejected after it for that reason."""
    rows = [line.strip().split(" | ") for line in text.splitlines() if line.strip()]
    return [
        (history_of(history), item_of(command), RejectionReason(reason))
        for reason, history, commands in rows
        for command in commands.split(" / ")
    ]


ACTIONS = (grant, spend, hold, capture, release, refund, void, transfer, freeze, unfreeze, close, limit)
VERBS: Mapping[str, Callable[..., Command]] = {verb.__name__: verb for verb in (*ACTIONS, daily, cancel)}
FLAGS = ("partial", "final", "reissue", "forfeit")


def history_of(text: str) -> list[Item]:
    """A history from its text, such as "grant 5 ends=200, 200, refund reissue, batch grant 5 + spend 3"."""
    parts = [] if text == "nothing" else text.split(", ")
    return [item for part in parts for item in (FULL if part == "full" else [item_of(part)])]


def item_of(text: str) -> Any:
    """A command or an instant. Words behind the verb are its values in order, then name=value; a flag stands alone."""
    verb, *words = text.split()
    if verb[0].isdigit() or verb == DELIVER:
        return value_of(verb)
    if verb == "batch":
        return batch(*map(item_of, " ".join(words).split(" + ")))
    named = {name: value_of(value) for name, is_named, value in (word.partition("=") for word in words) if is_named}
    flags = {word: True for word in words if word in FLAGS}
    return VERBS[verb](*(value_of(word) for word in words if "=" not in word and word not in FLAGS), **named, **flags)


def value_of(word: str) -> Any:
    """A number, a name, or so many days and milliseconds, such as 3d+7."""
    if days := re.fullmatch(r"(\d+)d(?:\+(\d+))?", word):
        return int(days[1]) * DAY + int(days[2] or 0)
    return int(word) if word.isdigit() else word


# reason, in the order in which they are looked for | history | commands
REJECTIONS = [
    *rejections("""
        account_closed | close | grant 1 / spend 1 / spend 1 at=101 / hold 1 / hold 1 deadline=100 / capture / release
        account_closed | grant 1, spend 1, close | refund / void
        account_closed | close | transfer 1 / freeze all / unfreeze / close x2 / limit 5 / daily 1 100 / cancel / \
            batch grant 1
        account_closed | freeze spending, close | spend 1
        account_frozen | grant 5, freeze spending | spend 1 / spend 9 partial / spend 1 at=101 / hold 1 / \
            hold 1 deadline=100 / transfer 1 / batch spend 1
        account_frozen | freeze all | grant 1
        account_frozen | grant 5, freeze all | spend 1 / hold 1
        account_frozen | grant 5, hold 5, freeze all | capture
        account_frozen | freeze all | capture
        account_frozen | grant 5, spend 5, freeze all | refund
        account_frozen | grant 5, freeze all | transfer 1
        account_frozen | freeze all | close / daily 1 100 / cancel
        account_frozen | grant 5, freeze spending, freeze all z2 | grant 1 g2
        account_frozen | grant 5, freeze all, freeze spending z2 | spend 1
        hold_not_found | nothing | capture / release
        hold_not_found | grant 5, spend 5 h | capture
        hold_not_found | grant 5, hold 5 command_id=h | capture hold_id=H
        spend_not_found | nothing | refund
        spend_not_found | grant 5 | refund spend_id=g
        spend_not_found | grant 5, hold 5 | refund spend_id=h
        spend_not_found | grant 5, hold 5, capture | refund spend_id=h
        spend_not_found | grant 5, hold 5, release | refund spend_id=r
        grant_not_found | nothing | void
        grant_not_found | grant 5 | void number=2
        grant_not_found | grant 5, spend 5 | void s
        grant_not_found | grant 5, spend 5, refund | void f
        schedule_not_found | nothing | cancel
        schedule_not_found | grant 5 d | cancel d
        hold_lapsed | grant 5, hold 5, 151 | capture
        hold_lapsed | grant 5, hold 5, 150 | capture / capture 6 / release
        hold_lapsed | grant 5, hold 5, capture 2, 150 | capture 3 c2
        hold_closed | grant 5, hold 5, capture | capture 1 c2
        hold_closed | grant 5, hold 5, capture 2, capture 3 c2 | capture command_id=c3
        hold_closed | grant 5, hold 5, capture 2 final | capture command_id=c2 / release
        hold_closed | grant 5, hold 5, release | capture 9
        hold_closed | grant 5, hold 5, capture 2, release | release command_id=r2
        account_not_frozen | nothing | unfreeze
        account_not_frozen | freeze all, unfreeze | unfreeze u2
        account_not_frozen | freeze all, freeze spending z2, unfreeze | unfreeze u2
        nothing_to_void | grant 5, spend 5 | void
        nothing_to_void | grant 5, void | void command_id=v2
        nothing_to_void | grant 5 ends=200, 200 | void
        nothing_to_void | grant 5, hold 5, capture | void
        nothing_to_void | grant 5, transfer 5 | void
        nothing_to_void | grant 5, transfer 5, deliver | void
        nothing_to_void | limit 9, spend 9, grant 5 | void
        holds_open | grant 5, hold 5 | close / close forfeit
        holds_open | grant 5, hold 5, capture 4 | close forfeit
        holds_open | grant 5 asset=gold, hold 5 asset=gold | close
        holds_open | grant 5, hold 5, limit 9, spend 9 | close
        debt_open | limit 9, spend 9 | close / close forfeit
        debt_open | limit 9, spend 9, grant 9 scope=cafe | close
        debt_open | grant 5, transfer 5, limit 9, spend 9 | close
        transfer_in_transit | grant 5, transfer 5 | close
        transfer_in_transit | grant 5, transfer 3 | close
        transfer_in_transit | grant 5, transfer 5 | close forfeit
        balance_not_zero | grant 5 | close
        balance_not_zero | grant 5 starts=150 | close
        balance_not_zero | grant 5 asset=gold | close
        balance_not_zero | grant 5, spend 4 | close
        effective_in_future | grant 5 | spend 5 at=101
        effective_in_future | nothing | spend 5 at=101
        deadline_passed | grant 5 | hold 5 deadline=100 / hold 5 deadline=99
        deadline_passed | nothing | hold 5 deadline=100
        exceeds_hold | grant 9, hold 5 | capture 6
        exceeds_hold | grant 9, hold 5, capture 2 | capture 4 c2 / capture 4 c2 final
        exceeds_hold | grant 9, hold 5 | release 6
        exceeds_hold | grant 9, hold 5, release 2 | capture 4
        exceeds_refundable | grant 9, spend 5 | refund 6
        exceeds_refundable | grant 9, spend 5, refund | refund command_id=f2 / refund 1 f2
        exceeds_refundable | grant 9, spend 5, refund 3, refund 1 f2 | refund 2 f3
        exceeds_refundable | grant 9, hold 5, capture 2, capture 3 c2 | refund 3 spend_id=c
        exceeds_refundable | grant 3, spend 9 partial | refund 4
        insufficient_credits | nothing | spend 1
        insufficient_credits | grant 5 | spend 6
        insufficient_credits | grant 5 asset=gold | spend 1
        insufficient_credits | grant 5 account=bob | spend 1
        insufficient_credits | grant 5, hold 5 | spend 1
        insufficient_credits | grant 5 starts=150, 149 | spend 1
        insufficient_credits | grant 5 ends=200, 200 | spend 1
        insufficient_credits | grant 5, void | spend 1
        insufficient_credits | grant 5 scope=cafe | spend 1 / spend 1 use=shop
        insufficient_credits | nothing | spend 1 partial
        insufficient_credits | limit 9 | spend 1 partial
        insufficient_credits | limit 9, grant 5 | spend 15
        insufficient_credits | limit 9, spend 5 | spend 5 s2
        insufficient_credits | limit 9, spend 5 asset=credits | spend 1 s2 asset=gold
        insufficient_credits | grant 5 | spend 5 at=99
        insufficient_credits | grant 5, 120, grant 5 g2 | spend 6 at=110
        insufficient_credits | grant 5 ends=200, 220, grant 5 g2 | spend 5 at=150
        insufficient_credits | grant 5, hold 5, 120 | spend 5 at=110
        insufficient_credits | grant 5, spend 5 s0, 120 | spend 5 at=110
        insufficient_credits | grant 5 | hold 6
        insufficient_credits | limit 9 | hold 1
        insufficient_credits | grant 5 scope=cafe | hold 1 use=shop
        insufficient_credits | grant 5 | transfer 6
        insufficient_credits | limit 9 | transfer 1
        insufficient_credits | grant 5 scope=cafe | transfer 1
        balance_limit_exceeded | full | grant 512
        balance_limit_exceeded | full, grant 511 | grant 1 g2
        balance_limit_exceeded | full | grant 512 starts=150
        balance_limit_exceeded | full, grant 511 starts=150 | grant 1 g2
        balance_limit_exceeded | full, hold 9 | grant 512
        balance_limit_exceeded | full, grant 511, spend 9, grant 9 g2 | refund
    """),
    ([grant(5), hold(5)], Capture("c", "bob", "h"), R.HOLD_NOT_FOUND),
    ([grant(5), spend(5)], Refund("f", "bob", "s"), R.SPEND_NOT_FOUND),
    ([grant(5)], VoidGrant("v", "bob", "g"), R.GRANT_NOT_FOUND),
    ([daily(1, 100)], CancelSchedule("n", "bob", "d"), R.SCHEDULE_NOT_FOUND),
]


@pytest.mark.parametrize(("history", "command", "reason"), REJECTIONS)
def test_rejections(history: list[Item], command: Command, reason: RejectionReason) -> None:
    """The first reason that applies is reported, and nothing but time changes the account."""
    ledger = Ledger(*history)
    # What time did isn't the command's doing.
    ledger.tick()
    before = (ledger.state(), ledger.balance(asset="gold"))
    result = ledger.do(command)
    assert isinstance(result, Rejected)
    assert result.reason is reason
    assert result.step is None or isinstance(command, Batch)
    assert (ledger.state(), ledger.balance(asset="gold")) == before
    assert ledger.do(command) is Verdict.DUPLICATE


def test_every_reason_is_reached() -> None:
    """A reason without a case is a gap in the table, and the table keeps the enum's order."""
    assert list(dict.fromkeys(reason for *_, reason in REJECTIONS)) == list(RejectionReason)


# id | history | where the credits of each lot are, and what is owed
STATES = table("""
    # Lots and their windows.
    grant | grant 5 | g: 5 remaining
    two-grants | grant 5, grant 2 g2 | g: 5 remaining; g2: 2 remaining
    pending | grant 5 starts=150 | g: 5 remaining (pending)
    pending-a-moment-before | grant 5 starts=150, 149 | g: 5 remaining (pending)
    active-at-its-instant | grant 5 starts=150, 150 | g: 5 remaining
    spent-at-its-first-instant | grant 5 starts=150, 150, spend 5 | g: 5 spent
    alive-a-moment-before | grant 5 ends=200, 199 | g: 5 remaining
    spent-at-its-last-instant | grant 5 ends=200, 199, spend 5 | g: 5 spent
    expired-at-its-instant | grant 5 ends=200, 200 | g: 5 expired
    spent-then-expired | grant 5 ends=200, spend 2, 200 | g: 2 spent, 3 expired
    backdated-grant-alive | grant 5 starts=50 ends=200 | g: 5 remaining
    backdated-grant-expired | grant 5 starts=50 ends=90 | g: 5 expired
    backdated-grant-just-expired | grant 5 starts=50 ends=100 | g: 5 expired
    void-of-a-pending-lot | grant 5 starts=150, void | g: 5 voided
    # Spends.
    spend-over-two-lots | grant 5, grant 5 g2, spend 7 | g: 5 spent; g2: 3 remaining, 2 spent
    spend-in-part | grant 5, spend 9 partial | g: 5 spent
    spend-in-part-of-enough | grant 5, spend 3 partial | g: 2 remaining, 3 spent
    spend-in-part-makes-no-debt | limit 9, grant 5, spend 9 partial | g: 5 spent
    spend-in-part-of-a-use | grant 5, grant 2 g2 scope=cafe, spend 9 use=cafe partial | g: 5 spent; g2: 2 spent
    spend-dated-now | grant 5, spend 5 at=100 | g: 5 spent
    backdated-spend | grant 5, 120, spend 5 at=110 | g: 5 spent
    backdated-spend-at-the-grant | grant 5, 120, spend 5 at=100 | g: 5 spent
    backdated-spend-of-a-backdated-grant | grant 5 starts=50, spend 5 at=50 | g: 5 spent
    backdated-spend-leaves-later-lots | grant 5, 120, grant 5 g2 priority=1, spend 5 at=110 \
        | g: 5 spent; g2: 5 remaining
    backdated-spend-in-part | grant 5, 120, grant 5 g2, spend 9 at=110 partial | g: 5 spent; g2: 5 remaining
    # Holds.
    hold | grant 5, hold 3 | g: 2 remaining, 3 held
    hold-lapses | grant 5, hold 3, 150 | g: 5 remaining
    hold-a-moment-before-its-deadline | grant 5, hold 3, 149 | g: 2 remaining, 3 held
    capture-a-moment-before-the-deadline | grant 5, hold 3, 149, capture | g: 2 remaining, 3 spent
    expiry-during-a-hold | grant 5 ends=200, hold 3 300, 200 | g: 3 held, 2 expired
    capture-after-the-lot-lapsed | grant 5 ends=200, hold 3 300, 250, capture | g: 3 spent, 2 expired
    part-captured-after-the-lot-lapsed | grant 5 ends=200, hold 3 300, 250, capture 1 | g: 2 held, 1 spent, 2 expired
    release-after-the-lot-lapsed | grant 5 ends=200, hold 3 300, 250, release | g: 5 expired
    final-capture-after-the-lot-lapsed | grant 5 ends=200, hold 3 300, 250, capture 1 final | g: 1 spent, 4 expired
    lapse-after-the-lot-lapsed | grant 5 ends=200, hold 3 300, 300 | g: 5 expired
    lapse-when-the-lot-lapses | grant 5 ends=200, hold 3 200, 200 | g: 5 expired
    partial-captures | grant 5, hold 5, capture 1, capture 2 c2 | g: 2 held, 3 spent
    partial-captures-then-release | grant 5, hold 5, capture 1, capture 2 c2, release | g: 2 remaining, 3 spent
    partial-capture-then-lapse | grant 5, hold 5, capture 1, 150 | g: 4 remaining, 1 spent
    partial-capture-then-the-rest | grant 5, hold 5, capture 1, capture 0 c2 | g: 5 spent
    final-capture-releases-the-rest | grant 5, hold 5, capture 2 final | g: 3 remaining, 2 spent
    final-capture-of-all | grant 5, hold 5, capture final | g: 5 spent
    capture-takes-the-start | grant 3, grant 4 g2, hold 7, capture 4 | g: 3 spent; g2: 3 held, 1 spent
    release-takes-the-end | grant 3, grant 4 g2, hold 7, release 5 | g: 1 remaining, 2 held; g2: 4 remaining
    release-then-capture | grant 3, grant 4 g2, hold 7, release 2, capture | g: 3 spent; g2: 2 remaining, 2 spent
    capture-then-release-an-amount | grant 3, grant 4 g2, hold 7, capture 2, release 2 \
        | g: 1 held, 2 spent; g2: 2 remaining, 2 held
    final-capture-releases-over-lots | grant 3, grant 4 g2, hold 7, capture 1 final \
        | g: 2 remaining, 1 spent; g2: 4 remaining
    # Refunds.
    refund | grant 5, spend 3, refund | g: 5 remaining
    refund-in-parts | grant 5, spend 5, refund 2, refund 3 f2 | g: 5 remaining
    refund-of-the-rest | grant 5, spend 5, refund 2, refund 0 f2 | g: 5 remaining
    refund-in-reverse | grant 3, grant 4 g2, spend 7, refund 5 | g: 1 remaining, 2 spent; g2: 4 remaining
    refund-of-a-capture | grant 5, hold 5, capture 2, refund spend_id=c | g: 2 remaining, 3 held
    refund-of-one-of-two-captures | grant 3, grant 4 g2, hold 7, capture 3, capture 4 c2, refund spend_id=c2 \
        | g: 3 spent; g2: 4 remaining
    refund-after-the-hold-lapsed | grant 5, hold 5, capture 2, 150, refund spend_id=c | g: 5 remaining
    refund-of-a-spend-in-part | grant 5, spend 9 partial, refund | g: 5 remaining
    refund-of-a-backdated-spend | grant 5, 120, spend 5 at=110, refund | g: 5 remaining
    refund-after-expiry | grant 5 ends=200, spend 5, 200, refund | g: 5 expired
    refund-before-expiry | grant 5 ends=200, spend 5, 199, refund | g: 5 remaining
    reissue | grant 5 ends=200, spend 5, 200, refund reissue | g: 5 reissued; f: 5 remaining
    reissue-of-a-part | grant 5 ends=200, spend 5, 200, refund 2 reissue | g: 3 spent, 2 reissued; f: 2 remaining
    reissue-goes-home-to-a-living-lot | grant 5, spend 5, refund reissue | g: 5 remaining
    reissue-of-one-of-two-lots | grant 3 ends=200, grant 4 g2, spend 7, 200, refund reissue \
        | g: 3 reissued; g2: 4 remaining; f: 3 remaining
    reissue-makes-a-lot-for-each | grant 3 ends=200, grant 4 g2 ends=210, spend 7, 250, refund reissue \
        | g: 3 reissued; g2: 4 reissued; f: 4 remaining; f/2: 3 remaining
    reissued-lots-expire | grant 5 ends=200, spend 5, 200, refund reissue ends=300, 300 | g: 5 reissued; f: 5 expired
    reissued-lots-can-be-spent | grant 5 ends=200, spend 5, 200, refund reissue, spend 2 s2 \
        | g: 5 reissued; f: 3 remaining, 2 spent
    reissue-of-a-voided-lot | grant 5, spend 3, void, refund reissue | g: 5 voided
    reissue-of-a-voided-lot-that-lapsed-too | grant 5 ends=200, spend 3, void, 200, refund reissue | g: 5 voided
    refund-of-a-capture-into-a-lapsed-lot | grant 5 ends=140, hold 5, 145, capture 2, refund spend_id=c \
        | g: 3 held, 2 expired
    reissue-of-a-capture | grant 5 ends=140, hold 5, 145, capture 2, refund spend_id=c reissue \
        | g: 3 held, 2 reissued; f: 2 remaining
    reissue-in-parts | grant 5 ends=200, spend 5, 200, refund 2 reissue, refund 3 f2 reissue \
        | g: 5 reissued; f: 2 remaining; f2: 3 remaining
    reissue-of-a-reissue | grant 5 ends=200, spend 5, 200, refund reissue ends=300, \
        spend 5 s2, 300, refund 4 f2 s2 reissue | g: 5 reissued; f: 1 spent, 4 reissued; f2: 4 remaining
    # Voids.
    void | grant 5, void | g: 5 voided
    void-of-a-partly-spent-grant | grant 5, spend 2, void | g: 2 spent, 3 voided
    void-of-a-partly-spent-and-held-grant | grant 9, spend 2, hold 3, void | g: 3 held, 2 spent, 4 voided
    void-then-release | grant 9, spend 2, hold 3, void, release | g: 2 spent, 7 voided
    void-then-release-of-an-amount | grant 9, spend 2, hold 3, void, release 1 | g: 2 held, 2 spent, 5 voided
    void-then-lapse | grant 9, spend 2, hold 3, void, 150 | g: 2 spent, 7 voided
    void-then-capture | grant 9, spend 2, hold 3, void, capture | g: 5 spent, 4 voided
    void-then-final-capture | grant 9, hold 3, void, capture 1 final | g: 1 spent, 8 voided
    void-of-what-is-held-alone | grant 3, hold 3, void, release | g: 3 voided
    void-of-a-lapsed-lot-that-is-held | grant 3 ends=200, hold 3 300, 200, void, release | g: 3 voided
    void-while-a-refund-is-to-come | grant 5, spend 3, void, refund | g: 5 voided
    void-while-half-a-refund-is-to-come | grant 5, spend 3, refund 1, void, refund 0 f2 | g: 5 voided
    refund-into-a-voided-lot-that-lapsed-too | grant 5 ends=200, spend 3, void, 200, refund | g: 5 voided
    refund-of-a-capture-into-a-voided-lot | grant 5, hold 5, void, capture 2, refund spend_id=c | g: 3 held, 2 voided
    void-reaches-one-grant | grant 5, grant 4 g2, void | g: 5 voided; g2: 4 remaining
    void-by-number | grant 5, void number=1 | g: 5 voided
    void-of-a-reissue | grant 5 ends=200, spend 5, 200, refund reissue, void f | g: 5 reissued; f: 5 voided
    void-of-one-reissued-lot | grant 3 ends=200, grant 4 g2 ends=210, spend 7, 250, refund reissue, void f number=2 \
        | g: 3 reissued; g2: 4 reissued; f: 4 remaining; f/2: 3 voided
    void-does-not-reach-the-reissued-lot | grant 5 ends=200, hold 2 300, spend 3, 200, refund reissue, void \
        | g: 2 held, 3 reissued; f: 3 remaining
    void-does-not-reach-what-was-sent | grant 5, transfer 3, deliver, void | g: 2 voided, 3 transferred
    # Debt.
    debt | limit 9, spend 9 | 9 debt
    debt-after-all-lots | limit 9, grant 5, spend 12 | g: 5 spent; 7 debt
    debt-after-all-lots-of-the-use | limit 9, grant 5, grant 4 g2 scope=cafe, spend 12 \
        | g: 5 spent; g2: 4 remaining; 7 debt
    repaid-by-a-grant | limit 9, spend 8, grant 5 | g: 5 spent; 3 debt
    repaid-by-a-larger-grant | limit 9, spend 8, grant 10 | g: 2 remaining, 8 spent
    repaid-by-an-activation | limit 9, grant 5 starts=150, spend 8, 150 | g: 5 spent; 3 debt
    not-repaid-before-the-activation | limit 9, grant 5 starts=150, spend 8, 149 | g: 5 remaining (pending); 8 debt
    repaid-by-a-release | limit 9, grant 5, hold 5, spend 8, release 2 | g: 3 held, 2 spent; 6 debt
    repaid-by-a-final-capture | limit 9, grant 5, hold 5, spend 8, capture 1 final | g: 5 spent; 4 debt
    repaid-by-a-lapse | limit 9, grant 5, hold 5, spend 8, 150 | g: 5 spent; 3 debt
    not-repaid-by-a-lapse-into-a-dead-lot | limit 9, grant 5 ends=140, hold 5, spend 8, 150 | g: 5 expired; 8 debt
    repaid-by-a-refund | limit 9, grant 5, spend 5 s0, spend 8, refund 4 spend_id=s0 | g: 5 spent; 4 debt
    repaid-by-a-reissue | limit 9, grant 5 ends=200, spend 5 s0, spend 8, 200, refund 4 spend_id=s0 reissue \
        | g: 1 spent, 4 reissued; f: 4 spent; 4 debt
    repaid-by-a-schedule | limit 9, spend 8, daily 5 150, 150 | d: 5 spent; 3 debt
    scoped-credits-do-not-repay | limit 9, spend 8, grant 5 scope=cafe | g: 5 remaining; 8 debt
    other-assets-do-not-repay | limit 9, spend 8, grant 5 asset=gold | g: 5 remaining; 8 debt
    a-grant-in-the-past-does-not-repay | limit 9, spend 8, grant 5 starts=50 ends=90 | g: 5 expired; 8 debt
    refund-forgives-debt-first | limit 9, grant 5, spend 12, grant 4 g2, refund 2 | g: 5 spent; g2: 4 spent; 1 debt
    refund-then-undoes-what-repaid | limit 9, grant 5, spend 12, grant 4 g2, refund 5 \
        | g: 5 spent; g2: 2 remaining, 2 spent
    refund-then-undoes-the-first-slices | limit 9, grant 5, spend 12, grant 4 g2, refund 8 \
        | g: 1 remaining, 4 spent; g2: 4 remaining
    refund-of-a-debt-as-a-whole | limit 9, grant 5, spend 12, grant 4 g2, refund | g: 5 remaining; g2: 4 remaining
    limit-lowered-below-the-debt | limit 9, spend 8, limit 2 l2 | 8 debt
    room-again-under-a-lowered-limit | limit 9, spend 8, limit 5 l2, grant 4, spend 1 s2 | g: 4 spent; 5 debt
    refund-through-a-debt-in-parts | limit 9, grant 5, spend 12, grant 4 g2, refund 2, refund 3 f2, refund 3 f3 \
        | g: 1 remaining, 4 spent; g2: 4 remaining
    refund-of-what-repaid-and-expired | limit 9, spend 8, grant 5 ends=200, 200, refund 6 | g: 2 spent, 3 expired
    reissue-of-what-repaid-and-expired | limit 9, spend 8, grant 5 ends=200, 200, refund 6 reissue \
        | g: 2 spent, 3 reissued; f: 3 remaining
    void-of-what-repaid | limit 9, spend 8, grant 9, void | g: 8 spent, 1 voided
    refund-of-what-repaid-into-a-voided-lot | limit 9, spend 8, grant 9, void, refund 3 | g: 5 spent, 4 voided
    scoped-credits-that-come-back-do-not-repay | limit 9, grant 5 scope=cafe, hold 5 use=cafe, spend 8, release \
        | g: 5 remaining; 8 debt
    # Freezing. Holds taken before live on, and time goes on.
    grant-while-spending-is-frozen | freeze spending, grant 5 | g: 5 remaining
    refund-while-spending-is-frozen | grant 5, spend 5, freeze spending, refund | g: 5 remaining
    capture-while-spending-is-frozen | grant 5, hold 5, freeze spending, capture | g: 5 spent
    release-while-spending-is-frozen | grant 5, hold 5, freeze spending, release | g: 5 remaining
    void-while-spending-is-frozen | grant 5, freeze spending, void | g: 5 voided
    close-while-spending-is-frozen | grant 5, freeze spending, close forfeit | g: 5 forfeited
    schedule-while-spending-is-frozen | freeze spending, daily 5 150, 150 | d: 5 remaining
    release-while-all-is-frozen | grant 5, hold 5, freeze all, release | g: 5 remaining
    void-while-all-is-frozen | grant 5, freeze all, void | g: 5 voided
    limit-while-all-is-frozen | freeze all, limit 5, unfreeze, spend 5 | 5 debt
    expiry-while-all-is-frozen | grant 5 ends=200, freeze all, 200 | g: 5 expired
    lapse-while-all-is-frozen | grant 5, hold 5, freeze all, 150 | g: 5 remaining
    spend-after-unfreeze | grant 5, freeze all, unfreeze, spend 5 | g: 5 spent
    second-freeze-replaces-the-first | freeze all, freeze spending z2, grant 5 | g: 5 remaining
    one-unfreeze-ends-two-freezes | grant 5, freeze all, freeze spending z2, unfreeze, spend 5 | g: 5 spent
    # Closing.
    close-an-empty-account | grant 5, spend 5, close | g: 5 spent
    close-after-a-transfer-arrived | grant 5, transfer 5, deliver, close | g: 5 transferred
    close-after-the-hold-lapsed | grant 5 ends=150, hold 5, 150, close | g: 5 expired
    close-and-forfeit | grant 5, spend 2, close forfeit | g: 2 spent, 3 forfeited
    close-and-forfeit-pending | grant 5 starts=150, close forfeit | g: 5 forfeited
    close-and-forfeit-scoped | grant 5, grant 4 g2 scope=cafe, close forfeit | g: 5 forfeited; g2: 4 forfeited
    close-and-forfeit-nothing | close forfeit | nothing
    close-and-forfeit-all-assets | grant 5, grant 4 g2 asset=gold, close forfeit | g: 5 forfeited; g2: 4 forfeited
    forfeited-lots-stay-so | grant 5 ends=200, close forfeit, 200 | g: 5 forfeited
    a-closed-account-gets-nothing-from-its-schedules | daily 5 150, close, 150 | nothing
    # Transfers, at the sender.
    transfer-on-its-way | grant 5, transfer 3 | g: 2 remaining, 3 transferred
    transfer-arrived | grant 5, transfer 3, deliver | g: 2 remaining, 3 transferred
    transfer-in-the-order-of-spending | grant 5, grant 3 g2 priority=1, transfer 4, deliver \
        | g: 4 remaining, 1 transferred; g2: 3 transferred
    transfer-of-a-use | grant 5, grant 3 g2 scope=cafe, transfer 4 use=cafe, deliver \
        | g: 4 remaining, 1 transferred; g2: 3 transferred
    transfer-without-a-use-leaves-scoped-lots | grant 5, grant 3 g2 scope=cafe, transfer 4, deliver \
        | g: 1 remaining, 4 transferred; g2: 3 remaining
    transfer-to-a-closed-account | close account=bob, grant 5, transfer 3, deliver | g: 5 remaining
    transfer-to-a-frozen-account | freeze all account=bob, grant 5, transfer 3, deliver | g: 5 remaining
    transfer-to-a-spending-frozen-account | freeze spending account=bob, grant 5, transfer 3, deliver \
        | g: 2 remaining, 3 transferred
    returned-to-each-lot | close account=bob, grant 3, grant 4 g2, transfer 7, deliver | g: 3 remaining; g2: 4 remaining
    returned-to-a-lapsed-lot | close account=bob, grant 5 ends=200, transfer 3, 200, deliver | g: 5 expired
    returned-to-a-voided-lot | close account=bob, grant 5, transfer 3, void, deliver | g: 5 voided
    returned-to-a-frozen-sender | close account=bob, grant 5, transfer 3, freeze all, deliver | g: 5 remaining
    returned-credits-repay | close account=bob, limit 9, grant 5, transfer 5, spend 8, deliver | g: 5 spent; 3 debt
    returned-and-sent-again | close account=bob, grant 5, transfer 3, deliver, transfer 5 t2 to=eve, deliver \
        | g: 5 transferred
    one-of-two-returned | close account=bob, grant 9, transfer 3, transfer 2 t2 to=eve, deliver \
        | g: 7 remaining, 2 transferred
    close-after-a-transfer-came-back | close account=bob, grant 5, transfer 5, deliver, close forfeit | g: 5 forfeited
    # Batches.
    batch | batch grant 5 + grant 4 g2 + spend 7 | g: 5 spent; g2: 2 remaining, 2 spent
    batch-spends-what-it-granted | batch grant 5 + spend 5 | g: 5 spent
    batch-captures-what-it-held | batch grant 5 + hold 5 + capture 2 | g: 3 held, 2 spent
    batch-releases-what-it-held | batch grant 5 + hold 5 + release 2 | g: 2 remaining, 3 held
    batch-refunds-what-it-spent | batch grant 5 + spend 5 + refund 2 | g: 2 remaining, 3 spent
    batch-voids-what-it-granted | batch grant 5 + void | g: 5 voided
    batch-uses-what-was-before | grant 5, hold 2, spend 3, batch capture + refund | g: 3 remaining, 2 spent
    # Assets.
    assets-do-not-mix | grant 5, grant 4 g2 asset=gold, spend 4 asset=gold | g: 5 remaining; g2: 4 spent
    # Balances.
    all-at-once | limit 9, grant 9, hold 3, grant 4 g2 starts=150, spend 8 \
        | g: 3 held, 6 spent; g2: 4 remaining (pending); 2 debt
""")


@pytest.mark.parametrize(("history", "state"), STATES)
def test_states(history: str, state: str) -> None:
    """Every credit of every lot is somewhere; that balances follow from it is checked wherever a ledger is used."""
    ledger = Ledger(*history_of(history))
    assert all(isinstance(result, Accepted) for result in ledger.results)
    ledger.tick()
    assert ledger.state() == state


# the lot that goes first | the lot that goes after it, whichever was granted first
ORDER = [
    case("priority", {"priority": 49}, {}),
    case("priority-before-scope", {"priority": 49}, {"scope": "cafe"}),
    case("priority-before-expiry", {"priority": 49}, {"ends": 200}),
    case("priority-before-class", {"priority": 49}, {"lot_class": PROMO}),
    case("scoped-before-unscoped", {"scope": "cafe"}, {}),
    case("scope-before-expiry", {"scope": "cafe"}, {"ends": 200}),
    case("scope-before-class", {"scope": "cafe"}, {"lot_class": PROMO}),
    case("expiry", {"ends": 200}, {"ends": 201}),
    case("no-expiry-last", {"ends": 2**40}, {}),
    case("expiry-before-class", {"ends": 200}, {"ends": 201, "lot_class": PROMO}),
    case("expiry-before-effective-at", {"ends": 200}, {"ends": 201, "starts": 50}),
    case("promo-before-paid", {"lot_class": PROMO}, {"lot_class": PAID}),
    case("class-before-effective-at", {"lot_class": PROMO}, {"starts": 50}),
    case("effective-at", {"starts": 50}, {"starts": 51}),
    case("effective-at-before-now", {"starts": 99}, {}),
]


@pytest.mark.parametrize(("first", "second"), ORDER)
def test_spend_order(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Spends, holds and transfers take lots in one order, in which the log's comes last."""
    one, other = grant(5, "first", **first), grant(5, "second", **second)
    for grants in ((one, other), (other, one)):
        assert paid(Ledger(*grants).do(spend(7, use="cafe")), Bucket.SPENT) == ["first 5", "second 2"]
        assert paid(Ledger(*grants).do(hold(7, use="cafe")), Bucket.HELD) == ["first 5", "second 2"]
        assert paid(Ledger(*grants).do(transfer(7, use="cafe")), Bucket.IN_TRANSIT) == ["first 5", "second 2"]


@pytest.mark.parametrize(
    "history",
    [
        case("log-position", [grant(5, "z"), grant(5, "a")]),
        case("step-in-a-batch", [batch(grant(5, "z"), grant(5, "a"))]),
        case("log-position-before-step", [grant(5, "z"), batch(grant(5, "a"), grant(5, "b"))]),
        case("pending-lots-keep-their-place", [grant(5, "z", starts=150), 120, grant(5, "a", starts=150), 150]),
        case(
            "a-lot-that-was-empty-keeps-its-place",
            [grant(5, "z"), grant(5, "a"), spend(6, "s0"), refund(spend_id="s0")],
        ),
    ],
)
def test_equal_lots_go_in_the_order_of_the_log(history: list[Item]) -> None:
    """Never in that of their names."""
    assert paid(Ledger(*history).do(spend(6)), Bucket.SPENT) == ["z 5", "a 1"]


def test_a_reissued_lot_has_the_place_of_its_refund() -> None:
    """Its effective_at is the refund's, so lots that were granted before go first."""
    ledger = Ledger(grant(5, ends=200), spend(5), grant(5, "g2"), 200, refund(reissue=True))
    assert paid(ledger.do(spend(6, "s2")), Bucket.SPENT) == ["g2 5", "f 1"]


def test_which_lots_paid_which_spend() -> None:
    """Each outcome names the lots, so that a spend is traced without choosing again."""
    ledger = Ledger(grant(3), grant(4, "g2"))
    assert paid(ledger.do(spend(2)), Bucket.SPENT) == ["g 2"]
    assert paid(ledger.do(hold(3)), Bucket.HELD) == ["g 1", "g2 2"]
    assert paid(ledger.do(spend(2, "s2")), Bucket.SPENT) == ["g2 2"]
    assert paid(ledger.do(capture(2)), Bucket.SPENT) == ["g 1", "g2 1"]
    assert paid(ledger.do(release()), Bucket.REMAINING) == ["g2 1"]
    assert paid(ledger.do(refund(spend_id="c")), Bucket.REMAINING) == ["g2 1", "g 1"]
    assert paid(ledger.do(refund(command_id="f2")), Bucket.REMAINING) == ["g 2"]


# id | history | what the last command or instant, and time before it, did: when, what, about what, how much
FACTS = table("""
    grant | grant 5 | 100 granted g 5
    backdated-grant-alive | grant 5 starts=50 | 100 granted g 5
    backdated-grant-expired | grant 5 starts=50 ends=90 | 100 granted g 5, 100 expired g 5
    settled-before-the-command | grant 5 ends=200, 300, grant 1 g2 | 200 expired g 5, 300 granted g2 1
    settled-in-the-order-of-instants | grant 5 ends=200, grant 4 g2 starts=180, grant 3 g3 ends=150, 300, grant 1 g4 \
        | 150 expired g3 3, 180 activated g2, 200 expired g 5, 300 granted g4 1
    settled-at-the-clock-itself | grant 5 ends=200, 200, grant 1 g2 | 200 expired g 5, 200 granted g2 1
    an-empty-lot-expires-silently | grant 5 ends=200, spend 5, 200, grant 1 g2 | 200 granted g2 1
    a-captured-hold-lapses-silently | grant 5, hold 5, capture, 150, grant 1 g2 | 150 granted g2 1
    a-voided-lot-activates-silently | grant 5 starts=150, void, 150, grant 1 g2 | 150 granted g2 1
    lapse | grant 5, hold 3, 200, grant 1 g2 | 150 lapsed h 3, 200 granted g2 1
    lapse-into-a-lapsed-lot | grant 5 ends=140, hold 3, 200, grant 1 g2 \
        | 140 expired g 2, 150 lapsed h 3, 150 expired g 3, 200 granted g2 1
    lapse-into-a-lot-that-lapses-later | grant 5 ends=180, hold 3, 200, grant 1 g2 \
        | 150 lapsed h 3, 180 expired g 5, 200 granted g2 1
    lapse-into-a-voided-lot | grant 5, hold 3, void, 200, grant 1 g2 | 150 lapsed h 3, 150 voided g 3, 200 granted g2 1
    release-into-a-lapsed-lot | grant 5 ends=140, hold 5, 140, release | 140 released h 5, 140 expired g 5
    release-into-a-voided-lot | grant 5, hold 5, void, release | 100 released h 5, 100 voided g 5
    refund | grant 5, spend 5, refund | 100 refunded s 5
    refund-after-expiry | grant 5 ends=200, spend 5, 250, refund | 250 refunded s 5, 250 expired g 5
    refund-into-a-voided-lot | grant 5, spend 3, void, refund | 100 refunded s 3, 100 voided g 3
    refund-into-a-voided-lot-that-lapsed-too | grant 5 ends=200, spend 3, void, 250, refund \
        | 250 refunded s 3, 250 voided g 3
    repaid-by-a-grant | limit 9, spend 8, grant 5 | 100 granted g 5, 100 repaid s 5
    repaid-oldest-spend-first | limit 9, spend 4 z, spend 4 a, grant 6 | 100 granted g 6, 100 repaid z 4, 100 repaid a 2
    repaid-by-an-activation | limit 9, spend 8, grant 5 starts=150, 200, grant 1 g2 \
        | 150 activated g, 150 repaid s 5, 200 granted g2 1, 200 repaid s 1
    repaid-by-a-lapse | limit 9, grant 5, hold 5, spend 8, 200, grant 1 g2 asset=gold \
        | 150 lapsed h 5, 150 repaid s 5, 200 granted g2 1
    repaid-by-a-release | limit 9, grant 5, hold 5, spend 8, release | 100 released h 5, 100 repaid s 5
    repaid-by-a-refund | limit 9, grant 5, spend 5 s0, spend 8, refund spend_id=s0 | 100 refunded s0 5, 100 repaid s 5
    void | grant 5, spend 2, void | 100 voided g 3
    # In the log they stand the other way round.
    ties-in-the-order-of-kinds | grant 5 old ends=200, grant 4, hold 4 200, \
        grant 3 new starts=200, daily 2 200, 300, grant 1 late \
        | 200 occurred d 2, 200 activated new, 200 lapsed h 4, 200 expired old 5, 300 granted late 1
    ties-of-a-kind-in-the-order-of-the-log | grant 5 z ends=200, grant 4 a ends=200, grant 3 m ends=200, 300, grant 1 \
        | 200 expired z 5, 200 expired a 4, 200 expired m 3, 300 granted g 1
    ties-of-holds-in-the-order-of-the-log | grant 5, hold 2 command_id=z, hold 3 command_id=a, 300, grant 1 g2 \
        | 150 lapsed z 2, 150 lapsed a 3, 300 granted g2 1
    a-batch-reports-its-steps-in-order | batch grant 5 + spend 2 + refund 1 + void \
        | 100 granted g 5, 100 spent s 2, 100 refunded s 1, 100 voided g 4
    # Schedules, with every other thing that time does between their turns.
    missed-turns-come-in-order | daily 5 1d expires_after_ms=1d+7, 3d+10 \
        | 1d occurred d 5, 2d occurred d 5, 2d+7 expired d 5, 3d occurred d 5, 3d+7 expired d 5
    until-is-exclusive | daily 5 1d until=3d, 9d | 1d occurred d 5, 2d occurred d 5
    lots-that-expired-make-room-under-a-cap | daily 10 1d cap=10 expires_after_ms=86399999, 2d \
        | 1d occurred d 10, 1d+86399999 expired d 10, 2d occurred d 10
    a-cap-counts-what-came-back-to-an-empty-lot | daily 10 1d cap=10, 1d, spend 10, 2d, spend 10 s2, refund, 3d \
        | 3d capped d
    cancelled-at-its-instant-it-has-granted | daily 5 1d, 1d, cancel | 1d occurred d 5, 1d cancelled d
    time-goes-on-while-spending-is-frozen | grant 5 ends=200, hold 3 150, daily 5 250, freeze spending, 300 \
        | 150 lapsed h 3, 200 expired g 5, 250 occurred d 5
    time-goes-on-while-all-is-frozen | grant 5 ends=200, hold 3 150, daily 5 250, freeze all, 300 \
        | 150 lapsed h 3, 200 expired g 5, 250 occurred d 5
""")


@pytest.mark.parametrize(("history", "facts"), FACTS)
def test_facts(history: str, facts: str) -> None:
    """What time did comes first, dated at its instants; then what the command did, dated at the clock."""
    *before, last = history_of(history)
    ledger = Ledger(*before)
    found = ledger.tick(last) if isinstance(last, int) else ledger.facts(last)
    assert found == [re.sub(r"^\S+", lambda at: str(value_of(at[0])), fact) for fact in facts.split(", ")]


def test_what_time_did_is_reported_a_rejected_command_too() -> None:
    """Nothing that happened is lost with the command that brought it to light."""
    result = Ledger(grant(5, ends=200), 200).do(spend(5))
    assert isinstance(result, Rejected)
    assert reported(result.settled) == ["200 expired g 5"]


def test_a_tick_settles_accounts_that_nobody_touches() -> None:
    """Each fact comes once, at its account, and only when something was due."""
    ledger = Ledger(grant(5, ends=200), grant(4, account="bob", ends=210), grant(3, account="eve"), 199)
    assert ledger.tick_all() == {}
    assert ledger.tick_all(250) == {"ann": ["200 expired g 5"], "bob": ["210 expired g 4"]}
    assert ledger.tick_all() == {}
    assert ledger.facts(grant(1, "g2")) == ["250 granted g2 1"]


def test_settling_often_gives_the_facts_of_settling_once() -> None:
    """When ticks come decides nothing."""
    history: list[Item] = [
        limit(9),
        grant(5, ends=120),
        hold(5, 130),
        grant(4, "g2", starts=125, ends=140),
        spend(2),
        grant(9, "g3"),
        hold(7, 133, "h2"),
        daily(3, 128, expires_after_ms=9),
    ]
    once, often = Ledger(*history), Ledger(*history)
    assert [fact for now in range(100, 150) for fact in often.tick(now)] == once.tick(149) != []
    assert often.state() == once.state()


# Availability.


def test_availability_by_use() -> None:
    """Scoped lots count in the balance; a use sees its own and the unscoped ones, and only what is active and free."""
    ledger = Ledger(
        grant(1),
        grant(2, "g2", scope="cafe"),
        grant(4, "g3", scope="shop"),
        grant(8, "g4", scope="cafe", starts=150),
        grant(16, "g5", ends=200),
        grant(32, "g6", asset="gold"),
    )
    book = ledger.book
    uses = ("", "cafe", "shop", "bar")
    assert ledger.balance() == "23 available, 8 pending"
    assert [book.available("ann", "credits", use) for use in uses] == [17, 19, 21, 17]
    ledger.tick(150)
    assert [book.available("ann", "credits", use) for use in uses] == [17, 27, 21, 17]
    ledger.do(hold(11, 300, use="cafe"))
    assert [book.available("ann", "credits", use) for use in uses] == [16, 16, 20, 16]
    ledger.tick(200)
    assert [book.available("ann", "credits", use) for use in uses] == [1, 1, 5, 1]
    assert [book.available("ann", "gold", use) for use in uses] == [32, 32, 32, 32]
    assert book.available("nobody", "credits") == 0


def test_a_total_is_what_would_be_left_if_everything_came_to_rest() -> None:
    """Available, pending and held, less the debt."""
    ledger = Ledger(limit(9), grant(9), hold(3), grant(4, "g2", starts=150), spend(8))
    balance = ledger.book.balance("ann", "credits")
    assert (*balance, balance.total) == (0, 4, 3, 2, 5)
    assert ledger.book.balance("ann", "gold").total == 0


def test_assets_do_not_mix() -> None:
    """Each has lots, holds, a limit and a debt of its own."""
    ledger = Ledger(limit(9), grant(5), grant(4, "g2", asset="gold"), hold(3, asset="gold"), spend(7))
    assert (ledger.balance(), ledger.balance(asset="gold")) == ("2 debt", "1 available, 3 held")
    assert isinstance(ledger.do(spend(2, "s2", asset="gold")), Rejected)
    ledger.do(release())
    assert (ledger.balance(), ledger.balance(asset="gold")) == ("2 debt", "4 available")


def test_a_balance_can_reach_its_limit() -> None:
    """2^62 - 1 fits, spent and debt aside, and each asset has its own limit."""
    ledger = Ledger(*FULL, grant(511))
    assert ledger.balance() == f"{2**62 - 1} available"
    ledger.do(grant(5, "g2", asset="gold"), spend(9), grant(9, "g3"))
    assert ledger.balance() == f"{2**62 - 1} available"


# Ids.


def test_the_same_id_has_its_effect_once() -> None:
    """The first outcome stands, a rejection too; a duplicate isn't even settled for."""
    ledger = Ledger(grant(5, ends=200))
    assert isinstance(ledger.do(spend(6)), Rejected)
    ledger.do(grant(9, "g2"), 200)
    assert ledger.do(spend(6)) is Verdict.DUPLICATE
    assert ledger.do(grant(5, ends=200)) is Verdict.DUPLICATE
    assert ledger.state() == "g: 5 remaining; g2: 9 remaining"


def test_a_duplicate_on_a_closed_account_is_still_a_duplicate() -> None:
    """So is one on a frozen account: what was decided isn't decided again."""
    ledger = Ledger(grant(5), spend(5), freeze(ALL))
    assert ledger.do(spend(5)) is Verdict.DUPLICATE
    ledger.do(unfreeze(), close())
    assert [ledger.do(command) for command in (grant(5), spend(5), close())] == [Verdict.DUPLICATE] * 3
    assert ledger.do(spend(6)) is Verdict.COMMAND_ID_REUSED


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (grant(5, "1"), grant(6, "1")),
        (grant(5, "1"), grant(5, "1", asset="gold")),
        (grant(5, "1"), grant(5, "1", priority=49)),
        (grant(5, "1"), grant(5, "1", scope="cafe")),
        (grant(5, "1"), spend(5, "1")),
        (spend(5, "1"), spend(5, "1", partial=True)),
        (spend(5, "1"), spend(5, "1", at=100)),
        (hold(5, 150, "1"), hold(5, 151, "1")),
        (capture(5, "1"), capture(5, "1", final=True)),
        (refund(5, "1"), refund(5, "1", reissue=True)),
        # Kinds whose fields look alike.
        (release(5, "1", "x"), void("x", "1", 5)),
        (void("x", "1"), release(0, "1", "x")),
        (batch(release(5, "1", "x"), command_id="2"), batch(void("x", "1", 5), command_id="2")),
        (batch(grant(5, "1"), command_id="2"), batch(grant(6, "1"), command_id="2")),
    ],
)
def test_the_same_id_with_another_body_is_distinguished(first: Command, other: Command) -> None:
    """Whatever differs, and whether the first was accepted or rejected."""
    ledger = Ledger()
    ledger.do(first)
    assert ledger.do(other) is Verdict.COMMAND_ID_REUSED
    assert ledger.do(first) is Verdict.DUPLICATE


def test_a_field_at_its_default_counts_as_absent() -> None:
    """A newer producer that spells out what an older one left away sends the same body."""
    ledger = Ledger(Grant("g", "ann", "credits", 5))
    assert ledger.do(Grant("g", "ann", "credits", 5, lot_class=PAID, priority=50, scope="")) is Verdict.DUPLICATE


def test_ids_are_unique_within_their_account_only() -> None:
    """Two services may number their commands alike for different accounts."""
    ledger = Ledger(grant(5), grant(4, account="bob"))
    assert (ledger.state(), ledger.state("bob")) == ("g: 5 remaining", "g: 4 remaining")


# Lots that come back, and the terms of new ones.


def test_a_reissue_keeps_class_priority_and_scope() -> None:
    """Only the window is new: from the refund on, to the expiry that the command gives, or without one."""
    terms: dict[str, Any] = {"lot_class": PROMO, "priority": 7, "scope": "cafe", "ends": 200}
    for ends in (0, 300):
        ledger = Ledger(grant(5, **terms), spend(5, use="cafe"), 250, refund(reissue=True, ends=ends))
        assert ledger.terms("f") == Terms(PROMO, 7, 250, ends, "cafe")


def test_a_reissued_lot_was_not_there_before_its_refund() -> None:
    """A backdated spend finds lots that were active then, and the old one isn't available."""
    ledger = Ledger(grant(5, ends=200), spend(5), 250, refund(reissue=True))
    result = ledger.do(spend(5, "s2", at=150))
    assert isinstance(result, Rejected)
    assert result.reason is R.INSUFFICIENT_CREDITS


def test_a_grant_without_an_instant_is_active_from_its_decision_on() -> None:
    """The lot says so, in the log's time."""
    assert Ledger(120, grant(5)).terms("g") == Terms(effective_at=120)


def test_voiding_the_old_grant_does_not_reach_the_reissued_lot() -> None:
    """Nothing is left to void of the old one; the refund's id voids the new one."""
    ledger = Ledger(grant(5, ends=200), spend(5), 200, refund(reissue=True))
    result = ledger.do(void())
    assert isinstance(result, Rejected)
    assert result.reason is R.NOTHING_TO_VOID
    assert ledger.state() == "g: 5 reissued; f: 5 remaining"
    ledger.do(void("f", "v2"))
    assert ledger.state() == "g: 5 reissued; f: 5 voided"


# Debt.


def test_a_limit_lowered_below_the_debt_stops_more_debt() -> None:
    """What is owed stays owed; spends of lots go on, spends into debt wait for room."""
    ledger = Ledger(limit(9), spend(8), limit(5, "l2"))
    assert isinstance(ledger.do(spend(1, "s2")), Rejected)
    ledger.do(grant(5, scope="cafe"), spend(5, "s3", use="cafe"), grant(4, "g2"))
    assert ledger.balance() == "4 debt"
    assert isinstance(ledger.do(spend(2, "s4")), Rejected)
    ledger.do(spend(1, "s5"))
    assert ledger.balance() == "5 debt"


def test_what_repaid_a_debt_belongs_to_its_spend() -> None:
    """So a refund gives it back to the lot that paid, and other debts get it then."""
    ledger = Ledger(limit(9), spend(4), spend(5, "s2"), grant(4))
    assert ledger.state() == "g: 4 spent; 5 debt"
    assert ledger.facts(refund()) == ["100 refunded s 4", "100 repaid s2 4"]
    assert ledger.state() == "g: 4 spent; 1 debt"
    ledger.do(refund(0, "f2", "s2"))
    assert ledger.state() == "g: 4 remaining"


# Batches.


@pytest.mark.parametrize(
    ("history", "steps", "step", "reason"),
    [
        ([], [grant(5), spend(6), grant(5, "g2")], 1, R.INSUFFICIENT_CREDITS),
        # Checks hold after each step, not only at the end.
        ([], [spend(5), grant(5)], 0, R.INSUFFICIENT_CREDITS),
        ([*FULL], [grant(512), spend(9)], 0, R.BALANCE_LIMIT_EXCEEDED),
        ([grant(5)], [capture(), hold(5)], 0, R.HOLD_NOT_FOUND),
        ([grant(5)], [hold(5), capture(2), release(4)], 2, R.EXCEEDS_HOLD),
        ([grant(5)], [spend(5), refund(6)], 1, R.EXCEEDS_REFUNDABLE),
        ([grant(5)], [spend(5), refund(), refund(command_id="f2")], 2, R.EXCEEDS_REFUNDABLE),
        ([grant(5)], [spend(5), void()], 1, R.NOTHING_TO_VOID),
        ([grant(5), hold(5, 200)], [release(2), spend(2), spend(1, "s2")], 2, R.INSUFFICIENT_CREDITS),
        ([limit(9), spend(8)], [grant(5), spend(7, "s2")], 1, R.INSUFFICIENT_CREDITS),
        ([limit(9), grant(5), spend(9)], [refund(), spend(1, "s2"), refund(command_id="f2")], 2, R.EXCEEDS_REFUNDABLE),
        ([freeze(SPENDING)], [grant(5), spend(5)], 1, R.ACCOUNT_FROZEN),
        ([grant(5, ends=120), hold(5, 200), 130], [grant(5, "g2"), release(), void()], 2, R.NOTHING_TO_VOID),
        ([daily(5, DAY, cap=9), DAY], [spend(3), spend(3, "s2")], 1, R.INSUFFICIENT_CREDITS),
    ],
)
def test_a_failing_batch(history: list[Item], steps: list[Step], step: int, reason: RejectionReason) -> None:
    """Nothing of it happens; only its own id is used up; it says which step failed and why."""
    ledger = Ledger(*history)
    ledger.tick()
    before = ledger.state()
    result = ledger.do(batch(*steps))
    assert isinstance(result, Rejected)
    assert (result.step, result.reason) == (step, reason)
    assert ledger.state() == before
    assert ledger.do(batch(*steps)) is Verdict.DUPLICATE
    assert ledger.do(batch(grant(1, "other"))) is Verdict.COMMAND_ID_REUSED
    for one in steps:
        assert not isinstance(ledger.do(one), Verdict)


def test_a_failed_batch_leaves_no_trace_in_time() -> None:
    """Its lots never expire, its holds never lapse, and its ids can be used for others of their kind."""
    ledger = Ledger(grant(9))
    ledger.do(batch(grant(5, "g2", ends=200), hold(3), grant(4, "g3", starts=150), spend(99)))
    ledger.do(grant(1, "g2", ends=220), hold(2, 170), grant(1, "g3", starts=160))
    assert ledger.tick(300) == ["160 activated g3", "170 lapsed h 1 1", "220 expired g2 1"]
    assert ledger.state() == "g: 9 remaining; g2: 1 expired; g3: 1 remaining"


def test_the_steps_of_a_failed_batch_can_be_sent_again() -> None:
    """In another batch, which has an id of its own."""
    ledger = Ledger()
    assert isinstance(ledger.do(batch(grant(5), hold(3), spend(3))), Rejected)
    ledger.do(batch(grant(6), hold(3), spend(3), command_id="b2"))
    assert ledger.state() == "g: 3 held, 3 spent"


def test_a_failed_batch_gives_debts_back_in_their_order() -> None:
    """The oldest spend is repaid first, also if a batch that failed had repaid it already."""
    ledger = Ledger(limit(9), spend(4, "z"), spend(4, "a"))
    assert isinstance(ledger.do(batch(grant(6), spend(9))), Rejected)
    assert ledger.facts(grant(5, "g2")) == ["100 granted g2 5", "100 repaid z 4", "100 repaid a 1"]


def test_the_ids_of_an_accepted_batch_are_used_up() -> None:
    """Each step's, and its own."""
    ledger = Ledger(batch(grant(5), spend(2)))
    assert ledger.do(spend(3)) is Verdict.COMMAND_ID_REUSED
    assert ledger.do(grant(6)) is Verdict.COMMAND_ID_REUSED
    assert ledger.do(batch(grant(5), spend(2))) is Verdict.DUPLICATE
    assert ledger.state() == "g: 3 remaining, 2 spent"


def test_steps_can_be_named_after_their_batch() -> None:
    """A hold, a spend and a grant of a batch are like any other."""
    ledger = Ledger(batch(grant(9), hold(3), spend(2)))
    ledger.do(capture(1), refund(), void())
    assert ledger.state() == "g: 2 held, 1 spent, 6 voided"


def test_steps_that_repay_a_debt_one_after_the_other() -> None:
    """Each finds what the ones before it left of debt, hold and lots, in the batch as outside of it."""
    before = (limit(9), grant(5), hold(5, command_id="h"), spend(8))
    steps = (grant(3, "g2"), release(2), release(2, "r2"), grant(4, "g3"), capture(command_id="c"), void("g3"))
    alone, together = Ledger(*before), Ledger(*before)
    facts = [fact for step in steps for fact in alone.facts(step)]
    assert together.facts(batch(*steps)) == facts
    assert together.state() == alone.state()
    assert [fact for fact in facts if "repaid" in fact] == [f"100 repaid s {amount}" for amount in (3, 2, 2, 1)]


# Closing.


@pytest.mark.parametrize("forfeit", [False, True])
def test_a_closed_account_is_closed_for_ever(forfeit: bool) -> None:
    """It says so once, and what it forfeited is reported."""
    ledger = Ledger(grant(5), grant(4, "g2", starts=150), *([] if forfeit else [void(), void("g2", "v2")]))
    result = ledger.do(close(forfeit=forfeit))
    assert paid(result, Bucket.FORFEITED) == (["g 5", "g2 4"] if forfeit else [])
    assert ledger.tick(200) == []
    assert isinstance(ledger.do(grant(1, "g3")), Rejected)


# Transfers, at both ends.


def test_a_transfer_keeps_class_expiry_priority_and_scope() -> None:
    """Each slice becomes a lot with the terms it had; effective_at is the old one too."""
    terms: dict[str, Any] = {"lot_class": PROMO, "priority": 7, "scope": "cafe", "ends": 500}
    ledger = Ledger(grant(5, **terms), grant(4, "g2"), 150, transfer(7, use="cafe"), 170, DELIVER)
    assert [(lot.amount, lot.remaining, lot.terms) for lot in ledger.lots("bob")] == [
        (5, 5, Terms(PROMO, 7, 100, 500, "cafe")),
        (2, 2, Terms(effective_at=100)),
    ]
    assert ledger.balance("bob") == "7 available"


def test_what_arrived_expires_at_the_receiver() -> None:
    """The sender's lot has only what stayed."""
    ledger = Ledger(grant(5, ends=200), transfer(3), DELIVER)
    facts = ledger.tick_all(200)
    assert facts["ann"] == ["200 expired g 2"]
    assert [fact.split()[:2] for fact in facts["bob"]] == [["200", "expired"]]
    assert ledger.state() == "g: 2 expired, 3 transferred"
    assert [parts(lot) for lot in ledger.lots("bob")] == ["3 expired"]


def test_lapsed_on_the_way() -> None:
    """The receiver's clock decides, and the receiver has the expiry on record."""
    ledger = Ledger(grant(5, ends=200), transfer(3), 200, DELIVER)
    arrived, settled = ledger.results[-2:]
    assert [fact.kind for fact in facts_of(arrived)] == [FactKind.ARRIVED, FactKind.EXPIRED]
    assert facts_of(settled)[-1].kind is FactKind.COMPLETED
    assert [parts(lot) for lot in ledger.lots("bob")] == ["3 expired"]
    assert ledger.state() == "g: 2 expired, 3 transferred"


def test_an_arrival_has_the_position_of_its_arrival() -> None:
    """Among equal lots it comes after those that were there."""
    ledger = Ledger(grant(5), 150, grant(4, account="bob", starts=100), transfer(5), DELIVER)
    result = ledger.do(Spend("s", "bob", "credits", 5))
    first, second = (move.amount for fact in facts_of(result) for move in fact.moves)
    assert (first, second) == (4, 1)


def test_an_arrival_repays_debt() -> None:
    """Unless its credits are scoped."""
    ledger = Ledger(limit(9), spend(8), grant(5, account="bob"), grant(2, "g2", account="bob", scope="cafe"))
    ledger.do(transfer(7, sender="bob", to="ann", use="cafe"), DELIVER)
    assert ledger.balance() == "2 available, 3 debt"


def test_an_arrival_can_be_voided_by_its_own_id() -> None:
    """Voiding the grant at the sender doesn't reach it."""
    ledger = Ledger(grant(5, account="bob"), transfer(5, sender="bob", to="ann"), DELIVER)
    (lot_id,) = ledger.book.accounts["ann"].lots
    ledger.do(void(lot_id.command_id))
    assert [parts(lot) for lot in ledger.lots()] == ["5 voided"]


@pytest.mark.parametrize(
    ("stop", "why"), [(close(account="bob"), "account_closed"), (freeze(ALL, account="bob"), "account_frozen")]
)
def test_a_transfer_that_nobody_takes_comes_back(stop: Command, why: str) -> None:
    """Visibly at both ends: refused there, returned here with the reason, and expired here if it lapsed meanwhile."""
    ledger = Ledger(stop, grant(3), grant(4, "g2", ends=200), transfer(6), 250, DELIVER)
    refused, returned = ledger.results[-2:]
    assert [(fact.kind, fact.moves) for fact in facts_of(refused)] == [(FactKind.REFUSED, ())]
    assert [fact.kind for fact in facts_of(returned)] == [FactKind.RETURNED, FactKind.EXPIRED]
    assert facts_of(returned)[0].detail == why
    # In reverse, as with a refund.
    assert paid(returned, Bucket.REMAINING) == ["g 2", "g2 4"]
    assert ledger.state() == "g: 3 remaining; g2: 4 expired"
    assert ledger.lots("bob") == []


def test_what_follows_from_a_transfer_is_always_the_same_command() -> None:
    """So a second append of it is a duplicate, at either end."""
    ledger = Ledger(grant(5))
    sent = ledger.do(transfer(5))
    assert isinstance(sent, Accepted)
    receive = following_command(transfer(5), sent)
    assert receive is not None
    assert receive == following_command(transfer(5), sent)
    assert receive.account == "bob"
    arrived = ledger.do(receive)
    assert isinstance(arrived, Accepted)
    settle = following_command(receive, arrived)
    assert settle is not None
    assert settle.account == "ann"
    ledger.do(settle)
    assert [ledger.do(command) for command in (receive, settle)] == [Verdict.DUPLICATE] * 2
    assert ledger.balance("bob") == "5 available"


def test_nothing_follows_from_a_rejected_transfer() -> None:
    """Nor from commands that concern one account alone."""
    ledger = Ledger(grant(5))
    for command in (transfer(6), spend(5), transfer(1, "t2")):
        result = ledger.do(command)
        assert isinstance(result, Accepted | Rejected)
        assert following_command(command, result) is None


# Schedules.


def instants(ledger: Ledger) -> list[str]:
    """When each lot became active, as dates."""
    return [datetime.fromtimestamp(lot.terms.effective_at / 1000, UTC).date().isoformat() for lot in ledger.lots()]


def test_monthly_on_the_31st() -> None:
    """It falls on a shorter month's last day, and back on the 31st after it."""
    ledger = Ledger(day("2027-12-01"), monthly(5, day("2027-12-31"), until=day("2028-05-31")))
    ledger.tick(day("2030-01-01"))
    assert instants(ledger) == ["2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30"]


def test_every_few_months_keep_the_time_of_day() -> None:
    """Counted from the first one, not from the one before."""
    first = day("2026-08-31T13:45")
    ledger = Ledger(first, monthly(5, first, every=3))
    ledger.tick(day("2027-06-01"))
    assert [lot.terms.effective_at for lot in ledger.lots()] == [
        first,
        day("2026-11-30T13:45"),
        day("2027-02-28T13:45"),
        day("2027-05-31T13:45"),
    ]


def test_every_few_days() -> None:
    """Days of the calendar in UTC."""
    ledger = Ledger(day("2028-02-01"), daily(5, day("2028-02-20"), every=7))
    ledger.tick(day("2028-03-12"))
    assert instants(ledger) == ["2028-02-20", "2028-02-27", "2028-03-05", "2028-03-12"]


def test_an_occurrence_falls_due_at_its_very_instant() -> None:
    """Not a moment before."""
    ledger = Ledger(daily(5, DAY))
    assert ledger.tick(DAY - 1) == []
    assert ledger.tick(DAY) == [f"{DAY} occurred d 5"]
    assert ledger.tick(2 * DAY - 1) == []
    assert ledger.tick(2 * DAY) == [f"{2 * DAY} occurred d 5"]
    assert ledger.state() == "d: 5 remaining; d/2: 5 remaining"


def test_a_schedule_gives_its_terms_to_its_lots() -> None:
    """The window counts from the occurrence's instant."""
    terms: dict[str, Any] = {"lot_class": PROMO, "priority": 7, "expires_after_ms": 50, "scope": "cafe"}
    ledger = Ledger(daily(5, DAY, **terms), DAY + 20, grant(1))
    assert ledger.terms("d") == Terms(PROMO, 7, DAY, DAY + 50, "cafe")


def test_a_cap_counts_what_the_schedules_own_lots_still_have() -> None:
    """Remaining or held; other lots don't count, and nothing for the cap is a visible fact that uses up a number."""
    ledger = Ledger(daily(6, DAY, cap=10), grant(50, priority=90))
    assert ledger.tick(2 * DAY) == [f"{DAY} occurred d 6", f"{2 * DAY} occurred d 4"]
    assert ledger.tick(3 * DAY) == [f"{3 * DAY} capped d"]
    ledger.do(hold(3, 9 * DAY))
    assert ledger.tick(4 * DAY) == [f"{4 * DAY} capped d"]
    ledger.do(capture())
    assert ledger.tick(5 * DAY) == [f"{5 * DAY} occurred d 3"]
    assert ledger.state() == ("g: 50 remaining; d: 3 remaining, 3 spent; d/2: 4 remaining; d/5: 3 remaining")


def test_a_schedule_that_begins_long_ago_takes_its_turns_in_moments() -> None:
    """A worker that is busy with one record for longer than Kafka waits loses its partitions, again and again."""

    def took(turns: int, part: float) -> float:
        ledger = Ledger(turns * DAY)
        expires = {"expires_after_ms": int(turns * part) * DAY} if part else {}
        began = time.process_time()
        result = ledger.do(daily(3, DAY, cap=10**6, **expires))
        seconds = time.process_time() - began
        assert isinstance(result, Accepted)
        assert len(result.facts) > turns
        return seconds

    for part in (0, 0.45):
        # Five times the turns take five times as long, however fast the machine is; looking at all lots for each of
        # them took twenty-five times as long. Measured again only where something disturbed it.
        assert any(took(20_000, part) < 12 * took(4_000, part) for _ in range(5))


def test_an_account_that_is_dropped_is_gone() -> None:
    """Without a cycle: a rebuild has no collector, and a worker's comes by seldom."""
    # Nothing that was there before is looked through.
    gc.freeze()
    book = CreditBook()
    book.advance(400 * DAY)
    command = daily(3, DAY, cap=100, expires_after_ms=31 * DAY)
    book.apply(command, 1)
    book.apply(Spend("s", command.account, "credits", 5), 2)
    book.apply(Hold("h", command.account, "credits", 5, 500 * DAY), 3)
    assert len(book.accounts[command.account].lots) > 20
    gc.collect()
    del book
    found = gc.collect()
    gc.unfreeze()
    assert found == 0


def test_a_cancelled_schedule_ends() -> None:
    """What it granted stays, and can be voided one lot or all at a time."""
    ledger = Ledger(daily(5, DAY), 3 * DAY, cancel())
    assert ledger.tick(9 * DAY) == []
    assert ledger.state() == "d: 5 remaining; d/2: 5 remaining; d/3: 5 remaining"
    ledger.do(void("d", number=2))
    assert ledger.state() == "d: 5 remaining; d/2: 5 voided; d/3: 5 remaining"
    ledger.do(void("d", "v2"))
    assert ledger.state() == "d: 5 voided; d/2: 5 voided; d/3: 5 voided"


def test_a_transfer_takes_from_so_many_lots_at_most() -> None:
    """What carries them to the receiver is one record, and has its bounds."""
    ledger = Ledger(*(grant(1, f"g{number}") for number in range(MAX_PARCELS + 1)))
    result = ledger.do(transfer(MAX_PARCELS + 1))
    assert isinstance(result, Rejected)
    assert result.reason is R.INSUFFICIENT_CREDITS
    ledger.results.clear()
    assert isinstance(ledger.do(transfer(MAX_PARCELS, "t2")), Accepted)
