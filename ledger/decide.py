"""The rules of credits: what each command does to an account that was settled to the log's clock, or why it doesn't.

Owns the order of the checks and the decisions. How credits move, and what time does, is credit_account.py's. Pure: the
same commands at the same clock come to the same facts, however they are split into chunks.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from creditfold.ledger.account import (
    Account,
    Held,
    Lot,
    NewLot,
    Slice,
    lots_of,
    without_end,
    without_start,
)
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
    Step,
    Transfer,
    Unfreeze,
    VoidGrant,
)
from creditfold.ledger.facts import Bucket, Fact, FactKind, LotId, Move, make
from creditfold.ledger.limits import MAX_PARCELS
from creditfold.ledger.reasons import RejectionReason as Reason


class Refused(NamedTuple):
    """A rule says no: to a command, or to the step of a batch that has this index."""

    reason: Reason
    step: int | None = None


#: What a rule says: what happened, or why nothing did.
Answer: TypeAlias = list[Fact] | Reason
#: Decides one command without steps by one version of the rules: account, command, the log's clock.
DecideOne: TypeAlias = Callable[[Account, Any, int], Answer]
#: Told of each step of a batch when it is done: the step, and what happened.
OnStep: TypeAlias = Callable[[Step, list[Fact]], None]


def decide(account: Account, command: Command, clock_ms: int, on_step: OnStep, one: DecideOne) -> list[Fact] | Refused:
    """Do what a command asks of a settled account, by `one`; gives what happened, or why nothing did.

    Raises TypeError for a command that it doesn't know.
    """
    if isinstance(command, Batch):
        return _batch(account, command, clock_ms, on_step, one)
    answer = one(account, command, clock_ms)
    return answer if isinstance(answer, list) else Refused(answer)


def decide_one(account: Account, command: Any, clock_ms: int) -> Answer:
    """Version 1 of the rules, for a command without steps."""
    kind = command.__class__
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


def _batch(account: Account, batch: Batch, clock_ms: int, on_step: OnStep, one: DecideOne) -> list[Fact] | Refused:
    facts: list[Fact] = []
    account.begin_undoable()
    try:
        for index, step in enumerate(batch.steps):
            answer = one(account, step, clock_ms)
            if not isinstance(answer, list):
                account.undo()
                return Refused(answer, index)
            on_step(step, answer)
            facts += answer
    finally:
        account.end_undoable()
    return facts


def _grant(account: Account, command: Grant, clock_ms: int) -> Answer:
    if command.amount > account.room(command.asset):
        return Reason.BALANCE_LIMIT_EXCEEDED
    lot_id = make(LotId, (command.command_id, 1))
    return _new_lot(
        account, make(NewLot, (lot_id, command.asset, command.amount, command.terms, Bucket.ISSUED)), clock_ms
    )


def _new_lot(account: Account, new: NewLot, clock_ms: int) -> list[Fact]:
    lot, move = account.make_lot(new, clock_ms)
    fact = make(Fact, (_MADE[new.source], clock_ms, new.asset, new.lot_id.command_id, (move,), lot.terms, ""))
    return [fact, *account.come_home([lot], clock_ms)]


_MADE = {Bucket.ISSUED: FactKind.GRANTED, Bucket.IN_TRANSIT: FactKind.ARRIVED, Bucket.REISSUED: FactKind.REISSUED}


def _spend(account: Account, command: Spend, clock_ms: int) -> Answer:
    asset, amount = command.asset, command.amount
    backdated_to = None
    if command.effective_at:
        if command.effective_at > clock_ms:
            return Reason.EFFECTIVE_IN_FUTURE
        if command.effective_at < clock_ms:
            backdated_to = command.effective_at
    slices = account.allocate(asset, command.use, amount, backdated_to)
    owed = amount - _sum(slices)
    if owed:
        if command.partial:
            if owed == amount:
                return Reason.INSUFFICIENT_CREDITS
            owed = 0
        else:
            holding = account.holding(asset)
            # A backdated one may find less than there is now: it makes no debt beside credits that could be spent.
            if owed > (0 if backdated_to is not None else holding.limit - holding.debt):
                return Reason.INSUFFICIENT_CREDITS
    moves = account.move_all(slices, Bucket.REMAINING, Bucket.SPENT)
    spend = account.keep_spend(command.command_id, asset, slices)
    if owed:
        moves += (account.owe(command.command_id, spend, owed),)
    return [make(Fact, (FactKind.SPENT, clock_ms, asset, command.command_id, moves, None, ""))]


def _hold(account: Account, command: Hold, clock_ms: int) -> Answer:
    if command.deadline <= clock_ms:
        return Reason.DEADLINE_PASSED
    slices = account.allocate(command.asset, command.use, command.amount)
    if _sum(slices) < command.amount:
        return Reason.INSUFFICIENT_CREDITS
    moves = account.move_all(slices, Bucket.REMAINING, Bucket.HELD)
    account.hold_until(command.command_id, command.asset, command.deadline, slices)
    return [make(Fact, (FactKind.HELD, clock_ms, command.asset, command.command_id, moves, None, ""))]


def _open_hold(account: Account, hold_id: str, amount: int) -> Held | Reason:
    """A hold of which so much is meant, or why it can't be."""
    hold = account.holds.get(hold_id)
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
    amount = command.amount or hold.amount
    left, taken = without_start(hold.slices, amount)
    account.note(hold)
    hold.slices = left
    hold.is_open = bool(left)
    moves = account.move_all(taken, Bucket.HELD, Bucket.SPENT)
    account.keep_spend(command.command_id, hold.asset, taken)
    facts = [Fact(FactKind.CAPTURED, clock_ms, hold.asset, command.hold, moves)]
    if command.final and left:
        facts += account.let_go(hold, left[::-1], FactKind.RELEASED, clock_ms)
    return facts


