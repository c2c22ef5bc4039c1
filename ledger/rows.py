"""An account's state as rows of plain values, and back. Knows no SQL, nor where the rows are kept.

Loading is by need: what time can change, what is owed, and what a command names. The rest of an account's past isn't
held in memory, or a busy account would grow with its history.
"""

import json
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple, TypeAlias

from creditfold.ledger.account import LAPSE, NUMBER_BITS, Account, writable
from creditfold.ledger.commands import (
    Batch,
    CancelSchedule,
    Capture,
    Command,
    CreateSchedule,
    Refund,
    Release,
    SettleTransfer,
    Terms,
    VoidGrant,
)
from creditfold.ledger.facts import Bucket, CorruptStateError, FactKind, LotId
from creditfold.ledger.folding import as_json
from creditfold.ledger.lots import Held, Lot, Scheduled, Sent, Slice, Spent


class AccountRow(NamedTuple):
    """What concerns an account as a whole: the number of its last journal line, and what is shut."""

    version: int = 0
    is_closed: bool = False
    frozen: str = ""


class BalanceRow(NamedTuple):
    """An account's credits of one asset, and how far below zero it may go."""

    asset: str
    available: int
    pending: int
    held: int
    debt: int
    credit_limit: int


class LotRow(NamedTuple):
    """A lot: its terms, and where each part of its amount is. `next_at` is when time changes it next."""

    command_id: str
    number: int
    asset: str
    lot_class: str
    priority: int
    effective_at: int
    expires_at: int
    scope: str
    made: int
    source: str
    amount: int
    remaining: int
    held: int
    spent: int
    expired: int
    voided: int
    forfeited: int
    reissued: int
    transferred: int
    is_pending: bool
    is_lapsed: bool
    is_void: bool
    is_live: bool
    next_at: int | None


def light_lot(lot_id: LotId, asset: str, terms: Terms, made: int, source: str, *, places: Sequence[int]) -> LotRow:
    """The row of a lot of which nothing is held, pending, lapsed or void.

    `places` are its amount, and what of it remains, was spent, expired, voided, forfeited, reissued and transferred.
    """
    amount, remaining, *gone = places
    is_live = remaining > 0
    next_at = terms.expires_at or None if is_live else None
    return LotRow._make(
        (*lot_id, asset, *terms, made, source, amount, remaining, 0, *gone, False, False, False, is_live, next_at)
    )


class HoldRow(NamedTuple):
    """A hold. `slices` are what it still has: JSON of [lot's command, lot's number, amount] in order of allocation."""

    command_id: str
    asset: str
    deadline: int
    made: int
    taken: int
    slices: str
    is_open: bool
    is_lapsed: bool
    next_at: int | None


class SpendRow(NamedTuple):
    """A spend or a capture whose slices are no longer those that the journal reports, or that is owed in part."""

    command_id: str
    asset: str
    made: int
    debt: int
    slices: str


class TransferRow(NamedTuple):
    """A transfer. `parcels` are JSON of [lot's command, lot's number, amount, and the lot's terms]."""

    command_id: str
    asset: str
    to_account: str
    parcels: str
    is_open: bool


class ScheduleRow(NamedTuple):
    """A schedule, as its command said, and the number of its next occurrence."""

    command_id: str
    asset: str
    amount: int
    period: str
    first_at: int
    every: int
    until: int
    cap: int
    lot_class: str
    priority: int
    expires_after_ms: int
    scope: str
    made: int
    next: int
    is_open: bool
    next_at: int | None


class Rows(NamedTuple):
    """Rows of one account. `inline` are lots that stand in a balance, each with the place of its last change."""

    account: AccountRow = AccountRow()
    balances: Sequence[BalanceRow] = ()
    lots: Sequence[LotRow] = ()
    inline: Sequence[tuple[LotRow, int]] = ()
    holds: Sequence[HoldRow] = ()
    spends: Sequence[SpendRow] = ()
    transfers: Sequence[TransferRow] = ()
    schedules: Sequence[ScheduleRow] = ()


class References(NamedTuple):
    """What commands name of what an account may have in its past, by (account, command id)."""

    holds: list[tuple[str, str]]
    spends: list[tuple[str, str]]
    lots: list[tuple[str, str]]
    schedules: list[tuple[str, str]]
    transfers: list[tuple[str, str]]


def references(commands: Iterable[Command]) -> References:
    """What these commands name. What isn't found when they are decided isn't there."""
    found = References([], [], [], [], [])
    for command in commands:
        if type(command) not in _NAMING:
            continue
        for one in command.steps if isinstance(command, Batch) else (command,):
            if isinstance(one, Capture | Release):
                found.holds.append((one.account, one.hold))
            elif isinstance(one, Refund):
                found.spends.append((one.account, one.spend))
            elif isinstance(one, VoidGrant):
                found.lots.append((one.account, one.grant))
            elif isinstance(one, CancelSchedule):
                found.schedules.append((one.account, one.schedule))
            elif isinstance(one, SettleTransfer):
                found.transfers.append((one.account, one.transfer))
    return found


