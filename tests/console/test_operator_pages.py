"""The pages of the books and of operation on a door with a worker."""

import html
import re
from datetime import UTC, datetime, timedelta

import pytest

from creditfold.api import latest
from creditfold.common.waiting import wait_until
from creditfold.console import operation
from creditfold.log.admin import KafkaAdmin
from helpers.console import Visitor, links_of, text_of
from helpers.doors import Door
from helpers.support import HANG_S

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
def test_the_books_say_where_all_credits_are(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """By asset, by class, by month, and that nothing is missing."""
    monkeypatch.setattr(latest, "WAIT_S", HANG_S)
    assert "coins 7 0 0 4 0 0 0 0 11" in text_of(visitor.page("/console/books"))
    classes = text_of(visitor.page("/console/books/classes"))
    assert "coins promo 7" in classes
    assert "coins promo 4 0" in classes
    assert f"{ENDS:%B} {ENDS.year} coins 1 7 0" in text_of(visitor.page("/console/books/ending"))
    proof = text_of(visitor.page("/console/books/proof"))
    assert "The books balance" in proof
    assert "coins 7 0 0 0 4 0 0 11 0" in proof


@pytest.mark.parametrize("name", ["classes", "ending", "proof"])
def test_what_takes_long_shows_what_came_of_it_last(
    visitor: Visitor, letter: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it; the page says since when it is under way, and later of when it is."""
    monkeypatch.setattr(latest, "WAIT_S", 0.0)
    path = f"/console/books/{name}"
    page = visitor.page(path)
    assert "being worked out since" in text_of(page)
    assert path in links_of(page)
    said = [""]

    def is_there() -> bool:
        said[0] = text_of(visitor.page(path))
        return "coins" in said[0]

    assert wait_until(is_there, HANG_S)
    assert "As of " in said[0]
    assert "complete up to" in said[0]


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


def test_pages_ask_kafka_by_the_client_that_the_door_keeps(
    visitor: Visitor, letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each client that is made for a page connects to Kafka first, which takes longer than all that is asked."""

    def refuse(*_: object) -> None:
        raise AssertionError("a client is made for a page")

    visitor.page("/console/operation")
    monkeypatch.setattr(KafkaAdmin, "__init__", refuse)
    assert " 0 0 s " in text_of(visitor.page("/console/operation"))
    assert "twice" in text_of(visitor.page(f"/console/log/{letter.replace(':', '/')}"))


def test_a_rate_is_of_two_looks(door: Door, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has none, and nobody waits for it; one that is too long ago isn't the first of two."""
    # A look of another test may be the first of two.
    monkeypatch.setattr(operation, "LEAST_RATE_S", 1e9)
    row = re.compile(r" 0 0 0 s (\?|[\d,]+) ")
    assert row.findall(text_of(visitor.page("/console/operation")))[0] == "?"
    monkeypatch.setattr(operation, "LEAST_RATE_S", 0.0)
    door.grant("rated", 1)
    assert row.findall(text_of(visitor.page("/console/operation")))[0] != "?"
    monkeypatch.setattr(operation, "MOST_RATE_S", 0.0)
    assert row.findall(text_of(visitor.page("/console/operation")))[0] == "?"


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
        page = other.page("/console/operation")
        assert "Shown to keys with the scope operate:dead-letters" in text_of(page)
        assert [link for link in links_of(page) if "dead-letters" in link] == []
    with Visitor(door.url) as other:
        other.log_in(door.make_key("operate:dead-letters").text)
        assert "Shown to keys with the scope operate:generations" in text_of(other.page("/console/operation"))
        # What is personal needs a scope of its own.
        assert "gt;again" not in other.page(f"/console/dead-letters/{letter}")


# Helping somebody


def test_a_grant_is_previewed_in_words_and_counts_once(door: Door, visitor: Visitor) -> None:
    """What the account will have and what ends first; sent twice, as by a double click, once."""
    path = "/console/accounts/helped/grant"
    door.append("helped", "grants", asset="credits", amount=270)
    assert path in [link.partition("?")[0] for link in links_of(visitor.page("/console/accounts/helped"))]
    fields = {"asset": "credits", "amount": "50", "lot_class": "promo", "reason": "<i>sorry</i>", "action": "preview"}
    ends = f"{ENDS:%Y}-01-01"
    preview = visitor.send(visitor.page(path), path, **fields, expires_at=ends)
    assert f"helped will have 320 credits; the first 50 end on 1 January {ENDS:%Y}." in text_of(preview.text)
    assert "<i>" not in preview.text
    assert "270" in text_of(visitor.page("/console/accounts/helped"))
    said = [text_of(visitor.send(preview.text, path, action="confirm").text) for _ in range(2)]
    assert "helped has 320 credits now" in said[0]
    assert "It was done already, and counts once. helped has 320 credits now" in said[1]
    account = visitor.page("/console/accounts/helped")
    assert "granted 50 credits" in text_of(account)
    assert "<i>sorry</i>" in text_of(account)
    lines = door.http.get("/v1/audit").json()["lines"]
    assert [(line["action"], line["reason"]) for line in lines if line["target"] == "helped"][:2] == [
        ("commands.grant", "<i>sorry</i>")
    ] * 2


def test_a_refund_and_a_void_are_offered_where_they_fit(door: Door, visitor: Visitor) -> None:
    """At the spend and at the grant, filled in; each says what would be left."""
    door.append("mended", "grants", "g", asset="credits", amount=100)
    door.append("mended", "spends", "s", asset="credits", amount=30)
    (refund,) = [one for one in links_of(visitor.page("/console/accounts/mended/commands/s")) if "/refund" in one]
    form = visitor.page(refund)
    assert 'value="s"' in form
    path = "/console/accounts/mended/refund"
    preview = visitor.send(form, path, spend="s", amount="", reason="broken")
    assert "mended will have 100 credits." in text_of(preview.text)
    assert "mended has 100 credits now" in text_of(visitor.send(preview.text, path, action="confirm").text)
    again = text_of(visitor.send(form, path, spend="s", amount="", reason="broken").text)
    assert "It would be refused: more than is left to refund" in again
    (void,) = [one for one in links_of(visitor.page("/console/accounts/mended/commands/g")) if "/void-grant" in one]
    void_path = void.partition("?")[0]
    preview = visitor.send(visitor.page(void), void_path, grant="g", reason="fraud")
    assert "mended will have 0 credits." in text_of(preview.text)
    assert "mended has 0 credits now" in text_of(visitor.send(preview.text, void_path, action="confirm").text)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"amount": "5", "reason": ""}, "The reason is missing."),
        ({"amount": "", "reason": "r"}, "Amount is missing."),
        ({"amount": "5e3", "reason": "r"}, "Amount must be a whole number."),
        ({"amount": "-1", "reason": "r"}, "Amount must be a whole number."),
        ({"amount": "0", "reason": "r"}, "amount must be"),
        ({"amount": "5", "reason": "r", "expires_at": "2026-02-30"}, "Ends on must be a day"),
        ({"amount": "5", "reason": "r" * 2_000}, "reason must be"),
        ({"amount": "5", "reason": "r", "asset": "c\u202ed"}, "asset"),
    ],
)
def test_a_form_that_is_filled_in_wrongly_comes_back_as_it_was(
    visitor: Visitor, fields: dict[str, str], said: str
) -> None:
    """With what is wrong with it; nothing is appended, however it is sent."""
    path = "/console/accounts/wrong/grant"
    for action in ("preview", "confirm"):
        known = {"asset": "credits", "lot_class": "promo", "command_id": "x", "action": action, **fields}
        answer = visitor.send(visitor.page(path), path, **known)
        assert answer.status_code == 400
        assert said in text_of(answer.text)
    assert "never had any" in text_of(visitor.page("/console/accounts/wrong"))


