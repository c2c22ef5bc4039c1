"""Sets a ledger's projection back to an earlier state, as a restored backup or a standby without the last commits does.

Copies whole databases, so that every table is of one instant. Works on any server, under running workers and
publishers, whose sessions are ended: to them it is an outage after which PostgreSQL has lost commits.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier

from creditfold.common.settings import Settings
from helpers.kept_sessions import dsn_of_another


class ProjectionCopy:
    """A copy of a ledger's database as it was at an instant.

    Args:
        settings: of the ledger; its user must be allowed to create databases.
    """

    def __init__(self, settings: Settings) -> None:
        self._name = str(conninfo_to_dict(settings.dsn)["dbname"])
        self._copy = f"{self._name}_copy"
        self._admin = dsn_of_another(settings)

    def take(self) -> None:
        """Copy the database as it is now, in place of an earlier copy."""
        with self._without_sessions() as connection:
            self._drop(connection, self._copy)
            self._duplicate(connection, self._name, self._copy)

    def put_back(self) -> None:
        """Put the copy in the place of the database: what was committed since is lost. Can be done again."""
        with self._without_sessions() as connection:
            self._drop(connection, self._name)
            self._duplicate(connection, self._copy, self._name)
            # Else a crash would have its sequences give once more what they have given since.
            connection.execute("CHECKPOINT")

    def empty(self) -> None:
        """Put an empty database in the place of the ledger's."""
        with self._without_sessions() as connection:
            self._drop(connection, self._name)
            self._duplicate(connection, "template0", self._name)

    def remove(self) -> None:
        """Forget the copy."""
        with psycopg.connect(self._admin, autocommit=True) as connection:
            self._drop(connection, self._copy)

    @contextmanager
    def _without_sessions(self) -> Iterator[psycopg.Connection]:
        """End every session of the database, and let none begin while the block runs."""
        with psycopg.connect(self._admin, autocommit=True) as connection:
            self._allow(connection, "false")
            try:
                self._end_sessions(connection)
                yield connection
            finally:
                self._allow(connection, "true")

    def _end_sessions(self, connection: psycopg.Connection) -> None:
        ended = "SELECT pg_terminate_backend(pid, 240000) FROM pg_stat_activity WHERE datname = %s"
        connection.execute(ended, (self._name,))

    def _allow(self, connection: psycopg.Connection, allowed: str) -> None:
        text = SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        connection.execute(text.format(Identifier(self._name), SQL(allowed)))  # type: ignore[arg-type]

    def _duplicate(self, connection: psycopg.Connection, name: str, copy: str) -> None:
        # Made without sessions too, until the block ends.
        text = SQL("CREATE DATABASE {} TEMPLATE {} ALLOW_CONNECTIONS {}")
        allowed = SQL("false" if copy == self._name else "true")
        while True:
            try:
                connection.execute(text.format(Identifier(copy), Identifier(name), allowed))
                return
            except psycopg.errors.ObjectInUse:
                # A session that was on its way in when none was allowed any more.
                self._end_sessions(connection)

    def _drop(self, connection: psycopg.Connection, name: str) -> None:
        connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


@contextmanager
def copy_of(settings: Settings) -> Iterator[ProjectionCopy]:
    """A copy taken now, for the length of a block."""
    copy = ProjectionCopy(settings)
    try:
        copy.take()
        yield copy
    finally:
        copy.remove()
