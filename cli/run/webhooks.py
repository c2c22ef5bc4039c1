"""The commands about webhooks: create, list, show, rotate, disable, enable, delete, attempts, resend, listen.

Owns their words, not what an endpoint is. A secret goes to standard output, once, and nowhere else.
"""

import sys
from datetime import timedelta
from json import loads as json_of
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditfold.cli.run.keys import ReasonOption, actor
from creditfold.cli.shared.arguments import (
    ArgumentError,
    ByOption,
    JsonOption,
    LimitOption,
    SinceOption,
    UntilOption,
    duration_of,
    period_of,
    reason_of,
)
from creditfold.cli.shared.output import NONE, print_json, print_json_line, print_rows, say
from creditfold.cli.shared.projection import projection

if TYPE_CHECKING:
    from psycopg import Connection

    from creditfold.delivery.filters import Wanted
    from creditfold.delivery.sender import Answer
    from creditfold.projections.access.audit import Actor
    from creditfold.projections.delivery.deliveries import EndpointCounts
    from creditfold.projections.delivery.endpoints import Endpoint, SigningKey

EndpointArgument = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its id, as `webhooks list` shows it.")]
TypesOption = Annotated[
    list[str] | None, typer.Option("--type", help="Only events of this type. Can be repeated. All if unset.")
]
PrefixesOption = Annotated[
    list[str] | None, typer.Option("--prefix", help="Only accounts that begin with this. Can be repeated.")
]


def webhooks_create(
    url: Annotated[str, typer.Argument(help="That is called, as https://shop.example/hooks.")],
    *,
    reason: ReasonOption,
    type_: TypesOption = None,
    prefix: PrefixesOption = None,
    description: Annotated[str, typer.Option("--description", help="What it is for, in a few words.")] = "",
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Send all that was ever decided, not only what comes.")
    ] = False,
    by: ByOption = None,
    json: JsonOption = False,
) -> None:
    """Have an endpoint called about what is decided from now on, and print its secret, this once.

    Requests are signed as Standard Webhooks 1.0.0 has it: with the secret (v1), and with an ed25519 key (v1a), whose
    public part `webhooks show` prints. docs/webhooks.md says how a receiver verifies them, and lists the types.

    \b
    Examples:
      creditfold webhooks create https://shop.example/hooks --reason "the shop's balance badges"
      creditfold webhooks create https://mail.example/hooks --type balance.dropped --type credits.expiring_soon \\
        --prefix eu- --reason "mails to customers"
    """
    from creditfold.common.extras import require

    require("delivery")
    from creditfold.common.settings import load_settings
    from creditfold.delivery.filters import refuse_unknown_types
    from creditfold.delivery.signing import new_key
    from creditfold.projections.delivery.endpoints import create_endpoint

    who, key = actor(by, reason_of(reason, "--reason")), new_key()
    refuse_unknown_types(type_ or [])
    _refuse_plain(url, load_settings().webhook_allowed_networks)
    with projection() as connection:
        made = create_endpoint(
            connection,
            url,
            key,
            by=who,
            owner=who.who,
            description=description,
            types=type_ or [],
            account_prefixes=prefix or [],
            from_start=from_start,
        )
    _show_new(made, key, json)


def _refuse_plain(url: str, allowed_networks: str) -> None:
    if url.startswith("http:") and not allowed_networks.strip():
        raise ArgumentError(
            "The URL is without TLS, and no network is allowed for that.",
            "Write https://..., or set CREDITFOLD_WEBHOOK_ALLOWED_NETWORKS for a receiver in a network of yours.",
        )


def _show_new(endpoint: "Endpoint", key: "SigningKey", json: bool) -> None:
    from creditfold.delivery.signing import public_text, secret_text
    from creditfold.projections.delivery.endpoints import as_fields

    if json:
        print_json({**as_fields(endpoint), "public_key": public_text(key), "secret": secret_text(key)})
        return
    say(f"The endpoint {endpoint.id} is called at {endpoint.url}.")
    say(f"Public key: {public_text(key)}")
    say("Its secret, which is shown this once:", secret_text(key))


