"""What is raised for bytes that are no record of ours. Not compiled: a compiled class can't inherit from ValueError."""

from creditfold.schemas.dead_letters import DeadLetterReason


class MalformedError(ValueError):
    """Bytes that the schema can't have written."""


class DecodeError(ValueError):
    """Bytes that are no record of ours. Holds the reason and a detail for people.

    `rules` is that of Decoded where the schema at least is known; without one it is that of the first.
    """

    def __init__(self, reason: DeadLetterReason, detail: str, rules: int = 1) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.rules = rules
