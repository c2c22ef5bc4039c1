"""One account under the rules of credits: its lots, holds, spends, debts and schedules, and what time does to them.

Owns how credits move and what follows from it by itself: expiry, activation, lapse, a schedule's turn, repayment. What
a command may do is decided in credits.py. Changes are made in place and can be undone, for batches.
"""

import calendar
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from datetime import MAXYEAR, UTC, datetime, timedelta
from enum import IntEnum
from heapq import heappop, heappush, merge
from sys import intern
from typing import Any, NamedTuple, TypeAlias

from creditfold.ledger.commands import CreateSchedule, LotClass, Period, Terms
from creditfold.ledger.facts import NOTHING, Balance, Bucket, Fact, FactKind, LotId, Move, make
from creditfold.ledger.limits import MAX_BALANCE, MAX_OCCURRED_AT

NEVER = 2**63
#: A place in the log makes fewer things than 2 to this.
NUMBER_BITS = 20
DAY_MS = 86_400_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: A lot's place in the order of spending.
Order: TypeAlias = tuple[int, int, int, int, int, int]


def _debt_made(entry: "tuple[str, Spent]") -> int:
    return entry[1].made


class Due(IntEnum):
    """What time does, in the order in which it does it at one instant."""

    SCHEDULE = 0
    ACTIVATION = 1
    LAPSE = 2
    EXPIRY = 3


# Looked up once.
_REMAINING = Bucket.REMAINING
_HELD = Bucket.HELD
_SPENT = Bucket.SPENT
_DEBT = Bucket.DEBT
_EXPIRED = Bucket.EXPIRED
_VOIDED = Bucket.VOIDED
_FORFEITED = Bucket.FORFEITED
_REISSUED = Bucket.REISSUED
_IN_TRANSIT = Bucket.IN_TRANSIT
#: What counts against a schedule's cap.
_KEPT = (_REMAINING, _HELD)


class Lot:
    """Credits that came in together: the amount, and where each part of it is."""

    __slots__ = (
        "amount",
        "asset",
        "expired",
        "forfeited",
        "held",
        "id",
        "is_lapsed",
        "is_listed",
        "is_pending",
        "is_stored",
        "is_void",
        "made",
        "reissued",
        "remaining",
        "schedule",
        "source",
        "spent",
        "terms",
        "transferred",
        "voided",
    )
    #: What can change in it.
    CHANGING = (
        "remaining",
        "held",
        "spent",
        "expired",
        "voided",
        "forfeited",
        "reissued",
        "transferred",
        "is_pending",
        "is_lapsed",
        "is_void",
    )

    def __init__(self, lot_id: LotId, asset: str, terms: Terms, made: int, source: str) -> None:
        self.id = lot_id
        self.asset = intern(asset)
        self.amount = 0
        self.terms = terms
        self.made = made
        #: Where its credits came from.
        self.source = source
        #: The schedule that made it, if that has a cap to be kept.
        self.schedule: Scheduled | None = None
        self.remaining = self.held = self.spent = self.expired = 0
        self.voided = self.forfeited = self.reissued = self.transferred = 0
        self.is_pending = False
        self.is_lapsed = False
        self.is_void = False
        #: Whether it stands among those that can be spent.
        self.is_listed = False
        #: Whether it has a row already, of which only so much must be written as can change.
        self.is_stored = False

    @property
    def order(self) -> Order:
        """Its place in the order in which lots are spent."""
        lot_class, priority, effective_at, expires_at, scope = self.terms
        is_promo = lot_class == LotClass.PROMO
        return priority, 0 if scope else 1, expires_at or NEVER, 0 if is_promo else 1, effective_at, self.made

    @property
    def ends_at(self) -> int:
        """When its window closes, NEVER if it doesn't."""
        return self.terms.expires_at or NEVER

    @property
    def is_live(self) -> bool:
        """Whether there is something in it, or set aside from it. What isn't live can't come to life by itself."""
        return self.remaining > 0 or self.held > 0

    @property
    def next_at(self) -> int | None:
        """The next instant at which time changes something in it, None if there is none."""
        if self.is_lapsed or not self.is_live:
            return None
        return self.terms.effective_at if self.is_pending else self.terms.expires_at or None


class NewLot(NamedTuple):
    """A lot to be made, and the system account that its credits come from."""

    lot_id: LotId
    asset: str
    amount: int
    terms: Terms
    source: Bucket


