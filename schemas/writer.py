"""Compiles a schema into a function that writes its records. Knows nothing of framing or of what fields mean.

The counterpart of reader.py, for its reason: a general encoder spends most of its time on working out, for each record,
what to write next. The code is made from our own lock file, never from what is written. fastavro stays the
yardstick: tests/schemas/test_schemas.py compares the two.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from creditfold.schemas.reader import MAP, MAX_VARINT_BITS, is_array
from creditfold.schemas.registry import JsonSchema

#: Writes the fields of a record, given by their names.
Writer: TypeAlias = Callable[[Mapping[str, Any]], bytes]
#: Whether a version of a record can hold fields.
Room: TypeAlias = Callable[[Mapping[str, Any]], bool]


def compile_writer(schema: JsonSchema, header: bytes = b"") -> Writer:
    """Make the writer of a record schema: strings, longs, booleans, maps of strings, and arrays of records of these.

    An absent field is at its default, and one that the schema doesn't know is left out. The writer raises ValueError,
    TypeError, AttributeError or OverflowError for fields that don't fit.

    Args:
        schema: of the record, as in its `.avsc`.
        header: what each record begins with.

    Raises TypeError for a schema with other types.
    """
    defaults = {field["name"]: field["default"] for field in schema["fields"] if "default" in field}
    scope: dict[str, Any] = {"LONGS": _LONGS, "long": write_long, "texts": _texts, "defaults": defaults}
    parts: list[str] = [repr(header)] if header else []
    lines: list[str] = []
    for number, field in enumerate(schema["fields"]):
        name = f"f{number}"
        # Nearly always all of them are there.
        lines.append(f"        {name} = fields[{field['name']!r}]")
        if is_array(field["type"]):
            scope[f"items_{name}"] = _items(field["type"])
        lines += _steps(name, field)
        parts += _parts(name, field["type"])
    source = [
        "def write(fields):",
        "    try:",
        *lines,
        "    except KeyError as error:",
        "        if error.args[0] not in defaults: raise ValueError(f'{error.args[0]} is missing') from None",
        "        return write({**defaults, **fields})",
        f"    return b''.join(({', '.join(parts)},))" if parts else "    return b''",
    ]
    exec("\n".join(source), scope)  # noqa: S102 — see above: the source is ours.
    writer: Writer = scope["write"]
    return writer


def _steps(name: str, field: Mapping[str, Any]) -> list[str]:
    """Lines that make bytes of a field's value, or look at it, before anything is put together."""
    if field["type"] == "string":
        return [f"        {name} = {name}.encode()", f"        s{name} = len({name})"]
    if field["type"] == "boolean":
        # Python holds much for true, a text "false" among it.
        said = f"{field['name']} is neither true nor false"
        return [f"        if {name}.__class__ is not bool: raise ValueError({said!r})"]
    return []


def _parts(name: str, kind: Any) -> list[str]:
    """Expressions of the bytes that a field comes to."""
    if kind == "string":
        return [_long(f"s{name}"), name]
    if kind == "long":
        return [_long(name)]
    if kind == "boolean":
        return [f"b'\\1' if {name} else b'\\0'"]
    # By their lengths: None and 0 have none, so that they are no empty map and no empty array.
    if kind == MAP:
        return [f"texts({name}) if len({name}) else b'\\0'"]
    if is_array(kind):
        return [f"items_{name}({name}) if len({name}) else b'\\0'"]
    raise TypeError(f"no writer for a field of type {kind}")


def _long(name: str) -> str:
    return f"LONGS[{name}] if 0 <= {name} < {len(_LONGS)} else long({name})"


def _items(kind: Any) -> Callable[[Any], bytes]:
    item = kind["items"]
    if not (isinstance(item, dict) and item.get("type") == "record"):
        raise TypeError(f"no writer for an array of {item}")
    write = compile_writer(item)

    def items(found: Any) -> bytes:
        return b"".join((write_long(len(found)), *map(write, found), b"\0"))

    return items


def _texts(found: Mapping[str, str]) -> bytes:
    parts = [write_long(len(found))]
    for pair in found.items():
        for text in pair:
            data = text.encode()
            parts += write_long(len(data)), data
    return b"".join((*parts, b"\0"))


def write_long(value: int) -> bytes:
    """A number as a zigzag varint. Raises OverflowError where it has more than 64 bits."""
    left = (value << 1) ^ (value >> (MAX_VARINT_BITS - 1))
    if left >> MAX_VARINT_BITS:
        raise OverflowError("a number of more than 64 bits")
    found = bytearray()
    while left > 127:
        found.append(left & 127 | 128)
        left >>= 7
    found.append(left)
    return bytes(found)


#: The lengths of nearly all texts, and many an amount.
_LONGS = tuple(map(write_long, range(1_024)))


def later_fields(schema: JsonSchema, later: Iterable[JsonSchema]) -> dict[str, Any]:
    """The fields that later versions of a schema alone have, with their defaults."""
    own = {field["name"] for field in schema["fields"]}
    fields = (field for other in later for field in other["fields"] if field["name"] not in own)
    return {field["name"]: field.get("default") for field in fields}


def compile_room(schema: JsonSchema, later: Sequence[JsonSchema]) -> Room:
    """Make the function that checks whether this version can hold fields: nothing is set that only later ones have."""
    own = {field["name"]: field for field in schema["fields"]}
    items: dict[str, list[JsonSchema]] = {}
    for field in (field for other in later for field in other["fields"]):
        if field["name"] in own and is_array(field["type"]):
            items.setdefault(field["name"], []).append(field["type"]["items"])
    scope: dict[str, Any] = {"rooms": {name: compile_room(own[name]["type"]["items"], items[name]) for name in items}}
    # An empty array may come as a tuple.
    conditions = [
        f"not len(get({name!r}, ()))" if default == [] else f"get({name!r}, {default!r}) == {default!r}"
        for name, default in later_fields(schema, later).items()
    ]
    conditions += [f"all(map(rooms[{name!r}], get({name!r}, ())))" for name in items]
    lines = ["def has_room(fields):", "    get = fields.get", f"    return {' and '.join(conditions) or True}"]
    exec("\n".join(lines), scope)  # noqa: S102 — as above.
    has_room: Room = scope["has_room"]
    return has_room
