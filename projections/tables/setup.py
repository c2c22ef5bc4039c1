"""Makes the catalog, a generation's tables, the readers' views and their role. Safe to do again, and by many."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.resources import files
from typing import LiteralString, NamedTuple, cast

from psycopg import AsyncConnection, Connection, sql
from psycopg.errors import DuplicateObject, InsufficientPrivilege, UndefinedTable, UniqueViolation
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log
from creditfold.ledger import RULES
from creditfold.projections.connections import pinned
from creditfold.projections.tables.comments import RELATIONS, SCHEMA_TEXT, comment_statements

READER_ROLE = "creditfold_reader"

#: What readers may read besides the views.
_READ_TABLES = ("generations", "dead_letter_decisions", "heartbeats")

#: Version of the tables in generation.sql. Code folds, reads and activates generations of its own layout only.
LAYOUT = 6

#: Which of the journal's indexes finds a command by its id.
KEY_OF_IDS = 1

#: As libpq tells versions. MERGE came with this one.
OLDEST_SERVER = 150_000

# Any constant will do, as long as every creditfold uses the same.
_SETUP_LOCK = 0x6372_6564_6974


class LogChangedError(CreditfoldError):
    """The topic isn't the one that the projection was folded from."""


class LayoutError(CreditfoldError):
    """A generation was made by another release, and its tables are others."""


class TablespaceError(CreditfoldError):
    """A tablespace that a generation can't be made in."""

    exit_code = 2


class Plan(NamedTuple):
    """What a new generation is for: its purpose in a word, the rules that decide everything if any, its indexes.

    `until_ms` and `until_offsets` (next offset by partition) say where its fold is to end, if not at the log's end.
    """

    purpose: str
    state: str = "building"
    forced_rules: int | None = None
    until_ms: int | None = None
    until_offsets: Mapping[int, int] | None = None
    indexed: bool = False
    tablespace: str | None = None
    note: str = ""


def schema_of(number: int) -> str:
    """Name of a generation's PostgreSQL schema."""
    return f"ledger_{number:04}"


def prepare(dsn: str, log: Log) -> bool:
    """Make what is missing and bind the projection to its log; tell whether anything was made.

    Raises LogChangedError when the live generation was folded from another topic than `log`, LayoutError when another
    release made it.
    """
    with pinned(dsn) as connection, connection.transaction():
        prepare_catalog(connection)
        found = live(connection)
        if found is None:
            number = make_generation(connection, log, Plan("first", state="live", indexed=True))
            connection.execute("UPDATE ledger.generations SET activated_at = made_at WHERE number = %s", (number,))
            _make_views(connection, number)
        else:
            refuse_other_layout(*found)
            refuse_other_log(source_of(connection, found[0]), log)
            _mend_access(connection, found[0])
    return found is None


def access_problems(connection: Connection[TupleRow]) -> list[str]:
    """What readers lack in a database that holds a ledger, in a few words each; empty if nothing.

    A dump that was restored on another server comes without its roles, and so without what was granted to them.
    """
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (READER_ROLE,)).fetchone() is None:
        return [f"there is no role {READER_ROLE}"]
    rows = connection.execute(
        """SELECT name, to_regclass('ledger.' || name) IS NULL FROM unnest(%(names)s::text[]) AS name
           WHERE to_regclass('ledger.' || name) IS NULL
              OR NOT has_table_privilege(%(role)s, to_regclass('ledger.' || name), 'SELECT') ORDER BY name""",
        {"names": [*VIEWS, *_READ_TABLES], "role": READER_ROLE},
    ).fetchall()
    problems = [
        f"{name} is missing" if is_missing else f"{READER_ROLE} may not read {name}" for name, is_missing in rows
    ]
    usage = connection.execute("SELECT has_schema_privilege(%s, 'ledger', 'USAGE')", (READER_ROLE,)).fetchone()
    return problems if usage == (True,) else [f"{READER_ROLE} may not use the schema ledger", *problems]


def _mend_access(connection: Connection[TupleRow], number: int) -> None:
    """Make what readers lack, where this user may. Workers need none of it: `access_problems` reports what is left."""
    if not access_problems(connection):
        return
    with suppress(InsufficientPrivilege, CreditfoldError), connection.transaction():
        _make_reader_role(connection)
        _become_owner(connection)
        if connection.execute("SELECT to_regclass('ledger.heartbeats') IS NULL").fetchone() == (True,):
            connection.execute(script("tables/catalog.sql"))
        for name in VIEWS:
            if connection.execute("SELECT to_regclass(%s) IS NULL", (f"ledger.{name}",)).fetchone() == (True,):
                write_view(connection, name, number)
        _grant_reading(connection)
        connection.execute("RESET ROLE")


