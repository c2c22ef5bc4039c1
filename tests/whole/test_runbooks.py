"""The runbooks are tried as they are written, on a ledger that has the fault which each is about.

What the world does in an incident (a server comes back, a machine is replaced) the tests do, between two parts of a
page. Whatever a page shows as a command is run from the page itself.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from helpers.command_line import run
from helpers.documents import Runner, Walk
from helpers.fork_server import Process
from helpers.pages import parts
from helpers.projection_copy import copy_of
from helpers.small_disk import ROOMY_KB, SmallDisk
from helpers.stack_under_test import StackUnderTest
from helpers.support import (
    HANG_S,
    ROOT,
    Raw,
    WorkerProcess,
    append,
    environment,
    execute,
    fold_log,
    query,
    record,
    wait_until_folded,
    worker,
)

RUNBOOKS = ROOT / "docs" / "runbooks"
#: A release that has one more version of the rules.
NEXT_RELEASE = (str(ROOT / "tests" / "programs" / "rules_two.py"),)


class NextWorker(WorkerProcess):
    """A worker of the next release."""

    program = NEXT_RELEASE


class Incident:
    """A ledger that something happens to, the page that is followed, and the processes that the page has started."""

    def __init__(self, settings: Settings, folder: Path, page: str, running: ExitStack) -> None:
        self.settings = settings
        self._folder = folder
        self._running = running
        self._started: list[tuple[str, WorkerProcess]] = []
        runner = Runner(settings, folder, start=lambda words: self.start(words[1]))
        self.walk = Walk(runner, RUNBOOKS / f"{page}.md")

    def start(self, command: str) -> WorkerProcess:
        """Start a process as its supervisor does."""
        name = f"{command}-{len(self._started)}"
        process = self._running.enter_context(worker(self.settings, self._folder, name, command=command))
        self._started.append((command, process))
        return process

    def has_ended(self, command: str) -> bool:
        """Whether all processes of a kind have ended by themselves."""
        return all(process.process.poll() is not None for kind, process in self._started if kind == command)


@contextmanager
def incident(settings: Settings, folder: Path, page: str) -> Iterator[Incident]:
    """A ledger with tables, and a page that is followed to its end."""
    with ExitStack() as running:
        found = Incident(settings, folder, page, running)
        yield found
        found.walk.end()


def seems_long_ago(settings: Settings) -> None:
    """Have a minute pass since all signs of life: who is dead has been dead for long."""
    execute(settings, "UPDATE ledger.heartbeats SET beat_at = beat_at - interval '1 minute'")


def test_the_first_five_minutes(ledger_settings: Settings, tmp_path: Path) -> None:
    """All that is looked at first only reads, and a ledger that is well shows nothing."""
    with incident(ledger_settings, tmp_path, "README") as found:
        found.start("worker")
        append(ledger_settings, [record("Grant", "g", "ann", 5)])
        wait_until_folded(ledger_settings)
        found.walk.part("The first five minutes", until=True)


def test_lag_grows(ledger_settings: Settings, tmp_path: Path) -> None:
    """A worker was killed; a second one shares its work; a publisher wasn't there."""
    with incident(ledger_settings, tmp_path, "lag") as found:
        first = found.start("worker")
        append(ledger_settings, [record("Grant", f"g-{n}", f"user-{n}", 5) for n in range(50)])
        wait_until_folded(ledger_settings)
        first.kill()
        append(ledger_settings, [record("Spend", f"s-{n}", f"user-{n}", 1) for n in range(50)])
        seems_long_ago(ledger_settings)
        found.walk.part("Check", until=True)
        found.walk.part("Do")
        wait_until_folded(ledger_settings)

        def owners() -> int:
            return len({owner for (owner,) in query(ledger_settings, "SELECT owner FROM ledger.progress")})

        # Both that the page has started.
        assert wait_until(lambda: owners() == 2, HANG_S)
        found.walk.part("It is over when", until=True)
        found.walk.part("Outcomes are late")
        found.walk.part("It is well when", until=True)
        assert query(ledger_settings, "SELECT sum(available) FROM ledger.balances") == [(200,)]


