"""What the workers' background tasks read: partitions, what is due there, and transfers in transit.

Always of the live generation; every query goes by an index and reads a bounded number of rows.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, LiteralString, NamedTuple, TypeAlias

from psycopg import AsyncConnection, Connection, sql
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import TupleRow

from creditfold.projections.tables.scripts import schema_of

#: A transfer, by the sender's account and its command id there.
TransferKey: TypeAlias = tuple[str, str]


class Standing(NamedTuple):
    """Where a partition's fold stands, who owns it, and whether something is due in it. `minute` is the last tick's."""

    next_offset: int
    owner: str
    clock_ms: int
    minute: int
    is_due: bool = False


class OpenTransfer(NamedTuple):
    """A transfer in transit, without its parcels, which take `size` bytes as they are stored."""

    partition: int
    sender: str
    transfer: str
    asset: str
    to: str
    size: int

    @property
    def key(self) -> TransferKey:
        """Its key."""
        return self.sender, self.transfer


class InTransit(NamedTuple):
    """How many transfers are in transit, and when the oldest was sent by the log's clock, in milliseconds UTC."""

    transfers: int
    oldest_ms: int | None


class Arrival(NamedTuple):
    """What a receiver decided about a transfer. `facts` are empty where the transfer wasn't refused."""

    rejection: str
    facts: str


class LiveGeneration:
    """Reads one generation, the one that is live when this is made.

    Args:
        connection: of the fold's pool.
        generation: its number.
    """

    def __init__(self, connection: AsyncConnection[TupleRow], generation: int) -> None:
        self._connection = connection
        self._generation = generation

    @classmethod
    async def of_live(cls, connection: AsyncConnection[TupleRow]) -> "LiveGeneration | None":
        """Read the live generation; None during a switch."""
        row = await (await connection.execute(_LIVE)).fetchone()
        return None if row is None else cls(connection, row[0])

    async def standings(self) -> dict[int, Standing]:
        """Where each partition stands, without looking at what is due."""
        return {row[0]: Standing(*row[1:]) for row in await self._rows(_STANDINGS)}

    async def due(self, owner: str, now_ms: int) -> dict[int, Standing]:
        """Where an owner's partitions stand, and whether something is due there at `now_ms` or by the log's clock."""
        rows = await self._rows(_DUE, {"owner": owner, "now": now_ms})
        return {row[0]: Standing(*row[1:]) for row in rows}

    async def open_transfers(self, after: Mapping[int, TransferKey], most: int) -> list[OpenTransfer]:
        """At most `most` open transfers of each partition, that come after a given one by their names."""
        if not after:
            return []
        values = (list(after), *_columns(after.values()), most)
        return [OpenTransfer(*row) for row in await self._rows(_OPEN, values)]

    async def arrivals(self, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], Arrival]:
        """The decisions about commands, by account and command id."""
        rows = await self._rows(_ARRIVALS, _columns(keys)) if keys else []
        return {(row[0], row[1]): Arrival(*row[2:]) for row in rows}

    async def parcels(self, keys: Collection[TransferKey]) -> dict[TransferKey, str]:
        """The parcels of transfers, as they are stored."""
        rows = await self._rows(_PARCELS, _columns(keys)) if keys else []
        return {(row[0], row[1]): row[2] for row in rows}

    async def _rows(self, text: LiteralString, values: Any = None) -> Sequence[TupleRow]:
        cursor = await self._connection.execute(_of(text, self._generation), values, binary=True)
        return await cursor.fetchall()


def standings(connection: Connection[TupleRow]) -> dict[int, Standing]:
    """Where each partition of the live generation stands, without looking at what is due."""
    row = connection.execute(_LIVE).fetchone()
    found = [] if row is None else connection.execute(_of(_STANDINGS, row[0])).fetchall()
    return {one[0]: Standing(*one[1:]) for one in found}


def in_transit(connection: Connection[TupleRow]) -> InTransit | None:
    """How many transfers are in transit in the live generation; None for a user who may not read its tables."""
    rows = _in_live(connection, _IN_TRANSIT)
    return InTransit(*rows[0]) if rows else None


def due_since(connection: Connection[TupleRow], now_ms: int) -> dict[int, int] | None:
    """Since when something is due, by partition of the live generation; None for a user who may not read its tables."""
    rows = _in_live(connection, _DUE_SINCE, (now_ms,))
    return None if rows is None else dict(rows)


