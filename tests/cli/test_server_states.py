"""Every command in every state of PostgreSQL that people meet: answered in words, and by none with a traceback."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import typer
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from creditfold.cli.main import command_line
from creditfold.common.settings import Settings
from creditfold.log import admin
from creditfold.projections import connections
from helpers.command_line import ARGUMENTS, use
from helpers.databases import role, server, with_dsn, without_the_readers_role
from helpers.support import Cli, Raw, append, query

#: Why commands fail here in any state: nobody folds, and nobody waits for long.
OTHER_REASONS = (
    "Kafka didn't answer within",
    "The log didn't confirm",
    "The fold has not reached",
    "Unpublished: partition",
    "Not safe:",
    "is the one that was archived",
    "is no archive",
    "runs on this machine",
)

#: What isn't run here, and why.
ELSEWHERE = {
    "demo": "does what `up`, `import` and `verify` do, with a history that it fetches",
    "down": "stops what the other tests use; it asks no server anything",
    "delivery": "waits for PostgreSQL until it is stopped: tests/delivery",
    "psql": "becomes psql, which says itself what is the matter: test_access.py",
    "serve": "serves while servers are away: tests/api",
    "worker": "waits for servers until it is stopped: test_outages.py",
}


def names_of(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The names of a command's subcommands, as they are typed."""
    if not hasattr(command, "commands"):
        yield " ".join(path)
        return
    for name, subcommand in command.commands.items():
        yield from names_of(subcommand, (*path, name))


def test_every_command_has_a_row() -> None:
    """A new command belongs into ARGUMENTS, or into ELSEWHERE with the reason."""
    assert set(names_of(typer.main.get_command(command_line()))) == ARGUMENTS.keys() | ELSEWHERE.keys()


@contextmanager
def database_set(settings: Settings, name: str, value: str) -> Iterator[Settings]:
    """The test's database, with a setting that it brings along to every session."""
    database = conninfo_to_dict(settings.dsn)["dbname"]
    server(settings, f"ALTER DATABASE {{}} SET {name} = '{value}'", str(database))
    try:
        yield settings
    finally:
        server(settings, f"ALTER DATABASE {{}} RESET {name}", str(database))


@contextmanager
def asking_for_a_password(settings: Settings) -> Iterator[Settings]:
    """A user whom the server lets in by password only, with a wrong one."""
    with role(settings) as user:
        path = Path(str(query(settings, "SHOW hba_file")[0][0]))
        before = path.read_text("utf-8") if path.exists() else None
        name = conninfo_to_dict(user.dsn)["user"]
        if before is not None:
            path.write_text(f"local all {name} scram-sha-256\n{before}", "utf-8")
            server(settings, "SELECT pg_reload_conf()")
        try:
            yield with_dsn(user, password="wrong")  # noqa: S106 - It is.
        finally:
            if before is not None:
                path.write_text(before, "utf-8")
                server(settings, "SELECT pg_reload_conf()")


#: Each state with what is said of it, wherever a command fails for it.
STATES: dict[str, tuple[Callable[[Settings], AbstractContextManager[Settings]], str]] = {
    "read-only": (lambda found: database_set(found, "default_transaction_read_only", "on"), "is read-only"),
    "missing database": (lambda found: nullcontext(with_dsn(found, dbname="cf_none")), '"cf_none" does not exist'),
    "missing role": (lambda found: nullcontext(with_dsn(found, user="cf_nobody")), '"cf_nobody"'),
    # The first that prepares the ledger makes it, and all else does without.
    "missing readers' role": (without_the_readers_role, ""),
    "wrong password": (asking_for_a_password, "password"),
    "no right": (role, "permission denied"),
    "statement time-out": (lambda found: database_set(found, "statement_timeout", "1ms"), "statement"),
    "too many connections": (lambda found: role(found, "CONNECTION LIMIT 0"), "too many connections"),
}

#: Those in which no command changes the database, so that one ledger will do for all of them.
UNCHANGING = ("read-only", "missing database", "missing role", "wrong password", "no right", "too many connections")


