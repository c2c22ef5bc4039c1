"""A scratch account: what is decided step by step is applied to it, and the account itself stays as it is.

Owns the copying: what is read is the account's, what is about to change is copied first. So a batch costs what its
steps touch, however many lots and debts there are.
"""

from collections.abc import Iterable, Iterator
from heapq import merge
from sys import intern

from creditfold.ledger.account import Account, Holding, Part, order_of_lot
from creditfold.ledger.facts import CorruptStateError, LotId
from creditfold.ledger.lots import Held, Lot, Spent


class Scratch(Account):
    """An account like another, which nothing that is applied here changes.

    Only what is made here falls due here: the account was settled. Transfers are the account's own, since nothing that
    is decided in steps makes or ends one.
    """

    __slots__ = ("_base",)

    def __init__(self, base: Account) -> None:
        super().__init__()
        self._base = base
        self.is_closed = base.is_closed
        self.frozen = base.frozen
        self.transfers = base.transfers
        self.position = base.position

    def holding(self, asset: str) -> Holding:
        """The credits of an asset, as of here."""
        found = self.holdings.get(asset)
        return self._base.holding(asset) if found is None else found

    def holding_to_change(self, asset: str) -> Holding:
        """The credits of an asset, a copy of the account's."""
        found = self.holdings.get(asset)
        if found is None:
            found = self.holdings[intern(asset)] = self._base.holding(asset).totals()
        return found

    def spendable(self, asset: str, use: str) -> Iterable[Lot]:
        """The lots that a spend for a use can take from: the account's, but those that are here."""
        return merge(super().spendable(asset, use), self._untouched(asset, use), key=order_of_lot)

    def _untouched(self, asset: str, use: str) -> Iterator[Lot]:
        # No generator expression: compiled, that would make a list of all lots.
        for lot in self._base.spendable(asset, use):
            if lot.id not in self.lots:
                yield lot

    def debts(self, asset: str) -> Iterator[Spent]:
        """The spends that are owed: the account's as of here, and those that were made here."""
        own, there = self.holding(asset).debts, self._base.holding(asset).debts
        for spend_id, spend in there.items():
            now = self.spends.get(spend_id, spend)
            if now.debt:
                yield now
        for spend_id, spend in own.items():
            if spend_id not in there:
                yield spend

    def lot(self, lot_id: LotId) -> Lot:
        """A lot, as of here. Raises CorruptStateError."""
        found = self.lots.get(lot_id)
        return self._base.lot(lot_id) if found is None else found

    def lot_to_change(self, lot_id: LotId) -> Lot:
        """A lot, a copy of the account's. Raises CorruptStateError."""
        found = self.lots.get(lot_id)
        if found is None:
            found = self._base.lot(lot_id).copy()
            self.keep_lot(found)
            self.holding_to_change(found.asset).enlist(found)
        return found

    def lots_by(self, command_id: str, number: int = 0) -> list[Lot]:
        """The lots that a command made, or the one of a number, as of here."""
        own = {lot.id: lot for lot in super().lots_by(command_id, number)}
        found = {lot.id: lot for lot in self._base.lots_by(command_id, number)} | own
        return [found[lot_id] for lot_id in sorted(found)]

    def hold(self, hold_id: str) -> Held | None:
        """A hold, as of here."""
        found = self.holds.get(hold_id)
        return self._base.hold(hold_id) if found is None else found

    def hold_to_change(self, hold_id: str) -> Held:
        """A hold, a copy of the account's. Raises CorruptStateError."""
        found = self.holds.get(hold_id)
        if found is None:
            base = self._base.hold(hold_id)
            if base is None:
                raise CorruptStateError(f"there is no hold {hold_id!a}")
            found = base.copy()
            self.keep_hold(found)
        return found

    def spend(self, spend_id: str) -> Spent | None:
        """A spend or a capture, as of here."""
        found = self.spends.get(spend_id)
        return self._base.spend(spend_id) if found is None else found

    def spend_to_change(self, spend_id: str) -> Spent:
        """A spend or a capture, a copy of the account's. Raises CorruptStateError."""
        found = self.spends.get(spend_id)
        if found is None:
            base = self._base.spend(spend_id)
            if base is None:
                raise CorruptStateError(f"there is no spend {spend_id!a}")
            found = base.copy()
            self.keep_spend(found)
        return found

    def mark(self, part: Part, position: int) -> None:
        """Nothing of it is ever written."""
