"""What flat_records.pyx has, for the type checker."""

from collections.abc import Iterable, Mapping
from typing import Any, final

from creditfold.schemas.registry import JsonSchema

@final
class FlatRecords:
    def __init__(self, header: bytes, schema: JsonSchema, lacking: Iterable[tuple[str, Any]]) -> None: ...
    def encoded(self, fields: Mapping[str, Any]) -> bytes | None: ...
