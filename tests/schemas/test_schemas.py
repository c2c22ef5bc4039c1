"""Schemas: locked, compatible with all of their history, and the same bytes as Confluent's clients."""

import io
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import fastavro
import pytest
from confluent_kafka.schema_registry import Schema, record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.schema_registry_client import RegisteredSchema, SchemaRegistryClient
from confluent_kafka.serialization import MessageField, SerializationContext
from fastavro.schema import parse_schema
from hypothesis import given, settings
from hypothesis import strategies as st

from creditfold.ledger.commands import (
    COMMANDS,
    CONTROLS,
    KINDS,
    ActivateRules,
    Batch,
    CancelSchedule,
    Capture,
    Close,
    Command,
    Control,
    CreateSchedule,
    Freeze,
    Grant,
    Hold,
    Parcel,
    ReceiveTransfer,
    Refund,
    Release,
    SetCreditLimit,
    SettleTransfer,
    Spend,
    Terms,
    Tick,
    Transfer,
    Unfreeze,
    VoidGrant,
    command_of,
)
from creditfold.ledger.validity import check
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
from creditfold.schemas.errors import MalformedError
from creditfold.schemas.reader import RecordReader, read_long
from creditfold.schemas.registry import LockedSchema
from creditfold.schemas.writer import compile_writer, write_long
from helpers.support import IS_COMPILED

pytestmark = pytest.mark.both_cores

SCHEMAS = Path(__file__).parents[2] / "schemas"

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
    for record, command in {**COMMANDS, **CONTROLS}.items():
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


needs_quick = pytest.mark.skipif(not IS_COMPILED, reason="there is a quick way in the compiled core only")


def schema_id(value: bytes) -> int:
    """The id in a record's frame."""
    magic, found = struct.unpack(">bI", value[:5])
    assert magic == 0
    return int(found)


def test_what_is_encoded_is_decoded() -> None:
    """With the defaults of what isn't said; a log may hold it from its beginning on."""
    value = wire.encode("Grant", GRANT)
    assert schema_id(value) == 10_101
    read = wire.decode(value)
    assert (read.record, command_of("Grant", read.values), read.rules) == ("Grant", Grant(**GRANT), 1)
    assert read.fields == {**GRANT, **UNSAID}
    assert wire.encode("Grant", {**GRANT, **UNSAID}) == value


UNSAID = {"lot_class": "paid", "priority": 50, "effective_at": 0, "expires_at": 0, "scope": ""}
ORIGIN: dict[str, Any] = {"occurred_at": 4, "source": "shop", "reason": "why", "metadata": {"k": "v"}}
TERMS = Terms("promo", 7, 5, 9, "boosts")
# A batch's steps have its time, source and reason.
IN_BATCH: dict[str, Any] = {"occurred_at": 4, "source": "shop", "reason": "why"}
#: One of each kind, with no field at its default.
FULL: Sequence[Command | Control] = (
    Grant("c-1", "ada", "gold", 3, **ORIGIN, **TERMS._asdict()),
    Spend("c-1", "ada", "gold", 3, **ORIGIN, use="boosts", partial=True, effective_at=5),
    Hold("c-1", "ada", "gold", 3, 99, "boosts", **ORIGIN),
    Capture("c-1", "ada", "h-1", 3, True, **ORIGIN),
    Release("c-1", "ada", "h-1", 3, **ORIGIN),
    Refund("c-1", "ada", "s-1", 3, True, 99, **ORIGIN),
    VoidGrant("c-1", "ada", "g-1", 2, **ORIGIN),
    Transfer("c-1", "ada", "gold", 3, "bob", "boosts", **ORIGIN),
    ReceiveTransfer("~c-1", "bob", "gold", "ada", "c-1", (Parcel("g-1", 2, TERMS), Parcel("g-2", 1, Terms()))),
    SettleTransfer("~c-2", "ada", "c-1", "account_closed"),
    Freeze("c-1", "ada", "all", **ORIGIN),
    Unfreeze("c-1", "ada", **ORIGIN),
    Close("c-1", "ada", True, **ORIGIN),
    SetCreditLimit("c-1", "ada", "gold", 3, **ORIGIN),
    CreateSchedule("c-1", "ada", "gold", 3, "months", 5, 2, 99, 8, "promo", 7, 6, "boosts", **ORIGIN),
    CancelSchedule("c-1", "ada", "p-1", **ORIGIN),
    Batch(
        "c-1",
        "ada",
        (
            Grant("s-1", "ada", "gold", 3, **IN_BATCH, **TERMS._asdict()),
            Spend("s-2", "ada", "gold", 3, **IN_BATCH, use="boosts", partial=True, effective_at=5),
            Hold("s-3", "ada", "gold", 3, 99, "boosts", **IN_BATCH),
            Capture("s-4", "ada", "s-3", 1, True, **IN_BATCH),
            Release("s-5", "ada", "s-3", 1, **IN_BATCH),
            Refund("s-6", "ada", "s-4", 1, True, 99, **IN_BATCH),
            VoidGrant("s-7", "ada", "s-1", 1, **IN_BATCH),
        ),
        **ORIGIN,
    ),
    ActivateRules("c-1", 2, 4, "shop", "why"),
    Tick("c-1", 2, 4, "shop"),
)


