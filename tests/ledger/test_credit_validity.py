"""What is wrong with a command of the rules of credits whatever the state: each field at and beyond its bounds."""

from typing import Any

import pytest

from creditfold.ledger.commands import (
    Batch,
    CancelSchedule,
    Capture,
    Close,
    CreateSchedule,
    Freeze,
    FreezeScope,
    Grant,
    Hold,
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
    Unfreeze,
    VoidGrant,
)
from creditfold.ledger.credit_validity import problem_of
from creditfold.ledger.limits import MAX_AMOUNT, MAX_OCCURRED_AT
from creditfold.ledger.validity import check

pytestmark = pytest.mark.both_cores

GRANT = Grant("g", "ann", "credits", 5)
SPEND = Spend("s", "ann", "credits", 5)
HOLD = Hold("h", "ann", "credits", 5, 1_000)
CAPTURE = Capture("c", "ann", "h")
RELEASE = Release("r", "ann", "h")
REFUND = Refund("f", "ann", "s")
VOID = VoidGrant("v", "ann", "g")
TRANSFER = Transfer("t", "ann", "credits", 5, "bob")
RECEIVE = ReceiveTransfer("~in:1", "bob", "credits", "ann", "t", (Parcel("g", 5, Terms()),))
SETTLE = SettleTransfer("~out:1", "ann", "t")
FREEZE = Freeze("z", "ann")
LIMIT = SetCreditLimit("l", "ann", "credits", 100)
SCHEDULE = CreateSchedule("m", "ann", "credits", 5, Period.MONTHS, 1_000)
BATCH = Batch("b", "ann", (GRANT, SPEND))

#: Each field with values that are sound, then with some that aren't.
FIELDS: list[tuple[Any, str, list[Any], list[Any]]] = [
    (GRANT, "command_id", ["x" * 64, "ü", "a b", "😀" * 64], ["", "x" * 65, "\0", "a\nb", " a", "a ", "~x", None]),
    (GRANT, "command_id", [], ["\u00a0a", "a\x85", "\ud800"]),
    (GRANT, "account", ["x" * 128], ["", "x" * 129, "a\0b", "\t"]),
    (GRANT, "asset", ["x" * 64], ["", "x" * 65, "\x7f", 5]),
    (GRANT, "amount", [1, MAX_AMOUNT], [0, -1, MAX_AMOUNT + 1, 2**63 - 1, -(2**63), True, 1.0, "1", None]),
    (GRANT, "occurred_at", [0, MAX_OCCURRED_AT], [-1, MAX_OCCURRED_AT + 1, 2**63 - 1, False]),
    (GRANT, "source", ["", "x" * 128, "a\nb"], ["x" * 129, "a\0"]),
    (GRANT, "reason", ["", "x" * 1024], ["x" * 1025, "\0", "\udfff"]),
    (GRANT, "metadata", [{"k": ""}, {str(n): "" for n in range(32)}, {"k" * 64: "v" * 1024}], []),
    (GRANT, "metadata", [], [{"": "v"}, {str(n): "" for n in range(33)}, {"k" * 65: ""}, {"k": "v" * 1025}]),
    (GRANT, "metadata", [], [{"k": "\0"}, {"a\0": ""}, {"k": 1}]),
    (SPEND, "metadata", [{"k": ""}], [{"": "v"}]),
    (GRANT, "lot_class", [], ["gold", ""]),
    (GRANT, "priority", [0, 100], [-1, 101, True]),
    (GRANT, "effective_at", [0, MAX_OCCURRED_AT], [-1, MAX_OCCURRED_AT + 1]),
    (GRANT, "expires_at", [1, MAX_OCCURRED_AT], [-1, MAX_OCCURRED_AT + 1]),
    (GRANT, "scope", ["", "ads"], ["x" * 65, " "]),
    (SPEND, "asset", ["gold"], [""]),
    (SPEND, "amount", [MAX_AMOUNT], [0]),
    (SPEND, "use", ["ads"], [" ads"]),
    (SPEND, "partial", [True], [1, "yes"]),
    (SPEND, "effective_at", [1], [-1]),
    (HOLD, "asset", ["gold"], [""]),
    (HOLD, "amount", [1], [0]),
    (HOLD, "deadline", [1], [0, MAX_OCCURRED_AT + 1]),
    (HOLD, "use", ["ads"], ["\t"]),
    (CAPTURE, "hold", ["x"], [""]),
    (CAPTURE, "amount", [0, MAX_AMOUNT], [-1]),
    (CAPTURE, "final", [True], [0]),
    (RELEASE, "hold", ["x"], [""]),
    (RELEASE, "amount", [0], [-1]),
    (REFUND, "spend", ["x"], [""]),
    (REFUND, "amount", [0], [-1]),
    (REFUND, "reissue", [True], [None]),
    (REFUND._replace(reissue=True), "expires_at", [5], [-1]),
    (REFUND, "expires_at", [0], [5]),
    (VOID, "grant", ["x"], [""]),
    (VOID, "number", [0, 2**31 - 1], [-1, 2**31]),
    (TRANSFER, "asset", ["gold"], [""]),
    (TRANSFER, "amount", [1], [0]),
    (TRANSFER, "to", ["x" * 128], ["", "ann", "x" * 129]),
    (TRANSFER, "use", ["ads"], ["\n"]),
    (RECEIVE, "command_id", [], ["in:1"]),
    (RECEIVE, "asset", ["gold"], [""]),
    (RECEIVE, "sender", ["x"], [""]),
    (RECEIVE, "transfer", ["x"], [""]),
    (RECEIVE, "parcels", [(Parcel("g", 1, Terms()),) * 1_000], [(), (Parcel("g", 1, Terms()),) * 1_001]),
    (SETTLE, "transfer", ["x"], [""]),
    (SETTLE, "returned", ["account_closed"], [" "]),
    (FREEZE, "scope", [FreezeScope.ALL], ["some"]),
    (LIMIT, "asset", ["gold"], [""]),
    (LIMIT, "limit", [0, MAX_AMOUNT], [-1]),
    (SCHEDULE, "asset", ["gold"], [""]),
    (SCHEDULE, "amount", [1], [0]),
    (SCHEDULE, "period", [Period.DAYS], ["weeks"]),
    (SCHEDULE, "every", [1, 10_000], [0, 10_001]),
    (SCHEDULE, "first_at", [1], [0]),
    (SCHEDULE, "until", [0, 1_001], [-1, 1_000]),
    (SCHEDULE, "cap", [0, 1], [-1]),
    (SCHEDULE, "priority", [0], [101]),
    (SCHEDULE, "expires_after_ms", [0, 1], [-1]),
    (SCHEDULE, "scope", ["ads"], [" "]),
    (CancelSchedule("d", "ann", "m"), "schedule", ["x"], [""]),
    (BATCH, "steps", [(GRANT,)], [(), (GRANT,) * 101]),
]


