"""How a body is read, without a server."""

import asyncio
from collections.abc import Iterator
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from creditfold.api.body import SMALL_BYTES, SmallBodies

PARTS: tuple[Message, ...] = (
    {"type": "http.request", "body": b"{", "more_body": True},
    {"type": "http.request", "body": b"}", "more_body": False},
    {"type": "http.disconnect"},
)


async def seen_of(**headers: str) -> list[Any]:
    """In which order a body's parts are read by the middleware, and had by an application that looks first."""
    seen: list[Any] = []
    parts: Iterator[Message] = iter(PARTS)

    async def receive() -> Message:
        seen.append("read")
        return next(parts)

    async def application(_: Scope, receive: Receive, __: Send) -> None:
        await asyncio.sleep(0)
        seen.append("looked")
        seen.extend([await receive() for _ in PARTS])

    async def send(_: Message) -> None:
        raise AssertionError("nothing is answered")

    encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await SmallBodies(application)({"type": "http", "headers": encoded}, receive, send)
    return seen


async def test_a_small_body_is_read_before_anybody_looks_who_sends_it() -> None:
    """Or a client that leaves would take it along. What comes behind it is still had by whoever asks."""
    assert await seen_of(content_length="2") == ["read", "read", "looked", "read", *PARTS]


async def test_other_bodies_are_read_when_they_are_asked_for() -> None:
    """A large one, one of unknown size, none at all, and one that its sender waits to be asked for."""
    late = ["looked", "read", "read", "read", *PARTS]
    for headers in (
        {"content_length": str(SMALL_BYTES + 1)},
        {"content_length": "0"},
        {"content_length": "many"},
        {},
        {"content_length": "2", "expect": "100-continue"},
    ):
        assert await seen_of(**headers) == late
