"""Owns what the embedded Kafka is made of: finds Java, and fetches Kafka's jars once with Maven.

Refuses to know how the broker is set up and run. The jars come into a folder of another name, which is renamed
when it is whole; so a download that was killed leaves nothing that looks done.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from creditfold.stack.files import locked, packaged
from creditfold.stack.processes import StackError, run, tail
from creditfold.stack.settings import Settings

VERSION = "4.3.0"
OLDEST_JAVA = 17
FETCH_BOUND_S = 900.0
ASK_BOUND_S = 30.0
POM = "pom.xml"

INSTALL_JAVA = (
    f"Install Java {OLDEST_JAVA} or later (Debian and Ubuntu: `apt-get install openjdk-17-jre-headless`; "
    "macOS: `brew install openjdk@17`), and put it on PATH or into JAVA_HOME."
)
INSTALL_MAVEN = (
    "Install Maven (Debian and Ubuntu: `apt-get install maven`; macOS: `brew install maven`); it is needed once, "
    "to fetch Kafka's jars. Or set CREDITFOLD_JARS_DIR to a folder that has them."
)


class EmbeddedKafkaError(StackError):
    """The embedded Kafka can't be fetched, set up or started."""


class JavaError(EmbeddedKafkaError):
    """Java is missing or too old."""


class MavenError(EmbeddedKafkaError):
    """Maven is missing or couldn't fetch the jars."""


def find_java() -> str:
    """Return the java command: JAVA_HOME's if that is set, else PATH's. Raises JavaError for none, or one too old."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    if home and java is None:
        raise JavaError(f"JAVA_HOME is {home}, and there is no bin/java in it.", "Correct JAVA_HOME, or unset it.")
    java = java or shutil.which("java")
    if java is None:
        raise JavaError("The embedded Kafka needs Java, and there is no java on PATH or in JAVA_HOME.", INSTALL_JAVA)
    major = _java_major(java)
    if major is None:
        raise JavaError(f"{java} doesn't say which Java it is, so it is probably none.", INSTALL_JAVA)
    if major < OLDEST_JAVA:
        raise JavaError(f"Java {major} found at {java}, {OLDEST_JAVA} or later needed.", INSTALL_JAVA)
    return java


def _java_major(java: str) -> int | None:
    said = run([java, "-version"], bound_s=ASK_BOUND_S).said
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else None


def fetched_jars(settings: Settings, on_step: Callable[[str], None] = lambda _: None) -> Path:
    """Return the folder of Kafka's jars, fetched by Maven if they aren't there. Raises MavenError or LockedError."""
    jars = settings.kafka_jars
    if _is_usable(jars):
        return jars
    jars.parent.mkdir(parents=True, exist_ok=True)
    # Several data folders may share one folder of jars, so it has a lock of its own.
    with locked(jars.with_name(f"{jars.name}.lock"), FETCH_BOUND_S):
        if not _is_usable(jars):
            _refuse_foreign_folder(jars)
            on_step(f"Fetching Apache Kafka {VERSION} (43 MB, once)")
            _fetch(jars)
    return jars


def _is_usable(jars: Path) -> bool:
    """A folder that we filled has our pom in it and must agree with it; another one must have the broker."""
    pom = jars / POM
    return pom.read_bytes() == packaged(POM) if pom.exists() else (jars / f"kafka_2.13-{VERSION}.jar").exists()


def _refuse_foreign_folder(jars: Path) -> None:
    """A folder that we didn't fill is not ours to replace."""
    if jars.exists() and any(jars.iterdir()) and not (jars / POM).exists():
        raise MavenError(
            f"The folder for Kafka's jars, {jars}, holds something else.",
            f"Set CREDITFOLD_JARS_DIR to a folder that is empty, or has the jars of Apache Kafka {VERSION}.",
        )


def _fetch(jars: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MavenError(
            "Kafka's jars must be fetched by Maven once, and there is no mvn on PATH.",
            INSTALL_MAVEN,
        )
    fresh, old = jars.with_name(f"{jars.name}.new"), jars.with_name(f"{jars.name}.old")
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    fresh.mkdir()
    pom = fresh / POM
    pom.write_bytes(packaged(POM))
    command = [maven, "-B", "-q", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={fresh}"]
    done = run(command, cwd=fresh, bound_s=FETCH_BOUND_S)
    if done.code != 0:
        shutil.rmtree(fresh, ignore_errors=True)
        raise MavenError(
            f"Maven couldn't fetch Kafka's jars. Its last words:\n{tail(done.said)}",
            "It needs the network: Maven Central, or a mirror of it in ~/.m2/settings.xml. "
            "Or set CREDITFOLD_JARS_DIR to a folder that has the jars.",
        )
    with contextlib.suppress(FileNotFoundError):
        jars.rename(old)
    fresh.rename(jars)
    shutil.rmtree(old, ignore_errors=True)
