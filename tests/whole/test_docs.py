"""The docs are true: their commands, SQL and Python run against the real stack, and their tables name what exists."""

import ast
import asyncio
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from string import Template
from typing import NamedTuple

import fastavro
import pytest
from psycopg.sql import SQL

from creditfold.api.append import MOST_WAIT_S
from creditfold.cli.main import COMMANDS
from creditfold.common.settings import Settings, load_settings
from creditfold.common.waiting import wait_until
from creditfold.ledger import RejectionReason, known_rules, limits
from creditfold.processors.startup import prepare_ledger
from creditfold.producers.models.commands import MODELS
from creditfold.projections.connections import connected
from creditfold.projections.queries.heartbeats import Role, heartbeats
from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.registry import avsc_name, load_current
from creditfold.schemas.wire import decode
from helpers.command_line import use
from helpers.doors import serving
from helpers.fork_server import run
from helpers.pages import DOCS, Block, blocks
from helpers.support import HANG_S, ROOT, all_progress, environment, publisher, ran, worker

pytestmark = pytest.mark.compiled_core


# They start or stop what the fixtures own, or run until they are stopped. tests/cli/test_cli.py runs each of them.
RUN_ELSEWHERE = {"up", "down", "demo", "worker", "publisher", "delivery", "serve"}

# What README has in place of the Makefile's two commands; test_the_commands_without_make_are_those_of_the_makefile.
INSTALLING = (
    "python3 -m venv .venv",
    ".venv/bin/pip install -e '.[dev]'",
    ".venv/bin/creditfold demo",
    ".venv/bin/pytest -n 6 -m 'not chaos'",
)


#: Where the documents have the door.
PORT = "http://127.0.0.1:29080"


class Step(NamedTuple):
    """A command line of a document, and the output that the document shows, None if it shows none."""

    command: str
    output: str | None


def steps(block: Block) -> Iterator[Step]:
    """The command lines of a block."""
    if block.language == "bash":
        lines = block.text.replace("\\\n", " ").splitlines()
        yield from (Step(line, None) for line in lines if line.strip() and not line.startswith("#"))
        return
    for piece in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = piece.replace("\\\n", " ").partition("\n")
        yield Step(command, output)


def matches(shown: str, seen: str) -> bool:
    """Compare output with what a document shows: `...` stands for anything, and any space for any other."""
    pattern = r"\s+".join(".*?".join(map(re.escape, word.split("..."))) for word in shown.split())
    # Dots that stand alone may stand for nothing at all, with the space before them.
    pattern = pattern.replace(r"\s+.*?", r"\s*.*?").replace(r".*?\s+", r".*?\s*")
    return re.fullmatch(pattern, seen.strip(), re.DOTALL) is not None


#: The commands that wait for something, so long as they aren't given another time.
WAITING = {name for name, _, function in COMMANDS if "timeout" in inspect.signature(function).parameters}


def patient(words: list[str]) -> list[str]:
    """A command line with more time for what it waits for: a document can't know how fast its reader's machine is."""
    name = " ".join(words[1:3])
    place = 3 if name in WAITING else 2
    if "--timeout" in words:
        at = words.index("--timeout") + 1
        return [*words[:at], str(HANG_S), *words[at + 1 :]]
    waits = name in WAITING or (words[1:2] and words[1] in WAITING - {"follow"})
    return [*words[:place], "--timeout", str(HANG_S), *words[place:]] if waits else words


