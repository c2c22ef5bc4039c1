"""Rules have versions: what decides a record is what was in force at its place in the log, whatever the code's age."""

import pytest

from creditfold.ledger import RULESETS, CreditBook, UnknownRulesError
from creditfold.processors.fold.chunk import commands, fold, keys, read_records
from creditfold.projections.store.results import ChunkResult
from creditfold.schemas import wire
from creditfold.schemas.wire import encode
from helpers.records import FakeRecord, grant, spend
from programs.rules_two import decide_two

pytestmark = pytest.mark.both_cores


@pytest.fixture(autouse=True)
def rules_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that has rules 2 as well."""
    monkeypatch.setitem(RULESETS, 2, decide_two)


def activate(offset: int, rules: int, **fields: object) -> FakeRecord:
    """The record that brings rules into force."""
    return FakeRecord(offset, 0, None, encode("ActivateRules", {"command_id": f"r{rules}", "rules": rules, **fields}))


HISTORY = [grant(0, 1, "g", "ann", 100), spend(1, 2, "s1", "ann", 30), activate(2, 2), spend(3, 4, "s2", "ann", 30)]


def folded(records: list[FakeRecord], book: CreditBook | None = None) -> ChunkResult:
    return fold(read_records(records, 0, 1), book or CreditBook(), len(records))


def outcomes(result: ChunkResult) -> list[tuple[int, int, bool]]:
    """Offset, rules and whether it was accepted."""
    return [(offset, entry.rules, entry.rejection is None) for offset, entry in result.journal]


def test_a_log_begins_under_version_1() -> None:
    """Nothing has to be appended for it."""
    result = folded(HISTORY[:2])
    assert (outcomes(result), result.rules, result.activations) == ([(0, 1, True), (1, 1, True)], 1, [])


def test_each_record_is_decided_by_the_rules_in_force_at_its_place() -> None:
    """The same spend is accepted before the activation and rejected after it."""
    result = folded(HISTORY)
    assert outcomes(result) == [(0, 1, True), (1, 1, True), (3, 2, False)]
    assert result.rules == 2
    assert [row[:2] for row in result.activations] == [(2, 2)]


def test_any_split_gives_the_same() -> None:
    """The rules in force go from chunk to chunk with the clock."""
    for cut in range(len(HISTORY) + 1):
        book = CreditBook()
        first = folded(HISTORY[:cut], book)
        second = folded(HISTORY[cut:], CreditBook(book.accounts, book.known, first.clock_ms, rules=first.rules))
        assert [*outcomes(first), *outcomes(second)] == outcomes(folded(HISTORY)), cut


def test_forced_rules_decide_everything() -> None:
    """For trying them out: what the log activates has no effect then."""
    assert outcomes(folded(HISTORY, CreditBook(rules=2, forced=True))) == [(0, 2, True), (1, 2, False), (3, 2, False)]
    assert outcomes(folded(HISTORY, CreditBook(rules=1, forced=True))) == [(0, 1, True), (1, 1, True), (3, 1, True)]


def test_the_steps_of_a_batch_are_decided_by_the_rules_in_force() -> None:
    """All of it is rejected for its large spend, but before the activation."""

    def batch(offset: int, command_id: str) -> FakeRecord:
        steps = [{"kind": "spend", "command_id": f"{command_id}-{n}", "asset": "credits", "amount": n} for n in (5, 11)]
        return FakeRecord(
            offset, 0, b"ann", encode("Batch", {"command_id": command_id, "account": "ann", "steps": steps})
        )

    result = folded([HISTORY[0], batch(1, "b1"), activate(2, 2), batch(3, "b2")])
    found = [(offset, entry.command_id, entry.rules, entry.rejection, entry.step) for offset, entry in result.journal]
    assert found == [
        (0, "g", 1, None, None),
        (1, "b1", 1, None, None),
        (1, "b1-5", 1, None, None),
        (1, "b1-11", 1, None, None),
        (3, "b2", 2, "insufficient_credits", 1),
    ]


def test_rules_that_this_release_does_not_have_end_the_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it decided from there on would be wrong."""
    with pytest.raises(UnknownRulesError):
        folded([*HISTORY, activate(4, 3)])
    monkeypatch.delitem(RULESETS, 2)
    with pytest.raises(UnknownRulesError):
        folded(HISTORY)
    with pytest.raises(UnknownRulesError):
        CreditBook(rules=2)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (activate(3, 1), "rules_not_newer"),
        (activate(3, 0), "invalid_command"),
        (activate(3, 32_768), "invalid_command"),
        (activate(3, 3, source="x" * 129), "invalid_command"),
        (activate(3, 3, occurred_at=-1), "invalid_command"),
        (activate(3, 3)._replace(key=b"ann"), "key_mismatch"),
    ],
)
def test_an_activation_that_makes_no_sense_is_a_dead_letter(record: FakeRecord, reason: str) -> None:
    """And changes nothing."""
    result = folded([*HISTORY[:3], record])
    assert ([letter.reason for letter in result.dead_letters], result.rules) == ([reason], 2)


