"""The statements that read and write accounts' state, by generation.

Rows go to PostgreSQL column by column; the cell of a text that may be empty begins with `=`, or a lone empty one would
be no cell at all.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, LiteralString

from psycopg import sql

from creditfold.projections.store.columns import NULL, SEPARATOR, Longs, longs_of, number_cells
from creditfold.projections.store.results import Cells
from creditfold.projections.tables.account_tables import _PLACE, BALANCES, EMPTIED_BALANCES, LOTS, NAME, NULLABLE, Table
from creditfold.projections.tables.scripts import schema_of

#: How a column's values are sent, and made its own of what was sent, by its type.
_SENT: Mapping[str, tuple[LiteralString, LiteralString]] = {
    "text": ("string_to_array(%s, chr(31))", "substr({}, 2)"),
    NAME: ("string_to_array(%s, chr(31))", "{}"),
    "bigint": ("%b", "{}"),
    "integer": ("%b", "{}::integer"),
    "smallint": ("%b", "{}::smallint"),
    "boolean": ("%b", "{} <> 0"),
    NULLABLE: ("%b", "nullif({}, -1)"),
}


@lru_cache(maxsize=1_024)
def save(table: Table, generation: int) -> bytes:
    """The statement that writes rows, sent as `cells` makes them.

    No other transaction writes these rows, so nothing can come between looking for one and making it; an INSERT with
    ON CONFLICT would lock each row, and write the lock to PostgreSQL's log, before it changes the row. Rows of LOTS are
    new: those that are stored are CHANGED_LOTS.
    """
    into = sql.Identifier(schema_of(generation), table.name)
    if table is EMPTIED_BALANCES:
        return _CLEAR_LOTS.format(into, _sent_rows(table)).as_bytes(None)
    if table is LOTS:
        return _INSERT.format(into, _names(table), _sent_rows(table)).as_bytes(None)
    return _merge(table, into).as_bytes(None)


_CLEAR_LOTS = sql.SQL("""
    UPDATE {} AS t SET lots = '', next_at_ms = NULL FROM ({}) AS n WHERE t.account_id = n.account_id AND lots <> ''""")


_INSERT = sql.SQL("INSERT INTO {} ({}) {}")


_MERGE = sql.SQL("""
    MERGE INTO {table} AS t USING ({rows}) AS n ON {same}
    WHEN MATCHED THEN UPDATE SET {changes} WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({new})""")


def _merge(table: Table, into: sql.Identifier) -> sql.Composed:
    names = [sql.Identifier(name) for name, _ in table.columns]
    return _MERGE.format(
        table=into,
        rows=_sent_rows(table),
        names=_names(table),
        same=sql.SQL(" AND ").join([sql.SQL("t.{0} = n.{0}").format(name) for name in names[: table.key]]),
        changes=sql.SQL(", ").join([sql.SQL("{0} = n.{0}").format(name) for name in names[table.key :]]),
        new=sql.SQL(", ").join([sql.SQL("n.{}").format(name) for name in names]),
    )


def _names(table: Table) -> sql.Composed:
    return sql.SQL(", ").join([sql.Identifier(name) for name, _ in table.columns])


def _sent_rows(table: Table) -> sql.Composed:
    """A query that gives the rows that are sent."""
    columns = [(sql.Identifier(name), *_SENT[kind]) for name, kind in table.columns]
    values = [sql.SQL("{} AS {}").format(sql.SQL(value).format(name), name) for name, _, value in columns]
    arrays = [sql.SQL("unnest({}) AS {}").format(sql.SQL(sent), name) for name, sent, _ in columns]
    # Not in FROM, where PostgreSQL keeps all rows of it before it gives the first: that takes a tenth of the time.
    return sql.SQL("SELECT {} FROM (SELECT {}) AS u").format(sql.SQL(", ").join(values), sql.SQL(", ").join(arrays))


def cells(table: Table, rows: Sequence[Sequence[Any]]) -> Cells:
    """Rows as they are sent. There must be some."""
    columns = zip(zip(*rows, strict=True), table.columns, strict=True)
    return len(rows), [_cells(column, kind) for column, (_, kind) in columns]


def _cells(column: Collection[Any], kind: str) -> str | bytes:
    if kind == NAME:
        return SEPARATOR.join(column)
    if kind == "text":
        return SEPARATOR.join(["=" + value for value in column])
    return number_cells([NULL if value is None else value for value in column] if kind == NULLABLE else column)


def together(parts: Sequence[Cells]) -> list[str | Longs]:
    """Rows of one table, of one or several makers, as the values of `save`. There must be some."""
    count = sum(number for number, _ in parts)
    found: list[str | Longs] = []
    for column in zip(*(columns for _, columns in parts), strict=True):
        texts = [cell for cell in column if isinstance(cell, str)]
        found.append(
            SEPARATOR.join(texts) if texts else longs_of(count, [cell for cell in column if isinstance(cell, bytes)])
        )
    return found


@lru_cache(maxsize=1_024)
def select(table: Table, generation: int, condition: LiteralString) -> bytes:
    """Read rows of a table that fulfil a condition, without the place where they were changed.

    A balance's row ends with the lots that stand in it.
    """
    columns = [column for column in table.columns if column not in _PLACE]
    if table is BALANCES:
        columns.append(("lots", "text"))
    names = [sql.Identifier("t", name) for name, _ in columns]
    return (
        sql.SQL("SELECT {} FROM {} AS t {}")
        .format(sql.SQL(", ").join(names), sql.Identifier(schema_of(generation), table.name), sql.SQL(condition))
        .as_bytes(None)
    )


#: By the names of accounts, as one text.
OF_ACCOUNTS: LiteralString = "WHERE t.account_id = ANY(string_to_array(%s, chr(31)))"


#: By pairs of account and command, as two texts.
OF_COMMANDS: LiteralString = """JOIN unnest(string_to_array(%s, chr(31)), string_to_array(%s, chr(31)))
    AS k (account_id, command_id) ON (t.account_id, t.command_id) = (k.account_id, k.command_id)"""


#: By account, command and number, as three texts.
OF_NUMBERS: LiteralString = """JOIN unnest(string_to_array(%s, chr(31)), string_to_array(%s, chr(31)),
        string_to_array(%s, chr(31))::integer[]) AS k (account_id, command_id, number)
    ON (t.account_id, t.command_id, t.number) = (k.account_id, k.command_id, k.number)"""


@lru_cache(maxsize=64)
def has_any(generation: int) -> bytes:
    """Whether accounts have anything live in accounts, holds, spends, transfers and schedules, one column each.

    Counted: for EXISTS a plan would do that finds a first row soon, and reads the whole table where there is none.
    """
    schema = sql.Identifier(schema_of(generation))
    return (
        sql.SQL(
            """SELECT (SELECT count(*) > 0 FROM {schema}.accounts t WHERE t.account_id = ANY(n.names)),
                  (SELECT count(*) > 0 FROM {schema}.holds t WHERE t.account_id = ANY(n.names) AND t.is_open),
                  (SELECT count(*) > 0 FROM {schema}.spends t WHERE t.account_id = ANY(n.names) AND t.debt > 0),
                  (SELECT count(*) > 0 FROM {schema}.transfers t
                   WHERE t.account_id = ANY(n.names) AND t.is_open AND t.log_partition = ANY(%(partitions)b)),
                  (SELECT count(*) > 0 FROM {schema}.schedules t WHERE t.account_id = ANY(n.names) AND t.is_open)
           FROM (SELECT string_to_array(%(accounts)s, chr(31)) AS names) AS n"""
        )
        .format(schema=schema)
        .as_bytes(None)
    )


@lru_cache(maxsize=64)
def spends_of_the_journal(generation: int) -> bytes:
    """Spends and captures as they were decided, by pairs of account and command."""
    return (
        sql.SQL(
            """SELECT t.account_id, t.command_id, t.asset, t.log_offset, t.facts
           FROM {} AS t {} WHERE t.kind IN ('spend', 'capture') AND t.rejection IS NULL"""
        )
        .format(sql.Identifier(schema_of(generation), "journal"), sql.SQL(OF_COMMANDS))
        .as_bytes(None)
    )


@lru_cache(maxsize=64)
def due(generation: int) -> bytes:
    """The accounts of a partition that have something due at an instant, in the order of their names' bytes."""
    schema = sql.Identifier(schema_of(generation))
    return (
        sql.SQL(
            """SELECT account_id FROM (
               SELECT account_id FROM {schema}.balances
               WHERE log_partition = %(partition)s AND next_at_ms <= %(clock)s
               UNION
               SELECT account_id FROM {schema}.lots WHERE log_partition = %(partition)s AND next_at_ms <= %(clock)s
               UNION
               SELECT account_id FROM {schema}.holds WHERE log_partition = %(partition)s AND next_at_ms <= %(clock)s
               UNION
               SELECT account_id FROM {schema}.schedules WHERE log_partition = %(partition)s AND next_at_ms <= %(clock)s
           ) AS d ORDER BY account_id COLLATE "C" """
        )
        .format(schema=schema)
        .as_bytes(None)
    )


