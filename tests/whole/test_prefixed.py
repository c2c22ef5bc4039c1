"""What runs beside something else says whose each line is, and ends as its command does."""

import signal
import subprocess
import sys

import pytest

from helpers.support import HANG_S, ROOT, ran

PREFIXED = (sys.executable, str(ROOT / "tests" / "programs" / "prefixed.py"), "one of two")

WAITING = """
import signal, sys, time
def stop(*_):
    print("stopping")
    sys.exit(3)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("code", [0, 1, 5])
def test_each_line_has_the_name_and_the_code_is_the_command_s(code: int) -> None:
    """Of both streams, in the order in which they come, and a line without an end too."""
    script = f"import os, sys; os.write(1, b'out\\n'); os.write(2, b'err\\n'); os.write(1, b'\\xff'); sys.exit({code})"
    done = ran(*PREFIXED, sys.executable, "-c", script)
    assert (done.returncode, done.stdout) == (code, "one of two: out\none of two: err\none of two: \ufffd")


def test_a_command_that_a_signal_ends_has_a_shell_s_code() -> None:
    """128 and the signal's number: nothing that make would take for a success."""
    done = ran(*PREFIXED, sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert done.returncode == 128 + signal.SIGKILL


def test_who_is_asked_to_stop_has_the_command_stop() -> None:
    """And waits until it has: it may have servers to stop."""
    with subprocess.Popen([*PREFIXED, sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one of two: ready\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "one of two: stopping\n"
        assert process.wait(HANG_S) == 3
