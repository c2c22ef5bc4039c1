"""JSON as strictly as commands demand it: no key twice, no NaN, no null in a field. Knows no command."""

import json
from typing import Any


class BadRecordError(ValueError):
    """A record of a file that is no command. Its text says why."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise BadRecordError(f"the JSON has the key {double[:40]!r} twice")
    return found


def _refuse_null(value: Any) -> None:
    """JavaScript writes null for a sum or a date that couldn't be computed: it must not mean all, or no end."""
    if isinstance(value, dict):
        for name, one in value.items():
            if one is None:
                raise BadRecordError(f"{name[:40]!r} is null: leave the field out where nothing is to be said")
            _refuse_null(one)
    elif isinstance(value, list):
        for one in value:
            _refuse_null(one)


def _no_constant(name: str) -> Any:
    raise BadRecordError(f"not JSON: {name}")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def parse_json(text: str, what: str = "the line is", *, with_null: bool = False) -> Any:
    """Read JSON strictly: no key twice, no NaN, no null in a field.

    Args:
        text: the JSON.
        what: begins the sentence of the error, as `the line is`.
        with_null: whether a field may be null all the same, where it is no command's.

    Returns:
        The value that the text holds.

    Raises:
        BadRecordError: it isn't such JSON; the text says why.
    """
    try:
        found = _DECODER.decode(text)
        # Looked for only where the word stands anywhere, as it hardly ever does.
        if not with_null and "null" in text:
            _refuse_null(found)
        return found
    except BadRecordError:
        raise
    except RecursionError:
        raise BadRecordError(f"{what} nested too deeply") from None
    except ValueError as error:
        if text.startswith("\ufeff"):
            raise BadRecordError(f"{what} not JSON: it begins with a byte order mark; were files joined?") from None
        # A whole number of thousands of digits lands here too: int() refuses it.
        raise BadRecordError(f"{what} not JSON: {str(error)[:100]}") from None
