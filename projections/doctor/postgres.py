"""Looks at PostgreSQL for what loses data or stops the fold. Reads its settings and the projection's source.

Writes nothing, and refuses to know Kafka: whether the source is still the topic is judged there.
"""

import time
from collections.abc import Mapping, Sequence
from typing import LiteralString, NamedTuple

from psycopg import Connection, sql
from psycopg.errors import InsufficientPrivilege, UndefinedTable
from psycopg.rows import TupleRow

from creditfold.common.checks import Check, State
from creditfold.common.position import Log
from creditfold.log.bookmark import Bookmark
from creditfold.projections.generations.removal import leftovers
from creditfold.projections.queries.health import RecentLetters, data_folder, recent_dead_letters
from creditfold.projections.queries.progress import bookmarks
from creditfold.projections.queries.search import searchable_metadata
from creditfold.projections.sessions import ServerSetting, unusual
from creditfold.projections.tables.access import access_problems
from creditfold.projections.tables.roles import READER_ROLE
from creditfold.projections.tables.scripts import schema_of
from creditfold.projections.tables.source import live

CLOCK_WARNING_S = 2.0

SUBJECT = "PostgreSQL"

# What each setting must be, how bad another value is, and why.
_WANTED: tuple[tuple[str, tuple[str, ...], State, str], ...] = (
    ("fsync", ("on",), "danger", "A crash of the machine leaves tables that are silently wrong."),
    ("full_page_writes", ("on",), "danger", "A crash of the machine leaves pages that are half old and half new."),
    (
        "synchronous_commit",
        ("on", "remote_apply", "remote_write", "local"),
        "warning",
        "A crash takes back commits of the last moments. They are folded again, but readers may have seen them.",
    ),
)


class Collations(NamedTuple):
    """Where text is ordered otherwise than when it was written: the database, if it is, and indexes of the ledger."""

    database: str | None
    indexes: Sequence[str]


class DatabaseFacts(NamedTuple):
    """What PostgreSQL reports. `source` is None where there is no ledger, or where this user may not read it.

    `owner` is the role that the ledger belongs to, `lacking` what readers lack, `session_settings` those that
    differ from a fresh server's.
    `data_folder` is where it keeps its data, if on this machine; `dead_letters` counts the recent ones by reason,
    `searchable` are the keys of metadata that accounts can be searched by.
    """

    settings: Mapping[str, str]
    encoding: str
    clock_ahead_s: float
    read_only: bool
    may_write: bool
    prepared: bool
    source: Log | None
    bookmarks: Mapping[int, Bookmark]
    leftovers: Sequence[int] = ()
    owner: str | None = None
    lacking: Sequence[str] = ()
    session_settings: Sequence[ServerSetting] = ()
    collations: Collations = Collations(None, ())
    data_folder: str | None = None
    dead_letters: Sequence[RecentLetters] = ()
    searchable: Sequence[str] = ()

    @property
    def next_offsets(self) -> Mapping[int, int]:
        """By partition the offset before which everything is folded."""
        return {partition: bookmark.next_offset for partition, bookmark in self.bookmarks.items()}


def database_facts(connection: Connection[TupleRow]) -> DatabaseFacts:
    """Ask PostgreSQL, as the user of this connection."""
    schema = _live_schema(connection)
    prepared = schema is not None
    source, stopped = _folded(connection, schema) if schema is not None else (None, {})
    return DatabaseFacts(
        {name: str(_one(connection, "SELECT current_setting(%s)", (name,))) for name, *_ in _WANTED},
        str(_one(connection, "SELECT current_setting('server_encoding')")),
        _clock_ahead_s(connection),
        _one(connection, "SELECT current_setting('transaction_read_only')") == "on",
        _may_write(connection, schema),
        prepared,
        source,
        stopped,
        leftovers(connection) if prepared else (),
        _owner(connection),
        access_problems(connection) if prepared else (),
        unusual(connection),
        Collations(*connection.execute(_DRIFTED).fetchall()[0]),
        data_folder(connection),
        _recent_dead_letters(connection, schema),
        _searchable(connection, schema),
    )


def _owner(connection: Connection[TupleRow]) -> str | None:
    name = _one(connection, "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'ledger'")
    return None if name is None else str(name)


