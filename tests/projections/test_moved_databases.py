"""A database that was moved: the doctor finds what it lacks, `init` makes it, and no index depends on a locale."""

import json
from collections.abc import Iterator

import pytest
from psycopg.conninfo import conninfo_to_dict

from creditfold.common.settings import Settings
from creditfold.projections.access.audit import Actor
from creditfold.projections.access.operations import begin_operation, cancel_operation, operation_of
from creditfold.projections.connections import connected
from creditfold.projections.queries.progress import progress
from creditfold.projections.tables.access import access_problems
from creditfold.projections.tables.roles import READER_ROLE
from helpers.databases import role, server, without_the_readers_role
from helpers.support import Cli, execute, query


def found(run: Cli, name: str) -> tuple[str, str, str]:
    """State, sight and remedy of one of the doctor's checks."""
    checks = json.loads(run("doctor", "--json").out)["checks"]
    return next((check["state"], check["seen"], check["remedy"]) for check in checks if check["name"] == name)


def problems(settings: Settings) -> list[str]:
    with connected(settings.dsn) as connection:
        return access_problems(connection)


def test_init_makes_what_a_restored_dump_lacks(cli: Cli, ledger_settings: Settings) -> None:
    """The role, its rights, and a view that couldn't be made without another; then a reader reads again."""
    assert found(cli, "readers")[0] == "ok"
    with without_the_readers_role(ledger_settings):
        execute(ledger_settings, "DROP VIEW ledger.progress")
        state, seen, remedy = found(cli, "readers")
        assert (state, seen) == ("warning", f"there is no role {READER_ROLE}")
        assert "creditfold init" in remedy
        done = cli("init")
        assert (done.code, "Read services" in done.err) == (0, False)
        assert problems(ledger_settings) == []
        assert found(cli, "readers")[0] == "ok"
        with connected(ledger_settings.dsn) as connection:
            connection.execute(f"SET ROLE {READER_ROLE}")  # type: ignore[arg-type]
            assert len(progress(connection)) == 4
    # The old role is back, which has no right to the view that was made meanwhile.
    execute(ledger_settings, f"REVOKE USAGE ON SCHEMA ledger FROM {READER_ROLE}")
    assert problems(ledger_settings) == [
        f"{READER_ROLE} may not use the schema ledger",
        f"{READER_ROLE} may not read progress",
    ]


@pytest.fixture
def stranger(ledger_settings: Settings) -> Iterator[Settings]:
    """A user who may read, and isn't the ledger's owner."""
    with role(ledger_settings, f"IN ROLE {READER_ROLE}") as user:
        yield user


def test_the_doctor_names_the_owner(cli: Cli, stranger: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables belong to whoever restored them, and another user can't fold into them."""
    owner = query(stranger, "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'ledger'")[0][0]
    monkeypatch.setenv("CREDITFOLD_POSTGRES_DSN", stranger.dsn)
    state, seen, remedy = found(cli, "writing")
    assert (state, seen) == ("danger", f"this user has no right to; the ledger belongs to {owner}")
    assert "CREDITFOLD_POSTGRES_DSN" in remedy


def test_no_index_depends_on_a_locale(cli: Cli, ledger_settings: Settings) -> None:
    """An update of the system changes its order; by bytes there is one order for ever."""
    assert cli("rebuild").code == 0
    other = query(
        ledger_settings,
        """SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           CROSS JOIN LATERAL unnest(i.indcollation::oid[]) AS used (number)
           WHERE n.nspname LIKE 'ledger%%' AND used.number NOT IN
               (SELECT 0 UNION SELECT oid FROM pg_collation WHERE collname = 'C')""",
    )
    assert other == []


def test_another_order_of_text_is_named(cli: Cli, ledger_settings: Settings) -> None:
    """The database's own, which other tables may depend on; and of an index that somebody added to the ledger's."""
    assert found(cli, "collation")[:2] == ("ok", "as it was")
    name = str(conninfo_to_dict(ledger_settings.dsn)["dbname"])
    server(ledger_settings, f"UPDATE pg_database SET datcollversion = '0.1' WHERE datname = '{name}'")
    state, seen, remedy = found(cli, "collation")
    assert (state, seen) == ("warning", f"another version than {name} was made with")
    assert f"ALTER DATABASE {name} REFRESH COLLATION VERSION" in remedy
    execute(ledger_settings, "CREATE INDEX by_note ON ledger_0001.journal (note)")
    state, seen, remedy = found(cli, "collation")
    assert (state, seen.split(";")[0]) == ("danger", "changed under ledger_0001.by_note")
    assert "REINDEX INDEX ledger_0001.by_note" in remedy


def test_the_next_start_brings_the_table_of_operations_up_to_date(cli: Cli, ledger_settings: Settings) -> None:
    """One that was made before operations could be cancelled; its rows stay."""
    assert cli("init").code == 0
    by = Actor("tests", "here", "a test needs it")
    with connected(ledger_settings.dsn) as connection:
        number = begin_operation(connection, "rules.diff", {}, by=by).number
    execute(
        ledger_settings,
        """ALTER TABLE ledger_access.operations DROP COLUMN cancel_at, DROP CONSTRAINT operations_state_check,
           ADD CONSTRAINT operations_state_check CHECK (state IN ('starting', 'running', 'done', 'failed'))""",
    )
    assert cli("init").code == 0
    with connected(ledger_settings.dsn) as connection:
        assert cancel_operation(connection, number, by).state == "cancelled"
        assert operation_of(connection, number).why == by.reason
