"""Lots, what takes parts of them (holds, spends, transfers), and the schedules that make more of them.

Owns what each of these is and how it reads. Who changes them is `apply`; what time does to them is in `time`.

A lot's life. Every arrow is a fact:

    granted, arrived, reissued, occurred
         |                        |
    window ahead             window open
         v                        v
    +---------+  activated   +--------+  expired   +--------+
    | pending |------------->| active |----------->| lapsed |
    +---------+              +--------+            +--------+
         | voided                 | voided             | voided
         v                        v                    v
    +-------------------------------------------------------+
    |                         void                          |
    +-------------------------------------------------------+

A lot of any of these is live while something of it remains or is held, else empty. What empties it (spent, held, sent,
forfeited, captured) can come back (refunded, released, lapsed, returned). The code relies on four things:

- The parts of a lot make up its amount: amount = remaining + held + spent + expired + voided + forfeited + reissued +
  transferred. A fact moves credits from one part to another; who writes a lot checks it all the same.
- Nothing remains in a dead lot, void or lapsed. What comes back to one is lost at once, by a fact of its own: `voided`
  if the lot is void, else `expired`. So what remains in a lot that isn't pending can be spent.
- Time does nothing where nothing remains. A lot that is empty, or of which all is held, passes the end of its window
  without a fact, and is lapsed only when something came back and expired. So `is_over` compares instants.
- Only a command that names its spend, hold or transfer brings an empty lot back to life. So it needn't be in memory.
"""

import calendar
from collections.abc import Iterable, Sequence
from datetime import MAXYEAR, UTC, datetime, timedelta
from sys import intern
from typing import Final, NamedTuple, TypeAlias

from creditfold.ledger.commands import CreateSchedule, LotClass, Period, Terms
from creditfold.ledger.facts import CorruptStateError, LotId, Move, make
from creditfold.ledger.limits import MAX_OCCURRED_AT

NEVER: Final = 2**63
DAY_MS: Final = 86_400_000
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

#: A lot's place in the order of spending.
Order: TypeAlias = tuple[int, int, int, int, int, int]


def order_of(terms: Terms, made: int) -> Order:
    """The place in the order of spending of a lot with these terms, made as this number."""
    lot_class, priority, effective_at, expires_at, scope = terms
    is_promo = lot_class == LotClass.PROMO
    return priority, 0 if scope else 1, expires_at or NEVER, 0 if is_promo else 1, effective_at, made


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
        #: Whether its window closed while something remained in it.
        self.is_lapsed = False
        self.is_void = False
        #: Whether it stands among those that can be spent.
        self.is_listed = False
        #: Whether it has a row already, of which only what can change must be written.
        self.is_stored = False

    def copy(self) -> "Lot":
        """The same lot for a scratch account. No schedule counts it."""
        lot = Lot(self.id, self.asset, self.terms, self.made, self.source)
        lot.amount = self.amount
        lot.remaining, lot.held, lot.spent, lot.expired = self.remaining, self.held, self.spent, self.expired
        lot.voided, lot.forfeited = self.voided, self.forfeited
        lot.reissued, lot.transferred = self.reissued, self.transferred
        lot.is_pending, lot.is_lapsed, lot.is_void = self.is_pending, self.is_lapsed, self.is_void
        return lot

    @property
    def order(self) -> Order:
        """Its place in the order in which lots are spent."""
        return order_of(self.terms, self.made)

    @property
    def ends_at(self) -> int:
        """When its window closes, NEVER if it doesn't."""
        return self.terms.expires_at or NEVER

    def is_over(self, at_ms: int) -> bool:
        """Whether its window has closed at an instant."""
        return self.is_lapsed or self.ends_at <= at_ms

    @property
    def is_spendable(self) -> bool:
        """Whether something of it can be spent, unless its window closes at this very instant."""
        return self.remaining > 0 and not (self.is_pending or self.is_lapsed or self.is_void)

    @property
    def is_live(self) -> bool:
        """Whether there is something in it, or set aside from it. What isn't live can't come to life by itself."""
        return self.remaining > 0 or self.held > 0

    @property
    def is_conserved(self) -> bool:
        """Whether its parts make up its amount, and none is below zero."""
        parts = self.remaining + self.held + self.spent + self.expired
        parts += self.voided + self.forfeited + self.reissued + self.transferred
        return parts == self.amount and not (
            self.remaining < 0
            or self.held < 0
            or self.spent < 0
            or self.expired < 0
            or self.voided < 0
            or self.forfeited < 0
            or self.reissued < 0
            or self.transferred < 0
        )

    @property
    def next_at(self) -> int | None:
        """The next instant at which time changes something in it, None if there is none."""
        if self.is_lapsed or not self.remaining:
            return None
        return self.terms.effective_at if self.is_pending else self.terms.expires_at or None


