"""Files that are on the disk whole or not at all, whoever dies and whenever. Refuses to know what they hold."""

import os
from pathlib import Path
from typing import IO


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file's content at once, by way of a file beside it whose name ends in .tmp."""
    fresh = path.with_name(path.name + ".tmp")
    with fresh.open("wb") as file:
        file.write(content)
        sync(file)
    fresh.replace(path)
    sync_folder(path.parent)


def sync(file: IO[bytes]) -> None:
    """Wait until a file's content is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
