"""The pages of the books and of operation on a door with a worker."""

from datetime import UTC, datetime, timedelta

import pytest

from helpers.console import Visitor, links_of, text_of
from helpers.doors import Door

pytestmark = pytest.mark.stack

#: An instant within a month of its own.
ENDS = datetime.now(UTC) + timedelta(days=400)


@pytest.fixture(scope="module")
def letter(door: Door) -> str:
    """The position of a dead letter: an id that was used for two commands."""
    door.append("twice", "grants", "same", asset="coins", amount=11, lot_class="promo", expires_at=ENDS.isoformat())
    door.append("twice", "spends", asset="coins", amount=4)
    answer = door.append("twice", "grants", "same", asset="coins", amount=12, reason="<b>again</b>")
    assert answer.status_code == 409
    return str(answer.json()["position"])


@pytest.mark.usefixtures("letter")
def test_the_books_say_where_all_credits_are(visitor: Visitor) -> None:
    """By asset, by class, by month, and that nothing is missing."""
    assert "coins 7 0 0 4 0 0 0 0 11" in text_of(visitor.page("/console/books"))
    classes = text_of(visitor.page("/console/books/classes"))
    assert "coins promo 7" in classes
    assert "coins promo 4 0" in classes
    assert f"{ENDS:%B} {ENDS.year} coins 1 7 0" in text_of(visitor.page("/console/books/ending"))
    proof = text_of(visitor.page("/console/books/proof"))
    assert "The books balance" in proof
    assert "coins 7 0 0 0 4 0 0 11 0" in proof


def test_operation_shows_what_moves_and_what_is_stuck(door: Door, visitor: Visitor, letter: str) -> None:
    """Each partition with its lag, rate, owner and epoch; processes; dead letters by reason; generations."""
    page = visitor.page("/console/operation")
    said = text_of(page)
    for partition in range(door.settings.partitions):
        assert f" {partition} 0 0 s " in said
    assert "worker" in said
    assert "Transfers in transit None." in said
    assert "command id reused: 1" in said
    assert "the id was decided before with another body" in said
    assert "1 live" in said
    assert f"/console/dead-letters/{letter.replace(':', '%3A')}" in links_of(page)


def test_a_dead_letter_is_shown_with_the_command_that_had_its_id(visitor: Visitor, letter: str) -> None:
    """Both decoded, and its markup as text."""
    page = visitor.page(f"/console/dead-letters/{letter}")
    said = text_of(page)
    assert "amount 12" in said
    assert "What was decided under its id first" in said
    assert "amount 11" in said
    assert "<b>again</b>" in said
    assert "<b>" not in page
    assert "no dead letter at 0:999999" in text_of(visitor.page("/console/dead-letters/0:999999", 404))


def test_the_log_is_read_by_position(visitor: Visitor, letter: str) -> None:
    """One record, decoded, and the way to its neighbours."""
    led = visitor.http.get("/console/log", params={"at": f" {letter} "})
    assert led.status_code == 303
    page = visitor.page(led.headers["Location"])
    assert "Grant, appended on" in text_of(page)
    assert "key twice" in text_of(page)
    partition, _, offset = letter.partition(":")
    assert f"/console/log/{partition}/{int(offset) - 1}" in links_of(page)
    assert visitor.page("/console/log/0/999999", 404)
    assert visitor.page("/console/log?at=nonsense", 400)


def test_what_a_scope_doesnt_open_is_said_and_not_shown(door: Door, letter: str) -> None:
    """Who looks after generations sees no dead letter, and the other way round."""
    with Visitor(door.url) as other:
        other.log_in(door.make_key("operate:generations").text)
        said = text_of(other.page("/console/operation"))
        assert "Shown to keys with the scope operate:dead-letters" in said
        assert letter not in said
    with Visitor(door.url) as other:
        other.log_in(door.make_key("operate:dead-letters").text)
        assert "Shown to keys with the scope operate:generations" in text_of(other.page("/console/operation"))
        # What is personal needs a scope of its own.
        assert "again" not in other.page(f"/console/dead-letters/{letter}")
