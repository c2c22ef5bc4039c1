"""What the commands print: tables and lines for people, one JSON document for programs. Knows no command.

Everything that comes from the log was written by strangers, so nothing of it reaches a terminal as a control
sequence, and nothing of it is read as markup.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from creditfold.common.documents import as_json, instant
from creditfold.common.errors import CreditfoldError
from creditfold.common.lookalikes import escaped, is_unseen
from creditfold.common.spreadsheet import BYTE_ORDER_MARK, csv_line

if TYPE_CHECKING:
    from rich.console import Console

Cell = object

#: Follows rows of which there are more than were asked for, newest first.
OLDER = "There are older ones: a larger --limit shows more, --until those before a time."
#: Stands where a value is missing.
NONE = "-"
#: Rows of a long table that are held and laid out together.
PART_ROWS = 1_000

# Wider than any table: at this width a table reports its own.
_UNBOUNDED = 1_000_000


class OutputError(CreditfoldError):
    """What a command prints can't be written."""


def output_error(error: OSError) -> OutputError:
    """The error for a failure of the system's to write the output."""
    return OutputError(f"Can't write the output: {error.strerror}.", "Make room, or send it elsewhere.")


@contextmanager
def written(file: TextIO | None = None) -> Iterator[None]:
    """Write out what a block prints. Raises OutputError, or BrokenPipeError where the reader has gone."""
    try:
        yield
        # Here, and not when the process ends, where the error would name no command any more.
        (file or sys.stdout).flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error(error) from error


def counted(count: int, noun: str) -> str:
    """A number with its noun: `1 line`, `2,000 lines`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_json(value: Any, file: TextIO | None = None) -> None:
    """Print one JSON document."""
    with written(file):
        print(_dumped(value, indent=2), file=file or sys.stdout)


def print_json_object(fields: Mapping[str, Any]) -> None:
    """Print one JSON document; a field that is an iterator is a list, of which each element is printed as it comes."""
    with written():
        begin = "{"
        for name, value in fields.items():
            sys.stdout.write(f"{begin}\n  {json.dumps(name)}: ")
            if isinstance(value, Iterator):
                _write_list(value)
            else:
                sys.stdout.write(_dumped(value, indent=2).replace("\n", "\n  "))
            begin = ","
        sys.stdout.write("\n}\n")


def _write_list(values: Iterator[Any]) -> None:
    """Write a list as a field of an object, as `json.dumps` writes it."""
    between, end = "[\n    ", "[]"
    for value in values:
        sys.stdout.write(between + _dumped(value, indent=2).replace("\n", "\n    "))
        between, end = ",\n    ", "\n  ]"
    sys.stdout.write(end)


def print_json_line(value: Any) -> None:
    """Print one JSON document on a line of its own."""
    with written():
        print(_dumped(value))


def _dumped(value: Any, indent: int | None = None) -> str:
    """JSON with control sequences and invisible characters escaped; a parser gets the same document."""
    text = json.dumps(as_json(value), ensure_ascii=False, indent=indent)
    if text.isascii() and "\x7f" not in text:
        return text
    # Outside of its texts JSON has nothing but ASCII, and the escapes of json itself are ASCII too.
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    if char == "\n" or (char.isprintable() and not is_unseen(char)):
        return char
    return "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1]


def safe(value: Cell) -> str:
    """A value as text of one line: control sequences and invisible characters escaped, whole numbers with commas."""
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escaped("" if value is None else str(value))


def say(*lines: str) -> None:
    """Print lines for people, each made safe."""
    with written():
        for line in lines:
            print(safe(line))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], title: str = "") -> None:
    """Print a table: ruled on a terminal if it fits there, else record by record; plain columns elsewhere.

    Cuts nothing off. Numbers are aligned to the right. Names of columns are printed as they are given.
    """
    _print_part(columns, list(rows), title, None)


def print_long_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print a table of any length, as `print_table` does, while its rows come: `PART_ROWS` of them at once.

    A column becomes wider where a later part has a longer text. On a terminal each part is a table of its own.
    """
    left, shape = iter(rows), None
    while part := list(islice(left, PART_ROWS)):
        shape = _print_part(columns, part, "", shape)


class _Shape(NamedTuple):
    """How wide the columns of a table are, in characters, and which have nothing but numbers."""

    widths: Sequence[int]
    numeric: Sequence[bool]


def _print_part(columns: Sequence[str], rows: Sequence[Sequence[Cell]], title: str, before: _Shape | None) -> _Shape:
    """Print a table, or what follows a part of it that had a shape. Returns the shape that it has now."""
    numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    texts = [[safe(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    if before is not None:
        widths = list(map(max, widths, before.widths))
        numeric = [is_number and was for is_number, was in zip(numeric, before.numeric, strict=True)]
    with written():
        if sys.stdout.isatty():
            from rich.console import Console

            _print_ruled(Console(highlight=False), columns, texts, numeric, title)
        else:
            if title:
                print(title)
            _print_plain([list(columns), *texts] if before is None else texts, widths, numeric)
    return _Shape(widths, numeric)


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print CSV for a spreadsheet, row by row. Nothing of it runs as a formula."""
    # The lines end as RFC 4180 has it, wherever this runs.
    with written():
        sys.stdout.write(BYTE_ORDER_MARK + csv_line(columns))
        for row in rows:
            sys.stdout.write(csv_line(row))


def print_rows(
    rows: Sequence[Any], json: bool, nothing: str, columns: Sequence[str], cells: Callable[[Any], Sequence[Cell]]
) -> None:
    """Print rows as JSON or as a table.

    Args:
        rows: what was found.
        json: whether one JSON document is wanted.
        nothing: the line for people where there are no rows.
        columns: of the table.
        cells: makes a row's cells.
    """
    if json:
        print_json(rows)
    elif not rows:
        say(nothing)
    else:
        print_table(columns, [cells(row) for row in rows])


def _print_ruled(
    console: "Console", columns: Sequence[str], rows: list[list[str]], numeric: list[bool], title: str
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold")
    for name, is_number in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum <= console.width:
        console.print(table)
    else:
        _print_records(console, columns, rows, title)


def _print_records(console: "Console", columns: Sequence[str], rows: list[list[str]], title: str) -> None:
    """Print each row as lines of `name  value`. Empty values are left out, long ones are the terminal's to wrap."""
    from rich.text import Text

    width = max(map(len, columns))
    blocks = [
        "".join(f"{name:<{width}}  {text}\n" for name, text in zip(columns, row, strict=True) if text) for row in rows
    ]
    heading = f"{title}\n\n" if title else ""
    console.print(Text(heading + "\n".join(blocks)), soft_wrap=True, end="")


def _print_plain(rows: Iterable[list[str]], widths: Sequence[int], numeric: Sequence[bool]) -> None:
    for row in rows:
        padded = (
            text.rjust(width) if is_number else text.ljust(width)
            for text, width, is_number in zip(row, widths, numeric, strict=True)
        )
        print("  ".join(padded).rstrip())
