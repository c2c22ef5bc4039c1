"""Compiles a schema into a function that reads its records. Knows nothing of framing or of what fields mean.

Decoding is the most expensive step of a fold, and a general decoder spends most of it on working out, for each record,
what to read next. Here that is worked out once for each schema. The code is made from our own lock file, never from
what is in the log. fastavro stays the yardstick: tests/schemas/test_schemas.py compares the two on any bytes.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from creditfold.schemas.registry import JsonSchema

#: Reads the record that starts at an offset and ends with the bytes; returns its values.
Reader: TypeAlias = Callable[[bytes, int], tuple[Any, ...]]
#: Reads the value that starts at an offset; returns it and the offset after it.
ValueReader: TypeAlias = Callable[[bytes, int], tuple[Any, int]]

MAP = {"type": "map", "values": "string"}

MAX_VARINT_BITS = 64


class MalformedError(ValueError):
    """Bytes that the schema can't have written."""


def compile_reader(schema: JsonSchema, current: JsonSchema) -> Reader:
    """Make the reader of a record schema: strings, longs, booleans, maps of strings, and arrays of records of these.

    Its values are those of the current schema's fields, in their order: a field that the record lacks is at its
    default, one that is gone is left out. So it is with records in arrays: each is a tuple of its values, and the array
    a tuple of these. Raises TypeError for a schema with other types.
    """
    today = {field["name"]: field["type"] for field in current["fields"]}
    lines, read = ["def read(data, at):"], {}
    readers: dict[str, ValueReader] = {}
    for number, field in enumerate(schema["fields"]):
        name = read[field["name"]] = f"f{number}"
        if is_array(field["type"]):
            readers[f"read_{name}"] = _array(field["type"], today.get(field["name"], field["type"]))
            lines.append(f"    {name}, at = read_{name}(data, at)")
        else:
            lines += _field(name, field["type"])
    # A default is made for each record, since its source text is inserted here: no two records share a map.
    values = [read.get(field["name"]) or repr(default_of(field)) for field in current["fields"]]
    lines += [
        "    if at != len(data): raise MalformedError(f'{len(data) - at} bytes left over after the record')",
        f"    return ({', '.join(values)},)",
    ]
    scope: dict[str, Any] = {"MalformedError": MalformedError, "long": read_long, "texts": read_texts, **readers}
    exec("\n".join(lines), scope)  # noqa: S102 — see above: the source is ours.
    reader: Reader = scope["read"]
    return reader


def _field(name: str, kind: Any) -> list[str]:
    if kind == "string":
        # One byte is the length of most texts. Its lowest bit is the sign, its highest says that more bytes follow.
        return [
            "    size = data[at]",
            "    if size & 129:",
            "        size, at = long(data, at)",
            "        if size < 0: raise MalformedError('a text of negative length')",
            "    else:",
            "        size >>= 1; at += 1",
            f"    {name} = data[at:at + size].decode()",
            "    at += size",
        ]
    if kind == "long":
        return [
            f"    {name} = data[at]",
            f"    if {name} & 128:",
            f"        {name}, at = long(data, at)",
            "    else:",
            f"        {name} = ({name} >> 1) ^ -({name} & 1); at += 1",
        ]
    if kind == "boolean":
        return [f"    {name} = data[at] != 0; at += 1"]
    if kind == MAP:
        return [
            "    if data[at]:",
            f"        {name}, at = texts(data, at)",
            "    else:",
            f"        {name} = {{}}; at += 1",
        ]
    raise TypeError(f"no reader for a field of type {kind}")


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


def _array(kind: Any, current: Any) -> ValueReader:
    item, size = _record(kind["items"], current["items"]), len(kind["items"]["fields"])  # Each field takes a byte.
    if not size:
        raise TypeError("no reader for an array of records without fields: a few bytes would make any number of them")

    def read(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        found: list[Any] = []
        while True:
            count, at = read_long(data, at)
            if count == 0:
                return tuple(found), at
            if count < 0:
                count = -count
                _, at = read_long(data, at)
            # Before anything is made of it: a count is a few bytes, and may say that any number of items follows.
            if count * size > len(data) - at:
                raise MalformedError("more items than the record can hold")
            for _ in range(count):
                value, at = item(data, at)
                found.append(value)

    return read


def _record(kind: Any, current: Any) -> ValueReader:
    """Make the reader of a record within a record. Slower than the outer one's: few records have any."""
    if not (isinstance(kind, dict) and kind.get("type") == "record"):
        raise TypeError(f"no reader for an array of {kind}")
    today = {field["name"]: field["type"] for field in current["fields"]}
    steps = [
        (field["name"], _value(field["type"], today.get(field["name"], field["type"]))) for field in kind["fields"]
    ]
    written = {name for name, _ in steps}
    lacking = [field for field in current["fields"] if field["name"] not in written]
    for field in lacking:
        default_of(field)  # Raises when the schema is loaded, not at the first record.

    def read(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        values = {}
        for name, read_value in steps:
            values[name], at = read_value(data, at)
        for field in lacking:
            values[field["name"]] = default_of(field)
        return tuple([values[name] for name in today]), at

    return read


def _value(kind: Any, current: Any) -> ValueReader:
    simple = _SIMPLE.get(kind) if isinstance(kind, str) else read_texts if kind == MAP else None
    if simple is not None:
        return simple
    if is_array(kind):
        return _array(kind, current)
    raise TypeError(f"no reader for a field of type {kind}")


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


def read_boolean(data: bytes, at: int) -> tuple[bool, int]:
    """Read a boolean: as fastavro has it, any byte but zero is true. Returns it and the offset after it."""
    return data[at] != 0, at + 1


_SIMPLE: Mapping[str, ValueReader] = {"string": _text, "long": read_long, "boolean": read_boolean}
