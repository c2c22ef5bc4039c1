"""The store: one transaction writes what a chunk decided and moves the partition's offset with it.

Owns exactly-once in effect: a chunk's transaction locks its `progress` row under the epoch that this worker claimed,
so two workers can't write the same partition, and a record is never folded twice. Decides nothing.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import LiteralString, NamedTuple, TypeAlias

from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from creditfold.ledger import Account, Body, Entry, Outcome
from creditfold.projections.setup import LIVE_SCHEMA
from creditfold.schemas.errors import CreditfoldError

#: How long a claim waits for the former owner's transaction, in seconds.
CLAIM_PATIENCE_S = 3.0

_NEW = Account()


class FencedError(CreditfoldError):
    """Another worker has claimed the partition since; nothing was written."""


class ChunkGapError(CreditfoldError):
    """Records between the stored offset and the chunk's start are missing; nothing was written."""


class Progress(NamedTuple):
    """Where a partition's fold stands: the next offset to fold, the claim's epoch, the log's clock."""

    next_offset: int
    epoch: int
    clock_ms: int


class DeadLetter(NamedTuple):
    """A record that can't be folded, as it is in the log. `headers` are pairs of name and base64 text or None."""

    log_offset: int
    reason: str
    detail: str
    appended_at_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, str | None]]


#: The offset of a record and the journal entry that it caused.
JournalLine: TypeAlias = tuple[int, Entry]


class ChunkResult(NamedTuple):
    """All that folding a chunk of one partition's records came to."""

    next_offset: int
    clock_ms: int
    journal: Sequence[JournalLine]
    dead_letters: Sequence[DeadLetter]
    duplicates: int


# Lists go to PostgreSQL as one text, joined by a control character that no id can hold: psycopg's arrays cost more
# than deciding does.
SEPARATOR = "\x1f"


def _query(text: LiteralString) -> sql.Composed:
    return sql.SQL(text).format(schema=sql.Identifier(LIVE_SCHEMA))


_CLAIM = _query("""
    UPDATE {schema}.progress SET epoch = epoch + 1, owner = %s WHERE log_partition = %s
    RETURNING next_offset, epoch, clock_ms
""")

_END_BLOCKERS = sql.SQL("SELECT pg_terminate_backend(pid) FROM unnest(pg_blocking_pids(%s)) AS b (pid)")

_LOCK = _query("SELECT next_offset, epoch, clock_ms FROM {schema}.progress WHERE log_partition = %s FOR UPDATE")

_LOAD_ACCOUNTS = _query("""
    SELECT account_id, asset, available, version FROM {schema}.balances
    WHERE account_id = ANY(string_to_array(%s, chr(31)))
""")

_LOAD_KNOWN = _query("""
    SELECT account_id, command_id, kind, asset, amount, occurred_at_ms, source, note, extra
    FROM unnest(string_to_array(%s, chr(31)), string_to_array(%s, chr(31))) AS k (account_id, command_id)
    JOIN {schema}.journal USING (account_id, command_id)
""")

_SAVE_BALANCES = _query("""
    INSERT INTO {schema}.balances AS b (account_id, asset, available, version, log_partition, log_offset)
    SELECT account_id, asset, available, version, %s, log_offset
    FROM unnest(string_to_array(%s, chr(31)), string_to_array(%s, chr(31)), string_to_array(%s, chr(31))::bigint[],
                string_to_array(%s, chr(31))::bigint[], string_to_array(%s, chr(31))::bigint[])
        AS u (account_id, asset, available, version, log_offset)
    ON CONFLICT (account_id, asset) DO UPDATE
    SET available = excluded.available, version = excluded.version, log_offset = excluded.log_offset
    WHERE b.version < excluded.version
""")

_SAVE_JOURNAL = _query("""
    COPY {schema}.journal (log_partition, log_offset, account_id, version, command_id, kind, asset, amount,
        change, balance, rejection, rules, clock_ms, occurred_at_ms, source, note, extra)
    FROM STDIN (FORMAT BINARY)
""")
_JOURNAL_TYPES = (
    *("int4", "int8", "text", "int8", "text", "text", "text", "int8"),
    *("int8", "int8", "text", "int2", "int8", "int8", "text", "text", "bytea"),
)

_SAVE_DEAD_LETTER = _query("""
    INSERT INTO {schema}.dead_letters (log_partition, log_offset, reason, detail, appended_at_ms, key, value, headers)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
""")

_MOVE = _query("""
    UPDATE {schema}.progress
    SET next_offset = %s, clock_ms = %s, accepted = accepted + %s, rejected = rejected + %s,
        duplicates = duplicates + %s, dead_letters = dead_letters + %s, folded_at = clock_timestamp()
    WHERE log_partition = %s
""")


