"""The console where its servers are away, and without keys."""

from collections.abc import Iterator

import pytest

from creditfold.common.settings import Settings
from helpers.console import Visitor, text_of
from helpers.doors import serving


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
