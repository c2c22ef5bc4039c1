"""Schemas: locked, compatible with all of their history, and the same bytes as Confluent's clients."""

import io
import json
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka.schema_registry import Schema, record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.schema_registry_client import RegisteredSchema, SchemaRegistryClient
from confluent_kafka.serialization import MessageField, SerializationContext
from hypothesis import given, settings
from hypothesis import strategies as st

from creditfold.ledger import COMMANDS
from creditfold.schemas import registry, wire
from creditfold.schemas.compatibility import (
    SchemaLockError,
    lock_new_versions,
    problems,
    read_avsc,
    read_lock,
    write_lock,
)
from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.reading import MalformedError, compile_reader, read_long

SCHEMAS = Path(__file__).parent.parent / "schemas"

GRANT = {
    "command_id": "g-1",
    "account": "müller",
    "asset": "credits",
    "amount": 2**53 - 1,
    "occurred_at": 1_700_000_000_123,
    "source": "shop",
    "reason": "a gift",
    "metadata": {"order": "17", "": ""},
}


def changed(record: str, **field: Any) -> dict[str, Any]:
    """The current schemas, with one field of one record replaced or added."""
    current = read_avsc(SCHEMAS)
    schema = json.loads(json.dumps(current[record]))
    kept = [old for old in schema["fields"] if old["name"] != field["name"]]
    schema["fields"] = [*kept, field] if "type" in field else kept
    return {**current, record: schema}


def test_the_committed_schemas_are_locked() -> None:
    """Every schema stands in the lock file as it is, and can read and be read by all its versions."""
    assert problems(read_avsc(SCHEMAS), read_lock(SCHEMAS)) == []


def test_schemas_have_the_fields_of_the_commands() -> None:
    """The fold builds a command from a record's fields by name."""
    for record, command in COMMANDS.items():
        fields = registry.load_current(record)["fields"]
        assert tuple(field["name"] for field in fields) == command._fields
        assert {field["name"]: field["default"] for field in fields if "default" in field} == command._field_defaults


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"name": "amount", "type": "string"}, "can't read"),
        ({"name": "amount", "type": "int"}, "can't read"),
        ({"name": "note", "type": "string"}, "can't read"),
        ({"name": "amount"}, "can't be read by"),
        ({"name": "occurred_at"}, "changed but not locked"),
        ({"name": "occurred_at", "type": "long", "default": 5}, "changed but not locked"),
        ({"name": "note", "type": "string", "default": ""}, "changed but not locked"),
    ],
)
def test_a_changed_schema_fails_until_it_is_locked(field: Mapping[str, Any], says: str) -> None:
    """Incompatible changes are named as such; compatible ones ask for a new version."""
    found = problems(changed("Grant", **field), read_lock(SCHEMAS))
    assert any(says in problem for problem in found), found


def test_an_incompatible_schema_gets_no_id() -> None:
    """The lock refuses what would break a reader."""
    with pytest.raises(SchemaLockError, match=r"grant\.avsc can't read version 1"):
        lock_new_versions(changed("Grant", name="note", type="string"), read_lock(SCHEMAS), 2)


def test_a_compatible_schema_gets_the_next_id_and_old_records_are_read_with_its_defaults(tmp_path: Path) -> None:
    """A field with a default is a new version; nothing that was locked moves."""
    before = read_lock(SCHEMAS)
    current = changed("Grant", name="note", type="string", default="none")
    after = lock_new_versions(current, before, 2)
    write_lock(tmp_path, after)
    assert read_lock(tmp_path)[: len(before)] == before
    new = after[-1]
    assert (new.id, new.rules, new.subject, new.version) == (before[-1].id + 1, 2, "creditfold.commands.Grant", 2)
    assert problems(current, after) == []


def test_a_lock_that_was_edited_is_found() -> None:
    """A schema changed inside the lock no longer fits its fingerprint; ids can't be reused."""
    first, *rest = read_lock(SCHEMAS)
    edited = first._replace(schema={**first.schema, "fields": first.schema["fields"][:-1]})
    assert any("changed in place" in problem for problem in problems(read_avsc(SCHEMAS), [edited, *rest]))
    assert any("without gap" in problem for problem in problems(read_avsc(SCHEMAS), [first, first, *rest]))


