"""The bounds of a command's fields, and what a text may hold. Source: docs/rules.md, "Valid commands".

Lengths count Unicode code points. The character classes are spelled out instead of asked of `str.isprintable`
and its kin: those follow the Unicode tables of the Python in use, and a replay must not.
"""

import re
from typing import Final

MAX_AMOUNT: Final = 2**53 - 1
MAX_COMMAND_ID: Final = 64
MAX_ACCOUNT: Final = 128
MAX_ASSET: Final = 64
MAX_SOURCE: Final = 128
MAX_REASON: Final = 1_024
MAX_METADATA_ENTRIES: Final = 32
MAX_METADATA_KEY: Final = 64
MAX_METADATA_VALUE: Final = 1_024
# Of a value that accounts are searched by: an entry of an index has room for it, a key and an account.
MAX_SEARCHABLE_VALUE: Final = 256
# 9999-12-31T23:59:59.999Z, the last instant that every reader of the projection can print.
MAX_OCCURRED_AT: Final = 253_402_300_799_999
MAX_MINUTE: Final = MAX_OCCURRED_AT // 60_000
MAX_RECORD_BYTES: Final = 65_536
# Of a transfer on its way, which may be in many parcels.
MAX_TRANSFER_BYTES: Final = 900_000
# As many as such a record can carry, whatever their names.
MAX_PARCELS: Final = 1_000
MAX_RULES: Final = 32_767
# An account's credits of one asset stay under this, so that sums of a few of them fit a bigint.
MAX_BALANCE: Final = 2**62 - 1

_CONTROL: Final = r"\x00-\x1f\x7f-\x9f\ud800-\udfff"
_SPACE: Final = r" \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_BAD_IN_ID: Final = re.compile(rf"[{_CONTROL}]|\A[{_SPACE}]|[{_SPACE}]\Z").search
# Line breaks and tabs are welcome in a note; PostgreSQL can't store NUL, UTF-8 has no surrogates.
_BAD_IN_NOTE: Final = re.compile(r"[\x00\ud800-\udfff]").search


def is_id(text: str, longest: int) -> bool:
    """Say whether a text can name something: 1 to `longest` characters, no control character, no outer space."""
    if not 0 < len(text) <= longest:
        return False
    # Most ids are ASCII, for which the methods of str are quicker and say the same for ever.
    if text.isascii():
        return text.isprintable() and text[0] != " " and text[-1] != " "
    return _BAD_IN_ID(text) is None


def is_note(text: str, longest: int) -> bool:
    """Say whether a text can be kept as a note: at most `longest` characters, neither NUL nor surrogate."""
    # Most are empty.
    return not text or (len(text) <= longest and _BAD_IN_NOTE(text) is None)
