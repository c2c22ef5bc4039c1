"""Reading over HTTP what changed and what will: statements, traces, the past, credits that end."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from creditfold.api.parameters import cursor_of
from helpers.doors import Door

pytestmark = pytest.mark.stack


def fill(door: Door, account: str) -> None:
    """Grants 100, spends 30, can't spend 900, holds 20 of it, and has 5 of something else."""
    door.grant(account, 100, key="=1+1", reason="@SUM(A1)")
    for what, amount, more in (
        ("spends", 30, {}),
        ("spends", 900, {}),
        ("holds", 20, {"deadline": "2099-01-01T00:00:00Z"}),
    ):
        door.append(account, what, asset="credits", amount=amount, **more)
    assert door.append(account, "grants", asset="gold", amount=5).status_code == 201


def test_a_statement_goes_from_opening_to_closing(door: Door, account: str) -> None:
    """By asset; a rejection changes nothing and isn't in it."""
    fill(door, account)
    url = f"/v1/accounts/{account}/statement"
    whole = door.http.get(url).json()
    assert [(line["kind"], line["asset"], line["change"], line["available"]) for line in whole["lines"]] == [
        ("grant", "credits", 100, 100),
        ("spend", "credits", -30, 70),
        ("hold", "credits", -20, 50),
        ("grant", "gold", 5, 5),
    ]
    nothing = {"available": 0, "pending": 0, "held": 0, "debt": 0}
    assert whole["opening"] == [{"asset": name, **nothing} for name in ("credits", "gold")]
    credits = {"asset": "credits", "available": 50, "pending": 0, "held": 20, "debt": 0}
    assert whole["closing"] == [credits, {"asset": "gold", **nothing, "available": 5}]
    assert (whole["account"], whole["from"], whole["next"]) == (account, None, None)
    only = door.http.get(url, params={"asset": "gold"}).json()
    assert [line["asset"] for line in (*only["lines"], *only["closing"])] == ["gold", "gold"]


def test_statements_of_times_that_follow_each_other_have_each_line_once(door: Door, account: str) -> None:
    """The second instant doesn't count any more, and what one closes with the next opens with."""
    fill(door, account)
    url = f"/v1/accounts/{account}/statement"
    whole = door.http.get(url).json()["lines"]
    middle = whole[2]["decided_at"]
    before = door.http.get(url, params={"until": middle}).json()
    after = door.http.get(url, params={"from": middle}).json()
    assert [*before["lines"], *after["lines"]] == whole
    assert all(line["decided_at"] < middle for line in before["lines"])
    opening = {row["asset"]: row for row in after["opening"]}
    assert all(opening[row["asset"]] == row for row in before["closing"])
    for bad in ({"from": "2026-01-02", "until": "2026-01-01"}, {"from": "soon"}, {"limit": 0}, {"limit": 1001}):
        answer = door.http.get(url, params=bad)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), bad


