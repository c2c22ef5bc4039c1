"""One contract test for each private part of Faust and aiokafka that `creditfold.processors.transport` leans on.

Pinned to faust-streaming 0.15.3 and aiokafka 0.14.0. When one of these fails after an upgrade, read the new source of
the part that it names before changing the pin: what broke elsewhere was always silent.
"""

import inspect
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, cast

import aiokafka
import pytest
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.structs import ConsumerRecord
from aiokafka.structs import TopicPartition as AiokafkaTP
from faust.app.base import App
from faust.streams import Stream
from faust.tables.recovery import Recovery
from faust.transport import drivers
from faust.transport.consumer import Consumer, ConsumerThread
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from creditfold.processors.app import SCHEME, ChunkSchema, FoldApp, create_app
from creditfold.processors.chunks import Chunk
from creditfold.processors.transport import FETCH_WAIT_MS, Chain, LedgerConsumer, LedgerConsumerThread, Transport
from creditfold.projections.setup import Log
from creditfold.stack.settings import Settings

TOPIC = "creditfold.commands.v1"


@pytest.fixture
async def app(tmp_path: Any) -> FoldApp:
    """An app that isn't started: nothing of it connects."""
    return create_app(Settings(data_dir=tmp_path, postgres_dsn=None), Log(TOPIC, "id", 4))


def source(part: Any) -> str:
    return inspect.getsource(part)


def test_versions_are_the_pinned_ones() -> None:
    """The hooks were read in these."""
    assert (version("faust-streaming"), version("aiokafka")) == ("0.15.3", "0.14.0")


async def test_a_transport_is_found_by_its_url_scheme(app: FoldApp) -> None:
    """`drivers.TRANSPORTS.aliases` maps a scheme to `module:Class`; the app builds our consumer from it."""
    assert drivers.TRANSPORTS.aliases[SCHEME] == "creditfold.processors.transport:Transport"
    assert type(app.transport) is Transport
    assert type(app.consumer) is LedgerConsumer


async def test_the_thread_is_made_by_new_consumer_thread(app: FoldApp) -> None:
    """`ThreadDelegateConsumer.__init__` calls `_new_consumer_thread` and keeps the result in `_thread`."""
    assert type(cast(LedgerConsumer, app.consumer)._thread) is LedgerConsumerThread


async def test_the_consumer_reads_committed_records_and_does_not_wait_long(app: FoldApp) -> None:
    """`_create_worker_consumer` gives back a consumer that reads both attributes when it starts."""
    thread = cast(LedgerConsumer, app.consumer)._thread
    consumer = thread._create_worker_consumer(cast(Transport, app.transport))
    assert consumer._isolation_level == "read_committed"
    assert consumer._fetch_max_wait_ms == FETCH_WAIT_MS
    assert consumer._fetcher is None
    start = source(aiokafka.AIOKafkaConsumer.start)
    assert "isolation_level=self._isolation_level" in start
    assert "fetch_max_wait_ms=self._fetch_max_wait_ms" in start


def test_perform_seek_asks_seek_to_committed_after_every_rebalance() -> None:
    """`perform_seek` calls `seek_to_committed` and turns what it returns into read offsets; recovery calls it last."""
    assert "await self.seek_to_committed()" in source(Consumer.perform_seek)
    assert "read_offset.update" in source(Consumer.perform_seek)
    text = source(Recovery._resume_streams)
    assert text.index("perform_seek") < text.index("resume_flow")


async def test_seeking_gives_nothing_back_and_voids_every_claim(app: FoldApp) -> None:
    """An offset returned here would make Faust drop the records before it."""
    consumer = cast(LedgerConsumer, app.consumer)
    consumer._chains[TP(TOPIC, 0)] = Chain(1, 0)
    before = consumer._state()
    assert await consumer.seek_to_committed() == {}
    assert consumer._chains == {}
    assert consumer._state() != before
    await consumer.perform_seek()
    assert dict(consumer._read_offset) == {}


def test_drain_messages_is_the_only_caller_of_getmany() -> None:
    """One task fetches, one fetch at a time: claims and seeks made inside `getmany` can't overlap with a fetch."""
    text = source(Consumer._drain_messages)
    assert text.count("getmany(timeout=") == 1
    assert "offset >= r_offset" in text


def test_seek_wait_sets_the_read_offset() -> None:
    """`AIOKafkaConsumerThread._seek_wait` seeks in the consumer's thread and lets messages from there on through."""
    text = source(driver.AIOKafkaConsumerThread._seek_wait)
    assert "consumer.seek(tp, offset)" in text
    assert "self.consumer._read_offset[tp] = offset" in text


def test_threads_take_calls_and_give_back_results() -> None:
    """`call_thread`, `earliest_offsets` and `highwaters` are there and are called as we call them."""
    assert inspect.iscoroutinefunction(ConsumerThread.call_thread)
    assert inspect.iscoroutinefunction(driver.AIOKafkaConsumerThread.earliest_offsets)
    assert inspect.iscoroutinefunction(driver.AIOKafkaConsumerThread.highwaters)
    assert list(inspect.signature(driver.AIOKafkaConsumerThread.earliest_offsets).parameters) == ["self", "partitions"]
    assert "await consumer.end_offsets" in source(driver.AIOKafkaConsumerThread._highwaters)
    assert "max_records=_consumer._max_poll_records" in source(driver.AIOKafkaConsumerThread.getmany)


