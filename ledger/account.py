"""The state of one account: its lots and what can be spent of them, holds, spends, transfers, schedules, debts.

Owns what an account is and how it is read. It is changed by `apply` alone, from facts; here are the parts that `apply`
is made of. What a command may do is decided in credits.py, what time does in time.py. `restore` and `forget` change
only how much of an account is in memory.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from heapq import heappop, heappush, merge
from sys import intern
from typing import Any, Final, NamedTuple, TypeAlias

from creditfold.ledger.facts import NOTHING, Balance, CorruptStateError, LotId, make
from creditfold.ledger.limits import MAX_BALANCE
from creditfold.ledger.lots import NEVER, Held, Lot, Order, Scheduled, Sent, Spent, total

#: A place in the log makes fewer things than 2 to this.
NUMBER_BITS: Final = 20

#: What is written as a row of its own.
Part: TypeAlias = Lot | Held | Spent | Sent | Scheduled

#: The kinds of things that fall due, in the order in which they do at one instant; time.py says why.
SCHEDULE: Final = 0
ACTIVATION: Final = 1
LAPSE: Final = 2
EXPIRY: Final = 3


class Due(NamedTuple):
    """Something that falls due: what was made first comes first. `pushed` keeps two of the same in order."""

    at_ms: int
    kind: int
    made: int
    pushed: int
    what: Any


# What an account has nothing of: one for all, since most have nothing of most, and it must never be written to.
_NONE: Final[dict[Any, Any]] = {}
_NO_DUES: Final[list[Any]] = []


def writable(found: dict[Any, Any]) -> dict[Any, Any]:
    """A mapping of an account that may be written to, in place of the one that it may share with all others."""
    return {} if found is _NONE else found


def order_of_lot(lot: Lot) -> Order:
    """A lot's place in the order in which lots are spent."""
    return lot.order


class Holding:
    """An account's credits of one asset."""

    __slots__ = ("_number", "available", "debt", "debts", "held", "limit", "pending", "scoped", "unscoped")

    def __init__(self) -> None:
        self._number = 0
        self.available = self.pending = self.held = self.debt = self.limit = 0
        #: What can be spent, in the order of spending: by all, and by scope.
        self.unscoped: list[Lot] = []
        self.scoped: dict[str, list[Lot]] = _NONE
        #: Spends that are owed, the oldest first. While there are any, nothing unscoped can be spent.
        self.debts: dict[str, Spent] = _NONE

    def totals(self) -> "Holding":
        """The same credits for a scratch account, without the lots and debts."""
        found = Holding()
        found.available, found.pending, found.held = self.available, self.pending, self.held
        found.debt, found.limit, found._number = self.debt, self.limit, self._number
        return found

    def number(self, position: int) -> int:
        """The number of the next thing of this asset that is made at a place in the log.

        The numbers of any two places are in order. Each asset has its own, as each has its own lines in the journal.
        """
        self._number = max(self._number, position << NUMBER_BITS) + 1
        return self._number

    def count(self, lot: Lot, change: int) -> None:
        """Count what remains in a lot."""
        if lot.is_pending:
            self.pending += change
        else:
            self.available += change

    def enlist(self, lot: Lot) -> None:
        """Have a lot stand among those that can be spent, or not."""
        is_spendable = lot.is_spendable
        if lot.is_listed == is_spendable:
            return
        listed = self._listed(lot.terms.scope)
        if is_spendable:
            insort(listed, lot, key=order_of_lot)
        elif listed[0] is lot:
            del listed[0]
        else:
            # No two lots are of the same order.
            del listed[bisect_left(listed, lot.order, key=order_of_lot)]
        lot.is_listed = is_spendable

    def _listed(self, scope: str) -> list[Lot]:
        if not scope:
            return self.unscoped
        self.scoped = writable(self.scoped)
        return self.scoped.setdefault(scope, [])


#: What there is of an asset that an account never had. Nothing is ever written to it.
_EMPTY: Final = Holding()


