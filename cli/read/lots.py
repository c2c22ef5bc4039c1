"""The commands that show where credits are: lots, holds, transfers, schedules. Owns no query."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.shared.arguments import AccountArgument, AssetFilterOption, JsonOption, checked_account
from creditfold.cli.shared.output import NONE, counted, print_json, print_rows, print_table, say
from creditfold.cli.shared.projection import projection
from creditfold.common.position import Position

if TYPE_CHECKING:
    from datetime import datetime

    from creditfold.projections.queries.lots import Hold, Lot


def lots(
    account: AccountArgument,
    asset: AssetFilterOption = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that have nothing left.")] = False,
    json: JsonOption = False,
) -> None:
    """Show an account's lots in the order of spending, and where their credits are.

    They are as the account was last settled. What time changed since, by the database server's clock, is shown as
    `expired (not settled)` or `active (not settled)`; with --json `state` is the stored one.

    \b
    Examples:
      creditfold lots alice
      creditfold lots alice --asset credits --all --json
    """
    from creditfold.projections import queries

    checked_account(account)
    with projection() as connection:
        rows = queries.lots(connection, account, asset, every=every)
        now = queries.clock(connection)
    if json:
        print_json(rows)
    elif not rows:
        say(f"{account} has no {'' if every else 'live '}lots{f' of {asset}' if asset else ''}.")
    else:
        print_lots(rows, now)


def _state(row: "Lot | Hold", now: "datetime") -> str:
    """A state, or the one that time has brought since the account was settled."""
    unsettled = row.unsettled_state(now)
    return row.state if unsettled is None else f"{unsettled} (not settled)"


#: Where credits of a lot can be, in the order of the columns.
PARTS = ("remaining", "held", "spent", "expired", "voided", "forfeited", "reissued", "transferred")


def print_lots(rows: "Sequence[Lot]", now: "datetime") -> None:
    """Print lots as a table, in the states of an instant; parts that none of them has have no column."""
    parts = [name for name in PARTS if name == "remaining" or any(getattr(row, name) for row in rows)]
    print_table(
        ["lot", "asset", "amount", *parts, "state", "class", "priority", "scope", "effective at", "expires at"],
        [
            [
                *(f"{row.command_id}/{row.number}", row.asset, row.amount, *(getattr(row, part) for part in parts)),
                *(_state(row, now), row.lot_class, row.priority, row.scope or NONE),
                *(row.effective_at or NONE, row.expires_at or "never"),
            ]
            for row in rows
        ],
    )


def holds(
    account: AccountArgument,
    every: Annotated[bool, typer.Option("--all", help="Also those that lapsed or were closed.")] = False,
    json: JsonOption = False,
) -> None:
    """Show an account's holds: what was taken, what is still held, and until when.

    They are as the account was last settled; one that lapsed since is shown as `lapsed (not settled)`.

    \b
    Examples:
      creditfold holds alice
      creditfold holds alice --all
    """
    from creditfold.projections import queries

    checked_account(account)
    with projection() as connection:
        rows = queries.holds(connection, account, every=every)
        now = queries.clock(connection)
    print_rows(
        rows,
        json,
        f"{account} has no {'' if every else 'open '}holds.",
        ("hold", "asset", "taken", "held", "state", "deadline", "from lots"),
        lambda row: (
            *(row.command_id, row.asset, row.taken, row.held, _state(row, now), row.deadline),
            ", ".join(f"{amount:,} of {lot}/{number}" for lot, number, amount in row.slices) or NONE,
        ),
    )


def transfers(
    account: AccountArgument,
    every: Annotated[bool, typer.Option("--all", help="Also those that are settled.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what an account sent to others and isn't settled yet.

    \b
    Examples:
      creditfold transfers alice
      creditfold transfers alice --all
    """
    from creditfold.projections import queries

    checked_account(account)
    with projection() as connection:
        rows = queries.transfers(connection, account, every=every)
    print_rows(
        rows,
        json,
        f"{account} has {'sent nothing' if every else 'nothing in transit'}.",
        ("transfer", "asset", "amount", "to", "state", "changed by"),
        lambda row: (
            *(row.command_id, row.asset, row.amount, row.to_account, row.state.replace("_", " ")),
            Position(row.log_partition, row.log_offset),
        ),
    )


def schedules(account: AccountArgument, json: JsonOption = False) -> None:
    """Show an account's schedules: what they grant, how often, and when next.

    \b
    Example:
      creditfold schedules alice
    """
    from creditfold.projections import queries

    checked_account(account)
    with projection() as connection:
        rows = queries.schedules(connection, account)
    print_rows(
        rows,
        json,
        f"{account} has no schedules.",
        ("schedule", "asset", "amount", "every", "state", "next turn", "next at", "until", "cap"),
        lambda row: (
            *(row.command_id, row.asset, row.amount, counted(row.every, row.period.removesuffix("s")), row.state),
            *(row.next_number, row.next_at or NONE, row.until or "no end", row.cap if row.cap is not None else NONE),
        ),
    )
