"""A Faust transport that brings chunks instead of records and takes its offsets from PostgreSQL.

Faust's own path wraps, tracks and delivers each record, which costs more than folding it. Here one Faust event is
one partition's share of a fetch. Kafka's committed offsets are not used: after each rebalance every partition is
claimed in PostgreSQL and sought to the offset stored there.

Everything in this file leans on private parts of faust-streaming 0.15.3 and aiokafka 0.14.0. Each has a contract
test in tests/test_faust_hooks.py, named there with what we rely on.
"""

import logging
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, cast

import aiokafka
import structlog
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage, Message

from creditfold.processors.chunks import Chunk
from creditfold.processors.lanes import OUTAGES, Lanes
from creditfold.schemas.errors import CreditfoldError

#: Longest wait of the broker for new records, in ms. aiokafka has one request under way per broker, so a request that
#: waits for quiet partitions holds up the busy ones for this long. Faust's own is 1,500.
FETCH_WAIT_MS = 20

#: How long to leave a partition alone after another worker fenced us: by then Kafka has told us of the rebalance.
FENCED_PAUSE_S = 1.0

log = structlog.get_logger()


class LogTruncatedError(CreditfoldError):
    """Records that were never folded are no longer in the topic, or the topic ends before what was folded."""


class LedgerApp(Protocol):
    """What the transport needs of its Faust app."""

    commands_topic: str
    lanes: Lanes


class Chain(NamedTuple):
    """A claimed partition: the claim's epoch, and the offset at which its next chunk starts."""

    epoch: int
    next_offset: int


class LedgerConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that talks to Kafka, reading committed records only."""

    logger = logging.getLogger("faust.creditfold")

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def positions(self, tps: Collection[TP]) -> dict[TP, int]:
        """The offsets that the next fetch starts from; they pass over control records too."""
        return cast(dict[TP, int], await self.call_thread(self._positions, tps))

    async def _positions(self, tps: Collection[TP]) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        return {tp: await consumer.position(tp) for tp in tps}

    async def report(self, offsets: Mapping[TP, int]) -> None:
        """Commit offsets to Kafka, where lag tools look for them. Nothing of ours reads them back."""
        consumer = self._ensure_consumer()
        mine = self.assignment()
        committed = {
            driver.ensure_aiokafka_TP(tp): OffsetAndMetadata(offset, "") for tp, offset in offsets.items() if tp in mine
        }
        if committed:
            await self.call_thread(consumer.commit, committed)


class LedgerConsumer(driver.Consumer):
    """Claims partitions, seeks them to PostgreSQL's offsets, and delivers chunks."""

    _thread: LedgerConsumerThread
    logger = logging.getLogger("faust.creditfold")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._chains: dict[TP, Chain] = {}
        self._not_before: dict[TP, float] = {}
        # Counts what makes a fetch under way void. Compared before and after each wait.
        self._seeks = 0
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> LedgerConsumerThread:
        return LedgerConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _ledger(self) -> LedgerApp:
        return cast(LedgerApp, self.app)

    def forget(self, partition: int, fenced: bool) -> None:
        """Drop a claim; the partition is claimed and sought again before its next fetch."""
        tp = TP(self._ledger.commands_topic, partition)
        self._chains.pop(tp, None)
        self._not_before[tp] = time.monotonic() + (FENCED_PAUSE_S if fenced else 0.0)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Called by Faust after each rebalance, from several tasks: drop every claim.

        The claims themselves are made by `getmany`, the one place that fetches, so that no fetch can be under way.
        Nothing is given back, since Faust silently drops records that lie before the offsets returned here.
        """
        self._seeks += 1
        self._chains.clear()
        return {}

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109 — Faust's name.
        """Fetch once and deliver a chunk for each partition that had something."""
        if self.app.should_stop:
            await self.sleep(0.1)
            return
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # mode types its own Event only.
        ready = await self._claimed()
        busy = {TP(self._ledger.commands_topic, partition) for partition in self._ledger.lanes.busy()}
        if not ready - busy:
            await self._pause()
            return
        state = self._state()
        # While a lane works, look again soon: it may want its next chunk before the quiet ones have any.
        records = await self._getmany(ready - busy, 0.005 if busy else timeout)
        if self.should_stop:
            return
        if state != self._state():
            self._void()
            return
        for tp, chunk in [*await self._chunks(records), *await self._empty_chunks(records, ready - busy)]:
            if state != self._state():
                self._void()
                return
            self._chains[tp] = Chain(chunk.epoch, chunk.end)
            yield tp, self._message(tp, chunk)

    def _state(self) -> tuple[bool, int, int]:
        return self.flow_active, self._seeks, self.app.consumer_generation_id

    def _void(self) -> None:
        """Records were fetched but will not be delivered: seek back to what is stored."""
        self._chains.clear()

    async def _pause(self) -> None:
        if self._chains:
            await self._ledger.lanes.wait_for_room(1.0)
        else:
            await self.sleep(0.1)

    async def _claimed(self) -> set[TP]:
        """Claim what was assigned and isn't claimed yet; give back all partitions that may be fetched."""
        active = {tp for tp in self._get_active_partitions() if tp.topic == self._ledger.commands_topic}
        now = time.monotonic()
        new = {tp for tp in active if tp not in self._chains and self._not_before.get(tp, 0.0) <= now}
        if new:
            try:
                await self._claim(new)
            except OUTAGES as error:
                log.warning("PostgreSQL is away, waiting to claim partitions", why=str(error).strip()[:200])
                await self.sleep(1.0)
            except (KafkaError, IllegalStateError, TimeoutError) as error:
                log.warning("Kafka is away, waiting to claim partitions", why=repr(error)[:200])
                await self.sleep(1.0)
        return active & self._chains.keys()

    async def _claim(self, tps: set[TP]) -> None:
        seeks = self._seeks
        claims = await self._ledger.lanes.claim({tp.partition for tp in tps})
        starts = {tp: claims[tp.partition].next_offset for tp in tps}
        await self._check_log(starts)
        await self._thread.seek_wait(starts)
        if seeks != self._seeks:
            return  # A rebalance came in between; the next call claims what is ours by then.
        for tp in tps:
            self._chains[tp] = Chain(claims[tp.partition].epoch, starts[tp])
        log.info("claimed", partitions={tp.partition: starts[tp] for tp in sorted(tps)})

    async def _check_log(self, starts: Mapping[TP, int]) -> None:
        """Refuse to go on where the log no longer holds what comes next, or ends before what was folded."""
        first = await self._thread.earliest_offsets(*starts)
        last = await self._thread.highwaters(*starts)
        for tp, start in starts.items():
            if not first[tp] <= start <= last[tp]:
                error = LogTruncatedError(
                    f"Partition {tp.partition} of {tp.topic} is folded to offset {start}, "
                    f"but the topic holds {first[tp]} to {last[tp]}.",
                    "Records were deleted, or the topic is another one. Restore the log; don't fold on.",
                )
                await self.app.crash(error)
                raise error

    async def _chunks(self, records: Mapping[TP, list[Any]]) -> list[tuple[TP, Chunk]]:
        chunks = []
        for tp, batch in records.items():
            tp = TP(tp.topic, tp.partition)  # noqa: PLW2901 — aiokafka's own tuple type lacks Faust's fields.
            chain = self._chains.get(tp)
            if chain is None:
                continue
            if batch[0].offset > chain.next_offset:
                # Control records leave holes, and so do deleted records: only the second is a loss.
                await self._check_log({tp: chain.next_offset})
            elif batch[0].offset < chain.next_offset:
                self.forget(tp.partition, fenced=False)
                continue
            chunks.append((tp, Chunk(tp.partition, chain.epoch, chain.next_offset, batch[-1].offset + 1, batch)))
        return chunks

    async def _empty_chunks(self, records: Mapping[TP, list[Any]], asked: set[TP]) -> list[tuple[TP, Chunk]]:
        """Chunks without records, for partitions whose log ends in control records: the offset passes over them."""
        if records:
            return []
        positions = await self._thread.positions([tp for tp in asked if tp in self._chains])
        return [
            (tp, Chunk(tp.partition, chain.epoch, chain.next_offset, position, []))
            for tp, position in positions.items()
            if (chain := self._chains.get(tp)) and position > chain.next_offset
        ]

    def _message(self, tp: TP, chunk: Chunk) -> ConsumerMessage:
        # Faust drops messages of another generation than the app's without a word.
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=chunk.end - 1,
            timestamp=0.0,
            timestamp_type=0,
            headers=[],
            key=None,
            value=cast(bytes, chunk),
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def report_offsets(self) -> None:
        """Tell Kafka how far the fold has come, for lag tools; failing at it harms nothing."""
        topic = self._ledger.commands_topic
        with suppress(KafkaError, IllegalStateError, TimeoutError):
            await self._thread.report({TP(topic, p): offset for p, offset in self._ledger.lanes.offsets().items()})


class Transport(driver.Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer = LedgerConsumer
