"""The rules of alerts: once on the falling edge, with hysteresis, from lines alone, however they are split."""

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from creditfold.delivery.alerts import accounts_of, judge
from creditfold.ledger.commands import Terms
from creditfold.ledger.facts import Bucket, Fact, FactKind, LotId, Move
from creditfold.ledger.facts_json import facts_as_json
from creditfold.projections.delivery.rules import AlertRule, FiredState, Judged, LotChange, WatchedLot
from creditfold.projections.queries.windows import JournalRow

DAY_MS = 86_400_000


def rule(kind: str = "dropped", below: int = 10, rearm_at: int | None = None, **fields: Any) -> AlertRule:
    again = below if rearm_at is None else rearm_at
    made = AlertRule("al_1", kind, "ann", "", "", below, again, DAY_MS if kind == "expiring" else 0)
    return made._replace(**fields)


def lines(*balances: int, account: str = "ada", asset: str = "credits", before: int = 0) -> list[JournalRow]:
    """Lines after which an account has these balances."""
    found = []
    for number, balance in enumerate(balances, 1):
        fields = (number, account, number, f"c{number}", "spend", asset, 0, balance, None, 1, 1_000 * number, 0, "", "")
        found.append(JournalRow(*fields, change=balance - before))
        before = balance
    return found


def said(judged: Judged) -> list[tuple[int, str]]:
    return [(alert.version, alert.type.partition(".")[2]) for alert in judged.alerts]


#: The bound and where it has recovered, the balance before, the balances after each line, and what is said of which.
EDGES: list[tuple[str, int, int, int, list[int], list[tuple[int, str]]]] = [
    ("dropped", 10, 10, 20, [15, 10, 9], [(3, "dropped")]),
    ("dropped", 10, 10, 20, [9, 8, 0], [(1, "dropped")]),
    ("dropped", 10, 10, 20, [9, 10, 9], [(1, "dropped"), (2, "recovered"), (3, "dropped")]),
    ("dropped", 10, 15, 20, [9, 10, 9, 14, 9], [(1, "dropped")]),
    ("dropped", 10, 15, 20, [9, 15, 14, 9], [(1, "dropped"), (2, "recovered"), (4, "dropped")]),
    # A rule begins at the present state, and one that never dropped doesn't recover.
    ("dropped", 10, 10, 5, [4, 3], []),
    ("dropped", 10, 10, 5, [20], []),
    ("dropped", 10, 15, 5, [12, 9], [(2, "dropped")]),
    ("dropped", 10, 10, 0, [5, 3], []),
    ("depleted", 1, 1, 5, [1, 0, 0, 5, 0], [(2, "depleted"), (4, "recovered"), (5, "depleted")]),
    ("depleted", 1, 50, 5, [0, 5, 0, 60], [(1, "depleted"), (4, "recovered")]),
]


@pytest.mark.parametrize("edge", EDGES)
def test_an_alert_is_said_once_on_the_falling_edge(edge: tuple[str, int, int, int, list[int], object]) -> None:
    """And not on each line below the bound; it recovers where it is said, and not before."""
    kind, below, rearm_at, before, after, expected = edge
    judged = judge([rule(kind, below, rearm_at)], lines(*after, before=before), 0, [])
    assert said(judged) == expected


def test_what_an_alert_says() -> None:
    """Its rule, its bound and what the account has."""
    (alert,) = judge([rule()], lines(7, before=20), 3, []).alerts
    assert (alert.account_id, alert.version, alert.log_offset, alert.rule_id) == ("ada", 1, 1, "al_1")
    assert json.loads(alert.data) == {"rule": "al_1", "asset": "credits", "available": 7, "below": 10}


#: What a rule watches, and whether a drop of credits of eu-ada at offset 1 of partition 0 concerns it.
WATCHED: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"account_prefix": "eu-"}, True),
    ({"account_prefix": "us-"}, False),
    ({"asset": "credits"}, True),
    ({"asset": "gold"}, False),
    ({"begins": {"0": 1}}, True),
    ({"begins": {"0": 2}}, False),
    ({"begins": {"1": 2}}, True),
]


@pytest.mark.parametrize(("fields", "concerns"), WATCHED)
def test_a_rule_is_of_accounts_an_asset_and_what_comes_after_it(fields: dict[str, Any], concerns: bool) -> None:
    """By prefix, and by the offset of the partition that it began at."""
    assert bool(judge([rule(**fields)], lines(5, account="eu-ada", before=20), 0, []).alerts) == concerns


