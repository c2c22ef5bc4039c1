"""A Kafka of several brokers, or with encryption, passwords and rights, which the embedded one never has.

Each broker is a controller too. They speak to each other in the clear on loopback; clients come by a listener of their
own. Knows nothing of what is kept in it.
"""

import datetime
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import psutil
from confluent_kafka import KafkaException
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from creditfold.common.processes import Daemon, Step, last_lines, run
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.admin import KafkaAdmin
from creditfold.stack.java import find_java, java_environment
from creditfold.stack.kafka import _cluster_id, java_command
from helpers.stack_under_test import Guard, embedded_settings, free_port, server_folder
from helpers.support import HANG_S, environment

#: The user that may do everything.
ADMIN = "admin"


class Certificates(NamedTuple):
    """Files of the authority that clients trust, and of a server on 127.0.0.1: all in one, its key, its certificate."""

    authority: Path
    server: Path
    key: Path
    certificate: Path


def make_certificates(folder: Path) -> Certificates:
    """Make an authority, and a server's certificate for 127.0.0.1 that it signed."""
    now = datetime.datetime.now(datetime.UTC)
    names = {one: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in ("tests", "127.0.0.1")}

    def builder(subject: str) -> tuple[x509.CertificateBuilder, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        made = x509.CertificateBuilder().subject_name(names[subject]).issuer_name(names["tests"])
        made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
        day = datetime.timedelta(days=1)
        return made.not_valid_before(now - day).not_valid_after(now + day), key

    root, root_key = builder("tests")
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    server, server_key = builder("127.0.0.1")
    server = server.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
    )
    pem = serialization.Encoding.PEM
    key_text = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    server_text = server.sign(root_key, hashes.SHA256()).public_bytes(pem)
    root_text = root.sign(root_key, hashes.SHA256()).public_bytes(pem)
    found = Certificates(*(folder / name for name in ("authority.pem", "server.pem", "key.pem", "certificate.pem")))
    for file, text in zip(found, (root_text, key_text + server_text + root_text, key_text, server_text), strict=True):
        file.write_bytes(text)
        file.chmod(0o600)
    return found


