"""The shops of examples/ agree with our own producer, and charge for no order twice.

Each README's commands are run as they stand, against a worker and a publisher. Left out where a language isn't here.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from creditfold.common.settings import Settings
from creditfold.processors.startup import prepare_ledger
from creditfold.producers import CommandProducer, Grant, Spend
from helpers.ledgers import topics_made
from helpers.node import BRIEF_NPM, need_node, shown, version_of
from helpers.support import HANG_S, ROOT, environment, publisher, query, ran, worker

EXAMPLES = ROOT / "examples"
LEAST_JAVA = (17,)
#: What an example sends for further accounts, in whichever partition they are.
ACCOUNTS = (
    "größe-😀",
    "e\u0301",
    "👩\u200d👩\u200d👧\u200d👦",
    "日本語",
    "ä" * 128,
    "😀" * 128,
    "user-1",
    "user-2",
    "user-3",
)


def need_java() -> None:
    """Skip the test unless Maven and a compiler are here."""
    if shutil.which("mvn") is None:
        pytest.skip("no mvn here: apt-get install maven")
    version = version_of("javac", "-version")
    if version is None or version < LEAST_JAVA:
        pytest.skip(f"no javac of Java {shown(LEAST_JAVA)} here: apt-get install default-jdk-headless")


NEEDED: Mapping[str, Callable[[], None]] = {"java": need_java, "node": need_node}


@pytest.fixture(params=NEEDED)
def language(request: pytest.FixtureRequest) -> str:
    """A language that this machine has."""
    NEEDED[request.param]()
    return str(request.param)


@pytest.fixture
def settings(language: str, ledger_database: Settings, tmp_path: Path) -> Iterator[Settings]:
    """A ledger of three partitions with a worker and a publisher: by a power of two, more partitioners agree."""
    with topics_made(ledger_database.model_copy(update={"partitions": 3})) as made:
        assert prepare_ledger(made)
        with worker(made, tmp_path), publisher(made, tmp_path):
            yield made


@pytest.fixture
def folder(language: str, tmp_path: Path) -> Path:
    """A copy of the example in a tree of its own, with the files of the schemas where a clone has them."""
    copy = tmp_path / "clone" / "examples" / language
    shutil.copytree(EXAMPLES / language, copy, ignore=shutil.ignore_patterns("node_modules", "target"))
    schemas = tmp_path / "clone" / "schemas"
    schemas.mkdir()
    for name in ("lock.json", "conformance.json"):
        shutil.copy(ROOT / "schemas" / name, schemas)
    return copy


class Readme:
    """An example's README: its commands, run in its folder on a ledger, and what it says that they print."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        text = (folder / "README.md").read_text("utf-8")
        self.folder = folder
        self.commands = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        (self.printed,) = re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        # The JVM reads its arguments by the locale.
        self.environment = environment(settings) | BRIEF_NPM | {"LC_ALL": "C.UTF-8"}

    def run(self, commands: str) -> str:
        """What commands print."""
        done = ran("bash", "-ec", commands, cwd=self.folder, env=self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shop(self, *orders: str) -> list[dict[str, Any]]:
        """What became of orders, sent as the README sends its own."""
        *_, command = self.commands
        own = re.findall(r"\S+:\S+:\S+:\d+", command)
        before, after = command.index(own[0]), command.index(own[-1]) + len(own[-1])
        return lines(self.run(f"{command[:before]}{' '.join(orders)}{command[after:]}"))


def lines(text: str) -> list[dict[str, Any]]:
    """Objects, one a line."""
    return [json.loads(line) for line in text.splitlines()]


def without_positions(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines but for what depends on the log."""
    return [{name: value for name, value in one.items() if name not in ("position", "decided")} for one in found]


def balances(settings: Settings) -> dict[str, int]:
    """What each account has available."""
    return dict(query(settings, "SELECT account_id, available FROM ledger.balances"))


def test_an_example_agrees_with_us_and_charges_once(folder: Path, settings: Settings) -> None:
    """What our own producer sent first is a repeat when the example sends it, byte for byte, and so is its own."""
    first = (
        Grant(command_id="welcome", account="ada", asset="credits", amount=100, source="shop"),
        Spend(command_id="order-7", account="ada", asset="credits", amount=30, source="shop"),
    )
    with CommandProducer(settings.kafka_client, settings.commands_topic, delivery_timeout_s=HANG_S) as producer:
        positions = [str(producer.append(command)) for command in first]
    readme = Readme(folder, settings)
    build, check, send = readme.commands
    readme.run(build)
    assert readme.run(check) == "1000 accounts and 41 commands agree\n"
    sent = lines(readme.run(send))
    assert without_positions(sent) == without_positions(lines(readme.printed))
    assert [one.get("decided") for one in sent] == [*positions, sent[2]["position"], positions[1], None]
    # Another process: what it sends again it has sold already, to accounts in every partition.
    orders = [f"{account}:{kind}" for account in ACCOUNTS for kind in ("grant:g:5", "spend:s:2")]
    again = readme.shop("ada:spend:order-7:30", *orders)
    assert [(one["result"], one["balance"]) for one in again] == [
        ("accepted", "70"),
        *[("accepted", "5"), ("accepted", "3")] * len(ACCOUNTS),
    ]
    assert again[0]["decided"] == positions[1]
    assert {one["position"].partition(":")[0] for one in again} == {"0", "1", "2"}
    assert balances(settings) == {"ada": 70, **dict.fromkeys(ACCOUNTS, 3)}
    assert query(settings, "SELECT reason FROM ledger.dead_letters") == [("command_id_reused",)]
