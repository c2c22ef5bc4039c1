"""The `expiring` command. Owns its words, no query."""

from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.shared.arguments import (
    ArgumentError,
    CsvOption,
    JsonOption,
    checked_account,
    duration_of,
    refuse_both,
)
from creditfold.cli.shared.output import NONE, print_csv, print_json, print_rows, print_table, say
from creditfold.cli.shared.projection import projection

if TYPE_CHECKING:
    from creditfold.projections.queries.expiring import Expiring


def expiring(
    account: Annotated[str | None, typer.Argument(help="Account id; none with --all.")] = None,
    *,
    within: Annotated[
        str, typer.Option(metavar="TIME", help="How long from now on, as 90s, 15m, 2h or 30d; not with --all.")
    ] = "30d",
    every: Annotated[bool, typer.Option("--all", help="Those of all accounts, by month.")] = False,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Show the credits that will end, unless they are spent before: by day and by lot, or of all accounts by month.

    What is held of a lot when it ends is lost where it comes back later. Days and months are in UTC. With --all the
    accounts are as they were last settled.

    \b
    Examples:
      creditfold expiring alice
      creditfold expiring alice --within 90d --json
      creditfold expiring --all
      creditfold expiring --all --csv > months.csv
    """
    from creditfold.projections import queries
    from creditfold.projections.connections import snapshot

    refuse_both(json=json, csv=csv)
    if csv and not every:
        raise ArgumentError("--csv is for --all.", "Leave it out, or give --all without an account.")
    if (account is None) != every:
        raise ArgumentError("Either one account is looked at, or all.", "Name the account, or give --all.")
    if account is None:
        with projection() as connection:
            rows = queries.expiring_totals(connection)
        columns = ("month", "asset", "lots", "remaining", "held")
        if csv:
            print_csv(columns, rows)
            return
        print_rows(rows, json, "No credits will end.", columns, lambda row: (f"{row.month:%Y-%m}", *row[1:]))
        return
    checked_account(account)
    within_ms = duration_of(within)
    with projection() as connection, snapshot(connection):
        found = queries.expiring(connection, account, within_ms)
    if json:
        print_json({**found._asdict(), "days": found.days})
    elif not found.lots:
        say(f"Nothing of {account} ends within {within}.")
    else:
        _print_expiring(found)


def _print_expiring(found: "Expiring") -> None:
    print_table(("day", "asset", "lots", "remaining", "held"), found.days)
    say("")
    print_table(
        ("expires at", "asset", "remaining", "held", "lot", "class", "scope"),
        [
            (
                *(lot.expires_at, lot.asset, lot.remaining, lot.held, f"{lot.command_id}/{lot.number}"),
                *(lot.lot_class, lot.scope or NONE),
            )
            for lot in found.lots
        ],
    )
