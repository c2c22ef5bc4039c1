# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The fast way of writing records: those of short ASCII texts, numbers and flags, as nearly all are.

Implements no rule of its own, and refuses nothing: writer.py is the truth, and whatever differs (a field that is absent
or of another type, a letter beyond ASCII, a map or an array that has something in it, a long record) is left to it. tests/schemas/test_schemas.py holds both to fastavro. Compiled by Cython where the core is
compiled, and absent elsewhere.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    void* PyUnicode_DATA(object text)
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow) except? -1

cdef enum:
    _STRING
    _LONG
    _BOOLEAN
    _EMPTY
    # Longer ones are rare, and no more than anywhere else is gained by it.
    _ROOM = 2_048
    _LONGEST_VARINT = 10

_KINDS = {"string": _STRING, "long": _LONG, "boolean": _BOOLEAN}


@cython.final
cdef class FlatRecords:
    """Writes records of one version of a schema.

    Args:
        header: what each record begins with.
        schema: the version's.
        lacking: what later versions have fields for and this one doesn't, with the defaults.
    """

    cdef bytes _header
    cdef list _names
    cdef list _kinds
    cdef list _lacking

    def __init__(self, bytes header not None, schema, lacking):
        if len(header) > _ROOM:
            raise ValueError("a header that leaves no room for a record")
        self._header = header
        self._names = [field["name"] for field in schema["fields"]]
        self._kinds = [
            _KINDS[field["type"]] if isinstance(field["type"], str) else _EMPTY for field in schema["fields"]
        ]
        self._lacking = list(lacking)

    def encoded(self, fields):
        """The record of fields by their names, None where another version or the general way has to write it."""
        cdef unsigned char[_ROOM] body
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self._header), length, number
        cdef PyObject* found
        cdef int kind, overflow = 0
        cdef int64_t value
        if type(fields) is not dict:
            return None
        for name, default in self._lacking:
            found = PyDict_GetItem(fields, name)
            # Nearly always the very same object.
            if found != NULL and <object> found is not default:
                if type(<object> found) is not type(default) or <object> found != default:
                    return None
        memcpy(body, PyBytes_AS_STRING(self._header), size)
        for number in range(len(self._names)):
            found = PyDict_GetItem(fields, self._names[number])
            if found == NULL:
                return None
            kind = self._kinds[number]
            field = <object> found
            if kind == _STRING:
                if type(field) is not str or not PyUnicode_IS_COMPACT_ASCII(field):
                    return None
                length = PyUnicode_GET_LENGTH(field)
                if size + _LONGEST_VARINT + length > _ROOM:
                    return None
                _write_long(body, &size, length)
                memcpy(body + size, PyUnicode_DATA(field), length)
                size += length
                continue
            if size + _LONGEST_VARINT > _ROOM:
                return None
            if kind == _LONG:
                if type(field) is not int:
                    return None
                value = PyLong_AsLongLongAndOverflow(field, &overflow)
                if overflow:
                    return None
                _write_long(body, &size, value)
            elif kind == _BOOLEAN:
                if type(field) is not bool:
                    return None
                body[size] = field is True
                size += 1
            else:
                if (type(field) is not dict and type(field) is not tuple and type(field) is not list) or len(field):
                    return None
                _write_long(body, &size, 0)
        return PyBytes_FromStringAndSize(<char*> body, size)


cdef inline void _write_long(unsigned char* body, Py_ssize_t* size, int64_t value) noexcept:
    """A number as a zigzag varint."""
    cdef uint64_t left = (<uint64_t> value << 1) ^ <uint64_t> (value >> 63)
    while left > 127:
        body[size[0]] = left & 127 | 128
        size[0] += 1
        left >>= 7
    body[size[0]] = left
    size[0] += 1
