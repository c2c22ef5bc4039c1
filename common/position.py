"""Which log it is, and where a record stands in it. Knows nothing of the client that wrote or reads it."""

from collections.abc import Sequence
from typing import NamedTuple

from creditfold.common.errors import CreditfoldError

__all__ = ["InvalidPositionError", "Log", "Position"]

MAX_OFFSET = 2**63 - 1
MAX_PARTITION = 2**31 - 1


class InvalidPositionError(CreditfoldError):
    """A text is no position."""

    exit_code = 2


class Log(NamedTuple):
    """The identity of a command topic: its name, Kafka's id of it, and its partition count."""

    topic: str
    topic_id: str
    partitions: int


class Position(NamedTuple):
    """A record's place in the command topic, written `partition:offset`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read `partition:offset`.

        Raises:
            InvalidPositionError: it is none.

        Example:
            >>> Position.parse("3:1042")
            Position(partition=3, offset=1042)
        """
        partition, colon, offset = text.partition(":")
        if colon and partition.isascii() and partition.isdecimal() and offset.isascii() and offset.isdecimal():
            position = cls(int(partition), int(offset)) if len(partition) < 11 and len(offset) < 20 else None
            if position and position.partition <= MAX_PARTITION and position.offset <= MAX_OFFSET:
                return position
        raise InvalidPositionError(
            f"{text[:60]!r} is not a position.", "Write it as partition:offset, for example 3:1042."
        )


def next_offsets_of(texts: Sequence[str]) -> dict[int, int]:
    """Read the positions of some partitions' last records as the offsets that come next.

    Raises:
        InvalidPositionError: a text is no position, or two are of the same partition.
    """
    positions = [Position.parse(text) for text in texts]
    found = {position.partition: position.offset + 1 for position in positions}
    if len(found) < len(positions):
        raise InvalidPositionError("Two positions are of the same partition.", "Name each partition once.")
    return found
