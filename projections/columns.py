"""Columns of values on their way to PostgreSQL: psycopg's own arrays cost more than deciding does.

Texts go joined by a control character that no id can hold, numbers as PostgreSQL itself writes an array of them.
"""

from array import array
from collections.abc import Iterable
from struct import Struct
from sys import byteorder

from psycopg import adapters
from psycopg.adapt import Dumper
from psycopg.pq import Format

SEPARATOR = "\x1f"

#: Stands for a missing number: no column of ours that can miss one has a negative.
NULL = -1

# PostgreSQL's numbers for its types, bigint and an array of it.
_BIGINT, _BIGINTS = 20, 1016
_HEAD = Struct(">iiIii")
_CELL = b"\0\0\0\x08" + bytes(8)


class Longs(bytes):
    """An array of bigint in PostgreSQL's binary form. Its placeholder is `%b`."""


def longs(values: Iterable[int]) -> Longs:
    """Make an array of whole numbers. Raises OverflowError for one of more than 64 bits."""
    numbers = array("q", values)
    return longs_of(len(numbers), [number_cells(numbers)])


def longs_of(count: int, parts: Iterable[bytes]) -> Longs:
    """Make an array of so many numbers whose cells are there."""
    # One dimension, without NULL, of bigint, so many, counted from 1.
    return Longs(_HEAD.pack(1, 0, _BIGINT, count, 1) + b"".join(parts))


def number_cells(values: Iterable[int]) -> bytes:
    """Whole numbers as an array has them, one after the other. Raises OverflowError for one of more than 64 bits."""
    numbers = array("q", values)
    if byteorder == "little":
        numbers.byteswap()
    raw = numbers.tobytes()
    # Each has its length before it. Eight strided copies take a quarter of the time of packing them one by one.
    cells = bytearray(_CELL * len(numbers))
    for at in range(8):
        cells[4 + at :: 12] = raw[at::8]
    return bytes(cells)


class _LongsDumper(Dumper):
    format = Format.BINARY
    oid = _BIGINTS

    def dump(self, obj: Longs) -> bytes:
        return obj


adapters.register_dumper(Longs, _LongsDumper)
