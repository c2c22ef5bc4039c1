"""The generations of the projection: what there is, how far it is, and the switch from one to the other.

Owns the catalog and the SQL of the switch. Refuses to fold: what a generation lacks is brought by its caller.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple

from psycopg import AsyncConnection, Connection, Error, sql
from psycopg.errors import (
    IdleInTransactionSessionTimeout,
    InvalidSchemaName,
    LockNotAvailable,
    UndefinedTable,
    UniqueViolation,
)
from psycopg.rows import TupleRow, dict_row
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random
from tenacity.stop import StopBaseT

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log
from creditfold.log.bookmark import Bookmark, LastRecord
from creditfold.projections.connections import pinned
from creditfold.projections.queries.dead_letters import carry_discards
from creditfold.projections.store.chain import START, Line, extend
from creditfold.projections.store.statements import LOOKS, statements
from creditfold.projections.tables.setup import (
    KEY_OF_IDS,
    VIEWS,
    index_statements,
    key_statement,
    live,
    schema_of,
    script,
    source_of,
    write_view,
)

# Class of the session locks that keep two folds from one generation; the key is its number.
_LOCKS = 0x6366_6F6C

# Numbers begin at 1: this key keeps the views to one who changes them.
_VIEWS_KEY = 0

# Shared by all who compare with a generation made for that alone, as long as they do.
_SCRATCH_KEY = -1

#: Purposes of generations that are dropped by the process that made them. `KEPT` is one of these that it was to leave.
SCRATCH = ("verify", "diff")
KEPT = "kept"

#: Longest wait for a transaction of a worker, during which the fold stands still, in ms.
HALT_LOCK_MS = 2_000

_WHO_READS = "See pg_stat_activity for a session that is idle in a transaction, end it, and try again."

#: How long the session that holds the fold still may be silent, in ms: it folds and compares in moments.
HALT_IDLE_MS = 30_000

#: Longest wait for readers of one view, in ms; those who come later wait behind us so long.
VIEW_LOCK_MS = 2_000

#: How long to try for one view, in s.
VIEW_S = 20


class GenerationError(CreditfoldError):
    """A generation that can't be used for what was asked."""


class NoGenerationError(GenerationError):
    """There is no generation of that number."""

    exit_code = 2


class SwitchBlockedError(GenerationError):
    """Somebody holds what the switch needs; nothing was switched."""


def while_blocked(stop: StopBaseT) -> Retrying:
    """Try again while somebody holds what a switch needs."""
    return Retrying(
        stop=stop, wait=wait_random(0.05, 0.5), retry=retry_if_exception_type(SwitchBlockedError), reraise=True
    )


class Generation(NamedTuple):
    """One generation. `next_offsets` and `chains` are by partition; `digest` is one text for all of them.

    `until_ms` and `until_offsets` say where its fold ends, if not at the log's end; `forced_rules` which version of the
    rules decided everything in it, if the log didn't say. Sizes are in bytes, on disk, indexes included.
    """

    number: int
    state: str
    purpose: str
    layout: int
    forced_rules: int | None
    until_ms: int | None
    until_offsets: Mapping[int, int] | None
    made_at: datetime
    ready_at: datetime | None
    activated_at: datetime | None
    retired_at: datetime | None
    note: str
    log: Log
    records: int
    next_offsets: Mapping[int, int]
    digest: str
    size_bytes: int

    @property
    def is_partial(self) -> bool:
        """Whether it is for looking at only: it ends somewhere, or was decided by other rules than the log's."""
        return self.until_ms is not None or self.until_offsets is not None or self.forced_rules is not None


def generations(connection: Connection[TupleRow], number: int | None = None) -> list[Generation]:
    """Every generation, oldest first, or the one of a number alone."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_CATALOG, {"number": number}).fetchall()
    found = (_generation(connection, row) for row in rows)
    return [row for row in found if row is not None]


def generation(connection: Connection[TupleRow], number: int) -> Generation:
    """One generation. Raises NoGenerationError."""
    found = generations(connection, number)
    if not found:
        raise NoGenerationError(f"There is no generation {number}.", "See `creditfold generations`.")
    return found[0]


def bookmarks(connection: Connection[TupleRow], number: int) -> dict[int, Bookmark]:
    """Where a generation's fold of each partition stopped reading the log."""
    query = "SELECT log_partition, next_offset, clock_ms, last_offset, last_digest FROM {}"
    rows = connection.execute(sql.SQL(query).format(sql.Identifier(schema_of(number), "progress"))).fetchall()
    return {partition: Bookmark(at, LastRecord(*last), clock_ms) for partition, at, clock_ms, *last in rows}


