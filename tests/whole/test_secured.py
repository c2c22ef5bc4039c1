"""All of it where Kafka and PostgreSQL ask who one is: encrypted, with passwords, and with no right too many."""

import argparse
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psycopg
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.log.admin import KafkaAdmin
from creditfold.projections.access.audit import Actor
from creditfold.projections.access.keys import create_key
from creditfold.projections.access.scopes import SCOPES
from creditfold.projections.connections import connected
from creditfold.stack import postgres
from creditfold.stack.postgres import EmbeddedPostgres
from creditfold.stack.postgres_access import OWNER, Passwords
from creditfold.stack.postgres_server import Server, server_user
from helpers.command_line import run
from helpers.databases import with_dsn
from helpers.doors import serving
from helpers.kafka_cluster import ADMIN, Certificates, Cluster, as_user, cluster, make_certificates
from helpers.pages import DOCS, blocks
from helpers.stack_under_test import JARS, Guard, embedded_settings, free_port, server_folder
from helpers.support import HANG_S, PATIENT, environment, worker

USERS = ("init", "worker", "publisher", "door", "shop", "backup", "reports", "nobody")
# One process has its servers.
pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("secured")]


def documented_rights() -> list[str]:
    (page,) = (path for path in DOCS if path.name == "operating.md")
    (block,) = (block for block in blocks(page) if block.language == "acls")
    return [line for line in block.text.splitlines() if line and not line.startswith("#")]


def rights_of(line: str, names: Mapping[str, str]) -> list[AclBinding]:
    """The rights that kafka-acls.sh would give by these options, for topics and groups of other names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("user")
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--resource-pattern-type")
    for option in ("--operation", "--topic", "--group", "--transactional-id"):
        parser.add_argument(option, action="append", default=[])
    given = parser.parse_args(line.split())
    kind = ResourcePatternType.PREFIXED if given.resource_pattern_type == "prefixed" else ResourcePatternType.LITERAL
    resources = [(ResourceType.TOPIC, names[name]) for name in given.topic]
    resources += [(ResourceType.GROUP, names.get(name, name)) for name in given.group]
    resources += [(ResourceType.TRANSACTIONAL_ID, names[name]) for name in given.transactional_id]
    resources += [(ResourceType.BROKER, "kafka-cluster")] if given.cluster else []
    operations = {"DescribeConfigs": "DESCRIBE_CONFIGS"}
    return [
        AclBinding(
            resource,
            name,
            kind,
            f"User:{given.user}",
            "*",
            AclOperation[operations.get(operation, operation.upper())],
            AclPermissionType.ALLOW,
        )
        for resource, name in resources
        for operation in given.operation
    ]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def passwords() -> dict[str, str]:
    return {user: uuid.uuid4().hex for user in (ADMIN, *USERS)}


@pytest.fixture(scope="module")
def kafka(passwords: dict[str, str], certificates: Certificates) -> Iterator[Cluster]:
    with cluster(JARS, 1, passwords=passwords, certificates=certificates) as found:
        yield found


@pytest.fixture(scope="module")
def dsn(certificates: Certificates) -> Iterator[str]:
    """A PostgreSQL with TLS, of the system's package: the wheel's has none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("no PostgreSQL with TLS here: `apt-get install postgresql` has one")
    folder = server_folder()
    settings = embedded_settings(folder).model_copy(update={"postgres_tcp_port": free_port()})
    settings.data_dir.mkdir(exist_ok=True)
    own, guard = EmbeddedPostgres(settings), Guard(environment(settings))
    with pytest.MonkeyPatch.context() as patched:
        major = int(found[-1].parent.parent.name)
        patched.setattr(postgres, "find_server", lambda _: Server(found[-1].parent, major))
        own.start()
    try:
        yield _with_tls(settings, certificates)
    finally:
        own.stop()
        guard.end()


