"""The commands that append: grant, spend, import. Owns how a command is sent and how its outcome is told.

The fold decides it. What else can be asked for is in crediting.py, and is sent and told in the same way.

An append is done when the log has it. Waiting for the fold and telling the outcome is a service on top, so a
timeout there doesn't take the command back.
"""

import inspect
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from time import time_ns
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from creditfold.cli.terms.arguments import (
    AccountArgument,
    ArgumentError,
    JsonOption,
    instant_of,
    metadata_of,
    whole_number,
)
from creditfold.cli.terms.output import counted, print_json, safe, say
from creditfold.cli.terms.progress import progress_bar
from creditfold.cli.terms.projection import projection
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from creditfold.common.settings import Settings
    from creditfold.producers.client import CommandProducer
    from creditfold.producers.import_file import ImportProgress, ImportReport
    from creditfold.producers.models.commands import Command
    from creditfold.schemas.outcome import CommandOutcome, Decision

REJECTED = 3
NOTHING: Mapping[str, Any] = MappingProxyType({})
DEFAULT_ASSET = "credits"

AmountArgument = Annotated[str, typer.Argument(help="Whole number of the asset's smallest unit, at least 1.")]
AssetOption = Annotated[str, typer.Option(help="Kind of credit.")]
IdOption = Annotated[
    str | None, typer.Option("--id", help="Command id: the same one counts once. Default: a new UUID, printed.")
]
SourceOption = Annotated[str, typer.Option(help="Service that asks for it.")]
ReasonOption = Annotated[str, typer.Option(help="Why, for people.")]
MetadataOption = Annotated[
    list[str] | None, typer.Option("--metadata", "-m", metavar="NAME=VALUE", help="A note; can be repeated.")
]
ConfirmOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Send it although it can hardly be meant; a first answer says why.")
]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Print the position and don't wait for the outcome.")]
TimeoutOption = Annotated[
    float, typer.Option(min=0.1, max=600, help="Seconds to wait for Kafka, and then for the outcome.")
]


ClassOption = Annotated[
    Literal["paid", "promo"], typer.Option("--class", help="Whether the credits were bought or given.")
]
PriorityOption = Annotated[int, typer.Option(help="0 to 100; lots with a lower one are spent first.")]
ScopeOption = Annotated[str, typer.Option(help="The one use that they are for. Default: any.")]
UseOption = Annotated[str, typer.Option(help="What they are spent on: takes credits of this scope too.")]


