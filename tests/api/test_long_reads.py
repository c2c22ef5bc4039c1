"""What is asked without a bound ends when the door closes, wherever it is then."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from creditfold.api import long_reads
from creditfold.api.long_reads import LongReads
from helpers.support import HANG_S


class OneConnection:
    """A connection whose second statement ends when PostgreSQL is asked to end it, and not before."""

    def __init__(self) -> None:
        self.may_connect, self.is_connecting = threading.Event(), threading.Event()
        self.is_between, self.was_asked, self.ends = threading.Event(), threading.Event(), threading.Event()
        self._runs = False

    @contextmanager
    def connected(self, *_: str) -> Iterator[Any]:
        self.is_connecting.set()
        assert self.may_connect.wait(HANG_S)
        yield self

    def cancel_safe(self, *, timeout: float) -> None:
        if self._runs:
            self.ends.set()
        self.was_asked.set()

    def question(self, _: Any) -> None:
        self.is_between.set()
        self.was_asked.wait(HANG_S)
        self._runs = True
        self.ends.wait(HANG_S)


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> OneConnection:
    """What there is in place of PostgreSQL."""
    own = OneConnection()
    monkeypatch.setattr(long_reads, "connected", own.connected)
    monkeypatch.setattr(long_reads, "snapshot", nullcontext)
    monkeypatch.setattr(long_reads, "CANCEL_S", HANG_S)
    return own


async def test_what_is_between_two_statements_ends_with_the_next(connection: OneConnection) -> None:
    """PostgreSQL has nothing to end then, and would be asked in vain."""
    reads = LongReads("")
    connection.may_connect.set()
    asked = asyncio.create_task(reads.ask(connection.question))
    assert await asyncio.to_thread(connection.is_between.wait, HANG_S)
    await reads.close()
    has_ended = connection.ends.is_set()
    connection.ends.set()
    await asked
    assert has_ended


async def test_what_is_just_connecting_asks_nothing(connection: OneConnection) -> None:
    """Its connection isn't there yet when the others are ended."""
    reads = LongReads("")
    asked = asyncio.create_task(reads.ask(connection.question))
    assert await asyncio.to_thread(connection.is_connecting.wait, HANG_S)
    await reads.close()
    connection.was_asked.set()
    connection.ends.set()
    connection.may_connect.set()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not connection.is_between.is_set()
