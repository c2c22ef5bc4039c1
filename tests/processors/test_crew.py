"""The processes that fold a rebuild, before they have anything to do: they end with whoever started them."""

import subprocess
import sys

import psutil
import pytest

from creditfold.processors.rebuild.processes import Crew
from helpers.support import HANG_S

PROCESSES = 3

STARTED = f"""
import threading, time
from creditfold.processors.rebuild.processes import Crew
if {{threads}}:
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
crew = Crew({PROCESSES})
print("started", flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("threads", [0, 1], ids=["forked", "spawned"])
def test_a_crew_without_a_task_ends_with_its_parent(threads: int) -> None:
    """SIGKILL leaves no process that waits for ever, whichever way they were started."""
    command = [sys.executable, "-c", STARTED.format(threads=threads)]
    with psutil.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"started\n"
        crew = parent.children(recursive=True)
        assert len(crew) >= PROCESSES
        parent.kill()
    _, alive = psutil.wait_procs(crew, timeout=HANG_S)
    assert not alive


def test_a_crew_without_a_task_ends_with_its_block() -> None:
    """Where there turns out to be too little for it."""
    before = psutil.Process().children()
    with Crew(2):
        crew = [process for process in psutil.Process().children() if process not in before]
        assert len(crew) >= 2
    assert not [
        process for process in crew if process.is_running() and "resource_tracker" not in str(process.cmdline())
    ]
