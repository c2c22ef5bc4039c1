"""Rules have versions: what decides a record is what was in force at its place in the log, whatever the code's age."""

import pytest
from rules_three import decide_three
from test_chunks import FakeRecord, grant, spend

from creditfold.ledger import RULESETS, Book, CreditEntry, UnknownRulesError
from creditfold.processors.fold import chunk as chunks
from creditfold.processors.fold.chunk import commands, fold, keys, read_records
from creditfold.projections.results import ChunkResult
from creditfold.schemas.wire import decode, encode


@pytest.fixture(autouse=True)
def rules_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that has rules 3 beside those that there are."""
    monkeypatch.setitem(RULESETS, 3, decide_three)


def activate(offset: int, rules: int, **fields: object) -> FakeRecord:
    """The record that brings rules into force."""
    return FakeRecord(offset, 0, None, encode("ActivateRules", {"command_id": f"r{rules}", "rules": rules, **fields}))


HISTORY = [grant(0, 1, "g", "ann", 100), spend(1, 2, "s1", "ann", 30), activate(2, 3), spend(3, 4, "s2", "ann", 30)]


def folded(records: list[FakeRecord], book: Book | None = None) -> ChunkResult:
    return fold(read_records(records, 0, 1), book or Book(), len(records))


def outcomes(result: ChunkResult) -> list[tuple[int, int, bool]]:
    """Offset, rules and whether it was accepted."""
    return [(offset, entry.outcome.rules, entry.outcome.rejection is None) for offset, entry in result.journal]


def test_each_record_is_decided_by_the_rules_in_force_at_its_place() -> None:
    """The same spend is accepted before the activation and rejected after it."""
    result = folded(HISTORY)
    assert outcomes(result) == [(0, 1, True), (1, 1, True), (3, 3, False)]
    assert result.rules == 3
    assert [row[:2] for row in result.activations] == [(2, 3)]


def test_any_split_gives_the_same() -> None:
    """The rules in force go from chunk to chunk with the clock."""
    for cut in range(len(HISTORY) + 1):
        book = Book()
        first = folded(HISTORY[:cut], book)
        second = folded(HISTORY[cut:], Book(book.accounts, book.known, first.clock_ms, first.rules))
        assert [*outcomes(first), *outcomes(second)] == outcomes(folded(HISTORY)), cut


def test_forced_rules_decide_everything() -> None:
    """For trying them out: what the log activates has no effect then."""
    assert outcomes(folded(HISTORY, Book(rules=3, forced=True))) == [(0, 3, True), (1, 3, False), (3, 3, False)]
    assert outcomes(folded(HISTORY, Book(rules=1, forced=True))) == [(0, 1, True), (1, 1, True), (3, 1, True)]


def test_rules_that_this_release_does_not_have_end_the_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it decided from there on would be wrong."""
    with pytest.raises(UnknownRulesError):
        folded([*HISTORY, activate(4, 4)])
    monkeypatch.delitem(RULESETS, 3)
    with pytest.raises(UnknownRulesError):
        folded(HISTORY)
    with pytest.raises(UnknownRulesError):
        Book(rules=3)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (activate(3, 1), "rules_not_newer"),
        (activate(3, 0), "invalid_command"),
        (activate(3, 32_768), "invalid_command"),
        (activate(3, 4, source="x" * 129), "invalid_command"),
        (activate(3, 4, occurred_at=-1), "invalid_command"),
        (activate(3, 4)._replace(key=b"ann"), "key_mismatch"),
    ],
)
def test_an_activation_that_makes_no_sense_is_a_dead_letter(record: FakeRecord, reason: str) -> None:
    """And changes nothing."""
    result = folded([*HISTORY[:3], record])
    assert ([letter.reason for letter in result.dead_letters], result.rules) == ([reason], 3)


def test_the_same_activation_again_is_a_duplicate() -> None:
    """Each partition has its own, and may get it twice."""
    result = folded([*HISTORY, activate(4, 3)])
    assert (result.duplicates, len(result.activations)) == (1, 1)


def test_a_schema_counts_from_its_rules_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, its records are dead letters, and stay so in every replay by code that knows the schema."""
    monkeypatch.setattr(chunks, "decode", lambda value: decode(value)._replace(rules=2))
    reads = read_records([spend(0, 0, "a", "ann", 1), spend(2, 0, "b", "ann", 1)], 0, 1)
    monkeypatch.setattr(chunks, "decode", decode)
    assert list(keys(commands(reads))) == [("ann", "a"), ("ann", "b")]
    result = fold([reads[0], *read_records([activate(1, 2)], 0, 1), reads[1]], Book(), 3)
    assert [letter.reason for letter in result.dead_letters] == ["unknown_schema_id"]
    assert [offset for offset, _ in result.journal] == [2]


def test_a_record_that_is_no_command_is_never_one() -> None:
    """An outcome in the command topic is a dead letter under any rules."""
    fields = {"log_partition": 0, "log_offset": 0, "account": "ann", "version": 1, "command_id": "1", "asset": "c"}
    value = encode("GrantAccepted", {**fields, "amount": 1, "balance": 1, "rules": 1, "decided_at": 0})
    for body in (value, value[:-1]):
        result = folded([*HISTORY, FakeRecord(4, 0, b"ann", body)])
        assert [letter.reason for letter in result.dead_letters] == ["unknown_schema_id"]


def test_ids_of_derived_commands_are_reserved_under_rules_two() -> None:
    """Else somebody could take the id under which a transfer is to arrive. Rules 1 didn't know of them."""
    mine = [
        grant(0, 0, "~in:1", "ann", 5),
        activate(1, 2),
        grant(2, 0, "~in:2", "ann", 5),
        grant(3, 0, "~in:1", "ann", 5),
    ]
    result = folded(mine)
    assert [offset for offset, _ in result.journal] == [0]
    assert [(letter.log_offset, letter.reason) for letter in result.dead_letters] == [(2, "invalid_command")]
    assert result.duplicates == 1


def test_what_earlier_rules_left_cannot_be_voided() -> None:
    """It was made by no command, and may be of several assets."""
    before = [grant(0, 0, "g", "ann", 5), FakeRecord(1, 0, b"ann", encode("Grant", {**GOLD, "command_id": "h"}))]
    void = encode("VoidGrant", {"command_id": "v", "account": "ann", "grant": "~opening"})
    result = folded([*before, activate(2, 2), FakeRecord(3, 0, b"ann", void)])
    last = result.journal[-1][1]
    assert isinstance(last, CreditEntry)
    assert last.rejection == "grant_not_found"


GOLD = {"account": "ann", "asset": "gold", "amount": 7}


def test_a_tick_far_ahead_of_the_clock_is_a_dead_letter() -> None:
    """Else all ticks until then would be duplicates, and time would stand still for accounts that nobody touches."""

    def tick(offset: int, minute: int) -> FakeRecord:
        return FakeRecord(offset, 60_000_000, None, encode("Tick", {"command_id": f"t{minute}", "minute": minute}))

    result = folded([activate(0, 2), tick(1, 4_223_371_679), tick(2, 1_000), tick(3, 1_001), tick(4, 1_001)])
    assert [(letter.log_offset, letter.reason) for letter in result.dead_letters] == [(1, "invalid_command")]
    assert (result.ticks, result.duplicates, result.minute) == (2, 1, 1_001)
