"""What forms say and previews show: pure, without a door."""

from datetime import UTC, datetime

import pytest

from creditfold.api.problems import ProblemError
from creditfold.common.instants import milliseconds_of
from creditfold.common.position import Position
from creditfold.console.helping import HELPS, Help, ends_of, fields_of, seen_of
from creditfold.ledger import Verdict
from creditfold.ledger.account import Account
from creditfold.ledger.commands import Terms
from creditfold.ledger.facts import Rejected
from creditfold.ledger.lots import Lot, LotId
from creditfold.ledger.reasons import RejectionReason
from creditfold.processors.fold.preview import Preview
from creditfold.producers import Grant
from creditfold.projections.store.results import DeadLetter

GRANT, REFUND, VOID = HELPS
MAY = datetime(2026, 5, 1, tzinfo=UTC)
COMMAND = Grant(command_id="g", account="ada", asset="credits", amount=1)

FORMS = [
    (
        GRANT,
        {"asset": " credits ", "amount": "50", "lot_class": "promo", "expires_at": "2026-05-01", "reason": " sorry "},
        {
            "asset": "credits",
            "amount": 50,
            "lot_class": "promo",
            "expires_at": "2026-05-01T00:00:00Z",
            "reason": "sorry",
        },
    ),
    (
        GRANT,
        {"asset": "c", "amount": "1", "lot_class": "paid", "expires_at": "", "reason": "r", "type": "spend"},
        {"asset": "c", "amount": 1, "lot_class": "paid", "reason": "r"},
    ),
    (REFUND, {"spend": "s", "amount": "", "reason": "r"}, {"spend": "s", "reason": "r"}),
    (REFUND, {"spend": "s", "amount": "7", "reason": "r"}, {"spend": "s", "amount": 7, "reason": "r"}),
    (VOID, {"grant": "g", "reason": "r", "account": "other"}, {"grant": "g", "reason": "r"}),
]


@pytest.mark.parametrize(("wanted", "form", "fields"), FORMS)
def test_a_form_says_the_fields_of_its_command_and_no_others(
    wanted: Help, form: dict[str, str], fields: dict[str, object]
) -> None:
    """What is left out isn't said; another kind, account or source isn't a form's to say."""
    assert fields_of(wanted, form) == fields


@pytest.mark.parametrize("amount", ["", "x", "1.5", "-1", "+1", "1_000", "٣", "9" * 17])
def test_what_is_no_amount_is_refused(amount: str) -> None:
    """Whatever Python takes for a number."""
    with pytest.raises(ProblemError, match="Amount"):
        fields_of(GRANT, {"asset": "c", "amount": amount, "lot_class": "paid", "reason": "r"})


@pytest.mark.parametrize("day", ["2026-02-30", "tomorrow", "2026-05-01T00:00", "1"])
def test_what_is_no_day_is_refused(day: str) -> None:
    """With an example of one."""
    with pytest.raises(ProblemError, match="must be a day, such as"):
        fields_of(GRANT, {"asset": "c", "amount": "1", "lot_class": "paid", "reason": "r", "expires_at": day})


def test_a_blank_reason_is_none() -> None:
    """Of every form."""
    for wanted in HELPS:
        form = {field.name: "1" if field.kind == "number" else "2026-05-01" for field in wanted.fields}
        with pytest.raises(ProblemError, match="reason is missing"):
            fields_of(wanted, {**form, "reason": "  "})


def account_with(*lots: tuple[str, int, datetime | None]) -> Account:
    """An account that has lots of an asset, with what remains in each and when it ends."""
    found = Account()
    for number, (asset, remaining, ends) in enumerate(lots):
        terms = Terms(expires_at=0 if ends is None else milliseconds_of(ends))
        lot = Lot(LotId("g", number + 1), asset, terms, number, "issued")
        lot.remaining = remaining
        found.lots = {**found.lots, lot.id: lot}
    return found


def test_what_ends_at_one_instant_ends_together() -> None:
    """Of the assets that are asked for; neither what has no end nor what is empty."""
    account = account_with(("credits", 20, MAY), ("credits", 30, MAY), ("credits", 9, None), ("coins", 5, MAY))
    assert ends_of(account, {"credits"}) == [(50, MAY)]
    assert ends_of(account_with(("credits", 0, MAY)), {"credits"}) == []


OUTCOMES = [
    (
        Rejected((), (), RejectionReason.ACCOUNT_CLOSED),
        "It would be refused: the account was closed.",
        "A closed account stays closed. Use another account.",
    ),
    (Verdict.COMMAND_ID_REUSED, "It can't be done: command id reused.", ""),
    (DeadLetter(0, "oversize", "too large", 0, None, None, ()), "It can't be done: too large.", ""),
]


@pytest.mark.parametrize(("outcome", "said", "remedy"), OUTCOMES)
def test_what_wouldnt_be_done_says_why(outcome: Rejected | Verdict | DeadLetter, said: str, remedy: str) -> None:
    """And has no button that does it."""
    found = seen_of(Preview(Position(0, 0), 1, "t", 0, 0, outcome, Account()), COMMAND)
    assert (found.is_accepted, found.said, found.remedy) == (False, said, remedy)
