"""The rules of credits as tables: a history, then what it came to.

A history is commands and instants: a number moves the log's clock there, DELIVER brings transfers to their ends. The
clock begins at 100, so lots that end at 200 and holds until 150 lie ahead.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pytest

from creditfold.ledger.credit_commands import (
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
from creditfold.ledger.credit_facts import Accepted, Bucket, Fact, LotId, Rejected
from creditfold.ledger.credit_reasons import RejectionReason
from creditfold.ledger.credits import Book, derived
from creditfold.ledger.folding import Verdict
from creditfold.ledger.limits import MAX_AMOUNT

START = 100
DELIVER = "deliver"
ALL, SPENDING = FreezeScope.ALL, FreezeScope.SPENDING
PROMO, PAID = LotClass.PROMO, LotClass.PAID
R = RejectionReason

Item: TypeAlias = Command | int | str
Result: TypeAlias = Accepted | Rejected | Verdict


def grant(amount: int, command_id: str = "g", account: str = "ann", asset: str = "credits", **terms: Any) -> Grant:
    return Grant(command_id, account, asset, amount, Terms(**terms))


def spend(amount: int, command_id: str = "s", asset: str = "credits", **options: Any) -> Spend:
    return Spend(command_id, "ann", asset, amount, **options)


def hold(amount: int, deadline: int = 150, command_id: str = "h", asset: str = "credits", use: str = "") -> Hold:
    return Hold(command_id, "ann", asset, amount, deadline, use)


def capture(amount: int = 0, command_id: str = "c", hold_id: str = "h", final: bool = False) -> Capture:
    return Capture(command_id, "ann", hold_id, amount, final)


def release(amount: int = 0, command_id: str = "r", hold_id: str = "h") -> Release:
    return Release(command_id, "ann", hold_id, amount)


def refund(amount: int = 0, command_id: str = "f", spend_id: str = "s", **options: Any) -> Refund:
    return Refund(command_id, "ann", spend_id, amount, **options)


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
    """A book that asserts that every lot's parts add up, and that balances are the sums of lots."""

    def __init__(self, *history: Item) -> None:
        self.book = Book()
        self.book.advance(START)
        self.results: list[Result] = []
        self._sent: list[tuple[Command, Accepted]] = []
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
        return told(result.settled + result.facts)

    def tick(self, clock_ms: int) -> list[str]:
        """Let time pass for everybody; gives what it did to ann."""
        self.book.advance(clock_ms)
        facts = told(self.book.tick().get("ann", ()))
        self._check()
        return facts

    def state(self, account: str = "ann", asset: str = "credits") -> str:
        """Where each lot's credits are, and the balance: "g: 3 remaining, 7 spent = 3 available"."""
        lots = self.book.accounts[account].lots if account in self.book.accounts else {}
        told_lots = "; ".join(f"{name(lot_id)}: {parts(lot)}" for lot_id, lot in lots.items())
        return f"{told_lots} = {self.balance(account, asset)}".removeprefix(" = ")

    def balance(self, account: str = "ann", asset: str = "credits") -> str:
        """What an account has, such as "3 available, 2 held"."""
        balance = self.book.balance(account, asset)
        return ", ".join(f"{amount} {word}" for word, amount in balance._asdict().items() if amount) or "nothing"

    def _apply(self, command: Command) -> Result:
        result = self.book.apply(command)
        self.results.append(result)
        if isinstance(result, Accepted) and derived(command, result):
            self._sent.append((command, result))
        return result

    def _deliver(self) -> None:
        while self._sent:
            following = derived(*self._sent.pop(0))
            assert following is not None
            assert isinstance(self._apply(following), Accepted)

    def _check(self) -> None:
        for account_id, account in self.book.accounts.items():
            sums: dict[str, list[int]] = {}
            for lot in account.lots.values():
                assert sum(getattr(lot, part) for part in PARTS) == lot.amount
                assert min(getattr(lot, part) for part in PARTS) >= 0
                found = sums.setdefault(lot.asset, [0, 0, 0])
                found[1 if lot.is_pending else 0] += lot.remaining
                found[2] += lot.held
            for asset, found in sums.items():
                balance = self.book.balance(account_id, asset)
                assert [balance.available, balance.pending, balance.held] == found
                assert balance.total == sum(found) - balance.debt


PARTS = ("remaining", "held", "spent", "expired", "voided", "forfeited", "reissued", "transferred")


def name(lot_id: LotId) -> str:
    return lot_id.command_id if lot_id.number == 1 else f"{lot_id.command_id}/{lot_id.number}"


def parts(lot: Any) -> str:
    found = ", ".join(f"{getattr(lot, part)} {part}" for part in PARTS if getattr(lot, part))
    return found + " (pending)" if lot.is_pending and lot.remaining else found


def told(facts: Iterable[Fact]) -> list[str]:
    """Facts such as "200 expired g 7": when, what, about what, and how much was moved."""
    return [
        " ".join([str(fact.at_ms), fact.kind, fact.ref, *(str(move.amount) for move in fact.moves)]).strip()
        for fact in facts
    ]


def paid(result: Result | None, *into: Bucket) -> list[str]:
    """What each lot gave to what the last command took, in order, such as ["g 5"]."""
    assert isinstance(result, Accepted), result
    moves = [move for fact in result.facts for move in fact.moves]
    return [f"{name(move.lot)} {move.amount}" for move in moves if move.lot and move.target in into]


