"""What the fold over many accounts needs to know of a command: its body, whether it is another's, and the log's clock.

Pure like its room. What is decided is credits.py's, and the book of accounts credit_book.py's.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from hashlib import blake2b
from json import JSONEncoder
from json.encoder import encode_basestring
from typing import Any, NamedTuple, TypeAlias

from creditfold.ledger.commands import (
    KINDS,
    OWN_END,
    OWN_START,
    PLAIN_DEFAULTS,
    Batch,
    Command,
    ReceiveTransfer,
    Step,
)
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
    kind = type(command)
    own = PLAIN_DEFAULTS.get(kind)
    fields: tuple[Any, ...] = command
    if own is not None and fields[OWN_START:OWN_END] == own:
        # As nearly all are: no field of its own is used.
        asset, amount = fields[2:4]
        occurred_at, source, reason, metadata = fields[-4:]
        extra = digest(metadata) if metadata else b""
        return make(Body, (KINDS[kind], asset, amount, occurred_at, source, reason, extra, ""))
    shape = _SHAPES[kind]
    found: dict[str, Any] = {name: fields[at] for name, at, default in shape.own if fields[at] != default}
    if isinstance(command, Batch):
        found["steps"] = [_step(step) for step in command.steps]
    elif isinstance(command, ReceiveTransfer):
        found["parcels"] = [[lot, amount, *terms] for lot, amount, terms in command.parcels]
    values = [default if at is None else fields[at] for at, default in shape.shared]
    asset, amount, occurred_at, source, reason, metadata = values
    extra = digest(metadata) if metadata else b""
    texts = [f'"{name}":{_json(value)}' for name, value in found.items()]
    details = "{" + ",".join(texts) + "}" if texts else ""
    return make(Body, (KINDS[kind], asset, amount, occurred_at, source, reason, extra, details))


def _json(value: Any) -> str:
    # Nearly all are texts and numbers, for which the encoder takes ten times as long.
    if isinstance(value, str):
        return encode_basestring(value)
    return str(value) if value.__class__ is int else as_json(value)


class _Shape(NamedTuple):
    """Where a command's fields are: those that all bodies have, and its own, each with its default if it has one."""

    shared: Sequence[tuple[int | None, Any]]
    own: Sequence[tuple[str, int, Any]]


_SHARED: Mapping[str, Any] = {"asset": "", "amount": 0, "occurred_at": 0, "source": "", "reason": "", "metadata": None}


def _shape(kind: type[Command]) -> _Shape:
    places = {name: at for at, name in enumerate(kind._fields)}
    defaults = kind._field_defaults
    named = [name for name in kind._fields if name not in _SHARED and name not in ("command_id", "account")]
    return _Shape(
        [(places.get(name), default) for name, default in _SHARED.items()],
        [(name, places[name], defaults.get(name)) for name in named],
    )


_SHAPES: Mapping[type[Command], _Shape] = {kind: _shape(kind) for kind in KINDS}


def _step(step: Step) -> dict[str, Any]:
    # Who asks is the batch's to say.
    fields = {name: value for name, value in step._asdict().items() if name not in _OF_THE_BATCH}
    defaults = step._field_defaults
    return {"kind": KINDS[type(step)], **{key: value for key, value in fields.items() if value != defaults.get(key)}}


_OF_THE_BATCH = ("account", "occurred_at", "source", "reason", "metadata")

#: JSON as it is kept, compared and hashed: the same text for the same values, for ever.
as_json = JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


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
