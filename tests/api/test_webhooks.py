"""Webhook endpoints and rules of alerts over HTTP: managed within one's reach, audited, no secret gets out."""

from typing import Any

import pytest

from creditfold.projections.connections import connected
from creditfold.projections.delivery.endpoints import signing_keys
from helpers.doors import Door

pytestmark = pytest.mark.stack

WHY = "a test needs it"
URL = "/v1/webhook-endpoints"


def made(door: Door, **fields: Any) -> dict[str, Any]:
    """A new endpoint, with its secret."""
    answer = door.http.post(URL, json={"url": "https://shop.example/hooks", "reason": WHY, **fields})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


def test_an_endpoint_is_managed(door: Door) -> None:
    """Made, changed, rotated, disabled, enabled, tried, deleted; each change is audited, and shows no secret."""
    first = made(door, types=["lot.granted"], account_prefixes=["eu-"], description="the shop")
    url = f"{URL}/{first['id']}"
    assert first["secret"].startswith("whsec_")
    assert first["public_keys"][0].startswith("whpk_")
    changed = door.http.patch(url, json={"types": [], "account_prefixes": ["eu-", "uk-"], "reason": WHY}).json()
    assert (changed["types"], changed["account_prefixes"], changed["description"]) == ([], ["eu-", "uk-"], "the shop")
    second = door.http.post(f"{url}:rotate", json={"reason": WHY}).json()
    assert second["secret"] != first["secret"]
    assert second["public_keys"] == [second["public_keys"][0], *first["public_keys"]]
    third = door.http.post(f"{url}:rotate", json={"reason": WHY})
    assert (third.status_code, third.json()["code"]) == (409, "endpoint_rotated")
    off = door.http.post(f"{url}:disable", json={"reason": WHY}).json()
    assert (off["state"], off["disabled_why"]) == ("disabled", "by hand")
    assert door.http.post(f"{url}:enable", json={"reason": WHY, "from_now": True}).json()["state"] == "enabled"
    assert door.http.post(f"{url}:test", json={"reason": WHY}).json() == {"deliveries": 1}
    (waiting,) = door.http.get(f"{url}/deliveries", params={"state": "pending"}).json()["deliveries"]
    assert (waiting["type"], waiting["account"], waiting["tries"]) == ("endpoint.test", None, 0)
    assert door.http.get(f"{url}/deliveries", params={"state": "parked"}).json()["deliveries"] == []
    again = {"webhook_id": waiting["webhook_id"], "reason": WHY}
    assert door.http.post(f"{url}:resend", json=again).json() == {"deliveries": 1}
    assert door.http.get(f"{url}/attempts").json() == {"attempts": [], "next": None}
    lines = door.http.get("/v1/audit", params={"limit": 30})
    actions = [line["action"] for line in lines.json()["lines"] if line["target"] == first["id"]][::-1]
    assert actions == [
        f"webhooks.{what}" for what in ("create", "change", "rotate", "disable", "enable", "resend", "resend")
    ]
    shown = lines.text + door.http.get(URL).text + door.http.get(url).text
    assert not any(one["secret"].removeprefix("whsec_") in shown for one in (first, second))
    assert door.http.delete(url, params={"reason": WHY}).json()["id"] == first["id"]
    assert door.http.get(url).json()["code"] == "endpoint_unknown"


def test_a_limited_caller_has_what_is_within_its_reach(door: Door) -> None:
    """It sees, makes and changes endpoints and rules of its accounts alone; and needs what they get."""
    theirs, ours = made(door, account_prefixes=["us-"]), made(door, account_prefixes=["eu-a", "eu-b"])
    everything = made(door)
    rule = door.http.post("/v1/alert-rules", json={"kind": "depleted", "reason": WHY}).json()
    key = door.make_key("webhooks", "read:statement", account_prefix="eu-")
    with door.with_key(key.text) as client:
        assert [one["id"] for one in client.get(URL).json()] == [ours["id"]]
        for one in (theirs, everything):
            for answer in (
                client.get(f"{URL}/{one['id']}"),
                client.get(f"{URL}/{one['id']}/attempts"),
                client.post(f"{URL}/{one['id']}:rotate", json={"reason": WHY}),
                client.delete(f"{URL}/{one['id']}", params={"reason": WHY}),
            ):
                assert (answer.status_code, answer.json()["code"]) == (403, "account_out_of_reach")
        for prefixes in ([], ["e"], ["eu-", "us-"]):
            body = {"url": "https://a.example/", "account_prefixes": prefixes, "reason": WHY}
            assert client.post(URL, json=body).status_code == 403
            widened = client.patch(f"{URL}/{ours['id']}", json={"account_prefixes": prefixes, "reason": WHY})
            assert widened.status_code == 403
        within = {"url": "https://a.example/", "account_prefixes": ["eu-c"], "reason": WHY}
        assert client.post(URL, json=within).status_code == 201
        assert client.get("/v1/alert-rules").json() == []
        assert client.delete(f"/v1/alert-rules/{rule['id']}", params={"reason": WHY}).status_code == 403
        assert client.post("/v1/alert-rules", json={"kind": "depleted", "reason": WHY}).status_code == 403
        own = client.post("/v1/alert-rules", json={"kind": "depleted", "account_prefix": "eu-", "reason": WHY})
        assert own.status_code == 201
    with door.with_key(door.make_key("webhooks").text) as client:
        refused = client.post(URL, json={"url": "https://a.example/", "reason": WHY})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")


