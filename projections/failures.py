"""What PostgreSQL's failures mean: one table from SQLSTATE to words and a remedy. Opens no connection.

A failure that has no place in the table is no state of a server, and stays what it is: a defect, with its traceback.
"""

import re
from typing import NamedTuple

import psycopg
from psycopg_pool import PoolTimeout

from creditfold.common.errors import CreditfoldError


class PostgresUnavailableError(CreditfoldError):
    """PostgreSQL can't be reached, or doesn't do what was asked of it now. Trying again later can help."""


class PostgresAwayError(PostgresUnavailableError):
    """No PostgreSQL answers."""

    away = "PostgreSQL"


class DiskFullError(PostgresUnavailableError):
    """PostgreSQL answers, and has no room left for what was to be written. Nothing of the transaction stays."""


class ReadOnlyError(PostgresUnavailableError):
    """PostgreSQL answers, and can't be written: a standby, or a database that was set so."""


class PoolerError(CreditfoldError):
    """The connection goes through a pooler that gives each transaction another session."""


class DamagedError(CreditfoldError):
    """PostgreSQL can't read or write its own files."""


class NotPreparedError(CreditfoldError):
    """The database has no projection yet, or this user may not read it."""


class Meaning(NamedTuple):
    """What some codes of SQLSTATE mean to whoever ran a command; `{said}` is filled with PostgreSQL's own words."""

    codes: tuple[str, ...]
    kind: type[CreditfoldError]
    message: str
    remedy: str


_START = "Start it with `creditfold up`, or set CREDITFOLD_POSTGRES_DSN."
_AGAIN = "Nothing of the transaction stays. Try again."

# The first that a code begins with. What isn't here is no state of a server, but a defect of ours.
_MEANINGS = (
    Meaning(("3F000", "42P01"), NotPreparedError, "The database holds no ledger.", "Run `creditfold init`."),
    Meaning(
        ("42501",),
        NotPreparedError,
        "PostgreSQL refused: {said}.",
        "To read, grant this user the role creditfold_reader; for all else, connect as the ledger's owner.",
    ),
    Meaning(
        ("42704",),
        NotPreparedError,
        "PostgreSQL lacks what the ledger needs: {said}.",
        "Run `creditfold init`, which makes what is missing; `creditfold doctor` names the rest.",
    ),
    Meaning(
        ("3D000", "57P04"),
        PostgresUnavailableError,
        "PostgreSQL answers, but: {said}.",
        "Create the database (createdb NAME; `creditfold up` does it on the embedded server), then run `creditfold "
        "init`; or name another one in CREDITFOLD_POSTGRES_DSN.",
    ),
    Meaning(
        ("28",),
        PostgresUnavailableError,
        "PostgreSQL answers, but doesn't let this user in: {said}.",
        "Check user and password in CREDITFOLD_POSTGRES_DSN, and the server's pg_hba.conf; where it is about SSL or a "
        "certificate, sslmode and sslrootcert in that string.",
    ),
    Meaning(("53100",), DiskFullError, "PostgreSQL has no room left: {said}.", "Make room there."),
    Meaning(
        ("53300",),
        PostgresUnavailableError,
        "PostgreSQL answers, but has no connection left: {said}.",
        "End sessions that nobody needs (pg_stat_activity lists them), or raise max_connections, or the CONNECTION "
        "LIMIT of the role or the database.",
    ),
    Meaning(
        ("53", "54000"),
        PostgresUnavailableError,
        "PostgreSQL answers, but is short of something: {said}.",
        "See its log, and try again.",
    ),
    Meaning(
        ("25006",),
        ReadOnlyError,
        "This PostgreSQL is read-only (a standby?): {said}.",
        "Name the primary in CREDITFOLD_POSTGRES_DSN. If this is the primary, default_transaction_read_only is on; "
        "`creditfold doctor` shows for whom.",
    ),
    Meaning(
        ("55P03",),
        PostgresUnavailableError,
        "Another session holds a lock for too long: {said}.",
        "pg_stat_activity and pg_locks show which one. " + _AGAIN,
    ),
    Meaning(("40", "55006"), PostgresUnavailableError, "Another session was in the way: {said}.", _AGAIN),
    Meaning(("57014",), PostgresUnavailableError, "The statement was cancelled before its end: {said}.", _AGAIN),
    Meaning(
        ("25P03", "25P04", "57P05"),
        PostgresUnavailableError,
        "PostgreSQL ended the session after a time-out: {said}.",
        _AGAIN,
    ),
    Meaning(
        ("57P03",), PostgresUnavailableError, "PostgreSQL is starting or stopping: {said}.", "Try again in a moment."
    ),
    Meaning(
        ("57P",),
        PostgresUnavailableError,
        "PostgreSQL ended the session: {said}.",
        "If the server was stopped, start it (`creditfold up` for the embedded one). Then try again.",
    ),
    Meaning(
        ("08P01", "26000", "42P05"),
        PoolerError,
        "PostgreSQL, or a pooler before it, didn't understand: {said}.",
        "Through PgBouncer in transaction mode one can read, and nothing else: see docs/operating.md. For all else "
        "name the server itself in CREDITFOLD_POSTGRES_DSN.",
    ),
    Meaning(
        ("58", "XX"),
        DamagedError,
        "PostgreSQL can't read or write its own files: {said}.",
        "See its log and its disk. Where tables are lost, fold the log anew into an empty database.",
    ),
    Meaning(("08",), PostgresAwayError, "PostgreSQL doesn't answer: {said}.", _START),
)

