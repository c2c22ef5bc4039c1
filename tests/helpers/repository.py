"""A Maven repository on loopback that does as a test says: whole answers, broken ones, none at all."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from helpers.support import HANG_S


class Repository:
    """What the server has, by the end of its path, and how it answers: whole, unless a test puts another way in."""

    def __init__(self, files: Mapping[str, bytes], port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/maven2"
        self.files = files
        #: How often each file was asked for.
        self.asked = Counter[str]()
        #: How to answer instead, by file name; "" for all. Called with the request and the right content.
        self.ways: dict[str, Callable[[BaseHTTPRequestHandler, bytes], None]] = {}
        #: Held back until a test sets it, by what waits with `hold`.
        self.gate = threading.Event()
        #: Set when something waits at the gate.
        self.is_held = threading.Event()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        name = request.path.rpartition("/")[2]
        self.asked[name] += 1
        content = self.files.get(name)
        way = self.ways.get(name) or self.ways.get("")
        if way is not None:
            way(request, content or b"")
        elif content is None:
            request.send_error(404)
        else:
            whole(request, content)

    def half_then_hold(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        """Send a half, and the rest when the gate is opened."""
        _head(request, len(content))
        request.wfile.write(content[: len(content) // 2])
        request.wfile.flush()
        self.is_held.set()
        assert self.gate.wait(HANG_S)
        request.wfile.write(content[len(content) // 2 :])

    def silence(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        """Say nothing at all until the gate is opened."""
        self.gate.wait(HANG_S)

    def drip(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        """Send a byte now and then, so that it never is silent and never ends, until the gate is opened."""
        _head(request, len(content))
        for place in range(len(content)):
            if self.gate.wait(0.05):
                return
            request.wfile.write(content[place : place + 1])
            request.wfile.flush()


def whole(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """Answer as a repository does."""
    _head(request, len(content))
    request.wfile.write(content)


def broken(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """Send a half, and hang up."""
    _head(request, len(content))
    request.wfile.write(content[: len(content) // 2])


def short(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """Send a half as if it were all."""
    whole(request, content[: len(content) // 2])


def garbage(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """Send as many bytes, others."""
    whole(request, bytes(255 - byte for byte in content))


def endless(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """Send more and more."""
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(bytes(65_536))


def page(request: BaseHTTPRequestHandler, content: bytes) -> None:
    """Send a page for people, as a network does that wants a login first."""
    text = b"<html>Please log in</html>"
    request.send_response(200)
    request.send_header("Content-Type", "text/html")
    request.send_header("Content-Length", str(len(text)))
    request.end_headers()
    request.wfile.write(text)


def failing(code: int) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    """Answer with an error's code."""
    return lambda request, content: request.send_error(code)


def _head(request: BaseHTTPRequestHandler, size: int) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "application/java-archive")
    request.send_header("Content-Length", str(size))
    request.end_headers()


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Repository]:
    """Serve these files, by name, on a port of their own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Whoever asked may have gone.
            with suppress(OSError):
                repository.answer(self)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    repository = Repository(files, server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield repository
    finally:
        repository.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
