"""Who delivers: one process at a time, by a lease that PostgreSQL's clock judges, fenced by an epoch.

Owns the rows of both. The transactions of what is delivered call `refuse_superseded` first, so that a process that
was frozen, and lost its lease meanwhile, changes nothing when it wakes up.
"""

from typing import Any

from psycopg import Connection

from creditfold.common.errors import CreditfoldError

#: Seconds for which a lease holds that isn't renewed.
LEASE_S = 10.0


class SupersededError(CreditfoldError):
    """Another process delivers by now."""


def claim(connection: Connection[Any], owner: str) -> int | None:
    """Take the lease, if it is free or has run out; its epoch then, else None.

    Args:
        connection: in autocommit.
        owner: this process's name.
    """
    with connection.transaction():
        # Of two who look at once, one waits here, and then sees the other's.
        over = connection.execute(
            """SELECT renewed_at < clock_timestamp() - make_interval(secs => %s) FROM ledger_delivery.lease
               FOR UPDATE""",
            (LEASE_S,),
        ).fetchone()
        # This waits for the transactions of the one before, which hold the row.
        row = connection.execute(
            """UPDATE ledger_delivery.leadership SET epoch = epoch + 1, owner = %s WHERE owner = '' OR %s
               RETURNING epoch""",
            (owner, over == (True,)),
        ).fetchone()
        if row is not None:
            connection.execute("UPDATE ledger_delivery.lease SET renewed_at = clock_timestamp()")
    return None if row is None else int(row[0])


def renew(connection: Connection[Any], epoch: int) -> None:
    """Renew the lease. Raises SupersededError where another process has it."""
    cursor = connection.execute(
        """UPDATE ledger_delivery.lease SET renewed_at = clock_timestamp()
           WHERE EXISTS (SELECT FROM ledger_delivery.leadership WHERE epoch = %s)""",
        (epoch,),
    )
    if cursor.rowcount != 1:
        raise _superseded()


def release(connection: Connection[Any], epoch: int) -> None:
    """Give the lease up, so that another process takes over at once; nothing where another one has it."""
    connection.execute("UPDATE ledger_delivery.leadership SET owner = '' WHERE epoch = %s", (epoch,))


def refuse_superseded(connection: Connection[Any], epoch: int) -> None:
    """Let no other process take over until the end of the transaction. Raises SupersededError where one has."""
    row = connection.execute(
        "SELECT epoch FROM ledger_delivery.leadership WHERE epoch = %s FOR SHARE", (epoch,)
    ).fetchone()
    if row is None:
        raise _superseded()


def _superseded() -> SupersededError:
    return SupersededError("Another process delivers webhooks by now.", "This one stands by.")
