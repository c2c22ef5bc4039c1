# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The fast path of plain commands in files: grants and spends that use no field but source, time and reason.

Implements no rule of its own. Python is the truth: import_commands.py reads a record, models/commands.py judges it,
schemas/ writes it. Here nearly all records are taken from the line's bytes to those of the log at once; any other (a
letter beyond ASCII, an escape, a quote in CSV, anything bad) is left to Python, which alone refuses. tests/producers/test_plain_lines.py holds the two together. Compiled by Cython where the
core is compiled, and absent elsewhere. Knows no file and no Kafka.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy

from creditfold.ledger import limits
from creditfold.ledger.credit_validity import DERIVED
from creditfold.producers.models.commands import Encoded
from creditfold.common.instants import PLAIN, InstantError, instant_of

cdef enum:
    TYPE
    # In the order of the record, in which those of the command itself stand behind the amount.
    COMMAND_ID
    ACCOUNT
    ASSET
    AMOUNT
    OCCURRED_AT
    SOURCE
    REASON
    _FIELDS

#: The fields that this way knows, `type` first, then those of the record in their order.
FIELDS = ("type", "command_id", "account", "asset", "amount", "occurred_at", "source", "reason")

cdef bytes _NAMES = b"".join(name.encode().ljust(16, b"\0") for name in FIELDS)
cdef Py_ssize_t[_FIELDS] _NAME_SIZES
_NAME_SIZES[:] = [len(name) for name in FIELDS]

#: In bytes. What is longer is for Python to judge, numbers of more digits and instants of more letters among it.
cdef Py_ssize_t[_FIELDS] _LONGEST
_LONGEST[:] = [
    5, limits.MAX_COMMAND_ID, limits.MAX_ACCOUNT, limits.MAX_ASSET, 16, 40, limits.MAX_SOURCE, limits.MAX_REASON
]
cdef int64_t _MAX_AMOUNT = limits.MAX_AMOUNT
cdef int64_t _FIRST_INSTANT = PLAIN[0]
cdef int64_t _END_OF_INSTANTS = PLAIN[1]
cdef char _DERIVED = ord(DERIVED)

# What stands behind the amount in the record of a plain command: the defaults of the fields that only a grant has
# (lot_class "paid", priority 50, and three that are empty), or only a spend.
cdef bytes _GRANT_OWN = b"\x08paid\x64\0\0\0"
cdef bytes _SPEND_OWN = b"\0\0\0"
cdef object _new = tuple.__new__
cdef tuple _NO_HEADERS = ()

cdef enum:
    _HEADER = 5
    # A header, the texts with their lengths, two numbers, what is at its default, an empty map.
    _MOST_BYTES = 4_096

if sum(limit for limit in _LONGEST) + 64 > _MOST_BYTES:
    raise AssertionError("a plain record may be longer than its room")


cdef struct Found:
    # Of each field where its text begins, and its size; -1 where it is absent.
    const char* text[_FIELDS]
    Py_ssize_t size[_FIELDS]


cdef inline bint _is_plain(char byte) noexcept:
    """Whether a byte means itself wherever it stands: printable ASCII but for the quote and the backslash."""
    return 0x20 <= byte <= 0x7E and byte != 0x22 and byte != 0x5C


cdef inline bint _is_digit(char byte) noexcept:
    return 0x30 <= byte <= 0x39


cdef inline const char* _after_space(const char* at, const char* end) noexcept:
    while at < end and (at[0] == 0x20 or 0x09 <= at[0] <= 0x0A or at[0] == 0x0D):
        at += 1
    return at


cdef inline const char* _after_text(const char* at, const char* end) noexcept:
    while at < end and _is_plain(at[0]):
        at += 1
    return at


cdef inline const char* _after_digits(const char* at, const char* end) noexcept:
    while at < end and _is_digit(at[0]):
        at += 1
    return at


cdef inline int _field_of(const char* name, Py_ssize_t size) noexcept:
    cdef int field
    cdef const char* names = PyBytes_AS_STRING(_NAMES)
    for field in range(_FIELDS):
        if _NAME_SIZES[field] == size and memcmp(names + 16 * field, name, size) == 0:
            return field
    return -1


cdef inline int64_t _number(const char* text, Py_ssize_t size) noexcept:
    """The value of at most 16 digits."""
    cdef int64_t value = 0
    cdef Py_ssize_t at
    for at in range(size):
        value = 10 * value + (text[at] - 0x30)
    return value


cdef int64_t _instant(const char* text, Py_ssize_t size) except? -2:
    """The instant that a text or a number is, or 0 for a single 0; less than nothing for what Python has to look at."""
    cdef int64_t value
    if 0 < size <= 16 and _after_digits(text, text + size) == text + size:
        value = _number(text, size)
        return value if _FIRST_INSTANT <= value < _END_OF_INSTANTS or (value == 0 and size == 1) else -1
    try:
        return instant_of(PyBytes_FromStringAndSize(text, size).decode("ascii"))
    except InstantError:
        return -1


cdef bint _read_json(const char* at, const char* end, Found* found) noexcept:
    """Find the fields of one JSON object; whether it is one that this way knows."""
    cdef const char* start
    cdef int field
    at = _after_space(at, end)
    if at == end or at[0] != 0x7B:  # {
        return False
    while True:
        at = _after_space(at + 1, end)
        if at == end or at[0] != 0x22:  # "
            return False
        start = at + 1
        at = _after_text(start, end)
        if at == end or at[0] != 0x22:
            return False
        field = _field_of(start, at - start)
        if field < 0 or found.size[field] >= 0:
            return False
        at = _after_space(at + 1, end)
        if at == end or at[0] != 0x3A:  # :
            return False
        at = _after_space(at + 1, end)
        if at == end:
            return False
        if field == AMOUNT or (field == OCCURRED_AT and at[0] != 0x22):
            start = at
            at = _after_digits(start, end)
            found.size[field] = at - start
            # JSON has no number that begins with a zero.
            if at == start or (start[0] == 0x30 and at - start > 1):
                return False
        else:
            if at[0] != 0x22:
                return False
            start = at + 1
            at = _after_text(start, end)
            if at == end or at[0] != 0x22:
                return False
            found.size[field] = at - start
            at += 1
        found.text[field] = start
        at = _after_space(at, end)
        if at == end:
            return False
        if at[0] == 0x7D:  # }
            return _after_space(at + 1, end) == end
        if at[0] != 0x2C:  # ,
            return False


