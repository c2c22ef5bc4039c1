"""One contract test for each private part of Faust and aiokafka that `creditfold.processors.worker.transport` leans on.

Pinned to faust-streaming 0.15.3 and aiokafka 0.14.0. When one of these fails after an upgrade, read the new source of
the part that it names before changing the pin: what broke elsewhere was always silent.
"""

import asyncio
import inspect
from collections.abc import Sequence
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, cast

import aiokafka
import faust
import mode
import pytest
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import Assignment, SubscriptionState, TopicPartitionState
from aiokafka.errors import IllegalStateError, KafkaTimeoutError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import ConsumerRecord
from faust.app.base import App
from faust.streams import Stream
from faust.tables import TableManager
from faust.tables.recovery import Recovery
from faust.transport import drivers
from faust.transport.consumer import Consumer, ConsumerThread
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from pydantic import SecretStr

from creditfold.common.position import Log
from creditfold.common.settings import Settings
from creditfold.log.record import LogSlice
from creditfold.processors.fold.chunk import Chunk
from creditfold.processors.worker import transport
from creditfold.processors.worker.app import SCHEME, FetchSchema, FoldApp, Tables, create_app
from creditfold.processors.worker.main import BoundedWorker
from creditfold.processors.worker.partition import Work
from creditfold.processors.worker.transport import (
    FETCH_WAIT_MS,
    FEW_RECORDS,
    LOST_AFTER_S,
    QUIET_WAIT_MS,
    Chain,
    Fetched,
    LedgerConsumer,
    LedgerConsumerThread,
    LedgerFetcher,
    Transport,
)

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


def test_tables_wait_for_nothing_else_at_their_start(app: FoldApp) -> None:
    """Ours leaves out the second that Faust has for agents to add tables in."""
    assert [line.strip() for line in source(TableManager.on_start).splitlines()[2:]] == [
        "await self.sleep(1.0)",
        "if not self.should_stop:",
        "await self._update_channels()",
        "await self.recovery.start()",
    ]
    assert type(app.tables) is Tables


def test_a_worker_that_has_stopped_waits_for_nothing_else() -> None:
    """Ours leaves out a second behind all that is waited for."""
    assert [line.strip() for line in source(mode.Worker._sentinel_task).splitlines()[1:]] == [
        "await asyncio.sleep(1.0)"
    ]
    assert source(mode.Worker._shutdown_loop).count("_sentinel_task") == 1


async def test_a_transport_is_found_by_its_url_scheme(app: FoldApp) -> None:
    """`drivers.TRANSPORTS.aliases` maps a scheme to `module:Class`; the app builds our consumer from it."""
    assert drivers.TRANSPORTS.aliases[SCHEME] == "creditfold.processors.worker.transport:Transport"
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


