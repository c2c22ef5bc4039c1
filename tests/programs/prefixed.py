"""Runs a command and puts a name before each line that it prints, so that two that run at once can be told apart.

    python tests/programs/prefixed.py 'plain Python' pytest tests/ledger

Ends with the command's exit code. Ctrl-C is for the command alone, which may have servers to stop before it ends; so is
a SIGTERM, which comes to this process and is passed on.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence


def run(name: str, command: Sequence[str]) -> int:
    """Run a command to its end. Returns its exit code, that of a shell where a signal has ended it."""
    # A handler, because what is ignored here would be ignored by the command, too.
    signal.signal(signal.SIGINT, lambda *_: None)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(f"{name}: {line}")
            sys.stdout.flush()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
