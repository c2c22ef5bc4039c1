"""The commands that prove: verify, diff, rules. Owns their words; what is compared with what is the processors'."""

import sys
from collections.abc import Iterable, Sequence
from json import loads
from typing import TYPE_CHECKING, Annotated, Any

import typer

from creditfold.cli.rebuild.generations import MAX_NUMBER, Bar
from creditfold.cli.terms.arguments import ArgumentError, JsonOption, LimitOption
from creditfold.cli.terms.output import counted, print_json, print_table, say
from creditfold.common.position import Position

if TYPE_CHECKING:
    from creditfold.processors.rebuild.verify import Changes, Verdict
    from creditfold.projections.proof.rows import Difference, Outcome, SideDifference, Stray, WrongBalance
    from creditfold.projections.proof.state import StateDifference
    from creditfold.projections.queries.progress import RulesActivated

#: Two things that should be equal aren't.
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
    balances, and names every account that differs, with its first record that came to something else.

    Exits with 0 when all is equal, with 5 when anything differs. Live folding and reading go on.

    \b
    Examples:
      creditfold verify
      creditfold verify 2
      creditfold verify 1 2 --json
    """
    from creditfold.common.settings import load_settings
    from creditfold.processors.rebuild.verify import verify as run

    numbers = generations or []
    if any(not 1 <= number <= MAX_NUMBER for number in numbers):
        raise ArgumentError(f"A generation's number is from 1 to {MAX_NUMBER}.", "See `creditfold generations`.")
    if len(numbers) > 2:
        raise ArgumentError("More than two generations.", "Name none, one or two.")
    left, right = (numbers[0], numbers[1]) if len(numbers) == 2 else (None, numbers[0] if numbers else None)
    _drop_leftovers()
    with Bar().shown() as bar:
        verdict = run(load_settings(), left, right, limit, bar, keep=keep)
    if json:
        print_json(_verdict_document(verdict))
    else:
        _print_verdict(verdict)
    if not verdict.equal:
        raise typer.Exit(DIFFERENT)


def _drop_leftovers() -> None:
    """Drop what an earlier `verify` or `diff` left that was killed, and report it."""
    from creditfold.cli.terms.projection import projection
    from creditfold.projections.generations.removal import drop_leftovers

    with projection() as connection:
        dropped = drop_leftovers(connection)
    for number in dropped:
        print(f"Dropped generation {number}, which a run that was killed had left.", file=sys.stderr)


def _verdict_document(verdict: "Verdict") -> dict[str, Any]:
    accounts = [
        {"account": row.account, "records": row.records, "first": _difference_document(row.first)}
        for row in verdict.accounts
    ]
    return {**verdict._asdict(), "accounts": accounts}


def _difference_document(difference: "Difference") -> dict[str, Any]:
    return {"position": _place(difference), "left": difference.left, "right": difference.right}


def _print_verdict(verdict: "Verdict") -> None:
    right = f"{verdict.right} (a fresh fold)" if verdict.right_is_fresh else str(verdict.right)
    print_table(
        ("partition", "before offset", "left chain", "right chain", "same", "left rows", "right rows"),
        [
            (
                str(row.partition),
                row.next_offset,
                row.left_chain[:16],
                row.right_chain[:16],
                "yes" if row.equal else "NO",
                _intact(row.left_intact),
                _intact(row.right_intact),
            )
            for row in verdict.partitions
        ],
        f"left: generation {verdict.left}, right: generation {right}",
    )
    _print_wrong_balances(verdict.left, verdict.left_wrong_balances)
    _print_wrong_balances(verdict.right, verdict.right_wrong_balances)
    for number, wrong in ((verdict.left, verdict.left_wrong_state), (verdict.right, verdict.right_wrong_state)):
        if wrong:
            say("")
            print_table(
                ("table", "account", "name", "partition", "kept", "should be"),
                [
                    (row.what, row.account_id, row.name, str(row.log_partition), row.kept, row.should_be)
                    for row in wrong
                ],
                f"state of generation {number} that doesn't follow from its journal",
            )
    for number, rows in ((verdict.left, verdict.left_strays), (verdict.right, verdict.right_strays)):
        if rows:
            say("")
            print_table(
                ("table", "position", "account"),
                [(row.what, _place(row), row.account) for row in rows],
                f"rows of generation {number} where nothing was ever folded",
            )
    if verdict.side_differences:
        say("")
        print_table(
            ("what", "position"),
            [(row.what, _place(row)) for row in verdict.side_differences],
            "what differs beside the decisions",
        )
    if verdict.state_differences:
        say("")
        print_table(
            ("table", "account", "name", "partition", "left", "right"),
            [
                (row.what, row.account_id, row.name, str(row.log_partition), *_where_they_part(row))
                for row in verdict.state_differences
            ],
            "state that differs",
        )
    if verdict.accounts:
        say("")
        records, accounts = counted(verdict.differing_records, "record"), counted(verdict.differing_accounts, "account")
        title = f"{records} of {accounts} differ; the first of each of {len(verdict.accounts):,}:"
        print_table(
            ("account", "records", "position", "command", "left", "right"),
            [
                (row.account, row.records, _place(row.first), _command(row.first), *_sides(row.first))
                for row in verdict.accounts
            ],
            title,
        )
    say("", verdict.conclusion)
    if not verdict.equal and verdict.right_is_fresh:
        say(
            "If the log is right, mend it: creditfold rebuild, then"
            " creditfold activate NUMBER --accept-differences --note WHY"
        )


def _where_they_part(row: "StateDifference") -> tuple[str, str]:
    """The columns that differ, or which side has no such row."""
    if row.left is None or row.right is None:
        return ("isn't there", "is there") if row.left is None else ("is there", "isn't there")
    left, right = loads(row.left), loads(row.right)
    names = [name for name in left if left[name] != right[name]]
    mine, theirs = (", ".join(f"{name} {side[name]}" for name in names) for side in (left, right))
    return mine, theirs


def _intact(holds: bool) -> str:
    return "intact" if holds else "CHANGED"


def _print_wrong_balances(number: int, rows: "Sequence[WrongBalance]") -> None:
    if rows:
        say("")
        print_table(
            ("account", "asset", "partition", "offset", "version", "available", "pending", "held", "debt"),
            [
                (
                    row.account_id,
                    row.asset,
                    str(row.log_partition),
                    _beside(row.log_offset, row.log_offset_should_be),
                    _beside(row.version, row.version_should_be),
                    _beside(row.available, row.should_be),
                    _beside(row.pending, row.pending_should_be),
                    _beside(row.held, row.held_should_be),
                    _beside(row.debt, row.debt_should_be),
                )
                for row in rows
            ],
            f"balances of generation {number} that don't follow from its journal",
        )


def _beside(kept: int | None, should_be: int | None) -> str:
    if kept == should_be:
        return f"{kept:,}" if kept is not None else ""
    texts = ("none" if number is None else f"{number:,}" for number in (kept, should_be))
    return "{}, should be {}".format(*texts)


def _place(row: "Difference | Stray | SideDifference | RulesActivated") -> Position:
    return Position(row.log_partition, row.log_offset)


def _command(difference: "Difference") -> str:
    sides = (difference.left, difference.right)
    return next((side.command_id for side in sides if side is not None and side.command_id), "")


def _sides(difference: "Difference") -> tuple[str, str]:
    return in_words(difference.left), in_words(difference.right)


def in_words(outcome: "Outcome | None") -> str:
    """What a record came to, in a few words."""
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
    from creditfold.processors.rebuild.verify import diff as run

    if rules is not None and rules not in known_rules():
        raise ArgumentError(
            f"This release has no rules {rules}.",
            f"It has {_known(known_rules())}; see `creditfold rules list`.",
        )
    _drop_leftovers()
    with Bar().shown() as bar:
        changes = run(load_settings(), rules, limit, bar)
    if json:
        print_json({**changes._asdict(), "changes": [_difference_document(change) for change in changes.changes]})
    else:
        _print_changes(changes)
    if changes.changed or changes.balances_only:
        raise typer.Exit(DIFFERENT)


def _print_changes(changes: "Changes") -> None:
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


def _known(rulesets: Iterable[int]) -> str:
    return ", ".join(map(str, rulesets))


def rules_list(json: JsonOption = False) -> None:
    """Show the versions of the rules that this release has, and which is in force in each partition since when.

    \b
    Example:
      creditfold rules list
    """
    from creditfold.cli.terms.projection import projection
    from creditfold.ledger import known_rules
    from creditfold.projections import queries

    with projection() as connection:
        progress, activations = queries.progress(connection), queries.activations(connection)
    if json:
        in_force = {row.log_partition: row.rules for row in progress}
        print_json({"known": known_rules(), "in_force": in_force, "activations": activations})
        return
    say(f"This release has rules {_known(known_rules())}.")
    print_table(("partition", "rules in force"), [(str(row.log_partition), str(row.rules)) for row in progress])
    if activations:
        say("")
        print_table(
            ("position", "rules", "activated at", "by", "why"),
            [(_place(row), str(row.rules), row.activated_at, row.source, row.note) for row in activations],
        )


def rules_activate(
    version: Annotated[int, typer.Argument(min=1, max=32_767, help="Version of the rules.")],
    *,
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "",
    source: Annotated[str, typer.Option(help="Who does it.")] = "cli",
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds to wait for Kafka, then the fold.")] = 30.0,
    json: JsonOption = False,
) -> None:
    """Bring a version of the rules into force, from here on in the log, in every partition. Can't be taken back.

    Appends an ActivateRules record to each partition. What was decided before stays, in every replay. Try the rules out
    first, with `creditfold diff --rules VERSION`, and run workers that have them: others stop at the record.

    \b
    Example:
      creditfold rules activate 2 --reason "release 1.4"
    """
    from creditfold.cli.terms.projection import projection
    from creditfold.ledger import known_rules
    from creditfold.projections import queries

    if version not in known_rules():
        raise ArgumentError(
            f"This release has no rules {version}.",
            f"It has {_known(known_rules())}; workers of this release would stop at the record.",
        )
    with projection() as connection:
        behind = [row.log_partition for row in queries.progress(connection) if row.rules < version]
        positions = _append_activations(version, behind, reason, source, timeout)
        for position in positions:
            queries.wait_for(connection, position, timeout)
    if json:
        print_json({"rules": version, "positions": positions})
    elif positions:
        say(f"Rules {version} are in force from {', '.join(map(str, positions))} on.")
    else:
        say(f"Rules {version} or later ones are in force already.")


def _append_activations(
    version: int, partitions: Sequence[int], reason: str, source: str, timeout: float
) -> Sequence[Position]:
    from creditfold.cli.append.commands import open_producer
    from creditfold.common.settings import load_settings
    from creditfold.producers.models.commands import encode_activation

    if not partitions:
        return []
    with open_producer(load_settings(), timeout) as producer:
        return [
            producer.append_record(encode_activation(version, partition, source=source, reason=reason))
            for partition in partitions
        ]