def test_limits_of_a_key_hold_by_hand(door: Door) -> None:
    """Its largest amount and its assets, in the preview already; and what it can't do isn't offered."""
    path = "/console/accounts/limited/grant"
    with Visitor(door.url) as support:
        support.log_in(door.make_key("manual:grant", "read:balance", most_amount=10, assets=["credits"]).text)
        known = {"lot_class": "promo", "reason": "r", "action": "preview"}
        for fields in ({"asset": "credits", "amount": "11"}, {"asset": "coins", "amount": "1"}):
            assert support.send(support.page(path), path, **known, **fields).status_code == 403
        assert support.send(support.page(path), path, **known, asset="credits", amount="10").status_code == 200
        links = links_of(support.page("/console/accounts/limited"))
        assert [link.partition("?")[0] for link in links if "limited/" in link] == [path]


# Mending


def test_a_dead_letter_is_redriven_under_another_id_or_discarded(door: Door, visitor: Visitor) -> None:
    """Each with a preview that does nothing, and a reason."""
    positions = []
    for amount in (2, 3):
        door.append("mend", "grants", "once", asset="credits", amount=1)
        positions.append(door.append("mend", "grants", "once", asset="credits", amount=amount).json()["position"])
    redriven, discarded = positions
    page, path = visitor.page(f"/console/dead-letters/{redriven}"), f"/console/dead-letters/{redriven}/redrive"
    form = path.replace(redriven, redriven.replace(":", "%3A"))
    assert visitor.send(page, form, why=" ").status_code == 400
    preview = visitor.send(page, form, why="a typo", command_id="twice")
    assert "Would be redriven" in text_of(preview.text)
    assert "amount 2" in text_of(preview.text)
    assert "command twice" not in visitor.page("/console/accounts/mend")
    done = text_of(visitor.send(preview.text, form, action="confirm").text)
    assert "Accepted, to" in done
    assert "granted 2 credits" in text_of(visitor.page("/console/accounts/mend"))
    page = visitor.page(f"/console/dead-letters/{discarded}")
    form = form.replace(redriven.replace(":", "%3A"), discarded.replace(":", "%3A")).replace("redrive", "discard")
    preview = visitor.send(page, form, why="a test")
    assert "open" in text_of(visitor.page(f"/console/dead-letters/{discarded}"))
    assert "Discarded" in text_of(visitor.send(preview.text, form, action="confirm").text)
    assert "What to do about it" not in text_of(visitor.page(f"/console/dead-letters/{discarded}"))


