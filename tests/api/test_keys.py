"""Keys and the audit over HTTP: nobody gives more than they have, each change is audited, no text gets out."""

import asyncio
import logging
import uuid
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from creditfold.api import access, service
from creditfold.common.waiting import wait_until
from creditfold.projections import connections
from creditfold.projections.access.keys import Key, NewKey
from creditfold.projections.connections import PostgresUnavailableError
from helpers.doors import Door, serving
from helpers.stack_under_test import free_port
from helpers.support import HANG_S

pytestmark = pytest.mark.stack

WHY = "a test needs it"


def made(door: Door, name: str, *scopes: str, **fields: Any) -> dict[str, Any]:
    """A key that is made over HTTP, with its text."""
    answer = door.http.post("/v1/keys", json={"name": name, "scopes": scopes, "reason": WHY, **fields})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


def opens(door: Door, text: str) -> bool:
    """Whether a key's text opens the audit."""
    with door.with_key(text) as client:
        return client.get("/v1/audit").status_code == 200


def test_a_key_is_made_listed_rotated_and_revoked(door: Door) -> None:
    """Its text is in the answer that made it; a revoked one opens nothing after a moment."""
    first = made(door, "auditor", "audit", expires_at="2098-01-01T00:00:00Z")
    assert opens(door, first["text"])
    url = f"/v1/keys/{first['id']}"
    second = door.http.post(f"{url}:rotate", json={"reason": WHY, "overlap_s": 3600}).json()
    assert (second["id"], second["expires_at"]) == (first["id"], "2098-01-01T00:00:00.000Z")
    assert opens(door, first["text"])
    assert opens(door, second["text"])
    listed = door.http.get("/v1/keys")
    (row,) = (row for row in listed.json() if row["name"] == "auditor")
    assert (row["scopes"], row["account_prefix"], row["assets"], row["revoked_at"]) == (["audit"], "", [], None)
    for one in (first, second):
        assert one["text"].rpartition("_")[2] not in listed.text
    gone = door.http.delete(url, params={"reason": WHY})
    assert (gone.status_code, gone.json()["revoked_at"] is not None) == (200, True)
    assert wait_until(lambda: not opens(door, first["text"]) and not opens(door, second["text"]), HANG_S)


def test_each_change_is_audited(door: Door) -> None:
    """Who, from where, why, by which request, before and after; read by pages, which later lines don't move."""
    key = made(door, "watched", "audit")
    url = f"/v1/keys/{key['id']}"
    answers = [
        door.http.post(f"{url}:rotate", json={"reason": "each quarter"}),
        # Nobody else's address by a header that anybody may send.
        door.http.delete(url, params={"reason": "no more"}, headers={"X-Forwarded-For": "203.0.113.9"}),
    ]
    newest = door.http.get("/v1/audit", params={"limit": 1}).json()
    made(door, "watched-2", "audit")
    second = door.http.get("/v1/audit", params={"limit": 1, "cursor": newest["next"]}).json()
    whole = door.http.get("/v1/audit", params={"limit": 1_000})
    assert (len(newest["lines"]), len(second["lines"]), whole.json()["next"]) == (1, 1, None)
    revoked, rotated = newest["lines"][0], second["lines"][0]
    assert [revoked, rotated] == [line for line in whole.json()["lines"] if line["target"] == key["id"]][:2]
    for line, answer, action, reason in (
        (rotated, answers[0], "keys.rotate", "each quarter"),
        (revoked, answers[1], "keys.revoke", "no more"),
    ):
        assert (line["action"], line["target"], line["reason"]) == (action, key["id"], reason)
        assert (line["address"], line["request_id"]) == ("127.0.0.1", answer.headers["X-Request-Id"])
        assert line["who"].startswith("key-")
    assert rotated["before"]["name"] == rotated["after"]["name"] == "watched"
    assert (revoked["before"]["revoked_at"], revoked["after"]["revoked_at"] is None) == (None, False)
    for text in (key["text"], answers[0].json()["text"]):
        assert text.rpartition("_")[2] not in whole.text
    bad = door.http.get("/v1/audit", params={"cursor": "nothing"})
    assert (bad.status_code, bad.json()["code"]) == (400, "invalid_cursor")


