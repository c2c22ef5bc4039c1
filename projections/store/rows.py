"""What is written of accounts, as rows: their balances, their state, and totals, those of hours too.

Knows no connection.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from creditfold.ledger.account import Account
from creditfold.ledger.book import SETTLED
from creditfold.ledger.facts import Balance, Bucket, FactKind, Move
from creditfold.ledger.rows import Changes, take_changes
from creditfold.projections.store.account_sql import cells
from creditfold.projections.store.columns import SEPARATOR
from creditfold.projections.store.results import Cells, ChunkResult, JournalLine
from creditfold.projections.tables.account_tables import (
    ACCOUNTS,
    BALANCES,
    CHANGED_LOTS,
    EMPTIED_BALANCES,
    FAST_BALANCES,
    HOLDS,
    LOTS,
    SCHEDULES,
    SPENDS,
    TRANSFERS,
    Table,
)

#: Rows to write by table, of one maker or of several.
Rows: TypeAlias = Mapping[Table, Sequence[Cells]]

#: What the last line of the journal about each (account, asset) shows: its record's offset, its version, the balance.
LastLines: TypeAlias = dict[tuple[str, str], tuple[int, int, Balance]]


def note_last_lines(result: ChunkResult, order: Iterable[int], last: LastLines, touched: dict[str, Account]) -> None:
    """Note the last line about each (account, asset), and the accounts that have lines.

    Args:
        result: what a chunk came to.
        order: where its journal's lines stand, in the order in which their accounts' rows are to be sent.
        last: what the lines are added to.
        touched: what the accounts are added to.
    """
    journal, accounts = result.journal, result.accounts
    for at in order:
        offset, entry = journal[at]
        name = entry.account
        last[name, entry.asset] = offset, entry.version, entry.balance
        touched[name] = accounts[name]


# What accounts on the fast path have rows of, in the order of their cells.
_FAST = (FAST_BALANCES, LOTS, CHANGED_LOTS)


def state_rows(
    last: LastLines, accounts: Mapping[str, Account], fast_cells: Sequence[Cells], partition: int
) -> dict[Table, list[Cells]]:
    """The rows of accounts' state, as they are sent. The accounts forget their past.

    Args:
        last: the last lines that show what balances there are.
        accounts: state of each account that commands or time touched.
        fast_cells: rows of accounts on the fast path: of balances, of new lots, of changed lots; nothing where there
            are none.
        partition: of the command topic.
    """
    rows = changed_rows(last, accounts, partition)
    found = {table: [cells(table, own)] for table, own in rows.items() if own}
    for table, own in zip(_FAST, fast_cells, strict=False):
        if own[0]:
            found.setdefault(table, []).insert(0, own)
    return found


def changed_rows(
    last: LastLines, accounts: Mapping[str, Account], partition: int
) -> dict[Table, list[tuple[Any, ...]]]:
    """The rows to write after lines of the journal, by table. The accounts forget their past.

    Args:
        last: the last lines that show what balances there are.
        accounts: state of each account that commands or time touched.
        partition: of the command topic.
    """
    balances: list[tuple[Any, ...]] = []
    others: list[tuple[Any, ...]] = []
    for (name, asset), (offset, version, balance) in last.items():
        account = accounts[name]
        if asset:
            available, pending, held, debt = balance
            limit = account.holding(asset).limit
            balances.append((name, asset, available, pending, held, debt, limit, version, partition, offset))
        else:
            frozen = str(account.frozen or "")
            others.append((name, version, account.is_closed, frozen, partition, offset))
    state = Changes([], [], [], [], [], [], [])
    for name, account in accounts.items():
        if account.changed:
            take_changes(name, account, partition, state)
            account.forget()
    return {BALANCES: balances, ACCOUNTS: others, **dict(zip(_STATE, state, strict=True))}


#: In the order of `Changes`.
_STATE = (LOTS, CHANGED_LOTS, HOLDS, SPENDS, TRANSFERS, SCHEDULES, EMPTIED_BALANCES)


class Total(NamedTuple):
    """By how much lines changed what there is of an asset, and where it came from and went."""

    credits: int
    debt: int
    issued: int
    spent: int
    expired: int
    voided: int
    forfeited: int
    reissued: int
    in_transit: int


def totals(lines: Iterable[JournalLine], plain: Mapping[str, tuple[int, int]]) -> dict[str, Total]:
    """Sum up lines by asset: credits and debt from the balances, the rest from the moves.

    `plain` is what other lines issued and spent.
    """
    found: dict[str, _Sums] = {}
    for asset, (issued, spent) in plain.items():
        sums = _of(found, asset)
        sums.credits += issued - spent
        sums.move(Bucket.ISSUED, -issued)
        sums.move(Bucket.SPENT, spent)
    for line in lines:
        entry = line[1]
        before, balance = entry.before, entry.balance
        sums = _of(found, entry.asset)
        if balance is not before:
            sums.add_balance(before, balance)
        for fact in entry.facts:
            if fact.moves:
                _of(found, fact.asset).add_moves(fact.moves)
    return {asset: sums.total() for asset, sums in found.items() if asset}


class _Sums:
    """The sums of one asset."""

    __slots__ = ("credits", "debt", "moved")

    def __init__(self) -> None:
        self.credits = self.debt = 0
        self.moved: dict[str, int] = {}

    def add_balance(self, before: Balance, balance: Balance) -> None:
        """Add what became of a balance."""
        available, pending, held, debt = balance
        had, had_pending, had_held, had_debt = before
        self.credits += available + pending + held - had - had_pending - had_held
        self.debt += debt - had_debt

    def add_moves(self, moves: Sequence[Move]) -> None:
        """Add a fact's moves."""
        for move in moves:
            self.move(move.source, -move.amount)
            self.move(move.target, move.amount)

    def move(self, bucket: str, amount: int) -> None:
        """Add to what is in a bucket."""
        self.moved[bucket] = self.moved.get(bucket, 0) + amount

    def total(self) -> Total:
        """All that was added."""
        moved = self.moved
        return Total(
            self.credits,
            self.debt,
            -moved.get(Bucket.ISSUED, 0),
            moved.get(Bucket.SPENT, 0),
            *(moved.get(bucket, 0) for bucket in _GONE),
        )


