"""What became of a command, for its sender: a line of the journal, and the outcome of one record.

Owns the types that the library for producers returns and that the projection's queries fill in, since neither of the
two may know the other. Refuses to know where an outcome is looked up, and how one is waited for.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from creditfold.common.position import Position


class Decision(NamedTuple):
    """One line of the journal; `rejection` is None for what was accepted, `change` is signed.

    A line without `command_id` is of time, or of a further asset that a command touched. `step` is the index of the
    step for which a batch was rejected. `details` are the fields that only some commands have, None where there are
    none, and `facts` what happened.
    """

    log_partition: int
    log_offset: int
    account_id: str
    version: int
    command_id: str | None
    kind: str
    asset: str
    amount: int
    change: int
    balance: int
    accepted: bool
    rejection: str | None
    rules: int
    decided_at: datetime
    occurred_at: datetime | None
    source: str
    note: str
    pending: int = 0
    held: int = 0
    debt: int = 0
    step: int | None = None
    details: dict[str, Any] | None = None
    facts: Sequence[dict[str, Any]] = ()

    @property
    def position(self) -> Position:
        """Position of the record that was decided."""
        return Position(self.log_partition, self.log_offset)


class Appended(NamedTuple):
    """A command whose place in the log is known: what an outcome is looked up by."""

    position: Position
    account: str
    command_id: str


class OutcomeKind(StrEnum):
    """What the fold made of one record of the log."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"
    DEAD_LETTER = "dead_letter"


class CommandOutcome(NamedTuple):
    """What the fold made of the command at one position of the log.

    Fields:
        kind: accepted, rejected, duplicate or dead letter.
        position: the record's own.
        decision: the command's line of the journal, for a duplicate that of its first record; None for a dead letter.
        steps: the lines of the steps of a batch that was accepted, in their order.
        reason: why it was rejected, or can't be folded; None for what was accepted.
        detail: more about a dead letter.
        generation: number of the generation whose fold decided so; None where that isn't known.
    """

    kind: OutcomeKind
    position: Position
    decision: Decision | None = None
    steps: Sequence[Decision] = ()
    reason: str | None = None
    detail: str = ""
    generation: int | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the command has taken effect: by this record, or once before by one that this one repeats."""
        return self.decision is not None and self.decision.accepted

    @property
    def decided_at_position(self) -> Position | None:
        """Where the command was decided: for a duplicate the first record's position; None for a dead letter."""
        return None if self.decision is None else self.decision.position
