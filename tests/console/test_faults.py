"""The console where its servers are away, and without keys."""

import functools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from creditfold.api import latest, service
from creditfold.api.ends import LogEnds
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.console import books, helping
from creditfold.producers import AsyncCommandProducer
from creditfold.projections.connections import connected
from helpers.console import Visitor, text_of
from helpers.doors import Door, serving
from helpers.support import HANG_S


@pytest.fixture(scope="module")
def open_console() -> Iterator[Visitor]:
    """Somebody at a door without keys (`--insecure-local`) whose Kafka and PostgreSQL are away."""
    nowhere = Settings(kafka_bootstrap="127.0.0.1:9", postgres_dsn="host=127.0.0.1 port=9 dbname=none")
    with serving(nowhere, is_open=True) as url, Visitor(url) as found:
        yield found


def test_a_door_without_keys_needs_none_to_log_in(open_console: Visitor) -> None:
    """The login says so; it is still a login, whose forms have a token."""
    assert "leave the key out" in text_of(open_console.page("/console/login"))
    assert open_console.http.get("/console").status_code == 303
    assert open_console.log_in("").status_code == 303
    assert "Log out" in open_console.page("/console")
    assert open_console.http.post("/console/logout").status_code == 403


def test_what_is_away_is_said_on_a_page(open_console: Visitor) -> None:
    """With what to do, and a status that a monitor understands."""
    open_console.log_in("")
    answer = open_console.http.get("/console/accounts/ada")
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    assert "PostgreSQL" in text_of(answer.text)


def test_a_page_of_another_name_gets_nothing_without_a_key(open_console: Visitor) -> None:
    """A name of somebody else's that leads to this machine isn't this machine's."""
    open_console.log_in("")
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        assert open_console.http.get("/console", headers=headers).status_code == 403


# With a ledger


@pytest.mark.stack
def test_where_kafka_is_away_reads_go_on_and_appends_say_what_is_the_matter(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operation names it and shows what PostgreSQL knows; a command may count, and the page says so."""
    door.grant("read-on", 7)
    monkeypatch.setattr(helping, "WAIT", "wait=1")
    # A door that ends waits for what Kafka may still have.
    brief = functools.partial(AsyncCommandProducer, delivery_timeout_s=3.0)
    monkeypatch.setattr(service, "AsyncCommandProducer", brief)
    key = door.make_key("read:balance", "read:statement", "manual:grant", "operate:rules").text
    with (
        serving(door.settings.model_copy(update={"kafka_bootstrap": "127.0.0.1:9"})) as url,
        Visitor(url) as visitor,
    ):
        visitor.log_in(key)
        assert "granted 7 credits" in text_of(visitor.page("/console/accounts/read-on"))
        said = text_of(visitor.page("/console/operation"))
        assert "Kafka" in said
        assert "The ledger is well" not in said
        assert " 0 ? ? ? " in said
        path = "/console/accounts/read-on/grant"
        fields = {"asset": "credits", "amount": "5", "lot_class": "promo", "reason": "r", "action": "preview"}
        preview = visitor.send(visitor.page(path), path, **fields)
        assert "read-on will have 12 credits" in text_of(preview.text)
        answer = visitor.send(preview.text, path, action="confirm")
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers
        assert "Done" not in text_of(answer.text)


@pytest.mark.stack
def test_a_door_that_closes_has_postgresql_end_what_takes_long(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process ends when its threads do, and these have no bound."""
    endless = f"SELECT pg_sleep({10 * HANG_S})"
    monkeypatch.setattr(latest, "WAIT_S", 0.0)
    monkeypatch.setattr(books, "outstanding", lambda connection: connection.execute(endless))
    key = door.make_key("read:statement").text
    asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s"
    with connected(door.settings.dsn) as connection:

        def is_asked() -> bool:
            return connection.execute(asked, (endless,)).fetchall() == [(1,)]

        with serving(door.settings) as url, Visitor(url) as visitor:
            visitor.log_in(key)
            assert "being worked out" in text_of(visitor.page("/console/books/classes"))
            assert wait_until(is_asked, HANG_S)
        assert wait_until(lambda: not is_asked(), HANG_S)


@pytest.mark.stack
def test_what_may_be_missing_is_said(door: Door, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log couldn't be asked for long, or the fold is behind by more than a minute."""
    door.grant("behind", 1)
    assert "may be missing here" not in text_of(visitor.page("/console/accounts/behind"))

    def complete_to(*arguments: Any) -> datetime:
        return datetime.now(UTC) - timedelta(minutes=5, seconds=1)

    monkeypatch.setattr(LogEnds, "complete_to", complete_to)
    said = text_of(visitor.page("/console/accounts/behind"))
    # More by as much as the page took.
    assert re.search(r"What was sent in the last [5-9] min \d+ s may be missing here", said), said