class Slice(NamedTuple):
    """A part of a lot that a hold, a spend or a transfer has."""

    lot: Lot
    amount: int


class Held:
    """A hold: what it still has, in the order of its allocation. `taken` is what it had in the beginning."""

    __slots__ = ("asset", "deadline", "id", "is_lapsed", "is_open", "made", "slices", "taken")
    CHANGING = ("slices", "is_open", "is_lapsed")

    def __init__(self, hold_id: str, asset: str, deadline: int, slices: tuple[Slice, ...], made: int) -> None:
        self.id = hold_id
        self.asset = asset
        self.deadline = deadline
        self.slices = slices
        self.made = made
        self.taken = self.amount
        self.is_open = True
        self.is_lapsed = False

    @property
    def amount(self) -> int:
        """What it still has."""
        return sum(part.amount for part in self.slices)


class Spent:
    """A spend or a capture: what can still be refunded of it. What repaid its debt comes last in its slices."""

    __slots__ = ("asset", "debt", "id", "made", "slices")
    CHANGING = ("slices", "debt")

    def __init__(self, spend_id: str, asset: str, slices: tuple[Slice, ...], made: int) -> None:
        self.id = spend_id
        self.asset = asset
        self.slices: Sequence[Slice] = slices
        self.made = made
        self.debt = 0

    @property
    def refundable(self) -> int:
        """What wasn't refunded yet."""
        return self.debt + sum(part.amount for part in self.slices)


class Sent:
    """A transfer on its way."""

    __slots__ = ("asset", "id", "is_open", "slices", "to")
    CHANGING = ("is_open",)

    def __init__(self, transfer_id: str, asset: str, to: str, slices: tuple[Slice, ...]) -> None:
        self.id = transfer_id
        self.asset = asset
        self.to = to
        self.slices = slices
        self.is_open = True


class Scheduled:
    """A schedule, and the number of its next occurrence, counted from 1."""

    __slots__ = ("command", "ending", "id", "is_open", "kept", "made", "next")
    CHANGING = ("next", "is_open")

    def __init__(self, command: CreateSchedule, made: int) -> None:
        self.command = command
        self.id = command.command_id
        self.made = made
        self.next = 1
        self.is_open = True
        #: Where there is a cap: what its lots have remaining and held, and which of them end at an instant. Summed up
        #: along the way, since a schedule may have made tens of thousands.
        self.kept = 0
        self.ending: dict[int, tuple[LotId, ...]] = {}

    def count_in(self, lot: Lot) -> None:
        """Count a lot of its own in what is kept, if there is a cap."""
        if self.command.cap:
            lot.schedule = self
            self.kept += lot.remaining + lot.held
            if lot.terms.expires_at:
                # By its id: a lot that knew its schedule and was known by it would be a cycle, which stays in memory.
                self.ending[lot.ends_at] = (*self.ending.get(lot.ends_at, ()), lot.id)

    @property
    def next_at(self) -> int | None:
        """When it falls due, None if it doesn't any more."""
        at = self.instant(self.next)
        return at if self.is_open and at < NEVER else None

    def instant(self, number: int) -> int:
        """When an occurrence falls due, NEVER after the last."""
        command = self.command
        at = _instant(command.first_at, command.period, command.every * (number - 1))
        return NEVER if at > MAX_OCCURRED_AT or (command.until and at >= command.until) else at


def _instant(first_at: int, period: str, count: int) -> int:
    """So many periods after an instant; one beyond any calendar is NEVER."""
    if period == Period.DAYS:
        return first_at + count * DAY_MS
    first = EPOCH + timedelta(milliseconds=first_at)
    years, month = divmod(first.year * 12 + first.month - 1 + count, 12)
    if years > MAXYEAR:
        return NEVER
    day = min(first.day, calendar.monthrange(years, month + 1)[1])
    return (first.replace(year=years, month=month + 1, day=day) - EPOCH) // timedelta(milliseconds=1)


# What an account has nothing of: one for all, since most have nothing of most, and it must never be written to.
_NONE: dict[Any, Any] = {}
_NO_DUES: list[Any] = []


def owned(found: dict[Any, Any]) -> dict[Any, Any]:
    """A mapping of an account that may be written to, in place of the one that it may share with all others."""
    return {} if found is _NONE else found


