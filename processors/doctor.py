"""Examines both servers for what loses commands or makes balances wrong, and refuses what isn't safe.

Owns the order of the examination. What is looked for, and what it means, is in `log/doctor` and `projections/doctor`; a
server that is away becomes a check of its own, and the other is examined.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from creditfold.common.checks import Check, worst_first
from creditfold.common.disks import check_disk, disks
from creditfold.common.errors import CreditfoldError
from creditfold.common.settings import Settings
from creditfold.log.continuity import refusals
from creditfold.log.doctor.facts import FoldedLog, answer_or_refusal, kafka_facts
from creditfold.log.doctor.kafka_checks import examine_kafka
from creditfold.log.topics import TopicInfo
from creditfold.processors.health import judge_dead_letters
from creditfold.projections.connections import connected
from creditfold.projections.doctor.postgres import (
    SUBJECT,
    DatabaseFacts,
    database_facts,
    examine_postgres,
    judge_searchable,
)

#: Makes the message and the remedy of an error, for a server that is away.
Wording: TypeAlias = Callable[[CreditfoldError], tuple[str, str]]

_AWAY = "Nothing is known to be safe that can't be checked."


class UnsafeError(CreditfoldError):
    """A check of the doctor found danger."""


def own_words(error: CreditfoldError) -> tuple[str, str]:
    """The message and the remedy that an error has."""
    return error.message, error.remedy


def examine(settings: Settings, wording: Wording = own_words) -> list[Check]:
    """Examine Kafka, PostgreSQL and the disks. Changes nothing.

    Args:
        settings: where the servers are.
        wording: makes the message and the remedy for a server that is away.

    Returns:
        Every check, the worst first.
    """
    # PostgreSQL first: the fold goes on meanwhile, and must not seem to be ahead of the log's end.
    database, checks = _examine_postgres(settings, wording)
    folder = database.data_folder if database is not None else None
    room = [check_disk(disk) for disk in disks(settings, folder)]
    return worst_first(_examine_kafka(settings, database, wording) + checks + room)


def _examine_postgres(settings: Settings, wording: Wording) -> tuple[DatabaseFacts | None, list[Check]]:
    try:
        with connected(settings.dsn, "creditfold doctor") as connection:
            facts = database_facts(connection)
    except CreditfoldError as error:
        return None, [_away(SUBJECT, error, wording)]
    kept = [judge_searchable(facts.searchable, settings.searchable_keys)] if facts.prepared else []
    return facts, [*examine_postgres(facts), *kept, judge_dead_letters(facts.dead_letters, "projection")]


def _examine_kafka(settings: Settings, database: DatabaseFacts | None, wording: Wording) -> list[Check]:
    try:
        facts = kafka_facts(settings)
    except CreditfoldError as error:
        return [_away("Kafka", error, wording)]
    source = database.source if database is not None else None
    folded = None
    if database is not None and source is not None:
        is_same = isinstance(facts.commands.info, TopicInfo) and facts.commands.info.log == source
        refused = answer_or_refusal(lambda: refusals(settings, source.topic, database.bookmarks)) if is_same else {}
        folded = FoldedLog(source, database.next_offsets, refused)
    # Taken after the question: a record that was appended meanwhile doesn't come from the future.
    return examine_kafka(facts, settings, folded, time.time_ns() // 1_000_000)


def _away(subject: str, error: CreditfoldError, wording: Wording) -> Check:
    message, remedy = wording(error)
    return Check(subject, "answer", "danger", f"can't be checked: {message}", _AWAY, remedy)


def refuse_unsafe(checks: Sequence[Check], *, strict: bool) -> None:
    """Raise UnsafeError if there is danger; if `strict`, if anything isn't well."""
    bad = [check for check in checks if check.state == "danger" or (strict and check.state != "ok")]
    if bad:
        raise UnsafeError(
            f"Not safe: {', '.join(f'{check.subject} {check.name}' for check in bad)}.",
            "Follow the remedy of each, then run `creditfold doctor` again.",
        )
