"""Why a valid command is rejected."""

from collections.abc import Mapping
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


#: Each in a sentence, as docs/rules.md has it.
REJECTED: Mapping[str, str] = {
    RejectionReason.ACCOUNT_CLOSED: "the account was closed",
    RejectionReason.ACCOUNT_FROZEN: "the account's freeze doesn't let this command through",
    RejectionReason.HOLD_NOT_FOUND: "no hold has this id",
    RejectionReason.SPEND_NOT_FOUND: "no spend, capture or transfer has this id",
    RejectionReason.GRANT_NOT_FOUND: "no command of this id made a lot",
    RejectionReason.SCHEDULE_NOT_FOUND: "no schedule has this id",
    RejectionReason.HOLD_LAPSED: "the hold met its deadline",
    RejectionReason.HOLD_CLOSED: "the hold was captured or released to the end",
    RejectionReason.ACCOUNT_NOT_FROZEN: "there is no freeze to end",
    RejectionReason.NOTHING_TO_VOID: "nothing remains in the lots, and nothing is held",
    RejectionReason.HOLDS_OPEN: "an account with open holds can't be closed",
    RejectionReason.DEBT_OPEN: "an account that owes can't be closed",
    RejectionReason.TRANSFER_IN_TRANSIT: "an account with a transfer on its way can't be closed",
    RejectionReason.BALANCE_NOT_ZERO: "an account that has something left can't be closed, unless it is forfeited",
    RejectionReason.EFFECTIVE_IN_FUTURE: "a spend is dated after the log's clock",
    RejectionReason.DEADLINE_PASSED: "a hold's deadline isn't after the log's clock",
    RejectionReason.EXCEEDS_HOLD: "more than the hold still has",
    RejectionReason.EXCEEDS_REFUNDABLE: "more than is left to refund, or nothing is left",
    RejectionReason.INSUFFICIENT_CREDITS: "there is too little for this use",
    RejectionReason.BALANCE_LIMIT_EXCEEDED: "the account would have 2^62 or more of the asset",
}
