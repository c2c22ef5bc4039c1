"""Starts the process of an operation that somebody began over HTTP: a rebuild, a comparison, an activation.

Owns which kinds there are and how their process gets to know what to do. It outlives the client and the server that
started it. What it does is processors/rebuild's; imports nothing of that, nor its libraries.
"""

import json
import sys
import threading
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

from pydantic import SecretStr

from creditfold.common.settings import Settings
from creditfold.projections.access.operations import Operation

REBUILD, VERIFY, ACTIVATE, DIFF = "generations.rebuild", "generations.verify", "generations.activate", "rules.diff"


def start_process(settings: Settings, operation: Operation) -> None:
    """Start the process of an operation that was begun.

    Args:
        settings: where the servers are. They go by a pipe: others can see a process's arguments and environment.
        operation: as it was begun.

    Raises:
        OSError: the system starts none.
    """
    processes = operation.parameters["processes"] if operation.kind == REBUILD else 0
    order = {"settings": _revealed(settings), "operation": operation.number, "processes": processes}
    # Of a session of its own: what is typed at the server's terminal isn't for it.
    process = Popen(
        [sys.executable, "-m", "creditfold.processors.rebuild.operation"],
        stdin=PIPE,
        stdout=DEVNULL,
        start_new_session=True,
    )
    # Waits for its end too, or it would stay a zombie.
    given = json.dumps(order, default=str).encode()
    threading.Thread(target=process.communicate, args=(given,), name="operation", daemon=True).start()


def _revealed(settings: Settings) -> dict[str, Any]:
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in settings
        if value is not None
    }
