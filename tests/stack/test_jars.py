"""Kafka's jars come whole or not at all, whatever the network and the disk do. The repository is the test's own."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from creditfold.common.settings import Settings
from creditfold.stack import artifacts, jars, maven
from creditfold.stack.artifacts import LIST, VERSION, Artifact, kafka_artifacts
from creditfold.stack.jars import JarsError, fetched_jars
from creditfold.stack.maven import MavenError
from helpers.repository import Repository, broken, endless, failing, garbage, page, serving, short
from helpers.small_disk import as_root
from helpers.stack_under_test import JARS, embedded_settings
from helpers.support import HANG_S, ROOT

KAFKA = f"kafka_2.13-{VERSION}.jar"
AGAIN = "Then do the same again: what came is kept."


def content_of(name: str) -> bytes:
    """The made-up content of a jar."""
    return hashlib.sha512(name.encode()).digest() * 2_000


def artifact(coordinates: str) -> Artifact:
    """A made-up jar as a list would name it."""
    content = content_of(coordinates)
    return Artifact(coordinates, len(content), hashlib.sha256(content).hexdigest())


LISTED = tuple(
    artifact(coordinates)
    for coordinates in (f"org.apache.kafka:kafka_2.13:{VERSION}", "org.example:lib:1.0", "org.example:other:2.0")
)
LIB = "lib-1.0.jar"
FILES: Mapping[str, bytes] = {listed.name: content_of(listed.coordinates) for listed in LISTED}
WHOLE = {LIST, *FILES}


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """A repository with three small jars, which are all that the list names; and no proxy on the way to it."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(jars, "kafka_artifacts", lambda: LISTED)
    with serving(FILES) as made:
        yield made


@pytest.fixture
def settings(repository: Repository, tmp_path: Path) -> Settings:
    """Settings with that repository, and a folder of jars that isn't there yet."""
    return embedded_settings(tmp_path).model_copy(update={"jars_dir": tmp_path / "jars", "maven_url": repository.url})


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in folder.iterdir()}


def is_whole(folder: Path) -> bool:
    """Whether it has the jars, all of them as they should be, and nothing but them."""
    return names(folder) == WHOLE and all((folder / name).read_bytes() == content for name, content in FILES.items())


def test_the_list_is_what_the_pom_says() -> None:
    """The version that the code names, and what the POM asks for by name, are in it."""
    namespace = "{http://maven.apache.org/POM/4.0.0}"
    asked = {
        ":".join(str(dependency.findtext(f"{namespace}{part}")) for part in ("groupId", "artifactId", "version"))
        for dependency in ElementTree.parse(ROOT / "stack" / "pom.xml").iter(f"{namespace}dependency")  # noqa: S314
    }
    listed = [listed.coordinates for listed in kafka_artifacts()]
    assert asked <= set(listed)
    assert f"org.apache.kafka:kafka_2.13:{VERSION}" in asked
    # A jar twice in two versions is a class path that depends on the order of a folder.
    assert len({coordinates.rpartition(":")[0] for coordinates in listed}) == len(listed)


def test_jars_are_fetched_once(repository: Repository, settings: Settings) -> None:
    """And each step is reported; the second time nothing is asked for."""
    steps = list[str]()
    for _ in range(2):
        assert is_whole(fetched_jars(settings, steps.append))
    assert [step for step in steps if "once" in step] == steps == [f"Fetching Apache Kafka {VERSION} (0 MB, once)"]
    assert repository.asked == dict.fromkeys(FILES, 1)


