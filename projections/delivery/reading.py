"""What deliverers read: how far the live generation is folded, and lines of the journal with their alerts.

Reads the views in schema `ledger`, and the tables of alerts and notices. Everything of a page is of one instant.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from psycopg import Connection

from creditfold.common.position import Log
from creditfold.projections.connections import rows_of
from creditfold.projections.queries.windows import DeadRow, JournalRow, Place, read_windows

#: Notices of one page.
NOTICES_PAGE = 500


class Ends(NamedTuple):
    """How far everything is that is to be delivered.

    Fields:
        log: that the live generation is folded from.
        folded: by partition, the offset before which everything is folded.
        evaluated: by partition, the place before which the rules of alerts have read; empty where there are no rules.
        notices: the number of the last notice.
    """

    log: Log
    folded: Mapping[int, int]
    evaluated: Mapping[int, Place]
    notices: int


class Alerted(NamedTuple):
    """What a rule has made of a line; `data` is JSON."""

    log_offset: int
    account_id: str
    version: int
    rule_id: str
    type: str
    data: str


class Page(NamedTuple):
    """What comes after a place, in the order of the log, up to another one; `traces` as of a window."""

    end: Place
    journal: Sequence[JournalRow]
    dead_letters: Sequence[DeadRow]
    alerts: Sequence[Alerted]
    traces: Mapping[int, str] = {}


class Notice(NamedTuple):
    """An event that belongs to no line of the journal; `data` is JSON."""

    number: int
    type: str
    account_id: str
    owner: str
    identity: str
    at_ms: int
    data: str


def ends(connection: Connection[Any]) -> Ends | None:
    """How far everything is; None where nothing was prepared."""
    rows = connection.execute(
        "SELECT topic, topic_id, log_partition, next_offset FROM ledger.progress ORDER BY log_partition"
    ).fetchall()
    if not rows:
        return None
    log = Log(rows[0][0], rows[0][1], len(rows))
    evaluated = connection.execute(
        """SELECT log_partition, log_offset, account_id, version FROM ledger_delivery.alert_cursors
           WHERE topic_id = %s AND EXISTS (SELECT FROM ledger_delivery.alert_rules)""",
        (log.topic_id,),
    ).fetchall()
    last = connection.execute("SELECT coalesce(max(number), 0) FROM ledger_delivery.notices").fetchone()
    return Ends(
        log,
        {partition: offset for _, _, partition, offset in rows},
        {partition: Place(*place) for partition, *place in evaluated},
        0 if last is None else int(last[0]),
    )


def has_strangers(connection: Connection[Any]) -> bool:
    """Whether a cursor is of another log than the live one's."""
    row = connection.execute(
        """SELECT EXISTS (SELECT FROM ledger_delivery.cursors c JOIN ledger.progress p USING (log_partition)
                          WHERE c.topic_id <> p.topic_id)
               OR EXISTS (SELECT FROM ledger_delivery.alert_cursors c JOIN ledger.progress p USING (log_partition)
                          WHERE c.topic_id <> p.topic_id)"""
    ).fetchone()
    return row == (True,)


def page_after(
    connection: Connection[Any], log: Log, partition: int, place: Place, until: int, *, with_alerts: bool
) -> Page | None:
    """The next lines, dead letters and alerts of a partition; None where there are none just now.

    Args:
        connection: in a transaction at the isolation level "repeatable read".
        log: that the projection must be folded from.
        partition: of it.
        place: behind which is read.
        until: the offset before which is read.
        with_alerts: whether there are rules of alerts.

    Raises LogChangedError if the views were switched to a projection of another log.
    """
    dead_from = place.offset + (place.account != "")
    window = next(read_windows(connection, log, partition, (place, dead_from), until), None)
    if window is None:
        return None
    alerts = _alerts(connection, partition, place, window.end) if with_alerts else []
    return Page(window.end, window.journal, window.dead_letters, alerts, window.traces)


def _alerts(connection: Connection[Any], partition: int, start: Place, end: Place) -> Sequence[Alerted]:
    return rows_of(
        connection,
        Alerted,
        """SELECT log_offset, account_id, version, rule_id, type, data FROM ledger_delivery.alerts
           WHERE log_partition = %s AND log_offset >= %s AND log_offset <= %s
               AND (log_offset, account_id, version) > (%s, %s, %s)
           ORDER BY log_offset, account_id, version, rule_id, type""",
        (partition, start.offset, end.offset, *start),
    )


def notices_after(connection: Connection[Any], number: int) -> Sequence[Notice]:
    """The next notices, in their order."""
    return rows_of(
        connection,
        Notice,
        """SELECT number, type, account_id, owner, identity, at_ms, data FROM ledger_delivery.notices
           WHERE number > %s ORDER BY number LIMIT %s""",
        (number, NOTICES_PAGE),
    )
