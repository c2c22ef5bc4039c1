"""Compiles a schema into a function that reads its records. Knows nothing of framing or of what fields mean.

Decoding is the dearest step of a fold, and a general decoder spends most of it on finding out, for each record, what
it is about to read. Here that is found out once for each schema. The code is made from our own lock file, never from
what is in the log. fastavro stays the yardstick: tests/test_schemas.py compares the two on any bytes.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from creditfold.schemas.registry import JsonSchema

#: Reads the record that starts at an offset and ends with the bytes; gives its values.
Reader: TypeAlias = Callable[[bytes, int], tuple[Any, ...]]

MAX_VARINT_BITS = 64


class MalformedError(ValueError):
    """Bytes that the schema can't have written."""


def compile_reader(schema: JsonSchema, current: JsonSchema) -> Reader:
    """Make the reader of a record schema whose fields are strings, longs, and maps of strings.

    Its values are those of the current schema's fields, in their order: a field that the record lacks is at its
    default, one that is gone is left out. Raises TypeError for a schema with other types.
    """
    lines, read = ["def read(data, at):"], {}
    for number, field in enumerate(schema["fields"]):
        read[field["name"]] = f"f{number}"
        lines += _field(f"f{number}", field["type"])
    values = [read.get(field["name"], repr(field.get("default"))) for field in current["fields"]]
    lines += [
        "    if at != len(data): raise MalformedError(f'{len(data) - at} bytes left over after the record')",
        f"    return ({', '.join(values)},)",
    ]
    scope: dict[str, Any] = {"MalformedError": MalformedError, "long": read_long, "texts": read_texts}
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
    if kind == {"type": "map", "values": "string"}:
        return [
            "    if data[at]:",
            f"        {name}, at = texts(data, at)",
            "    else:",
            f"        {name} = {{}}; at += 1",
        ]
    raise TypeError(f"no reader for a field of type {kind}")


def read_long(data: bytes, at: int) -> tuple[int, int]:
    """Read a zigzag varint of at most 64 bits; gives the number and the offset after it."""
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
    """Read a map of strings, in however many blocks; gives it and the offset after it."""
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
