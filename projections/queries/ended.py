"""What ended and why: credits that expired, were voided or forfeited, and holds that lapsed, the latest first.

Reads the view `ledger.ended` and, for an account, its journal's versions. Amounts are in the asset's smallest unit,
instants are aware datetimes in UTC.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.common.instants import EPOCH, MILLISECOND
from creditfold.common.position import Position
from creditfold.projections.connections import rows_of
from creditfold.projections.queries.journal import last_version


class EndedPlace(NamedTuple):
    """A place among what ended: behind that move of that fact of a journal line, decided at that instant."""

    decided_at: datetime
    partition: int
    offset: int
    account: str
    version: int
    fact: int
    move: int


class Ended(NamedTuple):
    """Credits of a lot that ended; or that a lapsed hold gave back to it.

    `what` is `expired`, `voided`, `forfeited` or `lapsed`; `at` is when it happened, `decided_at` when the fold settled
    it. The last fields are of what did it: `kind` is `settled` and `command_id` None where time did, which closed the
    lot's window, or met the deadline of `hold`.
    """

    log_partition: int
    log_offset: int
    account_id: str
    version: int
    fact: int
    move: int
    decided_at: datetime
    asset: str
    what: str
    amount: int
    at: datetime
    lot_command: str
    lot_number: int
    hold: str | None
    kind: str
    command_id: str | None
    source: str
    note: str

    @property
    def position(self) -> Position:
        """Position of the record with which it was settled."""
        return Position(self.log_partition, self.log_offset)

    @property
    def place(self) -> EndedPlace:
        """Where a page begins whose first row comes after this one."""
        return EndedPlace(self.decided_at, *self[:6])


def ended(
    connection: Connection[Any],
    limit: int,
    account: str | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    place: EndedPlace | None = None,
) -> Sequence[Ended]:
    """What ended in a time and why, the latest first.

    Args:
        connection: a reader's connection to the projection (`connected`).
        limit: how many at most.
        account: only this account's; None for those of all accounts.
        since: only what was settled at this instant or later, by the log's clock; None for any.
        until: only what was settled before this instant; None for any.
        place: only what comes after it, of the last row of the page before; None for the latest.

    Returns:
        A row for each lot of which something ended at a time.

    Example:
        >>> ended(connection, limit=10, account="ada")
        []
    """
    if account is None:
        first = place or EndedPlace(min(until or _NEVER, _NEVER), *_BEHIND)
        bounds = {"since": since or EPOCH, "until": min(until or _NEVER, first.decided_at + MILLISECOND)}
        return rows_of(connection, Ended, _OF_ALL, {"limit": limit, **bounds, **first._asdict()})
    # By the account's own lines: by the instant, those of all accounts would be gone through.
    after = 0 if since is None else last_version(connection, account, since)
    last = None if until is None else last_version(connection, account, until)
    behind = place or EndedPlace(_NEVER, 0, 0, account, 2**63 - 1, 0, 0)
    values = {**behind._asdict(), "account": account, "after": after, "last": last, "limit": limit}
    return rows_of(connection, Ended, _OF_ACCOUNT, values)


# One millisecond can still be added to it.
_NEVER = datetime.max.replace(tzinfo=UTC) - MILLISECOND
#: Behind every line of an instant.
_BEHIND = (2**31 - 1, 2**63 - 1, "", 0, 0, 0)

_COLUMNS: LiteralString = """
    SELECT log_partition, log_offset, account_id, version, fact, move, decided_at, asset, what, amount, at, lot_command,
           lot_number, hold, kind, command_id, source, note
    FROM ledger.ended
"""
# The first of the two comparisons of places is the one that the index is asked for.
_OF_ALL: LiteralString = (
    _COLUMNS
    + """WHERE decided_at >= %(since)s AND decided_at < %(until)s
           AND (decided_at, log_partition, log_offset, account_id, version)
               <= (%(decided_at)s, %(partition)s, %(offset)s, %(account)s, %(version)s)
           AND (decided_at, log_partition, log_offset, account_id, version, fact, move)
               < (%(decided_at)s, %(partition)s, %(offset)s, %(account)s, %(version)s, %(fact)s, %(move)s)
         ORDER BY decided_at DESC, log_partition DESC, log_offset DESC, account_id DESC, version DESC, fact DESC,
                  move DESC
         LIMIT %(limit)s"""
)
_OF_ACCOUNT: LiteralString = (
    _COLUMNS
    + """WHERE account_id = %(account)s AND version > %(after)s AND (%(last)s::bigint IS NULL OR version <= %(last)s)
           AND version <= %(version)s AND (version, fact, move) < (%(version)s, %(fact)s, %(move)s)
         ORDER BY version DESC, fact DESC, move DESC LIMIT %(limit)s"""
)
