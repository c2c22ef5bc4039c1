"""The commands that append one command each: grant, spend, hold and the rest. Owns their arguments.

How a command is sent and its outcome shown is in submission.py. Bounds of fields are refused by the producers' models.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from creditfold.cli.append.submission import Draft, appends
from creditfold.cli.shared.arguments import (
    AccountArgument,
    ArgumentError,
    duration_of,
    file_text,
    instant_of,
    instant_or_from_now,
    whole_number,
)

DEFAULT_ASSET = "credits"

# As a record of an import: a batch that the log takes is well under it, in whatever spaces and escapes.
MAX_FILE_BYTES = 1_048_576

AmountArgument = Annotated[str, typer.Argument(help="Whole number of the asset's smallest unit, at least 1.")]
AssetOption = Annotated[str, typer.Option(help="Kind of credit.")]
ClassOption = Annotated[
    Literal["paid", "promo"], typer.Option("--class", help="Whether the credits were bought or given.")
]
PriorityOption = Annotated[int, typer.Option(help="0 to 100; lots with a lower one are spent first.")]
ScopeOption = Annotated[str, typer.Option(help="The one use that they are for. Default: any.")]
UseOption = Annotated[str, typer.Option(help="What they are spent on: takes credits of this scope too.")]
PartArgument = Annotated[str | None, typer.Argument(metavar="[AMOUNT]", help="Default: all that is left.")]
HoldArgument = Annotated[str, typer.Argument(help="Command id of the hold.")]


def time_option(help: str) -> Any:
    """An option for an instant, which is 0 where it isn't given."""
    return typer.Option(metavar="TIME", show_default=False, help=help)


@appends
def grant(
    account: AccountArgument,
    amount: AmountArgument,
    *,
    asset: AssetOption = DEFAULT_ASSET,
    lot_class: ClassOption = "paid",
    priority: PriorityOption = 50,
    effective_at: Annotated[str, time_option("When they begin. Default: at once.")] = "0",
    expires_at: Annotated[str, time_option("When they end. Default: never.")] = "0",
    scope: ScopeOption = "",
) -> Draft:
    """Give an account credits, and show the outcome.

    Exits with 3 when the command is rejected, with 4 when the fold doesn't get to it in time.
    A TIME is ISO 8601, in UTC unless it says otherwise, or milliseconds since 1970.

    \b
    Examples:
      creditfold grant alice 500
      creditfold grant alice 500 --id welcome-alice --reason "welcome bonus"
      creditfold grant alice 500 --asset boosts --metadata campaign=spring --no-wait
      creditfold grant alice 50 --class promo --priority 10 --expires-at 2030-01-31T00:00Z
    """
    fields = {"account": account, "asset": asset, "amount": whole_number(amount), "scope": scope}
    window = {"effective_at": instant_of(effective_at), "expires_at": instant_of(expires_at)}
    return Draft("grant", {**fields, **window, "lot_class": lot_class, "priority": priority})


@appends
def spend(
    account: AccountArgument,
    amount: AmountArgument,
    *,
    asset: AssetOption = DEFAULT_ASSET,
    use: UseOption = "",
    partial: Annotated[bool, typer.Option("--partial", help="Take what there is, if it is less.")] = False,
    effective_at: Annotated[str, time_option("Date it back to this time.")] = "0",
) -> Draft:
    """Take credits from an account, and show the outcome.

    Exits with 3 when the command is rejected, with 4 when the fold doesn't get to it in time.
    A TIME is ISO 8601, in UTC unless it says otherwise, or milliseconds since 1970.

    \b
    Examples:
      creditfold spend alice 120
      creditfold spend alice 120 --id order-77 --reason "proposal 77"
      creditfold spend alice 120 --use proposals --partial
    """
    fields = {"account": account, "asset": asset, "amount": whole_number(amount), "use": use, "partial": partial}
    return Draft("spend", {**fields, "effective_at": instant_of(effective_at)})


@appends
def hold(
    account: AccountArgument,
    amount: AmountArgument,
    *,
    until: Annotated[str, typer.Option(metavar="TIME", help="When it lapses: a TIME, or 90s, 15m, 2h, 7d from now.")],
    asset: AssetOption = DEFAULT_ASSET,
    use: UseOption = "",
) -> Draft:
    """Set credits aside, to be captured or released; at the deadline the hold lapses and gives back what it has.

    A TIME is ISO 8601, in UTC unless it says otherwise, or milliseconds since 1970.
    15m from now is another time when the command is repeated: with --id, give the time itself.

    \b
    Examples:
      creditfold hold alice 40 --until 15m
      creditfold hold alice 40 --until 2030-01-31T12:00Z --id hold-9 --use proposals
    """
    deadline = instant_or_from_now(until, datetime.now(UTC))
    fields = {"account": account, "asset": asset, "amount": whole_number(amount), "deadline": deadline, "use": use}
    return Draft("hold", fields, again=f"--until {deadline}")


