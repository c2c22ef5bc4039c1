"""What pages say in words: each kind of fact, each reason of a refusal, and times."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from creditfold.common.instants import EPOCH, milliseconds_of
from creditfold.console import words
from creditfold.console.words import REMEDIES, sentences
from creditfold.ledger.facts import FactKind
from creditfold.ledger.reasons import RejectionReason
from creditfold.schemas.outcome import Decision

MAY, JUNE = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)


def line_of(*facts: dict[str, Any], **fields: Any) -> Decision:
    """A line of the journal with these facts."""
    return Decision(
        **{
            "log_partition": 0,
            "log_offset": 7,
            "account_id": "ada",
            "version": 1,
            "command_id": "c-1",
            "kind": "grant",
            "asset": "credits",
            "amount": 100,
            "change": 100,
            "balance": 100,
            "accepted": True,
            "rejection": None,
            "rules": 1,
            "decided_at": MAY,
            "occurred_at": None,
            "source": "shop",
            "note": "",
            "facts": facts,
            **fields,
        }
    )


def fact(kind: str, *moves: tuple[str, str, int], ref: str = "c-1", **more: Any) -> dict[str, Any]:
    """A fact as the journal has it, all of whose moves are of one lot."""
    return {
        "kind": kind,
        "at": milliseconds_of(MAY),
        "ref": ref,
        "moves": [["lot-1", 1, source, target, amount] for source, target, amount in moves],
        **more,
    }


def terms(**fields: Any) -> dict[str, Any]:
    """Terms of a lot."""
    return {"lot_class": "paid", "priority": 50, "effective_at": 0, "expires_at": 0, "scope": "", **fields}


END = milliseconds_of(JUNE)
ENDS = terms(expires_at=END)
SAID = [
    (fact("occurred", ("issued", "remaining", 5), terms=ENDS), "a schedule granted 5 credits, ends 1 June 2026"),
    (fact("capped"), "a schedule granted nothing: it is at its cap"),
    (fact("activated"), "credits became good"),
    (fact("lapsed", ("held", "remaining", 30)), "a hold met its deadline and gave back 30 credits"),
    (fact("expired", ("remaining", "expired", 1_500)), "1,500 credits ended unspent"),
    (fact("repaid", ("remaining", "debt", 3)), "3 credits paid a debt"),
    (fact("granted", ("issued", "remaining", 100), terms=ENDS), "granted 100 credits, ends 1 June 2026"),
    (fact("spent", ("remaining", "spent", 60), ("debt", "spent", 20)), "spent 80 credits, 20 of it owed"),
    (fact("held", ("remaining", "held", 9), deadline=END), "set aside 9 credits until 1 June 2026"),
    (fact("captured", ("held", "spent", 4)), "spent 4 credits of a hold"),
    (fact("released", ("held", "remaining", 4)), "gave back 4 credits of a hold"),
    (fact("refunded", ("spent", "remaining", 4)), "refunded 4 credits"),
    (fact("reissued", ("reissued", "remaining", 4), terms=terms()), "refunded 4 credits as new credits"),
    (fact("voided", ("remaining", "voided", 4)), "took back 4 credits"),
    (fact("sent", ("remaining", "in_transit", 4), to="bob"), "sent 4 credits to bob"),
    (fact("arrived", ("in_transit", "remaining", 4), terms=terms(scope="chat")), "received 4 credits, for chat only"),
    (fact("refused", detail="account_closed"), "didn't take a transfer: the account was closed"),
    (fact("completed"), "a transfer arrived"),
    (fact("returned", ("in_transit", "remaining", 4)), "a transfer came back with 4 credits"),
    (fact("frozen", detail="spending"), "froze the account: spending"),
    (fact("unfrozen"), "ended the account's freeze"),
    (fact("forfeited", ("remaining", "forfeited", 4)), "gave up 4 credits"),
    (fact("closed"), "closed the account"),
    (fact("limited", detail="500"), "set the credit limit to 500"),
    (fact("scheduled", amount=5, period="month"), "began a schedule of 5 credits each month"),
    (fact("cancelled"), "ended a schedule"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "said"), SAID, ids=[row[0]["kind"] for row in SAID])
def test_a_fact_is_said_in_words(found: dict[str, Any], said: str) -> None:
    """One sentence for each kind."""
    assert [one.text for one in sentences(line_of(found))] == [said]


def test_each_kind_of_fact_has_words() -> None:
    """In the order of the enum, so that a gap is seen."""
    assert [row[0]["kind"] for row in SAID] == [kind.value for kind in FactKind]


def test_a_kind_that_a_newer_release_knows_is_shown_by_its_name() -> None:
    """A page never fails for what it doesn't know."""
    (said,) = sentences(line_of(fact("melted_down", ("remaining", "gone", 3))))
    assert said.text == "melted down 3 credits"


