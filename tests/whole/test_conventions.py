"""What CONTRIBUTING.md and docs/style.md promise of the documents and the tools, as far as a test can hold it."""

import ast
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.support import ROOT, ran

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
DOCS = sorted((ROOT / "docs").rglob("*.md"))
#: Every page that somebody wrote for a reader.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *DOCS,
    *sorted((ROOT / "examples").glob("*/README.md")),
]

COLUMNS = 120
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
#: Words of docs/style.md, which says what to write instead.
VAGUE = re.compile(r"\b(?:is|are|was|were|be|been) told\b|\bin the least\b|\bfor ever\b|\bbefalls?\b", re.IGNORECASE)


def shown(path: Path) -> str:
    """A path from the repository's root."""
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """A page without its fenced blocks, which are output and code; their lines stay, empty."""
    return FENCED.sub(lambda block: "\n" * block[0].count("\n"), path.read_text("utf-8"))


def anchors(path: Path) -> set[str]:
    """What a link may name in a page: its headings, as forges write them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> list[tuple[Path, str]]:
    """The pages and files that a page links to, each with the heading that it names, if any."""
    found = []
    for target in LINK.findall(prose(path)):
        if "://" not in target:
            name, _, heading = target.partition("#")
            found.append(((path.parent / name).resolve() if name else path, heading))
    return found


def pins() -> dict[str, str]:
    """The tools of constraints.txt and their versions."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {
        name.lower(): version
        for name, _, version in (line.partition("==") for line in lines if not line.startswith("#"))
    }


def hooks() -> list[dict[str, Any]]:
    """The hooks of .pre-commit-config.yaml, each with its repository and revision."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    return [
        {"repo": repo["repo"], "rev": repo.get("rev"), **hook} for repo in config["repos"] for hook in repo["hooks"]
    ]


@pytest.mark.parametrize("path", PAGES, ids=shown)
def test_a_page_has_at_most_120_columns(path: Path) -> None:
    """But for output that is shown as it is printed, and rows of tables, which can't be wrapped."""
    lines = prose(path).splitlines()
    wide = [n for n, line in enumerate(lines, 1) if len(line) > COLUMNS and not line.lstrip().startswith("|")]
    assert wide == []


@pytest.mark.parametrize("path", PAGES, ids=shown)
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    """Neither a page that was moved nor a heading that was reworded leaves a link behind."""
    lost = [f"{target.name}#{heading}" for target, heading in links(path) if not target.exists()]
    lost += [
        f"{target.name}#{heading}"
        for target, heading in links(path)
        if heading and target.exists() and heading not in anchors(target)
    ]
    assert lost == []


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "CHANGELOG.md"], ids=shown)
def test_every_path_that_is_named_exists(path: Path) -> None:
    """Those in this repository: of a room, the tests, the benchmarks or the build."""
    roots = "|".join(sorted(entry.name for entry in ROOT.iterdir() if entry.is_dir() and entry.name[0] != "."))
    named = re.findall(rf"(?<![\w/.-])(?:{roots})/[\w/.-]*\w/?(?![\w/*<{{])", prose(path))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_alert_leads_to_a_runbook() -> None:
    """To a page, and a heading of it, that is there, whatever the labels are that it is named by."""
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    lost = []
    for rule in rules:
        for server in ("kafka", "postgresql"):
            url = rule["annotations"]["runbook_url"].replace("{{ $labels.server }}", server)
            name, _, heading = url.partition("#")
            page = ROOT / name
            if page not in PAGES or (heading and heading not in anchors(page)):
                lost.append((rule["alert"], url))
    assert lost == []


def test_every_page_is_linked() -> None:
    """What no other page links to is found by nobody."""
    linked = {target for path in PAGES for target, _ in links(path) if target != path}
    assert [shown(path) for path in PAGES if path not in linked and path.name != "README.md"] == []
    assert ROOT / "docs" / "decisions" / "README.md" in linked


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "style.md"], ids=shown)
def test_a_page_has_no_word_that_says_nothing(path: Path) -> None:
    """Those of which docs/style.md says what to write instead."""
    assert VAGUE.findall(prose(path)) == []


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_three_parts(path: Path) -> None:
    """Why, what and at what price, each with something in it."""
    title, *parts = re.split(r"^## ", path.read_text("utf-8"), flags=re.MULTILINE)
    assert title.startswith(f"# {int(path.name[:4])}. ")
    assert [part.partition("\n")[0] for part in parts] == ["Context", "Decision", "Price"]
    assert all(part.partition("\n")[2].strip() for part in parts)


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    """In the order of their numbers, each once."""
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    index = ROOT / "docs" / "decisions" / "README.md"
    assert [target for target, _ in links(index)] == DECISIONS


