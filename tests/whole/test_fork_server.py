"""A forked process is as one that Python started: its arguments, streams, folder, signals and end.

Neither it nor a server outlives the tests.
"""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from creditfold.common.waiting import wait_until
from helpers import fork_server
from helpers.fork_server import IMPORTED, Process, fits, read_at_start, run, start_anew
from helpers.support import HANG_S, ROOT

#: Where Popen is another one than expected, all is started by it, and these tests pass nevertheless.
FORKS = fits(subprocess.Popen)

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


def test_a_program_can_not_see_how_it_was_started(program: str, tmp_path: Path) -> None:
    """It says the same, and ends alike: no descriptor, thread or variable of the server's is there."""
    said, forked = [], []
    for start in (Process, start_anew):
        process = start(
            [program, "one", "two words"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**read_at_start(os.environ), "SAID": "é", "PATH": os.environ["PATH"]},
        )
        forked.append(isinstance(process, Process) and process._is_forked)
        said.append((*process.communicate("given", timeout=HANG_S), process.returncode))
    assert forked == [FORKS, False]
    assert said[0] == said[1]
    assert said[0][0].startswith(f"__main__ {program} ['one', 'two words'] {tmp_path} {tmp_path} é given\n")
    assert said[0][1:] == ("to stderr\n", 7)


ENDING = """
import atexit, sys, threading, time
print("not flushed yet")
atexit.register(print, "first registered, run last")
atexit.register(print, "last registered, run first")
def late():
    threading.main_thread().join()
    print("a thread that is waited for")
threading.Thread(target=late).start()
"""


@pytest.mark.parametrize(
    "how",
    [
        *("", "sys.exit()", "sys.exit(3)", "sys.exit(-1)", "sys.exit(True)", "sys.exit('in words')"),
        *("raise ValueError('in vain')", "raise KeyboardInterrupt", "sys.stdout = open('/dev/full', 'w'); print(1)"),
        *("sys.stdout.close(); atexit._clear()", "threading.Thread(target=time.sleep, args=[60], daemon=True).start()"),
    ],
)
def test_a_program_ends_as_by_python(tmp_path: Path, how: str) -> None:
    """Threads are waited for, then what was registered is run, and what was printed is written."""
    path = tmp_path / "program.py"
    path.write_text(ENDING + how)
    ended = [
        start([str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for start in (Process, start_anew)
    ]
    said = [(*process.communicate(timeout=HANG_S), process.returncode) for process in ended]
    (out, err, code), (out_anew, err_anew, code_anew) = said
    assert (out, err.splitlines()[-1:], code) == (out_anew, err_anew.splitlines()[-1:], code_anew)


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
    process = paused(program)
    assert process.stdout is not None
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
        *(
            Process(["-m", "creditfold.cli.main", "--version"], stdout=subprocess.PIPE, env={**os.environ, **other})
            for other in ({"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}, {"CREDITFOLD_CORE": ""})
        ),
    ):
        assert not process._is_forked
        assert process.communicate(timeout=HANG_S)[0]
        assert process.returncode == 0


def paused(program: str) -> Process:
    """A process that goes on until it is killed, in the midst of its work."""
    process = Process([program, "pause"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()
    return process


def test_threads_that_wait_for_one_process_hear_the_same(program: str) -> None:
    """Whoever asks first; the server is there for the next one."""
    with ThreadPoolExecutor(4) as threads:
        for _ in range(10):
            with Process(
                [program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as one:

                def polled(one: Process = one) -> Any:
                    assert wait_until(lambda: one.poll() is not None, HANG_S, 0.0)
                    return one.returncode

                asked = [threads.submit(polled) for _ in range(3)] + [threads.submit(one.wait, HANG_S)]
                assert [future.result() for future in asked] == [7] * 4


@pytest.mark.skipif(not FORKS, reason="this Python's Popen isn't known")
def test_an_interrupted_question_leaves_no_answer_to_the_next(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was forked is ended with its server; another one forks what comes."""
    process = paused(program)

    def interrupted(*_: Any) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fork_server, "_exactly", interrupted)
        with pytest.raises(KeyboardInterrupt):
            process.poll()
    assert process.wait(HANG_S) == -signal.SIGKILL
    assert wait_until(lambda: is_gone(process.pid), HANG_S)
    assert process.stdout is not None
    process.stdout.close()
    assert run([program], stdout=subprocess.DEVNULL, timeout=HANG_S).returncode == 7


KILLED = """
import os, signal, subprocess, sys
from helpers.fork_server import Process
process = Process([sys.argv[1], "pause"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
process.stdout.readline()
process.stdout.readline()
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not FORKS, reason="this Python's Popen isn't known")
def test_nothing_outlives_killed_tests(program: str) -> None:
    """A worker that nobody can stop any more would go on for ever."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run([sys.executable, "-c", KILLED, program], env=environment, stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    assert wait_until(lambda: is_gone(int(done.stdout)), HANG_S)


def is_gone(pid: int) -> bool:
    """Whether a process is no more than its entry in the system's table."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


KILLED_STACK = """
import json, os, signal
from creditfold.stack.embedded import service_status
from helpers.stack_under_test import EmbeddedStack
stack = EmbeddedStack()
stack.start()
pids = [status.pid for status in service_status(stack.settings)]
print(json.dumps([str(stack.settings.data_dir), pids]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.stack
def test_no_servers_outlive_killed_tests() -> None:
    """Nor their folder, which would fill the disk run by run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with subprocess.Popen([sys.executable, "-c", KILLED_STACK], env=environment, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        folder, pids = json.loads(killed.stdout.readline())
        assert killed.wait(HANG_S) == -signal.SIGKILL
    assert len(pids) == 2
    assert wait_until(lambda: all(map(is_gone, pids)) and not Path(folder).exists(), HANG_S)


def test_an_unknown_popen_starts_all_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a Python to come, whose methods are handed other things."""

    class Other(subprocess.Popen[bytes]):
        def _execute_child(self, args: Any, more: Any) -> None:
            """Start it."""

    assert not fits(Other)
    monkeypatch.setattr(fork_server, "_FITS", False)
    with Process(["-m", "creditfold.cli.main", "--version"], stdout=subprocess.PIPE) as process:
        assert not process._is_forked
        assert process.communicate(timeout=HANG_S)[0]
        assert process.poll() == process.wait() == 0
