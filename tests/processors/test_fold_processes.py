"""The processes that fold a rebuild, before they have anything to do: they end with whoever started them."""

import subprocess
import sys

import psutil
import pytest

from creditfold.processors.rebuild.processes import FoldProcesses
from helpers.support import HANG_S

PROCESSES = 3

STARTED = f"""
import threading, time
from creditfold.processors.rebuild.processes import FoldProcesses
if {{threads}}:
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
processes = FoldProcesses({PROCESSES})
print("started", flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("threads", [0, 1], ids=["forked", "spawned"])
def test_processes_without_a_task_end_with_their_parent(threads: int) -> None:
    """SIGKILL leaves no process that waits for ever, whichever way they were started."""
    command = [sys.executable, "-c", STARTED.format(threads=threads)]
    with psutil.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"started\n"
        processes = parent.children(recursive=True)
        assert len(processes) >= PROCESSES
        parent.kill()
    _, alive = psutil.wait_procs(processes, timeout=HANG_S)
    assert not alive


def test_processes_without_a_task_end_with_their_block() -> None:
    """Where there turns out to be too little for it."""
    before = psutil.Process().children()
    with FoldProcesses(2):
        processes = [process for process in psutil.Process().children() if process not in before]
        assert len(processes) >= 2
    assert not [
        process for process in processes if process.is_running() and "resource_tracker" not in str(process.cmdline())
    ]
