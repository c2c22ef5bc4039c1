"""A forked process is as one that Python started: its arguments, streams, folder, signals and end."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from fork_server import IMPORTED, Process, run, start_anew
from support import HANG_S

PROGRAM = """
import os, sys, time
from pathlib import Path
import creditfold.cli.main
print(__name__, __file__, sys.argv[1:], sys.path[0], Path.cwd(), os.environ.get("SAID"), sys.stdin.read())
print("to stderr", file=sys.stderr)
print(len([number for number in os.listdir("/proc/self/fd")]), len(os.listdir("/proc/self/task")), flush=True)
if sys.argv[1:] == ["pause"]:
    # A signal that comes just before one long wait would not be noticed in it.
    while True:
        time.sleep(0.01)
raise SystemExit(7)
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A script that says how it was started."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def test_a_program_can_not_tell_how_it_was_started(program: str, tmp_path: Path) -> None:
    """It says the same, and ends alike: no descriptor, thread or variable of the server's is there."""
    said = []
    for start in (Process, start_anew):
        environment = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
        process = start(
            [program, "one", "two words"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**environment, "SAID": "é", "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )
        said.append((*process.communicate("given", timeout=HANG_S), process.returncode))
    assert said[0] == said[1]
    assert said[0][0].startswith(f"__main__ {program} ['one', 'two words'] {tmp_path} {tmp_path} é given\n")
    assert said[0][1:] == ("to stderr\n", 7)


def test_the_command_line_is_run_as_by_python() -> None:
    """Its output, its errors and its exit code; and the server itself goes on."""
    for arguments in (["--version"], ["balance"], ["--help"]):
        done = run(["-m", "creditfold.cli.main", *arguments], timeout=HANG_S)
        anew = start_anew(
            ["-m", "creditfold.cli.main", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert (done.stdout, done.stderr) == anew.communicate(timeout=HANG_S)
        assert done.returncode == anew.returncode


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_signals_end_it(program: str, number: signal.Signals) -> None:
    """With the code that says so, asked in every way; a frozen one is still there."""
    process = Process([program, "pause"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    assert process.wait(HANG_S) == process.wait() == process.poll() == process.returncode == -number
    process.stdout.close()


def test_what_is_not_for_it_is_started_by_python(tmp_path: Path) -> None:
    """Other options, other variables that Python reads at its start, and what is no program."""
    assert IMPORTED
    for process in (
        Process(["-c", "print(5)"], stdout=subprocess.PIPE),
        Process(["-m", "creditfold.cli.main", "--version"], stdout=subprocess.PIPE, start_new_session=True),
        Process(
            ["-m", "creditfold.cli.main", "--version"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        ),
    ):
        assert not process._is_forked
        assert process.communicate(timeout=HANG_S)[0]
        assert process.returncode == 0
