"""Reads the body of a request: bounded in bytes, in time and in depth, and as strictly as commands demand it.

Knows no route. A slow or a large client is refused before anything is looked at, and holds no connection meanwhile.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from itertools import takewhile
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from creditfold.api.problems import ProblemError
from creditfold.producers.strict_json import BadRecordError, parse_json

M = TypeVar("M", bound=BaseModel)

#: Bytes of a body, and of one line of a stream.
MOST_BYTES = 1_048_576
#: Bytes of a body up to which it is read at once: as many as a record of the log may have.
SMALL_BYTES = 65_536
#: Objects and arrays in each other.
MOST_DEPTH = 32
#: Seconds in which a body must be here.
BODY_S = 10.0


class SmallBodies:
    """Reads a small body as it comes, and not only when a route asks for it, which first looks who sends it.

    A client that has sent all of it and leaves would take its command along else: once the client is gone, the server
    says only that.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection as ASGI has it."""
        if scope["type"] != "http" or not _is_small(dict(scope["headers"])):
            await self._app(scope, receive, send)
            return
        messages: asyncio.Queue[Message] = asyncio.Queue()
        is_whole = False

        async def read() -> None:
            nonlocal is_whole
            while not is_whole:
                message = await receive()
                is_whole = not message.get("more_body", False)
                messages.put_nowait(message)

        async def next_message() -> Message:
            return await (receive() if is_whole and messages.empty() else messages.get())

        reading = asyncio.create_task(read())
        try:
            await self._app(scope, next_message, send)
        finally:
            reading.cancel()


def _is_small(headers: Mapping[bytes, bytes]) -> bool:
    # A client that waits to be asked for its body has sent none yet.
    length = headers.get(b"content-length", b"")
    return length.isdigit() and len(length) < 9 and 0 < int(length) <= SMALL_BYTES and b"expect" not in headers


async def json_object(request: Request, *, with_null: bool = False) -> dict[str, Any]:
    """The object that a request's body holds.

    Raises:
        ProblemError: it isn't one, is too large, too deep, or too slow.
    """
    return parse_object(await whole_body(request, "application/json"), "The body is", with_null=with_null)


async def model_of(request: Request, kind: type[M], *, with_null: bool = False) -> M:
    """The body of a request as a model has it; a field may be null where that is said.

    Raises:
        ProblemError: it is no object, as `json_object` says.
        RequestValidationError: it isn't what the model has.
    """
    found = await json_object(request, with_null=with_null)
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        wrong = [{"loc": ("body", *one["loc"]), "msg": one["msg"], "type": one["type"]} for one in error.errors()]
        raise RequestValidationError(wrong) from None


def parse_object(raw: bytes, what: str, *, with_null: bool = False) -> dict[str, Any]:
    """Read a JSON object from UTF-8; `what` begins the error's sentence. Raises ProblemError."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ProblemError(
            400, "invalid_body", f"{what} not UTF-8: {error.reason} at byte {error.start}.", "Send JSON in UTF-8."
        ) from None
    if depth_of(text) > MOST_DEPTH:
        raise ProblemError(400, "invalid_body", f"{what} nested deeper than {MOST_DEPTH}.", "Send a flat object.")
    try:
        found = parse_json(text, what, with_null=with_null)
    except BadRecordError as error:
        said = str(error)
        raise ProblemError(
            400, "invalid_body", f"{said[:1].upper()}{said[1:]}.", "Send one JSON object in UTF-8."
        ) from None
    if not isinstance(found, dict):
        raise ProblemError(400, "invalid_body", f"{what} no JSON object.", "Send the fields by name, as {...}.")
    return found


def depth_of(text: str) -> int:
    """How many brackets are open at once at most, those in strings counted too: never less than the depth.

    Counts no further than one beyond MOST_DEPTH, however much is left of a text that somebody sends to keep us busy.
    """
    depth = most = 0
    if text.count("{") + text.count("[") <= MOST_DEPTH:
        return 0
    for character in text:
        if character in "{[":
            depth += 1
            most = max(most, depth)
            if most > MOST_DEPTH:
                break
        elif character in "}]":
            depth -= 1
    return most