#: What the caller has, what it wants to give, and what of that goes too far.
BEYOND: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a scope": ({}, {"scopes": ["audit", "append:grant"]}, "scopes"),
    "any account": ({"account_prefix": "eu-"}, {}, "account_prefix"),
    "other accounts": ({"account_prefix": "eu-"}, {"account_prefix": "us-"}, "account_prefix"),
    "any asset": ({"assets": ["gold"]}, {}, "assets"),
    "another asset": ({"assets": ["gold"]}, {"assets": ["gold", "credits"]}, "assets"),
    "any amount": ({"most_amount": 5}, {}, "most_amount"),
    "a larger amount": ({"most_amount": 5}, {"most_amount": 6}, "most_amount"),
    "no end": ({"expires_at": "2098-01-01T00:00:00Z"}, {}, "expires_at"),
    "a later end": ({"expires_at": "2098-01-01T00:00:00Z"}, {"expires_at": "2098-01-02T00:00:00Z"}, "expires_at"),
    "no rate": ({"rate": 1_000}, {}, "rate"),
    "a higher rate": ({"rate": 1_000.5}, {"rate": 1_001}, "rate"),
    "a larger burst": ({"rate": 1_000, "burst": 10}, {"rate": 1_000, "burst": 11}, "burst"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_nobody_gives_more_than_they_have(door: Door, name: str) -> None:
    """No scope and no limit beyond one's own; as much is given, and a larger key isn't rotated, which would give it."""
    own, wanted, beyond = BEYOND[name]
    fields = {"scopes": ["audit"], **wanted}
    mine = made(door, f"limited by {name}", "keys", "audit", **own)
    larger = made(door, f"larger by {name}", *fields.pop("scopes"), **fields)
    with door.with_key(mine["text"]) as client:
        for answer in (
            client.post("/v1/keys", json={"name": "x", "scopes": ["audit"], "reason": WHY, **wanted}),
            client.post(f"/v1/keys/{larger['id']}:rotate", json={"reason": WHY}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "beyond_own_reach"), answer.text
            assert beyond in answer.json()["detail"]
        within = {"name": f"within {name}", "scopes": ["audit"], "reason": WHY, **own}
        assert client.post("/v1/keys", json=within).status_code == 201
        prefix = own.get("account_prefix", "")
        assert all(row["account_prefix"].startswith(prefix) for row in client.get("/v1/keys").json())
        revoked = client.delete(f"/v1/keys/{larger['id']}", params={"reason": WHY})
        assert revoked.status_code == (403 if prefix else 200)


def test_what_is_there_twice_or_not_at_all_is_refused(door: Door) -> None:
    """A name that is taken, a third text, a key that there isn't."""
    key = made(door, "twice", "audit")
    again = door.http.post("/v1/keys", json={"name": "twice", "scopes": ["audit"], "reason": WHY})
    assert (again.status_code, again.json()["code"]) == (409, "key_name_taken")
    turns = [door.http.post(f"/v1/keys/{key['id']}:rotate", json={"reason": WHY}) for _ in range(2)]
    assert [turn.status_code for turn in turns] == [200, 409]
    assert turns[1].json()["code"] == "key_rotated"
    for answer in (
        door.http.post("/v1/keys/nobody:rotate", json={"reason": WHY}),
        door.http.delete("/v1/keys/nobody", params={"reason": WHY}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "key_unknown")


#: What a key is to be, and what the problem says of it.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no reason": ({"reason": ""}, "reason"),
    "a blank reason": ({"reason": " "}, "reason"),
    "an unknown scope": ({"scopes": ["append:everything"]}, "append:grant"),
    "no scope": ({"scopes": []}, "scopes"),
    "a scope that is a number": ({"scopes": [1]}, "scopes"),
    "a name with a line break": ({"name": "a\nb"}, "name"),
    "a past end": ({"expires_at": "2020-01-01T00:00:00Z"}, "ended already"),
    "an end that is a number": ({"expires_at": 4102444800000}, "expires_at"),
    "an amount as text": ({"most_amount": "5"}, "most_amount"),
    "no amount": ({"most_amount": 0}, "most_amount"),
    "a rate of nothing": ({"rate": 0}, "rate"),
    "a burst without a rate": ({"burst": 5}, "burst"),
    "a strange field": ({"colour": "red"}, "colour"),
    "a prefix with NUL": ({"account_prefix": "a\0"}, "prefix"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_can_be_no_key_is_refused_in_words(door: Door, name: str) -> None:
    """With 400; nothing is made, and nothing is audited."""
    fields, said = BAD[name]
    before = door.http.get("/v1/audit").json()["lines"][0]["number"]
    answer = door.http.post("/v1/keys", json={"name": "bad", "scopes": ["audit"], "reason": WHY, **fields})
    assert answer.status_code == 400, answer.text
    assert said in answer.text
    assert door.http.get("/v1/audit").json()["lines"][0]["number"] == before


def test_a_change_that_nobody_answers_may_be_made(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its audit is held until the caller has 503, which says so; the key is there afterwards."""
    name = f"late-{uuid.uuid4().hex[:8]}"

    def names() -> list[str]:
        return [key["name"] for key in door.http.get("/v1/keys").json()]

    assert name not in names()
    with connections.connected(door.settings.dsn) as holding, holding.transaction():
        holding.execute("LOCK TABLE ledger_access.audit IN SHARE MODE")
        with monkeypatch.context() as patched:
            patched.setattr(service, "QUERY_S", 1.0)
            answer = door.http.post("/v1/keys", json={"name": name, "scopes": ["audit"], "reason": WHY})
        assert (answer.status_code, answer.json()["maybe_written"]) == (503, True), answer.text
        assert "GET /v1/keys" in answer.json()["remedy"]
    assert wait_until(lambda: name in names(), HANG_S)


def test_texts_that_open_nothing_have_no_key_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come, a key that is known stays good while PostgreSQL is away; one that is revoked doesn't."""
    monkeypatch.setattr(access, "MOST_KEPT", 3)
    monkeypatch.setattr(access, "FRESH_S", 0.0)
    known: dict[str, Key] = {"good": Key("1", "good", ["audit"]), "revoked": Key("2", "revoked", ["audit"])}
    is_away = False

    async def find(text: str) -> Key | None:
        if is_away:
            raise PostgresUnavailableError("PostgreSQL is away.")
        return known.get(text)

    async def names() -> list[str | None]:
        nonlocal is_away
        ring = access.KeyRing(find)
        assert [key and key.name for key in [await ring.find("good"), await ring.find("revoked")]] == [
            "good",
            "revoked",
        ]
        del known["revoked"]
        for text in ("revoked", *map(str, range(10))):
            assert await ring.find(text) is None
        is_away = True
        return [key and key.name for key in [await ring.find("good")]]

    assert asyncio.run(names()) == ["good"]


def test_a_keys_text_is_in_no_line_of_the_log_no_error_and_no_repr(
    door: Door,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it is good, wrong by a letter, sent as the wrong thing, or can't be looked up; nor is a password."""
    new = door.make_key("audit", "keys")
    secret = new.text.rpartition("_")[2]
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT_S", 1)
    away = f"postgresql://postgres:hunter2@127.0.0.1:{free_port()}/creditfold"
    said = [repr(new), str(new), f"{new}", repr([new]), repr(NewKey(*new))]
    with serving(door.settings.model_copy(update={"postgres_dsn": SecretStr(away)})) as closed:
        for url in (door.url, closed):
            for text in (new.text, f"{new.text}x", new.text[::-1]):
                for headers in ({"Authorization": f"Bearer {text}"}, {"Authorization": text}, {"X-Key": text}):
                    answer = httpx.get(f"{url}/v1/audit", headers=headers, trust_env=False, timeout=HANG_S)
                    said.append(f"{answer.status_code} {answer.headers} {answer.text}")
    assert {int(one[:3]) for one in said[5:]} == {200, 401, 503}
    # The client's own lines are no log of the door's.
    said += [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    said += capfd.readouterr()
    assert [one for one in said if secret in one or secret[::-1] in one or "hunter2" in one] == []
