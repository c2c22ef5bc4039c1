"""Sessions: how long they live, what their tokens are worth, and how often a login may fail."""

import pytest

from creditfold.api.problems import ProblemError
from creditfold.console import sessions
from creditfold.console.pages import link, safe_next
from creditfold.console.sessions import FAILURES, IDLE_S, LASTS_S, Sessions

KEY = "cfk_secret"


def test_a_session_is_found_by_its_id_until_it_ends() -> None:
    """By nothing else, and not after a logout."""
    found = Sessions()
    session_id = found.begin(KEY)
    session = found.find(session_id)
    assert session is not None
    assert session.key == KEY
    assert found.find("other") is None
    found.end(session_id)
    assert found.find(session_id) is None


def test_a_session_ends_where_nobody_uses_it_and_at_last_in_any_case() -> None:
    """Each use makes it last, but not longer than a working day."""
    found = Sessions()
    idle, used = found.begin(KEY, now=0.0), found.begin(KEY, now=0.0)
    assert found.find(idle, now=IDLE_S + 1) is None
    at = 0.0
    while at + IDLE_S <= LASTS_S:
        at += IDLE_S
        assert found.find(used, now=at) is not None
    assert found.find(used, now=LASTS_S + 1) is None


def test_there_are_no_more_sessions_than_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was used longest ago ends."""
    monkeypatch.setattr(sessions, "MOST_SESSIONS", 2)
    found = Sessions()
    first, second = found.begin(KEY), found.begin(KEY)
    assert found.find(first) is not None
    found.begin(KEY)
    assert found.find(second) is None
    assert found.find(first) is not None


def test_neither_an_id_nor_a_key_is_shown_by_what_is_kept() -> None:
    """A log that has a session has no secret."""
    found = Sessions()
    session_id = found.begin(KEY)
    assert KEY not in repr(found.find(session_id))
    assert session_id not in repr(vars(found))


def test_a_token_is_of_one_session_and_of_one_process() -> None:
    """No other one makes it."""
    one, other = Sessions(), Sessions()
    assert one.is_token("a", one.token("a"))
    assert not one.is_token("b", one.token("a"))
    assert not one.is_token("a", other.token("a"))
    assert not one.is_token("a", "")
    assert not one.is_token("a", "é")


def test_an_address_may_fail_so_often_and_then_seldom() -> None:
    """Another one isn't kept from it; a success forgets what failed."""
    found = Sessions()
    for _ in range(FAILURES.burst):
        found.refuse_failures("here", now=0.0)
    with pytest.raises(ProblemError) as refused:
        found.refuse_failures("here", now=0.0)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "10")
    found.refuse_failures("there", now=0.0)
    found.refuse_failures("here", now=10.0)
    found.forget_failures("here")
    found.refuse_failures("here", now=10.0)


NEXT = [
    ("/console", "/console"),
    ("/console/accounts/a%2Fb?before=7", "/console/accounts/a%2Fb?before=7"),
    ("/console?q=x", "/console?q=x"),
    ("//evil.example", "/console"),
    ("https://evil.example/console/", "/console"),
    ("/console.evil.example", "/console"),
    ("/console/\\evil.example", "/console"),
    ("/console/\r\nSet-Cookie: x", "/console"),
    ("", "/console"),
]


@pytest.mark.parametrize(("wanted", "following"), NEXT)
def test_a_login_leads_to_the_console_only(wanted: str, following: str) -> None:
    """Or somebody's link would log in here and end elsewhere."""
    assert safe_next(wanted) == following


def test_a_link_has_names_escaped() -> None:
    """Whatever is in them, it is one part of the path."""
    assert link("accounts", "a/b?c#d", "commands", "x y", at=None, cursor="1&2") == (
        "/console/accounts/a%2Fb%3Fc%23d/commands/x%20y?cursor=1%262"
    )
