"""A reader for asyncio against the log's other reader, on a real Kafka; its quick way where the core is compiled."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import chain, repeat

import pytest
from confluent_kafka import Producer

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log import batch_reader
from creditfold.log.batch_reader import BatchReader
from creditfold.log.offsets import end_offsets
from creditfold.log.reader import LogReader, UnreadableError
from creditfold.log.record import LogRecord
from helpers.stack_under_test import StackUnderTest
from helpers.support import HANG_S, TRANSACTION_MS, delete_before

pytestmark = pytest.mark.compiled_core

IS_QUICK = batch_reader._batches is not None
PARTITION = 1


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker may take its time to answer: that it is left for librdkafka says something of the machine."""
    monkeypatch.setattr(batch_reader, "ANSWER_S", HANG_S)


@asynccontextmanager
async def reading(settings: Settings, start: int = 0) -> AsyncIterator[BatchReader]:
    """A reader of the partition for the length of a block."""
    reader = BatchReader(settings.kafka_client, settings.commands_topic, PARTITION, start)
    try:
        yield reader
    finally:
        await reader.close()


def write(settings: Settings, count: int, seed: int = 1, **conf: str) -> None:
    """Append records of every kind, in batches of some size."""
    chance = random.Random(seed)
    transacts = "transactional.id" in conf
    more = {"transaction.timeout.ms": TRANSACTION_MS} if transacts else {}
    producer = Producer({**settings.kafka_client, "linger.ms": 2, **more, **conf})
    if transacts:
        producer.init_transactions(HANG_S)
        producer.begin_transaction()
    for number in range(count):
        headers = [("trace", b"%d" % number), ("none", None)] if chance.random() < 0.2 else []
        producer.produce(
            settings.commands_topic,
            chance.randbytes(chance.randrange(200)) if chance.random() < 0.9 else None,
            chance.randbytes(5) if chance.random() < 0.9 else None,
            PARTITION,
            headers=headers,
        )
        if chance.random() < 0.01:
            producer.flush(HANG_S)
    if transacts and seed % 2:
        producer.flush(HANG_S)
        producer.abort_transaction(HANG_S)
    elif transacts:
        producer.commit_transaction(HANG_S)
    assert producer.flush(HANG_S) == 0


def end_of(settings: Settings) -> int:
    return end_offsets(settings, settings.commands_topic, [PARTITION])[PARTITION]


def by_librdkafka(settings: Settings, start: int = 0) -> list[LogRecord]:
    """What the other reader finds."""
    found: list[LogRecord] = []
    end = end_of(settings)
    with closing(LogReader(settings.kafka_client, settings.commands_topic, PARTITION, start)) as reader:
        while reader.position < end:
            found += reader.take(1_000, 1.0).records
    return found


async def read_all(settings: Settings, start: int, most: int, *, is_quick: bool) -> list[LogRecord]:
    """What a reader finds, in pieces, whose ends fit each other."""
    found: list[LogRecord] = []
    end = end_of(settings)
    async with reading(settings, start) as reader:
        while reader.position < end:
            before = reader.position
            taken = await reader.take(most, 1.0)
            assert len(taken.records) <= most
            assert taken.end == reader.position
            assert all(before <= record.offset < taken.end for record in taken.records)
            found += taken.records
        assert (reader._fallback is None) is is_quick
        assert (await reader.take(most, 0.2)).records == []
        assert reader.position == end
    return found


async def test_both_readers_find_the_same(ledger_settings: Settings) -> None:
    """By every codec, with and without keys, values and headers, from any offset on, in pieces of any size."""
    for number, codec in enumerate(("none", "gzip", "lz4", "zstd")):
        write(ledger_settings, 300, number, **{"compression.type": codec})
    expected = by_librdkafka(ledger_settings)
    assert len(expected) == 1_200
    for start, most in ((0, 10_000), (0, 7), (733, 100), (1_199, 5)):
        found = await read_all(ledger_settings, start, most, is_quick=IS_QUICK)
        assert [tuple(record) for record in found] == [tuple(record) for record in expected[start:]]
    # Which the quick way leaves to the other.
    write(ledger_settings, 300, 5, **{"compression.type": "snappy"})
    assert await read_all(ledger_settings, 0, 100, is_quick=False) == by_librdkafka(ledger_settings)


async def test_transactions_are_read_when_they_are_committed(ledger_settings: Settings) -> None:
    """What ends a transaction is no record; what was given up isn't there, and isn't looked at by the quick way."""
    write(ledger_settings, 50, 2, **{"transactional.id": f"{ledger_settings.group}-a"})
    # The end is reported without what isn't known to be committed, and a broker notes that a moment later.
    assert wait_until(lambda: end_of(ledger_settings) == 51, HANG_S)
    assert len(await read_all(ledger_settings, 0, 20, is_quick=IS_QUICK)) == 50
    write(ledger_settings, 50, 3, **{"transactional.id": f"{ledger_settings.group}-b"})
    write(ledger_settings, 50, 4)
    assert wait_until(lambda: end_of(ledger_settings) == 152, HANG_S)
    expected = by_librdkafka(ledger_settings)
    assert len(expected) == 100
    assert await read_all(ledger_settings, 0, 20, is_quick=False) == expected


async def test_an_offset_that_is_gone_is_reported(ledger_settings: Settings) -> None:
    """By librdkafka, as ever."""
    write(ledger_settings, 100)
    delete_before(ledger_settings, ledger_settings.commands_topic, PARTITION, 60)
    async with reading(ledger_settings, 10) as reader:
        with pytest.raises(UnreadableError, match=f"{PARTITION}:10"):
            await reader.take(10, HANG_S)


async def test_an_outage_is_waited_out(stack: StackUnderTest, ledger_settings: Settings) -> None:
    """librdkafka goes on where the quick way ends, and nothing is read twice or not at all."""
    write(ledger_settings, 500)
    expected = by_librdkafka(ledger_settings)
    async with reading(ledger_settings) as reader:
        found = list((await reader.take(200, HANG_S)).records)
        await asyncio.to_thread(stack.restart_kafka, kill=True)
        write(ledger_settings, 500, 2)
        expected = by_librdkafka(ledger_settings)
        deadline = time.monotonic() + HANG_S
        while len(found) < len(expected) and time.monotonic() < deadline:
            found += (await reader.take(300, 1.0)).records
    assert found == expected


async def test_a_cancelled_take_loses_nothing(ledger_settings: Settings) -> None:
    """What it had found is found again."""
    write(ledger_settings, 500)
    expected = by_librdkafka(ledger_settings)
    async with reading(ledger_settings) as reader:
        found: list[LogRecord] = []
        for size in chain(range(1, 40), repeat(40)):
            # The quick way only: librdkafka reads in a thread, which goes on to its end.
            if IS_QUICK:
                waiting = asyncio.create_task(reader.take(10_000, HANG_S))
                await asyncio.sleep(0.001 * size)
                waiting.cancel()
                await asyncio.wait({waiting})
                # Where the answer had come already, it isn't cancelled.
                found += [] if waiting.cancelled() else waiting.result().records
            if len(found) < len(expected):  # Or it would wait for more.
                found += (await reader.take(size, HANG_S)).records
            if len(found) >= len(expected):
                break
        assert (reader._fallback is None) is IS_QUICK
    assert found == expected
