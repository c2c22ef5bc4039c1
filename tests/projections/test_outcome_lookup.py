"""The outcome of a record, by its position: of each kind, and the same whatever generation the views show."""

import random
from collections import Counter
from collections.abc import Sequence

import psycopg
import pytest

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.processors.rebuild.steps import ActivationOptions, Request, activate, rebuild
from creditfold.projections.connections import connected
from creditfold.projections.generations.views import looked_through
from creditfold.projections.queries.outcomes import (
    OtherTopicError,
    ProjectedOutcomes,
    UnexplainedOutcomeError,
    await_outcome,
    outcome_at,
)
from creditfold.projections.queries.progress import NotYetFoldedError
from creditfold.schemas.outcome import Appended, CommandOutcome, OutcomeKind
from creditfold.schemas.wire import DecodeError, decode
from helpers.credit_folds import fold_in_pieces, in_memory
from helpers.credit_histories import history
from helpers.generations import WATCH
from helpers.records import FakeRecord, grant, spend
from helpers.support import query, read_log

TOPIC = "creditfold.commands.v1"


def named(value: bytes | None) -> tuple[str, str] | None:
    """The account and the id of a command; None of what is none, and of what has no account."""
    try:
        fields = decode(value).fields
    except DecodeError:
        return None
    return (fields["account"], fields["command_id"]) if "account" in fields else None


def asked(records: Sequence[FakeRecord]) -> list[Appended]:
    """Every command of partition 0, as its sender knows it."""
    names = [(record, named(record.value) or ("ann", "garbage")) for record in records if record.key is not None]
    return [Appended(Position(0, record.offset), *name) for record, name in names]


def expected(records: Sequence[FakeRecord]) -> list[tuple[OutcomeKind, str | None, int | None, list[str | None]]]:
    """Kind, reason, offset of the decision and ids of the steps of each command, by a fold in memory."""
    result = in_memory(records)
    dead = {letter.log_offset: letter.reason for letter in result.dead_letters}
    lines = [(offset, entry) for offset, entry in result.journal if entry.command_id is not None]
    first = {(entry.account, entry.command_id): (offset, entry) for offset, entry in reversed(lines)}
    found: list[tuple[OutcomeKind, str | None, int | None, list[str | None]]] = []
    for position, account, command_id in asked(records):
        if position.offset in dead:
            found.append((OutcomeKind.DEAD_LETTER, dead[position.offset], None, []))
            continue
        offset, own = first[account, command_id]
        kind = OutcomeKind.REJECTED if own.rejection else OutcomeKind.ACCEPTED
        steps = [entry.command_id for at, entry in lines if at == offset and entry.version > own.version]
        found.append((kind if offset == position.offset else OutcomeKind.DUPLICATE, own.rejection, offset, steps))
    return found


def seen(outcome: CommandOutcome) -> tuple[OutcomeKind, str | None, int | None, list[str | None]]:
    at = outcome.decided_at_position
    steps = [step.command_id for step in outcome.steps]
    return outcome.kind, outcome.reason, None if at is None else at.offset, steps


async def test_every_record_of_a_random_history_has_its_outcome(prepared: Settings) -> None:
    """Accepted, rejected, repeated, reused and garbage, batches among them: as a fold in memory has it."""
    records = history(11, 1_500, plain=0.2)
    await fold_in_pieces(prepared, records, random.Random(1), None)
    wanted, commands = expected(records), asked(records)
    kinds = Counter(kind for kind, *_ in wanted)
    assert min(kinds[kind] for kind in OutcomeKind) > 10
    assert sum(bool(steps) for *_, steps in wanted) > 3
    assert any(kind == OutcomeKind.DUPLICATE and steps for kind, _, _, steps in wanted) or kinds["duplicate"]
    async with ProjectedOutcomes(prepared.dsn).session(TOPIC) as session:
        assert await session.next_offsets() == {0: len(records)}
        together = await session.outcomes_at(commands)
    assert [seen(outcome) for outcome in together if isinstance(outcome, CommandOutcome)] == wanted
    with connected(prepared.dsn) as connection:
        assert [outcome_at(connection, *one) for one in commands[-200:]] == list(together)[-200:]