def test_a_long_statement_comes_in_pages(door: Door, account: str) -> None:
    """What is written meanwhile is in none of them, nor does it move them."""
    fill(door, account)
    url = f"/v1/accounts/{account}/statement"
    whole = door.http.get(url).json()
    lines, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = door.http.get(url, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        lines += page["lines"]
        assert (page["opening"], page["closing"]) == (whole["opening"], whole["closing"])
        cursor, pages = page["next"], pages + 1
        door.grant(account, 1)
    assert (lines, pages) == (whole["lines"], 2)
    first = door.http.get(url, params={"limit": 2}).json()["next"]
    for bad in (
        "x",
        "W10",
        first[:-4],
        "WyJqb3VybmFsIiwwLDEsMF0",
        "WyJzdGF0ZW1lbnQiLDAsLTEsMF0",
        cursor_of("statement", (1, 2, 3)),
    ):
        answer = door.http.get(url, params={"cursor": bad})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor"), bad


def test_a_statement_is_had_for_a_spreadsheet_and_as_lines(door: Door, account: str) -> None:
    """By `format` or by Accept, whole; no cell begins a formula."""
    fill(door, account)
    url = f"/v1/accounts/{account}/statement"
    whole = door.http.get(url).json()
    answer = door.http.get(url, params={"format": "csv"})
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.content.startswith(b"\xef\xbb\xbfrow,asset,")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"), newline="")))
    assert [row["row"] for row in rows] == ["opening"] * 2 + ["line"] * 4 + ["closing"] * 2
    assert (rows[2]["command_id"], rows[2]["reason"]) == ("'=1+1", "'@SUM(A1)")
    assert [row["change"] for row in rows[2:6]] == ["100", "-30", "-20", "5"]
    assert [row["available"] for row in rows] == ["0", "0", "100", "70", "50", "5", "50", "5"]
    lines = door.http.get(url, headers={"Accept": "application/json;q=0.5, application/x-ndjson"})
    assert lines.headers["Content-Type"] == "application/x-ndjson"
    found = [json.loads(line) for line in lines.text.splitlines()]
    assert [row.pop("row") for row in found] == [row["row"] for row in rows]
    assert found == [*whole["opening"], *whole["lines"], *whole["closing"]]
    assert door.http.get(url, headers={"Accept": "image/png"}).status_code == 406
    assert door.http.get(url, params={"format": "csv", "cursor": "x"}).status_code == 400


def test_a_long_statement_is_sent_whole(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, with the rows of a short one."""
    fill(door, account)
    url = f"/v1/accounts/{account}/statement"
    short = {form: door.http.get(url, params={"format": form}).text for form in ("csv", "ndjson")}
    assert len(short["ndjson"].splitlines()) == 8
    for size in (1, 3, 4):
        monkeypatch.setattr("creditfold.api.statement.MOST_PAGE", size)
        for form, text in short.items():
            assert door.http.get(url, params={"format": form}).text == text


def test_what_commands_say_in_words_is_for_some_only(door: Door, account: str) -> None:
    """Source and reason need the scope read:personal; a statement at all needs read:statement."""
    fill(door, account)
    url = f"/v1/accounts/{account}/statement"
    seen = {}
    for scopes in (("read:statement",), ("read:statement", "read:personal")):
        with door.with_key(door.make_key(*scopes).text) as reader:
            line = reader.get(url).json()["lines"][0]
            seen[len(scopes)] = (line["source"] is not None, line["reason"])
            assert ("@SUM" in reader.get(url, params={"format": "csv"}).text) == (len(scopes) == 2)
    assert seen == {1: (False, None), 2: (True, "@SUM(A1)")}
    with door.with_key(door.make_key("read:balance").text) as reader:
        assert reader.get(url).status_code == 403
    with door.with_key(door.make_key("read:statement", account_prefix="other-").text) as reader:
        assert reader.get(url).status_code == 403


def test_credits_that_will_end_are_known_by_day_and_by_lot(door: Door, account: str) -> None:
    """The first to end first, with what is held of them; what ends later than asked isn't there."""
    now = datetime.now(UTC)
    day = (now + timedelta(days=20)).replace(hour=6)
    ends = {"b": day + timedelta(hours=3), "a": day, "late": now + timedelta(days=60)}
    for key, moment in ends.items():
        door.grant(account, 100, key=key, expires_at=moment.isoformat(), scope="boosts")
    door.grant(account, 7, key="never")
    door.append(account, "holds", asset="credits", amount=30, use="boosts", deadline="2099-01-01T00:00:00Z")
    url = f"/v1/accounts/{account}/expiring"
    found = door.http.get(url).json()
    assert [(lot["command_id"], lot["remaining"], lot["held"], lot["scope"]) for lot in found["lots"]] == [
        ("a", 70, 30, "boosts"),
        ("b", 100, 0, "boosts"),
    ]
    sums = {"asset": "credits", "lots": 2, "remaining": 170, "held": 30}
    assert found["days"] == [{**sums, "day": day.date().isoformat()}]
    assert len(door.http.get(url, params={"within": "61d"}).json()["lots"]) == 3
    assert door.http.get(url, params={"within": "1h"}).json()["lots"] == []
    assert door.http.get(url, params={"within": "soon"}).status_code == 400
    assert door.http.get(url, params={"within": "999999999d"}).status_code == 200
    months = door.http.get("/v1/expiring").json()
    assert sum(row["remaining"] for row in months if row["asset"] == "credits") >= 270


def test_a_trace_shows_where_credits_came_from_and_went(door: Door, account: str) -> None:
    """From a spend to its lots, and from a grant to its spends."""
    door.grant(account, 100, key="g")
    assert door.append(account, "spends", key="s", asset="credits", amount=30).status_code == 201
    assert door.append(account, "refunds", key="r", spend="s", amount=10).status_code == 201
    spend = door.http.get(f"/v1/accounts/{account}/commands/s/trace").json()
    assert (spend["spent"], spend["refunded"], spend["owed"]) == (30, 10, 0)
    (took,) = spend["took"]
    assert (took["lot"]["command_id"], took["made_by"]) == ("g", "grant")
    assert [(move["amount"], move["source"], move["target"]) for move in spend["moves"]] == [(30, "remaining", "spent")]
    assert [move["command_id"] for move in spend["later"]] == ["r"]
    assert spend["decision"]["command_id"] == "s"
    (made,) = door.http.get(f"/v1/accounts/{account}/commands/g/trace").json()["made"]
    assert [move["command_id"] for move in made["moves"]] == ["g", "s", "r"]
    assert made["lot"]["remaining"] == 80
    seen, cursor = list[str](), ""
    for left in (2, 1, 0):
        asked = {"limit": 1, **({"cursor": cursor} if cursor else {})}
        page = door.http.get(f"/v1/accounts/{account}/commands/g/trace", params=asked).json()
        seen += [move["command_id"] for lot in page["made"] for move in lot["moves"]]
        assert (page["next"] is not None) == bool(left)
        cursor = page["next"]
    assert seen == ["g", "s", "r"]
    missing = door.http.get(f"/v1/accounts/{account}/commands/none/trace")
    assert (missing.status_code, missing.json()["code"]) == (404, "command_unknown")


def test_the_past_is_read_by_a_time_or_a_position(door: Door, account: str) -> None:
    """Both inclusive: what was decided until then, and whether the account was frozen."""
    first = door.grant(account, 100).json()["decision"]
    door.append(account, "freezes")
    frozen = door.append(account, "holds", asset="credits", amount=30, deadline="2099-01-01T00:00:00Z").json()
    door.append(account, "unfreezes")
    spent = door.append(account, "spends", asset="credits", amount=30).json()
    held = door.append(account, "holds", asset="credits", amount=30, deadline="2099-01-01T00:00:00Z").json()
    door.append(account, "releases", hold=held["command_id"])
    url = f"/v1/accounts/{account}"

    def then(as_of: str) -> tuple[object, ...]:
        found = door.http.get(url, params={"as_of": as_of}).json()
        assert found["balances"] == door.http.get(f"{url}/balances", params={"as_of": as_of}).json()
        return (found["frozen"], [row["available"] for row in found["balances"]])

    assert door.http.get(url).json()["balances"][0]["available"] == 70
    assert then(first["position"]) == (None, [100])
    assert then(frozen["position"]) == ("spending", [100])
    assert then(first["decided_at"])[1] == [100]
    assert then("2020-01-01T00:00:00Z") == (None, [])
    partition, offset = first["position"].split(":")
    bad = ("soon", "2999-01-01T00:00:00Z", f"{int(partition) + 1}:{offset}", "1:" + "9" * 30)
    assert [door.http.get(url, params={"as_of": text}).status_code for text in bad] == [400] * 4
    for moment, parts, open_holds in ((first, (100, 0, 0), 0), (spent, (70, 30, 0), 0), (held, (40, 30, 30), 1)):
        past = {"as_of": moment["position"]}
        lots = door.http.get(f"{url}/lots", params=past).json()
        holds = door.http.get(f"{url}/holds", params=past).json()
        assert [(lot["remaining"], lot["spent"], lot["held"]) for lot in lots["lots"]] == [parts]
        assert [hold["state"] for hold in holds["holds"]] == ["open"] * open_holds
        both = door.http.get(url, params={**past, "expand": "lots,holds"}).json()
        assert (both["lots"], both["holds"]) == (lots["lots"], holds["holds"])
    assert door.http.get(f"{url}/lots", params={"as_of": "2020-01-01T00:00:00Z"}).json() == {"lots": [], "next": None}
    assert door.http.get(f"{url}/balances", params={"as_of": first["position"], "use": "x"}).status_code == 400
    assert door.http.get(url, params={"as_of": f"{partition}:{10**15}"}).status_code == 503
    assert door.http.get(f"{url}/lots", params={"as_of": f"{partition}:{10**15}"}).status_code == 503
    assert [door.http.get(f"{url}/holds", params={"as_of": text}).status_code for text in bad] == [400] * 4
    for part in ("transfers", "schedules"):
        refused = door.http.get(f"{url}/{part}", params={"as_of": first["position"]})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_as_of")
        assert "/holds" in refused.json()["remedy"]
    door.grant(account, 5)
    now = door.grant(account, 6).json()["position"]
    page = door.http.get(f"{url}/lots", params={"as_of": now, "limit": 1}).json()
    rest = door.http.get(f"{url}/lots", params={"as_of": now, "limit": 2, "cursor": page["next"]}).json()
    assert [lot["amount"] for lot in (*page["lots"], *rest["lots"])] == [100, 5, 6]
    refused = door.http.get(f"{url}/lots", params={"cursor": page["next"]})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_cursor")


def test_the_journal_of_all_accounts_is_read_from_a_position_on(door: Door, account: str) -> None:
    """Each line once, page by page, in the log's order within a partition; what is written later comes after."""
    fill(door, account)
    first = door.http.get(f"/v1/accounts/{account}/statement").json()["lines"][0]["position"]
    partition = first.split(":")[0]
    page = door.http.get("/v1/journal", params={"from": first, "limit": 1_000}).json()
    lines = [line for line in page["lines"] if line["account"] == account]
    assert [line["kind"] for line in lines] == ["grant", "spend", "spend", "hold", "grant"]
    assert (page["lines"][0]["position"], page["has_more"]) == (first, False)
    assert {line["position"].split(":")[0] for line in page["lines"]} == {partition}
    pages, cursor = [], None
    while cursor is None or pages[-1]["has_more"]:
        begin = {"from": first} if cursor is None else {"cursor": cursor}
        pages.append(door.http.get("/v1/journal", params={"limit": 2, **begin}).json())
        cursor = pages[-1]["next"]
    assert [line for one in pages for line in one["lines"]] == page["lines"]
    assert door.http.get("/v1/journal", params={"cursor": cursor}).json()["lines"] == []
    door.grant(account, 1, key="later")
    (later,) = door.http.get("/v1/journal", params={"cursor": cursor}).json()["lines"]
    assert later["command_id"] == "later"
    whole = door.http.get("/v1/journal", params={"limit": 1_000}).json()
    assert later in whole["lines"]
    assert (whole["has_more"], page["lines"][0] in whole["lines"]) == (False, True)


def test_the_history_of_an_account_is_read_backwards(door: Door, account: str) -> None:
    """Every decision, by pages and of a time; a cursor of another route isn't one of this."""
    fill(door, account)
    url = f"/v1/accounts/{account}/history"
    lines = door.http.get(url).json()["lines"]
    assert [(line["kind"], line["accepted"]) for line in lines] == [
        ("grant", True), ("hold", True), ("spend", False), ("spend", True), ("grant", True),
    ]  # fmt: skip
    found, asked = [], {"limit": 2}
    while asked is not None:
        page = door.http.get(url, params=asked).json()
        found += page["lines"]
        asked = page["next"] and {"limit": 2, "cursor": page["next"]}
    assert found == lines
    middle = lines[2]["decided_at"]
    assert door.http.get(url, params={"since": middle}).json()["lines"] == lines[:3]
    assert door.http.get(url, params={"until": middle}).json()["lines"] == lines[3:]
    for bad in ({"cursor": "x"}, {"since": "soon"}, {"since": "2026-01-02", "until": "2026-01-01"}):
        assert door.http.get(url, params=bad).status_code == 400, bad


def test_rejections_of_all_accounts_are_read_from_a_position_on(door: Door, account: str) -> None:
    """With their reasons; a cursor of another route isn't one of this."""
    fill(door, account)
    first = door.http.get(f"/v1/accounts/{account}/statement").json()["lines"][0]["position"]
    page = door.http.get("/v1/rejections", params={"from": first}).json()
    (line,) = [line for line in page["lines"] if line["account"] == account]
    assert (line["rejection"], line["amount"], line["change"]) == ("insufficient_credits", 900, 0)
    assert {line["accepted"] for line in page["lines"]} == {False}
    for bad, code in (
        ({"cursor": door.http.get("/v1/journal").json()["next"]}, "invalid_cursor"),
        ({"from": f"{first},{first}"}, "invalid_request"),
        ({"from": first, "cursor": page["next"]}, "invalid_request"),
        ({"since": "2026-01-01", "cursor": page["next"]}, "invalid_request"),
        ({"since": "2026-01-02", "until": "2026-01-01"}, "invalid_request"),
        ({"until": "10000-01-01"}, "invalid_request"),
        ({"cursor": cursor_of("rejections", ([[0, 0], [0, 0]], 0, "", 0, 0))}, "invalid_request"),
        ({"from": "here"}, "invalid_position"),
        ({"from": "99:0"}, "unknown_partition"),
        ({"limit": 1_001}, "invalid_request"),
    ):
        answer = door.http.get("/v1/rejections", params=bad)
        assert (answer.status_code, answer.json()["code"]) == (400, code), bad
    with door.with_key(door.make_key("read:statement").text) as reader:
        seen = reader.get("/v1/journal", params={"from": first}).json()["lines"][0]
        assert (seen["source"], seen["reason"], seen["details"]) == (None, None, None)


def test_rejections_of_a_time_are_read_by_pages(door: Door, account: str) -> None:
    """From the first instant on and before the second, which the cursor keeps; empty where the time is elsewhere."""
    for _ in range(4):
        door.append(account, "spends", asset="credits", amount=900)
    mine = door.http.get("/v1/rejections", params={"limit": 1_000}).json()["lines"]
    at = [line["decided_at"] for line in mine if line["account"] == account]
    assert at == sorted(set(at))

    def read(**asked: str) -> list[str]:
        found, more, ask = [], True, {**asked, "limit": "1"}
        while more:
            page = door.http.get("/v1/rejections", params=ask).json()
            found += [line["decided_at"] for line in page["lines"] if line["account"] == account]
            more, ask = page["has_more"], {"cursor": page["next"], "limit": "1"}
        # The end stays the end, also of what is written later.
        assert door.http.get("/v1/rejections", params={**ask, "limit": "1000"}).json()["lines"] == []
        return found

    assert read(since=at[0]) == at
    assert read(since=at[1], until=at[3]) == at[1:3]
    assert read(until=at[1]) == at[:1]
    # Between two milliseconds of the log's clock.
    assert read(since=at[0].replace("Z", "001Z"), until=at[2].replace("Z", "001Z")) == at[1:3]
    assert read(since=at[1], until=at[1]) == read(until="0001-01-01") == read(since="9999-12-31T23:59:59.999Z") == []
    assert read(since="0001-01-01", until="9999-12-31T23:59:59.999999+00:00") == at
    lines = door.http.get("/v1/journal", params={"since": at[3], "limit": 1_000}).json()["lines"]
    assert at[3] in [line["decided_at"] for line in lines if line["account"] == account]
    assert {line["decided_at"] for line in lines if line["decided_at"] < at[3]} == set()
    far = cursor_of("rejections", ([[0, 0]], 0, "", 0, 2**63 - 1))
    assert door.http.get("/v1/rejections", params={"cursor": far}).status_code == 200


def test_what_was_spent_and_what_ended_is_summed_up(door: Door, account: str) -> None:
    """By class, source and reason, in hours; lot by lot with pages; words for some only."""
    fill(door, account)
    asset = f"of-{account}"
    door.append(account, "grants", key="g", asset=asset, amount=100)
    door.append(account, "grants", asset=asset, amount=20, lot_class="promo", priority=10)
    door.append(account, "spends", asset=asset, amount=50, reason="=cmd")
    for number in range(3):
        old = {"effective_at": "2025-01-01T00:00:00Z", "expires_at": "2026-01-01T00:00:00Z"}
        door.append(account, "grants", key=f"old-{number}", asset=asset, amount=number + 1, **old)
    door.append(account, "voids", key="v", grant="g", reason="fraud")
    ask = {"asset": asset}
    spent = door.http.get("/v1/spent", params=ask).json()
    (paid, promo) = sorted(spent["rows"], key=lambda row: row["lot_class"])
    assert (paid["spent"], promo["spent"], paid["reason"], paid["repaid"]) == (30, 20, "=cmd", 0)
    assert (spent["since"], spent["has_more"], promo["asset"]) == (None, False, asset)
    first = door.http.get("/v1/spent", params={**ask, "limit": 1}).json()
    assert (first["rows"], first["has_more"]) == ([paid], True)
    table = door.http.get("/v1/spent", params={**ask, "by": "reason"}, headers={"Accept": "text/csv"})
    assert table.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert list(csv.reader(io.StringIO(table.content.decode("utf-8-sig"), newline=""))) == [
        ["asset", "class", "source", "reason", "spent", "refunded", "repaid"],
        [asset, "", "", "'=cmd", "50", "0", "0"],
    ]
    ended = door.http.get("/v1/ended/totals", params={**ask, "by": "class,reason"}).json()["rows"]
    assert [(row["what"], row["reason"], row["amount"]) for row in ended] == [
        ("expired", "", 6),
        ("voided", "fraud", 70),
    ]
    url = f"/v1/accounts/{account}/ended"
    lines = door.http.get(url).json()["lines"]
    assert [(line["what"], line["lot"], line["command_id"], line["reason"]) for line in lines] == [
        ("voided", "g", "v", "fraud"),
        *(("expired", f"old-{number}", f"old-{number}", "") for number in (2, 1, 0)),
    ]
    everything = door.http.get("/v1/ended", params={"limit": 1_000}).json()["lines"]
    assert [line for line in everything if line["account"] == account] == lines
    for route, whole in ((url, lines), ("/v1/ended", everything)):
        found, cursor = [], {}
        while cursor is not None:
            page = door.http.get(route, params={"limit": 1, **cursor}).json()
            found += page["lines"]
            cursor = page["next"] and {"cursor": page["next"]}
        assert found == whole
        at = lines[1]["decided_at"]
        times = [line["decided_at"] for line in door.http.get(route, params={"since": at}).json()["lines"]]
        assert times == [line["decided_at"] for line in whole if line["decided_at"] >= at]
        assert door.http.get(route, params={"until": "0001-01-01"}).json()["lines"] == []
    _words_and_bad_requests(door, asset, url)


def _words_and_bad_requests(door: Door, asset: str, url: str) -> None:
    with door.with_key(door.make_key("read:statement").text) as reader:
        (paid, promo) = reader.get("/v1/spent", params={"asset": asset}).json()["rows"]
        assert (paid["spent"], paid["source"], paid["reason"], promo["lot_class"]) == (30, None, None, "promo")
        assert reader.get("/v1/spent", params={"by": "class,reason"}).json()["code"] == "scope_missing"
        line = reader.get(url).json()["lines"][0]
        assert (line["source"], line["reason"], line["command_id"]) == (None, None, "v")
    cursor = door.http.get("/v1/ended", params={"limit": 1}).json()["next"]
    bad = [
        *(("/v1/spent", {name: "2026-01-01T00:30:00Z"}, "partial_hour") for name in ("since", "until")),
        ("/v1/spent", {"since": "2026-01-02", "until": "2026-01-01"}, "invalid_request"),
        ("/v1/ended/totals", {"since": "10000-01-01"}, "invalid_request"),
        ("/v1/ended/totals", {"by": "account"}, "invalid_request"),
        ("/v1/spent", {"format": "ndjson"}, "invalid_request"),
        ("/v1/ended", {"until": "soon"}, "invalid_request"),
        ("/v1/ended", {"since": "2026-01-02", "until": "2026-01-01"}, "invalid_request"),
        (url, {"cursor": cursor}, "invalid_cursor"),
        (url, {"cursor": cursor_of("account_ended", (0, 0, 0, "another", 0, 0, 0))}, "invalid_cursor"),
    ]
    for route, asked, code in bad:
        answer = door.http.get(route, params=asked)
        assert (answer.status_code, answer.json()["code"]) == (400, code), (route, asked)
    far = cursor_of("ended", (*(2**63 - 1,) * 3, "a", *(2**63 - 1,) * 3))
    assert door.http.get("/v1/ended", params={"cursor": far}).status_code == 200
    assert door.http.get("/v1/spent", params={"since": "0001-01-01", "until": "9999-12-31T23:00Z"}).status_code == 200
    assert door.http.get("/v1/spent", headers={"Accept": "application/x-ndjson"}).status_code == 406


def test_the_books_balance(door: Door, account: str) -> None:
    """The totals that the fold keeps are the sums of the journal."""
    fill(door, account)
    (gold,) = [row for row in door.http.get("/v1/totals").json() if row["asset"] == "gold"]
    proof = door.http.get("/v1/trial-balance", params={"asset": "gold"}).json()
    assert (proof["balances"], proof["is_present"], proof["faults"]) == (True, True, [])
    (sides,) = proof["assets"]
    assert (sides.pop("difference"), sides.pop("held"), sides.pop("pending")) == (0, 0, 0)
    assert sides.pop("available") == gold["credits"]
    assert sides == gold
    assert gold["issued"] == gold["credits"] >= 5
    first = door.http.get(f"/v1/accounts/{account}/statement").json()["lines"][0]["position"]
    partition, offset = first.split(":")
    then = door.http.get("/v1/trial-balance", params={"at": first}).json()
    assert (then["balances"], then["is_present"]) == (True, False)
    assert then["next_offsets"][partition] == int(offset) + 1
    assert door.http.get("/v1/trial-balance", params={"at": first, "until": "2026-01-01"}).status_code == 400
