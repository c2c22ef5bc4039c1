"""Clients without Unix sockets reach the embedded PostgreSQL by a port, with a password; connection strings."""

import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from creditfold.common.processes import run
from creditfold.common.settings import Settings
from creditfold.projections.tables.roles import READER_ROLE
from creditfold.stack.ports import PortBusyError, check_ports
from creditfold.stack.postgres import EmbeddedPostgres
from creditfold.stack.postgres_access import (
    OWNER,
    READER,
    Access,
    AccessError,
    Passwords,
    jdbc_url,
    passwords_path,
    url,
)
from creditfold.stack.postgres_server import PostgresError
from helpers.command_line import use
from helpers.fork_server import run as ran
from helpers.stack_under_test import embedded_settings, free_port, server_folder
from helpers.support import HANG_S, Cli, environment

TCP = {
    "host": "127.0.0.1",
    "port": "5001",
    "user": "creditfold_reader",
    "dbname": "creditfold",
    "passfile": "/d/pgpass",
}


@pytest.fixture
def postgres() -> Iterator[Settings]:
    """Settings of an embedded PostgreSQL of a test's own, with a port. No Kafka."""
    folder = server_folder()
    made = embedded_settings(folder).model_copy(update={"postgres_tcp_port": free_port()})
    made.data_dir.mkdir(parents=True, exist_ok=True)
    yield made
    EmbeddedPostgres(made).stop()
    shutil.rmtree(folder)


def start(settings: Settings) -> EmbeddedPostgres:
    server = EmbeddedPostgres(settings)
    server.start()
    return server


def who(dsn: str) -> str:
    """The user as whom a connection string connects."""
    with psycopg.connect(dsn, connect_timeout=int(HANG_S)) as connection:
        ((name,),) = connection.execute("SELECT current_user").fetchall()
    return str(name)


