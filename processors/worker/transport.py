"""A Faust transport that brings chunks instead of records and takes its offsets from PostgreSQL.

Faust's own path wraps, tracks and delivers each record, which costs more than folding it. Here one Faust event is
a whole fetch. Kafka's committed offsets are not used: after each rebalance every partition is
claimed in PostgreSQL and sought to the offset stored there.

Everything in this file leans on private parts of faust-streaming 0.15.3 and aiokafka 0.14.0. Each has a contract
test in tests/processors/test_faust_hooks.py, named there with what we rely on.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import aiokafka
import structlog
from aiokafka.client import ConnectionGroup
from aiokafka.consumer.fetcher import Fetcher, PartitionRecords
from aiokafka.consumer.subscription_state import Assignment, TopicPartitionState
from aiokafka.errors import CorruptRecordException, IllegalStateError, KafkaConnectionError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage, Message

from creditfold.common.errors import CreditfoldError
from creditfold.log.admin import KafkaUnavailableError, TopicError
from creditfold.log.bookmark import Bookmark
from creditfold.log.continuity import LogTruncatedError, UnreadError
from creditfold.log.offsets import End
from creditfold.log.reader import LogReader, UnreadableError
from creditfold.log.record import LogSlice
from creditfold.processors.fold.chunk import Chunk, Record
from creditfold.processors.heartbeat import MOST_CHARACTERS, Signs
from creditfold.processors.worker.partitions import Partitions
from creditfold.projections.failures import NotPreparedError, is_outage, outage_event, why
from creditfold.projections.queries.heartbeats import PartitionSign
from creditfold.projections.tables.scripts import LayoutError

#: Longest wait of the broker for new records, in ms. aiokafka has one request under way per broker, so a request that
#: waits for quiet partitions holds up the busy ones for this long. Faust's own is 1,500.
FETCH_WAIT_MS = 20

#: The same where all partitions of a broker are asked for together, and none is held up: 50 requests a second took an
#: idle worker 4.5 % of a core, and its broker more. A partition that is sought anew waits for this long at most.
QUIET_WAIT_MS = 250

#: A partition in which fewer records than these are left, behind a fetch of fewer, is little behind.
FEW_RECORDS = 1_000

#: How long to leave a partition alone after another worker fenced us: by then Kafka has announced the rebalance.
FENCED_PAUSE_S = 1.0

#: How long a chunk may be on its way inside Faust, in seconds.
LOST_AFTER_S = 5.0

#: How long the other partitions have between two looks at one in which something can't be read.
SUSPECT_PAUSE_S = 0.1

#: How many records librdkafka reads at once where aiokafka can't read a batch, and how long it may take, in seconds.
FALLBACK_RECORDS = 500
FALLBACK_S = 15.0

#: How long to leave a partition alone in which no client of ours can read on, in seconds.
UNREADABLE_PAUSE_S = 10.0

#: How often to look whether quiet partitions' leaders are still connected as they were, in seconds.
CONNECTIONS_EVERY_S = 0.5

#: How long to leave a partition alone whose log isn't what was folded of it, in seconds. Then it is looked at again:
#: another generation may have been activated, or the log restored.
REFUSED_PAUSE_S = 10.0

#: After so long without a partition, in seconds, a worker that gets it again begins with it anew.
LOST_FOR_GOOD_S = 30.0

#: How long to wait for the leaders of partitions that are to be claimed, in seconds; connecting goes on meanwhile.
CONNECT_S = 1.0

#: How long to leave a partition alone that couldn't be claimed, in seconds.
UNCLAIMED_PAUSE_S = 1.0

#: How long to leave a partition alone of which Kafka doesn't give the last record that was folded, in seconds. To ask
#: for it takes long, and nothing is fetched meanwhile.
UNREAD_PAUSE_S = 60.0

#: How often to show aiokafka that the consumer lives while nothing is fetched, in seconds.
TOUCH_EVERY_S = 1.0

log = structlog.get_logger()


class LedgerApp(Protocol):
    """What the transport needs of its Faust app."""

    commands_topic: str
    partitions: Partitions
    kafka_client: Mapping[str, str]
    signs: Signs

    async def check_identity(self) -> None:
        """End the worker and raise LogChangedError if the topic isn't the one that the projection is folded from."""

    def connected_anew(self) -> None:
        """Take nothing for granted that was appended and isn't folded yet."""

    async def check_source(self, generations: Collection[int]) -> None:
        """End the worker and raise LogChangedError if one of these is folded from another topic."""

    async def refusals(self, bookmarks: Mapping[int, Bookmark]) -> Mapping[int, LogTruncatedError]:
        """The partitions in which the log isn't what was folded of it, and why; raises what Kafka's absence raises."""


