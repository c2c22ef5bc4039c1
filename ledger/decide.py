"""The rules of credits: what each command does to an account that was settled to the log's clock, or why it doesn't.

Owns the order of the checks and the decisions. `decide` reads an account and changes nothing: it gives facts, and
`apply` makes them true. What time does is time.py's. Pure: the same commands at the same clock come to the same facts,
however they are split into chunks.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from creditfold.ledger.account import Account
from creditfold.ledger.apply import apply
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
from creditfold.ledger.facts import PARTICULARS, Bucket, Fact, FactKind, LotId, Move, make
from creditfold.ledger.inflow import Inflow
from creditfold.ledger.limits import MAX_PARCELS
from creditfold.ledger.lots import Held, Lot, Slice, slices_of, without_end, without_start
from creditfold.ledger.reasons import RejectionReason as Reason
from creditfold.ledger.scratch import Scratch
from creditfold.ledger.time import settle


class Refused(NamedTuple):
    """A command is rejected; `step` is the index of the step that is, in a batch."""

    reason: Reason
    step: int | None = None


#: What a rule says: what happens, or why nothing does.
Answer: TypeAlias = list[Fact] | Reason
#: Decides one command without steps by one version of the rules: account, command, the log's clock.
DecideOne: TypeAlias = Callable[[Account, Any, int], Answer]

# Looked up once: of an enumeration's class that is a call of Python's, and takes longer than most of what is done here.
_REMAINING: Final = Bucket.REMAINING
_HELD: Final = Bucket.HELD
_SPENT: Final = Bucket.SPENT
_GRANTED_FACT: Final = FactKind.GRANTED
_SPENT_FACT: Final = FactKind.SPENT
_HELD_FACT: Final = FactKind.HELD
_CAPTURED_FACT: Final = FactKind.CAPTURED
_RELEASED_FACT: Final = FactKind.RELEASED
_REFUNDED_FACT: Final = FactKind.REFUNDED
_INSUFFICIENT_CREDITS: Final = Reason.INSUFFICIENT_CREDITS


def decide(account: Account, command: Command, clock_ms: int) -> list[Fact] | Refused:
    """Decide a command by the account as it is: what happens, or why nothing does.

    Args:
        account: settled to the clock; it is only read.
        command: valid, and of this account.
        clock_ms: the log's clock, in milliseconds since 1970 UTC.

    Returns:
        The facts, for `apply`, or the reason why there are none.

    Raises:
        TypeError: there is no rule for such a command.

    Example:
        >>> decide(Account(), Spend("s-1", "ada", "credits", 5), 0).reason
        <RejectionReason.INSUFFICIENT_CREDITS: 'insufficient_credits'>
    """
    if isinstance(command, Batch):
        steps = decide_steps(account, command, clock_ms, decide_one)
        return steps if isinstance(steps, Refused) else [fact for facts in steps for fact in facts]
    answer = decide_one(account, command, clock_ms)
    return answer if isinstance(answer, list) else Refused(answer)


def decide_steps(account: Account, batch: Batch, clock_ms: int, one: DecideOne) -> list[list[Fact]] | Refused:
    """The facts of each step of a batch, or why there are none: each is decided on what the ones before it leave.

    `one` is what the version of the rules decides of a single command.
    """
    scratch, found = Scratch(account), []
    for index, step in enumerate(batch.steps):
        answer = one(scratch, step, clock_ms)
        if not isinstance(answer, list):
            return Refused(answer, index)
        apply(scratch, answer)
        found.append(answer)
    return found


def decide_one(account: Account, command: Any, clock_ms: int) -> Answer:
    """Decide a command without steps by version 1 of the rules.

    Args:
        account: settled to the clock; it is only read.
        command: valid, and of this account.
        clock_ms: the log's clock, in milliseconds since 1970 UTC.

    Returns:
        The facts, or the reason why there are none.

    Raises:
        TypeError: there is no rule for such a command.

    Example:
        >>> [fact.kind.value for fact in decide_one(Account(), Grant("g-1", "ada", "credits", 5), 0)]
        ['granted']
    """
    kind = type(command)
    rule = _RULES.get(kind)
    if rule is None:
        raise TypeError(f"no rule for {kind.__name__}")
    if (account.is_closed or account.frozen is not None) and kind not in _DERIVED:
        if account.is_closed:
            return Reason.ACCOUNT_CLOSED
        is_blocked = account.frozen == FreezeScope.ALL or kind in _SPENDING
        if is_blocked and kind not in _FREE_WHILE_FROZEN:
            return Reason.ACCOUNT_FROZEN
    return rule(account, command, clock_ms)


def _grant(account: Account, command: Grant, clock_ms: int) -> Answer:
    asset, amount = command.asset, command.amount
    if amount > account.room(asset):
        return Reason.BALANCE_LIMIT_EXCEEDED
    lot_id = make(LotId, (command.command_id, 1))
    effective_at = command.effective_at or clock_ms
    terms = make(Terms, (command.lot_class, command.priority, effective_at, command.expires_at, command.scope))
    return _new_lot(account, None, _Made(_GRANTED_FACT, asset, lot_id, amount, terms), clock_ms)


class _Made:
    """A lot to be made, and what the fact of it is."""

    __slots__ = ("amount", "asset", "kind", "lot_id", "terms")

    def __init__(self, kind: FactKind, asset: str, lot_id: LotId, amount: int, terms: Terms) -> None:
        self.kind = kind
        self.asset = asset
        self.lot_id = lot_id
        self.amount = amount
        self.terms = terms


#: What the credits of a new lot come out of.
_SOURCES: Final = {
    FactKind.GRANTED: Bucket.ISSUED,
    FactKind.ARRIVED: Bucket.IN_TRANSIT,
    FactKind.REISSUED: Bucket.REISSUED,
}


def _new_lot(account: Account, inflow: Inflow | None, new: _Made, clock_ms: int) -> list[Fact]:
    asset, lot_id, amount, terms = new.asset, new.lot_id, new.amount, new.terms
    moves = (Move(lot_id, _SOURCES[new.kind], _REMAINING, amount),)
    fact = Fact(new.kind, clock_ms, asset, lot_id[0], moves, terms)
    expires_at = terms[3]
    if (not expires_at or expires_at > clock_ms) and not account.holding(asset).debt:
        return [fact]
    if inflow is None:
        inflow = Inflow(account, asset, clock_ms)
    return [fact, *inflow.into_new_lot(lot_id, amount, terms)]


def _allocate(
    account: Account, asset: str, use: str, amount: int, target: Bucket, *, at_ms: int | None = None
) -> tuple[tuple[Move, ...], int]:
    """The moves that take an amount out of lots, in the order of spending; and how much can't be taken.

    With an instant, only out of lots whose window it lies in.
    """
    moves = []
    for lot in account.spendable(asset, use):
        if amount <= 0:
            break
        if at_ms is not None and not lot.terms.effective_at <= at_ms < lot.ends_at:
            continue
        there = lot.remaining
        taken = amount if amount < there else there
        moves.append(Move(lot.id, _REMAINING, target, taken))
        amount -= taken
    return tuple(moves), amount


def _spend(account: Account, command: Spend, clock_ms: int) -> Answer:
    asset, amount = command.asset, command.amount
    backdated_to = None
    if command.effective_at:
        if command.effective_at > clock_ms:
            return Reason.EFFECTIVE_IN_FUTURE
        if command.effective_at < clock_ms:
            backdated_to = command.effective_at
    moves, owed = _allocate(account, asset, command.use, amount, _SPENT, at_ms=backdated_to)
    if owed:
        if command.partial:
            if owed == amount:
                return _INSUFFICIENT_CREDITS
        # A backdated one may find less than there is now: it makes no debt beside credits that could be spent.
        elif owed > (0 if backdated_to is not None else account.credit(asset)):
            return _INSUFFICIENT_CREDITS
        else:
            moves = (*moves, Move(None, Bucket.DEBT, _SPENT, owed))
    return [Fact(_SPENT_FACT, clock_ms, asset, command.command_id, moves)]


def _hold(account: Account, command: Hold, clock_ms: int) -> Answer:
    asset, deadline = command.asset, command.deadline
    if deadline <= clock_ms:
        return Reason.DEADLINE_PASSED
    moves, missing = _allocate(account, asset, command.use, command.amount, _HELD)
    if missing:
        return _INSUFFICIENT_CREDITS
    return [Fact(_HELD_FACT, clock_ms, asset, command.command_id, moves, None, "", (deadline,))]


def _open_hold(account: Account, hold_id: str, amount: int) -> Held | Reason:
    """A hold that has this amount left, or why it hasn't."""
    hold = account.hold(hold_id)
    if hold is None:
        return Reason.HOLD_NOT_FOUND
    if hold.is_lapsed:
        return Reason.HOLD_LAPSED
    if not hold.is_open:
        return Reason.HOLD_CLOSED
    if amount > hold.amount:
        return Reason.EXCEEDS_HOLD
    return hold


