"""Session locks that keep two processes from one generation, or from the views. Knows no table."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from psycopg import Connection, Error
from psycopg.rows import TupleRow

from creditfold.projections.generations.catalog import GenerationError

# Class of the session locks that keep two folds from one generation; the key is its number.
LOCKS = 0x6366_6F6C


@contextmanager
def held(connection: Connection[TupleRow], number: int) -> Iterator[None]:
    """Hold a generation against other folds of it while the block runs. Raises GenerationError if one runs."""
    busy = GenerationError(
        f"Generation {number} is being folded by somebody else.", "Wait for it, or stop it; it can be resumed."
    )
    with session_lock(connection, number, busy):
        yield


@contextmanager
def session_lock(connection: Connection[TupleRow], key: int, busy: GenerationError) -> Iterator[None]:
    """Hold a session lock of ours while the block runs; raises `busy` if another session holds it."""
    if connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (LOCKS, key)).fetchone() != (True,):
        raise busy
    try:
        yield
    finally:
        # A session that was interrupted in the middle of a statement can't run another, nor can one that lost
        # PostgreSQL. Either ends, which releases the lock too; the error to report is the one that ended the block.
        with suppress(Error):
            if not connection.closed:
                connection.execute("SELECT pg_advisory_unlock(%s, %s)", (LOCKS, key))
