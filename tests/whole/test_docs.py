"""The docs are true: their commands, SQL and Python run against the real stack, and their tables name what exists."""

import io
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import fastavro
import pytest

from creditfold.cli.main import COMMANDS
from creditfold.common.settings import Settings, load_settings
from creditfold.ledger import RejectionReason, known_rules, limits
from creditfold.producers.models.commands import MODELS
from creditfold.projections.connections import connected
from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.registry import avsc_name, load_current
from creditfold.schemas.wire import decode
from helpers.command_line import use
from helpers.documents import INSTALLING, PORT, Runner, matches
from helpers.doors import serving
from helpers.pages import DOCS, blocks
from helpers.support import ROOT, publisher, ran, worker

pytestmark = pytest.mark.compiled_core


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
    targets = (".venv/.installed-dev", "run-tests")
    # As many processes as the Makefile names, whatever `make` was given that runs this.
    names = {"SIDE_BY_SIDE", "MAKEFLAGS", "MAKEOVERRIDES"}
    own = {name: value for name, value in os.environ.items() if name not in names}
    make = ("make", "--always-make", "--dry-run", *targets)
    wanted = ran(*make, cwd=ROOT, env=own, check=True).stdout.replace("make: ", "")
    for piece in ("-m venv .venv", "install --quiet --disable-pip-version-check -e '.[dev]'", ".venv/bin/pytest -n 4"):
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
