"""Search across accounts: by a command's id, metadata, state, balance, and by what ends before an instant.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit, as the accounts were last settled.
Owns which index a search begins with: the one that finds the fewest accounts, in the order of their names, of which
everything else that is asked is looked up one by one. So a page costs what it shows, and not what there is.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from psycopg import Connection, sql

from creditfold.common.errors import CreditfoldError
from creditfold.common.instants import milliseconds_of
from creditfold.ledger.limits import MAX_SEARCHABLE_VALUE, is_id
from creditfold.projections.connections import rows_of

#: What an account can be searched by of its balance.
BALANCES = ("available", "pending", "held", "debt")

#: Accounts that are counted: with more of them it is only known that there are more.
MOST_COUNTED = 10_000

#: Balances that are shown of an account, and commands by which it was found.
SHOWN = 10


class NotSearchableError(CreditfoldError):
    """Metadata that accounts can't be searched by."""

    exit_code = 2


class AccountFilter(NamedTuple):
    """What accounts are searched by: all of it must be so. What is None or empty isn't asked.

    Fields:
        prefix: begins the account's id.
        command_id: of a command of the account that was decided.
        metadata: what commands of the account say, each under a searchable key.
        state: open, frozen (and so not open), or closed, whether it was frozen before or not.
        asset: one of which the account has, or had, credits.
        balance_of: which of BALANCES `least` and `most` are about.
        least: the least balance of the asset.
        most: the most balance of the asset.
        ends_before: an instant before which something of the asset, or of any, ends.
    """

    prefix: str = ""
    command_id: str | None = None
    metadata: Mapping[str, str] = {}
    state: str | None = None
    asset: str | None = None
    balance_of: str = "available"
    least: int | None = None
    most: int | None = None
    ends_before: datetime | None = None


class FoundBalance(NamedTuple):
    """A balance as the account was last settled."""

    account_id: str
    asset: str
    available: int
    pending: int
    held: int
    debt: int


class FoundCommand(NamedTuple):
    """A command by which an account was found."""

    account_id: str
    command_id: str
    log_partition: int
    log_offset: int


class FoundAccount(NamedTuple):
    """An account: its state, its first SHOWN balances (the one that was asked for), and its last SHOWN commands found.

    `commands` is empty where neither a command nor metadata was asked for.
    """

    account_id: str
    is_closed: bool
    frozen: str | None
    balances: Sequence[FoundBalance]
    commands: Sequence[FoundCommand]


class FoundAccounts(NamedTuple):
    """A page of accounts in the order of their names' bytes; `has_more` says whether others come after it."""

    accounts: Sequence[FoundAccount]
    has_more: bool


class AccountCount(NamedTuple):
    """How many accounts there are; `has_more` if that is MOST_COUNTED, and there are more."""

    number: int
    has_more: bool


def search_accounts(
    connection: Connection[Any], wanted: AccountFilter, limit: int = 100, after: str | None = None
) -> FoundAccounts:
    """Find accounts, in the order of their names' bytes.

    Must run in a snapshot (`creditfold.projections.connections.snapshot`).

    Args:
        connection: a reader's connection to the projection (`connected`).
        wanted: what they are searched by.
        limit: how many at most.
        after: only accounts behind this one, to page onwards.

    Returns:
        The accounts, and whether there are more.

    Raises:
        NotSearchableError: the live generation doesn't keep a key of metadata, or no ledger keeps such a value;
            or the asset of a balance is missing.

    Example:
        >>> from creditfold.projections.connections import snapshot
        >>> with snapshot(connection):
        ...     found = search_accounts(connection, AccountFilter(prefix="ada", asset="credits", least=1))
        >>> [account.account_id for account in found.accounts]
        ['ada']
    """
    _refuse_unsearchable(connection, wanted)
    search = _Search(wanted, after)
    rows = connection.execute(search.ids(), {**search.values, "rows": limit + 1}, prepare=False).fetchall()
    names = [name for (name,) in rows[:limit]]
    values = {**search.values, "names": names, "shown": SHOWN}
    states = dict[str, tuple[bool, str | None]]()
    for name, *state in connection.execute(_STATES, values).fetchall():
        states[name] = (state[0], state[1])
    balances = _by_account(rows_of(connection, FoundBalance, _BALANCES, {**values, "asset": wanted.asset}))
    text = search.commands()
    commands = {} if text is None else _by_account(rows_of(connection, FoundCommand, text, values))
    found = [
        FoundAccount(name, *states.get(name, (False, None)), balances.get(name, []), commands.get(name, []))
        for name in names
    ]
    return FoundAccounts(found, len(rows) > limit)


