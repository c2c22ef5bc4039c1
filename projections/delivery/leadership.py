"""Who delivers: one process at a time, by a lease that PostgreSQL's clock judges, fenced by an epoch.

Owns the row of the lease. The transactions of what is delivered call `refuse_superseded` first, so that a process that
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
    row = connection.execute(
        """UPDATE ledger_delivery.leadership SET epoch = epoch + 1, owner = %(owner)s, beat_at = clock_timestamp()
           WHERE owner = '' OR beat_at < clock_timestamp() - make_interval(secs => %(lease)s) RETURNING epoch""",
        {"owner": owner, "lease": LEASE_S},
    ).fetchone()
    return None if row is None else int(row[0])


def renew(connection: Connection[Any], epoch: int) -> None:
    """Renew the lease. Raises SupersededError where another process has it."""
    cursor = connection.execute(
        "UPDATE ledger_delivery.leadership SET beat_at = clock_timestamp() WHERE epoch = %s", (epoch,)
    )
    if cursor.rowcount != 1:
        raise _superseded()


def release(connection: Connection[Any], epoch: int) -> None:
    """Give the lease up, so that another process takes over at once; nothing where another one has it."""
    connection.execute("UPDATE ledger_delivery.leadership SET owner = '' WHERE epoch = %s", (epoch,))


def refuse_superseded(connection: Connection[Any], epoch: int) -> None:
    """Hold the lease until the end of the transaction. Raises SupersededError where another process has it."""
    row = connection.execute(
        "SELECT epoch FROM ledger_delivery.leadership WHERE epoch = %s FOR KEY SHARE", (epoch,)
    ).fetchone()
    if row is None:
        raise _superseded()


def _superseded() -> SupersededError:
    return SupersededError("Another process delivers webhooks by now.", "This one stands by.")
