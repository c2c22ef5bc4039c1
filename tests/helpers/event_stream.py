"""The door's stream of outcomes as a client reads it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx


class Event(NamedTuple):
    """An event; without data it only moves the id on."""

    id: str
    data: dict[str, Any] | None

    @property
    def name(self) -> str:
        """Whose it is, and of which command."""
        assert self.data is not None
        return f"{self.data['account']}/{self.data['command_id']}"


def events(answer: httpx.Response) -> Iterator[Event]:
    """The events of an answer as they come, as a browser reads them."""
    found: dict[str, str] = {}
    for line in answer.iter_lines():
        name, _, value = line.partition(": ")
        if line:
            found[name] = value
        else:
            yield Event(found["id"], json.loads(found["data"]) if "data" in found else None)
            found = {}


@contextmanager
def following(client: httpx.Client, last: str | None = None, **parameters: str) -> Iterator[Iterator[Event]]:
    """Follow for a block, behind an event's id if one is given."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with client.stream("GET", "/v1/outcomes", params=parameters, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield events(answer)


def next_of(found: Iterator[Event], count: int) -> list[Event]:
    """The next events that have data."""
    taken: list[Event] = []
    while len(taken) < count:
        event = next(found)
        taken += [event] if event.data is not None else []
    return taken
