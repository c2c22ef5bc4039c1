"""Writes docs/api.md, the reference of the public API, from `__all__` of the public modules and their docstrings.

Owns which modules are public. Reads sources only, so that it needs none of the extras and sees the same with the
compiled core. Run by `make api`; tests/test_api.py compares the page with what this makes.
"""

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
COLUMNS = 120

#: The public modules, and the extra that each needs. What is in none of them, or not in its `__all__`, is internal.
PUBLIC = {
    "creditfold.producers": "",
    "creditfold.projections.queries": "read",
    "creditfold.projections.connections": "read",
    "creditfold.processors.publisher.messages": "read",
    "creditfold.processors.publisher.follower": "read",
    "creditfold.client": "client",
    "creditfold.client.answers": "client",
    "creditfold.api": "api",
    "creditfold.common.settings": "read",
    "creditfold.common.position": "",
    "creditfold.common.errors": "",
    "creditfold.common.extras": "",
    "creditfold.ledger": "",
    "creditfold.schemas.wire": "",
    "creditfold.schemas.registry": "",
    "creditfold.schemas.dead_letters": "",
}

INTRO = """\
# Public API

For whoever calls creditfold from Python. These modules and names are public: a change of one is listed in
[CHANGELOG.md](../CHANGELOG.md). Everything else is internal and changes without notice. Amounts are whole numbers of
the asset's smallest unit. Arguments whose names end in `_ms` are milliseconds since 1970 UTC, those that end in `_s`
are seconds. Every error for a user derives from `CreditfoldError`, and has a `message` and a `remedy`.

`make api` writes this page from the docstrings, and tests run the examples. [producing.md](producing.md),
[reading.md](reading.md) and [following.md](following.md) are the guides. In the examples `settings` is
`load_settings()`, and `connection` is one of `connected(settings.dsn)`."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Node: TypeAlias = Function | ast.ClassDef | ast.Assign | ast.AnnAssign

#: Classes with the methods of another one, which are on the page there only.
TWINS = {"AsyncClient"}

#: The sections of a docstring whose entries are a list, and those whose text is a paragraph or code.
LISTS = ("Args", "Attributes", "Fields", "Raises")
TEXTS = ("Returns", "Yields", "Example", "Examples", "Note")
_SECTION = re.compile(rf"^({'|'.join(LISTS + TEXTS)}):$")
#: Decorators that change how a function is called.
_SHOWN = {"contextmanager", "asynccontextmanager", "classmethod"}
_ERRORS = {"Exception", "ValueError", "ImportError"}


class Definition(NamedTuple):
    """Where a public name is defined: the module, and the statement there."""

    module: str
    node: Node


class Entry(NamedTuple):
    """What has a docstring in the reference: its name there, the module that it is defined in, and its statement."""

    name: str
    module: str
    node: Function | ast.ClassDef

    @property
    def doc(self) -> str:
        """Its docstring, without indentation; empty if it has none."""
        return ast.get_docstring(self.node) or ""


def path_of(module: str) -> Path:
    """The source file of a module of the package `creditfold`, whose rooms are the folders of the repository."""
    place = ROOT.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@lru_cache
def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path_of(module).read_text("utf-8"))


def names_of(module: str) -> list[str]:
    """The `__all__` of a module; empty if it has none."""
    for node in tree_of(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


def find(module: str, name: str) -> Definition | None:
    """The definition of a name that a module has, followed through its imports; None if it is none of ours."""
    for node in tree_of(module).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("creditfold"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find(str(node.module), alias.name)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name:
            return Definition(module, node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if ast.unparse(target) == name:
                return Definition(module, node)
    return None


def bases(module: str, node: ast.ClassDef) -> list[Definition]:
    """The classes of ours that a class inherits from, at any distance, itself first, in Python's order."""
    lines = []
    for base in node.bases:
        found = find(module, ast.unparse(base).partition("[")[0])
        if found is not None and isinstance(found.node, ast.ClassDef):
            lines.append(bases(found.module, found.node))
    merged: list[Definition] = []
    for one in (one for line in lines for one in line):
        # The last place counts, as a base stands behind all that derive from it.
        if one in merged:
            merged.remove(one)
        merged.append(one)
    return [Definition(module, node), *merged]