def dead(door: Door, account: str, command_id: str, amount: int) -> tuple[str, str]:
    """The position of a dead letter: an id that was used for another amount; and its page."""
    door.append(account, "grants", command_id, asset="credits", amount=1)
    position = door.append(account, "grants", command_id, asset="credits", amount=amount).json()["position"]
    return position, f"/console/dead-letters/{position.replace(':', '%3A')}"


def test_a_dead_letter_is_redriven_with_corrections(door: Door, visitor: Visitor) -> None:
    """Of fields, metadata and the type, or as a whole command; shown first, and audited."""
    _, page = dead(door, "corrected", "c", 5)
    path = f"{page}/redrive"
    given = {"why": "a typo", "command_id": "c-2", "fields": "amount=7\r\n\r\n metadata.ticket=T-1 \n"}
    preview = visitor.send(visitor.page(page), path, **given)
    assert "Would be redriven" in text_of(preview.text)
    assert "amount 7" in text_of(preview.text)
    assert "T-1" in text_of(preview.text)
    assert "Accepted, to" in text_of(visitor.send(preview.text, path, action="confirm").text)
    assert "granted 7 credits" in text_of(visitor.page("/console/accounts/corrected"))
    found = door.http.get("/v1/audit").json()["lines"]
    redriven = next(line for line in found if line["action"] == "dead-letters.redrive" and line["before"])
    assert redriven["before"]["fields"] == {"amount": 7, "command_id": "c-2"}
    assert redriven["before"]["metadata"] == {"ticket": "T-1"}
    _, page = dead(door, "corrected", "d", 5)
    path = f"{page}/redrive"
    whole = '{"type": "spend", "command_id": "d-2", "account": "corrected", "asset": "credits", "amount": 3}'
    preview = visitor.send(visitor.page(page), path, why="a spend", command=whole)
    assert "type spend" in text_of(preview.text)
    assert "Accepted, to" in text_of(visitor.send(preview.text, path, action="confirm").text)
    assert "spent 3 credits" in text_of(visitor.page("/console/accounts/corrected"))


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"fields": "amount"}, 400, "is no FIELD=VALUE"),
        ({"fields": "amount=1\namount=2"}, 400, "is given twice"),
        ({"fields": "colour=red"}, 400, "is no FIELD=VALUE"),
        ({"fields": "amount=x", "command_id": "n"}, 409, "would be an invalid command"),
        ({"command": "[]"}, 400, "no JSON object"),
        ({"command": "{"}, 400, "The whole command"),
        ({"command": "[" * 1_000}, 400, "deeper"),
        ({"command": "{}", "fields": "amount=1"}, 400, "stands for itself"),
        ({}, 409, "has the id of another command"),
    ],
)
def test_a_correction_that_makes_no_command_comes_back_as_it_was(
    door: Door, visitor: Visitor, fields: dict[str, str], status: int, said: str
) -> None:
    """With what is wrong; nothing is appended, in the preview and when it is confirmed all the same."""
    position, page = dead(door, "uncorrected", "same", 2)
    for action in ("preview", "confirm"):
        answer = visitor.send(visitor.page(page), f"{page}/redrive", why="<b>why</b>", action=action, **fields)
        assert answer.status_code == status
        assert said in text_of(answer.text)
        assert "&lt;b&gt;why" in answer.text
        assert all(html.escape(value.partition("\n")[0]) in answer.text for value in fields.values())
    assert door.http.get(f"/v1/dead-letters/{position}").json()["state"] == "open"


