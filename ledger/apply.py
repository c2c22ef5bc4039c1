"""Facts applied to an account: the only way in which one changes.

Owns what each kind of fact means for an account's state. Decides nothing, and looks for nothing: a fact names the lots
that its credits move in, and what else it concerns. So a replay is a loop over `apply`, and gives the account:

    account = Account()
    for line in journal:
        account.begin(line.position)
        apply(account, line.facts)

Every move is checked: nothing is taken from where it isn't.
"""

from collections.abc import Callable, Iterable
from typing import Final

from creditfold.ledger.account import LAPSE, Account, Holding
from creditfold.ledger.commands import CreateSchedule
from creditfold.ledger.facts import Bucket, CorruptStateError, Fact, FactKind, LotId, Move, make
from creditfold.ledger.lots import (
    Held,
    Lot,
    Scheduled,
    Sent,
    Slice,
    Spent,
    slices_of,
    total,
    without_end,
    without_start,
)

# Looked up once.
_REMAINING: Final = Bucket.REMAINING
_HELD: Final = Bucket.HELD
_SPENT: Final = Bucket.SPENT
_DEBT: Final = Bucket.DEBT
_EXPIRED: Final = Bucket.EXPIRED
_VOIDED: Final = Bucket.VOIDED
_FORFEITED: Final = Bucket.FORFEITED
_REISSUED: Final = Bucket.REISSUED
_IN_TRANSIT: Final = Bucket.IN_TRANSIT
_GRANTED_FACT: Final = FactKind.GRANTED
_SPENT_FACT: Final = FactKind.SPENT


def apply(account: Account, facts: Iterable[Fact]) -> None:
    """Change an account by what happened to it, in that order. A replay is a loop over this.

    Args:
        account: of which the facts are.
        facts: as `decide` and `settle` return them, or as the journal has them.

    Raises:
        CorruptStateError: a fact doesn't fit the account, whose state is undefined then.

    Example:
        >>> account = Account()
        >>> apply(account, decide(account, Grant("g-1", "ada", "credits", 5), 0))
        >>> account.balance("credits").available
        5
    """
    for fact in facts:
        kind = fact.kind
        # As nearly all are.
        if kind is _SPENT_FACT:
            _spend(account, fact)
        elif kind is _GRANTED_FACT:
            _make_lot(account, fact)
        else:
            _CHANGES[kind](account, fact)


# How credits move.


def _move(account: Account, holding: Holding, move: Move) -> Lot:
    """Move credits of a lot, and keep every total of them."""
    lot_id, source, target, amount = move.lot, move.source, move.target, move.amount
    if lot_id is None:
        raise CorruptStateError(f"no lot is named by {move}")
    lot = account.lot_to_change(lot_id)
    _add(holding, lot, source, -amount)
    _add(holding, lot, target, amount)
    if lot.schedule is not None:
        if source is _REMAINING or source is _HELD:
            lot.schedule.kept -= amount
        if target is _REMAINING or target is _HELD:
            lot.schedule.kept += amount
    holding.enlist(lot)
    return lot


def _add(holding: Holding, lot: Lot, bucket: Bucket, change: int) -> None:
    if bucket is _REMAINING:
        left = lot.remaining = lot.remaining + change
        holding.count(lot, change)
    elif bucket is _SPENT:
        left = lot.spent = lot.spent + change
    elif bucket is _HELD:
        left = lot.held = lot.held + change
        holding.held += change
    elif bucket is _DEBT:
        # What repaid a debt was spent.
        left = lot.spent = lot.spent + change
        holding.debt -= change
    elif bucket is _EXPIRED:
        left = lot.expired = lot.expired + change
    elif bucket is _VOIDED:
        left = lot.voided = lot.voided + change
    elif bucket is _FORFEITED:
        left = lot.forfeited = lot.forfeited + change
    elif bucket is _REISSUED:
        left = lot.reissued = lot.reissued + change
    elif bucket is _IN_TRANSIT:
        left = lot.transferred = lot.transferred + change
    else:
        raise CorruptStateError(f"nothing of a lot is {bucket}")
    if left < 0:
        raise CorruptStateError(f"{-change} {bucket} are taken of lot {lot.id}, which has {left - change}")


def _move_all(account: Account, fact: Fact) -> None:
    """Make all moves of a fact, of whatever kind."""
    holding = account.holding_to_change(fact.asset)
    for move in fact.moves:
        _move(account, holding, move)


def _owe(account: Account, holding: Holding, spend: Spent, change: int) -> None:
    """Make a spend's debt larger, or smaller. How much the account owes in all is counted elsewhere."""
    spend.debt += change
    if spend.debt < 0:
        raise CorruptStateError(f"{-change} of spend {spend.id!a} are repaid, of which {spend.debt - change} are owed")
    if not spend.debt:
        holding.debts.pop(spend.id, None)
    elif spend.id not in holding.debts:
        if not holding.debts:
            # It may be the one that all accounts share.
            holding.debts = {}
        holding.debts[spend.id] = spend