# history | command | rejection, in the order in which reasons are looked for
REJECTIONS: list[tuple[list[Item], Command, RejectionReason]] = [
    ([close()], grant(1), R.ACCOUNT_CLOSED),
    ([close()], spend(1), R.ACCOUNT_CLOSED),
    ([close()], spend(1, effective_at=101), R.ACCOUNT_CLOSED),
    ([close()], hold(1), R.ACCOUNT_CLOSED),
    ([close()], hold(1, deadline=100), R.ACCOUNT_CLOSED),
    ([close()], capture(), R.ACCOUNT_CLOSED),
    ([close()], release(), R.ACCOUNT_CLOSED),
    ([grant(1), spend(1), close()], refund(), R.ACCOUNT_CLOSED),
    ([grant(1), spend(1), close()], void(), R.ACCOUNT_CLOSED),
    ([close()], transfer(1), R.ACCOUNT_CLOSED),
    ([close()], freeze(ALL), R.ACCOUNT_CLOSED),
    ([close()], unfreeze(), R.ACCOUNT_CLOSED),
    ([close()], close("x2"), R.ACCOUNT_CLOSED),
    ([close()], limit(5), R.ACCOUNT_CLOSED),
    ([close()], daily(1, 100), R.ACCOUNT_CLOSED),
    ([close()], cancel(), R.ACCOUNT_CLOSED),
    ([close()], batch(grant(1)), R.ACCOUNT_CLOSED),
    ([freeze(SPENDING), close()], spend(1), R.ACCOUNT_CLOSED),
    ([grant(5), freeze(SPENDING)], spend(1), R.ACCOUNT_FROZEN),
    ([grant(5), freeze(SPENDING)], spend(9, partial=True), R.ACCOUNT_FROZEN),
    ([grant(5), freeze(SPENDING)], spend(1, effective_at=101), R.ACCOUNT_FROZEN),
    ([grant(5), freeze(SPENDING)], hold(1), R.ACCOUNT_FROZEN),
    ([grant(5), freeze(SPENDING)], hold(1, deadline=100), R.ACCOUNT_FROZEN),
    ([grant(5), freeze(SPENDING)], transfer(1), R.ACCOUNT_FROZEN),
    ([grant(5), freeze(SPENDING)], batch(spend(1)), R.ACCOUNT_FROZEN),
    ([freeze(ALL)], grant(1), R.ACCOUNT_FROZEN),
    ([grant(5), freeze(ALL)], spend(1), R.ACCOUNT_FROZEN),
    ([grant(5), freeze(ALL)], hold(1), R.ACCOUNT_FROZEN),
    ([grant(5), hold(5), freeze(ALL)], capture(), R.ACCOUNT_FROZEN),
    ([freeze(ALL)], capture(), R.ACCOUNT_FROZEN),
    ([grant(5), spend(5), freeze(ALL)], refund(), R.ACCOUNT_FROZEN),
    ([grant(5), freeze(ALL)], transfer(1), R.ACCOUNT_FROZEN),
    ([freeze(ALL)], close(), R.ACCOUNT_FROZEN),
    ([freeze(ALL)], daily(1, 100), R.ACCOUNT_FROZEN),
    ([freeze(ALL)], cancel(), R.ACCOUNT_FROZEN),
    ([grant(5), freeze(SPENDING), freeze(ALL, "z2")], grant(1, "g2"), R.ACCOUNT_FROZEN),
    ([grant(5), freeze(ALL), freeze(SPENDING, "z2")], spend(1), R.ACCOUNT_FROZEN),
    ([], capture(), R.HOLD_NOT_FOUND),
    ([], release(), R.HOLD_NOT_FOUND),
    ([grant(5), spend(5, "h")], capture(), R.HOLD_NOT_FOUND),
    ([grant(5), hold(5, command_id="h")], capture(hold_id="H"), R.HOLD_NOT_FOUND),
    ([grant(5), hold(5)], Capture("c", "bob", "h"), R.HOLD_NOT_FOUND),
    ([], refund(), R.SPEND_NOT_FOUND),
    ([grant(5)], refund(spend_id="g"), R.SPEND_NOT_FOUND),
    ([grant(5), hold(5)], refund(spend_id="h"), R.SPEND_NOT_FOUND),
    ([grant(5), hold(5), capture()], refund(spend_id="h"), R.SPEND_NOT_FOUND),
    ([grant(5), hold(5), release()], refund(spend_id="r"), R.SPEND_NOT_FOUND),
    ([grant(5), spend(5)], Refund("f", "bob", "s"), R.SPEND_NOT_FOUND),
    ([], void(), R.GRANT_NOT_FOUND),
    ([grant(5)], void(number=2), R.GRANT_NOT_FOUND),
    ([grant(5), spend(5)], void("s"), R.GRANT_NOT_FOUND),
    ([grant(5)], VoidGrant("v", "bob", "g"), R.GRANT_NOT_FOUND),
    ([grant(5), spend(5), refund()], void("f"), R.GRANT_NOT_FOUND),
    ([], cancel(), R.SCHEDULE_NOT_FOUND),
    ([grant(5, "d")], cancel("d"), R.SCHEDULE_NOT_FOUND),
    ([daily(1, 100)], CancelSchedule("n", "bob", "d"), R.SCHEDULE_NOT_FOUND),
    ([grant(5), hold(5), 151], capture(), R.HOLD_LAPSED),
    ([grant(5), hold(5), 150], capture(), R.HOLD_LAPSED),
    ([grant(5), hold(5), 150], capture(6), R.HOLD_LAPSED),
    ([grant(5), hold(5), 150], release(), R.HOLD_LAPSED),
    ([grant(5), hold(5), capture(2), 150], capture(3, "c2"), R.HOLD_LAPSED),
    ([grant(5), hold(5), capture()], capture(1, "c2"), R.HOLD_CLOSED),
    ([grant(5), hold(5), capture(2), capture(3, "c2")], capture(command_id="c3"), R.HOLD_CLOSED),
    ([grant(5), hold(5), capture(2, final=True)], capture(command_id="c2"), R.HOLD_CLOSED),
    ([grant(5), hold(5), capture(2, final=True)], release(), R.HOLD_CLOSED),
    ([grant(5), hold(5), release()], capture(9), R.HOLD_CLOSED),
    ([grant(5), hold(5), capture(2), release()], release(command_id="r2"), R.HOLD_CLOSED),
    ([], unfreeze(), R.ACCOUNT_NOT_FROZEN),
    ([freeze(ALL), unfreeze()], unfreeze("u2"), R.ACCOUNT_NOT_FROZEN),
    ([freeze(ALL), freeze(SPENDING, "z2"), unfreeze()], unfreeze("u2"), R.ACCOUNT_NOT_FROZEN),
    ([grant(5), spend(5)], void(), R.NOTHING_TO_VOID),
    ([grant(5), void()], void(command_id="v2"), R.NOTHING_TO_VOID),
    ([grant(5, expires_at=200), 200], void(), R.NOTHING_TO_VOID),
    ([grant(5), hold(5), capture()], void(), R.NOTHING_TO_VOID),
    ([grant(5), transfer(5)], void(), R.NOTHING_TO_VOID),
    ([grant(5), transfer(5), DELIVER], void(), R.NOTHING_TO_VOID),
    ([grant(5), hold(5)], close(), R.HOLDS_OPEN),
    ([grant(5), hold(5)], close(forfeit=True), R.HOLDS_OPEN),
    ([grant(5), hold(5), capture(4)], close(forfeit=True), R.HOLDS_OPEN),
    ([grant(5, asset="gold"), hold(5, asset="gold")], close(), R.HOLDS_OPEN),
    ([grant(5), hold(5), limit(9), spend(9)], close(), R.HOLDS_OPEN),
    ([limit(9), spend(9)], close(), R.DEBT_OPEN),
    ([limit(9), spend(9)], close(forfeit=True), R.DEBT_OPEN),
    ([limit(9), spend(9), grant(9, scope="cafe")], close(), R.DEBT_OPEN),
    ([grant(5), transfer(5), limit(9), spend(9)], close(), R.DEBT_OPEN),
    ([grant(5), transfer(5)], close(), R.TRANSFER_IN_TRANSIT),
    ([grant(5), transfer(3)], close(), R.TRANSFER_IN_TRANSIT),
    ([grant(5), transfer(5)], close(forfeit=True), R.TRANSFER_IN_TRANSIT),
    ([grant(5)], close(), R.BALANCE_NOT_ZERO),
    ([grant(5, effective_at=150)], close(), R.BALANCE_NOT_ZERO),
    ([grant(5, asset="gold")], close(), R.BALANCE_NOT_ZERO),
    ([grant(5), spend(4)], close(), R.BALANCE_NOT_ZERO),
    ([grant(5)], spend(5, effective_at=101), R.EFFECTIVE_IN_FUTURE),
    ([], spend(5, effective_at=101), R.EFFECTIVE_IN_FUTURE),
    ([grant(5)], hold(5, deadline=100), R.DEADLINE_PASSED),
    ([grant(5)], hold(5, deadline=99), R.DEADLINE_PASSED),
    ([], hold(5, deadline=100), R.DEADLINE_PASSED),
    ([grant(9), hold(5)], capture(6), R.EXCEEDS_HOLD),
    ([grant(9), hold(5), capture(2)], capture(4, "c2"), R.EXCEEDS_HOLD),
    ([grant(9), hold(5), capture(2)], capture(4, "c2", final=True), R.EXCEEDS_HOLD),
    ([grant(9), hold(5)], release(6), R.EXCEEDS_HOLD),
    ([grant(9), hold(5), release(2)], capture(4), R.EXCEEDS_HOLD),
    ([grant(9), spend(5)], refund(6), R.EXCEEDS_REFUNDABLE),
    ([grant(9), spend(5), refund()], refund(command_id="f2"), R.EXCEEDS_REFUNDABLE),
    ([grant(9), spend(5), refund()], refund(1, "f2"), R.EXCEEDS_REFUNDABLE),
    ([grant(9), spend(5), refund(3), refund(1, "f2")], refund(2, "f3"), R.EXCEEDS_REFUNDABLE),
    ([grant(9), hold(5), capture(2), capture(3, "c2")], refund(3, spend_id="c"), R.EXCEEDS_REFUNDABLE),
    ([grant(3), spend(9, partial=True)], refund(4), R.EXCEEDS_REFUNDABLE),
    ([], spend(1), R.INSUFFICIENT_CREDITS),
    ([grant(5)], spend(6), R.INSUFFICIENT_CREDITS),
    ([grant(5, asset="gold")], spend(1), R.INSUFFICIENT_CREDITS),
    ([grant(5, account="bob")], spend(1), R.INSUFFICIENT_CREDITS),
    ([grant(5), hold(5)], spend(1), R.INSUFFICIENT_CREDITS),
    ([grant(5, effective_at=150), 149], spend(1), R.INSUFFICIENT_CREDITS),
    ([grant(5, expires_at=200), 200], spend(1), R.INSUFFICIENT_CREDITS),
    ([grant(5), void()], spend(1), R.INSUFFICIENT_CREDITS),
    ([grant(5, scope="cafe")], spend(1), R.INSUFFICIENT_CREDITS),
    ([grant(5, scope="cafe")], spend(1, use="shop"), R.INSUFFICIENT_CREDITS),
    ([], spend(1, partial=True), R.INSUFFICIENT_CREDITS),
    ([limit(9)], spend(1, partial=True), R.INSUFFICIENT_CREDITS),
    ([limit(9), grant(5)], spend(15), R.INSUFFICIENT_CREDITS),
    ([limit(9), spend(5)], spend(5, "s2"), R.INSUFFICIENT_CREDITS),
    ([limit(9), spend(5, asset="credits")], spend(1, "s2", asset="gold"), R.INSUFFICIENT_CREDITS),
    ([grant(5)], spend(5, effective_at=99), R.INSUFFICIENT_CREDITS),
    ([grant(5), 120, grant(5, "g2")], spend(6, effective_at=110), R.INSUFFICIENT_CREDITS),
    ([grant(5, expires_at=200), 220, grant(5, "g2")], spend(5, effective_at=150), R.INSUFFICIENT_CREDITS),
    ([grant(5)], hold(6), R.INSUFFICIENT_CREDITS),
    ([limit(9)], hold(1), R.INSUFFICIENT_CREDITS),
    ([grant(5, scope="cafe")], hold(1, use="shop"), R.INSUFFICIENT_CREDITS),
    ([grant(5)], transfer(6), R.INSUFFICIENT_CREDITS),
    ([limit(9)], transfer(1), R.INSUFFICIENT_CREDITS),
    ([grant(5, scope="cafe")], transfer(1), R.INSUFFICIENT_CREDITS),
    ([*FULL], grant(512), R.BALANCE_LIMIT_EXCEEDED),
    ([*FULL, grant(511)], grant(1, "g2"), R.BALANCE_LIMIT_EXCEEDED),
    ([*FULL], grant(512, effective_at=150), R.BALANCE_LIMIT_EXCEEDED),
    ([*FULL, grant(511, effective_at=150)], grant(1, "g2"), R.BALANCE_LIMIT_EXCEEDED),
    ([*FULL, hold(9)], grant(512), R.BALANCE_LIMIT_EXCEEDED),
    ([*FULL, grant(511), spend(9), grant(9, "g2")], refund(), R.BALANCE_LIMIT_EXCEEDED),
]


