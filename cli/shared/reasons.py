"""Why a command is rejected, or a record is a dead letter, in a sentence each: those of docs/rules.md."""

from collections.abc import Mapping

from creditfold.ledger.reasons import RejectionReason
from creditfold.schemas.dead_letters import DeadLetterReason

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

DEAD: Mapping[str, str] = {
    DeadLetterReason.EMPTY_VALUE: "the record has no value",
    DeadLetterReason.OVERSIZE: "the value has more than 65,536 bytes, or 900,000 for a transfer that arrives",
    DeadLetterReason.NOT_FRAMED: "the value doesn't start with a zero byte and a schema id of four bytes",
    DeadLetterReason.UNKNOWN_SCHEMA_ID: "the rules in force know no schema of that id",
    DeadLetterReason.NOT_AVRO: "the body can't be read with that schema, or bytes are left over",
    DeadLetterReason.INVALID_COMMAND: "a field is out of its bounds, or the id is one that only derived commands have",
    DeadLetterReason.KEY_MISMATCH: "the record's key isn't the command's account",
    DeadLetterReason.WRONG_PARTITION: "the account belongs in another partition by Kafka's murmur2 partitioner",
    DeadLetterReason.COMMAND_ID_REUSED: "the id was decided before with another body",
    DeadLetterReason.RULES_NOT_NEWER: "an `ActivateRules` record of older rules than those in force",
}