def _in_live(
    connection: Connection[TupleRow], text: LiteralString, values: tuple[int, ...] = ()
) -> list[TupleRow] | None:
    """Rows of the live generation; None during a switch, and for a user who may not read its tables."""
    row = connection.execute(_LIVE).fetchone()
    try:
        return None if row is None else connection.execute(_of(text, row[0]), values).fetchall()
    except InsufficientPrivilege:
        return None


def _columns(keys: Collection[tuple[str, str]]) -> list[list[str]]:
    return [[key[part] for key in keys] for part in (0, 1)]


@lru_cache(maxsize=64)
def _of(text: LiteralString, generation: int) -> sql.Composed:
    return sql.SQL(text).format(schema=sql.Identifier(schema_of(generation)))


# Without a lock: reading a generation that was live a moment ago does no harm.
_LIVE: LiteralString = "SELECT number FROM ledger.generations WHERE state = 'live'"

_STANDINGS: LiteralString = """
    SELECT log_partition, next_offset, owner, clock_ms, tick_minute FROM {schema}.progress
"""

_DUE: LiteralString = """
    SELECT log_partition, next_offset, owner, clock_ms, tick_minute,
           EXISTS (SELECT FROM {schema}.balances t
                   WHERE t.log_partition = p.log_partition AND t.next_at_ms <= greatest(%(now)s, p.clock_ms))
           OR EXISTS (SELECT FROM {schema}.lots t
                   WHERE t.log_partition = p.log_partition AND t.next_at_ms <= greatest(%(now)s, p.clock_ms))
           OR EXISTS (SELECT FROM {schema}.holds t
                      WHERE t.log_partition = p.log_partition AND t.next_at_ms <= greatest(%(now)s, p.clock_ms))
           OR EXISTS (SELECT FROM {schema}.schedules t
                      WHERE t.log_partition = p.log_partition AND t.next_at_ms <= greatest(%(now)s, p.clock_ms))
    FROM {schema}.progress p WHERE owner = %(owner)s
"""

_DUE_SINCE: LiteralString = """
    SELECT log_partition, due_ms FROM (
        SELECT p.log_partition, least(
            (SELECT min(next_at_ms) FROM {schema}.balances t WHERE t.log_partition = p.log_partition),
            (SELECT min(next_at_ms) FROM {schema}.lots t WHERE t.log_partition = p.log_partition),
            (SELECT min(next_at_ms) FROM {schema}.holds t WHERE t.log_partition = p.log_partition),
            (SELECT min(next_at_ms) FROM {schema}.schedules t WHERE t.log_partition = p.log_partition)
        ) AS due_ms FROM {schema}.progress p
    ) AS earliest WHERE due_ms <= %s
"""

# In the order of the index and not of the log: so that what waits long, for a receiver that isn't folded, holds up
# nothing that comes after it.
_OPEN: LiteralString = """
    SELECT o.* FROM unnest(%s::integer[], %s::text[], %s::text[]) AS k (partition, account, command)
    CROSS JOIN LATERAL (
        SELECT log_partition, account_id, command_id, asset, to_account, octet_length(parcels)
        FROM {schema}.transfers t
        WHERE is_open AND t.log_partition = k.partition AND (account_id, command_id) > (k.account, k.command)
        ORDER BY account_id, command_id LIMIT %s
    ) AS o
"""

_ARRIVALS: LiteralString = """
    SELECT j.account_id, j.command_id, coalesce(rejection, ''),
           CASE WHEN position('"kind":"refused"' IN facts) > 0 THEN facts ELSE '[]' END
    FROM unnest(%s::text[], %s::text[]) AS k (account_id, command_id)
    JOIN {schema}.journal j USING (account_id, command_id) WHERE j.kind = 'receive_transfer'
"""

_PARCELS: LiteralString = """
    SELECT t.account_id, t.command_id, parcels
    FROM unnest(%s::text[], %s::text[]) AS k (account_id, command_id)
    JOIN {schema}.transfers t USING (account_id, command_id)
"""

# A transfer that is open was changed last by the record that sent it.
_IN_TRANSIT: LiteralString = """
    SELECT coalesce(sum(o.transfers), 0)::bigint, min(j.clock_ms)
    FROM (SELECT log_partition, count(*) AS transfers FROM {schema}.transfers WHERE is_open GROUP BY 1) AS o
    CROSS JOIN LATERAL (SELECT account_id, command_id FROM {schema}.transfers t
                        WHERE is_open AND t.log_partition = o.log_partition ORDER BY log_offset LIMIT 1) AS t
    JOIN {schema}.journal j USING (account_id, command_id)
"""