def test_what_is_encoded_is_decoded() -> None:
    """The frame holds the id of the newest version."""
    value = wire.encode("Grant", GRANT)
    newest = registry.latest(registry.load_lock())["Grant"]
    assert struct.unpack(">bI", value[:5]) == (0, newest.id)
    assert wire.decode(value) == ("Grant", tuple(GRANT.values()), 1)
    assert wire.decode(value).fields == GRANT


texts = st.text(st.characters(codec="utf-8"))
longs = st.integers(-(2**63), 2**63 - 1)
records = st.fixed_dictionaries(
    {name: longs if name in ("amount", "occurred_at") else texts for name in GRANT if name != "metadata"}
    | {"metadata": st.dictionaries(texts, texts, max_size=3)}
)


@given(st.sampled_from(sorted(COMMANDS)), records)
def test_any_fields_come_back(record: str, fields: dict[str, Any]) -> None:
    """Valid or not: the codec keeps what the types allow."""
    found = wire.decode(wire.encode(record, fields))
    assert (found.record, found.fields, found.rules) == (record, fields, 1)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_read_but_never_raise_anything_else(noise: bytes) -> None:
    """DecodeError is the only way out."""
    for value in (noise, wire.encode("Grant", GRANT)[:5] + noise):
        with suppress(wire.DecodeError):
            wire.decode(value)


def test_every_truncation_is_refused() -> None:
    """No prefix of a record is a record, and nothing may follow it."""
    value = wire.encode("Spend", GRANT)
    for length in range(len(value)):
        with pytest.raises(wire.DecodeError):
            wire.decode(value[:length])
    with pytest.raises(wire.DecodeError, match="left over"):
        wire.decode(value + b"\0")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, DeadLetterReason.EMPTY_VALUE),
        (b"", DeadLetterReason.EMPTY_VALUE),
        (b"{}", DeadLetterReason.NOT_FRAMED),
        (b'{"amount": 5}', DeadLetterReason.NOT_FRAMED),
        (b"\0\0\0\0\1", DeadLetterReason.NOT_FRAMED),
        (b"\0\xff\xff\xff\xff\0", DeadLetterReason.UNKNOWN_SCHEMA_ID),
        (b"\0\0\0\0\1\0", DeadLetterReason.UNKNOWN_SCHEMA_ID),
        (wire.encode("Grant", GRANT)[:20], DeadLetterReason.NOT_AVRO),
        (wire.encode("Grant", GRANT)[:5] + b"\x04\xff\xfe", DeadLetterReason.NOT_AVRO),
        (wire.encode("Grant", GRANT)[:5] + b"\xff" * 10, DeadLetterReason.NOT_AVRO),
        (wire.encode("Grant", GRANT)[:5] + b"\xfe\xff\xff\xff\x0f", DeadLetterReason.NOT_AVRO),
    ],
)
def test_bytes_that_are_no_record_have_a_reason(value: bytes | None, reason: DeadLetterReason) -> None:
    """Each way of being wrong has its own."""
    with pytest.raises(wire.DecodeError) as caught:
        wire.decode(value)
    assert caught.value.reason is reason


def by_fastavro(value: bytes) -> tuple[str, Any] | None:
    """The record as the reference decoder reads it, or None where it refuses."""
    (row,) = [row for row in registry.load_lock() if row.id == int.from_bytes(value[1:5], "big")]
    body = io.BytesIO(value[5:])
    try:
        fields = fastavro.schemaless_reader(body, registry.parsed(row.schema), None)
    except Exception:
        return None
    return None if body.read() else (row.record, fields)


def by_us(value: bytes) -> tuple[str, Any] | None:
    try:
        found = wire.decode(value)
    except wire.DecodeError:
        return None
    return found.record, found.fields