def fields_of(command: Command | Control) -> dict[str, Any]:
    """A command's fields as they are written."""
    fields = command._asdict()
    if isinstance(command, ReceiveTransfer):
        parcels = [(parcel.lot, parcel.amount, parcel.terms._asdict()) for parcel in command.parcels]
        fields["parcels"] = [{"lot": lot, "amount": amount, **terms} for lot, amount, terms in parcels]
    if isinstance(command, Batch):
        fields["steps"] = [{"kind": KINDS[type(step)], **step._asdict()} for step in command.steps]
    return fields


@pytest.mark.parametrize("command", FULL, ids=lambda command: type(command).__name__)
def test_every_field_of_every_command_comes_back(command: Command | Control) -> None:
    """Through the bytes into the tuple that is decided, and valid on the way."""
    record = type(command).__name__
    assert {name for name, value in command._field_defaults.items() if getattr(command, name) == value} == set()
    read = wire.decode(wire.encode(record, fields_of(command)))
    assert command_of(record, read.values) == command
    assert check(record, read.values) is None


def test_every_command_is_among_them() -> None:
    """One that is missing above would go untested."""
    assert [type(command).__name__ for command in FULL] == [*COMMANDS, *CONTROLS]


texts = st.text(st.characters(codec="utf-8"), max_size=20)
longs = st.integers(-(2**63), 2**63 - 1)
SIMPLE: Mapping[str, st.SearchStrategy[Any]] = {"string": texts, "long": longs, "boolean": st.booleans()}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of a schema, as fastavro gives it."""
    if isinstance(kind, str):
        return SIMPLE[kind]
    if kind["type"] == "map":
        return st.dictionaries(texts, texts, max_size=3)
    if kind["type"] == "array":
        return st.lists(values_of(kind["items"]), max_size=3)
    return st.fixed_dictionaries({field["name"]: values_of(field["type"]) for field in kind["fields"]})


RECORDS = {record: values_of(registry.load_current(record)) for record in registry.RECORDS}
any_record = st.sampled_from(list(RECORDS)).flatmap(lambda record: st.tuples(st.just(record), RECORDS[record]))


@given(any_record)
def test_any_fields_come_back(made: tuple[str, dict[str, Any]]) -> None:
    """Valid or not: the codec keeps what the types allow."""
    record, fields = made
    value = wire.encode(record, fields)
    found = wire.decode(value)
    (row,) = [row for row in registry.load_lock() if row.id == schema_id(value)]
    assert (found.record, found.fields, found.rules) == (record, fields, row.rules)


@given(any_record)
def test_our_writer_writes_what_fastavro_does(made: tuple[str, dict[str, Any]]) -> None:
    """Byte by byte, in whichever version."""
    record, fields = made
    value, body = wire.encode(record, fields), io.BytesIO()
    fastavro.schemaless_writer(body, parsed(schema_id(value))[1], fields)
    assert value[5:] == body.getvalue()


def by_versions(record: str, fields: dict[str, Any]) -> bytes:
    """A record as it is written without the quick way."""
    return next(writer.write(fields) for writer in wire._writers()[record].versions if writer.has_room(fields))


def test_flat_records_are_written_by_a_quick_way_in_the_compiled_core_and_only_there() -> None:
    """Or the test below would pass for want of what it tests. It is of commands that say all, as producers do."""
    commands = [*FULL, Grant("c-1", "ada", "gold", 3, lot_class="paid"), Spend("c-1", "ada", "gold", 2**53 - 1)]
    plain = [command._replace(**{"metadata": {}} if "metadata" in command._fields else {}) for command in commands]
    taken = {
        type(command).__name__
        for command in plain
        if wire._writers()[type(command).__name__].write_flat(fields_of(command)) == wire.encode(*named(command))
    }
    of_others = {"ReceiveTransfer", "Batch"}
    assert taken == ({type(command).__name__ for command in commands} - of_others if IS_COMPILED else set())


def named(command: Command | Control) -> tuple[str, dict[str, Any]]:
    """A command's name and fields."""
    return type(command).__name__, fields_of(command)


