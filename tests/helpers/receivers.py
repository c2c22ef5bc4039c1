"""A receiver of webhooks in the process of the tests, and processes and threads that deliver to it."""

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.delivery.asker import Asker
from creditfold.delivery.deliverer import READERS, WRITERS, Deliverer
from creditfold.delivery.signing import new_key
from creditfold.projections.access.audit import Actor
from creditfold.projections.connections import connected, delivery_pool, outbox_pool
from creditfold.projections.delivery.endpoints import Endpoint, SigningKey, create_endpoint
from helpers.support import HANG_S

BY = Actor("tests", "here", "a test needs it")
LOOPBACK = "127.0.0.0/8"


class Call(NamedTuple):
    """A request that a receiver got."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        """Its webhook-id."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """What it says."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def account(self) -> str:
        """That it is about."""
        return str(self.event["data"].get("account", ""))


#: What a receiver answers: a status, headers and a body.
Answer = tuple[int, Mapping[str, str], bytes]
OK: Answer = (200, {}, b"thanks")


class Receiver:
    """Takes requests, in the order in which it got them. `answer` says what to answer; it may wait.

    With a context it takes them by TLS.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.calls: list[Call] = []
        self.answer: Callable[[Call], Answer] = lambda _: OK
        #: Answers by themselves: the handler, and the call. Taken instead of `answer` where it is there.
        self.raw: Callable[[BaseHTTPRequestHandler], None] | None = None
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # An answer in two pieces would wait for the receipt of the first.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                call = Call(self.path, headers, body, time.monotonic())
                with receiver._lock:
                    receiver.calls.append(call)
                if receiver.raw is not None:
                    receiver.raw(self)
                    return
                status, more, content = receiver.answer(call)
                self.send_response(status)
                for name, value in {**more, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                """A client that leaves is none."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._scheme = "http" if context is None else "https"
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/hook"

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, *accounts: str) -> list[Call]:
        """The requests about some accounts."""
        return [call for call in list(self.calls) if call.account in accounts]

    def ids(self) -> list[str]:
        """The ids of all requests, each once, in the order in which they came first."""
        return list(dict.fromkeys(call.id for call in list(self.calls)))


def make_endpoint(settings: Settings, url: str, **fields: Any) -> tuple[Endpoint, SigningKey]:
    """A new endpoint, and what its requests are signed with."""
    key = new_key()
    with connected(settings.dsn) as connection:
        return create_endpoint(connection, url, key, by=BY, **{"owner": "tests", **fields}), key


@contextmanager
def delivering(settings: Settings, owner: str = "test") -> Iterator[Deliverer]:
    """Deliver in a thread of this process for the length of a block."""
    loop = asyncio.new_event_loop()
    with (
        delivery_pool(settings.dsn, "test", WRITERS) as writers,
        outbox_pool(settings.dsn, "test", READERS) as readers,
    ):
        write, read = Asker(writers, WRITERS), Asker(readers, READERS)
        deliverer = Deliverer(owner, settings.webhook_allowed_networks, write, read)
        task = loop.create_task(deliverer.run())

        def run() -> None:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)

        thread = threading.Thread(target=run, name="delivery", daemon=True)
        thread.start()
        try:
            yield deliverer
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join(HANG_S)
            loop.close()
            write.close()
            read.close()


def wait_for_calls(receiver: Receiver, count: int) -> list[Call]:
    """Wait until a receiver has had so many requests."""
    assert wait_until(lambda: len(receiver.calls) >= count, HANG_S, 0.02), receiver.calls
    return list(receiver.calls)
