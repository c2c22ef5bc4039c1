"""What waits for an endpoint or was given up, and what was tried: read, sent again, and forgotten when it is old.

Owns the tables of deliveries and attempts as people see them; checkpoints.py writes them while events are delivered.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.common.errors import CreditfoldError
from creditfold.projections.access.audit import Actor, record_action
from creditfold.projections.connections import rows_of
from creditfold.projections.delivery.endpoints import endpoint_of

PENDING, PARKED = "pending", "parked"

#: What is kept of attempts: days, and of an endpoint at most so many.
ATTEMPT_DAYS = 7
MAX_ATTEMPTS = 10_000
#: Days after which what was given up is forgotten, and so are alerts and notices.
PARKED_DAYS = 30
#: Events that one request has sent again at most.
MAX_RESENT = 10_000


class UnknownDeliveryError(CreditfoldError):
    """There is nothing to be sent again."""

    exit_code = 2


class Delivery(NamedTuple):
    """An event that waits for an endpoint (`pending`), or was given up after the last try (`parked`).

    `lane` is what it is delivered in order with; `position` is where the log has what it is about, empty if nowhere.
    """

    endpoint_id: str
    webhook_id: str
    number: int
    lane: str
    type: str
    account_id: str
    position: str
    state: str
    tries: int
    next_at: datetime
    error: str
    made_at: datetime


class Attempt(NamedTuple):
    """One request. `status` is None where there was no answer; `answer` is how it begins, a KiB at most."""

    number: int
    endpoint_id: str
    webhook_id: str
    type: str
    account_id: str
    at: datetime
    try_number: int
    status: int | None
    latency_ms: int
    error: str
    answer: bytes


class DeliveryFilter(NamedTuple):
    """Which deliveries of an endpoint; None is any."""

    state: str | None = None
    type: str | None = None
    account_prefix: str = ""
    since: datetime | None = None
    until: datetime | None = None


class NewDelivery(NamedTuple):
    """An event that is to be delivered, with its body."""

    webhook_id: str
    lane: str
    type: str
    account_id: str
    position: str
    traceparent: str
    body: str


_FILTER: LiteralString = """
    endpoint_id = %(endpoint)s AND (%(state)s::text IS NULL OR state = %(state)s)
    AND (%(type)s::text IS NULL OR type = %(type)s) AND starts_with(account_id, %(account_prefix)s)
    AND (%(since)s::timestamptz IS NULL OR made_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR made_at < %(until)s)
"""
_DELIVERIES: LiteralString = """
    SELECT endpoint_id, webhook_id, number, lane, type, account_id, position, state, tries, next_at, error, made_at
    FROM ledger_delivery.deliveries WHERE
"""
# The numbers are drawn in the order in which they were.
_AGAIN: LiteralString = """
    UPDATE ledger_delivery.deliveries d
    SET state = 'pending', tries = 0, next_at = clock_timestamp(), error = '', number = n.number
    FROM (SELECT webhook_id, nextval('ledger_delivery.delivery_numbers') AS number
          FROM (SELECT webhook_id FROM ledger_delivery.deliveries WHERE
"""
_IN_ORDER: LiteralString = """
                ORDER BY number LIMIT %(most)s) AS chosen) AS n
    WHERE d.endpoint_id = %(endpoint)s AND d.webhook_id = n.webhook_id