async def claim(pool: AsyncConnectionPool[AsyncConnection[TupleRow]], partition: int, owner: str) -> Progress:
    """Take over a partition: from now on every older claim is fenced. Commits at once.

    A former owner may have been frozen inside a transaction, with the row locked, and no time-out of PostgreSQL reaches
    a session that waits for its client in the middle of a COPY. After CLAIM_PATIENCE_S such a session is ended.
    """
    async with pool.connection() as connection:
        claiming = asyncio.ensure_future(connection.execute(_CLAIM, (owner, partition)))
        try:
            done, _ = await asyncio.wait({claiming}, timeout=CLAIM_PATIENCE_S)
            if not done:
                async with pool.connection() as other:
                    await other.execute(_END_BLOCKERS, (connection.info.backend_pid,))
            row = await (await claiming).fetchone()
        finally:
            claiming.cancel()
    if row is None:
        raise CreditfoldError(
            f"The projection has no partition {partition}.", "The topic has grown; that is not supported."
        )
    return Progress(*row)


class ChunkTransaction:
    """The work on one chunk inside an open transaction: lock, load, then write.

    Args:
        connection: in a transaction that the caller commits.
        partition: of the command topic.
        epoch: of this worker's claim.
    """

    def __init__(self, connection: AsyncConnection[TupleRow], partition: int, epoch: int) -> None:
        self._connection = connection
        self._partition = partition
        self._epoch = epoch

    async def lock(self) -> Progress:
        """Lock the partition's progress until the transaction ends. Raises FencedError."""
        row = await (await self._connection.execute(_LOCK, (self._partition,))).fetchone()
        if row is None or row[1] != self._epoch:
            raise FencedError(f"Partition {self._partition} was claimed by another worker after epoch {self._epoch}.")
        return Progress(*row)

    async def load(self, keys: Iterable[tuple[str, str]]) -> tuple[dict[str, Account], dict[tuple[str, str], Body]]:
        """Read the accounts named by (account, command id) keys, and the bodies of the ids already decided."""
        wanted = list(keys)
        accounts = await self._load_accounts({account for account, _ in wanted})
        # An account without a balance row was never decided about, so none of its ids can be known.
        possible = [key for key in wanted if key[0] in accounts]
        if not possible:
            return accounts, {}
        names, ids = (SEPARATOR.join(column) for column in zip(*possible, strict=True))
        cursor = await self._connection.execute(_LOAD_KNOWN, (names, ids), binary=True)
        return accounts, {(row[0], row[1]): Body(*row[2:]) for row in await cursor.fetchall()}

    async def write(self, result: ChunkResult) -> None:
        """Write what was decided and move the offset.

        Raises RuntimeError if the rows don't follow from the stored ones.
        """
        async with self._connection.cursor(binary=True) as cursor:
            if result.journal:
                await self._save_balances(cursor, result.journal)
                await self._save_journal(cursor, result.journal)
            for letter in result.dead_letters:
                row = (self._partition, *letter[:-1], Jsonb(list(letter.headers)))
                await cursor.execute(_SAVE_DEAD_LETTER, row)
            accepted = sum([entry.outcome.rejection is None for _, entry in result.journal])
            counts = (accepted, len(result.journal) - accepted, result.duplicates, len(result.dead_letters))
            await cursor.execute(_MOVE, (result.next_offset, result.clock_ms, *counts, self._partition))

    async def _load_accounts(self, names: Iterable[str]) -> dict[str, Account]:
        cursor = await self._connection.execute(_LOAD_ACCOUNTS, (SEPARATOR.join(names),), binary=True)
        accounts: dict[str, Account] = {}
        for account, asset, available, version in await cursor.fetchall():
            before = accounts.get(account, _NEW)
            accounts[account] = Account(max(before.version, version), {**before.available, asset: available})
        return accounts

    async def _save_balances(self, cursor: AsyncCursor[TupleRow], journal: Sequence[JournalLine]) -> None:
        last: dict[tuple[str, str], tuple[int, Outcome]] = {}
        for offset, (command, _, outcome, _) in journal:
            last[command.account, outcome.asset] = offset, outcome
        # No other transaction writes these accounts, which are this partition's alone: no order, no deadlock.
        columns = (
            SEPARATOR.join([account for account, _ in last]),
            SEPARATOR.join([asset for _, asset in last]),
            SEPARATOR.join([str(outcome.balance) for _, outcome in last.values()]),
            SEPARATOR.join([str(outcome.version) for _, outcome in last.values()]),
            SEPARATOR.join([str(offset) for offset, _ in last.values()]),
        )
        await cursor.execute(_SAVE_BALANCES, (self._partition, *columns))
        if cursor.rowcount != len(last):
            ahead = len(last) - cursor.rowcount
            raise RuntimeError(f"{ahead} balances of partition {self._partition} ran ahead of their log")

    async def _save_journal(self, cursor: AsyncCursor[TupleRow], journal: Sequence[JournalLine]) -> None:
        async with cursor.copy(_SAVE_JOURNAL) as copy:
            copy.set_types(_JOURNAL_TYPES)
            for offset, (command, body, outcome, clock_ms) in journal:
                await copy.write_row(
                    (
                        self._partition,
                        offset,
                        command.account,
                        outcome.version,
                        command.command_id,
                        body.kind,
                        body.asset,
                        body.amount,
                        outcome.change,
                        outcome.balance,
                        outcome.rejection,
                        outcome.rules,
                        clock_ms,
                        body.occurred_at,
                        body.source,
                        body.reason,
                        body.extra,
                    )
                )
