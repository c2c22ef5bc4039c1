"""Transfers of all accounts that are on their way, the oldest of each partition first.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, instants are aware datetimes in UTC.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from creditfold.common.position import Position
from creditfold.projections.connections import rows_of


class SentTransfer(NamedTuple):
    """A transfer in transit: who sent what to whom, when by the log's clock, and the position of its command."""

    account_id: str
    command_id: str
    asset: str
    to_account: str
    amount: int
    log_partition: int
    log_offset: int
    sent_at: datetime

    @property
    def position(self) -> Position:
        """Of its command."""
        return Position(self.log_partition, self.log_offset)


# A transfer that is open was changed last by the record that sent it. The amount is that of its parcels, which are read
# of the page's transfers alone.
_SENT: LiteralString = """
    SELECT t.account_id, t.command_id, t.asset, t.to_account, t.amount, t.log_partition, t.log_offset,
           j.decided_at AS sent_at
    FROM (SELECT account_id, command_id, log_partition, log_offset FROM ledger.transfers
          WHERE is_open AND log_partition >= %(partition)s AND (log_partition, log_offset) > (%(partition)s, %(offset)s)
          ORDER BY log_partition, log_offset LIMIT %(limit)s) AS o
    JOIN ledger.transfers t USING (account_id, command_id)
    JOIN ledger.journal j USING (account_id, command_id)
    ORDER BY t.log_partition, t.log_offset
"""


def transfers_in_transit(
    connection: Connection[Any], limit: int, after: Position | None = None
) -> Sequence[SentTransfer]:
    """Transfers that were sent and have neither arrived nor come back, by partition, the oldest first.

    Args:
        connection: a reader's connection to the projection (`connected`).
        limit: how many at most.
        after: only what comes behind this position; None for the first.

    Returns:
        The transfers, in the order of their positions.

    Example:
        >>> transfers_in_transit(connection, 10)
        []
    """
    place = Position(0, -1) if after is None else after
    values = {"partition": place.partition, "offset": place.offset, "limit": limit}
    return rows_of(connection, SentTransfer, _SENT, values)
