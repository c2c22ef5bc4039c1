"""A small file system for the tests that fill a disk: mounted in memory, of any size, with a tablespace on it."""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from creditfold.projections.connections import connected
from helpers.stack_under_test import EmbeddedStack, StackUnderTest

ROOMY_KB = 64 * 1024


class SmallDisk:
    """A file system in memory, of any size, and the tablespace on it."""

    def __init__(self, folder: Path, tablespace: str) -> None:
        self.folder = folder
        self.tablespace = tablespace

    def resize(self, kilobytes: int) -> None:
        """Make it so large, at least as large as what is on it."""
        as_root("mount", "-o", f"remount,size={kilobytes}k", str(self.folder))

    def fill(self) -> None:
        """Leave no room at all."""
        while True:
            found = os.statvfs(self.folder)
            try:
                self.resize((found.f_blocks - found.f_bfree) * found.f_frsize // 1024)
            except subprocess.CalledProcessError:
                # More was written between the look and the change. Who writes on and on isn't kept from that for long.
                continue
            return


@contextmanager
def mounted(stack: StackUnderTest) -> Iterator[SmallDisk | str]:
    """A small disk for the length of a block, or the reason why there can't be one.

    What lies on its tablespace must be gone when the block ends.
    """
    if not isinstance(stack, EmbeddedStack):
        yield "the server's disks are within reach in the embedded stack only"
        return
    owner = (stack.settings.data_dir / "postgres" / "data").stat()
    above = Path(tempfile.mkdtemp(prefix="cf-disk-"))
    above.chmod(0o755)
    disk = SmallDisk(above / "disk", f"small_{uuid.uuid4().hex[:12]}")
    disk.folder.mkdir()
    options = f"size={ROOMY_KB}k,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
    try:
        try:
            as_root("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk.folder))
        except (OSError, subprocess.CalledProcessError) as error:
            yield f"this user may not mount a file system: {getattr(error, 'stderr', '') or error}"
            return
        try:
            with connected(stack.settings.dsn) as connection:
                connection.execute(f"CREATE TABLESPACE {disk.tablespace} LOCATION '{disk.folder}'")  # type: ignore[arg-type]
            yield disk
            with connected(stack.settings.dsn) as connection:
                connection.execute(f"DROP TABLESPACE {disk.tablespace}")  # type: ignore[arg-type]
        finally:
            as_root("umount", "--lazy", str(disk.folder))
    finally:
        shutil.rmtree(above)


def as_root(*command: str) -> None:
    prefix: Sequence[str] = () if os.geteuid() == 0 else ("sudo", "-n")
    subprocess.run([*prefix, *command], check=True, capture_output=True, text=True, timeout=240)
