"""The store: one transaction writes what a chunk decided and moves the partition's offset with it.

Owns exactly-once in effect: a chunk's transaction locks its `progress` row under the epoch that this worker claimed,
so two workers can't write the same partition, and a record is never folded twice. No epoch is given twice, even where
PostgreSQL lost its last commits, or was restored: an epoch and an offset name one state. Small chunks of several
partitions share a transaction that asks for no lock first: it fails if they don't all stand where this worker left
them. Decides nothing.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from heapq import merge
from operator import itemgetter
from typing import NamedTuple

from psycopg import AsyncConnection
from psycopg.errors import InvalidSchemaName, UndefinedTable
from psycopg.rows import TupleRow

from creditfold.common.errors import CreditfoldError
from creditfold.ledger import Body, CreditEntry, Known
from creditfold.ledger.account import Account
from creditfold.log.bookmark import NO_RECORD, Bookmark, LastRecord
from creditfold.projections.results import Cells, ChunkResult, LightAccounts
from creditfold.projections.store.chain import (
    Checkpoint,
    Line,
    activation_line,
    dead_letter_line,
    extend,
    journal_line,
)
from creditfold.projections.store.claim import Claim
from creditfold.projections.store.load import CreditStore
from creditfold.projections.store.rows import LastLines, changed_rows, totals
from creditfold.projections.store.send import Draft, Rows, piece_of, send, send_state, send_together
from creditfold.projections.store.statements import statements
from creditfold.projections.tables.credits import CHANGED_LOTS, LIGHT_BALANCES, LOTS, Table, cells, joined

#: Bytes of the journal's lines that are sent at a time.
PIECE_BYTES = 2**18


#: What light accounts have rows of, in their order.
_LIGHT = (LIGHT_BALANCES, LOTS, CHANGED_LOTS)


class FencedError(CreditfoldError):
    """Another worker has claimed the partition since; nothing was written."""


class ChunkGapError(CreditfoldError):
    """Records between the stored offset and the chunk's start are missing; nothing was written."""


class SetBackError(CreditfoldError):
    """A partition doesn't stand where this worker's last commit left it; nothing was written."""


class Progress(NamedTuple):
    """Where a partition's fold stands: the next offset to fold, the claim's epoch, the log's clock.

    `rules` is the version in force, `chain` the digest of all outcomes so far, `minute` that of the last tick, and
    `last` the last record that was folded.
    """

    next_offset: int
    epoch: int
    clock_ms: int
    rules: int
    chain: bytes
    minute: int
    last: LastRecord = NO_RECORD

    @property
    def bookmark(self) -> Bookmark:
        """Where the fold of the log stopped."""
        return Bookmark(self.next_offset, self.last, self.clock_ms)


