"""The commands of sums over all accounts in a time: spent, ended. Owns their words, no query."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditfold.cli.shared.arguments import (
    MAX_ROWS,
    ArgumentError,
    AssetFilterOption,
    CsvOption,
    JsonOption,
    LimitOption,
    SinceOption,
    UntilOption,
    checked_account,
    period_of,
    refuse_both,
)
from creditfold.cli.shared.output import NONE, OLDER, print_csv, print_rows, say
from creditfold.cli.shared.projection import projection

if TYPE_CHECKING:
    from creditfold.projections.queries.ended import Ended

ByOption = Annotated[
    list[str] | None,
    typer.Option("--by", metavar="NAME", help="class, source or reason; may be repeated. Default: all three."),
]


def spent(
    *,
    since: SinceOption = None,
    until: UntilOption = None,
    asset: AssetFilterOption = None,
    by: ByOption = None,
    limit: LimitOption = MAX_ROWS,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Show what all accounts spent in a time, by the lots' class and the commands' source and reason.

    The time begins and ends with an hour in UTC. Refunds and what repaid debt have columns of their own; the class
    `debt` is what was spent without having it. Of a reason the first 100 characters count.

    \b
    Examples:
      creditfold spent --since 2026-06-01 --until 2026-07-01
      creditfold spent --by class --json
      creditfold spent --since 2026-06-01 --csv > june.csv
    """
    from creditfold.projections import queries

    refuse_both(json=json, csv=csv)
    groups = _groups(by)
    begin, end = period_of(since, until)
    with projection() as connection:
        rows = queries.spent(connection, since=begin, until=end, asset=asset, by=groups, limit=limit)
    columns = ("asset", "class", "source", "reason", "spent", "refunded", "repaid")
    _print(rows, columns, "Nothing was spent in that time.", json=json, csv=csv)


def ended(
    account: Annotated[str | None, typer.Argument(help="Account id; without one, all accounts.")] = None,
    *,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 20,
    totals: Annotated[bool, typer.Option("--totals", help="Sums by what ended, class, source and reason.")] = False,
    asset: Annotated[str | None, typer.Option("--asset", help="With --totals: only of this asset.")] = None,
    by: ByOption = None,
    json: JsonOption = False,
    csv: CsvOption = False,
) -> None:
    """Show what expired, was voided or forfeited, and the holds that lapsed, the latest first, and why.

    With --totals the sums of a time over all accounts, which begins and ends with an hour in UTC.

    \b
    Examples:
      creditfold ended alice
      creditfold ended --since 2026-06-01 --until 2026-06-02
      creditfold ended --totals --since 2026-06-01 --until 2026-07-01 --csv
    """
    from creditfold.projections import queries

    refuse_both(json=json, csv=csv)
    begin, end = period_of(since, until)
    if not totals:
        if asset is not None or by is not None:
            raise ArgumentError("--asset and --by are for --totals.", "Leave them out, or give --totals.")
        only = checked_account(account) if account is not None else None
        with projection() as connection:
            # One more than is wanted shows whether there are more.
            lines = queries.ended(connection, limit + 1, only, since=begin, until=end)
        _print_ended(lines[:limit], json=json, csv=csv)
        if len(lines) > limit and not (json or csv):
            say(OLDER)
        return
    if account is not None:
        raise ArgumentError("--totals are of all accounts.", "Leave out the account, or --totals.")
    groups = _groups(by)
    with projection() as connection:
        rows = queries.ended_totals(connection, since=begin, until=end, asset=asset, by=groups, limit=MAX_ROWS)
    columns = ("asset", "what", "class", "source", "reason", "amount")
    _print(rows, columns, "Nothing ended in that time.", json=json, csv=csv)


def _groups(by: list[str] | None) -> list[str]:
    """What tells sums apart. Raises ArgumentError."""
    from creditfold.projections.queries.hours import GROUPS

    chosen = list(GROUPS) if by is None else by
    for name in chosen:
        if name not in GROUPS:
            raise ArgumentError(f"Sums aren't told apart by {name[:60]!r}.", f"--by is one of {', '.join(GROUPS)}.")
    return chosen


def _print(rows: Any, columns: tuple[str, ...], nothing: str, *, json: bool, csv: bool) -> None:
    if csv:
        print_csv(columns, rows)
    else:
        print_rows(rows, json, nothing, columns, lambda row: [NONE if cell is None else cell for cell in row])


def _print_ended(lines: "list[Ended] | Any", *, json: bool, csv: bool) -> None:
    columns = (
        "ended at",
        "account",
        "asset",
        "what",
        "amount",
        "lot",
        "why",
        "source",
        "reason",
        "settled at",
        "position",
    )
    rows = [
        (
            *(line.at, line.account_id, line.asset, line.what, line.amount, f"{line.lot_command}/{line.lot_number}"),
            *(_why(line), line.source, line.note, line.decided_at, line.position),
        )
        for line in lines
    ]
    if csv:
        print_csv(columns, rows)
    else:
        print_rows(lines if json else rows, json, "Nothing ended in that time.", columns, lambda row: row)


def _why(line: "Ended") -> str:
    """What ended it: a command, the lot's end, or the hold's deadline."""
    if line.hold is not None:
        return f"deadline of hold {line.hold}"
    return "its time was over" if line.command_id is None else f"{line.kind} {line.command_id}"