def _capture(account: Account, command: Capture, clock_ms: int) -> Answer:
    hold = _open_hold(account, command.hold, command.amount)
    if not isinstance(hold, Held):
        return hold
    left, taken = without_start(hold.slices, command.amount or hold.amount)
    moves = _moves(taken, _HELD, _SPENT)
    particulars = (command.command_id,)
    facts = [Fact(_CAPTURED_FACT, clock_ms, hold.asset, command.hold, moves, None, "", particulars)]
    if command.final and left:
        facts += _let_go(account, hold, left[::-1], clock_ms)
    return facts


def _release(account: Account, command: Release, clock_ms: int) -> Answer:
    hold = _open_hold(account, command.hold, command.amount)
    if not isinstance(hold, Held):
        return hold
    _, taken = without_end(hold.slices, command.amount or hold.amount)
    return _let_go(account, hold, taken, clock_ms)


def _let_go(account: Account, hold: Held, slices: tuple[Slice, ...], clock_ms: int) -> list[Fact]:
    """Give slices off the end of a hold back to their lots."""
    moves = _moves(slices, _HELD, _REMAINING)
    fact = Fact(_RELEASED_FACT, clock_ms, hold.asset, hold.id, moves)
    return [fact, *Inflow(account, hold.asset, clock_ms).returned(slices)]


