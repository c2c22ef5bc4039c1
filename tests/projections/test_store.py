"""The store on a real PostgreSQL: fenced, without gaps, all or nothing, wherever it is killed."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.ledger import CreditBook
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.chunk import Chunk, fold, read_records
from creditfold.processors.fold.draft import make_draft
from creditfold.processors.fold.transaction import (
    Part,
    fold_chunk,
    fold_part,
    load_accounts,
    load_request,
)
from creditfold.processors.worker.partition import CommittedState
from creditfold.processors.worker.partitions import Partitions
from creditfold.projections.connections import SEND_BYTES, connected, fold_pool
from creditfold.projections.failures import NotPreparedError, PostgresUnavailableError, is_full, is_outage
from creditfold.projections.queries.balances import balances
from creditfold.projections.queries.progress import NotYetFoldedError, wait_for
from creditfold.projections.store.claim import Claim, Stored, claim
from creditfold.projections.store.results import ChunkResult
from creditfold.projections.store.transaction import ChunkGapError, ChunkTransaction, FencedError, SetBackError
from creditfold.projections.tables.setup import OLDEST_SERVER, prepare
from creditfold.projections.tables.source import LogChangedError
from creditfold.stack.postgres_server import OLDEST_MAJOR
from helpers.projection_copy import copy_of
from helpers.records import FakeRecord, grant, spend
from helpers.store import LOG, kill, lanes_of, wait_until_blocked
from helpers.support import query

pytestmark = pytest.mark.compiled_core

RECORDS = [
    grant(0, 10, "1", "ann", 5),
    spend(1, 20, "2", "ann", 9),
    FakeRecord(2, 30, b"x", b"x"),
    spend(3, 40, "3", "ann", 2),
]
#: The most bytes that a program may have a socket take at once.
WRITE_LIMIT = Path("/proc/sys/net/core/wmem_max")
EXPECTED = [(0, 1, "1", 5, None), (1, 2, "2", 5, "insufficient_credits"), (3, 3, "3", 3, None)]


def journal(settings: Settings) -> list[tuple[object, ...]]:
    return query(settings, "SELECT log_offset, version, command_id, balance, rejection FROM ledger.journal ORDER BY 1")


@asynccontextmanager
async def connection_to(settings: Settings) -> AsyncIterator[AsyncConnection[TupleRow]]:
    async with await AsyncConnection.connect(settings.dsn, autocommit=True) as connection:
        yield connection


async def test_chunks_are_written_with_their_offset(prepared: Settings) -> None:
    """Rows and offset stand or fall together; folding a chunk again changes nothing, overlaps add their end."""
    async with lanes_of(prepared) as lanes:
        won = (await lanes.claim([0]))[0]
        assert await lanes.folder.fold(Chunk(0, won.epoch, 0, 2, RECORDS[:2]), won) == 2
        assert await lanes.folder.fold(Chunk(0, won.epoch, 0, 2, RECORDS[:2]), won) == 2
        assert await lanes.folder.fold(Chunk(0, won.epoch, 0, 4, RECORDS), won) == 4
    assert journal(prepared) == EXPECTED
    counts = query(prepared, "SELECT next_offset, accepted, rejected, duplicates, dead_letters FROM ledger.progress")
    assert counts == [(4, 2, 1, 0, 1)]
    assert query(prepared, "SELECT extract(epoch FROM clock) * 1000 FROM ledger.progress") == [(40,)]


async def test_a_hole_is_not_folded_over(prepared: Settings) -> None:
    """A chunk that starts beyond the stored offset would lose records."""
    async with lanes_of(prepared) as lanes:
        won = (await lanes.claim([0]))[0]
        with pytest.raises(ChunkGapError):
            await lanes.folder.fold(Chunk(0, won.epoch, 1, 4, RECORDS[1:]), won)
    assert journal(prepared) == []


async def test_an_older_claim_is_fenced(prepared: Settings) -> None:
    """Whoever claimed last writes; the other learns of it, and writes nothing."""
    async with lanes_of(prepared) as zombie, lanes_of(prepared) as owner:
        old = (await zombie.claim([0]))[0]
        new = (await owner.claim([0]))[0]
        assert new.epoch > old.epoch
        with pytest.raises(FencedError):
            await zombie.folder.fold(Chunk(0, old.epoch, 0, 4, RECORDS), old)
        assert await owner.folder.fold(Chunk(0, new.epoch, 0, 4, RECORDS), new) == 4
    assert journal(prepared) == EXPECTED


@pytest.mark.skipif(not WRITE_LIMIT.exists(), reason="only Linux says how much a socket may take")
async def test_a_socket_takes_a_chunk_s_lines_at_once(prepared: Settings) -> None:
    """As much as the system allows, which counts each byte twice; one of TCP is left to grow by itself."""
    allowed = int(await asyncio.to_thread(WRITE_LIMIT.read_text, "ascii"))
    async with fold_pool(prepared.dsn, "test", 1) as pool, pool.connection() as connection:
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as its:
            room = its.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            is_local = its.family == socket.AF_UNIX
    assert (room == 2 * min(SEND_BYTES, allowed)) is is_local


async def test_a_claim_waits_for_the_transaction_under_way(prepared: Settings) -> None:
    """The new owner starts where the old one's last commit left off, never before it."""
    async with connection_to(prepared) as writer, fold_pool(prepared.dsn, "test", 2) as pool:
        old = await claim(pool, 0, "old")
        async with writer.transaction():
            await write_all(writer, old)
            claiming = asyncio.create_task(claim(pool, 0, "new"))
            await wait_until_blocked(prepared)
            assert not claiming.done()
        assert (await claiming).next_offset == 4


