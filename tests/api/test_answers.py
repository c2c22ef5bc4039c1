"""Answers that are made in a shorter way are those of the longer one."""

import json
from datetime import UTC, datetime

import pytest

from creditfold.api import answers
from creditfold.api.answers import BalanceAnswer, DecisionAnswer
from creditfold.common.position import Position
from creditfold.schemas.outcome import CommandOutcome, Decision, OutcomeKind

AT = datetime(2026, 11, 29, 17, 30, 0, 123_456, tzinfo=UTC)
MOVES = {"kind": "spent", "at": 5, "moves": [["g-1", 1, "remaining", "spent", 5], ["g-2", 3, "remaining", "spent", 1]]}
ACCEPTED = Decision(
    0, 7, "jürgen", 3, "c", "spend", "credits", 6, -6, 9, True, None, 1, AT, None, "shop", "", facts=[MOVES]
)
REJECTED = ACCEPTED._replace(
    accepted=False, rejection="insufficient_credits", step=2, details={"use": 'a"b'}, occurred_at=AT, facts=[], held=4
)
AT_7 = Position(0, 7)
#: Outcomes of each kind.
OUTCOMES = {
    "accepted": CommandOutcome(OutcomeKind.ACCEPTED, AT_7, ACCEPTED, generation=1),
    "rejected": CommandOutcome(OutcomeKind.REJECTED, AT_7, REJECTED, reason="insufficient_credits"),
    "a repeat": CommandOutcome(OutcomeKind.DUPLICATE, Position(0, 9), ACCEPTED),
    "a batch": CommandOutcome(OutcomeKind.ACCEPTED, AT_7, ACCEPTED, [ACCEPTED, ACCEPTED._replace(version=4)]),
    "a dead letter": CommandOutcome(OutcomeKind.DEAD_LETTER, AT_7, reason="unknown"),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_json_of_an_outcome_is_that_of_its_answer(name: str) -> None:
    """Byte for byte, and what pydantic writes of it but for the form of instants."""
    answer = answers.outcome_of(OUTCOMES[name], "jürgen", "c")
    found = answers.outcome_json(OUTCOMES[name], "jürgen", "c")
    assert found == answers.as_json(answer)
    assert found.replace(b".123Z", b".123456Z").decode() == answer.model_dump_json()


def test_an_answer_is_made_as_pydantic_makes_it() -> None:
    """With what isn't given by default, without what it doesn't have, and with what is missing null in JSON."""
    given = {"asset": "a", "available": 1, "version": 2, "more": 3}
    assert BalanceAnswer.made_of(**given) == BalanceAnswer.model_construct(**given)
    assert json.loads(answers.as_json(BalanceAnswer.made_of(**given))) == {
        **dict.fromkeys(BalanceAnswer.model_fields), "asset": "a", "available": 1, "version": 2,
    }  # fmt: skip
    answer = answers.decision_of(ACCEPTED, is_personal=False)
    assert answer.model_copy(update={"kind": "grant"}) == DecisionAnswer.model_validate(
        {**answer.model_dump(), "kind": "grant"}
    )
    assert answer.source is answer.reason is None
