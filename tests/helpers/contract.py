"""Finds what a new OpenAPI document takes from those who rely on an older one. Knows no route."""

from collections.abc import Iterator
from typing import Any

Document = dict[str, Any]


def breaking_changes(old: Document, new: Document) -> list[str]:
    """What worked by the old document and doesn't by the new one: routes, parameters, bodies and answers."""
    return [
        f"{method.upper()} {path}: {what}"
        for path, methods in old["paths"].items()
        for method, before in methods.items()
        for what in _changes(old, before, new, new["paths"].get(path, {}).get(method))
    ]


def _changes(old: Document, before: Document, new: Document, after: Document | None) -> Iterator[str]:
    if after is None:
        yield "is gone"
        return
    names = {(one["in"], one["name"]): one for one in before.get("parameters", ())}
    for one in after.get("parameters", ()):
        known = names.pop((one["in"], one["name"]), None)
        if one.get("required") and not (known and known.get("required")):
            yield f"the parameter {one['name']} is required"
    yield from (f"the parameter {name} is gone" for _, name in names)
    yield from _body_changes(_body(old, before), _body(new, after))
    for status, answer in before["responses"].items():
        if not status.startswith("2"):
            continue
        there = after["responses"].get(status)
        if there is None:
            yield f"the answer {status} is gone"
            continue
        for media, content in answer.get("content", {}).items():
            if media not in there.get("content", {}):
                yield f"the answer {status} is no {media} any more"
                continue
            gone = _paths(old, content.get("schema", {})) - _paths(new, there["content"][media].get("schema", {}))
            yield from (f"the answer {status} has no {one} any more" for one in sorted(gone))


def _body_changes(before: Document, after: Document) -> Iterator[str]:
    for name in sorted(set(after.get("required", ())) - set(before.get("required", ()))):
        yield f"the body's {name} is required"
    for name in sorted(before.get("properties", {}).keys() - after.get("properties", {}).keys()):
        yield f"the body may have no {name} any more"


def _body(document: Document, operation: Document) -> Document:
    content = operation.get("requestBody", {}).get("content", {})
    return _resolved(document, content.get("application/json", {}).get("schema", {}))


def _resolved(document: Document, schema: Document) -> Document:
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def _paths(document: Document, schema: Document, above: tuple[str, ...] = (), depth: int = 0) -> set[str]:
    """Each property of a schema, by the names that lead to it."""
    found, schema = set(), _resolved(document, schema)
    for name, one in schema.get("properties", {}).items():
        here = (*above, name)
        found.add(".".join(here))
        if depth < 6:
            found |= _paths(document, one, here, depth + 1)
    parts = [part for name in ("anyOf", "oneOf", "allOf") for part in schema.get(name, ())]
    for part in (schema.get("items"), schema.get("contentSchema"), *parts):
        if isinstance(part, dict) and depth < 6:
            found |= _paths(document, part, above, depth + 1)
    return found