def count_accounts(connection: Connection[Any], wanted: AccountFilter) -> AccountCount:
    """Count accounts, MOST_COUNTED of them at most.

    Args:
        connection: a reader's connection to the projection (`connected`).
        wanted: what they are searched by.

    Returns:
        Their number, and whether there are more.

    Raises:
        NotSearchableError: as `search_accounts`.

    Example:
        >>> count_accounts(connection, AccountFilter(prefix="ada"))
        AccountCount(number=1, has_more=False)
    """
    _refuse_unsearchable(connection, wanted)
    search = _Search(wanted, None)
    text = sql.SQL("SELECT count(*) FROM ({}) AS found").format(search.ids())
    ((count,),) = connection.execute(text, {**search.values, "rows": MOST_COUNTED + 1}, prepare=False).fetchall()
    return AccountCount(min(count, MOST_COUNTED), count > MOST_COUNTED)


def searchable_metadata(connection: Connection[Any]) -> Sequence[str]:
    """The keys of metadata that accounts can be searched by, in the live generation.

    Args:
        connection: a reader's connection to the projection (`connected`).

    Returns:
        The keys, sorted.

    Example:
        >>> searchable_metadata(connection)
        []
    """
    return sorted(row[0] for row in connection.execute("SELECT key FROM ledger.searchable_metadata").fetchall())


def _refuse_unsearchable(connection: Connection[Any], wanted: AccountFilter) -> None:
    if (wanted.least is not None or wanted.most is not None) and wanted.asset is None:
        raise NotSearchableError("A balance is searched by within an asset.", "Name the asset.")
    metadata = wanted.metadata
    if not metadata:
        return
    known = searchable_metadata(connection)
    unknown = sorted(metadata.keys() - set(known))
    if unknown:
        raise NotSearchableError(
            f"Accounts can't be searched by {unknown[0][:64]!a}: the live generation keeps "
            f"{', '.join(known) or 'no metadata'}.",
            "Declare it in CREDITFOLD_SEARCHABLE_METADATA, run `creditfold rebuild`, and activate the generation.",
        )
    if not all(is_id(value, MAX_SEARCHABLE_VALUE) for value in metadata.values()):
        raise NotSearchableError(
            "Accounts can't be searched by this value: it has no characters or more than "
            f"{MAX_SEARCHABLE_VALUE}, a control character, or a space at an end.",
            "Such values aren't kept. Look the command up by its id.",
        )


