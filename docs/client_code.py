"""Writes the parts of the clients that docs/openapi.json determines, for `make api`.

For Python: commands, answers, the methods that read, and from what is there for asyncio the same without `async`. For
TypeScript: the types, where npm is. Tests compare the files with what this makes.
"""

import json
import keyword
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ROOM = ROOT / "client"
DOCUMENT = ROOT / "docs" / "openapi.json"
TYPESCRIPT = ROOT / "clients" / "typescript"
COLUMNS = 120

Schema = dict[str, Any]

#: Fields that every command has, said once in `shapes.Command`, and what a step's kind is said by.
SHARED = {"command_id", "occurred_at", "reason", "metadata", "confirmed", "type"}
#: Operations that `async_client.py` calls in its own ways.
OWN = {"append_many", "outcomes"}
#: Operations that read, by another method than GET.
READING = {"graphql"}
#: A parameter that asks for another form of the answer than JSON.
FORMS = {"format"}
SCALARS = {"integer": "int", "number": "float", "boolean": "bool", "null": "None"}
#: Names that a model has already.
TAKEN = {"body", "copy", "dict", "fields", "json", "kind", "line", "route", "schema", "stamp", "validate"}

#: What turns a module for asyncio into one without.
SYNC = (
    (r"\basync (def|with|for) ", r"\1 "),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit)__", r"__\1__"),
    (r"\ba(close|read)\b", r"\1"),
    (r"\baiter_bytes\b", "iter_bytes"),
    (r"\bAsync(Client|Reads|Iterator|Retrying)\b", r"\1"),
    (r"AsyncIterable\[Command\] \| ", ""),
    (r"\bAsyncIterable, ", ""),
    (r"\beach_async\b", "each"),
    (r"\basync_reads\b", "reads"),
    (r"from asyncio import sleep", "from time import sleep"),
    (r"Tasks may share", "Threads may share"),
    (r", for asyncio\.", "."),
    (r"It has the methods of Client.*\s+Every call", "Every call"),
    (
        r"for asyncio\. `client\.py` is made from this file: the same,",
        "made from `async_client.py` by docs/client_code.py,",
    ),
)


class Parameter(NamedTuple):
    """What a method takes: its name in Python and over HTTP, where it goes, its type, its default and what it means."""

    name: str
    sent_as: str
    place: str
    kind: str
    default: str | None
    meaning: str


def name_of(name: str) -> str:
    """A name that Python can have."""
    if keyword.iskeyword(name) or name in TAKEN:
        return f"{name}_"
    return re.sub(r"(?<=[a-z])([A-Z])", lambda found: f"_{found[1].lower()}", name).replace("-", "_")


def kind_of(schema: Schema, *, sent: bool) -> str:
    """The Python type of a schema: of what is sent, or of what is answered."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for word in ("anyOf", "oneOf"):
        if word in schema:
            kinds = dict.fromkeys(kind_of(one, sent=sent) for one in schema[word])
            # An Instant is a datetime or a number.
            return " | ".join(kind for kind in kinds if not ("Instant" in kinds and kind == "int"))
    if sent and ("enum" in schema or "const" in schema):
        values = schema.get("enum") or [schema["const"]]
        return f"Literal[{', '.join(map(json.dumps, values))}]"
    return _plain_kind(schema, sent=sent)


def _plain_kind(schema: Schema, *, sent: bool) -> str:
    form = schema.get("type")
    if form == "string":
        kinds = {"date-time": "Instant" if sent else "datetime", "date": "date"}
        return kinds.get(schema.get("format", ""), "str")
    if form == "array":
        inner = kind_of(schema.get("items", {}), sent=sent)
        return f"Sequence[{inner}]" if sent else f"tuple[{inner}, ...]"
    if form == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"dict[str, {kind_of(schema['additionalProperties'], sent=sent)}]"
    if form == "object":
        return "dict[str, Any]"
    return SCALARS.get(str(form), "Any")


def sentence(text: str) -> str:
    """A description as a sentence that goes on after a colon."""
    text = " ".join(text.split()).removeprefix("must be ")
    if text[:2].istitle() and not text.startswith(("ETag", "JSON")):
        text = text[0].lower() + text[1:]
    return f"{text.rstrip('.')}."


def docstring(text: str, sections: dict[str, list[tuple[str, str]]], indent: str) -> str:
    """A docstring with sections of names and what they mean."""
    head, _, rest = text.strip().partition("\n\n")
    lines = [f'{indent}"""{" ".join(head.split())}', *([""] if rest else []), *_filled(rest, indent)]
    for title, rows in sections.items():
        if rows:
            lines += ["", f"{indent}{title}:"]
            for name, meaning in rows:
                lines += _filled(f"{name}: {meaning}" if name else meaning, f"{indent}    ", f"{indent}        ")
    end = '"""' if len(lines) == 1 else f'\n{indent}"""'
    return "\n".join(lines) + end


