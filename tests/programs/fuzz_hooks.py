"""What schemathesis, a process of its own, must know of the door: how lines of JSON are sent. See test_fuzzing.py."""

from typing import Any

import schemathesis
from schemathesis import SerializationContext


@schemathesis.serializer("application/x-ndjson")
def as_lines(_: SerializationContext, value: Any) -> bytes:
    """The lines of a text, as they are."""
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")
