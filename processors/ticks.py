"""Ticks: records by which time passes in accounts that nobody touches. Owns when a partition gets one, and its number.

Whoever owns a partition appends it a tick when something is due there. Two that do so at once give theirs the same
number, and the fold takes the second for a duplicate.
"""

from collections.abc import Mapping
from typing import NamedTuple

from creditfold.ledger import Tick
from creditfold.ledger.limits import MAX_MINUTE
from creditfold.log.appender import NewRecord
from creditfold.projections.queries.background import Standing
from creditfold.schemas.wire import encode

MINUTE_MS = 60_000

#: Who ticks, where the worker does.
SOURCE = "creditfold worker"


class LastTick(NamedTuple):
    """This worker's last tick of a partition: when by its monotonic clock, and where in the log if that is known."""

    at_s: float
    offset: int | None = None


def number_of_tick(standing: Standing, now_ms: int) -> int:
    """The number of a partition's next tick: the minute, or the one after the last tick's where that is later.

    So neither a second tick in a minute nor a worker whose clock was ahead keeps the next from counting.
    """
    return min(max(now_ms // MINUTE_MS, standing.minute + 1), MAX_MINUTE)


def wants_tick(standing: Standing, last: LastTick | None, now_ms: int, now_s: float, every_s: float) -> bool:
    """Whether a partition gets a tick now, at most one in `every_s` seconds.

    Args:
        standing: where it stands.
        last: what this worker appended last there.
        now_ms: the instant, in milliseconds UTC.
        now_s: the same by the monotonic clock, in seconds.
        every_s: seconds from one tick to the next at least.
    """
    if not standing.is_due:
        return False
    if last is not None and last.offset is not None and standing.next_offset <= last.offset:
        return False  # The fold is behind: what is due may be done by the tick that waits there.
    if every_s * 1000 >= MINUTE_MS and standing.minute == now_ms // MINUTE_MS:
        return False  # Another worker's, before it lost the partition.
    return last is None or now_s - last.at_s >= every_s


def tick(partition: int, number: int, now_ms: int, source: str) -> Tick:
    """A partition's tick of a number."""
    return Tick(f"tick-{partition}-{number}", number, now_ms, source)


def tick_record(partition: int, number: int, now_ms: int, source: str = SOURCE) -> NewRecord:
    """The record of a tick."""
    made = tick(partition, number, now_ms, source)
    return NewRecord(partition, None, encode("Tick", made._asdict()))


class Ticker:
    """Decides about the ticks of the partitions that a worker owns; remembers one for each.

    Args:
        every_s: seconds from one tick of a partition to the next at least.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._last: dict[int, LastTick] = {}

    def due(self, owned: Mapping[int, Standing], now_ms: int, now_s: float) -> list[NewRecord]:
        """The ticks to append now."""
        return [
            tick_record(partition, number_of_tick(standing, now_ms), now_ms)
            for partition, standing in sorted(owned.items())
            if wants_tick(standing, self._last.get(partition), now_ms, now_s, self._every_s)
        ]

    def forget_offsets(self) -> None:
        """Wait for no tick that was appended: the log may have lost its end, and the tick with it."""
        self._last = {partition: last._replace(offset=None) for partition, last in self._last.items()}

    def appended(self, partition: int, offset: int | None, now_s: float) -> None:
        """Remember a tick; `offset` is None where it isn't known whether the log has it."""
        self._last[partition] = LastTick(now_s, offset)
