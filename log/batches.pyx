# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Record batches as a broker sends them, in Kafka's second message format, the one that is written since 0.11.

Does nothing that log/reader.py doesn't do with librdkafka, several times slower. Whatever differs from the expected
form is left to that: an older format, a record that doesn't end where it should. Compiled by Cython where the core is compiled,
and absent elsewhere. Knows no Kafka client.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t

from creditfold.log.record import UNREADABLE_HEADERS, LogRecord

cdef Py_ssize_t _LENGTH_END = 12
cdef Py_ssize_t _EPOCH = 12
cdef Py_ssize_t _SUM = 17
cdef Py_ssize_t _SUMMED = 21
cdef Py_ssize_t _HEADER = 61
cdef int _CODEC = 0x07
cdef int _APPEND_TIME = 0x08
cdef int _CONTROL = 0x20


class StrangeBatchError(Exception):
    """A batch of a form that isn't read here."""


cdef class Batches:
    """The batches of an answer, one after the other; the last one may be cut off.

    Args:
        data: what the broker sent.
        decoders: what decompresses, by the codec's number; bytes to bytes.
        checksum: CRC-32C of bytes, as a number.
    """

    cdef bytes _data
    cdef dict _decoders
    cdef object _checksum
    cdef Py_ssize_t _at
    #: Of the leader when the last batch that was returned was written; -1 before the first.
    cdef readonly int epoch

    def __cinit__(self, bytes data not None, dict decoders not None, checksum):
        self._data = data
        self._decoders = decoders
        self._checksum = checksum
        self._at = 0
        self.epoch = -1

    def next(self, int64_t start):
        """Records of the next batch from an offset on, and the offset behind the batch; None where no whole one is left.

        Raises StrangeBatchError.
        """
        cdef const unsigned char* data = <const unsigned char*> PyBytes_AS_STRING(self._data)
        cdef Py_ssize_t left = PyBytes_GET_SIZE(self._data) - self._at, size
        cdef const unsigned char* at = data + self._at
        cdef int attributes
        cdef int64_t end
        cdef bytes body
        if left < _LENGTH_END:
            return None
        size = _LENGTH_END + _fixed(at + 8, 4)
        if size < _HEADER:
            raise StrangeBatchError
        if left < size:
            return None
        if at[16] != 2:
            raise StrangeBatchError
        body = PyBytes_FromStringAndSize(<const char*> at + _SUMMED, size - _SUMMED)
        if self._checksum(body) != <uint32_t> _fixed(at + _SUM, 4):
            raise StrangeBatchError
        self._at += size
        self.epoch = <int> _fixed(at + _EPOCH, 4)
        attributes = at[22]
        end = _fixed(at, 8) + _fixed(at + 23, 4) + 1
        if attributes & _CONTROL or end <= start:
            return max(end, start), []
        body = PyBytes_FromStringAndSize(<const char*> at + _HEADER, size - _HEADER)
        if attributes & _CODEC:
            decode = self._decoders.get(attributes & _CODEC)
            if decode is None:
                raise StrangeBatchError
            body = decode(body)
            if body is None:
                raise StrangeBatchError
        return end, _records(body, at, start, end)


cdef list _records(bytes body, const unsigned char* header, int64_t start, int64_t ended):
    cdef const unsigned char* at = <const unsigned char*> PyBytes_AS_STRING(body)
    cdef const unsigned char* end = at + PyBytes_GET_SIZE(body)
    cdef const unsigned char* record_end
    cdef int64_t base = _fixed(header, 8), since = _fixed(header + 27, 8), latest = _fixed(header + 35, 8)
    cdef int64_t count = _fixed(header + 57, 4), number, size, delta, place, last = -1
    cdef bint is_appended = header[22] & _APPEND_TIME
    cdef list found = []
    cdef object headers, new = tuple.__new__
    cdef object key, value
    for number in range(count):
        if not _varint(&at, end, &size) or size < 1 or size > end - at:
            raise StrangeBatchError
        record_end = at + size
        at += 1  # A record's attributes, which mean nothing yet.
        if not _varint(&at, record_end, &delta) or not _varint(&at, record_end, &place):
            raise StrangeBatchError
        if place <= last or place >= ended - base:
            raise StrangeBatchError
        last = place
        key = _bytes(&at, record_end)
        value = _bytes(&at, record_end)
        if not _varint(&at, record_end, &size) or size < 0:
            raise StrangeBatchError
        headers = _headers(&at, record_end, size) if size else ()
        if at != record_end:
            raise StrangeBatchError
        if base + place >= start:
            found.append(new(LogRecord, (base + place, latest if is_appended else since + delta, key, value, headers)))
    if at != end:
        raise StrangeBatchError
    return found


cdef object _headers(const unsigned char** at, const unsigned char* end, int64_t count):
    cdef list found = []
    cdef bint is_readable = True
    cdef int64_t number
    for number in range(count):
        name = _bytes(at, end)
        value = _bytes(at, end)
        if name is None:
            raise StrangeBatchError
        try:
            found.append(((<bytes> name).decode("utf-8"), value))
        except UnicodeDecodeError:
            is_readable = False
    return found if is_readable else UNREADABLE_HEADERS


cdef object _bytes(const unsigned char** at, const unsigned char* end):
    cdef int64_t size
    cdef const char* text
    if not _varint(at, end, &size) or size > end - at[0]:
        raise StrangeBatchError
    if size < 0:
        return None
    text = <const char*> at[0]
    at[0] += size
    return PyBytes_FromStringAndSize(text, size)


cdef inline bint _varint(const unsigned char** at, const unsigned char* end, int64_t* value) noexcept:
    """Read a number of variable length. Returns whether it ends within its bounds."""
    cdef uint64_t found = 0
    cdef int shift = 0
    cdef unsigned char byte
    while at[0] < end and shift < 64:
        byte = at[0][0]
        at[0] += 1
        found |= <uint64_t> (byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = <int64_t> (found >> 1) ^ -<int64_t> (found & 1)
            return True
        shift += 7
    return False


cdef inline int64_t _fixed(const unsigned char* at, int size) noexcept:
    """Read a number of four or eight bytes, signed, the most significant first."""
    cdef uint64_t found = 0
    cdef int number
    for number in range(size):
        found = found << 8 | at[number]
    return <int64_t> found if size == 8 else <int> found