class Text(str):
    """A text of another class."""


#: What is no field of its type, or not one for the quick way.
NUMBERS = (-1, 1, 1.0, True, 2**63, -(2**63), -(2**63) - 1)
TEXTS = ("ä", "\ud800", "x" * 3_000, b"x", Text("x"))
ODD = st.one_of(st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.sampled_from([None, {}, {"a": "b"}, [], (), [{}]]))


@needs_quick
@given(st.sampled_from(list(RECORDS)), st.data())
def test_the_quick_way_writes_what_the_other_does(record: str, data: st.DataObject) -> None:
    """Whatever it takes. What it doesn't is left to the other, right or wrong."""
    simple: Mapping[str, st.SearchStrategy[Any]]
    simple = {"string": st.text("a ~\x7f", max_size=70), "long": longs, "boolean": st.booleans()}
    fields = {}
    for field in registry.load_current(record)["fields"]:
        flat = simple[field["type"]] if isinstance(field["type"], str) else st.just({})
        default = st.just(field["default"]) if "default" in field else st.nothing()
        fields[field["name"]] = data.draw(st.one_of(default, flat))
    for name in data.draw(st.lists(st.sampled_from(list(fields)), max_size=1)):
        fields[name] = data.draw(ODD)
    for name in data.draw(st.lists(st.sampled_from(list(fields)), max_size=1)):
        fields.pop(name)
    quick = wire._writers()[record].write_flat(fields)
    assert quick is None or quick == by_versions(record, fields)


@given(longs)
def test_a_number_that_is_written_is_read(number: int) -> None:
    """At every size; one beside what 64 bits hold is refused."""
    value = write_long(number)
    assert read_long(value + b"more", 0) == (number, len(value))
    for beyond in (number + 2**64, number - 2**64):
        with pytest.raises(OverflowError):
            write_long(beyond)


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
    ("value", "is_old"),
    [
        (wire.HEADER.pack(0, 10_000) + b"x", None),
        (wire.HEADER.pack(0, 10_001) + b"x", True),
        (wire.HEADER.pack(0, 10_100) + b"x", True),
        (wire.HEADER.pack(0, 10_001), None),
        (wire.HEADER.pack(1, 10_001) + b"x", None),
        (b"\0\0", None),
        (b"", None),
        (None, None),
        (wire.encode("Grant", GRANT), False),
    ],
)
def test_a_record_of_an_old_log_shows_it(value: bytes | None, is_old: bool | None) -> None:
    """By its schema's id; as a dead letter it says what to do."""
    assert wire.is_before_version_1(value) is is_old
    if is_old:
        with pytest.raises(wire.DecodeError, match="made before version 1: begin a new topic"):
            wire.decode(value)


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


@cache
def parsed(id: int) -> tuple[str, Any, Any]:
    """A schema's record, and the schema and the record's current one as fastavro has them."""
    (row,) = [row for row in registry.load_lock() if row.id == id]
    current = registry.load_current(row.record)
    return row.record, parse_schema(row.schema, _force=True), parse_schema(current, _force=True)