def webhooks_list(json: JsonOption = False) -> None:
    """List the endpoints of webhooks: how far each is, what waits, and what was given up. No secret is shown.

    \b
    Examples:
      creditfold webhooks list
      creditfold webhooks list --json
    """
    from creditfold.projections.delivery.deliveries import counts
    from creditfold.projections.delivery.endpoints import as_fields, endpoints

    with projection() as connection:
        rows, standing = endpoints(connection), counts(connection)
    if json:
        print_json([{**as_fields(row), **_standing(standing[row.id])} for row in rows])
        return
    print_rows(
        rows,
        False,
        "There are no endpoints. Make one: creditfold webhooks create --help",
        ("id", "url", "types", "accounts", "state", "behind", "pending", "parked", "failing since"),
        lambda row: (
            *(row.id, row.url, ", ".join(row.types) or "all", ", ".join(row.account_prefixes) or "all", _state(row)),
            *_standing(standing[row.id]).values(),
            row.failing_since or NONE,
        ),
    )


def _standing(found: "EndpointCounts") -> dict[str, int]:
    return {"behind": found.behind, "pending": found.pending, "parked": found.parked}


def _state(endpoint: "Endpoint") -> str:
    return "enabled" if endpoint.is_enabled else f"disabled: {endpoint.disabled_why}"


def webhooks_show(endpoint: EndpointArgument, json: JsonOption = False) -> None:
    """Show an endpoint, its public keys, and what waits for it or was given up.

    \b
    Example:
      creditfold webhooks show ep_4tYpWmQ2xVbN8sKd
    """
    from creditfold.common.extras import require

    require("delivery")
    from creditfold.delivery.signing import public_text
    from creditfold.projections.delivery.deliveries import deliveries
    from creditfold.projections.delivery.endpoints import as_fields, endpoint_of, signing_keys

    with projection() as connection:
        found, keys = endpoint_of(connection, endpoint), signing_keys(connection, endpoint)
        waiting = deliveries(connection, endpoint)
    public = [public_text(key) for key in keys]
    if json:
        print_json({**as_fields(found), "public_keys": public, "deliveries": waiting})
        return
    say(f"{found.id}  {found.url}", f"State: {_state(found)}.", *(f"Public key: {text}" for text in public))
    print_rows(
        waiting,
        False,
        "Nothing waits, and nothing was given up.",
        ("id", "type", "account", "position", "state", "tries", "next at", "error"),
        lambda row: (
            *(row.webhook_id, row.type, row.account_id, row.position, row.state, row.tries),
            *(row.next_at if row.state == "pending" else NONE, row.error),
        ),
    )


def webhooks_rotate(
    endpoint: EndpointArgument,
    *,
    reason: ReasonOption,
    overlap: Annotated[str, typer.Option("--overlap", help="How long the old one signs too: 90s, 15m, 2h, 7d.")] = "1d",
    by: ByOption = None,
    json: JsonOption = False,
) -> None:
    """Give an endpoint a new secret and key, and print them, this once. The old ones sign too for a while.

    Bring the new secret to the receiver within that time. One that has leaked is rotated with --overlap 0s.

    \b
    Example:
      creditfold webhooks rotate ep_4tYpWmQ2xVbN8sKd --reason "each quarter"
    """
    from creditfold.common.extras import require

    require("delivery")
    from creditfold.delivery.signing import new_key
    from creditfold.projections.delivery.endpoints import rotate_endpoint

    who, key = actor(by, reason_of(reason, "--reason")), new_key()
    good_for = timedelta(milliseconds=duration_of(overlap))
    with projection() as connection:
        found = rotate_endpoint(connection, endpoint, key, by=who, overlap=good_for)
    _show_new(found, key, json)