#: The code of a connection that failed without one.
_LOST = "08006"

# libpq gives no code for what happens before a session is there, only a text: its own, or the server's in its language.
_REFUSALS = tuple(
    (re.compile(pattern), code)
    for pattern, code in (
        (r'FATAL:.*(database ".*" does not exist|no such database)', "3D000"),
        (
            r'FATAL:.*(password|pg_hba|authentication|role ".*" does not exist|no such user|not permitted to log in)',
            "28000",
        ),
        (r"fe_sendauth|no password supplied|SCRAM|GSSAPI|certificate|SSL", "28000"),
        (r"FATAL:.*(too many|connection slots|no more connections allowed)", "53300"),
        (r"FATAL:.*(starting up|shutting down|accepting connections|in recovery mode|recovery state)", "57P03"),
        (r"FATAL:.*permission denied", "42501"),
        (r"FATAL:.*(startup parameter|pooling mode)", "08P01"),
        (r"session is read-only|server is in hot standby", "25006"),
    )
)

# Codes and classes of SQLSTATE that pass by themselves: connection lost, shut down, out of resources, conflict with
# another transaction, waited too long, standby.
_PASSING = ("08", "57P", "57014", "53", "40", "55P03", "25006", "25P03", "25P04")

#: By which setting PostgreSQL ends what takes too long.
_BOUNDS = {
    "57014": "statement_timeout",
    "25P03": "idle_in_transaction_session_timeout",
    "25P04": "transaction_timeout",
    "57P05": "idle_session_timeout",
}


def is_outage(error: BaseException) -> bool:
    """Whether PostgreSQL is away or busy: worth a line in the log and another try, and no defect of ours."""
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return error.sqlstate.startswith(_PASSING)
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout | ConnectionError)


def is_full(error: BaseException) -> bool:
    """Whether PostgreSQL's disk is full: an outage that doesn't pass by itself."""
    return _code_of(_cause_of(error)) == "53100"


def outage_event(error: BaseException) -> str:
    """How a log names an outage: PostgreSQL is away, or it is there and doesn't do it."""
    code = _code_of(_cause_of(error))
    is_away = code is None or code.startswith(("08", "57P"))
    return "PostgreSQL is away, waiting" if is_away else "PostgreSQL refuses, waiting"


def why(error: BaseException) -> str:
    """An outage in one sentence, for a log."""
    known = explained(error)
    return known.message if known is not None else _first_line(error)


def explained(error: BaseException) -> CreditfoldError | None:
    """What a failure of PostgreSQL means, as an error with a remedy; None for what is no state of the server.

    A pool's time-out is explained by what kept it from connecting.
    """
    error = _cause_of(error)
    code = _code_of(error)
    meaning = next((row for row in _MEANINGS if code is not None and code.startswith(row.codes)), None)
    return None if meaning is None else meaning.kind(meaning.message.format(said=_said(error)), meaning.remedy)


def timeout_of(error: BaseException) -> str | None:
    """The setting whose time-out may have ended the work; None if it was something else."""
    return _BOUNDS.get(_code_of(error) or "")


def _cause_of(error: BaseException) -> BaseException:
    return error.__cause__ if isinstance(error, PoolTimeout) and error.__cause__ is not None else error


def _code_of(error: BaseException) -> str | None:
    if not isinstance(error, psycopg.Error):
        return _LOST if isinstance(error, ConnectionError) else None
    if error.sqlstate is not None:
        return error.sqlstate
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return None
    return next((code for pattern, code in _REFUSALS if pattern.search(str(error))), _LOST)


def _said(error: BaseException) -> str:
    """The server's own words, in one line and without a full stop."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary.rstrip(".")
    return _first_line(error).split("FATAL:")[-1].removeprefix("connection failed:").strip().rstrip(".")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