class Slice(NamedTuple):
    """A part of a lot that a hold, a spend or a transfer has."""

    lot: LotId
    amount: int


class Held:
    """A hold: what it still has, in the order of its allocation. `taken` is what it had in the beginning."""

    __slots__ = ("asset", "deadline", "id", "is_lapsed", "is_open", "made", "slices", "taken")

    def __init__(self, hold_id: str, asset: str, deadline: int, slices: tuple[Slice, ...], made: int) -> None:
        self.id = hold_id
        self.asset = asset
        self.deadline = deadline
        self.slices = slices
        self.made = made
        self.taken = self.amount
        self.is_open = True
        self.is_lapsed = False

    def copy(self) -> "Held":
        """The same hold for a scratch account."""
        hold = Held(self.id, self.asset, self.deadline, self.slices, self.made)
        hold.taken, hold.is_open, hold.is_lapsed = self.taken, self.is_open, self.is_lapsed
        return hold

    @property
    def amount(self) -> int:
        """What it still has."""
        return total(self.slices)


class Spent:
    """A spend or a capture: what can still be refunded of it. What repaid its debt comes last in its slices."""

    __slots__ = ("asset", "debt", "id", "made", "slices")

    def __init__(self, spend_id: str, asset: str, slices: Sequence[Slice], made: int) -> None:
        self.id = spend_id
        self.asset = asset
        self.slices = slices
        self.made = made
        self.debt = 0

    def copy(self) -> "Spent":
        """The same spend for a scratch account."""
        spend = Spent(self.id, self.asset, tuple(self.slices), self.made)
        spend.debt = self.debt
        return spend

    @property
    def refundable(self) -> int:
        """What wasn't refunded yet."""
        return self.debt + total(self.slices)

    def add(self, part: Slice) -> None:
        """Add a slice that repaid debt."""
        # In place: a debt may be paid in tens of thousands of pieces.
        slices = self.slices
        if isinstance(slices, list):
            slices.append(part)
        else:
            self.slices = [*slices, part]


class Sent:
    """A transfer on its way."""

    __slots__ = ("asset", "id", "is_open", "slices", "to")

    def __init__(self, transfer_id: str, asset: str, to: str) -> None:
        self.id = transfer_id
        self.asset = asset
        self.to = to
        self.slices: list[Slice] = []
        self.is_open = True


class Scheduled:
    """A schedule, and the number of its next occurrence, counted from 1."""

    __slots__ = ("command", "ending", "id", "is_open", "kept", "made", "next")

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
    """The instant `count` periods after another; one beyond any calendar is NEVER."""
    if period == Period.DAYS:
        return first_at + count * DAY_MS
    first = EPOCH + timedelta(milliseconds=first_at)
    years, month = divmod(first.year * 12 + first.month - 1 + count, 12)
    if years > MAXYEAR:
        return NEVER
    day = min(first.day, calendar.monthrange(years, month + 1)[1])
    return (first.replace(year=years, month=month + 1, day=day) - EPOCH) // timedelta(milliseconds=1)


def total(slices: Iterable[Slice]) -> int:
    """What slices come to."""
    found = 0
    for part in slices:
        found += part[1]
    return found


def slices_of(moves: Iterable[Move]) -> tuple[Slice, ...]:
    """The slices that moves took of lots, in their order."""
    return tuple([make(Slice, (move.lot, move.amount)) for move in moves if move.lot is not None])


def without_end(slices: Sequence[Slice], amount: int) -> tuple[tuple[Slice, ...], tuple[Slice, ...]]:
    """Split an amount off the end: gives what is left, and what was split off, the last slice first.

    Raises CorruptStateError where there isn't as much.
    """
    left, taken = list(slices), []
    while amount > 0:
        if not left:
            raise CorruptStateError(f"{amount} too many are taken of {slices}")
        lot, there = left.pop()
        taken.append(Slice(lot, min(there, amount)))
        if there > amount:
            left.append(Slice(lot, there - amount))
        amount -= there
    return tuple(left), tuple(taken)


def without_start(slices: Sequence[Slice], amount: int) -> tuple[tuple[Slice, ...], tuple[Slice, ...]]:
    """Split an amount off the start: gives what is left, and what was split off, in order."""
    left, taken = without_end(slices[::-1], amount)
    return left[::-1], taken
