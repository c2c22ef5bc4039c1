"""The readers' views in schema `ledger`: their bodies, and which generation they show."""

import re
from collections.abc import Mapping
from typing import LiteralString, cast

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from creditfold.projections.tables.comments import RELATIONS, SCHEMA_TEXT, comment_statements
from creditfold.projections.tables.roles import READER_ROLE, grant_reading
from creditfold.projections.tables.scripts import schema_of, script_text


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


def make_views(connection: Connection[TupleRow], number: int) -> None:
    """Make all views, of a generation, with their comments and the readers' rights."""
    for name in VIEWS:
        write_view(connection, name, number)
    # Once: a view that is pointed at another generation keeps its comments.
    connection.execute(sql.SQL("; ").join([comment_statements(name) for name in RELATIONS]))
    connection.execute(sql.SQL("COMMENT ON SCHEMA ledger IS {}").format(sql.Literal(SCHEMA_TEXT)))
    grant_reading(connection)
