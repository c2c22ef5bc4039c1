"""CSV for spreadsheets: opens with the right letters and columns, and no cell of it runs as a formula.

Owns how a cell is written. Knows no table. Source: RFC 4180 for the form, OWASP's "CSV Injection" for what begins a
formula.
"""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime

from creditfold.common.lookalikes import escaped

#: Begins a file: without it a spreadsheet reads UTF-8 as the letters of its own country.
BYTE_ORDER_MARK = "\ufeff"
#: What a spreadsheet takes for the beginning of a formula, those of full width too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", *"\uff1d\uff0b\uff0d\uff20")


def csv_line(cells: Iterable[object]) -> str:
    """One line of CSV: numbers as they are, None as an empty cell, instants to the second in UTC, and texts harmless.

    A text that would begin a formula gets an apostrophe in front, which a spreadsheet takes for the mark of a text.
    What controls a terminal or is invisible is escaped.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow([_written(cell) for cell in cells])
    return line.getvalue()


def _written(cell: object) -> object:
    if isinstance(cell, datetime):
        # With a T, or with Z at its end, a spreadsheet takes it for a text.
        return f"{cell.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    if cell is None or (isinstance(cell, int) and not isinstance(cell, bool)):
        return cell
    text = str(cell)
    # A reader may strip the spaces in front.
    is_formula = text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)
    return f"'{escaped(text)}" if is_formula else escaped(text)
