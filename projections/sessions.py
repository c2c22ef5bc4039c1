"""What our PostgreSQL sessions rely on, and what a server sets instead. Owns the settings; opens no connection.

A server, a database, a role or a pooler gives each session settings of its own: how instants are written, how long a
statement may take, which plans are allowed. What writes or proves pins what it relies on, once on each connection.
Readers pin nothing, so that a pooler may hand each of their statements to another session: see connections.py.

Two settings are left as the server has them, because they are decisions and no defaults: whether the session may write
(`default_transaction_read_only`), and how durable a commit is (`synchronous_commit`). `creditfold doctor` reports both.
"""

from collections.abc import Mapping
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.rows import TupleRow

#: The first release that knows a setting, where our oldest server doesn't.
_SINCE = {"transaction_timeout": 170_000}

#: The settings that end what takes too long. 0 is no bound.
TIMEOUTS = ("statement_timeout", "transaction_timeout", "lock_timeout", "idle_in_transaction_session_timeout")

#: Settings of a session that writes or proves, whatever the server is set to.
PINNED: Mapping[str, str] = {
    **dict.fromkeys((*TIMEOUTS, "idle_session_timeout"), "0"),
    # Text in both directions: what the server writes is parsed, and what is sent must mean the same to it.
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    # Every name of ours has its schema; functions and operators are the server's own.
    "search_path": "pg_catalog",
    # A statement that waited for a row sees what was committed meanwhile.
    "default_transaction_isolation": "read committed",
    # Rows that a policy hides would look like rows that are missing: refused, and not left out.
    "row_security": "off",
}

# The fold looks up a few thousand keys in tables of any size, always by index. Right after a bulk load the planner
# still believes the tables to be tiny and would read them whole; so it isn't asked.
#
# No wait for a lock outlasts a worker's patience to stop. Statements are planned once: a plan for the values at hand
# would be the same, and cost as much as a small chunk.
FOLD: Mapping[str, str] = {
    **PINNED,
    **dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"), "off"),
    **dict.fromkeys(("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan", "enable_nestloop"), "on"),
    "lock_timeout": "10s",
    "plan_cache_mode": "force_generic_plan",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

# A crash of PostgreSQL may take back a rebuild's last transactions, rows and offset together: they are folded again.
# One of its processes may make an index of a journal of any length, which the others have to wait for.
REBUILD: Mapping[str, str] = {**FOLD, "synchronous_commit": "off", "lock_timeout": "0"}

# The publisher reads a few thousand rows by their positions in a journal of any size, and writes nothing. What it reads
# in one transaction is of one instant, whatever happens to the views.
OUTBOX: Mapping[str, str] = {
    **PINNED,
    **dict.fromkeys(("enable_seqscan", "jit"), "off"),
    **dict.fromkeys(("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"), "on"),
    "max_parallel_workers_per_gather": "0",
    "lock_timeout": "10s",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "repeatable read",
}

# Who delivers webhooks writes small tables, and waits for nobody who holds a lock for long: it tries again. One that is
# frozen in a transaction keeps nobody from taking over for long.
DELIVERY: Mapping[str, str] = {
    **PINNED,
    "statement_timeout": "60s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "15s",
}

# A sign of life is of no use late, and needn't outlast a crash.
HEARTBEAT: Mapping[str, str] = {
    **PINNED,
    "synchronous_commit": "off",
    "statement_timeout": "5s",
    "lock_timeout": "2s",
}

#: Settings that are pinned, and have other values on many a sound server.
_OFTEN_SET = ("timezone", "extra_float_digits", "search_path", "row_security")

#: What the doctor takes for normal, in the spelling of `current_setting`; only the beginning of a value counts.
_USUAL: Mapping[str, str] = {
    **{name: value for name, value in PINNED.items() if name not in _OFTEN_SET},
    "datestyle": "ISO",
    "default_transaction_read_only": "off",
    **dict.fromkeys(("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan", "enable_nestloop"), "on"),
}

#: For whom a value is set, by pg_settings' name of the source.
_SOURCES = {
    "database": "for the database",
    "user": "for the role",
    "database user": "for the role in this database",
    "configuration file": "in the server's configuration",
    "command line": "on the server's command line",
    "client": "by the connection string",
}


class ServerSetting(NamedTuple):
    """A setting that a session got without asking for it: its value with the unit, and for whom it is set, in words."""

    name: str
    value: str
    set_where: str


def pin(settings: Mapping[str, str], server_version: int) -> sql.Composed:
    """The statement that gives a session these settings for as long as it lives.

    Args:
        settings: values by name.
        server_version: as libpq numbers versions; what the server doesn't know yet is left out.
    """
    known = (item for item in settings.items() if _SINCE.get(item[0], 0) <= server_version)
    calls = [sql.SQL("set_config({}, {}, false)").format(name, value) for name, value in known]
    return sql.SQL("SELECT ") + sql.SQL(", ").join(calls)


def server_settings(connection: Connection[TupleRow], *names: str) -> list[ServerSetting]:
    """Those of some settings that are set for a session that pinned nothing, and for whom each is set."""
    rows = connection.execute(
        """SELECT name, current_setting(name), source FROM pg_catalog.pg_settings
           WHERE lower(name) = ANY(%s) AND source NOT IN ('default', 'session') ORDER BY name""",
        (list(names),),
    )
    return [ServerSetting(name, value, _SOURCES.get(source, f"by: {source}")) for name, value, source in rows]


# The value that the session began with, and whose setting it is: the narrowest one counts.
_BOUND = """
    SELECT s.reset_val || coalesce(s.unit, ''), (
        SELECT CASE WHEN d.setrole = 0 THEN 'database' WHEN d.setdatabase = 0 THEN 'user' ELSE 'database user' END
        FROM pg_catalog.pg_db_role_setting d, unnest(d.setconfig) AS item
        WHERE starts_with(item, s.name || '=')
            AND (d.setdatabase = 0 OR d.setdatabase IN (SELECT oid FROM pg_database WHERE datname = current_database()))
            AND (d.setrole = 0 OR d.setrole IN (SELECT oid FROM pg_roles WHERE rolname = session_user))
        ORDER BY d.setdatabase = 0, d.setrole = 0 LIMIT 1)
    FROM pg_catalog.pg_settings s WHERE s.name = %(name)s AND s.reset_val <> '0'
"""


def bound_of(connection: Connection[TupleRow], name: str) -> ServerSetting | None:
    """The bound of a time-out that the connection's session has, and for whom it is set; None where there is none.

    Lifts the bound for this session: the query may take longer than it allows.
    """
    connection.execute("SELECT set_config(%s, '0', false)", (name,))
    row = connection.execute(_BOUND, {"name": name}).fetchone()
    return None if row is None else ServerSetting(name, row[0], _SOURCES[row[1] or "configuration file"])


def unusual(connection: Connection[TupleRow]) -> list[ServerSetting]:
    """The settings of a session that pinned nothing which differ from those of a fresh server."""
    found = server_settings(connection, *_USUAL)
    return [one for one in found if not one.value.startswith(_USUAL[one.name.lower()])]
