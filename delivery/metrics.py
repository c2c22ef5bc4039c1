"""The metrics of a deliverer, for Prometheus. Owns their names; what is counted is the meter's business."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from creditfold.delivery.meter import Counts


class DeliveryMetrics(Collector):
    """Shows what a deliverer has done.

    Args:
        look: what it has done by now; called from the thread that serves the metrics.
    """

    def __init__(self, look: Callable[[], Counts]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """The metrics, for Prometheus."""
        counts = self._look()
        for name, documentation, value in (
            ("delivered", "Events that an endpoint took.", counts.delivered),
            ("failed", "Tries that failed.", counts.failed),
            ("parked", "Events that were given up after their last try.", counts.parked),
            ("disabled", "Endpoints that were disabled because they failed for long.", counts.disabled),
        ):
            yield CounterMetricFamily(f"creditfold_delivery_{name}", documentation, value=value)
        for name, documentation, value in (
            ("pending", "Events that failed and wait for their next try, or behind one that does.", counts.pending),
            ("lag_records", "Records of the log that the endpoint furthest behind hasn't been through.", counts.behind),
            ("endpoints", "Endpoints that are delivered to; 0 in one that stands by.", counts.endpoints),
        ):
            yield GaugeMetricFamily(f"creditfold_delivery_{name}", documentation, value=value)