def _with_tls(settings: Settings, certificates: Certificates) -> str:
    """Have a server take what comes encrypted and with a password alone; the connection string."""
    home = settings.data_dir / "postgres"
    user = server_user(settings.data_dir)
    for source, name in ((certificates.key, "server.key"), (certificates.certificate, "server.crt")):
        target = home / "data" / name
        target.write_bytes(source.read_bytes())
        target.chmod(0o600)
        user.chown(target)
    with psycopg.connect(settings.dsn, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET ssl = on")
        (home / "pg_hba.conf").write_text("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
        connection.execute("SELECT pg_reload_conf()")
    password = Passwords(settings.data_dir / "pgpass").of(OWNER)
    return make_conninfo(
        host="127.0.0.1",
        port=settings.postgres_tcp_port,
        user=OWNER,
        dbname="creditfold",
        password=password,
        sslmode="verify-full",
        sslrootcert=str(certificates.authority),
        channel_binding="require",
    )


@pytest.fixture(scope="module")
def of(ledger: Settings, passwords: dict[str, str], certificates: Certificates) -> Callable[[str], Settings]:
    """The settings of one user."""
    return lambda user: as_user(ledger, user, passwords[user], certificates)


@pytest.fixture(scope="module")
def ledger(kafka: Cluster, dsn: str, passwords: dict[str, str], certificates: Certificates) -> Settings:
    """The administrator's settings of a ledger whose users have the documented rights; one of them made it."""
    settings = kafka.settings.model_copy(
        update={
            "postgres_dsn": SecretStr(dsn),
            "group": "fold",
            "partitions": 2,
            "commands_topic": "c",
            "outcomes_topic": "o",
            "dead_letters_topic": "d",
        }
    )
    names = {"commands": "c", "outcomes": "o", "dead-letters": "d", "fold": "fold", "fold-outcomes": "fold-outcomes"}
    bindings = [right for line in documented_rights() for right in rights_of(line, names)]
    admin = KafkaAdmin(settings)
    for answer in admin.client.create_acls(bindings).values():
        answer.result(HANG_S)
    made = run(as_user(settings, "init", passwords["init"], certificates), "init", "--no-key").stdout
    assert "The topic c was created." in made
    assert "The tables were created." in made
    return settings


def test_every_part_works_and_nobody_does_more(ledger: Settings, of: Callable[[str], Settings], tmp_path: Path) -> None:
    """Commands by a service and by the door, folded, published, followed, archived, delivered; each by its own user."""
    assert "The topic c was there." in run(of("init"), "init", "--no-key").stdout
    with (
        worker(of("worker"), tmp_path) as folding,
        worker(of("publisher"), tmp_path, "publisher", command="publisher") as publishing,
        # It reads PostgreSQL alone.
        worker(of("nobody"), tmp_path, "delivery", command="delivery") as delivering,
        serving(of("door")) as url,
    ):
        run(of("shop"), "grant", "ann", "5", "--id", "g-1", *PATIENT)
        with connected(ledger.dsn) as connection:
            key = create_key(connection, "tests", SCOPES, by=Actor("tests", "here", "a test needs it"))
        headers = {"Authorization": f"Bearer {key.text}"}
        with httpx.Client(base_url=url, headers=headers, timeout=HANG_S, trust_env=False) as http:
            spent = http.post(
                "/v1/accounts/ann/spends",
                json={"asset": "credits", "amount": 2},
                headers={"Idempotency-Key": "s-1", "Prefer": f"wait={int(HANG_S)}"},
            )
            assert (spent.status_code, spent.json()["outcome"]) == (201, "accepted"), spent.text
            partition, _, offset = spent.headers["Creditfold-Position"].partition(":")
            assert http.get(f"/v1/log/{partition}/{offset}").json()["fields"]["command_id"] == "s-1"
            ready = {"ready": True, "kafka": True, "postgresql": True}
            assert wait_until(lambda: http.get("/health/ready").json() == ready, HANG_S), http.get("/health/ready").text
            # What is waited for must be read, to know since when.
            folding.stop()
            run(of("shop"), "grant", "ann", "1", "--id", "g-2", "--no-wait")
            assert wait_until(lambda: _lag_seconds(http) > 0, HANG_S), http.get("/metrics").text
        with worker(of("worker"), tmp_path, "second") as second:
            found = run(of("reports"), "follow", "ann", "--since", "start", "--limit", "3", *PATIENT, "--json").stdout
            assert [json.loads(line)["command_id"] for line in found.splitlines()] == ["g-1", "s-1", "g-2"]
            assert "archived 3 records" in run(of("backup"), "archive", str(tmp_path / "archive")).stdout
            assert "Equal" in run(of("worker"), "verify").stdout
            run(of("worker"), "status", "--check")
            running = (second, publishing, delivering)
            assert all(one.process.poll() is None for one in running)
            for one in (folding, *running):
                assert "authorization failed" not in one.text(), one.text()


def _lag_seconds(http: httpx.Client) -> float:
    name = "creditfold_fold_lag_seconds{"
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(name)]
    return max(float(line.split()[-1]) for line in lines)


WRITES = "Kafka doesn't let this client write to 'c'"
#: By what is missing: the user, the command, and what is said.
REFUSED = {
    "any right, to append": ("nobody", ("grant", "ann", "5", "--id", "n-1"), WRITES),
    "the right to append": ("reports", ("spend", "ann", "1", "--id", "n-2"), WRITES),
    "the right to follow": ("shop", ("follow", "ann", "--since", "start"), "Topic authorization failed"),
    "the right to archive": ("nobody", ("archive", "nowhere"), "Topic authorization failed"),
    "the right to make topics": ("nobody", ("init", "--no-key"), "authorization failed"),
    "any right, to fold": ("nobody", ("worker",), "about the topic c: Broker: Topic authorization failed"),
    "the right to read": ("shop", ("worker",), "gives the user 'shop' no right to read the topic c."),
    "the right to append ticks": ("backup", ("worker",), "no right to write the topic c."),
    "the right to a group": ("door", ("worker",), "no right to read the group fold."),
    "the right to publish": ("worker", ("publisher",), "about the topic o: Broker: Topic authorization failed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_lacks_a_right_is_refused_by_its_name(of: Callable[[str], Settings], case: str) -> None:
    """At once, with what to do; a process ends rather than wait for what doesn't come by itself."""
    user, arguments, said = REFUSED[case]
    done = run(of(user), *arguments, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "\ntry: " in done.stderr


def test_a_wrong_password_and_an_unknown_authority_are_named(of: Callable[[str], Settings], tmp_path: Path) -> None:
    """Of Kafka and of PostgreSQL; no secret is shown."""
    wrong = of("shop").model_copy(update={"kafka_password": SecretStr("wrong-password")})
    done = run(wrong, "doctor", "--json", check=False)
    assert "Authentication failed" in done.stdout + done.stderr
    assert "wrong-password" not in done.stdout + done.stderr
    stranger = make_certificates(tmp_path)
    done = run(of("shop").model_copy(update={"kafka_ca_file": stranger.authority}), "doctor", "--json", check=False)
    assert "certificate verify failed" in done.stdout + done.stderr
    refused = {
        "password authentication failed": {"password": "wrong-password"},
        "no encryption": {"sslmode": "disable", "channel_binding": "prefer"},
        "SSL error": {"sslrootcert": str(stranger.authority)},
    }
    for said, part in refused.items():
        done = run(with_dsn(of("shop"), **part), "balance", "ann", check=False)
        assert done.returncode != 0
        assert said in done.stderr
        assert "sslmode and sslrootcert" in done.stderr
        assert "wrong-password" not in done.stderr
