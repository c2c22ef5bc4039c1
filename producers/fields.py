"""The types of a command's fields: their bounds, and the words in which a bad one is refused.

Owns what one field by itself may hold; commands.py knows which command has which. Source: docs/rules.md,
docs/credits.md. Each type's description is the rule that a refusal quotes; the JSON schema of a command has it too.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from creditfold.ledger import limits
from creditfold.ledger.credit_validity import DERIVED, MAX_EVERY, MAX_NUMBER, MAX_PRIORITY

_OUTER = "without control characters and without spaces at its ends"
_ID = f"must be a text of 1 to {{}} characters {_OUTER}"
_NOTE = "must be a text of at most {:,} characters without NUL"
_WHOLE = "must be a whole number from {} to {}"
_INSTANT = "must be a whole number of milliseconds since 1970, from {} to {}"


def _must(is_good: Callable[[str], bool]) -> AfterValidator:
    def refuse(text: str) -> str:
        if not is_good(text):
            raise ValueError("out of bounds")
        return text

    return AfterValidator(refuse)


def _named(longest: int) -> AfterValidator:
    return _must(lambda text: limits.is_id(text, longest))


def _noted(longest: int) -> AfterValidator:
    return _must(lambda text: limits.is_note(text, longest))


# Lengths stand in both places: in Field for the JSON schema that others read, in `limits` for what counts.
def _id(longest: int) -> Any:
    return Field(min_length=1, max_length=longest, description=_ID.format(longest))


def _note(longest: int) -> Any:
    return Field(max_length=longest, description=_NOTE.format(longest))


def _whole(least: int, most: int, more: str = "") -> Any:
    return Field(ge=least, le=most, description=_WHOLE.format(least, most) + more)


def _instant(least: int, more: str = "") -> Any:
    most = limits.MAX_OCCURRED_AT
    return Field(ge=least, le=most, description=_INSTANT.format(least, most) + more)


CommandId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=limits.MAX_COMMAND_ID,
        description=f"{_ID.format(limits.MAX_COMMAND_ID)}, and without {DERIVED} at its start",
    ),
    _named(limits.MAX_COMMAND_ID),
    # One of the ledger's own could be taken before it comes.
    _must(lambda text: not text.startswith(DERIVED)),
]
#: The id of another command, which may be one of the ledger's own.
OtherId = Annotated[str, _id(limits.MAX_COMMAND_ID), _named(limits.MAX_COMMAND_ID)]
Account = Annotated[str, _id(limits.MAX_ACCOUNT), _named(limits.MAX_ACCOUNT)]
Asset = Annotated[str, _id(limits.MAX_ASSET), _named(limits.MAX_ASSET)]
#: A use, or none.
Use = Annotated[
    str,
    Field(max_length=limits.MAX_COMMAND_ID, description=f"{_ID.format(limits.MAX_COMMAND_ID)}, or empty"),
    _must(lambda text: not text or limits.is_id(text, limits.MAX_COMMAND_ID)),
]

Amount = Annotated[int, _whole(1, limits.MAX_AMOUNT)]
AmountOrRest = Annotated[int, _whole(0, limits.MAX_AMOUNT, " (0 for all that is left)")]
Limit = Annotated[int, _whole(0, limits.MAX_AMOUNT)]
Cap = Annotated[int, _whole(0, limits.MAX_AMOUNT, " (0 for none)")]
Priority = Annotated[int, _whole(0, MAX_PRIORITY)]
LotNumber = Annotated[int, _whole(0, MAX_NUMBER, " (0 for all)")]
Every = Annotated[int, _whole(1, MAX_EVERY)]

OccurredAt = Annotated[int, _instant(0)]
EffectiveAt = Annotated[int, _instant(0, " (0 for at once)")]
ExpiresAt = Annotated[int, _instant(0, " (0 for never)")]
Deadline = Annotated[int, _instant(1)]
LastsMs = Annotated[
    int,
    Field(
        ge=0,
        le=limits.MAX_OCCURRED_AT,
        description=f"must be a whole number of milliseconds, from 0 to {limits.MAX_OCCURRED_AT} (0 for ever)",
    ),
]

Flag = Annotated[bool, Field(description="must be true or false")]
LotClass = Annotated[Literal["paid", "promo"], Field(description="must be 'paid' or 'promo'")]
FreezeScope = Annotated[Literal["spending", "all"], Field(description="must be 'spending' or 'all'")]
Period = Annotated[Literal["months", "days"], Field(description="must be 'months' or 'days'")]

Source = Annotated[str, _note(limits.MAX_SOURCE), _noted(limits.MAX_SOURCE)]
Reason = Annotated[str, _note(limits.MAX_REASON), _noted(limits.MAX_REASON)]
Metadata = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=limits.MAX_METADATA_KEY), _named(limits.MAX_METADATA_KEY)],
        Annotated[str, Field(max_length=limits.MAX_METADATA_VALUE), _noted(limits.MAX_METADATA_VALUE)],
    ],
    Field(
        max_length=limits.MAX_METADATA_ENTRIES,
        description=(
            f"must be at most {limits.MAX_METADATA_ENTRIES} entries; each key a text of 1 to "
            f"{limits.MAX_METADATA_KEY} characters {_OUTER}; "
            f"each value a text of at most {limits.MAX_METADATA_VALUE:,} characters without NUL"
        ),
    ),
]
