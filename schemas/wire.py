"""Confluent's wire format: a zero byte, the schema id in four bytes big-endian, the Avro body.

Owns bytes to fields and back. Knows nothing of what the fields mean: that is `ledger/`'s to check.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

from fastavro import schemaless_reader, schemaless_writer

from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.registry import latest, load_current, load_lock, parsed

MAGIC = 0
HEADER = struct.Struct(">bI")


class DecodeError(ValueError):
    """Bytes that are no record of ours. Holds the reason and a detail for people."""

    def __init__(self, reason: DeadLetterReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Decoded(NamedTuple):
    """A record's short name and all its fields by name, defaults filled in, in the order of the current schema."""

    record: str
    fields: dict[str, Any]


class _Reader(NamedTuple):
    record: str
    writer: Any
    reader: Any  # None where the record was written with the current schema: fastavro is faster without.


@lru_cache(maxsize=1)
def _readers() -> Mapping[int, _Reader]:
    newest = latest(load_lock())
    current = {record: parsed(load_current(record)) for record in newest}
    return {
        row.id: _Reader(
            row.record, parsed(row.schema), None if newest[row.record].id == row.id else current[row.record]
        )
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
    body = BytesIO(value)
    body.seek(HEADER.size)
    try:
        fields: Any = schemaless_reader(body, reader.writer, reader.reader)
    except Exception as error:
        # Hostile bytes make the decoder raise whatever it likes.
        raise DecodeError(DeadLetterReason.NOT_AVRO, f"{type(error).__name__}: {error}"[:200]) from None
    if body.tell() != len(value):
        raise DecodeError(DeadLetterReason.NOT_AVRO, f"{len(value) - body.tell()} bytes left over after the record")
    if reader.reader is not None:
        fields = {field["name"]: fields[field["name"]] for field in reader.reader["fields"]}
    return Decoded(reader.record, fields)
