"""Runs the blocks of documents as their readers would: commands with the output that is shown, SQL, Python.

Knows what a document may show, and nothing of what any of them is about.
"""

import ast
import asyncio
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import NamedTuple

from psycopg.sql import SQL

from creditfold.api.append import MOST_WAIT_S
from creditfold.cli.main import COMMANDS
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.projections.connections import connected
from creditfold.projections.queries.heartbeats import Role, heartbeats
from helpers.fork_server import run
from helpers.pages import Block, blocks, parts
from helpers.support import HANG_S, all_progress, environment, ran, write_program

#: Where the documents have the door.
PORT = "http://127.0.0.1:29080"

#: What README has in place of the Makefile's two commands. A test of the documents has that these are the Makefile's.
INSTALLING = (
    "python3 -m venv .venv",
    ".venv/bin/pip install -e '.[dev]'",
    ".venv/bin/creditfold demo",
    ".venv/bin/pytest -n 4 -m 'not chaos'",
)
#: Commands that start or stop what the fixtures own. tests/cli/test_cli.py runs each of them.
OF_SERVERS = {"up", "down", "demo"}
#: Commands that run until they are stopped.
DAEMONS = {"worker", "publisher", "delivery", "serve"}
#: Programs that a document may show besides ours: those that run until they are stopped, and others.
OTHER_DAEMONS = {"prometheus"}
USUAL = {"head", "promtool", "wc"}
#: What only a shell can run.
SHELL = re.compile(r"[|<>;]|\$\(|&&")


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
    """Runs a document's blocks in order, as its reader would.

    Args:
        settings: of the ledger that the commands find.
        folder: where they run, and where files are written that blocks are named after.
        url: of the door, in place of the one that the documents name.
        start: starts what runs on after its command, by that command's words; None to leave such commands out.
        places: what stands in place of addresses and the like, which the documents can only give as an example.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        url: str | None = None,
        start: Callable[[Sequence[str]], object] | None = None,
        places: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._settings = settings
        self._environment = environment(settings)
        self._folder = folder
        self._url = url
        self._start = start
        self._places = places
        self._names: dict[str, object] = {}

    def await_processes(self, *roles: Role) -> None:
        """Wait until they run and have said so, which the documents' readers have from `creditfold up`."""

        def run() -> bool:
            if not all_progress(self._settings):
                return False
            with connected(self._settings.dsn) as connection:
                return {sign.role for sign, _ in heartbeats(connection) if sign.state == "running"} >= set(roles)

        assert wait_until(run, HANG_S)

    def run(self, path: Path) -> None:
        """Run all blocks of a document."""
        self.run_blocks(path.name, blocks(path))

    def run_blocks(self, name: str, found: Sequence[Block], *, until: bool = False) -> None:
        """Run blocks of the document of a name. With `until`, commands are repeated until they show what is shown."""
        for block, following in zip(found, [*found[1:], None], strict=True):
            where = f"{name}:{block.line}"
            if block.file is not None:
                (self._folder / block.file).write_text(self._placed(block.text), "utf-8")
            elif block.language in ("console", "bash"):
                self._run_steps(list(steps(block)), where, until=until)
            elif block.language == "python":
                self._run_python(block.text, where)
            elif block.language == "sql":
                shown = following.text if following is not None and following.language == "text" else None
                self._run_sql(block.text, shown, where)

    def _run_steps(self, wanted: list[Step], where: str, *, until: bool) -> None:
        for step, following in zip(wanted, [*wanted[1:], None], strict=True):
            if step.command == "echo $?":
                continue
            code = 0
            if following is not None and following.command == "echo $?":
                assert following.output is not None
                code = int(following.output)
            self._run_step(step._replace(command=self._placed(step.command)), where, code, until=until)

    def _placed(self, text: str) -> str:
        for shown, place in self._places.items():
            text = text.replace(shown, place)
        return text

    def _run_step(self, step: Step, where: str, code: int, *, until: bool) -> None:
        if step.command in INSTALLING:
            return
        if step.command.partition("    #")[0] == "export LEDGER_KEY=$(creditfold init | tail -1)":
            done = self._process(["-m", "creditfold.cli.main", "init"])
            os.environ["LEDGER_KEY"] = self._environment["LEDGER_KEY"] = done.stdout.splitlines()[-1]
            return
        words = patient(shlex.split(step.command, comments=True))
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self._environment[name] = value
            return
        if words[0] == "curl" and "|" not in step.command:
            self._run_curl(words, step.output, where)
            return
        unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", step.command)
        is_shell = SHELL.search(unquoted) is not None or words[0] in USUAL
        if not is_shell and self._runs_on(words):
            if self._start is not None:
                self._start(words)
            return
        if not is_shell and words[0] != "creditfold":
            assert words[0] in ("make", "docker", "pip"), f"{where}: {step.command}"
            return

        def fault() -> str:
            done = self._shell(step.command) if is_shell else self._process(["-m", "creditfold.cli.main", *words[1:]])
            # Where a command fails, the error may be shown too.
            fits = step.output is None or any(
                matches(step.output, seen) for seen in (done.stdout, done.stdout + done.stderr)
            )
            if fits and done.returncode == code:
                return ""
            return f"shown, with {code}:\n{step.output}\nseen, with {done.returncode}:\n{done.stdout}{done.stderr}"

        faults = [fault()]
        if until and faults[-1]:
            wait_until(lambda: not faults.append(fault()) and not faults[-1], HANG_S)  # type: ignore[func-returns-value]
        assert not faults[-1], f"{where}: {step.command}\n{faults[-1]}"

    def _runs_on(self, words: Sequence[str]) -> bool:
        """Whether a command starts or stops what runs on. Without anybody to start it, none is looked at either."""
        if words[0] != "creditfold":
            return words[0] in OTHER_DAEMONS
        return words[1] in OF_SERVERS or (words[1] in DAEMONS and (self._start is None or "--check" not in words))

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

    def _shell(self, command: str) -> "subprocess.CompletedProcess[str]":
        programs = self._folder / "programs"
        if not programs.exists():
            write_program(programs / "creditfold", f'exec "{sys.executable}" -m creditfold.cli.main "$@"')
        path = f"{programs}{os.pathsep}{self._environment['PATH']}"
        done = ran("bash", "-c", command, env={**self._environment, "PATH": path}, cwd=self._folder, timeout=HANG_S)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout, done.stderr)


class Walk:
    """A document that is followed part by part, with what happens in the world between two parts.

    Args:
        runner: runs the blocks.
        path: of the document.
    """

    def __init__(self, runner: Runner, path: Path) -> None:
        self._runner = runner
        self._path = path
        self._left = parts(path)

    def part(self, heading: str, *, until: bool = False) -> None:
        """Run the blocks of the next part, which must have this heading.

        With `until`, commands are repeated until they show what is shown: none of them may change anything.
        """
        assert self._left, f"{self._path.name} has nothing after that; asked for {heading!r}"
        found = self._left.pop(0)
        assert found.heading == heading, (found.heading, heading)
        self._runner.run_blocks(self._path.name, found.blocks, until=until)

    def end(self) -> None:
        """Have nothing left that a reader would run."""
        assert [part.heading for part in self._left] == []
