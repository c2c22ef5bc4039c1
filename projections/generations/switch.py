"""The switch from one live generation to another: halts the fold, and makes another generation the live one.

Owns the SQL of the switch. Refuses to fold: the caller folds what a generation lacks.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.errors import (
    IdleInTransactionSessionTimeout,
    LockNotAvailable,
)
from psycopg.rows import TupleRow

from creditfold.projections.generations.catalog import NoGenerationError, SwitchBlockedError, live_number
from creditfold.projections.generations.views import END_READERS, bound_lock_wait
from creditfold.projections.queries.decisions import carry_discards
from creditfold.projections.store.statements import LOOKS
from creditfold.projections.tables.scripts import schema_of

#: Longest wait for a transaction of a worker, during which the fold is halted, in milliseconds.
HALT_LOCK_MS = 2_000

#: How long the session that halts the fold may be silent, in milliseconds: it folds and compares in moments.
HALT_IDLE_MS = 30_000


class Halt(NamedTuple):
    """The halted fold: which generation is live, and the next offset of each partition."""

    number: int
    next_offsets: Mapping[int, int]


@contextmanager
def halted(connection: Connection[TupleRow]) -> Iterator[Halt]:
    """Halt the live fold, and every claim, while the block runs; commit what the block did, or nothing of it.

    Readers go on. Raises SwitchBlockedError if a worker doesn't let go in time.
    """
    try:
        with connection.transaction():
            bound_lock_wait(connection, HALT_LOCK_MS)
            # If this process is frozen or its machine is gone, the halt ends all the same.
            connection.execute(
                sql.SQL("SET LOCAL idle_in_transaction_session_timeout = {}").format(sql.Literal(HALT_IDLE_MS))
            )
            number = _locked_live(connection)
            progress = sql.Identifier(schema_of(number), "progress")
            offsets = connection.execute(
                sql.SQL("SELECT log_partition, next_offset FROM {} ORDER BY log_partition FOR UPDATE").format(progress)
            ).fetchall()
            yield Halt(number, dict(offsets))
    except IdleInTransactionSessionTimeout as error:
        raise SwitchBlockedError(
            "This process was silent for too long while the fold stood still; nothing was switched.", "Do it again."
        ) from error
    except LockNotAvailable as error:
        raise _held_by(connection) from error


# The sessions that began to write in the live generation, or to claim in it, before this one waited.
_HOLDERS = """
    SELECT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.relation IN ('ledger.generations'::regclass, to_regclass(%s)) AND l.granted AND a.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.mode IN ('RowShareLock', 'RowExclusiveLock')
      AND a.xact_start < clock_timestamp() - make_interval(secs => %s)
    GROUP BY 1, 2 ORDER BY 1
"""


def _held_by(connection: Connection[TupleRow]) -> SwitchBlockedError:
    """Name the sessions that the fold couldn't be halted for. One that is frozen in a COPY doesn't look idle."""
    progress = f"{schema_of(live_number(connection))}.progress"
    rows = connection.execute(_HOLDERS, (progress, HALT_LOCK_MS / 1000)).fetchall()
    if not rows:
        return SwitchBlockedError("A worker holds on to the live generation; nothing was switched.", END_READERS)
    who = ", ".join(f"{pid} ({name})" for pid, name in rows)
    end = ", ".join(f"pg_terminate_backend({pid})" for pid, _ in rows)
    return SwitchBlockedError(
        f"These sessions hold on to the live generation: {who}; nothing was switched.",
        f"If their worker hangs: SELECT {end}; what it had under way is folded again. Then try again.",
    )


def _locked_live(connection: Connection[TupleRow]) -> int:
    # As for a claim: another switch that this waited for leaves it no row.
    for _ in range(LOOKS):
        row = connection.execute("SELECT number FROM ledger.generations WHERE state = 'live' FOR UPDATE").fetchone()
        if row is not None:
            return int(row[0])
    raise NoGenerationError("No generation is live.", "Run `creditfold init`.")


def switch(connection: Connection[TupleRow], old: int, new: int, note: str) -> None:
    """Make another generation the live one. The live fold must be halted, and the views look through both.

    Takes effect when the halt ends. Workers that fold the old one are fenced, and claim in the new one.
    """
    old_progress, new_progress = (sql.Identifier(schema_of(number), "progress") for number in (old, new))
    # Epochs go up over generations, so that no claim in the one can be taken for one in the other.
    connection.execute(
        sql.SQL(
            """UPDATE {new} n SET epoch = greatest(n.epoch, o.epoch) + 1, owner = '' FROM {old} o
               WHERE o.log_partition = n.log_partition"""
        ).format(new=new_progress, old=old_progress)
    )
    connection.execute(sql.SQL("UPDATE {} SET epoch = epoch + 1, owner = ''").format(old_progress))
    carry_discards(connection, old, new)
    connection.execute(
        "UPDATE ledger.generations SET state = 'retired', retired_at = clock_timestamp() WHERE number = %s", (old,)
    )
    connection.execute(
        "UPDATE ledger.generations SET state = 'live', activated_at = clock_timestamp(), note = %s WHERE number = %s",
        (note, new),
    )
