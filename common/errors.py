"""The base of every error that creditfold raises for its user. Knows nothing else.

It stands in the lowest room so that each room above can derive from it. `ledger/` doesn't: a broken
invariant there is a defect of ours and must never be caught as if it were the user's.
"""

import re

__all__ = ["CreditfoldError"]

_BETWEEN_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")


class CreditfoldError(Exception):
    """A failure that a person can act on.

    Args:
        message: what went wrong, in one sentence.
        remedy: what to do next; empty when nothing can be done but report it.

    `exit_code` is what the command line exits with when the error ends a command. `away` names the server that doesn't
    answer, "Kafka" or "PostgreSQL", for a caller that knows where it should run.
    """

    exit_code = 1
    away = ""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    @property
    def error_code(self) -> str:
        """The kind of the error for a program, by its class: `invalid_position` of an InvalidPositionError."""
        return _BETWEEN_WORDS.sub("_", type(self).__name__.removesuffix("Error")).lower()

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class ResourceError(CreditfoldError):
    """Something that creditfold needs, a server, a topic, a folder or a process, can't do what was asked of it."""
