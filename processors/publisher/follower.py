"""Follows one account's outcomes in the outcomes topic, from some place on. Knows no PostgreSQL, and prints nothing.

Reads as any service may: committed records of the partition where the account lies, leaving out what isn't ours.
"""

import time
from collections.abc import Iterator
from contextlib import closing

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.log.admin import TopicMissingError
from creditfold.log.offsets import end_offsets, start_offsets
from creditfold.log.partitioner import partition_of
from creditfold.log.reader import LogReader
from creditfold.log.topics import describe_topic
from creditfold.processors.publisher.messages import Outcome, read_outcome

__all__ = ["Follower", "NoOutcomesError", "WrongPartitionError"]

#: A place that is known to be among no more offsets than these is looked for one by one.
NEAR_OFFSETS = 4_000
_READ_RECORDS = 500
_PROBE_S = 15.0


class NoOutcomesError(CreditfoldError):
    """There is no outcomes topic to follow, or it can't be read."""


class WrongPartitionError(CreditfoldError):
    """A position of another partition than the account's."""

    exit_code = 2


class Follower:
    """The outcomes of one account.

    Args:
        settings: where Kafka is.
        account: its id.

    Raises:
        NoOutcomesError: there is no outcomes topic.
        KafkaUnavailableError: Kafka doesn't answer.

    Example:
        >>> follower = Follower(settings, "ada")
        >>> next(follower.follow(follower.start(), timeout_s=30.0)).fields["command_id"]
        'welcome'
    """

    def __init__(self, settings: Settings, account: str) -> None:
        self._kafka = settings.kafka_client
        self._settings = settings
        self._topic = settings.outcomes_topic
        self._account = account
        try:
            partitions = describe_topic(settings, self._topic).partitions
        except TopicMissingError as error:
            raise NoOutcomesError(
                f"There is no topic {self._topic}.", "Run `creditfold init`, and start a `creditfold publisher`."
            ) from error
        self.partition = partition_of(account.encode(), partitions)

    def end(self) -> int:
        """Offset in the outcomes topic behind the last outcome so far."""
        return end_offsets(self._settings, self._topic, [self.partition])[self.partition]

    def start(self) -> int:
        """Offset in the outcomes topic of the first outcome."""
        return start_offsets(self._settings, self._topic, [self.partition])[self.partition]

    def place_of(self, position: Position) -> int:
        """Offset in the outcomes topic of the first outcome of a position of the log, or of a later one.

        Args:
            position: of a command of the account.

        Returns:
            An offset for follow().

        Raises:
            WrongPartitionError: the account isn't in the position's partition.
        """
        if position.partition != self.partition:
            raise WrongPartitionError(
                f"{position} is a position of partition {position.partition}; {self._account!a} lies in "
                f"partition {self.partition}.",
                "Take a position from `creditfold history` of this account.",
            )
        low, high = self.start(), self.end()
        # Outcomes are in the order of the log, with gaps, so halving finds the place.
        while high - low > NEAR_OFFSETS:
            middle = (low + high) // 2
            offset, outcome = self._first(middle, high)
            if outcome is None or outcome.position.offset >= position.offset:
                high = middle
            else:
                low = offset + 1
        return self._first(low, high, position.offset)[0]

    def _first(self, start: int, end: int, least: int = 0) -> tuple[int, Outcome | None]:
        """The first outcome from `start` on that is of offset `least` of the log or a later one; `end` if none is."""
        with closing(LogReader(self._kafka, self._topic, self.partition, start)) as reader:
            for offset, outcome in self._until(reader, end):
                if outcome.position.offset >= least:
                    return offset, outcome
        return end, None

    def _until(self, reader: LogReader, end: int) -> Iterator[tuple[int, Outcome]]:
        """Outcomes of all accounts with their places, up to before `end`."""
        deadline = time.monotonic() + _PROBE_S
        while reader.position < end:
            if time.monotonic() > deadline:
                raise NoOutcomesError(f"{self._topic} can't be read at {reader.position}.", "Look at the broker's log.")
            for record in reader.take(_READ_RECORDS, 1.0).records:
                outcome = read_outcome(record.value, record.headers, self.partition)
                if outcome is not None:
                    yield record.offset, outcome
                deadline = time.monotonic() + _PROBE_S

    def follow(self, place: int, timeout_s: float | None = None) -> Iterator[Outcome]:
        """This account's outcomes as they come, without end unless a time is given. Waits for Kafka while it is away.

        Args:
            place: offset in the outcomes topic to begin at.
            timeout_s: seconds after which it ends; None for never.

        Yields:
            Outcomes of this account.

        Raises:
            UnreadableError: the offset isn't in the topic any more.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with closing(LogReader(self._kafka, self._topic, self.partition, place)) as reader:
            while deadline is None or time.monotonic() < deadline:
                left = 0.5 if deadline is None else max(min(deadline - time.monotonic(), 0.5), 0.0)
                for record in reader.take(_READ_RECORDS, left).records:
                    outcome = read_outcome(record.value, record.headers, self.partition)
                    if outcome is not None and outcome.fields["account"] == self._account:
                        yield outcome