async def test_a_broker_waits_long_only_where_no_partition_of_its_own_is_held_up(
    app: FoldApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consumer makes its fetcher when it starts, and that builds each request in `_get_actions_per_node`."""
    thread = cast(LedgerConsumer, app.consumer)._thread
    subscription = SubscriptionState()
    subscription.subscribe({TOPIC})
    # Broker 1 leads two partitions, broker 2 one.
    tps = [driver.ensure_aiokafka_TP(TP(TOPIC, number)) for number in range(3)]
    subscription.assign_from_subscribed(tps)
    assignment = subscription.subscription.assignment
    for tp in tps:
        assignment.state_value(tp).reset_to(7)
    cluster = SimpleNamespace(leader_for_partition=lambda tp: 2 if tp.partition == 2 else 1)
    client = SimpleNamespace(cluster=cluster, _loop=asyncio.get_running_loop(), _metadata_max_age_ms=1_000)
    monkeypatch.setattr(Fetcher, "_fetch_requests_routine", lambda _: asyncio.sleep(60))

    class Started(SimpleNamespace):
        async def start(self) -> None:
            self._fetcher = Fetcher(client, subscription, fetch_max_wait_ms=FETCH_WAIT_MS)

    monkeypatch.setattr(thread, "_create_consumer", lambda loop: Started())
    monkeypatch.setattr(type(thread), "thread_loop", None, raising=False)
    await thread.on_start()
    fetcher: Any = thread._consumer._fetcher
    assert type(fetcher) is LedgerFetcher

    def waits() -> dict[int, int]:
        return {leader: request._max_wait_ms for leader, request in fetcher._get_actions_per_node(assignment)[0]}

    assert waits() == {1: QUIET_WAIT_MS, 2: QUIET_WAIT_MS}
    # One that isn't asked for, as when records of it are still to be taken, must be asked for soon.
    assignment.state_value(tps[0]).pause()
    assert waits() == {1: FETCH_WAIT_MS, 2: QUIET_WAIT_MS}
    await fetcher.close()


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


async def test_a_partition_without_a_position_ends_no_worker(app: FoldApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust's timer `verify_all_partitions_active` calls `verify_event_path`, which asserts that there is one."""
    assert "self.verify_event_path(now, tp)" in source(Consumer.verify_all_partitions_active)
    consumer, tp = cast(LedgerConsumer, app.consumer), TP(TOPIC, 0)
    subscription = SubscriptionState()
    subscription.subscribe({TOPIC})
    subscription.assign_from_subscribed([driver.ensure_aiokafka_TP(tp)])
    consumer._thread._consumer = cast(Any, SimpleNamespace(_fetcher=SimpleNamespace(_subscriptions=subscription)))
    monkeypatch.setattr(consumer, "assignment", lambda: {tp})
    monkeypatch.setattr(type(consumer._thread), "_verify_aiokafka_event_path", lambda *_: False)
    consumer._thread.time_started = 0.0
    with pytest.raises(AssertionError):
        driver.Consumer.verify_event_path(consumer, 1e9, tp)
    await consumer.verify_all_partitions_active()


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


async def test_only_the_thread_s_own_stop_closes_the_consumer(app: FoldApp) -> None:
    """Faust's `close` runs in the app's loop what belongs to the thread's; all that it does, `on_thread_stop` does."""
    assert "self.consumer.close()" in source(App._on_rebalance_when_stopped)
    assert "self.app.loop" in source(driver.AIOKafkaConsumerThread.close)
    assert "await self._consumer.stop()" in source(driver.AIOKafkaConsumerThread.on_thread_stop)
    thread = cast(LedgerConsumer, app.consumer)._thread
    thread._consumer = cast(Any, SimpleNamespace(_closed=False))
    app.consumer.close()
    assert not thread._consumer._closed


def test_both_signals_schedule_the_shutdown() -> None:
    """`_schedule_shutdown` is called for each, with the signal; ours starts the timer there that ends the process."""
    for handler in (mode.Worker._on_sigterm, mode.Worker._on_sigint):
        assert "self._schedule_shutdown(signal.SIG" in source(handler)
    assert "self._stop_on_signal(signal)" in source(mode.Worker._schedule_shutdown)
    assert BoundedWorker.__mro__[1:3] == (faust.Worker, mode.Worker)


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


def test_records_are_handed_on_as_they_were_parsed() -> None:
    """`PartitionRecords` passes each record through `_consumer_record`, the one place that makes a `ConsumerRecord`."""
    assert "consumer_record = self._consumer_record(tp, record)" in source(PartitionRecords._unpack_records)
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1_000)
    builder.append(0, timestamp=17, key=b"key", value=b"value", headers=[("name", b"text")])
    builder.append(1, timestamp=18, key=None, value=None, headers=[])
    parsed = PartitionRecords(TP(TOPIC, 0), MemoryRecords(bytes(builder.build())), [], 0, None, None, True, 1)
    found = [(one.offset, one.timestamp, one.key, one.value, list(one.headers)) for one in parsed]
    assert found == [(0, 17, b"key", b"value", [("name", b"text")]), (1, 18, None, None, [])]
    assert parsed.next_fetch_offset == 2


def test_a_message_carries_the_generation_without_which_it_would_be_dropped() -> None:
    """Both stream loops compare `message.generation_id` with the app's and skip what differs without a word."""
    assert "generation_id" in source(Stream._py_aiter)
    message = LedgerConsumer._message(
        cast(LedgerConsumer, SimpleNamespace(app=SimpleNamespace(consumer_generation_id=7))),
        TP(TOPIC, 1),
        [Chunk(1, 3, 10, 20, []), Chunk(2, 3, 0, 5, [])],
    )
    assert (message.generation_id, message.offset, message.partition, message.topic) == (7, 19, 1, TOPIC)