@lru_cache(maxsize=64)
def add_hours(generation: int) -> bytes:
    """Add to what happened in partitions' hours; sent as `joined` makes it, texts that may be empty behind a `=`."""
    return (
        sql.SQL(
            """INSERT INTO {} AS t
               SELECT to_timestamp(hour::bigint * 3600), log_partition::integer, asset, what, substr(lot_class, 2),
                      substr(source, 2), substr(reason, 2), amount::numeric
               FROM (SELECT unnest(string_to_array(%s, chr(31))) AS hour,
                            unnest(string_to_array(%s, chr(31))) AS log_partition,
                            unnest(string_to_array(%s, chr(31))) AS asset, unnest(string_to_array(%s, chr(31))) AS what,
                            unnest(string_to_array(%s, chr(31))) AS lot_class,
                            unnest(string_to_array(%s, chr(31))) AS source,
                            unnest(string_to_array(%s, chr(31))) AS reason,
                            unnest(string_to_array(%s, chr(31))) AS amount) AS u
               ON CONFLICT (hour, log_partition, asset, what, lot_class, source, reason)
               DO UPDATE SET amount = t.amount + excluded.amount"""
        )
        .format(sql.Identifier(schema_of(generation), "hourly_totals"))
        .as_bytes(None)
    )


@lru_cache(maxsize=64)
def add_totals(generation: int) -> bytes:
    """Add to what partitions have of assets, and to where it came from and went; sent as `joined` makes it."""
    return (
        sql.SQL(
            """INSERT INTO {} AS t SELECT * FROM unnest(string_to_array(%s, chr(31))::integer[],
               string_to_array(%s, chr(31)), string_to_array(%s, chr(31))::numeric[],
               string_to_array(%s, chr(31))::numeric[], string_to_array(%s, chr(31))::numeric[],
               string_to_array(%s, chr(31))::numeric[], string_to_array(%s, chr(31))::numeric[],
               string_to_array(%s, chr(31))::numeric[], string_to_array(%s, chr(31))::numeric[],
               string_to_array(%s, chr(31))::numeric[], string_to_array(%s, chr(31))::numeric[])
           ON CONFLICT (log_partition, asset) DO UPDATE
           SET credits = t.credits + excluded.credits, debt = t.debt + excluded.debt,
               issued = t.issued + excluded.issued, spent = t.spent + excluded.spent,
               expired = t.expired + excluded.expired, voided = t.voided + excluded.voided,
               forfeited = t.forfeited + excluded.forfeited, reissued = t.reissued + excluded.reissued,
               in_transit = t.in_transit + excluded.in_transit"""
        )
        .format(sql.Identifier(schema_of(generation), "totals"))
        .as_bytes(None)
    )
