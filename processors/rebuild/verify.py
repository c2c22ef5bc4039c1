"""Proves a generation, and tries out rules: by folding the log once more and comparing. Writes to no live table.

Owns what is compared with what, and the verdict. The fold it compares with is a generation of its own, made for this
and dropped again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from psycopg import Connection
from psycopg.rows import TupleRow

from creditfold.common.position import Log
from creditfold.common.settings import Settings
from creditfold.log.continuity import LogReplacedError, replacements
from creditfold.log.topics import describe_log
from creditfold.processors.rebuild.steps import ProgressObserver, Request, rebuild
from creditfold.projections.connections import pinned, snapshot
from creditfold.projections.generations.catalog import (
    Generation,
    GenerationError,
    SameGenerationError,
    bookmarks,
    generation,
    live_number,
)
from creditfold.projections.generations.removal import KEPT, drop, hold_scratch
from creditfold.projections.proof.chain import SelfCheck, chain_at, check_self, parting
from creditfold.projections.proof.dates import note_proof
from creditfold.projections.proof.differences import Difference, LineOutcome, differences
from creditfold.projections.proof.rows import (
    RowOutsideLog,
    UnchainedDifference,
    WrongBalance,
    rows_outside_log,
    unchained_differences,
    wrong_balances,
)
from creditfold.projections.proof.state import StateDifference, WrongRow, state_differences, wrong_state
from creditfold.projections.tables.scripts import refuse_other_layout

#: Most accounts with differences that are counted one by one.
MOST_ACCOUNTS = 1_000_000


class PartitionComparison(NamedTuple):
    """One partition of two generations, compared before offset `next_offset`.

    `left_intact` and `right_intact` say whether the rows of each are those that its hash chain was made of.
    """

    partition: int
    next_offset: int
    left_chain: str
    right_chain: str
    equal: bool
    left_intact: bool
    right_intact: bool


class AccountDifference(NamedTuple):
    """An account that differs: the first of its records that came to something else, and how many did."""

    account: str
    first: Difference
    records: int


class Comparison(NamedTuple):
    """What a comparison came to. `accounts` are at most as many as were asked for, in the order of the log."""

    left: int
    right: int
    right_is_fresh: bool
    equal: bool
    partitions: Sequence[PartitionComparison]
    left_wrong_balances: Sequence[WrongBalance]
    right_wrong_balances: Sequence[WrongBalance]
    left_wrong_state: Sequence[WrongRow]
    right_wrong_state: Sequence[WrongRow]
    left_strays: Sequence[RowOutsideLog]
    right_strays: Sequence[RowOutsideLog]
    side_differences: Sequence[UnchainedDifference]
    state_differences: Sequence[StateDifference]
    differing_records: int
    differing_accounts: int
    accounts: Sequence[AccountDifference]
    conclusion: str


class DecisionDiff(NamedTuple):
    """How other rules, or other code, would have decided the same history.

    `totals` counts commands by what they came to before and after, `balances_only` those that would be decided the same
    at another balance. `changes` are at most as many as were asked for, in the order of the log.
    """

    live: int
    rules: int | None
    commands: int
    changed: int
    accounts: int
    balances_only: int
    totals: Mapping[str, int]
    changes: Sequence[Difference]


def verify(
    settings: Settings,
    left: int | None,
    right: int | None,
    limit: int,
    observer: ProgressObserver,
    *,
    keep: bool = False,
) -> Comparison:
    """Compare two generations at the same offsets: the live one if `left` isn't given, a fresh fold if `right` isn't.

    Raises what a rebuild raises, and NoGenerationError.
    """
    ours = _read(settings, left)
    with _other(settings, ours, right, observer, keep=keep) as theirs:
        verdict = _compare(settings, ours, theirs, limit, observer, is_fresh=right is None)
    if verdict.equal and right is None and ours.state == "live":
        with pinned(settings.dsn, "creditfold verify") as connection:
            note_proof(connection, "verify")
    if verdict.equal or right is not None:
        return verdict
    lost = _replacements(settings, ours, theirs.log)
    return verdict._replace(conclusion=" ".join([verdict.conclusion, *(error.message for error in lost)]))


def _replacements(settings: Settings, folded: Generation, log: Log) -> list[LogReplacedError]:
    """Where the log isn't what was folded of it. A restored one, of another topic, is no matter of this."""
    if folded.log != log:
        return []
    with pinned(settings.dsn, "creditfold verify") as connection:
        return replacements(settings, log.topic, bookmarks(connection, folded.number))


