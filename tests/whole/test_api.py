"""The public API is what docs/api.md lists: complete, described, and with examples that run."""

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import reference

from creditfold.common.settings import Settings, load_settings
from creditfold.producers import (
    Batch,
    Command,
    CommandProducer,
    CreateSchedule,
    Freeze,
    Grant,
    GrantStep,
    Hold,
    Spend,
    SpendStep,
    Transfer,
)
from creditfold.projections.connections import connected
from creditfold.projections.queries import ProjectedOutcomes
from helpers.command_line import use
from helpers.support import HANG_S, ROOT, publisher, worker

ENTRIES = list(reference.entries())
FUNCTIONS = [entry for entry in ENTRIES if not isinstance(entry.node, ast.ClassDef)]
#: Those of which a caller has to say more than what and where.
WITH_ARGUMENTS = [entry for entry in FUNCTIONS if len(reference.parameters(entry.node)) >= 3]
EXAMPLES = [entry for entry in ENTRIES if ">>>" in entry.doc]

YEAR_2099_MS = 4_070_908_800_000
#: What the examples find in the ledger that they read.
COMMANDS: tuple[Command, ...] = (
    Grant(command_id="welcome", account="ada", asset="credits", amount=500),
    Spend(command_id="order-1", account="ada", asset="credits", amount=180),
    Spend(command_id="order-2", account="ada", asset="credits", amount=800),
    Hold(command_id="hold-1", account="ada", asset="credits", amount=40, deadline=YEAR_2099_MS),
    CreateSchedule(
        command_id="monthly", account="ada", asset="credits", amount=5, period="months", first_at=YEAR_2099_MS
    ),
    Batch(
        command_id="batch-1",
        account="ada",
        steps=(
            GrantStep(command_id="step-1", asset="credits", amount=5),
            SpendStep(command_id="step-2", asset="credits", amount=10_000),
        ),
    ),
    Spend(command_id="order-1", account="ada", asset="credits", amount=1),
    Freeze(command_id="freeze-1", account="bob"),
    Grant(command_id="gift-0", account="carol", asset="credits", amount=50),
    Transfer(command_id="gift-1", account="carol", asset="credits", amount=20, to="dan"),
)


def is_entry_point(entry: reference.Entry) -> bool:
    """Whether a caller begins with it: a function, or a class with methods that isn't just a result, or an error."""
    node = entry.node
    if not isinstance(node, ast.ClassDef):
        return entry.name.rpartition(".")[0] in reference.PUBLIC
    kinds = {"NamedTuple", "BaseModel", "BaseSettings", "StrEnum", "Enum", "Protocol"}
    is_plain = not reference.is_error(entry.module, node) and not reference.is_record(entry.module, node)
    return is_plain and not reference.roots(entry.module, node) & kinds


def needs_servers(entry: reference.Entry) -> bool:
    """Whether an example speaks to Kafka or PostgreSQL."""
    return re.search(r"\bconnection\b|\bsettings\.|\(settings", entry.doc) is not None


def run(entry: reference.Entry, **names: Any) -> None:
    """Run the example of an entry, with what its module imports and makes public."""
    module = next(module for module in reference.PUBLIC if entry.name.startswith(module + "."))
    scope = {**vars(importlib.import_module(entry.module)), **public_names(module), **names}
    # A reader's machine isn't busy, and this one may be.
    source = re.sub(r"(timeout(?:_s)?)=\d+\.\d+", rf"\1={HANG_S}", entry.doc)
    test = doctest.DocTestParser().get_doctest(source, scope, entry.name, str(reference.path_of(entry.module)), 0)
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(said)


def public_names(module: str) -> dict[str, Any]:
    """What a public module has in its `__all__`."""
    loaded: ModuleType = importlib.import_module(module)
    return {name: getattr(loaded, name) for name in reference.names_of(module)}


def test_the_page_is_made_of_the_docstrings() -> None:
    """`make api` writes it."""
    assert reference.PAGE.read_text("utf-8") == reference.page()


@pytest.mark.parametrize("module", reference.PUBLIC)
def test_a_public_module_has_its_names_on_the_page(module: str) -> None:
    """All that are in its `__all__`, each with a heading or a row, and each importable."""
    names = public_names(module)
    assert names
    _, _, section = reference.PAGE.read_text("utf-8").partition(f"\n## {module}\n")
    section = section.partition("\n## ")[0]
    assert [name for name in names if not re.search(rf"^(### {name}$|\| `{name}` )", section, re.MULTILINE)] == []


def guided() -> Iterator[tuple[str, str]]:
    """What the guides' examples import from the package: the module and the name."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"^```python\n(.*?)^```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("creditfold"):
                    yield from ((str(node.module), alias.name) for alias in node.names)


def test_the_guides_use_the_public_api_only() -> None:
    """An example that imports something internal would break without notice."""
    imported = set(guided())
    assert imported
    public = {(module, name) for module in reference.PUBLIC for name in reference.names_of(module)}
    public |= {(module.rpartition(".")[0], module.rpartition(".")[2]) for module in reference.PUBLIC}
    assert imported - public == set()


@pytest.mark.parametrize("entry", WITH_ARGUMENTS, ids=lambda entry: entry.name)
def test_a_function_of_three_parameters_says_what_they_are(entry: reference.Entry) -> None:
    """Each of them by its name, what comes back, and which errors it raises itself."""
    assert not isinstance(entry.node, ast.ClassDef)
    _, _, arguments = entry.doc.partition("Args:\n")
    named = re.findall(r"^    (\w+):", arguments.partition("\n\n")[0], re.MULTILINE)
    assert named == reference.parameters(entry.node)
    if ast.unparse(entry.node.returns or ast.Constant(None)) != "None":
        assert re.search(r"^(Returns|Yields):$", entry.doc, re.MULTILINE)
    raised = {
        ast.unparse(node.exc.func)
        for node in ast.walk(entry.node)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    _, _, errors = entry.doc.partition("Raises:\n")
    assert [name for name in raised if f"    {name}:" not in errors] == []


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if is_entry_point(entry)], ids=lambda entry: entry.name)
def test_an_entry_point_has_an_example(entry: reference.Entry) -> None:
    """In its docstring, where editors show it."""
    assert re.search(r"^Example:\n    >>>", entry.doc, re.MULTILINE)


@pytest.mark.parametrize("entry", [one for one in EXAMPLES if not needs_servers(one)], ids=lambda entry: entry.name)
def test_an_example_runs(entry: reference.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is shown, with nothing set."""
    monkeypatch.chdir(tmp_path)
    load_settings.cache_clear()
    try:
        run(entry)
    finally:
        load_settings.cache_clear()


def test_the_examples_run_on_servers(
    ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are shown, one after the other on one ledger, with its worker and its publisher."""
    use(ledger_settings, monkeypatch)
    monkeypatch.chdir(tmp_path)
    with ExitStack() as running:
        running.enter_context(worker(ledger_settings, tmp_path))
        running.enter_context(publisher(ledger_settings, tmp_path))
        outcomes = ProjectedOutcomes(ledger_settings.dsn)
        with CommandProducer(
            ledger_settings.kafka_client, ledger_settings.commands_topic, outcomes=outcomes
        ) as producer:
            for command in COMMANDS:
                producer.append_and_wait(command, timeout=HANG_S)
        connection = running.enter_context(connected(ledger_settings.dsn))
        for entry in EXAMPLES:
            if needs_servers(entry):
                run(entry, settings=ledger_settings, connection=connection)
