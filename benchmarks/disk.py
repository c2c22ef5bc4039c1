"""How many bytes a command takes on disk, against what its data needs.

What the data needs is counted from the rows themselves: the bytes of every column's value as PostgreSQL stores it, and
for each unique key its columns once more with the six bytes of a pointer to the row, since something must find them.
Row headers, page headers, free space and indexes that only serve reading count as nothing, so the ratio says what the
layout costs. In Kafka it is the bytes of key and value before compression.
"""

from typing import Any

import psycopg
from psycopg.sql import SQL, Composable, Identifier

from creditfold.common.settings import Settings

#: What a pointer from an index to a row takes.
POINTER_BYTES = 6

_TABLES = """
    SELECT n.nspname, c.relname, array_agg(a.attname::text ORDER BY a.attnum)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
    GROUP BY 1, 2"""

_KEYS = """
    SELECT array_agg(a.attname::text)
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])
    WHERE i.indrelid = format('%%I.%%I', %s::text, %s::text)::regclass AND i.indisunique
    GROUP BY i.indexrelid"""

_SIZES = """
    SELECT c.relname, pg_relation_size(c.oid) + coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'i') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
        AND n.nspname NOT LIKE 'pg_toast%'
    ORDER BY 2 DESC"""


def in_postgres(dsn: str, count: int) -> dict[str, Any]:
    """Bytes per command of all tables and indexes of a database, which of them is how large, and what is needed."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        sizes = connection.execute(_SIZES).fetchall()
        needed = sum(_needed(connection, *table) for table in connection.execute(_TABLES).fetchall())
    total = sum(size for _, size in sizes)
    return {
        "postgres_bytes_per_command": round(total / count, 1),
        "postgres_bytes_needed": round(needed / count, 1),
        "postgres_to_needed": round(total / needed, 2),
        "postgres_bytes_by_relation": {name: round(size / count, 1) for name, size in sizes if size / count >= 0.5},
    }


def _needed(connection: psycopg.Connection[Any], schema: str, table: str, columns: list[str]) -> int:
    keys = [names for (names,) in connection.execute(_KEYS, (schema, table)).fetchall()]
    values = _width(columns) + SQL("").join(SQL(" + {} + ").format(POINTER_BYTES) + _width(key) for key in keys)
    query = SQL("SELECT coalesce(sum({}), 0)::bigint FROM {}").format(values, Identifier(schema, table))
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def _width(columns: list[str]) -> Composable:
    parts = [SQL("coalesce(pg_column_size({}), 0)").format(Identifier(name)) for name in columns]
    return SQL(" + ").join(parts)


def in_kafka(settings: Settings, count: int, needed: float) -> dict[str, float]:
    """Bytes per command of the log's segments, and how that is to the bytes of keys and values."""
    segments = (settings.data_dir / "kafka").rglob(f"{settings.commands_topic}-*/*.log")
    size = sum(path.stat().st_size for path in segments) / count
    return {
        "kafka_bytes_per_command": round(size, 1),
        "kafka_bytes_needed": round(needed, 1),
        "kafka_to_needed": round(size / needed, 2),
    }


def wal_position(dsn: str) -> int:
    """Bytes that PostgreSQL has ever written ahead, of all databases."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").fetchone()
    return int(row[0]) if row else 0