@appends
def capture(
    account: AccountArgument,
    hold: HoldArgument,
    amount: PartArgument = None,
    *,
    final: Annotated[bool, typer.Option("--final", help="Release what is left then.")] = False,
) -> Draft:
    """Spend what a hold set aside: an amount, or all that it still has.

    \b
    Examples:
      creditfold capture alice hold-9
      creditfold capture alice hold-9 25 --final
    """
    return Draft("capture", {"account": account, "hold": hold, "amount": part_of(amount), "final": final})


@appends
def release(account: AccountArgument, hold: HoldArgument, amount: PartArgument = None) -> Draft:
    """Give back what a hold set aside: an amount, or all that it still has.

    \b
    Examples:
      creditfold release alice hold-9
      creditfold release alice hold-9 15
    """
    return Draft("release", {"account": account, "hold": hold, "amount": part_of(amount)})


@appends
def refund(
    account: AccountArgument,
    spend: Annotated[str, typer.Argument(help="Command id of the spend or the capture.")],
    amount: PartArgument = None,
    *,
    reissue: Annotated[
        bool, typer.Option("--reissue", help="Put what would go back into an expired lot into a new one.")
    ] = False,
    expires_at: Annotated[str, time_option("When such a lot ends. Default: never.")] = "0",
) -> Draft:
    """Give back what a spend or a capture took: an amount, or all that is left to refund.

    It goes back to where it came from.
    A TIME is ISO 8601, in UTC unless it says otherwise, or milliseconds since 1970.

    \b
    Examples:
      creditfold refund alice order-77
      creditfold refund alice order-77 20 --reissue --expires-at 2030-01-31T00:00Z
    """
    fields = {"account": account, "spend": spend, "amount": part_of(amount), "reissue": reissue}
    return Draft("refund", {**fields, "expires_at": instant_of(expires_at)})


@appends
def void(
    account: AccountArgument,
    grant: Annotated[str, typer.Argument(help="Command id of what made the lots: a grant, a refund, a schedule.")],
    *,
    number: Annotated[int | None, typer.Option(help="Number of one of its lots, from 1. Default: all.")] = None,
) -> Draft:
    """Take back what is left of a grant. What was spent of it stays spent.

    \b
    Examples:
      creditfold void alice welcome-alice
      creditfold void alice monthly-alice --number 3
    """
    return Draft("void_grant", {"account": account, "grant": grant, "number": number})


@appends
def transfer(
    account: AccountArgument,
    to: Annotated[str, typer.Argument(help="Account that receives.")],
    amount: AmountArgument,
    *,
    asset: AssetOption = DEFAULT_ASSET,
    use: UseOption = "",
) -> Draft:
    """Send credits to another account, where they arrive a moment later with the terms that they have.

    The outcome is the sender's. A receiver that can't take them sends them back.

    \b
    Examples:
      creditfold transfer alice bob 75
      creditfold transfer alice bob 75 --asset boosts --id gift-5
    """
    fields = {"account": account, "asset": asset, "amount": whole_number(amount), "to": to, "use": use}
    return Draft("transfer", fields)


@appends
def freeze(
    account: AccountArgument,
    *,
    all: Annotated[bool, typer.Option("--all", help="Nearly everything, and not only what takes credits.")] = False,
) -> Draft:
    """Stop an account from spending, holding and sending credits.

    With --all it takes no grants, captures and refunds either. Its lots expire and its schedules go on.

    \b
    Examples:
      creditfold freeze alice --reason "chargeback"
      creditfold freeze alice --all
    """
    return Draft("freeze", {"account": account, "scope": "all" if all else "spending"})


@appends
def unfreeze(account: AccountArgument) -> Draft:
    """End an account's freeze.

    \b
    Example:
      creditfold unfreeze alice
    """
    return Draft("unfreeze", {"account": account})


