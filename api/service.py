"""What all routes share while the door is open: the producer, connections to read with, who waits for the fold.

Owns their opening and closing, and how blocking queries run beside the event loop. Knows no route.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeAlias, TypeVar

import structlog
from fastapi import Request
from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from creditfold.api.access import MOST_KEPT, Caller, KeyRing, caller_of
from creditfold.api.ends import LogEnds
from creditfold.api.feed import Feed
from creditfold.api.fold import Fold
from creditfold.api.latest import LatestAnswers
from creditfold.api.limits import Rate, RateLimits
from creditfold.api.long_reads import LongReads
from creditfold.api.metrics import Metrics
from creditfold.api.preview_threads import PreviewThreads
from creditfold.api.problems import RETRY_S, ProblemError, unauthenticated
from creditfold.api.requests import refuse_other_pages
from creditfold.api.together import Together
from creditfold.api.tokens import Tokens
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.log.admin import KafkaAdmin, kafka_answers
from creditfold.log.partitioner import partition_of
from creditfold.producers import AsyncCommandProducer
from creditfold.producers.models.errors import RESEND
from creditfold.projections import queries
from creditfold.projections.access.keys import Key, find_key, is_well_formed, record_use
from creditfold.projections.access.scopes import SCOPES
from creditfold.projections.connections import reader_pool, snapshot
from creditfold.projections.queries import ProjectedOutcomes
from creditfold.projections.queries.progress import Standing
from creditfold.schemas.outcome import Appended, CommandOutcome

_Balances: TypeAlias = tuple[Standing, Sequence[queries.BalanceNow] | None]
P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()

#: Connections for queries, and so how many run at once.
READERS = 8
#: Queries of GraphQL at once.
GRAPHS = 2
#: Threads for previews, each with a connection.
PREVIEWERS = 2
#: Threads that read and write lines of bulk requests. More would only share the interpreter.
BULKERS = 2
#: Threads for what operators do, which may take long: reads don't wait for it.
OPERATORS = 2
#: Seconds that a query may take; a server that is frozen answers none, and says nothing either.
QUERY_S = 30.0
#: Seconds that each server has to show that it is there.
READY_S = 6.0
#: Seconds in which Kafka must answer in time for that; a busy machine takes more than one to connect and to log in.
READY_KAFKA_S = 5.0
#: Seconds that are left to those who wait for an outcome once the server is asked to stop.
STOP_WAIT_S = 10.0
#: Seconds between two records of when keys were used.
USED_EVERY_S = 30.0


class Reading(NamedTuple):
    """What a query found, and the state that it was found in; `complete_to` is up to when that has all of the log."""

    found: Any
    position: Position | None
    generation: int
    complete_to: datetime | None = None
    standing: Standing | None = None


class Service:
    """The open door's own: made by the application when it starts, closed when it ends.

    Args:
        settings: where Kafka and PostgreSQL are.
        metrics: of the application.
        is_open: whether requests without a key may do everything (`--insecure-local`).
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, is_open: bool = False) -> None:
        self.settings = settings
        self.metrics = metrics
        #: Whether requests without a key may do everything.
        self.is_open = is_open
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="creditfold-read")
        self._bulk_threads = ThreadPoolExecutor(BULKERS, thread_name_prefix="creditfold-bulk")
        self._operator_threads = ThreadPoolExecutor(OPERATORS, thread_name_prefix="creditfold-operate")
        self.readers: ConnectionPool[Connection[TupleRow]] = reader_pool(settings.dsn, "creditfold-api", READERS)
        self.previewers = PreviewThreads(settings.dsn, PREVIEWERS)
        self.producer = AsyncCommandProducer(
            settings.kafka_client,
            settings.commands_topic,
            outcomes=ProjectedOutcomes(settings.dsn, "creditfold-api-outcomes"),
        )
        self.keys = KeyRing(self._find_key)
        # By the id of its key, and made anew with each look at that.
        self._callers: dict[str, tuple[Key, Caller]] = {}
        #: Verifies tokens of the identity provider.
        self.tokens = Tokens(settings)
        self._balances = Together(self._ask_balances)
        self.limits = RateLimits(Rate.of(settings.api_rate, settings.api_burst) if settings.api_rate else None)
        #: Outcomes as they are folded, for those who follow.
        self.feed = Feed(self.query)
        #: For queries of GraphQL, which take longer than other reads and leave most readers to them.
        self.graphs = asyncio.Semaphore(GRAPHS)
        #: How far the fold is, for those who wait for it.
        self.fold = Fold(self.query)
        self.ends = LogEnds(settings)
        #: What takes longer than a request may: sums over all lots, and proofs from the whole journal.
        self.latest = LatestAnswers(self._read_long)
        self._long = LongReads(settings.dsn)
        self._admin: KafkaAdmin | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._readiness: asyncio.Task[tuple[bool, bool]] | None = None
        self._is_stopping = False
        self._waits: set[asyncio.Timeout] = set()
        metrics.writes_waiting.set_function(lambda: len(self._waits))
        metrics.fold_waits.set_function(lambda: self.fold.waiting)
        metrics.reads_waiting.set_function(self._threads._work_queue.qsize)

    async def open(self) -> None:
        """Open the pools; they connect by and by, whether PostgreSQL is there or not."""
        self.readers.open(wait=False)
        self.previewers.open()
        self._tasks = [
            asyncio.create_task(one) for one in (self.fold.follow(), self._follow_ends(), self._record_use())
        ]

    @property
    def admin(self) -> KafkaAdmin:
        """What Kafka is asked by while the door is open: to connect anew for each page takes most of a page's time.

        Keep it until the answer is there.
        """
        if self._admin is None:
            self._admin = KafkaAdmin(self.settings)
        return self._admin

    async def _follow_ends(self) -> None:
        await self.ends.follow(self.admin)

    async def close(self) -> None:
        """End what was opened; commands under way are delivered first."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.latest.close()
        await self._long.close()
        try:
            await self.producer.close()
        finally:
            await self.previewers.close()
            self.readers.close()
            self._threads.shutdown(wait=False)
            self._bulk_threads.shutdown(wait=False)
            self._operator_threads.shutdown(wait=False)
            self._admin = None

    @property
    def is_stopping(self) -> bool:
        """Whether the server is asked to stop: what can be gone on with later ends."""
        return self._is_stopping

    def stop(self) -> None:
        """Have everything under way come to its end: the server is asked to stop."""
        self._is_stopping = True
        until = asyncio.get_running_loop().time() + STOP_WAIT_S
        for wait in self._waits:
            wait.reschedule(until)

    @asynccontextmanager
    async def until_stopped(self) -> AsyncIterator[None]:
        """Bound a wait for an outcome by the end of the server, which comes STOP_WAIT_S seconds after `stop`.

        Raises:
            ProblemError: the server ends, and the outcome isn't known.
        """
        wait = asyncio.timeout(STOP_WAIT_S if self._is_stopping else None)
        try:
            async with wait:
                self._waits.add(wait)
                yield
        except TimeoutError:
            if not wait.expired():
                raise
            raise ProblemError(
                503,
                "server_stopping",
                "The server stops, and the outcome of the command isn't known yet.",
                RESEND,
                maybe_written=True,
                headers={"Retry-After": str(RETRY_S)},
            ) from None
        finally:
            self._waits.discard(wait)

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Bound what asks PostgreSQL. Raises ProblemError where no answer came in QUERY_S seconds."""
        bound = asyncio.timeout(QUERY_S)
        try:
            async with bound:
                yield
        except TimeoutError:
            if not bound.expired():
                raise
            raise ProblemError(
                503,
                "postgresql_unavailable",
                f"PostgreSQL gave no answer within {QUERY_S:g} s.",
                "Try again; if it stays so, look at PostgreSQL and at GET /health/ready.",
                headers={"Retry-After": str(RETRY_S)},
            ) from None

    async def readiness(self) -> tuple[bool, bool]:
        """Whether Kafka and PostgreSQL answer, asked now; those who ask at the same time share one look."""
        if self._readiness is None or self._readiness.done():
            self._readiness = asyncio.create_task(self._look_for_servers())
        return await asyncio.shield(self._readiness)

    async def _look_for_servers(self) -> tuple[bool, bool]:
        async def kafka() -> bool:
            # In no thread of the readers: a frozen PostgreSQL may hold them all.
            return await asyncio.to_thread(kafka_answers, self.settings, bound_s=READY_KAFKA_S)

        async def postgresql() -> bool:
            await self.query(queries.standing)
            return True

        async def answers(look: Callable[[], Any]) -> bool:
            try:
                async with asyncio.timeout(READY_S):
                    return bool(await look())
            except Exception:  # Whatever it is: the answer is no, and any other route says why.
                return False

        found = await asyncio.gather(answers(kafka), answers(postgresql))
        return found[0], found[1]

    async def run(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Do blocking work beside the event loop, when a thread is free."""
        return await self._begin(partial(work, *arguments, **options))

    def _begin(self, work: Callable[[], T]) -> asyncio.Future[T]:
        def measured() -> T:
            self.metrics.readers_busy.inc()
            try:
                return work()
            finally:
                self.metrics.readers_busy.dec()

        return asyncio.get_running_loop().run_in_executor(self._threads, measured)

    async def run_bulk(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Do the work of a bulk request in threads of its own: reads don't wait for it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._bulk_threads, lambda: work(*arguments, **options))

    async def operate(self, work: Callable[[], T]) -> T:
        """Do what an operator asks for in threads of its own; it goes on to its end when the client leaves."""
        return await asyncio.get_running_loop().run_in_executor(self._operator_threads, work)

    async def query(
        self, question: Callable[Concatenate[Connection[Any], P], T], *arguments: P.args, **options: P.kwargs
    ) -> T:
        """Ask PostgreSQL by one of the functions of `projections.queries`."""

        def ask() -> T:
            with self.readers.connection() as connection:
                return question(connection, *arguments, **options)

        async with self.in_time():
            return await self.run(ask)

    async def read(
        self,
        account: str | None,
        question: Callable[Concatenate[Connection[Any], P], T],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> Reading:
        """Ask as `query` does, in one snapshot, and say how far an account's partition was folded in it."""

        def ask() -> tuple[Standing, T]:
            with self.readers.connection() as connection, snapshot(connection):
                return queries.standing(connection), question(connection, *arguments, **options)

        async with self.in_time():
            standing, found = await self._begin(ask)
        return self._reading(account, found, standing)

    async def _read_long(self, question: Callable[[Connection[Any]], Any]) -> Reading:
        """Ask as `read` does, however long it takes: other reads neither wait for it nor end it."""

        def ask(connection: Connection[Any]) -> tuple[Standing, Any]:
            return queries.standing(connection), question(connection)

        standing, found = await self._long.ask(ask)
        return self._reading(None, found, standing)

    async def balances(self, account: str) -> Reading:
        """An account's balances at this moment, by one statement for all that are asked for just now.

        Where that isn't enough, since something has fallen due, they are read in a snapshot of their own.
        """
        async with self.in_time():
            standing, found = await self._balances.of(account)
        if found is None:
            return await self.read(account, queries.balances_now, account)
        return self._reading(account, found, standing)

    def _ask_balances(self, accounts: Sequence[str]) -> "asyncio.Future[Mapping[str, _Balances]]":
        def ask() -> Mapping[str, _Balances]:
            with self.readers.connection() as connection:
                standing, found = queries.standing_and_balances(connection, accounts)
            return {account: (standing, found.get(account)) for account in accounts}

        return self._begin(ask)

    def _reading(self, account: str | None, found: Any, standing: Standing) -> Reading:
        offsets = standing.next_offsets
        if account is None or not offsets:
            return Reading(found, None, standing.generation, self.ends.complete_to(standing), standing)
        partition = partition_of(account.encode(), len(offsets))
        at = Position(partition, offsets[partition] - 1)
        return Reading(found, at, standing.generation, self.ends.complete_to(standing, (partition,)), standing)

    # Who calls

    async def authenticate(self, request: Request) -> Caller:
        """The caller of a request. Raises ProblemError where it names none that is known."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if not text:
            if self.is_open:
                refuse_other_pages(request, self.settings.cors_origins)
                return Caller("local", frozenset(SCOPES), rate=self.limits.rate_of(None, None))
            raise unauthenticated("The request has no key.")
        if scheme.lower() != "bearer":
            raise unauthenticated("The header Authorization isn't of the form `Bearer <key>`.")
        return await self.caller_of_key(text)

    async def caller_of_key(self, text: str) -> Caller:
        """The caller that a key or a token stands for. Raises ProblemError where it isn't known."""
        known = self.keys.known(text)
        if known is not None:
            return self._caller_of(known)
        if self.tokens.may_be(text.strip()):
            return (await self.tokens.caller(text.strip()))._replace(rate=self.limits.rate_of(None, None))
        if not is_well_formed(text.strip()):
            raise unauthenticated("The key is malformed; is it complete?")
        key = await self.keys.find(text.strip())
        if key is None:
            raise unauthenticated("The key isn't known here, has ended, or was revoked.")
        return self._caller_of(key)

    def _caller_of(self, key: Key) -> Caller:
        made = self._callers.get(key.id)
        if made is None or made[0] is not key:
            if len(self._callers) > MOST_KEPT:
                self._callers.clear()
            made = self._callers[key.id] = key, caller_of(key, self.limits.rate_of(key.rate, key.burst))
        return made[1]

    async def _find_key(self, text: str) -> Any:
        return await self.query(find_key, text)

    async def _record_use(self) -> None:
        while True:
            await asyncio.sleep(USED_EVERY_S)
            used, self.keys.used = self.keys.used, {}
            if used:
                try:
                    await self.query(record_use, list(used.items()))
                except Exception as error:  # It only says when a key was used last; the next time says it too.
                    log.warning("the use of keys wasn't recorded", why=str(error))

    # Who waits for the fold

    async def outcomes(
        self, appended: Sequence[Appended], timeout_s: float
    ) -> Sequence[CommandOutcome | CreditfoldError | None]:
        """The outcomes of many commands, each looked up once the fold has passed them all or the time is over.

        Args:
            appended: the commands and where they are.
            timeout_s: seconds to wait for the fold.

        Returns:
            One for each, in their order: None where it isn't folded in time, or can't be looked up just now; an error
            where there will be none.
        """
        deadline = time.monotonic() + timeout_s
        last: dict[int, Position] = {}
        for one in appended:
            last[one.position.partition] = max(one.position, last.get(one.position.partition, one.position))
        for position in last.values():
            with suppress(ProblemError):
                await self.fold.passes(position, max(0.0, deadline - time.monotonic()))
        numbers = [number for number, one in enumerate(appended) if self.fold.has_passed(one.position)]
        found: list[CommandOutcome | CreditfoldError | None] = [None] * len(appended)
        try:
            looked_up = await self.query(queries.outcomes_at, [appended[n] for n in numbers]) if numbers else []
        except Exception as error:  # They are in the log all the same, and so is said where.
            log.warning("outcomes can't be looked up", why=str(error))
            return found
        for number, outcome in zip(numbers, looked_up, strict=True):
            found[number] = outcome
        return found


def service_of(request: Request) -> Service:
    """The service of the application that a request came to."""
    found: Service = request.app.state.service
    return found
