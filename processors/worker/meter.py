"""What a worker has counted and measured since it started. Keeps a handful of numbers, whatever the log is like.

Owns the metrics' names, labels and buckets: nothing is by account. They are written from the event loop and read from
the thread that shows them to Prometheus.
"""

import resource
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from creditfold.processors.fold.chunk import Read
from creditfold.projections.store.results import Tally
from creditfold.schemas.dead_letters import DeadLetterReason

#: Seconds.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600)
#: Records.
CHUNK_BUCKETS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)


class Distribution:
    """How often a value was at most a bucket's bound, and the sum of all values.

    prometheus-client's histogram takes values one by one; thousands of records of a chunk are counted at once here.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        # The last has what is beyond all bounds.
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_ages(self, times_ms: Sequence[int], now_ms: int) -> None:
        """Count how many seconds ago each of some times was.

        Args:
            times_ms: in order, in milliseconds.
            now_ms: not before the last of them.
        """
        end = len(times_ms)
        for number, bound in enumerate(self._bounds):
            start = bisect_left(times_ms, now_ms - bound * 1000, 0, end)
            self._counts[number] += end - start
            end = start
        self._counts[-1] += end
        self._sum += (len(times_ms) * now_ms - sum(times_ms)) / 1000

    def family(self, name: str, documentation: str) -> HistogramMetricFamily:
        """The metric of it."""
        counts, total, buckets = list(self._counts), 0, []
        for bound, count in zip((*map(float, self._bounds), "+Inf"), counts, strict=True):
            total += count
            buckets.append((str(bound), float(total)))
        return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=self._sum)


class Meter(Collector):
    """Counts records, decisions, and seconds by stage. Stages of different partitions overlap."""

    def __init__(self) -> None:
        self.records = 0
        self.chunks = 0
        self.claims = 0
        self.tally = Tally()
        self.stages: defaultdict[str, float] = defaultdict(float)
        self._latency = Distribution(LATENCY_BUCKETS)
        self._chunk_records = Distribution(CHUNK_BUCKETS)
        self._reported = (time.monotonic(), 0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside the block towards a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] += time.perf_counter() - start

    def count(self, reads: Sequence[Read], tally: Tally) -> None:
        """Count what a transaction that is committed has folded of a chunk.

        Args:
            reads: the records, in the order of the log.
            tally: what they came to.
        """
        self.records += len(reads)
        self.chunks += 1
        self.tally.merge(tally)
        self._chunk_records.add(len(reads))
        now_ms = time.time_ns() // 1_000_000
        times = sorted([record.timestamp for record, _ in reads])
        if times and times[-1] > now_ms:
            # Kafka's clock is ahead of this one.
            times = [min(one, now_ms) for one in times]
        self._latency.add_ages(times, now_ms)

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

    def collect(self) -> Iterator[Metric]:
        """The metrics, for Prometheus."""
        yield self._latency.family(
            "creditfold_fold_visible_latency_seconds",
            "Seconds from a record's append, by Kafka's clock, until what it came to was committed, by the worker's.",
        )
        yield self._chunk_records.family("creditfold_fold_chunk_records", "Records that one transaction folded.")
        yield _labelled(
            "stage_seconds", "Seconds by stage; stages of different partitions overlap.", ("stage",), self.stages
        )
        decided = {
            (kind, "rejected" if reason else "accepted", reason): float(count)
            for (kind, reason), count in self.tally.decisions.copy().items()
        }
        yield _labelled("decisions", "Commands that were decided.", ("kind", "outcome", "reason"), decided)
        # Those that there were none of too: of a series that begins with its first value, no increase is seen.
        letters: dict[str, int] = dict.fromkeys(DeadLetterReason, 0)
        letters.update(self.tally.dead_letters.copy())
        yield _labelled("dead_letters", "Records that can't be folded.", ("reason",), letters)
        for name, documentation, value in (
            ("duplicates", "Commands that were decided before, and have no effect again.", self.tally.duplicates),
            ("ticks", "Ticks, by which time passes in accounts that nobody touches.", self.tally.ticks),
            ("claims", "Claims of partitions by this worker.", self.claims),
            ("records", "Records that were folded.", self.records),
        ):
            yield CounterMetricFamily(f"creditfold_fold_{name}", documentation, value=value)


def _labelled(name: str, documentation: str, labels: Sequence[str], values: Any) -> CounterMetricFamily:
    family = CounterMetricFamily(f"creditfold_fold_{name}", documentation, labels=labels)
    for key, value in sorted(values.copy().items()):
        family.add_metric([key] if isinstance(key, str) else key, value)
    return family


def resident_bytes() -> int:
    """Memory that this process holds now, in bytes; its peak where the system shows no more."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