def _by_account(rows: Sequence[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.account_id, []).append(row)
    return found


_STATES: LiteralString = (
    "SELECT account_id, is_closed, frozen FROM ledger.accounts WHERE account_id = ANY(%(names)s::text[])"
)
_BALANCES: LiteralString = """
    SELECT b.* FROM unnest(%(names)s::text[]) AS n (account_id)
    CROSS JOIN LATERAL (
        SELECT account_id, asset, available, pending, held, debt FROM ledger.balances b
        WHERE b.account_id = n.account_id AND (%(asset)s::text IS NULL OR b.asset = %(asset)s)
        ORDER BY asset LIMIT %(shown)s
    ) AS b
"""


class _Criterion(NamedTuple):
    """Something that is asked of an account: that one of these views has a row of it which fulfils a condition.

    `is_unique` says that a view has one such row at most.
    """

    views: tuple[LiteralString, ...]
    condition: LiteralString
    is_unique: bool = False


class _Search:
    """A search as SQL, and the values that it needs.

    Args:
        wanted: what is searched by.
        after: only accounts behind this one.
    """

    def __init__(self, wanted: AccountFilter, after: str | None) -> None:
        self._wanted = wanted
        self._criteria = _criteria(wanted)
        self.values: dict[str, Any] = {
            "after": after,
            "prefix": wanted.prefix,
            "behind": _behind(wanted.prefix),
            "command": wanted.command_id,
            "asset": wanted.asset,
            "least": wanted.least or 0,
            "most": 2**63 - 1 if wanted.most is None else wanted.most,
            "ends_ms": None if wanted.ends_before is None else milliseconds_of(wanted.ends_before),
        }
        for number, (key, value) in enumerate(sorted(wanted.metadata.items())):
            self.values |= {f"key{number}": key, f"value{number}": value}

    def ids(self) -> sql.Composed:
        """The accounts' ids, `rows` of them at most."""
        first, *rest = self._criteria or [_ANY]
        return self._from(first, rest)

    def commands(self) -> sql.Composed | None:
        """The commands by which accounts of `names` were found, None if it wasn't by one."""
        if self._wanted.command_id is not None:
            return _COMMANDS.format(_BY_ID)
        return _COMMANDS.format(_BY_METADATA) if self._wanted.metadata else None

    def _from(self, source: _Criterion, rest: Sequence[_Criterion]) -> sql.Composed:
        found = [
            _FROM.format(
                distinct=sql.SQL("" if source.is_unique else "DISTINCT"),
                view=sql.Identifier("ledger", view),
                condition=sql.SQL(source.condition),
                rest=self._rest(rest),
            )
            for view in source.views
        ]
        return found[0] if len(found) == 1 else _UNION.format(sql.SQL(" UNION ").join(found))

    def _rest(self, criteria: Sequence[_Criterion]) -> sql.Composed:
        """What is asked of each account beyond what it is found by."""
        found: list[sql.Composable] = [sql.SQL(text) for text in self._names()]
        if self._wanted.state == "open":
            found.append(sql.SQL("NOT ") + _has(_Criterion(("accounts",), "(is_closed OR frozen IS NOT NULL)")))
        found += [_has(criterion) for criterion in criteria]
        return sql.SQL("").join([sql.SQL(" AND ") + part for part in found])

    def _names(self) -> list[LiteralString]:
        given: list[tuple[bool, LiteralString]] = [
            (bool(self._wanted.prefix), "a.account_id >= %(prefix)s"),
            (self.values["behind"] is not None, "a.account_id < %(behind)s"),
            (self.values["after"] is not None, "a.account_id > %(after)s"),
        ]
        return [text for is_given, text in given if is_given]


def _criteria(wanted: AccountFilter) -> list[_Criterion]:
    """What is asked of an account, what finds the fewest first. Its name is no criterion, nor that it is open."""
    found: list[_Criterion] = []
    if wanted.command_id is not None:
        found.append(_Criterion(("journal",), "command_id = %(command)s", is_unique=True))
    found += [_Criterion(("metadata",), text) for text in _METADATA[: len(wanted.metadata)]]
    if wanted.state in _OF_STATE:
        found.append(_Criterion(("accounts",), _OF_STATE[wanted.state], is_unique=True))
    if wanted.balance_of in _PLACES and (wanted.least or 0) > 0:
        # Few have anything there, and an index has those.
        found.append(_PLACES[wanted.balance_of])
    if wanted.ends_before is not None:
        condition = _ENDING if wanted.asset is None else _ENDING + " AND asset = %(asset)s"
        found.append(_Criterion(("balance_endings", "lot_endings"), condition))
    if wanted.least is not None or wanted.most is not None:
        found.append(_Criterion(("balances",), _OF_BALANCE[wanted.balance_of], is_unique=True))
    elif wanted.asset is not None and wanted.ends_before is None:
        found.append(_Criterion(("balances",), "asset = %(asset)s", is_unique=True))
    return found


def _has(criterion: _Criterion) -> sql.Composed:
    condition = sql.SQL(criterion.condition)
    parts = [_HAS.format(view=sql.Identifier("ledger", view), condition=condition) for view in criterion.views]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(parts))


