"""The types of a command's fields: their bounds, and the words in which a bad one is refused.

Owns what one field by itself may hold; commands.py knows which command has which. Source: docs/rules.md.
Each type's description is the rule that a refusal quotes; the JSON schema of a command has it too.

Producers are stricter than the fold about what is most likely a mistake: an instant in another unit, a 0 where leaving
a field out means everything, an id with invisible characters. The fold takes those, since what is in the log is
decided.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError

from creditfold.common import instants
from creditfold.common.lookalikes import oddity_of
from creditfold.ledger import limits
from creditfold.ledger.credit_validity import DERIVED, MAX_EVERY, MAX_NUMBER, MAX_PRIORITY

#: The kind of an error that has its own rule, in its context, in place of the field's description.
RULE = "rule"
#: The kind of an error that isn't one where the caller confirms that it is meant.
DOUBT = "doubt"
# Not in pydantic's own context: a validator that is given it costs each field of each command.
_confirmed: ContextVar[bool] = ContextVar("confirmed", default=False)

_OUTER = "without control characters and without spaces at its ends"
_ID = f"must be a text of 1 to {{}} characters {_OUTER}"
_NOTE = "must be a text of at most {:,} characters without NUL"
_WHOLE = "must be a whole number from {} to {}"


@contextmanager
def confirming() -> Iterator[None]:
    """Take as meant what is doubtful in the commands that the block makes."""
    before = _confirmed.set(True)
    try:
        yield
    finally:
        _confirmed.reset(before)


def is_confirmed() -> bool:
    """Whether the caller has said that what is doubtful is meant."""
    return _confirmed.get()


def _named(longest: int, *, or_empty: bool = False, or_derived: bool = True) -> AfterValidator:
    def refuse(text: str) -> str:
        if or_empty and not text:
            return text
        if not limits.is_id(text, longest):
            raise ValueError("out of bounds")
        if not text.isascii() and (oddity := oddity_of(text)) and not is_confirmed():
            raise PydanticCustomError(DOUBT, "see the context", {"rule": f"must not have {oddity}"})
        # One of the ledger's own could be taken before it comes.
        if not or_derived and text[0] == DERIVED:
            raise ValueError("out of bounds")
        return text

    return AfterValidator(refuse)


def _noted(longest: int) -> AfterValidator:
    def refuse(text: str) -> str:
        if not limits.is_note(text, longest):
            raise ValueError("out of bounds")
        return text

    return AfterValidator(refuse)


# Lengths stand in both places: in Field for the JSON schema that others read, in `limits` for what counts.
def _id(longest: int) -> Any:
    return Field(min_length=1, max_length=longest, description=_ID.format(longest))


def _note(longest: int) -> Any:
    return Field(max_length=longest, description=_NOTE.format(longest))


def _whole(least: int, most: int, more: str = "") -> Any:
    return Field(ge=least, le=most, description=_WHOLE.format(least, most) + more)


class Instant:
    """Marks a field that holds an instant, for those who read fields from text, and in the JSON schema."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(core)
        number = {name: found.pop(name) for name in ("type", "minimum", "maximum") if name in found}
        return {**found, "anyOf": [{"type": "string", "format": "date-time"}, number]}


def _instant(more: str = "") -> tuple[Any, ...]:
    """An instant; with `more` also 0, which says what `more` says, since no instant of 1970 can be meant."""
    first, end = instants.PLAIN

    def read(value: object) -> int:
        if value.__class__ is int and first <= value < end:
            return value  # Nearly every one, at one look.
        if more and ((value.__class__ is int and value == 0) or value == "0"):
            return 0
        try:
            return instants.instant_of(value)
        except instants.InstantError as error:
            raise PydanticCustomError(RULE, "see the context", {"rule": f"{instants.RULE}{more}; {error}"}) from None

    return (
        Field(ge=0 if more else instants.MIN_INSTANT, le=limits.MAX_OCCURRED_AT, description=instants.RULE + more),
        BeforeValidator(read),
        Instant(),
    )


CommandId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=limits.MAX_COMMAND_ID,
        description=f"{_ID.format(limits.MAX_COMMAND_ID)}, and without {DERIVED} at its start",
    ),
    _named(limits.MAX_COMMAND_ID, or_derived=False),
]
#: The id of another command, which may be one of the ledger's own.
OtherId = Annotated[str, _id(limits.MAX_COMMAND_ID), _named(limits.MAX_COMMAND_ID)]
Account = Annotated[str, _id(limits.MAX_ACCOUNT), _named(limits.MAX_ACCOUNT)]
Asset = Annotated[str, _id(limits.MAX_ASSET), _named(limits.MAX_ASSET)]
#: A use, or none.
Use = Annotated[
    str,
    Field(max_length=limits.MAX_COMMAND_ID, description=f"{_ID.format(limits.MAX_COMMAND_ID)}, or empty"),
    _named(limits.MAX_COMMAND_ID, or_empty=True),
]

Amount = Annotated[int, _whole(1, limits.MAX_AMOUNT)]
Limit = Annotated[int, _whole(0, limits.MAX_AMOUNT)]
Priority = Annotated[int, _whole(0, MAX_PRIORITY)]
Every = Annotated[int, _whole(1, MAX_EVERY)]

# None, which is to leave them out, means everything; the log has 0 for it. A 0 that is given is nothing, and most often
# the result of a sum that came out wrong: it is refused.
AmountOrRest = Annotated[int | None, _whole(1, limits.MAX_AMOUNT, "; leave it out for all that is left")]
Cap = Annotated[int | None, _whole(1, limits.MAX_AMOUNT, "; leave it out for no cap")]
LotNumber = Annotated[int | None, _whole(1, MAX_NUMBER, "; leave it out for all of them")]
LastsMs = Annotated[
    int | None,
    Field(
        ge=1,
        le=limits.MAX_OCCURRED_AT,
        description=(
            f"must be a whole number of milliseconds from 1 to {limits.MAX_OCCURRED_AT}; leave it out for no end"
        ),
    ),
]

OccurredAt = Annotated[int, *_instant(" (0 for unknown)")]
EffectiveAt = Annotated[int, *_instant(" (0 for at once)")]
ExpiresAt = Annotated[int, *_instant(" (0 for never)")]
Deadline = Annotated[int, *_instant()]

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
