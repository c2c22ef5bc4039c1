"""The `accounts` command. Owns its words, no query."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from creditfold.cli.shared.arguments import JsonOption, LimitOption, checked_account, metadata_of, moment_of
from creditfold.cli.shared.output import NONE, Cell, print_json, print_table, say
from creditfold.cli.shared.projection import projection
from creditfold.common.position import Position

if TYPE_CHECKING:
    from creditfold.projections.queries import FoundAccount

# PostgreSQL's bigint.
_MOST = 2**63 - 1


def accounts(
    *,
    prefix: Annotated[str, typer.Option("--prefix", help="Only those that begin so.")] = "",
    command: Annotated[str | None, typer.Option("--command", help="A command of theirs has this id.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata", "-m", metavar="NAME=VALUE", help="A command of theirs says so; the name is a searchable key."
        ),
    ] = None,
    state: Annotated[
        Literal["open", "frozen", "closed"] | None, typer.Option("--state", help="One that is frozen isn't open.")
    ] = None,
    asset: Annotated[str | None, typer.Option("--asset", help="They have or had credits of it.")] = None,
    balance: Annotated[
        Literal["available", "pending", "held", "debt"],
        typer.Option("--balance", help="What --least and --most are about."),
    ] = "available",
    least: Annotated[int | None, typer.Option(min=0, max=_MOST, help="The least balance of the asset.")] = None,
    most: Annotated[int | None, typer.Option(min=0, max=_MOST, help="The most balance of the asset.")] = None,
    ends_before: Annotated[
        str | None,
        typer.Option("--ends-before", metavar="TIME", help="Something ends before then (ISO 8601, UTC)."),
    ] = None,
    limit: LimitOption = 20,
    after: Annotated[str | None, typer.Option("--after", help="Only those behind this account: the next page.")] = None,
    count: Annotated[bool, typer.Option("--count", help="Count them instead.")] = False,
    json: JsonOption = False,
) -> None:
    """Find accounts: by a command or by what it says, by state, by balance, by what ends. All that is asked must be so.

    Balances are as the accounts were last settled. Keys of metadata are searchable that CREDITFOLD_SEARCHABLE_METADATA
    had when the live generation was made.

    \b
    Examples:
      creditfold accounts --command order-17
      creditfold accounts --metadata order_id=17 --json
      creditfold accounts --prefix eu- --state frozen --count
      creditfold accounts --asset credits --least 1000 --ends-before 2027-01-01
    """
    from creditfold.projections import queries
    from creditfold.projections.connections import snapshot

    said = metadata_of(metadata or [])
    ends = None if ends_before is None else moment_of(ends_before)
    wanted = queries.AccountFilter(prefix, command, said, state, asset, balance, least, most, ends)
    with projection() as connection, snapshot(connection):
        if count:
            counted = queries.count_accounts(connection, wanted)
            print_json(counted) if json else say(f"{counted.number:,}{' and more' if counted.has_more else ''}")
            return
        page = queries.search_accounts(connection, wanted, limit, None if after is None else checked_account(after))
    if json:
        print_json(page)
    elif not page.accounts:
        say("There is no such account.")
    else:
        _print_found(page.accounts)
        if page.has_more:
            say(f"More: --after {page.accounts[-1].account_id}")


def _print_found(found: "Sequence[FoundAccount]") -> None:
    is_by_command = any(account.commands for account in found)
    print_table(
        [
            *("account", "state", "asset", "available", "pending", "held", "debt"),
            *(("position", "command") if is_by_command else ()),
        ],
        [row for account in found for row in _rows(account, is_by_command=is_by_command)],
    )


def _rows(account: "FoundAccount", *, is_by_command: bool) -> Iterator[list[Cell]]:
    """A line for each balance and for each command, as many as there are more of."""
    state = "closed" if account.is_closed else f"frozen: {account.frozen}" if account.frozen else "open"
    for number in range(max(1, len(account.balances), len(account.commands))):
        balance = account.balances[number] if number < len(account.balances) else None
        command = account.commands[number] if number < len(account.commands) else None
        row: list[Cell] = [account.account_id, state]
        row += [NONE] * 5 if balance is None else balance[1:]
        if is_by_command:
            place = NONE if command is None else Position(command.log_partition, command.log_offset)
            row += [str(place), NONE if command is None else command.command_id]
        yield row
