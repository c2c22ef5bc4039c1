"""Appending one command over HTTP: every kind, its outcome, repeats, rejections, previews, and bad requests."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from creditfold.api import commands
from creditfold.api.body import MOST_BYTES, MOST_DEPTH
from creditfold.common.position import Position
from creditfold.log.partitioner import partition_of
from creditfold.producers.models.commands import MODELS
from helpers.doors import Door

pytestmark = pytest.mark.stack

#: A body of each kind that is accepted, in this order, by an account that got 500 first. A step of a batch has an id.
BODIES: dict[str, dict[str, Any]] = {
    "spends": {"asset": "credits", "amount": 100},
    "holds": {"asset": "credits", "amount": 50, "deadline": "2099-01-01T00:00:00Z"},
    "captures": {"hold": "holds", "amount": 20},
    "releases": {"hold": "holds"},
    "refunds": {"spend": "spends", "amount": 10},
    "transfers": {"asset": "credits", "amount": 5, "to": "somebody-else"},
    "freezes": {"scope": "spending"},
    "unfreezes": {},
    "credit-limits": {"asset": "credits", "limit": 30},
    "schedules": {
        "asset": "credits",
        "amount": 5,
        "period": "months",
        "first_at": "2098-01-01T00:00:00Z",
        "until": "2098-06-01T00:00:00Z",
    },
    "schedule-cancellations": {"schedule": "schedules"},
    "batches": {"steps": [{"type": "spend", "command_id": "step-1", "asset": "credits", "amount": 1}]},
    "voids": {"grant": "grants"},
    "closings": {"forfeit": True},
}


def state_of(answer: httpx.Response) -> tuple[str | None, str | None]:
    """The position and the generation that an answer says it reflects."""
    return answer.headers.get("Creditfold-Position"), answer.headers.get("Creditfold-Generation")


def test_each_kind_of_command_is_appended_and_decided(door: Door, account: str) -> None:
    """Each by its own route; the answer has the position, the decision and what moved."""
    assert {*BODIES, "grants"} == set(commands.ROUTES.values())
    door.grant(account, 500, key="grants")
    for route, body in BODIES.items():
        answer = door.append(account, route, key=route, **body)
        assert answer.status_code == 201, (route, answer.text)
        assert answer.json()["command_id"] == route
        assert state_of(answer) == (answer.json()["position"], "1")
    assert door.http.get(f"/v1/accounts/{account}").json()["is_closed"]


def test_the_same_key_counts_once_whenever_it_comes_again(door: Door, account: str) -> None:
    """A repeat has the first outcome; another body under the key is refused, and the first one stands."""
    door.grant(account, 100)
    first = door.append(account, "spends", key="order-1", asset="credits", amount=30)
    again = door.append(account, "spends", key="order-1", asset="credits", amount=30)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert state_of(again) == (again.json()["position"], "1")
    assert again.json()["decision"] == first.json()["decision"]
    other = door.append(account, "spends", key="order-1", asset="credits", amount=31)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert state_of(other) == (other.json()["position"], "1")
    stands = other.json()["first"]
    assert (stands["position"], stands["kind"], stands["amount"]) == (first.json()["position"], "spend", 30)
    assert other.headers["Content-Type"] == "application/problem+json"
    assert door.http.get(f"/v1/accounts/{account}/balances").json()[0]["available"] == 70


def test_a_rejected_command_stays_rejected(door: Door, account: str) -> None:
    """It says why; the same key is never decided again, whatever the account has by then."""
    refused = door.append(account, "spends", key="too-much", asset="credits", amount=5)
    assert (refused.status_code, refused.json()["reason"]) == (422, "insufficient_credits")
    assert state_of(refused) == (refused.json()["position"], "1")
    door.grant(account, 100)
    again = door.append(account, "spends", key="too-much", asset="credits", amount=5)
    assert (again.status_code, again.json()["accepted"]) == (200, False)


def test_whoever_does_not_wait_finds_the_outcome_by_the_location(door: Door, account: str) -> None:
    """`respond-async` answers once the log has the command; the location waits for its outcome."""
    answer = door.http.post(
        f"/v1/accounts/{account}/grants",
        json={"asset": "credits", "amount": 7},
        headers={"Idempotency-Key": "g", "Prefer": "respond-async"},
    )
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (202, "respond-async")
    assert answer.headers["Retry-After"] == "1"
    # Nothing of a generation was read.
    assert state_of(answer) == (answer.json()["position"], None)
    found = door.http.get(answer.headers["Location"] + "&wait=30")
    assert (found.status_code, found.json().get("outcome")) == (200, "accepted"), found.text
    assert found.json()["position"] == answer.json()["position"]
    assert found.headers["Creditfold-Generation"] == "1"
    assert door.http.get(f"/v1/accounts/{account}/commands/g").json()["decision"]["amount"] == 7
    assert door.http.get(f"/v1/accounts/{account}/commands/h").status_code == 404


def test_a_command_is_looked_up_by_its_id(door: Door, account: str) -> None:
    """With the steps of a batch; waited for, whether its position is known or not."""
    door.grant(account, 10)
    steps = [{"type": "spend", "command_id": f"step-{number}", "asset": "credits", "amount": 1} for number in (1, 2)]
    batch = door.append(account, "batches", key="batch", steps=steps).json()
    url = f"/v1/accounts/{account}/commands"
    for found in (door.http.get(f"{url}/batch"), door.http.get(f"{url}/batch", params={"at": batch["position"]})):
        assert (found.status_code, found.json()) == (200, batch)
    partition, offset = map(int, batch["position"].split(":"))
    ahead = {"at": f"{partition}:{offset + 10**6}", "wait": 0.1}
    unknown = [door.http.get(f"{url}/late", params=asked) for asked in (ahead, {"wait": 0.1})]
    assert [answer.status_code for answer in unknown] == [202, 404]
    # As far as it is folded, which says how far that is.
    assert {answer.headers["Creditfold-Generation"] for answer in unknown} == {"1"}
    assert {Position.parse(answer.headers["Creditfold-Position"]).partition for answer in unknown} == {partition}
    with ThreadPoolExecutor(1) as beside:
        waiting = beside.submit(door.http.get, f"{url}/late", params={"wait": 30})
        door.append(account, "grants", key="late", asset="credits", amount=1)
        assert (waiting.result().status_code, waiting.result().json()["accepted"]) == (200, True)


def test_a_key_learns_no_more_than_it_may_read(door: Door, account: str) -> None:
    """Neither what commands say in words, nor of other accounts by their records' positions, nor other balances."""
    words = {"reason": "a complaint", "lot_class": "promo"}
    answer = door.append(account, "grants", key="g", asset="credits", amount=9, **words)
    position = answer.json()["position"]
    door.append(account, "grants", asset="gold", amount=5)
    key = door.make_key("read:statement", "append:spend", account_prefix=account, assets=["credits"])
    with door.with_key(key.text) as client:
        for asked in ({}, {"at": position}):
            decision = client.get(f"/v1/accounts/{account}/commands/g", params=asked).json()["decision"]
            assert (decision["amount"], decision["source"], decision["reason"], decision["details"]) == (9, *[None] * 3)
            assert door.http.get(f"/v1/accounts/{account}/commands/g", params=asked).json()["decision"]["details"]
        headers, body = {"Idempotency-Key": "s"}, {"asset": "credits", "amount": 1}
        spends = f"/v1/accounts/{account}/spends"
        for amount, outcome in ((1, "accepted"), (99, "rejected")):
            preview = client.post(spends, json={**body, "amount": amount}, headers=headers, params={"preview": "true"})
            assert (preview.json()["outcome"], list(preview.json()["balances"])) == (outcome, ["credits"])
        other = next(name for name in map("other-{}".format, range(1_000)) if are_together(door, name, position))
        for amount, status in ((1, 201), (2, 409)):
            dead = door.append(other, "grants", key="secret-order", asset="credits", amount=amount)
            assert dead.status_code == status
        found = client.get(f"/v1/accounts/{account}/commands/x", params={"at": dead.json()["position"]})
        assert (found.status_code, "secret-order" in found.text) == (404, False), found.text


