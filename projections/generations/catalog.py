"""The catalog of generations: which there are, how far each is folded, which is live. Reads only."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple

from psycopg import Connection, sql
from psycopg.errors import (
    InvalidSchemaName,
    UndefinedTable,
)
from psycopg.rows import TupleRow, dict_row

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log
from creditfold.log.bookmark import Bookmark, LastRecord
from creditfold.projections.tables.scripts import schema_of
from creditfold.projections.tables.source import live, searchable_of, source_of


class GenerationError(CreditfoldError):
    """A generation that can't be used for what was asked."""


class NoGenerationError(GenerationError):
    """There is no generation of that number."""

    exit_code = 2


class SameGenerationError(GenerationError):
    """A generation was to be compared with itself."""

    exit_code = 2


class SwitchBlockedError(GenerationError):
    """Somebody holds what the switch needs; nothing was switched."""


class Generation(NamedTuple):
    """One generation. `next_offsets` and `chains` are by partition; `digest` is one text for all of them.

    `until_ms` and `until_offsets` say where its fold ends, if not at the log's end; `forced_rules` which version of the
    rules decided everything in it, if the log didn't say. Sizes are in bytes, on disk, indexes included. `searchable`
    are the keys of metadata that it indexes; `indexes_balances` says whether it indexes balances and what ends.
    """

    number: int
    state: str
    purpose: str
    layout: int
    forced_rules: int | None
    until_ms: int | None
    until_offsets: Mapping[int, int] | None
    made_at: datetime
    ready_at: datetime | None
    activated_at: datetime | None
    retired_at: datetime | None
    note: str
    log: Log
    records: int
    next_offsets: Mapping[int, int]
    digest: str
    size_bytes: int
    searchable: Sequence[str]
    indexes_balances: bool

    @property
    def is_partial(self) -> bool:
        """Whether it is for looking at only: it ends somewhere, or was decided by other rules than the log's."""
        return self.until_ms is not None or self.until_offsets is not None or self.forced_rules is not None


class Building(NamedTuple):
    """A generation that is being built, or whose building was stopped.

    Fields:
        number: its number.
        purpose: what it is made for: `rebuild`, or a comparison.
        next_offsets: by partition where its fold continues.
        until_offsets: by partition where its fold ends, if not at the log's end.
    """

    number: int
    purpose: str
    next_offsets: Mapping[int, int]
    until_offsets: Mapping[int, int]


def generations(connection: Connection[TupleRow], number: int | None = None) -> list[Generation]:
    """Every generation, oldest first, or the one of a number alone."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_CATALOG, {"number": number}).fetchall()
    found = (_generation(connection, row) for row in rows)
    return [row for row in found if row is not None]


def generation(connection: Connection[TupleRow], number: int) -> Generation:
    """One generation. Raises NoGenerationError."""
    found = generations(connection, number)
    if not found:
        raise NoGenerationError(f"There is no generation {number}.", "See `creditfold generations`.")
    return found[0]


def refuse_live(found: Generation) -> None:
    """Raise GenerationError for the live generation, of which there is nothing to be rebuilt or activated."""
    if found.state == "live":
        raise GenerationError(
            f"Generation {found.number} is live: readers see it, and workers fold it.",
            "There is nothing to activate. To fold the log anew: creditfold rebuild",
        )


def refuse_unready(found: Generation) -> None:
    """Raise GenerationError for a generation that isn't finished, or is for looking at."""
    if found.state == "building":
        raise GenerationError(
            f"Generation {found.number} isn't finished.", f"Finish it: creditfold rebuild --resume {found.number}"
        )
    if found.is_partial:
        raise GenerationError(
            f"Generation {found.number} is for looking at: it ends early, or was decided by rules of choice.",
            "Rebuild a whole one: creditfold rebuild",
        )


def building(connection: Connection[TupleRow]) -> list[Building]:
    """The generations that aren't finished, oldest first; nothing is asked that takes longer in larger ones."""
    query = "SELECT number, purpose, until_offsets FROM ledger.generations WHERE state = 'building' ORDER BY number"
    found = []
    for number, purpose, until in connection.execute(query).fetchall():
        # One that is dropped just now is passed over.
        with suppress(UndefinedTable, InvalidSchemaName):
            stands = {partition: mark.next_offset for partition, mark in bookmarks(connection, number).items()}
            found.append(Building(number, purpose, stands, _by_partition(until or {})))
    return found


def bookmarks(connection: Connection[TupleRow], number: int) -> dict[int, Bookmark]:
    """Where a generation's fold of each partition stopped reading the log."""
    query = "SELECT log_partition, next_offset, clock_ms, last_offset, last_digest FROM {}"
    rows = connection.execute(sql.SQL(query).format(sql.Identifier(schema_of(number), "progress"))).fetchall()
    return {partition: Bookmark(at, LastRecord(*last), clock_ms) for partition, at, clock_ms, *last in rows}


def live_number(connection: Connection[TupleRow]) -> int:
    """Number of the live generation. Raises NoGenerationError before `creditfold init`."""
    found = live(connection)
    if found is None:
        raise NoGenerationError("No generation is live.", "Run `creditfold init`.")
    return found[0]


_CATALOG = """
    SELECT number, state, purpose, layout, forced_rules, until_ms, until_offsets, made_at, ready_at, activated_at,
           retired_at, note
    FROM ledger.generations WHERE %(number)s::integer IS NULL OR number = %(number)s ORDER BY number
"""


def _generation(connection: Connection[TupleRow], row: dict[str, Any]) -> Generation | None:
    """One generation with what its tables say; None for one that was dropped since."""
    try:
        return _with_tables(connection, row)
    except (UndefinedTable, InvalidSchemaName):
        return None


def _with_tables(connection: Connection[TupleRow], row: dict[str, Any]) -> Generation:
    schema, until = schema_of(row["number"]), row.pop("until_offsets")
    progress = connection.execute(
        sql.SQL(
            """SELECT log_partition, next_offset, chain,
                      accepted + rejected + duplicates + dead_letters + activations + ticks
               FROM {} ORDER BY log_partition"""
        ).format(sql.Identifier(schema, "progress"))
    ).fetchall()
    size = connection.execute(
        "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relnamespace = to_regnamespace(%s)"
        " AND relkind = 'r'",
        (schema,),
    ).fetchone()
    return Generation(
        **row,
        until_offsets=None if until is None else _by_partition(until),
        log=source_of(connection, row["number"]),
        records=sum(line[3] for line in progress),
        next_offsets={line[0]: line[1] for line in progress},
        digest=_digest([(line[0], line[1], bytes(line[2]).hex()) for line in progress]),
        size_bytes=int(size[0]) if size else 0,
        searchable=searchable_of(connection, row["number"]),
        indexes_balances=connection.execute("SELECT to_regclass(%s)", (f"{schema}.balances_available",)).fetchone()
        != (None,),
    )


def _by_partition(stored: Mapping[str, int]) -> dict[int, int]:
    """Offsets as JSON keeps them, whose keys are texts."""
    return {int(partition): offset for partition, offset in stored.items()}


def _digest(rows: list[tuple[int, int, str]]) -> str:
    """One short text that changes with the offset and the chain of any partition."""
    return blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()
