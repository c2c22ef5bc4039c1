"""Every error of the client: what went wrong, what to do next, and whether the command may count all the same.

Owns which error a problem document becomes. Knows neither retries nor the network.
"""

from typing import Any
from urllib.parse import quote

from creditfold.client.answers import Problem
from creditfold.client.shapes import Command
from creditfold.common.errors import CreditfoldError

MEDIA_TYPE = "application/problem+json"


class ClientError(CreditfoldError):
    """A request that didn't do what it was for.

    Args:
        message: what went wrong, in one sentence.
        remedy: what to do next.
        code: the kind of the error, for a program to act on.
        command: the command that was sent, with its id; None where none was.
        maybe_written: whether the command may be in the log all the same, by this try or one before. Sent again under
            the same id it counts once, so it is always safe to send it again; what is not is to send it under another.
        request_id: by which the server's log knows the last try; None where there was no answer.
        retry_after_s: seconds after which the server may be asked again; None where it doesn't say.
    """

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        code: str,
        command: Command | None = None,
        maybe_written: bool = False,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, remedy)
        self.code = code
        self.command = command
        self.maybe_written = maybe_written and command is not None
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    @property
    def question(self) -> str | None:
        """The path that answers what became of the command; None where none was sent."""
        return None if self.command is None else command_path(self.command.account, self.command.command_id)

    def __str__(self) -> str:
        text = super().__str__()
        if self.command is None:
            return text
        if not self.maybe_written:
            return f"{text} This didn't write the command {self.command.command_id}."
        return (
            f"{text} The command {self.command.command_id} may be in the log: send it again under this id, under which "
            f"it counts once, or ask with GET {self.question}."
        )


class UnreachableError(ClientError):
    """The server couldn't be reached, or the connection broke before the whole answer was there."""


class StrangeAnswerError(ClientError):
    """An answer that isn't the ledger's, such as that of a proxy in front of it."""


class OutcomePendingError(ClientError):
    """The command is in the log, and wasn't decided within the time that the caller waits.

    Args:
        command: the command.
        position: where it is in the log, `partition:offset`; `outcome_at` waits for its outcome.
    """

    def __init__(self, command: Command, position: str) -> None:
        super().__init__(
            f"The command {command.command_id} is in the log at {position} and not decided yet.",
            f"Wait for its outcome with outcome_at(command, {position!r}).",
            code="outcome_pending",
            command=command,
            maybe_written=True,
        )
        self.position = position


class ProblemError(ClientError):
    """The server refused, with a problem document.

    Args:
        problem: the document.
        command: the command that was sent; None where none was.
        retry_after_s: seconds after which the server may be asked again; None where it doesn't say.
    """

    def __init__(self, problem: Problem, *, command: Command | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(
            problem.detail,
            problem.remedy,
            code=problem.code,
            command=command,
            maybe_written=problem.maybe_written,
            request_id=problem.request_id,
            retry_after_s=retry_after_s,
        )
        self.problem = problem
        self.status = problem.status


class NotAllowedError(ProblemError):
    """The key is missing, unknown or ended, or lacks the scope."""


class IdReusedError(ProblemError):
    """The command's id was used before for another command of the account, which stands; this one never counts."""


class UnavailableError(ProblemError):
    """The server is busy, or Kafka or PostgreSQL is away: what a later try may cure."""


def command_path(account: str, command_id: str) -> str:
    """The path of what became of a command."""
    return f"/v1/accounts/{quote(account, safe='')}/commands/{quote(command_id, safe='')}"


def problem_error(found: Any, *, command: Command | None = None, retry_after_s: float | None = None) -> ProblemError:
    """The error of a problem document. Raises ValidationError where it is none."""
    problem = Problem.model_validate(found)
    kind = ProblemError
    if problem.status in (401, 403):
        kind = NotAllowedError
    elif problem.code == "idempotency_key_reused":
        kind = IdReusedError
    elif problem.status in (429, 503):
        kind = UnavailableError
    return kind(problem, command=command, retry_after_s=retry_after_s)


def strange(status: int, content: bytes, *, command: Command | None, retry_after_s: float | None) -> ClientError:
    """The error of an answer that isn't the ledger's. What becomes of the command then, nobody knows."""
    text = content[:200].decode(errors="replace")
    return StrangeAnswerError(
        f"An answer {status} that isn't the ledger's: {text!r}.",
        "Look at what is between this client and the server, and at the URL.",
        code=f"http_{status}",
        command=command,
        maybe_written=True,
        retry_after_s=retry_after_s,
    )
