"""Each extra brings what its part of the package imports, the base install is small, and what is missing is named."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import reference

from creditfold.cli.main import COMMANDS
from creditfold.common.extras import EXTRAS, require
from creditfold.common.settings import Settings
from creditfold.log.offsets import end_offsets
from helpers.support import ROOMS, ROOT, built_wheel, environment, ran

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

#: Modules that no installed part of the package imports: tools of those who change the schemas, or Kafka's version.
TOOLS = {"creditfold.schemas.compatibility", "creditfold.stack.jars_lock"}

#: All that a service installs which only produces: ours, what it names, and what that brings. One more needs a reason.
BASE = {
    "annotated-types",
    "confluent-kafka",
    "creditfold",
    "fastavro",
    "pydantic",
    "pydantic-core",
    "typing-extensions",
    "typing-inspection",
}


def distributions(extra: str | None) -> set[str]:
    """Names of the distributions that an extra's requirements name, those of the base and of extras in it included."""
    named = list(PROJECT["dependencies"])
    if extra is not None:
        named += PROJECT["optional-dependencies"][extra]
    found = set()
    for requirement in named:
        match = re.match(r"([\w-]+)(?:\[([\w,-]+)\])?", requirement)
        assert match is not None
        if match[1] == "creditfold":
            for inner in match[2].split(","):
                found |= distributions(inner)
        else:
            found.add(match[1])
            # The options of a distribution that come as modules of their own.
            found |= {f"{match[1]}-{option}" for option in (match[2] or "").split(",") if option}
    return found


@cache
def installed() -> Mapping[str, list[str]]:
    """The distributions that each module comes from."""
    return importlib.metadata.packages_distributions()


def distribution_of(module: str) -> set[str]:
    """Names of the distributions that an imported module comes from."""
    return {name.lower().replace("_", "-") for name in installed()[module]}


def provided(module: str, extra: str | None) -> bool:
    """Say whether an install with that extra has the module."""
    # pydantic pins it to the patch, and exports some of what it has by no other name.
    return module == "pydantic_core" or bool(distribution_of(module) & distributions(extra))


class Node(NamedTuple):
    """A module, or a function or class of one: what is imported when it is imported, or called."""

    module: str
    name: str = ""


class Imports:
    """What imports what, read from the sources: by module, and by function where an import stands within one."""

    def __init__(self) -> None:
        self._modules: dict[str, ast.Module] = {}
        for room in ROOMS:
            for path in (ROOT / room).rglob("*.py"):
                name = "creditfold." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
                self._modules[name.removesuffix(".__init__")] = ast.parse(path.read_text("utf-8"))
        self._targets: dict[Node, tuple[Node, ...]] = {}
        self._known: dict[str, dict[str, Node]] = {}

    @property
    def modules(self) -> list[str]:
        """The names of all modules of ours."""
        return sorted(self._modules)

    def libraries(self, start: Node, ends_at: Collection[str] = ()) -> set[str]:
        """The top modules of others that are imported when the node is, or is called with all that it may call.

        Of modules of ours that it `ends_at`, nothing is counted.
        """
        found, seen, left = set[str](), set[Node](), [start]
        while left:
            node = left.pop()
            if node in seen or node.module in ends_at:
                continue
            seen.add(node)
            if node.module.partition(".")[0] == "creditfold":
                if node not in self._targets:
                    self._targets[node] = tuple(set(self._next(node)))
                left += [target for target in self._targets[node] if target not in seen]
            elif node.module.partition(".")[0] not in sys.stdlib_module_names:
                found.add(node.module.partition(".")[0])
        return found

    def _next(self, node: Node) -> Iterator[Node]:
        room = node.module.rpartition(".")[0]
        if room.startswith("creditfold."):
            yield Node(room)
        tree = self._modules.get(node.module)
        if tree is None:
            return
        yield Node(node.module)
        known = self._names(node.module, tree)
        if not node.name:
            yield from known.values()
            return
        for statement in tree.body:
            if getattr(statement, "name", None) != node.name:
                continue
            parameters = {inner.arg for inner in ast.walk(statement) if isinstance(inner, ast.arg)}
            for inner in ast.walk(statement):
                yield from (target for _, target in self._bound(inner))
                if isinstance(inner, ast.Name) and inner.id not in parameters:
                    yield known.get(inner.id, Node(node.module, inner.id))

    def _names(self, module: str, tree: ast.Module) -> Mapping[str, Node]:
        """The names that are bound when a module is imported: found once, as each function of it is asked about."""
        if module not in self._known:
            bound = (pair for statement in _run_at_import(tree) for pair in self._bound(statement))
            self._known[module] = dict(bound)
        return self._known[module]

    def _bound(self, statement: ast.AST) -> Iterator[tuple[str, Node]]:
        """The names that an import statement binds, each with what it stands for."""
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield alias.asname or alias.name.partition(".")[0], Node(alias.name)
        elif isinstance(statement, ast.ImportFrom):
            module = str(statement.module)
            for alias in statement.names:
                whole = f"{module}.{alias.name}"
                yield alias.asname or alias.name, Node(whole) if whole in self._modules else Node(module, alias.name)