def test_fetched_records_are_in_order_and_of_the_partitions_asked_for() -> None:
    """`Fetcher.fetched_records` leaves alone what was buffered for others, and drops what a seek made stale."""
    text = source(Fetcher.fetched_records)
    assert "if partitions and tp not in partitions" in text
    assert "getall(max_records)" in text


def test_a_message_carries_the_generation_without_which_it_would_be_dropped() -> None:
    """Both stream loops compare `message.generation_id` with the app's and skip what differs without a word."""
    assert "generation_id" in source(Stream._py_aiter)
    message = LedgerConsumer._message(
        cast(LedgerConsumer, SimpleNamespace(app=SimpleNamespace(consumer_generation_id=7))),
        TP(TOPIC, 1),
        Chunk(1, 3, 10, 20, []),
    )
    assert (message.generation_id, message.offset, message.partition, message.topic) == (7, 19, 1, TOPIC)


async def test_the_schema_hands_chunks_through(app: FoldApp) -> None:
    """The conductor calls what `Schema.compile` built, which calls `loads_key` and `loads_value`."""
    chunk = Chunk(0, 1, 0, 5, [])
    message = SimpleNamespace(key=None, value=chunk, headers=[], tp=TP(TOPIC, 0), generation_id=0)
    decode = ChunkSchema().compile(app)
    event = await decode(cast(Any, message), propagate=True)
    assert event.value is chunk
    assert event.key is None


async def test_getmany_delivers_one_chunk_a_partition(app: FoldApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `_getmany` fetched comes out as one message per partition, holes covered, and claims made before."""
    consumer = cast(LedgerConsumer, app.consumer)
    tps = [TP(TOPIC, 0), TP(TOPIC, 1)]
    consumer._set_active_tps(set(tps))
    for tp in tps:
        consumer._chains[tp] = Chain(5, 10)
    fetched = {AiokafkaTP(TOPIC, 0): [raw(0, 10), raw(0, 12)], AiokafkaTP(TOPIC, 1): [raw(1, 11)]}
    monkeypatch.setattr(consumer, "_getmany", answer(fetched))
    checked: list[dict[TP, int]] = []
    monkeypatch.setattr(consumer, "_check_log", lambda starts: answer(checked.append(starts))())
    chunks = [message.value async for _, message in consumer.getmany(0.1)]
    assert [(c.partition, c.epoch, c.start, c.end, len(c.records)) for c in chunks] == [
        (0, 5, 10, 13, 2),
        (1, 5, 10, 12, 1),
    ]
    # A hole at the start may be control records or a loss: the log's start is asked for.
    assert checked == [{TP(TOPIC, 1): 10}]
    assert consumer._chains == {tps[0]: Chain(5, 13), tps[1]: Chain(5, 12)}


async def test_a_fetch_that_overlapped_with_a_rebalance_is_thrown_away(
    app: FoldApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its partitions are claimed and sought anew, so what was thrown away is fetched again."""
    consumer = cast(LedgerConsumer, app.consumer)
    consumer._set_active_tps({TP(TOPIC, 0)})
    consumer._chains[TP(TOPIC, 0)] = Chain(5, 10)

    async def fetch_during_rebalance(*_: Any) -> dict[Any, Any]:
        await consumer.seek_to_committed()
        consumer._chains[TP(TOPIC, 0)] = Chain(6, 400)
        return {AiokafkaTP(TOPIC, 0): [raw(0, 10)]}

    monkeypatch.setattr(consumer, "_getmany", fetch_during_rebalance)
    assert [item async for item in consumer.getmany(0.1)] == []
    assert consumer._chains == {}


async def test_stale_records_are_not_delivered(app: FoldApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records from before the chain's offset void the claim instead of being folded under it."""
    consumer = cast(LedgerConsumer, app.consumer)
    consumer._set_active_tps({TP(TOPIC, 0)})
    consumer._chains[TP(TOPIC, 0)] = Chain(5, 10)
    monkeypatch.setattr(consumer, "_getmany", answer({AiokafkaTP(TOPIC, 0): [raw(0, 3)]}))
    assert [item async for item in consumer.getmany(0.1)] == []
    assert consumer._chains == {}


def test_the_app_stops_its_work_before_its_consumer() -> None:
    """`App.on_stop` stops the consumer; ours lets the lanes finish first."""
    assert "_stop_consumer" in source(App.on_stop)
    text = source(FoldApp.on_stop)
    assert text.index("lanes.stop()") < text.index("super().on_stop()")


def raw(partition: int, offset: int) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord(TOPIC, partition, offset, 0, 1, b"k", b"v", None, 1, 1, ())


def answer(value: Any) -> Any:
    """An async function that gives back a value, whatever it is asked."""

    async def give(*_: Any, **__: Any) -> Any:
        return value

    return give