async def test_a_claim_ends_the_session_of_an_owner_that_does_not_come_back(
    prepared: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen with the row locked, and in the middle of a COPY, which no time-out of PostgreSQL reaches."""
    monkeypatch.setattr("creditfold.projections.store.claim.CLAIM_PATIENCE_S", 0.2)
    async with connection_to(prepared) as frozen, fold_pool(prepared.dsn, "test", 2) as pool:
        old = await claim(pool, 0, "old")
        with pytest.raises(psycopg.OperationalError):
            await freeze_in_a_copy(frozen, old, claim(pool, 0, "new"))
    assert journal(prepared) == []


async def freeze_in_a_copy(
    frozen: AsyncConnection[TupleRow], old: Claim, claiming: Coroutine[None, None, Claim]
) -> None:
    """Hold the partition's lock in the middle of a COPY until another claim has succeeded, then go on."""
    async with frozen.transaction():
        await ChunkTransaction(frozen, 0, old).lock()
        async with frozen.cursor().copy("COPY ledger_0001.journal FROM STDIN") as copy:
            assert (await claiming).epoch > old.epoch
            await copy.write(b"too late")


async def write_all(connection: AsyncConnection[TupleRow], won: Claim) -> None:
    """Fold RECORDS as a lane does, inside the caller's transaction."""
    transaction = ChunkTransaction(connection, 0, won)
    await transaction.lock()
    cache = AccountCache()
    await fold_chunk(transaction, read_records(RECORDS, 0, 1), 4, cache)
    await transaction.save_state(cache.take_state(0))


@pytest.mark.parametrize("step", ["lock", "load", "write", "state", "before_commit", "after_commit"])
async def test_a_kill_at_any_step_leaves_all_or_nothing(prepared: Settings, step: str) -> None:
    """The connection is cut at each step of the transaction; the next try, by whomever, gives the same rows."""
    async with connection_to(prepared) as connection, fold_pool(prepared.dsn, "test", 1) as pool:
        victim = await claim(pool, 0, "victim")
        pid = connection.info.backend_pid
        transaction = ChunkTransaction(connection, 0, victim)
        reads = read_records(RECORDS, 0, 1)
        cut = False
        try:
            async with connection.transaction():
                cut = step == "lock" and kill(prepared, pid)
                await transaction.lock()
                cut = step == "load" and kill(prepared, pid)
                cache = AccountCache()
                request = load_request(transaction, reads, cache)
                known = await load_accounts([request])
                cut = step == "write" and kill(prepared, pid)
                await transaction.write(fold_part(Part(reads, 4), request, known, inf))
                cut = step == "state" and kill(prepared, pid)
                await transaction.save_state(cache.take_state(0))
                cut = step == "before_commit" and kill(prepared, pid)
        except psycopg.OperationalError:
            cut = True
        if step == "after_commit":
            cut = kill(prepared, pid)
    assert cut
    assert journal(prepared) == (EXPECTED if step == "after_commit" else [])
    async with lanes_of(prepared) as lanes:
        won = (await lanes.claim([0]))[0]
        assert await lanes.folder.fold(Chunk(0, won.epoch, 0, 4, RECORDS), won) == 4
    assert journal(prepared) == EXPECTED
    assert query(prepared, "SELECT available, version FROM ledger.balances") == [(3, 3)]
    assert query(prepared, "SELECT count(*) FROM ledger.dead_letters") == [(1,)]


async def test_a_lane_waits_out_a_lost_connection_and_hands_back_what_it_lost(prepared: Settings) -> None:
    """A cut connection is tried again; a fenced chunk is given up, and said to be lost."""
    lost: list[tuple[int, bool]] = []
    async with lanes_of(prepared, lost) as lanes, lanes_of(prepared) as other:
        won = (await lanes.claim([0]))[0]
        query(prepared, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test'")
        lanes.queue([Chunk(0, won.epoch, 0, 2, RECORDS[:2])])
        await folded_to(lanes, 2)
        await other.claim([0])
        lanes.queue([Chunk(0, won.epoch, 2, 4, RECORDS[2:])])
        while not lost:
            await lanes.wait_for_room(1.0)
    assert lost == [(0, True)]
    assert journal(prepared) == EXPECTED[:2]


async def folded_to(lanes: Partitions, offset: int) -> None:
    while lanes.offsets()[0] < offset:
        await lanes.wait_for_room(1.0)


async def test_a_projection_that_was_set_back_is_given_up_and_folded_again(prepared: Settings) -> None:
    """Without a new chunk; neither what is remembered of accounts nor of ids gets in the way of the same commands."""
    lost: list[tuple[int, bool]] = []
    async with lanes_of(prepared, lost) as lanes:
        won = (await lanes.claim([0]))[0]
        lanes.hold({0})
        lanes.queue([Chunk(0, won.epoch, 0, 2, RECORDS[:2])])
        await folded_to(lanes, 2)
        with copy_of(prepared) as copy:
            lanes.queue([Chunk(0, won.epoch, 2, 4, RECORDS[2:])])
            await folded_to(lanes, 4)
            await lanes.give_up_displaced()
            assert lost == []
            copy.put_back()
        await lanes.give_up_displaced()
        await lanes.give_up_displaced()
        # Once, and at once: it isn't another worker's.
        assert lost == [(0, False)]
        again = (await lanes.claim([0]))[0]
        assert again.next_offset == 2
        lanes.hold({0})
        lanes.queue([Chunk(0, again.epoch, 2, 4, RECORDS[2:])])
        await folded_to(lanes, 4)
        await lanes.give_up_displaced()
        assert lost == [(0, False)]
    assert journal(prepared) == EXPECTED
    assert query(prepared, "SELECT available, version FROM ledger.balances") == [(3, 3)]


async def test_a_partition_that_another_worker_has_claimed_is_given_up(prepared: Settings) -> None:
    """Also where no chunk comes that would be fenced, as behind a switch of generations."""
    lost: list[tuple[int, bool]] = []
    async with lanes_of(prepared, lost) as lanes, lanes_of(prepared) as other:
        await lanes.claim([0])
        lanes.hold({0})
        await other.claim([0])
        await lanes.give_up_displaced()
        assert lost == [(0, True)]


async def test_claims_under_way_are_no_false_alarm(ledger_database: Settings) -> None:
    """The second of two claims waits for its row; meanwhile the first is made, and its lane doesn't know it yet."""
    prepare(ledger_database.dsn, LOG._replace(partitions=2))
    lost: list[tuple[int, bool]] = []
    epoch = "SELECT epoch FROM ledger.progress WHERE log_partition = 0"
    async with lanes_of(ledger_database, lost, partitions=2) as lanes, connection_to(ledger_database) as holder:
        await lanes.claim([0, 1])
        lanes.hold({0, 1})
        (before,) = query(ledger_database, epoch)
        async with holder.transaction():
            await holder.execute("SELECT FROM ledger_0001.progress WHERE log_partition = 1 FOR UPDATE")
            claiming = asyncio.create_task(lanes.claim([0, 1]))
            while query(ledger_database, epoch) == [before]:  # noqa: ASYNC110 - PostgreSQL makes no event.
                await asyncio.sleep(0)
            await lanes.give_up_displaced()
        await claiming
        lanes.hold({0, 1})
        await lanes.give_up_displaced()
    assert lost == []


async def test_commits_under_way_are_no_false_alarm(prepared: Settings) -> None:
    """Looked at again and again while chunks are folded, one record each."""
    lost: list[tuple[int, bool]] = []
    records = [grant(offset, 10, f"g{offset}", "ann", 1) for offset in range(60)]
    async with lanes_of(prepared, lost) as lanes:
        won = (await lanes.claim([0]))[0]
        lanes.hold({0})
        for offset in range(60):
            lanes.queue([Chunk(0, won.epoch, offset, offset + 1, records[offset : offset + 1])])
            await lanes.give_up_displaced()
        await folded_to(lanes, 60)
    assert lost == []


@pytest.mark.parametrize(
    ("is_idle", "is_settled", "at", "expected"),
    [
        (True, True, Stored(1, 7, 100), "right"),
        (True, False, Stored(1, 7, 130), "right"),
        (False, True, Stored(1, 7, 130), "right"),
        (True, True, Stored(1, 7, 130), "set back"),
        (True, True, Stored(1, 7, 99), "set back"),
        (False, True, Stored(1, 7, 99), "set back"),
        (True, False, Stored(1, 7, 99), "set back"),
        (True, True, Stored(1, 6, 100), "set back"),
        (True, True, Stored(1, 8, 99), "set back"),
        (True, True, Stored(2, 9, 100), "set back"),
        (True, True, None, "set back"),
        (True, True, Stored(1, 8, 100), "fenced"),
    ],
)
def test_what_contradicts_a_lane(is_idle: bool, is_settled: bool, at: Stored | None, expected: str) -> None:
    """Rows that can't have come of what a lane left at offset 100; a commit under way may be ahead of what it knows."""
    left = CommittedState(Claim(0, 7, 1), 100, is_idle)
    assert left.contradicts(at, is_settled=is_settled) is (expected != "right")
    assert left.is_fenced(at) is (expected == "fenced")


async def test_what_is_remembered_is_not_believed_where_commits_were_lost(
    prepared: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk takes several transactions, and the first of them is lost while the second is folded."""
    monkeypatch.setattr("creditfold.processors.fold.transaction.MOST_MADE", 0)
    records = [grant(offset, 10, f"g{offset}", "ann", 1) for offset in range(4)]
    with copy_of(prepared) as copy:
        async with lanes_of(prepared) as lanes:
            won = (await lanes.claim([0]))[0]
            copy.take()

            class SetBack(AccountCache):
                def trim(self) -> None:
                    if self.progress is not None and self.progress.next_offset == 2:
                        copy.put_back()

            cache = SetBack()
            cache.store = None  # Python's way, which alone is cut at MOST_MADE.
            with pytest.raises(SetBackError):
                await lanes.folder.fold(Chunk(0, won.epoch, 0, 4, records), won, cache)
            assert journal(prepared) == []
            assert await lanes.folder.fold(Chunk(0, won.epoch, 0, 4, records), won) == 4
    assert query(prepared, "SELECT available, version FROM ledger.balances") == [(4, 4)]


@pytest.mark.parametrize("ahead_us", [0, 10**15], ids=["clock", "clock-behind"])
async def test_no_epoch_is_given_twice(prepared: Settings, ahead_us: int) -> None:
    """Where the row is set back to before a claim, the next claim is another than that one, and fences it."""
    query(prepared, "UPDATE ledger_0001.progress SET epoch = epoch + %s RETURNING 1", (ahead_us,))
    (before,) = query(prepared, "SELECT epoch, next_offset FROM ledger_0001.progress")
    async with lanes_of(prepared) as zombie, fold_pool(prepared.dsn, "test", 2) as pool:
        old = (await zombie.claim([0]))[0]
        query(prepared, "UPDATE ledger_0001.progress SET epoch = %s, next_offset = %s RETURNING 1", before)
        new = await claim(pool, 0, "new")
        assert new.epoch != old.epoch
        assert min(old.epoch, new.epoch) > before[0]
        # Numbers that a client in JavaScript holds, too.
        assert max(old.epoch, new.epoch) < 2**53
        with pytest.raises(FencedError):
            await zombie.folder.fold(Chunk(0, old.epoch, 0, 4, RECORDS), old)
    assert journal(prepared) == []


async def test_a_line_that_the_journal_has_is_refused(prepared: Settings) -> None:
    """If a fold went on from less than there is, by a defect, it would stop instead of going on wrongly."""
    async with lanes_of(prepared) as lanes:
        won = (await lanes.claim([0]))[0]
        await lanes.folder.fold(Chunk(0, won.epoch, 0, 2, RECORDS[:2]), won)
    async with connection_to(prepared) as connection, fold_pool(prepared.dsn, "test", 1) as pool:
        won = await claim(pool, 0, "test")
        stale = fold(read_records([grant(2, 50, "9", "ann", 1)], 0, 1), CreditBook(), 3)
        with pytest.raises(psycopg.errors.UniqueViolation, match="journal_pkey"):
            await write_alone(connection, won, stale)
    assert query(prepared, "SELECT available, version FROM ledger.balances") == [(5, 2)]
    assert query(prepared, "SELECT count(*) FROM ledger.journal") == [(2,)]


async def write_alone(connection: AsyncConnection[TupleRow], won: Claim, result: ChunkResult) -> None:
    """Write what a chunk is said to have come to, in a transaction of its own."""
    async with connection.transaction():
        transaction = ChunkTransaction(connection, 0, won)
        progress = await transaction.lock()
        await transaction.write(make_draft(0, progress, result, range(len(result.journal))))


def test_preparing_again_changes_nothing_and_another_log_is_refused(prepared: Settings) -> None:
    """A topic deleted and made anew has another id; its records must not be folded into the old state."""
    assert not prepare(prepared.dsn, LOG)
    for other in (LOG._replace(topic_id="new"), LOG._replace(partitions=2), LOG._replace(topic="t")):
        with pytest.raises(LogChangedError, match="Folding on would give wrong balances"):
            prepare(prepared.dsn, other)


def test_no_index_can_lose_rows(prepared: Settings) -> None:
    """Each is a B-tree: a BRIN index of minmax_multi lost rows that were written while it was summarised."""
    methods = query(
        prepared,
        """SELECT DISTINCT amname FROM pg_class JOIN pg_am ON pg_am.oid = relam
           WHERE relkind = 'i' AND relnamespace::regnamespace::text LIKE 'ledger%%'""",
    )
    assert methods == [("btree",)]


def test_a_server_too_old_for_the_statements_is_refused(prepared: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both versions, and where the embedded server is looked for by the same bound."""
    assert OLDEST_SERVER == OLDEST_MAJOR * 10_000
    monkeypatch.setattr("creditfold.projections.tables.setup.OLDEST_SERVER", 990_000)
    with pytest.raises(CreditfoldError, match=r"The server is PostgreSQL \d\d; 99 or later is needed"):
        prepare(prepared.dsn, LOG)


def test_a_database_of_another_encoding_is_refused(ledger_settings: Settings) -> None:
    """It could not hold every account's name, and the fold would stop at the first that it can't."""
    name = ledger_settings.group + "_latin"
    query_only = psycopg.connect(ledger_settings.dsn, autocommit=True)
    query_only.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")  # type: ignore[arg-type]
    try:
        with pytest.raises(CreditfoldError, match="encoding is LATIN1"):
            prepare(make_conninfo(ledger_settings.dsn, dbname=name), LOG)
    finally:
        query_only.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]
        query_only.close()


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (psycopg.OperationalError("no answer"), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg.errors.LockNotAvailable(), True),
        (psycopg.errors.ReadOnlySqlTransaction(), True),
        (psycopg.errors.TooManyConnections(), True),
        (psycopg.errors.DeadlockDetected(), True),
        (PoolTimeout(), True),
        (psycopg.errors.ProgramLimitExceeded(), False),
        (psycopg.errors.UniqueViolation(), False),
        (ValueError(), False),
    ],
)
def test_outages_are_distinguished_from_defects(error: Exception, passes: bool) -> None:
    """A defect that calls itself an outage would be waited for in peace, for ever."""
    assert is_outage(error) is passes
    assert not is_full(error)