#: What happened in an hour: hours since 1970, asset, what, the lots' class, the command's source and its reason.
Hour: TypeAlias = tuple[int, str, str, str, str, str]

HOUR_MS: Final = 3_600_000

#: Characters of a reason that are kept of an hour: its key is in an index, which takes no longer ones.
HOUR_REASON: Final = 100


def hours(lines: Iterable[JournalLine], accounts: Mapping[str, Account]) -> dict[Hour, int]:
    """Sum up by hour what lines spent and brought back, what ended in them, and which holds lapsed.

    Args:
        lines: of the journal.
        accounts: those that the lines are about, with all lots that the lines moved.
    """
    found: dict[Hour, int] = {}
    own_source = own_reason = ""
    for _, entry in lines:
        # Lines of further assets of a command come behind its own, and don't have its source and reason themselves.
        if entry.command_id is not None or entry.kind == SETTLED:
            own_source, own_reason = entry.source, entry.reason
        facts = entry.facts
        if not facts:
            continue
        number, account = entry.clock_ms // HOUR_MS, accounts[entry.account]
        source, reason = category(own_source), category(own_reason)[:HOUR_REASON]
        for fact in facts:
            for move in fact.moves:
                lot = move.lot
                what = _INTO.get(move.target)
                if what is None:
                    what = _OUT_OF_SPENT if move.source == _SPENT else _BY_FACT.get(fact.kind)
                    if what is None:
                        continue
                lot_class = "" if lot is None else str(account.lot(lot).terms.lot_class)
                hour = (number, fact.asset, what, lot_class, source, reason)
                found[hour] = found.get(hour, 0) + move.amount
    return found


def category(text: str) -> str:
    """A text by which sums are kept, as it can be sent."""
    return text.replace(SEPARATOR, " ") if SEPARATOR in text else text


# Looked up once: of an enumeration's class that is a call of Python's.
_SPENT: Final = Bucket.SPENT

#: What happens where credits go into one of these, out of what was spent, or by a fact of one of these kinds.
_INTO: Final = {bucket: str(bucket) for bucket in (Bucket.SPENT, Bucket.EXPIRED, Bucket.VOIDED, Bucket.FORFEITED)}
_OUT_OF_SPENT: Final = "refunded"
_BY_FACT: Final = {FactKind.LAPSED: "lapsed", FactKind.REPAID: "repaid"}


def _of(found: dict[str, _Sums], asset: str) -> _Sums:
    """The sums of an asset, made if there are none."""
    sums = found.get(asset)
    if sums is None:
        sums = found[asset] = _Sums()
    return sums


_GONE = (Bucket.EXPIRED, Bucket.VOIDED, Bucket.FORFEITED, Bucket.REISSUED, Bucket.IN_TRANSIT)
