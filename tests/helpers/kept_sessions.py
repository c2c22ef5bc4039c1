"""Sessions of the tests' own questions, each kept for the next question of its database.

In a new session a question to a view costs twenty times as much, nearly all of it for what PostgreSQL learns of tables.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, TypeAlias

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from creditfold.common.settings import Settings
from creditfold.projections.connections import connected

#: A session, and what closes it.
_Session: TypeAlias = tuple[Connection[Any], ExitStack]
_Kept: TypeAlias = list[_Session]

#: Those that nobody asks by now, of the databases whose sessions are kept.
_idle: dict[str, _Kept] = {}


def session(settings: Settings) -> AbstractContextManager[Connection[Any]]:
    """A reader's session in autocommit, as `connected` opens them; a failure ends it, and is raised as it has it.

    What it sets for itself would hold for the next question, too.
    """
    return _borrowed(settings.dsn, lambda: connected(settings.dsn))


def dsn_of_another(settings: Settings) -> str:
    """The connection string of a database that is always there, for what is done to the test's own."""
    return make_conninfo(settings.dsn, dbname="postgres")


def administrator(settings: Settings) -> AbstractContextManager[Connection[Any]]:
    """A session in autocommit of another database of the server, which may refuse, in psycopg's words."""
    dsn = dsn_of_another(settings)
    return _borrowed(dsn, lambda: psycopg.connect(dsn, autocommit=True))


@contextmanager
def kept_sessions(dsn: str) -> Iterator[None]:
    """Keep sessions of a database, by this very connection string, for the length of a block."""
    _idle[dsn] = []
    try:
        yield
    finally:
        end_sessions(dsn)
        del _idle[dsn]


def end_sessions(dsn: str) -> None:
    """End those that are kept, so that the database can be copied."""
    for _, closed in _all_of(_idle.get(dsn, [])):
        closed.close()


@contextmanager
def _borrowed(dsn: str, opened: Callable[[], AbstractContextManager[Connection[Any]]]) -> Iterator[Connection[Any]]:
    kept = _idle.get(dsn)
    with ExitStack() as end:
        connection, closed = _taken(kept or []) or _of(opened())
        end.push(closed)
        yield connection
        if kept is not None and _idle.get(dsn) is kept:
            end.pop_all()
            kept.append((connection, closed))


def _all_of(kept: _Kept) -> Iterator[_Session]:
    """Take one after the other. Threads ask, too."""
    with suppress(IndexError):
        while True:
            yield kept.pop()


def _taken(kept: _Kept) -> _Session | None:
    """One that is still open. What the server has closed since is noticed without a question."""
    for connection, closed in _all_of(kept):
        try:
            # Its last words first, then the end.
            connection.pgconn.consume_input()
            connection.pgconn.consume_input()
        except psycopg.OperationalError:
            closed.close()
        else:
            return connection, closed
    return None


def _of(opened: AbstractContextManager[Connection[Any]]) -> _Session:
    closed = ExitStack()
    return closed.enter_context(opened), closed