def test_a_full_disk_is_an_outage_that_does_not_pass_by_itself() -> None:
    """So a worker that waits for room is shown as failing, and one that waits for a restart as waiting."""
    error = psycopg.errors.DiskFull()
    assert is_outage(error)
    assert is_full(error)


async def test_many_prepare_at_once(ledger_database: Settings) -> None:
    """Workers that start together don't trip over each other."""
    made = await asyncio.gather(*(asyncio.to_thread(prepare, ledger_database.dsn, LOG) for _ in range(6)))
    assert sorted(made) == [False] * 5 + [True]


def test_errors_of_connections_say_what_to_do(ledger_database: Settings) -> None:
    """No tables, no server, no such role, a connection string that isn't one."""
    with pytest.raises(NotPreparedError, match="creditfold init"), connected(ledger_database.dsn) as connection:
        balances(connection, "ann")
    for dsn in ("postgresql://127.0.0.1:1/none", "nonsense", "postgresql://127.0.0.1:1/x?connect_timeout=soon"):
        with pytest.raises(PostgresUnavailableError, match="CREDITFOLD_POSTGRES_DSN"), connected(dsn):
            pass


def test_waiting_for_a_position_is_bounded(prepared: Settings) -> None:
    """Nobody folds here."""
    with connected(prepared.dsn) as connection:
        with pytest.raises(NotYetFoldedError, match=r"not reached 0:0 within 0.05 s"):
            wait_for(connection, Position(0, 0), 0.05)
        with pytest.raises(NotYetFoldedError, match="no partition 9"):
            wait_for(connection, Position(9, 0), 0.05)
