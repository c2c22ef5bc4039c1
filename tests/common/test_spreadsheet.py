"""CSV for spreadsheets: what is read back is what was written, and nothing of it begins a formula."""

import csv
from datetime import UTC, datetime

import pytest

from creditfold.common.spreadsheet import csv_line


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        (-120, "-120"),
        (2**62, str(2**62)),
        (None, ""),
        (datetime(2026, 6, 30, 23, 59, 59, 999_000, tzinfo=UTC), "2026-06-30 23:59:59"),
        ("order-1", "order-1"),
        ("Ωμέγα, so", "Ωμέγα, so"),
        ('say "so"', 'say "so"'),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ("\t=1", "'\\t=1"),
        ("\r\n=1", "'\\r\\n=1"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
    ],
)
def test_a_cell_is_written_for_a_spreadsheet(cell: object, written: str) -> None:
    """A number stays one, and a text can't become more than that."""
    line = csv_line(["first", cell, "last"])
    assert line.endswith("\r\n")
    assert next(csv.reader([line])) == ["first", written, "last"]
