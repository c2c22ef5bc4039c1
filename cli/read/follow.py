"""The `follow` command: shows an account's outcomes as they are published."""

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from json import loads
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditfold.cli.shared.arguments import AccountArgument, ArgumentError, checked_account
from creditfold.cli.shared.output import print_json_line, safe, say
from creditfold.common.documents import instant
from creditfold.common.errors import CreditfoldError
from creditfold.common.instants import EPOCH
from creditfold.common.position import InvalidPositionError, Position

if TYPE_CHECKING:
    from creditfold.processors.publisher.follower import Follower
    from creditfold.processors.publisher.messages import Outcome

FROM_THE_START = "start"


class NotYetPublishedError(CreditfoldError):
    """Fewer outcomes were published in time than --limit says."""

    exit_code = 4


def follow(
    account: AccountArgument,
    since: Annotated[
        str | None, typer.Option(metavar="POSITION|start", help="Begin there, not now: partition:offset of a command.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="End after this number of outcomes.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="End after this many seconds.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show an account's outcomes as they are published, until Ctrl-C.

    Reads the outcomes topic, which a `creditfold publisher` fills. With --limit and --timeout it ends with 4 if
    the time is over first.

    \b
    Examples:
      creditfold follow alice
      creditfold follow alice --since 3:1042
      creditfold follow alice --since start --limit 10 --timeout 5 --json
    """
    checked_account(account)
    begin = _parsed_since(since)

    from creditfold.common.settings import load_settings
    from creditfold.processors.publisher.follower import Follower

    follower = Follower(load_settings(), account)
    place = _place(follower, begin)
    if begin is None:
        # Now that it is known where "now" is. Not among the outcomes, which a program may read.
        print(f"following {safe(account)} from now on", file=sys.stderr, flush=True)
    seen = 0
    for outcome in islice(follower.follow(place, timeout), limit):
        print_json_line(document(outcome)) if json else say(line(outcome))
        seen += 1
    if limit is not None and seen < limit:
        raise NotYetPublishedError(
            f"{seen} of {limit} outcomes came within {timeout:g} s.",
            "See `creditfold status`; does a publisher run? `creditfold publisher` starts one.",
        )


def _parsed_since(text: str | None) -> Position | str | None:
    if text is None or text == FROM_THE_START:
        return text
    try:
        return Position.parse(text)
    except InvalidPositionError as error:
        raise ArgumentError(
            error.message, f"Write --since partition:offset, for example 3:1042, or --since {FROM_THE_START}."
        ) from None


def _place(follower: "Follower", begin: Position | str | None) -> int:
    if begin is None:
        return follower.end()
    return follower.place_of(begin) if isinstance(begin, Position) else follower.start()


def document(outcome: "Outcome") -> dict[str, Any]:
    """An outcome as JSON: its position, its record's name, and its fields with instants as texts.

    `left_out` is there only where the topic had no room for something.
    """
    fields = {name: value for name, value in outcome.fields.items() if not name.startswith("log_")}
    for name in ("decided_at", "occurred_at"):
        if name in fields:
            fields[name] = _moment_or_none(fields[name])
    if "details" in fields:
        fields["details"] = loads(fields["details"]) if fields["details"] else None
    if "facts" in fields:
        fields["facts"] = [_fact(fact) for fact in fields["facts"]]
    left_out = {"left_out": outcome.left_out} if outcome.left_out else {}
    return {"position": outcome.position, "record": outcome.record, **fields, **left_out}


def _fact(fact: dict[str, Any]) -> dict[str, Any]:
    instants = {name: _moment_or_none(fact[name]) for name in ("at", "effective_at", "expires_at")}
    return {**fact, **instants}


def line(outcome: "Outcome") -> str:
    """An outcome as one line for people."""
    fields = outcome.fields
    end = f"{outcome.position}  {fields.get('command_id', '')}".rstrip()
    return f"{instant(_moment(fields['decided_at']))}  {'; '.join(_parts(outcome))}  {end}"


def _parts(outcome: "Outcome") -> "Iterator[str]":
    """What happened, the balance after it, and what the topic had no room for."""
    fields = outcome.fields
    facts = _in_words(fields.get("facts", ()))
    if outcome.record == "Rejected":
        step = f" in step {fields['step']}" if fields["step"] >= 0 else ""
        yield f"rejected  {fields['rejection']}{step}: {_of_amount(fields['kind'], fields['amount'])}"
    elif outcome.record == "Settled":
        yield f"settled   {facts}"
    else:
        kind = fields["kind"]
        # A further asset of a command that was shown before.
        amount = _of_amount(kind, fields["amount"]) if fields["command_id"] else kind
        yield f"accepted  {amount}{': ' if facts else ''}{facts}"
    if fields["asset"]:
        more = "".join(f", {fields[name]:,} {name}" for name in ("pending", "held", "debt") if fields[name])
        yield f"balance {fields['balance']:,} {fields['asset']}{more}"
    for part, count in outcome.left_out.items():
        yield f"left out {count:,} {'bytes of details' if part == 'details' else part}"


def _of_amount(kind: str, amount: int) -> str:
    return f"{kind} of {amount:,}" if amount else kind


def _in_words(facts: "Iterable[dict[str, Any]]") -> str:
    """Facts in a few words: for each kind, the amount that it moved, and the number of facts if not one."""
    moved: dict[str, list[int]] = {}
    for fact in facts:
        moved.setdefault(fact["kind"], []).append(sum(move["amount"] for move in fact["moves"]))
    return ", ".join(
        kind + (f" {sum(amounts):,}" if any(amounts) else "") + (f" ({len(amounts):,} times)" if amounts[1:] else "")
        for kind, amounts in moved.items()
    )


def _moment_or_none(milliseconds: int) -> datetime | None:
    return _moment(milliseconds) if milliseconds else None


def _moment(milliseconds: int) -> datetime:
    return EPOCH + timedelta(milliseconds=milliseconds)
