"""Searching accounts over HTTP: who finds what, page by page, and what is refused."""

import pytest

from creditfold.api.parameters import cursor_of
from creditfold.api.search import COUNT
from helpers.doors import Door

pytestmark = pytest.mark.stack

URL = "/v1/accounts"


def names(door: Door, key: str | None = None, **asked: object) -> list[str]:
    """The accounts that a key finds, the door's own if none is given."""
    with door.with_key(key or door.http.headers["Authorization"].removeprefix("Bearer ")) as reader:
        answer = reader.get(URL, params=asked)
        assert answer.status_code == 200, answer.text
        counted = reader.head(URL, params={name: value for name, value in asked.items() if name != "limit"})
        found = [row["account"] for row in answer.json()["accounts"]]
        assert (counted.status_code, counted.headers[COUNT], counted.content) == (200, str(len(found)), b"")
        assert counted.headers["Creditfold-Generation"] == answer.headers["Creditfold-Generation"] == "1"
        return found


def test_accounts_are_found_by_all_that_is_known_of_them(door: Door, account: str) -> None:
    """By an order without its account, by state and balance, by what ends; what isn't so finds none."""
    paid, owing = f"{account}-paid", f"{account}-owing"
    order = {"metadata": {"order": f"{account}/1", "other": "x"}}
    door.grant(paid, 500, key="g", expires_at="2031-01-01T00:00:00Z")
    assert door.append(paid, "spends", key="only-here", asset="credits", amount=5, **order).status_code == 201
    door.append(owing, "credit-limits", asset="credits", limit=50)
    answer = door.append(owing, "spends", asset="credits", amount=50, **order)
    rejected = door.append(owing, "spends", key="too-much", asset="credits", amount=900, **order)
    assert (answer.status_code, rejected.status_code) == (201, 422)
    by_order = {"metadata[order]": f"{account}/1"}
    mine = {"account_prefix": account}
    for asked, expected in (
        ({"command_id": "only-here"}, [paid]),
        (by_order, [owing, paid]),
        ({**by_order, **mine, "state": "open", "asset": "credits", "least": 1}, [paid]),
        ({**by_order, "account_prefix": paid}, [paid]),
        ({**mine, "asset": "credits", "balance": "debt", "least": 50}, [owing]),
        ({**mine, "asset": "credits", "most": 0}, [owing]),
        ({**mine, "ends_before": "2031-01-01T00:00:00.001Z"}, [paid]),
        ({**mine, "ends_before": "2031-01-01T00:00:00Z"}, []),
        ({"metadata[order]": "none"}, []),
    ):
        assert names(door, **asked) == expected, asked
    found = door.http.get(URL, params=by_order).json()["accounts"]
    assert found[1]["balances"] == [{"asset": "credits", "available": 495, "pending": 0, "held": 0, "debt": 0}]
    assert [command["command_id"] for command in found[1]["commands"]] == ["only-here"]
    assert [command["position"] for command in found[0]["commands"]] == [
        reply.json()["position"] for reply in (rejected, answer)
    ]
    position = door.append(paid, "freezes", scope="all").json()["position"]
    frozen = door.http.get(URL, params={**mine, "state": "frozen", "at_least": position}).json()["accounts"]
    assert [(row["account"], row["frozen"], row["commands"]) for row in frozen] == [(paid, "all", [])]


