"""What the HTTP door appends. Written from docs/openapi.json by docs/client_code.py (`make api`)."""

from typing import ClassVar, Literal, TypeAlias

from creditfold.client.shapes import Command, Instant, Step

__all__ = [
    "Batch",
    "CancelSchedule",
    "Capture",
    "CaptureStep",
    "Close",
    "CreateSchedule",
    "Freeze",
    "Grant",
    "GrantStep",
    "Hold",
    "HoldStep",
    "Refund",
    "RefundStep",
    "Release",
    "ReleaseStep",
    "SetCreditLimit",
    "Spend",
    "SpendStep",
    "Transfer",
    "Unfreeze",
    "VoidGrant",
    "VoidGrantStep",
]


class GrantStep(Step):
    """A Grant in a batch, which has the account and the sender's fields.

    Args:
        amount: a whole number from 1 to 9007199254740991.
        asset: a text of 1 to 64 characters without control characters and without spaces at its ends.
        effective_at: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to
            253402300799999 (0 for at once).
        expires_at: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to 253402300799999
            (0 for never).
        lot_class: 'paid' or 'promo'.
        priority: a whole number from 0 to 100.
        scope: a text of 1 to 64 characters without control characters and without spaces at its ends, or empty.
    """

    kind: ClassVar[str] = "grant"

    amount: int
    asset: str
    effective_at: Instant = 0
    expires_at: Instant = 0
    lot_class: Literal["paid", "promo"] = "paid"
    priority: int = 50
    scope: str = ""


class SpendStep(Step):
    """A Spend in a batch.

    Args:
        amount: a whole number from 1 to 9007199254740991.
        asset: a text of 1 to 64 characters without control characters and without spaces at its ends.
        effective_at: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to
            253402300799999 (0 for at once).
        partial: true or false.
        use: a text of 1 to 64 characters without control characters and without spaces at its ends, or empty.
    """

    kind: ClassVar[str] = "spend"

    amount: int
    asset: str
    effective_at: Instant = 0
    partial: bool = False
    use: str = ""


class HoldStep(Step):
    """A Hold in a batch.

    Args:
        amount: a whole number from 1 to 9007199254740991.
        asset: a text of 1 to 64 characters without control characters and without spaces at its ends.
        deadline: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to 253402300799999.
        use: a text of 1 to 64 characters without control characters and without spaces at its ends, or empty.
    """

    kind: ClassVar[str] = "hold"

    amount: int
    asset: str
    deadline: Instant
    use: str = ""


class CaptureStep(Step):
    """A Capture in a batch.

    Args:
        hold: a text of 1 to 64 characters without control characters and without spaces at its ends.
        amount: a whole number from 1 to 9007199254740991; leave it out for all that is left.
        final: true or false.
    """

    kind: ClassVar[str] = "capture"

    hold: str
    amount: int | None = None
    final: bool = False


class ReleaseStep(Step):
    """A Release in a batch.

    Args:
        hold: a text of 1 to 64 characters without control characters and without spaces at its ends.
        amount: a whole number from 1 to 9007199254740991; leave it out for all that is left.
    """

    kind: ClassVar[str] = "release"

    hold: str
    amount: int | None = None


class RefundStep(Step):
    """A Refund in a batch.

    Args:
        spend: a text of 1 to 64 characters without control characters and without spaces at its ends.
        amount: a whole number from 1 to 9007199254740991; leave it out for all that is left.
        expires_at: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to 253402300799999
            (0 for never).
        reissue: true or false.
    """

    kind: ClassVar[str] = "refund"

    spend: str
    amount: int | None = None
    expires_at: Instant = 0
    reissue: bool = False


class VoidGrantStep(Step):
    """A VoidGrant in a batch.

    Args:
        grant: a text of 1 to 64 characters without control characters and without spaces at its ends.
        number: a whole number from 1 to 2147483647; leave it out for all of them.
    """

    kind: ClassVar[str] = "void_grant"

    grant: str
    number: int | None = None


AnyStep: TypeAlias = GrantStep | SpendStep | HoldStep | CaptureStep | ReleaseStep | RefundStep | VoidGrantStep


class Batch(Command):
    """Steps of one account, in order: all of them, or none.

    Args:
        steps: a list of 1 to 100 objects, each with a type and a command_id of its own.
    """

    kind: ClassVar[str] = "batch"
    route: ClassVar[str] = "batches"

    steps: tuple[AnyStep, ...]


class Capture(Command):
    """Spend what a hold set aside.

    Args:
        hold: a text of 1 to 64 characters without control characters and without spaces at its ends.
        amount: a whole number from 1 to 9007199254740991; leave it out for all that is left.
        final: true or false.
    """

    kind: ClassVar[str] = "capture"
    route: ClassVar[str] = "captures"

    hold: str
    amount: int | None = None
    final: bool = False


class Close(Command):
    """Close an account permanently.

    Args:
        forfeit: true or false.
    """

    kind: ClassVar[str] = "close"
    route: ClassVar[str] = "closings"

    forfeit: bool = False


class SetCreditLimit(Command):
    """Set how far below zero an account's spends may go.

    Args:
        asset: a text of 1 to 64 characters without control characters and without spaces at its ends.
        limit: a whole number from 0 to 9007199254740991.
    """

    kind: ClassVar[str] = "set_credit_limit"
    route: ClassVar[str] = "credit-limits"

    asset: str
    limit: int


