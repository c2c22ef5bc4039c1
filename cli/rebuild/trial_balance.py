"""The `trial-balance` command: double entry, proven from the journal. Owns its words, not the sums."""

from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.rebuild.verify import DIFFERENT
from creditfold.cli.shared.arguments import ArgumentError, AssetFilterOption, JsonOption, moment_of
from creditfold.cli.shared.output import print_json, print_table, say
from creditfold.cli.shared.projection import projection
from creditfold.common.position import Position

if TYPE_CHECKING:
    from creditfold.projections.proof.trial_balance import TrialBalance


def trial_balance(
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="POSITION", help="Up to this record of its partition, itself included. Can be repeated."),
    ] = None,
    at_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Up to this time (ISO 8601, UTC) of the log's clock.")
    ] = None,
    asset: AssetFilterOption = None,
    json: JsonOption = False,
) -> None:
    """Prove from the journal that what the accounts have is what was issued and not spent, expired or the like.

    As of now, also that the balances, the lots and the totals agree. Exits with 0 when all balances, with 5
    when anything doesn't. Reads the whole journal.

    \b
    Examples:
      creditfold trial-balance
      creditfold trial-balance --asset credits --json
      creditfold trial-balance --at-time 2026-06-30T23:59:59.999Z
      creditfold trial-balance --at 0:1042 --at 1:998
    """
    from creditfold.projections.connections import snapshot
    from creditfold.projections.proof import trial_balance as trial

    if at and at_time is not None:
        raise ArgumentError("A trial balance is up to positions or up to a time.", "Leave out --at, or --at-time.")
    until = moment_of(at_time) if at_time is not None else None
    positions = [Position.parse(text) for text in at or ()]
    with projection() as connection, snapshot(connection):
        found = trial.trial_balance(connection, at=positions, until=until, asset=asset)
    if json:
        assets = [{**row._asdict(), "difference": row.difference} for row in found.assets]
        print_json({**found._asdict(), "balances": not found.faults, "assets": assets})
    else:
        _print_trial_balance(found)
    if found.faults:
        raise typer.Exit(DIFFERENT)


def _print_trial_balance(found: "TrialBalance") -> None:
    if not found.assets:
        say("Nothing was decided yet.")
        return
    # The other way round, an asset a column, they would not fit a terminal.
    lines = (
        *("available", "pending", "held", "credits", "debt"),
        *("issued", "spent", "expired", "voided", "forfeited", "reissued", "in_transit"),
        "difference",
    )
    print_table(
        ("", *(row.asset for row in found.assets)),
        [(name.replace("_", " "), *(getattr(row, name) for row in found.assets)) for name in lines],
    )
    where = "where the fold stands" if found.is_present else "up to there"
    if not found.faults:
        say(f"Balances, {where}.")
    for fault in found.faults:
        say(f"Doesn't balance: {fault.asset}{f' of {fault.account_id}' if fault.account_id else ''}: {fault.what}.")
