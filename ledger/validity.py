"""What can be seen to be wrong in a command without looking at state. Source: docs/rules.md.

The producers refuse the same at their door (with messages for people); this check is what counts, since
anyone may write to the topic. A hypothesis test holds the two together.
"""

from collections.abc import Sequence
from typing import Any, Final

from creditfold.ledger import limits
from creditfold.ledger.commands import (
    COMMANDS,
    CONTROLS,
    KINDS,
    ActivateRules,
    Command,
    Control,
    command_of,
)
from creditfold.ledger.credit_validity import DERIVED_COMMANDS, problem_of
from creditfold.ledger.limits import is_id, is_note


def check(record_name: str, values: Sequence[Any]) -> str | None:
    """Say what is wrong with a command's decoded values, or None for a valid one.

    Args:
        record_name: of a command or of a control record, for example `Grant`.
        values: of all fields after defaults, in the order of the command's.
    """
    checked = command_or_problem(record_name, tuple(values))
    return checked if isinstance(checked, str) else None


def command_or_problem(record_name: str, values: tuple[Any, ...]) -> Command | Control | str:
    """Make the command of decoded values, or say what is wrong with them; the arguments are those of `check`."""
    if record_name not in COMMANDS and record_name not in CONTROLS:
        return "unknown command"
    try:
        # Any: its fields are what was read, not yet what they should be.
        command: Any = command_of(record_name, values)
    except ValueError as error:
        return str(error)
    problem = problem_of(command) if record_name in COMMANDS else _check_control(command)
    if problem is None and record_name in _WITH_ORIGIN:
        # The fields of all of these end with who asks, when, why, and what else. Most say nothing of it.
        origin: tuple[Any, ...] = values[-4:]
        if origin != _NO_ORIGIN or type(origin[0]) is not int:
            problem = _check_origin(origin[0], origin[1], origin[2]) or metadata_problem(origin[3])
    if problem is not None:
        return problem
    made: Command | Control = command
    return made


_WITH_ORIGIN: Final = {kind.__name__ for kind in KINDS if kind not in DERIVED_COMMANDS}
_NO_ORIGIN: Final[tuple[Any, ...]] = (0, "", "", {})


def _check_control(command: Any) -> str | None:
    return _check_activation(command) if isinstance(command, ActivateRules) else _check_tick(command)


def _check_activation(command: Any) -> str | None:
    if not isinstance(command.command_id, str) or not is_id(command.command_id, limits.MAX_COMMAND_ID):
        return "command_id is not 1 to 64 printable characters"
    if type(command.rules) is not int or not 1 <= command.rules <= limits.MAX_RULES:
        return "rules is not a version from 1 to 32767"
    return _check_origin(command.occurred_at, command.source, command.reason)


def _check_tick(command: Any) -> str | None:
    if not isinstance(command.command_id, str) or not is_id(command.command_id, limits.MAX_COMMAND_ID):
        return "command_id is not 1 to 64 printable characters"
    if type(command.minute) is not int or not 1 <= command.minute <= limits.MAX_MINUTE:
        return f"minute is not a whole number from 1 to {limits.MAX_MINUTE}"
    return _check_origin(command.occurred_at, command.source, "")


def _check_origin(occurred_at: Any, source: Any, reason: Any) -> str | None:
    is_whole = isinstance(occurred_at, int) and not isinstance(occurred_at, bool)
    if not is_whole or not 0 <= occurred_at <= limits.MAX_OCCURRED_AT:
        return "occurred_at is not in milliseconds from 1970 to 9999"
    if not isinstance(source, str) or not is_note(source, limits.MAX_SOURCE):
        return "source is over 128 characters or holds a NUL"
    if not isinstance(reason, str) or not is_note(reason, limits.MAX_REASON):
        return "reason is over 1,024 characters or holds a NUL"
    return None


def metadata_problem(value: object) -> str | None:
    """What is wrong with a command's metadata, None if nothing is."""
    if not isinstance(value, dict) or len(value) > limits.MAX_METADATA_ENTRIES:
        return "metadata has more than 32 entries"
    for key, text in value.items():
        sound = isinstance(key, str) and is_id(key, limits.MAX_METADATA_KEY)
        if not sound or not isinstance(text, str) or not is_note(text, limits.MAX_METADATA_VALUE):
            return "metadata has a key that is not 1 to 64 printable characters, or a value over 1,024"
    return None
