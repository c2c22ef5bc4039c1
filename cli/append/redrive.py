"""The commands that decide about dead letters: redrive, discard. Owns their options, their words and their exit codes.

The workflow is in processors/redrive.py, that of several in processors/letters.py; what is appended is judged in
producers/redrive.py.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

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

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from creditfold.processors.letters import LetterResult, Selection
    from creditfold.processors.redrive import Redriver
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
    selection.refuse_one_id(corrections)
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
    from creditfold.processors import letters as workflow
    from creditfold.projections.queries import decisions

    selection = _selection(positions, reason, account, since, all)
    author, note = author_of(by), reason_of(why, "--why")
    with decisions.decision_connection(load_settings().dsn) as connection:
        topic_id = decisions.live_log(connection).topic_id
        wish = None if dry_run else decisions.NewDecision("discard", author, note)

        def discarded(letter: "DeadLetterState") -> "LetterResult":
            return workflow.discarded(connection, topic_id, letter, wish)

        chosen = workflow.chosen(connection, selection, workflow.TO_DISCARD)
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
) -> "Selection":
    from creditfold.processors.letters import Selection
    from creditfold.projections.queries.dead_letters import LetterFilter

    ways = bool(positions) + bool(reason is not None or account is not None or since is not None) + all
    if ways != 1:
        fault = "Which dead letters?" if not ways else "Positions, a filter and --all exclude each other."
        raise ArgumentError(fault, "Name positions, or a filter (--reason, --account, --since), or --all.")
    places = tuple(dict.fromkeys(Position.parse(text) for text in positions or ()))
    key = None if account is None else checked_account(account).encode()
    return Selection(places, LetterFilter(reason, key, moment_of(since) if since is not None else None))


def _corrections(pairs: list[str], type: str | None, command: str | None) -> "Corrections":
    from creditfold.producers.import_commands import CorrectionError, corrected
    from creditfold.producers.redrive import Corrections

    if command is not None:
        if pairs or type is not None:
            raise ArgumentError("--command is the whole command.", "Leave out --set and --type, or --command.")
        return Corrections(command=_command(command))
    try:
        fields, metadata = corrected(pairs)
    except CorrectionError as error:
        raise ArgumentError(f"--set {error.message}", error.remedy) from None
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


# Which letters.


@contextmanager
def _redriver(by: str, why: str, corrections: "Corrections", timeout: float) -> "Iterator[Redriver]":
    from creditfold.common.settings import load_settings
    from creditfold.processors.redrive import Redriver
    from creditfold.projections.queries.decisions import decision_connection

    settings = load_settings()
    with decision_connection(settings.dsn) as connection, ExitStack() as closing:
        yield Redriver(connection, settings, by, why, corrections, timeout, closing)


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
    from creditfold.processors.letters import letter_at

    done = redriver.redrive(letter_at(redriver.connection, position))
    more = {"redrive_of": position}
    if not json:
        say(f"redriven: {position} as {done.to}")
    if not wait:
        print_position(done.command, done.to, json, more)
        return
    outcome = awaited_outcome(redriver.connection, done.command, done.to, redriver.timeout_s)
    print_outcome(done.command, outcome, json, more)


def _redrive_many(
    redriver: "Redriver", selection: "Selection", *, dry_run: bool, yes: bool, wait: bool, json: bool
) -> None:
    from creditfold.processors import letters as workflow

    def redriven(letter: "DeadLetterState") -> "LetterResult":
        return (workflow.would_be_redriven if dry_run else workflow.redriven)(redriver, letter)

    chosen = workflow.chosen(redriver.connection, selection, workflow.TO_REDRIVE)
    if not (dry_run or selection.positions):
        _confirm("Redrive", chosen, yes, json)
    results = _each(redriver.connection, selection, chosen, redriven, verb="redriving", json=json)
    if wait:
        results = [workflow.with_outcome(redriver, row) for row in results]
    _report_results(results, json)


def _each(
    connection: "Connection[TupleRow]",
    selection: "Selection",
    chosen: "Sequence[LetterKey]",
    act: "Callable[[DeadLetterState], LetterResult]",
    *,
    verb: str,
    json: bool,
) -> "list[LetterResult]":
    """Do the same with each letter; where that ends early, the results are printed.

    Where one letter is named, a refusal is raised as it is.
    """
    from creditfold.processors.letters import each, letter_at

    if selection.one is not None:
        return [act(letter_at(connection, selection.one))]
    results: list[LetterResult] = []
    try:
        with progress_bar(verb, "dead letters", quiet=json) as bar:
            each(connection, chosen, act, results, lambda count: bar(count, len(chosen), count))
    except BaseException:
        _print_results(results, json)
        raise
    return results


def _report_results(results: "list[LetterResult]", json: bool) -> None:
    _print_results(results, json)
    if any(row.result not in FINE and row.result != NOT_FOLDED for row in results):
        raise typer.Exit(REJECTED)
    if any(row.result == NOT_FOLDED for row in results):
        from creditfold.projections.queries.progress import NotYetFoldedError

        raise NotYetFoldedError(
            "The fold hasn't got to all of them yet. They are in the log.", "See `creditfold status`."
        )


def _print_results(results: "list[LetterResult]", json: bool) -> None:
    if json:
        print_json(results)
        return
    if not results:
        say("There are no such dead letters.")
        return
    shown = [row for row in results if row.detail] if len(results) > SHOWN else results
    if shown:
        print_table(
            ("position", "reason", "result", "to", "detail"),
            [
                (row.position, row.reason, row.result, row.to, f"{row.detail} {row.remedy}".strip())
                for row in shown[:SHOWN]
            ],
        )
    if len(shown) > SHOWN:
        say(f"and {len(shown) - SHOWN:,} more; --json shows all")
    if len(results) > 1:
        print_table(("result", "dead letters"), sorted(Counter(row.result for row in results).items()))
