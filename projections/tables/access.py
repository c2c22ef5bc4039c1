"""Whether readers can read: what they lack in a database that holds a ledger, and mending it."""

from contextlib import suppress

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import TupleRow

from creditfold.common.errors import CreditfoldError
from creditfold.projections.tables.roles import READER_ROLE, become_owner, grant_reading, make_reader_role
from creditfold.projections.tables.scripts import script
from creditfold.projections.tables.views import VIEWS, write_view

#: What readers may read besides the views.
_READ_TABLES = ("generations", "dead_letter_decisions", "proofs", "heartbeats")


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


def mend_access(connection: Connection[TupleRow], number: int) -> None:
    """Make what readers lack, where this user may. Workers need none of it: `access_problems` reports what is left."""
    if not access_problems(connection):
        return
    with suppress(InsufficientPrivilege, CreditfoldError), connection.transaction():
        make_reader_role(connection)
        become_owner(connection)
        tables = [f"ledger.{name}" for name in _READ_TABLES]
        missing = "SELECT bool_or(to_regclass(name) IS NULL) FROM unnest(%s::text[]) AS name"
        if connection.execute(missing, (tables,)).fetchone() == (True,):
            connection.execute(script("tables/catalog.sql"))
        for name in VIEWS:
            if connection.execute("SELECT to_regclass(%s) IS NULL", (f"ledger.{name}",)).fetchone() == (True,):
                write_view(connection, name, number)
        grant_reading(connection)
        connection.execute("RESET ROLE")
