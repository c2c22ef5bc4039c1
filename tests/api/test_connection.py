"""A connection answers a request that came as a whole, without h11, as it answers one that came in parts, with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from creditfold.api import plain_http
from creditfold.api.connection import Connection
from creditfold.api.metrics import Metrics
from helpers.support import HANG_S

BODY = b'{"amount": 1}'
HEAD = b"POST /v1/accounts/a%2Fb/spends?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n"
POST = HEAD + b"\r\n" + BODY
LENGTH = (b"content-length", b"2")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Application:
    """Answers by a script, and keeps what it was asked."""

    def __init__(self, *answers: list[Message]) -> None:
        self.state = SimpleNamespace(metrics=Metrics())
        self.answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []
        self.got: list[bytes] = []
        self.is_asked, self.has_got, self.may_answer = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = ("method", "path", "raw_path", "query_string", "headers", "http_version", "scheme", "root_path")
        self.asked.append(tuple(scope[name] for name in names))
        self.is_asked.set()
        await self.may_answer.wait()
        body, is_more = b"", True
        while is_more:
            message = await receive()
            body, is_more = body + message["body"], message["more_body"]
        self.got.append(body)
        self.has_got.set()
        for message in self.answers.pop(0):
            await send({**message})


def answer(*headers: tuple[bytes, bytes], status: int = 200, parts: tuple[bytes, ...] = (b"ok",)) -> list[Message]:
    """An answer in its parts."""
    start = {"type": "http.response.start", "status": status, "headers": list(headers)}
    bodies = [{"type": "http.response.body", "body": part, "more_body": True} for part in parts]
    bodies[-1]["more_body"] = False
    return [start, *bodies]


@asynccontextmanager
async def serving(
    app: Application, keep_s: int = 60
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server of an application."""
    config = uvicorn.Config(app, http=Connection, ws="none", log_config=None, lifespan="off", timeout_keep_alive=keep_s)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        async with asyncio.timeout(HANG_S):
            yield reader, writer
    finally:
        writer.close()
        server.close()
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def turned() -> None:
    """Let what was sent be read, which takes a turn of the loop or two."""
    for _ in range(20):
        await asyncio.sleep(0)


async def answered(app: Application, *parts: bytes) -> bytes:
    """All that comes back for a request that is sent in parts; then the connection is closed."""
    async with serving(app, keep_s=0) as (reader, writer):
        for part in parts:
            writer.write(part)
            await turned()
        return await reader.read()


#: What an application answers.
ANSWERS = {
    "whole": answer(LENGTH, (b"etag", b'"a"')),
    "an error": answer(LENGTH, status=422),
    "in two parts": answer(LENGTH, parts=(b"o", b"k")),
    "of no length": answer(),
    "of no length, in parts": answer(parts=(b"o", b"", b"k")),
    "that closes": answer(LENGTH, (b"connection", b"close")),
    "not modified": answer((b"etag", b'"a"'), status=304, parts=(b"",)),
    "too short": answer((b"content-length", b"3")),
    "too long": answer((b"content-length", b"1")),
    "no header": answer(LENGTH, (b"x", b"a\r\nset-cookie: b")),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("method", [b"POST", b"HEAD"])
async def test_what_came_as_a_whole_is_answered_as_what_came_in_parts(name: str, method: bytes) -> None:
    """Byte for byte, and the application is asked the same."""
    sent = POST.replace(b"POST", method)
    assert plain_http.read(sent) is not None
    whole, cut = Application(ANSWERS[name]), Application(ANSWERS[name])
    assert await answered(whole, sent) == await answered(cut, sent[:30], sent[30:-5], sent[-5:])
    assert (whole.asked, whole.got) == (cut.asked, cut.got)
    assert whole.got == [BODY]


@pytest.mark.parametrize("first", ["whole", "of no length, in parts"])
@pytest.mark.parametrize("is_cut", [False, True])
async def test_what_comes_before_the_answer_is_read_behind_it(first: str, is_cut: bool) -> None:
    """Whether the next request is here as a whole by then or not: each has its own answer, in their order."""
    app = Application(ANSWERS[first], answer(LENGTH, parts=(b"up",)))
    app.may_answer.clear()
    async with serving(app) as (reader, writer):
        writer.write(POST)
        await app.is_asked.wait()
        writer.write(POST[:50] if is_cut else POST)
        await turned()
        assert len(app.asked) == 1
        app.may_answer.set()
        writer.write(POST[50:] if is_cut else b"")
        assert (await reader.readuntil(b"up")).count(b"HTTP/1.1 200 OK\r\n") == 2
    assert len(app.asked) == 2


async def test_a_body_is_had_whose_sender_has_left() -> None:
    """It was sent as a whole; after it comes only that the sender is gone."""
    app = Application([])
    app.may_answer.clear()
    async with serving(app) as (_, writer):
        writer.write(POST)
        await app.is_asked.wait()
        writer.transport.abort()
        await turned()
        app.may_answer.set()
        await app.has_got.wait()
    assert app.got == [BODY]