class Freeze(Command):
    """Stop an account from spending. Replaces an earlier freeze.

    Args:
        scope: 'spending' or 'all'.
    """

    kind: ClassVar[str] = "freeze"
    route: ClassVar[str] = "freezes"

    scope: Literal["spending", "all"] = "spending"


class Grant(Command):
    """Give an account credits of an asset: makes a lot.

    Args:
        amount: a whole number from 1 to 9007199254740991.
        asset: a text of 1 to 64 characters without control characters and without spaces at its ends.
        effective_at: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to
            253402300799999 (0 for at once).
        expires_at: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to 253402300799999
            (0 for never).
        lot_class: 'paid' or 'promo'.
        priority: a whole number from 0 to 100.
        scope: a text of 1 to 64 characters without control characters and without spaces at its ends, or empty.
    """

    kind: ClassVar[str] = "grant"
    route: ClassVar[str] = "grants"

    amount: int
    asset: str
    effective_at: Instant = 0
    expires_at: Instant = 0
    lot_class: Literal["paid", "promo"] = "paid"
    priority: int = 50
    scope: str = ""


class Hold(Command):
    """Set credits aside until a deadline, at which the hold lapses.

    Args:
        amount: a whole number from 1 to 9007199254740991.
        asset: a text of 1 to 64 characters without control characters and without spaces at its ends.
        deadline: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to 253402300799999.
        use: a text of 1 to 64 characters without control characters and without spaces at its ends, or empty.
    """

    kind: ClassVar[str] = "hold"
    route: ClassVar[str] = "holds"

    amount: int
    asset: str
    deadline: Instant
    use: str = ""


class Refund(Command):
    """Give back what a spend or a capture took.

    Args:
        spend: a text of 1 to 64 characters without control characters and without spaces at its ends.
        amount: a whole number from 1 to 9007199254740991; leave it out for all that is left.
        expires_at: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to 253402300799999
            (0 for never).
        reissue: true or false.
    """

    kind: ClassVar[str] = "refund"
    route: ClassVar[str] = "refunds"

    spend: str
    amount: int | None = None
    expires_at: Instant = 0
    reissue: bool = False


class Release(Command):
    """Give back what a hold set aside.

    Args:
        hold: a text of 1 to 64 characters without control characters and without spaces at its ends.
        amount: a whole number from 1 to 9007199254740991; leave it out for all that is left.
    """

    kind: ClassVar[str] = "release"
    route: ClassVar[str] = "releases"

    hold: str
    amount: int | None = None


class CancelSchedule(Command):
    """End a schedule. What it granted stays.

    Args:
        schedule: a text of 1 to 64 characters without control characters and without spaces at its ends.
    """

    kind: ClassVar[str] = "cancel_schedule"
    route: ClassVar[str] = "schedule-cancellations"

    schedule: str


class CreateSchedule(Command):
    """Grant an amount periodically, by the calendar in UTC.

    Args:
        amount: a whole number from 1 to 9007199254740991.
        asset: a text of 1 to 64 characters without control characters and without spaces at its ends.
        first_at: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to 253402300799999.
        period: 'months' or 'days'.
        cap: a whole number from 1 to 9007199254740991; leave it out for no cap.
        every: a whole number from 1 to 10000.
        expires_after_ms: a whole number of milliseconds from 1 to 253402300799999; leave it out for no end.
        lot_class: 'paid' or 'promo'.
        priority: a whole number from 0 to 100.
        scope: a text of 1 to 64 characters without control characters and without spaces at its ends, or empty.
        until: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to 253402300799999 (0
            for never).
    """

    kind: ClassVar[str] = "create_schedule"
    route: ClassVar[str] = "schedules"

    amount: int
    asset: str
    first_at: Instant
    period: Literal["months", "days"]
    cap: int | None = None
    every: int = 1
    expires_after_ms: int | None = None
    lot_class: Literal["paid", "promo"] = "paid"
    priority: int = 50
    scope: str = ""
    until: Instant = 0


class Spend(Command):
    """Take credits of an asset from an account.

    Args:
        amount: a whole number from 1 to 9007199254740991.
        asset: a text of 1 to 64 characters without control characters and without spaces at its ends.
        effective_at: an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from 100000000000 to
            253402300799999 (0 for at once).
        partial: true or false.
        use: a text of 1 to 64 characters without control characters and without spaces at its ends, or empty.
    """

    kind: ClassVar[str] = "spend"
    route: ClassVar[str] = "spends"

    amount: int
    asset: str
    effective_at: Instant = 0
    partial: bool = False
    use: str = ""


class Transfer(Command):
    """Send credits to another account. They keep their class, priority, window and scope.

    Args:
        amount: a whole number from 1 to 9007199254740991.
        asset: a text of 1 to 64 characters without control characters and without spaces at its ends.
        to: a text of 1 to 128 characters without control characters and without spaces at its ends.
        use: a text of 1 to 64 characters without control characters and without spaces at its ends, or empty.
    """

    kind: ClassVar[str] = "transfer"
    route: ClassVar[str] = "transfers"

    amount: int
    asset: str
    to: str
    use: str = ""


class Unfreeze(Command):
    """End a freeze."""

    kind: ClassVar[str] = "unfreeze"
    route: ClassVar[str] = "unfreezes"


class VoidGrant(Command):
    """Take back what is left of the lots that a command made.

    Args:
        grant: a text of 1 to 64 characters without control characters and without spaces at its ends.
        number: a whole number from 1 to 2147483647; leave it out for all of them.
    """

    kind: ClassVar[str] = "void_grant"
    route: ClassVar[str] = "voids"

    grant: str
    number: int | None = None
