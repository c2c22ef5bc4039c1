"""Record batches taken apart by the compiled core, against aiokafka's own reading of the same bytes."""

import importlib
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from cramjam import DecompressionError
from hypothesis import given, settings
from hypothesis import strategies as st

from creditfold.log import batch_reader
from creditfold.log.batch_reader import BatchReader, _decoders
from creditfold.log.record import UNREADABLE_HEADERS, LogRecord, LogSlice

pytestmark = pytest.mark.both_cores

try:
    batches: Any = importlib.import_module("creditfold.log.batches")
except ImportError:
    pytest.skip("batches are taken apart in the compiled core only", allow_module_level=True)

#: None, gzip, lz4, zstd.
CODECS = (0, 1, 3, 4)
SNAPPY = 2
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
    return sealed(made)


def sealed(made: bytearray) -> bytes:
    """A batch that was changed, with the checksum that it then has."""
    made[17:21] = calc_crc32c(bytes(made[21:])).to_bytes(4, "big")
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
    them = batches.Batches(data, _decoders(), calc_crc32c)
    while (one := them.next(start)) is not None:
        start, records = one
        found += records
    return start, found


@given(st.lists(st.lists(record, min_size=1, max_size=8), max_size=4), st.sampled_from(CODECS), st.integers(0, 2**40))
@settings(max_examples=300)
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


def test_headers_that_are_no_text_are_reported() -> None:
    """As the other reader of the log reports them."""
    data = batch([(AT, None, b"v", [("ab", b"x")])], 0).replace(b"\x04ab", b"\x04\xff\xfe")
    assert read(sealed(bytearray(data))) == (1, [LogRecord(0, AT, None, b"v", UNREADABLE_HEADERS)])


@pytest.mark.parametrize("compression", CODECS)
def test_garbage_is_refused(compression: int) -> None:
    """Bytes that were changed are read as something or refused, and nothing behind them is touched."""
    chance = random.Random(compression)
    data = batch(some_records(20), 0, compression)
    refused = 0
    for _ in range(3_000):
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(16, len(data))] = chance.randrange(256)
        try:
            read(sealed(changed))
        except Exception:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize("place", [8, 16, 22, 61, 65])
def test_what_is_not_as_expected_is_strange(place: int) -> None:
    """A length that can't be, another format, a codec that isn't known, a record that ends elsewhere."""
    data = bytearray(batch(some_records(3), 0))
    data[place] = 0xFF if place == 8 else 0x07
    with pytest.raises(batches.StrangeBatchError):
        read(sealed(data))


def test_a_bit_that_was_changed_is_noticed() -> None:
    """Wherever it is behind the length."""
    data = batch(some_records(3), 0)
    for place in range(17, len(data)):
        with pytest.raises(batches.StrangeBatchError):
            read(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])


def test_a_codec_whose_lengths_would_have_to_be_believed_is_left() -> None:
    """Snappy says how long its text is before it is there."""
    with pytest.raises(batches.StrangeBatchError):
        read(batch(some_records(3), 0, SNAPPY))


@pytest.mark.parametrize("compression", CODECS[1:])
def test_a_batch_that_would_fill_the_memory_is_left(compression: int) -> None:
    """Some ten kilobytes can be a gigabyte of zeros."""
    data = batch([(AT, None, bytes(10**7), [])], 0, compression)
    assert len(data) < 10**5
    with pytest.raises(DecompressionError):
        read(data)


def test_gaps_are_kept_and_what_is_out_of_order_is_strange() -> None:
    """A compacted batch lacks records, first and last ones too; its offsets still rise within its bounds."""
    whole = batch(some_records(5), 10)
    longer = bytearray(whole)
    longer[23:27] = (9).to_bytes(4, "big")
    end, found = read(sealed(longer), 10)
    assert (end, [record.offset for record in found]) == (20, [10, 11, 12, 13, 14])
    for last in (3, 0):
        shorter = bytearray(whole)
        shorter[23:27] = last.to_bytes(4, "big")
        with pytest.raises(batches.StrangeBatchError):
            read(sealed(shorter), 10)
    # The first record's offset, two more than its base, comes before the second's no longer.
    swapped = bytearray(whole)
    swapped[64] = 4
    with pytest.raises(batches.StrangeBatchError):
        read(sealed(swapped), 10)


