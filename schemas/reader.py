"""Reads the records of a schema. Knows nothing of framing or of what fields mean.

Decoding is one of the most expensive steps of a fold, and a general decoder spends most of it on working out, for each
record, what to read next. Here that is worked out once for each schema: a list of the fields' kinds. fastavro stays the
yardstick: tests/schemas/test_schemas.py compares the two on any bytes.
"""

from collections.abc import Mapping
from typing import Any, Final

from creditfold.schemas.errors import MalformedError
from creditfold.schemas.registry import JsonSchema

MAP: Final = {"type": "map", "values": "string"}

MAX_VARINT_BITS: Final = 64

# The kinds of fields.
_TEXT: Final = 0
_LONG: Final = 1
_FLAG: Final = 2
_TEXTS: Final = 3
_ARRAY: Final = 4
_KINDS: Final[Mapping[str, int]] = {"string": _TEXT, "long": _LONG, "boolean": _FLAG}


class RecordReader:
    """Reads a record schema's records: strings, longs, booleans, maps of strings, and arrays of records of these.

    What it reads are the values of the current schema's fields, in their order: a field that the record lacks is at its
    default, one that is gone is left out. So it is with records in arrays: each is a tuple of its values, and the array
    a tuple of these.

    Args:
        schema: that the records were written by.
        current: whose values are wanted.

    Raises:
        TypeError: a schema has other types.
    """

    __slots__ = ("_items", "_kinds", "_places")

    def __init__(self, schema: JsonSchema, current: JsonSchema) -> None:
        today = {field["name"]: field["type"] for field in current["fields"]}
        names = [field["name"] for field in schema["fields"]]
        self._kinds = [_kind(field["type"]) for field in schema["fields"]]
        #: How the items of arrays are read, in the order of these fields.
        self._items = [
            _item_reader(field["type"], today.get(field["name"], field["type"]))
            for field in schema["fields"]
            if is_array(field["type"])
        ]
        #: Where the current fields' values are among those of the record, or the fields that it lacks; None where they
        #: are the same.
        self._places: list[int | dict[str, Any]] | None = None
        if names != list(today):
            self._places = [
                names.index(field["name"]) if field["name"] in names else field for field in current["fields"]
            ]
            for place in self._places:
                if isinstance(place, dict):
                    default_of(place)  # Raises when the schema is loaded, not at the first record.

    @property
    def least_bytes(self) -> int:
        """How short a record can be: each field takes a byte."""
        return len(self._kinds)

    def read(self, data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        """Read the record that starts at an offset; returns its values and the offset after it.

        Raises IndexError or ValueError for bytes that are no such record; the offset may be behind the bytes' end.
        """
        found: list[Any] = []
        arrays = 0
        for kind in self._kinds:
            # One byte is the length of most texts. Its lowest bit is the sign, its highest says that more bytes follow.
            byte = data[at]
            if kind == _TEXT:
                if byte & 129:
                    size, at = read_long(data, at)
                    if size < 0:
                        raise MalformedError("a text of negative length")
                    # Checked here, since an offset of over 62 bits is no offset for the compiled core.
                    if size > len(data) - at:
                        raise MalformedError("a text longer than the record")
                    found.append(data[at : at + size].decode())
                    at += size
                elif byte:
                    end = at + 1 + (byte >> 1)
                    found.append(data[at + 1 : end].decode())
                    at = end
                else:
                    found.append("")
                    at += 1
            elif kind == _LONG:
                if byte & 128:
                    number, at = read_long(data, at)
                    found.append(number)
                else:
                    found.append((byte >> 1) ^ -(byte & 1))
                    at += 1
            elif kind == _FLAG:
                # As fastavro has it, any byte but zero is true.
                found.append(byte != 0)
                at += 1
            elif kind == _TEXTS:
                texts, at = read_texts(data, at)
                found.append(texts)
            else:
                items, at = _read_array(self._items[arrays], data, at)
                found.append(items)
                arrays += 1
        if self._places is None:
            return tuple(found), at
        return tuple([found[one] if isinstance(one, int) else default_of(one) for one in self._places]), at


def _kind(kind: Any) -> int:
    found = _KINDS.get(kind) if isinstance(kind, str) else _TEXTS if kind == MAP else _ARRAY if is_array(kind) else None
    if found is None:
        raise TypeError(f"no reader for a field of type {kind}")
    return found


def is_array(kind: Any) -> bool:
    """Whether a schema's type is an array."""
    return isinstance(kind, dict) and kind.get("type") == "array"


def default_of(field: Mapping[str, Any]) -> Any:
    """A field's default as a reader returns it, a new object each time. Raises TypeError where there is none."""
    if "default" not in field:
        raise TypeError(f"no reader for records without {field['name']}, which has no default")
    return _as_read(field["type"], field["default"])


def _as_read(kind: Any, value: Any) -> Any:
    if is_array(kind):
        return tuple(_as_read(kind["items"], item) for item in value)
    if isinstance(kind, dict) and kind["type"] == "record":
        return tuple(
            _as_read(field["type"], value[field["name"]]) if field["name"] in value else default_of(field)
            for field in kind["fields"]
        )
    return dict(value) if kind == MAP else value


def _item_reader(kind: Any, current: Any) -> RecordReader:
    items = kind["items"]
    if not (isinstance(items, dict) and items.get("type") == "record"):
        raise TypeError(f"no reader for an array of {items}")
    if not items["fields"]:
        raise TypeError("no reader for an array of records without fields: a few bytes would make any number of them")
    return RecordReader(items, current["items"])


def _read_array(reader: RecordReader, data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
    found: list[Any] = []
    while True:
        count, at = read_long(data, at)
        if count == 0:
            return tuple(found), at
        if count < 0:
            count = -count
            _, at = read_long(data, at)
        # Before anything is made of it: a count is a few bytes, and may say that any number of items follows.
        if count * reader.least_bytes > len(data) - at:
            raise MalformedError("more items than the record can hold")
        for _ in range(count):
            values, at = reader.read(data, at)
            found.append(values)


def read_long(data: bytes, at: int) -> tuple[int, int]:
    """Read a zigzag varint of at most 64 bits. Returns the number and the offset after it."""
    value = bits = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << bits
        if byte < 128:
            break
        bits += 7
        if bits >= MAX_VARINT_BITS:
            raise MalformedError("a number of more than 64 bits")
    if value >> MAX_VARINT_BITS:
        raise MalformedError("a number of more than 64 bits")
    return (value >> 1) ^ -(value & 1), at


def read_texts(data: bytes, at: int) -> tuple[dict[str, str], int]:
    """Read a map of strings, in any number of blocks. Returns it and the offset after it."""
    found: dict[str, str] = {}
    if not data[at]:
        # As most are.
        return found, at + 1
    while True:
        count, at = read_long(data, at)
        if count == 0:
            return found, at
        if count < 0:
            # A negative count is followed by the block's size, which lets others skip it.
            count = -count
            _, at = read_long(data, at)
        for _ in range(count):
            key, at = _text(data, at)
            found[key], at = _text(data, at)


def _text(data: bytes, at: int) -> tuple[str, int]:
    size, at = read_long(data, at)
    if not 0 <= size <= len(data) - at:
        raise MalformedError("a text longer than the record")
    return data[at : at + size].decode(), at + size
