"""The `balance` command. Owns its words, no query."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.read.past import then_of
from creditfold.cli.shared.arguments import AccountArgument, ArgumentError, AsOfOption, JsonOption, checked_account
from creditfold.cli.shared.output import print_json, print_table, say
from creditfold.cli.shared.projection import projection
from creditfold.common.position import Position
from creditfold.ledger.limits import MAX_COMMAND_ID, is_id

if TYPE_CHECKING:
    from creditfold.projections.queries.balances import Balance
    from creditfold.projections.queries.balances_now import BalanceNow, UsableBalance


def balance(
    account: AccountArgument,
    as_of: AsOfOption = None,
    use: Annotated[str | None, typer.Option(help="Also what is available for this use, by the lots' scopes.")] = None,
    json: JsonOption = False,
) -> None:
    """Show an account's balances, now or as of a time or a position of the log, both inclusive.

    Now is by the database server's clock: credits whose time is over don't count, whether a worker has settled the
    account or not. Where that makes a difference, what is stored is shown too. As of a time or a position shows what
    was decided by then.
    What is pending, held or owed is shown where there is any.

    \b
    Examples:
      creditfold balance alice
      creditfold balance alice --use ads
      creditfold balance alice --json
      creditfold balance alice --as-of 2026-06-30T23:59:59.999Z
      creditfold balance alice --as-of 3:1042
    """
    from creditfold.projections import queries
    from creditfold.projections.connections import snapshot

    checked_account(account)
    if use is not None and (as_of is not None or not is_id(use, MAX_COMMAND_ID)):
        raise ArgumentError(
            "--use shows what is available now, for the use that it names.", "Leave out --as-of, and name the use."
        )
    rows: Sequence[Balance | BalanceNow | UsableBalance]
    with projection() as connection, snapshot(connection):
        state = queries.account_state(connection, account) if as_of is None else None
        if use is not None:
            rows = queries.usable_now(connection, account, use)
        elif as_of is not None:
            partition, then = then_of(connection, account, as_of)
            rows = queries.balances_as_of(connection, account, partition, **then)
        else:
            rows = queries.balances_now(connection, account)
    if json:
        print_json(rows)
        return
    if not rows:
        never_used = as_of is None and state is None
        said = "was never used" if never_used else "had no decisions then" if as_of is not None else "has no credits"
        say(f"{account} {said}. Its balance is 0.")
    else:
        print_balances(rows)
    if state is not None and (state.is_closed or state.frozen):
        say(f"{account} is {'closed' if state.is_closed else f'frozen: {_FROZEN[state.frozen or str()]}'}.")


_FROZEN = {"spending": "it can't spend, hold or send credits", "all": "nearly nothing is let through"}


def print_balances(rows: "Sequence[Balance | BalanceNow | UsableBalance]") -> None:
    """Print balances as a table.

    What is pending, held or owed has columns only if there is any, and what is stored only where it is something else.
    """
    names = ["account_id", "asset", "available"]
    if "available_for_use" in rows[0]._fields:
        names.append("available_for_use")
    if any(getattr(row, "stored_available", row.available) != row.available for row in rows):
        names.append("stored_available")
    more = ["pending", "held", "debt", "credit_limit"]
    if any(getattr(row, name) for row in rows for name in more):
        names += more
    names.append("version")
    print_table(
        [*(_TITLES.get(name) or name for name in names), "position"],
        [[*(getattr(row, name) for name in names), Position(row.log_partition, row.log_offset)] for row in rows],
    )


_TITLES = {
    "account_id": "account",
    "credit_limit": "limit",
    "available_for_use": "for the use",
    "stored_available": "stored",
}
