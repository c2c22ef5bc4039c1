"""What one door counts and measures, and the route that shows it to Prometheus.

Owns the names, the labels and their bounds: a route is its template and never a path, and nothing is by account or by
key. Each application has a registry of its own. Refuses to know what a route does.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

from fastapi import Request
from fastapi.responses import Response
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.types import Scope

from creditfold.api.access import Caller, needs
from creditfold.api.problems import ProblemError, answer, responses
from creditfold.api.routes import Routes

router = Routes(tags=["operation"])

#: The label of every path that no route has, and of what is refused before a route is looked for.
NO_ROUTE = "none"
#: A method that HTTP has none of is one label too.
OTHER = "other"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Seconds. The goals are 10 ms for a read, and 25 and 60 ms for a write.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.06, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
#: In the state of a connection that came to the metrics' own address.
FOR_METRICS = "is_for_metrics"
_MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# Else there is a series for each, of when it was first counted.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one application.

    Args:
        others: what is shown beside them; asked at each scrape, in a thread.
    """

    def __init__(self, others: Sequence[Collector] = ()) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        for other in others:
            registry.register(other)

        def gauge(name: str, said: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"creditfold_http_{name}", said, labels, registry=registry)

        def counter(name: str, said: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"creditfold_http_{name}", said, labels, registry=registry)

        self._requests = counter("requests", "Requests that were answered.", ("route", "method", "status"))
        self._seconds = Histogram(
            "creditfold_http_request_seconds",
            "Seconds from a request's head until the head of its answer was sent.",
            ("route", "method"),
            registry=registry,
            buckets=_BUCKETS,
        )
        # Found once for each route, method and status that there are.
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._in_flight = gauge("requests_in_flight", "Requests whose answer isn't at its end.")
        self._streams = gauge("streams_open", "Streams of outcomes and bulk requests that are open.", ("route",))
        self.connections = gauge("connections_open", "Connections of clients.")
        self.refused = counter("connections_refused", "Connections beyond the most that are served.")
        self.rate_limited = counter("rate_limited", "Requests that a key sent beyond its rate.")
        self.writes_waiting = gauge("writes_waiting", "Commands whose outcome is waited for, but for bulk requests.")
        self.fold_waits = gauge("fold_waits", "Waits until the fold has passed a position.")
        self.readers_busy = gauge("readers_busy", "Threads that ask PostgreSQL now.")
        self.reads_waiting = gauge("reads_waiting", "Questions for PostgreSQL that no thread is free for.")

    async def text(self) -> bytes:
        """All metrics as Prometheus reads them."""
        return await asyncio.to_thread(generate_latest, self._registry)

    @contextmanager
    def stream(self, route: str) -> Iterator[None]:
        """Count a stream as open for as long as the block runs."""
        gauge = self._streams.labels(route)
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def begin(self) -> "Watch":
        """Count a request as in flight, until `end`."""
        self._in_flight.inc()
        return Watch()

    def end(self, scope: Scope, watch: "Watch") -> None:
        """Count a request by what became of it; one whose client left before its answer isn't counted."""
        self._in_flight.dec()
        if watch.status is None:
            return
        series = route_of(scope), scope["method"], watch.status
        found = self._series.get(series)
        if found is None:
            route, method, status = series
            method = method if method in _METHODS else OTHER
            found = self._requests.labels(route, method, str(status)), self._seconds.labels(route, method)
            if method != OTHER:
                self._series[series] = found
        requests, seconds = found
        requests.inc()
        seconds.observe(watch.seconds)


class Watch:
    """One request: when it began, and the head of its answer: the status, and the position that it names."""

    __slots__ = ("_began", "position", "seconds", "status")

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.status: int | None = None
        self.seconds = 0.0
        self.position = ""

    def see_head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Look at the head of the answer."""
        self.status = status
        self.seconds = time.perf_counter() - self._began
        self.position = next((value.decode() for name, value in headers if name == b"creditfold-position"), "")


def route_of(scope: Scope) -> str:
    """The template of a request's route, as the OpenAPI document has it."""
    found: str = getattr(scope.get("route"), "path_format", NO_ROUTE)
    return found


async def answer_alone(scope: Scope, metrics: Metrics) -> Response:
    """What a request gets that came in by the metrics' own address: them, without a key, and nothing else."""
    if scope["path"] == "/metrics" and scope["method"] == "GET":
        return Response(await metrics.text(), 200, media_type=_MEDIA_TYPE)
    problem = ProblemError(404, "not_found", "This address has GET /metrics only.", "Ask the door's own address.")
    return answer(Request(scope), problem)


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Counters, gauges and histograms in Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **responses(),
    },
)
async def metrics(request: Request, caller: Annotated[Caller, needs("operate:metrics")]) -> Response:
    """What this process has counted and measured since it started, and how the ledger is as a whole."""
    found: Metrics = request.app.state.metrics
    return Response(await found.text(), 200, {"Cache-Control": "no-store"}, _MEDIA_TYPE)
