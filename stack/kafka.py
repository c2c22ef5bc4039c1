"""Owns the embedded Kafka: its configuration, its storage and its one process, broker and controller in one.

Refuses to know topics and records. It listens on loopback only and its data survives restarts. The storage is
formatted in a folder of another name, which is renamed when it is whole.
"""

import base64
import contextlib
import os
import re
import shutil
import signal
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from creditfold.common.errors import ResourceError
from creditfold.common.processes import Daemon, Step, last_lines, run, tail
from creditfold.common.resources import read_resource
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.admin import kafka_answers
from creditfold.stack.class_archive import archive_options
from creditfold.stack.jars import fetched_jars
from creditfold.stack.java import Java, find_java, java_environment
from creditfold.stack.ports import Need, check_ports

READY_BOUND_S = 120.0
STOP_BOUND_S = 30.0
FORMAT_BOUND_S = 120.0
LOOPBACK_HOSTS = ("127.0.0.1", "localhost")
#: Options of Java for what takes less than a second: its best compiler, and threads for garbage, cost more.
BRIEFLY = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

_LISTENER = re.compile(r"^listeners=PLAINTEXT://127\.0\.0\.1:(\d+),", re.MULTILINE)
_CLUSTER = re.compile(r"^cluster\.id=(\S+)", re.MULTILINE)


class EmbeddedKafkaError(ResourceError):
    """The embedded Kafka can't be set up or started."""


class OtherPortError(EmbeddedKafkaError):
    """The data folder's broker runs, and elsewhere than the settings say."""


def is_embeddable(settings: Settings) -> bool:
    """Whether the settings point at a broker on this machine, as the embedded one would be."""
    host, _, port = settings.kafka_bootstrap.rpartition(":")
    return host in LOOPBACK_HOSTS and port.isdecimal() and settings.kafka_security_protocol == "PLAINTEXT"


