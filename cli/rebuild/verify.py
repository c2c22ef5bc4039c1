"""The commands that compare folds: verify, diff. Owns their words; processors/rebuild/verify.py compares."""

import sys
from collections.abc import Callable, Sequence
from json import loads
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from creditfold.cli.rebuild.generations import MAX_NUMBER
from creditfold.cli.shared.arguments import ArgumentError, JsonOption, LimitOption
from creditfold.cli.shared.output import counted, print_json, print_table, say
from creditfold.cli.shared.progress import fold_bar
from creditfold.cli.shared.projection import projection
from creditfold.common.position import Position

if TYPE_CHECKING:
    from creditfold.processors.rebuild.verify import Comparison, DecisionDiff
    from creditfold.projections.proof.differences import Difference, LineOutcome
    from creditfold.projections.proof.rows import RowOutsideLog, UnchainedDifference
    from creditfold.projections.proof.state import StateDifference

#: Exit code: two results that should be equal differ.
DIFFERENT = 5


def verify(
    generations: Annotated[
        list[int] | None,
        typer.Argument(metavar="[NUMBER [NUMBER]]", help="Generations; if none, the live one and a fresh fold."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the fresh fold, to look at its tables.")] = False,
    limit: LimitOption = 20,
    json: JsonOption = False,
) -> None:
    """Prove that a generation is what the log says, at the same offset in each partition.

    Without a number the live one is compared with a fresh fold of the log, with one number that generation is compared
    with the live one, with two numbers the two. Computes each hash chain again from the rows, compares chains, rows and
    balances, and names every account that differs, with its first record that has another outcome.

    Exits with 0 when all is equal, with 5 when anything differs. Live folding and reading go on.

    \b
    Examples:
      creditfold verify
      creditfold verify 2
      creditfold verify 1 2 --json
    """
    from creditfold.common.settings import load_settings
    from creditfold.processors.rebuild.documents import of_comparison
    from creditfold.processors.rebuild.verify import verify as run

    numbers = generations or []
    if any(not 1 <= number <= MAX_NUMBER for number in numbers):
        raise ArgumentError(f"A generation's number is from 1 to {MAX_NUMBER}.", "See `creditfold generations`.")
    if len(numbers) > 2:
        raise ArgumentError("More than two generations.", "Name none, one or two.")
    left, right = (numbers[0], numbers[1]) if len(numbers) == 2 else (None, numbers[0] if numbers else None)
    _drop_leftovers()
    with fold_bar() as bar:
        verdict = run(load_settings(), left, right, limit, bar, keep=keep)
    if json:
        print_json(of_comparison(verdict))
    else:
        _print_verdict(verdict)
    if not verdict.equal:
        raise typer.Exit(DIFFERENT)


def _drop_leftovers() -> None:
    """Drop what an earlier `verify` or `diff` left that was killed, and report it."""
    from creditfold.projections.generations.removal import drop_leftovers

    with projection() as connection:
        dropped = drop_leftovers(connection)
    for number in dropped:
        print(f"Dropped generation {number}, which a run that was killed had left.", file=sys.stderr)


class _Section(NamedTuple):
    """One table of a verdict: its title, its columns, and the cells of a row."""

    title: str
    columns: Sequence[str]
    cells: Callable[[Any], Sequence[object]]


_PARTITIONS = _Section(
    "left: generation {left}, right: generation {right}",
    ("partition", "before offset", "left chain", "right chain", "same", "left rows", "right rows"),
    lambda row: (
        *(str(row.partition), row.next_offset, row.left_chain[:16], row.right_chain[:16]),
        *("yes" if row.equal else "NO", _intact(row.left_intact), _intact(row.right_intact)),
    ),
)
_BALANCES = _Section(
    "balances of generation {number} that don't follow from its journal",
    ("account", "asset", "partition", "offset", "version", "available", "pending", "held", "debt"),
    lambda row: (
        *(row.account_id, row.asset, str(row.log_partition)),
        _corrected(row.log_offset, row.log_offset_should_be),
        _corrected(row.version, row.version_should_be),
        _corrected(row.available, row.should_be),
        _corrected(row.pending, row.pending_should_be),
        _corrected(row.held, row.held_should_be),
        _corrected(row.debt, row.debt_should_be),
    ),
)
_STATE = _Section(
    "state of generation {number} that doesn't follow from its journal",
    ("table", "account", "name", "partition", "kept", "should be"),
    lambda row: (row.what, row.account_id, row.name, str(row.log_partition), row.kept, row.should_be),
)
_OUTSIDE_THE_LOG = _Section(
    "rows of generation {number} where nothing was ever folded",
    ("table", "position", "account"),
    lambda row: (row.what, _place(row), row.account),
)
_SIDE_DIFFERENCES = _Section(
    "what differs besides the decisions", ("what", "position"), lambda row: (row.what, _place(row))
)
_STATE_DIFFERENCES = _Section(
    "state that differs",
    ("table", "account", "name", "partition", "left", "right"),
    lambda row: (row.what, row.account_id, row.name, str(row.log_partition), *_differing_columns(row)),
)
_ACCOUNTS = _Section(
    "{records} of {accounts} differ; the first of each of {shown:,}:",
    ("account", "records", "position", "command", "left", "right"),
    lambda row: (row.account, row.records, _place(row.first), _command(row.first), *_sides(row.first)),
)


def _print_verdict(verdict: "Comparison") -> None:
    right = f"{verdict.right} (a fresh fold)" if verdict.right_is_fresh else str(verdict.right)
    _print_section(_PARTITIONS, verdict.partitions, left=verdict.left, right=right)
    for section, of_left, of_right in (
        (_BALANCES, verdict.left_wrong_balances, verdict.right_wrong_balances),
        (_STATE, verdict.left_wrong_state, verdict.right_wrong_state),
        (_OUTSIDE_THE_LOG, verdict.left_strays, verdict.right_strays),
    ):
        for number, rows in ((verdict.left, of_left), (verdict.right, of_right)):
            _print_more(section, rows, number=number)
    _print_more(_SIDE_DIFFERENCES, verdict.side_differences)
    _print_more(_STATE_DIFFERENCES, verdict.state_differences)
    records, accounts = counted(verdict.differing_records, "record"), counted(verdict.differing_accounts, "account")
    _print_more(_ACCOUNTS, verdict.accounts, records=records, accounts=accounts, shown=len(verdict.accounts))
    say("", verdict.conclusion)
    if not verdict.equal and verdict.right_is_fresh:
        say(
            "If the log is right, mend it: creditfold rebuild, then"
            " creditfold activate NUMBER --accept-differences --note WHY"
        )


def _print_more(section: _Section, rows: Sequence[object], **title: object) -> None:
    if rows:
        say("")
        _print_section(section, rows, **title)


def _print_section(section: _Section, rows: Sequence[object], **title: object) -> None:
    print_table(section.columns, [section.cells(row) for row in rows], section.title.format(**title))


def _differing_columns(row: "StateDifference") -> tuple[str, str]:
    """The columns that differ, or which side has no such row."""
    if row.left is None or row.right is None:
        return ("isn't there", "is there") if row.left is None else ("is there", "isn't there")
    left, right = loads(row.left), loads(row.right)
    names = [name for name in left if left[name] != right[name]]
    mine, theirs = (", ".join(f"{name} {side[name]}" for name in names) for side in (left, right))
    return mine, theirs


def _intact(holds: bool) -> str:
    return "intact" if holds else "CHANGED"


def _corrected(kept: int | None, should_be: int | None) -> str:
    if kept == should_be:
        return f"{kept:,}" if kept is not None else ""
    texts = ("none" if number is None else f"{number:,}" for number in (kept, should_be))
    return "{}, should be {}".format(*texts)


def _place(row: "Difference | RowOutsideLog | UnchainedDifference") -> Position:
    return Position(row.log_partition, row.log_offset)


def _command(difference: "Difference") -> str:
    sides = (difference.left, difference.right)
    return next((side.command_id for side in sides if side is not None and side.command_id), "")


def _sides(difference: "Difference") -> tuple[str, str]:
    return in_words(difference.left), in_words(difference.right)


def in_words(outcome: "LineOutcome | None") -> str:
    """A record's outcome in a few words."""
    if outcome is None:
        return "nothing"
    if outcome.what in ("accepted", "rejected"):
        of = f" of {outcome.amount:,}" if outcome.amount else ""
        did = f"{outcome.kind}{of} {outcome.what}" if outcome.kind != "settled" else "settled"
        return f"{did}{': ' + outcome.reason if outcome.reason else ''}, balance {outcome.balance:,}"
    return f"{outcome.what} {outcome.reason or outcome.rules}"


def diff(
    rules: Annotated[
        int | None, typer.Option(min=1, metavar="VERSION", help="Decide all of history by this version of the rules.")
    ] = None,
    limit: LimitOption = 20,
    json: JsonOption = False,
) -> None:
    """Replay history by other rules, or by this release's code, and show each command that would be decided otherwise.

    Without --rules each record is decided by the rules that the log has in force at its place: then any change is a
    defect of this release, or the work of the one that folded. Nothing is written to the live generation.

    Exits with 0 when nothing changes, with 5 when something does.

    \b
    Examples:
      creditfold diff
      creditfold diff --rules 2 --limit 100
      creditfold diff --json
    """
    from creditfold.common.settings import load_settings
    from creditfold.ledger import known_rules
    from creditfold.processors.rebuild.documents import of_diff
    from creditfold.processors.rebuild.verify import diff as run

    if rules is not None and rules not in known_rules():
        raise ArgumentError(
            f"This release has no rules {rules}.",
            f"It has {', '.join(map(str, known_rules()))}; see `creditfold rules list`.",
        )
    _drop_leftovers()
    with fold_bar() as bar:
        changes = run(load_settings(), rules, limit, bar)
    if json:
        print_json(of_diff(changes))
    else:
        _print_changes(changes)
    if changes.changed or changes.balances_only:
        raise typer.Exit(DIFFERENT)


def _print_changes(changes: "DecisionDiff") -> None:
    by = "the rules of the log" if changes.rules is None else f"rules {changes.rules}"
    if not changes.changed and not changes.balances_only:
        say(f"Decided again by {by}, {counted(changes.commands, 'record')} come to the same.")
        return
    print_table(("would change", "commands"), list(changes.totals.items()))
    say("")
    print_table(
        ("position", "account", "command", "was", "would be"),
        [(_place(change), change.account, _command(change), *_sides(change)) for change in changes.changes],
    )
    commands, accounts = counted(changes.changed, "command"), counted(changes.accounts, "account")
    say(
        "",
        f"Decided again by {by}: {commands} of {accounts} would be decided otherwise, {changes.balances_only:,} more at"
        f" another balance, of {counted(changes.commands, 'record')}.",
    )
