"""The commands that show where credits are: lots, holds, transfers, schedules, each by pages. Owns no query."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from creditfold.cli.read.past import then_of
from creditfold.cli.shared.arguments import (
    AccountArgument,
    ArgumentError,
    AsOfOption,
    AssetFilterOption,
    JsonOption,
    LimitOption,
    checked_account,
)
from creditfold.cli.shared.output import NONE, Cell, counted, print_json, print_rows, print_table, say
from creditfold.cli.shared.projection import projection
from creditfold.common.position import Position

if TYPE_CHECKING:
    from datetime import datetime

    from creditfold.projections.queries.account_lists import Listing
    from creditfold.projections.queries.lots import Hold, Lot

#: Rows of a page unless a command is asked for another number.
PAGE = 100
AfterOption = Annotated[
    str | None, typer.Option("--after", metavar="ID", help="Only what comes behind it: the next page.")
]


class _Page(NamedTuple):
    """Some rows of an account's, the name of the last one where there are more, and the database server's clock."""

    rows: Sequence[Any]
    next: str | None
    now: "datetime"


def _page(
    account: str,
    listing: "Listing",
    limit: int,
    after: str | None,
    *,
    asset: str | None = None,
    as_of: str | None = None,
) -> _Page:
    """A page of what an account has, or had. Raises ArgumentError where it doesn't have what the page is behind."""
    from creditfold.projections import queries
    from creditfold.projections.connections import snapshot

    checked_account(account)
    with projection() as connection, snapshot(connection):
        place = None
        if after is not None:
            row = queries.listed_row(connection, account, listing, *_ids_of(after, listing))
            if row is None:
                raise ArgumentError(f"{account} has no {after[:140]!r} here.", "Name one as a page before shows it.")
            place = listing.place(row)
        then = {} if as_of is None else then_of(connection, account, as_of)[1]
        # One more than is wanted shows whether there are more.
        found = queries.listed(connection, account, listing, limit + 1, place, asset=asset, **then)
        now = queries.clock(connection)
    return _Page(found[:limit], _name_of(found[limit - 1]) if len(found) > limit else None, now)


def _name_of(row: Any) -> str:
    return f"{row.command_id}/{row.number}" if hasattr(row, "number") else str(row.command_id)


def _ids_of(name: str, listing: "Listing") -> tuple[str, int | None]:
    """What `_name_of` was made of."""
    if "number" not in listing.kind._fields:
        return name, None
    command_id, _, number = name.rpartition("/")
    # Of anything else there is no lot.
    return command_id, int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 0


def _print_page(
    what: str, page: _Page, nothing: str, columns: Sequence[str], cells: Callable[[Any], Sequence[Cell]], *, json: bool
) -> None:
    if json:
        print_json({what: page.rows, "next": page.next})
        return
    print_rows(page.rows, json, nothing, columns, cells)
    _say_next(page)


def _say_next(page: _Page) -> None:
    if page.next is not None:
        say(f"More: --after {page.next}")


def lots(
    account: AccountArgument,
    *,
    asset: AssetFilterOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="Also those that have nothing left, by the ids of their commands.")
    ] = False,
    as_of: AsOfOption = None,
    limit: LimitOption = PAGE,
    after: AfterOption = None,
    json: JsonOption = False,
) -> None:
    """Show an account's lots in the order of spending, and where their credits are.

    They are as the account was last settled. What time changed since, by the database server's clock, is shown as
    `expired (not settled)` or `active (not settled)`; with --json `state` is the stored one. As of a time or a position
    they are as the account was settled by then.

    \b
    Examples:
      creditfold lots alice
      creditfold lots alice --as-of 2026-06-30T23:59:59.999Z
      creditfold lots alice --asset credits --all --json
    """
    from creditfold.projections import queries

    listing = queries.EVERY_LOT if every else queries.LIVE_LOTS
    page = _page(account, listing, limit, after, asset=asset, as_of=as_of)
    if json:
        print_json({"lots": page.rows, "next": page.next})
    elif not page.rows:
        what = f"no {'' if every else 'live '}lots{f' of {asset}' if asset else ''}"
        say(f"{account} {_has(as_of)} {what}{_there(after)}.")
    else:
        print_lots(page.rows, page.now if as_of is None else None)
        _say_next(page)


