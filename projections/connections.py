"""The one place that opens PostgreSQL connections. Knows no SQL of the projection; failures.py has what failures mean.

There are two kinds of sessions. Readers' (`connected`) depend on nothing that a session has: each statement may run in
another one, as PgBouncer does it in transaction mode; where none stands between, those that are kept prepare what is
asked over and over. All others (`pinned` and the pools) set what they rely on
(sessions.py) when they are opened, and need a session of their own for as long as they are open.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor, IsolationLevel, sql
from psycopg.abc import Buffer, Params
from psycopg.adapt import Loader
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import TupleRow, class_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from creditfold.common.errors import CreditfoldError
from creditfold.projections.failures import PoolerError, PostgresUnavailableError, explained, timeout_of, why
from creditfold.projections.sessions import DELIVERY, FOLD, HEARTBEAT, OUTBOX, PINNED, bound_of, pin

__all__ = ["PostgresUnavailableError", "connected", "connected_async", "snapshot"]

Row = TypeVar("Row")
Statement: TypeAlias = LiteralString | sql.SQL | sql.Composed

CONNECT_TIMEOUT_S = 5
#: Seconds after which a pool begins anew to connect; by itself it would pause the longer the longer a server was away.
RECONNECT_S = 2.0
#: A dead peer is noticed after about this long, and not after the kernel's two hours.
KEEPALIVE: dict[str, Any] = {"keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}

#: Of a kept reader without a pooler: it prepares those statements alone that ask for it.
PREPARE_NAMED = 2**31

#: Milliseconds after which a connection ends whose peer confirms nothing of what was sent: keepalives are for silence.
UNCONFIRMED_MS = 12_000
#: Milliseconds for a statement of readers of a pool; whoever asked has given it up by then (api/service.py).
READ_MS = 60_000

#: Bytes that a fold's connection takes at once over a Unix socket, as far as the system lets it: a chunk's lines. By
#: default it takes a tenth of them, and PostgreSQL has nothing to do while the worker folds the next chunk.
SEND_BYTES = 2**22

#: What every session of ours says of itself.
SESSION: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "client_encoding": "utf8",
    "tcp_user_timeout": UNCONFIRMED_MS,
    **KEEPALIVE,
}


class _RememberingPool(AsyncConnectionPool[AsyncConnection[TupleRow]]):
    """A pool whose time-outs say what kept it from connecting."""

    trouble: list[BaseException]

    async def getconn(self, timeout: float | None = None) -> AsyncConnection[TupleRow]:  # noqa: ASYNC109 - As the pool has it.
        try:
            return await super().getconn(timeout)
        except PoolTimeout as error:
            _blame(error, self.trouble)
            raise


class _RememberingReaders(ConnectionPool[Connection[TupleRow]]):
    """A pool for the publisher, which waits in threads; its time-outs say what kept it from connecting."""

    trouble: list[BaseException]

    def getconn(self, timeout: float | None = None) -> Connection[TupleRow]:
        try:
            return super().getconn(timeout)
        except PoolTimeout as error:
            _blame(error, self.trouble)
            raise


def _blame(error: PoolTimeout, trouble: list[BaseException]) -> None:
    """Make what kept a pool from connecting the cause of its time-out."""
    if trouble:
        error.args = (why(trouble[0]),)
        error.__cause__ = trouble[0]


@contextmanager
def _remembered(trouble: list[BaseException]) -> Iterator[None]:
    """Keep what keeps a pool from connecting, until it connects."""
    try:
        yield
    except psycopg.Error as error:
        trouble[:] = [error]
        raise
    trouble.clear()


def fold_pool(
    dsn: str, application: str, size: int, settings: Mapping[str, str] = FOLD
) -> AsyncConnectionPool[AsyncConnection[TupleRow]]:
    """A pool of at most `size` connections in autocommit, not opened yet. Waiting for one raises PoolTimeout."""
    trouble: list[BaseException] = []

    class Opened(AsyncConnection[TupleRow]):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> Any:
            with _remembered(trouble):
                connection = await super().connect(*args, **kwargs)
                try:
                    _give_room(connection)
                    await connection.execute(pin(settings, connection.info.server_version))
                except BaseException:
                    await connection.close()
                    raise
                return connection

    pool = _RememberingPool(
        dsn,
        connection_class=Opened,
        kwargs={
            "autocommit": True,
            "application_name": application,
            # Not a standby, which answers and can't be written.
            "target_session_attrs": "read-write",
            **SESSION,
        },
        min_size=1,
        max_size=size,
        open=False,
        timeout=CONNECT_TIMEOUT_S,
        reconnect_timeout=RECONNECT_S,
        check=_check_open,
    )
    pool.trouble = trouble
    return pool


def _give_room(connection: AsyncConnection[TupleRow]) -> None:
    """Have a connection's socket take SEND_BYTES at once. One of TCP is left alone, whose room grows by itself."""
    with socket.socket(fileno=os.dup(connection.pgconn.socket)) as its:
        if its.family == getattr(socket, "AF_UNIX", None):
            with suppress(OSError):
                its.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)


