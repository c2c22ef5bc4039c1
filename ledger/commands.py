"""What may be asked for, as immutable tuples with the fields of the Avro records, in their order.

Amounts are in the asset's smallest unit, instants in milliseconds UTC. `command_id` is unique per account. An empty
text, and 0 where an instant or an optional amount is meant, stand for "not given". `occurred_at`, `source`, `reason`
and `metadata` say who asks, when by their own clock, and why; they decide nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias, get_args


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


class Terms(NamedTuple):
    """What a lot is like: active in [effective_at, expires_at), spent in the order of its priority, for one use or any.

    `effective_at` 0 is the moment of the decision, `expires_at` 0 never.
    """

    lot_class: str = LotClass.PAID
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
    lot_class: str = LotClass.PAID
    priority: int = 50
    effective_at: int = 0
    expires_at: int = 0
    scope: str = ""
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}

    @property
    def terms(self) -> Terms:
        """The terms of the lot that it makes."""
        return Terms(self.lot_class, self.priority, self.effective_at, self.expires_at, self.scope)


class Spend(NamedTuple):
    """Take credits, all of the amount or, if `partial`, what there is. `effective_at` backdates it."""

    command_id: str
    account: str
    asset: str
    amount: int
    use: str = ""
    partial: bool = False
    effective_at: int = 0
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class Hold(NamedTuple):
    """Set credits aside until a deadline, at which the hold lapses."""

    command_id: str
    account: str
    asset: str
    amount: int
    deadline: int
    use: str = ""
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class Capture(NamedTuple):
    """Spend what a hold set aside: an amount, or the rest. If `final`, what is left is released."""

    command_id: str
    account: str
    hold: str
    amount: int = 0
    final: bool = False
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class Release(NamedTuple):
    """Let go of what a hold set aside: an amount, from the end of its allocation, or the rest."""

    command_id: str
    account: str
    hold: str
    amount: int = 0
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


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
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class VoidGrant(NamedTuple):
    """Take back what is left of the lots that a command made: a grant, a reissue, an arrival, or a schedule.

    `number` is that of one of its lots, counted from 1; 0 means all. A schedule's lots have their occurrence's number.
    """

    command_id: str
    account: str
    grant: str
    number: int = 0
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class Transfer(NamedTuple):
    """Send credits to another account. They keep their terms."""

    command_id: str
    account: str
    asset: str
    amount: int
    to: str
    use: str = ""
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


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
    scope: str = FreezeScope.SPENDING
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class Unfreeze(NamedTuple):
    """End a freeze."""

    command_id: str
    account: str
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class Close(NamedTuple):
    """Close an account for ever; if `forfeit`, whatever it has left is forfeited."""

    command_id: str
    account: str
    forfeit: bool = False
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class SetCreditLimit(NamedTuple):
    """Say how far below zero an account's spends may go."""

    command_id: str
    account: str
    asset: str
    limit: int
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class CreateSchedule(NamedTuple):
    """Grant an amount again and again, but no more than keeps what is left of this schedule's lots under a cap.

    `every` periods; `until` is exclusive, 0 for never; `cap` 0 is none. The terms' `effective_at` is each occurrence's
    instant; `expires_after_ms` counts from there, 0 for never.
    """

    command_id: str
    account: str
    asset: str
    amount: int
    period: str
    first_at: int
    every: int = 1
    until: int = 0
    cap: int = 0
    lot_class: str = LotClass.PAID
    priority: int = 50
    expires_after_ms: int = 0
    scope: str = ""
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class CancelSchedule(NamedTuple):
    """End a schedule. What it granted stays."""

    command_id: str
    account: str
    schedule: str
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


Step: TypeAlias = Grant | Spend | Hold | Capture | Release | Refund | VoidGrant


class Batch(NamedTuple):
    """Steps of one account, in order: all of them, or none."""

    command_id: str
    account: str
    steps: tuple[Step, ...]
    occurred_at: int = 0
    source: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = {}


class ActivateRules(NamedTuple):
    """From here on the partition is decided by another version of the rules. Concerns no account."""

    command_id: str
    rules: int
    occurred_at: int = 0
    source: str = ""
    reason: str = ""