def roots(module: str, node: ast.ClassDef) -> set[str]:
    """The names of all classes that a class inherits from, those of libraries too."""
    return {
        ast.unparse(base).partition("[")[0]
        for one in bases(module, node)
        if isinstance(one.node, ast.ClassDef)
        for base in one.node.bases
    }


def is_error(module: str, node: ast.ClassDef) -> bool:
    """Whether a class is an exception."""
    return bool(roots(module, node) & _ERRORS)


def is_record(module: str, node: ast.ClassDef) -> bool:
    """Whether a class has fields as its arguments: a named tuple, a data class or a model."""
    decorated = any("dataclass" in ast.unparse(one) for one in node.decorator_list)
    return decorated or bool(roots(module, node) & {"NamedTuple", "BaseModel"})


def methods(module: str, node: ast.ClassDef) -> Iterator[Entry]:
    """The public methods of a class; of a model and of a twin none, since others have the same."""
    seen: set[str] = set()
    for one in bases(module, node):
        if not isinstance(one.node, ast.ClassDef) or node.name in TWINS or "BaseModel" in roots(module, node):
            continue
        for inner in one.node.body:
            if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)) and inner.name[0] != "_":
                if inner.name not in seen | {"settings_customise_sources"}:
                    yield Entry(f"{node.name}.{inner.name}", one.module, inner)
                seen.add(inner.name)


def entries() -> Iterator[Entry]:
    """Everything in the reference that has a docstring: functions, classes and their public methods."""
    for module in PUBLIC:
        for name in names_of(module):
            found = find(module, name)
            if found is None or isinstance(found.node, (ast.Assign, ast.AnnAssign)):
                continue
            yield Entry(f"{module}.{name}", found.module, found.node)
            if isinstance(found.node, ast.ClassDef):
                for entry in methods(found.module, found.node):
                    yield entry._replace(name=f"{module}.{entry.name}")


def parameters(node: Function) -> list[str]:
    """The names of a function's parameters, but for `self` and `cls`."""
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [one.arg for one in named if one.arg not in ("self", "cls")]


def is_property(node: Function) -> bool:
    """Whether a method is read as an attribute."""
    return any(ast.unparse(one) in ("property", "cached_property") for one in node.decorator_list)


def _fields(module: str, node: ast.ClassDef) -> Iterator[str]:
    """The fields of a record as its arguments, those of the class furthest away first."""
    is_model = "BaseModel" in roots(module, node)
    for one in reversed(bases(module, node)):
        for inner in one.node.body if isinstance(one.node, ast.ClassDef) else []:
            if not isinstance(inner, ast.AnnAssign) or "ClassVar" in ast.unparse(inner.annotation):
                continue
            name, default = ast.unparse(inner.target), inner.value
            if is_model and (name == "type" or name[0] == "_"):
                continue
            if default is not None and "default_factory" in ast.unparse(default):
                default = ast.parse("{}" if "dict" in ast.unparse(default) else "()", mode="eval").body
            elif default is not None and is_model and ast.unparse(default).startswith("Field"):
                default = None
            kind = "" if is_model else f": {ast.unparse(inner.annotation)}"
            equals = "=" if is_model else " = "
            yield f"{name}{kind}" + ("" if default is None else f"{equals}{ast.unparse(default)}")