@appends
def close(
    account: AccountArgument,
    *,
    forfeit: Annotated[bool, typer.Option("--forfeit", help="Give up what it has left.")] = False,
) -> Draft:
    """Close an account permanently.

    It must have no open hold, no debt and no transfer on its way, and nothing left unless that is forfeited.

    \b
    Examples:
      creditfold close alice
      creditfold close alice --forfeit --reason "left us"
    """
    return Draft("close", {"account": account, "forfeit": forfeit})


@appends
def credit_limit(
    account: AccountArgument,
    limit: Annotated[str, typer.Argument(help="Whole number of the asset's smallest unit, at least 0.")],
    *,
    asset: AssetOption = DEFAULT_ASSET,
) -> Draft:
    """Set how far below zero an account's spends may go.

    0 takes the limit back; what is owed then stays owed.

    \b
    Example:
      creditfold credit-limit alice 1000
    """
    return Draft("set_credit_limit", {"account": account, "asset": asset, "limit": whole_number(limit)})


@appends
def schedule_create(
    account: AccountArgument,
    amount: AmountArgument,
    *,
    first_at: Annotated[str, typer.Option(metavar="TIME", help="The first turn.")],
    every: Annotated[int, typer.Option(help="How many months or days lie between two turns.")] = 1,
    months: Annotated[bool, typer.Option("--months/--days", help="What --every counts.")] = True,
    until: Annotated[str, time_option("No turn from then on. Default: no end.")] = "0",
    cap: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="Keep what is left of its credits under this. Default: no cap.")
    ] = None,
    asset: AssetOption = DEFAULT_ASSET,
    lot_class: ClassOption = "paid",
    priority: PriorityOption = 50,
    expires_after: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long each turn's credits last, as 30d. Default: no end.")
    ] = None,
    scope: ScopeOption = "",
) -> Draft:
    """Grant an amount periodically, by the calendar in UTC: the 31st becomes a shorter month's last day.

    A TIME is ISO 8601, in UTC unless it says otherwise, or milliseconds since 1970.
    Turns that were missed are taken later, each as if at its time.

    \b
    Examples:
      creditfold schedule create alice 100 --first-at 2030-01-01T00:00Z --id monthly-alice
      creditfold schedule create alice 5 --every 7 --days --first-at 2030-01-01T00:00Z --expires-after 7d --cap 20
    """
    turns: dict[str, Any] = {"period": "months" if months else "days", "every": every}
    turns |= {"first_at": instant_of(first_at), "until": instant_of(until), "cap": part_of(cap)}
    lots: dict[str, Any] = {"asset": asset, "amount": whole_number(amount), "lot_class": lot_class}
    lots |= {"expires_after_ms": None if expires_after is None else duration_of(expires_after)}
    return Draft("create_schedule", {"account": account, **turns, **lots, "priority": priority, "scope": scope})


@appends
def schedule_cancel(
    account: AccountArgument, schedule: Annotated[str, typer.Argument(help="Command id of the schedule.")]
) -> Draft:
    """End a schedule. What it granted stays.

    \b
    Example:
      creditfold schedule cancel alice monthly-alice
    """
    return Draft("cancel_schedule", {"account": account, "schedule": schedule})


@appends
def batch(
    account: AccountArgument,
    file: Annotated[str, typer.Argument(help="A JSON list of steps; - reads it from the input.")],
) -> Draft:
    """Append several steps of one account, all of them or none.

    A step is an object with the fields of a grant, spend, hold, capture, release, refund or void_grant, and its type.
    It has a command_id of its own, and no account. docs/producing.md lists the fields.

    \b
    Examples:
      creditfold batch alice steps.json
      echo '[{"type": "release", "command_id": "r-1", "hold": "hold-9"}]' | creditfold batch alice -
    """
    return Draft("batch", {"account": account, "steps": _steps(file)})


def part_of(amount: str | None) -> int | str | None:
    """An amount, or None for all that is left."""
    return None if amount is None else whole_number(amount)


def _steps(name: str) -> Any:
    from creditfold.producers.strict_json import BadRecordError, parse_json

    try:
        found = parse_json(file_text(name, MAX_FILE_BYTES, "a file of steps, or - for the input"), "it is")
    except UnicodeDecodeError:
        raise ArgumentError(f"{name} is not UTF-8.", "Write a JSON list of steps.") from None
    except BadRecordError as error:
        raise ArgumentError(f"{name} holds no steps: {error}.", "Write a JSON list of steps.") from None
    if not isinstance(found, list):
        raise ArgumentError(f"{name} holds no list.", 'Write a JSON list of steps: [{"type": "spend", ...}]')
    return found
