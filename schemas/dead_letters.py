"""Why a record of the log can't be folded: the reasons on the wire and in the projection."""

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
