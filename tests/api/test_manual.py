"""Commands by hand: with a reason, within the limits, and in the audit before they are in the log, else not at all."""

from typing import Any

import httpx
import psycopg
import pytest

from creditfold.api import manual
from helpers.doors import Door
from helpers.support import query

pytestmark = pytest.mark.stack

WHY = "the order was late: Ä"


def sent(client: httpx.Client, account: str, what: str, key: str, why: str | None = WHY, **body: Any) -> httpx.Response:
    """A command, by hand where `why` is given."""
    headers = {"Idempotency-Key": key, "Prefer": "wait=30", **({} if why is None else {"Creditfold-Why": why})}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return client.post(f"/v1/accounts/{account}/{what}", json=body, headers=encoded)


def lines(door: Door, account: str) -> list[dict[str, Any]]:
    """The audit's lines about an account, oldest first."""
    found = door.http.get("/v1/audit", params={"limit": 1_000}).json()["lines"]
    return [line for line in found if line["target"] == account][::-1]


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def grant(amount: int = 5) -> dict[str, Any]:
    return {"asset": "credits", "amount": amount}


def test_a_command_by_hand_is_audited_with_what_the_account_has(door: Door, account: str) -> None:
    """Before and after, by two lines of one request; a repeat and a rejection too, a preview not."""
    new = door.make_key("manual:grant", "manual:refund", "manual:void_grant", most_amount=5)
    with door.with_key(new.text) as client:
        assert sent(client, account, "grants?preview=true", "g1", None, **grant()).json()["outcome"] == "accepted"
        assert lines(door, account) == []
        done = sent(client, account, "grants", "g1", **grant())
        assert (done.status_code, done.json()["outcome"]) == (201, "accepted")
        assert sent(client, account, "grants", "g1", **grant()).status_code == 200
        assert sent(client, account, "grants", "g1", **grant(4)).status_code == 409
        assert sent(client, account, "refunds", "r1", spend="none", amount=1).status_code == 422
        assert sent(client, account, "voids", "v1", grant="g1").status_code == 201
        audited = lines(door, account)
    assert [line["action"] for line in audited] == [
        *["commands.grant"] * 6,
        *["commands.refund"] * 2,
        *["commands.void_grant"] * 2,
    ]
    first, last = audited[:2]
    for line in audited:
        assert (line["who"], line["address"], line["reason"]) == (new.key.name, "127.0.0.1", WHY)
    assert first["request_id"] == last["request_id"] == done.headers["X-Request-Id"]
    assert (first["before"]["command_id"], first["before"]["amount"], first["before"]["balances"]) == ("g1", 5, {})
    has = {"available": 5, "pending": 0, "held": 0, "debt": 0}
    assert (last["after"]["outcome"], last["after"]["position"]) == ("accepted", done.json()["position"])
    assert last["after"]["balances"] == audited[2]["before"]["balances"] == {"credits": has}
    assert audited[3]["after"]["outcome"] == "duplicate"
    assert "used before with another body" in audited[5]["after"]["error"]
    assert (audited[7]["after"]["outcome"], audited[7]["after"]["reason"]) == ("rejected", "spend_not_found")
    assert audited[9]["after"]["balances"]["credits"]["available"] == 0


def test_who_appends_by_hand_says_why_and_appends_nothing_else(door: Door, account: str) -> None:
    """Without a reason, beyond a limit, of another kind, in a batch or in bulk: refused, and nothing is audited."""
    with door.with_key(door.make_key("manual:grant", most_amount=5).text) as client:
        assert problem(sent(client, account, "grants", "g1", None, **grant())) == (400, "reason_missing")
        assert problem(sent(client, account, "grants", "g1", "x" * 4_097, **grant()))[0] == 400
        assert problem(sent(client, account, "grants", "g1", **grant(6))) == (403, "amount_over_limit")
        assert problem(sent(client, account, "refunds", "r1", spend="s")) == (403, "scope_missing")
        steps = [{"type": "grant", "command_id": "s1", **grant()}]
        assert problem(sent(client, account, "batches", "b1", steps=steps)) == (403, "scope_missing")
        assert problem(client.post("/v1/commands", content=b"")) == (403, "scope_missing")
        twice = [(b"Idempotency-Key", b"g1"), (b"Creditfold-Why", b"a"), (b"Creditfold-Why", b"b")]
        assert problem(client.post(f"/v1/accounts/{account}/grants", json=grant(), headers=twice)) == (
            400,
            "ambiguous_request",
        )
    assert lines(door, account) == []
    with door.with_key(door.make_key("append:grant").text) as client:
        assert sent(client, account, "grants", "g1", None, **grant()).status_code == 201
        assert lines(door, account) == []
        assert sent(client, account, "grants", "g2", **grant()).status_code == 201
    assert len(lines(door, account)) == 2


def test_what_can_not_be_audited_is_not_appended(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line is written before the command; one that fails later takes nothing back."""
    real, calls = manual.record_action, []

    def failing(*arguments: Any, **options: Any) -> None:
        calls.append(options)
        if len(calls) != 2:
            raise psycopg.OperationalError("PostgreSQL went away")
        real(*arguments, **options)

    monkeypatch.setattr(manual, "record_action", failing)
    refused = sent(door.http, account, "grants", "g1", **grant())
    assert (refused.status_code, refused.json()["maybe_written"]) == (503, False)
    assert query(door.settings, f"SELECT FROM ledger.journal WHERE account_id = '{account}'") == []
    assert sent(door.http, account, "grants", "g2", **grant()).status_code == 201
    assert [line["after"] for line in lines(door, account)] == [None]


def test_who_may_append_may_give_the_same_by_hand(door: Door) -> None:
    """And not the other way: a key for people makes none for a service."""
    for own, wanted, status in (("append:grant", "manual:grant", 201), ("manual:grant", "append:grant", 403)):
        with door.with_key(door.make_key("keys", own).text) as client:
            body = {"name": f"given by {own}", "scopes": [wanted], "reason": WHY}
            assert client.post("/v1/keys", json=body).status_code == status
