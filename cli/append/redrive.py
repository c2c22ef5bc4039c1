"""The commands that decide about dead letters: redrive, discard. Owns their options, their words and their exit codes.

The workflow is in processors/redrive.py; what is appended is judged in producers/redrive.py.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

import typer

from creditfold.cli.append.submission import REJECTED, TimeoutOption, awaited_outcome, print_outcome, print_position
from creditfold.cli.shared.arguments import (
    ArgumentError,
    ByOption,
    JsonOption,
    author_of,
    checked_account,
    file_text,
    moment_of,
    reason_of,
)
from creditfold.cli.shared.output import counted, print_json, print_table, say
from creditfold.cli.shared.progress import progress_bar
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.outcome import OutcomeKind

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from creditfold.processors.redrive import Redriven, Redriver
    from creditfold.producers.models.commands import Command
    from creditfold.producers.redrive import Corrections
    from creditfold.projections.queries.dead_letters import DeadLetterState, LetterKey

#: Letters that a summary names; --json has all.
SHOWN = 20
MAX_COMMAND_BYTES = 1_000_000
NOT_FOLDED = "not_folded_yet"
#: Results of a letter that is mended or discarded, or would be.
FINE = {"accepted", "duplicate", "appended", "discarded", "would_be_redriven", "would_be_discarded"}

PositionsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[POSITION]...", help="Of the records, as `list` shows them.")
]
OnlyReasonOption = Annotated[DeadLetterReason | None, typer.Option("--reason", help="The open ones of this reason.")]
AccountOption = Annotated[str | None, typer.Option("--account", "-a", help="The open ones with this key.")]
SinceOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="The open ones appended since then: 2026-01-31T12:00Z, UTC by default."),
]
AllOption = Annotated[bool, typer.Option("--all", help="All open ones.")]
WhyOption = Annotated[str, typer.Option(help="Reason; kept with the decision.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Don't ask for confirmation; take doubtful corrections as meant.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Correct a field; metadata.NAME for a note. Can be repeated."),
]
CommandOption = Annotated[
    str | None,
    typer.Option("--command", metavar="JSON", help="A whole new command instead; @FILE reads it from a file."),
]
#: Without batches, whose steps can't be set one by one.
FlatType: TypeAlias = Literal[
    "grant",
    "spend",
    "hold",
    "capture",
    "release",
    "refund",
    "void_grant",
    "transfer",
    "freeze",
    "unfreeze",
    "close",
    "set_credit_limit",
    "create_schedule",
    "cancel_schedule",
]
TypeOption = Annotated[FlatType | None, typer.Option("--type", help="Correct the command's type.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the outcome.")]


class NotConfirmedError(CreditfoldError):
    """The answer to the question was no."""


class Result(NamedTuple):
    """One letter's result: an outcome's name, `refused`, or what would be done; `to` is the new record's position."""

    position: Position
    reason: str
    result: str
    to: Position | None = None
    detail: str = ""
    command: Mapping[str, Any] | None = None


class Selection(NamedTuple):
    """The letters to act on: those at positions, or the undecided ones of a filter."""

    positions: Sequence[Position]
    reason: str | None
    account: str | None
    since: datetime | None

    @property
    def one(self) -> Position | None:
        """The letter's position, if exactly one is named."""
        return self.positions[0] if len(self.positions) == 1 else None


