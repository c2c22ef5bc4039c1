"""Recognizes command ids that were seen before, in a byte for each. Python's twin of `Filter` of plain.pyx."""


class IdFilter:
    """May take a new command id for one that was seen, never one that was seen for new.

    Args:
        size: its bytes.
        most: how many ids before the last are recognized, at most twice as many; None to recognize all.
    """

    def __init__(self, size: int, most: int | None = None) -> None:
        # Each byte holds the age in which its id was seen last, so that what is old needn't be wiped out.
        self._ages = bytearray(size)
        self._age = self._before = 1
        self._most = most
        self._count = 0

    def add(self, account: str, command_id: str) -> bool:
        """Add an id; returns whether it may have been added before."""
        slot = hash((account, command_id)) % len(self._ages)
        found = self._ages[slot] in (self._age, self._before)
        self._ages[slot] = self._age
        if self._most is not None:
            self._count += 1
            if self._count >= self._most:
                self._before, self._age, self._count = self._age, self._age % 255 + 1, 0
        return found