def _read(settings: Settings, number: int | None) -> Generation:
    """A generation that this release can read, the live one if there is no number."""
    with pinned(settings.dsn, "creditfold verify") as connection:
        found = generation(connection, live_number(connection) if number is None else number)
    refuse_other_layout(found.number, found.layout)
    return found


@contextmanager
def _other(
    settings: Settings, ours: Generation, right: int | None, observer: ProgressObserver, *, keep: bool
) -> Iterator[Generation]:
    if right is not None:
        theirs = _read(settings, right)
        if ours.number == theirs.number:
            raise SameGenerationError("These are one and the same.", "Name another one, or none for a fresh fold.")
        # Of other topics too: a restored log has its records where they were. Not where accounts lie elsewhere.
        if ours.log.partitions != theirs.log.partitions:
            raise GenerationError(
                f"Generation {right} was folded from a topic of {theirs.log.partitions} partitions, generation "
                f"{ours.number} from one of {ours.log.partitions}.",
                "Compare two generations of one log, or of a log and its restored copy.",
            )
        yield theirs
        return
    request = Request(
        purpose=KEPT if keep else "verify",
        until_ms=ours.until_ms,
        until_offsets=ours.next_offsets,
        forced_rules=ours.forced_rules,
        note=f"to compare with generation {ours.number}",
        searchable=ours.searchable,
        by_balance=False,
    )
    with _scratch(settings, request, observer, keep=keep) as theirs:
        yield theirs


@contextmanager
def _scratch(settings: Settings, request: Request, observer: ProgressObserver, *, keep: bool) -> Iterator[Generation]:
    """A generation for the length of a block, or for longer if it is to be kept."""
    made: list[int] = []
    with pinned(settings.dsn, "creditfold verify") as connection:
        hold_scratch(connection)
        try:
            yield rebuild(settings, request, observer, on_made=made.append)
        finally:
            if made and not keep:
                with pinned(settings.dsn, "creditfold verify") as dropping:
                    drop(dropping, made[0])


def _compare(
    settings: Settings, ours: Generation, theirs: Generation, limit: int, observer: ProgressObserver, *, is_fresh: bool
) -> Comparison:
    ends = {partition: min(offset, theirs.next_offsets[partition]) for partition, offset in ours.next_offsets.items()}
    with pinned(settings.dsn, "creditfold verify") as one, pinned(settings.dsn, "creditfold verify") as two:
        observer.begin("Comparing", 0, 0)
        mine, other = (_check(one, side.number, limit) for side in (ours, theirs))
        found = Findings(limit)
        partitions = [
            _compare_partition((one, two), (ours, theirs), (mine, other), (partition, end), found)
            for partition, end in ends.items()
        ]
        unchained = unchained_differences(one, ours.number, theirs.number, ends, limit)
        state = state_differences(one, ours.number, theirs.number, ends, limit)
    decided_alike = all(row.equal for row in partitions)
    equal = decided_alike and mine.holds and other.holds and not unchained and not state
    return Comparison(
        ours.number,
        theirs.number,
        is_fresh,
        equal,
        partitions,
        mine.wrong_balances,
        other.wrong_balances,
        mine.wrong_state,
        other.wrong_state,
        mine.strays,
        other.strays,
        unchained,
        state,
        found.records,
        len(found.counts),
        found.accounts(),
        _conclusion(mine, other, equal=equal, decided_alike=decided_alike, is_fresh=is_fresh),
    )


def _compare_partition(
    connections: tuple[Connection[TupleRow], Connection[TupleRow]],
    sides: tuple[Generation, Generation],
    inspections: "tuple[Inspection, Inspection]",
    place: tuple[int, int],
    found: "Findings",
) -> PartitionComparison:
    """Compare a partition of two generations before an offset; `found` gets the differences of their decisions."""
    (left, right), (partition, end) = sides, place
    start, equal = parting(connections[0], left.number, right.number, partition, end)
    checks = [inspection.partitions[partition] for inspection in inspections]
    for check in checks:
        # Rows that were changed after the chain was made are looked for where the chain first breaks.
        start = start if check.from_offset is None else min(start, check.from_offset)
    for difference in differences(connections, left.number, right.number, partition, range(start, end)):
        equal = False
        found.add(difference)
    left_chain, right_chain = (chain_at(connections[0], side.number, partition, end).hex() for side in sides)
    return PartitionComparison(partition, end, left_chain, right_chain, equal, *(check.holds for check in checks))