class ChunkTransaction:
    """The work on one chunk inside an open transaction: lock, load, then write.

    Args:
        connection: in a transaction that the caller commits, but for `write_together`.
        partition: of the command topic.
        claim: this worker's.
        progress: where the partition stands, if that is known without a lock: `write_together` makes sure of it.
    """

    def __init__(
        self,
        connection: AsyncConnection[TupleRow],
        partition: int,
        claim: Claim,
        progress: Progress | None = None,
    ) -> None:
        self.connection = connection
        self.partition = partition
        self.generation = claim.generation
        self._epoch = claim.epoch
        self._sql = statements(claim.generation)
        self._progress = progress
        # What was folded and its accounts' state isn't written yet: the last line about each (account, asset).
        self._last: LastLines = {}
        self._touched: dict[str, Account] = {}
        self._light: LightAccounts | None = None
        #: The accounts.
        self.credits = CreditStore(connection, claim.generation, finds_ids=claim.finds_ids)

    async def lock(self) -> Progress:
        """Lock the partition's progress until the transaction ends. Raises FencedError."""
        try:
            cursor = await self.connection.execute(self._sql.lock, (self.partition,), binary=True)
        except (UndefinedTable, InvalidSchemaName) as error:
            # Another generation was made the live one, and this one was dropped before we noticed.
            raise FencedError(f"Generation {self.generation} is gone.") from error
        row = await cursor.fetchone()
        if row is None or row[1] != self._epoch:
            raise FencedError(f"Partition {self.partition} was claimed by another worker.")
        next_offset, epoch, clock_ms, rules, chain, minute, *last = row
        self._progress = Progress(next_offset, epoch, clock_ms, rules, chain, minute, LastRecord(*last))
        return self._progress

    @property
    def progress(self) -> Progress:
        """Where the partition stands in this transaction. Raises RuntimeError if it is neither known nor locked."""
        if self._progress is None:
            raise RuntimeError("It isn't known where the partition stands.")
        return self._progress

    @property
    def unsaved(self) -> int:
        """Of how many accounts the state is left to be written."""
        return len(self._touched) + (self._light.unsaved if self._light is not None else 0)

    def has_unsaved(self, name: str) -> bool:
        """Whether the state of an account, other than a light one, is left to be written."""
        return name in self._touched

    def adopt(self, name: str, account: Account, offset: int, entry: CreditEntry) -> None:
        """Take over an account that was light, and whose balance, which `entry` tells, isn't written."""
        self._last[name, entry.asset] = offset, entry
        self._touched[name] = account

    async def load_known(self, keys: Collection[tuple[str, str]]) -> Known:
        """Read the bodies of those (account, command id) keys that were decided already. Raises UnindexedError."""
        if not keys:
            return {}
        self.credits.refuse_unindexed()
        cursor = await self.connection.execute(self._sql.load_known, joined(keys), binary=True)
        return {(row[0], row[1]): Body(*row[2:]) for row in await cursor.fetchall()}

    async def known_ids(self) -> AsyncIterator[tuple[str, str]]:
        """Every (account, command id) of the partition that was decided, in no order, without holding them all."""
        async with self.connection.cursor("known_ids") as cursor:
            cursor.itersize = 10_000
            await cursor.execute(self._sql.known_ids, (self.partition,))
            async for account, command_id in cursor:
                yield account, command_id

    async def write(self, result: ChunkResult, *, save_state: bool = True) -> Progress:
        """Write what was decided and move the offset; gives where the partition stands then. Can be done again.

        The partition must be locked.

        Args:
            result: what the chunk came to.
            save_state: whether to write the accounts' state now, and not with a later `save_state`, which must come
                before the transaction ends, or before anything is loaded that isn't remembered.

        Raises KnownCommandError if a command was decided before.
        """
        draft = self.draft(result, save_state=save_state)
        await send(self.connection, self.generation, draft)
        return self.moved(draft)

    def draft(self, result: ChunkResult, *, save_state: bool = True) -> Draft:
        """What a chunk's result is as it is sent; the arguments are those of `write`."""
        before = self.progress
        lines = [(offset, journal_line(self.partition, offset, entry)) for offset, entry in result.journal]
        others = self._other_lines(result)
        chain, checkpoints = self._linked(before, result, merge(lines, others, key=itemgetter(0)) if others else lines)
        # PostgreSQL is sent neighbours one after the other: it finds their places in an index in a third less time.
        order = _by_account([entry[0] for _, entry in result.journal])
        for line in [result.journal[at] for at in order]:
            name, asset = line[1].account, line[1].asset
            self._last[name, asset] = line
            self._touched[name] = result.accounts[name]
        # Time may have changed what no line tells of, such as the end of a lot that is wholly held.
        self._touched |= result.accounts
        self._light = result.light or self._light
        pieces = [] if result.plain is None else result.plain.by_account(PIECE_BYTES)
        return Draft(
            self.partition,
            result,
            chain,
            checkpoints,
            [*pieces, *piece_of([lines[at] for at in order])],
            self._state_rows() if save_state else {},
            totals(result.journal, {} if result.light is None else result.light.totals()),
        )

    def _linked(
        self, before: Progress, result: ChunkResult, lines: Iterable[Line]
    ) -> tuple[bytes, Sequence[Checkpoint]]:
        if result.plain is None:
            return extend(before.chain, before.next_offset, result.next_offset, lines)
        chain, checkpoints = result.plain.link(before.chain, before.next_offset, result.next_offset, lines)
        return chain, [Checkpoint(*checkpoint) for checkpoint in checkpoints]

    def moved(self, draft: Draft) -> Progress:
        """Note that a draft was sent; gives where the partition stands now."""
        result, before = draft.result, self.progress
        self._progress = Progress(
            result.next_offset,
            before.epoch,
            result.clock_ms,
            result.rules,
            draft.chain,
            result.minute,
            result.last or before.last,
        )
        return self._progress

    async def save_state(self) -> None:
        """Write the state of accounts that earlier writes of this transaction left to be written."""
        async with self.connection.cursor(binary=True) as cursor:
            await send_state(cursor, self.generation, [self._state_rows()])

    def _state_rows(self) -> Rows:
        rows = changed_rows(self._last, self._touched, self.partition)
        self._last, self._touched = {}, {}
        found: dict[Table, list[Cells]] = {table: [cells(table, own)] for table, own in rows.items() if own}
        if self._light is not None and self._light.unsaved:
            for table, light in zip(_LIGHT, self._light.rows(self.partition), strict=True):
                if light[0]:
                    found.setdefault(table, []).insert(0, light)
        return found

    def _other_lines(self, result: ChunkResult) -> list[Line]:
        found = [(letter.log_offset, dead_letter_line(self.partition, letter)) for letter in result.dead_letters]
        found += [(row.log_offset, activation_line(self.partition, row)) for row in result.activations]
        return sorted(found)


def _by_account(names: Sequence[str]) -> list[int]:
    """Where lines stand, in the order of the accounts that they are about; those about the same one keep theirs."""
    return sorted(range(len(names)), key=names.__getitem__)


async def write_together(results: Sequence[tuple[ChunkTransaction, ChunkResult]]) -> None:
    """Write what was decided in several partitions, and move their offsets, in one transaction.

    Args:
        results: of different partitions of one generation, on one connection, which is in no transaction and in
            autocommit; each partition is known to stand where its fold began. There must be some.

    Raises DisplacedError if one doesn't stand there, KnownCommandError if a command was decided before.
    """
    expected = [(one.progress.next_offset, one.progress.epoch) for one, _ in results]
    drafts = [one.draft(result) for one, result in results]
    first = results[0][0]
    await send_together(first.connection, first.generation, drafts, expected)
    for (one, _), draft in zip(results, drafts, strict=True):
        one.moved(draft)