def _arguments(node: Function) -> Iterator[str]:
    args = node.args
    placed = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(placed) - len(args.defaults)) + list(args.defaults)
    named = list(zip(placed, defaults, strict=True))
    if args.vararg is not None:
        named.append((ast.arg(f"*{args.vararg.arg}", args.vararg.annotation), None))
    elif args.kwonlyargs:
        named.append((ast.arg("*"), None))
    named += zip(args.kwonlyargs, args.kw_defaults, strict=True)
    if args.kwarg is not None:
        named.append((ast.arg(f"**{args.kwarg.arg}", args.kwarg.annotation), None))
    for one, default in named:
        if one.arg in ("self", "cls"):
            continue
        kind = "" if one.annotation is None else f": {ast.unparse(one.annotation).strip(chr(39))}"
        yield f"{one.arg}{kind}" + ("" if default is None else f" = {ast.unparse(default)}")


def _call(head: str, arguments: Sequence[str], tail: str) -> str:
    """A signature as an indented block, over several lines where it is long."""
    line = f"{head}({', '.join(arguments)}){tail}"
    if len(line) + 4 > COLUMNS:
        rows = [""]
        for one in arguments:
            rows = [*rows, ""] if len(rows[-1]) + len(one) + 10 > COLUMNS else rows
            rows[-1] += f"{one}, "
        line = "\n".join([f"{head}(", *(f"    {row.strip()}" for row in rows if row), f"){tail}"])
    return textwrap.indent(line, "    ")


def _signature(entry: Entry) -> str:
    name, node = entry.name.rpartition(".")[2], entry.node
    if isinstance(node, ast.ClassDef):
        if is_record(entry.module, node):
            star = ["*"] if "BaseModel" in roots(entry.module, node) else []
            return _call(f"class {name}", [*star, *_fields(entry.module, node)], "")
        start = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        return _call(f"class {name}", list(_arguments(start[0])) if start else [], "")
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns).strip(chr(39))}"
    if is_property(node):
        return _call(name, [], returns).replace("()", "", 1)
    word = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    kinds = [f"    @{ast.unparse(one)}\n" for one in node.decorator_list if ast.unparse(one) in _SHOWN]
    return "".join(kinds) + _call(f"{word}{name}", list(_arguments(node)), returns)


