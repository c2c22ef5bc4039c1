"""The commands that show what was decided: history, rejections. Owns their words, no query."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditfold.cli.shared.arguments import (
    AccountArgument,
    ArgumentError,
    JsonOption,
    LimitOption,
    SinceOption,
    UntilOption,
    checked_account,
    period_of,
)
from creditfold.cli.shared.output import NONE, OLDER, print_json, print_rows, print_table, say
from creditfold.cli.shared.projection import projection
from creditfold.common.position import Position

if TYPE_CHECKING:
    from creditfold.schemas.outcome import Decision

# PostgreSQL's bigint.
MAX_VERSION = 2**63 - 1


def history(
    account: AccountArgument,
    *,
    limit: LimitOption = 20,
    before: Annotated[
        int | None, typer.Option(min=1, max=MAX_VERSION, help="Only decisions before this version: the next page.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    wide: Annotated[bool, typer.Option("--wide", help="With what was pending, held and owed after each line.")] = False,
    facts: Annotated[bool, typer.Option("--facts", help="With what happened: each move of credits.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what was decided about an account, newest first, rejections included.

    A line without a command is of what time did (`settled`), or of a further asset that a command touched.

    \b
    Examples:
      creditfold history alice
      creditfold history alice --wide --facts
      creditfold history alice --limit 100 --before 250
      creditfold history alice --since 2026-06-01 --until 2026-07-01
    """
    from creditfold.projections import queries

    checked_account(account)
    begin, end = period_of(since, until)
    with projection() as connection:
        rows = queries.history(connection, account, limit, before, since=begin, until=end)
    if json:
        print_json(rows)
    elif not rows:
        say(f"{account} has no decisions{' there' if before or since or until else ' yet'}.")
    else:
        print_decisions(rows, wide=wide, facts=facts)
        if len(rows) == limit and rows[-1].version > 1:
            say(f"Older ones: --before {rows[-1].version}")


def print_decisions(lines: "Sequence[Decision]", *, wide: bool = False, facts: bool = False) -> None:
    """Print journal lines as a table."""
    print_table(
        [
            *("version", "decided at", "kind", "amount", "change", "balance"),
            *(("pending", "held", "debt") if wide else ()),
            *("asset", "outcome", "position", "command"),
            *(("facts",) if facts else ()),
        ],
        [
            [
                *(line.version, line.decided_at, line.kind, line.amount, line.change, line.balance),
                *((line.pending, line.held, line.debt) if wide else ()),
                line.asset or NONE,
                _outcome(line.command_id, line.rejection, line.step),
                Position(line.log_partition, line.log_offset),
                line.command_id or NONE,
                *((_facts(line.facts),) if facts else ()),
            ]
            for line in lines
        ],
    )


def _outcome(command_id: str | None, rejection: str | None, step: int | None) -> str:
    if command_id is None:
        return NONE
    return (rejection or "accepted") + (f" at step {step}" if step is not None else "")


def _facts(facts: "Sequence[dict[str, Any]]") -> str:
    """Facts in one line: each with its reference and the moves of credits."""
    return "; ".join(_fact(fact) for fact in facts)


def _fact(fact: dict[str, Any]) -> str:
    moves = ", ".join(
        f"{amount:,} {source} to {target}{f' of {lot}/{number}' if lot else ''}"
        for lot, number, source, target, amount in fact.get("moves", ())
    )
    return " ".join(filter(None, (fact["kind"], fact["ref"], fact.get("detail"), f"({moves})" if moves else "")))


def rejections(
    account: Annotated[str | None, typer.Option("--account", "-a", help="Only this account's.")] = None,
    *,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 20,
    totals: Annotated[bool, typer.Option("--totals", help="Count all of them by reason instead.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the commands that were rejected, newest first, and why.

    \b
    Examples:
      creditfold rejections --account alice
      creditfold rejections --since 2026-06-01 --until 2026-07-01
      creditfold rejections --totals
    """
    from creditfold.projections import queries

    begin, end = period_of(since, until)
    if totals:
        if account is not None:
            raise ArgumentError("--totals counts all accounts.", "Leave out --account, or --totals.")
        with projection() as connection:
            counts = queries.rejection_totals(connection, since=begin, until=end)
        print_json(counts) if json else print_table(("reason", "commands"), list(counts.items()))
        return
    only = checked_account(account) if account is not None else None
    with projection() as connection:
        # One more than is wanted shows whether there are more.
        rows = queries.rejections(connection, limit + 1, only, since=begin, until=end)
    print_rows(
        rows[:limit],
        json,
        "Nothing was rejected.",
        ("decided at", "account", "kind", "amount", "balance", "asset", "reason", "position", "command"),
        lambda row: (
            *(row.decided_at, row.account_id, row.kind, row.amount, row.balance, row.asset),
            _outcome(row.command_id, row.rejection, row.step),
            *(Position(row.log_partition, row.log_offset), row.command_id),
        ),
    )
    if len(rows) > limit and not json:
        say(OLDER)