def _run_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """The statements that run when a module is imported, those for type checkers and within functions left out."""
    left: list[ast.AST] = list(tree.body)
    while left:
        statement = left.pop()
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            left += statement.orelse
            continue
        yield statement
        left += [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt | ast.ExceptHandler)]


@pytest.fixture(scope="module")
def imports() -> Imports:
    """The sources' imports, read once."""
    return Imports()


def test_each_extra_has_what_the_errors_say_it_brings() -> None:
    """The table of common/extras.py and pyproject.toml are of one mind."""
    for extra, modules in EXTRAS.items():
        for module in modules:
            assert provided(module, extra), f"{module} isn't in [{extra}]"
            assert not provided(module, None), f"{module} needs no extra"


#: The extra of each room; what of `processors` needs more than [cli] is for the test of commands.
EXTRA_OF = {"log": "read", "projections": "read", "stack": "read", "client": "client", "api": "api", "cli": "cli"}
EXTRA_OF["console"] = "api"
EXTRA_OF["processors"] = "worker"
EXTRA_OF["delivery"] = "delivery"
#: What fetches for the embedded servers, and what sends spans, with libraries of extras of their own; imported where
#: that is to be done.
FETCHING, SENDING = "creditfold.stack.maven", "creditfold.common.otel"
LATER = (FETCHING, SENDING)
#: Modules that need more than their room does.
EXTRA_OF_MODULES = {
    FETCHING: "embedded",
    SENDING: "otel",
    "creditfold.common.disks": "read",
    "creditfold.common.files": "read",
    "creditfold.common.logging": "cli",
    "creditfold.common.processes": "read",
    "creditfold.common.settings": "read",
    "creditfold.common.waiting": "read",
    "creditfold.log.appender": "cli",
    "creditfold.log.batch_reader": "worker",
}


def test_a_room_imports_what_its_extra_brings(imports: Imports) -> None:
    """And the base has nothing that producers don't import."""
    for module in imports.modules:
        if module not in TOOLS:
            extra = EXTRA_OF_MODULES.get(module, EXTRA_OF.get(module.split(".")[1]))
            libraries = imports.libraries(Node(module), ends_at=[name for name in LATER if name != module])
            assert [name for name in libraries if not provided(name, extra)] == [], module
    used = imports.libraries(Node("creditfold.producers"))
    assert {name for module in used for name in distribution_of(module)} - {"pydantic-core"} == distributions(None)


@pytest.mark.parametrize(("module", "extra"), reference.PUBLIC.items())
def test_a_public_module_needs_the_extra_that_the_reference_names(imports: Imports, module: str, extra: str) -> None:
    """And no smaller one is enough."""
    libraries = imports.libraries(Node(module), LATER)
    assert [name for name in libraries if not provided(name, extra or None)] == []
    assert not extra or any(not provided(name, None) for name in libraries)


def test_the_client_imports_nothing_of_kafka_or_postgresql(imports: Imports) -> None:
    """Though the base install brings the former: what is broken there doesn't concern it."""
    assert imports.libraries(Node("creditfold.client")) == {"httpx", "pydantic", "tenacity"}


def promised() -> dict[str, str]:
    """The extra that docs/installing.md names for each command: [cli] for those that it doesn't name."""
    rows = re.findall(r"^\| `creditfold\[(\w+)\]` \| (.*?) \|", _installing(), re.MULTILINE)
    # What takes more with an option is in a row further down, with the option.
    named = {command: extra for extra, text in rows for command in re.findall(r"`creditfold ([a-z -]+)`", text)}
    return {name: named.get(name, "cli") for name, _, _ in COMMANDS}


def _installing() -> str:
    return (ROOT / "docs" / "installing.md").read_text("utf-8")


