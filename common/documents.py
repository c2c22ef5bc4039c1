"""Rows as plain JSON: what the command line prints with --json, and what is kept of an operation. Knows no row."""

import base64
from collections.abc import Mapping
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from creditfold.common.position import Position


def as_json(value: Any) -> Any:
    """Make plain JSON of rows: instants in ISO 8601 UTC, bytes in base64, a position as `partition:offset`."""
    if isinstance(value, Position):
        return str(value)
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, Enum | Path):
        return str(value.value) if isinstance(value, Enum) else str(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return as_json(_with_position(value._asdict()))
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


def _with_position(row: dict[str, Any]) -> dict[str, Any]:
    """Put one `position` where a row has partition and offset in two fields."""
    if not {"log_partition", "log_offset"} <= row.keys():
        return row
    position = Position(row.pop("log_partition"), row.pop("log_offset"))
    return {"position": position, **row}


def instant(moment: datetime | None) -> str:
    """An instant in ISO 8601 UTC to the millisecond; empty for none."""
    if moment is None:
        return ""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