# What the reader makes of an answer that isn't as expected: a broker by the book, and one trouble at some point.


class Broker:
    """A broker of one partition for aiokafka's client, which answers with three batches at most."""

    def __init__(self, version: int, trouble: str, at: int) -> None:
        self.log: list[LogRecord] = []
        self._batches: list[tuple[int, bytes]] = []
        #: The leader's epoch of each record.
        self.epochs: list[int] = []
        for number in range(12):
            start = len(self.log)
            made = bytearray(batch(some_records(10 + number), start, 4))
            made[12:16] = number.to_bytes(4, "big")
            self._batches.append((start + 10 + number, bytes(made)))
            self.epochs += [number] * (10 + number)
            self.log += as_aiokafka(bytes(made))
        self._version, self._trouble, self._at = version, trouble, at
        self.asked = self.closed = 0
        self.cluster = self

    def leader_for_partition(self, _: object) -> int:
        return 1

    async def send(self, _: int, request: Any) -> Any:
        """Answer a question for records."""
        self.asked += 1
        strikes = self.asked == self._at
        if strikes and self._trouble == "lost":
            raise KafkaConnectionError
        ((_, ((partition, offset, _),)),) = request.topics
        data = b"".join([made for end, made in self._batches if end > offset][:3])
        if strikes and self._trouble == "garbage":
            data = data[:-1] + bytes([data[-1] ^ 0xFF])
        if strikes and self._trouble == "cut":
            data = data[:100]
        if strikes and self._trouble == "old":
            data = self._batches[0][1]
        aborted = [(1, 5)] if strikes and self._trouble == "aborted" else []
        code = 6 if strikes and self._trouble == "code" else 0
        if strikes and self._trouble == "nothing":
            return SimpleNamespace(API_VERSION=self._version, topics=[])
        end = len(self.log)
        fields = {
            4: (partition, code, end, end, aborted, data),
            5: (partition, code, end, end, 0, aborted, data),
            11: (partition, code, end, end, 0, aborted, -1, data),
        }
        return SimpleNamespace(API_VERSION=self._version, topics=[("topic", [fields[self._version]])])

    async def close(self) -> None:
        self.closed += 1
        raise RuntimeError("what it was closed with")


class Slow:
    """The other reader, of the same log."""

    records: Sequence[LogRecord] = ()

    def __init__(self, kafka: object, topic: str, partition: int, start: int, epoch: int) -> None:
        self.start = self.position = start
        self.epoch = epoch

    def take(self, most: int, timeout_s: float) -> LogSlice:
        found = [record for record in self.records if record.offset >= self.position][:most]
        self.position += len(found)
        return LogSlice(self.position, found)

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("version", [4, 5, 11])
@pytest.mark.parametrize("trouble", ["none", "lost", "garbage", "cut", "old", "aborted", "code", "nothing"])
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("most", [7, 50, 10_000])
async def test_whatever_happens_every_record_is_read_once(
    monkeypatch: pytest.MonkeyPatch, version: int, trouble: str, at: int, most: int
) -> None:
    """The other reader goes on where this one was, in the middle of a batch and of a piece too, and as of its epoch."""
    broker = Broker(version, trouble, at)

    async def opened(kafka: object, topic: str) -> Broker:
        return broker

    monkeypatch.setattr(batch_reader, "_connect", opened)
    monkeypatch.setattr(batch_reader, "LogReader", Slow)
    monkeypatch.setattr(Slow, "records", broker.log)
    reader = BatchReader({}, "topic", 0, 0)
    found: list[LogRecord] = []
    while reader.position < len(broker.log):
        before = reader.position
        taken = await reader.take(most, 1.0)
        assert reader.position == taken.end == before + len(taken.records)
        found += taken.records
    assert found == broker.log
    # The first batch is what was asked for at first.
    assert (reader._fallback is not None) == ((trouble, at) not in (("none", at), ("old", 1)))
    if isinstance(reader._fallback, Slow):
        assert reader._fallback.epoch == ([-1, *broker.epochs][reader._fallback.start])
    await reader.close()
    assert broker.closed == 1