def test_a_flood_of_dead_letters(ledger_settings: Settings, tmp_path: Path) -> None:
    """JSON in place of commands, and one command on every partition but its own."""
    noise = [Raw(b'{"grant": %d}' % n, b"user-%d" % n, 0, (("producer", b"checkout-2.3"),)) for n in range(40)]
    lost = record("Grant", "lost-1", "zoe", 50)
    with incident(ledger_settings, tmp_path, "dead-letters") as found:
        append(ledger_settings, noise)
        append(ledger_settings, [lost._replace(partition=partition) for partition in (0, 2, 3)])
        found.start("worker")
        wait_until_folded(ledger_settings)
        found.walk.part("Check")
        found.walk.part("Do")
        found.walk.part("It is over when")
        assert query(ledger_settings, "SELECT account_id, available FROM ledger.balances") == [("zoe", 50)]
        assert "dead letters:" not in run(ledger_settings, "status", "--interval", "0.05").stdout


def test_a_wrong_grant_to_many(ledger_settings: Settings, tmp_path: Path) -> None:
    """Of 400, some have spent of it, hold it, or sent it on; what others were granted is left alone."""
    spring = {"source": "campaigns", "reason": "spring campaign"}
    count = 400
    with incident(ledger_settings, tmp_path, "wrong-grant") as found:
        run(ledger_settings, "keys", "create", "campaigns", "--scope", "append:grant", "--reason", "spring")
        found.start("worker")
        append(ledger_settings, [record("Grant", f"own-{n}", f"user-{n}", 7, source="shop") for n in range(20, 40)])
        append(ledger_settings, [record("Grant", "spring", f"user-{n}", 5_000, **spring) for n in range(1, count + 1)])
        append(
            ledger_settings,
            [
                record("Spend", "s", "user-1", 100),
                record("Hold", "h", "user-2", 300, deadline=4_102_444_800_000),
                record("Spend", "s", "user-3", 5_000),
                record("Transfer", "t", "user-4", 1_000, to="bob"),
            ],
        )
        wait_until_folded(ledger_settings)
        sent = "SELECT count(*) FROM ledger.transfers WHERE state = 'settled'"
        assert wait_until(lambda: query(ledger_settings, sent) == [(1,)], HANG_S)
        found.walk.part("Check")
        found.walk.part("Do")
        wait_until_folded(ledger_settings)
        found.walk.part("It is over when")
        left = "SELECT sum(available), sum(held) FROM ledger.balances WHERE account_id ~ '^user-'"
        assert query(ledger_settings, left) == [(20 * 7, 300)]
        # As after a stop: whatever is sent again counts once.
        again = run(ledger_settings, "import", str(tmp_path / "voids.jsonl"), "--start-over").stdout
        assert again.startswith("appended 399 commands")
        wait_until_folded(ledger_settings)
        assert query(ledger_settings, left) == [(20 * 7, 300)]
        assert query(ledger_settings, "SELECT sum(duplicates) FROM ledger.progress") == [(399,)]


def test_rebuild_and_switch(ledger_settings: Settings, tmp_path: Path) -> None:
    """While commands come."""
    with incident(ledger_settings, tmp_path, "rebuild-and-switch") as found:
        found.start("worker")
        append(ledger_settings, [record("Grant", f"g-{n}", f"user-{n % 40}", 5) for n in range(400)])
        wait_until_folded(ledger_settings)
        found.walk.part("Check")
        found.walk.part("Do")
        append(ledger_settings, [record("Spend", f"s-{n}", f"user-{n % 40}", 1) for n in range(400)])
        wait_until_folded(ledger_settings)
        assert query(ledger_settings, "SELECT DISTINCT generation FROM ledger.progress") == [(2,)]
        found.walk.part("It is over when")
        assert query(ledger_settings, "SELECT sum(available) FROM ledger.balances") == [(1_600,)]


def test_postgresql_is_lost(stack: StackUnderTest, ledger_settings: Settings, tmp_path: Path) -> None:
    """It is killed, and comes back as a backup has it; then there is an empty database in its place."""
    with incident(ledger_settings, tmp_path, "postgresql") as found:
        found.start("worker")
        append(ledger_settings, [record("Grant", f"g-{n}", f"user-{n}", 5) for n in range(50)])
        wait_until_folded(ledger_settings)
        with copy_of(ledger_settings) as backup:
            append(ledger_settings, [record("Spend", f"s-{n}", f"user-{n}", 1) for n in range(50)])
            wait_until_folded(ledger_settings)
            stack.stop_postgres(kill=True)
            try:
                found.walk.part("Check")
            finally:
                stack.start_postgres()
            backup.put_back()
            found.walk.part("It is over when", until=True)
            assert query(ledger_settings, "SELECT sum(available) FROM ledger.balances") == [(250,)]
            backup.empty()
        found.walk.part("Everything is gone")
        found.walk.part("It is all there again when", until=True)
        assert query(ledger_settings, "SELECT sum(available) FROM ledger.balances") == [(250,)]


