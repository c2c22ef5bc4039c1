"""Every operation is called once as the document's examples show it; with CREDITFOLD_RECORD=1 they are written anew."""

import json
import os
import re
from typing import Any, NamedTuple

import httpx
import pytest

from creditfold.api.openapi import examples, operations
from creditfold.common.waiting import wait_until
from creditfold.schemas.registry import load_lock
from helpers.bulk_lines import openapi
from helpers.doors import Door
from helpers.support import HANG_S, ROOT

pytestmark = pytest.mark.stack

FILE = ROOT / "api" / "examples.json"
SINCE, FAR = "2026-01-01T00:00:00Z", "2098-01-01T00:00:00Z"


class Call(NamedTuple):
    """A request: the operation's id, its method and path, the key if it appends, and its body or its query."""

    operation: str
    method: str
    path: str
    key: str = ""
    body: Any = None
    query: dict[str, str] | None = None
    accept: str = "application/json"


def _append(kind: str, last: str, key: str, account: str = "ada", **body: Any) -> Call:
    return Call(f"append_{kind}", "POST", f"/v1/accounts/{account}/{last}", key, body)


#: In this order.
CALLS = (
    _append("grant", "grants", "welcome", asset="credits", amount=500, expires_at=FAR, reason="welcome"),
    _append("grant", "grants", "welcome", asset="credits", amount=500, expires_at=FAR, reason="welcome"),
    _append("grant", "grants", "welcome", asset="credits", amount=501),
    _append("grant", "grants", "mistake", asset="credits", amount=5),
    _append("spend", "spends", "order-1", asset="credits", amount=120, metadata={"order": "1"}),
    _append("spend", "spends", "order-2", asset="credits", amount=9_999),
    _append("hold", "holds", "stay-1", asset="credits", amount=50, deadline=FAR),
    Call("holds", "GET", "/v1/accounts/ada/holds"),
    _append("capture", "captures", "stay-1-end", hold="stay-1", amount=20),
    _append("release", "releases", "stay-1-rest", hold="stay-1"),
    _append("refund", "refunds", "order-1-back", spend="order-1", amount=10),
    _append("void_grant", "voids", "mistake-void", grant="mistake"),
    _append("transfer", "transfers", "gift-1", asset="credits", amount=5, to="bob"),
    _append("set_credit_limit", "credit-limits", "limit-1", asset="credits", limit=30),
    _append("create_schedule", "schedules", "monthly", asset="credits", amount=5, period="months", first_at=FAR),
    Call("schedules", "GET", "/v1/accounts/ada/schedules"),
    _append("cancel_schedule", "schedule-cancellations", "monthly-end", schedule="monthly"),
    _append(
        "batch", "batches", "basket-1",
        steps=[{"type": "spend", "command_id": "basket-1-a", "asset": "credits", "amount": 1},
               {"type": "spend", "command_id": "basket-1-b", "asset": "credits", "amount": 2}],
    ),
    _append("freeze", "freezes", "fraud-1", scope="spending"),
    _append("unfreeze", "unfreezes", "fraud-1-end"),
    _append("grant", "grants", "last", account="eve", asset="credits", amount=3),
    _append("close", "closings", "bye", account="eve", forfeit=True),
    Call("append_many", "POST", "/v1/commands", body=[
        {"type": "grant", "account": "joe", "command_id": "g-1", "asset": "credits", "amount": 5},
        {"type": "spend", "account": "joe", "command_id": "s-1", "asset": "credits", "amount": 7},
        {"type": "spend", "account": "joe"},
    ]),
    Call("command", "GET", "/v1/accounts/ada/commands/order-1"),
    Call("command", "GET", "/v1/accounts/ada/commands/order-3"),
    Call("accounts", "GET", "/v1/accounts", query={"command_id": "order-1"}),
    Call("account", "GET", "/v1/accounts/ada", query={"expand": "lots,holds"}),
    Call("balances", "GET", "/v1/accounts/ada/balances"),
    Call("lots", "GET", "/v1/accounts/ada/lots"),
    Call("trace", "GET", "/v1/accounts/ada/commands/order-1/trace"),
    Call("expiring", "GET", "/v1/accounts/ada/expiring", query={"within": "99999d"}),
    Call("expiring_totals", "GET", "/v1/expiring"),
    Call("history", "GET", "/v1/accounts/joe/history", query={"limit": "1"}),
    Call("account_ended", "GET", "/v1/accounts/eve/ended"),
    Call("ended", "GET", "/v1/ended", query={"limit": "1"}),
    Call("ended_totals", "GET", "/v1/ended/totals", query={"by": "class,reason"}),
    Call("spent", "GET", "/v1/spent"),
    Call("spent", "GET", "/v1/spent", query={"by": "class"}, accept="text/csv"),
    Call("transfers", "GET", "/v1/accounts/ada/transfers", query={"every": "true"}),
    Call("statement", "GET", "/v1/accounts/joe/statement", query={"from": SINCE}),
    Call("statement", "GET", "/v1/accounts/joe/statement", query={"from": SINCE}, accept="application/x-ndjson"),
    Call("statement", "GET", "/v1/accounts/joe/statement", query={"from": SINCE}, accept="text/csv"),
    Call("graphql", "POST", "/graphql", body={
        "query": "query($a: String!) {account(account: $a) {balances {asset available} lots {lots {command_id}}}}",
        "variables": {"a": "joe"},
    }),
    Call("graphql", "POST", "/graphql", body={"query": "{weather}"}),
    Call("create_key", "POST", "/v1/keys",
         body={"name": "shop", "scopes": ["append:spend", "read:balance"], "reason": "the shop spends"}),
    Call("rotate_key", "POST", "/v1/keys/{key}:rotate", body={"reason": "as each month"}),
    Call("revoke_key", "DELETE", "/v1/keys/{key}", query={"reason": "the shop is closed"}),
    Call("keys", "GET", "/v1/keys"),
    Call("create_webhook_endpoint", "POST", "/v1/webhook-endpoints",
         body={"url": "https://shop.example/hooks", "types": ["command.accepted", "balance.dropped"],
               "reason": "the shop shows balances"}),
    Call("test_webhook_endpoint", "POST", "/v1/webhook-endpoints/{key}:test", body={"reason": "is it there?"}),
    Call("webhook_deliveries", "GET", "/v1/webhook-endpoints/{key}/deliveries"),
    Call("webhook_attempts", "GET", "/v1/webhook-endpoints/{key}/attempts"),
    Call("resend_webhooks", "POST", "/v1/webhook-endpoints/{key}:resend",
         body={"reason": "the shop was mended", "account_prefix": "eu-"}),
    Call("change_webhook_endpoint", "PATCH", "/v1/webhook-endpoints/{key}",
         body={"types": ["command.accepted"], "reason": "alerts go elsewhere"}),
    Call("disable_webhook_endpoint", "POST", "/v1/webhook-endpoints/{key}:disable", body={"reason": "the shop moves"}),
    Call("enable_webhook_endpoint", "POST", "/v1/webhook-endpoints/{key}:enable", body={"reason": "it has moved"}),
    Call("rotate_webhook_secret", "POST", "/v1/webhook-endpoints/{key}:rotate", body={"reason": "each quarter"}),
    Call("webhook_endpoint", "GET", "/v1/webhook-endpoints/{key}"),
    Call("webhook_endpoints", "GET", "/v1/webhook-endpoints"),
    Call("delete_webhook_endpoint", "DELETE", "/v1/webhook-endpoints/{key}", query={"reason": "the shop is closed"}),
    Call("webhook_endpoint", "GET", "/v1/webhook-endpoints/{key}"),
    Call("create_alert_rule", "POST", "/v1/alert-rules",
         body={"kind": "dropped", "asset": "credits", "below": 100, "rearm_at": 150, "reason": "low balance mails"}),
    Call("alert_rules", "GET", "/v1/alert-rules"),
    Call("delete_alert_rule", "DELETE", "/v1/alert-rules/{key}", query={"reason": "nobody reads them"}),
    Call("audit", "GET", "/v1/audit", query={"limit": "1"}),
    Call("journal", "GET", "/v1/journal", query={"limit": "1"}),
    Call("rejections", "GET", "/v1/rejections", query={"limit": "1"}),
    Call("totals", "GET", "/v1/totals"),
    Call("trial_balance", "GET", "/v1/trial-balance"),
    Call("dead_letters", "GET", "/v1/dead-letters", query={"reason": "command_id_reused", "open": "true"}),
    Call("dead_letter", "GET", "/v1/dead-letters/{letter}"),
    Call("log_record", "GET", "/v1/log/{place}"),
    Call("redrive", "POST", "/v1/dead-letters:redrive",
         body={"positions": ["{letter}"], "why": "the shop used an id twice"}),
    Call("redrive", "POST", "/v1/dead-letters:redrive",
         body={"positions": ["{letter}"], "fields": {"command_id": "welcome-2"}, "why": "the shop used an id twice"}),
    Call("discard", "POST", "/v1/dead-letters:discard", query={"preview": "true"},
         body={"reason": "not_framed", "why": "noise of a test"}),
    Call("rebuild", "POST", "/v1/generations:rebuild",
         body={"why": "each quarter, to prove it", "processes": 2, "rate": 30_000}),
    Call("operation", "GET", "/v1/operations/1"),
    Call("verify", "POST", "/v1/generations/2:verify", body={"why": "before it is activated"}),
    Call("activate", "POST", "/v1/generations/2:activate", body={"why": "it is proven"}),
    Call("drop", "DELETE", "/v1/generations/1", query={"why": "it is of no use any more"}),
    Call("drop", "DELETE", "/v1/generations/2", query={"why": "a mistake"}),
    Call("diff", "POST", "/v1/rules:diff", body={"why": "before an upgrade", "rules": 1}),
    Call("generations", "GET", "/v1/generations"),
    Call("cancel_operation", "POST", "/v1/operations/1:cancel", body={"why": "the disk is full"}),
    Call("operations", "GET", "/v1/operations", query={"limit": "1"}),
    Call("rules", "GET", "/v1/rules"),
    Call("live", "GET", "/health/live"),
    Call("ready", "GET", "/health/ready"),
    Call("progress", "GET", "/v1/progress"),
    Call("schema", "GET", f"/schemas/{load_lock()[0].id}"),
)  # fmt: skip

