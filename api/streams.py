"""An answer that is sent part by part: as fast as its reader takes it, and cut where the reader doesn't.

Owns the bound on how long a part may wait, and how a stream without an end ends with the server. Knows no route.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import structlog
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from creditfold.api.metrics import Metrics, route_of

log = structlog.get_logger()

#: Seconds for which a reader may take nothing of what is sent.
TAKEN_S = 30.0


class Stream(Response):
    """The response that sends parts as they are made.

    Starlette's own listens for the sender's end, and so takes what a streamed body has to say.

    Args:
        parts: made one at a time, each when the one before was taken. It is closed in any case.
        media_type: of the whole.
        headers: of the answer.
        is_endless: whether it goes on until the reader leaves or the server stops. It reads no body then.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        media_type: str,
        headers: Mapping[str, str] | None = None,
        *,
        is_endless: bool = False,
    ) -> None:
        self._parts = parts
        self._is_endless = is_endless
        self.status_code = 200
        self.background = None
        self.media_type = media_type
        self.body = b""
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer as ASGI has it."""
        metrics: Metrics = scope["app"].state.metrics
        with metrics.stream(route_of(scope)):
            await self._stream(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(scope, send))
        tasks: set[asyncio.Task[Any]] = {sending}
        if self._is_endless:
            tasks.add(asyncio.create_task(_await_end(scope, receive)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._parts.aclose()
        if sending.cancelled() or sending.result():
            # For a reader that has left, it does nothing.
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, scope: Scope, send: Send) -> bool:
        """Send all parts; False where the reader was cut."""
        head = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        try:
            if self._is_endless:
                await send(head)
                head = {}
            async for part in self._parts:
                async with asyncio.timeout(TAKEN_S):
                    if head:
                        await send(head)
                        head = {}
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            if head:
                await send(head)
        except TimeoutError:
            log.info("a reader took nothing and was cut", path=scope["path"], after_s=TAKEN_S)
            if "abort" in scope["state"]:
                scope["state"]["abort"]()
            # The server learns of the end in its next turn, before what follows here.
            await asyncio.sleep(0)
            return False
        return True


async def _await_end(scope: Scope, receive: Receive) -> None:
    """Wait until the reader has left or the server stops."""
    stopping: asyncio.Event | None = scope["state"].get("stopping")
    tasks = [asyncio.create_task(_await_leave(receive))]
    if stopping is not None:
        tasks.append(asyncio.create_task(_await_stop(stopping)))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _await_leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _await_stop(stopping: asyncio.Event) -> None:
    await stopping.wait()
