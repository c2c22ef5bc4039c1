"""Owns the folder of Kafka's jars: that it is whole, and that it is filled once, from a Maven repository.

Refuses to know how the broker is set up and run. A folder is good when each jar in it is the one that the list names,
by its hash; so half a download, or a jar that was damaged later, is never used, and the next call mends it.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from creditfold.common.errors import ResourceError
from creditfold.common.files import locked
from creditfold.common.resources import read_resource
from creditfold.common.settings import Settings
from creditfold.stack.artifacts import LIST, VERSION, Artifact, kafka_artifacts

FETCH_BOUND_S = 900.0
#: Bytes between two reports of progress.
PROGRESS_BYTES = 10_000_000


class JarsError(ResourceError):
    """The folder for Kafka's jars can't be used."""


def fetched_jars(settings: Settings, on_step: Callable[[str], None] = lambda _: None) -> Path:
    """Return the folder of Kafka's jars, filled with what isn't in it as it should be.

    A folder that has a broker and no list of ours is the user's own, and is taken as it is.

    Raises JarsError, MavenError or LockedError.
    """
    folder = settings.kafka_jars
    with _clear_errors(folder):
        if _is_of_others(folder) or not _wrong(folder):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Several data folders may share one folder of jars, so it has a lock of its own.
        with locked(folder.with_name(f"{folder.name}.lock"), FETCH_BOUND_S):
            wrong = _wrong(folder)
            if wrong:
                _fill(folder, settings, wrong, on_step)
    return folder


def _is_of_others(folder: Path) -> bool:
    """Whether the folder holds a broker of the user's own. Raises JarsError for a folder with anything else in it."""
    if not folder.exists() or (folder / LIST).exists() or not any(folder.iterdir()):
        return False
    if (folder / f"kafka_2.13-{VERSION}.jar").exists():
        return True
    raise JarsError(
        f"The folder for Kafka's jars, {folder}, holds something else.",
        f"Set CREDITFOLD_JARS_DIR to a folder that is empty, or has the jars of Apache Kafka {VERSION}.",
    )


def _wrong(folder: Path) -> list[Artifact]:
    """The jars that a folder lacks, or has otherwise than they should be."""
    return [artifact for artifact in kafka_artifacts() if not artifact.is_at(folder / artifact.name)]


def _fill(folder: Path, settings: Settings, wrong: Sequence[Artifact], on_step: Callable[[str], None]) -> None:
    # Its libraries are those of an extra, and take long to import.
    from creditfold.stack.maven import MavenRepository

    folder.mkdir(exist_ok=True)
    # First, so that what a kill leaves is known as ours.
    (folder / LIST).write_bytes(read_resource(__package__, LIST))
    # The broker takes each jar that it finds there: another version's would be in its way.
    for name in {path.name for path in folder.iterdir()} - {LIST, *(artifact.name for artifact in kafka_artifacts())}:
        (folder / name).unlink()
    total, came = sum(artifact.size for artifact in wrong), 0
    on_step(f"Fetching Apache Kafka {VERSION} ({total / 1e6:.0f} MB, once)")

    def on_bytes(size: int) -> None:
        nonlocal came
        came += size
        if (came - size) // PROGRESS_BYTES < came // PROGRESS_BYTES:
            on_step(f"{came / 1e6:.0f} of {total / 1e6:.0f} MB of Apache Kafka came")

    MavenRepository(settings.maven_url).fetch(wrong, folder, FETCH_BOUND_S, on_bytes)


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    """Turn the system's errors about the folder into one with a remedy."""
    try:
        yield
    except OSError as error:
        user = f"the user {os.geteuid()}"
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "Make room on that disk" if is_full else f"Give {user} the right to use it"
        raise JarsError(
            f"The folder for Kafka's jars, {folder}, can't be used: {error.strerror or error} "
            f"({error.filename or 'no file named'}).",
            f"{remedy}, or set CREDITFOLD_JARS_DIR to another folder. Then do the same again: what came is kept.",
        ) from error
