"""An HTTP door on a ledger of its own, with a worker: made once for a module, for accounts of each test's own."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from creditfold.api.access import SCOPES
from creditfold.api.server import config_of
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.processors.startup import prepare_ledger
from creditfold.projections.access.keys import NewKey, create_key
from creditfold.projections.connections import connected
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
            return create_key(connection, f"key-{uuid.uuid4().hex[:8]}", scopes, **limits)

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
def serving(settings: Settings, *, is_open: bool = False) -> Iterator[str]:
    """Serve in a thread of this process for a block; gives the URL."""
    chosen = settings.model_copy(update={"api_port": free_port()})
    server = uvicorn.Server(config_of(chosen, is_open=is_open))
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
def open_door(stack: StackUnderTest, folder: Path) -> Iterator[Door]:
    """A door on a ledger of its own, with a worker that folds it."""
    with (
        patience(),
        new_database(stack.settings) as database,
        topics_made(with_topics_of_its_own(database)) as settings,
    ):
        prepare_ledger(settings)
        with worker(settings, folder), serving(settings) as url:
            door = Door(settings, url)
            with door.http:
                yield door