def test_the_same_activation_again_is_a_duplicate() -> None:
    """Each partition has its own, and may get it twice."""
    result = folded([*HISTORY, activate(4, 2)])
    assert (result.duplicates, len(result.activations)) == (1, 1)


def test_a_schema_counts_from_its_rules_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, its records are dead letters, and stay so in every replay by code that knows the schema."""
    later = {schema_id: reader._replace(rules=2) for schema_id, reader in wire._readers().items()}
    with monkeypatch.context() as patch:
        patch.setattr(wire, "_readers", lambda: later)
        reads = read_records([spend(0, 0, "a", "ann", 1), spend(2, 0, "b", "ann", 1)], 0, 1)
    assert list(keys(commands(reads))) == [("ann", "a"), ("ann", "b")]
    result = fold([reads[0], *read_records([activate(1, 2)], 0, 1), reads[1]], CreditBook(), 3)
    assert [letter.reason for letter in result.dead_letters] == ["unknown_schema_id"]
    assert [offset for offset, _ in result.journal] == [2]


def test_a_record_that_is_no_command_is_never_one() -> None:
    """An outcome in the command topic is a dead letter under any rules."""
    fields = {"log_partition": 0, "log_offset": 0, "account": "ann", "version": 1, "command_id": "1", "asset": "c"}
    fields |= {"kind": "grant", "amount": 1, "balance": 1, "rules": 1, "decided_at": 0}
    value = encode("CommandAccepted", fields)
    for body in (value, value[:-1]):
        result = folded([*HISTORY, FakeRecord(4, 0, b"ann", body)])
        assert [letter.reason for letter in result.dead_letters] == ["unknown_schema_id"]


def test_ids_of_derived_commands_are_reserved() -> None:
    """Else somebody could take the id under which a transfer is to arrive."""
    result = folded([grant(0, 0, "~in:1", "ann", 5), grant(1, 0, "in:1", "ann", 5)])
    assert [offset for offset, _ in result.journal] == [1]
    assert [(letter.log_offset, letter.reason) for letter in result.dead_letters] == [(0, "invalid_command")]


def test_a_tick_far_ahead_of_the_clock_is_a_dead_letter() -> None:
    """Else all ticks until then would be duplicates, and time would stand still for accounts that nobody touches."""

    def tick(offset: int, minute: int) -> FakeRecord:
        return FakeRecord(offset, 60_000_000, None, encode("Tick", {"command_id": f"t{minute}", "minute": minute}))

    result = folded([tick(0, 4_223_371_679), tick(1, 1_000), tick(2, 1_001), tick(3, 1_001)])
    assert [(letter.log_offset, letter.reason) for letter in result.dead_letters] == [(0, "invalid_command")]
    assert (result.ticks, result.duplicates, result.minute) == (2, 1, 1_001)
