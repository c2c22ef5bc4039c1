"""Writes the list of Kafka's jars, jars.json: what pom.xml comes to, each with its size and its hash.

A tool of those who change the version of Kafka: `python -m creditfold.stack.jars_lock`, in a checkout. It resolves as
Maven does, and needs no Maven. Whatever runs the broker reads the list alone, and resolves nothing.
"""

import hashlib
import json
import sys
from pathlib import Path

from jgo.maven import POM, MavenContext

from creditfold.stack.artifacts import LIST

HERE = Path(__file__).resolve().parent


def locked_jars(pom: Path) -> dict[str, dict[str, int | str]]:
    """The size and the SHA-256 of each jar that a POM's dependencies come to, by its coordinates."""
    _, found = MavenContext(timeout=60).pom_dependency_list(POM(pom))
    jars: dict[str, dict[str, int | str]] = {}
    for node in found:
        artifact = node.dep.artifact
        content = artifact.resolve().read_bytes()
        coordinates = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
        jars[coordinates] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return dict(sorted(jars.items()))


if __name__ == "__main__":
    text = json.dumps(locked_jars(HERE / "pom.xml"), indent=2)
    (HERE / LIST).write_text(text + "\n", encoding="utf-8")
    print(f"Wrote {HERE / LIST}.", file=sys.stderr)
