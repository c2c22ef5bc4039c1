"""The archive of Kafka's classes is made once, is never used when it is damaged, and is never needed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from creditfold.common.resources import read_resource
from creditfold.stack import class_archive
from creditfold.stack.artifacts import LIST, kafka_artifacts
from creditfold.stack.class_archive import archive_options
from creditfold.stack.jars import fetched_jars
from creditfold.stack.jars_lock import extended_classes
from creditfold.stack.java import Java, find_java
from helpers.stack_under_test import embedded_settings

pytestmark = pytest.mark.stack

#: What makes an archive, in tests that have none made.
MADE = class_archive._made


@pytest.fixture(scope="module")
def java() -> Java:
    """The Java of the stack."""
    return find_java()


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    """A folder of jars that we filled, and no archive in it yet."""
    folder = tmp_path / "jars"
    folder.mkdir()
    shared = fetched_jars(embedded_settings(folder))
    for artifact in kafka_artifacts():
        shutil.copy2(shared / artifact.name, folder)
    (folder / LIST).write_bytes(read_resource("creditfold.stack", LIST))
    return folder


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Each archive that is to be made, which takes seconds, and isn't."""
    asked = list[Path]()

    def note(java: Java, jars: Path, archive: Path, on_step: object) -> bool:
        asked.append(archive)
        return False

    monkeypatch.setattr(class_archive, "_made", note)
    return asked


def test_it_is_made_once_used_and_made_anew_where_it_is_no_good(java: Java, jars: Path, making: list[Path]) -> None:
    """Kafka's own classes come out of it, and nothing else is left in the folder.

    One that is no good isn't used; where it can't be made, Kafka starts without.
    """
    with pytest.MonkeyPatch.context() as really:
        really.setattr(class_archive, "_made", MADE)
        assert archive_options(java, jars, lambda _: None)
    options = archive_options(java, jars, lambda _: None)
    assert not making
    assert not list(jars.glob("*.part"))
    command = [java.command, *options, "-Xshare:on", "-Xlog:class+load", "-cp", f"{jars}/*", "kafka.Kafka"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    (line,) = [line for line in loaded.splitlines() if " kafka.Kafka$ " in line]
    assert "source: shared objects file" in line
    (archive,) = jars.glob("*.jsa")
    content = archive.read_bytes()
    middle = len(content) // 2
    for spoiled in (
        None,
        content[:middle],
        b"something else",
        content[:middle] + bytes(4096) + content[middle + 4096 :],
    ):
        # A new file: Java may have the old one mapped into its memory.
        archive.unlink()
        if spoiled is not None:
            archive.write_bytes(spoiled)
        assert archive_options(java, jars, lambda _: None) == []
        assert making == [archive]
        making.clear()
        archive.write_bytes(content)
    assert archive_options(java, jars, lambda _: None) == options
    # A jar that was fetched again is another one to Java.
    os.utime(jars / kafka_artifacts()[0].name, (1, 1))
    assert archive_options(java, jars, lambda _: None) == []
    assert making == [archive]


def test_where_none_can_be_kafka_starts_without(java: Java, tmp_path: Path, making: list[Path]) -> None:
    """In a folder of somebody else, one whose path Java can't take, and one that can't be written."""
    assert archive_options(java, tmp_path, lambda _: None) == []
    (tmp_path / LIST).write_bytes(read_resource("creditfold.stack", LIST))
    assert archive_options(java, tmp_path / "a:b", lambda _: None) == []
    assert not making
    (tmp_path.with_name(f"{tmp_path.name}.lock")).mkdir()
    assert archive_options(java, tmp_path, lambda _: None) == []
    assert not making


def test_a_java_that_makes_none_leaves_nothing(tmp_path: Path) -> None:
    """It says what is done, and the folder is as before."""
    folder = tmp_path / "jars"
    folder.mkdir()
    (folder / LIST).touch()
    (folder / "1-classes-java17.jsa.part").touch()
    steps = list[str]()
    assert archive_options(Java(str(shutil.which("false")), 17, "PATH"), folder, steps.append) == []
    assert len(steps) == 1
    assert [path.name for path in folder.iterdir()] == [LIST]


def test_what_classes_of_jars_extend_comes_along() -> None:
    """Of a log of two threads that loaded at the same time; what only Java's own classes extend stays in the list."""
    log = """\
[7 ] java.lang.Object source: jrt:/java.base
[7 ]  klass: 0x10 super: 0x00 loader: [boot] bytes: 1
[7 ] java.lang.Error source: jrt:/java.base
[7 ]  klass: 0x11 super: 0x10 loader: [boot] bytes: 1
[7 ] java.lang.LinkageError source: jrt:/java.base
[7 ]  klass: 0x12 super: 0x11 loader: [boot] bytes: 1
[7 ] a.Shape source: file:/jars/a.jar
[12] a.Named source: file:/jars/a.jar
[12]  klass: 0x21 super: 0x10 loader: [app] bytes: 1
[7 ]  klass: 0x20 super: 0x10 loader: [app] bytes: 1
[12] a.Round source: file:/jars/a.jar
[12]  klass: 0x22 super: 0x20 interfaces: 0x21 loader: [app] bytes: 1
"""
    assert extended_classes(log) == {"java/lang/Object", "a/Shape", "a/Named"}
