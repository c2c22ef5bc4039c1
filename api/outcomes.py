"""The route that follows outcomes as server-sent events, with a vector of positions to go on from.

Owns the events: what one looks like, and that its id names all that was sent up to it. Reads through the feed, and
knows no SQL and no rule.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated

from fastapi import Header, Query, Request

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.feed import FeedReader
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Routes
from creditfold.api.service import Service, service_of
from creditfold.api.streams import Stream
from creditfold.common.position import Position
from creditfold.projections.queries.feed import PlacedDecision
from creditfold.projections.queries.windows import Place

router = Routes(tags=["outcomes"])

#: Seconds after which a silent stream says that it is there, and its key is looked at again.
HEARTBEAT_S = 10.0
#: Milliseconds after which a browser connects again.
RETRY_MS = 1_000
#: Events that are sent in one piece.
PIECE = 50
#: The vector that names nothing: everything comes behind it.
START = "start"


def places_of(vector: str) -> dict[int, Place]:
    """The places behind the positions of a vector; each partition that it doesn't name is read from its start.

    Raises:
        InvalidPositionError: it isn't one.
        ProblemError: it names a partition twice.
    """
    found: dict[int, Place] = {}
    for text in () if vector == START else vector.split(","):
        position = Position.parse(text.strip())
        if position.partition in found:
            raise ProblemError(
                400,
                "invalid_vector",
                f"The partition {position.partition} stands twice.",
                "Send an event's id as it is.",
            )
        found[position.partition] = Place(position.offset + 1)
    return found


def vector_of(places: Mapping[int, Place]) -> str:
    """The vector of what lies before some places as a whole."""
    return ",".join(f"{one}:{place.offset - 1}" for one, place in sorted(places.items()) if place.offset) or START


class _Events:
    """What one reader is sent.

    Args:
        request: asked for it.
        caller: who reads.
        reader: of the feed.
    """

    def __init__(self, request: Request, caller: Caller, reader: FeedReader) -> None:
        self._request = request
        self._service: Service = service_of(request)
        self._caller = caller
        self._reader = reader
        self._is_personal = "read:personal" in caller.scopes

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """The events, a few at a time, until the key is gone."""
        self._service.feed.enter()
        try:
            sent = checked = time.monotonic()
            yield b"retry: %d\n%b" % (RETRY_MS, self._heartbeat())
            while True:
                known = dict(self._reader.places)
                lines = await self._reader.next(HEARTBEAT_S)
                now = time.monotonic()
                if now - checked >= HEARTBEAT_S:
                    checked = now
                    if not await self._is_known():
                        return
                for start in range(0, len(lines), PIECE):
                    yield b"".join(self._event(line, known) for line in lines[start : start + PIECE])
                    sent = time.monotonic()
                if now - sent >= HEARTBEAT_S:
                    sent = now
                    yield self._heartbeat()
        finally:
            self._service.feed.leave()

    def _event(self, line: PlacedDecision, known: dict[int, Place]) -> bytes:
        decision = line.decision
        known[decision.log_partition] = line.place
        answer = answers.decision_of(decision)
        if not self._is_personal:
            answer = answer.model_copy(update={"source": None, "reason": None, "details": None})
        return b"id: %b\ndata: %b\n\n" % (vector_of(known).encode(), answers.as_json(answer))

    def _heartbeat(self) -> bytes:
        # Without data it is no event to a browser, which keeps the id all the same: what was passed over stays so.
        return b": heartbeat\nid: %b\n\n" % vector_of(self._reader.places).encode()

    async def _is_known(self) -> bool:
        try:
            return (await self._service.authenticate(self._request)).rights == self._caller.rights
        except Exception:  # Whoever connects again learns why.
            return False


@router.get(
    "/v1/outcomes",
    operation_id="outcomes",
    responses={
        200: {
            "description": "Server-sent events: the id is a vector of positions, the data a line of the journal.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **responses(),
    },
)
async def outcomes(
    request: Request,
    caller: Annotated[Caller, needs("read:statement")],
    last_event_id: Annotated[
        str | None, Header(description="The id of the last event that is known: a vector of positions.")
    ] = None,
    after: Annotated[
        str | None, Query(description="In its place at the first time; `start` for all. Without both: from now on.")
    ] = None,
    account_prefix: Annotated[str | None, Query(description="Begins the accounts.", max_length=128)] = None,
) -> Stream:
    """Follow outcomes as they are decided, and go on after a cut without a loss or a repeat."""
    prefix = caller.account_prefix if account_prefix is None else account_prefix
    caller.refuse_account(prefix)
    feed = service_of(request).feed
    now = await feed.places()
    vector = last_event_id or after
    places = places_of(vector) if vector else now
    unknown = sorted(places.keys() - now.keys())
    if unknown:
        raise ProblemError(400, "no_such_partition", f"There is no partition {unknown[0]}.", "See /v1/progress.")
    reader = FeedReader(feed, places, prefix)
    return Stream(_Events(request, caller, reader).parts(), "text/event-stream", is_endless=True)