def live_number(connection: Connection[TupleRow]) -> int:
    """Number of the live generation. Raises NoGenerationError before `creditfold init`."""
    found = live(connection)
    if found is None:
        raise NoGenerationError("No generation is live.", "Run `creditfold init`.")
    return found[0]


_CATALOG = """
    SELECT number, state, purpose, layout, forced_rules, until_ms, until_offsets, made_at, ready_at, activated_at,
           retired_at, note
    FROM ledger.generations WHERE %(number)s::integer IS NULL OR number = %(number)s ORDER BY number
"""


def _generation(connection: Connection[TupleRow], row: dict[str, Any]) -> Generation | None:
    """One generation with what its tables say; None for one that was dropped since."""
    try:
        return _with_tables(connection, row)
    except (UndefinedTable, InvalidSchemaName):
        return None


def _with_tables(connection: Connection[TupleRow], row: dict[str, Any]) -> Generation:
    schema, until = schema_of(row["number"]), row.pop("until_offsets")
    progress = connection.execute(
        sql.SQL(
            """SELECT log_partition, next_offset, chain,
                      accepted + rejected + duplicates + dead_letters + activations + ticks
               FROM {} ORDER BY log_partition"""
        ).format(sql.Identifier(schema, "progress"))
    ).fetchall()
    size = connection.execute(
        "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relnamespace = to_regnamespace(%s)"
        " AND relkind = 'r'",
        (schema,),
    ).fetchone()
    return Generation(
        **row,
        until_offsets=None if until is None else {int(partition): offset for partition, offset in until.items()},
        log=source_of(connection, row["number"]),
        records=sum(line[3] for line in progress),
        next_offsets={line[0]: line[1] for line in progress},
        digest=_digest([(line[0], line[1], bytes(line[2]).hex()) for line in progress]),
        size_bytes=int(size[0]) if size else 0,
    )


def _digest(rows: list[tuple[int, int, str]]) -> str:
    """One short text for where all partitions stand and what they came to."""
    return blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()


@contextmanager
def held(connection: Connection[TupleRow], number: int) -> Iterator[None]:
    """Hold a generation against other folds of it while the block runs. Raises GenerationError if one runs."""
    busy = GenerationError(
        f"Generation {number} is being folded by somebody else.", "Wait for it, or stop it; it can be resumed."
    )
    with _locked(connection, number, busy):
        yield


@contextmanager
def _locked(connection: Connection[TupleRow], key: int, busy: GenerationError) -> Iterator[None]:
    if connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (_LOCKS, key)).fetchone() != (True,):
        raise busy
    try:
        yield
    finally:
        # Who was interrupted in the middle of a question can't ask another one, nor who lost PostgreSQL. Either session
        # ends, which gives the lock back too, and what ended the block is what is to be told.
        with suppress(Error):
            if not connection.closed:
                connection.execute("SELECT pg_advisory_unlock(%s, %s)", (_LOCKS, key))


def hold_scratch(connection: Connection[TupleRow]) -> None:
    """Hold all scratch generations against being taken for leftovers, until the connection is closed."""
    connection.execute("SELECT pg_advisory_lock_shared(%s, %s)", (_LOCKS, _SCRATCH_KEY))


def drop_leftovers(connection: Connection[TupleRow]) -> list[int]:
    """Drop the scratch generations of processes that were killed, and give back their numbers.

    Drops nothing while another process uses one: which is whose can't be seen.
    """
    key = (_LOCKS, _SCRATCH_KEY)
    if connection.execute("SELECT pg_try_advisory_lock(%s, %s)", key).fetchone() != (True,):
        return []
    try:
        dropped = _scratch_numbers(connection)
        for number in dropped:
            drop(connection, number)
        return dropped
    finally:
        with suppress(Error):
            connection.execute("SELECT pg_advisory_unlock(%s, %s)", key)


def leftovers(connection: Connection[TupleRow]) -> list[int]:
    """Numbers of scratch generations that nobody uses any more: their process was killed."""
    row = connection.execute(
        """SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = %s
           AND objid::bigint = %s AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))""",
        (_LOCKS, _SCRATCH_KEY & 0xFFFF_FFFF),
    ).fetchone()
    return [] if row == (True,) else _scratch_numbers(connection)


def _scratch_numbers(connection: Connection[TupleRow]) -> list[int]:
    rows = connection.execute(
        "SELECT number FROM ledger.generations WHERE purpose = ANY(%s) AND state <> 'live' ORDER BY number",
        (list(SCRATCH),),
    ).fetchall()
    return [row[0] for row in rows]


