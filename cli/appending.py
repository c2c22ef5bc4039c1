"""The commands that append: grant, spend, import. Owns how an outcome is told; the fold decides it.

An append is done when the log has it. Waiting for the fold and telling the outcome is a service on top, so a
timeout there doesn't take the command back.
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from creditfold.cli.arguments import AccountArgument, ArgumentError, JsonOption, metadata_of, whole_number
from creditfold.cli.output import counted, print_json, say
from creditfold.cli.progress import progress_bar
from creditfold.cli.reading import projection
from creditfold.schemas.errors import CreditfoldError
from creditfold.schemas.position import Position

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from creditfold.producers.bulk import ImportProgress, ImportReport
    from creditfold.producers.client import CommandProducer
    from creditfold.producers.commands import Command
    from creditfold.projections.queries import DeadRecord, Decision
    from creditfold.stack.settings import Settings

#: The dead letter that a command became, and what was decided about a command of its id. Either may be None.
Outcome: TypeAlias = "tuple[DeadRecord | None, Decision | None]"

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
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Print the position and don't wait for the outcome.")]
TimeoutOption = Annotated[
    float, typer.Option(min=0.1, max=600, help="Seconds to wait for Kafka, and then for the outcome.")
]


class UnexplainedError(CreditfoldError):
    """The fold has passed a command and shows nothing of it."""


class InterruptedAppendError(CreditfoldError):
    """Ctrl-C in the middle of appending."""

    exit_code = 130


@dataclass
class _Attempt:
    """A command on its way: whether it was handed to Kafka, and where it stands once that is known."""

    command: "Command"
    sent: bool = False
    position: Position | None = None

    def told(self, maybe_written: bool) -> str:
        """What a person needs to send it again safely; nothing before it was sent."""
        if not self.sent:
            return ""
        maybe = "may be in the log" if maybe_written else "is not in the log"
        where = maybe if self.position is None else f"is in the log at {self.position}"
        id = self.command.command_id
        return f"The command {where}. Its id is {id}; sent again with --id {id}, all else the same, it counts once."


def grant(
    account: AccountArgument,
    amount: AmountArgument,
    *,
    asset: AssetOption = DEFAULT_ASSET,
    id: IdOption = None,
    source: SourceOption = "cli",
    reason: ReasonOption = "",
    metadata: MetadataOption = None,
    no_wait: NoWaitOption = False,
    timeout: TimeoutOption = 10.0,
    json: JsonOption = False,
) -> None:
    """Give an account credits, and see what comes of it.

    Exits with 3 when the command is rejected, with 4 when the fold doesn't get to it in time.

    \b
    Examples:
      creditfold grant alice 500
      creditfold grant alice 500 --id welcome-alice --reason "welcome bonus"
      creditfold grant alice 500 --asset boosts --metadata campaign=spring --no-wait
    """
    fields = _fields(account, amount, asset=asset, id=id, source=source, reason=reason, metadata=metadata)
    _append({"type": "grant", **fields}, no_wait, timeout, json)


def spend(
    account: AccountArgument,
    amount: AmountArgument,
    *,
    asset: AssetOption = DEFAULT_ASSET,
    id: IdOption = None,
    source: SourceOption = "cli",
    reason: ReasonOption = "",
    metadata: MetadataOption = None,
    no_wait: NoWaitOption = False,
    timeout: TimeoutOption = 10.0,
    json: JsonOption = False,
) -> None:
    """Take credits from an account, and see what comes of it.

    Exits with 3 when the command is rejected, with 4 when the fold doesn't get to it in time.

    \b
    Examples:
      creditfold spend alice 120
      creditfold spend alice 120 --id order-77 --reason "proposal 77"
    """
    fields = _fields(account, amount, asset=asset, id=id, source=source, reason=reason, metadata=metadata)
    _append({"type": "spend", **fields}, no_wait, timeout, json)


def _fields(
    account: str, amount: str, *, asset: str, id: str | None, source: str, reason: str, metadata: list[str] | None
) -> dict[str, Any]:
    # A command may be sent again by its id, and must then be the same in every field, so it carries no time.
    return {
        "command_id": str(uuid.uuid4()) if id is None else id,
        "account": account,
        "asset": asset,
        "amount": whole_number(amount),
        "source": source,
        "reason": reason,
        "metadata": metadata_of(metadata or []),
    }


def _append(fields: dict[str, Any], no_wait: bool, timeout: float, json: bool) -> None:
    from creditfold.producers.commands import parse_command

    attempt = _Attempt(parse_command(fields))
    with _told_on_failure(attempt):
        if no_wait:
            tell_position(attempt.command, _appended(attempt, timeout), json)
        else:
            _append_and_wait(attempt, timeout, json)


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


def _append_and_wait(attempt: _Attempt, timeout: float, json: bool) -> None:
    from creditfold.projections import queries

    command = attempt.command
    with projection() as connection:
        # Asked before the append: without a projection there is no outcome to wait for, and nothing gets appended.
        queries.progress(connection)
        position = _appended(attempt, timeout)
        outcome = await_outcome(connection, command, position, timeout)
    tell_outcome(command, position, outcome, json)


def await_outcome(
    connection: "Connection[TupleRow]", command: "Command", position: Position, timeout: float
) -> "Outcome":
    """Wait until the fold has passed a command, and say what it made of it. Raises NotYetFoldedError."""
    from creditfold.projections import queries

    queries.wait_for(connection, position, timeout)
    decision = queries.decision(connection, command.account, command.command_id)
    return queries.dead_letter(connection, position), decision


def tell_outcome(
    command: "Command", position: Position, outcome: "Outcome", json: bool, more: Mapping[str, Any] = NOTHING
) -> None:
    """Print what became of a command, with `more` to say in JSON. Exits with 3 unless it was accepted."""
    letter, decision = outcome
    if letter is not None:
        _tell_dead_letter(command, position, letter, json, more)
    elif decision is not None:
        _tell_decision(command, position, decision, json, more)
    else:
        raise UnexplainedError(
            f"The fold has passed {position} and shows nothing of command {command.command_id}.",
            "Does the projection belong to this topic? See `creditfold status`.",
        )


def _appended(attempt: _Attempt, timeout: float) -> Position:
    from creditfold.stack.settings import load_settings

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


def _tell_dead_letter(
    command: "Command", position: Position, letter: "DeadRecord", json: bool, more: Mapping[str, Any]
) -> None:
    if json:
        row = {"outcome": "dead_letter", **_named(command, position), "reason": letter.reason, "detail": letter.detail}
        print_json({**row, **more})
    else:
        say(
            f"dead letter: {letter.reason}: {letter.detail}",
            f"  command {command.command_id} at {position}; it has no effect",
        )
    raise typer.Exit(REJECTED)


def _tell_decision(
    command: "Command", position: Position, decision: "Decision", json: bool, more: Mapping[str, Any]
) -> None:
    first = Position(decision.log_partition, decision.log_offset)
    if json:
        print_json(
            {
                "outcome": "accepted" if decision.accepted else "rejected",
                **_named(command, position),
                "duplicate": first != position,
                "decision": decision,
                **more,
            }
        )
    else:
        if first != position:
            say(f"duplicate: this command was decided before, at {first}; that outcome stands")
        say(outcome_in_words(decision), f"  command {decision.command_id} at {position}")
    if not decision.accepted:
        raise typer.Exit(REJECTED)


def outcome_in_words(decision: "Decision") -> str:
    """Say in one line what was decided and what the balance was after it."""
    holds = f"{decision.account_id} has {decision.balance:,} {decision.asset}"
    if decision.accepted:
        sign = "+" if decision.change > 0 else "-"
        return f"accepted: {sign}{abs(decision.change):,} {decision.asset}; {holds}"
    return f"rejected: {decision.rejection}: {decision.kind} of {decision.amount:,} {decision.asset}; {holds}"


def import_(
    file: Annotated[Path, typer.Argument(help="JSON Lines or CSV, plain or gzip, one command a line.")],
    format: Annotated[Literal["jsonl", "csv"] | None, typer.Option(help="Default: told from the file's name.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where bad lines are listed. Default: in the data folder, printed.")
    ] = None,
    start_over: Annotated[
        bool, typer.Option("--start-over", help="From the first line again; what is in the log counts once.")
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
    """
    from creditfold.stack.settings import load_settings

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
            quiet=json,
        )
    bad = done.bad + done.bad_before
    if json:
        print_json({**vars(done), "report": report_path})
    else:
        _tell_import(done, report_path)
    if bad:
        raise typer.Exit(REJECTED)