async def _check_open(connection: AsyncConnection[TupleRow]) -> None:
    """Notice that the server has closed a connection, without asking it: that takes as long as a small chunk.

    Raises OperationalError.
    """
    # Its last words first, then the end.
    connection.pgconn.consume_input()
    connection.pgconn.consume_input()


def outbox_pool(dsn: str, application: str, size: int) -> ConnectionPool[Connection[TupleRow]]:
    """A pool of at most `size` reading connections, each of whose blocks is one transaction; not opened yet."""

    def begin(connection: Connection[TupleRow]) -> None:
        connection.execute(pin(OUTBOX, connection.info.server_version))
        connection.commit()

    options = {"application_name": application, **SESSION}
    return _readers(dsn, size, begin, options, check=ConnectionPool.check_connection)


def delivery_pool(dsn: str, application: str, size: int) -> ConnectionPool[Connection[TupleRow]]:
    """A pool of at most `size` connections in autocommit for who delivers webhooks; not opened yet."""

    def begin(connection: Connection[TupleRow]) -> None:
        connection.execute(pin(DELIVERY, connection.info.server_version))

    options = {**_options(application), "target_session_attrs": "read-write"}
    return _readers(dsn, size, begin, options, check=ConnectionPool.check_connection)


def reader_pool(dsn: str, application: str, size: int) -> ConnectionPool[Connection[TupleRow]]:
    """A pool of at most `size` connections as `connected` opens them; not opened yet. Waiting raises PoolTimeout."""

    def begin(connection: Connection[TupleRow]) -> None:
        connection.adapters.register_loader("timestamptz", _Instant)
        if server_pid(connection) == connection.info.backend_pid:
            connection.prepare_threshold = PREPARE_NAMED
            connection.execute(pin({"statement_timeout": f"{READ_MS}ms"}, connection.info.server_version))

    def check(connection: Connection[TupleRow]) -> None:
        # As of _check_open.
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()

    options = {**_options(application), "prepare_threshold": None, "cursor_factory": _BinaryCursor}
    return _readers(dsn, size, begin, options, check=check)