def redrive(
    positions: PositionsArgument = None,
    *,
    why: WhyOption,
    reason: OnlyReasonOption = None,
    account: AccountOption = None,
    since: SinceOption = None,
    all: AllOption = False,
    set: SetOption = None,
    type: TypeOption = None,
    command: CommandOption = None,
    by: ByOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = True,
    timeout: TimeoutOption = 10.0,
    json: JsonOption = False,
) -> None:
    """Append the command of a dead letter again, corrected if needed, and show the outcome.

    A letter is redriven once, ever. A redrive that was interrupted is finished by running it again.
    Exits with 3 when a letter is refused, or its command is rejected or a dead letter again.

    \b
    Examples:
      creditfold dead-letters redrive 3:1042 --why "sent with the wrong partitioner"
      creditfold dead-letters redrive 3:1042 --set amount=50 --set metadata.ticket=77 --why "sign was wrong"
      creditfold dead-letters redrive 3:1042 --command @order-77.json --why "bytes were cut"
      creditfold dead-letters redrive --reason wrong_partition --why "wrong partitioner" --dry-run
      creditfold dead-letters redrive --all --why "rules 2 are in force" --yes
    """
    selection = _selection(positions, reason, account, since, all)
    corrections = _corrections(set or [], type, command)._replace(confirmed=yes)
    _refuse_one_id_for_many(selection, corrections)
    with _redriver(author_of(by), reason_of(why, "--why"), corrections, timeout) as redriver:
        # A redrive whose decision was lost with a database shows in the log alone.
        redriver.await_fold()
        if selection.one is not None and not dry_run:
            _redrive_one(redriver, selection.one, wait, json)
        else:
            _redrive_many(redriver, selection, dry_run=dry_run, yes=yes, wait=wait, json=json)


