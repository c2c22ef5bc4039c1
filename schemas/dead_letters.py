"""Why a record of the log can't be folded: the reasons on the wire and in the projection."""

from collections.abc import Mapping
from enum import StrEnum

__all__ = ["DeadLetterReason"]

# Headers of a command that mends a dead letter: its position, who sent it again, why, and how often it was mended by
# now, this time included.
REDRIVE_OF = "redrive-of"
REDRIVE_BY = "redrive-by"
REDRIVE_WHY = "redrive-why"
REDRIVE_ATTEMPT = "redrive-attempt"


class DeadLetterReason(StrEnum):
    """Reasons in the order they are checked; the first that applies is the record's."""

    EMPTY_VALUE = "empty_value"
    OVERSIZE = "oversize"
    NOT_FRAMED = "not_framed"
    UNKNOWN_SCHEMA_ID = "unknown_schema_id"
    NOT_AVRO = "not_avro"
    INVALID_COMMAND = "invalid_command"
    KEY_MISMATCH = "key_mismatch"
    WRONG_PARTITION = "wrong_partition"
    COMMAND_ID_REUSED = "command_id_reused"
    RULES_NOT_NEWER = "rules_not_newer"


#: Each in a sentence, as docs/rules.md has it.
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
