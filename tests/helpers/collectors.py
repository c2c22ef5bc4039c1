"""A collector of spans in the process of the tests, which takes OTLP over HTTP as OpenTelemetry's own does."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collected(NamedTuple):
    """A span as it came in."""

    process: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    failed: bool


class Collector:
    """Where spans come in, at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Collected] = []

    def of(self, trace_id: str) -> dict[str, Collected]:
        """The spans of a trace by the names of their processes and their own; those of one name are one."""
        return {f"{span.process} {span.name}": span for span in list(self.spans) if span.trace_id == trace_id}

    def take(self, body: bytes) -> None:
        """Take a request's spans."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            process = _attributes(resource.resource.attributes)["service.name"].removeprefix("creditfold-")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        Collected(
                            process,
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            _attributes(span.attributes),
                            span.status.code == 2,
                        )
                    )


def _attributes(found: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in found}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_address[1]}/v1/traces")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
