"""Record batches taken apart by the compiled core, against aiokafka's own reading of the same bytes."""

import importlib
import random
from typing import Any

import pytest
from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from creditfold.processors.batch_reader import _decoders
from creditfold.stack.log import UNREADABLE_HEADERS, LogRecord

try:
    batches: Any = importlib.import_module("creditfold.processors.batches")
except ImportError:
    pytest.skip("batches are taken apart in the compiled core only", allow_module_level=True)

CODECS = range(5)
APPEND_TIME, CONTROL = 0x08, 0x20
AT = 1_700_000_000_000

some = st.one_of(st.none(), st.binary(max_size=300))
record = st.tuples(
    st.integers(min_value=AT - 10**9, max_value=AT + 10**9),
    some,
    some,
    st.lists(st.tuples(st.text(max_size=10), some), max_size=3),
)


def batch(records: list[Any], start: int, compression: int = 0, attributes: int = 0) -> bytes:
    """A batch as a producer sends it and a broker keeps it."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=compression,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=2**24,
    )
    for number, (timestamp, key, value, headers) in enumerate(records):
        assert builder.append(number, timestamp, key, value, headers) is not None
    made = bytearray(builder.build())
    made[:8] = start.to_bytes(8, "big")
    made[22] |= attributes
    return bytes(made)


def as_aiokafka(data: bytes) -> list[LogRecord]:
    """The records, by another reader."""
    found, kept = [], MemoryRecords(data)
    while kept.has_next():
        found += [
            LogRecord(one.offset, one.timestamp, one.key, one.value, list(one.headers) or ())
            for one in kept.next_batch()
        ]
    return found


def read(data: bytes, start: int = 0) -> tuple[int, list[LogRecord]]:
    """The offset behind all batches, and their records."""
    found: list[LogRecord] = []
    them = batches.Batches(data, _decoders())
    while (one := them.next(start)) is not None:
        start, records = one
        found += records
    return start, found


@given(st.lists(st.lists(record, min_size=1, max_size=8), max_size=4), st.sampled_from(CODECS), st.integers(0, 2**40))
@settings(max_examples=300, deadline=None)
def test_any_records_are_read_as_another_reader_does(many: list[list[Any]], compression: int, start: int) -> None:
    """Offsets, timestamps, keys, values, headers, and where there is none of them; by every codec."""
    data, place = b"", start
    for records in many:
        data += batch(records, place, compression)
        place += len(records)
    assert read(data, start) == (place, as_aiokafka(data))


def some_records(count: int) -> list[Any]:
    return [(AT + number, b"k%d" % number, b"v" * number, []) for number in range(count)]


def test_a_batch_is_read_from_an_offset_in_its_middle_on() -> None:
    """A broker sends whole batches."""
    data = batch(some_records(10), 100) + batch(some_records(5), 110)
    for start in range(95, 118):
        end, records = read(data, start)
        assert end == max(115, start)
        assert [record.offset for record in records] == list(range(max(start, 100), 115))


def test_the_time_of_the_append_and_what_is_no_record() -> None:
    """The broker's time stands for every record; control records are passed."""
    records = some_records(3)
    data = batch(records, 7, attributes=APPEND_TIME) + batch(records, 10, attributes=CONTROL)
    end, found = read(data, 7)
    assert end == 13
    assert [record.timestamp for record in found] == [AT + 2] * 3


def test_a_batch_that_is_cut_off_is_left() -> None:
    """Wherever an answer ends."""
    whole = batch(some_records(3), 0)
    data = whole + batch(some_records(4), 3)
    for size in range(len(whole), len(data)):
        assert read(data[:size])[0] == 3


def test_headers_that_are_no_text_are_told() -> None:
    """As the other reader of the log tells them."""
    data = batch([(AT, None, b"v", [("ab", b"x")])], 0).replace(b"\x04ab", b"\x04\xff\xfe")
    assert read(data) == (1, [LogRecord(0, AT, None, b"v", UNREADABLE_HEADERS)])


@pytest.mark.parametrize("compression", CODECS)
def test_garbage_is_refused(compression: int) -> None:
    """Bytes that were changed are read as something or refused, and nothing behind them is touched."""
    chance = random.Random(compression)
    data = batch(some_records(20), 0, compression)
    refused = 0
    for _ in range(3_000):
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(8, len(data))] = chance.randrange(256)
        try:
            read(bytes(changed))
        except Exception:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize("place", [8, 16, 22, 61, 65])
def test_what_is_not_as_expected_is_strange(place: int) -> None:
    """A length that can't be, another format, a codec that isn't known, a record that ends elsewhere."""
    data = bytearray(batch(some_records(3), 0))
    data[place] = 0xFF if place == 8 else 0x07
    with pytest.raises(batches.StrangeBatchError):
        read(bytes(data))


def test_the_codecs_are_all_there() -> None:
    """aiokafka names each."""
    assert (codec.has_gzip(), codec.has_snappy(), codec.has_lz4(), codec.has_zstd()) == (True,) * 4