class Inspection(NamedTuple):
    """What one generation's own rows say of it."""

    number: int
    partitions: Mapping[int, SelfCheck]
    wrong_balances: Sequence[WrongBalance]
    wrong_state: Sequence[WrongRow]
    strays: Sequence[RowOutsideLog]

    @property
    def holds(self) -> bool:
        """Whether nothing in it contradicts anything else in it."""
        contradicting = self.wrong_balances or self.wrong_state or self.strays
        return all(check.holds for check in self.partitions.values()) and not contradicting


def _check(connection: Connection[TupleRow], number: int, limit: int) -> Inspection:
    with snapshot(connection):
        checks = {check.partition: check for check in check_self(connection, number)}
        return Inspection(
            number,
            checks,
            wrong_balances(connection, number, limit),
            wrong_state(connection, number, limit),
            rows_outside_log(connection, number, limit),
        )


def _conclusion(left: Inspection, right: Inspection, *, equal: bool, decided_alike: bool, is_fresh: bool) -> str:
    """What was tampered with, in a sentence, as far as the chains show it."""
    if equal:
        return "Equal: the same decisions, the same balances, at the same offsets."
    altered = [str(side.number) for side in (left, right) if not side.holds]
    if altered:
        return f"Rows of generation {' and '.join(altered)} were changed after they were written."
    # Counts differ where decisions do: what is kept next to those says nothing then.
    if decided_alike and is_fresh:
        return f"What generation {left.number} keeps outside the decisions was changed after it was written."
    if is_fresh:
        return (
            f"The rows of generation {left.number} are as they were written, but the log comes to something else now: "
            "the topic was changed since, or this release decides otherwise."
        )
    if decided_alike:
        return (
            f"Generations {left.number} and {right.number} decided alike, but what one of them keeps outside the "
            "decisions was changed after it was written."
        )
    return "Both generations are as they were written, and were decided differently."


class Findings:
    """Collects differences by account: the first of each, and their number. Keeps a bounded number of them."""

    def __init__(self, limit: int) -> None:
        self.records = 0
        self.counts: Counter[str] = Counter()
        self._limit = limit
        self._first: dict[str, Difference] = {}

    def add(self, difference: Difference) -> None:
        """Count a difference."""
        self.records += 1
        account = difference.account
        if account in self.counts or len(self.counts) < MOST_ACCOUNTS:
            self.counts[account] += 1
        if account not in self._first and len(self._first) < self._limit:
            self._first[account] = difference

    def accounts(self) -> Sequence[AccountDifference]:
        """The accounts found first."""
        return [AccountDifference(name, first, self.counts[name]) for name, first in self._first.items()]


def diff(
    settings: Settings,
    rules: int | None,
    limit: int,
    observer: ProgressObserver,
) -> DecisionDiff:
    """Decide the live generation's history again, by other rules or by this code, and show what would change.

    Args:
        settings: where the servers are.
        rules: version that decides everything, or None for what the log has in force at each place.
        limit: most changes that are returned.
        observer: sees how far it is.

    Raises what a rebuild raises, and LogReplacedError if the log isn't what the live generation was folded from.
    """
    live = _read(settings, None)
    for error in _replacements(settings, live, describe_log(settings)):
        # What differs would be put down to the rules, and be the log's.
        raise error
    request = Request(
        purpose="diff",
        until_offsets=live.next_offsets,
        forced_rules=rules,
        note=f"to compare with {live.number}",
        searchable=(),
        by_balance=False,
    )
    changed = balances_only = 0
    totals: Counter[str] = Counter()
    accounts: set[str] = set()
    first: list[Difference] = []
    with (
        _scratch(settings, request, observer, keep=False) as other,
        pinned(settings.dsn, "creditfold diff") as one,
        pinned(settings.dsn, "creditfold diff") as two,
    ):
        observer.begin("Comparing", 0, 0)
        for partition, end in live.next_offsets.items():
            for difference in differences((one, two), live.number, other.number, partition, range(end)):
                if rules is not None and "rules" in (_named(difference.left), _named(difference.right)):
                    # What the log brings into force has no effect here, and is nobody's command.
                    continue
                if not difference.is_decision:
                    balances_only += difference.is_other_balance
                    continue
                changed += 1
                totals[f"{_named(difference.left)} -> {_named(difference.right)}"] += 1
                if len(accounts) < MOST_ACCOUNTS:
                    accounts.add(difference.account)
                if len(first) < limit:
                    first.append(difference)
    return DecisionDiff(
        live.number, rules, live.records, changed, len(accounts), balances_only, dict(totals.most_common()), first
    )


def _named(outcome: LineOutcome | None) -> str:
    return "nothing" if outcome is None else f"{outcome.what} {outcome.reason}".strip()
