"""The store: one transaction writes what a chunk decided and moves the partition's offset with it.

Owns exactly-once in effect: a chunk's transaction locks its `progress` row under the epoch that this worker claimed,
so two workers can't write the same partition, and a record is never folded twice. Decides nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from heapq import merge
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from psycopg import AsyncConnection, AsyncCursor
from psycopg.errors import InvalidSchemaName, UndefinedTable, UniqueViolation
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from creditfold.ledger import Account, Body, CreditEntry, Entry, Known, Outcome
from creditfold.ledger.credit_account import Account as CreditAccount
from creditfold.projections.chain import (
    Checkpoint,
    Line,
    activation_line,
    credit_line,
    dead_letter_line,
    extend,
    journal_line,
)
from creditfold.projections.columns import SEPARATOR, longs
from creditfold.projections.credit_rows import LastLines
from creditfold.projections.credit_store import CreditStore
from creditfold.projections.credit_tables import joined
from creditfold.projections.results import ChunkResult
from creditfold.projections.setup import refuse_other_layout
from creditfold.projections.statements import END_BLOCKERS, LIVE, LOOKS, SWITCHING, statements
from creditfold.schemas.errors import CreditfoldError

#: How long a claim waits for the former owner's transaction, in seconds.
CLAIM_PATIENCE_S = 3.0

#: The unique key of the journal on (account, command id).
KNOWN_COMMANDS = "journal_command"

_NEW = Account()


class FencedError(CreditfoldError):
    """Another worker has claimed the partition since; nothing was written."""


class KnownCommandError(Exception):
    """A command was decided before, which would have shown if it had been looked up. The transaction is lost."""


class ChunkGapError(CreditfoldError):
    """Records between the stored offset and the chunk's start are missing; nothing was written."""


class Progress(NamedTuple):
    """Where a partition's fold stands: the next offset to fold, the claim's epoch, the log's clock.

    `rules` is the version in force, `chain` the digest of all outcomes so far, `minute` that of the last tick.
    """

    next_offset: int
    epoch: int
    clock_ms: int
    rules: int
    chain: bytes
    minute: int


class Claim(NamedTuple):
    """A partition that was taken over: where its fold stands, under which epoch, in which generation.

    `balances_behind` says that a bulk fold ended before it had written them.
    """

    next_offset: int
    epoch: int
    generation: int
    balances_behind: bool = False


#: The offset and the outcome of the last decision about each (account, asset): what its balance row is to be.
LastOutcomes: TypeAlias = dict[tuple[str, str], tuple[int, Outcome]]


async def claim(
    pool: AsyncConnectionPool[AsyncConnection[TupleRow]], partition: int, owner: str, generation: int | None = None
) -> Claim:
    """Take over a partition: from now on every older claim is fenced. Commits at once.

    A former owner may have been frozen inside a transaction, with the row locked, and no time-out of PostgreSQL reaches
    a session that waits for its client in the middle of a COPY. After CLAIM_PATIENCE_S such a session is ended.

    Args:
        pool: connections to take one from, and another one to end a former owner's.
        partition: of the command topic.
        owner: name of who claims.
        generation: whose partition; the live one if not given.

    Raises LayoutError when another release made the generation.
    """
    async with pool.connection() as connection:
        claiming = asyncio.ensure_future(_claim(connection, partition, owner, generation))
        try:
            done, _ = await asyncio.wait({claiming}, timeout=CLAIM_PATIENCE_S)
            if not done:
                async with pool.connection() as other:
                    await other.execute(END_BLOCKERS, (connection.info.backend_pid, SWITCHING))
            return await claiming
        finally:
            claiming.cancel()


async def _claim(connection: AsyncConnection[TupleRow], partition: int, owner: str, generation: int | None) -> Claim:
    async with connection.transaction():
        if generation is None:
            generation, layout = await _live(connection)
            refuse_other_layout(generation, layout)
        cursor = await connection.execute(statements(generation).claim, (owner, partition))
        row = await cursor.fetchone()
    if row is None:
        raise CreditfoldError(
            f"The projection has no partition {partition}.", "The topic has grown; that is not supported."
        )
    return Claim(row[0], row[1], generation, row[2])


async def _live(connection: AsyncConnection[TupleRow]) -> tuple[int, int]:
    # A switch that this waited for leaves it no row: the new live one isn't in its snapshot. The next sees it.
    for _ in range(LOOKS):
        row = await (await connection.execute(LIVE)).fetchone()
        if row is not None:
            return row[0], row[1]
    raise CreditfoldError("No generation is live.", "Run `creditfold init`.")


