"""Gives a process's signs of life: a thread that writes, every two seconds, what the process does at that moment.

Owns the thread and its connection, which wait behind nothing that the process does: a loop that stands still, or folds
that hang, are seen as such. Judges nothing (`health.py`), and never ends or delays the process: while PostgreSQL is
away, read-only or slow, there are no signs.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import psycopg
import structlog
from psycopg import Connection
from psycopg.errors import InvalidSchemaName, UndefinedTable
from psycopg.rows import TupleRow

from creditfold.projections.connections import heartbeat_connection
from creditfold.projections.failures import is_outage
from creditfold.projections.queries.heartbeats import PartitionSign, Role, Sign, State, beat, forget_gone

BEAT_S = 2.0
CLEAN_EVERY_S = 300.0
#: How long a process that ends waits for its last sign to be written.
LAST_BEAT_S = 2.0
#: Characters of what a server or an error says that are kept.
MOST_CHARACTERS = 300

Partitions: TypeAlias = Callable[[], Sequence[PartitionSign]]

log = structlog.get_logger()


def owner_name() -> str:
    """This process's name in `progress` and among the heartbeats."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_ours(pid: int) -> bool:
    """Whether a process of this machine exists and is one of ours, frozen or not; a pid may have gone to a stranger."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        return b"creditfold" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True  # A system that doesn't show what runs there.


class Signs:
    """What a process says of itself; its parts write here, from any thread."""

    def __init__(self) -> None:
        self.state: State = "starting"
        self.partitions: Partitions = tuple
        self._waits: dict[str, str] = {}
        self._turned: dict[str, float] = {}
        self._began = time.monotonic()
        self.news = threading.Event()

    def turn(self, loop: str) -> None:
        """A loop of this name goes round."""
        self._turned[loop] = time.monotonic()

    def end(self) -> None:
        """The process was asked to end, or ends by itself."""
        self.state = "stopped"
        self.news.set()

    def waits_for(self, server: str, why: str) -> None:
        """A server is away, and the process waits for it."""
        self._waits[server] = " ".join(why.split())[:MOST_CHARACTERS]

    def found(self, server: str) -> None:
        """A server answers."""
        self._waits.pop(server, None)

    def sign(self, role: Role) -> Sign:
        """All of it, as it is now."""
        now = time.monotonic()
        return Sign(
            role,
            socket.gethostname(),
            os.getpid(),
            self.state,
            now - self._began,
            "; ".join(f"{server}: {why}" for server, why in list(self._waits.items())),
            {loop: round(now - at, 3) for loop, at in list(self._turned.items())},
            self.partitions(),
        )


class Heart:
    """The thread that writes a process's signs.

    Args:
        dsn: where PostgreSQL is.
        role: what the process is.
        signs: what it says of itself.
    """

    def __init__(self, dsn: str, role: Role, signs: Signs) -> None:
        self._dsn = dsn
        self._role = role
        self._signs = signs
        self._connection: Connection[TupleRow] | None = None
        self._cleaned_at = 0.0
        self._has_failed = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        """Begin."""
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write that the process has ended, if that can be done at once."""
        self._stopping.set()
        self._signs.end()
        self._thread.join(LAST_BEAT_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._beat()
            self._signs.news.wait(BEAT_S)
            self._signs.news.clear()
        self._beat()
        self._disconnect()

    def _beat(self) -> None:
        try:
            if self._connection is None:
                self._connection = heartbeat_connection(self._dsn, f"creditfold {self._role} {os.getpid()} heartbeat")
            beat(self._connection, self._signs.sign(self._role))
            if time.monotonic() - self._cleaned_at > CLEAN_EVERY_S:
                self._cleaned_at = time.monotonic()
                forget_gone(self._connection)
            self._has_failed = False
        except Exception as error:
            self._disconnect()
            # Of an outage the rest of the process reports; and before its tables are made there is nothing to write to.
            expected = is_outage(error) or isinstance(error, UndefinedTable | InvalidSchemaName)
            if not expected and not self._has_failed:
                self._has_failed = True
                log.warning("signs of life can't be written, trying again", why=str(error).strip()[:MOST_CHARACTERS])

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection = None