@pytest.mark.parametrize(("history", "command", "reason"), REJECTIONS)
def test_rejections(history: list[Item], command: Command, reason: RejectionReason) -> None:
    """The first reason that applies is told, and nothing but time changes the account."""
    ledger = Ledger(*history)
    # What time did isn't the command's doing.
    ledger.book.tick()
    before = (ledger.state(), ledger.balance(asset="gold"))
    result = ledger.do(command)
    assert isinstance(result, Rejected)
    assert result.reason is reason
    assert (ledger.state(), ledger.balance(asset="gold")) == before
    assert ledger.do(command) is Verdict.DUPLICATE


def test_every_reason_is_reached() -> None:
    """A reason without a case is a gap in the table, and the table keeps the enum's order."""
    assert list(dict.fromkeys(reason for *_, reason in REJECTIONS)) == list(RejectionReason)


def case(case_id: str, *row: Any) -> Any:
    return pytest.param(*row, id=case_id)


# history | where the credits of each lot are = the balance
STATES = [
    # Lots and their windows.
    case("grant", [grant(5)], "g: 5 remaining = 5 available"),
    case("two-grants", [grant(5), grant(2, "g2")], "g: 5 remaining; g2: 2 remaining = 7 available"),
    case("pending", [grant(5, effective_at=150)], "g: 5 remaining (pending) = 5 pending"),
    case("pending-a-moment-before", [grant(5, effective_at=150), 149], "g: 5 remaining (pending) = 5 pending"),
    case("active-at-its-instant", [grant(5, effective_at=150), 150], "g: 5 remaining = 5 available"),
    case("spent-at-its-first-instant", [grant(5, effective_at=150), 150, spend(5)], "g: 5 spent = nothing"),
    case("alive-a-moment-before", [grant(5, expires_at=200), 199], "g: 5 remaining = 5 available"),
    case("spent-at-its-last-instant", [grant(5, expires_at=200), 199, spend(5)], "g: 5 spent = nothing"),
    case("expired-at-its-instant", [grant(5, expires_at=200), 200], "g: 5 expired = nothing"),
    case("spent-then-expired", [grant(5, expires_at=200), spend(2), 200], "g: 2 spent, 3 expired = nothing"),
    case("backdated-grant-alive", [grant(5, effective_at=50, expires_at=200)], "g: 5 remaining = 5 available"),
    case("backdated-grant-expired", [grant(5, effective_at=50, expires_at=90)], "g: 5 expired = nothing"),
    case("backdated-grant-just-expired", [grant(5, effective_at=50, expires_at=100)], "g: 5 expired = nothing"),
    case("void-of-a-pending-lot", [grant(5, effective_at=150), void()], "g: 5 voided = nothing"),
    # Spends.
    case(
        "spend-over-two-lots",
        [grant(5), grant(5, "g2"), spend(7)],
        "g: 5 spent; g2: 3 remaining, 2 spent = 3 available",
    ),
    case("spend-in-part", [grant(5), spend(9, partial=True)], "g: 5 spent = nothing"),
    case("spend-in-part-of-enough", [grant(5), spend(3, partial=True)], "g: 2 remaining, 3 spent = 2 available"),
    case("spend-in-part-makes-no-debt", [limit(9), grant(5), spend(9, partial=True)], "g: 5 spent = nothing"),
    case(
        "spend-in-part-of-a-use",
        [grant(5), grant(2, "g2", scope="cafe"), spend(9, use="cafe", partial=True)],
        "g: 5 spent; g2: 2 spent = nothing",
    ),
    case("spend-dated-now", [grant(5), spend(5, effective_at=100)], "g: 5 spent = nothing"),
    case("backdated-spend", [grant(5), 120, spend(5, effective_at=110)], "g: 5 spent = nothing"),
    case("backdated-spend-at-the-grant", [grant(5), 120, spend(5, effective_at=100)], "g: 5 spent = nothing"),
    case(
        "backdated-spend-of-a-backdated-grant",
        [grant(5, effective_at=50), spend(5, effective_at=50)],
        "g: 5 spent = nothing",
    ),
    case(
        "backdated-spend-leaves-later-lots",
        [grant(5), 120, grant(5, "g2", priority=1), spend(5, effective_at=110)],
        "g: 5 spent; g2: 5 remaining = 5 available",
    ),
    case(
        "backdated-spend-in-part",
        [grant(5), 120, grant(5, "g2"), spend(9, effective_at=110, partial=True)],
        "g: 5 spent; g2: 5 remaining = 5 available",
    ),
    # Holds.
    case("hold", [grant(5), hold(3)], "g: 2 remaining, 3 held = 2 available, 3 held"),
    case("hold-lapses", [grant(5), hold(3), 150], "g: 5 remaining = 5 available"),
    case("hold-a-moment-before-its-deadline", [grant(5), hold(3), 149], "g: 2 remaining, 3 held = 2 available, 3 held"),
    case(
        "capture-a-moment-before-the-deadline",
        [grant(5), hold(3), 149, capture()],
        "g: 2 remaining, 3 spent = 2 available",
    ),
    case("expiry-during-a-hold", [grant(5, expires_at=200), hold(3, 300), 200], "g: 3 held, 2 expired = 3 held"),
    case(
        "capture-after-the-lot-lapsed",
        [grant(5, expires_at=200), hold(3, 300), 250, capture()],
        "g: 3 spent, 2 expired = nothing",
    ),
    case(
        "part-captured-after-the-lot-lapsed",
        [grant(5, expires_at=200), hold(3, 300), 250, capture(1)],
        "g: 2 held, 1 spent, 2 expired = 2 held",
    ),
    case(
        "release-after-the-lot-lapsed",
        [grant(5, expires_at=200), hold(3, 300), 250, release()],
        "g: 5 expired = nothing",
    ),
    case(
        "final-capture-after-the-lot-lapsed",
        [grant(5, expires_at=200), hold(3, 300), 250, capture(1, final=True)],
        "g: 1 spent, 4 expired = nothing",
    ),
    case("lapse-after-the-lot-lapsed", [grant(5, expires_at=200), hold(3, 300), 300], "g: 5 expired = nothing"),
    case("lapse-when-the-lot-lapses", [grant(5, expires_at=200), hold(3, 200), 200], "g: 5 expired = nothing"),
    case("partial-captures", [grant(5), hold(5), capture(1), capture(2, "c2")], "g: 2 held, 3 spent = 2 held"),
    case(
        "partial-captures-then-release",
        [grant(5), hold(5), capture(1), capture(2, "c2"), release()],
        "g: 2 remaining, 3 spent = 2 available",
    ),
    case("partial-capture-then-lapse", [grant(5), hold(5), capture(1), 150], "g: 4 remaining, 1 spent = 4 available"),
    case("partial-capture-then-the-rest", [grant(5), hold(5), capture(1), capture(0, "c2")], "g: 5 spent = nothing"),
    case(
        "final-capture-releases-the-rest",
        [grant(5), hold(5), capture(2, final=True)],
        "g: 3 remaining, 2 spent = 3 available",
    ),
    case("final-capture-of-all", [grant(5), hold(5), capture(final=True)], "g: 5 spent = nothing"),
    case(
        "capture-takes-the-start",
        [grant(3), grant(4, "g2"), hold(7), capture(4)],
        "g: 3 spent; g2: 3 held, 1 spent = 3 held",
    ),
    case(
        "release-takes-the-end",
        [grant(3), grant(4, "g2"), hold(7), release(5)],
        "g: 1 remaining, 2 held; g2: 4 remaining = 5 available, 2 held",
    ),
    case(
        "release-then-capture",
        [grant(3), grant(4, "g2"), hold(7), release(2), capture()],
        "g: 3 spent; g2: 2 remaining, 2 spent = 2 available",
    ),
    case(
        "capture-then-release-an-amount",
        [grant(3), grant(4, "g2"), hold(7), capture(2), release(2)],
        "g: 1 held, 2 spent; g2: 2 remaining, 2 held = 2 available, 3 held",
    ),
    case(
        "final-capture-releases-over-lots",
        [grant(3), grant(4, "g2"), hold(7), capture(1, final=True)],
        "g: 2 remaining, 1 spent; g2: 4 remaining = 6 available",
    ),
    # Refunds.
    case("refund", [grant(5), spend(3), refund()], "g: 5 remaining = 5 available"),
    case("refund-in-parts", [grant(5), spend(5), refund(2), refund(3, "f2")], "g: 5 remaining = 5 available"),
    case("refund-of-the-rest", [grant(5), spend(5), refund(2), refund(0, "f2")], "g: 5 remaining = 5 available"),
    case(
        "refund-in-reverse",
        [grant(3), grant(4, "g2"), spend(7), refund(5)],
        "g: 1 remaining, 2 spent; g2: 4 remaining = 5 available",
    ),
    case(
        "refund-of-a-capture",
        [grant(5), hold(5), capture(2), refund(spend_id="c")],
        "g: 2 remaining, 3 held = 2 available, 3 held",
    ),
    case(
        "refund-of-one-of-two-captures",
        [grant(3), grant(4, "g2"), hold(7), capture(3), capture(4, "c2"), refund(spend_id="c2")],
        "g: 3 spent; g2: 4 remaining = 4 available",
    ),
    case(
        "refund-after-the-hold-lapsed",
        [grant(5), hold(5), capture(2), 150, refund(spend_id="c")],
        "g: 5 remaining = 5 available",
    ),
    case("refund-of-a-spend-in-part", [grant(5), spend(9, partial=True), refund()], "g: 5 remaining = 5 available"),
    case(
        "refund-of-a-backdated-spend",
        [grant(5), 120, spend(5, effective_at=110), refund()],
        "g: 5 remaining = 5 available",
    ),
    case("refund-after-expiry", [grant(5, expires_at=200), spend(5), 200, refund()], "g: 5 expired = nothing"),
    case("refund-before-expiry", [grant(5, expires_at=200), spend(5), 199, refund()], "g: 5 remaining = 5 available"),
    case(
        "reissue",
        [grant(5, expires_at=200), spend(5), 200, refund(reissue=True)],
        "g: 5 reissued; f: 5 remaining = 5 available",
    ),
    case(
        "reissue-of-a-part",
        [grant(5, expires_at=200), spend(5), 200, refund(2, reissue=True)],
        "g: 3 spent, 2 reissued; f: 2 remaining = 2 available",
    ),
    case(
        "reissue-goes-home-to-a-living-lot", [grant(5), spend(5), refund(reissue=True)], "g: 5 remaining = 5 available"
    ),
    case(
        "reissue-of-one-of-two-lots",
        [grant(3, expires_at=200), grant(4, "g2"), spend(7), 200, refund(reissue=True)],
        "g: 3 reissued; g2: 4 remaining; f: 3 remaining = 7 available",
    ),
    case(
        "reissue-makes-a-lot-for-each",
        [grant(3, expires_at=200), grant(4, "g2", expires_at=210), spend(7), 250, refund(reissue=True)],
        "g: 3 reissued; g2: 4 reissued; f: 4 remaining; f/2: 3 remaining = 7 available",
    ),
    case(
        "reissued-lots-expire",
        [grant(5, expires_at=200), spend(5), 200, refund(reissue=True, expires_at=300), 300],
        "g: 5 reissued; f: 5 expired = nothing",
    ),
    case(
        "reissued-lots-can-be-spent",
        [grant(5, expires_at=200), spend(5), 200, refund(reissue=True), spend(2, "s2")],
        "g: 5 reissued; f: 3 remaining, 2 spent = 3 available",
    ),
    case("reissue-of-a-voided-lot", [grant(5), spend(3), void(), refund(reissue=True)], "g: 5 voided = nothing"),
    # Voids.
    case("void", [grant(5), void()], "g: 5 voided = nothing"),
    case("void-of-a-partly-spent-grant", [grant(5), spend(2), void()], "g: 2 spent, 3 voided = nothing"),
    case(
        "void-of-a-partly-spent-and-held-grant",
        [grant(9), spend(2), hold(3), void()],
        "g: 3 held, 2 spent, 4 voided = 3 held",
    ),
    case("void-then-release", [grant(9), spend(2), hold(3), void(), release()], "g: 2 spent, 7 voided = nothing"),
    case(
        "void-then-release-of-an-amount",
        [grant(9), spend(2), hold(3), void(), release(1)],
        "g: 2 held, 2 spent, 5 voided = 2 held",
    ),
    case("void-then-lapse", [grant(9), spend(2), hold(3), void(), 150], "g: 2 spent, 7 voided = nothing"),
    case("void-then-capture", [grant(9), spend(2), hold(3), void(), capture()], "g: 5 spent, 4 voided = nothing"),
    case(
        "void-then-final-capture", [grant(9), hold(3), void(), capture(1, final=True)], "g: 1 spent, 8 voided = nothing"
    ),
    case("void-of-what-is-held-alone", [grant(3), hold(3), void(), release()], "g: 3 voided = nothing"),
    case(
        "void-of-a-lapsed-lot-that-is-held",
        [grant(3, expires_at=200), hold(3, 300), 200, void(), release()],
        "g: 3 voided = nothing",
    ),
    case("void-while-a-refund-is-to-come", [grant(5), spend(3), void(), refund()], "g: 5 voided = nothing"),
    case(
        "void-while-half-a-refund-is-to-come",
        [grant(5), spend(3), refund(1), void(), refund(0, "f2")],
        "g: 5 voided = nothing",
    ),
    case(
        "refund-into-a-voided-lot-that-lapsed-too",
        [grant(5, expires_at=200), spend(3), void(), 200, refund()],
        "g: 5 voided = nothing",
    ),
    case("void-reaches-one-grant", [grant(5), grant(4, "g2"), void()], "g: 5 voided; g2: 4 remaining = 4 available"),
    case("void-by-number", [grant(5), void(number=1)], "g: 5 voided = nothing"),
    case(
        "void-of-a-reissue",
        [grant(5, expires_at=200), spend(5), 200, refund(reissue=True), void("f")],
        "g: 5 reissued; f: 5 voided = nothing",
    ),
    case(
        "void-of-one-reissued-lot",
        [
            grant(3, expires_at=200),
            grant(4, "g2", expires_at=210),
            spend(7),
            250,
            refund(reissue=True),
            void("f", number=2),
        ],
        "g: 3 reissued; g2: 4 reissued; f: 4 remaining; f/2: 3 voided = 4 available",
    ),
    case(
        "void-does-not-reach-the-reissued-lot",
        [grant(5, expires_at=200), hold(2, 300), spend(3), 200, refund(reissue=True), void()],
        "g: 2 held, 3 reissued; f: 3 remaining = 3 available, 2 held",
    ),
    case(
        "void-does-not-reach-what-was-sent",
        [grant(5), transfer(3), DELIVER, void()],
        "g: 2 voided, 3 transferred = nothing",
    ),
    # Debt.
    case("debt", [limit(9), spend(9)], "9 debt"),
    case("debt-after-all-lots", [limit(9), grant(5), spend(12)], "g: 5 spent = 7 debt"),
    case(
        "debt-after-all-lots-of-the-use",
        [limit(9), grant(5), grant(4, "g2", scope="cafe"), spend(12)],
        "g: 5 spent; g2: 4 remaining = 4 available, 7 debt",
    ),
    case("repaid-by-a-grant", [limit(9), spend(8), grant(5)], "g: 5 spent = 3 debt"),
    case("repaid-by-a-larger-grant", [limit(9), spend(8), grant(10)], "g: 2 remaining, 8 spent = 2 available"),
    case("repaid-by-an-activation", [limit(9), grant(5, effective_at=150), spend(8), 150], "g: 5 spent = 3 debt"),
    case(
        "not-repaid-before-the-activation",
        [limit(9), grant(5, effective_at=150), spend(8), 149],
        "g: 5 remaining (pending) = 5 pending, 8 debt",
    ),
    case(
        "repaid-by-a-release",
        [limit(9), grant(5), hold(5), spend(8), release(2)],
        "g: 3 held, 2 spent = 3 held, 6 debt",
    ),
    case(
        "repaid-by-a-final-capture",
        [limit(9), grant(5), hold(5), spend(8), capture(1, final=True)],
        "g: 5 spent = 4 debt",
    ),
    case("repaid-by-a-lapse", [limit(9), grant(5), hold(5), spend(8), 150], "g: 5 spent = 3 debt"),
    case(
        "not-repaid-by-a-lapse-into-a-dead-lot",
        [limit(9), grant(5, expires_at=150), hold(5), spend(8), 150],
        "g: 5 expired = 8 debt",
    ),
    case(
        "repaid-by-a-refund",
        [limit(9), grant(5), spend(5, "s0"), spend(8), refund(4, spend_id="s0")],
        "g: 5 spent = 4 debt",
    ),
    case(
        "repaid-by-a-reissue",
        [limit(9), grant(5, expires_at=200), spend(5, "s0"), spend(8), 200, refund(4, spend_id="s0", reissue=True)],
        "g: 1 spent, 4 reissued; f: 4 spent = 4 debt",
    ),
    case("repaid-by-a-schedule", [limit(9), spend(8), daily(5, 150), 150], "d: 5 spent = 3 debt"),
    case(
        "scoped-credits-do-not-repay",
        [limit(9), spend(8), grant(5, scope="cafe")],
        "g: 5 remaining = 5 available, 8 debt",
    ),
    case("other-assets-do-not-repay", [limit(9), spend(8), grant(5, asset="gold")], "g: 5 remaining = 8 debt"),
    case(
        "a-grant-in-the-past-does-not-repay",
        [limit(9), spend(8), grant(5, effective_at=50, expires_at=90)],
        "g: 5 expired = 8 debt",
    ),
    case(
        "refund-forgives-debt-first",
        [limit(9), grant(5), spend(12), grant(4, "g2"), refund(2)],
        "g: 5 spent; g2: 4 spent = 1 debt",
    ),
    case(
        "refund-then-undoes-what-repaid",
        [limit(9), grant(5), spend(12), grant(4, "g2"), refund(5)],
        "g: 5 spent; g2: 2 remaining, 2 spent = 2 available",
    ),
    case(
        "refund-then-undoes-the-first-slices",
        [limit(9), grant(5), spend(12), grant(4, "g2"), refund(8)],
        "g: 1 remaining, 4 spent; g2: 4 remaining = 5 available",
    ),
    case(
        "refund-of-a-debt-as-a-whole",
        [limit(9), grant(5), spend(12), grant(4, "g2"), refund()],
        "g: 5 remaining; g2: 4 remaining = 9 available",
    ),
    case("limit-lowered-below-the-debt", [limit(9), spend(8), limit(2, "l2")], "8 debt"),
    case(
        "room-again-under-a-lowered-limit",
        [limit(9), spend(8), limit(5, "l2"), grant(4), spend(1, "s2")],
        "g: 4 spent = 5 debt",
    ),
    # Freezing. Holds taken before live on, and time goes on.
    case("grant-while-spending-is-frozen", [freeze(SPENDING), grant(5)], "g: 5 remaining = 5 available"),
    case(
        "refund-while-spending-is-frozen",
        [grant(5), spend(5), freeze(SPENDING), refund()],
        "g: 5 remaining = 5 available",
    ),
    case("capture-while-spending-is-frozen", [grant(5), hold(5), freeze(SPENDING), capture()], "g: 5 spent = nothing"),
    case(
        "release-while-spending-is-frozen",
        [grant(5), hold(5), freeze(SPENDING), release()],
        "g: 5 remaining = 5 available",
    ),
    case("void-while-spending-is-frozen", [grant(5), freeze(SPENDING), void()], "g: 5 voided = nothing"),
    case("schedule-while-spending-is-frozen", [freeze(SPENDING), daily(5, 150), 150], "d: 5 remaining = 5 available"),
    case("release-while-all-is-frozen", [grant(5), hold(5), freeze(ALL), release()], "g: 5 remaining = 5 available"),
    case("void-while-all-is-frozen", [grant(5), freeze(ALL), void()], "g: 5 voided = nothing"),
    case("limit-while-all-is-frozen", [freeze(ALL), limit(5), unfreeze(), spend(5)], "5 debt"),
    case("expiry-while-all-is-frozen", [grant(5, expires_at=200), freeze(ALL), 200], "g: 5 expired = nothing"),
    case("lapse-while-all-is-frozen", [grant(5), hold(5), freeze(ALL), 150], "g: 5 remaining = 5 available"),
    case("spend-after-unfreeze", [grant(5), freeze(ALL), unfreeze(), spend(5)], "g: 5 spent = nothing"),
    case(
        "second-freeze-replaces-the-first",
        [freeze(ALL), freeze(SPENDING, "z2"), grant(5)],
        "g: 5 remaining = 5 available",
    ),
    case(
        "one-unfreeze-ends-two-freezes",
        [grant(5), freeze(ALL), freeze(SPENDING, "z2"), unfreeze(), spend(5)],
        "g: 5 spent = nothing",
    ),
    # Closing.
    case("close-an-empty-account", [grant(5), spend(5), close()], "g: 5 spent = nothing"),
    case("close-after-a-transfer-arrived", [grant(5), transfer(5), DELIVER, close()], "g: 5 transferred = nothing"),
    case("close-after-the-hold-lapsed", [grant(5, expires_at=150), hold(5), 150, close()], "g: 5 expired = nothing"),
    case("close-and-forfeit", [grant(5), spend(2), close(forfeit=True)], "g: 2 spent, 3 forfeited = nothing"),
    case("close-and-forfeit-pending", [grant(5, effective_at=150), close(forfeit=True)], "g: 5 forfeited = nothing"),
    case(
        "close-and-forfeit-scoped",
        [grant(5), grant(4, "g2", scope="cafe"), close(forfeit=True)],
        "g: 5 forfeited; g2: 4 forfeited = nothing",
    ),
    case("close-and-forfeit-nothing", [close(forfeit=True)], "nothing"),
    case(
        "close-and-forfeit-all-assets",
        [grant(5), grant(4, "g2", asset="gold"), close(forfeit=True)],
        "g: 5 forfeited; g2: 4 forfeited = nothing",
    ),
    case("forfeited-lots-stay-so", [grant(5, expires_at=200), close(forfeit=True), 200], "g: 5 forfeited = nothing"),
    case("a-closed-account-gets-nothing-from-its-schedules", [daily(5, 150), close(), 150], "nothing"),
    # Transfers, at the sender.
    case("transfer-on-its-way", [grant(5), transfer(3)], "g: 2 remaining, 3 transferred = 2 available"),
    case("transfer-arrived", [grant(5), transfer(3), DELIVER], "g: 2 remaining, 3 transferred = 2 available"),
    case(
        "transfer-in-the-order-of-spending",
        [grant(5), grant(3, "g2", priority=1), transfer(4), DELIVER],
        "g: 4 remaining, 1 transferred; g2: 3 transferred = 4 available",
    ),
    case(
        "transfer-of-a-use",
        [grant(5), grant(3, "g2", scope="cafe"), transfer(4, use="cafe"), DELIVER],
        "g: 4 remaining, 1 transferred; g2: 3 transferred = 4 available",
    ),
    case(
        "transfer-without-a-use-leaves-scoped-lots",
        [grant(5), grant(3, "g2", scope="cafe"), transfer(4), DELIVER],
        "g: 1 remaining, 4 transferred; g2: 3 remaining = 4 available",
    ),
    case(
        "transfer-to-a-closed-account",
        [close(account="bob"), grant(5), transfer(3), DELIVER],
        "g: 5 remaining = 5 available",
    ),
    case(
        "transfer-to-a-frozen-account",
        [freeze(ALL, account="bob"), grant(5), transfer(3), DELIVER],
        "g: 5 remaining = 5 available",
    ),
    case(
        "transfer-to-a-spending-frozen-account",
        [freeze(SPENDING, account="bob"), grant(5), transfer(3), DELIVER],
        "g: 2 remaining, 3 transferred = 2 available",
    ),
    case(
        "returned-to-each-lot",
        [close(account="bob"), grant(3), grant(4, "g2"), transfer(7), DELIVER],
        "g: 3 remaining; g2: 4 remaining = 7 available",
    ),
    case(
        "returned-to-a-lapsed-lot",
        [close(account="bob"), grant(5, expires_at=200), transfer(3), 200, DELIVER],
        "g: 5 expired = nothing",
    ),
    case(
        "returned-to-a-voided-lot",
        [close(account="bob"), grant(5), transfer(3), void(), DELIVER],
        "g: 5 voided = nothing",
    ),
    case(
        "returned-to-a-frozen-sender",
        [close(account="bob"), grant(5), transfer(3), freeze(ALL), DELIVER],
        "g: 5 remaining = 5 available",
    ),
    case(
        "returned-credits-repay",
        [close(account="bob"), limit(9), grant(5), transfer(5), spend(8), DELIVER],
        "g: 5 spent = 3 debt",
    ),
    case(
        "returned-and-sent-again",
        [close(account="bob"), grant(5), transfer(3), DELIVER, transfer(5, "t2", to="eve"), DELIVER],
        "g: 5 transferred = nothing",
    ),
    # Batches.
    case("batch", [batch(grant(5), grant(4, "g2"), spend(7))], "g: 5 spent; g2: 2 remaining, 2 spent = 2 available"),
    case("batch-spends-what-it-granted", [batch(grant(5), spend(5))], "g: 5 spent = nothing"),
    case("batch-captures-what-it-held", [batch(grant(5), hold(5), capture(2))], "g: 3 held, 2 spent = 3 held"),
    case(
        "batch-releases-what-it-held",
        [batch(grant(5), hold(5), release(2))],
        "g: 2 remaining, 3 held = 2 available, 3 held",
    ),
    case(
        "batch-refunds-what-it-spent", [batch(grant(5), spend(5), refund(2))], "g: 2 remaining, 3 spent = 2 available"
    ),
    case("batch-voids-what-it-granted", [batch(grant(5), void())], "g: 5 voided = nothing"),
    case(
        "batch-uses-what-was-before",
        [grant(5), hold(2), spend(3), batch(capture(), refund())],
        "g: 3 remaining, 2 spent = 3 available",
    ),
    # Assets.
    case(
        "assets-do-not-mix",
        [grant(5), grant(4, "g2", asset="gold"), spend(4, asset="gold")],
        "g: 5 remaining; g2: 4 spent = 5 available",
    ),
    # Balances.
    case(
        "all-at-once",
        [limit(9), grant(9), hold(3), grant(4, "g2", effective_at=150), spend(8)],
        "g: 3 held, 6 spent; g2: 4 remaining (pending) = 4 pending, 3 held, 2 debt",
    ),
]


@pytest.mark.parametrize(("history", "state"), STATES)
def test_states(history: list[Item], state: str) -> None:
    """Every credit of every lot is somewhere, and the balance is the sum of the lots less the debt."""
    ledger = Ledger(*history)
    assert all(isinstance(result, Accepted) for result in ledger.results)
    ledger.book.tick()
    assert ledger.state() == state