def _readers(
    dsn: str, size: int, begin: Callable[[Connection[TupleRow]], None], options: dict[str, Any], **more: Any
) -> ConnectionPool[Connection[TupleRow]]:
    """A pool for threads, not opened yet, each of whose connections begins so."""
    trouble: list[BaseException] = []

    class Opened(Connection[TupleRow]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            with _remembered(trouble):
                connection = super().connect(*args, **kwargs)
                try:
                    begin(connection)
                except BaseException:
                    connection.close()
                    raise
                return connection

    pool = _RememberingReaders(
        dsn,
        connection_class=Opened,
        kwargs=options,
        min_size=1,
        max_size=size,
        open=False,
        timeout=CONNECT_TIMEOUT_S,
        reconnect_timeout=RECONNECT_S,
        **more,
    )
    pool.trouble = trouble
    return pool


def reader_pool_async(dsn: str, application: str, size: int) -> AsyncConnectionPool[AsyncConnection[TupleRow]]:
    """A pool of at most `size` connections in autocommit for an event loop; not opened yet."""
    pool = _RememberingPool(
        dsn,
        kwargs=_options(application),
        min_size=0,
        max_size=size,
        open=False,
        timeout=CONNECT_TIMEOUT_S,
        check=_check_open,
        reconnect_timeout=RECONNECT_S,
    )
    pool.trouble = []
    return pool


_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class _Instant(Loader):
    """An instant as PostgreSQL sends it in binary form: microseconds since the year 2000. Always in UTC."""

    format = Format.BINARY

    def load(self, data: Buffer) -> datetime:
        return _EPOCH + timedelta(microseconds=int.from_bytes(data, "big", signed=True))


class _BinaryCursor(Cursor[Row]):
    """Has the server send values and not text, whose form depends on the session's settings."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.format = Format.BINARY


class _AsyncBinaryCursor(AsyncCursor[Row]):
    """Has the server send values and not text, on an event loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.format = Format.BINARY


def heartbeat_connection(dsn: str, application: str) -> Connection[TupleRow]:
    """A pinned connection in autocommit to a server that can be written. Raises what psycopg raises."""
    connection = psycopg.connect(dsn, **_options(application), target_session_attrs="read-write")
    try:
        connection.execute(pin(HEARTBEAT, connection.info.server_version))
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def connected(dsn: str, application: str = "creditfold") -> Iterator[Connection[TupleRow]]:
    """A reader's connection, in autocommit; its failures become errors that a person can act on.

    Relies on no setting of its session and prepares no statement, so a pooler may stand between, in any mode. Time-outs
    that a role or a database brings along hold for it. Results come in binary form, one statement at a time.

    Args:
        dsn: PostgreSQL's connection string, as `load_settings().dsn` is.
        application: name of the session in pg_stat_activity.

    Yields:
        The connection, which is closed at the end of the block.

    Raises:
        PostgresUnavailableError: PostgreSQL doesn't answer, or refuses.

    Example:
        >>> with connected(settings.dsn, "shop") as own:
        ...     own.execute("SELECT available FROM ledger.balances WHERE account_id = 'ada'").fetchone()
        (280,)
    """
    with _explaining(dsn), _opened(dsn, application, prepare_threshold=None, cursor_factory=_BinaryCursor) as opened:
        opened.adapters.register_loader("timestamptz", _Instant)
        yield opened


@asynccontextmanager
async def connected_async(dsn: str, application: str) -> AsyncIterator[AsyncConnection[TupleRow]]:
    """As `connected`, for an event loop, and to be kept.

    Args:
        dsn: PostgreSQL's connection string, as `load_settings().dsn` is.
        application: name of the session in pg_stat_activity.

    Yields:
        The connection, which is closed at the end of the block.

    Raises:
        PostgresUnavailableError: PostgreSQL doesn't answer, or refuses.

    Example:
        >>> import asyncio
        >>> async def available() -> int:
        ...     async with connected_async(settings.dsn, "shop") as own:
        ...         found = await own.execute("SELECT available FROM ledger.balances WHERE account_id = 'ada'")
        ...         return (await found.fetchone())[0]
        >>> asyncio.run(available())
        280
    """
    options = {**_options(application), "prepare_threshold": None, "cursor_factory": _AsyncBinaryCursor}
    try:
        try:
            opened = await AsyncConnection.connect(dsn, **options)
        except psycopg.ProgrammingError:
            raise _bad_string() from None
        opened.adapters.register_loader("timestamptz", _Instant)
        try:
            found = await (await opened.execute(_SERVER_PID)).fetchone()
            if found == (opened.info.backend_pid,):
                opened.prepare_threshold = PREPARE_NAMED
            yield opened
        finally:
            await opened.close()
    except psycopg.Error as error:
        known = await asyncio.to_thread(_in_words, dsn, error)
        if known is None:
            raise
        raise known from error


@contextmanager
def pinned(dsn: str, application: str = "creditfold") -> Iterator[Connection[TupleRow]]:
    """A connection in autocommit for what writes or proves: as `connected`, with the settings that this relies on.

    Raises PoolerError where a pooler gives each transaction another session.
    """
    with _explaining(dsn), _opened(dsn, application) as opened:
        opened.execute(pin(PINNED, opened.info.server_version))
        _refuse_shared_session(dsn, opened)
        yield opened


def _opened(dsn: str, application: str, **options: Any) -> Connection[TupleRow]:
    try:
        return psycopg.connect(dsn, **_options(application), **options)
    except psycopg.ProgrammingError:
        raise _bad_string() from None


def _options(application: str) -> dict[str, Any]:
    return {"autocommit": True, "application_name": application, **SESSION}


def _bad_string() -> PostgresUnavailableError:
    # What libpq says of it repeats it, with the password.
    return PostgresUnavailableError("The connection string can't be read.", "Set CREDITFOLD_POSTGRES_DSN.")


@contextmanager
def _explaining(dsn: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        known = _in_words(dsn, error)
        if known is None:
            raise
        raise known from error


def _in_words(dsn: str, error: psycopg.Error) -> CreditfoldError | None:
    return _cut_short(dsn, error) or explained(error)


def _cut_short(dsn: str, error: psycopg.Error) -> PostgresUnavailableError | None:
    """What is reported where a time-out that somebody set ended the work. Asks anew: the session may be gone."""
    name = timeout_of(error)
    if name is None:
        return None
    with suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True, **SESSION) as connection:
        found = bound_of(connection, name)
        if found is not None:
            return PostgresUnavailableError(
                f"PostgreSQL ended the work: {name} is {found.value} here, set {found.set_where}.",
                f"Allow this user more time (ALTER ROLE ... SET {name} = ...), or ask for less at a time.",
            )
    return None


def _refuse_shared_session(dsn: str, connection: Connection[TupleRow]) -> None:
    """Raise PoolerError if another client gets this connection's session while this one is silent."""
    ours = server_pid(connection)
    if ours == connection.info.backend_pid:
        return
    # Another process than the one that answered works for us: there is a pooler. In session mode it keeps a session to
    # one client.
    with _opened(dsn, "creditfold") as other, other.transaction():
        theirs = server_pid(other)
    if ours == theirs:
        raise PoolerError(
            "The connection goes through a pooler that gives each transaction another session.",
            "Reading works through it. For all else name PostgreSQL itself in CREDITFOLD_POSTGRES_DSN, or a pool in "
            "session mode.",
        )


def server_pid(connection: Connection[TupleRow]) -> int:
    """The server process of a session; through a pooler it isn't the one that the session was opened with."""
    row = connection.execute(_SERVER_PID).fetchone()
    return int(row[0]) if row else 0


_SERVER_PID: LiteralString = "SELECT pg_catalog.pg_backend_pid()"


@contextmanager
def snapshot(connection: Connection[TupleRow]) -> Iterator[None]:
    """See one state of the database while the block runs, whatever is written meanwhile.

    Args:
        connection: one of `connected`, in no transaction.

    Example:
        >>> with snapshot(connection):
        ...     now = connection.execute("SELECT now()").fetchone()
    """
    # So that it begins in one statement.
    connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
    try:
        with connection.transaction():
            yield
    finally:
        if connection.info.transaction_status == TransactionStatus.IDLE:
            connection.isolation_level = connection.read_only = None
        else:
            # The rollback failed, too: a time-out can end it as any other statement. What failed first is raised.
            connection.close()


def rows_of(connection: Connection[Any], kind: type[Row], query: Statement, values: Params | None = None) -> list[Row]:
    """All rows of a query, each made a tuple or an object of a kind by its columns' names."""
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(query, values).fetchall()
