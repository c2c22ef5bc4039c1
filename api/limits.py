"""How many requests a caller may send: a bucket of tokens for each, and the header fields that say how full it is.

Knows no route. A bucket is this process's own: of two doors each counts by itself.
"""

import math
import time
from collections import OrderedDict
from typing import NamedTuple

from creditfold.api.problems import ProblemError

#: Buckets that are kept; one that was let go is full when its owner comes again.
MOST_BUCKETS = 10_000
#: The policy's name in the header fields.
POLICY = "key"


class Rate(NamedTuple):
    """How fast a bucket fills, in requests a second, and how many requests it holds."""

    per_s: float
    burst: int

    @classmethod
    def of(cls, per_s: float, burst: int | None) -> "Rate":
        """A rate whose bucket holds what comes in a second, and one at least, unless it is given."""
        return cls(per_s, math.ceil(per_s) if burst is None else burst)


class Taken(NamedTuple):
    """What became of a request's token: whether there was one, how many are left, and seconds until it is as said."""

    is_allowed: bool
    left: int
    until_s: int

    def headers(self, rate: Rate) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers-10."""
        window_s = max(1, math.ceil(rate.burst / rate.per_s))
        return {
            "RateLimit-Policy": f'"{POLICY}";q={rate.burst};w={window_s}',
            "RateLimit": f'"{POLICY}";r={self.left};t={self.until_s}',
        }


class Bucket:
    """Tokens of one caller. Full at first."""

    def __init__(self, rate: Rate, now: float) -> None:
        self.rate = rate
        self._tokens = float(rate.burst)
        self._at = now

    def take(self, now: float) -> Taken:
        """Take a token, if there is one; else say after how many seconds there is."""
        self._tokens = min(self.rate.burst, self._tokens + (now - self._at) * self.rate.per_s)
        self._at = now
        if self._tokens < 1:
            return Taken(False, 0, max(1, math.ceil((1 - self._tokens) / self.rate.per_s)))
        self._tokens -= 1
        return Taken(True, int(self._tokens), math.ceil((self.rate.burst - self._tokens) / self.rate.per_s))


class RateLimits:
    """The buckets of all callers.

    Args:
        usual: the rate of a caller that has none of its own; None: no limit.
    """

    def __init__(self, usual: Rate | None) -> None:
        self._usual = usual
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def rate_of(self, per_s: float | None, burst: int | None) -> Rate | None:
        """The rate in force for a key that has this of its own; None: no limit."""
        return self._usual if per_s is None else Rate.of(per_s, burst)

    def take(self, name: str, rate: Rate) -> dict[str, str]:
        """Take a token of a caller's bucket, and return the header fields of the answer.

        Raises:
            ProblemError: there is none. Its headers have the same fields.
        """
        now = time.monotonic()
        bucket = self._buckets.get(name)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[name] = Bucket(rate, now)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(name)
        taken = bucket.take(now)
        headers = taken.headers(rate)
        if not taken.is_allowed:
            raise ProblemError(
                429,
                "too_many_requests",
                f"The key {name} may send {rate.per_s:g} requests a second, and {rate.burst:,} at once.",
                f"Send it again after {taken.until_s} s; many commands go to POST /v1/commands, in one request.",
                headers={**headers, "Retry-After": str(taken.until_s)},
            )
        return headers
