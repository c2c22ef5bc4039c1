"""The commands as people write them: their fields, their bounds, and their bytes in the log.

Owns the refusal of what is wrong without looking at state, with messages for people. Knows neither Kafka nor
the rules: whether an account has the credits is the fold's to say. Source: docs/rules.md.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from creditfold.ledger import limits
from creditfold.ledger.validity import check
from creditfold.producers.errors import InvalidCommandError, RecordTooLargeError
from creditfold.schemas.wire import encode

_ID_RULE = "must be a text of 1 to {} characters without control characters and without spaces at its ends"
_NOTE_RULE = "must be a text of at most {:,} characters without NUL"
_RULES = {
    "type": "must be 'grant' or 'spend'",
    "command_id": _ID_RULE.format(limits.MAX_COMMAND_ID),
    "account": _ID_RULE.format(limits.MAX_ACCOUNT),
    "asset": _ID_RULE.format(limits.MAX_ASSET),
    "amount": f"must be a whole number from 1 to {limits.MAX_AMOUNT}",
    "occurred_at": f"must be a whole number of milliseconds since 1970, from 0 to {limits.MAX_OCCURRED_AT}",
    "source": _NOTE_RULE.format(limits.MAX_SOURCE),
    "reason": _NOTE_RULE.format(limits.MAX_REASON),
    "metadata": (
        f"must be at most {limits.MAX_METADATA_ENTRIES} entries; each key a text of 1 to {limits.MAX_METADATA_KEY} "
        "characters without control characters and without spaces at its ends; "
        f"each value a text of at most {limits.MAX_METADATA_VALUE:,} characters without NUL"
    ),
}


def _must(is_good: Callable[[str, int], bool], longest: int) -> AfterValidator:
    def refuse(text: str) -> str:
        if not is_good(text, longest):
            raise ValueError("out of bounds")
        return text

    return AfterValidator(refuse)


# Lengths stand in both places: in Field for the JSON schema that others read, in `limits` for what counts.
_CommandId = Annotated[
    str, Field(min_length=1, max_length=limits.MAX_COMMAND_ID), _must(limits.is_id, limits.MAX_COMMAND_ID)
]
_Account = Annotated[str, Field(min_length=1, max_length=limits.MAX_ACCOUNT), _must(limits.is_id, limits.MAX_ACCOUNT)]
_Asset = Annotated[str, Field(min_length=1, max_length=limits.MAX_ASSET), _must(limits.is_id, limits.MAX_ASSET)]
_Amount = Annotated[int, Field(ge=1, le=limits.MAX_AMOUNT)]
_OccurredAt = Annotated[int, Field(ge=0, le=limits.MAX_OCCURRED_AT)]
_Source = Annotated[str, Field(max_length=limits.MAX_SOURCE), _must(limits.is_note, limits.MAX_SOURCE)]
_Reason = Annotated[str, Field(max_length=limits.MAX_REASON), _must(limits.is_note, limits.MAX_REASON)]
_Metadata = Annotated[
    dict[
        Annotated[
            str, Field(min_length=1, max_length=limits.MAX_METADATA_KEY), _must(limits.is_id, limits.MAX_METADATA_KEY)
        ],
        Annotated[str, Field(max_length=limits.MAX_METADATA_VALUE), _must(limits.is_note, limits.MAX_METADATA_VALUE)],
    ],
    Field(max_length=limits.MAX_METADATA_ENTRIES),
]


class _Command(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    record_name: ClassVar[str]

    command_id: _CommandId
    account: _Account
    asset: _Asset
    amount: _Amount
    occurred_at: _OccurredAt = 0
    source: _Source = ""
    reason: _Reason = ""
    metadata: _Metadata = Field(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _speak_plainly(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise InvalidCommandError(_problems(error)) from None

    @property
    def fields(self) -> dict[str, Any]:
        """The fields by name as the log's schema has them: all of them, without `type`."""
        fields = dict(self.__dict__)
        fields.pop("type", None)
        return fields


class Grant(_Command):
    """Give an account credits of an asset.

    Args:
        command_id: unique within the account, 1 to 64 characters; the same id has its effect once.
        account: who receives, 1 to 128 characters.
        asset: kind of credit, 1 to 64 characters.
        amount: in the asset's smallest unit, 1 to 2^53-1.
        occurred_at: when it happened at the source, in milliseconds since 1970 UTC; decides nothing.
        source: service that sends it; at most 128 characters.
        reason: why, for people; at most 1,024 characters.
        metadata: the source's own notes; at most 32 entries, keys of 1 to 64 characters, values of at most 1,024.

    Raises InvalidCommandError, naming each bad field and its bound.
    """

    record_name = "Grant"
    type: Literal["grant"] = "grant"


class Spend(_Command):
    """Take credits of an asset from an account. Fields and errors are those of Grant."""

    record_name = "Spend"
    type: Literal["spend"] = "spend"


Command: TypeAlias = Grant | Spend

_ANY_COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])


def parse_command(mapping: Mapping[str, Any]) -> Command:
    """Make a command from fields by name; `type` says which: `grant` or `spend`.

    Raises InvalidCommandError, naming each bad field and its bound.
    """
    if not isinstance(mapping, Mapping):
        raise InvalidCommandError(("a command must be an object of fields by name",))
    try:
        return _ANY_COMMAND.validate_python(dict(mapping))
    except ValidationError as error:
        raise InvalidCommandError(_problems(error)) from None


def _problems(error: ValidationError) -> tuple[str, ...]:
    # A field that is wrong in two places (metadata) is one problem: its rule says it all.
    found = (_problem(details["loc"], details["type"]) for details in error.errors(include_input=False))
    return tuple(dict.fromkeys(found))


def _problem(where: tuple[int | str, ...], kind: str) -> str:
    name = str(where[0]) if where else "type"
    if name not in _RULES:
        # A stranger's field name may be anything: shown shortened, and with its control characters escaped.
        return f"{name[:40]!r} is not a field of a command"
    if kind == "missing":
        return f"{name} is missing: it {_RULES[name]}"
    return f"{name} {_RULES[name]}"


class Encoded(NamedTuple):
    """A command as the log keeps it: the account in UTF-8 as key, the framed Avro record as value.

    `partition` -1 is the one that the key belongs into; a record without a key names its own.
    """

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int = -1


def encode_activation(rules: int, partition: int, *, source: str = "", reason: str = "") -> Encoded:
    """Make the control record that brings a version of the rules into force in one partition.

    The same version has the same command id, so that a second one is a duplicate. Raises InvalidCommandError.
    """
    fields = {"command_id": f"rules-{rules}", "rules": rules, "source": source, "reason": reason}
    problem = check("ActivateRules", (fields["command_id"], rules, 0, source, reason))
    if problem is not None:
        raise InvalidCommandError((problem,))
    return Encoded(None, encode("ActivateRules", fields), partition=partition)


def encode_command(command: Command) -> Encoded:
    """Make a command's record. Raises RecordTooLargeError over MAX_RECORD_BYTES of value."""
    value = encode(command.record_name, command.fields)
    if len(value) > limits.MAX_RECORD_BYTES:
        raise RecordTooLargeError(
            f"The command's record has {len(value):,} bytes, and the log takes {limits.MAX_RECORD_BYTES:,}.",
            "Shorten its metadata or reason.",
        )
    return Encoded(command.account.encode(), value)