def _filled(text: str, indent: str, further: str | None = None) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        COLUMNS,
        initial_indent=indent,
        subsequent_indent=further or indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def fields_of(schema: Schema, *, sent: bool, without: set[str]) -> Iterator[tuple[str, str, str]]:
    """The fields of a model: its line, its name, and what it means."""
    required = schema.get("required", ())
    properties = schema.get("properties", {})
    for sent_as in sorted(properties, key=lambda one: one not in required):
        if sent_as in without:
            continue
        one, name = properties[sent_as], name_of(sent_as)
        kind = kind_of(one, sent=sent).replace("Sequence[", "tuple[").replace("Step]", "Step, ...]")
        default = "" if sent_as in required else repr(one.get("default"))
        if not sent and default == "None" and "None" not in kind:
            kind += " | None"
        if name != sent_as:
            default = f"Field({default or '...'}, alias={sent_as!r})"
        meaning = sentence(one["description"]) if "description" in one else ""
        yield f"    {name}: {kind}" + (f" = {default}" if default else ""), name, meaning


def model(name: str, base: str, schema: Schema, more: str = "", without: set[str] | None = None) -> str:
    """The class of a schema."""
    fields = list(fields_of(schema, sent=base != "Answer", without=without or set()))
    rows = [(name, meaning) for _, name, meaning in fields if meaning]
    title = "Attributes" if base == "Answer" else "Args"
    lines = [f"class {name}({base}):", docstring(schema.get("description", name), {title: rows}, "    "), "", more]
    return "\n".join([*lines, *(line for line, _, _ in fields)])


def answers(document: Schema) -> str:
    """The module of answers."""
    schemas = document["components"]["schemas"]
    names = sorted(schemas)
    body = "\n\n\n".join(model(name, "Answer", schemas[name]) for name in names)
    # A model may name one that comes after it.
    models = "\n".join(f"{name}.model_rebuild()" for name in names if "$ref" in json.dumps(schemas[name]))
    head = '"""What the HTTP door answers. Written from docs/openapi.json by docs/client_code.py (`make api`)."""'
    imports = "from __future__ import annotations\n\nfrom datetime import date, datetime\nfrom typing import Any\n\n"
    imports += "from pydantic import Field\n\nfrom creditfold.client.shapes import Answer\n"
    return f"{head}\n\n{imports}\n__all__ = {names!r}\n\n\n{body}\n\n\n{models}\n"


def commands(document: Schema) -> str:
    """The module of commands and their steps."""
    steps: dict[str, Schema] = {}
    parts: list[str] = []
    names: list[str] = []
    for path, methods in sorted(document["paths"].items()):
        operation = methods.get("post", {})
        kind = operation.get("operationId", "").removeprefix("append_")
        if "{account}" not in path or kind == operation.get("operationId", ""):
            continue
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        schema = json.loads(json.dumps(schema))
        if "steps" in schema["properties"]:
            for one in schema["properties"]["steps"]["items"]["anyOf"]:
                steps[one["title"]] = one
            schema["properties"]["steps"]["items"] = {"$ref": "#/AnyStep"}
        schema["description"] = operation["summary"]
        name = "".join(word.title() for word in kind.split("_"))
        names.append(name)
        own = f'    kind: ClassVar[str] = "{kind}"\n    route: ClassVar[str] = "{path.rpartition("/")[2]}"\n'
        parts.append(model(name, "Command", schema, own, SHARED))
    inner = [
        model(name, "Step", one, f'    kind: ClassVar[str] = "{one["properties"]["type"]["const"]}"\n', SHARED)
        for name, one in steps.items()
    ]
    inner.append(f"AnyStep: TypeAlias = {' | '.join(steps)}")
    head = '"""What the HTTP door appends. Written from docs/openapi.json by docs/client_code.py (`make api`)."""'
    imports = "from typing import ClassVar, Literal, TypeAlias\n\n"
    imports += "from creditfold.client.shapes import Command, Instant, Step\n"
    body = "\n\n\n".join([*inner, *parts])
    return f"{head}\n\n{imports}\n__all__ = {sorted([*names, *steps])!r}\n\n\n{body}\n"


