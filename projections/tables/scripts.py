"""Our SQL files, their values filled in, and the version of the tables that they make. Opens no connection."""

from importlib.resources import files
from typing import LiteralString

from psycopg import sql

from creditfold.common.errors import CreditfoldError

#: Version of the tables in generation.sql. Code folds, reads and activates generations of its own layout only.
LAYOUT = 11


#: Which of the journal's indexes finds a command by its id.
KEY_OF_IDS = 1


class LayoutError(CreditfoldError):
    """A generation was made by another release, and its tables are others."""


def schema_of(number: int) -> str:
    """Name of a generation's PostgreSQL schema."""
    return f"ledger_{number:04}"


def script_text(path: LiteralString) -> LiteralString:
    """The text of one of our SQL files, named by its path from the room of projections."""
    # The scripts are our own files, so they are as literal as a literal.
    return files("creditfold.projections").joinpath(path).read_text("utf-8")


def refuse_other_layout(number: int, layout: int) -> None:
    """Raise LayoutError if another release made a generation."""
    if layout != LAYOUT:
        raise LayoutError(
            f"Generation {number} has tables of layout {layout}; this release has {LAYOUT}.",
            "Fold the log anew, into an empty database: name one in CREDITFOLD_POSTGRES_DSN.",
        )


def script(path: LiteralString, **values: str | int | sql.Composable) -> sql.Composed:
    """One of our SQL files, by its path, with its values filled in: texts as identifiers, numbers as literals."""
    return sql.SQL(script_text(path)).format(**{key: _part(value) for key, value in values.items()})


def index_statements(schema: str) -> list[sql.Composed]:
    """The statements that make the journal's indexes where they are missing; that of command ids is at KEY_OF_IDS."""
    return [sql.SQL(text).format(schema=sql.Identifier(schema)) for text in _statements("tables/indexes.sql")]


def _statements(path: LiteralString) -> list[LiteralString]:
    return [part for part in script_text(path).split(";\n") if part.strip()]


def key_statement(schema: str) -> sql.Composed:
    """The statement that makes the journal's primary key of its index: run last, the key shows that all are there."""
    text: LiteralString = "ALTER TABLE {}.journal ADD CONSTRAINT journal_pkey PRIMARY KEY USING INDEX journal_pkey"
    return sql.SQL(text).format(sql.Identifier(schema))


def _part(value: str | int | sql.Composable) -> sql.Composable:
    if isinstance(value, sql.Composable):
        return value
    return sql.Identifier(value) if isinstance(value, str) else sql.Literal(value)
