"""Reads what PostgreSQL shows about the ledger's health: heartbeats, progress, what is overdue. Judges nothing.

Every query goes by an index or reads a bounded number of rows, so that a health check may ask often.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege, UndefinedTable

from creditfold.projections.queries.background import InTransit, due_since, in_transit
from creditfold.projections.queries.heartbeats import Heartbeat, heartbeats
from creditfold.projections.queries.progress import PartitionProgress, progress

#: Dead letters that came within this time, in seconds, are recent.
RECENT_S = 3_600.0
#: How many of the last dead letters of each partition are looked at.
MOST_LETTERS = 1_000


class RecentLetters(NamedTuple):
    """Dead letters of one reason that came within RECENT_S; `unsettled` are those not decided about yet."""

    reason: str
    letters: int
    unsettled: int


class DatabaseHealth(NamedTuple):
    """What PostgreSQL shows at `now_ms` of its own clock.

    `due_since_ms` is by partition the earliest instant at which something is due that isn't done. It and `transit` are
    None for a user who may not look into the tables, and `dead_letters` counts the recent ones by reason.
    """

    now_ms: int
    heartbeats: Sequence[Heartbeat]
    progress: Sequence[PartitionProgress]
    due_since_ms: Mapping[int, int] | None
    transit: InTransit | None
    dead_letters: Sequence[RecentLetters]


def database_health(connection: Connection[Any]) -> DatabaseHealth:
    """Read everything that health is judged by. Raises what PostgreSQL raises where there is no ledger."""
    row = connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").fetchone()
    now_ms = int(row[0]) if row else 0
    return DatabaseHealth(
        now_ms,
        known_heartbeats(connection),
        progress(connection),
        due_since(connection, now_ms),
        in_transit(connection),
        recent_dead_letters(connection),
    )


def data_folder(connection: Connection[Any]) -> str | None:
    """Where PostgreSQL keeps its data, if it is on this machine for certain, and this user may know."""
    if not connection.info.host.startswith("/"):
        return None
    row = connection.execute("SELECT setting FROM pg_settings WHERE name = 'data_directory'").fetchone()
    return str(row[0]) if row is not None and row[0] else None


def known_heartbeats(connection: Connection[Any]) -> list[Heartbeat]:
    """The heartbeats; none where this user may not see them or their table isn't made yet."""
    try:
        return heartbeats(connection)
    except (InsufficientPrivilege, UndefinedTable):
        return []


def recent_dead_letters(connection: Connection[Any]) -> list[RecentLetters]:
    """The dead letters that were appended within RECENT_S, by reason, the most frequent first."""
    # The state of each is looked up by itself: joined, all that was ever decided would be read.
    rows = connection.execute(
        """SELECT d.reason, count(*), count(*) FILTER (WHERE (
               SELECT state FROM ledger.dead_letter_states s
               WHERE s.log_partition = d.log_partition AND s.log_offset = d.log_offset) IN ('open', 'redriving'))
           FROM ledger.progress p CROSS JOIN LATERAL (
               SELECT log_partition, log_offset, reason, appended_at FROM ledger.dead_letters d
               WHERE d.log_partition = p.log_partition ORDER BY log_offset DESC LIMIT %s) AS d
           WHERE d.appended_at > clock_timestamp() - make_interval(secs => %s) GROUP BY 1 ORDER BY 2 DESC, 1""",
        (MOST_LETTERS, RECENT_S),
    ).fetchall()
    return [RecentLetters(*row) for row in rows]