class Asked(NamedTuple):
    """What a command line asks for: a command's type and its fields by name, but for those that all of them share.

    `again` is what to write, to ask for the same once more, where the command line said something that counts from now.
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

    def told(self, maybe_written: bool) -> str:
        """What a person needs to send it again safely; nothing before it was sent."""
        if not self.sent:
            return ""
        maybe = "may be in the log" if maybe_written else "is not in the log"
        where = maybe if self.position is None else f"is in the log at {self.position}"
        id = self.command.command_id
        again = f"--id {id} {self.again}".strip()
        return f"The command {where}. Its id is {id}; sent again with {again}, all else the same, it counts once."


def appends(ask: Callable[..., Asked]) -> Callable[..., None]:
    """Make a subcommand of a function that says what is asked for.

    Behind the function's own parameters it has those of _shared, and does what all such subcommands do.
    """

    @wraps(ask)
    def run(**given: Any) -> None:
        shared = {name: given.pop(name) for name in _SHARED}
        _append(ask(**given), **shared)

    own = inspect.signature(ask)
    parameters = [*own.parameters.values(), *_SHARED.values()]
    run.__signature__ = own.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]  # Typer reads it.
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _append(
    asked: Asked,
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
    named = {"type": asked.type, "command_id": str(uuid.uuid4()) if id is None else id}
    command = _parsed({**named, **asked.fields, **who}, confirmed=yes)
    attempt = _Attempt(command, asked.again)
    more = _foretold(command, json)
    with _told_on_failure(attempt):
        if no_wait:
            tell_position(command, _appended(attempt, timeout), json, more)
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


def _foretold(command: "Command", json: bool) -> Mapping[str, Any]:
    """Say what of a command's effect lies in the past, before it is sent; in JSON, beside the outcome."""
    from creditfold.producers.models.past_effects import past_effect

    effect = past_effect(command.type, command.fields, time_ns() // 1_000_000)
    if effect is None:
        return NOTHING
    if json:
        return {"note": effect}
    print(f"note: {safe(effect)}", file=sys.stderr)
    return NOTHING


#: The options that every command has: those of _append.
_SHARED = {name: parameter for name, parameter in inspect.signature(_append).parameters.items() if name != "asked"}


@appends
def grant(
    account: AccountArgument,
    amount: AmountArgument,
    *,
    asset: AssetOption = DEFAULT_ASSET,
    lot_class: ClassOption = "paid",
    priority: PriorityOption = 50,
    effective_at: Annotated[
        str, typer.Option(metavar="TIME", show_default=False, help="When they begin. Default: at once.")
    ] = "0",
    expires_at: Annotated[
        str, typer.Option(metavar="TIME", show_default=False, help="When they end. Default: never.")
    ] = "0",
    scope: ScopeOption = "",
) -> Asked:
    """Give an account credits, and see what comes of it.

    Exits with 3 when the command is rejected, with 4 when the fold doesn't get to it in time.
    A TIME is ISO 8601, in UTC unless it says otherwise, or milliseconds since 1970.

    \b
    Examples:
      creditfold grant alice 500
      creditfold grant alice 500 --id welcome-alice --reason "welcome bonus"
      creditfold grant alice 500 --asset boosts --metadata campaign=spring --no-wait
      creditfold grant alice 50 --class promo --priority 10 --expires-at 2030-01-31T00:00Z
    """
    fields = {
        "account": account,
        "asset": asset,
        "amount": whole_number(amount),
        "lot_class": lot_class,
        "priority": priority,
        "effective_at": instant_of(effective_at),
        "expires_at": instant_of(expires_at),
        "scope": scope,
    }
    return Asked("grant", fields)


@appends
def spend(
    account: AccountArgument,
    amount: AmountArgument,
    *,
    asset: AssetOption = DEFAULT_ASSET,
    use: UseOption = "",
    partial: Annotated[bool, typer.Option("--partial", help="Take what there is, if it is less.")] = False,
    effective_at: Annotated[
        str, typer.Option(metavar="TIME", show_default=False, help="Date it back to this time.")
    ] = "0",
) -> Asked:
    """Take credits from an account, and see what comes of it.

    Exits with 3 when the command is rejected, with 4 when the fold doesn't get to it in time.
    A TIME is ISO 8601, in UTC unless it says otherwise, or milliseconds since 1970.

    \b
    Examples:
      creditfold spend alice 120
      creditfold spend alice 120 --id order-77 --reason "proposal 77"
      creditfold spend alice 120 --use proposals --partial
    """
    fields = {
        "account": account,
        "asset": asset,
        "amount": whole_number(amount),
        "use": use,
        "partial": partial,
        "effective_at": instant_of(effective_at),
    }
    return Asked("spend", fields)


@contextmanager
def _told_on_failure(attempt: _Attempt) -> Iterator[None]:
    """Add the command's id to whatever ends the block too early, so that the command can be sent again."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        raise InterruptedAppendError("Interrupted.", attempt.told(maybe_written=True)) from None
    except CreditfoldError as error:
        error.remedy = f"{error.remedy} {attempt.told(getattr(error, 'maybe_written', True))}".strip()
        raise
    except Exception as error:
        error.add_note(attempt.told(maybe_written=True))
        raise


def _append_and_wait(attempt: _Attempt, timeout: float, json: bool, more: Mapping[str, Any]) -> None:
    from creditfold.projections import queries

    with projection() as connection:
        # Asked before the append: without a projection there is no outcome to wait for, and nothing gets appended.
        queries.progress(connection)
        position = _appended(attempt, timeout)
        outcome = awaited_outcome(connection, attempt.command, position, timeout)
    tell_outcome(attempt.command, outcome, json, more)


def awaited_outcome(
    connection: "Connection[TupleRow]", command: "Command", position: Position, timeout: float
) -> "CommandOutcome":
    """Wait until the fold has passed a command; what it made of it. Raises NotYetFoldedError."""
    from creditfold.projections.queries.outcomes import await_outcome

    return await_outcome(connection, position, command.account, command.command_id, timeout)


def tell_outcome(command: "Command", outcome: "CommandOutcome", json: bool, more: Mapping[str, Any] = NOTHING) -> None:
    """Print what became of a command, with `more` to say in JSON. Exits with 3 unless it was accepted."""
    if outcome.decision is None:
        _tell_dead_letter(command, outcome, json, more)
    else:
        _tell_decision(command, outcome, outcome.decision, json, more)


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


def tell_position(command: "Command", position: Position, json: bool, more: Mapping[str, Any] = NOTHING) -> None:
    """Print where a command is, with `more` to say in JSON."""
    if json:
        print_json({"outcome": "appended", **_named(command, position), **more})
    else:
        say(f"appended at {position}", f"  command {command.command_id}")


def _named(command: "Command", position: Position) -> dict[str, Any]:
    return {"account": command.account, "command_id": command.command_id, "position": position}


def _tell_dead_letter(command: "Command", outcome: "CommandOutcome", json: bool, more: Mapping[str, Any]) -> None:
    if json:
        row = {**_named(command, outcome.position), "reason": outcome.reason, "detail": outcome.detail}
        print_json({"outcome": outcome.kind, **row, **more})
    else:
        say(
            f"dead letter: {outcome.reason}: {outcome.detail}",
            f"  command {command.command_id} at {outcome.position}; it has no effect",
        )
    raise typer.Exit(REJECTED)


def _tell_decision(
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
    """Say in one line what was decided and what the balance was after it, what expired in a batch's steps included."""
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
    """What a command gave and time took in the same moment: the window was past already."""
    facts = (fact for fact in decision.facts if fact["kind"] == "expired")
    return sum(amount for fact in facts for *_, amount in fact.get("moves", ()))


def import_(
    file: Annotated[
        Path, typer.Argument(help="JSON Lines or CSV, plain or gzip, one command a line; - reads the input.")
    ],
    *,
    format: Annotated[Literal["jsonl", "csv"] | None, typer.Option(help="Default: told from the file's name.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where bad lines are listed. Default: in the data folder, printed.")
    ] = None,
    start_over: Annotated[
        bool, typer.Option("--start-over", help="From the first line again; what is in the log counts once.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Append what can hardly be meant too; the report says why it wasn't.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Append the commands of a file. Run it again after a stop: it goes on where it was.

    Bad lines are listed in a report, the good ones are appended; then it exits with 3.
    docs/producing.md describes the file.

    \b
    Examples:
      creditfold import commands.jsonl
      creditfold import grants.csv --report bad-lines.jsonl
      zstd -dc grants.csv.zst | creditfold import - --format csv
    """
    from creditfold.common.settings import load_settings

    file = Path("/dev/stdin") if file == Path("-") else file
    _refuse_unreadable(file, format)
    settings = load_settings()
    state_path, default_report = import_paths(settings, file)
    report_path = report or default_report
    with _told_how_to_go_on(), open_producer(settings) as producer:
        done = import_with_progress(
            file,
            producer,
            format=format,
            state_path=state_path,
            report_path=report_path,
            start_over=start_over,
            confirmed=yes,
            quiet=json,
        )
    bad = done.bad + done.bad_before
    if report is None and not (bad or file.is_file()):
        # By the name of a pipe nobody would find it again.
        report_path.unlink(missing_ok=True)
    if json:
        print_json({**vars(done), "report": report_path})
    else:
        _tell_import(done, report_path)
    if bad:
        raise typer.Exit(REJECTED)


def _refuse_unreadable(file: Path, format: str | None) -> None:
    from creditfold.producers.import_lines import format_of
    from creditfold.producers.models.errors import ImportFileError

    if file.is_dir():
        raise ArgumentError(f"{file} is a folder.", "Name a file in it: one command a line, JSON Lines or CSV.")
    try:
        _ = format or format_of(file)
    except ImportFileError as error:
        raise ArgumentError(error.message, "Say which it is: --format jsonl or --format csv.") from None


@contextmanager
def _told_how_to_go_on() -> Iterator[None]:
    """Say in the command line's words how a stopped or refused import goes on."""
    from creditfold.producers.models.errors import ImportStateError

    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedAppendError(
            "Interrupted.", "Run it again: it goes on where it was, and resent commands count once."
        ) from None
    except ImportStateError as error:
        remedy = error.remedy.replace("Use another progress file. ", "")
        raise ImportStateError(error.message, remedy.replace("Start over to", "Add --start-over to")) from None


def import_paths(settings: "Settings", file: Path) -> tuple[Path, Path]:
    """Where an import's progress and its list of bad lines are kept: by the file's full path."""
    from hashlib import sha256

    folder = settings.data_dir / "imports"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CreditfoldError(
            f"An import keeps its progress in the data folder, and {folder} can't be made: {error.strerror}.",
            "Set CREDITFOLD_DATA_DIR to a folder that can be written and is there when the import is run again.",
        ) from None
    stem = f"{file.name[:80]}-{sha256(str(file.resolve()).encode(errors='surrogateescape')).hexdigest()[:12]}"
    return folder / f"{stem}.state.json", folder / f"{stem}.bad.jsonl"


def import_with_progress(
    file: Path,
    producer: "CommandProducer",
    *,
    format: Literal["jsonl", "csv"] | None = None,
    state_path: Path,
    report_path: Path,
    start_over: bool = False,
    confirmed: bool = False,
    quiet: bool = False,
) -> "ImportReport":
    """Import a file, with a progress bar on standard error if that is a terminal."""
    from creditfold.producers.import_file import import_file

    with progress_bar("importing", "lines", quiet=quiet) as bar:

        def on_progress(progress: "ImportProgress") -> None:
            bar(progress.bytes_read, progress.bytes_total, progress.lines, progress.appended)

        return import_file(
            file,
            producer,
            format=format,
            state_path=state_path,
            report_path=report_path,
            on_progress=on_progress,
            start_over=start_over,
            confirmed=confirmed,
        )


def _tell_import(done: "ImportReport", report_path: Path) -> None:
    rate = done.appended / done.seconds if done.seconds else 0
    say(f"appended {counted(done.appended, 'command')} in {done.seconds:.1f} s ({rate:,.0f}/s)")
    if done.skipped:
        say(f"  {counted(done.skipped, 'line')} done by earlier runs; --start-over imports again from the first")
    if not (done.appended or done.bad or done.skipped):
        say("  there are no commands in it")
    if not done.ended:
        say("  the last line has no line end: if the file was cut off, its end is missing")
    if done.past:
        said = "takes" if done.past == 1 else "take"
        say(f"  {done.past:,} of them {said} effect in the past: credits that expire, or turns that are taken, at once")
    if done.bad + done.bad_before:
        say(f"  {counted(done.bad + done.bad_before, 'bad line')}, listed in {report_path}")
        say(*(f"  line {line}: {reason}" for line, reason in _first_bad_lines(report_path)))


def _first_bad_lines(report_path: Path, count: int = 5) -> list[tuple[int, str]]:
    import json
    from itertools import islice

    with report_path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, count)]
    return [(row["line"], row["reason"]) for row in rows]
