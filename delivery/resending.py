"""Makes the events of a range of the log anew, to be delivered to an endpoint again by the same ids.

Owns what a range is and how much of it one request has. The events are those that the endpoint wants now.
"""

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.delivery.feed import lines
from creditfold.delivery.filters import Wanted
from creditfold.delivery.identity import webhook_id
from creditfold.projections.access.audit import Actor
from creditfold.projections.connections import snapshot
from creditfold.projections.delivery.deliveries import MAX_RESENT, NewDelivery, add_deliveries
from creditfold.projections.delivery.endpoints import Endpoint, endpoint_of
from creditfold.projections.delivery.reading import ends
from creditfold.projections.queries.windows import Place


class InvalidRangeError(CreditfoldError):
    """A range of positions that is none, or has too much in it."""

    exit_code = 2


def resend_range(connection: Connection[Any], endpoint_id: str, first: Position, last: Position, *, by: Actor) -> int:
    """Have an endpoint get the events of a range of positions again; returns how many weren't waiting already.

    Args:
        connection: to the database, in no transaction.
        endpoint_id: of the endpoint.
        first: the first position of the range.
        last: the last one, in the same partition.
        by: who does it, and why.

    Raises:
        UnknownEndpointError: there is none of that id.
        InvalidRangeError: the range isn't one of a partition, or has more than MAX_RESENT events for the endpoint.
        ReasonMissingError: nobody says why.
    """
    if first.partition != last.partition or last.offset < first.offset:
        raise InvalidRangeError(
            "The range has no positions.", "Name the first and the last position of one partition, in this order."
        )
    endpoint = endpoint_of(connection, endpoint_id)
    with snapshot(connection):
        found: list[NewDelivery] = []
        for one in _events(connection, endpoint, first, last):
            if len(found) >= MAX_RESENT:
                raise InvalidRangeError(
                    f"The range has more than {MAX_RESENT:,} events for the endpoint.", "Name a shorter one."
                )
            found.append(one)
    return add_deliveries(connection, endpoint_id, found, by=by)


def _events(connection: Connection[Any], endpoint: Endpoint, first: Position, last: Position) -> Iterator[NewDelivery]:
    wanted = Wanted.of(endpoint)
    standing = ends(connection)
    if standing is None:
        return
    until = min(standing.folded.get(first.partition, 0), last.offset + 1)
    place = Place(first.offset)
    while place.offset < until:
        batch = lines(connection, standing.log, first.partition, place, until, with_alerts=True)
        if batch is None:
            return
        for line in batch.lines:
            for event in line.events:
                if wanted.takes(event):
                    key = webhook_id(endpoint.id, event.type, event.key)
                    yield NewDelivery(
                        key, event.lane, event.type, event.account, event.position, event.traceparent, event.body
                    )
        place = batch.end.place
