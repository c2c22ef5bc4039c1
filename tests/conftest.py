"""Owns the fixtures that all tests share: the real stack, and for each test a ledger of its own on it."""

import functools
import gc
import inspect
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import httpx
import hypothesis
import pytest
import structlog
from httpx._transports import default as httpx_transports
from hypothesis import HealthCheck

# Before anything of ours is imported: many tests put something of their own in place of a part of the core, which can't
# be done with the compiled one. The Makefile has those that may run on both do so.
os.environ.setdefault("CREDITFOLD_CORE", "plain")

from creditfold.cli.append import submission
from creditfold.cli.main import _run
from creditfold.common.position import Log, Position
from creditfold.common.settings import Settings, load_settings
from creditfold.producers import CommandProducer
from creditfold.projections.tables.setup import prepare
from helpers.command_line import use
from helpers.kept_sessions import dsn_of_another, kept_sessions
from helpers.ledgers import filled_once, new_database, patience, topics_made, with_topics_of_its_own
from helpers.small_disk import SmallDisk, mounted
from helpers.stack_under_test import StackUnderTest
from helpers.support import HANG_S, Cli, Done

NEEDS_STACK = {"stack", "ledger_database", "ledger_settings"}


def pytest_configure() -> None:
    """Let SIGTERM end the tests as Ctrl-C does, so that the servers are stopped; have Java start quickly."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell has what it starts in the background ignore Ctrl-C, and that is inherited by all that is interrupted here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Brokers here live for seconds: compiling them well took half of the time and of the CPU time of their start.
    os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
    # A client of httpx reads the certificates of all authorities before it asks a server here, which has none.
    httpx_transports.create_ssl_context = functools.cache(httpx.create_ssl_context)
    # How long an example takes says something of the machine, and nothing of ours.
    hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    hypothesis.settings.load_profile("untimed")
    # As every process of ours writes it. By default an exception is logged with the values of all variables of all its
    # frames, which takes seconds.
    *processors, _ = structlog.get_config()["processors"]
    plainly = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors, plainly])


def pytest_collection() -> None:
    """Collect without looking for garbage: nearly all that is made then stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for it again, in what the tests make alone."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what uses the stack. What stops or shares servers takes longest and goes first: the last are waited for.

    What needs no server takes the shortest, and goes last.
    """
    for item in items:
        if NEEDS_STACK & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.stack)
        # pytest-xdist writes a group where this pytest doesn't read it any more: behind a test's id, by which the
        # process that deals tests out knows it. Only for modules that say so: most take longer one after the other.
        group = item.get_closest_marker("xdist_group")
        if group is not None and getattr(config.option, "loadgroup", False) and hasattr(item, "_id"):
            from _pytest.nodeid import coerce_node_id

            item._id = coerce_node_id(f"{item.nodeid}@{group.args[0]}")
    items.sort(key=_is_short)


def _is_short(item: pytest.Item) -> tuple[bool, bool, bool]:
    """By what they are ordered: needing no server, neither stopping one nor running all there is, sharing none."""
    stops = "stack" in inspect.signature(getattr(item, "function", len)).parameters
    is_unit = item.get_closest_marker("stack") is None and item.get_closest_marker("chaos") is None
    return is_unit, not (stops or item.nodeid.startswith("tests/whole/")), not _shares_servers(item)


def _shares_servers(item: pytest.Item) -> bool:
    """Whether a test uses what is made once for its module."""
    found: dict[str, Any] = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    return "stack" in found and any(one[-1].scope == "module" for one in found.values())


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """How a command that is run here has its process log ends with its test: so does the stream that it logs to."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def stack() -> Iterator[StackUnderTest]:
    """A real Kafka and PostgreSQL, started once. A test that stops one starts it again."""
    under_test = StackUnderTest.chosen()
    try:
        under_test.start()
        with kept_sessions(dsn_of_another(under_test.settings)):
            yield under_test
    finally:
        under_test.stop()


@pytest.fixture
def disk(stack: StackUnderTest) -> Iterator[SmallDisk | None]:
    """A small disk, None where there can't be one. Named before a ledger in a test's arguments, it outlives that."""
    with mounted(stack) as found:
        yield found if isinstance(found, SmallDisk) else None


@pytest.fixture
def small_disk(stack: StackUnderTest) -> Iterator[SmallDisk]:
    """The same, for a test that is about nothing else and is skipped where there can't be one."""
    with mounted(stack) as found:
        if not isinstance(found, SmallDisk):
            pytest.skip(found)
        yield found


@pytest.fixture
def ledger_settings(request: pytest.FixtureRequest, stack: StackUnderTest) -> Iterator[Settings]:
    """Settings with topics of 4 partitions, a consumer group and a database that no other test knows.

    The tables are made, but for a test that is marked as `unprepared`.
    """
    is_made = request.node.get_closest_marker("unprepared") is None
    template = request.getfixturevalue("_made_ledger") if is_made else None
    with (
        patience(),
        new_database(stack.settings, template) as database,
        topics_made(with_topics_of_its_own(database), are_bound=is_made) as ledger,
    ):
        yield ledger


@pytest.fixture(scope="session")
def _made_ledger(stack: StackUnderTest) -> Iterator[Settings]:
    """What ledgers are copies of: to make the tables takes longer than all else of many a small test."""
    log = Log("creditfold.commands.v1", "an-id", 4)
    with filled_once(stack.settings, lambda empty: prepare(empty.dsn, log)) as settings:
        yield settings


@pytest.fixture
def ledger_database(stack: StackUnderTest) -> Iterator[Settings]:
    """An empty database of its own, for a test that needs no topics."""
    with patience(), new_database(stack.settings) as settings:
        yield with_topics_of_its_own(settings)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Runs a command in this process."""

    def run(*arguments: str) -> Done:
        load_settings.cache_clear()
        code = _run(list(arguments))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    yield run
    load_settings.cache_clear()


@pytest.fixture
def cli(bare: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command on a ledger of its own, with nothing in its log yet."""
    use(ledger_settings, monkeypatch)
    return bare


@pytest.fixture
def one_producer(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has the commands of a test append by one producer: Kafka lets each new one wait for half a second."""
    settings = ledger_settings
    with CommandProducer(settings.kafka_client, settings.commands_topic, delivery_timeout_s=HANG_S) as producer:
        monkeypatch.setattr(submission, "open_producer", lambda *_: nullcontext(producer))
        yield


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Takes what would be appended, in place of Kafka."""
    found: list[Any] = []

    def take(attempt: Any, _: float) -> Position:
        attempt.sent = True
        found.append(attempt.command)
        return Position(0, len(found))

    monkeypatch.setattr(submission, "_appended", take)
    return found