def _release(account: Account, command: Release, clock_ms: int) -> Answer:
    hold = _open_hold(account, command.hold, command.amount)
    if not isinstance(hold, Held):
        return hold
    amount = command.amount or hold.amount
    _, taken = without_end(hold.slices, amount)
    return account.let_go(hold, taken, FactKind.RELEASED, clock_ms)


def _refund(account: Account, command: Refund, clock_ms: int) -> Answer:
    spend = account.spends.get(command.spend)
    if spend is None:
        return Reason.SPEND_NOT_FOUND
    amount = command.amount or spend.refundable
    if not 0 < amount <= spend.refundable:
        return Reason.EXCEEDS_REFUNDABLE
    forgiven = min(amount, spend.debt)
    if amount - forgiven > account.room(spend.asset):
        return Reason.BALANCE_LIMIT_EXCEEDED
    left, taken = without_end(spend.slices, amount - forgiven)
    moves: tuple[Move, ...] = (account.owe(command.spend, spend, -forgiven),) if forgiven else ()
    account.note(spend)
    spend.slices = left
    renewed: dict[Lot, int] = {}
    home = []
    for part in taken:
        if command.reissue and part.lot.is_lapsed and not part.lot.is_void:
            renewed[part.lot] = renewed.get(part.lot, 0) + part.amount
        else:
            home.append(part)
    moves += account.move_all(home, Bucket.SPENT, Bucket.REMAINING)
    facts = [Fact(FactKind.REFUNDED, clock_ms, spend.asset, command.spend, moves)] if moves else []
    for number, (old, back) in enumerate(renewed.items(), start=1):
        out = account.move(old, Bucket.SPENT, Bucket.REISSUED, back)
        terms = old.terms._replace(effective_at=clock_ms, expires_at=command.expires_at)
        new = NewLot(LotId(command.command_id, number), old.asset, back, terms, Bucket.REISSUED)
        made, *others = _new_lot(account, new, clock_ms)
        facts += [made._replace(moves=(out, *made.moves)), *others]
    return facts + account.come_home(lots_of(home), clock_ms)


def _void(account: Account, command: VoidGrant, clock_ms: int) -> Answer:
    lots = account.lots_by(command.grant, command.number)
    if not lots:
        return Reason.GRANT_NOT_FOUND
    lots = [lot for lot in lots if lot.remaining or lot.held]
    if not lots:
        return Reason.NOTHING_TO_VOID
    moves: tuple[Move, ...] = ()
    for lot in lots:
        account.note(lot)
        lot.is_void = True
        if lot.remaining:
            moves += (account.move(lot, Bucket.REMAINING, Bucket.VOIDED, lot.remaining),)
    return [Fact(FactKind.VOIDED, clock_ms, lots[0].asset, command.grant, moves)]


