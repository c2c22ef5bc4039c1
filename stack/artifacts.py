"""Owns what the embedded Kafka is made of: the jars of its class path, each with the place and the hash of its file.

Refuses to know how they come and where they are kept. The lists, jars.json and classes.txt, are written by
stack/jars_lock.py.
"""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from creditfold.common.resources import read_resource

VERSION = "4.3.0"
LIST = "jars.json"
#: The classes that a broker loads while it starts, in the form of Java's -XX:SharedClassListFile.
CLASSES = "classes.txt"


class Artifact(NamedTuple):
    """One file of a Maven repository: its coordinates `group:name:version`, its bytes, and its SHA-256 in hex."""

    coordinates: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        _, name, version = self.coordinates.split(":")
        return f"{name}-{version}.jar"

    @property
    def path(self) -> str:
        """Where it lies in a Maven repository."""
        group, name, version = self.coordinates.split(":")
        return f"{group.replace('.', '/')}/{name}/{version}/{self.name}"

    def is_at(self, path: Path) -> bool:
        """Whether the file at that path is this artifact, by its content. Raises OSError if it can't be read."""
        try:
            if path.stat().st_size != self.size:
                return False
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except FileNotFoundError:
            return False


@cache
def kafka_artifacts() -> tuple[Artifact, ...]:
    """All that a broker's class path needs."""
    listed = json.loads(read_resource(__package__, LIST))
    return tuple(Artifact(coordinates, **pinned) for coordinates, pinned in listed.items())
