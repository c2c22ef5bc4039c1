"""What commands print of any length: as a whole, and while it comes."""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any

import pytest

from creditfold.cli.shared import output

COLUMNS = ("kind", "amount")
ROWS = [("opening", "-"), *(("line", 10**n) for n in range(7)), ("closing", "-")]


class Terminal(io.StringIO):
    """Takes what is printed, as a terminal or as a file."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.is_terminal


def printed(print_it: Callable[..., None], *arguments: Any) -> str:
    """What is printed into a file."""
    out = Terminal()
    with redirect_stdout(out):
        print_it(*arguments)
    return out.getvalue()


def held(rows: Iterable[Any], out: Terminal, mark: str, most: list[int]) -> Iterator[Any]:
    """Hands out rows, each printed with a mark, and notes how many of those before it aren't printed yet."""
    for number, row in enumerate(rows):
        most.append(number - len(re.findall(mark, out.getvalue())))
        yield row


def cells(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in text.splitlines() if line.strip(" ─-")]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_long_table_is_printed_while_it_comes(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows, of which a part is held at once; on a terminal each part has a heading."""
    monkeypatch.setattr(output, "PART_ROWS", 2)
    monkeypatch.setenv("TERM", "dumb")
    out, most = Terminal(is_terminal=is_terminal), list[int]()
    with redirect_stdout(out):
        output.print_long_table(COLUMNS, held(ROWS, out, "opening|line", most))
    assert max(most) == 1
    rows: Sequence[Sequence[Any]] = [[name, f"{cell:,}" if isinstance(cell, int) else cell] for name, cell in ROWS]
    found = cells(out.getvalue())
    assert found.count(list(COLUMNS)) == (5 if is_terminal else 1)
    assert [row for row in found if row != list(COLUMNS)] == rows


def test_a_long_table_of_one_part_is_printed_as_any() -> None:
    """The two ways differ in nothing else."""
    assert printed(output.print_long_table, COLUMNS, ROWS) == printed(output.print_table, COLUMNS, ROWS)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_list_of_an_object_is_printed_while_it_comes(count: int) -> None:
    """The document is the one that is printed at once, and one row of it is held."""
    rows = [{"kind": "line", "amount": n, "note": "\u2028a\nb\u202e", "facts": [[n]]} for n in range(count)]
    found = {"account": "ann", "opening": [{"asset": "gold"}], "lines": rows, "closing": []}
    out, most = Terminal(), [0]
    with redirect_stdout(out):
        output.print_json_object({**found, "lines": held(rows, out, '"kind"', most)})
    assert max(most) <= 1
    assert json.loads(out.getvalue()) == found
    assert printed(output.print_json, found) == out.getvalue()
