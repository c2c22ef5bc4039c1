"""The commands about versions of the rules: list, activate. Owns their words."""

from collections.abc import Iterable
from typing import Annotated

import typer

from creditfold.cli.shared.arguments import ArgumentError, FoldTimeoutOption, JsonOption
from creditfold.cli.shared.output import print_json, print_table, say
from creditfold.cli.shared.projection import projection
from creditfold.common.position import Position


def _known(rulesets: Iterable[int]) -> str:
    return ", ".join(map(str, rulesets))


def rules_list(json: JsonOption = False) -> None:
    """Show the versions of the rules that this release has, and which is in force in each partition since when.

    \b
    Example:
      creditfold rules list
    """
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
            [
                (Position(row.log_partition, row.log_offset), str(row.rules), row.activated_at, row.source, row.note)
                for row in activations
            ],
        )


def rules_activate(
    version: Annotated[int, typer.Argument(min=1, max=32_767, help="Version of the rules.")],
    *,
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "",
    source: Annotated[str, typer.Option(help="Who does it.")] = "cli",
    timeout: FoldTimeoutOption = 30.0,
    json: JsonOption = False,
) -> None:
    """Bring a version of the rules into force, from here on in the log, in every partition. Can't be taken back.

    Appends an ActivateRules record to each partition. What was decided before stays, in every replay. Try the rules out
    first, with `creditfold diff --rules VERSION`, and run workers that have them: others stop at the record.

    \b
    Example:
      creditfold rules activate 2 --reason "release 1.4"
    """
    from creditfold.common.settings import load_settings
    from creditfold.ledger import known_rules
    from creditfold.processors.control_records import activate_rules

    if version not in known_rules():
        raise ArgumentError(
            f"This release has no rules {version}.",
            f"It has {_known(known_rules())}; workers of this release would stop at the record.",
        )
    with projection() as connection:
        positions = activate_rules(
            connection, load_settings(), version, source=source, reason=reason, timeout_s=timeout
        )
    if json:
        print_json({"rules": version, "positions": positions})
    elif positions:
        say(f"Rules {version} are in force from {', '.join(map(str, positions))} on.")
    else:
        say(f"Rules {version} or later ones are in force already.")