def by_fastavro(value: bytes) -> tuple[str, Any] | None:
    """The record as the reference decoder reads it, with today's fields, or None where it refuses."""
    record, schema, current = parsed(schema_id(value))
    body = io.BytesIO(value[5:])
    try:
        fields = fastavro.schemaless_reader(body, schema, current)
    except Exception:
        return None
    return None if body.read() else (record, fields)


def by_us(value: bytes) -> tuple[str, Any] | None:
    try:
        found = wire.decode(value)
    except wire.DecodeError:
        return None
    return found.record, found.fields


@settings(max_examples=400)
@given(any_record, st.data())
def test_our_reader_agrees_with_fastavro_on_damaged_records(made: tuple[str, Any], data: st.DataObject) -> None:
    """Bytes flipped, cut out and put in, anywhere behind the frame: both read the same, or both refuse."""
    value = bytearray(wire.encode(*made))
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


Locks: TypeAlias = Callable[..., None]


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Locks]:
    """Locks other current schemas, for one test."""

    def use(current: Mapping[str, Any], before: Sequence[LockedSchema] | None = None) -> None:
        after = lock_new_versions(current, before or read_lock(SCHEMAS), 2)
        monkeypatch.setattr(wire, "load_lock", lambda: after)
        monkeypatch.setattr(wire, "load_current", current.__getitem__)
        wire._readers.cache_clear()
        wire._writers.cache_clear()

    yield use
    wire._readers.cache_clear()
    wire._writers.cache_clear()


def test_records_of_every_version_are_read_with_todays_fields(lock: Locks) -> None:
    """An old record gets the defaults of fields it doesn't have; a field that is gone is dropped."""
    current = changed("Grant", name="note", type="string", default="none")
    current["Grant"]["fields"] = [field for field in current["Grant"]["fields"] if field["name"] != "source"]
    value = wire.encode("Grant", GRANT)
    lock(current)
    read = wire.decode(value).fields
    expected = {**GRANT, **UNSAID, "note": "none"}
    del expected["source"]
    assert read == expected
    assert list(read) == [field["name"] for field in current["Grant"]["fields"]]


@pytest.mark.parametrize(
    ("more", "version"), [({}, 1), ({"note": "none", "mark": 0}, 1), ({"note": "x"}, 2), ({"mark": 1}, 3)]
)
def test_the_oldest_schema_that_has_room_is_written(lock: Locks, more: dict[str, Any], version: int) -> None:
    """A log under rules 1 understands what says nothing that rules 1 don't know, whoever wrote it.

    And what a newer producer sends again is the same, byte for byte, or the fold would have to take it for another
    command of the same id.
    """
    old = wire.encode("Grant", GRANT)
    note = changed("Grant", name="note", type="string", default="none")
    after = lock_new_versions(note, read_lock(SCHEMAS), 2)
    mark = json.loads(json.dumps(note))
    mark["Grant"]["fields"].append({"name": "mark", "type": "long", "default": 0})
    lock(mark, after)
    value = wire.encode("Grant", {**GRANT, **more})
    row = registry.versions(wire.load_lock())["Grant"][version - 1]
    assert (row.version, schema_id(value)) == (version, row.id)
    read = wire.decode(value)
    assert (read.rules, row.rules) == (min(version, 2), min(version, 2))
    assert read.fields == {**GRANT, **UNSAID, "note": "none", "mark": 0, **more}
    assert (value == old) is (version == 1)


def test_so_it_is_with_records_in_records(lock: Locks) -> None:
    """A batch of before gets a step's new field, one that is gone is dropped, and their order is today's."""
    batch = next(command for command in FULL if isinstance(command, Batch))
    value = wire.encode("Batch", fields_of(batch))
    current = read_avsc(SCHEMAS)
    step = steps_of(current["Batch"])
    step["fields"] = [
        {"name": "notes", "type": {"type": "map", "values": "string"}, "default": {"a": "b"}},
        *reversed([field for field in step["fields"] if field["name"] != "scope"]),
    ]
    lock(current)
    read = wire.decode(value)
    assert read.rules == 1
    first, second = read.fields["steps"][:2]
    assert list(first) == [field["name"] for field in step["fields"]]
    assert (first["notes"], first["kind"], first["command_id"], first["priority"]) == ({"a": "b"}, "grant", "s-1", 7)
    assert first["notes"] is not second["notes"]
    # One that says nothing new is still written as of old, but for the field that is gone.
    with_room = {**fields_of(batch), "steps": [{**item, "notes": {"a": "b"}} for item in read.fields["steps"]]}
    assert schema_id(wire.encode("Batch", with_room)) == schema_id(value)
    with_room["steps"][-1]["notes"] = {}
    assert schema_id(wire.encode("Batch", with_room)) > schema_id(value)