#: Any account that was decided about.
_ANY = _Criterion(("balances", "accounts"), "true")

_METADATA: Sequence[LiteralString] = (
    "key = %(key0)s AND value = %(value0)s",
    "key = %(key1)s AND value = %(value1)s",
    "key = %(key2)s AND value = %(value2)s",
    "key = %(key3)s AND value = %(value3)s",
    "key = %(key4)s AND value = %(value4)s",
    "key = %(key5)s AND value = %(value5)s",
    "key = %(key6)s AND value = %(value6)s",
    "key = %(key7)s AND value = %(value7)s",
)
_OF_STATE: dict[str | None, LiteralString] = {"frozen": "frozen IS NOT NULL AND NOT is_closed", "closed": "is_closed"}
_PLACES = {
    "held": _Criterion(("holds",), "is_open AND asset = %(asset)s"),
    "pending": _Criterion(("lots",), "is_pending AND asset = %(asset)s"),
    "debt": _Criterion(("debts",), "asset = %(asset)s"),
}
_OF_BALANCE: dict[str, LiteralString] = {
    "available": "asset = %(asset)s AND available BETWEEN %(least)s AND %(most)s",
    "pending": "asset = %(asset)s AND pending BETWEEN %(least)s AND %(most)s",
    "held": "asset = %(asset)s AND held BETWEEN %(least)s AND %(most)s",
    "debt": "asset = %(asset)s AND debt BETWEEN %(least)s AND %(most)s",
}
# The partitions are named for the index, which is by partition first.
_ENDING: LiteralString = """log_partition = ANY(ARRAY(SELECT log_partition FROM ledger.progress))
    AND next_at_ms < %(ends_ms)s AND coalesce(ends_at_ms, 0) < %(ends_ms)s"""

_FROM = sql.SQL("""(SELECT {distinct} a.account_id FROM {view} a WHERE {condition}{rest}
    ORDER BY a.account_id LIMIT %(rows)s)""")
_UNION = sql.SQL("SELECT account_id FROM ({}) AS a ORDER BY account_id LIMIT %(rows)s")
# OFFSET has each account looked up by itself, and only as many as are shown.
_HAS = sql.SQL("EXISTS (SELECT FROM {view} h WHERE h.account_id = a.account_id AND {condition} OFFSET 0)")

_COMMANDS = sql.SQL("""
    SELECT c.* FROM unnest(%(names)s::text[]) AS n (account_id)
    CROSS JOIN LATERAL ({} ORDER BY log_offset DESC LIMIT %(shown)s) AS c""")
_BY_ID = sql.SQL("""
    SELECT j.account_id, j.command_id, j.log_partition, j.log_offset FROM ledger.journal j
    WHERE j.account_id = n.account_id AND j.command_id = %(command)s""")
# All lines of a record are of its command, and of a batch's steps behind it.
_BY_METADATA = sql.SQL("""
    SELECT m.account_id, j.command_id, m.log_partition, m.log_offset FROM ledger.metadata m
    CROSS JOIN LATERAL (
        SELECT command_id FROM ledger.journal l
        WHERE l.log_partition = m.log_partition AND l.log_offset = m.log_offset AND l.account_id = m.account_id
              AND l.command_id IS NOT NULL
        ORDER BY l.version LIMIT 1
    ) AS j
    WHERE m.account_id = n.account_id AND m.key = %(key0)s AND m.value = %(value0)s""")


def _behind(prefix: str) -> str | None:
    """The first text behind all that begin with a prefix, in the order of code points; None if there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        if prefix[at] < "\U0010ffff":
            following = ord(prefix[at]) + 1
            # What PostgreSQL stores has no surrogates.
            return prefix[:at] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)
    return None