_NAMING: Final = dict.fromkeys((Capture, Release, Refund, VoidGrant, CancelSchedule, SettleTransfer, Batch))


def lots_named(rows: Rows) -> list[tuple[str, int]]:
    """The lots that the slices in rows are of, by command and number."""
    texts = [row.slices for row in rows.holds]
    texts += [row.slices for row in rows.spends]
    texts += [row.parcels for row in rows.transfers]
    return [(part[0], part[1]) for text in texts for part in json.loads(text)]


def restore(account: Account, rows: Rows) -> None:
    """Add rows to an account; those that it has already stay as they are.

    Every lot that a slice is of must be there, or among the rows. Raises CorruptStateError.
    """
    row = rows.account
    account.version = max(account.version, row.version)
    account.is_closed = account.is_closed or row.is_closed
    account.frozen = account.frozen or row.frozen or None
    for schedule in rows.schedules:
        if schedule.command_id not in account.schedules:
            _restore_schedule(account, schedule)
    for lot in rows.lots:
        if LotId(lot.command_id, lot.number) not in account.lots:
            _restore_lot(account, lot)
    for one, position in rows.inline:
        if LotId(one.command_id, one.number) not in account.lots:
            inline = _restore_lot(account, one)
            inline.is_stored = False
            account.inline = writable(account.inline)
            account.inline[inline] = position
    for hold in rows.holds:
        if hold.command_id not in account.holds:
            _restore_hold(account, hold)
    for spend in sorted(rows.spends, key=lambda spend: spend.made):
        if spend.command_id not in account.spends:
            _restore_spend(account, spend)
    for transfer in rows.transfers:
        if transfer.command_id not in account.transfers:
            sent = Sent(transfer.command_id, transfer.asset, transfer.to_account)
            sent.slices = list(_slices(account, transfer.parcels))
            sent.is_open = transfer.is_open
            account.keep_transfer(sent)


def open_account(name: str, rows: Rows) -> Account:
    """Make an account of the rows of all that time can change or that is owed.

    Raises CorruptStateError where the balances aren't what the lots, holds and debts come to.
    """
    account = Account()
    restore(account, rows)
    for row in rows.balances:
        account.holding_to_change(row.asset).limit = row.credit_limit
        if account.balance(row.asset) != (row.available, row.pending, row.held, row.debt):
            raise CorruptStateError(
                f"account {name!a} has {account.balance(row.asset)} of {row.asset!a} in lots, "
                f"and {tuple(row[1:5])} as balance"
            )
    return account


def _restore_lot(account: Account, row: LotRow) -> Lot:
    terms = Terms(row.lot_class, row.priority, row.effective_at, row.expires_at, row.scope)
    lot = Lot(LotId(row.command_id, row.number), row.asset, terms, row.made, row.source)
    lot.amount, lot.remaining, lot.held, lot.spent, lot.expired = row[10:15]
    lot.voided, lot.forfeited, lot.reissued, lot.transferred = row[15:19]
    lot.is_pending, lot.is_lapsed, lot.is_void = row.is_pending, row.is_lapsed, row.is_void
    lot.is_stored = True
    account.keep_lot(lot)
    holding = account.holding_to_change(lot.asset)
    holding.count(lot, lot.remaining)
    holding.held += lot.held
    holding.enlist(lot)
    account.expect_lot(lot)
    scheduled = account.schedules.get(row.command_id)
    if scheduled is not None:
        scheduled.count_in(lot)
    return lot


def _restore_hold(account: Account, row: HoldRow) -> None:
    hold = Held(row.command_id, row.asset, row.deadline, _slices(account, row.slices), row.made)
    hold.taken, hold.is_open, hold.is_lapsed = row.taken, row.is_open, row.is_lapsed
    account.keep_hold(hold)
    if hold.is_open:
        account.expect(hold.deadline, LAPSE, hold)


def _restore_spend(account: Account, row: SpendRow) -> None:
    spend = Spent(row.command_id, row.asset, _slices(account, row.slices), row.made)
    spend.debt = row.debt
    account.keep_spend(spend)
    if spend.debt:
        holding = account.holding_to_change(row.asset)
        holding.debt += spend.debt
        holding.debts = writable(holding.debts)
        holding.debts[row.command_id] = spend


def _restore_schedule(account: Account, row: ScheduleRow) -> None:
    # A row has the command's own fields in their order, but for its account.
    scheduled = Scheduled(CreateSchedule(row.command_id, "", *row[1:12]), row.made)
    scheduled.next, scheduled.is_open = row.next, row.is_open
    account.keep_schedule(scheduled)
    account.expect_turn(scheduled)


def _slices(account: Account, text: str) -> tuple[Slice, ...]:
    try:
        return tuple(Slice(account.lots[LotId(part[0], part[1])].id, part[2]) for part in json.loads(text))
    except KeyError as error:
        raise CorruptStateError(f"there is no lot {error.args[0]}, of which something has a slice") from None


def _text(slices: Sequence[Slice]) -> str:
    parts = [f"[{encode_basestring(lot[0])},{lot[1]},{amount}]" for lot, amount in slices]
    return f"[{','.join(parts)}]"