# Lots.


def _make_lot(account: Account, fact: Fact) -> Lot:
    """Make the lot that a fact's last move is into; its window says whether its credits are to be had yet."""
    moves, terms = fact.moves, fact.terms
    move = moves[-1]
    lot_id, amount = move.lot, move.amount
    if lot_id is None or terms is None:
        raise CorruptStateError(f"no lot is described by {fact}")
    holding = account.holding_to_change(fact.asset)
    lot = Lot(lot_id, fact.asset, terms, holding.number(account.position), move.source)
    lot.is_pending = terms.effective_at > fact.at_ms
    lot.amount = lot.remaining = amount
    account.keep_lot(lot)
    account.mark(lot, account.position)
    holding.count(lot, amount)
    holding.enlist(lot)
    account.expect_lot(lot)
    return lot


def _reissued(account: Account, fact: Fact) -> None:
    (spend_id,) = fact.particulars
    _take_back(account, spend_id, fact.moves[0].amount)
    _move(account, account.holding_to_change(fact.asset), fact.moves[0])
    _make_lot(account, fact)


def _activated(account: Account, fact: Fact) -> None:
    number = fact.particulars[0] if fact.particulars else 1
    lot = account.lot_to_change(make(LotId, (fact.ref, number)))
    holding, amount = account.holding_to_change(fact.asset), lot.remaining
    holding.count(lot, -amount)
    lot.is_pending = False
    holding.count(lot, amount)
    holding.enlist(lot)


def _expired(account: Account, fact: Fact) -> None:
    holding = account.holding_to_change(fact.asset)
    for move in fact.moves:
        lot = _move(account, holding, move)
        lot.is_lapsed = True
        _check_dead(lot)


def _voided(account: Account, fact: Fact) -> None:
    holding = account.holding_to_change(fact.asset)
    lots = [_move(account, holding, move) for move in fact.moves]
    if fact.particulars:
        lots += [account.lot_to_change(make(LotId, (fact.ref, number))) for number in fact.particulars[0]]
    for lot in lots:
        lot.is_void = True
        _check_dead(lot)


def _check_dead(lot: Lot) -> None:
    if lot.remaining:
        raise CorruptStateError(f"{lot.remaining} remain in lot {lot.id}, which is dead")


# Spends and what is owed.


def _spend(account: Account, fact: Fact) -> None:
    asset = fact.asset
    holding = account.holding_to_change(asset)
    owed = 0
    slices: list[Slice] = []
    for move in fact.moves:
        lot_id, amount = move.lot, move.amount
        if lot_id is None:
            owed += amount
            continue
        lot = account.lot_to_change(lot_id)
        lot.remaining -= amount
        lot.spent += amount
        holding.available -= amount
        if lot.schedule is not None:
            lot.schedule.kept -= amount
        if lot.remaining <= 0:
            if lot.remaining < 0:
                raise CorruptStateError(f"{amount} are spent of lot {lot_id}, of which {lot.remaining + amount} remain")
            holding.enlist(lot)
        slices.append(make(Slice, (lot_id, amount)))
    spend = Spent(fact.ref, asset, tuple(slices), holding.number(account.position))
    account.keep_spend(spend)
    if owed:
        account.mark(spend, account.position)
        _owe(account, holding, spend, owed)
        holding.debt += owed


def _repaid(account: Account, fact: Fact) -> None:
    holding = account.holding_to_change(fact.asset)
    spend = account.spend_to_change(fact.ref)
    for move in fact.moves:
        lot = _move(account, holding, move)
        _owe(account, holding, spend, -move.amount)
        spend.add(make(Slice, (lot.id, move.amount)))


def _refunded(account: Account, fact: Fact) -> None:
    holding, taken = account.holding_to_change(fact.asset), 0
    for move in fact.moves:
        if move.lot is None:
            _owe(account, holding, account.spend_to_change(fact.ref), -move.amount)
            holding.debt -= move.amount
        else:
            taken += move.amount
            _move(account, holding, move)
    _take_back(account, fact.ref, taken)


def _take_back(account: Account, spend_id: str, amount: int) -> None:
    """Take an amount off the end of what a spend can be refunded."""
    spend = account.spend_to_change(spend_id)
    spend.slices = without_end(spend.slices, amount)[0]


# Holds.


def _held(account: Account, fact: Fact) -> None:
    (deadline,) = fact.particulars
    _move_all(account, fact)
    made = account.holding_to_change(fact.asset).number(account.position)
    hold = Held(fact.ref, fact.asset, deadline, slices_of(fact.moves), made)
    account.keep_hold(hold)
    account.mark(hold, account.position)
    account.expect(deadline, LAPSE, hold)


