"""The commands about the keys of the HTTP door: keys create, list, rotate, revoke. Owns their words, not what a key is.

A key's text goes to standard output, once, and nowhere else.
"""

import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditfold.cli.shared.arguments import (
    ByOption,
    JsonOption,
    author_of,
    duration_of,
    instant_or_from_now,
    reason_of,
)
from creditfold.cli.shared.output import NONE, print_json, print_rows, say
from creditfold.cli.shared.projection import projection
from creditfold.common.instants import EPOCH

if TYPE_CHECKING:
    from creditfold.projections.access.audit import Actor
    from creditfold.projections.access.keys import Key, NewKey

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its id or its name, as `keys list` shows them.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the audit.")]
ExpiresOption = Annotated[
    str | None,
    typer.Option(
        "--expires", metavar="WHEN", help="When it ends: 2027-06-30, or a time from now, 90d. Never if unset."
    ),
]


def actor(by: str | None, reason: str) -> "Actor":
    """Who acts on this machine, for the audit. Raises ArgumentError."""
    from creditfold.projections.access.audit import Actor

    return Actor(author_of(by), socket.gethostname(), reason)


def keys_create(
    name: Annotated[str, typer.Argument(help="Of the service that uses it; the source of each of its commands.")],
    *,
    reason: ReasonOption,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="What it opens. Can be repeated.")] = None,
    every_scope: Annotated[bool, typer.Option("--every-scope", help="All scopes, those to make keys too.")] = False,
    prefix: Annotated[str, typer.Option("--prefix", help="Only accounts that begin with this.")] = "",
    asset: Annotated[list[str] | None, typer.Option("--asset", help="Only this asset. Can be repeated.")] = None,
    most_amount: Annotated[
        int | None, typer.Option("--most-amount", help="Largest amount of one command, in the asset's smallest unit.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Requests a second; as CREDITFOLD_API_RATE says if unset.")
    ] = None,
    burst: Annotated[int | None, typer.Option("--burst", help="Requests at once; as many as in a second if unset.")] = (
        None
    ),
    expires: ExpiresOption = None,
    by: ByOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key for the HTTP door, and print its text: this once, for only a digest of it is stored.

    A key opens what its scopes say, and nothing else: append:spend lets a service spend and not grant. Give each
    service a key of its own, with no more scopes than it needs: `append:` and a kind of command (grant, spend, hold,
    capture, release, refund, void_grant, transfer, freeze, unfreeze, close, set_credit_limit, create_schedule,
    cancel_schedule, batch), read:balance, read:statement, read:personal, operate:dead-letters, operate:generations,
    operate:rules, operate:metrics, webhooks, keys, audit. With manual:grant, manual:refund, manual:void_grant a person
    does so by hand, with a reason and audited.

    \b
    Examples:
      creditfold keys create shop --scope append:spend --scope read:balance --reason "the shop's checkout"
      creditfold keys create promo --scope append:grant --prefix eu- --asset credits --most-amount 500 --expires 90d \\
        --reason "autumn campaign"
      creditfold keys create ops --every-scope --reason "on call"
    """
    from creditfold.projections.access.keys import create_key
    from creditfold.projections.access.scopes import SCOPES

    who = actor(by, reason_of(reason, "--reason"))
    with projection() as connection:
        new = create_key(
            connection,
            name,
            list(SCOPES) if every_scope else scope or [],
            by=who,
            account_prefix=prefix,
            assets=asset or [],
            most_amount=most_amount,
            rate=rate,
            burst=burst,
            expires_at=_end(expires),
        )
    _show(new, json)


def keys_list(json: JsonOption = False) -> None:
    """List the keys of the HTTP door: what each opens, when it was used last, and when it ends. No secret is shown.

    \b
    Examples:
      creditfold keys list
      creditfold keys list --json
    """
    from creditfold.projections.access.keys import keys

    with projection() as connection:
        rows = keys(connection)
    print_rows(
        rows,
        json,
        "There are no keys. Make one: creditfold keys create --help",
        ("id", "name", "scopes", "limits", "made at", "used at", "ends at", "state"),
        lambda key: (
            *(key.id, key.name, _scopes(key), _limits(key), key.made_at, key.used_at or NONE),
            *(key.expires_at or "never", _state(key)),
        ),
    )


def keys_rotate(
    key: KeyArgument,
    *,
    reason: ReasonOption,
    overlap: Annotated[str, typer.Option("--overlap", help="How long the old text stays good: 90s, 15m, 2h, 7d.")] = (
        "1d"
    ),
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="WHEN", help="When the new text ends; as the old one if unset.")
    ] = None,
    by: ByOption = None,
    json: JsonOption = False,
) -> None:
    """Give a key a new text, and print it, this once. The old one stays good for a while, so that nothing stops.

    Bring the new text to the service within that time. A key whose text has leaked is revoked, or rotated with
    --overlap 0s.

    \b
    Examples:
      creditfold keys rotate shop --reason "each quarter"
      creditfold keys rotate shop --overlap 0s --reason "it was in a log"
    """
    from creditfold.projections.access.keys import key_named, rotate_key

    who = actor(by, reason_of(reason, "--reason"))
    good_for = timedelta(milliseconds=duration_of(overlap))
    with projection() as connection:
        found = key_named(connection, key)
        new = rotate_key(connection, found.id, by=who, overlap=good_for, expires_at=_end(expires))
    _show(new, json)


def keys_revoke(key: KeyArgument, reason: ReasonOption, by: ByOption = None, json: JsonOption = False) -> None:
    """Have a key open nothing any more, two seconds from now at the latest. It can't be undone.

    \b
    Example:
      creditfold keys revoke shop --reason "the shop was closed"
    """
    from creditfold.projections.access.keys import key_named, revoke_key

    who = actor(by, reason_of(reason, "--reason"))
    with projection() as connection:
        revoked = revoke_key(connection, key_named(connection, key).id, by=who)
    if json:
        print_json(revoked)
    else:
        say(f"The key {revoked.name} ({revoked.id}) is revoked.")


def _end(text: str | None) -> datetime | None:
    """When a key ends, as --expires says it. Raises ArgumentError."""
    if text is None:
        return None
    return EPOCH + timedelta(milliseconds=instant_or_from_now(text, datetime.now(UTC)))


def _show(new: "NewKey", json: bool) -> None:
    if json:
        print_json({**new.key._asdict(), "text": new.text})
        return
    say(f"The key {new.key.name} ({new.key.id}) opens {_scopes(new.key)}; limits: {_limits(new.key)}.")
    say("Its text, which is shown this once and stored nowhere:", new.text)


def _scopes(key: "Key") -> str:
    from creditfold.projections.access.scopes import SCOPES

    return "every scope" if set(key.scopes) >= SCOPES.keys() else ", ".join(key.scopes)


def _limits(key: "Key") -> str:
    said: list[Any] = [
        f"accounts {key.account_prefix}..." if key.account_prefix else "",
        f"assets {', '.join(key.assets)}" if key.assets else "",
        f"up to {key.most_amount:,}" if key.most_amount is not None else "",
        f"{key.rate:g} requests/s" if key.rate is not None else "",
    ]
    return "; ".join(filter(None, said)) or NONE


def _state(key: "Key") -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "ended" if key.expires_at is not None and key.expires_at <= datetime.now(UTC) else "good"
