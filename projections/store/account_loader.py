"""Loads the state of accounts for a chunk of a claimed partition. Decides nothing.

It loads what commands and time can change: of an account's past only what a command names.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any, LiteralString, NamedTuple, TypeAlias

from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import TupleRow

from creditfold.ledger import Command
from creditfold.ledger.account import NUMBER_BITS, Account
from creditfold.ledger.rows import (
    AccountRow,
    BalanceRow,
    HoldRow,
    LotRow,
    Rows,
    ScheduleRow,
    SpendRow,
    TransferRow,
    lots_named,
    open_account,
    references,
    restore,
    spend_as_journalled,
)
from creditfold.projections.store.account_sql import (
    OF_ACCOUNTS,
    OF_COMMANDS,
    OF_NUMBERS,
    due,
    has_any,
    select,
    spends_of_the_journal,
)
from creditfold.projections.store.columns import SEPARATOR, joined, longs
from creditfold.projections.tables.account_tables import (
    ACCOUNTS,
    BALANCES,
    HOLDS,
    LOTS,
    SCHEDULES,
    SPENDS,
    TRANSFERS,
    Table,
)
from creditfold.projections.tables.inline_lots import inline_lot

#: Accounts by their names.
Accounts: TypeAlias = dict[str, Account]


_ROW_TYPES: Mapping[Table, type[Any]] = {
    LOTS: LotRow,
    HOLDS: HoldRow,
    SPENDS: SpendRow,
    TRANSFERS: TransferRow,
    SCHEDULES: ScheduleRow,
    BALANCES: BalanceRow,
    ACCOUNTS: AccountRow,
}


# What time can change, what is owed, and what keeps an account from being closed.
_OFTEN: Sequence[tuple[Table, LiteralString]] = (
    (BALANCES, OF_ACCOUNTS),
    (LOTS, OF_ACCOUNTS + " AND t.is_live LIMIT %s"),
)


# In the order of `has_any`'s columns: few accounts have any of these.
_RARELY: Sequence[tuple[Table, LiteralString]] = (
    (ACCOUNTS, OF_ACCOUNTS),
    (HOLDS, OF_ACCOUNTS + " AND t.is_open"),
    (SPENDS, OF_ACCOUNTS + " AND t.debt > 0"),
    (TRANSFERS, OF_ACCOUNTS + " AND t.is_open AND t.log_partition = ANY(%b)"),
    (SCHEDULES, OF_ACCOUNTS + " AND t.is_open"),
)


_FIELD: Mapping[Table, str] = {
    LOTS: "lots",
    HOLDS: "holds",
    SPENDS: "spends",
    TRANSFERS: "transfers",
    SCHEDULES: "schedules",
    BALANCES: "balances",
}


class LoadResult(NamedTuple):
    """What was loaded: how many lots were added with each account, and the balances of those that have nothing else."""

    lots: Mapping[str, int]
    balances: dict[str, tuple[Any, ...]]


class TooManyLotsError(Exception):
    """Accounts have more lots together than may be loaded at once; fewer accounts can be loaded."""


class UnindexedError(Exception):
    """Commands must be looked up in a journal that has no index of command ids; with one, the transaction succeeds."""


class _RowsByAccount:
    """The rows of several accounts, by account."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = defaultdict(dict)

    def add(self, table: Table, found: Iterable[Sequence[Any]]) -> None:
        """Add rows of a table; the first column of each is its account."""
        make = _ROW_TYPES[table]._make
        for name, *values in found:
            if table is ACCOUNTS:
                self.rows[name]["account"] = make(values)
            else:
                if table is BALANCES:
                    lots = values.pop()
                    if lots:
                        inline = [inline_lot(values[0], line) for line in lots.split("\n")]
                        self.rows[name].setdefault("inline", []).extend(inline)
                    # The account's version is that of the last line of any of its balances.
                    self.rows[name]["version"] = max(self.rows[name].get("version", 0), values.pop())
                self.rows[name].setdefault(_FIELD[table], []).append(make(values))

    @property
    def inline(self) -> int:
        """How many lots stood in balances."""
        return sum([len(found.get("inline", ())) for found in self.rows.values()])

    def of(self, name: str) -> Rows:
        """An account's rows."""
        found = dict(self.rows.get(name, {}))
        version = found.pop("version", 0)
        rows = Rows(**found)
        return rows._replace(account=rows.account._replace(version=max(rows.account.version, version)))