def steps_of(batch: Any) -> Any:
    """The schema of a batch's step."""
    return next(field["type"]["items"] for field in batch["fields"] if field["name"] == "steps")


def test_no_two_records_share_a_default() -> None:
    """Who changed one would change the next."""
    schema = {"fields": [{"name": "x", "type": "long"}]}
    notes = {"name": "notes", "type": {"type": "map", "values": "string"}, "default": {"a": "b"}}
    item = {"type": "record", "name": "I", "fields": [notes]}
    many = {"name": "many", "type": {"type": "array", "items": item}, "default": [{}]}
    read = RecordReader(schema, {"fields": [*schema["fields"], notes, many]}).read
    (first, _), (second, _) = read(b"\x02", 0), read(b"\x02", 0)
    assert first == second == (1, {"a": "b"}, (({"a": "b"},),))
    assert first[1] is not second[1]
    assert first[2][0][0] is not second[2][0][0]


NO_FIELDS = {"type": "record", "name": "Nothing", "fields": []}
LONGS_IN_ARRAY = {"type": "array", "items": "long"}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("double", "double"),
        (["null", "long"], "null"),
        ({"type": "map", "values": "long"}, "map"),
        (LONGS_IN_ARRAY, "array of long"),
        ({"type": "array", "items": NO_FIELDS}, "records without fields"),
        ({"type": "array", "items": {"type": "record", "fields": [{"name": "y", "type": "bytes"}]}}, "bytes"),
    ],
)
def test_a_type_without_a_reader_is_reported_when_the_schema_is_loaded(kind: Any, says: str) -> None:
    """And not at the first record of it."""
    with pytest.raises(TypeError, match=says):
        RecordReader({"fields": [{"name": "x", "type": kind}]}, {"fields": []})


@pytest.mark.parametrize("kind", ["double", ["null", "long"], {"type": "map", "values": "long"}, LONGS_IN_ARRAY])
def test_so_is_one_without_a_writer(kind: Any) -> None:
    """Which would otherwise be found by the first who writes such a record."""
    with pytest.raises(TypeError, match="no writer"):
        compile_writer({"fields": [{"name": "x", "type": kind}]})


def test_a_field_without_a_value_is_reported_when_the_schema_is_loaded() -> None:
    """The lock refuses such a schema; a reader would have to make its value up."""
    with pytest.raises(TypeError, match="x, which has no default"):
        RecordReader({"fields": []}, {"fields": [{"name": "x", "type": "long"}]})


def long_bytes(number: int) -> bytes:
    """A number as Avro writes it."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", number)
    return out.getvalue()


@pytest.mark.parametrize("count", [2, 2**20, 2**40, 2**62])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_count_that_the_record_cannot_hold_is_refused_at_once(count: int, sign: int) -> None:
    """A few bytes can't make us ask for memory without end."""
    head = wire.encode("Batch", {"command_id": "b", "account": "a", "steps": []})
    head = head[: head.index(b"\x00", 9)]
    size = long_bytes(5) if sign < 0 else b""
    with pytest.raises(wire.DecodeError, match="more items than the record can hold"):
        wire.decode(head + long_bytes(sign * count) + size + b"\x00" * 30)


