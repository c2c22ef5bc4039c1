"""The `doctor` command: looks for what loses commands or makes balances wrong. Owns the report and the verdict.

What is looked at is Kafka's and PostgreSQL's side's business; a side that is away is told, and the other examined.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.shared.arguments import JsonOption
from creditfold.cli.shared.output import counted, print_json, print_table, say
from creditfold.cli.shared.places import placed
from creditfold.common.checks import STATES, Check, worst_first
from creditfold.common.errors import CreditfoldError

if TYPE_CHECKING:
    from creditfold.common.settings import Settings
    from creditfold.projections.doctor.postgres import DatabaseFacts

_AWAY = "What can't be asked can't be relied on."


class UnsafeError(CreditfoldError):
    """Something is as it must not be."""


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

    checks = examine(load_settings())
    if json:
        print_json({"state": checks[0].state, "checks": checks})
    else:
        _print(checks)
    refuse_unsafe(checks, strict=strict)


def examine(settings: "Settings") -> list[Check]:
    """Look at both sides, and give back every check, the worst first."""
    # PostgreSQL first: the fold goes on meanwhile, and must not seem to be ahead of the log's end.
    database, checks = _examine_postgres(settings)
    return worst_first(_examine_kafka(settings, database) + checks + _examine_room(settings, database))


def _examine_postgres(settings: "Settings") -> "tuple[DatabaseFacts | None, list[Check]]":
    from creditfold.processors.health import judge_dead_letters
    from creditfold.projections.connections import connected
    from creditfold.projections.doctor.postgres import SUBJECT, database_facts, examine_postgres

    try:
        with connected(settings.dsn, "creditfold doctor") as connection:
            facts = database_facts(connection)
    except CreditfoldError as error:
        return None, [_unasked(SUBJECT, error)]
    return facts, [*examine_postgres(facts), judge_dead_letters(facts.dead_letters, "projection")]


def _examine_room(settings: "Settings", database: "DatabaseFacts | None") -> list[Check]:
    from creditfold.common.disks import disks, judge_disk

    return [judge_disk(disk) for disk in disks(settings, database.data_folder if database is not None else None)]


def _examine_kafka(settings: "Settings", database: "DatabaseFacts | None") -> list[Check]:
    from creditfold.log.continuity import refusals
    from creditfold.log.doctor.facts import FoldedLog, answer_or_refusal, kafka_facts
    from creditfold.log.doctor.kafka_checks import examine_kafka
    from creditfold.log.topics import TopicInfo

    try:
        facts = kafka_facts(settings)
    except CreditfoldError as error:
        return [_unasked("Kafka", error)]
    source = database.source if database is not None else None
    folded = None
    if database is not None and source is not None:
        is_same = isinstance(facts.commands.info, TopicInfo) and facts.commands.info.log == source
        refused = answer_or_refusal(lambda: refusals(settings, source.topic, database.bookmarks)) if is_same else {}
        folded = FoldedLog(source, database.next_offsets, refused)
    # Taken after the question: a record that was appended meanwhile doesn't come from the future.
    return examine_kafka(facts, settings, folded, time.time_ns() // 1_000_000)


def _unasked(subject: str, error: CreditfoldError) -> Check:
    message, remedy = placed(error)
    return Check(subject, "answer", "danger", f"can't be checked: {message}", _AWAY, remedy)


def refuse_unsafe(checks: Sequence[Check], *, strict: bool) -> None:
    """Raise UnsafeError if there is danger; if `strict`, if anything isn't well."""
    bad = [check for check in checks if check.state == "danger" or (strict and check.state != "ok")]
    if bad:
        raise UnsafeError(
            f"Not safe: {', '.join(f'{check.subject} {check.name}' for check in bad)}.",
            "Do what is said for each, then run `creditfold doctor` again.",
        )


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
