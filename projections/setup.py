"""Makes a generation's tables, the readers' views and their role. Safe to run again, and by many at once."""

from importlib.resources import files
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.errors import DuplicateObject, InsufficientPrivilege, UniqueViolation
from psycopg.rows import TupleRow

from creditfold.projections.connections import connected
from creditfold.schemas.errors import CreditfoldError

#: The generation that the views read and the workers fold.
LIVE_SCHEMA = "ledger_0001"
READER_ROLE = "creditfold_reader"

# Any constant will do, as long as every creditfold uses the same.
_SETUP_LOCK = 0x6372_6564_6974


class LogChangedError(CreditfoldError):
    """The topic isn't the one that the projection was folded from."""


class Log(NamedTuple):
    """The identity of a command topic: its name, Kafka's id of it, and its partition count."""

    topic: str
    topic_id: str
    partitions: int


def prepare(dsn: str, log: Log) -> bool:
    """Make what is missing and bind the projection to its log; tell whether anything was made.

    Raises LogChangedError when the projection was folded from another topic than `log`.
    """
    with connected(dsn) as connection, connection.transaction():
        _refuse_other_encodings(connection)
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SETUP_LOCK,))
        made = connection.execute("SELECT to_regnamespace(%s) IS NULL", (LIVE_SCHEMA,)).fetchone() == (True,)
        if made:
            _make_reader_role(connection)
            connection.execute(_script("generation.sql"))
            connection.execute(_script("views.sql"))
        _bind(connection, log)
    return made


def _refuse_other_encodings(connection: Connection[TupleRow]) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise CreditfoldError(
            f"The database's encoding is {encoding}; it can't hold every account's name.",
            "Create one with ENCODING 'UTF8' and name it in CREDITFOLD_POSTGRES_DSN.",
        )


def _make_reader_role(connection: Connection[TupleRow]) -> None:
    # Roles belong to the whole server: another database of it may have made this one.
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (READER_ROLE,)).fetchone() is None:
        try:
            with connection.transaction():
                connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(READER_ROLE)))
        except (DuplicateObject, UniqueViolation):
            pass
        except InsufficientPrivilege:
            raise CreditfoldError(
                f"This PostgreSQL user may not create the role {READER_ROLE}.",
                f"Have an administrator run: CREATE ROLE {READER_ROLE} NOLOGIN;",
            ) from None


def _bind(connection: Connection[TupleRow], log: Log) -> None:
    source = sql.Identifier(LIVE_SCHEMA, "source")
    row = connection.execute(sql.SQL("SELECT topic, topic_id, partitions FROM {}").format(source)).fetchone()
    if row is None:
        connection.execute(sql.SQL("INSERT INTO {} VALUES (%s, %s, %s)").format(source), log)
        connection.execute(
            sql.SQL("INSERT INTO {} (log_partition) SELECT generate_series(0, %s - 1)").format(
                sql.Identifier(LIVE_SCHEMA, "progress")
            ),
            (log.partitions,),
        )
    else:
        refuse_other_log(Log(*row), log)


def refuse_other_log(folded: Log, found: Log) -> None:
    """Raise LogChangedError if the topic found isn't the one that was folded."""
    if folded != found:
        raise LogChangedError(
            f"The projection was folded from {_describe(folded)}, but the topic now is {_describe(found)}.",
            "Folding on would give wrong balances. Point creditfold at the old log, or at an empty database.",
        )


def _describe(log: Log) -> str:
    return f"{log.topic} (id {log.topic_id}, {log.partitions} partitions)"


def _script(name: str) -> sql.Composed:
    # The scripts are our own files, so they are as literal as a literal.
    text = files(__package__).joinpath(name).read_text("utf-8")
    return sql.SQL(text).format(schema=sql.Identifier(LIVE_SCHEMA), reader=sql.Identifier(READER_ROLE))
