"""What a deliverer writes: how far an endpoint has been, what failed, what was tried; each checkpoint in a transaction.

Owns that a cursor, and the rows of what is behind it and not delivered, are of one transaction; that the transaction is
of the process that leads; and what a deliverer reads to go on where the last one ended.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import Connection
from psycopg.types.json import Jsonb

from creditfold.projections.connections import rows_of
from creditfold.projections.delivery.leadership import refuse_superseded
from creditfold.projections.queries.windows import Place


class EndpointGoneError(Exception):
    """An endpoint was deleted or disabled meanwhile: nothing of it is to be written."""


class Cursor(NamedTuple):
    """How far an endpoint has been in a partition, and the last line before it."""

    partition: int
    place: Place
    last_account: str = ""
    last_version: int = 0


class Waiting(NamedTuple):
    """A row of what is to be delivered; the body is read when it is sent."""

    webhook_id: str
    number: int
    lane: str
    type: str
    account_id: str
    position: str
    traceparent: str
    tries: int
    next_at: datetime


class Row(NamedTuple):
    """A row of deliveries, as it is to be; `body` is None where it is there already."""

    webhook_id: str
    lane: str
    type: str
    account_id: str
    position: str
    traceparent: str
    body: str | None
    state: str
    tries: int
    next_at: datetime
    error: str


class Tried(NamedTuple):
    """One request, to be kept."""

    webhook_id: str
    type: str
    account_id: str
    at: datetime
    try_number: int
    status: int | None
    latency_ms: int
    error: str
    answer: bytes


class Checkpoint(NamedTuple):
    """What is written at once. `failing_since` and `disabled_why` are those of the endpoint from now on."""

    cursors: Sequence[Cursor] = ()
    rows: Sequence[Row] = ()
    delivered: Sequence[str] = ()
    tried: Sequence[Tried] = ()
    failing_since: datetime | None = None
    disabled_why: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is worth a transaction of its own."""
        return not (self.cursors or self.rows or self.delivered or self.tried or self.disabled_why)


def save_checkpoint(connection: Connection[Any], epoch: int, endpoint_id: str, made: Checkpoint) -> None:
    """Write a checkpoint.

    Args:
        connection: in autocommit.
        epoch: of the process that leads.
        endpoint_id: of the endpoint.
        made: what is written.

    Raises:
        SupersededError: another process leads. Nothing was written.
        EndpointGoneError: the endpoint was deleted or disabled. Nothing was written.
    """
    with connection.transaction():
        refuse_superseded(connection, epoch)
        row = connection.execute(
            "SELECT state, failing_since FROM ledger_delivery.endpoints WHERE id = %s FOR UPDATE", (endpoint_id,)
        ).fetchone()
        if row is None or row[0] != "enabled":
            raise EndpointGoneError
        _save_cursors(connection, endpoint_id, made.cursors)
        _save_rows(connection, endpoint_id, made.rows)
        if made.delivered:
            connection.execute(
                "DELETE FROM ledger_delivery.deliveries WHERE endpoint_id = %s AND webhook_id = ANY(%s)",
                (endpoint_id, list(made.delivered)),
            )
        _save_tried(connection, endpoint_id, made.tried)
        if made.failing_since != row[1]:
            connection.execute(
                "UPDATE ledger_delivery.endpoints SET failing_since = %s WHERE id = %s",
                (made.failing_since, endpoint_id),
            )
        if made.disabled_why:
            _disable(connection, endpoint_id, made.disabled_why)


def _save_cursors(connection: Connection[Any], endpoint_id: str, cursors: Sequence[Cursor]) -> None:
    if not cursors:
        return
    columns = zip(*((one.partition, *one.place, one.last_account, one.last_version) for one in cursors), strict=True)
    connection.execute(
        """UPDATE ledger_delivery.cursors c SET log_offset = n.log_offset, account_id = n.account, version = n.version,
               last_account = n.last_account, last_version = n.last_version
           FROM unnest(%s::integer[], %s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::bigint[])
               AS n (log_partition, log_offset, account, version, last_account, last_version)
           WHERE c.endpoint_id = %s AND c.log_partition = n.log_partition""",
        (*map(list, columns), endpoint_id),
    )


def _save_rows(connection: Connection[Any], endpoint_id: str, rows: Sequence[Row]) -> None:
    new = [row for row in rows if row.body is not None]
    known = [row for row in rows if row.body is None]
    if new:
        # What is there already was stored before a crash, and its tries count.
        connection.execute(
            """INSERT INTO ledger_delivery.deliveries
                   (endpoint_id, webhook_id, lane, type, account_id, position, traceparent, body, state, tries, next_at,
                    error)
               SELECT %s, n.* FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                   %s::text[], %s::text[], %s::integer[], %s::timestamptz[], %s::text[]) AS n
               ON CONFLICT DO NOTHING""",
            (endpoint_id, *map(list, zip(*new, strict=True))),
        )
    if known:
        columns = zip(*((one.webhook_id, one.state, one.tries, one.next_at, one.error) for one in known), strict=True)
        connection.execute(
            """UPDATE ledger_delivery.deliveries d
               SET state = n.state, tries = n.tries, next_at = n.next_at, error = n.error
               FROM unnest(%s::text[], %s::text[], %s::integer[], %s::timestamptz[], %s::text[])
                   AS n (webhook_id, state, tries, next_at, error)
               WHERE d.endpoint_id = %s AND d.webhook_id = n.webhook_id""",
            (*map(list, columns), endpoint_id),
        )