def test_moves_of_one_thing_are_one_sentence() -> None:
    """A transfer has a fact for each lot; where a lot ends otherwise, it is said by itself."""
    parts = [fact("sent", ("remaining", "in_transit", n), to="bob") for n in (1, 2)]
    assert [one.text for one in sentences(line_of(*parts))] == ["sent 3 credits to bob"]
    two = [fact("granted", ("issued", "remaining", 1), terms=terms(expires_at=END + n)) for n in (0, 60_000)]
    assert len(sentences(line_of(*two))) == 2


def test_a_sentence_names_the_other_command_that_it_is_about() -> None:
    """A refund its spend; a grant nothing but itself."""
    (refund,) = sentences(line_of(fact("refunded", ("spent", "remaining", 4), ref="order-1")))
    (grant,) = sentences(line_of(fact("granted", ("issued", "remaining", 4))))
    assert (refund.about, grant.about) == ("order-1", None)


def test_a_window_that_is_ahead_is_said() -> None:
    """From when credits are good, where that isn't at once."""
    ahead = fact("granted", ("issued", "remaining", 4), terms=terms(effective_at=END, expires_at=END + 3_600_000))
    (said,) = sentences(line_of(ahead))
    assert said.text == "granted 4 credits, good from 1 June 2026, ends 1 June 2026, 01:00"


def test_a_line_without_facts_says_so() -> None:
    """Rather than nothing."""
    (said,) = sentences(line_of(kind="set_credit_limit"))
    assert said.text == "set credit limit, which changed nothing"


@pytest.mark.parametrize("reason", list(RejectionReason))
def test_each_reason_has_a_remedy(reason: RejectionReason) -> None:
    """A sentence or two, and that a refusal is final."""
    line = line_of(kind="spend", accepted=False, rejection=reason, amount=500)
    (said,) = sentences(line)
    assert said.text.startswith("refused a spend of 500 credits: ")
    assert words.remedy_words(reason).endswith(words.AGAIN)
    assert words.remedy_words(reason) != words.AGAIN


def test_there_is_a_remedy_for_nothing_else() -> None:
    """And one that isn't known is not made up."""
    assert list(REMEDIES) == list(RejectionReason)
    assert words.remedy_words("from_the_future") == words.AGAIN


def test_a_refused_step_of_a_batch_is_counted_from_one() -> None:
    """As people count."""
    line = line_of(kind="batch", accepted=False, rejection="debt_open", amount=0, step=1)
    assert sentences(line)[0].text.startswith("refused a batch for its step 2: ")


SPANS = [
    (0, "0 s"),
    (59.9, "59 s"),
    (60, "1 min"),
    (3_725, "1 h 2 min"),
    (3_605, "1 h"),
    (90_000, "1 d 1 h"),
    (86_400 * 1_234, "1,234 d"),
    (-5, "0 s"),
]


@pytest.mark.parametrize(("seconds", "said"), SPANS)
def test_a_span_has_its_two_largest_units(seconds: float, said: str) -> None:
    """Whole ones, rounded down."""
    assert words.span(seconds) == said


def test_what_is_left_of_a_hold() -> None:
    """Until its deadline, which is over at its very instant."""
    assert words.deadline_words(None, MAY) == "no deadline"
    assert words.deadline_words(MAY + timedelta(hours=2, minutes=5), MAY) == "2 h 5 min left"
    assert words.deadline_words(MAY, MAY) == "over"


def test_instants_are_in_utc_and_days_without_a_time_are_days() -> None:
    """Whatever zone they came in."""
    assert words.day(EPOCH) == "1 January 1970"
    assert words.moment(MAY + timedelta(seconds=3)) == "1 May 2026, 00:00:03"
    assert (words.end_of(MAY), words.end_of(MAY + timedelta(hours=9))) == ("1 May 2026", "1 May 2026, 09:00")


def test_a_preview_says_what_there_will_be_and_what_ends_first() -> None:
    """In one sentence."""
    balances = {"credits": {"available": 320}}
    ends = [(70, JUNE), (50, MAY)]
    assert (
        words.preview_words("alice", balances, ends) == "alice will have 320 credits; the first 50 end on 1 May 2026."
    )
    assert words.preview_words("alice", {}, []) == "alice will have nothing."


def test_of_a_long_text_the_beginning_is_shown() -> None:
    """With a sign that there is more, where there is."""
    assert (words.short("abc", 3), words.short("abcd", 3)) == ("abc", "abc…")


def test_what_cant_be_seen_is_escaped() -> None:
    """A text that turns the direction of writing would show another name."""
    assert words.shown("alice\u202eecila\n") == "alice\\u202eecila\\n"


def test_what_may_be_missing_is_said_where_it_is_a_time_to_speak_of() -> None:
    """Not of an empty log, nor of the moment that each look takes."""
    now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert words.behind(None, now) is None
    assert words.behind(now - timedelta(seconds=60), now) is None
    assert words.behind(now - timedelta(minutes=61), now) == "1 h 1 min"


def test_an_asset_that_cant_be_seen_is_escaped_in_a_sentence() -> None:
    """Whoever writes to the log names assets."""
    line = line_of(accepted=False, asset="c\u202ed", rejection="account_closed")
    assert "c\\u202ed" in words.sentences(line)[0].text