def live(connection: Connection[TupleRow]) -> tuple[int, int] | None:
    """Number and layout of the live generation; None where none is."""
    row = connection.execute("SELECT number, layout FROM ledger.generations WHERE state = 'live'").fetchone()
    return None if row is None else (row[0], row[1])


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
        _make_reader_role(connection)
        connection.execute(script("tables/catalog.sql"))


def make_generation(connection: Connection[TupleRow], log: Log, plan: Plan) -> int:
    """Make an empty generation of a log and give back its number."""
    row = connection.execute(
        """INSERT INTO ledger.generations (state, layout, purpose, forced_rules, until_ms, until_offsets, note)
           VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s) RETURNING number""",
        (
            plan.state,
            LAYOUT,
            plan.purpose,
            plan.forced_rules,
            plan.until_ms,
            None if plan.until_offsets is None else _json(plan.until_offsets),
            plan.note,
        ),
    ).fetchone()
    number = int(row[0]) if row else 0
    _become_owner(connection)
    if plan.tablespace is not None:
        _refuse_tablespace(connection, plan.tablespace)
        connection.execute(sql.SQL("SET LOCAL default_tablespace = {}").format(sql.Identifier(plan.tablespace)))
    schema = schema_of(number)
    connection.execute(script("tables/generation.sql", schema=schema, rules=plan.forced_rules or RULES))
    if plan.indexed:
        for statement in (*index_statements(schema), key_statement(schema)):
            connection.execute(statement)
    connection.execute(sql.SQL("INSERT INTO {} VALUES (%s, %s, %s)").format(sql.Identifier(schema, "source")), log)
    connection.execute(
        sql.SQL("INSERT INTO {} (log_partition) SELECT generate_series(0, %s - 1)").format(
            sql.Identifier(schema, "progress")
        ),
        (log.partitions,),
    )
    connection.execute("RESET ROLE")
    return number


def _become_owner(connection: Connection[TupleRow]) -> None:
    """Make what follows the property of the ledger's owner, whose views and workers must be able to use it."""
    row = connection.execute(
        """SELECT pg_get_userbyid(nspowner), pg_get_userbyid(nspowner) <> current_user, pg_has_role(nspowner, 'MEMBER')
           FROM pg_namespace WHERE nspname = 'ledger'"""
    ).fetchone()
    owner, is_other, may = row or ("", False, True)
    if is_other and not may:
        raise CreditfoldError(
            f"The ledger belongs to the PostgreSQL user {owner}, and this one can't act for it.",
            f"Connect as {owner}, or have an administrator run: GRANT {owner} TO CURRENT_USER;",
        )
    if is_other:
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))


def _refuse_tablespace(connection: Connection[TupleRow], name: str) -> None:
    # The one that is left out holds what all databases of the server share, and nothing else.
    row = connection.execute(
        """SELECT has_tablespace_privilege(oid, 'CREATE'), quote_ident(spcname), quote_ident(current_user)
           FROM pg_tablespace WHERE spcname = %s AND spcname <> 'pg_global'""",
        (name,),
    ).fetchone()
    if row is None:
        raise TablespaceError(
            f"PostgreSQL has no tablespace {name} for tables.", "SELECT spcname FROM pg_tablespace; tells which it has."
        )
    may, tablespace, user = row
    if not may:
        raise TablespaceError(
            f"The PostgreSQL user {user} may not make tables in the tablespace {name}.",
            f"Have an administrator run: GRANT CREATE ON TABLESPACE {tablespace} TO {user};",
        )


def script_text(path: LiteralString) -> LiteralString:
    """The text of one of our SQL files, named by its path from the room of projections."""
    # The scripts are our own files, so they are as literal as a literal.
    return files("creditfold.projections").joinpath(path).read_text("utf-8")


def _bodies() -> Mapping[str, sql.SQL]:
    pattern = r"^CREATE OR REPLACE VIEW ledger\.(\w+) AS\n(.+?);\n"
    found = re.findall(pattern, script_text("tables/views.sql"), re.MULTILINE | re.DOTALL)
    return {name: sql.SQL(cast(LiteralString, body)) for name, body in found}


#: What each of the readers' views selects from a generation, by the view's name in the schema `ledger`.
VIEWS = _bodies()