def test_a_key_finds_and_counts_what_is_of_its_prefix(door: Door, account: str) -> None:
    """Whatever else it asks for; by what commands say in words only with the scope for that."""
    for name in ("a-1", "a-2", "b-1"):
        door.grant(f"{account}-{name}", 5, key="g", metadata={"order": account})
    limited = door.make_key("read:balance", "read:personal", account_prefix=f"{account}-a").text
    asked: list[dict[str, object]] = [
        {},
        {"asset": "credits"},
        {"command_id": "g"},
        {"metadata[order]": account},
        {"state": "open"},
        {"least": 1},
    ]
    for one in asked:
        more = {"asset": "credits"} if "least" in one else {}
        assert names(door, limited, **one, **more) == [f"{account}-a-1", f"{account}-a-2"], one
    assert names(door, limited, account_prefix=f"{account}-a-2") == [f"{account}-a-2"]
    refused = ({"account_prefix": account}, {"account_prefix": ""}, {"account_prefix": f"{account}-b"})
    with door.with_key(limited) as reader:
        for one in refused:
            answers = (reader.get(URL, params=one), reader.head(URL, params=one))
            assert [answer.status_code for answer in answers] == [403, 403], one
        beyond = door.http.get(URL, params={"account_prefix": f"{account}-", "limit": 2}).json()["next"]
        assert reader.get(URL, params={"cursor": beyond}).json()["code"] == "invalid_cursor"
    with door.with_key(door.make_key("read:balance").text) as reader:
        answer = reader.get(URL, params={"metadata[order]": account})
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
        assert reader.head(URL, params={"metadata[order]": account}).status_code == 403
        assert reader.get(URL, params={"command_id": "g", "limit": 1}).status_code == 200


def test_pages_stay_where_they_are(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written meanwhile moves no page: each account comes once, those behind the last one still come."""
    for number in range(5):
        door.grant(f"{account}-{number}", number + 1)
    asked = {"account_prefix": account, "asset": "credits", "least": 1, "limit": 2}
    found, cursor = [], None
    while cursor is not None or not found:
        page = door.http.get(URL, params={**asked, **({"cursor": cursor} if cursor else {})}).json()
        found += [row["account"].removeprefix(f"{account}-") for row in page["accounts"]]
        if cursor is None:
            first = page["next"]
            for name in ("00", "31"):
                door.grant(f"{account}-{name}", 1)
        cursor = page["next"]
    assert found == ["0", "1", "2", "3", "31", "4"]
    monkeypatch.setattr("creditfold.projections.queries.search.MOST_COUNTED", 6)
    for least, count in ((1, "6+"), (2, "4")):
        assert door.http.head(URL, params={**asked, "least": least, "limit": 2}).status_code == 400
        counted = door.http.head(URL, params={"account_prefix": account, "asset": "credits", "least": least})
        assert counted.headers[COUNT] == count
    other = door.http.get(URL, params={**asked, "least": 2, "cursor": first})
    assert (other.status_code, other.json()["code"]) == (400, "invalid_cursor")
    for bad in ("x", first[:-4], cursor_of("accounts", ("0", "zz")), cursor_of("accounts", ("0" * 16, "00"))):
        answer = door.http.get(URL, params={**asked, "cursor": bad})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor"), bad


def test_a_search_that_means_nothing_is_refused(door: Door) -> None:
    """Where nothing would be found because nothing is kept, that is said."""
    for query, code in (
        ("metadata[email]=x", "not_searchable"),
        ("metadata[order]=", "not_searchable"),
        ("metadata[order]=a%0Ab", "not_searchable"),
        (f"metadata[order]={'x' * 257}", "not_searchable"),
        ("least=1", "not_searchable"),
        ("metadata=x", "invalid_request"),
        ("metadata[=x", "invalid_request"),
        ("metadata[]=x", "invalid_request"),
        ("metadata[order=x", "invalid_request"),
        ("metadata[order]=x&metadata[order]=y", "ambiguous_request"),
        ("&".join(f"metadata[k{number}]=x" for number in range(9)), "invalid_request"),
        ("metadata[order]=%00", "invalid_request"),
        ("metadata[order]=%FF", "invalid_request"),
        ("state=dead", "invalid_request"),
        ("asset=credits&least=-1", "invalid_request"),
        (f"asset=credits&most={2**63}", "invalid_request"),
        ("asset=credits&least=1e3", "invalid_request"),
        ("limit=1001", "invalid_request"),
        ("ends_before=soon", "invalid_request"),
        ("at_least=soon", "invalid_position"),
        (f"command_id={'x' * 65}", "invalid_request"),
        (f"account_prefix={'x' * 129}", "invalid_request"),
        ("prefix=a", "unknown_parameter"),
    ):
        answer = door.http.get(f"{URL}?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, code), query
        assert answer.json()["remedy"], query
        assert door.http.head(f"{URL}?{query}").status_code == 400, query