"""


def deliveries(
    connection: Connection[Any],
    endpoint_id: str,
    wanted: DeliveryFilter = DeliveryFilter(),  # noqa: B008 - It can't be changed.
    *,
    after: int = 0,
    limit: int = 100,
) -> Sequence[Delivery]:
    """What waits for an endpoint or was given up, oldest first; `after` is the number of the one to go on behind."""
    values = {**wanted._asdict(), "endpoint": endpoint_id, "after": after, "limit": limit}
    return rows_of(
        connection, Delivery, _DELIVERIES + _FILTER + "AND number > %(after)s ORDER BY number LIMIT %(limit)s", values
    )


def attempts(
    connection: Connection[Any],
    endpoint_id: str,
    *,
    webhook_id: str | None = None,
    before: int | None = None,
    limit: int = 100,
) -> Sequence[Attempt]:
    """An endpoint's latest requests, newest first.

    Args:
        connection: to the database.
        endpoint_id: of the endpoint.
        webhook_id: only those of this event; None for any.
        before: the number of the one to go on behind.
        limit: how many at most.
    """
    return rows_of(
        connection,
        Attempt,
        """SELECT number, endpoint_id, webhook_id, type, account_id, at, try AS try_number, status, latency_ms, error,
                  answer
           FROM ledger_delivery.attempts
           WHERE endpoint_id = %(endpoint)s AND (%(webhook)s::text IS NULL OR webhook_id = %(webhook)s)
               AND (%(before)s::bigint IS NULL OR number < %(before)s) ORDER BY number DESC LIMIT %(limit)s""",
        {"endpoint": endpoint_id, "webhook": webhook_id, "before": before, "limit": limit},
    )


def resend_one(connection: Connection[Any], endpoint_id: str, webhook_id: str, *, by: Actor) -> int:
    """Send an event again that waits or was given up. Raises UnknownEndpointError, UnknownDeliveryError."""
    found = _resend(
        connection, endpoint_id, "endpoint_id = %(endpoint)s AND webhook_id = %(webhook)s", {"webhook": webhook_id}, by
    )
    if not found:
        raise UnknownDeliveryError(
            f"No event {webhook_id[:60]!r} waits for {endpoint_id}, or was given up.",
            "What was delivered is sent again by its position: --from PARTITION:OFFSET --to PARTITION:OFFSET.",
        )
    return found


def resend_parked(connection: Connection[Any], endpoint_id: str, wanted: DeliveryFilter, *, by: Actor) -> int:
    """Send again what was given up, of a filter, MAX_RESENT at most; returns how many. Raises UnknownEndpointError."""
    values = {**wanted._replace(state=PARKED)._asdict(), "endpoint": endpoint_id}
    return _resend(connection, endpoint_id, _FILTER, values, by)


def _resend(
    connection: Connection[Any], endpoint_id: str, which: LiteralString, values: dict[str, Any], by: Actor
) -> int:
    with connection.transaction():
        _lock_endpoint(connection, endpoint_id)
        found = connection.execute(
            _AGAIN + which + _IN_ORDER, {**values, "endpoint": endpoint_id, "most": MAX_RESENT}
        ).rowcount
        _record_resend(connection, endpoint_id, found, by)
    return found


def add_deliveries(connection: Connection[Any], endpoint_id: str, new: Sequence[NewDelivery], *, by: Actor) -> int:
    """Have events delivered to an endpoint again, or for the first time; returns how many weren't waiting already.

    Raises UnknownEndpointError.
    """
    with connection.transaction():
        _lock_endpoint(connection, endpoint_id)
        with connection.cursor() as cursor:
            cursor.executemany(
                """INSERT INTO ledger_delivery.deliveries AS d
                       (endpoint_id, webhook_id, lane, type, account_id, position, traceparent, body, state, tries,
                        next_at, error)
                   VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'pending', 0, clock_timestamp(), '')
                   ON CONFLICT (endpoint_id, webhook_id) DO UPDATE SET state = 'pending', tries = 0, error = '',
                       next_at = excluded.next_at, number = excluded.number WHERE d.state = 'parked'""",
                [(endpoint_id, *one) for one in new],
            )
            found = cursor.rowcount
        _record_resend(connection, endpoint_id, found, by)
    return found


def _lock_endpoint(connection: Connection[Any], endpoint_id: str) -> None:
    # Before any number is drawn: an endpoint's numbers are seen in their order then.
    connection.execute("UPDATE ledger_delivery.endpoints SET revision = revision + 1 WHERE id = %s", (endpoint_id,))
    endpoint_of(connection, endpoint_id)


def _record_resend(connection: Connection[Any], endpoint_id: str, count: int, by: Actor) -> None:
    record_action(connection, **by._asdict(), action="webhooks.resend", target=endpoint_id, after={"deliveries": count})


class EndpointCounts(NamedTuple):
    """How an endpoint stands: what waits, what was given up, and how many offsets it hasn't been through yet."""

    endpoint_id: str
    pending: int
    parked: int
    behind: int


def counts(connection: Connection[Any]) -> dict[str, EndpointCounts]:
    """How each endpoint stands, by its id."""
    rows = rows_of(
        connection,
        EndpointCounts,
        """SELECT e.id AS endpoint_id, w.pending, w.parked, c.behind
           FROM ledger_delivery.endpoints e
           CROSS JOIN LATERAL (
               SELECT count(*) FILTER (WHERE state = 'pending') AS pending,
                      count(*) FILTER (WHERE state = 'parked') AS parked
               FROM ledger_delivery.deliveries d WHERE d.endpoint_id = e.id) w
           CROSS JOIN LATERAL (
               SELECT coalesce(sum(greatest(p.next_offset - k.log_offset, 0)), 0)::bigint AS behind
               FROM ledger_delivery.cursors k JOIN ledger.progress p USING (log_partition)
               WHERE k.endpoint_id = e.id) c""",
    )
    return {row.endpoint_id: row for row in rows}


def forget_old(connection: Connection[Any]) -> None:
    """Forget attempts that are old or too many, and what was given up, noticed or alerted long ago."""
    connection.execute(
        "DELETE FROM ledger_delivery.attempts WHERE at < clock_timestamp() - make_interval(days => %s)",
        (ATTEMPT_DAYS,),
    )
    connection.execute(
        """DELETE FROM ledger_delivery.attempts a USING ledger_delivery.endpoints e
           WHERE a.endpoint_id = e.id AND a.number <= (
               SELECT number FROM ledger_delivery.attempts m WHERE m.endpoint_id = e.id
               ORDER BY number DESC OFFSET %s LIMIT 1)""",
        (MAX_ATTEMPTS,),
    )
    connection.execute(
        """DELETE FROM ledger_delivery.deliveries
           WHERE state = 'parked' AND made_at < clock_timestamp() - make_interval(days => %s)""",
        (PARKED_DAYS,),
    )
    for query in _FORGET:
        connection.execute(query, (PARKED_DAYS,))


_FORGET: tuple[LiteralString, ...] = (
    "DELETE FROM ledger_delivery.notices WHERE made_at < clock_timestamp() - make_interval(days => %s)",
    "DELETE FROM ledger_delivery.alerts WHERE made_at < clock_timestamp() - make_interval(days => %s)",
)