def webhooks_disable(
    endpoint: EndpointArgument, *, reason: ReasonOption, by: ByOption = None, json: JsonOption = False
) -> None:
    """Call an endpoint no more. What is for it waits until it is enabled again.

    \b
    Example:
      creditfold webhooks disable ep_4tYpWmQ2xVbN8sKd --reason "the shop is moved"
    """
    from creditfold.projections.delivery.endpoints import disable_endpoint

    _changed(disable_endpoint, "is disabled", endpoint, actor(by, reason_of(reason, "--reason")), json)


def webhooks_enable(
    endpoint: EndpointArgument,
    *,
    reason: ReasonOption,
    from_now: Annotated[bool, typer.Option("--from-now", help="Leave out what came meanwhile.")] = False,
    by: ByOption = None,
    json: JsonOption = False,
) -> None:
    """Call an endpoint again, and send it what came meanwhile.

    \b
    Example:
      creditfold webhooks enable ep_4tYpWmQ2xVbN8sKd --reason "it is back"
    """
    from functools import partial

    from creditfold.projections.delivery.endpoints import enable_endpoint

    who = actor(by, reason_of(reason, "--reason"))
    _changed(partial(enable_endpoint, from_now=from_now), "is enabled", endpoint, who, json)


def webhooks_delete(
    endpoint: EndpointArgument, *, reason: ReasonOption, by: ByOption = None, json: JsonOption = False
) -> None:
    """Remove an endpoint with all that waits for it. It can't be undone.

    \b
    Example:
      creditfold webhooks delete ep_4tYpWmQ2xVbN8sKd --reason "the shop was closed"
    """
    from creditfold.projections.delivery.endpoints import delete_endpoint

    _changed(delete_endpoint, "was deleted", endpoint, actor(by, reason_of(reason, "--reason")), json)


def _changed(change: Any, what: str, endpoint: str, who: "Actor", json: bool) -> None:
    from creditfold.projections.delivery.endpoints import as_fields

    with projection() as connection:
        found = change(connection, endpoint, by=who)
    if json:
        print_json(as_fields(found))
    else:
        say(f"The endpoint {found.id} {what}.")


def webhooks_attempts(
    endpoint: EndpointArgument,
    id_: Annotated[str | None, typer.Option("--id", help="Only those of the event with this webhook-id.")] = None,
    limit: LimitOption = 50,
    json: JsonOption = False,
) -> None:
    """List an endpoint's latest requests, newest first, with their answers.

    \b
    Example:
      creditfold webhooks attempts ep_4tYpWmQ2xVbN8sKd
    """
    from creditfold.projections.delivery.deliveries import attempts
    from creditfold.projections.delivery.endpoints import endpoint_of

    with projection() as connection:
        endpoint_of(connection, endpoint)
        rows = attempts(connection, endpoint, webhook_id=id_, limit=limit)
    print_rows(
        [row._asdict() | {"answer": row.answer.decode(errors="replace")} for row in rows] if json else rows,
        json,
        "Nothing was sent yet.",
        ("at", "id", "type", "account", "try", "status", "ms", "error", "answer"),
        lambda row: (
            *(row.at, row.webhook_id, row.type, row.account_id, row.try_number, row.status or NONE, row.latency_ms),
            *(row.error, row.answer.decode(errors="replace")[:100]),
        ),
    )