async def test_the_schema_hands_chunks_through(app: FoldApp) -> None:
    """The conductor calls what `Schema.compile` built, which calls `loads_key` and `loads_value`."""
    chunks = (Chunk(0, 1, 0, 5, []), Chunk(1, 1, 0, 5, []))
    message = SimpleNamespace(key=None, value=chunks, headers=[], tp=TP(TOPIC, 0), generation_id=0)
    decode = FetchSchema().compile(app)
    event = await decode(cast(Any, message), propagate=True)
    assert event.value is chunks
    assert event.key is None


@pytest.fixture
async def claimed(app: FoldApp, monkeypatch: pytest.MonkeyPatch) -> LedgerConsumer:
    """A consumer that has claimed partitions 0 and 1 at offset 10 under epoch 5, by the connection "first"."""
    consumer = cast(LedgerConsumer, app.consumer)
    consumer._set_active_tps({TP(TOPIC, 0), TP(TOPIC, 1)})
    consumer._chains.update({TP(TOPIC, partition): Chain(5, 10, "first") for partition in (0, 1)})
    monkeypatch.setattr(consumer._thread, "connection", lambda tp: "first")
    return consumer


async def test_what_comes_by_another_connection_is_not_delivered(
    claimed: LedgerConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker may have lost the log's end and grown past it: the partition is claimed, and compared, anew."""

    async def getmany(*_: Any) -> dict[TP, Fetched]:
        monkeypatch.setattr(claimed._thread, "connection", lambda tp: "first" if tp.partition else "second")
        return fetched(p0=(11, 10), p1=(11, 10))

    (chunks,) = await delivered(claimed, getmany)
    assert [chunk.partition for chunk in chunks] == [1]
    assert claimed._chains.keys() == {TP(TOPIC, 1)}


async def test_a_partition_at_work_keeps_its_claim_when_its_broker_is_connected_to_anew(
    claimed: LedgerConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new claim would end what is in work. Nothing more is fetched meanwhile; what came already isn't delivered."""
    partitions = cast(FoldApp, claimed.app).partitions
    asked: list[set[TP]] = []

    async def getmany(tps: set[TP], _: float) -> dict[TP, Fetched]:
        asked.append(tps)
        monkeypatch.setattr(claimed._thread, "connection", lambda tp: "first" if tp.partition else "second")
        return fetched(p0=(11, 10), p1=(11, 10))

    monkeypatch.setattr(partitions, "work", lambda: {0: Work(0.0)})
    (chunks,) = await delivered(claimed, getmany)
    assert [chunk.partition for chunk in chunks] == [1]
    monkeypatch.setattr(claimed, "_connections_seen", 0.0)
    assert await delivered(claimed) == []
    assert claimed._chains[TP(TOPIC, 0)] == Chain(5, 10)
    assert asked == [{TP(TOPIC, 0), TP(TOPIC, 1)}, {TP(TOPIC, 1)}]
    monkeypatch.setattr(partitions, "work", dict)
    monkeypatch.setattr(claimed, "_connections_seen", 0.0)
    claimed._notice_idle_connections()
    assert TP(TOPIC, 0) not in claimed._chains


async def test_leaders_are_connected_to_beside_each_other(app: FoldApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that can't be reached keeps its own partitions waiting, and is asked once, however long that takes."""
    monkeypatch.setattr(transport, "CONNECT_S", 0.0)
    thread = cast(LedgerConsumer, app.consumer)._thread
    connections: dict[int, Any] = {}
    asked: list[int] = []
    silent = asyncio.Event()

    async def ready(leader: int) -> bool:
        asked.append(leader)
        if leader == 7:
            await silent.wait()
        connections[leader] = f"to {leader}"
        return True

    leaders = {0: 7, 1: 8, 2: None, 3: -1}
    client = SimpleNamespace(
        cluster=SimpleNamespace(leader_for_partition=lambda tp: leaders[tp.partition]),
        ready=ready,
        force_metadata_update=lambda: None,
    )
    monkeypatch.setattr(thread, "_ensure_consumer", lambda: SimpleNamespace(_client=client))
    monkeypatch.setattr(thread, "connection", lambda tp: connections.get(leaders[tp.partition] or -1))
    tps = [TP(TOPIC, partition) for partition in range(4)]
    while not (reached := await thread._connect(tps)):  # noqa: ASYNC110 - The next call looks.
        await asyncio.sleep(0)
    assert reached == {TP(TOPIC, 1): "to 8"}
    assert await thread._connect(tps) == reached
    silent.set()
    while TP(TOPIC, 0) not in (reached := await thread._connect(tps)):  # noqa: ASYNC110 - The next call looks.
        await asyncio.sleep(0)
    assert reached == {TP(TOPIC, 0): "to 7", TP(TOPIC, 1): "to 8"}
    assert sorted(asked) == [7, 8]


def test_a_partition_is_fetched_by_the_one_connection_to_its_leader() -> None:
    """`AIOKafkaClient._conns` has it by node and group; one that is closed is replaced by another object."""
    send, connect = source(AIOKafkaClient.send), source(AIOKafkaClient._get_conn)
    assert "self._conns[(node_id, group)].send(" in send
    assert "if not conn.connected():\n                del self._conns[conn_id]" in connect
    assert "self._conns[conn_id] = await create_conn(" in connect
    assert "await self._client.send(node_id, request)" in source(Fetcher._proc_fetch_request)
    assert inspect.signature(AIOKafkaClient.send).parameters["group"].default is ConnectionGroup.DEFAULT
    assert "leader_for_partition(tp)" in source(Fetcher._get_actions_per_node)


def fetched(**ends: Any) -> dict[TP, Fetched]:
    """What the thread gives for partitions p0, p1: from 10 to an offset, with a record at each of some offsets."""
    return {
        TP(TOPIC, int(name[1:])): Fetched(10, end, [raw(int(name[1:]), offset) for offset in offsets])
        for name, (end, *offsets) in ends.items()
    }


async def delivered(consumer: LedgerConsumer, getmany: Any = None) -> list[Sequence[Chunk]]:
    """The chunks of each message of a fetch, which `_getmany` answers by a function, or by a value that it returns."""
    if getmany is not None:
        consumer._getmany = getmany if callable(getmany) else answer(getmany)  # type: ignore[method-assign]
    return [cast(Sequence[Chunk], message.value) async for _, message in consumer.getmany(0.1)]


async def test_getmany_delivers_one_chunk_a_partition(claimed: LedgerConsumer) -> None:
    """What `_getmany` fetched comes out as one message, with a chunk per partition, from where to where."""
    (chunks,) = await delivered(claimed, fetched(p0=(15, 10, 12), p1=(12, 11)))
    assert [(c.partition, c.epoch, c.start, c.end, len(c.records)) for c in chunks] == [
        (0, 5, 10, 15, 2),
        (1, 5, 10, 12, 1),
    ]
    assert claimed._chains == {TP(TOPIC, 0): Chain(5, 15), TP(TOPIC, 1): Chain(5, 12)}


async def test_control_records_alone_make_an_empty_chunk(claimed: LedgerConsumer) -> None:
    """The position moved and nothing came of it: the offset passes over them. Elsewhere nothing is delivered."""
    assert await delivered(claimed, fetched(p0=(13,), p1=(10,))) == [(Chunk(0, 5, 10, 13, []),)]


async def test_a_fetch_that_overlapped_with_a_rebalance_is_thrown_away(claimed: LedgerConsumer) -> None:
    """Its partitions are claimed and sought anew, so what was thrown away is fetched again."""

    async def fetch_during_rebalance(*_: Any) -> dict[TP, Fetched]:
        await claimed.seek_to_committed()
        claimed._chains[TP(TOPIC, 0)] = Chain(6, 10)
        return fetched(p0=(12, 10))

    assert await delivered(claimed, fetch_during_rebalance) == []
    assert claimed._chains == {}


@pytest.mark.parametrize("start", [3, 11])
async def test_records_from_elsewhere_than_the_chains_end_are_not_delivered(
    claimed: LedgerConsumer, start: int
) -> None:
    """A consumer that was reset, or that gave records which were not delivered, is claimed and sought again."""
    assert await delivered(claimed, {TP(TOPIC, 0): Fetched(start, start + 1, [raw(0, start)])}) == []
    assert TP(TOPIC, 0) not in claimed._chains
    assert TP(TOPIC, 1) in claimed._chains


async def test_a_getmany_left_behind_its_message_skips_nothing(
    claimed: LedgerConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may not have been delivered is sought again."""
    monkeypatch.setattr(claimed, "_getmany", answer(fetched(p0=(11, 10), p1=(11, 10))))
    generator = cast(Any, claimed.getmany(0.1))
    await anext(generator)
    await generator.aclose()
    assert claimed._chains == {}


@pytest.mark.parametrize("error", [KafkaTimeoutError(), IllegalStateError(), TimeoutError()])
async def test_hiccups_of_kafka_void_the_claims_and_nothing_else(
    claimed: LedgerConsumer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """An error that left `getmany` would end the worker."""
    monkeypatch.setattr(claimed, "sleep", answer(None))
    assert await delivered(claimed, answer(error)) == []
    assert claimed._chains == {}


async def test_a_batch_that_aiokafka_cannot_parse_is_read_by_librdkafka(
    claimed: LedgerConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First every partition is asked alone; the one that fails is read by the other client, the rest as before."""
    bad = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "header")
    calls: list[set[TP]] = []

    async def getmany(asked: set[TP], _: float) -> dict[TP, Fetched]:
        calls.append(asked)
        if TP(TOPIC, 0) in asked:
            raise bad
        return fetched(p1=(11, 10))

    monkeypatch.setattr(transport, "_slice_from", lambda kafka, tp, start: LogSlice(14, [raw(tp.partition, start)]))
    monkeypatch.setattr(claimed._thread, "seek_wait", answer(None))
    assert await delivered(claimed, getmany) == []
    assert claimed._chains == {}
    claimed._chains.update({TP(TOPIC, partition): Chain(6, 10, "first") for partition in (0, 1)})
    chunks = [chunk for _ in range(2) for chunks in await delivered(claimed) for chunk in chunks]
    assert claimed._read_offset[TP(TOPIC, 0)] == 10
    assert [(c.partition, c.start, c.end) for c in chunks] == [(0, 10, 14), (1, 10, 11)]
    assert calls == [{TP(TOPIC, 0), TP(TOPIC, 1)}, {TP(TOPIC, 0)}, {TP(TOPIC, 1)}]


async def test_a_chunk_that_faust_dropped_is_fetched_again(
    claimed: LedgerConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partition has nothing to do and stands before the chain's end, for longer than a chunk takes to reach it."""
    partitions = cast(FoldApp, claimed.app).partitions
    monkeypatch.setattr(partitions, "idle", lambda: {0: 4, 1: 10})
    claimed._notice_lost_chunks()
    assert claimed._chains.keys() == {TP(TOPIC, 0), TP(TOPIC, 1)}
    assert claimed._chains[TP(TOPIC, 1)].behind_since is None
    since = claimed._chains[TP(TOPIC, 0)].behind_since
    assert since is not None
    claimed._chains[TP(TOPIC, 0)].behind_since = since - LOST_AFTER_S
    claimed._notice_lost_chunks()
    assert claimed._chains.keys() == {TP(TOPIC, 1)}


async def test_what_is_paused_is_not_fetched_until_it_is_resumed() -> None:
    """aiokafka's fetcher passes it over, and wakes up when it is resumed. Faust pauses nothing there itself."""
    actions, routine = source(Fetcher._get_actions_per_node), source(Fetcher._fetch_requests_routine)
    assert "elif tp_state.paused:\n                resume_futures.append(tp_state.resume_fut)" in actions
    assert "set(chain(self._pending_tasks, other_futs, resume_futures))" in routine
    assert "_consumer.pause(" not in source(driver)
    state = TopicPartitionState(cast(Any, None))
    for _ in range(2):
        state.pause()
        assert state.paused
    waiting = state.resume_fut
    for _ in range(2):
        state.resume()
        assert not state.paused
    assert waiting.done()


@pytest.mark.parametrize(
    ("taken", "left", "most", "is_paused"),
    [
        (0, 0, None, False),
        (FEW_RECORDS - 1, 0, None, True),
        (FEW_RECORDS, 0, None, False),
        # A full fetch of few bytes, or of few records.
        (9, FEW_RECORDS, None, False),
        (9, FEW_RECORDS - 1, None, True),
        (10, 0, 10, False),
    ],
)
async def test_where_little_is_behind_nothing_is_fetched_unasked(
    taken: int, left: int, most: int | None, is_paused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was asked for is let go on before, and held back after: a fetch that found nothing waits for more."""
    states = {TP(TOPIC, number): TopicPartitionState(cast(Any, None)) for number in (0, 1)}
    for state in states.values():
        state.pause()
        state.seek(5)
        state.lso = 5 + left
    assignment = SimpleNamespace(state_value=states.get)
    consumer = SimpleNamespace(_subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=assignment)))
    seen: list[bool] = []

    async def fetch(*_: Any, **__: Any) -> Any:
        seen.extend(state.paused for state in states.values())
        return {TP(TOPIC, 0): [None] * taken}

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetch)
    thread = LedgerConsumerThread.__new__(LedgerConsumerThread)
    await thread._fetch_records(cast(Any, consumer), {TP(TOPIC, 0)}, max_records=most)
    assert seen == [False, True]
    assert [state.paused for state in states.values()] == [is_paused, True]


def test_positions_are_read_in_the_consumers_thread() -> None:
    """`_fetch_records` runs there, and a position moves only when records, or control records, are taken."""
    assert "self._fetch_records" in source(driver.AIOKafkaConsumerThread.getmany)
    assert "fetch_context" in source(driver.AIOKafkaConsumerThread._fetch_records)
    states = {TP(TOPIC, 0): SimpleNamespace(position=7, has_valid_position=True)}
    assignment = SimpleNamespace(state_value=states.get)
    consumer = SimpleNamespace(_subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=assignment)))
    both = [TP(TOPIC, 0), TP(TOPIC, 1)]
    found = LedgerConsumerThread._states(cast(Any, None), cast(Any, consumer), both)
    assert LedgerConsumerThread._positions(cast(Any, None), found) == {TP(TOPIC, 0): 7}
    assert isinstance(SubscriptionState.subscription, property)
    assert "self._tp_state.get(tp)" in source(Assignment.state_value)
    assert "consumed_to" in source(FetchResult._update_position)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("PLAINTEXT", ("PLAINTEXT", None)),
        ("SSL", ("SSL", None)),
        ("SASL_PLAINTEXT", ("SASL_PLAINTEXT", "SCRAM-SHA-512")),
        ("SASL_SSL", ("SASL_SSL", "SCRAM-SHA-512")),
    ],
)
async def test_security_settings_reach_the_consumer(tmp_path: Any, protocol: Any, expected: tuple[str, str]) -> None:
    """The worker talks to Kafka as the producers and the admin client do."""
    settings = Settings(
        data_dir=tmp_path,
        postgres_dsn=None,
        kafka_security_protocol=protocol,
        kafka_username="ledger",
        kafka_password=SecretStr("secret"),
    )
    secured = create_app(settings, Log(TOPIC, "id", 4))
    thread = cast(LedgerConsumer, secured.consumer)._thread
    client = thread._create_worker_consumer(cast(Transport, secured.transport))._client
    mechanism = client._sasl_mechanism if "SASL" in protocol else None
    assert (client._security_protocol, mechanism) == expected
    assert (client._ssl_context is not None) == ("SSL" in protocol)
    if "SASL" in protocol:
        assert (client._sasl_plain_username, client._sasl_plain_password) == ("ledger", "secret")


def test_the_app_stops_its_work_before_its_consumer() -> None:
    """`App.on_stop` stops the consumer; ours lets the partitions finish first."""
    assert "_stop_consumer" in source(App.on_stop)
    text = source(FoldApp.on_stop)
    assert text.index("partitions.stop()") < text.index("super().on_stop()")


def test_no_folder_is_made(app: FoldApp) -> None:
    """`App.on_first_start` makes folders for tables by `_create_directories`, and nothing else of Faust's does."""
    assert "self._create_directories()" in source(App.on_first_start)
    assert source(App).count(".mkdir(") == source(App._create_directories).count(".mkdir(") == 3
    app._create_directories()
    assert not app.conf.appdir.exists()
    assert not app.conf.tabledir.exists()


def raw(partition: int, offset: int) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord(TOPIC, partition, offset, 0, 1, b"k", b"v", None, 1, 1, ())


def answer(value: Any) -> Any:
    """An async function that gives back a value, or raises it, whatever it is asked."""

    async def give(*_: Any, **__: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    return give
