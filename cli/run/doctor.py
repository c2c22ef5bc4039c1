"""The `doctor` command: looks for what loses commands or makes balances wrong. Owns the report's words."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer

from creditfold.cli.shared.arguments import JsonOption
from creditfold.cli.shared.output import counted, print_json, print_table, say
from creditfold.cli.shared.places import placed
from creditfold.common.checks import STATES, Check


def doctor(
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for warnings and unknowns too.")] = False,
    json: JsonOption = False,
) -> None:
    """Look for what loses commands or makes balances wrong, and say what to do about it. Changes nothing.

    Topics: retention, compaction, replication, timestamps, partitions, gaps. PostgreSQL: durability, rights, and
    whether it was folded from this log. Clocks. Exits with 1 if there is danger.

    \b
    Examples:
      creditfold doctor
      creditfold doctor --strict    before production
      creditfold doctor --json
    """
    from creditfold.common.settings import load_settings
    from creditfold.processors.doctor import examine, refuse_unsafe

    checks = examine(load_settings(), placed)
    if json:
        print_json({"state": checks[0].state, "checks": checks})
    else:
        _print(checks)
    refuse_unsafe(checks, strict=strict)


def _print(checks: Sequence[Check]) -> None:
    bad = [check for check in checks if check.state != "ok"]
    fine = Counter(check.subject for check in checks if check.state == "ok")
    rows = [(check.state, check.subject, check.name, check.seen) for check in bad]
    rows += [("ok", subject, "", counted(count, "check")) for subject, count in fine.items()]
    print_table(("state", "subject", "check", "seen"), rows)
    for check in bad:
        say("", f"{check.state}: {check.subject}: {check.name}: {check.seen}", f"  why  {check.why}")
        say(f"  try  {check.remedy}")
    totals = Counter(check.state for check in checks)
    say("", ", ".join(f"{totals[state]} {state}" for state in STATES))
