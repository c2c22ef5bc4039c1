"""Makes the catalog, a generation's tables, the readers' views and their role. Safe to do again, and by many."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log
from creditfold.ledger import RULES
from creditfold.projections.connections import pinned
from creditfold.projections.tables.access import mend_access
from creditfold.projections.tables.inline_lots import line_columns, line_pattern
from creditfold.projections.tables.roles import become_owner, make_reader_role
from creditfold.projections.tables.scripts import (
    LAYOUT,
    LayoutError,
    index_statements,
    key_statement,
    refuse_other_layout,
    schema_of,
    script,
)
from creditfold.projections.tables.source import live, refuse_other_log, source_of
from creditfold.projections.tables.views import make_views

#: In libpq's form. MERGE came with this version.
OLDEST_SERVER = 150_000


# Any constant will do, as long as every creditfold uses the same.
_SETUP_LOCK = 0x6372_6564_6974


class TablespaceError(CreditfoldError):
    """A tablespace that a generation can't be made in."""

    exit_code = 2


class Plan(NamedTuple):
    """What a new generation is for: its purpose in a word, the rules that decide everything if any, its indexes.

    `until_ms` and `until_offsets` (next offset by partition) say where its fold is to end, if not at the log's end;
    `searchable` are the keys of metadata that it indexes, and `by_balance` whether it indexes balances.
    """

    purpose: str
    state: str = "building"
    forced_rules: int | None = None
    until_ms: int | None = None
    until_offsets: Mapping[int, int] | None = None
    indexed: bool = False
    tablespace: str | None = None
    note: str = ""
    searchable: Collection[str] = ()
    by_balance: bool = False


def prepare(dsn: str, log: Log, searchable: Collection[str] = (), *, by_balance: bool = False) -> bool:
    """Make what is missing and bind the projection to its log; returns whether anything was made.

    Args:
        dsn: of the database.
        log: to be folded.
        searchable: the keys of metadata that the first generation indexes, if it is made now.
        by_balance: whether it indexes balances.

    Raises LogChangedError when the live generation was folded from another topic than `log`, LayoutError when another
    release made it.
    """
    with pinned(dsn) as connection, connection.transaction():
        prepare_catalog(connection)
        found = live(connection)
        if found is None:
            plan = Plan("first", state="live", indexed=True, searchable=searchable, by_balance=by_balance)
            number = make_generation(connection, log, plan)
            connection.execute("UPDATE ledger.generations SET activated_at = made_at WHERE number = %s", (number,))
            make_views(connection, number)
        else:
            refuse_other_layout(*found)
            refuse_other_log(source_of(connection, found[0]), log)
            mend_access(connection, found[0])
        _prepare_access_tables(connection)
        _prepare_delivery_tables(connection)
    return found is None


def _prepare_access_tables(connection: Connection[TupleRow]) -> None:
    # Only where the newest is missing: each start of a worker comes by, of a user who may make no schema.
    newest = """SELECT FROM pg_attribute
                WHERE attrelid = to_regclass('ledger_access.operations') AND attname = 'cancel_at'"""
    if connection.execute(newest).fetchone() is None:
        become_owner(connection)
        connection.execute(script("tables/access.sql"))
        connection.execute("RESET ROLE")


def _prepare_delivery_tables(connection: Connection[TupleRow]) -> None:
    # As of those of access.
    if connection.execute("SELECT to_regclass('ledger_delivery.alerts') IS NULL").fetchone() == (True,):
        become_owner(connection)
        connection.execute(script("tables/delivery.sql"))
        connection.execute("RESET ROLE")


def prepare_catalog(connection: Connection[TupleRow]) -> None:
    """Make the catalog and the readers' role where they are missing; the transaction keeps others from doing it too."""
    _refuse_old_servers(connection)
    _refuse_other_encodings(connection)
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SETUP_LOCK,))
    if connection.execute("SELECT to_regclass('ledger.generations') IS NULL").fetchone() == (True,):
        if connection.execute("SELECT to_regclass('ledger.progress') IS NOT NULL").fetchone() == (True,):
            raise LayoutError(
                "The database holds the ledger of an earlier release, without generations.",
                "Fold the log into an empty database: name one in CREDITFOLD_POSTGRES_DSN and start a worker.",
            )
        make_reader_role(connection)
        connection.execute(script("tables/catalog.sql"))


def make_generation(connection: Connection[TupleRow], log: Log, plan: Plan) -> int:
    """Make an empty generation of a log; returns its number."""
    row = connection.execute(
        """INSERT INTO ledger.generations (state, layout, purpose, forced_rules, until_ms, until_offsets, note)
           VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING number""",
        (
            plan.state,
            LAYOUT,
            plan.purpose,
            plan.forced_rules,
            plan.until_ms,
            None if plan.until_offsets is None else Jsonb(dict(plan.until_offsets)),
            plan.note,
        ),
    ).fetchone()
    number = int(row[0]) if row else 0
    become_owner(connection)
    if plan.tablespace is not None:
        _refuse_tablespace(connection, plan.tablespace)
        connection.execute(sql.SQL("SET LOCAL default_tablespace = {}").format(sql.Identifier(plan.tablespace)))
    schema = schema_of(number)
    lot = {"line_columns": line_columns(), "line_pattern": line_pattern()}
    connection.execute(script("tables/generation.sql", schema=schema, rules=plan.forced_rules or RULES, **lot))
    if plan.by_balance:
        connection.execute(script("tables/searching.sql", schema=schema))
    if plan.indexed:
        for statement in (*index_statements(schema), key_statement(schema)):
            connection.execute(statement)
    source = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, %s)").format(sql.Identifier(schema, "source"))
    connection.execute(source, (*log, list(plan.searchable)))
    connection.execute(
        sql.SQL("INSERT INTO {} (log_partition) SELECT generate_series(0, %s - 1)").format(
            sql.Identifier(schema, "progress")
        ),
        (log.partitions,),
    )
    connection.execute("RESET ROLE")
    return number


def _refuse_tablespace(connection: Connection[TupleRow], name: str) -> None:
    # The one that is left out holds what all databases of the server share, and nothing else.
    row = connection.execute(
        """SELECT has_tablespace_privilege(oid, 'CREATE'), quote_ident(spcname), quote_ident(current_user)
           FROM pg_tablespace WHERE spcname = %s AND spcname <> 'pg_global'""",
        (name,),
    ).fetchone()
    if row is None:
        raise TablespaceError(
            f"PostgreSQL has no tablespace {name} for tables.", "SELECT spcname FROM pg_tablespace; lists those it has."
        )
    may, tablespace, user = row
    if not may:
        raise TablespaceError(
            f"The PostgreSQL user {user} may not make tables in the tablespace {name}.",
            f"Have an administrator run: GRANT CREATE ON TABLESPACE {tablespace} TO {user};",
        )


def _refuse_old_servers(connection: Connection[TupleRow]) -> None:
    if connection.info.server_version < OLDEST_SERVER:
        raise CreditfoldError(
            f"The server is PostgreSQL {connection.info.server_version // 10_000}; "
            f"{OLDEST_SERVER // 10_000} or later is needed.",
            "Upgrade it, or name another one in CREDITFOLD_POSTGRES_DSN.",
        )


def _refuse_other_encodings(connection: Connection[TupleRow]) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise CreditfoldError(
            f"The database's encoding is {encoding}; it can't hold every account's name.",
            "Create one with ENCODING 'UTF8' and name it in CREDITFOLD_POSTGRES_DSN.",
        )