async def whole_body(request: Request, media_type: str) -> bytes:
    """The body of a request, of one media type. Raises ProblemError: it is of another, too large, or too slow."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MOST_BYTES:
        raise _too_large()
    refuse_other_types(request, media_type)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                size += len(part)
                if size > MOST_BYTES:
                    raise _too_large()
                parts.append(part)
    except TimeoutError:
        raise ProblemError(
            408,
            "body_too_slow",
            f"The body wasn't here within {BODY_S:g} s.",
            "Send it at once.",
            headers={"Connection": "close"},
        ) from None
    return b"".join(parts)


def refuse_other_types(request: Request, *types: str) -> None:
    """Raise ProblemError for a body that says it is of another type than these; it may leave that out."""
    kind = request.headers.get("content-type", types[0]).partition(";")[0].strip().lower()
    if kind not in types:
        raise ProblemError(415, "unsupported_media_type", f"The body is of type {kind[:60]!r}.", f"Send {types[0]}.")


def _too_large() -> ProblemError:
    return ProblemError(
        413,
        "body_too_large",
        f"The body has more than {MOST_BYTES:,} bytes.",
        "Send fewer steps; many commands go to POST /v1/commands, one a line.",
        headers={"Connection": "close"},
    )


async def line_blocks(request: Request, idle_s: float) -> AsyncGenerator[list[bytes], None]:
    """The lines of a request's body, as many at a time as came together, without their ends.

    A line without an end is the last one of a body that is complete; of a body that was cut off it is no line.

    Args:
        request: whose body is read.
        idle_s: seconds that the sender may be silent.

    Yields:
        At least one line.

    Raises:
        ProblemError: a line is too long, the sender was silent for too long, or the server stops. Those before it were
            yielded.
        ClientDisconnect: the sender is gone.
    """
    stopping: asyncio.Event | None = getattr(request.state, "stopping", None)
    stop = None if stopping is None else asyncio.create_task(stopping.wait())
    rest: list[bytes] = []
    size = 0
    stream = request.stream()
    try:
        while part := await _part_of(stream, idle_s, stop):
            first, *more = part.split(b"\n")
            rest.append(first)
            size += len(first)
            if more:
                lines = [b"".join(rest), *more]
                rest, size = [lines.pop()], len(more[-1])
                short = lines if len(part) + len(lines[0]) <= MOST_BYTES else list(takewhile(_is_short, lines))
                if short:
                    yield short
                if len(short) < len(lines):
                    raise _line_too_long()
            if size > MOST_BYTES:
                raise _line_too_long()
    finally:
        if stop is not None:
            stop.cancel()
    if size:
        yield [b"".join(rest)]


async def _part_of(stream: AsyncIterator[bytes], idle_s: float, stop: "asyncio.Task[Any] | None") -> bytes:
    """The next part of a body; empty at its end. Raises ProblemError where none comes before the server stops."""
    reading = asyncio.ensure_future(anext(stream, b""))
    try:
        ends = {reading} if stop is None else {reading, stop}
        done, _ = await asyncio.wait(ends, timeout=idle_s, return_when=asyncio.FIRST_COMPLETED)
        # A sender that is fast enough would keep the server otherwise.
        if reading in done and (stop not in done or not reading.result()):
            return reading.result()
    finally:
        reading.cancel()
    if done:
        raise ProblemError(
            503,
            "server_stopping",
            "The server stops; this line and those after it weren't read.",
            "Send them in another request.",
        )
    raise ProblemError(408, "body_too_slow", f"Nothing came for {idle_s:g} s.", "Send what is left in another request.")


def _is_short(line: bytes) -> bool:
    return len(line) <= MOST_BYTES


def _line_too_long() -> ProblemError:
    return ProblemError(
        413,
        "line_too_long",
        f"The line has more than {MOST_BYTES:,} bytes; nothing after it was read.",
        "Send one command a line, and what comes after it in another request.",
    )
