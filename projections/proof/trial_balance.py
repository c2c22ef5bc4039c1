"""Double entry, proven from the journal: what the accounts have, and where it came from and went, must sum to zero.

The accounts' side is what their last lines left them, the other side the sums of the moves of all facts; at the
present position the balances, the lots and the totals must say the same. Reads the views in schema `ledger` only, and
holds nothing of the journal in memory.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from psycopg import Connection

from creditfold.common.position import Position
from creditfold.projections.connections import rows_of
from creditfold.projections.queries.ledger_lines import UnknownPartitionError
from creditfold.projections.queries.progress import NotYetFoldedError, progress
from creditfold.projections.tables.scripts import script_text


class Sides(NamedTuple):
    """One asset: what the accounts have and owe, what was issued, and what went elsewhere."""

    asset: str
    available: int
    pending: int
    held: int
    debt: int
    issued: int
    spent: int
    expired: int
    voided: int
    forfeited: int
    reissued: int
    in_transit: int

    @property
    def credits(self) -> int:
        """The credits that the accounts have."""
        return self.available + self.pending + self.held

    @property
    def difference(self) -> int:
        """By how much the sides differ: zero, or something is wrong."""
        return self.credits - self.debt + sum(self[6:]) - self.issued


class Fault(NamedTuple):
    """Something that doesn't balance: its asset, a description, and the account if it concerns one."""

    asset: str
    what: str
    account_id: str | None = None


class TrialBalance(NamedTuple):
    """The sums of each asset before an offset of each partition, and everything that doesn't balance."""

    ends: Mapping[int, int]
    is_present: bool
    assets: Sequence[Sides]
    faults: Sequence[Fault]


#: How many accounts are named at most.
MOST_NAMED = 20

_Sums: TypeAlias = Mapping[str, int]
#: By asset and table.
_State: TypeAlias = Mapping[tuple[str, str], _Sums]
_NO_STATE: _State = {}


def trial_balance(
    connection: Connection[Any],
    *,
    at: Sequence[Position] = (),
    until: datetime | None = None,
    asset: str | None = None,
) -> TrialBalance:
    """Draw up the trial balance. Must run in a snapshot.

    Args:
        connection: to the projection.
        at: the last record that counts, of any partitions; of the others all that was folded.
        until: the last instant of the log's clock that counts.
        asset: only this one.

    Raises NotYetFoldedError when the fold hasn't passed a position, UnknownPartitionError for one of no partition.
    """
    folded = {row.log_partition: row.next_offset for row in progress(connection)}
    ends = folded | _ends(folded, at)
    is_present = until is None and ends == folded
    journal = _journal_sums(connection, ends, until, asset)
    state = _state_sums(connection, asset) if is_present else _NO_STATE
    names = sorted({*journal, *(name for name, _ in state)})
    assets = [_sides(name, journal[name]) for name in names]
    faults = [Fault(row.asset, what) for row in assets for what in _within(row, journal[row.asset])]
    if is_present:
        faults += [Fault(row.asset, what) for row in assets for what in _against(row, journal[row.asset], state)]
        values = {"asset": asset, "most": MOST_NAMED}
        faults += rows_of(connection, Fault, script_text("proof/trial_accounts.sql"), values)
    return TrialBalance(ends, is_present, assets, faults)


def _ends(folded: Mapping[int, int], at: Sequence[Position]) -> dict[int, int]:
    """The next offset behind each of some positions, by partition. Raises as `trial_balance` does."""
    for position in at:
        if folded and position.partition not in folded:
            raise UnknownPartitionError(
                f"The projection has no partition {position.partition}.", f"It has 0 to {max(folded)}."
            )
        if position.offset >= folded.get(position.partition, 0):
            raise NotYetFoldedError(f"The fold has not reached {position} yet.", "See `creditfold status`.")
    return {position.partition: position.offset + 1 for position in at}


def _journal_sums(
    connection: Connection[Any], ends: Mapping[int, int], until: datetime | None, asset: str | None
) -> Mapping[str, _Sums]:
    """The sums of the journal before some offsets, by asset."""
    values = {"partitions": list(ends), "ends": list(ends.values()), "until": until, "asset": asset}
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, what, amount in connection.execute(script_text("proof/trial_balance.sql"), values):
        found[name][what] = int(amount)
    return found


def _state_sums(connection: Connection[Any], asset: str | None) -> _State:
    """The sums of the tables of state, by asset and table."""
    found: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, table, what, amount in connection.execute(script_text("proof/trial_state.sql"), {"asset": asset}):
        found[name, table][what] += int(amount)
    return found


def _sides(asset: str, sums: _Sums) -> Sides:
    places = ("spent", "expired", "voided", "forfeited", "reissued", "in_transit")
    return Sides(
        asset,
        sums["available"],
        sums["pending"],
        sums["held"],
        sums["debt"],
        -sums["to issued"],
        *(sums[f"to {place}"] for place in places),
    )


def _within(row: Sides, sums: _Sums) -> list[str]:
    """Where the journal contradicts itself."""
    kept = sums["to remaining"] + sums["to held"]
    return [
        *([f"the two sides differ by {row.difference:,}"] if row.difference else []),
        *_differences("moves", {"credits": row.credits, "held": row.held}, {"credits": kept, "held": sums["to held"]}),
        *_differences("moves", {"debt": row.debt}, {"debt": -sums["to debt"]}),
        *_differences("journal's changes", {"available": row.available}, {"available": sums["change"]}),
    ]


def _expected(row: Sides, sums: _Sums) -> dict[str, _Sums]:
    """What the tables of state should say."""
    balances = {name: getattr(row, name) for name in ("available", "pending", "held", "debt")}
    totals = {name: getattr(row, name) for name in ("credits", *Sides._fields[4:])}
    lots = {name: sums[f"of lots to {name}"] for name in ("expired", "voided", "forfeited")}
    # What repaid a debt was spent when the debt was made, and counts as spent in its lot.
    lots["spent"] = sums["of lots to spent"] + sums["of lots to debt"]
    lots |= {"remaining": row.available + row.pending, "held": row.held}
    return {"balances": balances, "totals": totals, "lots": lots}


def _against(row: Sides, sums: _Sums, state: _State) -> list[str]:
    """Where the tables of state contradict the journal."""
    expected = _expected(row, sums)
    return [what for table in expected for what in _differences(table, expected[table], state[row.asset, table])]


def _differences(table: str, expected: _Sums, found: _Sums) -> list[str]:
    return [
        f"the {table} come to {found[name]:,} {name.replace('_', ' ')}, and the journal to {amount:,}"
        for name, amount in expected.items()
        if found[name] != amount
    ]
