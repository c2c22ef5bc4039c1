"""The context of a distributed trace as it travels: W3C's `traceparent`, from a request through the log to what comes.

Owns how it is read, and which one is the present one. It stands beside a command and is no part of it: what it says is
never decided by, and one that can't be read is passed over. Makes no spans (spans.py).
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["trace_context"]

#: The header that carries it, in HTTP and in Kafka.
TRACEPARENT = "traceparent"

# Version, trace, span, flags. What a later version adds stands behind them.
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?", re.ASCII)
_BYTES = 55
#: More than any version that there is has.
_MOST_BYTES = 512
_SAMPLED = 1

_present: ContextVar[str | None] = ContextVar("creditfold_trace_context", default=None)


def read_traceparent(value: str | bytes | None) -> str | None:
    """A context in the form that is sent on; None for what is no `traceparent`.

    Of a version after 00 that is what 00 has of it, as its specification wants it.

    Args:
        value: of the header.

    Example:
        >>> read_traceparent(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
        >>> read_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01") is None
        True
    """
    if value is None or not _BYTES <= len(value) <= _MOST_BYTES:
        return None
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    found = _FORM.fullmatch(text)
    if found is None or found[1] == "ff" or not found[2].strip("0") or not found[3].strip("0"):
        return None
    if found[1] == "00":
        return None if found[5] is not None else text
    return f"00-{found[2]}-{found[3]}-{int(found[4], 16) & _SAMPLED:02x}"


def traceparent_of(headers: Iterable[tuple[str | bytes, str | bytes | None]]) -> str | None:
    """The context among headers, whose names are in lower case; None where there isn't exactly one that can be read."""
    found = [value for name, value in headers if name in (TRACEPARENT, b"traceparent")]
    return read_traceparent(found[0]) if len(found) == 1 else None


def is_sampled(traceparent: str) -> bool:
    """Whether who began the trace keeps its spans: what isn't kept goes no further than the log."""
    return bool(int(traceparent[-2:], 16) & _SAMPLED)


def trace_id_of(traceparent: str) -> str:
    """The id of its trace: 32 hexadecimal digits."""
    return traceparent[3:35]


def present_traceparent() -> str | None:
    """The context under which this task or thread is working, None if under none."""
    return _present.get()


@contextmanager
def trace_context(traceparent: str | None) -> Iterator[None]:
    """Work under a context: what is appended meanwhile carries it in the header `traceparent` of its record.

    It is this task's or thread's own. What is no `traceparent`, and None, puts nothing into any record.

    Args:
        traceparent: as W3C Trace Context has it.

    Example:
        >>> with trace_context("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"):
        ...     present_traceparent()
        '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
    """
    token = _present.set(read_traceparent(traceparent))
    try:
        yield
    finally:
        _present.reset(token)