#: Operations that go on after their answer.
BEGINS = {"rebuild", "verify", "activate", "diff"}

#: What differs from run to run, and what stands for it.
VARYING = (
    (re.compile(r"\b\d:\d+\b"), "3:1042"),
    (re.compile(r"\b2(?:0[2-8]\d|[1-9]\d\d)-\d\d-\d\d([T ])\d\d:\d\d:\d\d(\.\d+)?"), r"2026-06-01\g<1>12:00:00.000"),
    (re.compile(r"\b1[789]\d{11}\b"), "1780315200000"),
    (re.compile(r"\bkey-[0-9a-f]{8}\b"), "shop"),
    (re.compile(r"\bcfk_\w+"), "cfk_..."),
    (re.compile(r"\b(whsec|whpk|msg)_[\w+/=]+"), r"\1_..."),
    (re.compile(r"\bep_\w+"), "ep_..."),
    (re.compile(r'("request_id": ?)"\w+"'), r'\1"5f0c2a7e9b1d4c3f8a6e"'),
    (re.compile(r'("next": ?)"[^"]+"'), r'\1"..."'),
    (
        re.compile(
            r'("(?:next_offset|number|accepted|rejected|duplicates|dead_letters|records|size_bytes|done|total)": ?)\d+'
        ),
        r"\g<1>20",
    ),
    (re.compile(r'("behind": ?)\d+'), r"\g<1>20"),
    (re.compile(r'("(?:id|target)": ?)"\w+"'), r'\1"k1"'),
    (re.compile(r'("next_offsets": ?){[^}]*}'), r'\1{"3": 1043}'),
    (re.compile(r'("topic_id": ?)"[^"]+"'), r'\1"5q9KbW7rQ5mGvK2Jp0xR3A"'),
    (re.compile(r'("base64": ?)"[^"]*"'), r'\1"AAAnEwh3ZWxjb21lBmFkYQ=="'),
    (re.compile(r'("digest": ?)"\w+"'), r'\1"2f1d0c9be8a7f605"'),
    (re.compile(r'"creditfold\.commands\.\w+"'), '"creditfold.commands.v1"'),
    (re.compile(r"\d+,\d+\r\n"), "3,1042\r\n"),
)