def answered(operation: Schema) -> dict[str, str]:
    """By status, the type of each answer in JSON that is no problem document."""
    found = {}
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        if "application/json" in content:
            kind = kind_of(content["application/json"].get("schema", {}), sent=False)
            found[status] = re.sub(r"^tuple\[(.*), \.\.\.\]$", r"list[\1]", kind)
    return found


def parameters_of(path: str, operation: Schema) -> list[Parameter]:
    """What a method takes, what must be given first."""
    found = [
        _parameter(one["name"], one["in"], one["schema"], one.get("required", False), one.get("description", ""))
        for one in operation.get("parameters", ())
        if one["in"] != "header" and one["name"] not in FORMS
    ]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = content.get("schema", {})
    for name, one in schema.get("properties", {}).items():
        is_required = name in schema.get("required", ())
        found.append(_parameter(name, "body", one, is_required, one.get("description", "")))
    return sorted(found, key=lambda one: (one.place != "path", one.default is not None))


def _parameter(name: str, place: str, schema: Schema, is_required: bool, meaning: str) -> Parameter:
    kind = kind_of(schema, sent=True)
    if not is_required and "None" not in kind:
        kind += " | None"
    own = name_of(name) if name not in TAKEN else name
    return Parameter(own, name, place, kind, None if is_required else "None", sentence(meaning or name))


def method(path: str, verb: str, operation: Schema) -> Iterator[str]:
    """The method of an operation, and that of its pages where it has such."""
    name, kinds = operation["operationId"], answered(operation)
    found = parameters_of(path, operation)
    # A list comes with which state it reflects.
    returned = " | ".join(dict.fromkeys(re.sub(r"^list\[", "Rows[", kind) for kind in kinds.values()))
    text = str(operation.get("description") or operation.get("summary", name))
    yield _method(name, text, found, returned, [f"return await self._send({_call(path, verb, operation, found)})"])
    if verb == "get" and any(one.name == "cursor" for one in found):
        yield _pages(name, found, returned)


def _call(path: str, verb: str, operation: Schema, found: list[Parameter]) -> str:
    names = ", ".join(f"{one.sent_as}={one.name}" for one in found if one.place == "path")
    place = f"path({path!r}, {names})" if names else repr(path)
    kinds = answered(operation)
    by_status = ", ".join(f"{status}: {kind}" for status, kind in kinds.items())
    query = ", ".join(f"{one.sent_as!r}: {one.name}" for one in found if one.place == "query")
    parts = [f'"{verb.upper()}"', place, f"{{{by_status}}}"]
    if query:
        parts.append(f"query={{{query}}}")
    body = ", ".join(f"{one.sent_as}={one.name}" for one in found if one.place == "body")
    if body or "requestBody" in operation:
        parts.append(f"**json_body({body})")
    if verb not in ("get", "head") and operation["operationId"] not in READING:
        parts.append("is_repeatable=False")
    return f"Call({', '.join(parts)})"


def _signature(name: str, found: list[Parameter], returned: str) -> str:
    first = [f"{one.name}: {one.kind}" for one in found if one.place == "path"]
    named = [
        f"{one.name}: {one.kind}" + ("" if one.default is None else f" = {one.default}")
        for one in found
        if one.place != "path"
    ]
    star = ["*"] if named else []
    return f"    async def {name}({', '.join(['self', *first, *star, *named])}) -> {returned}:"


def _method(name: str, text: str, found: list[Parameter], returned: str, body: list[str]) -> str:
    lines = [_signature(name, found, returned), docstring(text, _sections(found, "Returns", "the answer."), " " * 8)]
    return "\n".join([*lines, *(f"        {line}" for line in body)])


