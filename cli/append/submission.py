"""How a command is sent and its outcome shown, for every subcommand that appends one.

Knows no command: each subcommand builds a draft, and `appends` makes a subcommand of the function that does.

An append is done when the log has it. Waiting for the fold and showing the outcome is a service on top, so a timeout
there doesn't take the command back.
"""

import inspect
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from time import time_ns
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from creditfold.cli.shared.arguments import JsonOption, metadata_of
from creditfold.cli.shared.output import print_json, safe, say
from creditfold.cli.shared.projection import projection
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from creditfold.common.settings import Settings
    from creditfold.producers.client import CommandProducer
    from creditfold.producers.models.commands import Command
    from creditfold.schemas.outcome import CommandOutcome, Decision

REJECTED = 3
NOTHING: Mapping[str, Any] = MappingProxyType({})

IdOption = Annotated[
    str | None, typer.Option("--id", help="Command id: the same one counts once. Default: a new UUID, printed.")
]
SourceOption = Annotated[str, typer.Option(help="Service that sends it.")]
ReasonOption = Annotated[str, typer.Option(help="Reason, for people.")]
MetadataOption = Annotated[
    list[str] | None, typer.Option("--metadata", "-m", metavar="NAME=VALUE", help="A note; can be repeated.")
]
ConfirmOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Send it although it is doubtful; the refusal says why.")
]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Print the position and don't wait for the outcome.")]
TimeoutOption = Annotated[
    float, typer.Option(min=0.1, max=600, help="Seconds to wait for Kafka, and then for the outcome.")
]


class Draft(NamedTuple):
    """A command of the command line: its type and its fields by name, without those that all commands share.

    `again` is the option that repeats it unchanged, where the command line named a time relative to now.
    """

    type: str
    fields: Mapping[str, Any]
    again: str = ""


class InterruptedAppendError(CreditfoldError):
    """Ctrl-C in the middle of appending."""

    exit_code = 130


@dataclass
class _Attempt:
    """A command on its way: whether it was handed to Kafka, and where it stands once that is known."""

    command: "Command"
    again: str = ""
    sent: bool = False
    position: Position | None = None

    def remedy(self, maybe_written: bool) -> str:
        """How to send it again safely; empty before it was sent."""
        if not self.sent:
            return ""
        maybe = "may be in the log" if maybe_written else "is not in the log"
        where = maybe if self.position is None else f"is in the log at {self.position}"
        id = self.command.command_id
        again = f"--id {id} {self.again}".strip()
        return f"The command {where}. Its id is {id}; sent again with {again}, all else the same, it counts once."


def appends(draft: Callable[..., Draft]) -> Callable[..., None]:
    """Make a subcommand of a function that returns a draft.

    The subcommand has the function's own parameters and then those of `_append`.
    """

    @wraps(draft)
    def run(**given: Any) -> None:
        shared = {name: given.pop(name) for name in _SHARED}
        _append(draft(**given), **shared)

    own = inspect.signature(draft)
    parameters = [*own.parameters.values(), *_SHARED.values()]
    run.__signature__ = own.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]  # Typer reads it.
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _append(
    draft: Draft,
    *,
    id: IdOption = None,
    source: SourceOption = "cli",
    reason: ReasonOption = "",
    metadata: MetadataOption = None,
    yes: ConfirmOption = False,
    no_wait: NoWaitOption = False,
    timeout: TimeoutOption = 10.0,
    json: JsonOption = False,
) -> None:
    # A command may be sent again by its id, and must then be the same in every field, so it carries no time.
    who = {"source": source, "reason": reason, "metadata": metadata_of(metadata or [])}
    named = {"type": draft.type, "command_id": str(uuid.uuid4()) if id is None else id}
    command = _parsed({**named, **draft.fields, **who}, confirmed=yes)
    attempt = _Attempt(command, draft.again)
    more = _past_effect_note(command, json)
    with _with_resend_remedy(attempt):
        if no_wait:
            print_position(command, _appended(attempt, timeout), json, more)
        else:
            _append_and_wait(attempt, timeout, json, more)


def _parsed(fields: Mapping[str, Any], *, confirmed: bool) -> "Command":
    from creditfold.producers.models.commands import parse_command
    from creditfold.producers.models.errors import DoubtfulCommandError

    try:
        return parse_command(fields, confirmed=confirmed)
    except DoubtfulCommandError as error:
        error.remedy = "Correct it; if it is meant as it is, add --yes."
        raise