@pytest.mark.parametrize("size", [64, 2**31, 2**62 - 1, 2**62, 2**63 - 1])
@pytest.mark.parametrize("before", [b"", b"\x02s"])
def test_a_text_that_the_record_cannot_hold_is_refused_at_once(size: int, before: bytes) -> None:
    """With the same words on each core, which counts with numbers of its own, and in records within as well."""
    outer = wire.encode("Grant", GRANT)[:5]
    inner = wire.encode("Batch", {"command_id": "b", "account": "a", "steps": []})[:9] + long_bytes(1)
    for head in (outer, inner):
        with pytest.raises(wire.DecodeError, match="MalformedError: a text longer than the record"):
            wire.decode(head + before + long_bytes(size) + b"x" * 60)


def test_an_array_may_come_in_blocks() -> None:
    """As other languages' clients write it."""
    item = b"\x02x" + b"\x02" + b"\x08paid" + b"\x02" * 3 + b"\x00"
    fields = {"command_id": "~", "account": "b", "asset": "x", "sender": "a", "transfer": "t", "parcels": []}
    head = wire.encode("ReceiveTransfer", fields)[:-1]
    value = head + long_bytes(-1) + long_bytes(len(item)) + item + b"\x04" + 2 * item + b"\x00"
    assert [parcel["lot"] for parcel in wire.decode(value).fields["parcels"]] == ["x"] * 3
    assert by_us(value) == by_fastavro(value)


@pytest.mark.parametrize("byte", [0, 1, 2, 255])
def test_any_byte_but_zero_is_true(byte: int) -> None:
    """As fastavro reads it."""
    head = wire.encode("Close", {"command_id": "c", "account": "a", "forfeit": True})
    at = head.index(b"\x02a") + 2
    value = head[:at] + bytes([byte]) + head[at + 1 :]
    assert wire.decode(value).fields["forfeit"] is (byte != 0)
    assert by_us(value) == by_fastavro(value)


@pytest.mark.parametrize("no_boolean", ["false", 1, None])
def test_what_is_no_boolean_is_not_encoded(no_boolean: object) -> None:
    """A text "false" would be written as true."""
    with pytest.raises(ValueError, match="forfeit is neither"):
        wire.encode("Close", {"command_id": "c", "account": "a", "forfeit": no_boolean})
    step = {"kind": "close", "command_id": "s", "final": no_boolean}
    with pytest.raises(ValueError, match="final is neither"):
        wire.encode("Batch", {"command_id": "c", "account": "a", "steps": [step]})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"command_id": 5},
        {**GRANT, "amount": "5"},
        {**GRANT, "amount": 5.0},
        {**GRANT, "amount": None},
        {**GRANT, "amount": 2**63},
        {**GRANT, "amount": -(2**63) - 1},
        {**GRANT, "asset": b"credits"},
        {**GRANT, "asset": "\ud800"},
        {**GRANT, "metadata": {"k": 1}},
        {**GRANT, "metadata": "k"},
        {**GRANT, "metadata": None},
        {**GRANT, "metadata": 0},
    ],
)
def test_fields_that_do_not_fit_are_not_encoded(fields: dict[str, Any]) -> None:
    """A defect of the caller is reported at once."""
    with pytest.raises(ValueError, match="Grant"):
        wire.encode("Grant", fields)


@pytest.mark.parametrize("no_steps", [None, 0, False])
def test_what_is_no_array_is_not_encoded_as_an_empty_one(no_steps: object) -> None:
    """A batch whose steps went missing would be one of none."""
    with pytest.raises(ValueError, match="Batch"):
        wire.encode("Batch", {"command_id": "c", "account": "a", "steps": no_steps})


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
    assert read(wire.encode("Grant", GRANT), CONTEXT) == {**GRANT, **UNSAID}
    batch = next(command for command in FULL if isinstance(command, Batch))
    value = wire.encode("Batch", fields_of(batch))
    assert read(value, CONTEXT) == wire.decode(value).fields


def test_we_read_the_bytes_of_confluents_serializer() -> None:
    """Byte for byte what we would have written."""
    (row,) = registry.versions(registry.load_lock())["Spend"]
    write = AvroSerializer(LockedRegistry(), json.dumps(row.schema), conf={"auto.register.schemas": False, **BY_RECORD})
    for fields in (GRANT, {**GRANT, "partial": True}):
        assert write(fields, CONTEXT) == wire.encode("Spend", fields)
