"""The archive of Kafka's classes is made once, is never used when it is damaged, and is never needed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from creditfold.common.resources import read_resource
from creditfold.stack import class_archive
from creditfold.stack.artifacts import LIST, kafka_artifacts
from creditfold.stack.class_archive import archive_options
from creditfold.stack.jars import fetched_jars
from creditfold.stack.java import Java, find_java
from helpers.stack_under_test import embedded_settings

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def java() -> Java:
    """The Java of the stack."""
    return find_java()


@pytest.fixture(scope="module")
def jars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of jars that we filled, and no archive in it yet."""
    folder = tmp_path_factory.mktemp("jars")
    shared = fetched_jars(embedded_settings(folder))
    for artifact in kafka_artifacts():
        shutil.copy2(shared / artifact.name, folder)
    (folder / LIST).write_bytes(read_resource("creditfold.stack", LIST))
    return folder


@pytest.fixture
def archive(java: Java, jars: Path) -> Iterator[Path]:
    """A good archive in that folder, made by the first test that asks for it; and good again after the test."""
    archive_options(java, jars, lambda _: None)
    (made,) = jars.glob("*.jsa")
    kept = jars.with_name("kept.jsa")
    shutil.copy2(made, kept)
    yield made
    shutil.copy2(kept, made)


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Each archive that is to be made, which takes seconds, and isn't."""
    asked = list[Path]()

    def note(java: Java, jars: Path, archive: Path, on_step: object) -> bool:
        asked.append(archive)
        return False

    monkeypatch.setattr(class_archive, "_made", note)
    return asked


def test_it_is_made_once_and_used(java: Java, jars: Path, archive: Path, making: list[Path]) -> None:
    """Kafka's own classes come out of it, and nothing else is left in the folder."""
    options = archive_options(java, jars, lambda _: None)
    assert not making
    assert not list(jars.glob("*.part"))
    command = [java.command, *options, "-Xshare:on", "-Xlog:class+load", "-cp", f"{jars}/*", "kafka.Kafka"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    (line,) = [line for line in loaded.splitlines() if " kafka.Kafka$ " in line]
    assert "source: shared objects file" in line


@pytest.mark.parametrize("damage", ["gone", "short", "other", "zeros"])
def test_one_that_is_no_good_is_made_anew(
    java: Java, jars: Path, archive: Path, making: list[Path], damage: str
) -> None:
    """And isn't used; where it can't be made, Kafka starts without."""
    content = archive.read_bytes()
    archive.unlink()
    middle = len(content) // 2
    if damage != "gone":
        archive.write_bytes(
            {
                "short": content[:middle],
                "other": b"something else",
                "zeros": content[:middle] + bytes(4096) + content[middle + 4096 :],
            }[damage]
        )
    assert archive_options(java, jars, lambda _: None) == []
    assert making == [archive]


def test_one_of_other_jars_is_no_good(java: Java, jars: Path, archive: Path, making: list[Path]) -> None:
    """A jar that was fetched again is another one to Java."""
    jar = jars / kafka_artifacts()[0].name
    came = jar.stat().st_mtime
    os.utime(jar, (1, 1))
    try:
        assert archive_options(java, jars, lambda _: None) == []
        assert making == [archive]
    finally:
        os.utime(jar, (came, came))


def test_where_none_can_be_kafka_starts_without(java: Java, jars: Path, tmp_path: Path, making: list[Path]) -> None:
    """In a folder of somebody else, one whose path Java can't take, and one that can't be written."""
    assert archive_options(java, tmp_path, lambda _: None) == []
    shutil.copy(jars / LIST, tmp_path)
    assert archive_options(java, tmp_path / "a:b", lambda _: None) == []
    assert not making
    (tmp_path.with_name(f"{tmp_path.name}.lock")).mkdir()
    assert archive_options(java, tmp_path, lambda _: None) == []
    assert not making


def test_a_java_that_makes_none_leaves_nothing(tmp_path: Path) -> None:
    """It is told what is done, and the folder is as before."""
    folder = tmp_path / "jars"
    folder.mkdir()
    (folder / LIST).touch()
    (folder / "1-classes-java17.jsa.part").touch()
    steps = list[str]()
    assert archive_options(Java(str(shutil.which("false")), 17, "PATH"), folder, steps.append) == []
    assert len(steps) == 1
    assert [path.name for path in folder.iterdir()] == [LIST]