class Account:
    """An account. Who decides reads it; only `apply` changes what it has.

    Example:
        >>> Account().balance("credits").available
        0
    """

    __slots__ = (
        "_dues",
        "_pushed",
        "changed",
        "frozen",
        "holdings",
        "holds",
        "inline",
        "is_closed",
        "lots",
        "position",
        "schedules",
        "spends",
        "transfers",
        "version",
    )

    def __init__(self) -> None:
        #: The number of its last line in the journal, which is written by who folds.
        self.version = 0
        self.is_closed = False
        self.frozen: str | None = None
        # To be written to only when they are `writable`.
        self.lots: dict[LotId, Lot] = _NONE
        self.holds: dict[str, Held] = _NONE
        self.spends: dict[str, Spent] = _NONE
        self.transfers: dict[str, Sent] = _NONE
        self.schedules: dict[str, Scheduled] = _NONE
        self.holdings: dict[str, Holding] = {}
        #: What was changed, and is to be written, with the place in the log of its last change.
        self.changed: dict[Part, int] = _NONE
        #: Lots that are stored in their balance and have no row, with the place in the log of their last change.
        self.inline: dict[Lot, int] = _NONE
        self.position = 0
        self._dues: list[Due] = _NO_DUES
        self._pushed = 0

    # What there is.

    def holding(self, asset: str) -> Holding:
        """The account's credits of an asset, to be read."""
        found = self.holdings.get(asset)
        return _EMPTY if found is None else found

    def balance(self, asset: str) -> Balance:
        """What the account has of an asset."""
        found = self.holdings.get(asset)
        return NOTHING if found is None else make(Balance, (found.available, found.pending, found.held, found.debt))

    def available(self, asset: str, use: str) -> int:
        """What a spend for a use can take."""
        return sum(lot.remaining for lot in self.spendable(asset, use))

    def spendable(self, asset: str, use: str) -> Iterable[Lot]:
        """The lots that a spend for a use can take from, in the order of spending."""
        found = self.holdings.get(asset)
        if found is None:
            return ()
        if use and found.scoped:
            scoped = found.scoped.get(use)
            if scoped:
                return merge(found.unscoped, scoped, key=order_of_lot) if found.unscoped else scoped
        return found.unscoped

    def debts(self, asset: str) -> Iterable[Spent]:
        """The spends that are owed, the oldest first."""
        return self.holding(asset).debts.values()

    def credit(self, asset: str) -> int:
        """How much more of an asset the account can owe; less than 0 after its limit was lowered below its debt."""
        found = self.holding(asset)
        return found.limit - found.debt

    def room(self, asset: str) -> int:
        """How much more of an asset the account can have."""
        found = self.holding(asset)
        free = MAX_BALANCE - found.available - found.pending - found.held
        if not self.transfers:
            return free
        # What is on its way may come back.
        sent = [one for one in self.transfers.values() if one.is_open and one.asset == asset]
        return free - sum(total(one.slices) for one in sent)

    def lot(self, lot_id: LotId) -> Lot:
        """A lot that a slice is of. Raises CorruptStateError."""
        found = self.lots.get(lot_id)
        if found is None:
            raise CorruptStateError(f"there is no lot {lot_id}")
        return found

    def hold(self, hold_id: str) -> Held | None:
        """A hold, None if there is none of this id."""
        return self.holds.get(hold_id)

    def spend(self, spend_id: str) -> Spent | None:
        """A spend or a capture, None if there is none of this id."""
        return self.spends.get(spend_id)

    def lots_by(self, command_id: str, number: int = 0) -> list[Lot]:
        """The lots that a command made, or the one of a number."""
        if number:
            lot = self.lots.get(LotId(command_id, number))
            return [lot] if lot else []
        # Some may be missing in between: those that are no longer live are loaded when they are asked for.
        return sorted((lot for lot in self.lots.values() if lot.id.command_id == command_id), key=lambda lot: lot.id)

    # What `apply` is made of.

    def begin(self, position: int) -> None:
        """What changes from here on changes at this place in the log."""
        self.position = position

    def mark(self, part: Part, position: int) -> None:
        """Have a part written, as of a place in the log."""
        if self.changed is _NONE:
            self.changed = {}
        self.changed[part] = position

    def keep_lot(self, lot: Lot) -> None:
        """Have a lot."""
        self.lots = writable(self.lots)
        self.lots[lot.id] = lot

    def keep_hold(self, hold: Held) -> None:
        """Have a hold."""
        self.holds = writable(self.holds)
        self.holds[hold.id] = hold

    def keep_spend(self, spend: Spent) -> None:
        """Have a spend or a capture."""
        self.spends = writable(self.spends)
        self.spends[spend.id] = spend

    def keep_transfer(self, sent: Sent) -> None:
        """Have a transfer."""
        self.transfers = writable(self.transfers)
        self.transfers[sent.id] = sent

    def keep_schedule(self, scheduled: Scheduled) -> None:
        """Have a schedule."""
        self.schedules = writable(self.schedules)
        self.schedules[scheduled.id] = scheduled

    def holding_to_change(self, asset: str) -> Holding:
        """The account's credits of an asset, made if there are none."""
        found = self.holdings.get(asset)
        if found is None:
            found = self.holdings[intern(asset)] = Holding()
        return found

    def lot_to_change(self, lot_id: LotId) -> Lot:
        """A lot that is about to change. Raises CorruptStateError."""
        lot = self.lot(lot_id)
        self.mark(lot, self.position)
        return lot

    def hold_to_change(self, hold_id: str) -> Held:
        """A hold that is about to change. Raises CorruptStateError."""
        found = self.holds.get(hold_id)
        if found is None:
            raise CorruptStateError(f"there is no hold {hold_id!a}")
        self.mark(found, self.position)
        return found

    def spend_to_change(self, spend_id: str) -> Spent:
        """A spend or a capture that is about to change. Raises CorruptStateError."""
        found = self.spends.get(spend_id)
        if found is None:
            raise CorruptStateError(f"there is no spend {spend_id!a}")
        self.mark(found, self.position)
        return found

    # The queue of what falls due: an index. Entries that mean nothing any more are passed over when they come up.

    @property
    def next_due(self) -> int:
        """The next instant at which time changes something; may be too early, NEVER if there is none."""
        return self._dues[0][0] if self._dues else NEVER

    def take_due(self) -> Due:
        """Take the first entry out of the queue."""
        return heappop(self._dues)

    def expect(self, at_ms: int, kind: int, what: Lot | Held | Scheduled) -> None:
        """Have something fall due; two entries for the same thing do no harm.

        Args:
            at_ms: when, in milliseconds since 1970 UTC.
            kind: SCHEDULE, ACTIVATION, LAPSE or EXPIRY.
            what: the lot, the hold or the schedule.
        """
        self._pushed += 1
        if self._dues is _NO_DUES:
            self._dues = []
        heappush(self._dues, make(Due, (at_ms, kind, what.made, self._pushed, what)))

    def expect_lot(self, lot: Lot) -> None:
        """Have a lot's window open and close."""
        if lot.is_pending:
            self.expect(lot.terms.effective_at, ACTIVATION, lot)
        if lot.terms.expires_at and not lot.is_lapsed:
            self.expect(lot.terms.expires_at, EXPIRY, lot)

    def expect_turn(self, scheduled: Scheduled) -> None:
        """Have a schedule fall due."""
        at_ms = scheduled.next_at
        if at_ms is not None:
            self.expect(at_ms, SCHEDULE, scheduled)

    # What is in memory.

    def forget(self) -> None:
        """Drop written state that neither time nor a debt can bring up again; it is loaded when it is needed."""
        self.changed = _NONE
        if self.spends:
            self.spends = {key: spend for key, spend in self.spends.items() if spend.debt} or _NONE
        if self.holds:
            self.holds = {key: hold for key, hold in self.holds.items() if hold.is_open} or _NONE
        if self.transfers:
            self.transfers = {key: sent for key, sent in self.transfers.items() if sent.is_open} or _NONE
        if self.schedules:
            self.schedules = {key: scheduled for key, scheduled in self.schedules.items() if scheduled.is_open} or _NONE
        if not all(lot.is_live for lot in self.lots.values()):
            spent = [part for spend in self.spends.values() for part in spend.slices]
            sent = [part for transfer in self.transfers.values() for part in transfer.slices]
            needed = {part.lot: None for part in (*spent, *sent)}
            self.lots = {key: lot for key, lot in self.lots.items() if lot.is_live or key in needed} or _NONE
            for scheduled in self.schedules.values():
                ending = scheduled.ending.items()
                scheduled.ending = {at: lots for at, lots in ending if any(lot in self.lots for lot in lots)}
        if len(self._dues) > 2 * (len(self.lots) + len(self.holds) + len(self.schedules)) + 64:
            self._dues = _NO_DUES
            for lot in self.lots.values():
                self.expect_lot(lot)
            for hold in self.holds.values():
                self.expect(hold.deadline, LAPSE, hold)
            for scheduled in self.schedules.values():
                self.expect_turn(scheduled)