def test_how_much_came_is_reported(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step of so many bytes."""
    steps = list[str]()
    monkeypatch.setattr(jars, "PROGRESS_BYTES", LISTED[0].size)
    fetched_jars(settings, steps.append)
    assert len(steps) == 1 + len(FILES)
    assert steps[-1] == "0 of 0 MB of Apache Kafka came"


@pytest.mark.parametrize(
    ("way", "said", "tries"),
    [
        (failing(404), r"it answers 404 Not Found for org/example/lib/1\.0/lib-1\.0\.jar", 1),
        (failing(403), r"it answers 403 Forbidden for", 1),
        (failing(500), r"it answers 500 Internal Server Error for", 3),
        (failing(429), r"it answers 429 Too Many Requests for", 3),
        (broken, r"the connection broke in the middle of org/example/lib/1\.0/lib-1\.0\.jar", 3),
        (short, r"it sends something else for .*lib-1\.0\.jar \(application/java-archive\), which isn't used", 1),
        (garbage, r"it sends something else for", 1),
        (endless, r"it sends something else for .* \(a file of no named kind\)", 1),
        (page, r"it sends something else for .* \(text/html\)", 1),
    ],
)
def test_a_bad_answer_is_named_and_never_used(
    repository: Repository, settings: Settings, way: Callable[..., None], said: str, tries: int
) -> None:
    """With the repository, the file and what to do; what may pass is tried again; the next call gets the rest alone."""
    repository.ways[LIB] = way
    with pytest.raises(MavenError, match=said) as error:
        fetched_jars(settings)
    assert error.value.message.startswith(f"The Maven repository {repository.url} sends no jars: ")
    assert "CREDITFOLD_MAVEN_URL" in error.value.remedy
    assert "CREDITFOLD_JARS_DIR" in error.value.remedy
    assert error.value.remedy.endswith(AGAIN)
    assert repository.asked[LIB] == tries
    assert LIB not in names(settings.kafka_jars)
    came = {name for name in names(settings.kafka_jars) if name in FILES}
    repository.ways.clear()
    repository.asked.clear()
    assert is_whole(fetched_jars(settings))
    assert set(repository.asked) == FILES.keys() - came


@pytest.mark.parametrize("way", [broken, failing(503)])
def test_what_passes_is_tried_again(repository: Repository, settings: Settings, way: Callable[..., None]) -> None:
    """A connection that breaks once is nobody's business."""

    def once(*arguments: Any) -> None:
        del repository.ways[LIB]
        way(*arguments)

    repository.ways[LIB] = once
    assert is_whole(fetched_jars(settings))
    assert repository.asked[LIB] == 2


def test_silence_is_bounded(repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the question and never answers."""
    monkeypatch.setattr(maven, "SILENCE_BOUND_S", 0.2)
    repository.ways[LIB] = repository.silence
    with pytest.raises(MavenError, match=r"can't be reached \(.*(timed out|timeout).*\)"):
        fetched_jars(settings)


def test_what_never_ends_is_bounded(
    repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that sends a byte now and then is never silent. All that waits for it ends with the call."""
    monkeypatch.setattr(jars, "FETCH_BOUND_S", 1.0)
    repository.ways[LIB] = repository.drip
    before = set(threading.enumerate())
    with pytest.raises(MavenError, match="it takes more than 1 s"):
        fetched_jars(settings)
    assert not repository.gate.is_set()
    assert LIB not in names(settings.kafka_jars)
    begun = set(threading.enumerate()) - before
    assert not [thread.name for thread in begun if "ThreadPoolExecutor" in thread.name]


def test_nobody_there(settings: Settings) -> None:
    """No network looks like this."""
    nowhere = settings.model_copy(update={"maven_url": "http://127.0.0.1:9/maven2"})
    with pytest.raises(MavenError, match=r"can't be reached \(.*Connection refused.*\)") as error:
        fetched_jars(nowhere)
    assert "HTTPS_PROXY" in error.value.remedy


def test_a_password_in_the_address_is_not_shown(repository: Repository, settings: Settings) -> None:
    """It goes to the server, and into no error."""
    secret = settings.model_copy(update={"maven_url": repository.url.replace("http://", "http://ada:hunter2@")})
    repository.ways[""] = failing(404)
    with pytest.raises(MavenError, match="404") as error:
        fetched_jars(secret)
    assert "hunter2" not in f"{error.value.message} {error.value.remedy}"


def test_a_proxy_is_used(repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the environment names; and one that hangs up is reported."""
    monkeypatch.setenv("HTTP_PROXY", repository.url.removesuffix("/maven2"))
    behind = settings.model_copy(update={"maven_url": "http://maven.example/maven2"})
    repository.ways[LIB] = broken
    with pytest.raises(MavenError, match=r"http://maven\.example/maven2 sends no jars: the connection broke"):
        fetched_jars(behind)
    repository.ways.clear()
    assert is_whole(fetched_jars(behind))


def test_who_has_no_certificate_is_not_trusted(repository: Repository, settings: Settings) -> None:
    """Nor asked again; and how to have a proxy's trusted is in the remedy."""
    with pytest.raises(MavenError, match=r"no trusted connection to it can be made") as error:
        fetched_jars(settings.model_copy(update={"maven_url": repository.url.replace("http:", "https:")}))
    assert "REQUESTS_CA_BUNDLE" in error.value.remedy


@pytest.mark.parametrize("damage", [b"", b"half", FILES[LIB][:-1] + b"?"])
def test_a_jar_that_is_damaged_later_is_mended(repository: Repository, settings: Settings, damage: bytes) -> None:
    """Before a broker has it, and no other is fetched; a jar that isn't ours any more goes."""
    folder = fetched_jars(settings)
    repository.asked.clear()
    (folder / LIB).write_bytes(damage)
    (folder / "kafka_2.13-4.2.0.jar").write_bytes(b"an older broker")
    assert is_whole(fetched_jars(settings))
    assert repository.asked == {LIB: 1}


def test_a_jar_that_is_gone_is_fetched_again(repository: Repository, settings: Settings) -> None:
    """The list of another version of ours doesn't matter: what counts is in the folder."""
    folder = fetched_jars(settings)
    (folder / LIST).write_text("an older list", encoding="utf-8")
    (folder / LIB).unlink()
    assert is_whole(fetched_jars(settings))


def test_two_at_once_fetch_once(repository: Repository, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first, and finds all there."""
    taking = threading.Semaphore(0)
    take = jars.locked

    @contextmanager
    def counted(path: Path, bound_s: float) -> Iterator[None]:
        taking.release()
        with take(path, bound_s):
            yield

    monkeypatch.setattr(jars, "locked", counted)
    repository.ways[LIB] = repository.half_then_hold
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fetched_jars, settings) for _ in range(2)]
        assert repository.is_held.wait(HANG_S)
        assert taking.acquire(timeout=HANG_S)
        assert taking.acquire(timeout=HANG_S)
        repository.gate.set()
        for one in both:
            assert is_whole(one.result(HANG_S))
    assert repository.asked == dict.fromkeys(FILES, 1)


FETCH = """
from creditfold.stack.jars import fetched_jars
from creditfold.common.settings import Settings
fetched_jars(Settings())
"""


# It fetches them, but where Docker has the Kafka of the tests.
@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_who_dies_in_the_middle_leaves_nothing_that_is_used(tmp_path: Path, number: signal.Signals) -> None:
    """The real list; one jar is half here when the process dies. The next process gets what is missing."""
    if not JARS.exists():
        pytest.skip("Kafka's jars were never fetched here")
    files = {listed.name: (JARS / listed.name).read_bytes() for listed in kafka_artifacts()}
    with serving(files) as repository:
        repository.ways[KAFKA] = repository.half_then_hold
        variables = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            "CREDITFOLD_JARS_DIR": str(tmp_path / "jars"),
            "CREDITFOLD_DATA_DIR": str(tmp_path),
            "CREDITFOLD_MAVEN_URL": repository.url,
        }
        command = [sys.executable, "-c", FETCH]
        process = subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL)
        try:
            assert repository.is_held.wait(HANG_S)
            process.send_signal(number)
            # The gate is closed yet: whoever is asked to end doesn't wait for the server.
            process.wait(HANG_S)
        finally:
            process.kill()
        assert KAFKA not in names(tmp_path / "jars")
        del repository.ways[KAFKA]
        subprocess.run(command, env=variables, check=True, timeout=HANG_S)
        assert all(listed.is_at(tmp_path / "jars" / listed.name) for listed in kafka_artifacts())
        assert names(tmp_path / "jars") == {LIST, *files}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system that has no room for the jars."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        as_root("mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this user may not mount a file system: {error}")
    try:
        yield folder
    finally:
        as_root("umount", "--lazy", str(folder))


def test_a_full_disk_is_named_and_what_came_is_kept(small: Path, settings: Settings) -> None:
    """With room, the next call does the rest."""
    tight = settings.model_copy(update={"jars_dir": small / "jars"})
    with pytest.raises(JarsError, match=r"No space left on device") as error:
        fetched_jars(tight)
    assert str(small / "jars") in error.value.message
    assert error.value.remedy.startswith("Make room on that disk, or set CREDITFOLD_JARS_DIR")
    assert error.value.remedy.endswith(AGAIN)
    as_root("mount", "-o", "remount,size=4m", str(small))
    assert is_whole(fetched_jars(tight))


def test_a_folder_that_can_t_be_written(small: Path, settings: Settings) -> None:
    """Is named, where the jars aren't in it; with them there it needn't be written."""
    as_root("mount", "-o", "remount,size=4m", str(small))
    tight = settings.model_copy(update={"jars_dir": small / "jars"})
    as_root("mount", "-o", "remount,ro", str(small))
    with pytest.raises(JarsError, match=r"Read-only file system") as error:
        fetched_jars(tight)
    assert "the right to use it" in error.value.remedy
    as_root("mount", "-o", "remount,rw", str(small))
    fetched_jars(tight)
    as_root("mount", "-o", "remount,ro", str(small))
    assert is_whole(fetched_jars(tight))


def test_a_folder_of_somebody_else(repository: Repository, settings: Settings) -> None:
    """One that has a broker is taken as it is; anything else is neither taken nor replaced, and so is a file."""
    folder = settings.kafka_jars
    folder.mkdir()
    (folder / "precious.jar").touch()
    with pytest.raises(JarsError, match=r"holds something else") as error:
        fetched_jars(settings)
    assert "CREDITFOLD_JARS_DIR" in error.value.remedy
    (folder / KAFKA).touch()
    assert names(fetched_jars(settings)) == {"precious.jar", KAFKA}
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(JarsError, match=r"can't be used"):
        fetched_jars(settings)
    assert not repository.asked


def test_the_repository_is_maven_central_unless_one_is_set() -> None:
    """As the client of Maven repositories knows it; and only what is fetched by HTTP can be set."""
    assert maven.MavenRepository(None).shown == maven.central()
    assert maven.central().startswith("https://")
    with pytest.raises(ValueError, match="maven_url"):
        Settings(maven_url="ftp://maven.example")


def test_the_place_of_a_file() -> None:
    """In the layout of every Maven repository."""
    listed = Artifact("org.apache.kafka:kafka_2.13:4.3.0", 1, "")
    assert listed.path == "org/apache/kafka/kafka_2.13/4.3.0/kafka_2.13-4.3.0.jar"
    assert artifacts.LIST == "jars.json"
