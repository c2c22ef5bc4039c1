"""What a server, a database, a role or a pooler brings along changes nothing of what is folded, proven or read."""

import asyncio
import json
import os
import pwd
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg import Transaction
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import DivisionByZero
from psycopg_pool import PoolTimeout
from pydantic import SecretStr

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.projections import connections, queries
from creditfold.projections.connections import connected, fold_pool, outbox_pool, pinned, reader_pool, snapshot
from creditfold.projections.failures import PoolerError, PostgresUnavailableError, explained
from creditfold.projections.sessions import FOLD, OUTBOX, PINNED, REBUILD
from helpers.command_line import ARGUMENTS, run, use
from helpers.databases import role, server, with_dsn
from helpers.ledgers import ledger_to_copy
from helpers.stack_under_test import StackUnderTest, free_port
from helpers.support import HANG_S, Cli, Raw, append, query, record

#: What nobody expects of a session. Time-outs are in TIMEOUTS.
ODD = {
    "datestyle": "German",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-5",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "search_path": "public, pg_catalog",
    "default_transaction_isolation": "serializable",
    "row_security": "off",
    **dict.fromkeys(("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan", "enable_nestloop"), "off"),
    "client_min_messages": "debug1",
    "synchronous_commit": "off",
}
TIMEOUTS = (
    "statement_timeout",
    "transaction_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
)
READING = ("balance", "history", "lots", "trace", "why", "rejections", "rules list", "dead-letters list", "generations")


def bring_along(settings: Settings, **values: str) -> None:
    """Have the test's database give these to every session of it."""
    known = {name for (name,) in query(settings, "SELECT lower(name) FROM pg_settings")}
    for name, value in values.items():
        if name in known:
            # A list of schemas is no text with a comma.
            text = value if name == "search_path" else f"'{value}'"
            server(settings, f"ALTER DATABASE {{}} SET {name} = {text}", str(conninfo_to_dict(settings.dsn)["dbname"]))


@pytest.fixture(scope="module")
def folded_once(stack: StackUnderTest) -> Iterator[Settings]:
    """A ledger in which each kind of row is: decisions with and without effect, a letter, bytes, instants."""
    with ledger_to_copy(stack.settings, _fill) as ledger:
        yield ledger


def _fill(ledger: Settings) -> None:
    run(ledger, "init")
    append(ledger, [Raw(b"\x00\\no command", b"ann", 0), record("Grant", "g-0", "ann", 3, reason='we\\lc"öme')])
    for words in (
        ("grant", "ann", "100", "--id", "g-1", "--class", "promo", "--expires-at", "2100-01-01", "--reason", "a\\b'c"),
        ("spend", "ann", "10", "--id", "s-1"),
        ("spend", "ann", "1000", "--id", "s-2"),
        ("hold", "ann", "20", "--id", "h-1", "--until", "2100-01-01"),
        ("capture", "ann", "h-1", "5", "--id", "c-1"),
    ):
        run(ledger, *words, "--no-wait")
    run(ledger, "rebuild")
    run(ledger, "activate", "2")