BALANCES = st.lists(st.integers(0, 30), max_size=30)


@given(st.integers(1, 25), st.integers(0, 10), st.integers(0, 30), BALANCES, st.integers(0, 30))
def test_however_lines_are_split(below: int, more: int, before: int, after: list[int], at: int) -> None:
    """The alerts are the same, and each drop is followed by a recovery before the next one."""
    rules, rows = [rule(below=below, rearm_at=below + more)], lines(*after, before=before)
    whole = judge(rules, rows, 0, [])
    first = judge(rules, rows[:at], 0, [])
    kept = set(first.fired)
    second = judge(rules, rows[at:], 0, kept)
    assert [*first.alerts, *second.alerts] == list(whole.alerts)
    assert (kept | set(second.fired)) - set(second.recovered) == set(whole.fired)
    kinds = [kind for _, kind in said(whole)]
    assert kinds == ["dropped", "recovered"] * (len(kinds) // 2) + ["dropped"] * (len(kinds) % 2)
    assert bool(whole.fired) == (len(kinds) % 2 == 1)


@given(BALANCES)
def test_a_rule_knows_each_account_by_itself(after: list[int]) -> None:
    """What one has doesn't change what is said of another, nor of another asset of its own."""
    mixed = [row for rows in zip(lines(*after), lines(*after, account="bob"), strict=True) for row in rows]
    ours = [alert for alert in judge([rule()], mixed, 0, []).alerts if alert.account_id == "ada"]
    assert ours == list(judge([rule()], lines(*after), 0, []).alerts)
    assert accounts_of(lines(*after)) == (["ada"] if any(row.change for row in lines(*after)) else [])


def moved(number: int, *moves: Move, kind: FactKind = FactKind.SPENT, expires_at: int = 0) -> JournalRow:
    """A line with a fact that has these moves."""
    terms = Terms(expires_at=expires_at) if kind == FactKind.GRANTED else None
    facts = facts_as_json([Fact(kind, 0, "credits", f"c{number}", moves, terms)], "credits")
    return lines(*range(number))[-1]._replace(facts=facts)


LOT = LotId("g1", 1)
GRANT = moved(1, Move(LOT, Bucket.ISSUED, Bucket.REMAINING, 10), kind=FactKind.GRANTED, expires_at=5 * DAY_MS)
SPEND = moved(2, Move(LOT, Bucket.REMAINING, Bucket.SPENT, 4))
HOLD = moved(3, Move(LOT, Bucket.REMAINING, Bucket.HELD, 2))
CAPTURE = moved(4, Move(LOT, Bucket.HELD, Bucket.SPENT, 2))
REFUND = moved(5, Move(LOT, Bucket.SPENT, Bucket.REMAINING, 1))


def test_a_lot_with_an_end_is_watched() -> None:
    """From the line that makes it, with what remains of it; one without isn't."""
    judged = judge([rule("expiring")], [GRANT, SPEND, HOLD, CAPTURE, REFUND], 0, [])
    assert judged.lots == [WatchedLot("al_1", "ada", "g1", 1, "credits", 5 * DAY_MS, 4 * DAY_MS)]
    assert judged.changes == [LotChange("al_1", "ada", "g1", 1, 5)]
    assert judged.alerts == []
    endless = moved(1, Move(LOT, Bucket.ISSUED, Bucket.REMAINING, 10), kind=FactKind.GRANTED)
    assert judge([rule("expiring")], [endless], 0, []).lots == []
    assert judge([rule()], [GRANT, SPEND], 0, []).changes == []


def test_what_a_new_rule_found_is_not_counted_twice() -> None:
    """Lines before its beginning are in what it found then."""
    judged = judge([rule("expiring", begins={"0": 3})], [GRANT, SPEND, HOLD], 0, [])
    assert (judged.lots, judged.changes) == ([], [LotChange("al_1", "ada", "g1", 1, -2)])


def test_a_state_is_taken_back_where_it_recovers() -> None:
    """What was said before these lines is given, and goes."""
    fired = FiredState("al_1", "ada", "credits")
    judged = judge([rule()], lines(5, 12), 0, [fired])
    assert said(judged) == [(2, "recovered")]
    assert (set(judged.fired), set(judged.recovered)) == (set(), {fired})
