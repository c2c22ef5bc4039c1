"""Every error that appending a command can raise. Owns the words and the remedies; knows no Kafka client.

What a caller needs to know of a failed append is one thing: can the command be in the log all the same?
`maybe_written` answers it. Resending with the same command id is safe either way, since the fold counts a
command id of an account once.
"""

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position

RESEND = "Send it again with the same command id: the ledger counts a command id of an account once."


class AppendError(CreditfoldError):
    """An append that was not confirmed. `maybe_written` says whether the command may be in the log."""

    maybe_written = False


class InvalidCommandError(AppendError):
    """A command that the ledger would refuse without looking at any state.

    Args:
        problems: one sentence part for each bad field, naming the field and its bound.
    """

    exit_code = 2

    _remedy = "Correct the command and send it again."

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(f"Invalid command: {'; '.join(problems)}.", self._remedy)
        self.problems = problems

    def __reduce__(self) -> tuple[type["InvalidCommandError"], tuple[tuple[str, ...]]]:
        # Pickled by its own argument, so that it crosses process pools as other exceptions do.
        return type(self), (self.problems,)


class DoubtfulCommandError(InvalidCommandError):
    """A valid command that is most likely a mistake, unless the caller confirms it.

    An id has an invisible character, for example, or a schedule would take many turns at once.
    """

    _remedy = (
        "Correct the command. If it is meant as it is, confirm it: parse_command(..., confirmed=True), or"
        " `confirmed` of its class in place of the constructor."
    )


class RecordTooLargeError(AppendError):
    """A command whose record is larger than the log takes. It is not in the log."""

    exit_code = 2


class QueueFullError(AppendError):
    """The producer's own queue had no room within the time given. The command was not taken."""


class BrokerUnavailableError(AppendError):
    """No broker answered within the delivery timeout, and nothing was sent. The command is not in the log."""

    away = "Kafka"


class UnknownTopicError(AppendError):
    """The cluster has no such topic. The command is not in the log."""

    exit_code = 2


class NotAllowedError(AppendError):
    """Kafka refused the credentials or the right to write. The command is not in the log."""

    exit_code = 2


class DeliveryFailedError(AppendError):
    """The log didn't confirm the command: it may be there or not."""

    maybe_written = True


class ProducerBrokenError(AppendError):
    """The producer met an error that it can't recover from, and takes nothing more."""

    maybe_written = True


class ProducerClosedError(AppendError):
    """The producer is closed, or was closed before the command was sent. The command is not in the log."""


class ForkedProducerError(AppendError):
    """The producer was made before a fork: its threads and sockets stayed with the parent."""


class OutcomeUnknownError(AppendError):
    """The command was handed to the log, and its outcome isn't known here.

    Args:
        message: what went wrong, in one sentence.
        remedy: what to do next.
        position: of the command in the log, once the log has confirmed it; None before, when it may be there or not.
    """

    exit_code = 4
    maybe_written = True

    def __init__(self, message: str, remedy: str, position: Position | None = None) -> None:
        super().__init__(message, remedy)
        self.position = position

    def __reduce__(self) -> tuple[type["OutcomeUnknownError"], tuple[str, str, Position | None]]:
        return type(self), (self.message, self.remedy, self.position)


class OutcomeTimeoutError(OutcomeUnknownError):
    """The outcome of a command wasn't known within the time that its sender gave."""


def unconfirmed(within_s: float) -> OutcomeTimeoutError:
    """The error of a command that the log didn't confirm within these seconds."""
    return OutcomeTimeoutError(
        f"The log didn't confirm the command within {round(within_s, 2):g} s.", f"Look at Kafka. {RESEND}"
    )


class UndeliveredError(CreditfoldError):
    """Commands were still unconfirmed when a flush or a close ran out of time. `count` says how many."""

    def __init__(self, count: int, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.count = count

    def __reduce__(self) -> tuple[type["UndeliveredError"], tuple[int, str, str]]:
        return type(self), (self.count, self.message, self.remedy)


class ProducerSettingError(CreditfoldError):
    """A setting that the Kafka client refuses, or that would break the log's promises."""

    exit_code = 2


class ImportFileError(CreditfoldError):
    """A file that can't be imported as it is: unreadable, of unknown format, or with a bad header."""

    exit_code = 2


class ImportStateError(CreditfoldError):
    """What earlier runs left doesn't fit this import: another file, topic or cluster, or a lost report."""

    exit_code = 2


class ImportStoppedError(CreditfoldError):
    """An import that stopped at a failed append. Everything up to `line` is known to be in the log.

    Args:
        line: the last line that is done with; the next run goes on after it.
        reason: what failed.
        can_go_on: whether it does: a pipe is read from its start.
    """

    def __init__(self, line: int, reason: str, can_go_on: bool = True) -> None:
        how = "it goes on after that line" if can_go_on else "from a pipe it begins with the first line"
        super().__init__(
            f"The import stopped; it is done up to line {line}. {reason}",
            f"Run it again: {how}, and resent commands count once.",
        )
        self.line = line
        self.reason = reason
        self.can_go_on = can_go_on

    def __reduce__(self) -> tuple[type["ImportStoppedError"], tuple[int, str, bool]]:
        return type(self), (self.line, self.reason, self.can_go_on)