def is_indexed(connection: Connection[TupleRow], number: int) -> bool:
    """Whether the journal has all its indexes, which a bulk fold leaves out."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%s) AND contype = 'p')",
        (f"{schema_of(number)}.journal",),
    ).fetchone()
    return row == (True,)


async def index_ids(connection: AsyncConnection[TupleRow], number: int) -> None:
    """Make the journal's index of command ids, for a bulk fold that has to look one up; waits for those who write.

    Does nothing where it is there. The connection is in no transaction.
    """
    schema = schema_of(number)
    async with connection.transaction():
        await connection.execute(_PREPARE, (1, f"{schema}.journal"))
        # Two would make the same at once, and the second fail.
        lock = sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE")
        await connection.execute(lock.format(sql.Identifier(schema, "source")))
        there = await connection.execute(statements(number).finds_ids)
        if await there.fetchone() != (True,):
            await connection.execute(index_statements(schema)[KEY_OF_IDS])


def finish(connection: Connection[TupleRow], number: int, dsn: str, processes: int) -> None:
    """Make the indexes that a bulk fold left out, and call the generation ready.

    By so many processes of the server: with two or more, two indexes are made beside each other.
    """
    schema, is_whole = schema_of(number), is_indexed(connection, number)
    missing = [] if is_whole else index_statements(schema)
    ours, theirs = missing[0::2], [*missing[1::2], _look_at(schema, "balances")]
    try:
        if processes > 1:
            _beside(connection, dsn, schema, (ours, theirs), processes // 2)
        else:
            with connection.transaction():
                _make(connection, schema, [*ours, *theirs])
    except UniqueViolation as error:
        raise GenerationError(
            f"Generation {number} has decided a command twice: {str(error).strip().splitlines()[-1]}",
            "That is a defect. The live generation is as it was; free this one with `creditfold drop`.",
        ) from error
    with connection.transaction():
        if not is_whole:
            connection.execute(key_statement(schema))
        connection.execute(
            """UPDATE ledger.generations SET state = 'ready', ready_at = clock_timestamp()
               WHERE number = %s AND state = 'building'""",
            (number,),
        )
    with connection.transaction():
        _make(connection, schema, [_look_at(schema, "journal")])


def _look_at(schema: str, table: str) -> sql.Composed:
    """What has PostgreSQL look at a table, for its plans."""
    return sql.SQL("ANALYZE {}").format(sql.Identifier(schema, table))


def _beside(
    connection: Connection[TupleRow],
    dsn: str,
    schema: str,
    works: tuple[Sequence[sql.Composed], Sequence[sql.Composed]],
    processes: int,
) -> None:
    """Run some statements on this session, and others on one of its own at the same time, each by so many processes."""
    ours, theirs = works
    with pinned(dsn, "creditfold rebuild") as other, ThreadPoolExecutor(1) as beside:

        def run_theirs() -> None:
            with other.transaction():
                _make(other, schema, theirs, processes)

        running = beside.submit(run_theirs)
        try:
            with connection.transaction():
                _make(connection, schema, ours, processes)
            running.result()
        except BaseException:
            other.cancel_safe()
            raise


def _make(connection: Connection[TupleRow], schema: str, work: Sequence[sql.Composed], processes: int = 1) -> None:
    connection.execute(_PREPARE, (processes, f"{schema}.journal"))
    for statement in work:
        connection.execute(statement)


# For a transaction that makes indexes, or looks at a table: at less of it than PostgreSQL does itself a minute later.
# Sorted in memory, by so many processes: more than there are processors get in each other's way, and the server doesn't
# know how many those are. Ended with its client, without whom it would go on and hold its locks. Where the generation's
# tables are, with what is sorted for it: not on the disk of the live one.
_PREPARE = """
    SELECT set_config('maintenance_work_mem', '128MB', true),
           set_config('max_parallel_maintenance_workers', (%s - 1)::text, true),
           set_config('client_connection_check_interval', '1s', true),
           set_config('default_statistics_target', '20', true),
           set_config('default_tablespace', coalesce(spcname, current_setting('default_tablespace')), true),
           set_config('temp_tablespaces', coalesce(quote_ident(spcname), current_setting('temp_tablespaces')), true)
    FROM pg_class c LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE c.oid = to_regclass(%s)
