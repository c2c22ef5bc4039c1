"""Owns the Kafka and the PostgreSQL that tests run on: Docker's where an engine answers, else the embedded ones.

Refuses to know what is tested. CREDITFOLD_TEST_STACK (auto, docker, embedded) chooses.
"""

import fcntl
import os
import random
import shutil
import socket
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
from pydantic import SecretStr

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log import admin, offsets, rights, topics
from creditfold.log.admin import kafka_answers
from creditfold.stack import kafka, postgres
from creditfold.stack.embedded import down, up
from creditfold.stack.kafka import EmbeddedKafka
from creditfold.stack.postgres import EmbeddedPostgres
from helpers.support import ROOT, environment

# What ends the servers of benchmarks that are killed does so for tests; a script beside others, and in no package.
sys.path.append(str(ROOT / "benchmarks"))
from guard import Guard

JARS = ROOT / ".creditfold" / "jars"


# How long a server may take to start or to end, and a broker to make a topic, says something of the machine, and
# nothing of ours.
kafka.READY_BOUND_S = kafka.STOP_BOUND_S = postgres.READY_BOUND_S = 600.0
admin.REQUEST_S = rights.REQUEST_S = rights.ONCE_S = 120.0
offsets.REQUEST_S = topics.REQUEST_S = topics.PROPAGATION_S = 120.0

#: Free memory, in bytes, from which on servers of tests have their data in it; those of all processes use about 2 GB.
ROOM_IN_MEMORY = 6 * 2**30
#: The files that say which ports are taken by tests, locked by whoever took them for as long as it lives.
PORTS = Path(tempfile.gettempdir()) / f"creditfold-test-ports-{os.getuid()}"