#: What an endpoint is to be, and what the problem says of it.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no reason": ({"reason": ""}, "reason"),
    "no TLS": ({"url": "http://10.0.0.1/"}, "without TLS"),
    "a user in the URL": ({"url": "https://ann:word@shop.example/"}, "a user"),
    "no URL": ({"url": "shop"}, "https"),
    "a URL of two lines": ({"url": "https://shop.example/\nHost: x"}, "ASCII"),
    "an unknown type": ({"types": ["lot.eaten"]}, "lot.eaten"),
    "an empty prefix": ({"account_prefixes": [""]}, "account_prefixes"),
    "a prefix with NUL": ({"account_prefixes": ["a\0"]}, "prefix"),
    "a long description": ({"description": "d" * 300}, "description"),
    "a strange field": ({"colour": "red"}, "colour"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_can_be_no_endpoint_is_refused_in_words(door: Door, name: str) -> None:
    """With 400; nothing is made."""
    fields, said = BAD[name]
    before = len(door.http.get(URL).json())
    answer = door.http.post(URL, json={"url": "https://shop.example/", "reason": WHY, **fields})
    assert answer.status_code == 400, answer.text
    assert said in answer.text
    assert len(door.http.get(URL).json()) == before


#: What a rule is to be, and what the problem says of it.
BAD_RULES: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown kind": ({"kind": "gone"}, "kind"),
    "no bound": ({"kind": "dropped", "below": 0}, "below"),
    "recovered below the bound": ({"kind": "dropped", "below": 10, "rearm_at": 5}, "bound"),
    "no time": ({"kind": "expiring"}, "time"),
    "an asset of two lines": ({"kind": "depleted", "asset": "a\nb"}, "asset"),
}


@pytest.mark.parametrize("name", BAD_RULES)
def test_what_can_be_no_rule_is_refused_in_words(door: Door, name: str) -> None:
    """With 400."""
    fields, said = BAD_RULES[name]
    answer = door.http.post("/v1/alert-rules", json={"reason": WHY, **fields})
    assert answer.status_code == 400, answer.text
    assert said in answer.text


def test_what_is_sent_again_is_one_thing(door: Door) -> None:
    """One event, a range of one partition, or what was given up."""
    endpoint = made(door)
    url = f"{URL}/{endpoint['id']}:resend"
    for body, status, code in (
        ({"webhook_id": "msg_x"}, 404, "delivery_unknown"),
        ({"webhook_id": "msg_x", "first": "0:1", "last": "0:2"}, 400, "invalid_request"),
        ({"first": "0:1"}, 400, "invalid_position"),
        ({"first": "0:5", "last": "0:1"}, 400, "invalid_range"),
        ({"first": "0:1", "last": "1:5"}, 400, "invalid_range"),
    ):
        answer = door.http.post(url, json={"reason": WHY, **body})
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    door.grant("again-1", 5)
    position = door.http.get("/v1/accounts/again-1/history").json()["lines"][0]["position"]
    sent = door.http.post(url, json={"reason": WHY, "first": position, "last": position})
    assert (sent.status_code, sent.json()) == (202, {"deliveries": 2})


def test_a_signing_key_is_stored_so_that_it_can_sign(door: Door) -> None:
    """The deliverer has what the answer had."""
    endpoint = made(door)
    with connected(door.settings.dsn) as connection:
        (key,) = signing_keys(connection, endpoint["id"])
    from creditfold.delivery.signing import public_text, secret_text

    assert (secret_text(key), [public_text(key)]) == (endpoint["secret"], endpoint["public_keys"])
