"""When a request that failed is sent again, and what an answer means. Pure: time and chance are arguments."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

#: Seconds after the first try, the second, and so on; after the last one the event is parked. Three days in all.
SCHEDULE_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
#: By how much a pause is longer or shorter at most, as a part of it: so that not all come back at one instant.
JITTER = 0.2
#: The longest that a receiver is believed that asks to be left alone, in seconds.
MAX_RETRY_AFTER_S = 86_400


class Verdict(Enum):
    """What an answer means for an event."""

    DELIVERED = "delivered"
    FAILED = "failed"
    GONE = "gone"  # The receiver wants to be called no more.


def verdict(status: int | None) -> Verdict:
    """What a status means; None is no answer. Only 2xx is success: a redirect is followed by nobody."""
    if status is not None and 200 <= status < 300:
        return Verdict.DELIVERED
    return Verdict.GONE if status == 410 else Verdict.FAILED


def pause_s(tries: int, chance: float) -> float | None:
    """Seconds until an event is sent again; None where it was the last time.

    Args:
        tries: how often it was sent in vain, from 1.
        chance: a number drawn from [0, 1).

    Example:
        >>> pause_s(1, 0.5), pause_s(10, 0.5)
        (5.0, None)
    """
    if tries > len(SCHEDULE_S):
        return None
    return SCHEDULE_S[tries - 1] * (1 + JITTER * (2 * chance - 1))


def retry_after_s(status: int | None, header: str, now: datetime) -> float:
    """Seconds for which a receiver asks to be left alone, by 429 or 503 with Retry-After; 0 where it doesn't.

    Args:
        status: of the answer.
        header: Retry-After, in seconds or as a date; empty if there was none.
        now: the present instant.
    """
    if status not in (429, 503) or not header:
        return 0.0
    if header.isascii() and header.isdecimal():
        return float(min(int(header[:9]), MAX_RETRY_AFTER_S))
    try:
        at = parsedate_to_datetime(header)
    except (ValueError, TypeError):
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), MAX_RETRY_AFTER_S)
