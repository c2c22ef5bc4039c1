"""The decisions in which two generations differ, record by record. Reads only; decides nothing.

Two generations are compared at the same next offset of each partition, since one may be ahead. Their rows before that
don't change any more.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from creditfold.common.position import MAX_OFFSET
from creditfold.projections.proof.chain import lines
from creditfold.projections.store.chain import NULL, Line, unescaped

#: Columns of a line, as lines.sql has them.
_ACCOUNT, _KIND_OF_LINE = 2, 2
_REASON = 3
_COMMAND, _KIND, _AMOUNT, _CHANGE, _BALANCE, _REJECTION, _RULES = 4, 5, 7, 8, 9, 10, 11
_ASSET, _PENDING, _FACTS = 6, 17, 22


class LineOutcome(NamedTuple):
    """One outcome of a record.

    `what` is accepted, rejected, dead letter or rules; fields that don't fit are empty. `command_id` is empty too where
    time did it; `facts` is JSON.
    """

    what: str
    account: str
    command_id: str
    kind: str
    amount: int | None
    change: int | None
    balance: int | None
    reason: str
    rules: int | None
    asset: str = ""
    pending: int = 0
    held: int = 0
    debt: int = 0
    facts: str | None = None

    @property
    def balances(self) -> tuple[int | None, int, int, int]:
        """The balances of the asset after it."""
        return self.balance, self.pending, self.held, self.debt


class Difference(NamedTuple):
    """A record of the log whose outcome for an account differs: the first of its lines that do.

    A side is None where there is no such line. `is_decision` says whether something else was decided in any of the
    lines, and not only another balance reached on the way there; `is_other_balance` whether one had another balance.
    """

    log_partition: int
    log_offset: int
    left: LineOutcome | None
    right: LineOutcome | None
    is_decision: bool
    is_other_balance: bool

    @property
    def account(self) -> str:
        """The account concerned, empty for a record without one on either side."""
        return (self.left.account if self.left else "") or (self.right.account if self.right else "")


def _decided_alike(left: LineOutcome | None, right: LineOutcome | None) -> bool:
    if left is None or right is None:
        return False
    return (left.what, left.reason, left.asset, left.change, left.facts) == (
        right.what,
        right.reason,
        right.asset,
        right.change,
        right.facts,
    )


def _difference(partition: int, offset: int, lines: tuple[Sequence[Line], Sequence[Line]]) -> Difference:
    pairs = list(zip_longest(*([outcome_of(line) for _, line in side] for side in lines)))
    otherwise = [pair for pair in pairs if not _decided_alike(*pair)]
    left, right = otherwise[0] if otherwise else next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])
    other = any(mine is None or theirs is None or mine.balances != theirs.balances for mine, theirs in pairs)
    return Difference(partition, offset, left, right, bool(otherwise), other)


def differences(
    sides: tuple[Connection[TupleRow], Connection[TupleRow]], left: int, right: int, partition: int, bounds: range
) -> Iterator[Difference]:
    """The records of a partition between two offsets whose outcomes differ, in order.

    Takes two connections, since each generation's rows are read as a stream.
    """
    mine, theirs = (
        _Lines(lines(*side, partition, bounds.start, bounds.stop)) for side in zip(sides, (left, right), strict=True)
    )
    while mine.next is not None or theirs.next is not None:
        if mine.next == theirs.next:
            mine.skip()
            theirs.skip()
            continue
        # All that is left of one record's lines about one account, so that lines that are there on one side only
        # don't pair the others with wrong ones.
        ours, others = mine.place, theirs.place
        first = min(ours, others)
        # A record without an account on one side was decided, about one, on the other.
        both = ours == others or (ours[0] == others[0] and not first[1])
        found = (
            mine.take(ours) if both or ours == first else [],
            theirs.take(others) if both or others == first else [],
        )
        yield _difference(partition, first[0], found)


class _Lines:
    """A stream of a generation's lines; `next` is the first that isn't taken, None at the end."""

    def __init__(self, found: Iterator[Line]) -> None:
        self._found = found
        self.next = next(found, None)

    def skip(self) -> None:
        """Go on to the next line."""
        self.next = next(self._found, None)

    @property
    def place(self) -> tuple[int, bytes]:
        """Offset and account of the next line, which come in this order; after all others at the end."""
        if self.next is None:
            return MAX_OFFSET, b""
        offset, line = self.next
        cells = line.decode().split("\t", _CHANGE + 1)
        return offset, b"" if cells[_CHANGE] == NULL else (unescaped(cells[_ACCOUNT]) or "").encode()

    def take(self, place: tuple[int, bytes]) -> list[Line]:
        """Take all lines of a place, of which there are few."""
        found = []
        while self.next is not None and self.place == place:
            found.append(self.next)
            self.skip()
        return found


def outcome_of(line: bytes) -> LineOutcome:
    """What a line says."""
    cells = [unescaped(cell) for cell in line.decode().split("\t")]
    if cells[_KIND_OF_LINE] == "dead letter" and cells[_CHANGE] is None:
        return LineOutcome("dead letter", "", "", "", None, None, None, cells[_REASON] or "", None)
    if cells[_KIND_OF_LINE] == "rules" and cells[_CHANGE] is None:
        return LineOutcome("rules", "", cells[5] or "", "", None, None, None, "", int(cells[_REASON] or 0))
    amount, change, balance, rules = (int(cells[column] or 0) for column in (_AMOUNT, _CHANGE, _BALANCE, _RULES))
    pending, held, debt = (int(cell or 0) for cell in cells[_PENDING : _PENDING + 3])
    account, command_id, kind = (cells[column] or "" for column in (_ACCOUNT, _COMMAND, _KIND))
    rejection = cells[_REJECTION]
    what = "accepted" if rejection is None else "rejected"
    of_asset = (rejection or "", rules, cells[_ASSET] or "", pending, held, debt, cells[_FACTS])
    return LineOutcome(what, account, command_id, kind, amount, change, balance, *of_asset)
