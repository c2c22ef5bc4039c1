"""The redrive and the discard of several dead letters: which they are, and the same for each, one by one.

Owns what is a result and what ends all of it. How one letter is redriven is redrive.py's. Knows neither options nor
output, and asks nobody for confirmation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.processors.redrive import Redriver, discard
from creditfold.producers.models.commands import Command
from creditfold.producers.redrive import Corrections, RedriveRefusedError
from creditfold.projections.queries.dead_letters import (
    OPEN,
    REDRIVING,
    DeadLetterState,
    LetterFilter,
    LetterKey,
    dead_letter,
    selected,
)
from creditfold.projections.queries.decisions import NewDecision, RedriveUnderWayError
from creditfold.projections.queries.outcomes import await_outcome
from creditfold.projections.queries.progress import NotYetFoldedError
from creditfold.schemas.outcome import OutcomeKind

#: Results that are no outcome of a command.
REFUSED, APPENDED, NOT_FOLDED, DISCARDED = "refused", "appended", "not_folded_yet", "discarded"
WOULD_BE_REDRIVEN, WOULD_BE_DISCARDED = "would_be_redriven", "would_be_discarded"
#: States of the letters that something can be done about.
TO_REDRIVE, TO_DISCARD = (OPEN, REDRIVING), (OPEN,)


class UnknownLetterError(CreditfoldError):
    """There is no dead letter at a position."""

    exit_code = 2


class OneIdForManyError(CreditfoldError):
    """Several letters were to be corrected to one command."""

    exit_code = 2


class Selection(NamedTuple):
    """The letters to act on: those at positions, or without any the undecided ones of a filter."""

    positions: Sequence[Position]
    wanted: LetterFilter = LetterFilter()

    @property
    def one(self) -> Position | None:
        """The letter's position, if exactly one is named."""
        return self.positions[0] if len(self.positions) == 1 else None

    def refuse_one_id(self, corrections: Corrections) -> None:
        """Raise OneIdForManyError for corrections that make several letters one command."""
        # Two letters of one account with the same body would become one command and its duplicate.
        if self.one is None and ("command_id" in corrections.fields or corrections.command is not None):
            raise OneIdForManyError(
                "Several letters can't have one command id.", "Correct them one by one, by their positions."
            )


class LetterResult(NamedTuple):
    """One letter's result: an outcome's name, `refused`, or what would be done.

    `to` is the new record's position, and `generation` that by whose fold its outcome is known.
    """

    position: Position
    reason: str
    result: str
    to: Position | None = None
    detail: str = ""
    remedy: str = ""
    command: Mapping[str, Any] | None = None
    generation: int | None = None


def letter_at(connection: Connection[TupleRow], position: Position) -> DeadLetterState:
    """The dead letter at a position. Raises UnknownLetterError."""
    found = dead_letter(connection, position)
    if found is None:
        raise UnknownLetterError(
            f"There is no dead letter at {position}.", "See `creditfold dead-letters list` for those there are."
        )
    return found


def chosen(
    connection: Connection[TupleRow], selection: Selection, states: Sequence[str], limit: int | None = None
) -> Sequence[LetterKey]:
    """The letters of a selection, those of a filter oldest first and in some states. Raises UnknownLetterError."""
    if selection.positions:
        # All of them are looked up before anything is decided about the first.
        return [LetterKey(*position, letter_at(connection, position).reason) for position in selection.positions]
    return selected(connection, selection.wanted, states, limit)


def redriven(redriver: Redriver, letter: DeadLetterState) -> LetterResult:
    """Redrive a letter. Raises RedriveRefusedError, RedriveUnderWayError."""
    done = redriver.redrive(letter)
    return LetterResult(letter.position, letter.reason, APPENDED, done.to, command=_plain(done.command))


def would_be_redriven(redriver: Redriver, letter: DeadLetterState) -> LetterResult:
    """What redriving a letter would append. Changes nothing. Raises RedriveRefusedError."""
    command = _plain(redriver.judge(letter).command)
    return LetterResult(letter.position, letter.reason, WOULD_BE_REDRIVEN, detail=_named(command), command=command)


def discarded(
    connection: Connection[TupleRow], topic_id: str, letter: DeadLetterState, wish: NewDecision | None
) -> LetterResult:
    """Discard a letter; without a wish, only judge. Raises RedriveRefusedError."""
    discard(connection, topic_id, letter, wish)
    return LetterResult(letter.position, letter.reason, WOULD_BE_DISCARDED if wish is None else DISCARDED)


def each(
    connection: Connection[TupleRow],
    letters: Sequence[LetterKey],
    act: Callable[[DeadLetterState], LetterResult],
    results: list[LetterResult],
    on_done: Callable[[int], None] = lambda _: None,
) -> None:
    """Do the same with each letter, in their order. A refusal is a result; any other failure ends it.

    Args:
        connection: to the projection.
        letters: which.
        act: what is done.
        results: gets the results, also those before a failure.
        on_done: called with how many have one; what it raises ends it.
    """
    for row in letters:
        try:
            results.append(act(letter_at(connection, row.position)))
        except (RedriveRefusedError, RedriveUnderWayError) as error:
            refusal = LetterResult(row.position, row.reason, REFUSED, detail=error.message, remedy=error.remedy)
            results.append(refusal)
        on_done(len(results))


def with_outcome(redriver: Redriver, row: LetterResult) -> LetterResult:
    """Add the outcome of a command that was appended; `not_folded_yet` where the fold hasn't passed it in time."""
    if row.result != APPENDED or row.to is None or row.command is None:
        return row
    names = (row.command["account"], row.command["command_id"])
    try:
        outcome = await_outcome(redriver.connection, row.to, *names, redriver.timeout_s)
    except NotYetFoldedError:
        redriver.timeout_s = 0
        return row._replace(result=NOT_FOLDED)
    detail = outcome.reason or ""
    if outcome.kind == OutcomeKind.DEAD_LETTER:
        detail = f"{outcome.reason}: {outcome.detail}"
    elif outcome.kind == OutcomeKind.DUPLICATE:
        detail = "its command was decided before; that outcome stands"
    return row._replace(result=outcome.kind.value, detail=detail, generation=outcome.generation)


def _plain(command: Command) -> dict[str, Any]:
    return {"type": command.type, **command.fields}


def _named(command: Mapping[str, Any]) -> str:
    # Not every command has an amount of an asset.
    what = " ".join(str(command[name]) for name in ("amount", "asset") if command.get(name))
    of = f" of {what}" if what else ""
    return f"{command['type']}{of}, account {command['account']}, command {command['command_id']}"
