"""Why a valid command is rejected."""

from enum import StrEnum


class RejectionReason(StrEnum):
    """Reasons in the order they are checked; the first that applies is reported."""

    ACCOUNT_CLOSED = "account_closed"
    ACCOUNT_FROZEN = "account_frozen"
    HOLD_NOT_FOUND = "hold_not_found"
    SPEND_NOT_FOUND = "spend_not_found"
    GRANT_NOT_FOUND = "grant_not_found"
    SCHEDULE_NOT_FOUND = "schedule_not_found"
    HOLD_LAPSED = "hold_lapsed"
    HOLD_CLOSED = "hold_closed"
    ACCOUNT_NOT_FROZEN = "account_not_frozen"
    NOTHING_TO_VOID = "nothing_to_void"
    HOLDS_OPEN = "holds_open"
    DEBT_OPEN = "debt_open"
    TRANSFER_IN_TRANSIT = "transfer_in_transit"
    BALANCE_NOT_ZERO = "balance_not_zero"
    EFFECTIVE_IN_FUTURE = "effective_in_future"
    DEADLINE_PASSED = "deadline_passed"
    EXCEEDS_HOLD = "exceeds_hold"
    EXCEEDS_REFUNDABLE = "exceeds_refundable"
    INSUFFICIENT_CREDITS = "insufficient_credits"
    BALANCE_LIMIT_EXCEEDED = "balance_limit_exceeded"
