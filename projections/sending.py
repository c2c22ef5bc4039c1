"""Sends what a transaction writes: the rows of one or several partitions together. Decides nothing, commits nothing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from psycopg import AsyncConnection, AsyncCursor
from psycopg.errors import UniqueViolation
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from creditfold.ledger import Outcome
from creditfold.projections.chain import Checkpoint, Line
from creditfold.projections.columns import SEPARATOR, longs
from creditfold.projections.credit_rows import Total
from creditfold.projections.credit_tables import WRITTEN, Table, add_totals, joined, save, together
from creditfold.projections.results import Cells, ChunkResult
from creditfold.projections.statements import Statements, statements

#: The unique key of the journal on (account, command id).
KNOWN_COMMANDS = "journal_command"

#: The offset and the outcome of the last decision about each (account, asset): what its balance row is to be.
LastOutcomes: TypeAlias = dict[tuple[str, str], tuple[int, Outcome]]

#: Rows to write by table, of one maker or of several.
Rows: TypeAlias = Mapping[Table, Sequence[Cells]]

#: Lines of the journal on their way, each with its end.
Pieces: TypeAlias = Sequence[bytes]


class KnownCommandError(Exception):
    """A command was decided before, which would have shown if it had been looked up. The transaction is lost."""


class Draft(NamedTuple):
    """What a chunk of one partition comes to, as it is sent.

    `plain` and `credited` are lines of the journal by rules without and with lots, in the order of their accounts,
    `balances` those to write by rules without, and `leaves_balances` tells that others are left for later. `state` are
    rows of accounts with lots.
    """

    partition: int
    result: ChunkResult
    chain: bytes
    checkpoints: Sequence[Checkpoint]
    plain: Pieces
    credited: Pieces
    balances: LastOutcomes
    leaves_balances: bool
    state: Rows
    totals: Mapping[str, Total]


async def send(
    connection: AsyncConnection[TupleRow], generation: int, drafts: Sequence[Draft], *, commit: bool = False
) -> None:
    """Write drafts of different partitions, and move their offsets.

    `commit` says that the transaction shall end with it, which isn't for drafts with balances: their rows are counted.

    Raises RuntimeError if the rows don't follow from the stored ones, KnownCommandError if one was decided before.
    """
    sql = statements(generation)
    balances = [
        (account, asset, outcome.balance, outcome.version, draft.partition, offset)
        for draft in drafts
        for (account, asset), (offset, outcome) in draft.balances.items()
    ]
    async with connection.cursor(binary=True) as cursor, connection.cursor(binary=True) as saving:
        await _copy(cursor, sql.save_journal, [piece for draft in drafts for piece in draft.plain])
        await _copy(cursor, sql.save_credits, [piece for draft in drafts for piece in draft.credited])
        # None of these needs the answer to another: they are sent together, and waited for once.
        async with connection.pipeline():
            if balances:
                accounts, assets, *numbers = zip(*balances, strict=True)
                texts = (SEPARATOR.join(accounts), SEPARATOR.join(assets))
                await saving.execute(sql.save_balances, (*texts, *map(longs, numbers)))
            await send_state(cursor, generation, [draft.state for draft in drafts])
            totals = [(draft.partition, name, *sums) for draft in drafts for name, sums in draft.totals.items()]
            if totals:
                await cursor.execute(add_totals(generation), joined(totals))
            for draft in drafts:
                await _send_others(cursor, sql, draft)
            await _move(cursor, sql, drafts)
            if commit and not balances:
                await cursor.execute(b"COMMIT")
        if balances and saving.rowcount != len(balances):
            ahead = len(balances) - saving.rowcount
            partitions = ", ".join([str(draft.partition) for draft in drafts])
            raise RuntimeError(f"{ahead} balances of partition {partitions} ran ahead of their log")


async def send_state(cursor: AsyncCursor[TupleRow], generation: int, states: Sequence[Rows]) -> None:
    """Write rows of accounts with lots, with a binary cursor."""
    # No other transaction writes these accounts, which are their partitions' alone: no order, no deadlock.
    for table in WRITTEN:
        rows = [cells for state in states for cells in state.get(table, ())]
        if rows:
            await cursor.execute(save(table, generation), together(rows))


def piece_of(lines: Sequence[Line]) -> Pieces:
    """Lines as they are sent."""
    return [b"\n".join([line for _, line in lines]) + b"\n"] if lines else []


async def _copy(cursor: AsyncCursor[TupleRow], statement: bytes, pieces: Pieces) -> None:
    if not pieces:
        return
    try:
        async with cursor.copy(statement) as copy:
            for piece in pieces:
                await copy.write(piece)
    except UniqueViolation as error:
        if error.diag.constraint_name != KNOWN_COMMANDS:
            raise
        raise KnownCommandError from error


async def _send_others(cursor: AsyncCursor[TupleRow], sql: Statements, draft: Draft) -> None:
    partition, result = draft.partition, draft.result
    for letter in result.dead_letters:
        row = (partition, *letter[:-1], Jsonb(list(letter.headers)))
        await cursor.execute(sql.save_dead_letter, row)
    for activation in result.activations:
        await cursor.execute(sql.save_activation, (partition, *activation))
    for offset, of, decided_by, note in result.redrives:
        await cursor.execute(sql.save_redrive, (partition, offset, *of, decided_by, note))
    for checkpoint in draft.checkpoints:
        await cursor.execute(sql.save_checkpoint, (partition, *checkpoint))


async def _move(cursor: AsyncCursor[TupleRow], sql: Statements, drafts: Sequence[Draft]) -> None:
    columns: Iterable[tuple[int, ...]] = zip(*map(_moved, drafts), strict=True)
    chains = SEPARATOR.join([rf"\x{draft.chain.hex()}" for draft in drafts])
    await cursor.execute(sql.move, (*map(longs, columns), chains))


def _moved(draft: Draft) -> tuple[int, ...]:
    result = draft.result
    return (
        draft.partition,
        result.next_offset,
        result.clock_ms,
        result.rules,
        result.accepted,
        result.rejected,
        result.duplicates,
        len(result.dead_letters),
        len(result.activations),
        result.ticks,
        result.minute,
        draft.leaves_balances,
    )