def _refund(account: Account, command: Refund, clock_ms: int) -> Answer:
    spend = account.spend(command.spend)
    if spend is None:
        return Reason.SPEND_NOT_FOUND
    refundable = spend.refundable
    amount = command.amount or refundable
    if not 0 < amount <= refundable:
        return Reason.EXCEEDS_REFUNDABLE
    asset, forgiven = spend.asset, min(amount, spend.debt)
    if amount - forgiven > account.room(asset):
        return Reason.BALANCE_LIMIT_EXCEEDED
    _, taken = without_end(spend.slices, amount - forgiven)
    moves: tuple[Move, ...] = (Move(None, _SPENT, Bucket.DEBT, forgiven),) if forgiven else ()
    renewed: dict[LotId, int] = {}
    home = []
    for part in taken:
        if command.reissue and _is_renewed(account.lot(part.lot), clock_ms):
            renewed[part.lot] = renewed.get(part.lot, 0) + part.amount
        else:
            home.append(part)
    moves += _moves(home, _SPENT, _REMAINING)
    facts = [Fact(_REFUNDED_FACT, clock_ms, asset, command.spend, moves)] if moves else []
    inflow = Inflow(account, asset, clock_ms, forgiven=command.spend)
    back = inflow.come_back(home)
    for number, (old, renewal) in enumerate(renewed.items(), start=1):
        out = Move(old, _SPENT, Bucket.REISSUED, renewal)
        terms = account.lot(old).terms._replace(effective_at=clock_ms, expires_at=command.expires_at)
        new = _Made(FactKind.REISSUED, asset, LotId(command.command_id, number), renewal, terms)
        made, *others = _new_lot(account, inflow, new, clock_ms)
        moves = (out, *made.moves)
        facts.append(Fact(made.kind, made.at_ms, asset, made.ref, moves, made.terms, particulars=(command.spend,)))
        facts += others
    return [*facts, *inflow.lost(back), *inflow.repay()]