def _transfer(account: Account, command: Transfer, clock_ms: int) -> Answer:
    slices = account.allocate(command.asset, command.use, command.amount)
    if _sum(slices) < command.amount or len(slices) > MAX_PARCELS:
        return Reason.INSUFFICIENT_CREDITS
    account.send(command.command_id, command.asset, command.to, slices)
    return [
        Fact(
            FactKind.SENT,
            clock_ms,
            command.asset,
            part.lot.id.command_id,
            (account.move(part.lot, Bucket.REMAINING, Bucket.IN_TRANSIT, part.amount),),
            part.lot.terms,
        )
        for part in slices
    ]


def _receive(account: Account, command: ReceiveTransfer, clock_ms: int) -> Answer:
    refused = ""
    if account.is_closed:
        refused = Reason.ACCOUNT_CLOSED
    elif account.frozen == FreezeScope.ALL:
        refused = Reason.ACCOUNT_FROZEN
    elif sum(parcel.amount for parcel in command.parcels) > account.room(command.asset):
        refused = Reason.BALANCE_LIMIT_EXCEEDED
    if refused:
        return [Fact(FactKind.REFUSED, clock_ms, command.asset, command.transfer, detail=str(refused))]
    facts = []
    for number, parcel in enumerate(command.parcels, start=1):
        new = NewLot(LotId(command.command_id, number), command.asset, parcel.amount, parcel.terms, Bucket.IN_TRANSIT)
        facts += _new_lot(account, new, clock_ms)
    return facts


def _settle_transfer(account: Account, command: SettleTransfer, clock_ms: int) -> Answer:
    sent = account.transfers.get(command.transfer)
    if sent is None or not sent.is_open:
        return Reason.SPEND_NOT_FOUND
    account.note(sent)
    sent.is_open = False
    if not command.returned:
        return [Fact(FactKind.COMPLETED, clock_ms, sent.asset, command.transfer)]
    slices = sent.slices[::-1]
    moves = account.move_all(slices, Bucket.IN_TRANSIT, Bucket.REMAINING)
    fact = Fact(FactKind.RETURNED, clock_ms, sent.asset, command.transfer, moves, detail=command.returned)
    return [fact, *account.come_home(lots_of(slices), clock_ms)]


def _freeze(account: Account, command: Freeze, clock_ms: int) -> list[Fact]:
    account.frozen = command.scope
    return [Fact(FactKind.FROZEN, clock_ms, "", command.command_id, detail=str(command.scope))]


def _unfreeze(account: Account, command: Unfreeze, clock_ms: int) -> Answer:
    if account.frozen is None:
        return Reason.ACCOUNT_NOT_FROZEN
    account.frozen = None
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
        moves = tuple(account.move(lot, Bucket.REMAINING, Bucket.FORFEITED, lot.remaining) for lot in lots)
        facts.append(Fact(FactKind.FORFEITED, clock_ms, asset, command.command_id, moves))
    for scheduled in account.schedules.values():
        if scheduled.is_open:
            account.note(scheduled)
            scheduled.is_open = False
    account.is_closed = True
    return [*facts, Fact(FactKind.CLOSED, clock_ms, "", command.command_id)]


def _limit(account: Account, command: SetCreditLimit, clock_ms: int) -> list[Fact]:
    account.holding(command.asset).limit = command.limit
    return [Fact(FactKind.LIMITED, clock_ms, command.asset, command.command_id, detail=str(command.limit))]


def _schedule(account: Account, command: CreateSchedule, clock_ms: int) -> list[Fact]:
    account.schedule(command)
    fact = Fact(FactKind.SCHEDULED, clock_ms, command.asset, command.command_id)
    # Occurrences that were missed already.
    return [fact, *account.settle(clock_ms)]


def _cancel(account: Account, command: CancelSchedule, clock_ms: int) -> Answer:
    scheduled = account.schedules.get(command.schedule)
    if scheduled is None:
        return Reason.SCHEDULE_NOT_FOUND
    account.note(scheduled)
    scheduled.is_open = False
    return [Fact(FactKind.CANCELLED, clock_ms, scheduled.command.asset, command.schedule)]


def _sum(slices: Iterable[Slice]) -> int:
    total = 0
    for part in slices:
        total += part[1]
    return total


_RULES: Mapping[type, Callable[[Account, Any, int], Answer]] = {
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
_DERIVED = (ReceiveTransfer, SettleTransfer)
_FREE_WHILE_FROZEN = (Freeze, Unfreeze, Release, VoidGrant, SetCreditLimit)
#: What a freeze of spending blocks.
_SPENDING = (Spend, Hold, Transfer)