def test_a_correction_needs_what_its_command_needs(door: Door) -> None:
    """Who looks after dead letters appends nothing by one that they may not append."""
    _, page = dead(door, "scoped", "s", 9)
    with Visitor(door.url) as operator:
        operator.log_in(door.make_key("operate:dead-letters", "append:grant", most_amount=5).text)
        for fields in ({"fields": "amount=6"}, {"type": "spend"}, {"fields": "amount=6", "type": "spend"}):
            given = {"why": "r", "command_id": "s-2", **fields}
            assert operator.send(operator.page(page), f"{page}/redrive", **given).status_code == 403
        given = {"why": "r", "command_id": "s-2", "fields": "amount=5"}
        assert operator.send(operator.page(page), f"{page}/redrive", **given).status_code == 200


def test_a_long_operation_says_what_came_of_it(door: Door, visitor: Visitor) -> None:
    """A verification that was begun here: who, why, and its result once it is done."""
    page = visitor.page("/console/generations/1")
    path = "/console/generations/1/verify"
    led = visitor.send(page, path, why="<u>monthly</u>").headers["Location"]
    (newest, *_) = door.http.get("/v1/operations").json()["operations"]
    number = newest["operation"]
    assert led == f"/console/operations/{number}"

    def has_ended() -> bool:
        return door.http.get(f"/v1/operations/{number}").json()["ended_at"] is not None

    assert wait_until(has_ended, HANG_S)
    assert f"/console/operations/{number}" in links_of(visitor.page("/console/operation"))
    shown = visitor.page(f"/console/operations/{number}")
    assert f"Generations verify {number} done" in text_of(shown)
    assert "<u>monthly</u>" in text_of(shown)
    assert '"equal": true' in text_of(shown)
    assert visitor.page("/console/operations/9999", 404)


def test_a_generation_is_activated_behind_a_confirmation_only(visitor: Visitor) -> None:
    """The live one can't be; without the box nothing begins; one that isn't there isn't."""
    page = visitor.page("/console/generations/1")
    assert "Compares it with a fresh fold of the log" in text_of(page)
    assert "/activate" not in page
    token = {"csrf_token": re.findall(r'name="csrf_token" value="(\w+)"', page)[0], "why": "r"}
    answer = visitor.http.post("/console/generations/1/activate", data=token)
    assert "The activation wasn't confirmed" in text_of(answer.text)
    answer = visitor.http.post("/console/generations/1/activate", data={**token, "sure": "yes"})
    assert answer.status_code == 409
    assert visitor.page("/console/generations/99", 404)