def _refuse_unreadable(file: Path, format: str | None) -> None:
    from creditfold.producers.errors import ImportFileError
    from creditfold.producers.lines import format_of

    if file.is_dir():
        raise ArgumentError(f"{file} is a folder.", "Name a file in it: one command a line, JSON Lines or CSV.")
    try:
        _ = format or format_of(file)
    except ImportFileError as error:
        raise ArgumentError(error.message, "Say which it is: --format jsonl or --format csv.") from None


@contextmanager
def _told_how_to_go_on() -> Iterator[None]:
    """Say in the command line's words how a stopped or refused import goes on."""
    from creditfold.producers.errors import ImportStateError

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
            f"The data folder can't be written: {error.strerror} ({folder}).",
            "Set CREDITFOLD_DATA_DIR to one that can.",
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
    quiet: bool = False,
) -> "ImportReport":
    """Import a file, with a progress bar on standard error if that is a terminal."""
    from creditfold.producers.bulk import import_file

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
        )


def _tell_import(done: "ImportReport", report_path: Path) -> None:
    rate = done.appended / done.seconds if done.seconds else 0
    say(f"appended {counted(done.appended, 'command')} in {done.seconds:.1f} s ({rate:,.0f}/s)")
    if done.skipped:
        say(f"  {counted(done.skipped, 'line')} done by earlier runs; --start-over imports again from the first")
    if done.bad + done.bad_before:
        say(f"  {counted(done.bad + done.bad_before, 'bad line')}, listed in {report_path}")
        say(*(f"  line {line}: {reason}" for line, reason in _first_bad_lines(report_path)))


def _first_bad_lines(report_path: Path, count: int = 5) -> list[tuple[int, str]]:
    import json
    from itertools import islice

    with report_path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, count)]
    return [(row["line"], row["reason"]) for row in rows]
