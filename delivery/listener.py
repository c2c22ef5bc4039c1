"""Shows events as they come, while somebody develops a receiver, and sends them to a receiver there if wanted.

Keeps nothing: no endpoint, no cursor, no retry. What it shows is what an endpoint with the same filter gets from now
on; what it sends is signed with a secret that lasts as long as it runs.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from psycopg import Connection

from creditfold.delivery.addresses import networks_of
from creditfold.delivery.events import Event
from creditfold.delivery.feed import Batch, Reader, lines, notices
from creditfold.delivery.filters import Wanted
from creditfold.delivery.identity import webhook_id
from creditfold.delivery.sender import Answer, Sender
from creditfold.delivery.signing import Signer
from creditfold.projections.connections import connected, snapshot
from creditfold.projections.delivery.endpoints import NOTICES, SigningKey
from creditfold.projections.delivery.reading import Ends, ends
from creditfold.projections.queries.windows import Place

#: Seconds between two looks.
LOOK_S = 0.1
#: A receiver that is developed is on this machine.
LOOPBACK = "127.0.0.0/8,::1/128"
#: By whose id the events have theirs: no endpoint has it.
LISTENER = "ep_listen"


class Heard(NamedTuple):
    """An event, its id, and what the receiver answered if it was sent to one."""

    webhook_id: str
    event: Event
    answer: Answer | None = None


async def heard(
    dsn: str,
    wanted: Wanted,
    *,
    forward: str | None = None,
    key: SigningKey | None = None,
    timeout_s: float | None = None,
) -> AsyncGenerator[Heard]:
    """The events from now on, each once, in the order of the log in its partition.

    Args:
        dsn: PostgreSQL's connection string.
        wanted: which events.
        forward: the URL that they are sent to, on this machine; None for none.
        key: what they are signed with, where they are sent.
        timeout_s: after how many seconds to end; None for never.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with connected(dsn, "creditfold webhooks listen") as connection:
        ask = _reader(connection)
        sender = None if forward is None else Sender(networks_of(LOOPBACK))
        try:
            async for event in _events(ask, deadline, with_alerts=_has_alerts(wanted)):
                if wanted.takes(event):
                    name = webhook_id(LISTENER, event.type, event.key)
                    answer = None
                    if sender is not None and forward is not None and key is not None:
                        answer = await _sent(sender, forward, key, name, event)
                    yield Heard(name, event, answer)
        finally:
            if sender is not None:
                await sender.close()


def _reader(connection: Connection[Any]) -> Reader:
    """Asks on a connection, beside the event loop, each question of one instant."""

    def asked(question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with snapshot(connection):
            return question(connection, *arguments, **options)

    def ask(question: Callable[..., Any], *arguments: Any, **options: Any) -> Awaitable[Any]:
        return asyncio.to_thread(asked, question, *arguments, **options)

    return ask


async def _sent(sender: Sender, url: str, key: SigningKey, name: str, event: Event) -> Answer:
    body = event.body.encode()
    headers = Signer([key]).headers(name, int(datetime.now(UTC).timestamp()), body)
    return await sender.send(url, headers, body)


def _has_alerts(wanted: Wanted) -> bool:
    """Whether balances are asked for by name: whoever shows their alerts waits for the process that decides them."""
    return any(name.startswith("balance.") for name in wanted.types)


async def _events(ask: Reader, deadline: float | None, *, with_alerts: bool) -> AsyncGenerator[Event]:
    places: dict[int, Place] = {}
    while deadline is None or time.monotonic() < deadline:
        standing: Ends | None = await ask(ends)
        if standing is not None:
            untils = {**standing.folded, NOTICES: standing.notices}
            places = places or {feed: Place(offset) for feed, offset in untils.items()}
            if not with_alerts:
                standing = standing._replace(evaluated={})
            for feed in places:
                async for batch in _batches(ask, standing, feed, places[feed]):
                    for line in batch.lines:
                        for event in line.events:
                            yield event
                    places[feed] = batch.end.place
        await asyncio.sleep(LOOK_S)


async def _batches(ask: Reader, standing: Ends, feed: int, place: Place) -> AsyncGenerator[Batch]:
    """What comes in a feed after a place, as far as it is folded and the rules of alerts have read."""
    until = standing.notices if feed == NOTICES else standing.folded[feed]
    if feed in standing.evaluated:
        until = min(until, standing.evaluated[feed].offset)
    at = place
    while at.offset < until:
        batch: Batch | None = await (
            ask(notices, at)
            if feed == NOTICES
            else ask(lines, standing.log, feed, at, until, with_alerts=bool(standing.evaluated))
        )
        if batch is None:
            return
        yield batch
        at = batch.end.place
