"""The tables of accounts' state: balances, accounts, lots, holds, spends, transfers, schedules, and their columns.

Owns how rows of `ledger.rows` are laid out in PostgreSQL. Knows no statement.
"""

from typing import LiteralString, NamedTuple, TypeAlias

#: A column's name and type.
Column: TypeAlias = tuple[LiteralString, LiteralString]


#: The types of a number that may be missing, and of a text that is never empty.
NULLABLE: LiteralString = "bigint or NULL"


NAME: LiteralString = "text, not empty"


class Table(NamedTuple):
    """A table of state: its name, how many of its columns are its key, and its columns with their types, in order."""

    name: LiteralString
    key: int
    columns: tuple[Column, ...]


def _all(kind: LiteralString, *names: LiteralString) -> tuple[Column, ...]:
    """Columns of one type."""
    return tuple((name, kind) for name in names)


_ACCOUNT = _all(NAME, "account_id")
_OF_ASSET = _all(NAME, "account_id", "asset")
_COMMAND = _all(NAME, "account_id", "command_id")

#: In every table: where the record is that changed the row last.
_PLACE: tuple[Column, ...] = (("log_partition", "integer"), ("log_offset", "bigint"))

BALANCES = Table(
    "balances",
    2,
    (*_OF_ASSET, *_all("bigint", "available", "pending", "held", "debt", "credit_limit", "version"), *_PLACE),
)

ACCOUNTS = Table(
    "accounts", 1, (*_ACCOUNT, ("version", "bigint"), ("is_closed", "boolean"), ("frozen", "text"), *_PLACE)
)

# What can change of a lot.
_CHANGING: tuple[Column, ...] = (
    *_all("bigint", "remaining", "held", "spent", "expired", "voided", "forfeited", "reissued", "transferred"),
    *_all("boolean", "is_pending", "is_lapsed", "is_void", "is_live"),
    ("next_at_ms", NULLABLE),
)
LOTS = Table(
    "lots",
    3,
    (
        *_COMMAND,
        ("number", "integer"),
        ("asset", NAME),
        ("lot_class", "text"),
        ("priority", "smallint"),
        *_all("bigint", "effective_at_ms", "expires_at_ms"),
        ("scope", "text"),
        ("made", "bigint"),
        ("source", "text"),
        ("amount", "bigint"),
        *_CHANGING,
        *_PLACE,
    ),
)

#: What can change of lots that are there, which nearly all that are written are: two thirds of the columns. One that
#: isn't there can't be made of it, and PostgreSQL refuses to.
CHANGED_LOTS = Table(LOTS.name, LOTS.key, (*LOTS.columns[: LOTS.key], *_CHANGING, _PLACE[1]))

#: Balances of accounts that have nothing but lots that can be spent, with those of these lots that have no row. In the
#: other columns is 0.
FAST_BALANCES = Table(
    BALANCES.name,
    BALANCES.key,
    (*_OF_ASSET, *_all("bigint", "available", "version"), ("lots", "text"), ("next_at_ms", NULLABLE), *_PLACE),
)

#: Balances whose lots have all got rows.
EMPTIED_BALANCES = Table(BALANCES.name, 1, _ACCOUNT)

#: Where all lots are found, with the columns of LOTS.
ALL_LOTS = "all_lots"

HOLDS = Table(
    "holds",
    2,
    (
        *_COMMAND,
        ("asset", NAME),
        *_all("bigint", "deadline_ms", "made", "taken"),
        ("slices", "text"),
        *_all("boolean", "is_open", "is_lapsed"),
        ("next_at_ms", NULLABLE),
        *_PLACE,
    ),
)

SPENDS = Table("spends", 2, (*_COMMAND, ("asset", NAME), *_all("bigint", "made", "debt"), ("slices", "text"), *_PLACE))

TRANSFERS = Table(
    "transfers",
    2,
    (*_COMMAND, ("asset", NAME), *_all("text", "to_account", "parcels"), ("is_open", "boolean"), *_PLACE),
)

SCHEDULES = Table(
    "schedules",
    2,
    (
        *_COMMAND,
        ("asset", NAME),
        ("amount", "bigint"),
        ("period", "text"),
        ("first_at_ms", "bigint"),
        ("every", "integer"),
        *_all("bigint", "until_ms", "cap"),
        ("lot_class", "text"),
        ("priority", "smallint"),
        ("expires_after_ms", "bigint"),
        ("scope", "text"),
        ("made", "bigint"),
        ("next_number", "integer"),
        ("is_open", "boolean"),
        ("next_at_ms", NULLABLE),
        *_PLACE,
    ),
)

#: What is kept of accounts besides their balances, in the order of `credit_state.Rows`.
TABLES = (BALANCES, ACCOUNTS, LOTS, HOLDS, SPENDS, TRANSFERS, SCHEDULES)


#: What a transaction writes, in this order.
WRITTEN = (*TABLES, FAST_BALANCES, EMPTIED_BALANCES, CHANGED_LOTS)
