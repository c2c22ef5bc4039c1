"""Compares generations, and a generation with itself: rows, chain and balances. Reads only; decides nothing.

Two generations are compared at the same next offset of each partition, since one may be ahead. Their rows before that
don't change any more.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from creditfold.projections.chain import START, Line, link, unescaped
from creditfold.projections.connections import rows_of
from creditfold.projections.generations import chain_at, lines
from creditfold.projections.setup import schema_of, script
from creditfold.schemas.position import MAX_OFFSET

#: Columns of a line, as lines.sql has them.
_ACCOUNT, _KIND_OF_LINE = 2, 2
_REASON = 3
_COMMAND, _KIND, _AMOUNT, _CHANGE, _BALANCE, _REJECTION, _RULES = 4, 5, 7, 8, 9, 10, 11


class SelfCheck(NamedTuple):
    """Whether a partition's rows are those that its chain was made of.

    `from_offset` and `to_offset` bound the first place where they aren't, as near as the checkpoints tell.
    """

    partition: int
    next_offset: int
    chain: str
    holds: bool
    from_offset: int | None
    to_offset: int | None


class WrongBalance(NamedTuple):
    """A balance that isn't what the account's last decision left. None stands for a row that isn't there."""

    account_id: str
    asset: str
    log_partition: int
    available: int | None
    should_be: int | None
    version: int | None
    version_should_be: int | None


class Stray(NamedTuple):
    """A row behind, before or beside everything that was folded. `what` is the table."""

    what: str
    log_partition: int
    log_offset: int
    account: str


class SideDifference(NamedTuple):
    """Something beside the outcomes that differs: a dead letter's headers, a redrive, or a partition's progress."""

    what: str
    log_partition: int
    log_offset: int


class Outcome(NamedTuple):
    """What one record came to: `what` is accepted, rejected, dead letter or rules; fields that don't fit are empty."""

    what: str
    account: str
    command_id: str
    kind: str
    amount: int | None
    change: int | None
    balance: int | None
    reason: str
    rules: int | None


class Difference(NamedTuple):
    """A record of the log that came to something else; None where it came to nothing at all."""

    log_partition: int
    log_offset: int
    left: Outcome | None
    right: Outcome | None

    @property
    def account(self) -> str:
        """The account concerned, empty for a record without one on either side."""
        return (self.left.account if self.left else "") or (self.right.account if self.right else "")

    @property
    def is_decision(self) -> bool:
        """Whether something else was decided, and not only another balance reached on the way there."""
        if self.left is None or self.right is None:
            return True
        return (self.left.what, self.left.reason, self.left.change) != (
            self.right.what,
            self.right.reason,
            self.right.change,
        )

    @property
    def is_other_balance(self) -> bool:
        """Whether the account had another balance after it, or not at all the same record."""
        return self.left is None or self.right is None or self.left.balance != self.right.balance


@contextmanager
def snapshot(connection: Connection[TupleRow]) -> Iterator[None]:
    """See one state of the database while the block runs, whatever is written meanwhile."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def check_self(connection: Connection[TupleRow], number: int) -> Iterator[SelfCheck]:
    """Compute each partition's chain from the rows again, and compare it with the one that was kept.

    Must run in a snapshot: the live generation moves.
    """
    progress = sql.SQL("SELECT log_partition, next_offset, chain FROM {} ORDER BY log_partition").format(
        sql.Identifier(schema_of(number), "progress")
    )
    for partition, end, kept in connection.execute(progress).fetchall():
        stored = sorted(_checkpoints(connection, number, partition).items())
        chain, wrong = _recomputed(lines(connection, number, partition, 0, end), stored)
        holds = chain == bytes(kept) and wrong is None
        first = None if holds else end if wrong is None else min(wrong, end)
        before = max((offset for offset, _ in stored if first is not None and offset < first), default=0)
        yield SelfCheck(partition, end, chain.hex(), holds, None if holds else before, first)


def _recomputed(found: Iterator[Line], stored: Sequence[tuple[int, bytes]]) -> tuple[bytes, int | None]:
    """The chain of lines, and the first kept checkpoint that isn't the chain at its place."""
    chain, wrong, pending = START, None, iter([*stored, (MAX_OFFSET, b"")])
    place, kept = next(pending)
    for offset, line in found:
        while place <= offset:
            wrong = place if wrong is None and kept != chain else wrong
            place, kept = next(pending)
        chain = link(chain, line)
    while place < MAX_OFFSET:
        wrong = place if wrong is None and kept != chain else wrong
        place, kept = next(pending)
    return chain, wrong


def strays(connection: Connection[TupleRow], number: int, limit: int) -> Sequence[Stray]:
    """Rows where the fold has never been, which no chain and no replay knows of. Must run in a snapshot."""
    return rows_of(connection, Stray, script("strays.sql", schema=schema_of(number), most=limit))