def _is_renewed(lot: Lot, clock_ms: int) -> bool:
    return lot.is_over(clock_ms) and not lot.is_void


def _void(account: Account, command: VoidGrant, clock_ms: int) -> Answer:
    lots = account.lots_by(command.grant, command.number)
    if not lots:
        return Reason.GRANT_NOT_FOUND
    lots = [lot for lot in lots if lot.is_live]
    if not lots:
        return Reason.NOTHING_TO_VOID
    moves = tuple([Move(lot.id, _REMAINING, Bucket.VOIDED, lot.remaining) for lot in lots if lot.remaining])
    held = tuple([lot.id.number for lot in lots if not lot.remaining])
    particulars = (held,) if held else ()
    return [Fact(FactKind.VOIDED, clock_ms, lots[0].asset, command.grant, moves, particulars=particulars)]


def _transfer(account: Account, command: Transfer, clock_ms: int) -> Answer:
    asset = command.asset
    moves, missing = _allocate(account, asset, command.use, command.amount, Bucket.IN_TRANSIT)
    if missing or len(moves) > MAX_PARCELS:
        return Reason.INSUFFICIENT_CREDITS
    facts: list[Fact] = []
    for (lot_id, _), move in zip(slices_of(moves), moves, strict=True):
        # The receiver is said once.
        particulars = (command.command_id, "" if facts else command.to)
        terms = account.lot(lot_id).terms
        facts.append(Fact(FactKind.SENT, clock_ms, asset, lot_id.command_id, (move,), terms, particulars=particulars))
    return facts


def _receive(account: Account, command: ReceiveTransfer, clock_ms: int) -> Answer:
    asset, refused = command.asset, ""
    if account.is_closed:
        refused = Reason.ACCOUNT_CLOSED
    elif account.frozen == FreezeScope.ALL:
        refused = Reason.ACCOUNT_FROZEN
    elif sum(parcel.amount for parcel in command.parcels) > account.room(asset):
        refused = Reason.BALANCE_LIMIT_EXCEEDED
    if refused:
        return [Fact(FactKind.REFUSED, clock_ms, asset, command.transfer, detail=str(refused))]
    facts: list[Fact] = []
    inflow = Inflow(account, asset, clock_ms)
    for number, parcel in enumerate(command.parcels, start=1):
        terms = parcel.terms
        if not terms.effective_at:
            terms = terms._replace(effective_at=clock_ms)
        new = _Made(FactKind.ARRIVED, asset, LotId(command.command_id, number), parcel.amount, terms)
        facts += _new_lot(account, inflow, new, clock_ms)
    return facts


def _settle_transfer(account: Account, command: SettleTransfer, clock_ms: int) -> Answer:
    sent = account.transfers.get(command.transfer)
    if sent is None or not sent.is_open:
        return Reason.SPEND_NOT_FOUND
    if not command.returned:
        return [Fact(FactKind.COMPLETED, clock_ms, sent.asset, command.transfer)]
    slices = sent.slices[::-1]
    moves = _moves(slices, Bucket.IN_TRANSIT, _REMAINING)
    fact = Fact(FactKind.RETURNED, clock_ms, sent.asset, command.transfer, moves, detail=command.returned)
    return [fact, *Inflow(account, sent.asset, clock_ms).returned(slices)]


