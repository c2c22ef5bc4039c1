"""Spans of a distributed trace, for whoever collects them: none are made but where the setting `otlp_endpoint` is set.

Owns that nothing else differs by that: each span is a child of the context that came in (trace_context.py), and what
goes out carries its own; where no span is made, it carries the one that came in. Knows no event of ours.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from creditfold.common.extras import require
from creditfold.common.trace_context import is_sampled

if TYPE_CHECKING:
    from opentelemetry.trace import Span as OtelSpan

    from creditfold.common.otel import Exporter

#: What a span is of: a request that came in or goes out, or a message that is sent or taken in.
Kind = Literal["server", "client", "producer", "consumer"]
Attribute = str | int | float | bool


class Span:
    """A span, or what stands for one where none is made; ends with its `with` block.

    `traceparent` is the context that goes out with what is done in it.
    """

    def __init__(self, traceparent: str | None, span: "OtelSpan | None" = None) -> None:
        self.traceparent = traceparent
        self._span = span

    @property
    def is_kept(self) -> bool:
        """Whether what is set on it is of use to anybody."""
        return self._span is not None

    def rename(self, name: str) -> None:
        """Give it another name, where that is known at its end only."""
        if self._span is not None:
            self._span.update_name(name)

    def set(self, name: str, value: Attribute) -> None:
        """Set an attribute."""
        if self._span is not None:
            self._span.set_attribute(name, value)

    def fail(self, why: str) -> None:
        """Say that it failed."""
        if self._span is not None:
            from creditfold.common.otel import fail

            fail(self._span, why)

    def end(self) -> None:
        """End it now."""
        if self._span is not None:
            self._span.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.fail(kind.__name__)
        self.end()


class Spans:
    """Makes the spans of one process while they are `sent`; else what stands for them."""

    def __init__(self) -> None:
        self._exporter: Exporter | None = None

    @property
    def are_kept(self) -> bool:
        """Whether spans are sent to a collector."""
        return self._exporter is not None

    @contextmanager
    def sent(self, process: str, endpoint: str | None) -> Iterator[None]:
        """Send spans meanwhile, unless there is no endpoint.

        Args:
            process: what it is: "serve", "worker", "publisher" or "delivery".
            endpoint: where a collector takes OTLP over HTTP, with its path; None for none.

        Raises:
            MissingExtraError: the extra [otel] isn't installed.
        """
        if endpoint is None:
            yield
            return
        require("otel")
        from creditfold.common.otel import Exporter

        exporter = self._exporter = Exporter(process, endpoint)
        try:
            yield
        finally:
            self._exporter = None
            exporter.close()

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        began_ns: int | None = None,
    ) -> Span:
        """Begin a span.

        Args:
            name: of what is done, with few different ones.
            kind: of it.
            parent: the context that came in; None to begin a trace.
            attributes: what is known of it.
            began_ns: when it began, in nanoseconds since 1970; now if not given.
        """
        if self._exporter is None or (parent is not None and not is_sampled(parent)):
            return Span(parent)
        span, traceparent = self._exporter.begin(name, kind, parent, attributes or {}, began_ns)
        return Span(traceparent, span)


#: Those of this process.
SPANS = Spans()
