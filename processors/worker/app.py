"""The Faust app: one agent that hands each chunk to its partition. Wires, and decides nothing."""

import asyncio
import gc
import logging
import os
import ssl
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import faust
import structlog
from faust.tables import TableManager
from faust.transport import drivers
from faust.types import AppT
from faust.types.tuples import Message

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log
from creditfold.common.settings import METADATA_AGE_MS, Settings
from creditfold.log.appender import Appender
from creditfold.log.bookmark import Bookmark
from creditfold.log.continuity import LogTruncatedError, UnreadError, refusals
from creditfold.log.open_transactions import open_transactions, remedy
from creditfold.log.topics import describe_log
from creditfold.processors.fold.chunk import Chunk
from creditfold.processors.heartbeat import Signs, owner_name
from creditfold.processors.worker.background import BackgroundTasks
from creditfold.processors.worker.blockage import HeldBack
from creditfold.processors.worker.folder import FOLDS_AT_ONCE, ChunkFolder
from creditfold.processors.worker.partitions import Partitions
from creditfold.processors.worker.transport import LedgerConsumer
from creditfold.projections.connections import fold_pool
from creditfold.projections.failures import is_outage
from creditfold.projections.tables.source import LogChangedError, refuse_other_log, sources_of

#: The URL scheme by which Faust finds our transport.
SCHEME = "creditfold"

#: Most connections to PostgreSQL of a worker: those of folds, and two more, so that no claim or background task waits.
FOLD_CONNECTIONS = FOLDS_AT_ONCE + 2

REPORT_EVERY_S = 5.0
#: How long Kafka waits for a sign of a group's member before others get its partitions, and how long Faust waits for an
#: answer, which must be longer.
SESSION_S = 10.0
ANSWER_S = 30.0
TURN_EVERY_S = 1.0
COLLECT_EVERY_S = 60.0

#: How often to compare what was committed with what PostgreSQL has.
COMPARE_EVERY_S = 2.0

#: How often to compare the log with what was folded of it while nothing else gives occasion to, in seconds. Whatever
#: loses the log's end is connected to anew, and compared then; this is for what keeps connections before the brokers.
COMPARE_LOG_EVERY_S = 30.0

#: What is fetched of a partition at once, compressed; a larger batch comes alone. It is kept besides what is at work:
#: with a megabyte, which is usual, a worker of eight partitions needs 26 MB more and is no faster.
FETCH_BYTES = 256 * 1_024

log = structlog.get_logger()


class FetchSchema(faust.Schema[None, Sequence[Chunk]]):
    """Hands a fetch's chunks through as they are; Faust's codecs would fail on them silently."""

    def loads_key(self, app: AppT, message: Message, **_: Any) -> None:
        """A fetch has no key."""

    def loads_value(self, app: AppT, message: Message, **_: Any) -> Sequence[Chunk]:
        """Hand the chunks on without looking into them."""
        return cast(Sequence[Chunk], message.value)


