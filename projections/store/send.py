"""Sends what a transaction writes: the rows of one or several partitions together. Decides nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from psycopg import AsyncConnection, AsyncCursor
from psycopg.errors import DatabaseError, UniqueViolation
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from creditfold.log.bookmark import NO_RECORD
from creditfold.projections.store.account_sql import add_hours, add_totals, save, together
from creditfold.projections.store.chain import BYTES, COLUMNS, NULL, Checkpoint
from creditfold.projections.store.columns import SEPARATOR, Longs, Utf8, joined, longs
from creditfold.projections.store.results import ChunkResult, MetadataRow
from creditfold.projections.store.rows import Hour, Rows, Total
from creditfold.projections.store.statements import Statements, statements
from creditfold.projections.tables.account_tables import WRITTEN

#: The unique key of the journal on (account, command id).
KNOWN_COMMANDS = "journal_command"

#: SQLSTATE of `refuse_displaced` in generation.sql.
DISPLACED = "LDG01"

_BYTES, _NULL = BYTES.encode(), NULL.encode()

#: Lines of the journal as they are sent, each with its end.
Pieces: TypeAlias = Sequence[bytes]


class KnownCommandError(Exception):
    """A command was decided before, and wasn't looked up. The transaction is lost."""


class DisplacedError(Exception):
    """A partition doesn't stand where it was expected to: another worker has claimed it, or folded it."""


class Draft(NamedTuple):
    """What a chunk of one partition results in, as it is sent, without the state of its accounts.

    `lines` are those of the journal, in the order of their accounts.
    """

    partition: int
    result: ChunkResult
    chain: bytes
    checkpoints: Sequence[Checkpoint]
    lines: Pieces
    totals: Mapping[str, Total]
    hours: Mapping[Hour, int]


async def send(connection: AsyncConnection[TupleRow], generation: int, draft: Draft) -> None:
    """Write a draft, and move its partition's offset, in a transaction that has locked the partition.

    Raises KnownCommandError if a command was decided before.
    """
    sql = statements(generation)
    async with connection.cursor(binary=True) as cursor:
        with _refusals():
            await _copy(cursor, sql.save_journal, draft.lines)
        # None of these needs the answer to another: they are sent together, and waited for once.
        async with connection.pipeline():
            await _send_rows(cursor, generation, [draft])
            await cursor.execute(sql.move, _moves([draft]))


async def send_together(
    connection: AsyncConnection[TupleRow],
    generation: int,
    drafts: Sequence[Draft],
    states: Sequence[Rows],
    expected: Sequence[tuple[int, int]],
) -> None:
    """Write drafts of different partitions, and move their offsets, in a transaction of its own.

    Args:
        connection: in no transaction, and in autocommit. It must be rolled back if this fails or is cancelled.
        generation: whose partitions.
        drafts: at least one.
        states: the rows of each draft's accounts.
        expected: the offset and the epoch at which each draft's partition must stand.

    Raises DisplacedError if one stands elsewhere, KnownCommandError if a command was decided before.
    """
    sql = statements(generation)
    lines = b"".join([piece for draft in drafts for piece in draft.lines])
    taking = (*map(longs, zip(*expected, strict=True)), *_moves(drafts))
    with _refusals():
        # None of these needs the answer to another. A pipeline alone would be a transaction too, but its end would
        # commit what was sent before an exception.
        async with connection.cursor(binary=True) as cursor, connection.pipeline():
            await cursor.execute(b"BEGIN")
            await cursor.execute(sql.take, taking)
            if lines:
                await cursor.execute(sql.save_lines, _as_inserted(lines))
            await send_state(cursor, generation, states)
            await _send_rows(cursor, generation, drafts)
            await cursor.execute(b"COMMIT")


def _as_inserted(lines: bytes) -> tuple[Utf8, Utf8]:
    """Lines as the values of `save_lines`. Raises ValueError if they don't have a journal line's columns."""
    # COPY counts columns itself; an INSERT of the cells of an array wouldn't notice one too many.
    if lines.count(b"\t") != (COLUMNS - 1) * lines.count(b"\n"):
        raise ValueError(f"Lines of the journal have {COLUMNS} columns each.")
    sent = Utf8(lines[:-1])
    return (sent, Utf8()) if _is_unescaped(lines) else (Utf8(), sent)


