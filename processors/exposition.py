"""Shows a process's metrics to Prometheus, at an address of theirs and from a thread of its own.

Owns the address and the server. What is measured is its callers' business. The address has no key: it is for those who
may reach it, which is nobody else unless a setting says so.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.registry import Collector

from creditfold.common.errors import ResourceError

log = structlog.get_logger()


class MetricsAddressError(ResourceError):
    """Metrics can't be shown at their address."""


@contextmanager
def exposed(collectors: Sequence[Collector], address: tuple[str, int] | None, setting: str) -> Iterator[None]:
    """Serve the metrics of collectors, and those of the process, for as long as the block runs.

    Args:
        collectors: asked at each scrape, from another thread than the caller's.
        address: host and port, 0 for any that is free; None to serve nothing.
        setting: the setting that has the address, for the error.

    Raises MetricsAddressError.

    Source: the text format of https://prometheus.io/docs/instrumenting/exposition_formats/, by prometheus-client.
    """
    if address is None:
        yield
        return
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    host, port = address
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise MetricsAddressError(
            f"The metrics can't be shown at {host}:{port}: {error.strerror or error}.",
            f"Stop what listens there, or set CREDITFOLD_{setting.upper()} to another address; each process has its "
            "own.",
        ) from None
    log.info("metrics are shown", url=f"http://{host}:{server.server_address[1]}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