def free_port() -> int:
    """Return a port that nobody listens on, below those that the system gives to outgoing connections.

    No other call gets it, in this process or in another one beside, until this process ends.
    """
    PORTS.mkdir(exist_ok=True)
    while True:
        port = random.randrange(20_000, 28_000)
        lock = os.open(PORTS / str(port), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        # Left open: the lock is held by it. Somebody who takes no part in this may listen there all the same.
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def server_folder() -> Path:
    """Make a folder for the data of servers: in memory where there is room for it.

    A database is some 300 files, and each test has one: creating them on a disk's file system took a sixth of the
    processor time of all tests. A server that is killed loses nothing by it; only the machine's end would.

    Returns:
        A folder with a short name, because the path of a socket in it must be short, and open to other users: where
        root runs the tests, PostgreSQL runs as another one.
    """
    memory = Path("/dev/shm")  # noqa: S108 - What is made in it has a name that nobody can know before.
    has_room = memory.is_dir() and psutil.disk_usage(str(memory)).free > ROOM_IN_MEMORY
    roomy = has_room and psutil.virtual_memory().available > ROOM_IN_MEMORY
    folder = Path(tempfile.mkdtemp(prefix="cf-", dir=memory if roomy else None))
    folder.chmod(0o755)
    return folder


def embedded_settings(data_dir: Path) -> Settings:
    """Return the settings of an embedded stack of its own, with the jars that all of them share."""
    return Settings(
        data_dir=data_dir,
        jars_dir=JARS,
        kafka_bootstrap=f"127.0.0.1:{free_port()}",
        kafka_controller_port=free_port(),
        commands_topic="creditfold.test.v1",
        postgres_dsn=None,
    )


class StackUnderTest(ABC):
    """A real Kafka and a real PostgreSQL that a test may stop, start and kill."""

    settings: Settings

    @staticmethod
    def chosen() -> "StackUnderTest":
        """Return the stack that CREDITFOLD_TEST_STACK asks for, not started."""
        choice = os.environ.get("CREDITFOLD_TEST_STACK", "auto")
        if choice not in ("auto", "docker", "embedded"):
            raise ValueError(f"CREDITFOLD_TEST_STACK is {choice!r}; it may be auto, docker or embedded")
        if choice == "docker" or (choice == "auto" and _docker_answers()):
            return DockerStack()
        return EmbeddedStack()

    @abstractmethod
    def start(self) -> None:
        """Start both and wait until they answer."""

    @abstractmethod
    def stop(self) -> None:
        """Stop both and remove their data."""

    @abstractmethod
    def start_kafka(self) -> None:
        """Start Kafka and wait until it answers."""

    @abstractmethod
    def stop_kafka(self, *, kill: bool = False) -> None:
        """Stop Kafka, cleanly or as a crash would."""

    @abstractmethod
    def start_postgres(self) -> None:
        """Start PostgreSQL and wait until it answers."""

    @abstractmethod
    def stop_postgres(self, *, kill: bool = False) -> None:
        """Stop PostgreSQL, cleanly or as a crash would."""

    @abstractmethod
    def freeze(self, which: str) -> None:
        """Have `kafka` or `postgres` stand still, with its connections open."""

    @abstractmethod
    def thaw(self, which: str) -> None:
        """Have it go on."""

    def restart_kafka(self, *, kill: bool = False) -> None:
        """Stop Kafka and start it again."""
        self.stop_kafka(kill=kill)
        self.start_kafka()

    def restart_postgres(self, *, kill: bool = False) -> None:
        """Stop PostgreSQL and start it again."""
        self.stop_postgres(kill=kill)
        self.start_postgres()


class EmbeddedStack(StackUnderTest):
    """The embedded servers, in a folder and on ports of their own."""

    FREEZE_S = 60.0

    def __init__(self) -> None:
        self._folder = server_folder()
        self.settings = embedded_settings(self._folder)
        self._guard: Guard | None = None

    def start(self) -> None:
        # It does what `stop` does where this process is killed.
        self._guard = Guard(environment(self.settings))
        up(self.settings)

    def stop(self) -> None:
        down(self.settings)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._guard is not None:
            self._guard.end()

    def start_kafka(self) -> None:
        _KafkaAgain(self.settings).start()

    def stop_kafka(self, *, kill: bool = False) -> None:
        server = EmbeddedKafka(self.settings)
        _ = server.kill() if kill else server.stop()

    def start_postgres(self) -> None:
        EmbeddedPostgres(self.settings).start()

    def stop_postgres(self, *, kill: bool = False) -> None:
        server = EmbeddedPostgres(self.settings)
        _ = server.kill() if kill else server.stop()

    def freeze(self, which: str) -> None:
        frozen = self._processes(which)
        for process in frozen:
            process.suspend()
        assert wait_until(lambda: all(one.status() == psutil.STATUS_STOPPED for one in frozen), self.FREEZE_S)

    def thaw(self, which: str) -> None:
        for process in self._processes(which):
            process.resume()

    def _processes(self, which: str) -> list[psutil.Process]:
        server = EmbeddedKafka(self.settings) if which == "kafka" else EmbeddedPostgres(self.settings)
        assert server.pid is not None
        # The first starts the others.
        own = psutil.Process(server.pid)
        return [own, *own.children(recursive=True)]


class _KafkaAgain(EmbeddedKafka):
    """A broker that was started before, by the same Java and jars: to look at these takes a tenth of a start."""

    def _java_command(self, on_step: Callable[[str], None]) -> list[str]:
        found = _JAVA.get(self._settings.jars_dir)
        if found is None:
            found = _JAVA[self._settings.jars_dir] = super()._java_command(on_step)
        return found


#: How Java is started, by the folder of the jars.
_JAVA: dict[Path, list[str]] = {}


class DockerStack(StackUnderTest):
    """The services of docker-compose.yml, as a project and on ports of their own."""

    BOUND_S = 240.0

    def __init__(self) -> None:
        from testcontainers.compose import DockerCompose

        kafka_port, postgres_port = free_port(), free_port()
        password = "creditfold-test"  # noqa: S105 - It guards a container that lives as long as the tests.
        # Compose reads them from the environment of the command that testcontainers runs.
        self._environment = {
            "COMPOSE_PROJECT_NAME": f"creditfold-test-{os.getpid()}",
            "CREDITFOLD_KAFKA_PORT": str(kafka_port),
            "CREDITFOLD_POSTGRES_PORT": str(postgres_port),
            "CREDITFOLD_POSTGRES_PASSWORD": password,
        }
        self._folder = Path(tempfile.mkdtemp(prefix="cf-"))
        self._compose = DockerCompose(ROOT, "docker-compose.yml", services=["kafka", "postgres"], wait=True)
        dsn = f"postgresql://postgres:{password}@127.0.0.1:{postgres_port}/creditfold"
        self.settings = embedded_settings(self._folder).model_copy(
            update={"kafka_bootstrap": f"127.0.0.1:{kafka_port}", "postgres_dsn": SecretStr(dsn)}
        )

    def start(self) -> None:
        os.environ.update(self._environment)
        self._compose.start()
        self._wait()

    def stop(self) -> None:
        self._compose.stop(down=True)
        for name in self._environment:
            os.environ.pop(name, None)
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_kafka(self) -> None:
        self._run("start", "kafka")

    def stop_kafka(self, *, kill: bool = False) -> None:
        self._run("kill" if kill else "stop", "kafka")

    def start_postgres(self) -> None:
        self._run("start", "postgres")

    def stop_postgres(self, *, kill: bool = False) -> None:
        self._run("kill" if kill else "stop", "postgres")

    def freeze(self, which: str) -> None:
        self._run("pause", which)

    def thaw(self, which: str) -> None:
        self._run("unpause", which)

    def _run(self, verb: str, service: str) -> None:
        self._compose._run_command([*self._compose.compose_command_property, verb, service])
        if verb == "start":
            self._wait()

    def _wait(self) -> None:
        assert wait_until(lambda: kafka_answers(self.settings), self.BOUND_S), "Kafka's container doesn't answer"
        assert wait_until(self._postgres_answers, self.BOUND_S), "PostgreSQL's container doesn't answer"

    def _postgres_answers(self) -> bool:
        try:
            psycopg.connect(self.settings.dsn, connect_timeout=10).close()
        except psycopg.Error:
            return False
        return True


def _docker_answers() -> bool:
    try:
        import docker  # type: ignore[import-untyped]

        return bool(docker.from_env(timeout=5).ping())
    except Exception:  # Whatever is wrong with Docker here, the answer is no.
        return False
