"""When a call is tried again, and for how long. Does no I/O.

A command is always safe to send again, because its id stays what it is; so is whatever only reads. What else changes
something is sent again only where it never reached the server. Whether the command may be in the log is remembered over
all tries: a last one that surely wrote nothing says nothing of one before.
"""

import time
from typing import Any, Generic, TypeVar

import httpx
from tenacity import RetryCallState, retry_if_exception, stop_before_delay, wait_random_exponential

from creditfold.client.calls import Call, Received
from creditfold.client.errors import ClientError, ProblemError, StrangeAnswerError, UnreachableError

T = TypeVar("T")

#: Seconds for which to connect, for which the server may be silent in an answer, and beyond the caller's bound, since
#: the server holds an answer back for that long.
CONNECT_S, SILENT_S, GRACE_S = 5.0, 35.0, 5.0
#: Statuses of proxies, and of the ledger, after which a later try may go well.
PASSING = (408, 429, 502, 503, 504)

#: What happens before a request is sent.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.LocalProtocolError)

_backoff = wait_random_exponential(multiplier=0.1, max=2.0)


class Deadline:
    """The end of a time.

    Args:
        bound_s: how many seconds from now on.
    """

    def __init__(self, bound_s: float) -> None:
        self._ends_at = time.monotonic() + bound_s

    def left_s(self) -> float:
        """Seconds that are left."""
        return max(self._ends_at - time.monotonic(), 0.0)

    def is_over(self) -> bool:
        """Whether none is."""
        return not self.left_s()


class Attempts(Generic[T]):
    """The tries of one call.

    Args:
        call: what is sent.
        bound_s: seconds after which no further try begins.
    """

    def __init__(self, call: Call[T], bound_s: float) -> None:
        self._call = call
        self._bound_s = bound_s
        self._deadline = Deadline(bound_s)
        self._maybe_written = call.is_written

    @property
    def policy(self) -> dict[str, Any]:
        """The arguments of tenacity's Retrying and AsyncRetrying."""
        return {
            "stop": stop_before_delay(self._bound_s),
            "wait": _pause,
            "retry": retry_if_exception(self._is_worth_another),
            "reraise": True,
        }

    def timeout(self) -> httpx.Timeout:
        """The bounds of the next try."""
        left_s = self._deadline.left_s() + GRACE_S
        return httpx.Timeout(min(self._call.wait_s + SILENT_S, left_s), connect=min(CONNECT_S, left_s))

    def read(self, received: Received) -> T:
        """The result of a try that was answered. Raises ClientError."""
        return self._call.read(received)

    def broken(self, error: httpx.TransportError) -> ClientError:
        """The error of a try that wasn't answered."""
        return broken(error, self._call)

    def _is_worth_another(self, error: BaseException) -> bool:
        if not isinstance(error, ClientError):
            return False
        self._maybe_written |= error.maybe_written
        error.maybe_written = self._maybe_written
        return may_pass(error, self._call)


def broken(error: httpx.TransportError, call: Call[Any]) -> ClientError:
    """The error of a call whose connection failed."""
    is_sent = not isinstance(error, _UNSENT)
    if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
        return ClientError(
            f"The request can't be sent: {error}.", "Correct it.", code="invalid_request", command=call.command
        )
    return UnreachableError(
        f"The server wasn't reached: {type(error).__name__}, {error}."
        if not is_sent
        else f"The connection broke before the answer was there: {type(error).__name__}, {error}.",
        "Try again; if it stays so, look at the URL and at GET /health/ready.",
        code="connection_broken" if is_sent else "server_unreachable",
        command=call.command,
        maybe_written=is_sent,
    )


def may_pass(error: ClientError, call: Call[Any]) -> bool:
    """Whether the same call may go well later, and is safe to be sent again."""
    if isinstance(error, UnreachableError):
        return call.is_repeatable or error.code == "server_unreachable"
    if isinstance(error, ProblemError):
        return error.status == 429 or (call.is_repeatable and error.status in PASSING)
    return isinstance(error, StrangeAnswerError) and call.is_repeatable and error.code in _STRANGE


_STRANGE = {f"http_{status}" for status in PASSING}


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    after_s = getattr(error, "retry_after_s", None) or 0.0
    return float(after_s) + _backoff(state)