def test_each_command_runs_with_the_extra_that_the_docs_name(imports: Imports) -> None:
    """With what is imported at last by all that it may call; and needs more than [cli] where the docs say so."""
    public = [name for name in PROJECT["optional-dependencies"] if name not in ("dev", "bench")]
    assert re.findall(r"^\| `creditfold\[(\w+)\]`", _installing(), re.MULTILINE) == public
    extras = promised()
    assert set(extras.values()) == {"cli", "api", "worker", "delivery", "embedded", "all"}
    for name, _, function in COMMANDS:
        # Only these two start a broker of ours, where others look whether one runs.
        ends_at = (SENDING,) if name in ("up", "demo") else LATER
        needed = imports.libraries(Node(function.__module__, function.__name__), ends_at) | imports.libraries(
            Node("creditfold.cli.main"), LATER
        )
        # Rebuilds read by them where the core is compiled and they are there, and do without elsewhere.
        needed -= {"aiokafka", "cramjam"} if extras[name] != "worker" else set()
        lacking = [library for library in needed if not provided(library, extras[name])]
        assert lacking == [], f"creditfold {name} needs {lacking}, which [{extras[name]}] hasn't"
        if extras[name] == "worker":
            assert not all(provided(library, "cli") for library in needed), f"creditfold {name} is well with [cli]"


def test_what_is_missing_is_named_with_its_extra(tmp_path: Path) -> None:
    """By the command line and to who imports: one line and its remedy, whichever library isn't there."""
    command = "from creditfold.cli.entry import main; main()"
    for hidden, arguments, extra in [
        ("typer", ["balance", "ada"], "cli"),
        ("psycopg", ["balance", "ada"], "read"),
        ("faust", ["worker"], "worker"),
        ("aiokafka", ["up", "--worker"], "worker"),
        ("cramjam", ["demo"], "worker"),
    ]:
        done = _without(hidden, command, arguments, tmp_path)
        assert (done.returncode, done.stdout) == (1, ""), (hidden, done.stderr)
        assert done.stderr == (
            f"error: {hidden} isn't installed, which the extra [{extra}] brings.\n"
            f"try: pip install 'creditfold[{extra}]'\n"
        )
    assert list(tmp_path.iterdir()) == []
    for library, module in (
        ("psycopg", "creditfold.projections.queries.balances"),
        ("psycopg", "creditfold.log.topics"),
        ("psycopg", "creditfold.processors.publisher.follower"),
        ("pydantic_settings", "creditfold.common.settings"),
    ):
        done = _without(library, f"import {module}", [], tmp_path)
        assert f"MissingExtraError: {library} isn't installed, which the extra [read] brings." in done.stderr, module


def _without(hidden: str, script: str, arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a script in which one library can't be found, as where it isn't installed."""
    hide = f"""
import sys
import importlib.util
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {hidden!r} else found(name, *rest)
"""
    return ran(sys.executable, "-c", hide + script, *arguments, cwd=folder)


PRODUCE = """
import sys
from creditfold.producers import AsyncCommandProducer, CommandProducer, Grant, import_file
with CommandProducer({"bootstrap.servers": sys.argv[1]}, sys.argv[2]) as producer:
    print(producer.append(Grant(command_id="g-1", account="ada", asset="credits", amount=100)))
"""


def test_a_service_that_only_produces_installs_little(ledger_settings: Settings, tmp_path: Path) -> None:
    """The wheel's base install, in an environment of its own, appends to Kafka, and names the extra for all else."""
    wheel = built_wheel(tmp_path)
    # Without a pip of its own, and without compiling what is installed: both take longer than the test.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    programs = tmp_path / "venv" / "bin"
    variables = {name: value for name, value in environment(ledger_settings).items() if name != "PYTHONPATH"}

    run = partial(ran, cwd=tmp_path, env=variables)
    pip = partial(run, sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", programs / "python")

    def install(requirement: str) -> None:
        done = pip("install", "--quiet", "--no-compile", requirement)
        assert done.returncode == 0, done.stderr

    install(str(wheel))
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    names = {one.name.lower().replace("_", "-") for one in importlib.metadata.distributions(path=[str(site)])}
    assert names - {"pip", "setuptools"} == BASE
    done = run(programs / "python", "-c", PRODUCE, ledger_settings.kafka_bootstrap, ledger_settings.commands_topic)
    assert done.returncode == 0, done.stderr
    assert sum(end_offsets(ledger_settings, ledger_settings.commands_topic, range(4)).values()) == 1
    done = run(programs / "creditfold", "balance", "ada")
    remedy = "error: typer isn't installed, which the extra [cli] brings.\ntry: pip install 'creditfold[cli]'\n"
    assert (done.returncode, done.stderr) == (1, remedy)
    install(f"{wheel}[cli]")
    for arguments in (["init"], ["grant", "ada", "5", "--no-wait"], ["balance", "ada"], ["generations"], ["doctor"]):
        done = run(programs / "creditfold", *arguments)
        assert done.returncode == 0, done.stderr
    done = run(programs / "creditfold", "worker")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "try: pip install 'creditfold[worker]'")


def test_what_is_imported_is_installed() -> None:
    """Each library of an extra, Faust among them, which isn't a usual module once it is imported."""
    for extra, libraries in EXTRAS.items():
        for library in libraries:
            importlib.import_module(library)
        require(extra)