def _save_tried(connection: Connection[Any], endpoint_id: str, tried: Sequence[Tried]) -> None:
    if tried:
        connection.execute(
            """INSERT INTO ledger_delivery.attempts
                   (endpoint_id, webhook_id, type, account_id, at, try, status, latency_ms, error, answer)
               SELECT %s, n.* FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::integer[],
                   %s::integer[], %s::integer[], %s::text[], %s::bytea[]) AS n""",
            (endpoint_id, *map(list, zip(*tried, strict=True))),
        )


def _disable(connection: Connection[Any], endpoint_id: str, why: str) -> None:
    """Call an endpoint no more, and have its owner's others hear of it."""
    row = connection.execute(
        """UPDATE ledger_delivery.endpoints
           SET state = 'disabled', disabled_why = %s, disabled_at = clock_timestamp(), revision = revision + 1
           WHERE id = %s
           RETURNING owner, url, revision, round(extract(epoch FROM disabled_at) * 1000)::bigint""",
        (why, endpoint_id),
    ).fetchone()
    if row is None:
        return
    owner, url, revision, at_ms = row
    add_notice(
        connection, "endpoint.disabled", owner=owner, identity=f"{endpoint_id} {revision}", at_ms=at_ms,
        data={"endpoint": endpoint_id, "url": url, "reason": why},
    )  # fmt: skip


def add_notice(
    connection: Connection[Any],
    kind: str,
    *,
    identity: str,
    at_ms: int,
    data: dict[str, Any],
    owner: str = "",
    account: str = "",
) -> None:
    """Add an event that belongs to no line of the journal.

    Args:
        connection: in a transaction.
        kind: the event's type.
        identity: what its ids are made of.
        at_ms: when it happened, in milliseconds since 1970 UTC.
        data: of the event.
        owner: whose endpoints get it; empty: all.
        account: that it is about, if it is about one.
    """
    connection.execute(
        """INSERT INTO ledger_delivery.notices (type, account_id, owner, identity, at_ms, data)
           VALUES (%s, %s, %s, %s, %s, %s::jsonb::text)""",
        (kind, account, owner, identity, at_ms, Jsonb(data)),
    )


def cursors_of(connection: Connection[Any], endpoint_id: str) -> list[Cursor]:
    """How far an endpoint has been, in each partition, and in the notices."""
    rows = connection.execute(
        """SELECT log_partition, log_offset, account_id, version, last_account, last_version
           FROM ledger_delivery.cursors WHERE endpoint_id = %s ORDER BY log_partition""",
        (endpoint_id,),
    ).fetchall()
    return [Cursor(row[0], Place(*row[1:4]), *row[4:]) for row in rows]


def waiting(connection: Connection[Any], endpoint_id: str, after: int, limit: int) -> list[Waiting]:
    """What is to be delivered to an endpoint, in its order, behind a number."""
    return rows_of(
        connection,
        Waiting,
        """SELECT webhook_id, number, lane, type, account_id, position, traceparent, tries, next_at
           FROM ledger_delivery.deliveries
           WHERE endpoint_id = %s AND state = 'pending' AND number > %s ORDER BY number LIMIT %s""",
        (endpoint_id, after, limit),
    )


def body_of(connection: Connection[Any], endpoint_id: str, webhook_id: str) -> str | None:
    """The body of what is to be delivered; None where it is there no more."""
    row = connection.execute(
        "SELECT body FROM ledger_delivery.deliveries WHERE endpoint_id = %s AND webhook_id = %s",
        (endpoint_id, webhook_id),
    ).fetchone()
    return None if row is None else str(row[0])


def adopt_log(connection: Connection[Any], epoch: int) -> None:
    """Find the cursors' places in the log that is live now, where they are of another one: a log that was restored.

    Such a log has the same records in the same order, at offsets that may be smaller. The last line before a place
    shows where it is; without one an endpoint begins at the log's start, and gets what it may have had by the same ids.
    """
    with connection.transaction():
        refuse_superseded(connection, epoch)
        connection.execute(_ADOPT.format(table="cursors"))
        connection.execute(_ADOPT.format(table="alert_cursors"))
        # The offsets that rules began at are of the other log; they go on where they have read.
        connection.execute("UPDATE ledger_delivery.alert_rules SET begins = '{}'")


# The notices' cursors are of no partition of the log.
_ADOPT = """
    UPDATE ledger_delivery.{table} c
    SET topic_id = p.topic_id, account_id = c.last_account, version = c.last_version,
        log_offset = coalesce((SELECT j.log_offset FROM ledger.journal j
                               WHERE j.account_id = c.last_account AND j.version = c.last_version), 0)
    FROM ledger.progress p WHERE p.log_partition = c.log_partition AND p.topic_id <> c.topic_id
"""
