"""The rules of credits as a child would play them: every single credit is a coin that lies in one place.

Written from the text of the rules alone, for small amounts, and slow on purpose. It knows nothing of facts, moves or
journals; it only says what becomes of a command and where each coin is. What it must not become is clever: whatever
it shares with an engine, it can't check there. The bound on an account's whole balance isn't modelled: that many
coins don't fit on a table.
"""

import calendar
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

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
    ReceiveTransfer,
    Refund,
    Release,
    SetCreditLimit,
    SettleTransfer,
    Spend,
    Terms,
    Transfer,
    Unfreeze,
    VoidGrant,
)
from creditfold.ledger.facts import Balance
from creditfold.ledger.folding import Verdict
from creditfold.ledger.reasons import RejectionReason as Reason

DAY_MS = 86_400_000
PLACES = ("remaining", "held", "spent", "expired", "voided", "forfeited", "reissued", "transferred")


class Said(NamedTuple):
    """What became of a command that was looked at: no reason means that it was accepted."""

    reason: Reason | None = None
    step: int | None = None


Answer: TypeAlias = Said | Verdict


@dataclass(eq=False)
class Coin:
    """One credit: its lot, and where it lies."""

    lot: "Lot"
    place: str = "new"

    def put(self, place: str) -> None:
        """Move the coin."""
        self.place = place


@dataclass(eq=False)
class Lot:
    """Coins that came in together, in the same terms."""

    command_id: str
    number: int
    asset: str
    terms: Terms
    pending: bool
    lapsed: bool
    voided: bool = False
    coins: list[Coin] = field(default_factory=list)

    def lying(self, *places: str) -> list[Coin]:
        """The coins of this lot in some places."""
        return [coin for coin in self.coins if coin.place in places]

    def counts(self) -> dict[str, int]:
        """How many coins there ever were, and how many lie where."""
        return {"amount": len(self.coins), **{place: len(self.lying(place)) for place in PLACES}}


@dataclass(eq=False)
class Reserved:
    """A hold: its coins in the order in which they were taken. `end` says how it ended."""

    command_id: str
    deadline: int
    coins: list[Coin]
    end: Reason | None = None


@dataclass(eq=False)
class Taken:
    """A spend or a capture: its coins in order, and how many more are owed for it."""

    command_id: str
    asset: str
    coins: list[Coin]
    debt: int = 0


@dataclass(eq=False)
class Plan:
    """A schedule: how many of its turns have been."""

    command: CreateSchedule
    turns: int = 0
    ended: bool = False

    def next_at(self) -> int | None:
        """The instant of the next turn, if there is one."""
        instant = turn_of(self.command, self.turns)
        over = self.ended or (self.command.until and instant >= self.command.until)
        return None if over else instant


