"""Accounts made of the journal's facts alone, and all that is written of accounts, to be compared."""

from collections.abc import Iterable, Mapping
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, NamedTuple

from creditfold.ledger.account import Account, Due, Holding
from creditfold.ledger.apply import apply
from creditfold.ledger.facts_json import facts_of_json
from creditfold.ledger.lots import Held, Lot, Scheduled, Sent, Spent
from creditfold.ledger.rows import Changes, take_changes


class Line(NamedTuple):
    """What a line of the journal has about an account: its facts as JSON, as of an asset."""

    offset: int
    account: str
    version: int
    asset: str
    facts: str


def replay(lines: Iterable[Line]) -> dict[str, Account]:
    """The accounts that lines make of none; those of each account are in order."""
    accounts: dict[str, Account] = {}
    for line in lines:
        account = accounts.setdefault(line.account, Account())
        account.begin(line.offset)
        apply(account, facts_of_json(line.facts, line.asset))
        account.version = line.version
    return accounts


def rows(accounts: Mapping[str, Account], partition: int = 0) -> dict[str, list[Any]]:
    """Every row of accounts that were never written before, by table."""
    changes = Changes([], [], [], [], [], [], [])
    for name, account in accounts.items():
        take_changes(name, account, partition, changes)
        for lot in account.lots.values():
            lot.is_stored = False
    found: dict[str, list[Any]] = {table: sorted(some) for table, some in changes._asdict().items()}
    found["accounts"] = sorted(
        (name, account.version, account.is_closed, str(account.frozen or "")) for name, account in accounts.items()
    )
    found["balances"] = sorted(
        (name, asset, *account.balance(asset), holding.limit)
        for name, account in accounts.items()
        for asset, holding in account.holdings.items()
        if any(account.balance(asset)) or holding.limit
    )
    return found


def order_of_spending(accounts: Mapping[str, Account]) -> list[Any]:
    """What no row says: which lots a spend would take, which debts are paid first, what a schedule's cap counts."""
    return sorted(
        (
            name,
            {
                asset: (
                    [lot.id for lot in holding.unscoped],
                    {scope: [lot.id for lot in lots] for scope, lots in holding.scoped.items() if lots},
                    {spend_id: spend.debt for spend_id, spend in holding.debts.items()},
                )
                for asset, holding in sorted(account.holdings.items())
                if holding.unscoped or any(holding.scoped.values()) or holding.debts
            },
            {name: (scheduled.kept, scheduled.ending) for name, scheduled in sorted(account.schedules.items())},
        )
        for name, account in accounts.items()
    )


def contents(thing: Any, seen: set[int] | None = None) -> Any:
    """All that is in an account, or in a part of one: plain values, and each part once, by its identity thereafter."""
    seen = set() if seen is None else seen
    names = _FIELDS.get(type(thing))
    if names is not None:
        if id(thing) in seen:
            return id(thing)
        seen.add(id(thing))
        return [contents(getattr(thing, name), seen) for name in names]
    if isinstance(thing, dict):
        return [(contents(key, seen), contents(value, seen)) for key, value in thing.items()]
    # Other tuples are of plain values.
    return [contents(part, seen) for part in thing] if isinstance(thing, list | Due) else thing


def _fields(kind: type) -> list[str]:
    # Those of a compiled class have no `__slots__`, and are no members but get and set by functions.
    kinds = (MemberDescriptorType, GetSetDescriptorType)
    return [name for name in dir(kind) if not name.startswith("__") and isinstance(getattr(kind, name), kinds)]


_FIELDS = {kind: _fields(kind) for kind in (Account, Holding, Lot, Held, Spent, Sent, Scheduled)}