def write_view(connection: Connection[TupleRow], name: str, *numbers: int) -> None:
    """Point one of the readers' views at a generation; or at several, of which each statement sees the live one."""
    bodies = [VIEWS[name].format(schema=sql.Identifier(schema_of(number)), number=number) for number in numbers]
    if len(numbers) > 1:
        # Asked once a statement, and of its own snapshot; the generation that isn't live isn't touched.
        live = "SELECT number FROM ledger.generations WHERE state = 'live'"
        one = sql.SQL("SELECT * FROM ({}) one WHERE ({}) = {}")
        bodies = [one.format(body, sql.SQL(live), number) for body, number in zip(bodies, numbers, strict=True)]
    head = sql.SQL("CREATE OR REPLACE VIEW {} AS ").format(sql.Identifier("ledger", name))
    connection.execute(head + sql.SQL(" UNION ALL ").join(bodies))
    # An earlier release may not have had this view, and so given no right to read it.
    connection.execute(
        sql.SQL("GRANT SELECT ON {} TO {}").format(sql.Identifier("ledger", name), sql.Identifier(READER_ROLE))
    )


def _make_views(connection: Connection[TupleRow], number: int) -> None:
    for name in VIEWS:
        write_view(connection, name, number)
    # Once: a view that is pointed at another generation keeps its comments.
    connection.execute(sql.SQL("; ").join([comment_statements(name) for name in RELATIONS]))
    connection.execute(sql.SQL("COMMENT ON SCHEMA ledger IS {}").format(sql.Literal(SCHEMA_TEXT)))
    _grant_reading(connection)


def _grant_reading(connection: Connection[TupleRow]) -> None:
    reader = sql.Identifier(READER_ROLE)
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA ledger TO {}").format(reader))
    connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO {}").format(reader))


def source_of(connection: Connection[TupleRow], number: int) -> Log:
    """The log that a generation is folded from."""
    source = sql.Identifier(schema_of(number), "source")
    row = connection.execute(sql.SQL("SELECT topic, topic_id, partitions FROM {}").format(source)).fetchone()
    if row is None:
        raise CreditfoldError(f"Generation {number} names no log.", f"Drop it: creditfold drop {number}")
    return Log(*row)


async def sources_of(pool: AsyncConnectionPool[AsyncConnection[TupleRow]], numbers: Iterable[int]) -> list[Log]:
    """The logs that generations are folded from, leaving out those that are gone by now."""
    found = []
    async with pool.connection() as connection:
        for number in numbers:
            source = sql.SQL("SELECT topic, topic_id, partitions FROM {}").format(
                sql.Identifier(schema_of(number), "source")
            )
            with suppress(UndefinedTable):
                row = await (await connection.execute(source)).fetchone()
                found += [Log(*row)] if row else []
    return found


def refuse_other_log(folded: Log, found: Log) -> None:
    """Raise LogChangedError if the topic found isn't the one that was folded."""
    if folded != found:
        raise LogChangedError(
            f"The projection was folded from {_describe(folded)}, but the topic now is {_describe(found)}.",
            "Folding on would give wrong balances. Point creditfold at the old log, or at an empty database.",
        )


def refuse_other_layout(number: int, layout: int) -> None:
    """Raise LayoutError if another release made a generation."""
    if layout != LAYOUT:
        raise LayoutError(
            f"Generation {number} has tables of layout {layout}; this release has {LAYOUT}.",
            "Fold the log anew, into an empty database: name one in CREDITFOLD_POSTGRES_DSN.",
        )


def script(path: LiteralString, **values: str | int) -> sql.Composed:
    """One of our SQL files, by its path, with its values filled in: texts as identifiers, numbers as literals."""
    return sql.SQL(script_text(path)).format(**{key: _part(value) for key, value in values.items()})


def index_statements(schema: str) -> list[sql.Composed]:
    """What makes each of the journal's indexes, if it isn't there; that of command ids is at KEY_OF_IDS."""
    return [sql.SQL(text).format(schema=sql.Identifier(schema)) for text in _statements("tables/indexes.sql")]


def _statements(path: LiteralString) -> list[LiteralString]:
    return [part for part in script_text(path).split(";\n") if part.strip()]


def key_statement(schema: str) -> sql.Composed:
    """What makes the journal's primary key of its index: the last of them, so that it tells that all are there."""
    text: LiteralString = "ALTER TABLE {}.journal ADD CONSTRAINT journal_pkey PRIMARY KEY USING INDEX journal_pkey"
    return sql.SQL(text).format(sql.Identifier(schema))


def _part(value: str | int) -> sql.Composable:
    return sql.Identifier(value) if isinstance(value, str) else sql.Literal(value)


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


def _describe(log: Log) -> str:
    return f"{log.topic} (id {log.topic_id}, {log.partitions} partitions)"


def _json(offsets: Mapping[int, int]) -> str:
    return json.dumps({str(partition): offset for partition, offset in sorted(offsets.items())})
