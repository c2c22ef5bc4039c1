"""What a command, or time alone, came to: facts, each a set of moves that leaves nothing over."""

from enum import StrEnum
from typing import NamedTuple, TypeAlias

from creditfold.ledger.credit_commands import Terms
from creditfold.ledger.credit_reasons import RejectionReason


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
    those of the lot that it made, if it made one; `detail` says why, where that isn't plain.
    """

    kind: FactKind
    at_ms: int
    asset: str
    ref: str
    moves: tuple[Move, ...] = ()
    terms: Terms | None = None
    detail: str = ""


class Accepted(NamedTuple):
    """A command that took effect: what time did to its account before it, then what it did."""

    settled: tuple[Fact, ...]
    facts: tuple[Fact, ...]


class Rejected(NamedTuple):
    """A command without effect but that time passed. `step` is the index of the failing step of a batch."""

    settled: tuple[Fact, ...]
    reason: RejectionReason
    step: int | None = None


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


Outcome: TypeAlias = Accepted | Rejected
