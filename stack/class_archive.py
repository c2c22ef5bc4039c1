"""Owns an archive of the broker's classes, ready for Java to map, which halves the CPU time of a broker's start.

Is never required: where there is none, can be none, or Java refuses it, a broker starts as well, only more slowly.
It lies among the jars, and is made once, of the classes that stack/classes.txt lists.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from creditfold.common.files import LockedError, locked
from creditfold.common.processes import run
from creditfold.common.resources import read_resource
from creditfold.stack.artifacts import CLASSES, LIST
from creditfold.stack.java import Java, java_environment

CHECK_BOUND_S = 120.0
MAKE_BOUND_S = 300.0


def archive_options(java: Java, jars: Path, on_step: Callable[[str], None]) -> list[str]:
    """The options by which Java starts from the archive, which is made if there is none that Java accepts.

    None where there is no archive: a folder of the user's own is left as it is, and so is one that can't be written.
    """
    # Java reads a colon there as the end of a path.
    if not (jars / LIST).exists() or ":" in str(jars):
        return []
    archive = jars / f"classes-java{java.major}.jsa"
    with contextlib.suppress(OSError, LockedError):
        if _is_good(java, jars, archive):
            return _options(archive)
        with locked(jars.with_name(f"{jars.name}.lock"), MAKE_BOUND_S):
            if _is_good(java, jars, archive) or _made(java, jars, archive, on_step):
                return _options(archive)
    return []


def _options(archive: Path) -> list[str]:
    # What a disk did to it is noticed by Java before it is used.
    return [f"-XX:SharedArchiveFile={archive}", "-XX:+VerifySharedSpaces"]


def _is_good(java: Java, jars: Path, archive: Path) -> bool:
    """Ask Java whether it takes the archive: whole, made by this very Java, and of these very jars."""
    command = [java.command, "-Xshare:on", *_options(archive), "-cp", f"{jars}/*", "-version"]
    return archive.exists() and run(command, bound_s=CHECK_BOUND_S, env=java_environment()).code == 0


def _made(java: Java, jars: Path, archive: Path, on_step: Callable[[str], None]) -> bool:
    on_step("Making an archive of Kafka's classes, from which it starts sooner (once)")
    for left in jars.glob("*.part"):
        left.unlink()
    # Names of this process's own: one that was killed may have left a Java that still writes.
    fresh, classes = (jars / f"{os.getpid()}-{name}.part" for name in (archive.name, CLASSES))
    try:
        classes.write_bytes(read_resource(__package__, CLASSES))
        command = [
            java.command,
            "-Xshare:dump",
            "-XX:+UseSerialGC",
            f"-XX:SharedClassListFile={classes}",
            f"-XX:SharedArchiveFile={fresh}",
            *("-cp", f"{jars}/*"),
        ]
        if run(command, bound_s=MAKE_BOUND_S, env=java_environment()).code == 0 and fresh.exists():
            fresh.replace(archive)
            return True
        return False
    finally:
        for path in (fresh, classes):
            path.unlink(missing_ok=True)