# An index's own collation, or the database's, which has the number 100. Of some (C, POSIX) there are no versions.
_DRIFTED = """
    WITH database AS (
        SELECT datname::text AS name,
               datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid) AS drifted
        FROM pg_database WHERE datname = current_database() AND datcollversion IS NOT NULL
    ), drifted AS (
        SELECT oid FROM pg_collation
        WHERE collversion IS NOT NULL AND collversion IS DISTINCT FROM pg_collation_actual_version(oid)
        UNION ALL SELECT 100 FROM database WHERE drifted
    )
    SELECT (SELECT name FROM database WHERE drifted), array(
        SELECT DISTINCT n.nspname || '.' || c.relname FROM pg_index i
        JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL unnest(i.indcollation::oid[]) AS used (number)
        WHERE n.nspname ~ '^ledger(_[0-9]+)?$' AND used.number IN (SELECT oid FROM drifted) ORDER BY 1)
"""


def _recent_dead_letters(connection: Connection[TupleRow], schema: str | None) -> Sequence[RecentLetters]:
    try:
        return recent_dead_letters(connection) if schema is not None else ()
    except (InsufficientPrivilege, UndefinedTable):
        # Views that readers lack are reported by a check of their own.
        return ()


def _searchable(connection: Connection[TupleRow], schema: str | None) -> Sequence[str]:
    try:
        return searchable_metadata(connection) if schema is not None else ()
    except (InsufficientPrivilege, UndefinedTable):
        return ()


def _one(connection: Connection[TupleRow], query: LiteralString, values: tuple[str, ...] = ()) -> object:
    row = connection.execute(query, values).fetchone()
    return row[0] if row is not None else None


def _live_schema(connection: Connection[TupleRow]) -> str | None:
    # Readable by whoever may read the views; that a user may not is reported elsewhere.
    if _one(connection, "SELECT to_regclass('ledger.generations') IS NOT NULL") is not True:
        return None
    found = live(connection)
    return schema_of(found[0]) if found is not None else None


def _folded(connection: Connection[TupleRow], schema: str) -> tuple[Log | None, Mapping[int, Bookmark]]:
    query = sql.SQL("SELECT topic, topic_id, partitions FROM {}").format(sql.Identifier(schema, "source"))
    try:
        row = connection.execute(query).fetchone()
        stopped = bookmarks(connection)
    except (InsufficientPrivilege, UndefinedTable):
        return None, {}
    return (Log(*row) if row is not None else None), stopped