def _there(after: str | None) -> str:
    return "" if after is None else " there"


def _has(as_of: str | None) -> str:
    return "has" if as_of is None else "had"


def _state(row: "Lot | Hold", now: "datetime | None") -> str:
    """A state, or the one that time has brought since the account was settled; of the past that isn't asked."""
    unsettled = None if now is None else row.unsettled_state(now)
    return row.state if unsettled is None else f"{unsettled} (not settled)"


#: Where credits of a lot can be, in the order of the columns.
PARTS = ("remaining", "held", "spent", "expired", "voided", "forfeited", "reissued", "transferred")


def print_lots(rows: "Sequence[Lot]", now: "datetime | None") -> None:
    """Print lots as a table, in the states of an instant, or the stored ones; parts that none has have no column."""
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
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that lapsed or were closed, by their ids.")] = False,
    as_of: AsOfOption = None,
    limit: LimitOption = PAGE,
    after: AfterOption = None,
    json: JsonOption = False,
) -> None:
    """Show an account's holds, the first to lapse first: what was taken, what is still held, and until when.

    They are as the account was last settled; one that lapsed since is shown as `lapsed (not settled)`. As of a time or
    a position they are as the account was settled by then.

    \b
    Examples:
      creditfold holds alice
      creditfold holds alice --all
    """
    from creditfold.projections import queries

    listing = queries.EVERY_HOLD if every else queries.OPEN_HOLDS
    page = _page(account, listing, limit, after, as_of=as_of)
    now = page.now if as_of is None else None
    _print_page(
        "holds",
        page,
        f"{account} {_has(as_of)} no {'' if every else 'open '}holds{_there(after)}.",
        ("hold", "asset", "taken", "held", "state", "deadline", "from lots"),
        lambda row: (
            *(row.command_id, row.asset, row.taken, row.held, _state(row, now), row.deadline),
            ", ".join(f"{amount:,} of {lot}/{number}" for lot, number, amount in row.slices) or NONE,
        ),
        json=json,
    )


def transfers(
    account: AccountArgument,
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that are settled.")] = False,
    limit: LimitOption = PAGE,
    after: AfterOption = None,
    json: JsonOption = False,
) -> None:
    """Show what an account sent to others and isn't settled yet, by the ids of the transfers.

    \b
    Examples:
      creditfold transfers alice
      creditfold transfers alice --all
    """
    from creditfold.projections import queries

    page = _page(account, queries.EVERY_TRANSFER if every else queries.IN_TRANSIT, limit, after)
    _print_page(
        "transfers",
        page,
        f"{account} has {'sent nothing' if every else 'nothing in transit'}{_there(after)}.",
        ("transfer", "asset", "amount", "to", "state", "changed by"),
        lambda row: (
            *(row.command_id, row.asset, row.amount, row.to_account, row.state.replace("_", " ")),
            Position(row.log_partition, row.log_offset),
        ),
        json=json,
    )


def schedules(
    account: AccountArgument, *, limit: LimitOption = PAGE, after: AfterOption = None, json: JsonOption = False
) -> None:
    """Show an account's schedules, by their ids: what they grant, how often, and when next.

    \b
    Example:
      creditfold schedules alice
    """
    from creditfold.projections import queries

    page = _page(account, queries.EVERY_SCHEDULE, limit, after)
    _print_page(
        "schedules",
        page,
        f"{account} has no schedules{_there(after)}.",
        ("schedule", "asset", "amount", "every", "state", "next turn", "next at", "until", "cap"),
        lambda row: (
            *(row.command_id, row.asset, row.amount, counted(row.every, row.period.removesuffix("s")), row.state),
            *(row.next_number, row.next_at or NONE, row.until or "no end", row.cap if row.cap is not None else NONE),
        ),
        json=json,
    )