def _sections(found: list[Parameter], title: str, meaning: str) -> dict[str, list[tuple[str, str]]]:
    """The sections of a method's docstring; those of a few parameters explain themselves."""
    if len(found) < 2:
        return {}
    return {
        "Args": [(one.name, one.meaning) for one in found],
        title: [("", meaning.capitalize())],
        "Raises": [("ClientError", "it was refused, or couldn't be asked in time.")],
    }


def _pages(name: str, found: list[Parameter], page: str) -> str:
    given = ", ".join(f"{one.name}={one.name}" if one.place != "path" else one.name for one in found)
    sections = _sections(found, "Yields", "each page; its `next`, as `cursor`, goes on behind it.")
    head = _signature(f"{name}_pages", found, f"AsyncIterator[{page}]")
    text = f"The pages of `{name}`, one after the other until there are no more."
    lines = [
        "while True:",
        f"    page = await self.{name}({given})",
        "    yield page",
        "    if (cursor := following(page)) is None:",
        "        return",
    ]
    if any(one.name == "from_" for one in found) and not any(one.name == "account" for one in found):
        # Only one of the two says where to begin.
        lines.append("    from_ = None")
    return "\n".join([head, docstring(text, sections, " " * 8), *(f"        {line}" for line in lines)])


def reads(document: Schema) -> str:
    """The module of methods, for asyncio."""
    methods, kinds = list[str](), set[str]()
    for path, verbs in sorted(document["paths"].items()):
        for verb, operation in verbs.items():
            name = operation["operationId"]
            if name in OWN or name.startswith("append_") or not answered(operation):
                continue
            methods += method(path, verb, operation)
            kinds |= set(re.findall(r"\b[A-Z]\w+Answer\b", " ".join(answered(operation).values())))
    head = '"""What the client asks of the HTTP door, for asyncio.\n\n'
    head += 'Written from docs/openapi.json by docs/client_code.py (`make api`).\n"""'
    body = "\n\n".join(methods)
    imports = [
        "from abc import ABC, abstractmethod",
        "from collections.abc import AsyncIterator, Sequence",
        "from typing import Any, Literal, TypeVar",
        "",
        f"from creditfold.client.answers import {', '.join(sorted(kinds))}",
        "from creditfold.client.calls import Call, following, json_body, path",
        "from creditfold.client.shapes import Instant, Rows",
        "",
        'T = TypeVar("T")',
        "",
        "",
        "class AsyncReads(ABC):",
        '    """The methods that are the same but for their routes."""',
        "",
        "    @abstractmethod",
        "    async def _send(self, call: Call[T], bound_s: float | None = None) -> T: ...",
    ]
    return "\n".join([head, "", *imports, "", body, ""])


def formatted(text: str) -> str:
    """A module as ruff has it, without imports that it doesn't need."""
    ruff = str(Path(sys.executable).with_name("ruff"))
    fix = ["check", "--select", "F401,I,UP028,RUF022", "--fix", "--unsafe-fixes", "--exit-zero"]
    for command in (fix, ["format"]):
        whole = [ruff, *command, "--quiet", "--stdin-filename", "client/new.py", "-"]
        text = subprocess.run(whole, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


def without_async(text: str) -> str:
    """A module for asyncio as one without."""
    for pattern, instead in SYNC:
        text = re.sub(pattern, instead, text)
    return text


def python_files() -> dict[Path, str]:
    """The modules of the Python client that are made."""
    document = json.loads(DOCUMENT.read_text("utf-8"))
    asynchronous = reads(document)
    made = {
        "answers.py": answers(document),
        "commands.py": commands(document),
        "async_reads.py": asynchronous,
        "reads.py": without_async(asynchronous),
        "client.py": without_async((ROOM / "async_client.py").read_text("utf-8")),
    }
    return {ROOM / name: formatted(text) for name, text in made.items()}


def write_types(folder: Path) -> None:
    """Write the types of TypeScript into the folder of their package, of docs/openapi.json two folders above."""
    if not (folder / "node_modules").is_dir():
        subprocess.run(["npm", "ci", "--silent", "--prefer-offline"], check=True, cwd=folder)
    subprocess.run(["npm", "run", "--silent", "types"], check=True, cwd=folder, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    for file, content in python_files().items():
        file.write_text(content, "utf-8")
    if shutil.which("npm"):
        write_types(TYPESCRIPT)
    else:
        print("no npm: the types of TypeScript stay as they are (apt-get install nodejs npm)", file=sys.stderr)
