"""What can be seen to be wrong in a command of the rules of credits without looking at state.

Such a command is refused by the producer and a dead letter in the log; it doesn't use up its id.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from creditfold.ledger import limits
from creditfold.ledger.commands import (
    STEPS,
    Batch,
    CancelSchedule,
    Capture,
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
    Transfer,
    VoidGrant,
)
from creditfold.ledger.limits import is_id

MAX_PRIORITY = 100
MAX_STEPS = 100
MAX_EVERY = 10_000
MAX_NUMBER = 2**31 - 1

#: How the ids of derived commands begin; nobody else's may, or one could be taken before it comes.
DERIVED = "~"

_DERIVED_COMMANDS = (ReceiveTransfer, SettleTransfer)


def problem_of(command: Any) -> str | None:
    """Say what is wrong with a command, naming its field, or None for a valid one."""
    if problem := _first(_IDS, command):
        return problem
    if command.command_id.startswith(DERIVED) != isinstance(command, _DERIVED_COMMANDS):
        return f"command_id begins with {DERIVED}, as those of derived commands alone do"
    return _first(_RULES.get(type(command), ()), command)


#: Finds what is wrong with a command. Of any type: its fields are what was read, not yet what they should be.
_Check: TypeAlias = Callable[[Any], str | None]

_LONGEST = {"account": limits.MAX_ACCOUNT, "to": limits.MAX_ACCOUNT, "sender": limits.MAX_ACCOUNT}


def _id(name: str, *, is_optional: bool = False) -> _Check:
    longest = _LONGEST.get(name, limits.MAX_COMMAND_ID)

    def check(command: Any) -> str | None:
        value = getattr(command, name)
        if (isinstance(value, str) and is_id(value, longest)) or (is_optional and value == ""):
            return None
        return f"{name} is not 1 to {longest} printable characters"

    return check


def _whole(name: str, least: int, most: int) -> _Check:
    def check(command: Any) -> str | None:
        value = getattr(command, name)
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return None
        return f"{name} is not a whole number from {least} to {most}"

    return check


def _instant(name: str, least: int = 0) -> _Check:
    return _whole(name, least, limits.MAX_OCCURRED_AT)


def _flag(name: str) -> _Check:
    return lambda command: None if isinstance(getattr(command, name), bool) else f"{name} is neither true nor false"


def _either(name: str, *allowed: str) -> _Check:
    says = f"{name} is neither {' nor '.join(allowed)}"
    return lambda command: None if getattr(command, name) in allowed else says


def _after(later: str, earlier: str) -> _Check:
    """An instant, if it is given, lies after another."""

    def check(command: Any) -> str | None:
        at = getattr(command, later)
        return f"{later} is not after {earlier}" if at and at <= getattr(command, earlier) else None

    return check


def _own_receiver(command: Any) -> str | None:
    return "to is the account itself" if command.to == command.account else None


def _end_without_lot(command: Any) -> str | None:
    is_said = command.expires_at and not command.reissue
    return "expires_at is for a new lot; say reissue too" if is_said else None


def _count(command: Any) -> str | None:
    is_sound = 1 <= len(command.parcels) <= limits.MAX_PARCELS
    return None if is_sound else f"parcels are not 1 to {limits.MAX_PARCELS}"


def _parcels(command: Any) -> str | None:
    problems = (_first(_PARCEL, parcel) or _first(_TERMS, parcel.terms) for parcel in command.parcels)
    return next((problem for problem in problems if problem), None)


def _batch(command: Any) -> str | None:
    if not 1 <= len(command.steps) <= MAX_STEPS:
        return f"steps are not 1 to {MAX_STEPS}"
    ids = {command.command_id}
    for index, step in enumerate(command.steps):
        if not isinstance(step, STEPS):
            return f"steps[{index}] is a command that can't be in a batch"
        if step.account != command.account:
            return f"steps[{index}].account is another account"
        if step.command_id in ids:
            return f"steps[{index}].command_id is in the batch already"
        if problem := problem_of(step):
            return f"steps[{index}].{problem}"
        ids.add(step.command_id)
    return None


def _first(checks: Iterable[_Check], command: Any) -> str | None:
    for check in checks:
        if problem := check(command):
            return problem
    return None


_IDS = (_id("command_id"), _id("account"))
_ASSET, _AMOUNT, _PART = _id("asset"), _whole("amount", 1, limits.MAX_AMOUNT), _whole("amount", 0, limits.MAX_AMOUNT)
_USE, _SCOPE = _id("use", is_optional=True), _id("scope", is_optional=True)
_CLASS, _PRIORITY = _either("lot_class", LotClass.PAID, LotClass.PROMO), _whole("priority", 0, MAX_PRIORITY)
_EFFECTIVE, _EXPIRES = _instant("effective_at"), _instant("expires_at")
#: Of anything that has a lot's terms.
_TERMS = (_CLASS, _PRIORITY, _EFFECTIVE, _EXPIRES, _SCOPE, _after("expires_at", "effective_at"))
_PARCEL = (_id("lot"), _AMOUNT)
_EVERY, _CAP = _whole("every", 1, MAX_EVERY), _whole("cap", 0, limits.MAX_AMOUNT)
_TURNS = (_EVERY, _instant("first_at", 1), _instant("until"), _CAP, _instant("expires_after_ms"))

#: What is checked of each kind, in this order.
_RULES: Mapping[type, Sequence[_Check]] = {
    Grant: (_ASSET, _AMOUNT, *_TERMS),
    Spend: (_ASSET, _AMOUNT, _USE, _flag("partial"), _EFFECTIVE),
    Hold: (_ASSET, _AMOUNT, _instant("deadline", 1), _USE),
    Capture: (_id("hold"), _PART, _flag("final")),
    Release: (_id("hold"), _PART),
    Refund: (_id("spend"), _PART, _flag("reissue"), _EXPIRES, _end_without_lot),
    VoidGrant: (_id("grant"), _whole("number", 0, MAX_NUMBER)),
    Transfer: (_ASSET, _AMOUNT, _id("to"), _USE, _own_receiver),
    ReceiveTransfer: (_count, _ASSET, _id("sender"), _id("transfer"), _parcels),
    SettleTransfer: (_id("transfer"), _id("returned", is_optional=True)),
    Freeze: (_either("scope", *FreezeScope),),
    SetCreditLimit: (_ASSET, _whole("limit", 0, limits.MAX_AMOUNT)),
    CreateSchedule: (
        *(_either("period", *Period), _ASSET, _AMOUNT, *_TURNS),
        *(_CLASS, _PRIORITY, _SCOPE, _after("until", "first_at")),
    ),
    CancelSchedule: (_id("schedule"),),
    Batch: (_batch,),
}
