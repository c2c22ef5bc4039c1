"""A preview is the decision that the fold makes at the same place: its outcome, its facts, the lots that it takes."""

import os
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.ledger import CreditBook, Verdict
from creditfold.ledger.commands import KINDS, Batch, Command
from creditfold.ledger.facts import Accepted, CreditOutcome, Rejected
from creditfold.processors.fold.chunk import fold, keys, read_one
from creditfold.processors.fold.preview import decide_next, preview
from creditfold.projections.connections import fold_pool
from creditfold.projections.store.results import ChunkResult, DeadLetter
from helpers.credit_folds import fold_on
from helpers.credit_histories import history

pytestmark = pytest.mark.both_cores

EXAMPLES = int(os.environ.get("CREDITFOLD_EXAMPLES", "60"))


def assert_is_what_was_decided(previewed: CreditOutcome | Verdict | DeadLetter, decided: ChunkResult) -> str:
    """Outcome, lines and facts of a preview are those of the one record that was folded then; returns the outcome."""
    lines = tuple(entry for _, entry in decided.journal)
    if isinstance(previewed, Accepted):
        assert (decided.accepted, previewed.entries) == (1, lines)
        # They are in a line for each asset, a batch's in the lines of its steps; what time did before has its own.
        facts = [repr(fact) for entry in lines if entry.kind != "settled" for fact in entry.facts]
        assert Counter(map(repr, previewed.facts)) == Counter(facts)
        return "accepted"
    if isinstance(previewed, Rejected):
        assert (decided.rejected, previewed.entries) == (1, lines)
        assert previewed.reason in {entry.rejection for entry in lines}
        return str(previewed.reason)
    assert lines == ()
    if isinstance(previewed, DeadLetter):
        assert [letter.reason for letter in decided.dead_letters] == [previewed.reason]
    else:
        assert (decided.duplicates, len(decided.dead_letters)) == ((1, 0) if previewed is Verdict.DUPLICATE else (0, 1))
    return "refused"


def previewed_in(book: CreditBook, command: Command, offset: int, at_ms: int) -> CreditOutcome | Verdict:
    """Decide in a book of the command's account and its known ids, and take over what came of it.

    So the book comes about by previews alone, each of them by what a preview loads.
    """
    accounts = {name: book.accounts[name] for name in [command.account] if name in book.accounts}
    known = {key: book.known[key] for key in keys([command]) if key in book.known}
    own = CreditBook(accounts, known, book.clock_ms, book.minute, book.rules)
    found = decide_next(own, command, offset, at_ms)
    book.advance(at_ms)
    book.accounts |= own.accounts
    book.known = {**book.known, **own.known}
    return found


#: What was seen of all histories.
seen: set[str] = set()


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def decide_all_twice(seed: int) -> None:
    """Preview each command of a history, then fold it."""
    book, previews = CreditBook(), CreditBook()
    for record in history(seed, 60, plain=0.2):
        content = read_one(record, 0, 1)
        if content.__class__ not in KINDS:
            for one in (book, previews):
                fold([(record, content)], one, record.offset + 1)
            continue
        assert not isinstance(content, DeadLetter)
        command: Command = content  # type: ignore[assignment]
        previewed = previewed_in(previews, command, record.offset, record.timestamp)
        decided = fold([(record, content)], book, record.offset + 1)
        outcome = assert_is_what_was_decided(previewed, decided)
        kind = "batch" if isinstance(command, Batch) else KINDS[command.__class__]
        seen.update((outcome, f"{kind} {outcome == 'accepted'}"))


def test_a_preview_in_memory_is_the_decision() -> None:
    """At every place of many histories, of every kind of command, by an account alone."""
    seen.clear()
    decide_all_twice()
    # Or it would prove little.
    assert {"accepted", "insufficient_credits", "refused"} <= seen
    assert len({name for name in seen if name.endswith(" True")}) >= 12, seen


@pytest.mark.stack
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_preview_of_what_is_stored_is_the_decision(prepared: Settings, seed: int) -> None:
    """At states on the way of a history: the account as PostgreSQL has it, and nothing is written."""
    records, chance, book = history(seed, 240, plain=0.2), random.Random(seed), CreditBook()
    outcomes = []
    at = 0
    async with (
        await AsyncConnection.connect(prepared.dsn, autocommit=True) as connection,
        fold_pool(prepared.dsn, "test", 2) as pool,
    ):
        while at < len(records):
            record = records[at]
            content = read_one(record, 0, 1)
            is_ours = record.key is not None and (isinstance(content, DeadLetter) or content.__class__ in KINDS)
            found = None
            if is_ours and record.key is not None:
                found = await preview(connection, record.key.decode(), record.value, record.timestamp)
                assert found.at == Position(0, at)
            decided = fold([(record, content)], book, at + 1)
            if found is not None:
                outcomes.append(assert_is_what_was_decided(found.outcome, decided))
            following = min(len(records), at + 1 + chance.randrange(5))
            fold([(one, read_one(one, 0, 1)) for one in records[at + 1 : following]], book, following)
            await fold_on(pool, records[:following], chance, None)
            at = following
    assert {"accepted", "insufficient_credits"} <= set(outcomes)
    assert len(outcomes) > 50