def alike(text: str) -> str:
    """A text with what differs from run to run replaced."""
    for pattern, instead in VARYING:
        text = pattern.sub(instead, text)
    return text


class Recorder:
    """Calls a door as CALLS says, and keeps what was sent and answered."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._key = self._letter = ""
        self.found: dict[str, dict[str, Any]] = {}

    def call(self, call: Call) -> None:
        """Make a request, and record it."""
        headers = {"Accept": call.accept}
        sent: dict[str, Any] = {}
        if call.key:
            headers |= {"Idempotency-Key": call.key, "Prefer": "wait=30"}
        if call.operation == "append_many":
            headers |= {"Content-Type": "application/x-ndjson", "Prefer": "wait=30"}
            sent = {"content": "".join(json.dumps(line) + "\n" for line in call.body).encode()}
        elif call.body is not None:
            sent = {"json": json.loads(json.dumps(call.body).replace("{letter}", self._letter))}
        path = call.path.format(key=self._key, letter=self._letter, place=self._letter.replace(":", "/"))
        answer = self._door.http.request(call.method, path, headers=headers, params=call.query, **sent)
        assert answer.status_code < 500, (call, answer.text)
        see_state(call.operation, answer, is_preview="preview" in (call.query or {}))
        media = answer.headers["Content-Type"].partition(";")[0]
        text = alike(answer.text)
        body = json.loads(text) if media.endswith("json") and "ndjson" not in media else text
        if call.operation in ("create_key", "create_webhook_endpoint", "create_alert_rule"):
            self._key = answer.json()["id"]
        if call.operation == "dead_letters":
            self._letter = answer.json()["dead_letters"][0]["position"]
        if call.operation == "keys":
            body = [key for key in body if key["revoked_at"] is not None][:1]
        if call.operation in BEGINS:
            where = answer.headers["Location"]
            assert wait_until(lambda: self._door.http.get(where).json()["state"] == "done", HANG_S)
        if call.operation == "append_transfer":
            # It settles by itself, and changes the account once more.
            assert wait_until(
                lambda: self._door.http.get("/v1/accounts/ada/transfers").json()["transfers"] == [], HANG_S
            )
        own = self.found.setdefault(call.operation, {"answers": {}})
        if call.body is not None and "body" not in own:
            own["body"] = json.loads(alike(json.dumps(sent["json"]))) if "json" in sent else sent["content"].decode()
        own["answers"].setdefault(str(answer.status_code), {}).setdefault(media, body)


COMPLETE_TO = "creditfold-complete-to"
STATE = {"creditfold-generation", "creditfold-position", COMPLETE_TO}
#: Reads whose answers aren't of a state of the fold, and what they are of.
OF_NO_STATE = {
    "audit": "the audit, which no generation has",
    **dict.fromkeys(
        ("webhook_endpoints", "webhook_endpoint", "webhook_deliveries", "webhook_attempts", "alert_rules"),
        "what is delivered, which no generation has",
    ),
    "keys": "the keys, which no generation has",
    "operations": "what operators do, which no generation has",
    "operation": "what operators do, which no generation has",
    "generations": "all of them, live or not",
    "rules": "all partitions, with the log as it is now",
    "log_record": "the log",
    "outcomes": "a stream: each event has its positions",
    "live": "the process",
    "metrics": "the process",
    "ready": "the servers, as they are now",
    "schema": "the code",
}
OPERATIONS = list(operations(openapi()))
DOCUMENTED = {
    (operation["operationId"], status): {name.lower() for name in answer.get("headers", ())}
    for _, _, operation in OPERATIONS
    for status, answer in operation["responses"].items()
}
READS = {one["operationId"] for _, method, one in OPERATIONS if method in ("get", "head")} | {"graphql"}
#: Operations that can be asked what they would do.
PREVIEWED = {
    one["operationId"]
    for _, _, one in OPERATIONS
    if any(parameter["name"] == "preview" for parameter in one.get("parameters", ()))
}


def see_state(operation: str, answer: httpx.Response, *, is_preview: bool = False) -> None:
    """See that an answer says which state it reflects where the document says so, and nowhere else.

    The document can't tell a preview from what it is a preview of: that wrote, and so says nothing of the log's end.
    """
    documented = DOCUMENTED[operation, str(answer.status_code)] & STATE
    sent = answer.headers.keys() & STATE
    assert sent <= documented, (operation, answer.status_code, sent)
    # Of all accounts there is no one position.
    assert not documented or "creditfold-generation" in sent, (operation, answer.status_code)
    is_read = operation in READS or is_preview
    assert (COMPLETE_TO in sent) == (COMPLETE_TO in documented and is_read), (operation, answer.status_code)
    if operation.startswith("append_"):
        assert sent | {COMPLETE_TO} == documented | {COMPLETE_TO}, (operation, answer.status_code)


def test_every_read_is_of_a_state_or_named() -> None:
    """Whoever adds a route that reads has it say up to when it has all of the log, or says here why it doesn't."""
    of_state = {name for (name, status), headers in DOCUMENTED.items() if status == "200" and COMPLETE_TO in headers}
    assert READS - of_state == OF_NO_STATE.keys()
    assert of_state <= {call.operation for call in CALLS} | {"count_accounts", *PREVIEWED}


