"""Long work of operators: who began it and why, how far it is, what came of it. All of its SQL is here.

An operation is done by a process of its own, which holds a session lock for as long as it runs. So whether it runs is
asked of PostgreSQL, and not of a process that may have been killed: one that has neither ended nor a lock was
interrupted. Refuses to know what is done.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection, Error
from psycopg.types.json import Jsonb

from creditfold.common.errors import CreditfoldError
from creditfold.projections.access.audit import Actor, record_action
from creditfold.projections.connections import rows_of

#: Class of the session locks of running operations; the key is an operation's number, 0 is for those who begin one.
LOCKS = 0x6366_6F6F
#: Seconds that the process of an operation has to begin; after that it doesn't any more.
START_S = 60

STARTING, RUNNING, CANCELLING = "starting", "running", "cancelling"
DONE, FAILED, CANCELLED, INTERRUPTED = "done", "failed", "cancelled", "interrupted"


class UnknownOperationError(CreditfoldError):
    """There is no such operation."""

    exit_code = 2


class OperationUnderWayError(CreditfoldError):
    """Another operation of the kind hasn't ended."""

    def __init__(self, other: "Operation") -> None:
        super().__init__(
            f"Operation {other.number}, {other.kind}, is {other.state}; {other.who} began it: {other.why}.",
            f"Wait for it: GET /v1/operations/{other.number}. There is one of a kind at a time.",
        )
        self.number = other.number


class OperationGoneError(CreditfoldError):
    """An operation was to be begun that has begun or came too late."""


class Operation(NamedTuple):
    """An operation. `state` is starting, running, cancelling, done, failed, cancelled or interrupted.

    `done` of `total` records are behind the step; 0 of 0 where there is nothing to count. `error` has a code, a message
    and a remedy.
    """

    number: int
    kind: str
    state: str
    parameters: Mapping[str, Any]
    who: str
    address: str
    why: str
    request_id: str
    generation: int | None
    begun_at: datetime
    reported_at: datetime
    ended_at: datetime | None
    step: str
    done: int
    total: int
    result: Mapping[str, Any] | None
    error: Mapping[str, str] | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in (DONE, FAILED, CANCELLED, INTERRUPTED)

    @property
    def by(self) -> Actor:
        """Who began it."""
        return Actor(self.who, self.address, self.why, self.request_id)


_OPERATIONS = """
    SELECT number, kind,
           CASE WHEN state IN ('done', 'failed', 'cancelled') THEN state
                WHEN EXISTS (
                    SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = %(locks)s
                        AND objid::bigint = number
                        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                ) THEN CASE WHEN cancel_at IS NULL THEN 'running' ELSE 'cancelling' END
                WHEN state = 'starting' AND begun_at > clock_timestamp() - make_interval(secs => %(start_s)s) THEN state
                ELSE 'interrupted' END AS state,
           parameters, who, address, why, request_id, generation, begun_at, reported_at, ended_at, step, done, total,
           result, error
    FROM ledger_access.operations
    WHERE (%(number)s::integer IS NULL OR number = %(number)s) AND (%(kinds)s::text[] IS NULL OR kind = ANY(%(kinds)s))
        AND (%(before)s::integer IS NULL OR number < %(before)s)
    ORDER BY number DESC LIMIT %(limit)s"""


def operations(
    connection: Connection[Any], kinds: Sequence[str], *, before: int | None = None, limit: int = 100
) -> list[Operation]:
    """The latest operations of some kinds, newest first; `before` is the number of the one to go on behind."""
    return _found(connection, kinds=list(kinds), before=before, limit=limit)


def operation_of(connection: Connection[Any], number: int) -> Operation:
    """The operation of a number. Raises UnknownOperationError."""
    found = _found(connection, number=number)
    if not found:
        raise UnknownOperationError(f"There is no operation {number}.", "GET /v1/operations lists them.")
    return found[0]


def _found(connection: Connection[Any], **wanted: Any) -> list[Operation]:
    values = {"number": None, "kinds": None, "before": None, "limit": 1, **wanted}
    unlocked: set[int] = set()
    while True:
        rows = rows_of(connection, Operation, _OPERATIONS, {"locks": LOCKS, "start_s": START_S, **values})
        found = {row.number for row in rows if row.state == INTERRUPTED}
        # Locks are of now, rows of when the statement began. Who let the lock go had written down the end before.
        if found <= unlocked:
            return rows
        unlocked |= found