def _bare_balances(
    balances: Iterable[tuple[Any, ...]], plain: Collection[str], others: Collection[str]
) -> tuple[dict[str, tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Split balances: by account those of fast accounts with one balance and nothing else, and a list of the rest."""
    balances = list(balances)
    counts = Counter(row[0] for row in balances)
    alone: dict[str, tuple[Any, ...]] = {}
    rest: list[tuple[Any, ...]] = []
    for row in balances:
        name = row[0]
        if counts[name] == 1 and name in plain and name not in others and row[3:7] == _NOTHING:
            alone[name] = row
        else:
            rest.append(row)
    return alone, rest


#: Pending, held, debt and limit.
_NOTHING = (0, 0, 0, 0)


def account_with(balance: tuple[Any, ...]) -> Account:
    """The account of a balance in LoadResult.balances, which has nothing else. Raises CorruptStateError."""
    found = _RowsByAccount()
    found.add(BALANCES, [balance])
    return open_account(balance[0], found.of(balance[0]))


class AccountLoader:
    """State of accounts in one generation.

    Args:
        connection: in a transaction that has locked the partition, or whose writes will check the claim.
        generation: its number.
        finds_ids: whether commands can be looked up in its journal by their ids.
    """

    def __init__(self, connection: AsyncConnection[TupleRow], generation: int, *, finds_ids: bool) -> None:
        self._connection = connection
        self._generation = generation
        self._finds_ids = finds_ids

    def refuse_unindexed(self) -> None:
        """Raise UnindexedError if commands can't be looked up in the journal by their ids."""
        if not self._finds_ids:
            raise UnindexedError

    async def load(
        self,
        partitions: Collection[int],
        accounts: Accounts,
        names: Collection[str],
        commands: Sequence[Command],
        most: int | None = None,
        *,
        plain_names: Collection[str] = (),
    ) -> LoadResult:
        """Add accounts that aren't in memory, and to each account what commands name of its past.

        Args:
            partitions: of all these accounts.
            accounts: those in memory, which the others are added to. One that was never used stays absent.
            names: the accounts to load.
            commands: whose references are loaded.
            most: lots of several accounts to load at most; None for any number.
            plain_names: further accounts to load. Those with one balance and nothing else are returned as that, and not
                added.

        Returns:
            How many lots were added, and those balances.

        Raises:
            CorruptStateError: an account's rows contradict each other.
            TooManyLotsError: several accounts have more than `most` lots together.
        """
        missing = [name for name in dict.fromkeys([*names, *plain_names]) if name not in accounts]
        balances: dict[str, tuple[Any, ...]] = {}
        live = _RowsByAccount()
        # One account is loaded whatever it has.
        limit = most + 1 if most is not None and len(missing) > 1 else None
        added: dict[str, int] = {}
        if missing:
            # Sorted once: PostgreSQL's index scans would sort them for themselves, in longer.
            in_order = sorted(missing)
            balances = await self._add_live(live, partitions, in_order, limit, {*plain_names}.difference(names))
            await self._add_lots(live, accounts)
            for name in missing:
                if name in live.rows:
                    accounts[name] = open_account(name, live.of(name))
                    added[name] = len(accounts[name].lots)
        named = await self._named(accounts, commands)
        await self._add_lots(named, accounts)
        for name in named.rows:
            before = len(accounts[name].lots)
            restore(accounts[name], named.of(name))
            added[name] = added.get(name, 0) + len(accounts[name].lots) - before
        return LoadResult(added, balances)

    async def _add_live(
        self,
        found: _RowsByAccount,
        partitions: Collection[int],
        names: Sequence[str],
        limit: int | None,
        plain: Collection[str],
    ) -> dict[str, tuple[Any, ...]]:
        """Add the live rows of accounts; returns the balances of plain accounts that have nothing else.

        Raises TooManyLotsError if there are `limit` lots or more.
        """
        joined_names, all_partitions = SEPARATOR.join(names), longs(partitions)
        more = {TRANSFERS: (all_partitions,), LOTS: (limit,)}
        async with self._connection.pipeline():
            often = [await self._ask(*one, joined_names, *more.get(one[0], ())) for one in _OFTEN]
            query = has_any(self._generation)
            values = {"accounts": joined_names, "partitions": all_partitions}
            rare = await self._connection.execute(query, values, binary=True)
        balances, lots = [await cursor.fetchall() for cursor in often]
        found.add(LOTS, lots)
        there = [one for one, is_there in zip(_RARELY, await rare.fetchone() or (), strict=True) if is_there]
        await self._add_all(found, [(*one, (joined_names, *more.get(one[0], ()))) for one in there])
        alone, others = _bare_balances(balances, plain, found.rows)
        found.add(BALANCES, others)
        if limit is not None and len(lots) + found.inline >= limit:
            raise TooManyLotsError
        return alone

    async def _named(self, accounts: Accounts, commands: Sequence[Command]) -> _RowsByAccount:
        """Rows that commands name, of accounts in memory, except those that are loaded already."""
        found, wanted = _RowsByAccount(), references(commands)
        keys: dict[Table, list[tuple[str, str]]] = {}
        for table, pairs in (
            (HOLDS, wanted.holds),
            (SCHEDULES, wanted.schedules),
            (TRANSFERS, wanted.transfers),
            (LOTS, wanted.lots),
            (SPENDS, wanted.spends),
        ):
            missing = [
                (name, command_id)
                for name, command_id in dict.fromkeys(pairs)
                if name in accounts and (table is LOTS or command_id not in getattr(accounts[name], _FIELD[table]))
            ]
            if missing:
                keys[table] = missing
        await self._add_all(found, [(table, OF_COMMANDS, joined(own)) for table, own in keys.items()])
        if SPENDS in keys:
            changed = {(name, row.command_id) for name in found.rows for row in found.of(name).spends}
            found.add(SPENDS, await self._journalled([key for key in keys[SPENDS] if key not in changed]))
        return found

    async def _journalled(self, keys: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
        if not keys:
            return []
        self.refuse_unindexed()
        cursor = await self._connection.execute(spends_of_the_journal(self._generation), joined(keys), binary=True)
        rows = (
            (name, spend_as_journalled(command_id, asset, offset << NUMBER_BITS, facts))
            for name, command_id, asset, offset, facts in await cursor.fetchall()
        )
        return [(name, *row) for name, row in rows if row is not None]

    async def _add_lots(self, found: _RowsByAccount, accounts: Accounts) -> None:
        """Add the lots that slices are of and that aren't loaded."""
        wanted = []
        for name in found.rows:
            rows = found.of(name)
            there = {(lot.command_id, lot.number) for lot in (*rows.lots, *(lot for lot, _ in rows.inline))}
            if name in accounts:
                there |= {(lot_id.command_id, lot_id.number) for lot_id in accounts[name].lots}
            wanted += [(name, *lot) for lot in dict.fromkeys(lots_named(rows)) if lot not in there]
        if wanted:
            found.add(LOTS, await self._select(LOTS, OF_NUMBERS, *joined(wanted)))

    async def _add_all(
        self, found: _RowsByAccount, questions: Sequence[tuple[Table, LiteralString, Sequence[Any]]]
    ) -> None:
        """Add what questions find, of a table and a condition with its values each, which are asked together."""
        if not questions:
            return
        async with self._connection.pipeline():
            asked = [await self._ask(table, condition, *values) for table, condition, values in questions]
        for (table, *_), cursor in zip(questions, asked, strict=True):
            found.add(table, await cursor.fetchall())

    async def _ask(self, table: Table, condition: LiteralString, *values: Any) -> AsyncCursor[TupleRow]:
        return await self._connection.execute(select(table, self._generation, condition), values, binary=True)

    async def _select(self, table: Table, condition: LiteralString, *values: Any) -> list[TupleRow]:
        return await (await self._ask(table, condition, *values)).fetchall()

    async def due(self, partition: int, clock_ms: int, page: int) -> AsyncIterator[list[str]]:
        """The accounts of a partition that have something due at an instant, at most `page` at a time.

        In the order of their names. What is written meanwhile makes no difference to it.
        """
        async with self._connection.cursor("due") as cursor:
            await cursor.execute(due(self._generation), {"partition": partition, "clock": clock_ms})
            while rows := await cursor.fetchmany(page):
                yield [name for (name,) in rows]