@pytest.fixture
def cli(bare: Cli, copied: Settings, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command on that ledger."""
    use(copied, monkeypatch)
    return bare


def answers(run: Cli) -> dict[str, Any]:
    """What the reading commands show, as JSON."""
    shown = {}
    for name in READING:
        done = run(*name.split(), *ARGUMENTS[name], "--json")
        assert done.code == 0, f"{name}: {done.err}"
        shown[name] = json.loads(done.out)
    for row in shown["balance"]:
        # The instant of the asking.
        assert row.pop("at")
    return shown


def test_what_a_database_brings_along_changes_nothing(cli: Cli, copied: Settings) -> None:
    """Read, proven and folded again under the oddest settings, and named by the doctor."""
    before = answers(cli)
    bring_along(copied, **ODD)
    assert answers(cli) == before
    for words in (
        ("rebuild",),
        ("verify", "2", "3"),
        ("verify",),
        ("diff",),
        ("trial-balance",),
        ("activate", "3"),
        ("init",),
    ):
        done = cli(*words)
        assert done.code == 0, f"{words}: {done.err}{done.out}"
    done = cli("doctor", "--json")
    seen = next(check["seen"] for check in json.loads(done.out)["checks"] if check["name"] == "session settings")
    assert "DateStyle = German" in seen
    assert "standard_conforming_strings = off (for the database)" in seen
    assert "client_min_messages" not in seen


async def test_every_session_that_writes_pins_what_it_relies_on(prepared: Settings) -> None:
    """Time-outs above all: a chunk or an index may take longer than any that a person would set."""
    bring_along(prepared, **ODD, **dict.fromkeys(TIMEOUTS, "777s"))
    server_version = query(prepared, "SELECT current_setting('server_version_num')::integer")[0][0]
    for settings in (FOLD, REBUILD):
        async with fold_pool(prepared.dsn, "test", 1, settings) as pool, pool.connection() as opened:
            for name, wanted in _known(settings, server_version):
                row = await (await opened.execute("SELECT current_setting(%s)", (name,))).fetchone()
                assert row == (wanted,), name
    with outbox_pool(prepared.dsn, "test", 1) as readers, readers.connection() as reading:
        for name, wanted in _known(OUTBOX, server_version):
            assert reading.execute("SELECT current_setting(%s)", (name,)).fetchone() == (wanted,), name
    with pinned(prepared.dsn) as connection:
        for name, wanted in _known(PINNED, server_version):
            assert connection.execute("SELECT current_setting(%s)", (name,)).fetchone() == (wanted,), name


def _known(settings: Any, server_version: int) -> list[tuple[str, str]]:
    # Keepalives are none on a socket of the same machine.
    return [
        (name, value)
        for name, value in settings.items()
        if not name.startswith("tcp_") and (name != "transaction_timeout" or server_version >= 170_000)
    ]


@pytest.mark.parametrize("whence", ["for the database", "for the role", "for the role in this database"])
def test_a_time_out_is_reported_with_who_set_it(ledger_database: Settings, whence: str) -> None:
    """It holds for readers, and isn't taken for a server that doesn't answer."""
    with role(ledger_database) as user:
        found = conninfo_to_dict(user.dsn)
        name, database = str(found["user"]), str(found["dbname"])
        text, names = {
            "for the database": ("ALTER DATABASE {} SET statement_timeout = '50ms'", (database,)),
            "for the role": ("ALTER ROLE {} SET statement_timeout = '50ms'", (name,)),
            "for the role in this database": (
                "ALTER ROLE {} IN DATABASE {} SET statement_timeout = '50ms'",
                (name, database),
            ),
        }[whence]
        server(ledger_database, text, *names)
        reported: list[str] = []

        def is_reported() -> bool:
            # Whoever asks who set it has as little time, which a slow machine may not give.
            with pytest.raises(PostgresUnavailableError) as failed, connected(user.dsn) as connection:
                connection.execute("SELECT pg_sleep(120)")
            reported[:] = [failed.value.message]
            return f"statement_timeout is 50ms here, set {whence}" in reported[0]

        assert wait_until(is_reported, HANG_S), reported


def test_a_snapshot_says_what_failed_first(ledger_database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out ends what is to roll back as well; who shares the connection gets none in a state between."""
    with connected(ledger_database.dsn) as connection:
        # Refused like anything but a rollback, once something has failed.
        monkeypatch.setattr(Transaction, "_get_rollback_commands", lambda _: [b"SELECT 1"])
        with pytest.raises(DivisionByZero), snapshot(connection):
            connection.execute("SELECT 1/0")
        assert connection.closed


def test_a_cancelled_statement_is_no_time_out(ledger_database: Settings) -> None:
    """An administrator ended it, or a pooler did."""

    def ask() -> None:
        with connected(ledger_database.dsn, "to be cancelled") as connection:
            connection.execute("SELECT pg_sleep(120)")

    with ThreadPoolExecutor(1) as beside:
        asking = beside.submit(ask)
        assert wait_until(lambda: asking.done() or _cancels(ledger_database, "to be cancelled"), HANG_S)
        with pytest.raises(PostgresUnavailableError, match="cancelled before its end"):
            asking.result()


def _cancels(settings: Settings, application: str) -> bool:
    asked = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND state = 'active'"
    return any(query(settings, "SELECT pg_cancel_backend(%s)", row) for row in query(settings, asked, (application,)))


async def test_a_pool_says_what_keeps_it_from_connecting(
    ledger_database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not only that it waited."""
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT_S", 1)
    dsn = with_dsn(ledger_database, dbname="cf_none").dsn

    async def of_a_fold() -> PoolTimeout:
        with pytest.raises(PoolTimeout) as failed:
            async with fold_pool(dsn, "test", 1) as pool, pool.connection():
                pass
        return failed.value

    def of_readers() -> PoolTimeout:
        with pytest.raises(PoolTimeout) as failed, outbox_pool(dsn, "test", 1) as readers:
            readers.getconn()
        return failed.value

    # A slow machine may not let it try within the second.
    while '"cf_none" does not exist' not in str(error := await of_a_fold()):
        assert error.__cause__ is None
    known = explained(error)
    assert known is not None
    assert "createdb" in known.remedy
    while '"cf_none" does not exist' not in str(error := of_readers()):
        assert error.__cause__ is None


# Through a pooler.


@contextmanager
def pooled(settings: Settings, folder: Path, mode: str) -> Iterator[Settings]:
    """The test's database behind a PgBouncer that knows no prepared statements."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no pgbouncer here")
    found, port = conninfo_to_dict(settings.dsn), free_port()
    place = " ".join(
        f"{name}={found[name]}" for name in ("host", "port", "user", "password", "dbname") if name in found
    )
    user = ""
    if os.geteuid() == 0:
        # It refuses to be root, and the embedded server's socket is its user's alone.
        owner = (
            Path(str(found["host"])).stat().st_uid
            if Path(str(found["host"])).is_dir()
            else pwd.getpwnam("nobody").pw_uid
        )
        user = f"user = {pwd.getpwuid(owner).pw_name}"
    folder.chmod(0o755)
    file = folder / "pgbouncer.ini"
    file.write_text(
        f"[databases]\nledger = {place}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 8\n{user}\n",
        "utf-8",
    )
    log = (folder / "pgbouncer.log").open("wb")
    process = subprocess.Popen([program, str(file)], stdout=log, stderr=log)
    through = settings.model_copy(
        update={"postgres_dsn": SecretStr(make_conninfo(host="127.0.0.1", port=port, dbname="ledger", user="postgres"))}
    )
    try:
        assert wait_until(lambda: _answers(through), HANG_S), (folder / "pgbouncer.log").read_text()
        yield through
    finally:
        process.terminate()
        process.wait(HANG_S)


def _answers(settings: Settings) -> bool:
    try:
        return query(settings, "SELECT 1") == [(1,)]
    except PostgresUnavailableError:
        return False


def assert_kept_readers_prepare(settings: Settings, *, is_direct: bool) -> None:
    """Readers of a pool get the same answers over and over; they prepare statements where no pooler stands between."""
    with reader_pool(settings.dsn, "kept", 4) as pool:
        seen: set[str] = set()

        def read() -> None:
            for _ in range(10):
                with pool.connection() as connection, snapshot(connection):
                    rows = [(row.asset, row.available) for row in queries.balances_now(connection, "ann")]
                    seen.add(str((queries.standing(connection), rows)))

        with ThreadPoolExecutor(8) as readers:
            for done in [readers.submit(read) for _ in range(8)]:
                done.result()
        assert len(seen) == 1, seen
        assert "credits" in seen.pop()
        with pool.connection() as connection:
            ((held,),) = connection.execute("SELECT count(*) > 0 FROM pg_prepared_statements").fetchall()
            assert (held, connection.prepare_threshold is not None) == (is_direct, is_direct)


def test_readers_may_come_through_a_pooler(
    cli: Cli,
    copied: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In transaction mode each statement runs in another session, with whatever the last client left there."""
    before = answers(cli)
    bring_along(copied, **ODD)
    with pooled(copied, tmp_path, "transaction") as through:
        found: Counter[str] = Counter()

        def read() -> None:
            with connected(through.dsn) as connection:
                for _ in range(20):
                    queries.wait_for(connection, Position(0, 0), HANG_S)
                    found[str((queries.balances(connection, "ann"), queries.history(connection, "ann", 5)))] += 1

        with ThreadPoolExecutor(16) as readers:
            for done in [readers.submit(read) for _ in range(16)]:
                done.result()
        assert list(found.values()) == [320]
        assert_kept_readers_prepare(through, is_direct=False)
        assert_kept_readers_prepare(copied, is_direct=True)
        with connected(through.dsn) as connection, socket.socket(fileno=os.dup(connection.fileno())) as own:
            # Where the kernel gives up a peer that confirms nothing.
            assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == connections.UNCONFIRMED_MS
        use(through, monkeypatch)
        assert answers(cli) == before
        with pytest.raises(PoolerError), pinned(through.dsn):
            pass
        for words in (("init",), ("rebuild",), ("verify",), ("drop", "1")):
            refused = cli(*words)
            assert refused.code == 1, words
            assert "pooler" in refused.err
            assert "CREDITFOLD_POSTGRES_DSN" in refused.err


def test_all_else_may_come_through_a_pooler_in_session_mode(
    cli: Cli,
    copied: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It refuses start-up options, and reports clients another process than the one that works for them."""
    bring_along(copied, **ODD)
    with pooled(copied, tmp_path, "session") as through:
        use(through, monkeypatch)
        for words in (("init",), ("rebuild",), ("verify",), ("activate", "3"), ("drop", "2")):
            done = cli(*words)
            assert done.code == 0, f"{words}: {done.err}"


@pytest.mark.parametrize("opened", [fold_pool, outbox_pool, reader_pool])
async def test_no_pool_pauses_the_longer_the_longer_a_server_was_away(opened: Any, tmp_path: Path) -> None:
    """It gives up soon, so that the next one who asks has it connect at once."""
    pool = opened(f"host={tmp_path} dbname=none", "test", 1)
    begun = pool.open()
    if begun is not None:
        await begun
    try:
        # The attempt of the beginning; another one is made for who asks.
        assert await asyncio.to_thread(wait_until, lambda: pool.get_stats()["pool_size"] == 0, HANG_S)
    finally:
        ended = pool.close()
        if ended is not None:
            await ended
