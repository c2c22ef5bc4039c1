"""Checks the tables of state, on which later decisions hang and which no hash chain covers. Reads only.

Within a generation they must be what the journal's lines and moves add up to; between two, every
row that was changed last before the offsets at which the two are compared must be the same, to the column.
"""

from collections.abc import Mapping, Sequence
from typing import LiteralString, NamedTuple

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from creditfold.projections.connections import rows_of
from creditfold.projections.store.rows import HOUR_REASON
from creditfold.projections.tables.account_tables import ALL_LOTS, LOTS, NAME, TABLES, Table
from creditfold.projections.tables.scripts import schema_of, script


class WrongRow(NamedTuple):
    """A row of state that doesn't follow from the journal: `what` is the table, `name` what of the account it is.

    `kept` and `should_be` are the columns concerned, as one text; None stands for a row that isn't there.
    """

    what: str
    account_id: str
    name: str
    log_partition: int
    kept: str | None
    should_be: str | None


class StateDifference(NamedTuple):
    """A row of state that two generations have differently, as JSON; None stands for a row that isn't there."""

    what: str
    account_id: str
    name: str
    log_partition: int
    left: str | None
    right: str | None


def wrong_state(connection: Connection[TupleRow], number: int, limit: int) -> Sequence[WrongRow]:
    """Accounts, limits, lots, totals and metadata that don't follow from the journal, at most `limit`.

    Must run in a snapshot.
    """
    schema = schema_of(number)
    found: list[WrongRow] = []
    for name in _WRONG:
        if len(found) < limit:
            query = script(name, schema=schema, most=limit - len(found), reason=HOUR_REASON)
            found += rows_of(connection, WrongRow, query)
    return found


_WRONG: Sequence[LiteralString] = (
    "proof/wrong_accounts.sql",
    "proof/wrong_lots.sql",
    "proof/wrong_totals.sql",
    "proof/wrong_hours.sql",
    "proof/wrong_metadata.sql",
)


def state_differences(
    connection: Connection[TupleRow], left: int, right: int, ends: Mapping[int, int], limit: int
) -> Sequence[StateDifference]:
    """Rows that differ, or that one generation lacks, at most `limit`.

    A row that either generation changed at its partition's end or later is left out: the other isn't folded so far.
    """
    found: list[StateDifference] = []
    for table in (*TABLES, METADATA):
        if len(found) < limit:
            query = _differing(table, left, right, limit - len(found))
            found += rows_of(connection, StateDifference, query, (list(ends), list(ends.values())))
    return found


#: No table of state, but compared as they are: by all of its columns, since a command may stand there several times.
METADATA = Table(
    "metadata",
    5,
    (
        ("account_id", NAME),
        ("key", NAME),
        ("value", NAME),
        ("log_partition", "integer"),
        ("log_offset", "bigint"),
    ),
)


def _differing(table: Table, left: int, right: int, most: int) -> sql.Composed:
    names = [sql.Identifier(name) for name, _ in table.columns]
    # Where the record is stands beside the name.
    own = [name for name, _ in table.columns[1 : table.key] if name not in ("log_partition", "log_offset")]
    rest = [sql.SQL("{}::text").format(sql.Identifier(name)) for name in own]
    read = ALL_LOTS if table is LOTS else table.name
    mine, theirs = (
        sql.SQL("SELECT {} FROM {} WHERE {}").format(
            sql.SQL(", ").join(names),
            sql.Identifier(schema_of(number), read),
            _ASKED_OF_BOTH.format(sql.Identifier(schema_of(other), "source")) if table is METADATA else sql.SQL("true"),
        )
        for number, other in ((left, right), (right, left))
    )
    return _DIFFERING.format(
        what=sql.Literal(table.name),
        key=sql.SQL(", ").join(names[: table.key]),
        name=sql.SQL("concat_ws(' ', {})").format(sql.SQL(", ").join(rest)) if rest else sql.Literal(""),
        mine=mine,
        theirs=theirs,
        most=sql.Literal(most),
    )


# What the other generation doesn't index isn't there.
_ASKED_OF_BOTH = sql.SQL("key = ANY(ARRAY(SELECT unnest(searchable) FROM {}))")

_DIFFERING = sql.SQL("""
    SELECT {what} AS what, account_id, {name} AS name, coalesce(m.log_partition, t.log_partition) AS log_partition,
           CASE WHEN m.log_offset IS NOT NULL THEN to_json(m)::text END AS "left",
           CASE WHEN t.log_offset IS NOT NULL THEN to_json(t)::text END AS "right"
    FROM ({mine}) AS m FULL JOIN ({theirs}) AS t USING ({key})
    LEFT JOIN unnest(%s::integer[], %s::bigint[]) AS e (log_partition, next_offset)
        ON e.log_partition = coalesce(m.log_partition, t.log_partition)
    WHERE m IS DISTINCT FROM t
          AND coalesce(m.log_offset < e.next_offset, true) AND coalesce(t.log_offset < e.next_offset, true)
    ORDER BY account_id, name LIMIT {most}
""")