def _captured(account: Account, fact: Fact) -> None:
    (spend_id,) = fact.particulars
    hold, taken = account.hold_to_change(fact.ref), slices_of(fact.moves)
    hold.slices = without_start(hold.slices, total(taken))[0]
    hold.is_open = bool(hold.slices)
    _move_all(account, fact)
    made = account.holding_to_change(fact.asset).number(account.position)
    account.keep_spend(Spent(spend_id, fact.asset, taken, made))


def _released(account: Account, fact: Fact) -> None:
    hold = account.hold_to_change(fact.ref)
    hold.slices = without_end(hold.slices, total(slices_of(fact.moves)))[0]
    hold.is_open = bool(hold.slices)
    _move_all(account, fact)


def _lapsed(account: Account, fact: Fact) -> None:
    account.hold_to_change(fact.ref).is_lapsed = True
    _released(account, fact)


# Transfers.


def _sent(account: Account, fact: Fact) -> None:
    transfer_id, to = fact.particulars
    sent = account.transfers.get(transfer_id)
    if sent is None:
        sent = Sent(transfer_id, fact.asset, to)
        account.keep_transfer(sent)
    account.mark(sent, account.position)
    sent.slices += slices_of(fact.moves)
    _move_all(account, fact)


def _came_to_an_end(account: Account, fact: Fact) -> None:
    sent = account.transfers.get(fact.ref)
    if sent is None:
        raise CorruptStateError(f"there is no transfer {fact.ref!a}")
    account.mark(sent, account.position)
    sent.is_open = False
    if fact.moves:
        _move_all(account, fact)


# Schedules.


def _scheduled(account: Account, fact: Fact) -> None:
    command = CreateSchedule(fact.ref, "", fact.asset, *fact.particulars)
    scheduled = Scheduled(command, account.holding_to_change(fact.asset).number(account.position))
    account.keep_schedule(scheduled)
    account.mark(scheduled, account.position)
    account.expect_turn(scheduled)


def _schedule_to_change(account: Account, schedule_id: str) -> Scheduled:
    scheduled = account.schedules.get(schedule_id)
    if scheduled is None:
        raise CorruptStateError(f"there is no schedule {schedule_id!a}")
    account.mark(scheduled, account.position)
    return scheduled


def _take_turn(account: Account, fact: Fact) -> None:
    scheduled = _schedule_to_change(account, fact.ref)
    scheduled.next = int(fact.detail) + 1
    if fact.moves:
        scheduled.count_in(_make_lot(account, fact))
    account.expect_turn(scheduled)


def _cancelled(account: Account, fact: Fact) -> None:
    _schedule_to_change(account, fact.ref).is_open = False


# The account as a whole.


def _frozen(account: Account, fact: Fact) -> None:
    account.frozen = fact.detail


def _unfrozen(account: Account, fact: Fact) -> None:
    account.frozen = None


def _closed(account: Account, fact: Fact) -> None:
    account.is_closed = True
    for scheduled in account.schedules.values():
        if scheduled.is_open:
            account.mark(scheduled, account.position)
            scheduled.is_open = False


def _limited(account: Account, fact: Fact) -> None:
    account.holding_to_change(fact.asset).limit = int(fact.detail)


def _refused(account: Account, fact: Fact) -> None:
    """A transfer that goes back changes nothing here."""


_CHANGES: Final[dict[FactKind, Callable[[Account, Fact], object]]] = {
    FactKind.OCCURRED: _take_turn,
    FactKind.CAPPED: _take_turn,
    FactKind.ACTIVATED: _activated,
    FactKind.LAPSED: _lapsed,
    FactKind.EXPIRED: _expired,
    FactKind.REPAID: _repaid,
    FactKind.GRANTED: _make_lot,
    FactKind.SPENT: _spend,
    FactKind.HELD: _held,
    FactKind.CAPTURED: _captured,
    FactKind.RELEASED: _released,
    FactKind.REFUNDED: _refunded,
    FactKind.REISSUED: _reissued,
    FactKind.VOIDED: _voided,
    FactKind.SENT: _sent,
    FactKind.ARRIVED: _make_lot,
    FactKind.REFUSED: _refused,
    FactKind.COMPLETED: _came_to_an_end,
    FactKind.RETURNED: _came_to_an_end,
    FactKind.FROZEN: _frozen,
    FactKind.UNFROZEN: _unfrozen,
    FactKind.FORFEITED: _move_all,
    FactKind.CLOSED: _closed,
    FactKind.LIMITED: _limited,
    FactKind.SCHEDULED: _scheduled,
    FactKind.CANCELLED: _cancelled,
}