def _is_unescaped(lines: bytes) -> bool:
    """Whether nothing in these lines has a backslash, except missing values and the column `extra`."""
    count = lines.count(b"\n")
    return lines.count(_BYTES) == count and lines.count(b"\\") == lines.count(_NULL) + 2 * count


async def _send_rows(cursor: AsyncCursor[TupleRow], generation: int, drafts: Sequence[Draft]) -> None:
    """Write rows that may be written in any order, in a pipeline."""
    totals = [(draft.partition, name, *sums) for draft in drafts for name, sums in draft.totals.items()]
    if totals:
        await cursor.execute(add_totals(generation), joined(totals))
    await _send_hours(cursor, generation, drafts)
    for draft in drafts:
        if draft.result.metadata:
            values = draft.partition, *_as_columns(draft.result.metadata)
            await cursor.execute(statements(generation).save_metadata, values)
        if draft.result.traces:
            offsets, appended, contexts = zip(*draft.result.traces, strict=True)
            found = longs(offsets), longs(appended), list(contexts), *[draft.partition] * 3
            await cursor.execute(statements(generation).save_trace_contexts, found)
    for draft in drafts:
        await _send_others(cursor, statements(generation), draft)


def _as_columns(metadata: Iterable[MetadataRow]) -> tuple[Longs | str, ...]:
    # Neighbours of the index one after the other: PostgreSQL finds their places faster.
    keys, values, accounts, offsets = zip(*sorted(metadata), strict=True)
    return longs(offsets), SEPARATOR.join(accounts), SEPARATOR.join(keys), SEPARATOR.join(values)


async def _send_hours(cursor: AsyncCursor[TupleRow], generation: int, drafts: Sequence[Draft]) -> None:
    # In an order that is the same for every transaction, and neighbours one after the other.
    rows = sorted(
        (hour, draft.partition, asset, what, f"={lot_class}", f"={source}", f"={reason}", amount)
        for draft in drafts
        for (hour, asset, what, lot_class, source, reason), amount in draft.hours.items()
    )
    if rows:
        await cursor.execute(add_hours(generation), joined(rows))


async def send_state(cursor: AsyncCursor[TupleRow], generation: int, states: Sequence[Rows]) -> None:
    """Write rows of accounts, with a binary cursor."""
    # No other transaction writes these accounts, which are their partitions' alone: no order, no deadlock.
    for table in WRITTEN:
        rows = [cells for state in states for cells in state.get(table, ())]
        if rows:
            await cursor.execute(save(table, generation), together(rows))


async def _copy(cursor: AsyncCursor[TupleRow], statement: bytes, pieces: Pieces) -> None:
    if not pieces:
        return
    async with cursor.copy(statement) as copy:
        for piece in pieces:
            await copy.write(piece)


@contextmanager
def _refusals() -> Iterator[None]:
    """Give what PostgreSQL refuses, because of what another transaction has written, an error of its own."""
    try:
        yield
    except DatabaseError as error:
        if isinstance(error, UniqueViolation) and error.diag.constraint_name == KNOWN_COMMANDS:
            raise KnownCommandError from error
        if error.sqlstate == DISPLACED:
            raise DisplacedError("a partition doesn't stand where this worker left it") from error
        raise


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


def _moves(drafts: Sequence[Draft]) -> tuple[Longs | str, ...]:
    columns: Iterable[tuple[int, ...]] = zip(*map(_moved, drafts), strict=True)
    digests = [(draft.result.last or NO_RECORD).digest for draft in drafts]
    return *map(longs, columns), _bytes_of([draft.chain for draft in drafts]), _bytes_of(digests)


def _bytes_of(values: Iterable[bytes]) -> str:
    return SEPARATOR.join([rf"\x{value.hex()}" for value in values])


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
        (result.last or NO_RECORD).offset,
    )
