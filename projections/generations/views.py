"""Points the readers' views at one generation or, for the time of a switch, at two. Decides nothing about either."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from psycopg import Connection, sql
from psycopg.errors import (
    LockNotAvailable,
)
from psycopg.rows import TupleRow
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random
from tenacity.stop import StopBaseT

from creditfold.projections.generations.catalog import SwitchBlockedError, live_number
from creditfold.projections.generations.locks import session_lock
from creditfold.projections.tables.views import VIEWS, write_view

# Numbers begin at 1: this key keeps the views to one who changes them.
VIEWS_KEY = 0

#: The remedy where a reader is in the way.
END_READERS = "See pg_stat_activity for a session that is idle in a transaction, end it, and try again."

#: Longest wait for the readers of one view, in milliseconds; readers that come later wait behind ours.
VIEW_LOCK_MS = 2_000

#: How long to try for one view, in seconds.
VIEW_S = 20


def while_blocked(stop: StopBaseT) -> Retrying:
    """Try again while somebody holds what a switch needs."""
    return Retrying(
        stop=stop, wait=wait_random(0.05, 0.5), retry=retry_if_exception_type(SwitchBlockedError), reraise=True
    )


def bound_lock_wait(connection: Connection[TupleRow], lock_ms: int) -> None:
    """Have the transaction wait for a lock at most this long, in milliseconds."""
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(lock_ms)))


@contextmanager
def looked_through(connection: Connection[TupleRow], number: int) -> Iterator[None]:
    """While the block runs, have the views show whichever of the live generation and this one is live.

    So the switch changes one row, and waits for no reader. Each view is changed in a transaction
    of its own: readers take views in any order, and a transaction that holds one while it waits for the next
    would deadlock with them.

    Raises SwitchBlockedError if a reader doesn't let go of a view, or if the views are being changed by another.
    """
    with hold_views(connection):
        try:
            for name in VIEWS:
                _WHILE_READ(_point, connection, name, live_number(connection), number)
            yield
        finally:
            if not connection.closed:
                settle_views(connection)


@contextmanager
def hold_views(connection: Connection[TupleRow]) -> Iterator[None]:
    """Hold the readers' views against others who change them. Raises SwitchBlockedError if somebody does."""
    busy = SwitchBlockedError("Somebody else switches generations, or drops one.", "Try again when they are done.")
    with session_lock(connection, VIEWS_KEY, busy):
        yield


def settle_views(connection: Connection[TupleRow]) -> list[str]:
    """Point the views that show two generations at the live one alone; returns the views that readers still hold.

    Those show the right rows too, with a longer plan, until the next switch or drop settles them.
    """
    for name in _unsettled(connection):
        with suppress(SwitchBlockedError):
            _point(connection, name, live_number(connection))
    return _unsettled(connection)


def _unsettled(connection: Connection[TupleRow]) -> list[str]:
    rows = connection.execute(
        """SELECT DISTINCT v.relname
           FROM pg_depend d JOIN pg_rewrite r ON d.objid = r.oid JOIN pg_class v ON v.oid = r.ev_class
           WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = 'ledger.generations'::regclass
             AND v.relname = ANY(%s) AND v.relnamespace = 'ledger'::regnamespace""",
        (list(VIEWS),),
    )
    return [row[0] for row in rows]


def _point(connection: Connection[TupleRow], name: str, *numbers: int) -> None:
    try:
        with connection.transaction():
            bound_lock_wait(connection, VIEW_LOCK_MS)
            write_view(connection, name, *numbers)
    except LockNotAvailable as error:
        raise SwitchBlockedError(
            f"A reader holds on to the view ledger.{name}; nothing was switched.",
            END_READERS,
        ) from error


# A busy reader leaves room between two transactions. A reader that stays is reported.
_WHILE_READ = while_blocked(stop_after_delay(VIEW_S))
