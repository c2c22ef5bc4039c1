"""Waits on a condition, with a bound. Knows nothing of what is waited for."""

import operator
from collections.abc import Callable

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

#: Between two looks at a condition, in seconds.
PAUSE_S = 0.05


def wait_until(met: Callable[[], bool], bound_s: float, pause_s: float = PAUSE_S) -> bool:
    """Call `met` until it returns true or `bound_s` seconds are over. Returns its last answer."""
    asking = Retrying(
        stop=stop_after_delay(bound_s), wait=wait_fixed(pause_s), retry=retry_if_result(operator.not_), reraise=True
    )
    try:
        return asking(met)
    except RetryError:
        return False
