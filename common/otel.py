"""Spans by OpenTelemetry, sent to a collector by OTLP over HTTP; needs the extra [otel]. Imported only if one is set.

Owns how the library is set up and called. Its own variables OTEL_*, such as those of headers and of sampling, count.
"""

from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from creditfold.common.trace_context import TRACEPARENT

#: Seconds for a request to the collector, and in which a process that ends sends what it has.
SEND_S = 2.0


class Exporter:
    """Makes spans, and sends them in a thread of its own; drops what can't be sent.

    Args:
        process: whose they are.
        endpoint: where the collector is, with the path.
    """

    def __init__(self, process: str, endpoint: str) -> None:
        resource = Resource.create({SERVICE_NAME: f"creditfold-{process}"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=SEND_S)))
        self._tracer = self._provider.get_tracer("creditfold")
        self._propagator = TraceContextTextMapPropagator()

    def begin(
        self,
        name: str,
        kind: str,
        parent: str | None,
        attributes: Mapping[str, str | int | float | bool],
        began_ns: int | None,
    ) -> tuple[Span, str]:
        """Begin a span; returns it with the context of what is done in it. Arguments as of `Spans.begin`."""
        came_in = {} if parent is None else {TRACEPARENT: parent}
        span = self._tracer.start_span(
            name,
            # Of a parent, or of none: never of what another library may be doing in this thread.
            context=self._propagator.extract(came_in, set_span_in_context(INVALID_SPAN)),
            kind=SpanKind[kind.upper()],
            attributes=attributes,
            start_time=began_ns,
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return span, carrier[TRACEPARENT]

    def close(self) -> None:
        """Send what there is, for a moment."""
        self._provider.force_flush(int(SEND_S * 1000))
        self._provider.shutdown()


def fail(span: Span, why: str) -> None:
    """Say that a span failed."""
    span.set_status(Status(StatusCode.ERROR, why))
