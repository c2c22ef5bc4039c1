"""Waits on a condition, with a bound. Knows nothing of what is waited for."""

import operator
from collections.abc import Callable

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_exponential

#: Between two looks at a condition, in seconds. What takes long is looked at ever less often: a look may cost more than
#: what it waits for, and takes its processor time from that.
PAUSE_S = 0.05
GROWTH = 1.25
LONGEST = 6


def wait_until(met: Callable[[], bool], bound_s: float, pause_s: float = PAUSE_S) -> bool:
    """Call `met` until it returns true or `bound_s` seconds are over. Returns its last answer.

    The pauses between two looks grow from `pause_s` to LONGEST times as long.
    """
    pauses = wait_exponential(pause_s, max=LONGEST * pause_s, exp_base=GROWTH)
    asking = Retrying(stop=stop_after_delay(bound_s), wait=pauses, retry=retry_if_result(operator.not_), reraise=True)
    try:
        return asking(met)
    except RetryError:
        return False