def _clock_ahead_s(connection: Connection[TupleRow]) -> float:
    before = time.time()
    theirs = _one(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    # It was read between the two, however long that took: only what lies outside says something of the clocks.
    return outside(float(str(theirs)), before, time.time())


def outside(instant: float, earliest: float, latest: float) -> float:
    """How far an instant lies outside of two others: after the later above 0, before the earlier below 0, else 0."""
    return max(instant - latest, 0.0) + min(instant - earliest, 0.0)


def _may_write(connection: Connection[TupleRow], schema: str | None) -> bool:
    if schema is None:
        return _one(connection, "SELECT has_database_privilege(current_database(), 'CREATE')") is True
    return (
        _one(
            connection,
            """SELECT has_schema_privilege(relnamespace, 'USAGE') AND bool_and(
                   has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
                   AND has_table_privilege(oid, 'UPDATE'))
               FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('r', 'p')
               GROUP BY relnamespace""",
            (schema,),
        )
        is True
    )


def examine_postgres(facts: DatabaseFacts) -> list[Check]:
    """Judge everything that PostgreSQL reported."""
    return [
        *judge_settings(facts.settings),
        judge_sessions(facts.session_settings),
        judge_encoding(facts.encoding),
        judge_collations(facts.collations),
        judge_clock(facts.clock_ahead_s),
        judge_writing(facts),
        judge_readers(facts),
        judge_ledger(facts),
        judge_leftovers(facts.leftovers),
    ]


def judge_sessions(settings: Sequence[ServerSetting]) -> Check:
    """The settings that the server, a database or a role gives each session are the usual ones."""
    return Check(
        SUBJECT,
        "session settings",
        "warning" if settings else "ok",
        ", ".join(f"{name} = {value} ({where})" for name, value, where in settings) or "none out of the ordinary",
        "What writes or proves overrides them. Time-outs hold for reading commands and read services, and all of them "
        "for your own clients.",
        "If that isn't meant: ALTER DATABASE ... RESET ...; or ALTER ROLE ... RESET ...; \\drds in psql lists them.",
    )


def judge_collations(collations: Collations) -> Check:
    """Indexes find what is in them only while text is ordered as it was when they were made."""
    seen = f"changed under {', '.join(collations.indexes)}" if collations.indexes else ""
    if collations.database is not None:
        seen = "; ".join(part for part in (seen, f"another version than {collations.database} was made with") if part)
    reindex = "".join(f"REINDEX INDEX {name}; " for name in collations.indexes)
    return Check(
        SUBJECT,
        "collation",
        "danger" if collations.indexes else "warning" if collations.database is not None else "ok",
        seen or "as it was",
        "An index that was made in another order doesn't find its rows. The ledger's own are ordered by bytes, which "
        "no update of the system changes; other tables' may not be.",
        reindex.strip() or "There is nothing to do."
        if collations.database is None
        else f"{reindex}REINDEX DATABASE {collations.database}; and then ALTER DATABASE {collations.database} REFRESH "
        "COLLATION VERSION;",
    )


def judge_readers(facts: DatabaseFacts) -> Check:
    """Read services have a role, and it may read the views."""
    return Check(
        SUBJECT,
        "readers",
        "warning" if facts.lacking else "ok",
        "; ".join(facts.lacking[:3]) + (f"; and {len(facts.lacking) - 3} more" if len(facts.lacking) > 3 else "")
        if facts.lacking
        else f"{READER_ROLE} may read",
        "Read services can't read, and no generation can be activated. A dump that is restored elsewhere comes without "
        "roles.",
        "creditfold init makes what is missing, as the ledger's owner; where that may not create roles, have an "
        f"administrator run first: CREATE ROLE {READER_ROLE} NOLOGIN;",
    )


def judge_settings(settings: Mapping[str, str]) -> list[Check]:
    """What is committed stays committed."""
    return [
        Check(
            SUBJECT,
            name,
            "ok" if settings[name] in wanted else bad,
            settings[name],
            why,
            f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf(); and look whether the user or the database has a "
            "value of its own: \\drds in psql",
        )
        for name, wanted, bad, why in _WANTED
    ]


def judge_encoding(encoding: str) -> Check:
    """Account names hold any character."""
    return Check(
        SUBJECT,
        "server encoding",
        "ok" if encoding == "UTF8" else "danger",
        encoding,
        "Another encoding can't hold every account's name.",
        "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0; and name it in CREDITFOLD_POSTGRES_DSN.",
    )


def judge_clock(ahead_s: float) -> Check:
    """PostgreSQL's time is shown beside the log's."""
    return Check(
        SUBJECT,
        "clock",
        "ok" if abs(ahead_s) <= CLOCK_WARNING_S else "warning",
        f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's",
        "Times such as `folded at` mislead. Balances don't depend on it.",
        "Set both clocks by NTP; `chronyc tracking` shows how far off one is.",
    )


def judge_writing(facts: DatabaseFacts) -> Check:
    """The workers connect as this user."""
    belongs = f"; the ledger belongs to {facts.owner}" if facts.owner is not None else ""
    refused = "the server or the session is read-only" if facts.read_only else f"this user has no right to{belongs}"
    fine = facts.may_write and not facts.read_only
    return Check(
        SUBJECT,
        "writing",
        "ok" if fine else "danger",
        "this user may write" if fine else refused,
        "Workers with these settings can't fold: commands pile up in the log.",
        "Name the primary in CREDITFOLD_POSTGRES_DSN, and the user that the ledger belongs to. Where "
        "default_transaction_read_only was set on a primary: ALTER DATABASE (or ROLE) ... RESET it.",
    )


def judge_ledger(facts: DatabaseFacts) -> Check:
    """There is a projection, and it says what it was folded from."""
    state: State = "ok" if facts.source is not None else "unknown" if facts.prepared else "warning"
    return Check(
        SUBJECT,
        "ledger",
        state,
        f"folded from {facts.source.topic}"
        if facts.source is not None
        else "this user can't read what it was folded from"
        if facts.prepared
        else "the database holds none",
        "The log is compared with what was folded from it.",
        "Name the user that made the tables in CREDITFOLD_POSTGRES_DSN." if facts.prepared else "creditfold init",
    )


def judge_searchable(kept: Sequence[str], declared: Sequence[str]) -> Check:
    """The live generation keeps the metadata that accounts are to be searched by."""
    missing = [key for key in declared if key not in kept]
    return Check(
        SUBJECT,
        "searchable metadata",
        "warning" if missing else "ok",
        f"{', '.join(missing)} isn't kept" if missing else ", ".join(kept) or "none",
        "A generation keeps the keys that were declared when it was made; a search by another is refused.",
        "creditfold rebuild, and then creditfold activate; or take it out of CREDITFOLD_SEARCHABLE_METADATA.",
    )


def judge_leftovers(numbers: Sequence[int]) -> Check:
    """A generation that was made to compare with is dropped again, unless its process was killed."""
    named = ", ".join(map(str, numbers))
    return Check(
        SUBJECT,
        "left-over generations",
        "warning" if numbers else "ok",
        f"generation {named}" if numbers else "none",
        "It takes the room of a whole ledger, and nobody uses it.",
        "The next `creditfold verify` or `diff` drops it; or: creditfold drop NUMBER",
    )