"""


def drop(connection: Connection[TupleRow], number: int) -> None:
    """Remove a generation and its tables. Raises GenerationError for the live one and for one that is being folded."""
    with held(connection, number), _views_held(connection):
        _refuse_seen(_settle_views(connection))
        _drop(connection, number)


def _refuse_seen(views: Sequence[str]) -> None:
    if views:
        raise SwitchBlockedError(
            f"Readers hold on to the view {views[0]} since generations were switched; nothing was dropped.", _WHO_READS
        )


def _drop(connection: Connection[TupleRow], number: int) -> None:
    with connection.transaction():
        row = connection.execute(
            "SELECT state FROM ledger.generations WHERE number = %s FOR UPDATE", (number,)
        ).fetchone()
        if row is None:
            raise NoGenerationError(f"There is no generation {number}.", "See `creditfold generations`.")
        if row[0] == "live":
            raise GenerationError(
                f"Generation {number} is live: readers see it.",
                "Activate another one first: creditfold activate NUMBER",
            )
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema_of(number))))
        connection.execute("DELETE FROM ledger.generations WHERE number = %s", (number,))


class Halt(NamedTuple):
    """The live fold held still: which generation it is, and the next offset of each partition."""

    number: int
    next_offsets: Mapping[int, int]


@contextmanager
def halted(connection: Connection[TupleRow]) -> Iterator[Halt]:
    """Hold the live fold still, and every claim, while the block runs; commit what the block did, or nothing of it.

    Readers go on. Raises SwitchBlockedError if a worker doesn't let go in time.
    """
    try:
        with connection.transaction():
            _wait_at_most(connection, HALT_LOCK_MS)
            # Should this process be frozen or its machine be gone, the fold doesn't stand still for ever.
            connection.execute(
                sql.SQL("SET LOCAL idle_in_transaction_session_timeout = {}").format(sql.Literal(HALT_IDLE_MS))
            )
            number = _locked_live(connection)
            progress = sql.Identifier(schema_of(number), "progress")
            offsets = connection.execute(
                sql.SQL("SELECT log_partition, next_offset FROM {} ORDER BY log_partition FOR UPDATE").format(progress)
            ).fetchall()
            yield Halt(number, dict(offsets))
    except IdleInTransactionSessionTimeout as error:
        raise SwitchBlockedError(
            "This process was silent for too long while the fold stood still; nothing was switched.", "Do it again."
        ) from error
    except LockNotAvailable as error:
        raise _held_by(connection) from error


# Who began to write in the live generation, or to claim in it, before this waited.
_HOLDERS = """
    SELECT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.relation IN ('ledger.generations'::regclass, to_regclass(%s)) AND l.granted AND a.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.mode IN ('RowShareLock', 'RowExclusiveLock')
      AND a.xact_start < clock_timestamp() - make_interval(secs => %s)
    GROUP BY 1, 2 ORDER BY 1