class Runner:
    """Runs a document's blocks in order, as its reader would."""

    def __init__(self, settings: Settings, folder: Path, url: str | None = None) -> None:
        self._settings = settings
        self._environment = environment(settings)
        self._folder = folder
        #: Of the door, in place of the one that the documents name.
        self._url = url
        self._names: dict[str, object] = {}
        self._code = 0

    def await_processes(self, *roles: Role) -> None:
        """Wait until they run and have said so, which the documents' readers have from `creditfold up`."""

        def run() -> bool:
            if not all_progress(self._settings):
                return False
            with connected(self._settings.dsn) as connection:
                return {sign.role for sign, _ in heartbeats(connection) if sign.state == "running"} >= set(roles)

        assert wait_until(run, HANG_S)

    def run(self, path: Path) -> None:
        found = blocks(path)
        for block, following in zip(found, [*found[1:], None], strict=True):
            where = f"{path.name}:{block.line}"
            if block.file is not None:
                (self._folder / block.file).write_text(block.text, "utf-8")
            elif block.language in ("console", "bash"):
                self._run_steps(list(steps(block)), where)
            elif block.language == "python":
                self._run_python(block.text, where)
            elif block.language == "sql":
                shown = following.text if following is not None and following.language == "text" else None
                self._run_sql(block.text, shown, where)

    def _run_steps(self, wanted: list[Step], where: str) -> None:
        for step, following in zip(wanted, [*wanted[1:], None], strict=True):
            may_fail = following is not None and following.command == "echo $?"
            self._run_step(step, where, may_fail)

    def _run_step(self, step: Step, where: str, may_fail: bool) -> None:
        if step.command == "echo $?":
            assert step.output is not None
            assert step.output.strip() == str(self._code), where
            return
        words = patient(shlex.split(step.command, comments=True))
        if step.command in INSTALLING:
            return
        if step.command.partition("    #")[0] == "export LEDGER_KEY=$(creditfold init | tail -1)":
            done = self._process(["-m", "creditfold.cli.main", "init"])
            os.environ["LEDGER_KEY"] = self._environment["LEDGER_KEY"] = done.stdout.splitlines()[-1]
            return
        if words[0] == "curl":
            self._run_curl(words, step.output, where)
            return
        if words[0] != "creditfold" or words[1] in RUN_ELSEWHERE:
            assert words[0] in ("creditfold", "make", "docker", "pip"), f"{where}: {step.command}"
            return
        done = self._process(["-m", "creditfold.cli.main", *words[1:]])
        self._code = done.returncode
        assert may_fail or done.returncode == 0, f"{where}: {step.command}: {done.stdout}{done.stderr}"
        if step.output is not None:
            assert matches(step.output, done.stdout), (
                f"{where}: {step.command}\nshown:\n{step.output}\nseen:\n{done.stdout}"
            )

    def _run_curl(self, words: list[str], shown: str | None, where: str) -> None:
        """Send a request to the door of the test, with time for its outcome."""
        words = [Template(word).substitute(self._environment).replace(PORT, self._url or PORT) for word in words]
        done = ran(*words, "-H", f"Prefer: wait={MOST_WAIT_S:g}", cwd=self._folder)
        assert done.returncode == 0, f"{where}: {done.stderr}"
        if shown is not None:
            assert matches(shown, done.stdout), f"{where}\nshown:\n{shown}\nseen:\n{done.stdout}"

    def _run_python(self, text: str, where: str) -> None:
        # As in a notebook: names stay from block to block, and a block may await.
        text = re.sub(r"\b(timeout(?:_s)?)=\d+\b", rf"\1={HANG_S}", text).replace(PORT, self._url or PORT)
        code = compile(text, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, self._names)  # noqa: S307 - The text is the document's own.
        if inspect.iscoroutine(running):
            asyncio.run(running)

    def _run_sql(self, text: str, shown: str | None, where: str) -> None:
        with connected(self._settings.dsn) as connection:
            rows: list[tuple[object, ...]] = []
            for statement in filter(str.strip, text.split(";\n")):
                cursor = connection.execute(SQL(statement))  # type: ignore[arg-type]  # The document's own text.
                rows = cursor.fetchall() if cursor.description else []
        seen = "\n".join(" | ".join("" if cell is None else str(cell) for cell in row) for row in rows)
        if shown is not None:
            assert matches(shown, seen), f"{where}: {seen}"

    def _process(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        return run(command, env=self._environment, cwd=self._folder, timeout=HANG_S)


@pytest.mark.parametrize("path", [path for path in DOCS if blocks(path)], ids=lambda path: path.name)
def test_what_the_docs_show_is_what_happens(
    path: Path, ledger_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command and example of a document, in its order, on a ledger of its own with a worker running.

    A publisher runs too where outcomes are followed.
    """
    use(ledger_settings, monkeypatch)
    monkeypatch.chdir(tmp_path)
    # What a document sets is gone after it.
    monkeypatch.setenv("LEDGER_KEY", "")
    drop = "DROP ROLE IF EXISTS shop"
    with connected(ledger_settings.dsn) as connection:
        connection.execute(drop)
    prepare_ledger(ledger_settings)
    with ExitStack() as running:
        running.enter_context(worker(ledger_settings, tmp_path))
        with_publisher = "creditfold follow " in path.read_text("utf-8")
        if with_publisher:
            running.enter_context(publisher(ledger_settings, tmp_path))
        url = None
        if f"{PORT}/" in path.read_text("utf-8"):
            if shutil.which("curl") is None:
                pytest.skip("no curl here: apt-get install curl")
            url = running.enter_context(serving(ledger_settings))
        runner = Runner(ledger_settings, tmp_path, url)
        try:
            runner.await_processes("worker", *(["publisher"] if with_publisher else []))
            runner.run(path)
        finally:
            load_settings.cache_clear()
            with connected(ledger_settings.dsn) as connection:
                connection.execute(drop)


def test_the_commands_without_make_are_those_of_the_makefile() -> None:
    """What they install and run is what its targets do, which CI runs."""
    (without_make,) = (block for block in blocks(ROOT / "README.md") if "-m venv" in block.text)
    assert tuple(without_make.text.splitlines()) == INSTALLING
    targets = (".venv/.installed-dev", "test-unit", "test-servers")
    # As many processes as the Makefile names, whatever `make` was given that runs this.
    names = {"SIDE_BY_SIDE", "MAKEFLAGS", "MAKEOVERRIDES"}
    own = {name: value for name, value in os.environ.items() if name not in names}
    make = ("make", "--always-make", "--dry-run", *targets)
    wanted = ran(*make, cwd=ROOT, env=own, check=True).stdout.replace("make: ", "")
    for piece in ("-m venv .venv", "install --quiet --disable-pip-version-check -e '.[dev]'", ".venv/bin/pytest -n 6"):
        assert piece in wanted


def test_every_command_is_in_the_docs() -> None:
    """A command that no document names is found by nobody."""
    text = "\n".join(path.read_text("utf-8") for path in DOCS)
    missing = [name for name, _, _ in COMMANDS if f"creditfold {name}" not in text]
    assert missing == []


def test_every_command_of_the_log_is_in_the_docs() -> None:
    """docs/producing.md has each type a service may ask for, its class, and the fields that it must and may say."""
    text = (ROOT / "docs" / "producing.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|(.*?)\|(.*?)\|", text, re.MULTILINE)
    expected = []
    for type_, model in MODELS.items():
        own = [field for field in model.model_fields.items() if field[0] not in SHARED_FIELDS]
        must, may = (
            ", ".join(f"`{name}`" for name, field in own if field.is_required() is needed) for needed in (True, False)
        )
        expected.append((type_, model.__name__, must, may))
    assert [(*row[:2], row[2].strip(), row[3].strip()) for row in rows] == expected


def test_a_record_written_by_the_docs_alone_is_read_as_the_command() -> None:
    """The ids beside the package's schema files in docs/producing.md are those of just these schemas."""
    text = (ROOT / "docs" / "producing.md").read_text("utf-8")
    ids = {file: int(number) for file, number in re.findall(r"`(\w+)\.avsc` \| (\d+)", text)}
    records = {Path(avsc_name(model.record_name)).stem: model.record_name for model in MODELS.values()}
    assert ids.keys() == records.keys()
    fields = {"command_id": "c", "account": "ann", "asset": "credits", "amount": 5, "hold": "h", "spend": "s"}
    fields |= {"to": "bob", "grant": "g", "scope": "all", "limit": 1, "period": "days", "first_at": 1}
    fields |= {"schedule": "p", "deadline": 1}
    for file, number in ids.items():
        schema = load_current(records[file])
        written = io.BytesIO(b"\x00" + number.to_bytes(4, "big"))
        written.seek(0, io.SEEK_END)
        fastavro.schemaless_writer(written, fastavro.parse_schema(schema), {**fields, "steps": []})
        found = decode(written.getvalue())
        assert (found.record, found.fields["account"]) == (records[file], "ann")


#: What every command has, said once.
SHARED_FIELDS = {"type", "command_id", "account", "occurred_at", "source", "reason", "metadata"}


@pytest.mark.parametrize("heading", ["Dead letters", "Why a command is rejected"])
def test_every_reason_is_in_the_rules(heading: str) -> None:
    """docs/rules.md explains each reason, in the order of the checks, and no other."""
    text = (ROOT / "docs" / "rules.md").read_text("utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)
    reasons = DeadLetterReason if heading == "Dead letters" else RejectionReason
    assert documented == [str(reason) for reason in reasons]


def test_every_bound_is_in_the_rules() -> None:
    """docs/rules.md has the numbers of ledger/limits.py and the version of the rules."""
    text = (ROOT / "docs" / "rules.md").read_text("utf-8")
    bounds = [value for name, value in vars(limits).items() if name.startswith("MAX_")]
    assert [bound for bound in bounds if str(bound) not in text and f"{bound:,}" not in text] == []
    assert [rules for rules in known_rules() if f"- version {rules} " not in text] == []


@pytest.mark.parametrize(
    ("shown", "seen", "same"),
    [
        ("a  b\n c", "a b\nc\n", True),
        ("at ...", "at 3:12", True),
        ("at 3:...", "at 3:12", True),
        ("one ... three", "one two three", True),
        ("one ... three", "one three", True),
        ("one ... three", "one two four", False),
        ("accepted", "accepted, and more", False),
        ("total ...", "sum 3", False),
    ],
)
def test_dots_stand_for_anything(shown: str, seen: str, same: bool) -> None:
    """The comparison forgives what it says it forgives, and nothing else."""
    assert matches(shown, seen) is same
