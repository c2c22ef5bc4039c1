"""How much room is left on the disks of this machine that hold the ledger's data, and whether that is little."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from creditfold.common.checks import Check, State
from creditfold.common.settings import Settings

_MIB, _GIB = 2**20, 2**30
#: Free bytes below which there is danger, and a warning; or less than this share of a disk, and less than SHARE_BYTES.
DANGER_BYTES = 256 * _MIB
WARNING_BYTES = 2 * _GIB
SHARE, SHARE_BYTES = 0.05, 20 * _GIB


class Disk(NamedTuple):
    """The file system of a folder: what is kept there, and its bytes."""

    what: str
    folder: Path
    free: int
    total: int


def disks(settings: Settings, postgres_folder: str | None) -> list[Disk]:
    """The disks of this machine that hold data; those of servers elsewhere can't be seen.

    Args:
        settings: whose data folder is looked at, if the embedded Kafka keeps its log there.
        postgres_folder: PostgreSQL's data folder, if it is on this machine.
    """
    kafka = settings.data_dir.resolve() / "kafka"
    folders = [("Kafka's log", kafka)] if kafka.is_dir() else []
    folders += [("PostgreSQL's tables", Path(postgres_folder))] if postgres_folder else []
    return list(_seen(folders))


def _seen(folders: Iterable[tuple[str, Path]]) -> Iterable[Disk]:
    for what, folder in folders:
        try:
            found = os.statvfs(folder)
        except OSError:
            # Another user's folder.
            continue
        yield Disk(what, folder, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def check_disk(disk: Disk) -> Check:
    """Check that a disk has room: a full one stops producers at Kafka's, and the fold at PostgreSQL's."""
    little = disk.free < WARNING_BYTES or (disk.free < SHARE * disk.total and disk.free < SHARE_BYTES)
    state: State = "danger" if disk.free < DANGER_BYTES else "warning" if little else "ok"
    return Check(
        "disks",
        f"room for {disk.what}",
        state,
        f"{disk.free / _GIB:,.1f} GiB free of {disk.total / _GIB:,.1f} at {disk.folder}",
        "On a full disk nothing can be appended, or nothing folded, until there is room.",
        "Make room there, or move the data to a larger disk.",
    )