def _past_effect_note(command: "Command", json: bool) -> Mapping[str, Any]:
    """Report a command's effects in the past, before it is sent; with --json, in the outcome's document."""
    from creditfold.producers.models.past_effects import past_effect

    effect = past_effect(command.type, command.fields, time_ns() // 1_000_000)
    if effect is None:
        return NOTHING
    if json:
        return {"note": effect}
    print(f"note: {safe(effect)}", file=sys.stderr)
    return NOTHING


#: The options that every command has: those of _append.
_SHARED = {name: parameter for name, parameter in inspect.signature(_append).parameters.items() if name != "draft"}


@contextmanager
def _with_resend_remedy(attempt: _Attempt) -> Iterator[None]:
    """Add the command's id to whatever ends the block too early, so that the command can be sent again."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        raise InterruptedAppendError("Interrupted.", attempt.remedy(maybe_written=True)) from None
    except CreditfoldError as error:
        error.remedy = f"{error.remedy} {attempt.remedy(getattr(error, 'maybe_written', True))}".strip()
        raise
    except Exception as error:
        error.add_note(attempt.remedy(maybe_written=True))
        raise


def _append_and_wait(attempt: _Attempt, timeout: float, json: bool, more: Mapping[str, Any]) -> None:
    from creditfold.projections.queries.progress import progress

    with projection() as connection:
        # Before the append: without a projection there is no outcome to wait for, and nothing is appended.
        progress(connection)
        position = _appended(attempt, timeout)
        outcome = awaited_outcome(connection, attempt.command, position, timeout)
    print_outcome(attempt.command, outcome, json, more)


def awaited_outcome(
    connection: "Connection[TupleRow]", command: "Command", position: Position, timeout: float
) -> "CommandOutcome":
    """Wait until the fold has passed a command, and return its outcome. Raises NotYetFoldedError."""
    from creditfold.projections.queries.outcomes import await_outcome

    return await_outcome(connection, position, command.account, command.command_id, timeout)


def print_outcome(command: "Command", outcome: "CommandOutcome", json: bool, more: Mapping[str, Any] = NOTHING) -> None:
    """Print a command's outcome; `more` are further keys of the JSON. Exits with 3 unless it was accepted."""
    if outcome.decision is None:
        _print_dead_letter(command, outcome, json, more)
    else:
        _print_decision(command, outcome, outcome.decision, json, more)


def _appended(attempt: _Attempt, timeout: float) -> Position:
    from creditfold.common.settings import load_settings

    with open_producer(load_settings(), timeout) as producer:
        attempt.sent = True
        attempt.position = producer.append(attempt.command)
    return attempt.position


def open_producer(settings: "Settings", timeout: float = 30.0) -> "CommandProducer":
    """A producer to the log that the settings name."""
    from creditfold.producers.client import CommandProducer

    return CommandProducer(settings.kafka_client, settings.commands_topic, delivery_timeout_s=timeout)


def print_position(command: "Command", position: Position, json: bool, more: Mapping[str, Any] = NOTHING) -> None:
    """Print a command's position; `more` are further keys of the JSON."""
    if json:
        print_json({"outcome": "appended", **_named(command, position), **more})
    else:
        say(f"appended at {position}", f"  command {command.command_id}")


def _named(command: "Command", position: Position) -> dict[str, Any]:
    return {"account": command.account, "command_id": command.command_id, "position": position}


def _print_dead_letter(command: "Command", outcome: "CommandOutcome", json: bool, more: Mapping[str, Any]) -> None:
    if json:
        row = {**_named(command, outcome.position), "reason": outcome.reason, "detail": outcome.detail}
        print_json({"outcome": outcome.kind, **row, **more})
    else:
        say(
            f"dead letter: {outcome.reason}: {outcome.detail}",
            f"  command {command.command_id} at {outcome.position}; it has no effect",
        )
    raise typer.Exit(REJECTED)


def _print_decision(
    command: "Command", outcome: "CommandOutcome", decision: "Decision", json: bool, more: Mapping[str, Any]
) -> None:
    is_duplicate = decision.position != outcome.position
    if json:
        print_json(
            {
                "outcome": "accepted" if decision.accepted else "rejected",
                **_named(command, outcome.position),
                "duplicate": is_duplicate,
                "decision": decision,
                **({"steps": outcome.steps} if outcome.steps else {}),
                **more,
            }
        )
    else:
        if is_duplicate:
            say(f"duplicate: this command was decided before, at {decision.position}; that outcome stands")
        say(outcome_in_words(decision, outcome.steps), f"  command {decision.command_id} at {outcome.position}")
    if not decision.accepted:
        raise typer.Exit(REJECTED)


def outcome_in_words(decision: "Decision", steps: Sequence["Decision"] = ()) -> str:
    """One line: the decision, the balance after it, and what expired at once, in a batch's steps too."""
    # A command may be about no asset, or about an asset but no amount of it.
    holds = f"; {decision.account_id} has {decision.balance:,} {decision.asset}" if decision.asset else ""
    if decision.accepted:
        expired = Counter[str]()
        for line in (decision, *steps):
            expired[line.asset] += _expired_at_once(line)
        holds += "".join(f"; {amount:,} {asset} expired at once" for asset, amount in expired.items() if amount)
    if decision.accepted and decision.change:
        sign = "+" if decision.change > 0 else "-"
        return f"accepted: {sign}{abs(decision.change):,} {decision.asset}{holds}"
    of = f" of {decision.amount:,} {decision.asset}" if decision.amount and decision.asset else ""
    said = "accepted" if decision.accepted else f"rejected: {decision.rejection}"
    return f"{said}: {decision.kind}{of}{holds}"


def _expired_at_once(decision: "Decision") -> int:
    """The amount that a command granted and that expired in the same moment, since its window was past."""
    facts = (fact for fact in decision.facts if fact["kind"] == "expired")
    return sum(amount for fact in facts for *_, amount in fact.get("moves", ()))