class Tick(NamedTuple):
    """Moves the log's clock, and settles every account of the partition that has something due. Concerns no account.

    `minute` counts from 1970; one that isn't after the partition's last is a duplicate.
    """

    command_id: str
    minute: int
    occurred_at: int = 0
    source: str = ""


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
Control: TypeAlias = ActivateRules | Tick

#: A command's name for readers, by its type.
KINDS: Final[Mapping[type[Command], str]] = {
    Grant: "grant",
    Spend: "spend",
    Hold: "hold",
    Capture: "capture",
    Release: "release",
    Refund: "refund",
    VoidGrant: "void_grant",
    Transfer: "transfer",
    ReceiveTransfer: "receive_transfer",
    SettleTransfer: "settle_transfer",
    Freeze: "freeze",
    Unfreeze: "unfreeze",
    Close: "close",
    SetCreditLimit: "set_credit_limit",
    CreateSchedule: "create_schedule",
    CancelSchedule: "cancel_schedule",
    Batch: "batch",
}

#: Type by the name of its Avro record: of commands, and of control records, which have no key.
COMMANDS: Final[dict[str, type[Command]]] = {kind.__name__: kind for kind in KINDS}
CONTROLS: Final[dict[str, type[Control]]] = {"ActivateRules": ActivateRules, "Tick": Tick}

#: The fields of a batch's step in its Avro record, with their defaults. A step uses those of its kind.
STEP_FIELDS: Final[Mapping[str, Any]] = {
    "kind": "",
    "command_id": "",
    "asset": "",
    "amount": 0,
    "lot_class": LotClass.PAID,
    "priority": 50,
    "effective_at": 0,
    "expires_at": 0,
    "scope": "",
    "use": "",
    "partial": False,
    "deadline": 0,
    "hold": "",
    "final": False,
    "spend": "",
    "reissue": False,
    "grant": "",
    "number": 0,
}
#: What can be a step.
STEPS: Final[tuple[type[Step], ...]] = get_args(Step)
_STEP_TYPES: Final[Mapping[str, type[Step]]] = {KINDS[kind]: kind for kind in STEPS}


def command_of(record: str, values: tuple[Any, ...]) -> Command | Control:
    """Make a command, or a control record, of a decoded record.

    Args:
        record: its short name, such as `Grant`.
        values: in the order of its current schema, as `Decoded.values` has them.

    Returns:
        The command or the control record.

    Raises:
        ValueError: a batch has a step that is no command.
        KeyError: the record is neither.

    Example:
        >>> command_of("Unfreeze", ("u-1", "ada", 0, "", "", {})).account
        'ada'
    """
    special = _SPECIAL.get(record)
    if special is not None:
        return special(values)
    kind = COMMANDS.get(record) or CONTROLS[record]
    # As kind._make(values), which counts them again.
    return tuple.__new__(kind, values)


def _receive_transfer(values: Sequence[Any]) -> ReceiveTransfer:
    command_id, account, asset, sender, transfer, packed = values
    parcels = tuple(Parcel(lot, amount, Terms(*terms)) for lot, amount, *terms in packed)
    return ReceiveTransfer(command_id, account, asset, sender, transfer, parcels)


def _batch(values: Sequence[Any]) -> Batch:
    command_id, account, steps, occurred_at, source, reason, metadata = values
    origin = {"occurred_at": occurred_at, "source": source, "reason": reason}
    made = tuple(_step(f"steps[{at}]", account, step, origin) for at, step in enumerate(steps))
    return Batch(command_id, account, made, occurred_at, source, reason, metadata)


def _step(where: str, account: Any, values: Sequence[Any], origin: Mapping[str, Any]) -> Step:
    fields = dict(zip(STEP_FIELDS, values, strict=True))
    kind = _STEP_TYPES.get(fields.pop("kind"))
    if kind is None:
        raise ValueError(f"{where} is a command that can't be in a batch")
    own = {name: value for name, value in fields.items() if name in kind._fields}
    for name, value in fields.items():
        if name not in own and value != STEP_FIELDS[name]:
            raise ValueError(f"{where}.{name} is no field of a {KINDS[kind]}")
    return kind(account=account, **own, **origin)


_SPECIAL: Final[dict[str, Callable[[tuple[Any, ...]], Command]]] = {
    "ReceiveTransfer": _receive_transfer,
    "Batch": _batch,
}
