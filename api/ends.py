"""Where the log ends, looked at over and over: by this a read knows up to which instant it has all of the log.

Owns when the log was looked at and where it ended then. Where Kafka is away nothing is added, so what reads say of
themselves gets older; where no record comes, each look says that none is missing. Knows no route and no SQL.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from creditfold.common.settings import Settings
from creditfold.log.admin import KafkaAdmin
from creditfold.log.offsets import last_ends
from creditfold.projections.queries.progress import Standing

#: Seconds between two looks, and seconds that Kafka has for each answer of one.
LOOK_S, BOUND_S = 1.0, 2.0
#: Ends of a partition that are kept, while the fold hasn't passed them.
KEPT = 60


class Look(NamedTuple):
    """A partition's end at an instant of this machine's clock: the offset behind its last record."""

    at: datetime
    end: int


class LogEnds:
    """The ends that were seen. `follow` runs while the door is open.

    Args:
        settings: where Kafka is, and which topic is the log.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic_id = ""
        # By partition, oldest first, each of another end, and with the last instant at which it was that.
        self._looks: dict[int, list[Look]] = {}

    async def follow(self, admin: KafkaAdmin) -> None:
        """Look until cancelled."""
        while True:
            at = datetime.now(UTC)
            try:
                found = await asyncio.to_thread(last_ends, admin, self._settings.commands_topic, BOUND_S)
            except Exception:  # Kafka is away: whoever appends learns why, and whoever reads, since when.
                await asyncio.sleep(LOOK_S)
                continue
            self.record(at, *found)
            await asyncio.sleep(LOOK_S)

    def record(self, at: datetime, topic_id: str, ends: Mapping[int, int]) -> None:
        """Keep where the log ended.

        Args:
            at: an instant before it was asked.
            topic_id: of the log; another one is another log.
            ends: by partition, the offset behind the last record.
        """
        if topic_id != self._topic_id:
            self._topic_id, self._looks = topic_id, {}
        for partition, end in ends.items():
            looks = self._looks.setdefault(partition, [])
            # Of the same end the last look says most. Where there is no room the first ones stay, which the fold passes
            # first.
            if looks and (looks[-1].end == end or len(looks) == KEPT):
                looks.pop()
            looks.append(Look(at, end))

    def complete_to(self, standing: Standing, partitions: Iterable[int] | None = None) -> datetime | None:
        """Up to which instant a state has all of the log.

        Args:
            standing: how far it is folded.
            partitions: those that it is read of; None for all.

        Returns:
            The instant before which everything was appended to be in it; None where nothing is known.
        """
        numbers = standing.next_offsets if partitions is None else partitions
        found = [self._complete_to(standing, number) for number in numbers]
        known = [at for at in found if at is not None]
        return min(known) if known and len(known) == len(found) else None

    def _complete_to(self, standing: Standing, partition: int) -> datetime | None:
        # Append times never decrease within a partition: what follows the last folded record isn't before it.
        known = [clock] if (clock := standing.clocks.get(partition)) is not None else []
        if standing.topic_id == self._topic_id:
            looks = self._looks.get(partition, [])
            passed = sum(look.end <= standing.next_offsets[partition] for look in looks)
            del looks[: max(0, passed - 1)]
            known += [look.at for look in looks[: min(1, passed)]]
        return max(known, default=None)
