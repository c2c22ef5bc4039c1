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


class Value:  # noqa: PLW1641 - Nothing is kept by one, and some hold what has no hash.
    """What is equal by its values, and doesn't change once it is made.

    Compiled, one is made, and its fields are read, in a fraction of the time that a named tuple takes.
    """

    __slots__ = ()

    def values(self) -> tuple[Any, ...]:
        """The values of all its fields, in their order."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and type(other) is type(self) and self.values() == other.values()

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.values()}"


class LotId(NamedTuple):
    """A lot: the command that made it, and which of its lots, from 1. A schedule's have their occurrence's number."""

    command_id: str
    number: int = 1


class Move(Value):
    """Credits that go from one place to another. `lot` is None for debt, which belongs to no lot."""

    __slots__ = ("amount", "lot", "source", "target")

    def __init__(self, lot: LotId | None, source: Bucket, target: Bucket, amount: int) -> None:
        self.lot: Final = lot
        self.source: Final = source
        self.target: Final = target
        self.amount: Final = amount

    def values(self) -> tuple[Any, ...]:
        """The values of all its fields, in their order."""
        return self.lot, self.source, self.target, self.amount


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


class Fact(Value):
    """One thing that happened at an instant, in milliseconds UTC.

    `ref` names what it is about: the lot's command, the hold, the spend, the transfer or the schedule. `terms` are
    those of the lot that it made, if it made one; `detail` says why, where that isn't plain. `particulars` are the
    values of what PARTICULARS names for the kind: what `apply` must know and the rest doesn't say. They may be absent.

    Example:
        >>> Fact(FactKind.FROZEN, 0, "", "f-1", detail="all").detail
        'all'
    """

    __slots__ = ("asset", "at_ms", "detail", "kind", "moves", "particulars", "ref", "terms")

    def __init__(  # noqa: PLR0917 - As CreditEntry's.
        self,
        kind: FactKind,
        at_ms: int,
        asset: str,
        ref: str,
        moves: tuple[Move, ...] = (),
        terms: Terms | None = None,
        detail: str = "",
        particulars: tuple[Any, ...] = (),
    ) -> None:
        self.kind: Final = kind
        self.at_ms: Final = at_ms
        self.asset: Final = asset
        self.ref: Final = ref
        self.moves: Final = moves
        self.terms: Final = terms
        self.detail: Final = detail
        self.particulars: Final = particulars

    def values(self) -> tuple[Any, ...]:
        """The values of all its fields, in their order."""
        return self.kind, self.at_ms, self.asset, self.ref, self.moves, self.terms, self.detail, self.particulars


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


class CreditEntry(Value):
    """One line of the journal: what one command, or time, changed in one asset of an account.

    The first of a command's lines has its id. The others, of further assets that it touched, and those of what time did
    before it, have None. A batch has a line of its own, and one for each step. `asset` is empty where the line is of
    none. `before` and `balance` are the account's credits of it; `version` counts its lines from 1.

    Example:
        >>> (entry,) = CreditBook().apply(Grant("g-1", "ada", "credits", 5)).entries
        >>> entry.command_id, entry.change
        ('g-1', 5)
    """

    __slots__ = (
        "account",
        "amount",
        "asset",
        "balance",
        "before",
        "clock_ms",
        "command_id",
        "details",
        "extra",
        "facts",
        "kind",
        "occurred_at",
        "reason",
        "rejection",
        "rules",
        "source",
        "step",
        "version",
    )

    def __init__(  # noqa: PLR0917 - By their places: by their names plain Python takes a third longer.
        self,
        account: str,
        version: int,
        command_id: str | None,
        kind: str,
        asset: str,
        amount: int,
        before: Balance,
        balance: Balance,
        rejection: RejectionReason | None,
        step: int | None,
        rules: int,
        clock_ms: int,
        occurred_at: int,
        source: str,
        reason: str,
        extra: bytes,
        details: str,
        facts: tuple[Fact, ...],
    ) -> None:
        self.account: Final = account
        self.version: Final = version
        self.command_id: Final = command_id
        self.kind: Final = kind
        self.asset: Final = asset
        self.amount: Final = amount
        self.before: Final = before
        self.balance: Final = balance
        self.rejection: Final = rejection
        self.step: Final = step
        self.rules: Final = rules
        self.clock_ms: Final = clock_ms
        self.occurred_at: Final = occurred_at
        self.source: Final = source
        self.reason: Final = reason
        self.extra: Final = extra
        self.details: Final = details
        self.facts: Final = facts

    def values(self) -> tuple[Any, ...]:
        """The values of all its fields, in their order."""
        return (
            self.account,
            self.version,
            self.command_id,
            self.kind,
            self.asset,
            self.amount,
            self.before,
            self.balance,
            self.rejection,
            self.step,
            self.rules,
            self.clock_ms,
            self.occurred_at,
            self.source,
            self.reason,
            self.extra,
            self.details,
            self.facts,
        )

    @property
    def change(self) -> int:
        """By how much the available credits changed, signed."""
        return self.balance.available - self.before.available


class Accepted(Value):
    """A command that took effect: what time did to its account before it, what it did, and the journal's lines."""

    __slots__ = ("entries", "facts", "settled")

    def __init__(self, settled: tuple[Fact, ...], facts: tuple[Fact, ...], entries: tuple[CreditEntry, ...]) -> None:
        self.settled: Final = settled
        self.facts: Final = facts
        self.entries: Final = entries

    def values(self) -> tuple[Any, ...]:
        """The values of all its fields, in their order."""
        return self.settled, self.facts, self.entries


class Rejected(Value):
    """A command without effect but that time passed. `step` is the index of the failing step of a batch."""

    __slots__ = ("entries", "reason", "settled", "step")

    def __init__(
        self,
        settled: tuple[Fact, ...],
        entries: tuple[CreditEntry, ...],
        reason: RejectionReason,
        step: int | None = None,
    ) -> None:
        self.settled: Final = settled
        self.entries: Final = entries
        self.reason: Final = reason
        self.step: Final = step

    def values(self) -> tuple[Any, ...]:
        """The values of all its fields, in their order."""
        return self.settled, self.entries, self.reason, self.step


CreditOutcome: TypeAlias = Accepted | Rejected
