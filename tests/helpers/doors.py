"""An HTTP door on a ledger of its own, with a worker: made once for a module, for accounts of each test's own."""

import json
import os
import socket
import struct
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pytest

from creditfold.api import append
from creditfold.api.server import Server, config_of, listening
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.console.app import install
from creditfold.processors import operations
from creditfold.processors.startup import prepare_ledger
from creditfold.projections.access.audit import Actor
from creditfold.projections.access.keys import NewKey, create_key
from creditfold.projections.access.scopes import SCOPES
from creditfold.projections.connections import connected
from helpers.bulk_lines import see_documented
from helpers.fork_server import Process
from helpers.ledgers import new_database, patience, topics_made, with_topics_of_its_own
from helpers.stack_under_test import StackUnderTest, free_port
from helpers.support import HANG_S, worker


class Door:
    """A door that serves. `http` sends with a key that may do everything."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.settings = settings
        self.url = url
        self.http = self.with_key(self.make_key(*SCOPES).text)

    def make_key(self, *scopes: str, **limits: Any) -> NewKey:
        """A new key with these scopes."""
        with connected(self.settings.dsn) as connection:
            by = Actor("tests", "here", "a test needs it")
            return create_key(connection, f"key-{uuid.uuid4().hex[:8]}", scopes, by=by, **limits)

    def with_key(self, text: str | None) -> httpx.Client:
        """A client that sends a key, or none."""
        headers = {} if text is None else {"Authorization": f"Bearer {text}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=HANG_S, trust_env=False)

    def append(self, account: str, what: str, key: str | None = None, wait_s: int = 30, **body: Any) -> httpx.Response:
        """Append one command, `what` being the last part of its route, and wait for its outcome."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex, "Prefer": f"wait={wait_s}"}
        return self.http.post(f"/v1/accounts/{account}/{what}", json=body, headers=headers)

    def grant(self, account: str, amount: int, **more: Any) -> httpx.Response:
        """Give an account credits, and see that they are there."""
        answer = self.append(account, "grants", asset="credits", amount=amount, **more)
        assert answer.status_code == 201, answer.text
        return answer


@contextmanager
def serving(settings: Settings, *, is_open: bool = False, port: int | None = None) -> Iterator[str]:
    """Serve in a thread of this process for a block; gives the URL."""
    chosen = settings.model_copy(update={"api_port": port or free_port()})
    at = chosen.metrics_at("api")
    for_metrics = None if at is None else listening(*at)
    server = Server(config_of(chosen, is_open=is_open, install=install), for_metrics)
    thread = threading.Thread(target=server.run, name="door", daemon=True)
    thread.start()
    try:
        assert wait_until(lambda: server.started or not thread.is_alive(), HANG_S)
        assert server.started
        yield f"http://127.0.0.1:{chosen.api_port}"
    finally:
        server.should_exit = True
        thread.join(HANG_S)


@contextmanager
def forked_operations(program: Sequence[str] = ()) -> Iterator[list[Process]]:
    """Have the doors of this process fork what they start for an operation, for a block; gives what they started.

    That it is started as a process of its own is tried by a door of its own, in tests/api/test_generations.py.

    Args:
        program: what runs it, if not Python alone.
    """
    started: list[Process] = []

    def start(arguments: Sequence[str], *, start_new_session: bool, **options: Any) -> Process:
        assert start_new_session
        started.append(Process([*program, *arguments[1:]], env=dict(os.environ), **options))
        return started[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(operations, "Popen", start)
        yield started


@contextmanager
def open_door(stack: StackUnderTest, folder: Path, **options: Any) -> Iterator[Door]:
    """A door on a ledger of its own, with a worker that folds it, started with the options."""
    with (
        patience(),
        pytest.MonkeyPatch.context() as patched,
        new_database(stack.settings) as database,
        topics_made(with_topics_of_its_own(database)) as own,
    ):
        # Kafka is there, however slow it is.
        patched.setattr(append, "CONFIRM_S", HANG_S)
        settings = own.model_copy(update={"searchable_metadata": "order"})
        prepare_ledger(settings)
        with worker(settings, folder, **options), forked_operations(), serving(settings) as url:
            door = Door(settings, url)
            with door.http:
                yield door


class BulkCall:
    """A request to append many commands that is still being sent, and whose answers are read meanwhile.

    Each line of the answer is compared with the OpenAPI document.

    Args:
        url: of the door.
        headers: beyond those of the stream.
    """

    def __init__(self, url: str, **headers: str) -> None:
        self.connection = HTTPConnection(url.removeprefix("http://"), timeout=HANG_S)
        self.connection.putrequest("POST", "/v1/commands")
        sent = {"Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked", **headers}
        for name, value in sent.items():
            self.connection.putheader(name.replace("_", "-"), value)
        self.connection.endheaders()
        self._response: HTTPResponse | None = None
        self._seen: set[tuple[Any, ...]] = set()

    def send(self, *lines: dict[str, Any] | bytes) -> None:
        """Send lines; bytes are sent as they are, an object with the end of a line."""
        block = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
        self.connection.send(b"%x\r\n%b\r\n" % (len(block), block))

    def end(self) -> None:
        """Send the end of the body."""
        self.connection.send(b"0\r\n\r\n")

    def answer(self) -> dict[str, Any] | None:
        """The next line of the answer; None at its end."""
        if self._response is None:
            self._response = self.connection.getresponse()
            assert self._response.status == 200, self._response.read()
        line = self._response.readline()
        if not line:
            return None
        found: dict[str, Any] = json.loads(line)
        # Each kind once: it takes longer than the answer does.
        kind = (found["status"], found.get("code"), *found)
        if kind not in self._seen:
            see_documented(found)
            self._seen.add(kind)
        return found

    def answers(self) -> list[dict[str, Any]]:
        """The rest of the answer."""
        return list(iter(self.answer, None))

    def cut(self) -> None:
        """Close the connection at once, whatever is under way."""
        if self.connection.sock is not None:
            self.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def sent_lines(door: Door, *lines: dict[str, Any] | bytes, **headers: str) -> list[dict[str, Any]]:
    """The answers to some lines that are sent in one go, with the key of `door` unless the headers have another."""
    call = BulkCall(door.url, **{"Authorization": door.http.headers["Authorization"], **headers})
    call.send(*lines)
    call.end()
    try:
        return call.answers()
    finally:
        call.connection.close()
