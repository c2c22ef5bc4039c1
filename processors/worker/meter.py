"""Where a worker's time goes: seconds by stage and records, since it started. Keeps a handful of numbers."""

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Meter:
    """Counts records and seconds by stage. Stages of different partitions overlap."""

    def __init__(self) -> None:
        self.records = 0
        self.chunks = 0
        self.stages: defaultdict[str, float] = defaultdict(float)
        self._reported = (time.monotonic(), 0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside the block towards a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] += time.perf_counter() - start

    def count(self, records: int) -> None:
        """Count a folded chunk."""
        self.records += records
        self.chunks += 1

    def report(self) -> dict[str, Any]:
        """Figures since the start, and the rate since the last report. Memory in bytes, times in seconds."""
        (before, records), now = self._reported, time.monotonic()
        self._reported = (now, self.records)
        return {
            "records": self.records,
            "rate": round((self.records - records) / max(now - before, 1e-9)),
            "chunks": self.chunks,
            "stages_s": {name: round(seconds, 3) for name, seconds in sorted(self.stages.items())},
            "memory_bytes": resident_bytes(),
        }


def resident_bytes() -> int:
    """Memory that this process holds now, in bytes; its peak where the system shows no more."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
