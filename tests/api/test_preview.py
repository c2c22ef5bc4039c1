"""Each command of a history, previewed over HTTP and then appended: the answers are the same."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from creditfold.api import preview as api_preview
from creditfold.api import service
from creditfold.api.commands import ROUTES
from creditfold.common.waiting import wait_until
from creditfold.processors.fold import preview as fold_preview
from creditfold.projections.store.account_loader import AccountLoader
from helpers import credit_histories
from helpers.credit_histories import Writer
from helpers.doors import Door
from helpers.support import HANG_S

pytestmark = pytest.mark.stack

#: The kinds of commands by the names of their records.
KINDS = {"".join(part.title() for part in kind.split("_")): kind for kind in ROUTES}
INSTANTS = {"effective_at", "expires_at", "deadline", "first_at", "until"}


def body_of(fields: dict[str, Any]) -> dict[str, Any]:
    """The body of a request with a command's fields; what stands for nothing is left out."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "steps":
            found[name] = [{"type": step["kind"], "command_id": step["command_id"], **body_of(step)} for step in value]
        elif name in INSTANTS and value:
            found[name] = datetime.fromtimestamp(value / 1_000, UTC).isoformat()
        elif name not in ("account", "command_id", "kind") and (value or name == "limit"):
            found[name] = value
    return found


def test_previews_are_what_is_decided_then(door: Door, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcome, reason, facts, the lots taken, what the account has then; a repeat is a repeat in both."""
    monkeypatch.setattr(credit_histories, "ACCOUNTS", tuple(f"{account}-{number}" for number in range(3)))
    # Instants are hours away: none passes between a preview and the decision.
    writer = Writer(7)
    writer.now = round(time.time() * 1_000)
    seen: set[str] = set()
    for _ in range(70):
        record, fields = writer.command()
        if record not in KINDS:
            continue
        url = f"/v1/accounts/{fields['account']}/{ROUTES[KINDS[record]]}"
        sent = {"json": body_of(fields), "headers": {"Idempotency-Key": fields["command_id"], "Prefer": "wait=30"}}
        previewed = door.http.post(url, params={"preview": "true"}, **sent)
        decided = door.http.post(url, **sent)
        seen.add(compared(previewed.json(), decided.json(), decided.status_code))
        again = door.http.post(url, params={"preview": "true"}, **sent)
        assert decided.status_code >= 400 or again.json()["outcome"] == "duplicate", again.text
        if record == "Transfer":
            # What comes back or arrives is a command of its own, by the worker.
            transfers = f"/v1/accounts/{fields['account']}/transfers"
            nothing = {"transfers": [], "next": None}
            assert wait_until(lambda one=transfers, none=nothing: door.http.get(one).json() == none, HANG_S)  # type: ignore[misc]
    assert {"accepted", "rejected"} <= seen


#: Where a preview is held: while the account is read, while it is decided, while the answer is made.
STEPS = {
    "read": (AccountLoader, "load"),
    "decided": (fold_preview, "decide_next"),
    "answered": (api_preview, "facts_as_json"),
}


@pytest.mark.parametrize("step", STEPS)
def test_previews_that_take_long_keep_no_other_request(door: Door, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are threads of, held in the middle: reads and appends are answered, and then the previews."""
    account, (owner, name) = f"long-{step}", STEPS[step]
    door.grant(account, 100)
    monkeypatch.setattr(service, "QUERY_S", HANG_S)
    begun, go_on, real = threading.Semaphore(0), threading.Event(), getattr(owner, name)

    def held(*arguments: Any, **options: Any) -> Any:
        begun.release()
        assert go_on.wait(HANG_S)
        return real(*arguments, **options)

    def preview(number: int) -> httpx.Response:
        sent = {"json": {"asset": "credits", "amount": 1}, "headers": {"Idempotency-Key": f"s-{number}"}}
        return door.http.post(f"/v1/accounts/{account}/spends", params={"preview": "true"}, **sent)

    with ThreadPoolExecutor() as beside, monkeypatch.context() as patched:
        patched.setattr(owner, name, held)
        # One more than there are threads, which waits.
        previews = [beside.submit(preview, number) for number in range(service.PREVIEWERS + 1)]
        try:
            assert all(begun.acquire(timeout=HANG_S) for _ in range(service.PREVIEWERS))
            assert door.http.get("/health/live").status_code == 200
            assert door.http.get(f"/v1/accounts/{account}").status_code == 200
            door.grant(account, 5)
            assert not any(one.done() for one in previews)
        finally:
            go_on.set()
        assert [one.result().json()["outcome"] for one in previews] == ["accepted"] * len(previews)


def timeless(fact: dict[str, Any], asset: str = "") -> dict[str, Any]:
    """A fact without its own instant, which is later than its preview's; of the asset of its line if it names none."""
    terms = fact.get("terms")
    begins = {"terms": {**terms, "effective_at": "then"}} if terms and terms["effective_at"] == fact.get("at") else {}
    return {"asset": asset} | {name: value for name, value in fact.items() if name != "at"} | begins


def compared(previewed: dict[str, Any], decided: dict[str, Any], status: int) -> str:
    """See that a preview and a decision are the same; returns the outcome."""
    assert status in (200, 201, 400, 409, 422), decided
    if "outcome" not in decided:
        # Refused before it is appended, or a dead letter.
        assert "outcome" not in previewed, (previewed, decided)
        return str(decided["code"])
    names = ("outcome", "reason", "account", "command_id")
    assert [previewed[name] for name in names] == [decided[name] for name in names]
    lines = [decided["decision"], *decided["steps"]]
    if decided["accepted"]:
        for name in ("facts", "allocations"):
            shown = [timeless(one, line["asset"] if name == "facts" else "") for line in lines for one in line[name]]
            expected = [timeless(one) for one in previewed[name]]
            # A closing's lines of further assets aren't in the answer.
            assert all(one in expected for one in shown), (shown, expected)
            assert decided["decision"]["kind"] == "close" or len(expected) == len(shown)
    last = lines[-1]
    if last["asset"] in previewed["balances"]:
        amounts = ("available", "pending", "held", "debt")
        assert [previewed["balances"][last["asset"]][name] for name in amounts] == [last[name] for name in amounts]
    return str(decided["outcome"])