@pytest.mark.stack
def test_the_port_is_open_with_a_password_and_on_loopback_only(
    postgres: Settings, bare: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reader and owner by their passwords; nobody without; the socket as ever, with or without the setting."""
    use(postgres, monkeypatch)
    server = start(postgres)
    port = postgres.postgres_tcp_port
    reported, secret = bare("dsn").out.strip(), bare("dsn", "--password").out.strip()
    assert f"@127.0.0.1:{port}/" in reported
    passwords = Passwords(passwords_path(postgres))
    mine, owners = passwords.of(READER), passwords.of(OWNER)
    assert mine is not None
    assert owners not in (None, mine)
    assert mine not in reported
    assert mine in secret
    assert [who(reported), who(secret)] == [READER, READER]
    assert who(bare("dsn", "--owner").out.strip()) == OWNER
    assert bare("dsn", "--jdbc", "--password").out.strip() == (
        f"jdbc:postgresql://127.0.0.1:{port}/creditfold?user={READER}&password={mine}"
    )
    where = f"host=127.0.0.1 port={port} dbname=creditfold passfile=/none"
    for wrong in (f"user={READER}", f"user={READER} password={owners}", f"user={OWNER} password={mine}"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"{where} {wrong}", connect_timeout=int(HANG_S))
    with psycopg.connect(postgres.dsn) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        hashed = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = ANY(%s)", [[OWNER, READER]])
        assert [row[0][:14] for row in hashed.fetchall()] == ["SCRAM-SHA-256$"] * 2
    # Readable by its owner alone, and nowhere else.
    assert stat.S_IMODE(passwords.path.stat().st_mode) == 0o600
    assert not [text for text in (mine, owners) if text and text in server.log_path.read_text("utf-8", "replace")]
    listed = run(["ps", "axww", "-o", "args"], bound_s=HANG_S).said
    assert not [text for text in (mine, owners) if text and text in listed]
    # A shell that has forgotten the port reaches the server as before.
    forgetful = postgres.model_copy(update={"postgres_tcp_port": None})
    assert who(forgetful.dsn) == OWNER
    assert not EmbeddedPostgres(forgetful).start()
    monkeypatch.delenv("CREDITFOLD_POSTGRES_TCP_PORT")
    assert bare("dsn").out.strip() == reported
    # psql is given the same, and its password not among its arguments.
    asking = ["psql", "-At", "-c", "SELECT current_user, inet_server_port()"]
    done = ran(["-m", "creditfold.cli.main", *asking], env=environment(postgres), timeout=HANG_S)
    assert (done.returncode, done.stdout.strip()) == (0, f"{READER}|{port}"), done.stderr
    # Started again, it has the same passwords; the reader's may be given.
    server.stop()
    given = postgres.model_copy(update={"postgres_reader_password": SecretStr("a:b\\c ü'\"")})
    start(given)
    again = Passwords(passwords_path(given))
    assert (again.of(OWNER), again.of(READER)) == (owners, "a:b\\c ü'\"")
    assert [who(reported), who(bare("dsn", "--password").out.strip())] == [READER, READER]


@pytest.mark.stack
def test_a_port_that_is_busy_or_comes_too_late(postgres: Settings, bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with the setting; without one JDBC and a server that doesn't run are answered in words."""
    closed = postgres.model_copy(update={"postgres_tcp_port": None})
    use(closed, monkeypatch)
    monkeypatch.delenv("CREDITFOLD_POSTGRES_TCP_PORT", raising=False)
    # A folder without a stack is named by both; in one whose stack is stopped the string will be right.
    for command in (["psql"], ["dsn"], ["dsn", "--jdbc"]):
        failed = bare(*command)
        assert (failed.code, f"no stack in the data folder {closed.data_dir}" in failed.err) == (2, True)
        assert "try: Go to the folder where `creditfold up` was run" in failed.err
    (closed.data_dir / "settings.toml").touch()
    failed = bare("psql")
    assert f"The PostgreSQL of the data folder {closed.data_dir} doesn't run.\ntry: Start it with" in failed.err
    assert (failed.code, bare("dsn").code) == (2, 0)
    failed = bare("dsn", "--jdbc")
    assert (failed.code, "CREDITFOLD_POSTGRES_TCP_PORT" in failed.err) == (2, True)
    with socket.create_server(("127.0.0.1", postgres.postgres_tcp_port or 0)):
        with pytest.raises(PortBusyError, match="PostgreSQL needs it"):
            start(postgres)
        # Lost since it was looked at.
        asked: list[int] = []
        found = check_ports
        monkeypatch.setattr(
            "creditfold.stack.postgres.check_ports", lambda needs: asked.append(0) or (asked[1:] and found(needs))
        )
        with pytest.raises(PortBusyError, match="PostgreSQL needs it"):
            start(postgres)
    start(closed)
    assert who(bare("dsn").out.strip()) == READER
    with pytest.raises(PostgresError, match=r"isn't open.*creditfold down"):
        EmbeddedPostgres(postgres).start()


@pytest.mark.parametrize(
    ("parameters", "password", "shown", "with_password", "jdbc"),
    [
        (
            TCP,
            "p@ss/1",
            "postgresql://creditfold_reader@127.0.0.1:5001/creditfold?passfile=%2Fd%2Fpgpass",
            "postgresql://creditfold_reader:p%40ss%2F1@127.0.0.1:5001/creditfold",
            "jdbc:postgresql://127.0.0.1:5001/creditfold?user=creditfold_reader&password=p%40ss%2F1",
        ),
        (
            {"host": "::1", "user": "a b", "dbname": "d", "sslmode": "require", "target_session_attrs": "any"},
            None,
            "postgresql://a%20b@[::1]/d?sslmode=require&target_session_attrs=any",
            "postgresql://a%20b@[::1]/d?sslmode=require&target_session_attrs=any",
            "jdbc:postgresql://[::1]:5432/d?user=a%20b&sslmode=require",
        ),
        (
            {"host": "db1,db2", "port": "5432,5433", "user": "me", "dbname": "d"},
            "x",
            "postgresql://me@/d?host=db1%2Cdb2&port=5432%2C5433",
            "postgresql://me:x@/d?host=db1%2Cdb2&port=5432%2C5433",
            "jdbc:postgresql://db1:5432,db2:5433/d?user=me&password=x",
        ),
        ({"host": "/run/pg", "user": "me", "dbname": "d"}, None, "postgresql://me@/d?host=%2Frun%2Fpg", None, None),
        ({"service": "ledger"}, None, "postgresql:///?service=ledger", None, None),
    ],
)
def test_connection_strings(
    parameters: dict[str, str], password: str | None, shown: str, with_password: str | None, jdbc: str | None
) -> None:
    """libpq reads what it wrote; what JDBC can't do is refused."""
    found = Access(parameters, password)
    assert url(found, with_password=False) == shown
    assert url(found, with_password=True) == (with_password or shown)
    assert {key: str(value) for key, value in conninfo_to_dict(shown).items()} == parameters
    if jdbc is None:
        with pytest.raises(AccessError, match="JDBC"):
            jdbc_url(found, with_password=True)
    else:
        made, left_out = jdbc_url(found, with_password=True)
        assert made == jdbc
        assert left_out == [name for name in ("target_session_attrs",) if name in parameters]


def test_your_own_server_is_reported_as_the_setting_says(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its password only on demand."""
    monkeypatch.setenv("CREDITFOLD_POSTGRES_DSN", "postgresql://me:secret@db.example:6000/ledger?sslmode=require")
    assert bare("dsn").out == "postgresql://me@db.example:6000/ledger?sslmode=require\n"
    assert bare("dsn", "--password").out == "postgresql://me:secret@db.example:6000/ledger?sslmode=require\n"
    assert bare("dsn", "--jdbc").out == "jdbc:postgresql://db.example:6000/ledger?user=me&sslmode=require\n"
    monkeypatch.setenv("CREDITFOLD_POSTGRES_DSN", "postgresql://me:secret@[bad")
    failed = bare("dsn")
    assert (failed.code, "can't be read" in failed.err, "secret" in failed.err) == (2, True, False)


def test_the_readers_role_is_the_projection_s() -> None:
    """The rooms can't share it: the one makes it, the other lets it in."""
    assert READER == READER_ROLE


def test_psql_is_looked_for_in_all_places(bare: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is none, the error says where one comes from."""
    monkeypatch.setenv("CREDITFOLD_POSTGRES_DSN", "postgresql://me@db.example/ledger")
    monkeypatch.setattr("creditfold.stack.postgres_server._folders", lambda: iter(()))
    monkeypatch.setenv("PATH", str(tmp_path))
    failed = bare("psql")
    assert (failed.code, "no psql" in failed.err, "postgresql-client" in failed.err) == (1, True, True)
    program = tmp_path / "psql"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execve", lambda path, arguments, _: called.append((path, arguments)))
    assert bare("psql", "-c", "SELECT 1", "--csv").code == 0
    ((path, arguments),) = called
    assert path == str(program)
    assert arguments[1] == "--dbname"
    assert re.fullmatch(r"(?=.*user=me)(?=.*host=db\.example).*dbname=ledger.*", arguments[2])
    assert arguments[3:] == ["-c", "SELECT 1", "--csv"]