def test_a_key_that_appends_sees_what_became_of_its_own_commands(door: Door, account: str) -> None:
    """Each outcome, by its Location and by its id, as far as the answer to the write has it, without the words."""
    key = door.make_key("append:grant", "append:spend", account_prefix=account)
    asset = {"asset": "credits"}
    with door.with_key(key.text) as client:

        def sent(what: str, command_id: str, amount: int) -> httpx.Response:
            headers = {"Idempotency-Key": command_id, "Prefer": "respond-async"}
            answer = client.post(
                f"/v1/accounts/{account}/{what}", json={**asset, "amount": amount, "reason": "said"}, headers=headers
            )
            assert answer.status_code == 202, answer.text
            return client.get(answer.headers["Location"] + "&wait=30")

        found = [sent("grants", "g", 5), sent("grants", "g", 5), sent("spends", "s", 9), sent("grants", "g", 6)]
        assert [(answer.status_code, answer.json().get("outcome")) for answer in found] == [
            (200, "accepted"),
            (200, "duplicate"),
            (200, "rejected"),
            (409, None),
        ]
        assert found[3].json()["first"]["amount"] == 5
        by_id = client.get(f"/v1/accounts/{account}/commands/g")
        assert by_id.json()["decision"] == found[0].json()["decision"]
        assert [by_id.json()["decision"][name] for name in ("amount", "source", "reason", "details")] == [
            5,
            *[None] * 3,
        ]
        # What a 202 says is all that there is of one that isn't folded.
        ahead = {"at": found[0].json()["position"].partition(":")[0] + f":{10**9}"}
        assert client.get(f"/v1/accounts/{account}/commands/g", params=ahead).json()["outcome"] == "pending"
        for path in ("trace", "g/trace"):
            assert client.get(f"/v1/accounts/{account}/commands/{path}").status_code == 403
    waiting = door.make_key("manual:grant")
    with door.with_key(waiting.text) as client:
        headers = {"Idempotency-Key": "by-hand", "Prefer": "respond-async", "Creditfold-Why": "a test needs it"}
        answer = client.post(f"/v1/accounts/{account}/grants", json={**asset, "amount": 1}, headers=headers)
        assert client.get(answer.headers["Location"] + "&wait=30").json()["outcome"] == "accepted"


