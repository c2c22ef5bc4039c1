"""Search across accounts on a real PostgreSQL, compared with a search that looks at everything."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg import Connection

from creditfold.common.settings import Settings
from creditfold.ledger import digest
from creditfold.projections.connections import connected, snapshot
from creditfold.projections.queries import (
    AccountFilter,
    NotSearchableError,
    count_accounts,
    search_accounts,
    searchable_metadata,
)
from creditfold.projections.queries.search import BALANCES, _behind
from helpers.credit_folds import fold_in_pieces
from helpers.credit_histories import history
from helpers.support import execute, query

#: Accounts of any form that a history doesn't have: hostile names, one behind the other in the order of bytes.
NAMED = ("a!", "a%", "a_", "aa", "b'--", "user", "user-\U0010ffff", "z\U0010ffff", "\U0010ffff")


async def test_a_search_finds_what_looking_at_all_finds(prepared: Settings) -> None:
    """Whatever is combined, page by page, and counted."""
    execute(prepared, "UPDATE ledger_0001.source SET searchable = '{order,b}'")
    await fold_in_pieces(prepared, history(3, 600, plain=0.4), random.Random(1), None)
    for number, name in enumerate(NAMED):
        execute(
            prepared,
            f"""INSERT INTO ledger_0001.balances
                    (account_id, asset, available, pending, held, debt, version, log_partition, log_offset)
                VALUES ($${name}$$, 'credits', {10**number - 1}, 0, 0, 0, 1, 0, 0)""",
        )
    states = "('user', 1, true, '', 0, 0), ('m', 1, false, 'all', 0, 0)"
    execute(prepared, f"INSERT INTO ledger_0001.accounts VALUES {states}")
    found = 0
    with connected(prepared.dsn) as connection, snapshot(connection):
        assert searchable_metadata(connection) == ["b", "order"]
        everything = All(connection)
        for wanted in filters(everything):
            expected = sorted((name for name in everything.names if everything.has(name, wanted)), key=str.encode)
            assert count_accounts(connection, wanted) == (len(expected), False), wanted
            assert pages(connection, wanted, 3) == expected, wanted
            assert pages(connection, wanted, 1_000) == expected, wanted
            found += 0 < len(expected) < len(everything.names)
    assert found > 80


def pages(connection: Connection[Any], wanted: AccountFilter, size: int) -> list[str]:
    """The accounts of all pages; each is shown as it is."""
    found: list[str] = []
    while True:
        page = search_accounts(connection, wanted, size, found[-1] if found else None)
        names = [account.account_id for account in page.accounts]
        assert len(names) == size or not page.has_more
        for account in page.accounts:
            assert {balance.account_id for balance in account.balances} <= {account.account_id}
            if wanted.asset is not None:
                assert [balance.asset for balance in account.balances] == [wanted.asset]
            if wanted.command_id is not None:
                assert [command.command_id for command in account.commands] == [wanted.command_id]
            assert bool(account.commands) == bool(wanted.command_id or wanted.metadata)
        found += names
        if not page.has_more:
            return found


class All:
    """What there is, read as a whole."""

    def __init__(self, connection: Connection[Any]) -> None:
        def rows(text: str) -> list[Any]:
            return connection.execute(text).fetchall()  # type: ignore[call-overload,no-any-return]

        balances = rows("SELECT account_id, asset, available, pending, held, debt FROM ledger_0001.balances")
        self.balances = {row[:2]: dict(zip(BALANCES, row[2:], strict=True)) for row in balances}
        states = rows("SELECT account_id, is_closed, frozen FROM ledger_0001.accounts")
        self.states = {name: state for name, *state in states}
        self.lots = rows("SELECT account_id, asset, expires_at_ms FROM ledger_0001.all_lots WHERE remaining > 0")
        self.metadata = set(rows("SELECT account_id, key, value FROM ledger_0001.metadata"))
        self.commands = set(rows("SELECT account_id, command_id FROM ledger_0001.journal"))
        self.names = {name for name, _ in self.balances} | {*self.states}

    def has(self, name: str, wanted: AccountFilter) -> bool:
        """Whether an account is what is searched for."""
        closed, frozen = self.states.get(name, (False, ""))
        state = "closed" if closed else "frozen" if frozen else "open"
        mine = {asset: balance for (owner, asset), balance in self.balances.items() if owner == name}
        if wanted.asset is not None:
            mine = {asset: balance for asset, balance in mine.items() if asset == wanted.asset}
        least, most = wanted.least or 0, 2**63 if wanted.most is None else wanted.most
        ends = [at for owner, asset, at in self.lots if owner == name and asset in mine and at]
        until = None if wanted.ends_before is None else wanted.ends_before.timestamp() * 1000
        return (
            name.startswith(wanted.prefix)
            and (wanted.command_id is None or (name, wanted.command_id) in self.commands)
            and all((name, *entry) in self.metadata for entry in wanted.metadata.items())
            and (wanted.state is None or state == wanted.state)
            and (wanted.asset is None or any(least <= balance[wanted.balance_of] <= most for balance in mine.values()))
            and (until is None or any(at < until for at in ends))
        )


def filters(everything: All) -> Iterator[AccountFilter]:
    """Each thing that is asked, and many by two and three."""
    chance = random.Random(5)
    ends = sorted(at for *_, at in everything.lots if at)
    some_ends = (ends[0], ends[0] + 1, ends[len(ends) // 2], ends[-1] + 1)
    moments = [datetime.fromtimestamp(at / 1000, UTC) for at in some_ends]
    commands = sorted(command for _, command in everything.commands if command)
    parts: list[Mapping[str, Any]] = [
        *({"prefix": prefix} for prefix in ("a", "user", "user-", "back\\", "é", "z", "%", *NAMED)),
        *({"command_id": command} for command in chance.sample(commands, 4)),
        *({"metadata": entry} for entry in ({"order": "7"}, {"order": "8"}, {"order": "7", "b": "n"})),
        *({"state": state} for state in ("open", "frozen", "closed")),
        *({"asset": asset} for asset in ("credits", "gold", "none")),
        *({"ends_before": moment} for moment in moments),
        *({"ends_before": moment, "asset": "gold"} for moment in moments),
        *(
            {"asset": "credits", "balance_of": balance, **bounds}
            for balance in BALANCES
            for bounds in ({"least": 1}, {"most": 0}, {"least": 9, "most": 99}, {"least": 0}, {"least": 100})
        ),
        {"asset": "credits", "least": 5, "most": 3},
        {"asset": "credits", "least": 10**18, "most": 2**62},
    ]
    yield AccountFilter()
    yield from (AccountFilter(**part) for part in parts)
    for size in (2, 3):
        for some in chance.sample(list(itertools.combinations(parts, size)), 120):
            yield AccountFilter(**{name: value for part in some for name, value in part.items()})


def test_what_nobody_keeps_is_refused(prepared: Settings) -> None:
    """A search by what isn't kept would find nothing, and be believed."""
    execute(prepared, "UPDATE ledger_0001.source SET searchable = '{order}'")
    asked: dict[str, tuple[AccountFilter, str]] = {
        "another key": (AccountFilter(metadata={"email": "x"}), "keeps order"),
        "a control character": (AccountFilter(metadata={"order": "a\x1fb"}), "by this value"),
        "too long": (AccountFilter(metadata={"order": "x" * 257}), "by this value"),
        "nothing": (AccountFilter(metadata={"order": ""}), "by this value"),
        "no asset": (AccountFilter(least=1), "within an asset"),
    }
    questions: list[Callable[..., object]] = [search_accounts, count_accounts]
    with connected(prepared.dsn) as connection, snapshot(connection):
        for wanted, said in asked.values():
            for ask in questions:
                with pytest.raises(NotSearchableError, match=said):
                    ask(connection, wanted)


