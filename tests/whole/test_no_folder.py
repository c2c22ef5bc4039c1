"""Who only folds, publishes, reads, appends or rebuilds needs no folder that can be written, and none that exists."""

from pathlib import Path

import pytest

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.offsets import end_offsets
from creditfold.processors.door import is_ready
from helpers import fork_server
from helpers.fork_server import start_anew
from helpers.stack_under_test import free_port
from helpers.support import HANG_S, Done, WorkerProcess, append, environment, record, wait_until_folded

PROGRAM = str(Path(__file__).parents[1] / "programs" / "read_only.py")

#: They neither exist nor can be made, whoever asks: the kernel is in the way of one, a file of the other.
IN_THE_KERNEL = Path("/sys/creditfold")
IN_A_FILE = Path(__file__, "data")


class ReadOnly(WorkerProcess):
    """A worker, a publisher, a deliverer or a door that can write no file."""

    program = (PROGRAM,)
    # What is imported at its start must not write either.
    start_program = start_anew


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with a read-only root and a user without a name: no home, no temporary folder, `/` to work in."""
    monkeypatch.chdir("/")
    monkeypatch.delenv("USER", raising=False)
    for name in ("HOME", "TMPDIR"):
        monkeypatch.setenv(name, "/nowhere")


def ran(settings: Settings, *arguments: str) -> Done:
    """Run a command to its end where it can write no file."""
    done = fork_server.run([PROGRAM, *arguments], env=environment(settings), timeout=HANG_S)
    return Done(done.returncode, done.stdout, done.stderr)


def assert_left_alone(seen: str) -> None:
    """Nobody even tried to write."""
    assert "refused: " not in seen, seen


@pytest.mark.usefixtures("bare")
def test_no_process_needs_a_folder(ledger_settings: Settings, tmp_path: Path) -> None:
    """They fold, publish, deliver and serve, and end with 0 when they are asked to."""
    settings = ledger_settings.model_copy(update={"data_dir": IN_THE_KERNEL, "api_port": free_port()})
    append(settings, [record("Grant", f"g-{number}", f"user-{number}", 5) for number in range(20)])
    running = [ReadOnly(settings, tmp_path, name, name) for name in ("worker", "publisher", "delivery", "serve")]
    try:
        wait_until_folded(settings)
        published = lambda: sum(end_offsets(settings, settings.outcomes_topic, range(4)).values()) >= 20  # noqa: E731
        assert wait_until(published, HANG_S), "\n".join(process.text() for process in running)
        assert wait_until(lambda: is_ready(settings), HANG_S), running[-1].text()
    finally:
        codes = [process.stop() for process in running]
    assert codes == [0, 0, 0, 0]
    for process in running:
        assert_left_alone(process.text())


@pytest.mark.usefixtures("bare")
def test_no_command_but_import_needs_a_folder(ledger_settings: Settings, tmp_path: Path) -> None:
    """From making the tables to proving them; an import keeps its progress in the folder, and says so."""
    settings = ledger_settings.model_copy(update={"data_dir": IN_A_FILE})
    assert_left_alone(_succeeded(ran(settings, "init")))
    running = ReadOnly(settings, tmp_path)
    try:
        granted = ran(settings, "grant", "ada", "5", "--id", "g-1", "--json", "--timeout", str(HANG_S))
        position = Position.parse(granted.json["position"])
        for arguments in [
            ["balance", "ada"],
            ["history", "ada"],
            ["trace", "ada", "g-1"],
            ["status", "--interval", "0.1"],
            ["tick"],
            ["doctor"],
            ["dead-letters", "list"],
            ["rules", "list"],
        ]:
            assert_left_alone(_succeeded(ran(settings, *arguments)))
        wait_until_folded(settings)
        for line in ("rebuild", "generations", "activate 2", "verify", "trial-balance", "drop 1"):
            assert_left_alone(_succeeded(ran(settings, *line.split())))
    finally:
        running.stop()
    assert position.offset >= 0
    file = tmp_path / "commands.jsonl"
    file.write_text('{"type": "grant", "command_id": "g-2", "account": "ada", "asset": "credits", "amount": 5}\n')
    done = ran(settings, "import", str(file))
    assert (done.code, done.out) == (1, "")
    assert f"An import keeps its progress in the data folder, and {IN_A_FILE}/imports can't be made: " in done.err
    assert "\ntry: Set CREDITFOLD_DATA_DIR to a folder that can be written" in done.err


def _succeeded(done: Done) -> str:
    assert done.code == 0, done.err
    return done.err