@pytest.fixture
def ledger(cli: Cli, ledger_settings: Settings) -> Settings:
    """A ledger with a letter and two generations beside the live one: what each command needs to begin its work."""
    append(ledger_settings, [Raw(b"no command", b"ann", 0)])
    cli("grant", "ann", "5", "--id", "g-1", "--no-wait")
    for arguments in (("rebuild",), ("activate", "2"), ("rebuild",)):
        done = cli(*arguments)
        assert done.code == 0, done.err
    return ledger_settings


def refuse_unexplained(cli: Cli, folder: Path, state: str, words: str, besides: tuple[str, ...] = ()) -> None:
    """Run every command in a state of the servers; fail if one doesn't explain itself, or if none met the state.

    Args:
        cli: what runs a command.
        folder: for the files that commands read and write.
        state: its name.
        words: what each error must say, unless it has another reason.
        besides: commands that aren't run.
    """
    places = {"folder": folder / "archive", "file": folder / "commands.jsonl", "steps": folder / "steps.jsonl"}
    spend = '{"type": "spend", "command_id": "x", "account": "ann", "asset": "credits", "amount": 1}\n'
    places["file"].write_text(spend)
    places["steps"].write_text('{"type": "grant", "command_id": "b-1", "asset": "credits", "amount": 1}\n')
    wrong: list[str] = []
    is_met = False
    for name in (name for name in ARGUMENTS if name not in besides):
        try:
            done = cli(*name.split(), *(text.format(**places) for text in ARGUMENTS[name]))
        except Exception as error:
            wrong.append(f"{name}: traceback: {error!r}")
            continue
        is_met |= words in done.out or words in done.err
        if "doesn't answer" in done.out + done.err or (done.code and "\ntry: " not in done.err):
            wrong.append(f"{name}: {done.code}: {done.err or done.out}")
        elif done.code == 1 and not any(text in done.err for text in (words, *OTHER_REASONS)):
            wrong.append(f"{name}: not the reason: {done.err}")
    assert not wrong, "\n".join([state, *wrong])
    assert is_met, state


@pytest.mark.usefixtures("one_producer")
@pytest.mark.parametrize(
    "states", [UNCHANGING, *((state,) for state in STATES if state not in UNCHANGING)], ids=", ".join
)
def test_each_command_says_what_is_the_matter(
    cli: Cli, ledger: Settings, states: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No exception, a remedy for each error, and nobody is sent to start a server that answers."""
    for state in states:
        opened, words = STATES[state]
        with opened(ledger) as settings:
            use(settings, monkeypatch)
            refuse_unexplained(cli, tmp_path, state, words)


def test_each_command_names_a_topic_that_is_missing(
    cli: Cli, ledger: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for those that make it."""
    use(ledger.model_copy(update={"commands_topic": "cf.none"}), monkeypatch)
    refuse_unexplained(cli, tmp_path, "missing topic", "cf.none", besides=("up", "init"))


def test_a_server_that_accepts_and_never_answers(
    cli: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose disk hangs: nobody waits for it for ever."""
    monkeypatch.setitem(connections.SESSION, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(with_dsn(ledger_settings, host="127.0.0.1", port=str(silent.getsockname()[1])), monkeypatch)
        for words in (("balance", "ann"), ("init",), ("dead-letters", "discard", "0:0", "--why", "test")):
            done = cli(*words)
            assert (done.code, "PostgreSQL doesn't answer" in done.err) == (1, True), done.err
        assert "PostgreSQL doesn't answer" in cli("doctor").out


@pytest.mark.parametrize(
    ("protocol", "said"),
    [("SASL_PLAINTEXT", "doesn't let this user in"), ("SSL", "speaks otherwise than the settings")],
)
def test_a_kafka_that_is_spoken_to_wrongly(
    cli: Cli, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch, protocol: str, said: str
) -> None:
    """It runs, so nobody is sent to start it."""
    monkeypatch.setattr(admin, "CONNECT_S", 2.0)
    changed = {"kafka_security_protocol": protocol, "kafka_username": "ann", "kafka_password": SecretStr("x")}
    use(ledger_settings.model_copy(update=changed), monkeypatch)
    tries = [cli("init")]
    # A slow machine may not let it hear of the reason in time.
    while said not in tries[-1].err and len(tries) < 10:
        tries.append(cli("init"))
    done = tries[-1]
    assert done.code == 1
    assert said in done.err
    assert "CREDITFOLD_KAFKA_SECURITY_PROTOCOL" in done.err
    assert "creditfold up" not in done.err
