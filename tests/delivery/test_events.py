"""Lines of the journal as events: what each fact comes to, that all fit their schemas, and that ids stay."""

import json
import re
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from jsonschema import Draft202012Validator
from webhook_schemas import FILE, as_text

from creditfold.delivery.events import Event, LineAlert, event_of_letter, events_of
from creditfold.delivery.events import test_event as event_of_test
from creditfold.delivery.filters import UnknownTypeError, Wanted, refuse_unknown_types
from creditfold.delivery.identity import webhook_id
from creditfold.delivery.payloads import TYPES, schema_document
from creditfold.ledger import CreditBook
from creditfold.ledger.commands import (
    Batch,
    Capture,
    Close,
    CreateSchedule,
    Freeze,
    Grant,
    Hold,
    ReceiveTransfer,
    Refund,
    Release,
    SettleTransfer,
    Spend,
    Transfer,
    VoidGrant,
)
from creditfold.ledger.facts import CreditEntry, Rejected
from creditfold.ledger.facts_json import facts_as_json
from creditfold.ledger.folding import Verdict
from creditfold.projections.queries.windows import DeadRow, JournalRow
from helpers.support import ROOT

VALIDATOR = Draft202012Validator(schema_document(), format_checker=Draft202012Validator.FORMAT_CHECKER)
DAY_MS = 86_400_000
T0 = 1_800_000_000_000


def row_of(entry: CreditEntry, offset: int = 7) -> JournalRow:
    """A line of the journal as the projection has it."""
    return JournalRow(
        offset,
        entry.account,
        entry.version,
        entry.command_id,
        entry.kind,
        entry.asset,
        entry.amount,
        entry.balance.available,
        None if entry.rejection is None else str(entry.rejection),
        entry.rules,
        entry.clock_ms,
        entry.occurred_at,
        entry.source,
        entry.reason,
        entry.change,
        entry.balance.pending,
        entry.balance.held,
        entry.balance.debt,
        entry.step,
        entry.details,
        facts_as_json(entry.facts, entry.asset),
    )


