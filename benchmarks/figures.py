"""What a benchmark's JSON holds, and how to get at it."""

from collections.abc import Mapping
from typing import Any, TypeAlias

#: Results of the benchmarks, by the names of their scripts.
Figures: TypeAlias = Mapping[str, Any]


def at(results: Any, *place: str | int) -> Any:
    """What is at a place of nested objects and lists, None if nothing is."""
    for step in place:
        try:
            results = results[step]
        except (KeyError, IndexError, TypeError):
            return None
    return results