def turn_of(schedule: CreateSchedule, turn: int) -> int:
    """The instant of a schedule's turn, counted from 0. Months are counted from the first, not from the last turn."""
    if schedule.period is Period.DAYS:
        return schedule.first_at + turn * schedule.every * DAY_MS
    first = datetime.fromtimestamp(schedule.first_at // 1000, UTC)
    month = first.month - 1 + turn * schedule.every
    year, month = first.year + month // 12, month % 12 + 1
    day = min(first.day, calendar.monthrange(year, month)[1])
    return int(first.replace(year=year, month=month, day=day).timestamp()) * 1000 + schedule.first_at % 1000


@dataclass(eq=False)
class Owner:
    """An account: everything in the order in which the log brought it."""

    closed: bool = False
    frozen: FreezeScope | None = None
    limits: dict[str, int] = field(default_factory=dict)
    lots: list[Lot] = field(default_factory=list)
    holds: list[Reserved] = field(default_factory=list)
    spends: list[Taken] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    travels: dict[str, list[Coin]] = field(default_factory=dict)

    # Where coins go.

    def land(self, coins: Iterable[Coin]) -> None:
        """Coins become available together; those for any use pay the oldest debts, in the order of a spend."""
        coins = list(coins)
        for coin in coins:
            coin.put("remaining")
        for asset in dict.fromkeys(coin.lot.asset for coin in coins):
            for coin in [coin for coin in self.spendable(asset, "") if coin in coins]:
                owing = [spend for spend in self.spends if spend.asset == asset and spend.debt]
                if owing:
                    owing[0].debt -= 1
                    owing[0].coins.append(coin)
                    coin.put("spent")

    def come_back(self, coins: Iterable[Coin]) -> None:
        """Coins go home, if home is still there."""
        coins = list(coins)
        for coin in coins:
            if coin.lot.voided:
                coin.put("voided")
            elif coin.lot.lapsed:
                coin.put("expired")
        self.land(coin for coin in coins if not coin.lot.voided and not coin.lot.lapsed)

    def let_go(self, hold: Reserved, amount: int) -> None:
        """Coins leave a hold, the last first."""
        self.come_back([hold.coins.pop() for _ in range(amount)])

    def make_lot(self, command_id: str, number: int, asset: str, terms: Terms, now: int) -> Lot:
        """A lot without coins yet."""
        terms = terms._replace(effective_at=terms.effective_at or now)
        lapsed = 0 < terms.expires_at <= now
        lot = Lot(command_id, number, asset, terms, pending=terms.effective_at > now and not lapsed, lapsed=lapsed)
        self.lots.append(lot)
        return lot

    def mint(self, lot: Lot, amount: int) -> list[Coin]:
        """Put new coins into a lot, and say which of them should come back to it now: none if it isn't active yet."""
        coins = [Coin(lot) for _ in range(amount)]
        lot.coins += coins
        for coin in coins if lot.pending else ():
            coin.put("remaining")
        return [] if lot.pending else coins

    # What can be taken.

    def spendable(self, asset: str, use: str, at: int | None = None) -> list[Coin]:
        """Coins that a spend of this use can take, in order; `at` is an instant that their windows must contain."""
        lots = [
            (
                lot.terms.priority,
                not lot.terms.scope,
                ends(lot),
                lot.terms.lot_class is LotClass.PAID,
                begins(lot),
                place,
            )
            for place, lot in enumerate(self.lots)
            if lot.asset == asset and not lot.pending and not lot.lapsed and lot.terms.scope in ("", use)
            if at is None or begins(lot) <= at < ends(lot)
        ]
        return [coin for *_, place in sorted(lots) for coin in self.lots[place].lying("remaining")]

    def debt(self, asset: str) -> int:
        """What is owed."""
        return sum(spend.debt for spend in self.spends if spend.asset == asset)

    # Time.

    def settle(self, now: int) -> None:
        """Let everything happen that is due, each at its instant."""
        while due := self.due(now):
            _, _, _, happen = min(due, key=lambda event: event[:3])
            happen()

    def due(self, now: int) -> list[tuple[int, int, int, Callable[[], None]]]:
        """What is due: the instant, the rank of its kind at one instant, its place among its kind, what happens."""
        events: list[tuple[int, int, int, Callable[[], None]]] = []
        for place, plan in enumerate(self.plans):
            instant = plan.next_at()
            if instant is not None and instant <= now:
                events.append((instant, 0, place, lambda plan=plan: self.take_turn(plan)))  # type: ignore[misc]
        for place, lot in enumerate(self.lots):
            if lot.pending and begins(lot) <= now:
                events.append((begins(lot), 1, place, lambda lot=lot: self.open_window(lot)))  # type: ignore[misc]
            if not lot.lapsed and ends(lot) <= now:
                events.append((int(ends(lot)), 3, place, lambda lot=lot: self.close_window(lot)))  # type: ignore[misc]
        for place, hold in enumerate(self.holds):
            if hold.end is None and hold.deadline <= now:
                events.append((hold.deadline, 2, place, lambda hold=hold: self.lapse(hold)))  # type: ignore[misc]
        return events

    def take_turn(self, plan: Plan) -> None:
        """A schedule grants, unless enough is left of what it granted before."""
        schedule, instant = plan.command, turn_of(plan.command, plan.turns)
        plan.turns += 1
        amount = schedule.amount
        if schedule.cap:
            # A window is half-open: a lot that ends now has nothing left, though its end is reported after this turn.
            mine = [lot for lot in self.lots if lot.command_id == schedule.command_id]
            left = [coin for lot in mine if ends(lot) > instant for coin in lot.lying("remaining")]
            held = [coin for lot in mine for coin in lot.lying("held")]
            amount = min(amount, schedule.cap - len(left) - len(held))
        if amount > 0:
            expires_at = instant + schedule.expires_after_ms if schedule.expires_after_ms else 0
            terms = Terms(schedule.lot_class, schedule.priority, instant, expires_at, schedule.scope)
            lot = self.make_lot(schedule.command_id, plan.turns, schedule.asset, terms, instant)
            self.come_back(self.mint(lot, amount))

    def open_window(self, lot: Lot) -> None:
        """A lot becomes active."""
        lot.pending = False
        self.land(lot.lying("remaining"))

    def close_window(self, lot: Lot) -> None:
        """A lot expires."""
        lot.lapsed = True
        for coin in lot.lying("remaining"):
            coin.put("expired")

    def lapse(self, hold: Reserved) -> None:
        """A hold meets its deadline."""
        hold.end = Reason.HOLD_LAPSED
        # Windows are half-open: in a lot that ends at this instant nothing becomes available any more.
        for lot in {coin.lot: None for coin in hold.coins if ends(coin.lot) <= hold.deadline}:
            self.close_window(lot)
        self.let_go(hold, len(hold.coins))

    # Commands.

    def refusal(self, command: Command) -> Reason | None:
        """What a closed or frozen account says to a command."""
        if self.closed:
            return Reason.ACCOUNT_CLOSED
        passing = (Freeze, Unfreeze, Release, VoidGrant, SetCreditLimit, SettleTransfer)
        if self.frozen is FreezeScope.ALL and not isinstance(command, passing):
            return Reason.ACCOUNT_FROZEN
        if self.frozen is FreezeScope.SPENDING and isinstance(command, Spend | Hold | Transfer):
            return Reason.ACCOUNT_FROZEN
        return None

    def follow(self, command: Command, now: int) -> Reason | None:
        """Do what a command says, or say why not and do nothing."""
        refused = self.refusal(command)
        if refused:
            return refused
        reason = self.act(command, now)
        # What is made with its end, or its turns, behind it meets them at once.
        self.settle(now)
        return reason

    def act(self, command: Command, now: int) -> Reason | None:
        """The same, of an open account."""
        match command:
            case Grant():
                lot = self.make_lot(command.command_id, 1, command.asset, command.terms, now)
                self.come_back(self.mint(lot, command.amount))
            case Spend():
                return self.spend(command, now)
            case Hold():
                return self.hold(command, now)
            case Capture() | Release():
                return self.end_hold(command)
            case Refund():
                return self.refund(command, now)
            case VoidGrant():
                return self.void(command)
            case Transfer():
                coins = self.spendable(command.asset, command.use)[: command.amount]
                if len(coins) < command.amount:
                    return Reason.INSUFFICIENT_CREDITS
                for coin in coins:
                    coin.put("transferred")
                self.travels[command.command_id] = coins
            case SettleTransfer():
                coins = self.travels.pop(command.transfer)
                if command.returned:
                    self.come_back(reversed(coins))
            case Freeze():
                self.frozen = command.scope
            case Unfreeze():
                if self.frozen is None:
                    return Reason.ACCOUNT_NOT_FROZEN
                self.frozen = None
            case Close():
                return self.close(command)
            case SetCreditLimit():
                self.limits[command.asset] = command.limit
            case CreateSchedule():
                self.plans.append(Plan(command))
            case CancelSchedule():
                plans = [plan for plan in self.plans if plan.command.command_id == command.schedule]
                if not plans:
                    return Reason.SCHEDULE_NOT_FOUND
                plans[0].ended = True
            case _:
                raise TypeError(command)
        return None

    def spend(self, command: Spend, now: int) -> Reason | None:
        """Take coins, and owe the rest if that is allowed."""
        if command.effective_at > now:
            return Reason.EFFECTIVE_IN_FUTURE
        coins = self.spendable(command.asset, command.use, command.effective_at or None)[: command.amount]
        debt = 0 if command.partial else command.amount - len(coins)
        backdated = 0 < command.effective_at < now
        if debt and backdated:
            # It may find less than there is now, and debt never stands beside credits that could pay it.
            return Reason.INSUFFICIENT_CREDITS
        if command.partial and not coins:
            return Reason.INSUFFICIENT_CREDITS
        if debt and self.debt(command.asset) + debt > self.limits.get(command.asset, 0):
            return Reason.INSUFFICIENT_CREDITS
        for coin in coins:
            coin.put("spent")
        self.spends.append(Taken(command.command_id, command.asset, coins, debt))
        return None

    def hold(self, command: Hold, now: int) -> Reason | None:
        """Set coins aside."""
        if command.deadline <= now:
            return Reason.DEADLINE_PASSED
        coins = self.spendable(command.asset, command.use)[: command.amount]
        if len(coins) < command.amount:
            return Reason.INSUFFICIENT_CREDITS
        for coin in coins:
            coin.put("held")
        self.holds.append(Reserved(command.command_id, command.deadline, coins))
        return None

    def end_hold(self, command: Capture | Release) -> Reason | None:
        """Spend coins of a hold, the first first, or let go of them, the last first."""
        holds = [hold for hold in self.holds if hold.command_id == command.hold]
        if not holds:
            return Reason.HOLD_NOT_FOUND
        hold = holds[0]
        if hold.end:
            return hold.end
        amount = command.amount or len(hold.coins)
        if amount > len(hold.coins):
            return Reason.EXCEEDS_HOLD
        if isinstance(command, Release):
            self.let_go(hold, amount)
        else:
            coins = [hold.coins.pop(0) for _ in range(amount)]
            for coin in coins:
                coin.put("spent")
            self.spends.append(Taken(command.command_id, coins[0].lot.asset, coins))
            if command.final:
                self.let_go(hold, len(hold.coins))
        if not hold.coins:
            hold.end = Reason.HOLD_CLOSED
        return None

    def refund(self, command: Refund, now: int) -> Reason | None:
        """Undo a spend from its end: what is still owed for it, then its coins, the last first."""
        spends = [spend for spend in self.spends if spend.command_id == command.spend]
        if not spends:
            return Reason.SPEND_NOT_FOUND
        spend = spends[0]
        left = spend.debt + len(spend.coins)
        amount = command.amount or left
        if not left or amount > left:
            return Reason.EXCEEDS_REFUNDABLE
        forgiven = min(amount, spend.debt)
        spend.debt -= forgiven
        coins = [spend.coins.pop() for _ in range(amount - forgiven)]
        renewed: dict[Lot, Lot] = {}
        back: list[Coin] = []
        for coin in coins:
            old = coin.lot
            if not (command.reissue and old.lapsed and not old.voided):
                back.append(coin)
                continue
            coin.put("reissued")
            if old not in renewed:
                terms = old.terms._replace(effective_at=now, expires_at=command.expires_at)
                renewed[old] = self.make_lot(command.command_id, len(renewed) + 1, old.asset, terms, now)
            back += self.mint(renewed[old], 1)
        self.come_back(back)
        return None

    def void(self, command: VoidGrant) -> Reason | None:
        """Take back what is left of lots, now or when it comes home."""
        lots = [lot for lot in self.lots if lot.command_id == command.grant and command.number in (0, lot.number)]
        if not lots:
            return Reason.GRANT_NOT_FOUND
        lots = [lot for lot in lots if lot.lying("remaining", "held")]
        if not lots:
            return Reason.NOTHING_TO_VOID
        for lot in lots:
            lot.voided = True
            for coin in lot.lying("remaining"):
                coin.put("voided")
        return None

    def close(self, command: Close) -> Reason | None:
        """Close for ever."""
        if any(hold.end is None for hold in self.holds):
            return Reason.HOLDS_OPEN
        if any(spend.debt for spend in self.spends):
            return Reason.DEBT_OPEN
        if self.travels:
            return Reason.TRANSFER_IN_TRANSIT
        left = [coin for lot in self.lots for coin in lot.lying("remaining")]
        if left and not command.forfeit:
            return Reason.BALANCE_NOT_ZERO
        for coin in left:
            coin.put("forfeited")
        for plan in self.plans:
            plan.ended = True
        self.closed = True
        return None

    def receive(self, command: ReceiveTransfer, now: int) -> bool:
        """Take in what another account sent; False sends it back."""
        if self.closed or self.frozen is FreezeScope.ALL:
            return False
        coins: list[Coin] = []
        for number, parcel in enumerate(command.parcels, 1):
            lot = self.make_lot(command.command_id, number, command.asset, parcel.terms, now)
            coins += self.mint(lot, parcel.amount)
        self.come_back(coins)
        return True


def kinds(command: Command) -> list[type]:
    """What a command and its steps are: two kinds with the same fields are equal as tuples."""
    return [type(command), *(type(step) for step in (command.steps if isinstance(command, Batch) else ()))]


def begins(lot: Lot) -> int:
    """When a lot's window opens."""
    return lot.terms.effective_at


def ends(lot: Lot) -> float:
    """When it closes."""
    return lot.terms.expires_at or float("inf")


class Model:
    """All accounts, with the surface of the engine's book where the two are compared."""

    def __init__(self) -> None:
        self.clock_ms = 0
        self.owners: dict[str, Owner] = {}
        self.seen: dict[tuple[str, str], Command] = {}

    def advance(self, clock_ms: int) -> None:
        """Move the log's clock, forward only."""
        self.clock_ms = max(self.clock_ms, clock_ms)

    def tick(self) -> None:
        """Settle everybody."""
        for owner in self.owners.values():
            owner.settle(self.clock_ms)

    def apply(self, command: Command) -> Answer:
        """Follow a command, or say why not."""
        steps = command.steps if isinstance(command, Batch) else ()
        verdict = self.known(command)
        if verdict is None and any((command.account, step.command_id) in self.seen for step in steps):
            verdict = Verdict.COMMAND_ID_REUSED
        if verdict is not None:
            return verdict
        owner = self.owners.setdefault(command.account, Owner())
        owner.settle(self.clock_ms)
        self.seen[command.account, command.command_id] = command
        if isinstance(command, ReceiveTransfer):
            owner.receive(command, self.clock_ms)
            return Said()
        if not isinstance(command, Batch):
            return Said(owner.follow(command, self.clock_ms))
        tried = deepcopy(owner)
        for index, step in enumerate(steps):
            reason = tried.follow(step, self.clock_ms)
            if reason:
                return Said(reason, index)
        self.owners[command.account] = tried
        self.seen.update({(command.account, step.command_id): step for step in steps})
        return Said()

    def known(self, command: Command) -> Verdict | None:
        """What is said to an id that was used before."""
        first = self.seen.get((command.account, command.command_id))
        if first is None:
            return None
        same = kinds(first) == kinds(command) and first == command
        return Verdict.DUPLICATE if same else Verdict.COMMAND_ID_REUSED

    def parcels(self, account: str, transfer: str) -> list[tuple[int, Terms]]:
        """What a transfer carries: a parcel per lot, in the order in which they were taken."""
        coins = self.owners[account].travels[transfer]
        lots = list(dict.fromkeys(coin.lot for coin in coins))
        return [(sum(coin.lot is lot for coin in coins), lot.terms) for lot in lots]

    def returned(self, account: str) -> str:
        """Why an account sends back what arrives now, if it does."""
        owner = self.owners.get(account, Owner())
        if owner.closed:
            return "account_closed"
        return "account_frozen" if owner.frozen is FreezeScope.ALL else ""

    def balance(self, account: str, asset: str) -> Balance:
        """An account's credits of one asset, as of its last settling."""
        owner = self.owners.get(account, Owner())
        mine = [coin for lot in owner.lots if lot.asset == asset for coin in lot.coins]
        here = [coin for coin in mine if coin.place == "remaining"]
        pending = sum(coin.lot.pending for coin in here)
        held = sum(coin.place == "held" for coin in mine)
        return Balance(len(here) - pending, pending, held, owner.debt(asset))

    def available(self, account: str, asset: str, use: str = "") -> int:
        """What a spend of a use could take."""
        return len(self.owners.get(account, Owner()).spendable(asset, use))

    def lots(self, account: str) -> dict[tuple[str, int], Lot]:
        """Every lot that an account ever had, by its command and number."""
        return {(lot.command_id, lot.number): lot for lot in self.owners.get(account, Owner()).lots}
