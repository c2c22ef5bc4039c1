"""The metrics of a publisher, for Prometheus. Owns their names and labels, and asks the publisher what it has done."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from creditfold.processors.publisher.partition import Count


class Published(NamedTuple):
    """What was published since the process started, and by partition the records folded and not published yet."""

    done: Count
    behind: Mapping[int, int]


class PublisherMetrics(Collector):
    """Shows what a publisher has done.

    Args:
        look: what it has done by now; called from the thread that serves the metrics.
    """

    def __init__(self, look: Callable[[], Published]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """The metrics, for Prometheus."""
        done, behind = self._look()
        yield CounterMetricFamily("creditfold_publisher_outcomes", "Outcomes published.", value=done.outcomes)
        yield CounterMetricFamily(
            "creditfold_publisher_dead_letters", "Dead letters published.", value=done.dead_letters
        )
        lag = GaugeMetricFamily(
            "creditfold_publisher_lag_records",
            "Records of a partition of this publisher that are folded, and whose outcomes aren't published.",
            labels=["partition"],
        )
        for partition, records in sorted(behind.items()):
            lag.add_metric([str(partition)], records)
        yield lag
