"""Confluent's wire format: a zero byte, the schema id in four bytes big-endian, the Avro body.

Owns bytes to fields and back. Knows nothing of what the fields mean: that is `ledger/`'s to check.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

from fastavro import schemaless_writer

from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.reading import Reader, compile_reader, is_array
from creditfold.schemas.registry import JsonSchema, LockedSchema, load_current, load_lock, parsed, versions

MAGIC = 0
HEADER = struct.Struct(">bI")


class DecodeError(ValueError):
    """Bytes that are no record of ours. Holds the reason and a detail for people.

    `rules` is that of Decoded where the schema at least is known; without one it is that of the first.
    """

    def __init__(self, reason: DeadLetterReason, detail: str, rules: int = 1) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.rules = rules


class Decoded(NamedTuple):
    """A record's short name and all its values, defaults filled in, in the order of the current schema.

    `rules` is the version of the rules from which on the command log may hold such a record, 0 for never.
    """

    record: str
    values: tuple[Any, ...]
    rules: int

    @property
    def fields(self) -> dict[str, Any]:
        """The values by their fields' names, and so those of the records within."""
        return _by_name(load_current(self.record), self.values)


def _by_name(schema: JsonSchema, values: Sequence[Any]) -> dict[str, Any]:
    return {
        field["name"]: [_by_name(field["type"]["items"], item) for item in value] if is_array(field["type"]) else value
        for field, value in zip(schema["fields"], values, strict=True)
    }


class _Reader(NamedTuple):
    record: str
    rules: int
    read: Reader


@lru_cache(maxsize=1)
def _readers() -> Mapping[int, _Reader]:
    return {
        row.id: _Reader(row.record, row.rules, compile_reader(row.schema, load_current(row.record)))
        for row in load_lock()
    }


class _Writer(NamedTuple):
    """How a version of a record is written, and which fields of later versions it has no room for.

    `lacking` are those with their defaults; `within` are, by the name of an array, those of its items.
    """

    header: bytes
    schema: Any
    booleans: tuple[str, ...]
    lacking: tuple[tuple[str, Any], ...]
    within: tuple[tuple[str, "_Lacking"], ...]


class _Lacking(NamedTuple):
    """What an older version of a record within a record has no room for. Fields as in _Writer."""

    lacking: tuple[tuple[str, Any], ...]
    within: tuple[tuple[str, "_Lacking"], ...]


@lru_cache(maxsize=1)
def _writers() -> Mapping[str, Sequence[_Writer]]:
    """The versions of each record, the oldest first."""
    return {
        record: [_writer(row, rows[number + 1 :]) for number, row in enumerate(rows)]
        for record, rows in versions(load_lock()).items()
    }


def _writer(row: LockedSchema, later: Sequence[LockedSchema]) -> _Writer:
    lacking, within = _lacking(row.schema, [other.schema for other in later])
    booleans = tuple(field["name"] for field in row.schema["fields"] if field["type"] == "boolean")
    return _Writer(HEADER.pack(MAGIC, row.id), parsed(row.schema), booleans, lacking, within)


def _lacking(schema: JsonSchema, later: Sequence[JsonSchema]) -> _Lacking:
    own = {field["name"]: field for field in schema["fields"]}
    lacking: dict[str, Any] = {}
    items: dict[str, list[JsonSchema]] = {}
    for field in (field for other in later for field in other["fields"]):
        if field["name"] not in own:
            lacking[field["name"]] = field.get("default")
        elif is_array(field["type"]):
            items.setdefault(field["name"], []).append(field["type"]["items"])
    within = ((name, _lacking(own[name]["type"]["items"], others)) for name, others in items.items())
    return _Lacking(tuple(lacking.items()), tuple((name, found) for name, found in within if any(found)))


def _has_room(writer: _Writer | _Lacking, fields: Mapping[str, Any]) -> bool:
    for name, default in writer.lacking:
        value = fields.get(name, default)
        # An empty array may come as a tuple.
        if value != default and not (default == [] and len(value) == 0):
            return False
    return not writer.within or all(
        _has_room(found, item) for name, found in writer.within for item in fields.get(name, ())
    )


def encode(record: str, fields: Mapping[str, Any]) -> bytes:
    """Write a record with the oldest of its schemas that has room for the fields.

    An absent field is at its default, and so is one that no version knows. A record within a record is given as a
    mapping too. Raises KeyError for an unknown record, ValueError for fields that don't fit.
    """
    # Not with the newest. A log under rules 1 takes a newer schema for a dead letter, and a plain grant is none: nobody
    # needs to bring new rules into force to go on with what they do. And a command sent again by a newer producer is
    # then the same as the old one was, byte for byte.
    writers = _writers()[record]
    out = BytesIO()
    try:
        for writer in writers:  # The last one has room for everything.
            if _has_room(writer, fields):
                break
        out.write(writer.header)
        for name in writer.booleans:
            # fastavro would write whatever Python holds for true, a text "false" among it.
            if fields.get(name, False).__class__ is not bool:
                raise ValueError(f"{name} is neither true nor false")
        schemaless_writer(out, writer.schema, fields)
    except (TypeError, AttributeError, OverflowError, ValueError) as error:
        raise ValueError(f"not a {record}: {error}") from None
    return out.getvalue()


def decode(value: bytes | None) -> Decoded:
    """Read a record of any version. Raises DecodeError, and nothing else, whatever the bytes are."""
    if not value:
        raise DecodeError(DeadLetterReason.EMPTY_VALUE, "the record has no value")
    if len(value) <= HEADER.size or value[0] != MAGIC:
        raise DecodeError(DeadLetterReason.NOT_FRAMED, "no zero byte and four-byte schema id before the body")
    schema_id = int.from_bytes(value[1:5], "big")
    reader = _readers().get(schema_id)
    if reader is None:
        raise DecodeError(DeadLetterReason.UNKNOWN_SCHEMA_ID, f"schema id {schema_id} is not in the lock file")
    try:
        # As Decoded(...), which takes twice as long.
        return tuple.__new__(Decoded, (reader.record, reader.read(value, 5), reader.rules))
    except IndexError:
        raise DecodeError(DeadLetterReason.NOT_AVRO, "the record ends too early", reader.rules) from None
    except ValueError as error:
        # A number or a length out of bounds, bytes left over, or text that isn't UTF-8.
        detail = f"{type(error).__name__}: {error}"[:200]
        raise DecodeError(DeadLetterReason.NOT_AVRO, detail, reader.rules) from None