class FoldApp(faust.App):
    """A Faust app with the partitions that do its work.

    Args:
        settings: where Kafka and PostgreSQL are.
        ledger_log: identity of the command topic.
        signs: where it says what it does.
    """

    # Faust's own lines are distinct from ours, and shown with --verbose only.
    logger = logging.getLogger("faust.creditfold")

    def __init__(self, settings: Settings, ledger_log: Log, signs: Signs | None = None) -> None:
        drivers.TRANSPORTS.aliases[SCHEME] = f"{LedgerConsumer.__module__}:Transport"
        self.commands_topic = ledger_log.topic
        self.owner = owner_name()
        self.signs = signs or Signs()
        self._pool = fold_pool(settings.dsn, f"creditfold worker {os.getpid()}", FOLD_CONNECTIONS)
        self.kafka_client = settings.kafka_client
        self._settings = settings
        self._log = ledger_log
        self._held_back = HeldBack()
        self.background = BackgroundTasks(
            self._pool,
            Appender(settings.kafka_client, ledger_log.topic),
            self.owner,
            ledger_log.partitions,
            tick_s=settings.tick_seconds,
            retry_max_s=settings.retry_max_s,
        )
        folder = ChunkFolder(
            self._pool,
            ledger_log.partitions,
            settings.retry_max_s,
            on_lost=self._lost,
            on_hopeless=self.crash,
            on_transfers=self._wake_background,
        )
        self.partitions = Partitions(self._pool, folder, self.owner)
        super().__init__(settings.group, **_faust_options(settings))

    async def on_start(self) -> None:
        """Open the pool before the first partition arrives."""
        await self._pool.open()
        await super().on_start()
        self.signs.partitions = cast(LedgerConsumer, self.consumer).signs
        self.signs.state = "running"
        self.signs.news.set()

    async def on_stop(self) -> None:
        """Finish what is being written, then close what was opened."""
        await self.background.stop()
        await self.partitions.stop()
        await self._pool.close(timeout=5)
        await super().on_stop()

    def _create_directories(self) -> None:
        # For Faust's own tables, of which there are none: a worker keeps nothing, and needs no folder to write to.
        pass

    async def check_identity(self) -> None:
        """Ask Kafka whether the topic is still the one that the projection is folded from.

        Ends the worker and raises LogChangedError if it isn't; raises what describe_log raises if Kafka is away.
        """
        await self._refuse(self._log, await asyncio.to_thread(describe_log, self._settings))

    async def check_source(self, generations: Collection[int]) -> None:
        """Ask PostgreSQL whether generations are folded from this worker's topic.

        One of a restored log may have become live, and this worker still read the old topic. Ends the worker and raises
        LogChangedError if it is so; raises what PostgreSQL raises.
        """
        for source in await sources_of(self._pool, generations):
            await self._refuse(source, self._log)

    async def refusals(self, bookmarks: Mapping[int, Bookmark]) -> Mapping[int, LogTruncatedError]:
        """Ask Kafka in which partitions the log isn't what was folded of it, and why not.

        Raises what log/continuity.py raises if Kafka is away.
        """
        return await asyncio.to_thread(refusals, self._settings, self.commands_topic, bookmarks)

    def connected_anew(self) -> None:
        """Have ticks and transfers appended again that the log may have lost."""
        self.background.forget_offsets()

    async def compare_log(self) -> None:
        """Compare the log with what was folded of it; a partition in which it differs is claimed anew, and refused."""
        consumer = cast(LedgerConsumer, self.consumer)
        try:
            refused = await self.refusals(self.partitions.folded())
        except UnreadError as error:
            log.warning("the log can't be compared with what was folded of it", why=error.message)
            refused = error.refused
        for partition in refused:
            consumer.forget(partition, fenced=False)

    async def _refuse(self, folded: Log, found: Log) -> None:
        try:
            refuse_other_log(folded, found)
        except LogChangedError as error:
            await self.crash(error)
            raise

    async def report_held_back(self) -> None:
        """Write into the log which partitions an open transaction holds back, once each, and when it has ended."""
        ends = cast(LedgerConsumer, self.consumer).held_back()
        due, ended = self._held_back.look({partition: end.stable for partition, end in ends.items()}, time.monotonic())
        for partition, seconds in ended.items():
            log.info(
                "the open transaction has ended, the partition goes on", partition=partition, seen_s=round(seconds)
            )
        if not due:
            return
        # Asked anew: of a partition that isn't fetched, since it has enough to do, what the last fetch met is old.
        found = await asyncio.to_thread(open_transactions, self._settings, self.commands_topic, due)
        found = [one for one in found if one.start == ends[one.partition].stable]
        for one in found:
            open_s = one.open_s(time.time_ns() // 1_000_000)
            log.warning(
                "an open transaction holds a partition back",
                partition=one.partition,
                offset=one.start,
                waiting=one.waiting,
                open_s=None if open_s is None else round(open_s),
                remedy=remedy(self._settings, one),
            )
        self._held_back.reported(one.partition for one in found)

    def _wake_background(self) -> None:
        # Not before the first claim: a start that fails waits for whatever task there is, and these never end.
        self.background.start()
        self.background.wake()

    def _lost(self, partition: int, fenced: bool) -> None:
        cast(LedgerConsumer, self.consumer).forget(partition, fenced)


class Tables(TableManager):
    """Faust's tables, of which there are none: nobody waits for those that agents may yet add."""

    async def on_start(self) -> None:
        """As Faust's own, but for a second in which nothing happens."""
        await self._update_channels()
        await self.recovery.start()


def create_app(settings: Settings, ledger_log: Log, signs: Signs | None = None) -> FoldApp:
    """Build the app. Nothing connects before it is started."""
    app = FoldApp(settings, ledger_log, signs)
    topic = app.topic(ledger_log.topic, schema=FetchSchema(), acks=False)

    @app.agent(topic)
    async def fold(stream: Any) -> None:
        async for event in stream.events():
            chunks: Sequence[Chunk] = event.value
            app.partitions.queue(chunks)

    @app.timer(REPORT_EVERY_S)  # type: ignore[untyped-decorator]
    async def report() -> None:
        # Kafka informs nobody that a topic was deleted and made anew; its records must not be taken for the old one's.
        try:
            await app.check_identity()
            await app.report_held_back()
        except LogChangedError:
            return
        except CreditfoldError as error:
            log.warning("Kafka is away", why=error.message)
            app.signs.waits_for("Kafka", error.message)
        else:
            app.signs.found("Kafka")
        if app.partitions.offsets():
            log.info("progress", **app.partitions.folder.meter.report())
            await cast(LedgerConsumer, app.consumer).report_offsets()

    @app.timer(COMPARE_EVERY_S)  # type: ignore[untyped-decorator]
    async def compare() -> None:
        # A promoted standby or a restored backup may stand earlier. Only a chunk would show it, and none may come.
        try:
            await app.partitions.give_up_displaced()
        except Exception as error:
            if not is_outage(error):
                log.error("it isn't known whether PostgreSQL has all that was committed", exc_info=error)

    @app.timer(COMPARE_LOG_EVERY_S)  # type: ignore[untyped-decorator]
    async def compare_log() -> None:
        try:
            await app.compare_log()
        except CreditfoldError as error:
            log.warning("the log can't be compared with what was folded of it", why=error.message)

    @app.timer(TURN_EVERY_S)  # type: ignore[untyped-decorator]
    async def turn() -> None:
        app.signs.turn("loop")

    @app.timer(COLLECT_EVERY_S)  # type: ignore[untyped-decorator]
    async def collect() -> None:
        # Faust's and asyncio's own cycles: the worker has Python look for them so seldom by itself that they would add
        # up. It takes 20 ms, and a third of a second while two chunks of credits are at work: it looks at all of them.
        gc.collect(1)

    return app


def _credentials(settings: Settings) -> faust.SSLCredentials | faust.SASLCredentials | None:
    protocol = settings.kafka_security_protocol
    context = None
    if protocol in ("SSL", "SASL_SSL"):
        context = ssl.create_default_context(
            cafile=None if settings.kafka_ca_file is None else str(settings.kafka_ca_file)
        )
    if protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        return faust.SASLCredentials(
            username=settings.kafka_username,
            password=settings.kafka_password.get_secret_value() if settings.kafka_password else None,
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


def _faust_options(settings: Settings) -> dict[str, Any]:
    return {
        "broker": ";".join(f"{SCHEME}://{server.strip()}" for server in settings.kafka_bootstrap.split(",")),
        "autodiscover": False,
        "web_enabled": False,
        # Nothing is kept there, nor is it made; a relative one would be looked for from a folder that may be gone.
        "datadir": "/",
        "topic_disable_leader": True,
        "topic_allow_declare": False,
        "consumer_auto_offset_reset": "earliest",
        "consumer_max_fetch_size": FETCH_BYTES,
        "broker_max_poll_records": settings.chunk_records,
        # Waiting out an outage is not a reason to leave the group.
        "broker_max_poll_interval": (2**31 - 1) / 1000,
        "broker_credentials": _credentials(settings),
        "consumer_metadata_max_age_ms": METADATA_AGE_MS,
        "broker_session_timeout": SESSION_S,
        "broker_heartbeat_interval": 1.0,
        "broker_request_timeout": ANSWER_S,
        "stream_wait_empty": False,
        "worker_redirect_stdouts": False,
        "TableManager": Tables,
    }