def test_a_key_that_appends_learns_nothing_of_the_commands_of_others(door: Door, account: str) -> None:
    """Not whether there are any: each is refused as one that there isn't, whatever became of it."""
    position = door.grant(account, 5, key="theirs").json()["position"]
    rejected = door.append(account, "spends", key="too-much", asset="credits", amount=99).json()["position"]
    key = door.make_key("append:grant", account_prefix=account)
    with door.with_key(key.text) as client:
        own = client.post(
            f"/v1/accounts/{account}/grants",
            json={"asset": "credits", "amount": 1},
            headers={"Idempotency-Key": "own", "Prefer": "wait=30"},
        )
        assert own.status_code == 201
        # A dead letter of somebody else, under the id of a command of the key's own.
        dead = door.append(account, "grants", key="own", asset="credits", amount=2)
        assert dead.status_code == 409
        asked: list[tuple[str, dict[str, str]]] = [
            ("theirs", {}),
            ("theirs", {"at": position}),
            ("too-much", {"at": rejected}),
            ("own", {"at": dead.json()["position"]}),
            # Before its own record nothing is shown.
            ("own", {"at": position}),
            ("nobodys", {}),
            ("nobodys", {"at": position}),
            ("nobodys", {"wait": "0.1"}),
        ]
        for command_id, query in asked:
            found = client.get(f"/v1/accounts/{account}/commands/{command_id}", params=query)
            assert (found.status_code, found.json()["code"]) == (403, "scope_missing"), (command_id, query, found.text)
            assert "read:statement" in found.json()["detail"]
        elsewhere = client.get(f"/v1/accounts/not-{account}/commands/own")
        assert (elsewhere.status_code, elsewhere.json()["code"]) == (403, "account_out_of_reach")
    with door.with_key(door.make_key("read:balance").text) as client:
        assert client.get(f"/v1/accounts/{account}/commands/own").status_code == 403


def are_together(door: Door, account: str, position: str) -> bool:
    """Whether an account lives in the partition of a position."""
    partitions = len(door.http.get("/v1/progress").json())
    return partition_of(account.encode(), partitions) == Position.parse(position).partition


