"""Counts what is delivered, for the log and for whoever scrapes it. Knows no format of metrics."""

from typing import NamedTuple


class Counts(NamedTuple):
    """What a deliverer has done since it started, and how far it is.

    `behind` is how many offsets of the log an endpoint hasn't been through, of the one that is furthest behind;
    `pending` is what failed and waits for its next try, or behind that.
    """

    delivered: int = 0
    failed: int = 0
    parked: int = 0
    disabled: int = 0
    pending: int = 0
    behind: int = 0
    endpoints: int = 0


class Meter:
    """What a deliverer has done, written by its parts in one event loop."""

    def __init__(self) -> None:
        self.delivered = 0
        self.failed = 0
        self.parked = 0
        self.disabled = 0
        #: By endpoint: rows that wait, and offsets that it is behind.
        self.standing: dict[str, tuple[int, int]] = {}

    @property
    def counts(self) -> Counts:
        """All of it, as it is now; safe to ask for from another thread."""
        standing = list(self.standing.values())
        pending = sum(waiting for waiting, _ in standing)
        behind = max((offsets for _, offsets in standing), default=0)
        done = (self.delivered, self.failed, self.parked, self.disabled)
        return Counts(*done, pending, behind, len(standing))
