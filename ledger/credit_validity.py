"""What can be seen to be wrong in a command of the rules of credits without looking at state.

Such a command is refused by the producer and a dead letter in the log; it doesn't use up its id.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from creditfold.ledger import limits
from creditfold.ledger.commands import (
    STEPS,
    Batch,
    CancelSchedule,
    Capture,
    Command,
    CreateSchedule,
    Freeze,
    FreezeScope,
    Grant,
    Hold,
    LotClass,
    Parcel,
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

MAX_PRIORITY: Final = 100
MAX_STEPS: Final = 100
MAX_EVERY: Final = 10_000
MAX_NUMBER: Final = 2**31 - 1

#: How the ids of derived commands begin; nobody else's may, or one could be taken before it comes.
DERIVED: Final = "~"

DERIVED_COMMANDS: Final[tuple[type, ...]] = (ReceiveTransfer, SettleTransfer)


def problem_of(command: Any) -> str | None:
    """Say what is wrong with a command, naming its field, or None for a valid one."""
    values: tuple[Any, ...] = command
    # The fields of them all begin with these.
    command_id, account = values[0], values[1]
    if not isinstance(command_id, str) or not is_id(command_id, limits.MAX_COMMAND_ID):
        return _COMMAND_ID.says
    if not isinstance(account, str) or not is_id(account, limits.MAX_ACCOUNT):
        return _ACCOUNT.says
    kind = type(command)
    if (command_id[0] == DERIVED) != (kind in DERIVED_COMMANDS):
        return f"command_id begins with {DERIVED}, as those of derived commands alone do"
    checks = _CHECKS.get(kind)
    return None if checks is None else checks.problem(values)


#: Finds what is wrong with several fields of a command, each of which is sound by itself.
_Check: TypeAlias = Callable[[Any], str | None]


class _Field:
    """What a field may be. Values are of any type: they are what was read, not yet what they should be."""

    __slots__ = ("name", "says")

    def __init__(self, name: str, says: str) -> None:
        self.name = name
        #: What is wrong with a value that isn't allowed.
        self.says = says

    def allows(self, value: Any) -> bool:
        """Whether it may be this."""
        raise NotImplementedError


class _Id(_Field):
    __slots__ = ("_is_optional", "_longest")

    def __init__(self, name: str, *, is_optional: bool = False) -> None:
        self._longest = _LONGEST.get(name, limits.MAX_COMMAND_ID)
        self._is_optional = is_optional
        super().__init__(name, f"{name} is not 1 to {self._longest} printable characters")

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and (is_id(value, self._longest) if value else self._is_optional)


class _Whole(_Field):
    __slots__ = ("_least", "_most")

    def __init__(self, name: str, least: int, most: int) -> None:
        self._least = least
        self._most = most
        super().__init__(name, f"{name} is not a whole number from {least} to {most}")

    def allows(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self._least <= value <= self._most


class _Flag(_Field):
    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__(name, f"{name} is neither true nor false")

    def allows(self, value: Any) -> bool:
        return isinstance(value, bool)


class _Either(_Field):
    __slots__ = ("_allowed",)

    def __init__(self, name: str, *allowed: str) -> None:
        self._allowed = allowed
        super().__init__(name, f"{name} is neither {' nor '.join(allowed)}")

    def allows(self, value: Any) -> bool:
        return value in self._allowed


class _Parcels(_Field):
    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("parcels", f"parcels are not 1 to {limits.MAX_PARCELS}")

    def allows(self, value: Any) -> bool:
        return 1 <= len(value) <= limits.MAX_PARCELS


class _Place:
    """Where a field is among a command's values, and its default: nearly always that very object, which is allowed."""

    __slots__ = ("at", "default", "field")

    def __init__(self, at: int, field: _Field, default: Any) -> None:
        self.at = at
        self.field = field
        self.default = default


