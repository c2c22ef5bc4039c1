"""Writes the lists of Kafka's jars and classes: what pom.xml comes to, each with its hash, and what a start loads.

A tool of those who change the version of Kafka: `python -m creditfold.stack.jars_lock`, in a checkout. It resolves as
Maven does, and needs no Maven. Whatever runs the broker reads the list alone, and resolves nothing.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

from jgo.maven import POM, MavenContext

from creditfold.common.settings import Settings
from creditfold.stack.artifacts import CLASSES, LIST
from creditfold.stack.embedded import down, up
from creditfold.stack.jars import fetched_jars

HERE = Path(__file__).resolve().parent
#: Two lines of a thread in Java's log: a class, where it came from, and the addresses of it and what it extends.
LOADED = re.compile(
    r"(?m)^\[\d+ *\] (\S+) source: (\S+)\n\[\d+ *\] +klass: (\w+) super: (\w+)(?: interfaces:([ \w]+))? loader:"
)


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


def loaded_classes() -> str:
    """What a broker loads from its start until it has made a topic, as Java lists it, but for what comes along."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "loaded.log"
        os.environ["JDK_JAVA_OPTIONS"] = (
            f"-XX:DumpLoadedClassList={folder / CLASSES} -Xlog:class+load=debug:file={log}:tid:filecount=0"
        )
        settings = Settings(data_dir=folder, jars_dir=folder / "jars")
        # Without its list the folder is somebody else's, and gets no archive made of the classes of before.
        (fetched_jars(settings) / LIST).unlink()
        try:
            up(settings)
        finally:
            down(settings)
        lines = (folder / CLASSES).read_text(encoding="utf-8").splitlines()
        along = extended_classes(log.read_text(encoding="utf-8"))
    # Numbers and constant pools are of one run, and as long as all else.
    listed = (re.sub(r" id: \d+$", "", line) for line in lines if not line.startswith(("#", "@cp")))
    return "".join(f"{line}\n" for line in listed if line not in along)


def extended_classes(log: str) -> set[str]:
    """What the classes of the jars extend and implement: Java archives it along with them.

    What only Java's own classes extend isn't among them: another version's may extend others.

    Args:
        log: Java's log of the classes it loaded, with the thread before each line.
    """
    # Threads load at the same time: the lines of each, together.
    by_thread = "".join(sorted(log.splitlines(keepends=True), key=lambda line: line.partition("]")[0]))
    found = LOADED.findall(by_thread)
    names = {address: name.replace(".", "/") for name, _, address, _, _ in found}
    jars = [f"{above} {interfaces}".split() for _, source, _, above, interfaces in found if source.startswith("file:")]
    return {names[address] for addresses in jars for address in addresses}


if __name__ == "__main__":
    text = json.dumps(locked_jars(HERE / "pom.xml"), indent=2)
    (HERE / LIST).write_text(text + "\n", encoding="utf-8")
    (HERE / CLASSES).write_text(loaded_classes(), encoding="utf-8")
    print(f"Wrote {HERE / LIST} and {HERE / CLASSES}.", file=sys.stderr)