def test_kafka_is_away(stack: StackUnderTest, ledger_settings: Settings, tmp_path: Path) -> None:
    """Wholly, and comes back."""
    with incident(ledger_settings, tmp_path, "kafka") as found:
        found.start("worker")
        append(ledger_settings, [record("Grant", "g", "ann", 5)])
        wait_until_folded(ledger_settings)
        stack.stop_kafka(kill=True)
        try:
            found.walk.part("Check", until=True)
        finally:
            stack.start_kafka()
        append(ledger_settings, [record("Spend", "s", "ann", 1)])
        found.walk.part("It is over when", until=True)
        assert query(ledger_settings, "SELECT sum(available) FROM ledger.balances") == [(4,)]


def test_a_disk_is_full(small_disk: SmallDisk, ledger_settings: Settings, tmp_path: Path) -> None:
    """That of the live tables; the old ones are on it too."""
    # It would look again after some minutes at most, which a test needn't wait for.
    ledger_settings = ledger_settings.model_copy(update={"retry_max_s": 0.2})
    with incident(ledger_settings, tmp_path, "disk-full") as found:
        append(ledger_settings, [record("Grant", f"g-{n}", f"user-{n}", 5) for n in range(4_000)])
        fold_log(ledger_settings)
        run(ledger_settings, "rebuild", "--tablespace", small_disk.tablespace)
        run(ledger_settings, "activate", "2")
        small_disk.fill()
        found.start("worker")
        append(ledger_settings, [record("Spend", f"s-{n}", f"user-{n}", 1) for n in range(4_000)])
        found.walk.part("Check", until=True)
        found.walk.part("Do")
        small_disk.resize(ROOMY_KB)
        found.walk.part("It is over when", until=True)
        assert query(ledger_settings, "SELECT sum(available) FROM ledger.balances") == [(16_000,)]


def test_a_bad_release(ledger_settings: Settings, tmp_path: Path) -> None:
    """One that makes dead letters of commands whose source has more than eight characters; it is rolled back."""
    with incident(ledger_settings, tmp_path, "bad-release") as found:
        sources = ["shop", "campaigns"]
        records = [record("Grant", f"g-{n}", f"user-{n}", 90 + n, source=sources[n % 2]) for n in range(20)]
        append(ledger_settings, records)
        bad = ("ledger.limits.MAX_SOURCE=8",)
        with worker(ledger_settings, tmp_path, "bad", constants=bad):
            wait_until_folded(ledger_settings)
        assert query(ledger_settings, "SELECT count(*) FROM ledger.dead_letters") == [(10,)]
        found.walk.part("Check")
        found.walk.part("Do")
        wait_until_folded(ledger_settings)
        found.walk.part("It is over when", until=True)
        assert query(ledger_settings, "SELECT count(*), sum(available) FROM ledger.balances") == [
            (20, sum(range(90, 110)))
        ]
        # Somebody has a later release at hand, and these workers aren't of it.
        by_mistake = ("rules", "activate", "2", "--reason", "by mistake", "--timeout", "600")
        with Process([*NEXT_RELEASE, *by_mistake], env=environment(ledger_settings)) as activating:
            assert wait_until(lambda: found.has_ended("worker"), HANG_S)
            # It waits for workers of that release.
            activating.kill()
        found.walk.part("Rules by mistake", until=True)
        with worker(ledger_settings, tmp_path, "next", kind=NextWorker):
            wait_until_folded(ledger_settings)
            found.walk.part("They are in force when", until=True)


def test_each_runbook_is_tried() -> None:
    """None that has a command is left out."""
    whole = ROOT / "tests" / "whole"
    modules = ("test_runbooks.py", "test_three_brokers.py", "test_monitoring.py")
    text = "".join((whole / name).read_text("utf-8") for name in modules)
    tried = set(re.findall(r'"([\w-]+)(?:\.md)?"', text))
    assert {page.stem for page in RUNBOOKS.glob("*.md") if parts(page)} <= tried