class _Checks:
    """What is checked of a kind of tuple: its fields in this order, then what several of them say together."""

    __slots__ = ("_others", "_places")

    def __init__(self, kind: Any, *checks: "_Field | _Check") -> None:
        names, defaults = kind._fields, kind._field_defaults
        fields = [check for check in checks if isinstance(check, _Field)]
        self._places = [_Place(names.index(field.name), field, defaults.get(field.name, _NONE)) for field in fields]
        self._others: list[_Check] = [check for check in checks if not isinstance(check, _Field)]

    def problem(self, values: tuple[Any, ...]) -> str | None:
        """What is wrong with the first that isn't sound, None if all are."""
        for place in self._places:
            value = values[place.at]
            if value is not place.default and not place.field.allows(value):
                return place.field.says
        for check in self._others:
            if problem := check(values):
                return problem
        return None


# The default of what has none.
_NONE: Final = object()

_LONGEST: Final = {"account": limits.MAX_ACCOUNT, "to": limits.MAX_ACCOUNT, "sender": limits.MAX_ACCOUNT}


def _instant(name: str, least: int = 0) -> _Whole:
    return _Whole(name, least, limits.MAX_OCCURRED_AT)


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


def _parcels(command: Any) -> str | None:
    problems = (_PARCEL.problem(parcel) or _TERMS_CHECKS.problem(parcel.terms) for parcel in command.parcels)
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


_COMMAND_ID: Final = _Id("command_id")
_ACCOUNT: Final = _Id("account")
_ASSET, _AMOUNT, _PART = _Id("asset"), _Whole("amount", 1, limits.MAX_AMOUNT), _Whole("amount", 0, limits.MAX_AMOUNT)
_USE, _SCOPE = _Id("use", is_optional=True), _Id("scope", is_optional=True)
_CLASS, _PRIORITY = _Either("lot_class", LotClass.PAID, LotClass.PROMO), _Whole("priority", 0, MAX_PRIORITY)
_EFFECTIVE, _EXPIRES = _instant("effective_at"), _instant("expires_at")
#: Of anything that has a lot's terms.
_TERMS = (_CLASS, _PRIORITY, _EFFECTIVE, _EXPIRES, _SCOPE, _after("expires_at", "effective_at"))
_TERMS_CHECKS: Final = _Checks(Terms, *_TERMS)
_PARCEL: Final = _Checks(Parcel, _Id("lot"), _AMOUNT)
_EVERY, _CAP = _Whole("every", 1, MAX_EVERY), _Whole("cap", 0, limits.MAX_AMOUNT)
_TURNS = (_EVERY, _instant("first_at", 1), _instant("until"), _CAP, _instant("expires_after_ms"))

#: What is checked of each kind.
_RULES: Final[Mapping[type[Command], Sequence[_Field | _Check]]] = {
    Grant: (_ASSET, _AMOUNT, *_TERMS),
    Spend: (_ASSET, _AMOUNT, _USE, _Flag("partial"), _EFFECTIVE),
    Hold: (_ASSET, _AMOUNT, _instant("deadline", 1), _USE),
    Capture: (_Id("hold"), _PART, _Flag("final")),
    Release: (_Id("hold"), _PART),
    Refund: (_Id("spend"), _PART, _Flag("reissue"), _EXPIRES, _end_without_lot),
    VoidGrant: (_Id("grant"), _Whole("number", 0, MAX_NUMBER)),
    Transfer: (_ASSET, _AMOUNT, _Id("to"), _USE, _own_receiver),
    ReceiveTransfer: (_Parcels(), _ASSET, _Id("sender"), _Id("transfer"), _parcels),
    SettleTransfer: (_Id("transfer"), _Id("returned", is_optional=True)),
    Freeze: (_Either("scope", *FreezeScope),),
    SetCreditLimit: (_ASSET, _Whole("limit", 0, limits.MAX_AMOUNT)),
    CreateSchedule: (
        *(_Either("period", *Period), _ASSET, _AMOUNT, *_TURNS),
        *(_CLASS, _PRIORITY, _SCOPE, _after("until", "first_at")),
    ),
    CancelSchedule: (_Id("schedule"),),
    Batch: (_batch,),
}
_CHECKS: Final[dict[type, _Checks]] = {kind: _Checks(kind, *checks) for kind, checks in _RULES.items()}
