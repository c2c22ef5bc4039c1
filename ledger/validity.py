"""What can be seen to be wrong in a command without looking at state. Source: docs/rules.md.

The producers refuse the same at their door (with messages for people); this check is what counts, since
anyone may write to the topic. A hypothesis test holds the two together.
"""

from collections.abc import Sequence
from typing import Any

from creditfold.ledger import limits
from creditfold.ledger.commands import (
    COMMANDS,
    CONTROLS,
    OWN_END,
    OWN_START,
    PLAIN_DEFAULTS,
    ActivateRules,
    ReceiveTransfer,
    SettleTransfer,
    Tick,
    command_of,
)
from creditfold.ledger.credit_validity import DERIVED, problem_of
from creditfold.ledger.limits import is_id, is_note


def check(record_name: str, values: Sequence[Any]) -> str | None:
    """Say what is wrong with a command's decoded values, or None for a valid one.

    Args:
        record_name: of a command or of a control record, for example `Grant`.
        values: of all fields after defaults, in the order of the command's.
    """
    if record_name not in _PLAIN or values[OWN_START:OWN_END] != _PLAIN[record_name]:
        return _check_any(record_name, values)
    command_id, account, asset, amount = values[:4]
    # Compared by class, since True is an int too.
    is_sound = amount.__class__ is int and 1 <= amount <= limits.MAX_AMOUNT
    if not is_sound or not _are_plain(command_id, account, asset):
        return _check_any(record_name, values)
    occurred_at, source, reason, metadata = values[-4:]
    # Most commands say nothing more.
    if occurred_at == 0 and source == reason == "" and metadata == {} and occurred_at.__class__ is int:
        return None
    return _check_origin(occurred_at, source, reason) or metadata_problem(metadata)


_PLAIN = {kind.__name__: own for kind, own in PLAIN_DEFAULTS.items()}


def _check_any(record_name: str, values: Sequence[Any]) -> str | None:
    if record_name not in COMMANDS and record_name not in CONTROLS:
        return "unknown command"
    try:
        # Any: its fields are what was read, not yet what they should be.
        command: Any = command_of(record_name, tuple(values))
    except ValueError as error:
        return str(error)
    if isinstance(command, ActivateRules):
        return _check_activation(command)
    if isinstance(command, Tick):
        return _check_tick(command)
    problem = problem_of(command)
    if problem or isinstance(command, ReceiveTransfer | SettleTransfer):
        return problem
    return _check_origin(command.occurred_at, command.source, command.reason) or metadata_problem(command.metadata)


def _are_plain(command_id: Any, account: Any, asset: Any) -> bool:
    """Whether these ids can be seen at one look to be sound, as nearly all can: ASCII without a space."""
    if not (command_id.__class__ is account.__class__ is asset.__class__ is str):
        return False
    ids = command_id + account + asset
    return (
        ids.isascii()
        and ids.isprintable()
        and " " not in ids
        and 0 < len(command_id) <= limits.MAX_COMMAND_ID
        and command_id[0] != DERIVED
        and 0 < len(account) <= limits.MAX_ACCOUNT
        and 0 < len(asset) <= limits.MAX_ASSET
    )


def _check_activation(command: ActivateRules) -> str | None:
    if not isinstance(command.command_id, str) or not is_id(command.command_id, limits.MAX_COMMAND_ID):
        return "command_id is not 1 to 64 printable characters"
    if command.rules.__class__ is not int or not 1 <= command.rules <= limits.MAX_RULES:
        return "rules is not a version from 1 to 32767"
    return _check_origin(command.occurred_at, command.source, command.reason)


def _check_tick(command: Tick) -> str | None:
    if not isinstance(command.command_id, str) or not is_id(command.command_id, limits.MAX_COMMAND_ID):
        return "command_id is not 1 to 64 printable characters"
    if command.minute.__class__ is not int or not 1 <= command.minute <= limits.MAX_MINUTE:
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
