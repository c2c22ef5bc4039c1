"""The lots that stand in their balance's row: how a line of `balances.lots` is laid out, for Python and for SQL.

A lot that only plain spends have changed gets its row in `lots` when it is empty; until then it is a line here, which
costs next to nothing to write with the balance. Owns the layout: Python's reader and the view `inline_lots` of
generation.sql are made of LINE, and tests/processors/test_plain.py holds the compiled core's lines to it.
"""

from typing import Any, LiteralString, NamedTuple

from psycopg import sql

from creditfold.ledger.commands import Terms
from creditfold.ledger.facts import CorruptStateError, LotId
from creditfold.ledger.rows import LotRow, light_lot


class Word(NamedTuple):
    """A word of a line: its column in `lots`, the column's type, how it is written, and a plain grant's value."""

    column: LiteralString
    kind: LiteralString
    pattern: LiteralString
    plain: str | None = None


_LONG: LiteralString = "[1-8]?[0-9]{1,18}"
_AMOUNT: LiteralString = "[0-9]{1,18}"

#: A line's words, with a space between two. A line ends before those that have a plain value if all have that one.
LINE = (
    Word("command_id", "text", "[!-~]+"),
    Word("made", "bigint", _LONG),
    Word("effective_at_ms", "bigint", _LONG),
    Word("amount", "bigint", _LONG),
    Word("remaining", "bigint", _LONG),
    Word("log_offset", "bigint", _LONG),
    Word("number", "integer", "[0-9]{1,9}", "1"),
    Word("lot_class", "text", "(paid|promo)", "paid"),
    Word("priority", "smallint", "[0-9]{1,3}", "50"),
    Word("expires_at_ms", "bigint", _AMOUNT, "0"),
    Word("source", "text", "[a-z_]+", "issued"),
    Word("expired", "bigint", _AMOUNT, "0"),
    Word("voided", "bigint", _AMOUNT, "0"),
    Word("forfeited", "bigint", _AMOUNT, "0"),
    Word("reissued", "bigint", _AMOUNT, "0"),
    Word("transferred", "bigint", _AMOUNT, "0"),
)
_REST = [word.plain for word in LINE if word.plain is not None]
_SHORT = len(LINE) - len(_REST)


def inline_lot(asset: str, line: str) -> tuple[LotRow, int]:
    """Read a line.

    Args:
        asset: the balance's.
        line: one of `balances.lots`.

    Returns:
        The lot, and the offset of the record that changed it last.

    Raises:
        CorruptStateError: the line isn't one of a lot.
    """
    try:
        words = line.split(" ")
        if len(words) == _SHORT:
            words += _REST
        values: list[Any] = [text if word.kind == "text" else int(text) for word, text in zip(LINE, words, strict=True)]
        command_id, made, effective_at, amount, remaining, offset, number, *terms, source = values[:11]
        lot_class, priority, expires_at = terms
        gone = values[11:]
        places = (amount, remaining, amount - remaining - sum(gone), *gone)
        whole = Terms(lot_class, priority, effective_at, expires_at)
        return light_lot(LotId(command_id, number), asset, whole, made, source, places=places), offset
    except ValueError:
        raise CorruptStateError(f"{line!a} is no lot") from None


def line_columns() -> sql.Composed:
    """The columns of a line that is cut up as the array `words`, in SQL."""
    columns = [_column(place, word) for place, word in enumerate(LINE, 1)]
    return sql.SQL(", ").join(columns)


def _column(place: int, word: Word) -> sql.Composed:
    value = sql.SQL("words[{}]::{}").format(sql.Literal(place), sql.SQL(word.kind))
    if word.plain is not None:
        value = sql.SQL("coalesce({}, {}::{})").format(value, sql.Literal(word.plain), sql.SQL(word.kind))
    return sql.SQL("{} AS {}").format(value, sql.Identifier(word.column))


def line_pattern() -> sql.Literal:
    """The regular expression of a line, in SQL."""
    first, rest = (" ".join(word.pattern for word in part) for part in (LINE[:_SHORT], LINE[_SHORT:]))
    return sql.Literal(f"^{first}( {rest})?$")
