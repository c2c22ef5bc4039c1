"""Looks at PostgreSQL for what loses data or stops the fold. Reads its settings and the projection's source.

Writes nothing, and refuses to know Kafka: whether the source is still the topic is judged there.
"""

import time
from collections.abc import Mapping, Sequence
from typing import LiteralString, NamedTuple

from psycopg import Connection, sql
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import TupleRow

from creditfold.projections.generations import leftovers
from creditfold.projections.queries import bookmarks
from creditfold.projections.setup import live, schema_of
from creditfold.schemas.bookmark import Bookmark
from creditfold.schemas.checks import Check, State
from creditfold.schemas.position import Log

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


class DatabaseFacts(NamedTuple):
    """What PostgreSQL tells. `source` is None where there is no ledger, or where this user may not read it."""

    settings: Mapping[str, str]
    encoding: str
    clock_ahead_s: float
    read_only: bool
    may_write: bool
    prepared: bool
    source: Log | None
    bookmarks: Mapping[int, Bookmark]
    leftovers: Sequence[int] = ()

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
    )


def _one(connection: Connection[TupleRow], query: LiteralString, values: tuple[str, ...] = ()) -> object:
    row = connection.execute(query, values).fetchone()
    return row[0] if row is not None else None


def _live_schema(connection: Connection[TupleRow]) -> str | None:
    # Readable by whoever may read the views; who may not even do that is told so elsewhere.
    if _one(connection, "SELECT to_regclass('ledger.generations') IS NOT NULL") is not True:
        return None
    found = live(connection)
    return schema_of(found[0]) if found is not None else None


def _folded(connection: Connection[TupleRow], schema: str) -> tuple[Log | None, Mapping[int, Bookmark]]:
    query = sql.SQL("SELECT topic, topic_id, partitions FROM {}").format(sql.Identifier(schema, "source"))
    try:
        row = connection.execute(query).fetchone()
        stopped = bookmarks(connection)
    except InsufficientPrivilege:
        return None, {}
    return (Log(*row) if row is not None else None), stopped


def _clock_ahead_s(connection: Connection[TupleRow]) -> float:
    before = time.time()
    theirs = _one(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    # It was read between the two; the middle is off by half the way there and back at most.
    return float(str(theirs)) - (before + time.time()) / 2


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
    """Judge everything that PostgreSQL told."""
    return [
        *judge_settings(facts.settings),
        judge_encoding(facts.encoding),
        judge_clock(facts.clock_ahead_s),
        judge_writing(facts),
        judge_ledger(facts),
        judge_leftovers(facts.leftovers),
    ]


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
    refused = "the server or the session is read-only" if facts.read_only else "this user has no right to"
    fine = facts.may_write and not facts.read_only
    return Check(
        SUBJECT,
        "writing",
        "ok" if fine else "danger",
        "this user may write" if fine else refused,
        "Workers with these settings can't fold: commands pile up in the log.",
        "Name the primary in CREDITFOLD_POSTGRES_DSN, and the user that made the tables.",
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
        else "this user may not read what it was folded from"
        if facts.prepared
        else "the database holds none",
        "The log is compared with what was folded from it.",
        "Name the user that made the tables in CREDITFOLD_POSTGRES_DSN." if facts.prepared else "creditfold init",
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
