"""What the fold over many accounts needs to know of a command: its body, whether it is another's, and the log's clock.

Pure like its room. What is decided is credits.py's, and the book of accounts credit_book.py's.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from hashlib import blake2b
from json import JSONEncoder
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple, TypeAlias

from creditfold.ledger.commands import KINDS, Command, Parcel, Step
from creditfold.ledger.facts import make
from creditfold.ledger.limits import MAX_OCCURRED_AT


class Verdict(Enum):
    """What a valid command can be instead of decided."""

    DUPLICATE = "duplicate"  # Same id, same body: the first outcome stands, nothing happens.
    COMMAND_ID_REUSED = "command_id_reused"  # Same id, other body: a dead letter, the first outcome stands.
    RULES_NOT_NEWER = "rules_not_newer"  # An activation of older rules than those in force: a dead letter.
    TICK_AHEAD = "tick_ahead"  # A tick that would make duplicates of all ticks for a day or more: a dead letter.


class Body(NamedTuple):
    """The body of a command, by which a duplicate is recognized: all its fields but the ids that it is looked up by.

    `extra` is a digest of what the journal has no column for (the metadata), empty when that is at its default.
    `details` is JSON of the fields that only some commands have, without those at their defaults: so a field that a
    newer schema adds doesn't change the body of a command that doesn't use it.
    """

    kind: str
    asset: str
    amount: int
    occurred_at: int
    source: str
    reason: str
    extra: bytes
    details: str = ""


CommandKey: TypeAlias = tuple[str, str]
#: Each command already decided, or its body, by (account, command id).
Known: TypeAlias = dict[CommandKey, Body | Command]


def body_of(command: Command) -> Body:
    """The body of a command."""
    return make(Body, columns_of(command))


#: The values of a body, in the order of its fields.
Columns: TypeAlias = tuple[str, str, int, int, str, str, bytes, str]


def columns_of(command: Command) -> Columns:
    """The values of a command's body: for each line of the journal one tuple less than the body itself."""
    fields: tuple[Any, ...] = command
    shape = _SHAPES[type(command)]
    texts: list[str] = []
    for own in shape.own:
        value, default = fields[own.at], own.default
        # Nearly always the very same object, which takes no comparison.
        if value is not default and value != default:
            texts.append(own.name_as_json + _json(value if own.plain is None else own.plain(value)))
    asset: str = "" if shape.asset < 0 else fields[shape.asset]
    amount: int = 0 if shape.amount < 0 else fields[shape.amount]
    details = "{" + ",".join(texts) + "}" if texts else ""
    if not shape.has_origin:
        return shape.kind, asset, amount, 0, "", "", b"", details
    metadata = fields[-1]
    extra = digest(metadata) if metadata else b""
    return shape.kind, asset, amount, fields[-4], fields[-3], fields[-2], extra, details


def _json(value: Any) -> str:
    # Nearly all are texts and numbers, for which the encoder takes ten times as long.
    if isinstance(value, str):
        return encode_basestring(value)
    return str(value) if type(value) is int else as_json(value)


class _Own:
    """A field that only some kinds of commands have: where it is, its default if it has one, and how it is kept."""

    __slots__ = ("at", "default", "name_as_json", "plain")

    def __init__(self, at: int, name: str, default: Any) -> None:
        self.at = at
        self.name_as_json = f'"{name}":'
        self.default = default
        #: Makes values for JSON of the field's value, None where it is one.
        self.plain = _PLAIN.get(name)


class _Shape:
    """Where a kind's fields are: those that bodies have columns for, negative where it lacks one, and its own."""

    __slots__ = ("amount", "asset", "has_origin", "kind", "own")

    def __init__(self, kind: type[Command]) -> None:
        names, defaults = kind._fields, kind._field_defaults
        self.kind = KINDS[kind]
        self.asset = names.index("asset") if "asset" in names else -1
        self.amount = names.index("amount") if "amount" in names else -1
        #: Whether it says who asks for it, as all do but those that the ledger itself appends.
        self.has_origin = names[-4:] == _ORIGIN
        self.own = [_Own(at, name, defaults.get(name)) for at, name in enumerate(names) if name not in _SHARED]


_ORIGIN = ("occurred_at", "source", "reason", "metadata")
_SHARED = ("command_id", "account", "asset", "amount", *_ORIGIN)


def _step(step: Step) -> dict[str, Any]:
    # Who asks is the batch's to say.
    fields = {name: value for name, value in step._asdict().items() if name not in _OF_THE_BATCH}
    defaults = step._field_defaults
    return {"kind": KINDS[type(step)], **{key: value for key, value in fields.items() if value != defaults.get(key)}}


def _steps(steps: Sequence[Step]) -> list[Any]:
    return [_step(step) for step in steps]


def _parcels(parcels: Sequence[Parcel]) -> list[Any]:
    return [[lot, amount, *terms] for lot, amount, terms in parcels]


_PLAIN: Final[Mapping[str, Callable[[Any], list[Any]]]] = {"steps": _steps, "parcels": _parcels}
_SHAPES: Final[dict[type, _Shape]] = {kind: _Shape(kind) for kind in KINDS}

_OF_THE_BATCH = ("account", "occurred_at", "source", "reason", "metadata")

#: JSON as it is kept, compared and hashed: the same text for the same values, for ever.
as_json: Final = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def digest(metadata: Mapping[str, str]) -> bytes:
    """What the journal keeps of a command's metadata, if there is any: 16 bytes.

    Example:
        >>> digest({"plan": "pro"}) == digest({"plan": "basic"})
        False
    """
    # A valid command holds no NUL, which makes NUL a safe separator.
    text = "\0".join(["metadata", str(len(metadata)), *(part for entry in sorted(metadata.items()) for part in entry)])
    return blake2b(text.encode(), digest_size=16).digest()


def repeated(first: Body | Command, command: Command) -> Verdict:
    """What becomes of a command whose id was decided before, for the first that had it."""
    # Of most commands nobody ever asks for the body.
    body = first if isinstance(first, Body) else body_of(first)
    return Verdict.DUPLICATE if body == body_of(command) else Verdict.COMMAND_ID_REUSED


def advanced(clock_ms: int, appended_at_ms: int) -> int:
    """The log's clock after a record: its append time, unless that lies in the past, or beyond any calendar."""
    return appended_at_ms if clock_ms < appended_at_ms <= MAX_OCCURRED_AT else clock_ms