def test_tools_are_pinned_exactly_and_are_those_of_development() -> None:
    """A pin of something that nobody installs would pin nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {re.split(r"[\[<>=]", line)[0].lower() for line in project["optional-dependencies"]["dev"]}
    assert pins().keys() <= wanted
    assert all(re.fullmatch(r"[\d.]+", version) for version in pins().values())
    assert {"ruff", "mypy", "pytest"} <= pins().keys()


def test_make_installs_what_is_pinned() -> None:
    """CI calls make, so it judges by the same tools."""
    command = ["make", "--always-make", "--dry-run", ".venv/.installed-dev"]
    done = ran(*command, cwd=ROOT, check=True)
    assert "-e '.[dev]' -c constraints.txt" in done.stdout
    assert (ROOT / ".ci" / "run").read_text("utf-8").rstrip().endswith("exec make test")


def test_hooks_run_what_is_pinned() -> None:
    """A commit that a hook lets pass mustn't fail in CI for a version's sake."""
    by_id = {hook["id"]: hook for hook in hooks()}
    for name in ("ruff-check", "ruff-format"):
        assert by_id[name]["rev"] == f"v{pins()['ruff']}"
    assert (by_id["mypy"]["language"], by_id["mypy"]["entry"]) == ("system", ".venv/bin/mypy")
    assert all(hook["rev"] or hook["repo"] == "local" for hook in by_id.values())


@pytest.mark.parametrize(
    ("message", "is_refused"),
    [
        ("fold: metadata don't slow a plain command down\n\nThe why.\n", False),
        ("tests, docs: one line for two areas", False),
        (f"docs: {'x' * 54}\n", False),
        (f"docs: {'x' * 55}\n", True),
        (f"docs: short\n\n{'x' * 100}\n", False),
        ("metadata don't slow a plain command down", True),
        ("Fold: a capital", True),
        ("docs:\n\nno subject at all", True),
        (f"fixup! docs: {'x' * 60}", False),
    ],
)
def test_a_subject_has_an_area_and_at_most_60_characters(message: str, is_refused: bool) -> None:
    """By the hook of commit messages, whose pattern finds what is wrong."""
    (hook,) = (hook for hook in hooks() if hook["id"] == "subject")
    assert (hook["language"], hook["args"], hook["stages"]) == ("pygrep", ["--multiline"], ["commit-msg"])
    pattern = re.compile(hook["entry"].encode(), re.MULTILINE | re.DOTALL)
    assert (pattern.search(message.encode()) is not None) is is_refused


def test_a_forge_runs_ci_on_every_python_that_is_promised() -> None:
    """On pushes and pull requests, by the command that everybody runs."""
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    workflow = yaml.safe_load(text)
    job = workflow["jobs"]["test"]
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["classifiers"]
    promised = [line.rpartition(" ")[2] for line in classifiers if re.search(r":: 3\.\d+$", line)]
    assert job["strategy"]["matrix"]["python"] == promised
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    # YAML 1.1 takes the key `on` for true.
    assert set(workflow[True]) == {"push", "pull_request"}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=shown)
def test_what_a_test_imports_of_us_exists(path: Path) -> None:
    """Inside a function too, where only a run of that very test would show that a name has gone."""
    tree = ast.parse(path.read_text("utf-8"))
    missing = [
        f"line {node.lineno}: {node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"creditfold", "helpers"}
        for alias in node.names
        if not _exists(str(node.module), alias.name)
    ]
    assert missing == []


def _exists(module: str, name: str) -> bool:
    if hasattr(importlib.import_module(module), name):
        return True
    of_us = ROOT.joinpath(*module.split(".")[1:], f"{name}.pyx")  # It is there before it is compiled.
    return of_us.exists() or importlib.util.find_spec(f"{module}.{name}") is not None