def test_the_end_of_a_prefix_is_behind_all_that_begin_with_it() -> None:
    """Compared as PostgreSQL compares, by bytes of UTF-8."""
    for prefix in ("a", "az", "a\ud7ff".encode("utf-8", "surrogatepass").decode(), "a\U0010ffff", "é"):
        behind = _behind(prefix)
        assert behind is not None
        assert (prefix + "\U0010ffff" * 9).encode() < behind.encode()
        assert not behind.startswith(prefix)
    assert _behind("\U0010ffff") is None
    assert _behind("") is None


@pytest.mark.both_cores
async def test_metadata_are_written_once_and_in_every_way(prepared: Settings) -> None:
    """One row for each declared key of what was decided: none of a repeat, nor of an id that was used before."""
    execute(prepared, "UPDATE ledger_0001.source SET searchable = '{order}'")
    records = history(7, 300, plain=0.8)
    again = [record._replace(offset=record.offset + len(records)) for record in records]
    await fold_in_pieces(prepared, [*records, *again], random.Random(2), None)
    rows = query(prepared, "SELECT log_offset, account_id, key, value FROM ledger_0001.metadata")
    decided = query(
        prepared,
        "SELECT DISTINCT log_offset, account_id, 'order', '7' FROM ledger_0001.journal WHERE extra = %s",
        (digest({"order": "7"}),),
    )
    assert len(rows) > 10
    assert sorted(rows) == sorted(decided)
    assert max(row[0] for row in rows) < len(records)
