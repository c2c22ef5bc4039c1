"""What the commands print: tables and lines for people, one JSON document for programs. Knows no command.

Everything that comes from the log was written by strangers, so nothing of it reaches a terminal as a control
sequence, and nothing of it is read as markup.
"""

import base64
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

from creditfold.schemas.position import Position

Cell = object


def as_json(value: Any) -> Any:
    """Make plain JSON of rows: instants in ISO 8601 UTC, bytes in base64, a position as `partition:offset`."""
    if isinstance(value, Position):
        return str(value)
    if isinstance(value, datetime):
        return instant(value)
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


def print_json(value: Any, file: TextIO | None = None) -> None:
    """Print one JSON document."""
    print(json.dumps(as_json(value), ensure_ascii=False, indent=2), file=file or sys.stdout)


def instant(moment: datetime | None) -> str:
    """An instant in ISO 8601 UTC to the millisecond; empty for none."""
    if moment is None:
        return ""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def safe(value: Cell) -> str:
    """A value as text of one line, with its control characters escaped, whole numbers with commas."""
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def say(*lines: str) -> None:
    """Print lines for people, each made safe."""
    for line in lines:
        print(safe(line))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], title: str = "") -> None:
    """Print a table: ruled on a terminal, plain aligned columns elsewhere. Cuts nothing off.

    Numbers stand to the right. Names of columns are printed as they are given.
    """
    cells = [list(row) for row in rows]
    numeric = [all(isinstance(row[i], int | float) for row in cells) and bool(cells) for i in range(len(columns))]
    texts = [[safe(cell) for cell in row] for row in cells]
    if sys.stdout.isatty():
        _print_ruled(columns, texts, numeric, title)
    else:
        _print_plain(columns, texts, numeric, title)


def _print_ruled(columns: Sequence[str], rows: list[list[str]], numeric: list[bool], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold")
    for name, is_number in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def _print_plain(columns: Sequence[str], rows: list[list[str]], numeric: list[bool], title: str) -> None:
    widths = [max(len(text) for text in column) for column in zip(columns, *rows, strict=True)]
    if title:
        print(title)
    for row in (list(columns), *rows):
        padded = (
            text.rjust(width) if is_number else text.ljust(width)
            for text, width, is_number in zip(row, widths, numeric, strict=True)
        )
        print("  ".join(padded).rstrip())