cdef inline void _write_long(unsigned char* body, Py_ssize_t* size, int64_t value) noexcept:
    """A number that isn't negative, as a zigzag varint."""
    cdef uint64_t left = <uint64_t> value << 1
    while left > 127:
        body[size[0]] = left & 127 | 128
        size[0] += 1
        left >>= 7
    body[size[0]] = left
    size[0] += 1


cdef inline void _write_text(unsigned char* body, Py_ssize_t* size, const char* text, Py_ssize_t length) noexcept:
    _write_long(body, size, length)
    memcpy(body + size[0], text, length)
    size[0] += length


@cython.final
cdef class PlainLines:
    """Makes records of plain commands.

    Args:
        grant, spend: what their records begin with.
        columns: the names of a CSV's columns; None for JSON Lines.
    """

    cdef bytes _grant
    cdef bytes _spend
    cdef bint _is_csv
    cdef list _columns

    def __init__(self, bytes grant not None, bytes spend not None, columns=None):
        if len(grant) != _HEADER or len(spend) != _HEADER:
            raise ValueError("a header is of five bytes")
        self._grant = grant
        self._spend = spend
        self._is_csv = columns is not None
        self._columns = [FIELDS.index(name) if name in FIELDS else -1 for name in columns or ()]

    def encoded(self, bytes record not None):
        """The record of a plain command, None for anything else: Python's own way then reads, or refuses, it."""
        cdef Found found
        cdef int field
        cdef const char* at = PyBytes_AS_STRING(record)
        cdef const char* end = at + PyBytes_GET_SIZE(record)
        for field in range(_FIELDS):
            found.text[field] = NULL
            found.size[field] = -1
        if not (self._read_csv(at, end, &found) if self._is_csv else _read_json(at, end, &found)):
            return None
        return self._written(&found)

    cdef bint _read_csv(self, const char* at, const char* end, Found* found):
        """Find the cells of one CSV record without quotes; whether it is one that this way knows."""
        cdef const char* start
        cdef Py_ssize_t column = 0, columns = len(self._columns)
        cdef int field
        if at < end and (end - 1)[0] == 0x0A:
            end -= 1
        if at < end and (end - 1)[0] == 0x0D:
            end -= 1
        while column < columns:
            start = at
            while at < end and at[0] != 0x2C and _is_plain(at[0]):
                # A number that a spreadsheet rounded, 1E+05, is for Python to name.
                if at[0] == 0x2B and at > start and (at - 1)[0] == 0x45:
                    return False
                at += 1
            if at < end and at[0] != 0x2C:
                return False
            # An empty cell is an absent field.
            if at > start:
                field = self._columns[column]
                if field < 0 or (field == AMOUNT and _after_digits(start, at) != at):
                    return False
                found.text[field] = start
                found.size[field] = at - start
            column += 1
            if at == end:
                return column == columns
            at += 1
        return False

    cdef object _written(self, Found* found):
        """The record of what was found, None where Python has to look at it."""
        cdef unsigned char[_MOST_BYTES] body
        cdef Py_ssize_t size = _HEADER
        cdef int field
        cdef int64_t amount, occurred_at = 0
        cdef bytes header, own
        for field in range(_FIELDS):
            if found.size[field] > _LONGEST[field]:
                return None
            if field <= AMOUNT and found.size[field] < 1:
                return None
        for field in range(COMMAND_ID, AMOUNT):
            if found.text[field][0] == 0x20 or found.text[field][found.size[field] - 1] == 0x20:
                return None
        if found.text[COMMAND_ID][0] == _DERIVED or found.size[TYPE] != 5:
            return None
        if memcmp(found.text[TYPE], b"grant", 5) == 0:
            header, own = self._grant, _GRANT_OWN
        elif memcmp(found.text[TYPE], b"spend", 5) == 0:
            header, own = self._spend, _SPEND_OWN
        else:
            return None
        amount = _number(found.text[AMOUNT], found.size[AMOUNT])
        if not 1 <= amount <= _MAX_AMOUNT:
            return None
        if found.size[OCCURRED_AT] >= 0:
            occurred_at = _instant(found.text[OCCURRED_AT], found.size[OCCURRED_AT])
            if occurred_at < 0:
                return None
        memcpy(body, PyBytes_AS_STRING(header), _HEADER)
        for field in range(COMMAND_ID, AMOUNT):
            _write_text(body, &size, found.text[field], found.size[field])
        _write_long(body, &size, amount)
        memcpy(body + size, PyBytes_AS_STRING(own), PyBytes_GET_SIZE(own))
        size += PyBytes_GET_SIZE(own)
        _write_long(body, &size, occurred_at)
        for field in range(SOURCE, _FIELDS):
            _write_text(body, &size, found.text[field], max(found.size[field], 0))
        # No metadata.
        _write_long(body, &size, 0)
        key = PyBytes_FromStringAndSize(found.text[ACCOUNT], found.size[ACCOUNT])
        return _new(Encoded, (key, PyBytes_FromStringAndSize(<char*> body, size), _NO_HEADERS, -1))
