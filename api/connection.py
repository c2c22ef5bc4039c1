"""One connection of a client: bounds in time for what it sends and takes, and how it is refused before any route.

uvicorn leaves three things to nobody: a request whose head never ends, an answer that is never taken, and a client that
still sends when it is answered, whose system then throws the answer away. Knows HTTP/1.1 as h11 reads it, and no route.
"""

import asyncio
import socket
import struct
import sys
import uuid
from typing import Any, cast

import h11
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from creditfold.api.entry import identified, sending
from creditfold.api.metrics import FOR_METRICS, Metrics
from creditfold.api.problems import MEDIA_TYPE, RETRY_S, ProblemError, answer, headers_too_large

#: Seconds in which the head of a request must be here, from its first byte on, or from when the connection was made.
HEAD_S = 10.0
#: Seconds for the rest of a request that was answered before its end; then the connection is closed.
REST_S = 5.0
#: Seconds, and bytes, for which is read what a refused client still sends.
LINGER_S, LINGER_BYTES = 2.0, 64 * 1_048_576
#: Seconds in which a client must take something of an answer that is due to it.
STALL_S = 60.0


class Connection(H11Protocol):
    """A connection that nobody holds for nothing.

    Its requests can cut it (`abort`) and learn that the server stops (`stopping`), by their state.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # uvicorn's own refusal has no problem document, and is made request by request.
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self._metrics: Metrics = self.config.app.state.metrics  # type: ignore[union-attr]
        self._head: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._lingering: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; one too many is answered with 503, and one far too many is cut."""
        super().connection_made(cast(asyncio.Transport, _Lingering(transport, self)))
        self._metrics.connections.inc()
        self._stopping = asyncio.Event()
        self.app_state = {**self.app_state, "abort": self._abort, "stopping": self._stopping}
        # A write goes on without its client, so that those who leave count until it has ended.
        if self._most is not None and max(len(self.connections), len(self.tasks) + 1) > self._most:
            # Who looks after the server gets in for longer.
            if not self.app_state.get(FOR_METRICS):
                self.app = _refuse
                self._metrics.refused.inc()
            if len(self.connections) > self._most + self._most // 4 + 1:
                transport.abort()
                return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up all that waits for the connection."""
        self._cancel_head()
        self._cancel_stall()
        self._metrics.connections.dec()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read, or throw away what a refused client still sends."""
        if self._lingering is not None:
            self._lingering += len(data)
            if self._lingering > LINGER_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._expect_head()
        else:
            self._cancel_head()

    def on_response_complete(self) -> None:
        """Go on with the connection; the rest of a request that was answered before its end is bounded in time."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            cycle = self.cycle
            self.loop.call_later(REST_S, lambda: self._end_rest(cycle))

    def pause_writing(self) -> None:
        """Wait for the client to take something, for a while."""
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(STALL_S, self._abort)

    def resume_writing(self) -> None:
        """Go on: it has taken something."""
        self._cancel_stall()
        super().resume_writing()

    def shutdown(self) -> None:
        """End after the request under way; a stream without an end ends now."""
        super().shutdown()
        self._stopping.set()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, with a problem document."""
        error = sys.exception()
        if self.cycle is not None and not self.cycle.response_complete:
            # The application gets no more of it, and its answer would come second.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        problem = _no_http(status, str(error or msg))
        request_id = uuid.uuid4().hex
        request = Request({"type": "http", "headers": [], "state": {"request_id": request_id}})
        body = bytes(answer(request, problem).body)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        reason = STATUS_PHRASES.get(status, b"")
        for event in (h11.Response(status_code=status, headers=headers, reason=reason), h11.Data(data=body)):
            self.transport.write(self.conn.send(event))
        self.transport.write(self.conn.send(h11.EndOfMessage()))
        self.transport.close()

    def must_linger(self) -> bool:
        """Whether the client may still be sending; from now on, what it sends is thrown away."""
        if self.conn.their_state not in (h11.SEND_BODY, h11.ERROR):
            return False
        self._lingering = 0
        return True

    def _abort(self) -> None:
        # Else the system would keep what the client didn't take, and go on offering it.
        at_once = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.transport.abort()

    def _expect_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(HEAD_S, self._end_head)

    def _cancel_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _end_head(self) -> None:
        self._head = None
        if self.conn.their_state is h11.IDLE:
            self.transport.abort()

    def _end_rest(self, cycle: Any) -> None:
        if self.cycle is cycle and self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()


class _Lingering:
    """A transport that is closed for writing first, while the client still sends: a reset would overtake the answer."""

    def __init__(self, transport: asyncio.Transport, protocol: Connection) -> None:
        self._transport = transport
        self._protocol = protocol
        self._is_leaving = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._is_leaving or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        if not self._transport.can_write_eof() or not self._protocol.must_linger():
            self._transport.close()
            return
        self._is_leaving = True
        self._transport.write_eof()
        self._transport.resume_reading()
        self._protocol.loop.call_later(LINGER_S, self._transport.close)


def _no_http(status: int, said: str) -> ProblemError:
    if status == 431:
        return headers_too_large()
    return ProblemError(status, "invalid_http", f"The request is no HTTP/1.1: {said[:200]}.", "Correct the client.")


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    identified(scope)
    problem = ProblemError(
        503,
        "too_many_connections",
        "The server has as many connections as it takes.",
        "Try again; keep few connections open, and use them again.",
        headers={"Retry-After": str(RETRY_S), "Connection": "close"},
    )
    await answer(Request(scope), problem)(scope, receive, sending(scope, send))