"""


def _held_by(connection: Connection[TupleRow]) -> SwitchBlockedError:
    """Name the sessions that the fold couldn't be halted for. One that is frozen in a COPY doesn't look idle."""
    progress = f"{schema_of(live_number(connection))}.progress"
    rows = connection.execute(_HOLDERS, (progress, HALT_LOCK_MS / 1000)).fetchall()
    if not rows:
        return SwitchBlockedError("A worker holds on to the live generation; nothing was switched.", _WHO_READS)
    who = ", ".join(f"{pid} ({name})" for pid, name in rows)
    end = ", ".join(f"pg_terminate_backend({pid})" for pid, _ in rows)
    return SwitchBlockedError(
        f"These sessions hold on to the live generation: {who}; nothing was switched.",
        f"If their worker hangs: SELECT {end}; what it had under way is folded again. Then try again.",
    )


def _locked_live(connection: Connection[TupleRow]) -> int:
    # As for a claim: another switch that this waited for leaves it no row.
    for _ in range(LOOKS):
        row = connection.execute("SELECT number FROM ledger.generations WHERE state = 'live' FOR UPDATE").fetchone()
        if row is not None:
            return int(row[0])
    raise NoGenerationError("No generation is live.", "Run `creditfold init`.")


def _wait_at_most(connection: Connection[TupleRow], lock_ms: int) -> None:
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(lock_ms)))


def switch(connection: Connection[TupleRow], old: int, new: int, note: str) -> None:
    """Make another generation the live one. The live fold must be halted, and the views look through both.

    Takes effect when the halt ends. Whoever folds the old one is fenced and claims in the new one.
    """
    old_progress, new_progress = (sql.Identifier(schema_of(number), "progress") for number in (old, new))
    # Epochs go up over generations, so that no claim in the one can be taken for one in the other.
    connection.execute(
        sql.SQL(
            """UPDATE {new} n SET epoch = greatest(n.epoch, o.epoch) + 1, owner = '' FROM {old} o
               WHERE o.log_partition = n.log_partition"""
        ).format(new=new_progress, old=old_progress)
    )
    connection.execute(sql.SQL("UPDATE {} SET epoch = epoch + 1, owner = ''").format(old_progress))
    carry_discards(connection, old, new)
    connection.execute(
        "UPDATE ledger.generations SET state = 'retired', retired_at = clock_timestamp() WHERE number = %s", (old,)
    )
    connection.execute(
        "UPDATE ledger.generations SET state = 'live', activated_at = clock_timestamp(), note = %s WHERE number = %s",
        (note, new),
    )


@contextmanager
def looked_through(connection: Connection[TupleRow], number: int) -> Iterator[None]:
    """Let readers see, while the block runs, whichever of the live generation and this one is live.

    So the switch is one row's change, for which no reader has to be waited for. Each view is changed in a transaction
    of its own: readers take views in any order, and whoever holds one while waiting for the next stands against them.

    Raises SwitchBlockedError if a reader doesn't let go of a view, or if the views are being changed by another.
    """
    with _views_held(connection):
        try:
            for name in VIEWS:
                _WHILE_READ(_point, connection, name, live_number(connection), number)
            yield
        finally:
            if not connection.closed:
                _settle_views(connection)


@contextmanager
def _views_held(connection: Connection[TupleRow]) -> Iterator[None]:
    busy = SwitchBlockedError("Somebody else switches generations, or drops one.", "Try again when they are done.")
    with _locked(connection, _VIEWS_KEY, busy):
        yield


def _settle_views(connection: Connection[TupleRow]) -> list[str]:
    """Point the views that look at two generations at the live one alone; give those that are being read.

    Those show the right rows all the same, if by a longer way, until somebody comes to settle them.
    """
    for name in _unsettled(connection):
        with suppress(SwitchBlockedError):
            _point(connection, name, live_number(connection))
    return _unsettled(connection)


def _unsettled(connection: Connection[TupleRow]) -> list[str]:
    rows = connection.execute(
        """SELECT DISTINCT v.relname
           FROM pg_depend d JOIN pg_rewrite r ON d.objid = r.oid JOIN pg_class v ON v.oid = r.ev_class
           WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = 'ledger.generations'::regclass
             AND v.relname = ANY(%s) AND v.relnamespace = 'ledger'::regnamespace""",
        (list(VIEWS),),
    )
    return [row[0] for row in rows]


def _point(connection: Connection[TupleRow], name: str, *numbers: int) -> None:
    try:
        with connection.transaction():
            _wait_at_most(connection, VIEW_LOCK_MS)
            write_view(connection, name, *numbers)
    except LockNotAvailable as error:
        raise SwitchBlockedError(
            f"A reader holds on to the view ledger.{name}; nothing was switched.",
            _WHO_READS,
        ) from error


# Between two transactions of a busy reader there is room. One that stays is told of.
_WHILE_READ = while_blocked(stop_after_delay(VIEW_S))


def lines(connection: Connection[TupleRow], number: int, partition: int, start: int, end: int) -> Iterator[Line]:
    """The lines of a partition's outcomes from one offset to before another, in order, computed from the rows."""
    text = script("proof/lines.sql", schema=schema_of(number), partition=partition, start=start, end=end)
    with connection.cursor() as cursor, cursor.copy(text) as copy:
        for row in copy:
            offset, _, line = bytes(row).partition(b"\t")
            yield int(offset), line.removesuffix(b"\n")


def chain_at(connection: Connection[TupleRow], number: int, partition: int, offset: int) -> bytes:
    """The chain over everything before an offset that the generation has folded.

    The one that is kept, if that is where it stands; else from the last checkpoint before it on, so that the rows of at
    most some ten thousand offsets are read.
    """
    progress, checkpoints = (sql.Identifier(schema_of(number), table) for table in ("progress", "checkpoints"))
    row = connection.execute(
        sql.SQL(
            """SELECT next_offset, chain FROM {} WHERE log_partition = %(partition)s AND next_offset = %(offset)s
               UNION ALL
               (SELECT next_offset, chain FROM {} WHERE log_partition = %(partition)s AND next_offset <= %(offset)s
                ORDER BY next_offset DESC LIMIT 1)
               ORDER BY next_offset DESC LIMIT 1"""
        ).format(progress, checkpoints),
        {"partition": partition, "offset": offset},
    ).fetchone()
    start, chain = (row[0], bytes(row[1])) if row else (0, START)
    if start == offset:
        return chain
    with connection.transaction():
        # A few rows of a journal of any size: by the index on their place, whatever the planner believes of it.
        connection.execute("SET LOCAL enable_seqscan = off")
        found, _ = extend(chain, start, offset, lines(connection, number, partition, start, offset))
        connection.execute("SET LOCAL enable_seqscan = on")
    return found
