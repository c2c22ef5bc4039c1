"""What becomes of credits that come to an account, or come back: lost in dead lots, else they repay debt first.

Owns these consequences, as facts that follow the one that brings the credits. Reads the account as it is before any of
them is applied, and changes nothing.
"""

from bisect import insort
from collections.abc import Iterable, Iterator
from typing import Final

from creditfold.ledger.account import Account
from creditfold.ledger.commands import Terms
from creditfold.ledger.facts import Bucket, Fact, FactKind, LotId, Move
from creditfold.ledger.lots import NEVER, Lot, Order, Slice, Spent, order_of

# Looked up once.
_REMAINING: Final = Bucket.REMAINING
_DEBT: Final = Bucket.DEBT
_EXPIRED: Final = Bucket.EXPIRED
_VOIDED: Final = Bucket.VOIDED
_REPAID_FACT: Final = FactKind.REPAID
_EXPIRED_FACT: Final = FactKind.EXPIRED
_VOIDED_FACT: Final = FactKind.VOIDED


class Inflow:
    """Credits of one asset that come to an account by one decision, at one instant.

    While an account owes something it has nothing unscoped to spend, so debt is paid by what comes in alone, in the
    order of spending.

    Args:
        account: as it is before the decision.
        asset: of the credits.
        at_ms: the instant, in milliseconds UTC.
        forgiven: the spend whose debt the decision takes back, if it does.
    """

    __slots__ = ("_account", "_asset", "_at_ms", "_debt", "_debts", "_forgiven", "_funds", "_made", "_spend_id")

    def __init__(self, account: Account, asset: str, at_ms: int, forgiven: str = "") -> None:
        self._account = account
        self._asset = asset
        self._at_ms = at_ms
        self._forgiven = forgiven
        #: What came in and can pay, in the order of spending: each lot and what remains in it.
        self._funds: list[tuple[Order, LotId, int]] = []
        #: Lots that are to be made have no number yet, but come last among equal ones.
        self._made = NEVER
        #: The debt to be paid next, 0 if there is none.
        self._spend_id, self._debt = "", 0
        self._debts: Iterator[Spent] = iter(account.debts(asset))
        self._next_debt()

    def _next_debt(self) -> None:
        self._debt = 0
        for spend in self._debts:
            if spend.id != self._forgiven:
                self._spend_id, self._debt = spend.id, spend.debt
                return

    def into_new_lot(self, lot_id: LotId, amount: int, terms: Terms) -> list[Fact]:
        """The consequences of a lot that is made."""
        if terms.expires_at and terms.expires_at <= self._at_ms:
            return [self._lose(_EXPIRED_FACT, lot_id, _EXPIRED, amount)]
        if self._debt and not terms.scope and terms.effective_at <= self._at_ms:
            self._made += 1
            self._fund(order_of(terms, self._made), lot_id, amount)
        return self.repay()

    def activated(self, lot: Lot) -> list[Fact]:
        """The consequences of a window that opens."""
        if self._debt and not lot.terms.scope:
            self._fund(lot.order, lot.id, lot.remaining)
        return self.repay()

    def returned(self, slices: Iterable[Slice]) -> list[Fact]:
        """The consequences of slices that go back to their lots."""
        back = self.come_back(slices)
        return [*self.lost(back), *self.repay()]

    def come_back(self, slices: Iterable[Slice]) -> dict[LotId, int]:
        """What comes back to each lot; what is spendable there can pay from here on."""
        back: dict[LotId, int] = {}
        for lot_id, amount in slices:
            back[lot_id] = back.get(lot_id, 0) + amount
        if self._debt:
            for lot_id, amount in back.items():
                lot = self._account.lot(lot_id)
                if not (lot.is_void or lot.is_pending or lot.terms.scope or lot.is_over(self._at_ms)):
                    self._fund(lot.order, lot_id, lot.remaining + amount)
        return back

    def lost(self, back: dict[LotId, int]) -> list[Fact]:
        """The facts of lots that what comes back to is lost in. What remained in them is lost with it."""
        facts = []
        for lot_id, amount in back.items():
            lot = self._account.lot(lot_id)
            if lot.is_void:
                facts.append(self._lose(_VOIDED_FACT, lot_id, _VOIDED, lot.remaining + amount))
            elif lot.is_over(self._at_ms):
                facts.append(self._lose(_EXPIRED_FACT, lot_id, _EXPIRED, lot.remaining + amount))
        return facts

    def repay(self) -> list[Fact]:
        """Pay debt, the oldest spend first, with what came in."""
        facts: list[Fact] = []
        if not self._debt:
            return facts
        used = 0
        while self._debt and used < len(self._funds):
            order, lot_id, there = self._funds[used]
            amount = min(self._debt, there)
            move = Move(lot_id, _REMAINING, _DEBT, amount)
            facts.append(Fact(_REPAID_FACT, self._at_ms, self._asset, self._spend_id, (move,)))
            self._funds[used] = (order, lot_id, there - amount)
            if amount == there:
                used += 1
            self._debt -= amount
            if not self._debt:
                self._next_debt()
        del self._funds[:used]
        return facts

    def _fund(self, order: Order, lot_id: LotId, amount: int) -> None:
        insort(self._funds, (order, lot_id, amount))

    def _lose(self, kind: FactKind, lot_id: LotId, target: Bucket, amount: int) -> Fact:
        move = Move(lot_id, _REMAINING, target, amount)
        return Fact(kind, self._at_ms, self._asset, lot_id.command_id, (move,))
