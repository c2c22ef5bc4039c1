"""Confluent's wire format: a zero byte, the schema id in four bytes big-endian, the Avro body.

Owns bytes to fields and back. Knows nothing of what the fields mean: that is `ledger/`'s to check.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

from fastavro import schemaless_writer

from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.reading import Reader, compile_reader
from creditfold.schemas.registry import latest, load_current, load_lock, parsed

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
        """The values by their fields' names."""
        names = [field["name"] for field in load_current(self.record)["fields"]]
        return dict(zip(names, self.values, strict=True))


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


@lru_cache(maxsize=1)
def _writers() -> Mapping[str, tuple[bytes, Any]]:
    return {record: (HEADER.pack(MAGIC, row.id), parsed(row.schema)) for record, row in latest(load_lock()).items()}


def encode(record: str, fields: Mapping[str, Any]) -> bytes:
    """Write a record with its newest schema.

    Raises KeyError for an unknown record, ValueError for fields that don't fit.
    """
    header, schema = _writers()[record]
    out = BytesIO()
    out.write(header)
    try:
        schemaless_writer(out, schema, fields)
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
