"""The one place that opens PostgreSQL connections, and what their failures mean. Knows no SQL of the projection."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, LiteralString, NoReturn, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection, sql
from psycopg.abc import Params
from psycopg.errors import DiskFull, InsufficientPrivilege, InvalidSchemaName, UndefinedTable
from psycopg.rows import TupleRow, class_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from creditfold.schemas.errors import CreditfoldError

Row = TypeVar("Row")
Statement: TypeAlias = LiteralString | sql.SQL | sql.Composed

CONNECT_TIMEOUT_S = 5
#: A dead peer is noticed after about this long, and not after the kernel's two hours.
KEEPALIVE: dict[str, Any] = {"keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}

#: What every session of ours says of itself.
SESSION: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S, "client_encoding": "utf8", **KEEPALIVE}

# The fold looks up a few thousand keys in tables of any size, always by index. Right after a bulk load the planner
# still believes the tables to be tiny and would read them whole; so it isn't asked.
#
# Nobody waits for a lock so long that it can't be stopped.
# Its statements are planned once: a plan for just these values would be the same, and cost as much as a small chunk.
FOLD_OPTIONS = (
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off -c lock_timeout=10s"
    " -c plan_cache_mode=force_generic_plan"
    " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)

# A crash of PostgreSQL may take back a rebuild's last transactions, rows and offset together: they are folded again.
# One of its processes may make an index of a journal of any length, which the others have to wait for.
REBUILD_OPTIONS = f"{FOLD_OPTIONS} -c synchronous_commit=off -c lock_timeout=0"

# The publisher reads a few thousand rows by their positions in a journal of any size, and writes nothing. What it reads
# in one transaction is of one instant, whatever happens to the views.
OUTBOX_OPTIONS = (
    "-c enable_seqscan=off -c max_parallel_workers_per_gather=0 -c jit=off -c lock_timeout=10s"
    " -c default_transaction_read_only=on -c default_transaction_isolation=repeatable\\ read"
)


class PostgresUnavailableError(CreditfoldError):
    """PostgreSQL can't be reached, or went away. Trying again later can help."""

    away = "PostgreSQL"


class DiskFullError(PostgresUnavailableError):
    """PostgreSQL answers, and has no room left for what was to be written. Nothing of the transaction stays."""

    away = ""


# Classes and codes of SQLSTATE that pass by themselves: connection lost, shut down, out of resources, conflict with
# another transaction, waited too long, standby.
_PASSING = ("08", "57P", "57014", "53", "40", "55P03", "25006")


def is_outage(error: BaseException) -> bool:
    """Tell whether PostgreSQL is away or busy: worth a line in the log and another try, and no defect of ours."""
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return error.sqlstate.startswith(_PASSING)
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout | ConnectionError)


class NotPreparedError(CreditfoldError):
    """The database has no projection yet, or this user may not read it."""


def fold_pool(
    dsn: str, application: str, size: int, options: str = FOLD_OPTIONS
) -> AsyncConnectionPool[AsyncConnection[TupleRow]]:
    """A pool of at most `size` connections in autocommit, not opened yet. Waiting for one raises PoolTimeout."""
    return AsyncConnectionPool(
        dsn,
        kwargs={
            "autocommit": True,
            "application_name": application,
            "options": options,
            # Not a standby, which answers and can't be written.
            "target_session_attrs": "read-write",
            **SESSION,
        },
        min_size=1,
        max_size=size,
        open=False,
        timeout=CONNECT_TIMEOUT_S,
        check=_check_open,
    )


async def _check_open(connection: AsyncConnection[TupleRow]) -> None:
    """Notice that the server has closed a connection, without asking it: that takes as long as a small chunk.

    Raises OperationalError.
    """
    # Its last words first, then the end.
    connection.pgconn.consume_input()
    connection.pgconn.consume_input()


def no_room(error: BaseException) -> DiskFullError | None:
    """What is told of an error by which PostgreSQL says that a disk is full; None for any other."""
    if not isinstance(error, DiskFull):
        return None
    return DiskFullError(f"PostgreSQL has no room left: {str(error).strip().splitlines()[0]}.", "Make room there.")


def outbox_pool(dsn: str, application: str, size: int) -> ConnectionPool[Connection[TupleRow]]:
    """A pool of at most `size` reading connections, each of whose blocks is one transaction; not opened yet."""
    return ConnectionPool(
        dsn,
        kwargs={"application_name": application, "options": OUTBOX_OPTIONS, **SESSION},
        min_size=1,
        max_size=size,
        open=False,
        timeout=CONNECT_TIMEOUT_S,
        check=ConnectionPool.check_connection,
    )


@contextmanager
def connected(dsn: str, application: str = "creditfold") -> Iterator[Connection[TupleRow]]:
    """A connection in autocommit; its failures become errors that a person can act on."""
    try:
        with psycopg.connect(dsn, autocommit=True, application_name=application, **SESSION) as connection:
            yield connection
    except psycopg.Error as error:
        _raise_in_words(error)


@asynccontextmanager
async def connected_async(dsn: str, application: str) -> AsyncIterator[AsyncConnection[TupleRow]]:
    """As `connected`, for an event loop."""
    try:
        connection = await AsyncConnection.connect(dsn, autocommit=True, application_name=application, **SESSION)
        try:
            yield connection
        finally:
            await connection.close()
    except psycopg.Error as error:
        _raise_in_words(error)


def _raise_in_words(error: psycopg.Error) -> NoReturn:
    """Raise what a person can act on, or the error itself where that is a defect of ours."""
    if isinstance(error, InvalidSchemaName | UndefinedTable):
        raise NotPreparedError("The database holds no ledger.", "Run `creditfold init`.") from error
    if isinstance(error, InsufficientPrivilege):
        raise NotPreparedError(
            f"PostgreSQL refused: {error.diag.message_primary}.",
            "To read, grant this user the role creditfold_reader; for all else, connect as the ledger's owner.",
        ) from error
    if isinstance(error, psycopg.OperationalError):
        raise no_room(error) or PostgresUnavailableError(
            f"PostgreSQL doesn't answer: {str(error).strip().splitlines()[0] if str(error).strip() else 'no detail'}.",
            "Start it with `creditfold up`, or set CREDITFOLD_POSTGRES_DSN.",
        ) from error
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        raise PostgresUnavailableError(f"Bad connection string: {error}.", "Set CREDITFOLD_POSTGRES_DSN.") from error
    raise error


def rows_of(connection: Connection[Any], kind: type[Row], query: Statement, values: Params | None = None) -> list[Row]:
    """All rows of a query, each made a tuple or an object of a kind by its columns' names."""
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(query, values).fetchall()