#: A row as it is written: its account, its values, the partition, and the place in the log of its last change.
Row: TypeAlias = tuple[Any, ...]


class Changes(NamedTuple):
    """Rows that are to be written. Those of lots that are stored already have only what can change of them."""

    lots: list[Row]
    changed_lots: list[Row]
    holds: list[Row]
    spends: list[Row]
    transfers: list[Row]
    schedules: list[Row]
    #: Accounts whose lots no longer stand in their balances.
    outlined: list[Row]


def take_changes(name: str, account: Account, partition: int, into: Changes) -> None:
    """Add what was changed since an account was last written; its balances aren't among it.

    Its lots count as stored from here on: where that fails, what there is in memory must be forgotten.
    Raises CorruptStateError for a lot whose parts don't make up its amount.
    """
    if account.inline and account.changed:
        # They get rows all at once, or each change of one would have the others written anew.
        into.outlined.append((name,))
        for inline, place in account.inline.items():
            account.changed.setdefault(inline, place)
        account.inline = {}
    for one, position in account.changed.items():
        if isinstance(one, Lot):
            if not one.is_conserved:
                raise CorruptStateError(f"the parts of lot {one.id} of account {name!a} don't make up its amount")
            if one.is_stored:
                into.changed_lots.append(_changed_lot(name, one, position))
            else:
                one.is_stored = True
                into.lots.append(_new_lot(name, one, partition, position))
        elif isinstance(one, Held):
            into.holds.append((name, *_hold_row(one), partition, position))
        elif isinstance(one, Spent):
            into.spends.append((name, *_spend_row(one), partition, position))
        elif isinstance(one, Sent):
            into.transfers.append((name, *_transfer_row(account, one), partition, position))
        else:
            into.schedules.append((name, *_schedule_row(one), partition, position))


def _spend_row(spend: Spent) -> SpendRow:
    # Only debts are paid by their order. The journal, which most are loaded from, knows the record's place alone.
    made = spend.made if spend.debt else spend.made >> NUMBER_BITS << NUMBER_BITS
    return SpendRow(spend.id, spend.asset, made, spend.debt, _text(spend.slices))


def _transfer_row(account: Account, sent: Sent) -> TransferRow:
    parcels = as_json([[*lot, amount, *account.lot(lot).terms] for lot, amount in sent.slices])
    return TransferRow(sent.id, sent.asset, sent.to, parcels, sent.is_open)


def _new_lot(account: str, lot: Lot, partition: int, position: int) -> Row:
    command_id, number = lot.id
    lot_class, priority, effective_at, expires_at, scope = lot.terms
    is_live = lot.is_live
    # One tuple at once, here and below: to put it together of parts takes three times as long.
    return (
        account,
        command_id,
        number,
        lot.asset,
        str(lot_class),
        priority,
        effective_at,
        expires_at,
        scope,
        lot.made,
        str(lot.source),
        lot.amount,
        lot.remaining,
        lot.held,
        lot.spent,
        lot.expired,
        lot.voided,
        lot.forfeited,
        lot.reissued,
        lot.transferred,
        # When an empty lot was last in memory makes no difference to its row.
        is_live and lot.is_pending,
        is_live and lot.is_lapsed,
        lot.is_void,
        is_live,
        lot.next_at,
        partition,
        position,
    )


def _changed_lot(account: str, lot: Lot, position: int) -> Row:
    command_id, number = lot.id
    is_live = lot.is_live
    return (
        account,
        command_id,
        number,
        lot.remaining,
        lot.held,
        lot.spent,
        lot.expired,
        lot.voided,
        lot.forfeited,
        lot.reissued,
        lot.transferred,
        is_live and lot.is_pending,
        is_live and lot.is_lapsed,
        lot.is_void,
        is_live,
        lot.next_at,
        position,
    )


def _hold_row(hold: Held) -> HoldRow:
    next_at = hold.deadline if hold.is_open else None
    slices = _text(hold.slices)
    return HoldRow(
        hold.id, hold.asset, hold.deadline, hold.made, hold.taken, slices, hold.is_open, hold.is_lapsed, next_at
    )


def _schedule_row(scheduled: Scheduled) -> ScheduleRow:
    command = scheduled.command
    plain = command._replace(period=str(command.period), lot_class=str(command.lot_class))
    state = (scheduled.made, scheduled.next, scheduled.is_open, scheduled.next_at)
    return ScheduleRow._make((scheduled.id, *plain[2:13], *state))


def spend_as_journalled(command_id: str, asset: str, made: int, facts: str) -> SpendRow | None:
    """A spend or a capture that nothing has changed since, from the facts of its journal line; None for others."""
    for fact in json.loads(facts):
        if fact["kind"] in _SPENDING:
            slices = [move[:2] + move[4:] for move in fact["moves"] if move[0] and move[3] == Bucket.SPENT]
            return SpendRow(command_id, asset, made, 0, as_json(slices))
    return None


_SPENDING = (FactKind.SPENT, FactKind.CAPTURED)
