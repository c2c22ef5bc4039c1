"""The commands about alerts: add, list, remove. Owns their words, not what a rule is."""

from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.run.keys import ReasonOption, actor
from creditfold.cli.shared.arguments import ArgumentError, ByOption, JsonOption, duration_of, reason_of
from creditfold.cli.shared.output import print_json, print_rows, say
from creditfold.cli.shared.projection import projection

if TYPE_CHECKING:
    from creditfold.projections.delivery.rules import AlertRule

RuleArgument = Annotated[str, typer.Argument(metavar="RULE", help="Its id, as `alerts list` shows it.")]


def alerts_add(
    *,
    reason: ReasonOption,
    below: Annotated[
        int | None, typer.Option("--below", help="Say so when an account drops below this, in the smallest unit.")
    ] = None,
    depleted: Annotated[bool, typer.Option("--depleted", help="Say so when an account has nothing left.")] = False,
    expiring_within: Annotated[
        str | None, typer.Option("--expiring-within", help="Say so this long before credits end: 7d, 12h.")
    ] = None,
    rearm_at: Annotated[
        int | None, typer.Option("--rearm-at", help="An account has recovered at this; at the bound if unset.")
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="Only accounts that begin with this.")] = "",
    asset: Annotated[str, typer.Option("--asset", help="Only this asset.")] = "",
    by: ByOption = None,
    json: JsonOption = False,
) -> None:
    """Add a rule of alerts, which endpoints of webhooks get as balance.* and credits.expiring_soon.

    It is said once that an account dropped, and not again until it has recovered, which is said too. A rule begins at
    the present state: an account that is below already isn't said to have dropped.

    \b
    Examples:
      creditfold alerts add --below 100 --rearm-at 150 --asset credits --reason "low balance mails"
      creditfold alerts add --depleted --prefix eu- --reason "stop their campaigns"
      creditfold alerts add --expiring-within 7d --reason "remind them"
    """
    from creditfold.projections.delivery.rules import create_rule, rule_fields

    who = actor(by, reason_of(reason, "--reason"))
    if sum([below is not None, depleted, expiring_within is not None]) != 1:
        raise ArgumentError(
            "What is watched isn't said.", "Write --below AMOUNT, --depleted, or --expiring-within DURATION."
        )
    kind = "dropped" if below is not None else "depleted" if depleted else "expiring"
    within_ms = 0 if expiring_within is None else duration_of(expiring_within)
    with projection() as connection:
        made = create_rule(
            connection,
            kind,
            by=who,
            owner=who.who,
            account_prefix=prefix,
            asset=asset,
            below=1 if below is None else below,
            rearm_at=rearm_at,
            within_ms=within_ms,
        )
    if json:
        print_json(rule_fields(made))
    else:
        say(f"The rule {made.id} says so when {_watched(made)}.")


def _watched(rule: "AlertRule") -> str:
    who = f"an account that begins with {rule.account_prefix}" if rule.account_prefix else "an account"
    of = f" of {rule.asset}" if rule.asset else ""
    if rule.kind == "expiring":
        return f"credits{of} of {who} end within {rule.within_ms / 86_400_000:g} days"
    what = f"drops below {rule.below:,}{of}" if rule.kind == "dropped" else f"has nothing left{of}"
    return f"{who} {what}, and again when it has {rule.rearm_at:,}"


def alerts_list(json: JsonOption = False) -> None:
    """List the rules of alerts.

    \b
    Examples:
      creditfold alerts list
      creditfold alerts list --json
    """
    from creditfold.projections.delivery.rules import alert_rules, rule_fields

    with projection() as connection:
        rows = alert_rules(connection)
    if json:
        print_json([rule_fields(row) for row in rows])
        return
    print_rows(
        rows,
        False,
        "There are no rules. Add one: creditfold alerts add --help",
        ("id", "says so when", "owner", "made at"),
        lambda row: (row.id, _watched(row), row.owner, row.made_at),
    )


def alerts_remove(rule: RuleArgument, *, reason: ReasonOption, by: ByOption = None, json: JsonOption = False) -> None:
    """Remove a rule of alerts.

    \b
    Example:
      creditfold alerts remove al_4tYpWmQ2xVbN8sKd --reason "nobody reads them"
    """
    from creditfold.projections.delivery.rules import delete_rule, rule_fields

    who = actor(by, reason_of(reason, "--reason"))
    with projection() as connection:
        found = delete_rule(connection, rule, by=who)
    if json:
        print_json(rule_fields(found))
    else:
        say(f"The rule {found.id} was removed.")
