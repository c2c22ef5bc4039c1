"""The journal's indexes, which a bulk fold leaves out and which are made when its rows are there."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from psycopg import AsyncConnection, Connection, sql
from psycopg.errors import (
    UniqueViolation,
)
from psycopg.rows import TupleRow

from creditfold.projections.connections import pinned
from creditfold.projections.generations.catalog import GenerationError
from creditfold.projections.store.statements import statements
from creditfold.projections.tables.scripts import KEY_OF_IDS, index_statements, key_statement, schema_of


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

    Args:
        connection: pinned, in no transaction.
        number: the generation.
        dsn: for a second session.
        processes: of the server that may work at a time; with two or more, two indexes are made in parallel.
    """
    schema, is_whole = schema_of(number), is_indexed(connection, number)
    missing = [] if is_whole else index_statements(schema)
    ours, theirs = missing[0::2], [*missing[1::2], _analyze(schema, "balances")]
    try:
        if processes > 1:
            _make_in_parallel(connection, dsn, schema, (ours, theirs), processes // 2)
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
        _make(connection, schema, [_analyze(schema, "journal")])


def _analyze(schema: str, table: str) -> sql.Composed:
    """The statement that collects statistics of a table, for PostgreSQL's plans."""
    return sql.SQL("ANALYZE {}").format(sql.Identifier(schema, table))


def _make_in_parallel(
    connection: Connection[TupleRow],
    dsn: str,
    schema: str,
    works: tuple[Sequence[sql.Composed], Sequence[sql.Composed]],
    processes: int,
) -> None:
    """Run some statements on this session, and others on a second one in parallel, by `processes` each."""
    ours, theirs = works
    with pinned(dsn, "creditfold rebuild") as other, ThreadPoolExecutor(1) as executor:

        def run_theirs() -> None:
            with other.transaction():
                _make(other, schema, theirs, processes)

        running = executor.submit(run_theirs)
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


# For a transaction that makes indexes or analyzes a table, at less of it than PostgreSQL itself does a minute later. It
# sorts in memory, with a number of processes that is given, since the server doesn't know how many processors there
# are. It ends with its client, without whom it would go on and hold its locks. Indexes and what is sorted for them go
# where the generation's tables are, and not on the disk of the live one.
_PREPARE = """
    SELECT set_config('maintenance_work_mem', '128MB', true),
           set_config('max_parallel_maintenance_workers', (%s - 1)::text, true),
           set_config('client_connection_check_interval', '1s', true),
           set_config('default_statistics_target', '20', true),
           set_config('default_tablespace', coalesce(spcname, current_setting('default_tablespace')), true),
           set_config('temp_tablespaces', coalesce(quote_ident(spcname), current_setting('temp_tablespaces')), true)
    FROM pg_class c LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE c.oid = to_regclass(%s)
"""
