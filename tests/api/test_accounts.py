"""Reading an account over HTTP."""

from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg import Connection

from creditfold.api import accounts, answers
from creditfold.projections import queries
from creditfold.projections.queries.progress import Standing
from helpers.doors import Door

pytestmark = pytest.mark.stack


def test_an_account_that_was_never_used_reads_as_nothing(door: Door, account: str) -> None:
    """With 200: there is no account to make before the first grant."""
    answer = door.http.get(f"/v1/accounts/{account}", params={"expand": "lots,holds"})
    assert answer.status_code == 200
    assert answer.json() == {
        "account": account,
        "is_closed": False,
        "frozen": None,
        "balances": [],
        "lots": [],
        "holds": [],
    }
    assert door.http.get(f"/v1/accounts/{account}", params={"expand": "lots,hold"}).status_code == 400
    for part in ("balances", "lots", "holds", "transfers", "schedules"):
        assert door.http.get(f"/v1/accounts/{account}/{part}").json() == []


def test_an_answer_says_which_state_it_reflects(door: Door, account: str) -> None:
    """And can be asked for not before one's own write."""
    position = door.grant(account, 10).headers["Creditfold-Position"]
    answer = door.http.get(f"/v1/accounts/{account}", params={"at_least": position})
    assert answer.headers["Creditfold-Generation"] == "1"
    partition, offset = answer.headers["Creditfold-Position"].split(":")
    assert [partition, int(offset) >= int(position.split(":")[1])] == [position.split(":")[0], True]
    assert answer.json()["balances"][0]["available"] == 10
    # The append time of that record at least, though it may be later than the last look at the log.
    decided = door.http.get(f"/v1/accounts/{account}/history").json()["lines"][0]["decided_at"]
    assert decided <= answer.headers["Creditfold-Complete-To"] <= answers.rfc3339(datetime.now(UTC))
    for bad, status in (("soon", 400), ("99:0", 400)):
        assert door.http.get(f"/v1/accounts/{account}", params={"at_least": bad}).status_code == status


def test_no_answer_is_of_a_state_before_the_one_that_was_asked_for(
    door: Door, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another generation is shown between the look at the fold and the read, and isn't folded so far."""
    partition, offset = map(int, door.grant(account, 10).headers["Creditfold-Position"].split(":"))
    seen: list[int] = []
    standing = queries.standing

    def ahead_once(connection: Connection[Any]) -> Standing:
        found = standing(connection)
        seen.append(1)
        ahead = {one: offset + 10**6 for one, offset in found.next_offsets.items()}
        return found._replace(next_offsets=ahead) if len(seen) == 1 else found

    monkeypatch.setattr(accounts, "AT_LEAST_S", 0.5)
    monkeypatch.setattr(queries, "standing", ahead_once)
    answer = door.http.get(f"/v1/accounts/{account}", params={"at_least": f"{partition}:{offset + 10**5}"})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_yet_folded")
    assert len(seen) > 2


def test_an_answer_that_is_known_is_not_sent_again(door: Door, account: str) -> None:
    """By its ETag, until something changes."""
    door.grant(account, 10)
    url = f"/v1/accounts/{account}"
    tag = door.http.get(url).headers["ETag"]
    assert door.http.get(url, headers={"If-None-Match": tag}).status_code == 304
    door.grant(account, 1)
    assert door.http.get(url, headers={"If-None-Match": tag}).status_code == 200


def test_what_an_account_is_made_of_is_read(door: Door, account: str) -> None:
    """Lots, holds, transfers and schedules, with instants in UTC."""
    door.grant(account, 100, key="g", expires_at="2098-01-01T00:00:00Z", scope="boosts")
    door.grant(account, 100, key="h")
    monthly = {"asset": "credits", "amount": 5, "period": "months", "first_at": "2090-01-01T00:00:00Z"}
    for route, key, body in (
        ("holds", "hold", {"asset": "credits", "amount": 10, "deadline": "2097-01-01T00:00:00Z"}),
        ("transfers", "gift", {"asset": "credits", "amount": 5, "to": f"{account}-2"}),
        ("schedules", "monthly", monthly),
    ):
        answer = door.append(account, route, key=key, **body)
        assert answer.status_code == 201, answer.text
    url = f"/v1/accounts/{account}"
    lots = door.http.get(f"{url}/lots").json()
    assert [(lot["command_id"], lot["expires_at"], lot["scope"]) for lot in lots] == [
        ("g", "2098-01-01T00:00:00.000Z", "boosts"),
        ("h", None, None),
    ]
    assert [hold["held"] for hold in door.http.get(f"{url}/holds").json()] == [10]
    assert [one["to_account"] for one in door.http.get(f"{url}/transfers?every=true").json()] == [f"{account}-2"]
    assert [one["next_at"] for one in door.http.get(f"{url}/schedules").json()] == ["2090-01-01T00:00:00.000Z"]
    (balance,) = door.http.get(f"{url}/balances", params={"use": "boosts"}).json()
    assert (balance["available"], balance["available_for_use"]) == (185, 185)


def test_health_needs_no_key_and_all_else_does(door: Door, account: str) -> None:
    """What is malformed, unknown or of another scheme is refused with a challenge."""
    with door.with_key(None) as stranger:
        assert stranger.get("/health/live").json() == {"live": True}
        assert stranger.get("/health/ready").json() == {"ready": True, "kafka": True, "postgresql": True}
        refused = stranger.get(f"/v1/accounts/{account}")
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    real = door.make_key("read:balance").text
    for text in ("nothing", real[:-1] + ("0" if real[-1] != "0" else "1"), "cfk_" + "a" * 62):
        with door.with_key(text) as stranger:
            assert stranger.get(f"/v1/accounts/{account}").status_code == 401


def test_a_key_opens_what_its_scopes_and_limits_say(door: Door) -> None:
    """Who may spend may not grant, nor in a batch; not elsewhere, not in another asset, and not more than allowed."""
    kinds = ("spend", "batch", "transfer", "set_credit_limit", "capture", "release", "refund")
    scopes = [f"append:{kind}" for kind in kinds]
    key = door.make_key(*scopes, account_prefix="shop-", assets=["credits"], most_amount=10)
    door.grant("shop-1", 100)
    spend = {"asset": "credits", "amount": 10}
    step = {"type": "grant", "command_id": "x", "asset": "credits", "amount": 1}
    with door.with_key(key.text) as shop:

        def status(account: str, route: str, **body: object) -> int:
            headers = {"Idempotency-Key": f"{account}-{route}"}
            return shop.post(f"/v1/accounts/{account}/{route}", json=body, headers=headers).status_code

        assert status("shop-1", "spends", **spend) in (201, 202)
        assert status("shop-1", "grants", **spend) == 403
        assert status("shop-1", "batches", steps=[step]) == 403
        assert status("mall-1", "spends", **spend) == 403
        assert status("shop-1", "spends", asset="gold", amount=10) == 403
        assert status("shop-1", "spends", asset="credits", amount=11) == 403
        assert status("shop-1", "transfers", **spend, to="mall-1") == 403
        assert status("shop-1", "transfers", **spend, to="shop-2") in (201, 202)
        assert status("shop-1", "credit-limits", asset="credits", limit=11) == 403
        # Without an amount it is all that there is, which may be more.
        for route, of in (("captures", "hold"), ("releases", "hold"), ("refunds", "spend")):
            assert status("shop-1", route, **{of: "other"}) == 403
            assert status("shop-2", route, **{of: "other"}, amount=10) in (202, 422)
        assert shop.get("/v1/accounts/shop-1").status_code == 403