@settings(max_examples=500)
@given(st.sampled_from(sorted(COMMANDS)), records, st.data())
def test_our_reader_agrees_with_fastavro_on_damaged_records(record: str, fields: Any, data: st.DataObject) -> None:
    """Bytes flipped, cut out and put in, anywhere behind the frame: both read the same, or both refuse."""
    value = bytearray(wire.encode(record, fields))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(5, len(value)))
        value[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    damaged = bytes(value)
    if len(damaged) > 5 and not has_overlong_number(damaged):
        assert by_us(damaged) == by_fastavro(damaged)


def has_overlong_number(value: bytes) -> bool:
    """Ten bytes of which all but the last say that more follow: fastavro drops the bits over 64, we refuse them."""
    return any(all(byte >= 128 for byte in value[at : at + 9]) for at in range(5, len(value) - 8))


@pytest.mark.parametrize(
    ("number", "read"),
    [
        (b"\x00", 0),
        (b"\x01", -1),
        (b"\x80\x00", 0),
        (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", 2**63 - 1),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", -(2**63)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", None),
        (b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", None),
    ],
)
def test_numbers_have_at_most_64_bits(number: bytes, read: int | None) -> None:
    """More would wrap around in one decoder and not in the next."""
    if read is None:
        with pytest.raises(MalformedError):
            read_long(number, 0)
    else:
        assert read_long(number, 0) == (read, len(number))


def test_a_map_may_come_in_blocks() -> None:
    """As other languages' clients write it: a negative count with the block's size, then another block."""
    head = wire.encode("Grant", {**GRANT, "metadata": {}})[:-1]
    blocks = b"\x01\x08\x02a\x021" + b"\x02\x02b\x022" + b"\x00"
    assert wire.decode(head + blocks).fields["metadata"] == {"a": "1", "b": "2"}
    assert by_fastavro(head + blocks) == by_us(head + blocks)


def test_records_of_every_version_are_read_with_todays_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old record gets the defaults of fields it doesn't have; a field that is gone is dropped."""
    old = read_lock(SCHEMAS)
    current = changed("Grant", name="note", type="string", default="none")
    current["Grant"]["fields"] = [field for field in current["Grant"]["fields"] if field["name"] != "source"]
    monkeypatch.setattr(wire, "load_lock", lambda: lock_new_versions(current, old, 2))
    monkeypatch.setattr(wire, "load_current", current.__getitem__)
    value = wire.encode("Grant", GRANT)
    wire._readers.cache_clear()
    try:
        read = wire.decode(value).fields
    finally:
        wire._readers.cache_clear()
    expected = {**GRANT, "note": "none"}
    del expected["source"]
    assert read == expected
    assert list(read) == [field["name"] for field in current["Grant"]["fields"]]


def test_a_type_without_a_reader_is_told_when_the_schema_is_loaded() -> None:
    """And not at the first record of it."""
    with pytest.raises(TypeError, match="double"):
        compile_reader({"fields": [{"name": "x", "type": "double"}]}, {"fields": []})


@pytest.mark.parametrize("fields", [{}, {"command_id": 5}, {**GRANT, "amount": "5"}, {**GRANT, "amount": 2**63}])
def test_fields_that_do_not_fit_are_not_encoded(fields: dict[str, Any]) -> None:
    """A defect of the caller is told at once."""
    with pytest.raises(ValueError, match="Grant"):
        wire.encode("Grant", fields)


class LockedRegistry(SchemaRegistryClient):  # type: ignore[misc]
    """A registry client that answers from the lock file: enough for Confluent's serializers, and no server."""

    def __init__(self) -> None:
        super().__init__({"url": "http://127.0.0.1:1"})
        self.rows = registry.load_lock()

    def lookup_schema(self, subject_name: str, schema: Schema, *_: Any, **__: Any) -> RegisteredSchema:
        (row,) = [
            row for row in self.rows if row.subject == subject_name and row.schema == json.loads(schema.schema_str)
        ]
        return RegisteredSchema(schema_id=row.id, guid=None, subject=subject_name, version=row.version, schema=schema)

    def get_schema(self, schema_id: int, *_: Any, **__: Any) -> Schema:
        (row,) = [row for row in self.rows if row.id == schema_id]
        return Schema(json.dumps(row.schema), "AVRO")


BY_RECORD = {"subject.name.strategy": record_subject_name_strategy}
CONTEXT = SerializationContext("creditfold.commands.v1", MessageField.VALUE)


def test_confluents_deserializer_reads_our_bytes() -> None:
    """A client with a Schema Registry that holds our ids needs nothing of ours."""
    read = AvroDeserializer(LockedRegistry(), conf=BY_RECORD)
    assert read(wire.encode("Grant", GRANT), CONTEXT) == GRANT


def test_we_read_the_bytes_of_confluents_serializer() -> None:
    """Byte for byte what we would have written."""
    schema = json.dumps(registry.load_current("Spend"))
    write = AvroSerializer(LockedRegistry(), schema, conf={"auto.register.schemas": False, **BY_RECORD})
    assert write(GRANT, CONTEXT) == wire.encode("Spend", GRANT)