def test_a_preview_is_what_is_decided_then_and_writes_nothing(door: Door, account: str) -> None:
    """With the lots that it would take."""
    door.grant(account, 40, key="first", expires_at="2098-01-01T00:00:00Z")
    door.grant(account, 60, key="second")
    spend = {"asset": "credits", "amount": 50}
    url, headers = f"/v1/accounts/{account}/spends", {"Idempotency-Key": "s"}
    preview = door.http.post(url, json=spend, headers=headers, params={"preview": "true"})
    assert (preview.status_code, preview.json()["outcome"]) == (200, "accepted")
    assert [(one["lot"], one["amount"]) for one in preview.json()["allocations"]] == [("first", 40), ("second", 10)]
    assert preview.json()["balances"]["credits"]["available"] == 50
    assert state_of(preview)[1] == "1"
    assert door.http.get(f"/v1/accounts/{account}/commands/s").status_code == 404
    decided = door.append(account, "spends", key="s", **spend).json()
    assert decided["decision"]["allocations"] == preview.json()["allocations"]
    refused = door.http.post(
        url, json={"asset": "credits", "amount": 51}, headers={"Idempotency-Key": "t"}, params={"preview": "true"}
    )
    assert refused.json()["reason"] == "insufficient_credits"
    dead = door.http.post(
        url, json={"asset": "credits", "amount": 51}, headers={"Idempotency-Key": "first"}, params={"preview": "true"}
    )
    assert (dead.status_code, dead.json()["code"], state_of(dead)[1]) == (409, "would_be_dead_letter", "1")


#: A body, and what the problem says of it.
BAD_BODIES: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "not JSON"),
    "cut": (b'{"asset":', 400, "not JSON"),
    "list": (b"[]", 400, "no JSON object"),
    "latin": (b'{"asset": "\xe9"}', 400, "not UTF-8"),
    "twice": (b'{"asset": "a", "asset": "b"}', 400, "twice"),
    "not a number": (b'{"asset": "a", "amount": NaN}', 400, "NaN"),
    "a fraction": (b'{"asset": "a", "amount": 1.0}', 400, "whole number"),
    "as text": (b'{"asset": "a", "amount": "1"}', 400, "whole number"),
    "over 2^53": (b'{"asset": "a", "amount": 9223372036854775808}', 400, "whole number"),
    "null": (b'{"asset": null, "amount": 1}', 400, "null"),
    "strange": (b'{"asset": "a", "amount": 1, "colour": "red"}', 400, "colour"),
    "source": (b'{"asset": "a", "amount": 1, "source": "me"}', 400, "source"),
    "deep": (b'{"metadata": ' + b'{"a":' * MOST_DEPTH + b"1" + b"}" * (MOST_DEPTH + 1), 400, "nested"),
    "very deep": (b"[" * 500_000, 400, "nested"),
    "large": (b" " * (MOST_BYTES + 1), 413, "bytes"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_refused_in_words(door: Door, account: str, name: str) -> None:
    """Each with a problem document; nothing is appended."""
    body, status, said = BAD_BODIES[name]
    answer = door.http.post(
        f"/v1/accounts/{account[:100]}/grants",
        content=body,
        headers={"Idempotency-Key": "bad", "Content-Type": "application/json"},
    )
    problem = answer.json()
    assert (answer.status_code, problem["maybe_written"]) == (status, False), problem
    assert said in json.dumps(problem), problem
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert problem["remedy"]


#: Headers, and the problem's code.
BAD_HEADERS: dict[str, tuple[dict[str, str], int, str]] = {
    "no key": ({}, 400, "invalid_request"),
    "an empty key": ({"Idempotency-Key": ""}, 400, "invalid_request"),
    "a long key": ({"Idempotency-Key": "k" * 129}, 400, "invalid_request"),
    "a derived key": ({"Idempotency-Key": "~k"}, 400, "invalid_command"),
    "another type": ({"Idempotency-Key": "k", "Content-Type": "text/plain"}, 415, "unsupported_media_type"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_headers_are_refused_in_words(door: Door, account: str, name: str) -> None:
    """A key that is no command id, or a body of another type."""
    headers, status, code = BAD_HEADERS[name]
    answer = door.http.post(
        f"/v1/accounts/{account[:100]}/grants",
        content=b'{"asset": "credits", "amount": 1}',
        headers={"Content-Type": "application/json"} | headers,
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_mistake_is_taken_where_it_is_confirmed(door: Door, account: str) -> None:
    """An id with an invisible character."""
    body = {"asset": "cre\u00addits", "amount": 1}
    refused = door.append(account, "grants", **body)
    assert (refused.status_code, refused.json()["code"]) == (400, "doubtful_command")
    assert '"confirmed": true' in refused.json()["remedy"]
    assert door.append(account, "grants", confirmed=True, **body).status_code == 201


def test_every_kind_of_command_has_a_route() -> None:
    """A kind that is new must get one."""
    assert commands.ROUTES.keys() == MODELS.keys()
