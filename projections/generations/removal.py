"""Drops generations: those that somebody names, and scratch ones that a killed process left behind."""

from collections.abc import Sequence
from contextlib import suppress

from psycopg import Connection, Error, sql
from psycopg.errors import LockNotAvailable
from psycopg.rows import TupleRow

from creditfold.projections.generations.catalog import GenerationError, NoGenerationError, SwitchBlockedError
from creditfold.projections.generations.locks import LOCKS, held
from creditfold.projections.generations.views import END_READERS, bound_lock_wait, hold_views, settle_views
from creditfold.projections.tables.scripts import schema_of

# Shared by all who compare with a generation made for that alone, as long as they do.
_SCRATCH_KEY = -1

#: Longest wait for whoever reads a table that is dropped, in milliseconds: readers of the views wait behind it.
DROP_LOCK_MS = 10_000

#: Purposes of generations that are dropped by the process that made them. `KEPT` is one of these that it was to leave.
SCRATCH = ("verify", "diff")
KEPT = "kept"


def hold_scratch(connection: Connection[TupleRow]) -> None:
    """Hold all scratch generations against being taken for leftovers, until the connection is closed."""
    connection.execute("SELECT pg_advisory_lock_shared(%s, %s)", (LOCKS, _SCRATCH_KEY))


def drop_leftovers(connection: Connection[TupleRow]) -> list[int]:
    """Drop the scratch generations of processes that were killed, and give back their numbers.

    Drops nothing while another process uses one: which is whose can't be seen.
    """
    key = (LOCKS, _SCRATCH_KEY)
    if connection.execute("SELECT pg_try_advisory_lock(%s, %s)", key).fetchone() != (True,):
        return []
    try:
        dropped = _scratch_numbers(connection)
        for number in dropped:
            drop(connection, number)
        return dropped
    finally:
        with suppress(Error):
            connection.execute("SELECT pg_advisory_unlock(%s, %s)", key)


def leftovers(connection: Connection[TupleRow]) -> list[int]:
    """Numbers of scratch generations that nobody uses any more: their process was killed."""
    row = connection.execute(
        """SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = %s
           AND objid::bigint = %s AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))""",
        (LOCKS, _SCRATCH_KEY & 0xFFFF_FFFF),
    ).fetchone()
    return [] if row == (True,) else _scratch_numbers(connection)


def _scratch_numbers(connection: Connection[TupleRow]) -> list[int]:
    rows = connection.execute(
        "SELECT number FROM ledger.generations WHERE purpose = ANY(%s) AND state <> 'live' ORDER BY number",
        (list(SCRATCH),),
    ).fetchall()
    return [row[0] for row in rows]


def drop(connection: Connection[TupleRow], number: int) -> None:
    """Remove a generation and its tables. Raises GenerationError for the live one and for one that is being folded."""
    with held(connection, number), hold_views(connection):
        _refuse_seen(settle_views(connection))
        _drop(connection, number)


def _refuse_seen(views: Sequence[str]) -> None:
    if views:
        raise SwitchBlockedError(
            f"Readers hold on to the view {views[0]} since generations were switched; nothing was dropped.", END_READERS
        )


def _drop(connection: Connection[TupleRow], number: int) -> None:
    with connection.transaction():
        row = connection.execute(
            "SELECT state FROM ledger.generations WHERE number = %s FOR UPDATE", (number,)
        ).fetchone()
        if row is None:
            raise NoGenerationError(f"There is no generation {number}.", "See `creditfold generations`.")
        if row[0] == "live":
            raise GenerationError(
                f"Generation {number} is live: readers see it.",
                "Activate another one first: creditfold activate NUMBER",
            )
        bound_lock_wait(connection, DROP_LOCK_MS)
        try:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema_of(number))))
        except LockNotAvailable as error:
            raise SwitchBlockedError(
                f"Readers hold on to generation {number}; it is there still.", END_READERS
            ) from error
        connection.execute("DELETE FROM ledger.generations WHERE number = %s", (number,))
