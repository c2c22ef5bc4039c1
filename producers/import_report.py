"""The report of an import: a JSON Lines file with each bad record, which later runs go on with.

Owns the file and its lock, which keeps a second run of the same import out.
"""

import fcntl
import json
import os
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from creditfold.common.whole_files import sync
from creditfold.producers.import_records import RawRecord
from creditfold.producers.import_state import START_OVER
from creditfold.producers.models.errors import ImportFileError, ImportStateError

SHOWN = 200  # Characters of a bad record that its report shows.


class BadRecordReport:
    """An open report, locked. A context manager: leaving the block closes it.

    Args:
        path: of the file, which is made where it is missing.

    Raises:
        ImportFileError: it can't be written, or is no file of its own.
        ImportStateError: another run has it open.
    """

    def __init__(self, path: Path) -> None:
        self._file = _open_report(path)

    def cut(self, size: int) -> None:
        """Go back to the bytes of the last checkpoint. Raises ImportStateError where the report is shorter."""
        if os.fstat(self._file.fileno()).st_size < size:
            raise ImportStateError("The report of earlier runs is gone or cut short.", f"Put it back. {START_OVER}")
        # What a killed run reported after its last checkpoint is found again.
        self._file.truncate(size)
        self._file.seek(size)

    def add(self, record: RawRecord, reason: str) -> None:
        """Report a bad record, with the start of its text."""
        # Four bytes are the most that a character has in UTF-8.
        text = record.data[: 4 * SHOWN].decode(errors="replace")[:SHOWN]
        row = {"line": record.first, "last_line": record.last, "reason": reason, "text": text}
        self._file.write(json.dumps(row).encode() + b"\n")

    def sync(self) -> int:
        """Write everything to disk; returns the report's size in bytes."""
        sync(self._file)
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _open_report(path: Path) -> IO[bytes]:
    _refuse_no_report(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened without cutting it: the lock comes first, since another run may be writing to it.
        report = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    except OSError as error:
        raise ImportFileError(f"Can't write {path}: {error.strerror}.", "Check the path and the rights.") from None
    try:
        fcntl.flock(report, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        report.close()
        raise ImportStateError("This import runs already.", "Wait for the other run, or stop it.") from None
    return report


def _refuse_no_report(path: Path) -> None:
    """Refuse what a later run can't find again as it was left: a terminal, a pipe, what this process prints to."""
    try:
        found = os.stat(path)
    except OSError:
        return
    streams = [os.fstat(stream.fileno()) for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__) if stream]
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)) or any(
        os.path.samestat(found, stream) for stream in streams
    ):
        raise ImportFileError(
            f"The report can't be {path}: it must be a file of its own, which a later run goes on with.",
            "Name a file; it is JSON Lines, to be shown afterwards.",
        )