def discard(
    positions: PositionsArgument = None,
    *,
    why: WhyOption,
    reason: OnlyReasonOption = None,
    account: AccountOption = None,
    since: SinceOption = None,
    all: AllOption = False,
    by: ByOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Decide that nothing is done about a dead letter. It stays, and can't be redriven any more.

    Exits with 3 when a letter is refused.

    \b
    Examples:
      creditfold dead-letters discard 3:1042 --why "noise from a test"
      creditfold dead-letters discard --reason not_framed --why "noise from a test" --dry-run
    """
    from creditfold.common.settings import load_settings
    from creditfold.processors import redrive as workflow
    from creditfold.projections.queries import decisions
    from creditfold.projections.queries.dead_letters import OPEN

    selection = _selection(positions, reason, account, since, all)
    author, note = author_of(by), reason_of(why, "--why")
    with decisions.decision_connection(load_settings().dsn) as connection:
        topic_id = decisions.live_log(connection).topic_id
        wish = decisions.NewDecision("discard", author, note)

        def discarded(letter: "DeadLetterState") -> Result:
            workflow.discard(connection, topic_id, letter, None if dry_run else wish)
            return Result(letter.position, letter.reason, "would_be_discarded" if dry_run else "discarded")

        chosen = _chosen(connection, selection, (OPEN,))
        if not (dry_run or selection.positions):
            _confirm("Discard", chosen, yes, json)
        results = _each(connection, selection, chosen, discarded, verb="discarding", json=json)
    if selection.one is not None and not (dry_run or json):
        say(f"discarded: {selection.one}")
    else:
        _report_results(results, json)


# Arguments.


def _selection(
    positions: list[str] | None, reason: DeadLetterReason | None, account: str | None, since: str | None, all: bool
) -> Selection:
    ways = bool(positions) + bool(reason is not None or account is not None or since is not None) + all
    if ways != 1:
        fault = "Which dead letters?" if not ways else "Positions, a filter and --all exclude each other."
        raise ArgumentError(fault, "Name positions, or a filter (--reason, --account, --since), or --all.")
    places = tuple(dict.fromkeys(Position.parse(text) for text in positions or ()))
    return Selection(
        places,
        reason,
        checked_account(account) if account is not None else None,
        moment_of(since) if since is not None else None,
    )


def _corrections(pairs: list[str], type: str | None, command: str | None) -> "Corrections":
    from creditfold.producers.import_commands import FLAT_FIELDS, field_of
    from creditfold.producers.redrive import Corrections

    if command is not None:
        if pairs or type is not None:
            raise ArgumentError("--command is the whole command.", "Leave out --set and --type, or --command.")
        return Corrections(command=_command(command))
    known = [name for name in FLAT_FIELDS if name not in ("type", "metadata")]
    fields: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        within = name.removeprefix("metadata.")
        target: dict[str, Any] = fields if within == name else metadata
        if not equals or (target is fields and name not in known) or within in target:
            fault = "is given twice" if within in target else "is no FIELD=VALUE"
            names = ", ".join((*known, "metadata.NAME"))
            raise ArgumentError(f"--set {pair[:60]!r} {fault}.", f"Set each field once; the fields are: {names}.")
        target[within] = field_of(name, value) if target is fields else value
    return Corrections(fields, metadata, type)


def _command(text: str) -> Mapping[str, Any]:
    from creditfold.producers.strict_json import parse_json

    try:
        found = parse_json(
            file_text(text[1:], MAX_COMMAND_BYTES, "a file with one command") if text.startswith("@") else text, "it is"
        )
    except UnicodeDecodeError as error:
        raise ArgumentError(f"--command is not JSON: {str(error)[:200]}.", "Write it in UTF-8.") from None
    except ValueError as error:
        raise ArgumentError(f"--command can't be read: {str(error)[:200]}.", "Write an object, or @FILE.") from None
    if not isinstance(found, dict):
        raise ArgumentError("--command is not a JSON object.", 'Write its fields by name: {"type": "grant", ...}')
    return found


def _refuse_one_id_for_many(selection: Selection, corrections: "Corrections") -> None:
    # Two letters of one account with the same body would become one command and its duplicate.
    if selection.one is None and ("command_id" in corrections.fields or corrections.command is not None):
        raise ArgumentError(
            "Several letters can't have one command id.", "Correct them one by one, by their positions."
        )


# Which letters.


@contextmanager
def _redriver(by: str, why: str, corrections: "Corrections", timeout: float) -> "Iterator[Redriver]":
    from creditfold.common.settings import load_settings
    from creditfold.processors.redrive import Redriver
    from creditfold.projections.queries.decisions import decision_connection

    settings = load_settings()
    with decision_connection(settings.dsn) as connection, ExitStack() as closing:
        yield Redriver(connection, settings, by, why, corrections, timeout, closing)


def _letter(connection: "Connection[TupleRow]", position: Position) -> "DeadLetterState":
    from creditfold.projections.queries.dead_letters import dead_letter

    found = dead_letter(connection, position)
    if found is None:
        raise ArgumentError(
            f"There is no dead letter at {position}.", "See `creditfold dead-letters list` for those there are."
        )
    return found


def _chosen(connection: "Connection[TupleRow]", selection: Selection, states: Sequence[str]) -> "Sequence[LetterKey]":
    from creditfold.projections.queries.dead_letters import LetterFilter, LetterKey, selected

    if selection.positions:
        # All of them are looked up before anything is decided about the first.
        return [LetterKey(*position, _letter(connection, position).reason) for position in selection.positions]
    key = selection.account.encode() if selection.account is not None else None
    return selected(connection, LetterFilter(selection.reason, key, selection.since), states)


def _confirm(verb: str, chosen: "Sequence[LetterKey]", yes: bool, json: bool) -> None:
    """Ask whether all that a filter found is meant; nothing is asked about nothing. Raises NotConfirmedError."""
    if not json and chosen:
        print_table(("reason", "dead letters"), sorted(Counter(row.reason for row in chosen).items()))
    if yes or not chosen:
        return
    question = f"{verb} {counted(len(chosen), 'dead letter')}"
    if sys.stdin is None or not sys.stdin.isatty():
        raise ArgumentError(
            f"{question}? There is no terminal to ask on.", "Add --yes; --dry-run shows what would be done."
        )
    if not typer.confirm(f"{question}?", err=True):
        raise NotConfirmedError("Nothing was done.", "Choose fewer by a filter, or name positions.")


# One by one.


def _redrive_one(redriver: "Redriver", position: Position, wait: bool, json: bool) -> None:
    done = redriver.redrive(_letter(redriver.connection, position))
    more = {"redrive_of": position}
    if not json:
        say(f"redriven: {position} as {done.to}")
    if not wait:
        print_position(done.command, done.to, json, more)
        return
    outcome = awaited_outcome(redriver.connection, done.command, done.to, redriver.timeout_s)
    print_outcome(done.command, outcome, json, more)


def _redrive_many(
    redriver: "Redriver", selection: Selection, *, dry_run: bool, yes: bool, wait: bool, json: bool
) -> None:
    from creditfold.projections.queries.dead_letters import OPEN, REDRIVING

    commands: dict[Position, Redriven] = {}

    def redriven(letter: "DeadLetterState") -> Result:
        if dry_run:
            command = _plain(redriver.judge(letter).command)
            return Result(letter.position, letter.reason, "would_be_redriven", detail=_named(command), command=command)
        done = commands[letter.position] = redriver.redrive(letter)
        return Result(letter.position, letter.reason, "appended", done.to)

    chosen = _chosen(redriver.connection, selection, (OPEN, REDRIVING))
    if not (dry_run or selection.positions):
        _confirm("Redrive", chosen, yes, json)
    results = _each(redriver.connection, selection, chosen, redriven, verb="redriving", json=json)
    if wait:
        results = [_with_outcome(redriver, row, commands.get(row.position)) for row in results]
    _report_results(results, json)


def _plain(command: "Command") -> dict[str, Any]:
    return {"type": command.type, **command.fields}


def _named(command: Mapping[str, Any]) -> str:
    # Not every command has an amount of an asset.
    what = " ".join(str(command[name]) for name in ("amount", "asset") if command.get(name))
    of = f" of {what}" if what else ""
    return f"{command['type']}{of}, account {command['account']}, command {command['command_id']}"


def _with_outcome(redriver: "Redriver", row: Result, done: "Redriven | None") -> Result:
    """Add a record's outcome to its result; `not_folded_yet` where the fold hasn't passed it in time."""
    from creditfold.projections.queries.progress import NotYetFoldedError

    if done is None:
        return row
    try:
        outcome = awaited_outcome(redriver.connection, done.command, done.to, redriver.timeout_s)
    except NotYetFoldedError:
        redriver.timeout_s = 0
        return row._replace(result=NOT_FOLDED)
    detail = outcome.reason or ""
    if outcome.kind == OutcomeKind.DEAD_LETTER:
        detail = f"{outcome.reason}: {outcome.detail}"
    elif outcome.kind == OutcomeKind.DUPLICATE:
        detail = "its command was decided before; that outcome stands"
    return row._replace(result=outcome.kind, detail=detail)


def _each(
    connection: "Connection[TupleRow]",
    selection: Selection,
    chosen: "Sequence[LetterKey]",
    act: "Callable[[DeadLetterState], Result]",
    *,
    verb: str,
    json: bool,
) -> list[Result]:
    """Do the same with each letter. A refusal is a result; any other failure ends it, after the results are printed.

    Where one letter is named, a refusal is raised as it is.
    """
    from creditfold.producers.redrive import RedriveRefusedError
    from creditfold.projections.queries.decisions import RedriveUnderWayError

    if selection.one is not None:
        return [act(_letter(connection, selection.one))]
    results: list[Result] = []
    try:
        with progress_bar(verb, "dead letters", quiet=json) as bar:
            for count, row in enumerate(chosen, start=1):
                try:
                    results.append(act(_letter(connection, row.position)))
                except (RedriveRefusedError, RedriveUnderWayError) as error:
                    results.append(Result(row.position, row.reason, "refused", detail=str(error)))
                bar(count, len(chosen), count)
    except BaseException:
        _print_results(results, json)
        raise
    return results


def _report_results(results: list[Result], json: bool) -> None:
    _print_results(results, json)
    if any(row.result not in FINE and row.result != NOT_FOLDED for row in results):
        raise typer.Exit(REJECTED)
    if any(row.result == NOT_FOLDED for row in results):
        from creditfold.projections.queries.progress import NotYetFoldedError

        raise NotYetFoldedError(
            "The fold hasn't got to all of them yet. They are in the log.", "See `creditfold status`."
        )


def _print_results(results: list[Result], json: bool) -> None:
    if json:
        print_json(results)
        return
    if not results:
        say("There are no such dead letters.")
        return
    shown = [row for row in results if row.detail] if len(results) > SHOWN else results
    print_table(
        ("position", "reason", "result", "to", "detail"),
        [(row.position, row.reason, row.result, row.to, row.detail) for row in shown[:SHOWN]],
    )
    if len(shown) > SHOWN:
        say(f"and {len(shown) - SHOWN:,} more; --json shows all")
    if len(results) > 1:
        print_table(("result", "dead letters"), sorted(Counter(row.result for row in results).items()))
