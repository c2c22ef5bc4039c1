"""The `statement` command. Owns its words, no query."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditfold.cli.shared.arguments import (
    AccountArgument,
    ArgumentError,
    AssetFilterOption,
    JsonOption,
    SinceOption,
    UntilOption,
    checked_account,
    period_of,
)
from creditfold.cli.shared.output import NONE, print_json, print_table, say, written
from creditfold.cli.shared.projection import projection
from creditfold.common.spreadsheet import BYTE_ORDER_MARK, csv_line

if TYPE_CHECKING:
    from creditfold.projections.queries.statement import Statement


def statement(
    account: AccountArgument,
    *,
    since: SinceOption = None,
    until: UntilOption = None,
    asset: AssetFilterOption = None,
    json: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV for a spreadsheet.")] = False,
) -> None:
    """Show what an account had before a time, each accepted line in it, and what it had after it.

    The time is by the log's clock, from --since on and before --until. Rejections change nothing and are left out.
    A long one is best had as --csv, which is written while it is read. Its cells are texts and numbers: nothing of it
    runs as a formula.

    \b
    Examples:
      creditfold statement alice --since 2026-06-01 --until 2026-07-01
      creditfold statement alice --csv > alice.csv
    """
    if json and csv:
        raise ArgumentError("A statement is either JSON or CSV.", "Leave out --json, or --csv.")
    checked_account(account)
    asked = {"since": since, "until": until}
    begin, end = period_of(since, until)
    pages = _pages(account, since=begin, until=end, asset=asset)
    if csv:
        _print_csv(pages)
        return
    first, *others = pages
    lines = [line for page in (first, *others) for line in page.lines]
    if json:
        parts = {"opening": first.opening, "lines": lines, "closing": first.closing}
        print_json({"account": account, "since": begin, "until": end, **parts})
    elif not first.closing:
        say(f"{account} has no decisions{' by then' if any(asked.values()) else ' yet'}.")
    else:
        _print_statement(first._replace(lines=lines))


def _pages(account: str, **asked: Any) -> "Iterator[Statement]":
    """The pages of a statement, all of one snapshot."""
    from creditfold.projections import queries
    from creditfold.projections.connections import snapshot

    with projection() as connection, snapshot(connection):
        page = queries.statement(connection, account, **asked)
        yield page
        while page.following is not None:
            page = queries.statement(connection, account, **asked, place=page.following)
            yield page


def _print_csv(pages: "Iterator[Statement]") -> None:
    from creditfold.projections.queries.statement import COLUMNS

    # The lines end as RFC 4180 has it, wherever this runs.
    page = next(pages)
    with written():
        write = sys.stdout.write
        write(BYTE_ORDER_MARK + csv_line(COLUMNS))
        for row in page.opening:
            write(csv_line(row.cells("opening")))
        for line in page.lines:
            write(csv_line(line.cells()))
        for page in pages:
            for line in page.lines:
                write(csv_line(line.cells()))
        for row in page.closing:
            write(csv_line(row.cells("closing")))


def _print_statement(found: "Statement") -> None:
    """One table: a row for what there was of each asset, one for each line, and one for what there is."""
    rows = [
        *(_balance_row("opening", row) for row in found.opening),
        *(
            (
                *(line.decided_at, line.kind, line.asset, line.change, line.available, line.pending, line.held),
                *(line.debt, line.command_id or NONE),
            )
            for line in found.lines
        ),
        *(_balance_row("closing", row) for row in found.closing),
    ]
    columns = ("decided at", "kind", "asset", "change", "available", "pending", "held", "debt", "command")
    print_table(columns, rows)


def _balance_row(name: str, row: Any) -> tuple[object, ...]:
    return (NONE, name, row.asset, NONE, row.available, row.pending, row.held, row.debt, NONE)
