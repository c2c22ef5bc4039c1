"""Confluent's wire format: a zero byte, the schema id in four bytes big-endian, the Avro body.

Owns bytes to fields and back. Knows nothing of what the fields mean: `ledger/` checks that.
"""

import importlib
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.errors import DecodeError, MalformedError
from creditfold.schemas.reader import RecordReader, is_array
from creditfold.schemas.registry import JsonSchema, LockedSchema, load_current, load_lock, versions
from creditfold.schemas.writer import Room, Writer, compile_room, compile_writer, later_fields

try:
    _flat_records: Any = importlib.import_module("creditfold.schemas.flat_records")
except ImportError:  # Elsewhere than in the compiled core.
    _flat_records = None

__all__ = ["DecodeError", "Decoded", "decode", "encode"]

MAGIC: Final = 0
#: Given out before there was a release, to schemas that can't be read any more.
_OLD_IDS: Final = range(10_001, 10_101)
_OLD_LOG: Final = "is of a log that was made before version 1: begin a new topic, append to that, and fold it anew"
HEADER: Final = struct.Struct(">bI")
_HEADER_BYTES: Final = 5


class Decoded(NamedTuple):
    """A record's short name and all its values, defaults filled in, in the order of the current schema.

    `rules` is the version of the rules from which on the command log may hold such a record, 0 for never.
    """

    record: str
    values: tuple[Any, ...]
    rules: int

    @property
    def fields(self) -> dict[str, Any]:
        """The values by their fields' names, those of records within as well."""
        return _by_name(load_current(self.record), self.values)


def _by_name(schema: JsonSchema, values: Sequence[Any]) -> dict[str, Any]:
    return {
        field["name"]: [_by_name(field["type"]["items"], item) for item in value] if is_array(field["type"]) else value
        for field, value in zip(schema["fields"], values, strict=True)
    }


class _Reader(NamedTuple):
    record: str
    rules: int
    reader: RecordReader


@lru_cache(maxsize=1)
def _readers() -> dict[bytes, _Reader]:
    """By what their records begin with."""
    return {
        HEADER.pack(MAGIC, row.id): _Reader(row.record, row.rules, RecordReader(row.schema, load_current(row.record)))
        for row in load_lock()
    }


class _Writer(NamedTuple):
    """How a version of a record is written, and whether it has room for fields."""

    write: Writer
    has_room: Room


class _Record(NamedTuple):
    """How a record is written: by `write_flat`, which returns None for what it can't write, or by one of `versions`."""

    write_flat: Callable[[Mapping[str, Any]], bytes | None]
    versions: Sequence[_Writer]


@lru_cache(maxsize=1)
def _writers() -> Mapping[str, _Record]:
    return {record: _writer(rows) for record, rows in versions(load_lock()).items()}


def _writer(rows: Sequence[LockedSchema]) -> _Record:
    """A record's writer by its versions, the oldest first."""
    schemas, headers = [row.schema for row in rows], [HEADER.pack(MAGIC, row.id) for row in rows]
    found = [
        _Writer(compile_writer(schema, header), compile_room(schema, schemas[number + 1 :]))
        for number, (schema, header) in enumerate(zip(schemas, headers, strict=True))
    ]
    if _flat_records is None:
        return _Record(lambda fields: None, found)
    first = _flat_records.FlatRecords(headers[0], schemas[0], later_fields(schemas[0], schemas[1:]).items())
    return _Record(first.encoded, found)


def encode(record: str, fields: Mapping[str, Any]) -> bytes:
    """Write a record with the oldest of its schemas that has room for the fields.

    An absent field is at its default, and so is one that no version knows.

    Args:
        record: its short name, such as `Grant`.
        fields: by name; a record within a record is a mapping too.

    Returns:
        The framed bytes: a zero byte, the schema id in four bytes big-endian, the Avro body.

    Raises:
        KeyError: there is no such record.
        ValueError: the fields don't fit.

    Example:
        >>> decode(encode("Unfreeze", {"command_id": "u-1", "account": "ada"})).fields["account"]
        'ada'
    """
    # Not with the newest. A log under older rules takes a newer schema for a dead letter, and a plain grant is none:
    # nobody needs to bring new rules into force to go on with what they do. And a command sent again by a newer
    # producer then equals the old one, byte for byte.
    write_flat, writers = _writers()[record]
    if (value := write_flat(fields)) is not None:
        return value
    try:
        for write, has_room in writers:  # The last one has room for everything.
            if has_room(fields):
                return write(fields)
        raise AssertionError(f"no version of {record} has room for everything")
    except (TypeError, AttributeError, OverflowError, ValueError) as error:
        raise ValueError(f"not a {record}: {error}") from None


def decode(value: bytes | None) -> Decoded:
    """Read a record of any version.

    Args:
        value: the framed bytes, as they are in the log.

    Returns:
        The record's name and its values.

    Raises:
        DecodeError: the bytes are no record of ours; it raises nothing else, whatever they are.

    Example:
        >>> try:
        ...     decode(b"something else")
        ... except DecodeError as error:
        ...     print(error.reason)
        not_framed
    """
    return Decoded(*decode_values(value))


def decode_values(value: bytes | None) -> tuple[str, tuple[Any, ...], int]:
    """What `decode` returns, for who takes it apart at once. Raises DecodeError."""
    if not value:
        raise DecodeError(DeadLetterReason.EMPTY_VALUE, "the record has no value")
    found = _readers().get(value[:_HEADER_BYTES])
    if found is None or len(value) == _HEADER_BYTES:
        raise _not_ours(value)
    record, rules, reader = found
    try:
        values, end = reader.read(value, _HEADER_BYTES)
        if end != len(value):
            raise MalformedError(f"{len(value) - end} bytes left over after the record")
        return record, values, rules
    except IndexError:
        raise DecodeError(DeadLetterReason.NOT_AVRO, "the record ends too early", rules) from None
    except ValueError as error:
        # A number or a length out of bounds, bytes left over, or text that isn't UTF-8.
        detail = f"{type(error).__name__}: {error}"[:200]
        raise DecodeError(DeadLetterReason.NOT_AVRO, detail, rules) from None


def _not_ours(value: bytes) -> DecodeError:
    if not _is_framed(value):
        return DecodeError(DeadLetterReason.NOT_FRAMED, "no zero byte and four-byte schema id before the body")
    detail = _OLD_LOG if is_before_version_1(value) else "is not in the lock file"
    return DecodeError(DeadLetterReason.UNKNOWN_SCHEMA_ID, f"schema id {_schema_id(value)} {detail}")


def _is_framed(value: bytes) -> bool:
    return len(value) > _HEADER_BYTES and value[0] == MAGIC


def _schema_id(value: bytes) -> int:
    return int.from_bytes(value[1:_HEADER_BYTES], "big")


def is_before_version_1(value: bytes | None) -> bool | None:
    """Whether a record's schema was given out before version 1 of the rules; None for no record of ours."""
    if not value or not _is_framed(value):
        return None
    return True if _schema_id(value) in _OLD_IDS else False if value[:_HEADER_BYTES] in _readers() else None