def _order_of(lot: Lot) -> Order:
    return lot.order


class Holding:
    """An account's credits of one asset."""

    __slots__ = ("available", "debt", "debts", "held", "limit", "pending", "scoped", "unscoped")
    CHANGING = ("available", "pending", "held", "debt", "limit")

    def __init__(self) -> None:
        self.available = self.pending = self.held = self.debt = self.limit = 0
        #: What can be spent, in the order of spending: by all, and by scope.
        self.unscoped: list[Lot] = []
        self.scoped: dict[str, list[Lot]] = _NONE
        #: Spends that are owed, the oldest first.
        self.debts: dict[str, Spent] = _NONE

    def listed(self, scope: str) -> list[Lot]:
        """What can be spent of a scope, to be changed."""
        if not scope:
            return self.unscoped
        self.scoped = owned(self.scoped)
        return self.scoped.setdefault(scope, [])


class Account:
    """An account: changed only by the methods here, or after `note`, all of which can be undone."""

    __slots__ = (
        "_dues",
        "_numbers",
        "_pushed",
        "_undo",
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
        self.version = 0
        self.is_closed = False
        self.frozen: str | None = None
        # To be written to only when they are `owned`.
        self.lots: dict[LotId, Lot] = _NONE
        self.holds: dict[str, Held] = _NONE
        self.spends: dict[str, Spent] = _NONE
        self.transfers: dict[str, Sent] = _NONE
        self.schedules: dict[str, Scheduled] = _NONE
        self.holdings: dict[str, Holding] = {}
        #: What was changed, and is to be written, with the place in the log of its last change.
        self.changed: dict[Any, int] = _NONE
        #: Lots that are stored in their balance and have no row, with the place in the log of their last change.
        self.inline: dict[Lot, int] = _NONE
        self.position = 0
        self._numbers = 0
        self._dues: list[tuple[int, int, int, int, Any]] = _NO_DUES
        self._pushed = 0
        self._undo: list[tuple[Any, Any, Any]] | None = None

    # Undoing.

    def begin_undoable(self) -> None:
        """From here on, until `end_undoable`, `undo` brings back what there is now."""
        self._undo = []

    def end_undoable(self) -> None:
        """Leave what was changed as it is."""
        self._undo = None

    def undo(self) -> None:
        """Bring back what there was at the beginning."""
        done = self._undo
        self._undo = None
        if done is None:
            return
        done.reverse()
        for owner, name, value in done:
            if name is not None:
                if value is None:
                    owner.pop(name, None)
                else:
                    owner[name] = value
                continue
            kept = owner.remaining + owner.held if isinstance(owner, Lot) else 0
            for changing, before in zip(owner.CHANGING, value, strict=True):
                setattr(owner, changing, before)
            if isinstance(owner, Lot):
                self.enlist(owner)
                if owner.schedule is not None:
                    owner.schedule.kept += owner.remaining + owner.held - kept
        for holding in self.holdings.values():
            # What was taken out came back at the end.
            if holding.debts:
                holding.debts = dict(sorted(holding.debts.items(), key=_debt_made))

    def note(self, owner: Lot | Held | Spent | Sent | Scheduled) -> None:
        """Have something written that is about to change, or is new; an undo brings back what it is now."""
        if self._undo is not None:
            self._undo.append((owner, None, [getattr(owner, name) for name in owner.CHANGING]))
        self.mark(owner, self.position)

    def mark(self, owner: Lot | Held | Spent | Sent | Scheduled, position: int) -> None:
        """Have something written, as of a place in the log."""
        self.changed = owned(self.changed)
        self.changed[owner] = position

    def note_holding(self, holding: Holding) -> None:
        """The same of the account's credits of an asset, which are written with each line of the journal."""
        if self._undo is not None:
            self._undo.append((holding, None, [getattr(holding, name) for name in holding.CHANGING]))

    def put(self, owner: dict[Any, Any], key: Any, value: Any) -> None:
        """Add to one of the account's own mappings, or change it; None takes it out."""
        if self._undo is not None:
            self._undo.append((owner, key, owner.get(key)))
        if value is None:
            owner.pop(key, None)
        else:
            owner[key] = value

    # What there is.

    def holding(self, asset: str) -> Holding:
        """The account's credits of an asset."""
        found = self.holdings.get(asset)
        if found is None:
            # An empty one says the same as none, so it needn't be undone.
            found = self.holdings[intern(asset)] = Holding()
        return found

    def balance(self, asset: str) -> Balance:
        """What the account has of an asset."""
        found = self.holdings.get(asset)
        return NOTHING if found is None else make(Balance, (found.available, found.pending, found.held, found.debt))

    def available(self, asset: str, use: str) -> int:
        """What a spend for a use can take."""
        found = self.holdings.get(asset)
        if found is None:
            return 0
        return sum(lot.remaining for lot in (*found.unscoped, *(found.scoped.get(use, ()) if use else ())))

    def room(self, asset: str) -> int:
        """How much more of an asset the account can have."""
        found = self.holding(asset)
        free = MAX_BALANCE - found.available - found.pending - found.held
        if not self.transfers:
            return free
        # What is on its way may come back.
        sent = [one for one in self.transfers.values() if one.is_open and one.asset == asset]
        return free - sum(part.amount for one in sent for part in one.slices)

    @property
    def next_due(self) -> int:
        """The next instant at which time changes something; may be too early, NEVER if there is none."""
        return self._dues[0][0] if self._dues else NEVER

    def lots_by(self, command_id: str, number: int = 0) -> list[Lot]:
        """The lots that a command made, or the one of a number."""
        if number:
            lot = self.lots.get(LotId(command_id, number))
            return [lot] if lot else []
        # Some may be missing in between: those that are no longer live are loaded when they are asked for.
        return sorted((lot for lot in self.lots.values() if lot.id.command_id == command_id), key=lambda lot: lot.id)

    def begin(self, position: int) -> None:
        """Number what is made from here on by a place in the log: the numbers of any two places are in order."""
        self.position = position
        self._numbers = max(self._numbers, position << NUMBER_BITS)

    def _number(self) -> int:
        # Never given twice, not even after an undo.
        self._numbers += 1
        return self._numbers

    # How credits move.

    def move(self, lot: Lot, source: Bucket, target: Bucket, amount: int) -> Move:
        """Move credits of a lot, and keep every total of them."""
        self.note(lot)
        holding = self.holding(lot.asset)
        if self._undo is not None:
            self.note_holding(holding)
        # What comes out of issue, transit or another lot is new to this one.
        if lot.amount:
            self._add(holding, lot, source, -amount)
        self._add(holding, lot, target, amount)
        if lot.schedule is not None:
            lot.schedule.kept += amount * ((target in _KEPT) - (source in _KEPT))
        self.enlist(lot)
        return make(Move, (lot.id, source, target, amount))

    def _add(self, holding: Holding, lot: Lot, bucket: Bucket, change: int) -> None:
        if bucket is _REMAINING:
            lot.remaining += change
            self.count(holding, lot, change)
        elif bucket is _SPENT:
            lot.spent += change
        elif bucket is _HELD:
            lot.held += change
            holding.held += change
        elif bucket is _DEBT:
            # What repaid a debt was spent.
            lot.spent += change
            holding.debt -= change
        elif bucket is _EXPIRED:
            lot.expired += change
        elif bucket is _VOIDED:
            lot.voided += change
        elif bucket is _FORFEITED:
            lot.forfeited += change
        elif bucket is _REISSUED:
            lot.reissued += change
        elif bucket is _IN_TRANSIT:
            lot.transferred += change

    def count(self, holding: Holding, lot: Lot, change: int) -> None:
        """Count what remains in a lot in its account's totals, which were noted."""
        if lot.is_pending:
            holding.pending += change
        else:
            holding.available += change

    def enlist(self, lot: Lot) -> None:
        """Have a lot stand among those that can be spent, or not."""
        is_spendable = lot.remaining > 0 and not (lot.is_pending or lot.is_lapsed or lot.is_void)
        if lot.is_listed == is_spendable:
            return
        listed = self.holding(lot.asset).listed(lot.terms.scope)
        if not lot.is_listed:
            insort(listed, lot, key=_order_of)
        elif listed[0] is lot:
            del listed[0]
        else:
            # No two lots are of the same order.
            del listed[bisect_left(listed, lot.order, key=_order_of)]
        lot.is_listed = is_spendable

    def make_lot(self, new: NewLot, clock_ms: int) -> tuple[Lot, Move]:
        """Make a lot; its window says whether its credits are to be had yet."""
        terms = new.terms
        if not terms.effective_at:
            lot_class, priority, _, expires_at, scope = terms
            terms = make(Terms, (lot_class, priority, clock_ms, expires_at, scope))
        lot = Lot(new.lot_id, new.asset, terms, self._number(), new.source)
        lot.is_pending = terms.effective_at > clock_ms
        self.lots = owned(self.lots)
        self.put(self.lots, new.lot_id, lot)
        move = self.move(lot, new.source, Bucket.REMAINING, new.amount)
        lot.amount = new.amount
        self.expect_lot(lot)
        return lot, move

    def expect_lot(self, lot: Lot) -> None:
        """Have a lot's window open and close."""
        if lot.is_pending:
            self.expect(lot.terms.effective_at, Due.ACTIVATION, lot)
        if lot.terms.expires_at and not lot.is_lapsed:
            self.expect(lot.terms.expires_at, Due.EXPIRY, lot)

    def expect(self, at_ms: int, kind: Due, what: Any) -> None:
        """Have something fall due. What was made first comes first; two entries for the same thing do no harm."""
        self._pushed += 1
        if self._dues is _NO_DUES:
            self._dues = []
        heappush(self._dues, (at_ms, kind, what.made, self._pushed, what))

    def allocate(self, asset: str, use: str, amount: int, at_ms: int | None = None) -> tuple[Slice, ...]:
        """The parts of lots that an amount would take, in the order of spending; fewer if there isn't so much.

        With an instant, only of lots whose window it lies in.
        """
        holding = self.holding(asset)
        listed: Iterable[Lot] = holding.unscoped
        scoped = holding.scoped.get(use) if use else None
        if scoped:
            listed = merge(listed, scoped, key=_order_of) if listed else scoped
        slices = []
        for lot in listed:
            if amount <= 0:
                break
            if at_ms is not None and not lot.terms.effective_at <= at_ms < lot.ends_at:
                continue
            taken = min(amount, lot.remaining)
            slices.append(make(Slice, (lot, taken)))
            amount -= taken
        return tuple(slices)

    def move_all(self, slices: Iterable[Slice], source: Bucket, target: Bucket) -> tuple[Move, ...]:
        """Move slices of lots."""
        return tuple([self.move(lot, source, target, amount) for lot, amount in slices])

    def owe(self, spend_id: str, spend: Spent, change: int) -> Move:
        """Make a spend's debt larger, or smaller."""
        holding = self.holding(spend.asset)
        self.note(spend)
        self.note_holding(holding)
        spend.debt += change
        holding.debt += change
        holding.debts = owned(holding.debts)
        self.put(holding.debts, spend_id, spend if spend.debt else None)
        if change > 0:
            return Move(None, Bucket.DEBT, Bucket.SPENT, change)
        return Move(None, Bucket.SPENT, Bucket.DEBT, -change)

    def keep_spend(self, spend_id: str, asset: str, slices: tuple[Slice, ...]) -> Spent:
        """Remember a spend, so that it can be refunded."""
        spend = Spent(spend_id, asset, slices, self._number())
        self.spends = owned(self.spends)
        self.put(self.spends, spend_id, spend)
        return spend

    def hold_until(self, hold_id: str, asset: str, deadline: int, slices: tuple[Slice, ...]) -> None:
        """Keep a hold, and lapse it at its deadline."""
        hold = Held(hold_id, asset, deadline, slices, self._number())
        self.holds = owned(self.holds)
        self.put(self.holds, hold_id, hold)
        self.note(hold)
        self.expect(deadline, Due.LAPSE, hold)

    def send(self, transfer_id: str, asset: str, to: str, slices: tuple[Slice, ...]) -> None:
        """Keep a transfer until its end is known."""
        sent = Sent(transfer_id, asset, to, slices)
        self.transfers = owned(self.transfers)
        self.put(self.transfers, transfer_id, sent)
        self.note(sent)

    def schedule(self, command: CreateSchedule) -> None:
        """Keep a schedule, and have it fall due."""
        scheduled = Scheduled(command, self._number())
        self.schedules = owned(self.schedules)
        self.put(self.schedules, command.command_id, scheduled)
        self.note(scheduled)
        self.expect_turn(scheduled)

    def expect_turn(self, scheduled: Scheduled) -> None:
        """Have a schedule fall due."""
        if scheduled.next_at is not None:
            self.expect(scheduled.next_at, Due.SCHEDULE, scheduled)

    # What follows by itself.

    def forget(self) -> None:
        """Forget what was written and neither time nor a debt can bring up again; it is loaded when it is asked for."""
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
            needed = {part.lot.id: None for part in (*spent, *sent)}
            self.lots = {key: lot for key, lot in self.lots.items() if lot.is_live or key in needed} or _NONE
            for scheduled in self.schedules.values():
                ending = scheduled.ending.items()
                scheduled.ending = {at: lots for at, lots in ending if any(lot in self.lots for lot in lots)}
        if len(self._dues) > 2 * (len(self.lots) + len(self.holds) + len(self.schedules)) + 64:
            self._dues = _NO_DUES
            for lot in self.lots.values():
                self.expect_lot(lot)
            for hold in self.holds.values():
                self.expect(hold.deadline, Due.LAPSE, hold)
            for scheduled in self.schedules.values():
                self.expect_turn(scheduled)

    def come_home(self, lots: Iterable[Lot], at_ms: int) -> list[Fact]:
        """What becomes of lots that got something back, or are new: dead ones lose it, living ones repay debt."""
        facts = []
        for lot in lots:
            if lot.remaining and lot.is_void:
                facts.append(self._lose(lot, FactKind.VOIDED, Bucket.VOIDED, at_ms))
            elif lot.remaining and (lot.is_lapsed or lot.ends_at <= at_ms):
                self.note(lot)
                lot.is_lapsed = True
                facts.append(self._lose(lot, FactKind.EXPIRED, Bucket.EXPIRED, at_ms))
        for asset in {lot.asset: None for lot in lots}:
            if self.holding(asset).debts:
                facts += self.repay(asset, at_ms)
        return facts

    def _lose(self, lot: Lot, kind: FactKind, target: Bucket, at_ms: int) -> Fact:
        return Fact(
            kind, at_ms, lot.asset, lot.id.command_id, (self.move(lot, Bucket.REMAINING, target, lot.remaining),)
        )

    def repay(self, asset: str, at_ms: int) -> list[Fact]:
        """Pay debt, the oldest spend first, with the unscoped credits that there are."""
        holding, facts = self.holding(asset), []
        while holding.debts and holding.unscoped:
            spend_id, spend = next(iter(holding.debts.items()))
            lot = holding.unscoped[0]
            amount = min(spend.debt, lot.remaining)
            # The lot's move says that the debt is smaller; what the spend took was counted as spent when it was made.
            self.note(spend)
            spend.debt -= amount
            self.put(holding.debts, spend_id, spend if spend.debt else None)
            move = self.move(lot, Bucket.REMAINING, Bucket.DEBT, amount)
            self._add_slice(spend, Slice(lot, amount))
            facts.append(Fact(FactKind.REPAID, at_ms, asset, spend_id, (move,)))
        return facts

    def _add_slice(self, spend: Spent, part: Slice) -> None:
        # In place where no undo wants what there was: a debt may be paid in tens of thousands of pieces at once.
        if self._undo is None and isinstance(spend.slices, list):
            spend.slices.append(part)
        else:
            spend.slices = [*spend.slices, part]

    def settle(self, clock_ms: int) -> list[Fact]:
        """Bring the account to an instant: everything that falls due until then, in the order of its instants."""
        facts: list[Fact] = []
        while self._dues and self._dues[0][0] <= clock_ms:
            at_ms, kind, _, _, what = heappop(self._dues)
            if kind == Due.SCHEDULE:
                facts += self._occur(what, at_ms)
            elif kind == Due.ACTIVATION:
                facts += self._activate(what, at_ms)
            elif kind == Due.LAPSE:
                facts += self._lapse(what, at_ms)
            else:
                facts += self._expire(what, at_ms)
        return facts

    def _occur(self, scheduled: Scheduled, at_ms: int) -> list[Fact]:
        command = scheduled.command
        if self.schedules.get(command.command_id) is not scheduled or not scheduled.is_open:
            return []
        number = scheduled.next
        self.note(scheduled)
        scheduled.next = number + 1
        amount = min(command.amount, self.room(command.asset))
        if command.cap:
            # A lot that ends at this instant has nothing any more, or who is granted as much each month as he may keep
            # would get it every second month.
            # One that was forgotten and loaded again stands there twice.
            ending = dict.fromkeys(scheduled.ending.get(at_ms, ()))
            ended = sum(self.lots[lot].remaining for lot in ending if lot in self.lots)
            amount = min(amount, command.cap - (scheduled.kept - ended))
        if amount <= 0:
            facts = [Fact(FactKind.CAPPED, at_ms, command.asset, command.command_id, detail=str(number))]
        else:
            # An end beyond any calendar is the calendar's: no transfer could carry it.
            expires_at = min(at_ms + command.expires_after_ms, MAX_OCCURRED_AT) if command.expires_after_ms else 0
            terms = Terms(command.lot_class, command.priority, at_ms, expires_at, command.scope)
            new = NewLot(LotId(command.command_id, number), command.asset, amount, terms, Bucket.ISSUED)
            lot, move = self.make_lot(new, at_ms)
            scheduled.count_in(lot)
            facts = [Fact(FactKind.OCCURRED, at_ms, command.asset, command.command_id, (move,), terms, str(number))]
            facts += self.come_home([lot], at_ms)
        self.expect_turn(scheduled)
        return facts

    def _activate(self, lot: Lot, at_ms: int) -> list[Fact]:
        if self.lots.get(lot.id) is not lot or not lot.is_pending:
            return []
        if not lot.is_live:
            # It may be in memory or not: what time does to an empty lot isn't written, but found out anew.
            lot.is_pending = False
            return []
        holding, amount = self.holding(lot.asset), lot.remaining
        self.note(lot)
        self.note_holding(holding)
        self.count(holding, lot, -amount)
        lot.is_pending = False
        self.count(holding, lot, amount)
        self.enlist(lot)
        if not amount:
            return []
        return [Fact(FactKind.ACTIVATED, at_ms, lot.asset, lot.id.command_id), *self.repay(lot.asset, at_ms)]

    def _lapse(self, hold: Held, at_ms: int) -> list[Fact]:
        if self.holds.get(hold.id) is not hold or not hold.is_open:
            return []
        self.note(hold)
        hold.is_lapsed = True
        return self.let_go(hold, hold.slices, FactKind.LAPSED, at_ms)

    def let_go(self, hold: Held, slices: tuple[Slice, ...], kind: FactKind, at_ms: int) -> list[Fact]:
        """Give slices of a hold back to their lots. They must be the end of what it has."""
        self.note(hold)
        hold.slices = without_end(hold.slices, sum(part.amount for part in slices))[0]
        hold.is_open = bool(hold.slices)
        moves = self.move_all(slices, Bucket.HELD, Bucket.REMAINING)
        facts = [Fact(kind, at_ms, hold.asset, hold.id, moves)]
        return facts + self.come_home(lots_of(slices), at_ms)

    def _expire(self, lot: Lot, at_ms: int) -> list[Fact]:
        if self.lots.get(lot.id) is not lot or lot.is_lapsed:
            return []
        if not lot.is_live:
            lot.is_lapsed = True
            return []
        self.note(lot)
        lot.is_lapsed = True
        facts = [self._lose(lot, FactKind.EXPIRED, Bucket.EXPIRED, at_ms)] if lot.remaining else []
        self.enlist(lot)
        return facts


def lots_of(slices: Iterable[Slice]) -> list[Lot]:
    """The lots of slices, each once, in their order."""
    return list({part.lot.id: part.lot for part in slices}.values())


def without_end(slices: Sequence[Slice], amount: int) -> tuple[tuple[Slice, ...], tuple[Slice, ...]]:
    """Split an amount off the end: gives what is left, and what was split off, the last slice first."""
    left, taken = list(slices), []
    while amount > 0:
        lot, there = left.pop()
        taken.append(Slice(lot, min(there, amount)))
        if there > amount:
            left.append(Slice(lot, there - amount))
        amount -= there
    return tuple(left), tuple(taken)


def without_start(slices: tuple[Slice, ...], amount: int) -> tuple[tuple[Slice, ...], tuple[Slice, ...]]:
    """Split an amount off the start: gives what is left, and what was split off, in order."""
    left, taken = without_end(slices[::-1], amount)
    return left[::-1], taken