def begin_operation(
    connection: Connection[Any],
    kind: str,
    parameters: Mapping[str, Any],
    *,
    by: Actor,
    generation: int | None = None,
    before: Mapping[str, Any] | None = None,
) -> Operation:
    """Record an operation that a process is to do, and in the audit that somebody wants it.

    Args:
        connection: to the database.
        kind: what is done; also the action in the audit.
        parameters: as JSON has them.
        by: who does it, and why.
        generation: that it is about, if one is named.
        before: what it is going to change, for the audit.

    Raises:
        OperationUnderWayError: another of this kind hasn't ended.
        ReasonMissingError: nobody says why.
    """
    with connection.transaction():
        # Of two who begin at once, one waits here, and then sees the other's.
        connection.execute("SELECT pg_advisory_xact_lock(%s, 0)", (LOCKS,))
        latest = operations(connection, [kind], limit=1)
        if latest and not latest[0].has_ended:
            raise OperationUnderWayError(latest[0])
        row = connection.execute(
            """INSERT INTO ledger_access.operations (kind, parameters, who, address, why, request_id, generation)
               VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING number""",
            (kind, Jsonb(dict(parameters)), by.who, by.address, by.reason, by.request_id, generation),
        ).fetchone()
        number = int(row[0]) if row else 0
        target = f"operation {number}"
        record_action(connection, **by._asdict(), action=kind, target=target, before={**parameters, **(before or {})})
        return operation_of(connection, number)


def cancel_operation(connection: Connection[Any], number: int, by: Actor) -> Operation:
    """Have an operation end early: at once where no process has taken it yet, else as soon as its process sees this.

    What has ended stays as it is, and what is asked for twice is audited once.

    Args:
        connection: to the database.
        number: of the operation.
        by: who wants it, and why.

    Returns:
        The operation: cancelling, or what it came to.

    Raises:
        UnknownOperationError: there is none.
        ReasonMissingError: nobody says why.
    """
    with connection.transaction():
        # A process that takes it now waits, and so does one that writes down its end.
        connection.execute("SELECT FROM ledger_access.operations WHERE number = %s FOR UPDATE", (number,))
        found = operation_of(connection, number)
        if found.state not in (STARTING, RUNNING):
            return found
        target, before = f"operation {number}", {"state": found.state}
        record_action(connection, **by._asdict(), action="operations.cancel", target=target, before=before)
        connection.execute(
            "UPDATE ledger_access.operations SET cancel_at = clock_timestamp() WHERE number = %s", (number,)
        )
        if found.state == STARTING:
            record_end(connection, number, is_cancelled=True)
        return operation_of(connection, number)


def is_to_end(connection: Connection[Any], number: int) -> bool:
    """Whether somebody wants an operation to end early."""
    row = connection.execute(
        "SELECT FROM ledger_access.operations WHERE number = %s AND cancel_at IS NOT NULL", (number,)
    ).fetchone()
    return row is not None


@contextmanager
def running(connection: Connection[Any], number: int) -> Iterator[Operation]:
    """Take an operation that was begun, and show for the length of the block that it runs.

    Args:
        connection: with a session of its own, in no transaction.
        number: of the operation.

    Raises:
        OperationGoneError: another process has taken it, or it began too long ago.
    """
    locked = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (LOCKS, number)).fetchone() == (True,)
    try:
        taken = connection.execute(
            """UPDATE ledger_access.operations SET state = 'running', reported_at = clock_timestamp()
               WHERE number = %s AND state = 'starting' AND begun_at > clock_timestamp() - make_interval(secs => %s)""",
            (number, START_S),
        )
        if not locked or taken.rowcount != 1:
            raise OperationGoneError(f"Operation {number} isn't to be begun any more.", "Begin another one.")
        yield operation_of(connection, number)
    finally:
        with suppress(Error):
            if locked and not connection.closed:
                connection.execute("SELECT pg_advisory_unlock(%s, %s)", (LOCKS, number))


def record_progress(connection: Connection[Any], number: int, step: str, done: int, total: int) -> None:
    """Record what an operation does now, and how far that is."""
    connection.execute(
        """UPDATE ledger_access.operations SET step = %s, done = %s, total = %s, reported_at = clock_timestamp()
           WHERE number = %s""",
        (step, done, total, number),
    )


def record_generation(connection: Connection[Any], number: int, generation: int) -> None:
    """Record which generation an operation makes."""
    connection.execute("UPDATE ledger_access.operations SET generation = %s WHERE number = %s", (generation, number))


def record_end(
    connection: Connection[Any],
    number: int,
    *,
    result: Mapping[str, Any] | None = None,
    error: Mapping[str, str] | None = None,
    is_cancelled: bool = False,
) -> None:
    """Record what came of an operation, also in the audit: its result, an error that ended it, or that somebody did."""
    state = CANCELLED if is_cancelled else DONE if error is None else FAILED
    with connection.transaction():
        connection.execute(
            """UPDATE ledger_access.operations
               SET state = %s, result = %s, error = %s, ended_at = clock_timestamp(), reported_at = clock_timestamp()
               WHERE number = %s""",
            (state, _json(result), _json(error), number),
        )
        ended = operation_of(connection, number)
        after = {"state": state, "generation": ended.generation, **(error or _brief(result or {}))}
        by = ended.by._asdict()
        record_action(connection, **by, action=ended.kind, target=f"operation {number}", after=after)


def _brief(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without its lists, which the operation has."""
    return {name: value for name, value in result.items() if not isinstance(value, list | dict)}


def _json(value: Mapping[str, Any] | None) -> Jsonb | None:
    return None if value is None else Jsonb(dict(value))
