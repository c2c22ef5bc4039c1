"""Who is logged in: sessions in this process's memory, found by a cookie that holds nothing but a random id.

Owns how long a session lives, how many there are, the tokens that forms carry, and how often a login may fail. A key's
text is in no cookie, no page and no log. Knows no route and no request.
"""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from typing import NamedTuple

from creditfold.api.limits import Bucket, Rate
from creditfold.api.problems import ProblemError

#: Seconds after which a session ends, and after which it does where nobody uses it.
LASTS_S, IDLE_S = 8 * 3_600.0, 3_600.0
#: Sessions that are kept; beyond that the one that was used longest ago ends.
MOST_SESSIONS = 10_000
#: Logins that may fail from one address: at once, and then a second.
FAILURES = Rate(0.1, 10)
#: Addresses whose failures are counted.
MOST_ADDRESSES = 10_000


class Session(NamedTuple):
    """A login. `key` is what it was made with, empty where none was needed. Instants are monotonic seconds."""

    key: str
    began: float
    used: float

    def __repr__(self) -> str:
        return "Session(...)"

    def is_over(self, now: float) -> bool:
        """Whether it has ended."""
        return now - self.began > LASTS_S or now - self.used > IDLE_S


class Sessions:
    """The sessions of a process. They end with it."""

    def __init__(self) -> None:
        # By digests of their ids: what is in memory opens nothing.
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._failures: OrderedDict[str, Bucket] = OrderedDict()
        self._secret = secrets.token_bytes(32)

    def begin(self, key: str, now: float | None = None) -> str:
        """Begin a session; returns its id."""
        at = time.monotonic() if now is None else now
        session_id = new_id()
        self._sessions[_digest(session_id)] = Session(key, at, at)
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return session_id

    def find(self, session_id: str, now: float | None = None) -> Session | None:
        """The session of an id, which is used by that; None where there is none."""
        at = time.monotonic() if now is None else now
        found = self._sessions.pop(_digest(session_id), None)
        if found is None or found.is_over(at):
            return None
        self._sessions[_digest(session_id)] = found = found._replace(used=at)
        return found

    def end(self, session_id: str) -> None:
        """End a session, if there is one."""
        self._sessions.pop(_digest(session_id), None)

    def token(self, session_id: str) -> str:
        """What each form of a session carries: other sites can't know it."""
        return hmac.new(self._secret, session_id.encode(), "sha256").hexdigest()

    def is_token(self, session_id: str, token: str) -> bool:
        """Whether a form's token is the session's."""
        return hmac.compare_digest(self.token(session_id).encode(), token.encode())

    def refuse_failures(self, address: str, now: float | None = None) -> None:
        """Count a login that may fail. Raises ProblemError where too many from an address have failed."""
        at = time.monotonic() if now is None else now
        bucket = self._failures.pop(address, None) or Bucket(FAILURES, at)
        self._failures[address] = bucket
        while len(self._failures) > MOST_ADDRESSES:
            self._failures.popitem(last=False)
        taken = bucket.take(at)
        if not taken.is_allowed:
            raise ProblemError(
                429,
                "too_many_logins",
                "Too many logins have failed from this address.",
                f"Try again after {taken.until_s} s.",
                headers={"Retry-After": str(taken.until_s)},
            )

    def forget_failures(self, address: str) -> None:
        """A login succeeded: those before don't count any more."""
        self._failures.pop(address, None)


def new_id() -> str:
    """A random id of 256 bits."""
    return secrets.token_urlsafe(32)


def _digest(session_id: str) -> bytes:
    return hashlib.sha256(session_id.encode()).digest()