class ChunkTransaction:
    """The work on one chunk inside an open transaction: lock, load, then write.

    Args:
        connection: in a transaction that the caller commits.
        partition: of the command topic.
        claim: this worker's.
    """

    def __init__(self, connection: AsyncConnection[TupleRow], partition: int, claim: Claim) -> None:
        self._connection = connection
        self._partition = partition
        self._epoch = claim.epoch
        self._sql = statements(claim.generation)
        self._progress: Progress | None = None
        # What was folded and its accounts' state isn't written yet: the last line about each (account, asset).
        self._last: LastLines = {}
        self._touched: dict[str, CreditAccount] = {}
        #: The accounts that have lots.
        self.credits = CreditStore(connection, partition, claim.generation)

    async def lock(self) -> Progress:
        """Lock the partition's progress until the transaction ends. Raises FencedError."""
        try:
            row = await (await self._connection.execute(self._sql.lock, (self._partition,), binary=True)).fetchone()
        except (UndefinedTable, InvalidSchemaName) as error:
            # Another generation was made the live one, and this one was dropped before we noticed.
            raise FencedError(f"The generation of partition {self._partition} is gone.") from error
        if row is None or row[1] != self._epoch:
            raise FencedError(f"Partition {self._partition} was claimed by another worker.")
        self._progress = Progress(*row)
        return self._progress

    @property
    def progress(self) -> Progress:
        """Where the partition stands in this transaction. Raises RuntimeError if it isn't locked."""
        if self._progress is None:
            raise RuntimeError("The partition isn't locked.")
        return self._progress

    async def load_accounts(self, names: Collection[str]) -> dict[str, Account]:
        """Read the accounts of these names; those that were never decided about are left out."""
        if not names:
            return {}
        cursor = await self._connection.execute(self._sql.load_accounts, (SEPARATOR.join(names),), binary=True)
        accounts: dict[str, Account] = {}
        for account, asset, available, version in await cursor.fetchall():
            before = accounts.get(account, _NEW)
            accounts[account] = Account(max(before.version, version), {**before.available, asset: available})
        return accounts

    async def load_known(self, keys: Collection[tuple[str, str]]) -> Known:
        """Read the bodies of those (account, command id) keys that were decided already."""
        if not keys:
            return {}
        cursor = await self._connection.execute(self._sql.load_known, joined(keys), binary=True)
        return {(row[0], row[1]): Body(*row[2:]) for row in await cursor.fetchall()}

    async def known_ids(self) -> AsyncIterator[tuple[str, str]]:
        """Every (account, command id) of the partition that was decided, in no order, without holding them all."""
        async with self._connection.cursor("known_ids") as cursor:
            cursor.itersize = 10_000
            await cursor.execute(self._sql.known_ids, (self._partition,))
            async for account, command_id in cursor:
                yield account, command_id

    async def catch_up_balances(self) -> None:
        """Bring the balances up to the journal, after a bulk fold that didn't come to write them."""
        await self._connection.execute(self._sql.catch_up_balances, (self._partition,))
        await self._connection.execute(self._sql.caught_up, (self._partition,))

    async def write(
        self, result: ChunkResult, unsaved: LastOutcomes | None = None, *, save: bool = True, save_state: bool = True
    ) -> Progress:
        """Write what was decided and move the offset; gives where the partition stands then. Can be done again.

        The partition must be locked.

        Args:
            result: what the chunk came to.
            unsaved: the last outcomes that earlier transactions haven't written to the balances; takes this chunk's.
            save: whether to write them now, which empties `unsaved`, and not in a later transaction.
            save_state: whether to write the state of accounts with lots now, and not with a later `save_state`, which
                must come before the transaction ends, or before anything is loaded that isn't remembered.

        Raises RuntimeError if the rows don't follow from the stored ones, KnownCommandError if a command was decided
        before.
        """
        before = self.progress
        plain = [(offset, entry) for offset, entry in result.journal if entry.__class__ is Entry]
        credited = [(offset, entry) for offset, entry in result.journal if isinstance(entry, CreditEntry)]
        plain_lines = [(offset, journal_line(self._partition, offset, entry)) for offset, entry in plain]
        credit_lines = [(offset, credit_line(self._partition, offset, entry)) for offset, entry in credited]
        lines = self._in_order(plain_lines, credit_lines, self._other_lines(result))
        chain, checkpoints = extend(before.chain, before.next_offset, result.next_offset, lines)
        last = {} if unsaved is None else unsaved
        for offset, (command, outcome, _) in plain:
            last[command.account, outcome.asset] = offset, outcome
        for line in credited:
            self._last[line[1].account, line[1].asset] = line
        # Time may have changed what no line tells of, such as the end of a lot that is wholly held.
        self._touched |= result.accounts
        counts = (result.accepted, result.rejected, result.duplicates)
        lengths = (len(result.dead_letters), len(result.activations), result.ticks)
        moved = (result.next_offset, result.clock_ms, result.rules, chain, *counts, *lengths, result.minute)
        async with self._connection.cursor(binary=True) as cursor, self._connection.cursor(binary=True) as balances:
            await self._copy(cursor, self._sql.save_journal, plain_lines)
            await self._copy(cursor, self._sql.save_credits, credit_lines)
            # None of these needs the answer to another: they are sent together, and waited for once.
            async with self._connection.pipeline():
                saved = last if save and last else {}
                if saved:
                    await self._save_balances(balances, saved)
                if save_state:
                    await self._save_state(cursor)
                await self.credits.add_totals(cursor, result.journal)
                await self._save_others(cursor, result, checkpoints)
                await cursor.execute(self._sql.move, (*moved, len(last) > len(saved), self._partition))
            if saved and balances.rowcount != len(saved):
                ahead = len(saved) - balances.rowcount
                raise RuntimeError(f"{ahead} balances of partition {self._partition} ran ahead of their log")
            saved.clear()
        self._progress = Progress(result.next_offset, before.epoch, result.clock_ms, result.rules, chain, result.minute)
        return self._progress

    async def save_state(self) -> None:
        """Write the state of accounts with lots that earlier writes of this transaction left to be written."""
        async with self._connection.cursor(binary=True) as cursor:
            await self._save_state(cursor)

    async def _save_state(self, cursor: AsyncCursor[TupleRow]) -> None:
        if self._touched:
            await self.credits.write(cursor, self._last, self._touched)
            self._last, self._touched = {}, {}

    def _in_order(self, plain: list[Line], credited: list[Line], others: list[Line]) -> Iterable[Line]:
        kinds = [found for found in (plain, credited, others) if found]
        return merge(*kinds, key=itemgetter(0)) if len(kinds) > 1 else kinds[0] if kinds else ()

    async def _copy(self, cursor: AsyncCursor[TupleRow], statement: bytes, lines: Sequence[Line]) -> None:
        if not lines:
            return
        try:
            async with cursor.copy(statement) as copy:
                await copy.write(b"\n".join([line for _, line in lines]) + b"\n")
        except UniqueViolation as error:
            if error.diag.constraint_name != KNOWN_COMMANDS:
                raise
            raise KnownCommandError from error

    def _other_lines(self, result: ChunkResult) -> list[Line]:
        found = [(letter.log_offset, dead_letter_line(self._partition, letter)) for letter in result.dead_letters]
        found += [(row.log_offset, activation_line(self._partition, row)) for row in result.activations]
        return sorted(found)

    async def _save_others(
        self, cursor: AsyncCursor[TupleRow], result: ChunkResult, checkpoints: Sequence[Checkpoint]
    ) -> None:
        for letter in result.dead_letters:
            row = (self._partition, *letter[:-1], Jsonb(list(letter.headers)))
            await cursor.execute(self._sql.save_dead_letter, row)
        for activation in result.activations:
            await cursor.execute(self._sql.save_activation, (self._partition, *activation))
        for offset, of, decided_by, note in result.redrives:
            await cursor.execute(self._sql.save_redrive, (self._partition, offset, *of, decided_by, note))
        for checkpoint in checkpoints:
            await cursor.execute(self._sql.save_checkpoint, (self._partition, *checkpoint))

    async def _save_balances(self, cursor: AsyncCursor[TupleRow], last: LastOutcomes) -> None:
        # No other transaction writes these accounts, which are this partition's alone: no order, no deadlock.
        columns = (
            SEPARATOR.join([account for account, _ in last]),
            SEPARATOR.join([asset for _, asset in last]),
            longs([outcome.balance for _, outcome in last.values()]),
            longs([outcome.version for _, outcome in last.values()]),
            longs([offset for offset, _ in last.values()]),
        )
        await cursor.execute(self._sql.save_balances, (*columns, self._partition))
