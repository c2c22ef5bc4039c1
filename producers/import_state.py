"""The progress of an import between its runs: a checkpoint, written atomically, and compared with the file at hand.

Owns the state file. Knows neither records nor the producer.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from creditfold.common.whole_files import write_whole
from creditfold.producers.models.errors import ImportStateError

STATE_VERSION = 1
START_OVER = "Start over to import it from its first line: what is in the log already counts once."
_HEAD_BYTES = 65_536


@dataclass
class ImportState:
    """A checkpoint: everything in the file before `offset` is in the log or in the report.

    `lost` says which part the log has lost since, if any.
    """

    topic: str
    cluster: str
    format: str
    head_bytes: int = 0
    head_digest: str = ""
    lines: int = 0
    offset: int = 0
    digest: str = ""
    ended: bool = True
    bad: int = 0
    report_bytes: int = 0
    positions: dict[str, int] = field(default_factory=dict)
    lost: str = ""
    version: int = STATE_VERSION

    def record_head(self, raw: IO[bytes]) -> None:
        """Keep a digest of the file's first bytes, by which a later run recognizes it."""
        self.head_bytes, self.head_digest = _head(raw, _HEAD_BYTES)


def _head(raw: IO[bytes], size: int) -> tuple[int, str]:
    # pread doesn't move the position at which the file is read.
    head = os.pread(raw.fileno(), size, 0)
    return len(head), hashlib.sha256(head).hexdigest()


def load_state(path: Path) -> ImportState | None:
    """Read the progress of earlier runs; None where there was none. Raises ImportStateError."""
    try:
        found: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ImportStateError(f"Can't read the progress in {path}: {error}.", START_OVER) from None
    try:
        state = ImportState(**found)
    except TypeError:
        state = None
    if state is None or state.version != STATE_VERSION:
        raise ImportStateError(f"{path} holds no progress that this version can read.", START_OVER)
    return state


def refuse_other_import(state: ImportState, fresh: ImportState, raw: IO[bytes]) -> None:
    """Raise ImportStateError unless earlier runs imported this file into this log.

    Args:
        state: what earlier runs left.
        fresh: what this run would begin with.
        raw: the file.
    """
    for what in ("topic", "cluster", "format"):
        if getattr(state, what) != getattr(fresh, what):
            raise ImportStateError(
                f"Earlier runs imported with {what} {getattr(state, what)}, and this one with {getattr(fresh, what)}.",
                f"Use another progress file. {START_OVER}",
            )
    if state.lost:
        raise ImportStateError(state.lost, START_OVER)
    # The cheap check first: all that was imported is compared while it is skipped.
    if _head(raw, state.head_bytes) != (state.head_bytes, state.head_digest):
        raise ImportStateError("The file is not the one that was imported so far.", START_OVER)


def save_state(path: Path, state: ImportState) -> None:
    """Write a checkpoint, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(asdict(state)).encode())
