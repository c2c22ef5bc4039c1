"""What can be seen to be wrong in a command of the rules of credits without looking at state.

Such a command is refused by the producer and a dead letter in the log; it doesn't use up its id.
"""

from collections.abc import Callable, Mapping
from typing import Any

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
    Terms,
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
    for name in ("command_id", "account"):
        if problem := _id(command, name):
            return problem
    if command.command_id.startswith(DERIVED) != isinstance(command, _DERIVED_COMMANDS):
        return f"command_id begins with {DERIVED}, as those of derived commands alone do"
    rule = _RULES.get(type(command))
    return rule(command) if rule else None


_LONGEST = {"account": limits.MAX_ACCOUNT, "to": limits.MAX_ACCOUNT, "sender": limits.MAX_ACCOUNT}


def _id(command: Any, name: str) -> str | None:
    value, longest = getattr(command, name), _LONGEST.get(name, limits.MAX_COMMAND_ID)
    if not isinstance(value, str) or not is_id(value, longest):
        return f"{name} is not 1 to {longest} printable characters"
    return None


def _whole(command: Any, name: str, least: int, most: int) -> str | None:
    value = getattr(command, name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        return f"{name} is not a whole number from {least} to {most}"
    return None


def _amount(command: Any, least: int = 1) -> str | None:
    return _whole(command, "amount", least, limits.MAX_AMOUNT)


def _instant(command: Any, name: str, least: int = 0) -> str | None:
    return _whole(command, name, least, limits.MAX_OCCURRED_AT)


def _use(command: Any, name: str) -> str | None:
    return _id(command, name) if getattr(command, name) != "" else None


def _flag(command: Any, name: str) -> str | None:
    return None if isinstance(getattr(command, name), bool) else f"{name} is neither true nor false"


def _terms(terms: Any) -> str | None:
    # Of anything that has them.
    if terms.lot_class not in tuple(LotClass):
        return "lot_class is neither paid nor promo"
    problem = (
        _whole(terms, "priority", 0, MAX_PRIORITY)
        or _instant(terms, "effective_at")
        or _instant(terms, "expires_at")
        or _use(terms, "scope")
    )
    if not problem and terms.expires_at and terms.expires_at <= terms.effective_at:
        return "expires_at is not after effective_at"
    return problem


def _grant(command: Any) -> str | None:
    return _id(command, "asset") or _amount(command) or _terms(command)


def _spend(command: Any) -> str | None:
    return (
        _id(command, "asset")
        or _amount(command)
        or _use(command, "use")
        or _flag(command, "partial")
        or _instant(command, "effective_at")
    )


def _hold(command: Any) -> str | None:
    return _id(command, "asset") or _amount(command) or _instant(command, "deadline", 1) or _use(command, "use")


def _capture(command: Any) -> str | None:
    return _id(command, "hold") or _amount(command, 0) or _flag(command, "final")


def _release(command: Any) -> str | None:
    return _id(command, "hold") or _amount(command, 0)


def _refund(command: Any) -> str | None:
    problem = (
        _id(command, "spend") or _amount(command, 0) or _flag(command, "reissue") or _instant(command, "expires_at")
    )
    if not problem and command.expires_at and not command.reissue:
        return "expires_at is for a new lot; say reissue too"
    return problem


def _void(command: Any) -> str | None:
    return _id(command, "grant") or _whole(command, "number", 0, MAX_NUMBER)


def _transfer(command: Any) -> str | None:
    problem = _id(command, "asset") or _amount(command) or _id(command, "to") or _use(command, "use")
    if not problem and command.to == command.account:
        return "to is the account itself"
    return problem


def _receive(command: Any) -> str | None:
    if not 1 <= len(command.parcels) <= limits.MAX_PARCELS:
        return f"parcels are not 1 to {limits.MAX_PARCELS}"
    parcels = (_id(parcel, "lot") or _amount(parcel) or _terms(parcel.terms) for parcel in command.parcels)
    return (
        _id(command, "asset")
        or _id(command, "sender")
        or _id(command, "transfer")
        or next((found for found in parcels if found), None)
    )


def _settle(command: Any) -> str | None:
    return _id(command, "transfer") or _use(command, "returned")


def _freeze(command: Any) -> str | None:
    return None if command.scope in tuple(FreezeScope) else "scope is neither spending nor all"


def _limit(command: Any) -> str | None:
    return _id(command, "asset") or _whole(command, "limit", 0, limits.MAX_AMOUNT)


def _schedule(command: Any) -> str | None:
    if command.period not in tuple(Period):
        return "period is neither months nor days"
    problem = (
        _id(command, "asset")
        or _amount(command)
        or _whole(command, "every", 1, MAX_EVERY)
        or _instant(command, "first_at", 1)
        or _instant(command, "until")
        or _whole(command, "cap", 0, limits.MAX_AMOUNT)
        or _whole(command, "expires_after_ms", 0, limits.MAX_OCCURRED_AT)
        or _terms(Terms(command.lot_class, command.priority, scope=command.scope))
    )
    if not problem and command.until and command.until <= command.first_at:
        return "until is not after first_at"
    return problem


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


# Of any type: their fields are what was read, not yet what they should be.
_RULES: Mapping[type, Callable[[Any], str | None]] = {
    Grant: _grant,
    Spend: _spend,
    Hold: _hold,
    Capture: _capture,
    Release: _release,
    Refund: _refund,
    VoidGrant: _void,
    Transfer: _transfer,
    ReceiveTransfer: _receive,
    SettleTransfer: _settle,
    Freeze: _freeze,
    SetCreditLimit: _limit,
    CreateSchedule: _schedule,
    CancelSchedule: lambda command: _id(command, "schedule"),
    Batch: _batch,
}
