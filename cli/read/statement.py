"""The `statement` command. Owns its words, no query."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from creditfold.cli.shared.arguments import (
    AccountArgument,
    AssetFilterOption,
    CsvOption,
    JsonOption,
    SinceOption,
    UntilOption,
    checked_account,
    period_of,
    refuse_both,
)
from creditfold.cli.shared.output import NONE, print_csv, print_json_object, print_long_table, say
from creditfold.cli.shared.projection import projection

if TYPE_CHECKING:
    from creditfold.projections.queries.statement import Statement, StatementLine


def statement(
    account: AccountArgument,
    *,
    since: SinceOption = None,
    until: UntilOption = None,
    asset: AssetFilterOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Show what an account had before a time, each accepted line in it, and what it had after it.

    The time is by the log's clock, from --since on and before --until. Rejections change nothing and are left out.
    It is printed while it is read, however long it is. Cells of --csv are texts and numbers: nothing of it runs as a
    formula.

    \b
    Examples:
      creditfold statement alice --since 2026-06-01 --until 2026-07-01
      creditfold statement alice --csv > alice.csv
    """
    refuse_both(json=json, csv=csv)
    checked_account(account)
    asked = {"since": since, "until": until}
    begin, end = period_of(since, until)
    pages = _pages(account, since=begin, until=end, asset=asset)
    if csv:
        _print_csv(pages)
        return
    first = next(pages)
    lines = (line for page in chain([first], pages) for line in page.lines)
    if json:
        parts = {"opening": first.opening, "lines": lines, "closing": first.closing}
        print_json_object({"account": account, "since": begin, "until": end, **parts})
    elif not first.closing:
        say(f"{account} has no decisions{' by then' if any(asked.values()) else ' yet'}.")
    else:
        _print_statement(first, lines)


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

    print_csv(COLUMNS, _cells(pages))


def _cells(pages: "Iterator[Statement]") -> Iterator[Sequence[object]]:
    first = next(pages)
    yield from (row.cells("opening") for row in first.opening)
    for page in chain([first], pages):
        yield from (line.cells() for line in page.lines)
    yield from (row.cells("closing") for row in first.closing)


def _print_statement(found: "Statement", lines: "Iterable[StatementLine]") -> None:
    """One table: a row for what there was of each asset, one for each line, and one for what there is."""
    columns = ("decided at", "kind", "asset", "change", "available", "pending", "held", "debt", "command")
    opening = [_balance_row("opening", row) for row in found.opening]
    closing = [_balance_row("closing", row) for row in found.closing]
    print_long_table(columns, chain(opening, map(_line_row, lines), closing))


def _line_row(line: "StatementLine") -> tuple[object, ...]:
    amounts = (line.change, line.available, line.pending, line.held, line.debt)
    return (line.decided_at, line.kind, line.asset, *amounts, line.command_id or NONE)


def _balance_row(name: str, row: Any) -> tuple[object, ...]:
    return (NONE, name, row.asset, NONE, row.available, row.pending, row.held, row.debt, NONE)
