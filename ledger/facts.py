"""What a command, or time alone, came to: facts, each a set of moves that leaves nothing over.

Facts are complete: applied in their order to an account that was never used, they make it what it is.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias

from creditfold.ledger.commands import Terms
from creditfold.ledger.reasons import RejectionReason


class Bucket(StrEnum):
    """Where credits of a lot can be, and what stands against the account as debt.

    `remaining` and `held` are the account's, `debt` what it owes; the others are the system's accounts. What is issued,
    or arrives, comes out of `issued` or `in_transit`.
    """

    REMAINING = "remaining"
    HELD = "held"
    DEBT = "debt"
    ISSUED = "issued"
    SPENT = "spent"
    EXPIRED = "expired"
    VOIDED = "voided"
    FORFEITED = "forfeited"
    IN_TRANSIT = "in_transit"
    REISSUED = "reissued"


class LotId(NamedTuple):
    """A lot: the command that made it, and which of its lots, from 1. A schedule's have their occurrence's number."""

    command_id: str
    number: int = 1


class Move(NamedTuple):
    """Credits that go from one place to another. `lot` is None for debt, which belongs to no lot."""

    lot: LotId | None
    source: Bucket
    target: Bucket
    amount: int


class FactKind(StrEnum):
    """What happened. The first six happen by time alone, in this order at one instant."""

    OCCURRED = "occurred"  # A schedule's turn granted something.
    CAPPED = "capped"  # A schedule's turn granted nothing, for its cap.
    ACTIVATED = "activated"  # A lot's window opened.
    LAPSED = "lapsed"  # A hold met its deadline.
    EXPIRED = "expired"  # A lot's window closed.
    REPAID = "repaid"  # Credits that became available paid a debt.
    GRANTED = "granted"
    SPENT = "spent"
    HELD = "held"
    CAPTURED = "captured"
    RELEASED = "released"
    REFUNDED = "refunded"
    REISSUED = "reissued"
    VOIDED = "voided"
    SENT = "sent"
    ARRIVED = "arrived"
    REFUSED = "refused"  # A transfer met a closed or frozen account: it goes back.
    COMPLETED = "completed"
    RETURNED = "returned"
    FROZEN = "frozen"
    UNFROZEN = "unfrozen"
    FORFEITED = "forfeited"
    CLOSED = "closed"
    LIMITED = "limited"
    SCHEDULED = "scheduled"
    CANCELLED = "cancelled"


class Fact(NamedTuple):
    """One thing that happened at an instant, in milliseconds UTC.

    `ref` names what it is about: the lot's command, the hold, the spend, the transfer or the schedule. `terms` are
    those of the lot that it made, if it made one; `detail` says why, where that isn't plain. `particulars` are the
    values of what PARTICULARS names for the kind: what `apply` must know and the rest doesn't say. They may be absent.
    """

    kind: FactKind
    at_ms: int
    asset: str
    ref: str
    moves: tuple[Move, ...] = ()
    terms: Terms | None = None
    detail: str = ""
    particulars: tuple[Any, ...] = ()


#: What facts of some kinds say besides, by name, in the order of `Fact.particulars`. `spend` is what a capture makes or
#: a reissue refunds; `to` is in the first fact of a transfer; `held_numbers` are voided lots that nothing is moved out
#: of, since all that they have is held; `number` is that of the lot that became active, if it isn't the first.
PARTICULARS: Final[Mapping[FactKind, tuple[str, ...]]] = {
    FactKind.ACTIVATED: ("number",),
    FactKind.HELD: ("deadline",),
    FactKind.CAPTURED: ("spend",),
    FactKind.REISSUED: ("spend",),
    FactKind.VOIDED: ("held_numbers",),
    FactKind.SENT: ("transfer", "to"),
    FactKind.SCHEDULED: (
        "amount",
        "period",
        "first_at",
        "every",
        "until",
        "cap",
        "lot_class",
        "priority",
        "expires_after_ms",
        "scope",
    ),
}


class CorruptStateError(Exception):
    """An account's rows contradict each other, or a fact doesn't fit it; nothing may be decided about it."""


class Balance(NamedTuple):
    """An account's credits of one asset."""

    available: int = 0
    pending: int = 0
    held: int = 0
    debt: int = 0

    @property
    def total(self) -> int:
        """What the account would have if everything came to rest."""
        return self.available + self.pending + self.held - self.debt


#: What there is of an asset that an account never had.
NOTHING: Final = Balance()

# A named tuple's own constructor takes twice as long.
make: Final = tuple.__new__


class CreditEntry(NamedTuple):
    """One line of the journal: what one command, or time, changed in one asset of an account.

    The first of a command's lines has its id. The others, of further assets that it touched, and those of what time did
    before it, have None. A batch has a line of its own, and one for each step. `asset` is empty where the line is of
    none. `before` and `balance` are the account's credits of it; `version` counts its lines from 1.
    """

    account: str
    version: int
    command_id: str | None
    kind: str
    asset: str
    amount: int
    before: Balance
    balance: Balance
    rejection: RejectionReason | None
    step: int | None
    rules: int
    clock_ms: int
    occurred_at: int
    source: str
    reason: str
    extra: bytes
    details: str
    facts: tuple[Fact, ...]

    @property
    def change(self) -> int:
        """By how much the available credits changed, signed."""
        return self.balance.available - self.before.available


class Accepted(NamedTuple):
    """A command that took effect: what time did to its account before it, what it did, and the journal's lines."""

    settled: tuple[Fact, ...]
    facts: tuple[Fact, ...]
    entries: tuple[CreditEntry, ...]


class Rejected(NamedTuple):
    """A command without effect but that time passed. `step` is the index of the failing step of a batch."""

    settled: tuple[Fact, ...]
    entries: tuple[CreditEntry, ...]
    reason: RejectionReason
    step: int | None = None


CreditOutcome: TypeAlias = Accepted | Rejected
