"""Notices for a worker's log which partitions an open transaction holds back, each once, and when that is over.

Owns the episodes. Knows neither Kafka nor how what is seen was found.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from creditfold.log.open_transactions import LONG_OPEN_S


class Episode(NamedTuple):
    """An open transaction that begins at offset `start`, seen first at `since_s` of the monotonic clock."""

    start: int
    since_s: float
    is_reported: bool = False


class HeldBack:
    """The episodes of a worker's partitions."""

    def __init__(self) -> None:
        self._episodes: dict[int, Episode] = {}

    def look(self, starts: Mapping[int, int], now_s: float) -> tuple[list[int], dict[int, float]]:
        """Take what is seen now; return the partitions to report, and those reported that are free again.

        Args:
            starts: the first offset of the oldest open transaction, by partition of this worker's that has one.
            now_s: the instant, by the monotonic clock.

        Returns: the partitions that have been held back for long and weren't reported (call `reported` once they
        are); and by partition for how many seconds one that was reported had been seen, where that is over.
        """
        ended = {
            partition: one
            for partition, one in sorted(self._episodes.items())
            if starts.get(partition, -1) != one.start
        }
        for partition in ended:
            del self._episodes[partition]
        for partition, start in starts.items():
            self._episodes.setdefault(partition, Episode(start, now_s))
        due = [
            partition
            for partition, one in sorted(self._episodes.items())
            if not one.is_reported and now_s - one.since_s >= LONG_OPEN_S
        ]
        return due, {partition: now_s - one.since_s for partition, one in ended.items() if one.is_reported}

    def reported(self, partitions: Iterable[int]) -> None:
        """Remember that these were reported."""
        for partition in partitions:
            if partition in self._episodes:
                self._episodes[partition] = self._episodes[partition]._replace(is_reported=True)
