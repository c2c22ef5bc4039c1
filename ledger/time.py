"""What time does to an account by itself: schedules fall due, windows open, holds lapse, windows close.

Owns the order of these and what each comes to, as facts. An account is settled to the log's clock before a record is
decided about it; nothing else moves time, so any split of a log into chunks gives the same facts.

What falls due is done in the order of its instants, each dated at its own. At one instant:

     SCHEDULE    a turn grants       first: what it grants is there for all that this instant does; a lot that ends now
        |                            has nothing any more, so it doesn't count against the cap
     ACTIVATION  a window opens      its credits pay debt before any others that come back now
        |
     LAPSE       a hold goes back    before the expiry: what goes back to a lot that ends now is lost with the rest of
        |                            it, in one fact, and pays no debt
     EXPIRY      a window closes     last: windows are half-open, nothing of the lot can be had at this instant

and among the same kind, what was made first. Each is decided on the account as the ones before it left it: settling is
a loop of deciding and applying.

The queue is an index, never asked what is true. An entry may be late (a hold was captured, a lot was spent) or stand
there twice; what it is about says whether it still means something.
"""

from creditfold.ledger.account import ACTIVATION, LAPSE, SCHEDULE, Account, Due
from creditfold.ledger.apply import apply
from creditfold.ledger.commands import Terms
from creditfold.ledger.facts import Bucket, Fact, FactKind, LotId, Move
from creditfold.ledger.inflow import Inflow
from creditfold.ledger.limits import MAX_OCCURRED_AT
from creditfold.ledger.lots import Held, Lot, Scheduled


def settle(account: Account, clock_ms: int) -> list[Fact]:
    """Bring an account to an instant.

    Args:
        account: which is changed.
        clock_ms: the instant, in milliseconds since 1970 UTC.

    Returns:
        Everything that fell due until then, already applied.

    Example:
        >>> account = Account()
        >>> apply(account, decide(account, Grant("g-1", "ada", "credits", 5, expires_at=1_000), 0))
        >>> [fact.kind.value for fact in settle(account, 1_000)]
        ['expired']
    """
    found: list[Fact] = []
    while account.next_due <= clock_ms:
        facts = fall_due(account, account.take_due())
        if facts:
            apply(account, facts)
            found += facts
    return found


def fall_due(account: Account, due: Due) -> list[Fact]:
    """What an entry of the queue comes to at its instant; nothing if it means nothing any more. Changes nothing."""
    at_ms, kind, _, _, what = due
    if kind == SCHEDULE:
        return _take_turn(account, what, at_ms)
    if kind == ACTIVATION:
        return _activate(account, what, at_ms)
    return _lapse(account, what, at_ms) if kind == LAPSE else _expire(account, what, at_ms)


def _take_turn(account: Account, scheduled: Scheduled, at_ms: int) -> list[Fact]:
    if account.schedules.get(scheduled.id) is not scheduled or scheduled.next_at != at_ms:
        return []
    command, number = scheduled.command, scheduled.next
    asset, detail = command.asset, str(number)
    amount = min(command.amount, account.room(asset))
    if command.cap:
        # A lot that ends at this instant has nothing any more, or who is granted as much each month as he may keep
        # would get it every second month.
        # One that was forgotten and loaded again stands there twice.
        ending = dict.fromkeys(scheduled.ending.get(at_ms, ()))
        ended = sum(account.lots[lot].remaining for lot in ending if lot in account.lots)
        amount = min(amount, command.cap - (scheduled.kept - ended))
    if amount <= 0:
        return [Fact(FactKind.CAPPED, at_ms, asset, scheduled.id, detail=detail)]
    # An end beyond any calendar is the calendar's: no transfer could carry it.
    expires_at = min(at_ms + command.expires_after_ms, MAX_OCCURRED_AT) if command.expires_after_ms else 0
    terms = Terms(command.lot_class, command.priority, at_ms, expires_at, command.scope)
    lot_id = LotId(scheduled.id, number)
    moves = (Move(lot_id, Bucket.ISSUED, Bucket.REMAINING, amount),)
    fact = Fact(FactKind.OCCURRED, at_ms, asset, scheduled.id, moves, terms, detail)
    return [fact, *Inflow(account, asset, at_ms).into_new_lot(lot_id, amount, terms)]


def _activate(account: Account, lot: Lot, at_ms: int) -> list[Fact]:
    if account.lots.get(lot.id) is not lot or not lot.is_pending or not lot.remaining:
        return []
    command_id, number = lot.id
    particulars = (number,) if number != 1 else ()
    fact = Fact(FactKind.ACTIVATED, at_ms, lot.asset, command_id, particulars=particulars)
    return [fact, *Inflow(account, lot.asset, at_ms).activated(lot)]


def _lapse(account: Account, hold: Held, at_ms: int) -> list[Fact]:
    if account.holds.get(hold.id) is not hold or not hold.is_open:
        return []
    moves = tuple([Move(lot, Bucket.HELD, Bucket.REMAINING, amount) for lot, amount in hold.slices])
    fact = Fact(FactKind.LAPSED, at_ms, hold.asset, hold.id, moves)
    return [fact, *Inflow(account, hold.asset, at_ms).returned(hold.slices)]


def _expire(account: Account, lot: Lot, at_ms: int) -> list[Fact]:
    if account.lots.get(lot.id) is not lot or lot.is_lapsed or not lot.remaining:
        return []
    moves = (Move(lot.id, Bucket.REMAINING, Bucket.EXPIRED, lot.remaining),)
    return [Fact(FactKind.EXPIRED, at_ms, lot.asset, lot.id.command_id, moves)]
