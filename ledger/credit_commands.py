"""What may be asked for under the rules of credits, as immutable tuples.

Amounts are in the asset's smallest unit, instants in milliseconds UTC. `command_id` is unique per account. An empty
text, and 0 where an instant or an optional amount is meant, stand for "not given".

These rules aren't in force: no schema brings such commands to the log yet. They are to become version 2.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, TypeAlias


class LotClass(StrEnum):
    """Whether credits were bought or given."""

    PROMO = "promo"
    PAID = "paid"


class FreezeScope(StrEnum):
    """What a frozen account can't do: spend, or nearly anything."""

    SPENDING = "spending"
    ALL = "all"


class Period(StrEnum):
    """In what a schedule counts; both by the calendar in UTC."""

    MONTHS = "months"
    DAYS = "days"


class Origin(NamedTuple):
    """Who asks, when by their own clock, and why. Decides nothing."""

    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class Terms(NamedTuple):
    """What a lot is like: active in [effective_at, expires_at), spent in the order of its priority, for one use or any.

    `effective_at` 0 is the moment of the decision, `expires_at` 0 never.
    """

    lot_class: LotClass = LotClass.PAID
    priority: int = 50
    effective_at: int = 0
    expires_at: int = 0
    scope: str = ""


class Grant(NamedTuple):
    """Give credits: makes a lot."""

    command_id: str
    account: str
    asset: str
    amount: int
    terms: Terms = Terms()
    origin: Origin = Origin()


class Spend(NamedTuple):
    """Take credits, all of the amount or, if `partial`, what there is. `effective_at` backdates it."""

    command_id: str
    account: str
    asset: str
    amount: int
    use: str = ""
    partial: bool = False
    effective_at: int = 0
    origin: Origin = Origin()


class Hold(NamedTuple):
    """Set credits aside until a deadline, at which the hold lapses."""

    command_id: str
    account: str
    asset: str
    amount: int
    deadline: int
    use: str = ""
    origin: Origin = Origin()


class Capture(NamedTuple):
    """Spend what a hold set aside: an amount, or the rest. If `final`, what is left is released."""

    command_id: str
    account: str
    hold: str
    amount: int = 0
    final: bool = False
    origin: Origin = Origin()


class Release(NamedTuple):
    """Let go of what a hold set aside: an amount, from the end of its allocation, or the rest."""

    command_id: str
    account: str
    hold: str
    amount: int = 0
    origin: Origin = Origin()


class Refund(NamedTuple):
    """Give back what a spend or a capture took: an amount, or what is left of it.

    If `reissue`, what would go back into a lapsed lot goes into a new one that ends at `expires_at`.
    """

    command_id: str
    account: str
    spend: str
    amount: int = 0
    reissue: bool = False
    expires_at: int = 0
    origin: Origin = Origin()


class VoidGrant(NamedTuple):
    """Take back what is left of the lots that a command made: a grant, a reissue, an arrival, or a schedule.

    `number` is that of one of its lots, counted from 1; 0 means all. A schedule's lots have their occurrence's number.
    """

    command_id: str
    account: str
    grant: str
    number: int = 0
    origin: Origin = Origin()


class Transfer(NamedTuple):
    """Send credits to another account. They keep their terms."""

    command_id: str
    account: str
    asset: str
    amount: int
    to: str
    use: str = ""
    origin: Origin = Origin()


class Parcel(NamedTuple):
    """A slice of a lot on its way to another account."""

    lot: str
    amount: int
    terms: Terms


class ReceiveTransfer(NamedTuple):
    """Derived from a transfer, at its receiver. `transfer` is the command id at the sender."""

    command_id: str
    account: str
    asset: str
    sender: str
    transfer: str
    parcels: tuple[Parcel, ...]


class SettleTransfer(NamedTuple):
    """Derived, at a transfer's sender, from what its receiver did. `returned` is why it came back, or empty."""

    command_id: str
    account: str
    transfer: str
    returned: str = ""


class Freeze(NamedTuple):
    """Stop an account from spending, or from nearly everything. Replaces an earlier freeze."""

    command_id: str
    account: str
    scope: FreezeScope = FreezeScope.SPENDING
    origin: Origin = Origin()


class Unfreeze(NamedTuple):
    """End a freeze."""

    command_id: str
    account: str
    origin: Origin = Origin()


class Close(NamedTuple):
    """Close an account for ever; if `forfeit`, whatever it has left is forfeited."""

    command_id: str
    account: str
    forfeit: bool = False
    origin: Origin = Origin()


class SetCreditLimit(NamedTuple):
    """Say how far below zero an account's spends may go."""

    command_id: str
    account: str
    asset: str
    limit: int
    origin: Origin = Origin()


class CreateSchedule(NamedTuple):
    """Grant an amount again and again, but no more than keeps what is left of this schedule's lots under a cap.

    `every` periods; `until` is exclusive, 0 for never; `cap` 0 is none. The terms' `effective_at` is each occurrence's
    instant; `expires_after_ms` counts from there, 0 for never.
    """

    command_id: str
    account: str
    asset: str
    amount: int
    period: Period
    first_at: int
    every: int = 1
    until: int = 0
    cap: int = 0
    lot_class: LotClass = LotClass.PAID
    priority: int = 50
    expires_after_ms: int = 0
    scope: str = ""
    origin: Origin = Origin()


class CancelSchedule(NamedTuple):
    """End a schedule. What it granted stays."""

    command_id: str
    account: str
    schedule: str
    origin: Origin = Origin()


Step: TypeAlias = Grant | Spend | Hold | Capture | Release | Refund | VoidGrant


class Batch(NamedTuple):
    """Steps of one account, in order: all of them, or none."""

    command_id: str
    account: str
    steps: tuple[Step, ...]
    origin: Origin = Origin()


Command: TypeAlias = (
    Step
    | Transfer
    | ReceiveTransfer
    | SettleTransfer
    | Freeze
    | Unfreeze
    | Close
    | SetCreditLimit
    | CreateSchedule
    | CancelSchedule
    | Batch
)
