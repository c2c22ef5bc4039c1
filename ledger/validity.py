"""What can be seen to be wrong in a command without looking at state. Source: docs/rules.md.

The producers refuse the same at their door (with messages for people); this check is what counts, since
anyone may write to the topic. A hypothesis test holds the two together.
"""

from collections.abc import Mapping
from typing import Any

from creditfold.ledger import limits
from creditfold.ledger.limits import is_id, is_note


def check(record_name: str, fields: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a command's decoded fields, or None for a valid one.

    Args:
        record_name: `Grant`, `Spend` or `ActivateRules`.
        fields: the fields by name after defaults, all present.
    """
    if record_name not in ("Grant", "Spend"):
        return _check_activation(fields) if record_name == "ActivateRules" else "unknown command"
    value = fields["command_id"]
    if value.__class__ is not str or not is_id(value, limits.MAX_COMMAND_ID):
        return "command_id is not 1 to 64 printable characters"
    value = fields["account"]
    if value.__class__ is not str or not is_id(value, limits.MAX_ACCOUNT):
        return "account is not 1 to 128 printable characters"
    value = fields["asset"]
    if value.__class__ is not str or not is_id(value, limits.MAX_ASSET):
        return "asset is not 1 to 64 printable characters"
    # Compared by class, since True is an int too.
    value = fields["amount"]
    if value.__class__ is not int or not 1 <= value <= limits.MAX_AMOUNT:
        return "amount is not a whole number from 1 to 2^53-1"
    if problem := _check_origin(fields):
        return problem
    value = fields["metadata"]
    return None if value == {} else _check_metadata(value)


def _check_activation(fields: Mapping[str, Any]) -> str | None:
    value = fields["command_id"]
    if value.__class__ is not str or not is_id(value, limits.MAX_COMMAND_ID):
        return "command_id is not 1 to 64 printable characters"
    value = fields["rules"]
    if value.__class__ is not int or not 1 <= value <= limits.MAX_RULES:
        return "rules is not a version from 1 to 32767"
    return _check_origin(fields)


def _check_origin(fields: Mapping[str, Any]) -> str | None:
    value = fields["occurred_at"]
    if value.__class__ is not int or not 0 <= value <= limits.MAX_OCCURRED_AT:
        return "occurred_at is not in milliseconds from 1970 to 9999"
    value = fields["source"]
    if value != "" and (value.__class__ is not str or not is_note(value, limits.MAX_SOURCE)):
        return "source is over 128 characters or holds a NUL"
    value = fields["reason"]
    if value != "" and (value.__class__ is not str or not is_note(value, limits.MAX_REASON)):
        return "reason is over 1,024 characters or holds a NUL"
    return None


def _check_metadata(value: object) -> str | None:
    if not isinstance(value, dict) or len(value) > limits.MAX_METADATA_ENTRIES:
        return "metadata has more than 32 entries"
    for key, text in value.items():
        sound = isinstance(key, str) and is_id(key, limits.MAX_METADATA_KEY)
        if not sound or not isinstance(text, str) or not is_note(text, limits.MAX_METADATA_VALUE):
            return "metadata has a key that is not 1 to 64 printable characters, or a value over 1,024"
    return None