def _freeze(account: Account, command: Freeze, clock_ms: int) -> list[Fact]:
    return [Fact(FactKind.FROZEN, clock_ms, "", command.command_id, detail=str(command.scope))]


def _unfreeze(account: Account, command: Unfreeze, clock_ms: int) -> Answer:
    if account.frozen is None:
        return Reason.ACCOUNT_NOT_FROZEN
    return [Fact(FactKind.UNFROZEN, clock_ms, "", command.command_id)]


def _close(account: Account, command: Close, clock_ms: int) -> Answer:
    if any(hold.is_open for hold in account.holds.values()):
        return Reason.HOLDS_OPEN
    if any(holding.debt for holding in account.holdings.values()):
        return Reason.DEBT_OPEN
    if any(sent.is_open for sent in account.transfers.values()):
        return Reason.TRANSFER_IN_TRANSIT
    left: dict[str, list[Lot]] = {}
    # In the order in which they were made, whatever the order in which they were loaded.
    for lot in sorted(account.lots.values(), key=lambda lot: (lot.made, lot.id)):
        if lot.remaining:
            left.setdefault(lot.asset, []).append(lot)
    if left and not command.forfeit:
        return Reason.BALANCE_NOT_ZERO
    facts = []
    for asset, lots in left.items():
        moves = tuple([Move(lot.id, _REMAINING, Bucket.FORFEITED, lot.remaining) for lot in lots])
        facts.append(Fact(FactKind.FORFEITED, clock_ms, asset, command.command_id, moves))
    return [*facts, Fact(FactKind.CLOSED, clock_ms, "", command.command_id)]


def _limit(account: Account, command: SetCreditLimit, clock_ms: int) -> list[Fact]:
    return [Fact(FactKind.LIMITED, clock_ms, command.asset, command.command_id, detail=str(command.limit))]


def _schedule(account: Account, command: CreateSchedule, clock_ms: int) -> list[Fact]:
    particulars = tuple([getattr(command, name) for name in PARTICULARS[FactKind.SCHEDULED]])
    facts = [Fact(FactKind.SCHEDULED, clock_ms, command.asset, command.command_id, particulars=particulars)]
    if command.first_at <= clock_ms:
        # Occurrences that were missed already, each on what the ones before it leave.
        scratch = Scratch(account)
        apply(scratch, facts)
        facts += settle(scratch, clock_ms)
    return facts


def _cancel(account: Account, command: CancelSchedule, clock_ms: int) -> Answer:
    scheduled = account.schedules.get(command.schedule)
    if scheduled is None:
        return Reason.SCHEDULE_NOT_FOUND
    return [Fact(FactKind.CANCELLED, clock_ms, scheduled.command.asset, command.schedule)]


def _moves(slices: Sequence[Slice], source: Bucket, target: Bucket) -> tuple[Move, ...]:
    return tuple([Move(lot, source, target, amount) for lot, amount in slices])


_RULES: Final[dict[type, Callable[[Account, Any, int], Answer]]] = {
    Grant: _grant,
    Spend: _spend,
    Hold: _hold,
    Capture: _capture,
    Release: _release,
    Refund: _refund,
    VoidGrant: _void,
    Transfer: _transfer,
    ReceiveTransfer: _receive,
    SettleTransfer: _settle_transfer,
    Freeze: _freeze,
    Unfreeze: _unfreeze,
    Close: _close,
    SetCreditLimit: _limit,
    CreateSchedule: _schedule,
    CancelSchedule: _cancel,
}

#: What goes on whatever state an account is in: it was decided elsewhere.
_DERIVED: Final[tuple[type, ...]] = (ReceiveTransfer, SettleTransfer)
_FREE_WHILE_FROZEN: Final[tuple[type, ...]] = (Freeze, Unfreeze, Release, VoidGrant, SetCreditLimit)
#: What a freeze of spending blocks.
_SPENDING: Final[tuple[type, ...]] = (Spend, Hold, Transfer)