def side_differences(
    connection: Connection[TupleRow], left: int, right: int, ends: Mapping[int, int], limit: int
) -> Sequence[SideDifference]:
    """What differs beside the outcomes, before these offsets: headers of dead letters, redrives, and the counts.

    The counts and the clock are compared in partitions where both generations stand at the same offset.
    """
    found: list[SideDifference] = []
    for partition, end in ends.items():
        mine, theirs = (
            script("beside.sql", schema=schema_of(one), other=schema_of(two), partition=partition, end=end)
            for one, two in ((left, right), (right, left))
        )
        query = _BESIDE.format(mine=mine, theirs=theirs, most=limit - len(found))
        found += rows_of(connection, SideDifference, query)
    return found


_BESIDE = sql.SQL("""
    SELECT what, log_partition, log_offset
    FROM ({mine}) AS m FULL JOIN ({theirs}) AS t USING (what, log_partition, log_offset)
    WHERE m.content IS DISTINCT FROM t.content
    ORDER BY log_offset LIMIT {most}
""")


def _checkpoints(connection: Connection[TupleRow], number: int, partition: int) -> Mapping[int, bytes]:
    query = sql.SQL("SELECT next_offset, chain FROM {} WHERE log_partition = %s").format(
        sql.Identifier(schema_of(number), "checkpoints")
    )
    return {offset: bytes(chain) for offset, chain in connection.execute(query, (partition,)).fetchall()}


def wrong_balances(connection: Connection[TupleRow], number: int, limit: int) -> Sequence[WrongBalance]:
    """Balances that don't follow from the journal, at most so many. Must run in a snapshot."""
    return rows_of(connection, WrongBalance, script("wrong_balances.sql", schema=schema_of(number), most=limit))


def parting(connection: Connection[TupleRow], left: int, right: int, partition: int, end: int) -> tuple[int, bool]:
    """Where two generations part in a partition, before an offset: the last checkpoint at which they agree, and whether
    they agree at the end."""
    if chain_at(connection, left, partition, end) == chain_at(connection, right, partition, end):
        return end, True
    mine, theirs = (_checkpoints(connection, number, partition) for number in (left, right))
    agreed = [offset for offset in mine if offset <= end and mine[offset] == theirs.get(offset)]
    return max(agreed, default=0), False


def differences(
    sides: tuple[Connection[TupleRow], Connection[TupleRow]], left: int, right: int, partition: int, bounds: range
) -> Iterator[Difference]:
    """The records of a partition between two offsets that came to something else, in order.

    Takes two connections, since each generation's rows are read as a stream.
    """
    pairs = _paired(
        lines(sides[0], left, partition, bounds.start, bounds.stop),
        lines(sides[1], right, partition, bounds.start, bounds.stop),
    )
    for offset, mine, theirs in pairs:
        if mine != theirs:
            yield Difference(partition, offset, outcome_of(mine), outcome_of(theirs))


def _paired(left: Iterator[Line], right: Iterator[Line]) -> Iterator[tuple[int, bytes | None, bytes | None]]:
    mine, theirs = next(left, None), next(right, None)
    while mine is not None or theirs is not None:
        if theirs is None or (mine is not None and mine[0] < theirs[0]):
            assert mine is not None  # noqa: S101 - Said to the type checker: one of the two is there.
            yield mine[0], mine[1], None
            mine = next(left, None)
        elif mine is None or theirs[0] < mine[0]:
            yield theirs[0], None, theirs[1]
            theirs = next(right, None)
        else:
            yield mine[0], mine[1], theirs[1]
            mine, theirs = next(left, None), next(right, None)


def outcome_of(line: bytes | None) -> Outcome | None:
    """What a line says."""
    if line is None:
        return None
    cells = [unescaped(cell) for cell in line.decode().split("\t")]
    if cells[_KIND_OF_LINE] == "dead letter" and cells[_CHANGE] is None:
        return Outcome("dead letter", "", "", "", None, None, None, cells[_REASON] or "", None)
    if cells[_KIND_OF_LINE] == "rules" and cells[_CHANGE] is None:
        return Outcome("rules", "", cells[5] or "", "", None, None, None, "", int(cells[_REASON] or 0))
    amount, change, balance, rules = (int(cells[column] or 0) for column in (_AMOUNT, _CHANGE, _BALANCE, _RULES))
    account, command_id, kind = (cells[column] or "" for column in (_ACCOUNT, _COMMAND, _KIND))
    rejection = cells[_REJECTION]
    what = "accepted" if rejection is None else "rejected"
    return Outcome(what, account, command_id, kind, amount, change, balance, rejection or "", rules)