def test_the_examples_are_what_the_door_answers(door: Door) -> None:
    """To the letter, but for positions, times and ids."""
    recorder = Recorder(door)
    for call in CALLS:
        recorder.call(call)
    if os.environ.get("CREDITFOLD_RECORD"):
        FILE.write_text(json.dumps(recorder.found, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")
    assert recorder.found == examples()
    see_states_without_an_example(door)


def see_states_without_an_example(door: Door) -> None:
    """Of previews, and of reads that are known, waited for or counted."""
    sent = {"json": {"asset": "credits", "amount": 1}, "headers": {"Idempotency-Key": "of-state"}}
    position = door.append("state", "grants", "of-state", **sent["json"]).headers["Creditfold-Position"]
    path, again = "/v1/accounts/state", {"params": {"preview": "true"}}
    see_state("append_grant", door.http.post(f"{path}/grants", **sent, **again), is_preview=True)
    other = {**sent, "json": {"asset": "credits", "amount": 2}}
    refused = door.http.post(f"{path}/grants", **other, **again)
    assert refused.status_code == 409
    see_state("append_grant", refused, is_preview=True)
    for place, status in ((position, 200), (position.partition(":")[0] + ":999999", 202)):
        found = door.http.get(f"{path}/commands/of-state", params={"at": place})
        assert found.status_code == status
        see_state("command", found)
    tag = door.http.get(path).headers["ETag"]
    known = door.http.get(path, headers={"If-None-Match": tag})
    assert known.status_code == 304
    see_state("account", known)
    see_state("count_accounts", door.http.head("/v1/accounts"))