def _as_parsed(records: PartitionRecords, tp: TP, record: Record) -> Record:
    """The record as the parser in C makes it: it has all that a chunk needs, and a copy costs three times as much."""
    return record


# Of all its consumers in this process, of which there is one.
PartitionRecords._consumer_record = _as_parsed


class Fetched(NamedTuple):
    """What a fetch took of one partition: the log from offset `start` to before `end`, without control records."""

    start: int
    end: int
    records: Sequence[Record]


@dataclass
class Chain:
    """A claimed partition: the claim's epoch, and the offset at which its next chunk starts.

    `connection` is the one by which it is fetched: a broker that lost the log's end, and one that lacks it and became
    the leader, has another one. `behind_since` says since when the chain has been ahead of a partition that has nothing
    to do, by the monotonic clock.
    """

    epoch: int
    next_offset: int
    connection: Any = field(default=None, compare=False)
    behind_since: float | None = field(default=None, compare=False)


class Holding(NamedTuple):
    """Since when a partition has been held by this process, and when it was last; by the monotonic clock.

    It may change hands for a moment, or have its claim renewed, and is held by the process no less.
    """

    since: float
    last: float


class LedgerFetcher(Fetcher):  # type: ignore[misc]  # aiokafka says nothing of its types.
    """Has a broker wait for longer where it is asked for all partitions that it leads."""

    def _get_actions_per_node(self, assignment: Assignment) -> Any:
        found = super()._get_actions_per_node(assignment)
        led = Counter(map(self._client.cluster.leader_for_partition, assignment.tps))
        for leader, request in found[0]:
            if sum(len(partitions) for _, partitions in request.topics) == led[leader]:
                request._max_wait_ms = QUIET_WAIT_MS
        return found


class LedgerConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that talks to Kafka, reading committed records only."""

    logger = logging.getLogger("faust.creditfold")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connecting: dict[int, asyncio.Task[bool]] = {}

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def on_start(self) -> None:
        """Called by Faust: the consumer makes its fetcher itself, when it starts."""
        await super().on_start()
        self._ensure_consumer()._fetcher.__class__ = LedgerFetcher

    def close(self) -> None:
        """Leave the closing to the thread's own stop.

        Faust calls this when a rebalance meets an app that is stopping, and closes aiokafka's parts in the wrong
        thread: half closed, the join under way never ends, and the stop waits for the join.
        """

    async def _fetch_records(  # type: ignore[override]  # Faust passes the result on to `getmany` as it is.
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 — Faust's name.
        max_records: int | None = None,
    ) -> dict[TP, Fetched]:
        """Fetch, and return from where to where: only the positions before and after show what a fetch passed over.

        Where little is behind, aiokafka fetches nothing until it is asked again: it would at once take the few records
        that there are by then, and keep them and all that comes after them waiting.
        """
        states = self._states(consumer, active_partitions)
        for state in states.values():
            state.resume()
        before = self._positions(states)
        records = await super()._fetch_records(consumer, active_partitions, timeout=timeout, max_records=max_records)
        states = self._states(consumer, active_partitions)
        after = self._positions(states)
        few = min(FEW_RECORDS, max_records or FEW_RECORDS)
        if 0 < sum(map(len, records.values())) < few:
            for state in states.values():
                if state.lso is None or not state.has_valid_position or state.lso - state.position < few:
                    state.pause()
        return {tp: Fetched(before[tp], after[tp], records.get(tp, [])) for tp in before if tp in after}

    def _states(self, consumer: aiokafka.AIOKafkaConsumer, tps: Iterable[TP]) -> dict[TP, TopicPartitionState]:
        subscription = consumer._subscription.subscription
        if subscription is None or subscription.assignment is None:
            return {}
        states = {tp: subscription.assignment.state_value(tp) for tp in tps}
        return {tp: state for tp, state in states.items() if state is not None}

    def _positions(self, states: Mapping[TP, TopicPartitionState]) -> dict[TP, int]:
        return {tp: state.position for tp, state in states.items() if state.has_valid_position}

    def ends(self, tps: Iterable[TP]) -> dict[TP, End]:
        """Both ends of partitions, as the last fetch of each met them; those that no fetch has answered are left out.

        Safe to call from another thread: it reads a few attributes.
        """
        states = self._states(self._ensure_consumer(), tps)
        return {
            tp: End(state.lso, max(state.lso, state.highwater))
            for tp, state in states.items()
            if state.lso is not None and state.highwater is not None
        }

    async def connect(self, tps: Collection[TP]) -> dict[TP, Any]:
        """Connect to the leaders of partitions; gives the connection by which each is fetched from here on.

        Those are left out whose leader isn't reached within CONNECT_S.
        """
        return cast(dict[TP, Any], await self.call_thread(self._connect, tps))

    async def _connect(self, tps: Collection[TP]) -> dict[TP, Any]:
        client = self._ensure_consumer()._client
        for tp in tps:
            leader = client.cluster.leader_for_partition(tp)
            if leader is not None and leader >= 0 and self.connection(tp) is None and leader not in self._connecting:
                # Not cancelled when time is up: connecting may take longer, and the next call finds what came of it.
                self._connecting[leader] = asyncio.ensure_future(client.ready(leader))
        if self._connecting:
            await asyncio.wait(self._connecting.values(), timeout=CONNECT_S)
        self._connecting = {leader: task for leader, task in self._connecting.items() if not task.done()}
        reached = {tp: connection for tp in tps if (connection := self.connection(tp)) is not None}
        if len(reached) < len(tps):
            client.force_metadata_update()
        return reached

    def connection(self, tp: TP) -> Any:
        """The connection to a partition's leader; None without a leader, and where there is none any more."""
        client = self._ensure_consumer()._client
        leader = client.cluster.leader_for_partition(tp)
        connection = client._conns.get((leader, ConnectionGroup.DEFAULT))
        return connection if connection is not None and connection.connected() else None

    async def touch(self) -> None:
        """Show aiokafka that this consumer lives: one that hasn't fetched for long is put out of its group."""
        await self.call_thread(self._touch)

    async def _touch(self) -> None:
        with self._ensure_consumer()._subscription.fetch_context():
            pass

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
        self._connections_seen = 0.0
        self._not_before: dict[TP, float] = {}
        # Partitions in which something could not be read, and when to try them again, each alone.
        self._suspects: dict[TP, float] = {}
        # Counts what makes a fetch under way void. Compared before and after each wait.
        self._seeks = 0
        self._touched = 0.0
        self._holdings: dict[TP, Holding] = {}
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> LedgerConsumerThread:
        return LedgerConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _ledger(self) -> LedgerApp:
        return cast(LedgerApp, self.app)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Judge no partition, which Faust asks for every few seconds by its own offsets.

        Those aren't moved here, so there is nothing to find; and for a partition that a lost heartbeat has just taken
        away, asking for its position ends the worker. Whether partitions move is what the signs of life say.
        """

    def forget(self, partition: int, fenced: bool) -> None:
        """Drop a claim; the partition is claimed and sought again before its next fetch."""
        tp = TP(self._ledger.commands_topic, partition)
        self._chains.pop(tp, None)
        self._pause_partition(tp, FENCED_PAUSE_S if fenced else 0.0)

    def _pause_partition(self, tp: TP, seconds: float) -> None:
        self._not_before[tp] = max(self._not_before.get(tp, 0.0), time.monotonic() + seconds)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Called by Faust after each rebalance, from several tasks: drop every claim.

        The claims themselves are made by `getmany`, the one place that fetches, so that no fetch can be under way.
        Nothing is given back, since Faust silently drops records that lie before the offsets returned here.
        """
        self._seeks += 1
        self._chains.clear()
        return {}

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109 — Faust's name.
        """Fetch once and deliver a chunk for each partition that had something, all in one message."""
        self._ledger.signs.turn("fetching")
        if self.app.should_stop:
            await self.sleep(0.1)
            return
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # mode types its own Event only.
        self._notice_lost_chunks()
        self._notice_idle_connections()
        claimed = await self._claimed()
        self._record_held(claimed)
        self._ledger.partitions.hold({tp.partition for tp in claimed})
        busy = {TP(self._ledger.commands_topic, partition) for partition in self._ledger.partitions.without_room()}
        # What is at work was fetched before; once it is done these partitions are claimed anew.
        working = self._ledger.partitions.work()
        late = self._by_another_connection(tp for tp in claimed if tp.partition in working)
        asked = self._to_ask(claimed - busy - late)
        if not asked:
            await self._pause()
            return
        state = self._state()
        try:
            # While a partition is at work, look again soon: it may want its next chunk before the quiet ones have any.
            hurry = busy and not asked & self._suspects.keys()
            fetched = await self._fetch(asked, 0.005 if hurry else timeout)
            # What came by another connection may be another history than what was folded.
            others = self._by_another_connection(tp for tp, one in fetched.items() if one.end > one.start)
            self._compare_again(others)
            chunks = self._chunks({tp: one for tp, one in fetched.items() if tp not in others})
            if chunks and not self.should_stop and state == self._state():
                for tp, chunk in chunks.items():
                    self._chains[tp].next_offset = chunk.end
                # Faust takes longer over a message than folding some records does: one brings all that was fetched.
                tp = next(iter(chunks))
                yield tp, self._message(tp, tuple(chunks.values()))
        except (KafkaError, IllegalStateError, TimeoutError) as error:
            self._void()
            log.warning("Kafka is away, waiting to fetch", why=repr(error)[:200])
            await self.sleep(1.0)
        except BaseException:
            # What was fetched and not delivered would be passed over by the next fetch.
            self._void()
            raise
        if state != self._state():
            self._void()

    def _notice_lost_chunks(self) -> None:
        """Forget the claims whose chunks were delivered to Faust and never reached their partition's queue."""
        now, waiting = time.monotonic(), self._ledger.partitions.idle()
        for tp, chain in list(self._chains.items()):
            if waiting.get(tp.partition, chain.next_offset) >= chain.next_offset:
                chain.behind_since = None
            elif chain.behind_since is None:
                chain.behind_since = now
            elif now - chain.behind_since > LOST_AFTER_S:
                log.warning("a chunk got lost on its way to its queue", partition=tp.partition)
                self.forget(tp.partition, fenced=False)

    def _notice_idle_connections(self) -> None:
        """Look at all claimed partitions' connections, now and then: nothing may come of some of them for long."""
        now = time.monotonic()
        if now - self._connections_seen > CONNECTIONS_EVERY_S:
            self._connections_seen = now
            self._compare_again(self._by_another_connection(list(self._chains)))

    def _by_another_connection(self, tps: Iterable[TP]) -> set[TP]:
        """The claimed partitions whose leader was connected to anew.

        The log may have lost its end by then and grown past it, and the next record would be another history's.
        """
        return {
            tp for tp in tps if tp in self._chains and self._thread.connection(tp) is not self._chains[tp].connection
        }

    def _compare_again(self, tps: Iterable[TP]) -> None:
        """Forget claims, so that the next ones compare the log again.

        Not of a partition that is at work: a claim ends a transaction that takes long, which would begin again,
        and never come to its end if connections are lost more often than that.
        """
        working = self._ledger.partitions.work()
        for tp in tps:
            if tp.partition not in working:
                log.info("connected anew, the log is compared again", partition=tp.partition)
                self.forget(tp.partition, fenced=False)
                self._ledger.connected_anew()

    def _to_ask(self, ready: set[TP]) -> set[TP]:
        """All that may be fetched together, or one partition alone in which something can't be read."""
        now = time.monotonic()
        due = [tp for tp in sorted(ready & self._suspects.keys()) if self._suspects[tp] <= now]
        return {min(due, key=self._suspects.__getitem__)} if due else ready - self._suspects.keys()

    async def _fetch(self, asked: set[TP], timeout: float) -> Mapping[TP, Fetched]:  # noqa: ASYNC109 — the same.
        try:
            fetched = cast(Mapping[TP, Fetched], await self._getmany(asked, timeout))
        except (IllegalStateError, TimeoutError, *self.consumer_stopped_errors):
            raise
        except Exception as error:
            if isinstance(error, KafkaError) and not isinstance(error, CorruptRecordException):
                raise
            # A header's name that isn't UTF-8 is enough. What was taken of the other partitions is lost.
            log.warning("a batch can't be read", partitions=sorted(tp.partition for tp in asked), why=repr(error)[:200])
            if len(asked) > 1:
                self._void()
                self._suspects.update(dict.fromkeys(asked, 0.0))
                return {}
            (suspect,) = asked
            return {suspect: await self._read_by_librdkafka(suspect)}
        for tp in asked:
            self._suspects.pop(tp, None)
        return fetched

    async def _read_by_librdkafka(self, tp: TP) -> Fetched:
        """Read what aiokafka can't, a few records at a time, until the batch is passed.

        aiokafka decodes the names of headers while it parses, so one that isn't UTF-8 makes all of its batch
        unreadable. librdkafka returns the record first, and its headers when asked.
        """
        chain = self._chains.get(tp)
        if chain is None:
            return Fetched(0, 0, [])  # The claim was given up meanwhile.
        start = chain.next_offset
        self._suspects[tp] = time.monotonic() + SUSPECT_PAUSE_S
        try:
            end, records = await asyncio.to_thread(_slice_from, self._ledger.kafka_client, tp, start)
        except CreditfoldError as error:
            self._suspects[tp] += UNREADABLE_PAUSE_S
            log.error("records can't be read at all; the partition waits", partition=tp.partition, why=error.message)
            return Fetched(start, start, [])
        await self._thread.seek_wait({tp: end})
        # By the seek, Faust would drop what lies before it, which is what is to be delivered now.
        self._read_offset[tp] = start
        return Fetched(start, end, records)

    def _state(self) -> tuple[bool, int, int]:
        return self.flow_active, self._seeks, self.app.consumer_generation_id

    def _void(self) -> None:
        """Records were fetched but will not be delivered: seek back to what is stored."""
        self._chains.clear()

    async def _pause(self) -> None:
        now = time.monotonic()
        if now - self._touched > TOUCH_EVERY_S:
            self._touched = now
            await self._thread.touch()
        if self._chains:
            await self._ledger.partitions.wait_for_room(1.0)
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
            except (KafkaError, IllegalStateError, TimeoutError, KafkaUnavailableError, TopicError) as error:
                log.warning("Kafka is away, waiting to claim partitions", why=repr(error)[:200])
                await self._wait_to_claim(new)
            except NotPreparedError as error:
                # It may be about to be restored: to make tables now would be in the way.
                log.error("waiting to claim partitions", why=error.message, remedy=error.remedy)
                await self._wait_to_claim(new)
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning(f"{outage_event(error)} to claim partitions", why=why(error))
                await self._wait_to_claim(new)
        return active & self._chains.keys()

    async def _wait_to_claim(self, tps: Iterable[TP]) -> None:
        """Leave partitions alone that couldn't be claimed, without holding up those that are."""
        for tp in tps:
            self._pause_partition(tp, UNCLAIMED_PAUSE_S)
        if not self._chains:
            await self.sleep(UNCLAIMED_PAUSE_S)

    async def _claim(self, tps: set[TP]) -> None:
        seeks = self._seeks
        # First, so that whatever happens to the log from here on shows in its connection.
        connections = await self._thread.connect(tps)
        if unreached := tps - connections.keys():
            trouble = KafkaConnectionError(
                f"the leader of partition {', '.join(str(tp.partition) for tp in sorted(unreached))} can't be reached"
            )
            if not connections:
                raise trouble
            log.warning("Kafka is away, waiting to claim partitions", why=repr(trouble)[:200])
            for tp in unreached:
                self._pause_partition(tp, UNCLAIMED_PAUSE_S)
            tps = tps - unreached
        await self._ledger.check_identity()
        try:
            found, refused = await self._compared(tps)
            claims = await self._ledger.partitions.claim({tp.partition for tp in tps} - refused)
        except LayoutError as error:
            await self.app.crash(error)
            raise
        # Before anything is fetched for these claims: what was live when the worker started may not be any more.
        await self._ledger.check_source({claim.generation for claim in claims.values()})
        # One that a former owner folded on meanwhile is compared again, where it stands now.
        starts = {
            tp: claims[tp.partition].next_offset
            for tp in tps
            if tp.partition in claims and claims[tp.partition].bookmark == found[tp.partition]
        }
        if not starts:
            return
        await self._thread.seek_wait(starts)
        if seeks != self._seeks:
            return  # A rebalance came in between; the next call claims what is ours by then.
        for tp, start in starts.items():
            self._chains[tp] = Chain(claims[tp.partition].epoch, start, connections[tp])
        log.info("claimed", partitions={tp.partition: starts[tp] for tp in sorted(starts)})

    async def _compared(self, tps: Collection[TP]) -> tuple[Mapping[int, Bookmark], set[int]]:
        """Where the partitions stand, and those not to claim: the log isn't what was folded of it, or can't be read.

        The rest goes on without these.

        A partition that is claimed all the same would be folded on with commands missing, and transfers of a history
        that is gone would be moved on.
        """
        bookmarks = await self._ledger.partitions.bookmarks([tp.partition for tp in tps])
        unread: Collection[int] = ()
        try:
            refused = await self._ledger.refusals(bookmarks)
        except UnreadError as error:
            refused, unread = error.refused, error.partitions
            log.error("waiting to claim partitions", partitions=sorted(unread), why=error.message, remedy=error.remedy)
            for partition in unread:
                self._pause_partition(TP(self._ledger.commands_topic, partition), UNREAD_PAUSE_S)
        for partition, refusal in refused.items():
            log.error(
                "refuses to fold a partition",
                partition=partition,
                why=refusal.message,
                remedy=refusal.remedy,
                looks_again_in_s=REFUSED_PAUSE_S,
            )
            self._pause_partition(TP(self._ledger.commands_topic, partition), REFUSED_PAUSE_S)
            await self._ledger.partitions.release(partition)
        return bookmarks, {*refused, *unread}

    def _chunks(self, fetched: Mapping[TP, Fetched]) -> dict[TP, Chunk]:
        chunks: dict[TP, Chunk] = {}
        for tp, (start, end, records) in fetched.items():
            chain = self._chains.get(tp)
            if chain is None:
                continue
            inside = not records or (start <= records[0].offset and records[-1].offset < end)
            if start != chain.next_offset or not inside:
                # The consumer isn't where the chain ends: it was reset, or something was taken and not delivered.
                self.forget(tp.partition, fenced=False)
            elif end > start:
                chunks[tp] = Chunk(tp.partition, chain.epoch, start, end, records)
        return chunks

    def _message(self, tp: TP, chunks: Sequence[Chunk]) -> ConsumerMessage:
        # Faust drops messages of another generation than the app's silently.
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=chunks[0].end - 1,
            timestamp=0.0,
            timestamp_type=0,
            headers=[],
            key=None,
            value=cast(bytes, chunks),
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _record_held(self, claimed: set[TP]) -> None:
        now = time.monotonic()
        for tp in claimed:
            before = self._holdings.get(tp)
            if before is None or now - before.last > LOST_FOR_GOOD_S:
                before = Holding(now, now)
                self._ledger.signs.news.set()
            self._holdings[tp] = before._replace(last=now)

    def signs(self) -> list[PartitionSign]:
        """What this worker does about each partition that it holds or has held. Safe to call from another thread."""
        now, works, claimed = time.monotonic(), self._ledger.partitions.work(), set(self._chains)
        found = []
        for tp, held in sorted(list(self._holdings.items())):  # noqa: C414 - A copy at once: the other thread may add one.
            work = works.get(tp.partition)
            holds = tp in claimed
            found.append(
                PartitionSign(
                    tp.partition,
                    0.0 if holds else round(now - held.last, 3),
                    round(now - held.since, 3) if holds else None,
                    round(now - work.since, 3) if holds and work else None,
                    tries=work.tries if holds and work else 0,
                    why=work.why[:MOST_CHARACTERS] if holds and work else "",
                )
            )
        return found

    def held_back(self) -> dict[int, End]:
        """The claimed partitions of which an open transaction keeps something from being fetched, and their ends."""
        try:
            ends = self._thread.ends(list(self._chains))
        except ConsumerNotStarted:
            return {}
        return {tp.partition: end for tp, end in ends.items() if end.stable < end.high}

    async def report_offsets(self) -> None:
        """Commit to Kafka how far the fold has come, for lag tools; failing at it harms nothing."""
        topic = self._ledger.commands_topic
        with suppress(KafkaError, IllegalStateError, TimeoutError):
            await self._thread.report({TP(topic, p): offset for p, offset in self._ledger.partitions.offsets().items()})


def _slice_from(kafka: Mapping[str, str], tp: TP, start: int) -> LogSlice:
    """The log from an offset on, read by librdkafka. Raises UnreadableError where nothing can be read."""
    with LogReader(kafka, tp.topic, tp.partition, start) as reader:
        deadline = time.monotonic() + FALLBACK_S
        while time.monotonic() < deadline:
            found = reader.take(FALLBACK_RECORDS, 1.0)
            if found.end > start:
                return found
    raise UnreadableError(f"Nothing can be read from {tp.topic} {tp.partition}:{start}.", "Look at the broker's log.")


class Transport(driver.Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer = LedgerConsumer