def _filled(text: str, first: str = "", rest: str = "") -> str:
    words = " ".join(text.split())
    return textwrap.fill(
        words, COLUMNS, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """Text as Markdown: paragraphs are filled, and what is indented stays code."""
    for block in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        if block.startswith((" ", ">>>", "- ")):
            yield textwrap.indent(textwrap.dedent(block), "" if block.startswith("- ") else "    ")
        elif block.strip():
            yield _filled(block)


def _items(lines: Sequence[str]) -> str:
    """The entries of a section, `name: text` each, as a list."""
    text = textwrap.dedent("\n".join(lines)).strip()
    found = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    items = []
    for one in filter(None, found):
        name, _, meaning = one.partition(":")
        items.append(_filled(f"`{name.strip()}`: {meaning}", "- ", "  "))
    return "\n".join(items)


def rendered(doc: str) -> str:
    """A docstring in Markdown, its sections with their headings in bold."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    for line in doc.splitlines():
        section = _SECTION.match(line)
        if section:
            parts.append((section[1], []))
        elif parts[-1][0] and line and line[0] != " ":
            parts.append(("", [line]))
        else:
            parts[-1][1].append(line)
    blocks: list[str] = []
    for name, lines in parts:
        if name in LISTS:
            blocks.append(f"**{name}**\n{_items(lines)}")
        elif name:
            text = textwrap.dedent("\n".join(lines)).strip("\n")
            is_code = name.startswith("Example") and ">>>" not in text
            first, *more = [textwrap.indent(text, "    ")] if is_code else _paragraphs(text.splitlines())
            heading = f"**{name}**"
            blocks += [heading, first, *more] if first.startswith(" ") else [_filled(f"{heading} {first}"), *more]
        else:
            blocks += _paragraphs(lines)
    return "\n\n".join(blocks)


def _summary(doc: str) -> str:
    return " ".join(doc.partition("\n\n")[0].split()).replace("|", "\\|")


def _comment(definition: Definition) -> str:
    """What the comment in front of a constant says."""
    lines = path_of(definition.module).read_text("utf-8").splitlines()[: definition.node.lineno - 1]
    comment: list[str] = []
    while lines and lines[-1].startswith("#"):
        comment.insert(0, lines.pop().lstrip("#: "))
    return " ".join(comment)


def _value(node: Node) -> str:
    value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
    return "" if value is None else ast.unparse(value)


def _section(entry: Entry, level: str, title: str) -> Iterator[str]:
    yield f"{level} {title}"
    if isinstance(entry.node, ast.ClassDef) and roots(entry.module, entry.node) & {"StrEnum", "Enum"}:
        yield rendered(entry.doc)
        members = [ast.unparse(one.targets[0]) for one in entry.node.body if isinstance(one, ast.Assign)]
        yield _filled("Members: " + ", ".join(f"`{name}`" for name in members) + ".")
        return
    yield _signature(entry)
    yield rendered(entry.doc)


def _errors(found: Sequence[tuple[str, ast.ClassDef]]) -> Iterator[str]:
    rows = ["| error | derives from | meaning |", "|---|---|---|"]
    for name, node in found:
        parents = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
        rows.append(f"| `{name}` | {parents} | {_summary(ast.get_docstring(node) or '')} |")
    if found:
        yield "### Errors"
        yield "\n".join(rows)


def _constants(found: Sequence[tuple[str, Definition]]) -> Iterator[str]:
    for name, definition in found:
        yield f"### {name}"
        value = _value(definition.node)
        if len(value) < COLUMNS - len(name) - 8:
            yield f"    {name} = {value}"
        elif " | " in value:
            parts = "\n    | ".join(value.split(" | "))
            yield textwrap.indent(f"{name} = (\n    {parts}\n)", "    ")
        comment = _comment(definition)
        if comment:
            yield _filled(comment)


def _methods(found: Sequence[Entry]) -> Iterator[str]:
    """Those of one paragraph as a list, all others with a heading of their own."""
    short = [entry for entry in found if "\n\n" not in entry.doc]
    items = (f"`{' '.join(_signature(entry).split())}`: {entry.doc}" for entry in short)
    yield "\n".join(_filled(item, "- ", "  ") for item in items)
    for entry in found:
        if entry not in short:
            yield from _section(entry, "####", entry.name)


def _module(module: str) -> Iterator[str]:
    yield f"## {module}"
    yield rendered(ast.get_docstring(tree_of(module)) or "")
    definitions = [(name, find(module, name)) for name in names_of(module)]
    known = [(name, found) for name, found in definitions if found is not None]
    errors, constants = [], []
    for name, found in known:
        if isinstance(found.node, (ast.Assign, ast.AnnAssign)):
            constants.append((name, found))
        elif isinstance(found.node, ast.ClassDef) and is_error(found.module, found.node):
            errors.append((name, found.node))
            if "Args:" in (ast.get_docstring(found.node) or ""):
                yield from _section(Entry(name, found.module, found.node), "###", name)
        else:
            yield from _section(Entry(name, found.module, found.node), "###", name)
            if isinstance(found.node, ast.ClassDef):
                yield from _methods(list(methods(found.module, found.node)))
    yield from _constants(constants)
    yield from _errors(errors)


def page() -> str:
    """The whole page, in Markdown."""
    rows = ["| module | needs | |", "|---|---|---|"]
    for module, extra in PUBLIC.items():
        anchor = module.replace(".", "")
        needs = f"`creditfold[{extra}]`" if extra else "`creditfold`"
        rows.append(f"| [{module}](#{anchor}) | {needs} | {_summary(ast.get_docstring(tree_of(module)) or '')} |")
    blocks = [INTRO, "\n".join(rows), *(block for module in PUBLIC for block in _module(module))]
    return "\n\n".join(filter(None, blocks)) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