@pytest.mark.parametrize(
    ("command", "field", "good", "bad"), FIELDS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_fields(command: Any, field: str, good: list[Any], bad: list[Any]) -> None:
    """A value in the field's bounds is no problem; one beyond them is, and is reported by the field's name."""
    assert problem(command) is None
    for value in good:
        assert problem(command._replace(**{field: value})) is None, value
    for value in bad:
        assert field in (problem(command._replace(**{field: value})) or ""), value


def problem(command: Any) -> str | None:
    """What is wrong with a command, as the fold looks at it; steps and parcels have a form of their own in the log."""
    is_nested = isinstance(command, Batch | ReceiveTransfer)
    return problem_of(command) if is_nested else check(type(command).__name__, command)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (TRANSFER, "steps[1] is a command that can't be in a batch"),
        (BATCH, "steps[1] is a command that can't be in a batch"),
        (SPEND._replace(account="bob"), "steps[1].account is another account"),
        (SPEND._replace(command_id="g"), "steps[1].command_id is in the batch already"),
        (SPEND._replace(command_id="b"), "steps[1].command_id is in the batch already"),
        (SPEND._replace(amount=0), "steps[1].amount is not a whole number from 1 to 9007199254740991"),
    ],
)
def test_steps_of_a_batch(step: Any, says: str) -> None:
    """Each must be sound by itself, of the batch's account, and have an id of its own."""
    assert problem_of(Batch("b", "ann", (GRANT, step))) == says


def test_an_empty_window() -> None:
    """Half-open, so a lot that ends as it begins never was."""
    assert problem_of(GRANT._replace(effective_at=5, expires_at=5)) == "expires_at is not after effective_at"
    assert problem_of(GRANT._replace(effective_at=5, expires_at=6)) is None


@pytest.mark.parametrize("command", [Unfreeze("u", "ann"), Close("x", "ann"), FREEZE, RELEASE, SETTLE])
def test_commands_with_little_in_them(command: Any) -> None:
    """Sound as they are, and looked at like the others."""
    assert problem_of(command) is None
    assert problem_of(command._replace(account="")) == "account is not 1 to 128 printable characters"


@pytest.mark.parametrize("number", [True, 1.0, "1", None])
def test_a_control_records_numbers_are_whole(number: Any) -> None:
    """On each core: one takes a truth value for a number where a field's type is given."""
    whole = "occurred_at is not in milliseconds from 1970 to 9999"
    assert check("Tick", ("t", number, 0, "")) == "minute is not a whole number from 1 to 4223371679"
    assert check("Tick", ("t", 1, number, "")) == whole
    assert check("ActivateRules", ("r", number, 0, "", "")) == "rules is not a version from 1 to 32767"
    assert check("ActivateRules", ("r", 1, number, "", "")) == whole