class Broker:
    """One broker of a cluster, which can be stopped, killed and started again."""

    def __init__(self, home: Path, port: int, java: Sequence[str], guard: Guard) -> None:
        self.home = home
        self._guard = guard
        self.address = f"127.0.0.1:{port}"
        self._java = java
        self._daemon = Daemon(home / "process.json", home / "kafka.out")

    def format(self, cluster_id: str, options: Sequence[str]) -> None:
        """Make its storage."""
        command = [*self._java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", "server.properties"]
        done = run([*command, *options], cwd=self.home, bound_s=HANG_S, env=java_environment())
        assert done.code == 0, done.said

    def start(self) -> None:
        """Start it, without waiting for it."""
        command = [*self._java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
        self._daemon.start([*command, "kafka.Kafka", "server.properties"], cwd=self.home, env=java_environment())
        assert self._daemon.pid is not None
        self._guard.watch(psutil.Process(self._daemon.pid))

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, cleanly or as a crash would."""
        self._daemon.stop([] if kill else [Step(signal.SIGTERM, HANG_S)])

    @property
    def end_of_log(self) -> str:
        """What it said last."""
        return last_lines(self.home / "kafka.out")


class Cluster:
    """Brokers that are one Kafka. `settings` are those of a client; secured, of the user that may do everything."""

    def __init__(self, settings: Settings, brokers: Sequence[Broker]) -> None:
        self.settings = settings
        self.brokers = brokers

    def wait(self) -> None:
        """Wait until it answers and knows all of its brokers."""
        assert wait_until(self._is_whole, HANG_S), "\n".join(broker.end_of_log for broker in self.brokers)

    def _is_whole(self) -> bool:
        with suppress(KafkaException):
            return len(KafkaAdmin(self.settings).client.list_topics(timeout=1.0).brokers) == len(self.brokers)
        return False


@contextmanager
def cluster(
    jars: Path, count: int, *, passwords: Mapping[str, str] | None = None, certificates: Certificates | None = None
) -> Iterator[Cluster]:
    """A Kafka for the length of a block.

    Args:
        jars: Kafka's.
        count: of brokers. Topics of its own have as many replicas.
        passwords: of the users that may connect, `ADMIN` among them; None for everybody, without encryption.
        certificates: of the brokers, with passwords.
    """
    folder = server_folder()
    ports = [(free_port(), free_port(), free_port()) for _ in range(count)]
    voters = ",".join(f"{number}@127.0.0.1:{port}" for number, (*_, port) in enumerate(ports, 1))
    brokers = []
    # It ends them and removes the folder where this process is killed.
    guard = Guard(environment(embedded_settings(folder)))
    cluster_id = _cluster_id()
    scram = [f"SCRAM-SHA-512=[name={user},password={text}]" for user, text in (passwords or {}).items()]
    command = java_command(find_java(), jars, lambda _: None)
    for number, of_broker in enumerate(ports, 1):
        home = folder / f"broker-{number}"
        home.mkdir()
        lines = _configuration(number, of_broker, voters, count)
        if certificates is not None:
            shutil.copy(certificates.server, home / "server.pem")
            lines += _SECURED
        else:
            lines.append("listener.security.protocol.map=CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT")
        (home / "server.properties").write_text("\n".join(lines) + "\n", "ascii")
        broker = Broker(home, of_broker[0], command, guard)
        broker.format(cluster_id, [part for one in scram for part in ("--add-scram", one)])
        brokers.append(broker)
    settings = embedded_settings(folder).model_copy(
        update={
            "kafka_bootstrap": ",".join(broker.address for broker in brokers),
            "kafka_security_protocol": "PLAINTEXT" if certificates is None else "SASL_SSL",
        }
    )
    if certificates is not None and passwords is not None:
        settings = as_user(settings, ADMIN, passwords[ADMIN], certificates)
    made = Cluster(settings, brokers)
    try:
        for broker in brokers:
            broker.start()
        made.wait()
        yield made
    finally:
        for broker in brokers:
            broker.stop(kill=True)
        guard.end()


def as_user(settings: Settings, user: str, password: str, certificates: Certificates) -> Settings:
    """The settings of one who connects as a user."""
    given = settings.model_dump() | {
        "kafka_username": user,
        "kafka_password": password,
        "kafka_ca_file": certificates.authority,
    }
    return Settings(**given)


def _configuration(number: int, ports: tuple[int, int, int], voters: str, count: int) -> list[str]:
    client, internal, controller = ports
    least = max(1, count - 1)
    return [
        "process.roles=broker,controller",
        f"node.id={number}",
        f"controller.quorum.voters={voters}",
        f"listeners=CLIENT://127.0.0.1:{client},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}",
        f"advertised.listeners=CLIENT://127.0.0.1:{client},INTERNAL://127.0.0.1:{internal}",
        "inter.broker.listener.name=INTERNAL",
        "controller.listener.names=CONTROLLER",
        "log.dirs=data",
        "auto.create.topics.enable=false",
        "num.io.threads=2",
        "num.network.threads=1",
        "group.initial.rebalance.delay.ms=0",
        f"default.replication.factor={count}",
        f"min.insync.replicas={least}",
        # Those that it makes for itself.
        *(
            f"{topic}.{setting}"
            for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
            for setting in (f"replication.factor={count}", "num.partitions=4")
        ),
        f"transaction.state.log.min.isr={least}",
        f"share.coordinator.state.topic.min.isr={least}",
        # A broker that is killed is missed after this time.
        "broker.session.timeout.ms=3000",
        "broker.heartbeat.interval.ms=500",
    ]


#: Of a listener for clients that are who they say, and may do what they were given the right to.
_SECURED = [
    "listener.security.protocol.map=CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "listener.name.client.ssl.keystore.type=PEM",
    "listener.name.client.ssl.keystore.location=server.pem",
    "listener.name.client.sasl.enabled.mechanisms=SCRAM-SHA-512",
    "listener.name.client.scram-sha-512.sasl.jaas.config="
    "org.apache.kafka.common.security.scram.ScramLoginModule required;",
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    # The brokers themselves are nobody to each other.
    f"super.users=User:ANONYMOUS;User:{ADMIN}",
]