def webhooks_resend(
    endpoint: EndpointArgument,
    *,
    reason: ReasonOption,
    id_: Annotated[str | None, typer.Option("--id", help="The event with this webhook-id.")] = None,
    parked: Annotated[bool, typer.Option("--parked", help="What was given up.")] = False,
    type_: Annotated[str | None, typer.Option("--type", help="With --parked: only of this type.")] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="With --parked: only accounts that begin so.")] = "",
    since: SinceOption = None,
    until: UntilOption = None,
    first: Annotated[str | None, typer.Option("--from", help="The first position of a range, as 3:1042.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="The last position of the range.")] = None,
    by: ByOption = None,
    json: JsonOption = False,
) -> None:
    """Send events again, by the same ids: one, what was given up, or all of a range of positions.

    \b
    Examples:
      creditfold webhooks resend ep_4tYpWmQ2xVbN8sKd --id msg_ab7t... --reason "the receiver was mended"
      creditfold webhooks resend ep_4tYpWmQ2xVbN8sKd --parked --reason "the receiver was mended"
      creditfold webhooks resend ep_4tYpWmQ2xVbN8sKd --from 3:1042 --to 3:2000 --reason "its database was restored"
    """
    from creditfold.projections.delivery.deliveries import DeliveryFilter, resend_one, resend_parked

    who = actor(by, reason_of(reason, "--reason"))
    if sum([id_ is not None, parked, first is not None or last is not None]) != 1:
        raise ArgumentError(
            "What is sent again isn't said.", "Write --id ID, --parked, or --from POSITION --to POSITION."
        )
    begin, end = period_of(since, until)
    with projection() as connection:
        if id_ is not None:
            count = resend_one(connection, endpoint, id_, by=who)
        elif parked:
            wanted = DeliveryFilter(type=type_, account_prefix=prefix, since=begin, until=end)
            count = resend_parked(connection, endpoint, wanted, by=who)
        else:
            count = _resent_range(connection, endpoint, first, last, who)
    if json:
        print_json({"deliveries": count})
    else:
        say(f"{count:,} events are sent again.")


def _resent_range(
    connection: "Connection[Any]", endpoint: str, first: str | None, last: str | None, who: "Actor"
) -> int:
    from creditfold.common.position import Position
    from creditfold.delivery.resending import resend_range

    if first is None or last is None:
        raise ArgumentError("A range has two ends.", "Write --from POSITION --to POSITION.")
    return resend_range(connection, endpoint, Position.parse(first), Position.parse(last), by=who)


def webhooks_listen(
    *,
    type_: TypesOption = None,
    prefix: PrefixesOption = None,
    forward: Annotated[
        str | None, typer.Option("--forward", help="Send them to this URL on this machine, signed.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="End after this number of events.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="End after this many seconds.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show events as they come, until Ctrl-C: what an endpoint would be called about, while you develop one.

    It makes no endpoint and keeps nothing. With --forward it sends them to your receiver on this machine, signed with a
    secret that it prints at first.

    \b
    Examples:
      creditfold webhooks listen
      creditfold webhooks listen --type lot.granted --prefix eu-
      creditfold webhooks listen --forward http://127.0.0.1:8000/hooks
    """
    import asyncio

    from creditfold.common.extras import require

    require("delivery")
    from creditfold.common.settings import load_settings
    from creditfold.delivery.filters import Wanted, refuse_unknown_types
    from creditfold.delivery.listener import LISTENER
    from creditfold.delivery.signing import new_key, secret_text
    from creditfold.projections.connections import connected
    from creditfold.projections.delivery.reading import ends

    refuse_unknown_types(type_ or [])
    key = new_key()
    # Not among the events, which a program may read.
    if forward is not None:
        print(f"signed with {secret_text(key)}", file=sys.stderr, flush=True)
    wanted = Wanted(LISTENER, "", frozenset(type_ or ()), prefix or ())
    settings = load_settings()
    # A pool tries again for long; what is wrong from the start is reported at once.
    with connected(settings.dsn, "creditfold webhooks") as connection:
        ends(connection)
    asyncio.run(_listen(settings.dsn, wanted, forward=forward, key=key, limit=limit, timeout_s=timeout, json=json))


async def _listen(dsn: str, wanted: "Wanted", *, limit: int | None, json: bool, **options: Any) -> None:
    from contextlib import aclosing

    from creditfold.delivery.listener import heard

    print("listening from now on", file=sys.stderr, flush=True)
    seen = 0
    async with aclosing(heard(dsn, wanted, **options)) as events:
        async for one in events:
            if json:
                print_json_line({"webhook_id": one.webhook_id, **json_of(one.event.body)})
            else:
                say(f"{one.webhook_id}  {one.event.body}{_answered(one.answer)}")
            seen += 1
            if seen == limit:
                return


def _answered(answer: "Answer | None") -> str:
    if answer is None:
        return ""
    return f"  -> {answer.status or answer.error}, {answer.latency_ms} ms"