async def test_a_reused_id_has_the_outcome_of_each_record(prepared: Settings) -> None:
    """The same id with another body is a dead letter, though a decision about the id stands; repeated it stays one."""
    records = [
        grant(0, 10, "g", "ann", 100),
        spend(1, 20, "order-7", "ann", 10),
        spend(2, 30, "order-7", "ann", 500),
        spend(3, 40, "order-7", "ann", 10),
        spend(4, 50, "order-7", "ann", 500),
        spend(5, 60, "order-8", "ann", 500),
        spend(6, 70, "order-8", "ann", 500),
    ]
    await fold_in_pieces(prepared, records, random.Random(1), None)
    with connected(prepared.dsn) as connection:
        outcomes = [outcome_at(connection, *one) for one in asked(records)]
    assert [(one.kind, one.is_accepted, one.reason) for one in outcomes[1:]] == [
        ("accepted", True, None),
        ("dead_letter", False, "command_id_reused"),
        ("duplicate", True, None),
        ("dead_letter", False, "command_id_reused"),
        ("rejected", False, "insufficient_credits"),
        ("duplicate", False, "insufficient_credits"),
    ]
    assert [one.decided_at_position for one in outcomes[1:4]] == [Position(0, 1), None, Position(0, 1)]
    assert outcomes[3].decision is not None
    assert (outcomes[3].decision.amount, outcomes[3].decision.balance) == (10, 90)


async def test_what_is_not_folded_or_not_known_is_said(prepared: Settings) -> None:
    """No outcome is made up: of what is to come, of no partition, of another command, of another topic."""
    await fold_in_pieces(prepared, [grant(0, 10, "1", "ann", 5), grant(1, 20, "2", "ann", 5)], random.Random(1), None)
    cases: list[tuple[Position, str, str, type[Exception], str]] = [
        (Position(0, 2), "ann", "1", NotYetFoldedError, "has not reached 0:2 yet"),
        (Position(1, 0), "ann", "1", UnexplainedOutcomeError, "no partition 1"),
        (Position(0, 1), "ann", "3", UnexplainedOutcomeError, "passed 0:1 and shows nothing of command 3"),
        (Position(0, 1), "bob", "2", UnexplainedOutcomeError, "passed 0:1 and shows nothing of command 2"),
        # It was decided behind the position.
        (Position(0, 0), "ann", "2", UnexplainedOutcomeError, "passed 0:0 and shows nothing of command 2"),
    ]
    with connected(prepared.dsn) as connection:
        for position, account, command_id, error, words in cases:
            with pytest.raises(error, match=words):
                outcome_at(connection, position, account, command_id)
        with pytest.raises(NotYetFoldedError, match="within 0 s"):
            await_outcome(connection, Position(0, 2), "ann", "3", 0)
    async with ProjectedOutcomes(prepared.dsn).session("another") as session:
        with pytest.raises(OtherTopicError, match=f"folded from {TOPIC}, and commands are appended to another"):
            await session.next_offsets()
    with psycopg.connect(prepared.dsn, autocommit=True) as connection:
        # The role of readers is enough.
        connection.execute("SET ROLE creditfold_reader")
        assert outcome_at(connection, Position(0, 0), "ann", "1").kind == OutcomeKind.ACCEPTED


def test_a_switch_changes_no_outcome(copied: Settings) -> None:
    """Before, while the views look at both generations, and after; and a view of less than was folded makes none up."""
    commands = []
    for row in read_log(copied):
        _, command_id = named(row.value) or ("nobody", "noise")
        # What has no account as its key is nobody's to look up.
        if row.key is not None and row.key.isascii():
            commands.append(Appended(Position(row.partition, row.offset), row.key.decode(), command_id))

    def all_outcomes() -> list[CommandOutcome]:
        with connected(copied.dsn) as connection:
            return [outcome_at(connection, *one) for one in commands[::5]]

    before = all_outcomes()
    assert {outcome.kind for outcome in before} == set(OutcomeKind)
    rebuild(copied, Request(), WATCH)
    with connected(copied.dsn) as connection, looked_through(connection, 2):
        assert all_outcomes() == before
    activate(copied, 2, ActivationOptions(), WATCH)
    assert query(copied, "SELECT DISTINCT generation FROM ledger.progress") == [(2,)]
    # It is another one that decided so now, and says that.
    assert {outcome.generation for outcome in before} == {1}
    assert all_outcomes() == [outcome._replace(generation=2) for outcome in before]
    with connected(copied.dsn) as connection:
        # As a projection would stand that was restored from a backup.
        last = commands[-1]
        connection.execute(
            "UPDATE ledger_0002.progress SET next_offset = %s WHERE log_partition = %s",
            (last.position.offset, last.position.partition),
        )
        with pytest.raises(NotYetFoldedError):
            outcome_at(connection, *last)
