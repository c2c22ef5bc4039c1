"""From what a chunk came to, to what the store sends for it: the journal's lines, the hash chain over them, totals.

Knows no connection, and not what becomes of the accounts' state (account_cache.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING

from creditfold.projections.store.chain import (
    Checkpoint,
    Line,
    activation_line,
    dead_letter_line,
    extend,
    journal_line,
)
from creditfold.projections.store.results import ChunkResult
from creditfold.projections.store.rows import hours, totals
from creditfold.projections.store.send import Draft
from creditfold.projections.store.transaction import Progress

if TYPE_CHECKING:
    from creditfold.processors.fold import plain

#: Bytes of the journal's lines that are sent at a time.
PIECE_BYTES = 2**18


def make_draft(
    partition: int,
    before: Progress,
    result: ChunkResult,
    order: Iterable[int],
    *,
    fast_lines: "plain.Lines | None" = None,
    fast_totals: Mapping[str, tuple[int, int]] | None = None,
) -> Draft:
    """A chunk's result as the store sends it.

    Args:
        partition: of the command topic.
        before: where the partition stands before the chunk.
        result: what the chunk came to.
        order: where its journal's lines stand, in the order in which they are to be sent.
        fast_lines: the journal's lines that the fast path made of it.
        fast_totals: what those lines issued and spent, by asset.
    """
    lines = [(offset, journal_line(partition, offset, entry)) for offset, entry in result.journal]
    others = _other_lines(partition, result)
    chain, checkpoints = _extended(
        before, result, merge(lines, others, key=itemgetter(0)) if others else lines, fast_lines
    )
    pieces = [] if fast_lines is None else fast_lines.by_account(PIECE_BYTES)
    in_order = [lines[at][1] for at in order]
    own = [b"\n".join(in_order) + b"\n"] if in_order else []
    sums = totals(result.journal, fast_totals or {})
    by_hour = hours(result.journal, result.accounts)
    if fast_lines is not None:
        for hour, amount in fast_lines.hours().items():
            by_hour[hour] = by_hour.get(hour, 0) + amount
    return Draft(partition, result, chain, checkpoints, [*pieces, *own], sums, by_hour)


def by_account(result: ChunkResult) -> list[int]:
    """Where a chunk's lines stand in its journal, ordered by their accounts; those about the same one keep their order.

    PostgreSQL is sent neighbours one after the other: it finds their places in an index in a third less time.
    """
    names = [entry.account for _, entry in result.journal]
    return sorted(range(len(names)), key=names.__getitem__)


def _extended(
    before: Progress, result: ChunkResult, lines: Iterable[Line], fast_lines: "plain.Lines | None"
) -> tuple[bytes, Sequence[Checkpoint]]:
    """The chain over a chunk's lines, and its checkpoints."""
    if fast_lines is None:
        return extend(before.chain, before.next_offset, result.next_offset, lines)
    chain, checkpoints = fast_lines.link(before.chain, before.next_offset, result.next_offset, lines)
    return chain, [Checkpoint(*checkpoint) for checkpoint in checkpoints]


def _other_lines(partition: int, result: ChunkResult) -> list[Line]:
    """The lines of dead letters and activations, which have no row in the journal."""
    found = [(letter.log_offset, dead_letter_line(partition, letter)) for letter in result.dead_letters]
    found += [(row.log_offset, activation_line(partition, row)) for row in result.activations]
    return sorted(found)