class Log:
    """A fold whose lines become events. Each command comes a second later."""

    def __init__(self) -> None:
        self.book = CreditBook(clock_ms=T0)
        self.found: list[Event] = []

    def take(self, command: Any, after_ms: int = 1_000) -> list[Event]:
        """The events of a command."""
        self.book.advance(self.book.clock_ms + after_ms)
        outcome = self.book.apply(command)
        assert not isinstance(outcome, Verdict)
        found = [event for entry in outcome.entries for event in events_of(row_of(entry), 3)]
        self.found += found
        return found

    def tick(self, after_ms: int) -> list[Event]:
        """The events of time."""
        self.book.advance(self.book.clock_ms + after_ms)
        lines = self.book.tick(self.book.clock_ms // 60_000)
        assert not isinstance(lines, Verdict)
        found = [event for entry in lines for event in events_of(row_of(entry), 3)]
        self.found += found
        return found


def said(events: list[Event]) -> list[tuple[str, dict[str, Any]]]:
    """Types and data, without what all have."""
    common = ("account", "version", "position")
    return [(one.type, {name: value for name, value in one.data.items() if name not in common}) for one in events]


def types(events: list[Event]) -> list[str]:
    return [event.type for event in events]


def history() -> Log:
    """One of each kind."""
    log = Log()
    log.take(Grant("g1", "ada", "credits", 100, expires_at=T0 + 5 * DAY_MS, source="shop", reason="a secret"))
    log.take(Hold("h1", "ada", "credits", 30, deadline=T0 + 2 * DAY_MS))
    log.take(Capture("c1", "ada", "h1", 10))
    log.take(Release("r1", "ada", "h1", 5))
    log.tick(3 * DAY_MS)
    log.take(Spend("s1", "ada", "credits", 500))
    log.take(Transfer("t1", "ada", "credits", 20, "bob"))
    log.take(SettleTransfer("~t1", "ada", "t1"))
    log.take(Transfer("t2", "ada", "credits", 20, "bob"))
    log.take(SettleTransfer("~t2", "ada", "t2", "account_closed"))
    log.take(Grant("g2", "ada", "gold", 5))
    log.take(VoidGrant("v1", "ada", "g2"))
    log.take(Freeze("f1", "bob"))
    log.take(CreateSchedule("p1", "eve", "credits", 7, "days", T0 + 4 * DAY_MS, expires_after_ms=DAY_MS))
    log.tick(2 * DAY_MS)
    log.take(Close("x1", "bob"))
    return log


def test_a_grant_and_what_becomes_of_it() -> None:
    """Its lot's terms, its hold, its end."""
    log = Log()
    granted = log.take(Grant("g1", "ada", "credits", 100, expires_at=T0 + DAY_MS, source="shop", reason="a secret"))
    (accepted, lot) = said(granted)
    assert accepted == (
        "command.accepted",
        {
            "command_id": "g1", "kind": "grant", "asset": "credits", "amount": 100, "change": 100, "available": 100,
            "pending": 0, "held": 0, "debt": 0, "occurred_at": None,
        },
    )  # fmt: skip
    assert lot == (
        "lot.granted",
        {
            "asset": "credits", "lot": "g1", "lot_number": 1, "amount": 100, "how": "granted", "lot_class": "paid",
            "priority": 50, "effective_at": "2027-01-15T08:00:01Z", "expires_at": "2027-01-16T08:00:00Z", "scope": None,
        },
    )  # fmt: skip
    assert json.loads(granted[0].body) == {
        "type": "command.accepted",
        "timestamp": "2027-01-15T08:00:01Z",
        "data": {"account": "ada", "version": 1, "position": "3:7", **accepted[1]},
    }
    assert said(log.take(Hold("h1", "ada", "credits", 30, deadline=T0 + DAY_MS // 2)))[1:] == [
        ("hold.opened", {"asset": "credits", "hold": "h1", "amount": 30, "deadline": "2027-01-15T20:00:00Z"})
    ]
    assert said(log.take(Capture("c1", "ada", "h1", 10, final=True)))[1:] == [
        ("hold.captured", {"asset": "credits", "hold": "h1", "amount": 10, "capture": "c1"}),
        ("hold.released", {"asset": "credits", "hold": "h1", "amount": 20}),
    ]
    assert said(log.tick(2 * DAY_MS)) == [
        ("lot.expired", {"asset": "credits", "lot": "g1", "lot_number": 1, "amount": 90})
    ]


def test_what_is_refused_says_why() -> None:
    """A rejection is an event, too; of a batch it says which step."""
    log = Log()
    ((kind, data),) = said(log.take(Spend("s1", "ada", "credits", 5)))
    assert (kind, data["reason"], data["step"], data["change"]) == ("command.rejected", "insufficient_credits", None, 0)
    steps = (Grant("g1", "ada", "credits", 1), Spend("s2", "ada", "credits", 5))
    ((kind, data),) = said(log.take(Batch("b1", "ada", steps)))
    assert (kind, data["kind"], data["step"]) == ("command.rejected", "batch", 1)
    accepted = log.take(Batch("b2", "ada", steps[:1]))
    assert types(accepted) == ["command.accepted", "command.accepted", "lot.granted"]


def test_a_transfer_is_one_event_however_many_lots_it_takes() -> None:
    """At its sender it is sent, then completed or returned; at its receiver lots arrive."""
    log = Log()
    for number in (1, 2):
        log.take(Grant(f"g{number}", "ada", "credits", 10))
    sent = log.take(Transfer("t1", "ada", "credits", 15, "bob"))
    assert said(sent)[1:] == [("transfer.sent", {"asset": "credits", "transfer": "t1", "amount": 15, "to": "bob"})]
    assert said(log.take(SettleTransfer("~1", "ada", "t1", "account_closed")))[1:] == [
        ("transfer.returned", {"asset": "credits", "transfer": "t1", "amount": 15, "reason": "account_closed"})
    ]
    log.take(Transfer("t2", "ada", "credits", 5, "bob"))
    assert said(log.take(SettleTransfer("~2", "ada", "t2")))[1:] == [
        ("transfer.completed", {"asset": "credits", "transfer": "t2"})
    ]
    from creditfold.ledger.commands import Parcel, Terms

    arrived = log.take(ReceiveTransfer("~3", "bob", "credits", "ada", "t2", (Parcel("g1", 5, Terms()),)))
    assert [(kind, data["how"]) for kind, data in said(arrived)[1:]] == [("lot.granted", "arrived")]


def test_what_is_taken_back_is_said_lot_by_lot() -> None:
    """Also of a lot of which all is held: nothing of it is lost now."""
    log = Log()
    log.take(Grant("g1", "ada", "credits", 10))
    log.take(Hold("h1", "ada", "credits", 10, deadline=T0 + DAY_MS))
    voided = {"asset": "credits", "lot": "g1", "lot_number": 1}
    assert said(log.take(VoidGrant("v1", "ada", "g1")))[1:] == [("lot.voided", {**voided, "amount": 0})]
    released = said(log.take(Release("r1", "ada", "h1")))[1:]
    assert [kind for kind, _ in released] == ["hold.released", "lot.voided"]
    assert released[1] == ("lot.voided", {**voided, "amount": 10})


def test_a_reissue_makes_a_lot() -> None:
    """Its credits come out of the lot that has ended."""
    log = Log()
    log.take(Grant("g1", "ada", "credits", 10, expires_at=T0 + DAY_MS))
    log.take(Spend("s1", "ada", "credits", 10))
    found = said(log.take(Refund("r1", "ada", "s1", reissue=True), after_ms=2 * DAY_MS))
    assert [(kind, data["lot"], data["how"], data["amount"]) for kind, data in found if kind == "lot.granted"] == [
        ("lot.granted", "r1", "reissued", 10)
    ]


def test_every_type_of_a_line_is_seen_and_fits_its_schema() -> None:
    """Those of a history with one of each, and those of alerts, letters and endpoints."""
    log = history()
    seen = set(types(log.found))
    elsewhere = ("balance", "credits", "dead_letter", "endpoint")
    assert seen == {name for name in TYPES if name.partition(".")[0] not in elsewhere}
    for event in (*log.found, *others()):
        VALIDATOR.validate(json.loads(event.body))
    assert seen | {event.type for event in others()} == {*TYPES, "endpoint.test"}


def others() -> list[Event]:
    """Events that no line makes by itself."""
    row = row_of(Log().book.apply(Grant("g1", "ada", "credits", 5)).entries[0])  # type: ignore[union-attr]
    data = {"rule": "al_1", "asset": "credits", "available": 5, "below": 10}
    alerts = [
        LineAlert("ada", 1, "al_1", kind, json.dumps(data))
        for kind in ("balance.dropped", "balance.depleted", "balance.recovered")
    ]
    soon = {
        "rule": "al_2", "account": "ada", "asset": "credits", "lot": "g1", "lot_number": 1, "remaining": 5,
        "expires_at": "2027-01-15T08:00:00Z",
    }  # fmt: skip
    letters = [
        event_of_letter(DeadRow(offset, "not_framed", "", key, None, [], T0), 2)
        for offset, key in enumerate((b"ada", b"\xff", None))
    ]
    off = {"endpoint": "ep_1", "url": "https://shop.example/", "reason": "it answered 410 Gone"}
    return [
        *events_of(row, 3, alerts),
        Event("credits.expiring_soon", "x", T0, soon, account="ada"),
        *letters,
        Event("endpoint.disabled", "y", T0, off, owner="ann"),
        event_of_test("ep_1", T0),
    ]


def test_what_commands_say_in_words_is_sent_to_nobody() -> None:
    """Neither where it comes from, nor why."""
    assert all("secret" not in event.body and "shop" not in event.body for event in history().found)


def test_no_two_events_have_one_key() -> None:
    """Of an account's lines, of letters, whatever their types."""
    log = history()
    # The line of the alerts is another log's first one.
    more = [event for event in others() if event.type not in types(log.found)]
    found = [(event.type, event.key) for event in (*log.found, *more)]
    assert len(set(found)) == len(found)


#: Never to change: a receiver knows events by these.
IDS = {
    ("ep_1", "command.accepted", "ada\x001\x00"): "msg_dxy6k2ykg6r752ehyqcys4ds",
    ("ep_1", "dead_letter.created", "letter 0:5"): "msg_updumr7rjeufpk7btfy4d5k7",
}


@pytest.mark.parametrize(("parts", "expected"), IDS.items())
def test_an_id_is_what_it_was(parts: tuple[str, str, str], expected: str) -> None:
    """The same in each release."""
    assert webhook_id(*parts) == expected


@given(st.lists(st.tuples(st.text(min_size=1), st.sampled_from(sorted(TYPES)), st.text()), unique=True, max_size=20))
def test_ids_are_of_the_three_alone(parts: list[tuple[str, str, str]]) -> None:
    """And have no full stop, which separates what is signed."""
    found = [webhook_id(*one) for one in parts]
    assert len(set(found)) == len(parts)
    assert all("." not in one and one.isascii() and len(one) <= 64 for one in found)


ADA, LETTER = Event("lot.granted", "k", 0, {}, account="eu-ada"), Event("dead_letter.created", "k", 0, {})
OFF = Event("endpoint.disabled", "k", 0, {"endpoint": "ep_2"}, owner="ann")
#: What an endpoint wants, an event, and whether it gets it.
WANTED = [
    (Wanted("ep_1", "ann"), ADA, True),
    (Wanted("ep_1", "ann", ["lot.granted"]), ADA, True),
    (Wanted("ep_1", "ann", ["lot.expired"]), ADA, False),
    (Wanted("ep_1", "ann", [], ["us-", "eu-"]), ADA, True),
    (Wanted("ep_1", "ann", [], ["us-"]), ADA, False),
    (Wanted("ep_1", "ann", ["lot.granted"], ["eu-ada"]), ADA, True),
    (Wanted("ep_1", "ann"), LETTER, True),
    (Wanted("ep_1", "ann", [], ["eu-"]), LETTER, False),
    (Wanted("ep_1", "ann"), OFF, True),
    (Wanted("ep_1", "ann", [], ["eu-"]), OFF, True),
    (Wanted("ep_2", "ann"), OFF, False),
    (Wanted("ep_1", "bob"), OFF, False),
]


@pytest.mark.parametrize(("wanted", "event", "takes"), WANTED)
def test_an_endpoint_gets_what_it_wants(wanted: Wanted, event: Event, takes: bool) -> None:
    """By type, by account, and of endpoints what happened to its owner's others."""
    assert wanted.takes(event) == takes


def test_an_unknown_type_is_refused() -> None:
    """With those that there are."""
    refuse_unknown_types(list(TYPES))
    with pytest.raises(UnknownTypeError) as raised:
        refuse_unknown_types(["lot.granted", "lot.eaten"])
    assert "lot.eaten" in raised.value.message
    assert "lot.expired" in raised.value.remedy


def test_a_rejection_of_the_model_is_one() -> None:
    """The helper above folds as the ledger does."""
    assert isinstance(CreditBook().apply(Spend("s", "ada", "credits", 1)), Rejected)


def test_the_schemas_are_what_the_models_make() -> None:
    """`make api` writes them."""
    assert FILE.read_text("utf-8") == as_text(schema_document())


def test_each_type_is_in_the_docs() -> None:
    """A type that no document names is found by nobody, and one that there isn't by everybody."""
    page = (ROOT / "docs" / "webhooks.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", row.split("|")[1])}
    assert named == TYPES.keys()