class EmbeddedKafka:
    """The embedded broker of one data folder. Connects to nothing and starts nothing until it is called."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = settings.data_dir.resolve() / "kafka"
        # Two files: log4j turns its own over, and what the Java machine itself says would be lost there.
        self.log_path = self._home / "kafka.log"
        self._output_path = self._home / "kafka.out"
        self._daemon = Daemon(self._home / "process.json", self._output_path)

    @property
    def address(self) -> str:
        """host:port of the broker."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The broker's pid if it lives."""
        return self._daemon.pid

    @property
    def _port(self) -> int:
        return int(self._settings.kafka_bootstrap.rpartition(":")[2])

    @property
    def running_at(self) -> str | None:
        """host:port where the broker runs, whatever the settings say now; None if it doesn't."""
        port = _recorded_port(self._home) if self.pid is not None else None
        return None if port is None else f"127.0.0.1:{port}"

    @property
    def needs(self) -> list[Need]:
        """The ports that the broker is to listen on."""
        return [
            Need("Kafka", self._port, "CREDITFOLD_KAFKA_BOOTSTRAP", "127.0.0.1:{}"),
            Need("Kafka", self._settings.kafka_controller_port, "CREDITFOLD_KAFKA_CONTROLLER_PORT"),
        ]

    def is_ready(self) -> bool:
        """Whether our broker lives and answers a metadata request."""
        return self.pid is not None and self._answers()

    def check(self) -> None:
        """Check that the broker can start where the settings say, or runs there. Starts and fetches nothing.

        Raises OtherPortError, PortBusyError or EmbeddedKafkaError.
        """
        self._check_address()
        running_at = self.running_at
        if running_at is None:
            check_ports(self.needs)
        elif running_at != self.address:
            raise OtherPortError(
                f"The Kafka of the data folder {self._home.parent} runs at {running_at}, and the settings say "
                f"{self.address}.",
                f"Set CREDITFOLD_KAFKA_BOOTSTRAP={running_at}; or stop it first, with `creditfold down`.",
            )

    def start(self, on_step: Callable[[str], None] = lambda _: None) -> bool:
        """Start the broker and wait until it answers. Returns whether it wasn't running. Raises EmbeddedKafkaError."""
        launched = self.launch(on_step)
        self.wait_ready()
        return launched

    def launch(self, on_step: Callable[[str], None] = lambda _: None) -> bool:
        """Start the broker's process without waiting for it. Returns False if it runs already.

        Raises JavaError, JarsError, MavenError, OtherPortError, PortBusyError or EmbeddedKafkaError.
        """
        self.check()
        if self.pid is not None:
            return False
        command = self._java_command(on_step)
        self._home.mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        self._format(command)
        # Again, since fetching may have taken minutes.
        check_ports(self.needs)
        self._run(command)
        return True

    def wait_ready(self) -> None:
        """Wait, 120 s at most, until the broker answers.

        Raises EmbeddedKafkaError with the end of its log, PortBusyError if it lost a port to another process.
        """
        # Asked once more, a broker that has much to do after its start may not answer in time.
        has_answered = wait_until(lambda: self.pid is None or self._answers(), READY_BOUND_S)
        if self.pid is None:
            check_ports(self.needs)
            raise EmbeddedKafkaError(
                f"Kafka ended while starting. The end of its log:\n{self._log_tail()}", self._log_remedy()
            )
        if not has_answered:
            raise EmbeddedKafkaError(
                f"Kafka doesn't answer at {self.address} after {READY_BOUND_S:.0f} s. "
                f"The end of its log:\n{self._log_tail()}",
                self._log_remedy(),
            )

    def stop(self) -> bool:
        """Shut the broker down cleanly, within 30 s, else kill it. Returns whether it was running."""
        return self._daemon.stop([Step(signal.SIGTERM, STOP_BOUND_S)])

    def kill(self) -> bool:
        """Kill the broker as a crash would. For tests. Returns whether it was running."""
        return self._daemon.stop([])

    def _check_address(self) -> None:
        if not is_embeddable(self._settings):
            raise EmbeddedKafkaError(
                f"The embedded Kafka listens on 127.0.0.1 without encryption, but the settings say "
                f"{self._settings.kafka_security_protocol} at {self._settings.kafka_bootstrap}.",
                "Set CREDITFOLD_KAFKA_BOOTSTRAP to 127.0.0.1 and a port, and CREDITFOLD_KAFKA_SECURITY_PROTOCOL "
                "to PLAINTEXT; or use your own Kafka, which needs no `creditfold up`.",
            )
        if self._port == self._settings.kafka_controller_port:
            raise EmbeddedKafkaError(
                f"Broker and controller can't share the port {self._port}.",
                "Set CREDITFOLD_KAFKA_CONTROLLER_PORT to another one.",
            )

    def _answers(self) -> bool:
        """Whether this broker answers, and no other that has its port."""
        with contextlib.suppress(OSError):
            found = _CLUSTER.search((self._home / "data" / "meta.properties").read_text("ascii", "replace"))
            return found is not None and kafka_answers(self._settings, cluster_id=found[1])
        return False

    def _java_command(self, on_step: Callable[[str], None]) -> list[str]:
        java = find_java()
        on_step(f"Kafka runs on Java {java.major} of {java.source}")
        return java_command(java, fetched_jars(self._settings, on_step), on_step)

    def _write_configuration(self) -> None:
        # Java reads properties as Latin-1 and log.dirs as a list by commas, so no path stands in there: all are
        # relative to the folder that the broker runs in.
        controller = self._settings.kafka_controller_port
        lines = [
            "# Written at each start; changes are lost.",
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@127.0.0.1:{controller}",
            f"listeners=PLAINTEXT://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{controller}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self._port}",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name=PLAINTEXT",
            "controller.listener.names=CONTROLLER",
            "auto.create.topics.enable=false",
            "default.replication.factor=1",
            "min.insync.replicas=1",
            "log.retention.ms=-1",
            # The defaults are a big server's. With few cores, every thread more is one more to wake with cold caches.
            f"num.io.threads={min(8, max(2, os.cpu_count() or 2))}",
            "num.network.threads=1",
            "background.threads=2",
            # One that was killed is let in again when its former session has run out, 9 s by default, though nobody but
            # itself could have it. It asks once in each interval.
            "broker.session.timeout.ms=3000",
            "broker.heartbeat.interval.ms=500",
            "group.initial.rebalance.delay.ms=0",
            # By default an idle broker writes two records a second that say nothing but that it is there.
            "metadata.max.idle.interval.ms=10000",
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=4",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "transaction.state.log.num.partitions=4",
            "share.coordinator.state.topic.replication.factor=1",
            "share.coordinator.state.topic.min.isr=1",
            "share.coordinator.state.topic.num.partitions=4",
        ]
        text = "\n".join(lines)
        (self._home / "server.properties").write_text(f"{text}\nlog.dirs=data\n", encoding="ascii")
        (self._home / "format.properties").write_text(f"{text}\nlog.dirs=data.new\n", encoding="ascii")
        (self._home / "log4j2.xml").write_bytes(read_resource(__package__, "log4j2.xml"))

    def _format(self, java: Sequence[str]) -> None:
        """Format the storage under another name, and rename it: half a format is never used."""
        data, fresh = self._home / "data", self._home / "data.new"
        if data.exists():
            return
        shutil.rmtree(fresh, ignore_errors=True)
        done = run(
            [*java, *BRIEFLY, "kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", "format.properties"],
            cwd=self._home,
            bound_s=FORMAT_BOUND_S,
            env=java_environment(),
        )
        if done.code != 0 or not (fresh / "meta.properties").exists():
            raise EmbeddedKafkaError(
                f"Kafka's storage in {fresh} can't be formatted:\n{tail(done.said)}", self._log_remedy()
            )
        fresh.rename(data)

    def _run(self, java: Sequence[str]) -> None:
        command = [
            *java,
            f"-Xmx{self._settings.kafka_heap}",
            # For a small heap: it takes a tenth less CPU time than one that runs concurrently with the broker.
            "-XX:+UseSerialGC",
            # A broker that is out of memory is worse than none: it lives, and answers nothing.
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            "-Dlog4j2.configurationFile=log4j2.xml",
            f"-Dcreditfold.log={self.log_path.name}",
            *("kafka.Kafka", "server.properties"),
        ]
        # The last run's log goes away here, or its end would be taken for this run's.
        with contextlib.suppress(FileNotFoundError):
            self.log_path.replace(self.log_path.with_name("kafka.log.0"))
        self._daemon.start(command, cwd=self._home, env=java_environment())

    def _log_tail(self) -> str:
        said = self._output_path.exists() and self._output_path.stat().st_size > 0
        paths = [self.log_path, self._output_path] if said else [self.log_path]
        return "\n".join(last_lines(path) for path in paths)

    def _log_remedy(self) -> str:
        return f"The whole log is {self.log_path}."


def java_command(java: Java, jars: Path, on_step: Callable[[str], None]) -> list[str]:
    """How Java is started on Kafka's jars, from an archive of their classes; what it is to run comes behind."""
    return [java.command, *java.options, *archive_options(java, jars, on_step), "-cp", f"{jars}/*"]


def _recorded_port(home: Path) -> int | None:
    """The port that the broker was started with the last time, as its configuration has it."""
    with contextlib.suppress(OSError):
        found = _LISTENER.search((home / "server.properties").read_text("ascii", "replace"))
        return int(found[1]) if found else None
    return None


def _cluster_id() -> str:
    """Return a new id as Kafka writes them: 16 bytes in base64, the first character no dash."""
    text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return text if not text.startswith("-") else _cluster_id()
