"""Rebuilds a generation from the log, and makes it the live one. Owns the order of the steps and what is refused.

Nothing here touches the live generation's rows: a rebuild writes into tables of its own, and the switch moves the
readers' views and the workers' claims, in one transaction.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

from psycopg import Connection
from psycopg.rows import TupleRow
from tenacity import stop_after_attempt

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Log, Position
from creditfold.common.settings import Settings
from creditfold.log.admin import KafkaAdmin
from creditfold.log.continuity import LogReplacedError, LogTruncatedError, replacements
from creditfold.log.offsets import bounds, end_offsets, start_offsets
from creditfold.log.origin import refuse_old_log
from creditfold.log.topics import describe_log, describe_topic
from creditfold.processors.rebuild.partition import RebuildJob
from creditfold.processors.rebuild.processes import FoldProcesses, fold_here
from creditfold.projections.connections import pinned
from creditfold.projections.generations.catalog import (
    Generation,
    GenerationError,
    bookmarks,
    generation,
    live_number,
    refuse_live,
    refuse_unready,
)
from creditfold.projections.generations.indexes import finish, is_indexed
from creditfold.projections.generations.locks import held
from creditfold.projections.generations.switch import Halt, halted, switch
from creditfold.projections.generations.views import looked_through, while_blocked
from creditfold.projections.proof.chain import chain_at
from creditfold.projections.store.statements import SWITCHING
from creditfold.projections.tables.scripts import refuse_other_layout
from creditfold.projections.tables.setup import Plan, make_generation, prepare_catalog
from creditfold.projections.tables.source import LogChangedError, refuse_other_log

#: Most records that are folded in this process; starting others would take longer.
FEW_RECORDS = 50_000

#: How often the new generation is brought up to the live one before the live fold is halted for the rest.
APPROACHES = 5

#: Most records that are folded while the live fold stands still.
MOST_WHILE_HALTED = 20_000


class DecidesDifferentlyError(CreditfoldError):
    """A generation came to other decisions than the live one. Nothing was switched."""

    exit_code = 5


class NoSuchPositionError(CreditfoldError):
    """A position that the log doesn't have."""

    exit_code = 2


class ProgressObserver(Protocol):
    """Observes how far a rebuild is."""

    def begin(self, step: str, done: int, total: int) -> None:
        """A step begins, with `done` of `total` records behind it; 0 of 0 where there is nothing to count."""

    def report(self, done: int) -> None:
        """The step has `done` records behind it."""


class Request(NamedTuple):
    """What to rebuild.

    `resume` is the number of a generation to go on with, None for a new one. `until_ms` ends the fold behind an instant
    of the log's clock, `until_offsets` at a next offset by partition; a partition not named there is folded whole. With
    `most_per_s`, no more records a second are folded, so that the live fold keeps its latency. `searchable` are the
    keys of metadata that a new one indexes, and `by_balance` says whether it indexes balances: as the settings if None.
    """

    resume: int | None = None
    purpose: str = "rebuild"
    until_ms: int | None = None
    until_offsets: Mapping[int, int] | None = None
    forced_rules: int | None = None
    tablespace: str | None = None
    processes: int = os.cpu_count() or 1
    note: str = ""
    most_per_s: int | None = None
    searchable: Collection[str] | None = None
    by_balance: bool | None = None


class RebuildContext(NamedTuple):
    """What the steps share: the servers, a connection, the observer, most processes, and most records a second."""

    settings: Settings
    connection: Connection[TupleRow]
    observer: ProgressObserver
    processes: int = os.cpu_count() or 1
    most_per_s: int | None = None


def rebuild(
    settings: Settings,
    request: Request,
    observer: ProgressObserver,
    on_made: Callable[[int], None] = lambda _: None,
    started: FoldProcesses | None = None,
) -> Generation:
    """Fold the log into a generation up to its end, or to where the request says, and call it ready.

    Can be interrupted anywhere; a request to resume goes on.

    Args:
        settings: where the servers are.
        request: what to fold.
        observer: sees each step and how far it is.
        on_made: called with the generation's number before the fold begins.
        started: processes to fold in. If None, some are started where there is much to fold.

    Returns:
        The generation, in state `ready`.

    Raises:
        GenerationError: or one derived from it: the generation can't be gone on with.
        LogChangedError: it was folded from another topic.
        LogTruncatedError: the log doesn't begin at its start.
        OldLogError: it was made before version 1 of the rules.
        NoSuchPositionError: the log doesn't have a position of the request.
        RebuildError: the fold ended early. What is committed stays.
    """
    # Each client takes a while to find its brokers.
    admin = KafkaAdmin(settings)
    log = describe_topic(settings, admin=admin).log
    refuse_old_log(settings, log.topic, range(log.partitions), admin)
    with ExitStack() as stack:
        resumed = request.resume
        wanted = _wanted(admin, log, request) if resumed is None else {}
        if started is None and sum(wanted.values()) > FEW_RECORDS:
            # It starts while the tables are made.
            started = stack.enter_context(FoldProcesses(min(request.processes, len(wanted))))
        connection = stack.enter_context(pinned(settings.dsn, "creditfold rebuild"))
        if request.searchable is None:
            request = request._replace(searchable=settings.searchable_keys)
        if request.by_balance is None:
            request = request._replace(by_balance=settings.searchable_balances)
        number = _made(connection, log, request, wanted) if resumed is None else resumed
        context = RebuildContext(settings, connection, observer, request.processes, request.most_per_s)
        with held(connection, number):
            # Not before: until now somebody could activate it, and it would be the workers' to fold.
            found = generation(connection, number)
            _refuse_unfit(found, log)
            on_made(number)
            if resumed is None:
                _fold_to(context, found, _behind(found, wanted), started)
            else:
                bring_to(context, number, _ends(settings, found), started)
            if not is_indexed(connection, number):
                observer.begin("Making indexes", 0, 0)
            # At a rate, others are to have the processors too.
            finish(connection, number, settings.dsn, request.processes if request.most_per_s is None else 1)
            if not found.is_partial:
                # What was appended meanwhile.
                _, ends = bounds(admin, log.topic, range(log.partitions))
                bring_to(context, number, ends)
        return generation(connection, number)


def _wanted(admin: KafkaAdmin, log: Log, request: Request) -> Mapping[int, int]:
    """The next offset of each partition at which a new rebuild shall end.

    Raises NoSuchPositionError, and LogTruncatedError if the log doesn't begin at its start.
    """
    starts, ends = bounds(admin, log.topic, range(log.partitions))
    wanted = {**ends, **_possible(request.until_offsets or {}, ends)}
    # Before anything is made that would only be in the way.
    _refuse_late(log.topic, starts, {partition: 0 for partition, end in wanted.items() if end > 0})
    return wanted


def _made(connection: Connection[TupleRow], log: Log, request: Request, wanted: Mapping[int, int]) -> int:
    is_partial = request.until_offsets is not None or request.until_ms is not None
    plan = Plan(
        request.purpose,
        forced_rules=request.forced_rules,
        until_ms=request.until_ms,
        # Written down, so that a rebuild that is resumed later ends at the same place.
        until_offsets=wanted if is_partial else None,
        # Making them at the end would take a processor and the disk for long, at no rate.
        indexed=request.most_per_s is not None,
        tablespace=request.tablespace,
        note=request.note,
        searchable=request.searchable or (),
        by_balance=bool(request.by_balance),
    )
    with connection.transaction():
        prepare_catalog(connection)
        live_number(connection)
        return make_generation(connection, log, plan)


def _possible(until: Mapping[int, int], ends: Mapping[int, int]) -> Mapping[int, int]:
    for partition, offset in until.items():
        if partition not in ends:
            raise NoSuchPositionError(
                f"The log has no partition {partition}.", f"Its partitions are 0 to {len(ends) - 1}."
            )
        if offset > ends[partition]:
            raise NoSuchPositionError(
                f"The log has no record {Position(partition, offset - 1)} yet.",
                f"Its partition ends before offset {ends[partition]}; if it was there, the log has lost records.",
            )
    return until


def _refuse_unfit(found: Generation, log: Log) -> None:
    refuse_live(found)
    refuse_other_layout(found.number, found.layout)
    refuse_other_log(found.log, log)


def _ends(settings: Settings, found: Generation) -> Mapping[int, int]:
    if found.until_offsets is not None:
        return found.until_offsets
    return end_offsets(settings, found.log.topic, range(found.log.partitions))


def bring_to(
    context: RebuildContext, number: int, ends: Mapping[int, int], started: FoldProcesses | None = None
) -> None:
    """Fold a generation on to the next offsets given; partitions that are there or beyond are left alone.

    In processes that are started, or in some of its own if there is much to fold.
    """
    found = generation(context.connection, number)
    behind = _behind(found, ends)
    if not behind:
        return
    _refuse_gap(context.settings, found.log.topic, {partition: found.next_offsets[partition] for partition in behind})
    _refuse_other_history(context, found, behind)
    _fold_to(context, found, behind, started)


def _fold_to(
    context: RebuildContext, found: Generation, behind: Mapping[int, int], started: FoldProcesses | None = None
) -> None:
    """Fold those partitions of a generation that are behind the next offsets given."""
    number, missing = found.number, _missing(found, behind)
    if not missing:
        return
    # One that is begun at a rate has its indexes from the start.
    is_bulk = not is_indexed(context.connection, number) or (found.state == "building" and missing > FEW_RECORDS)
    job = _job(context.settings, found, behind, bulk=is_bulk)
    processes = 1 if missing <= FEW_RECORDS else min(context.processes, len(behind))
    if context.most_per_s is not None:
        job = job._replace(most_per_s=context.most_per_s / processes)
    start = sum(found.next_offsets.values())
    context.observer.begin("Folding", start, start + missing)
    if missing <= FEW_RECORDS:
        fold_here(job, context.settings.dsn)
    else:
        with started or FoldProcesses(processes) as folding:
            folding.fold(
                job, context.settings.dsn, lambda: context.observer.report(_folded(context.connection, number))
            )
    context.observer.report(_folded(context.connection, number))


def _behind(found: Generation, ends: Mapping[int, int]) -> Mapping[int, int]:
    """Of next offsets by partition, those that a generation hasn't reached."""
    return {partition: end for partition, end in ends.items() if end > found.next_offsets[partition]}


def _missing(found: Generation, behind: Mapping[int, int]) -> int:
    return sum(end - found.next_offsets[partition] for partition, end in behind.items())


def _folded(connection: Connection[TupleRow], number: int) -> int:
    return sum(generation(connection, number).next_offsets.values())


def _refuse_other_history(context: RebuildContext, found: Generation, partitions: Iterable[int]) -> None:
    """Raise LogReplacedError if the log has other records than a generation has folded, in any of these partitions."""
    stopped = bookmarks(context.connection, found.number)
    wanted = {partition: stopped[partition] for partition in partitions}
    for error in replacements(context.settings, found.log.topic, wanted, f"folded into generation {found.number}"):
        raise LogReplacedError(
            error.message,
            "This generation has what the log lost, and can't be gone on with. Fold the log as it is now: creditfold "
            "rebuild. See docs/operating.md, A log that lost its end.",
        )


def _refuse_gap(settings: Settings, topic: str, next_offsets: Mapping[int, int]) -> None:
    """Raise LogTruncatedError if the topic doesn't have what comes next."""
    _refuse_late(topic, start_offsets(settings, topic, next_offsets), next_offsets)


def _refuse_late(topic: str, starts: Mapping[int, int], next_offsets: Mapping[int, int]) -> None:
    for partition, next_offset in next_offsets.items():
        if (start := starts[partition]) > next_offset:
            raise LogTruncatedError(
                f"The topic {topic} begins at {Position(partition, start)}; what was before it is gone, "
                f"from offset {next_offset} on.",
                "The log isn't whole: bring it back from the archive (creditfold restore).",
            )


def _job(settings: Settings, found: Generation, ends: Mapping[int, int], *, bulk: bool) -> RebuildJob:
    return RebuildJob(
        settings.kafka_client,
        found.log.topic,
        found.log.partitions,
        found.number,
        dict(ends),
        found.until_ms,
        found.forced_rules,
        bulk,
    )


class Switch(NamedTuple):
    """What an activation did: which generation was live before and is now, and how long the live fold stood still."""

    old: int
    new: int
    halted_s: float
    differing_partitions: Sequence[int]


class ActivationOptions(NamedTuple):
    """What an activation accepts, and why: decisions other than the live generation's, or another log."""

    differences: bool = False
    other_log: bool = False
    note: str = ""


def activate(settings: Settings, number: int, options: ActivationOptions, observer: ProgressObserver) -> Switch:
    """Make a generation the live one, brought up to where the live one is and proven to have decided the same.

    Readers see the old one or the new one, never both, and never an older position than before.

    Args:
        settings: where the servers are.
        number: of the generation.
        options: what is accepted.
        observer: sees each step and how far it is.

    Returns:
        What was switched, and for how many seconds the live fold stood still.

    Raises:
        GenerationError: or one derived from it: the generation can't be activated.
        DecidesDifferentlyError: it decided otherwise than the live one, which `options` don't accept.
        LogChangedError: it, or the live one, was folded from another topic.
        LogReplacedError: the log isn't what it was folded from.
        LogTruncatedError: the log doesn't have what comes next.
        RebuildError: the fold of what it lacks ended early.
    """
    log = describe_log(settings)
    with pinned(settings.dsn, SWITCHING) as connection:
        found = generation(connection, number)
        _refuse_unfit(found, log)
        refuse_unready(found)
        live = generation(connection, live_number(connection))
        # Readers see both for the time of the switch, through the same views.
        refuse_other_layout(live.number, live.layout)
        if live.log != log and not options.other_log:
            raise LogChangedError(
                f"The live generation was folded from another topic: {live.log.topic}, id {live.log.topic_id}.",
                "If the log was restored into a new topic, say so: --log-replaced.",
            )
        with held(connection, number):
            # Read again, since until now others could work on it.
            refuse_unready(found := generation(connection, number))
            context = RebuildContext(settings, connection, observer)
            # Workers couldn't go on with it either.
            _refuse_other_history(context, found, found.next_offsets)
            _approach(context, number)
            with looked_through(connection, number):
                return _WHILE_BLOCKED(_switch_over, settings, connection, number, options)


# A worker's transactions are short: between two of them there is room. One that stays is named in the error.
_WHILE_BLOCKED = while_blocked(stop_after_attempt(5))


def _switch_over(
    settings: Settings, connection: Connection[TupleRow], number: int, options: ActivationOptions
) -> Switch:
    with halted(connection) as halt:
        began = time.monotonic()
        if halt.number == number:
            raise GenerationError(
                f"Generation {number} is live already: somebody else activated it.", "There is nothing to do."
            )
        differing = _take_over(settings, connection, number, halt, options)
        switch(connection, halt.number, number, options.note)
    return Switch(halt.number, number, time.monotonic() - began, differing)


def _approach(context: RebuildContext, number: int) -> None:
    """Come so near to the live generation that the rest takes moments."""
    for _ in range(APPROACHES):
        target = generation(context.connection, live_number(context.connection)).next_offsets
        bring_to(context, number, _within(context.settings, target))
        mine, live = (
            generation(context.connection, number),
            generation(context.connection, live_number(context.connection)),
        )
        if _missing(mine, _behind(mine, live.next_offsets)) <= MOST_WHILE_HALTED:
            return
    raise GenerationError(
        f"Generation {number} doesn't catch up: the live fold is too fast.", "Try again when less is appended."
    )


def _within(settings: Settings, target: Mapping[int, int]) -> Mapping[int, int]:
    """Offsets to fold to: those of the target, but none that the log doesn't have."""
    ends = end_offsets(settings, settings.commands_topic, target)
    return {partition: min(offset, ends[partition]) for partition, offset in target.items()}


def _take_over(
    settings: Settings, connection: Connection[TupleRow], number: int, halt: Halt, options: ActivationOptions
) -> Sequence[int]:
    """Bring a generation up to the halted one and compare the two; returns the partitions in which they differ."""
    found = generation(connection, number)
    target = _within(settings, halt.next_offsets)
    behind = _behind(found, target)
    if behind:
        _refuse_gap(settings, found.log.topic, {partition: found.next_offsets[partition] for partition in behind})
        fold_here(_job(settings, found, behind, bulk=False), settings.dsn)
    differing = [
        partition
        for partition, offset in halt.next_offsets.items()
        if offset > target[partition]
        or chain_at(connection, halt.number, partition, offset) != chain_at(connection, number, partition, offset)
    ]
    if differing and not options.differences:
        raise DecidesDifferentlyError(
            f"Generation {number} decided otherwise than the live one in partition {', '.join(map(str, differing))}: "
            "what was announced would not be true any more, or the live one was tampered with.",
            f"See: creditfold verify {halt.number} {number}. To switch all the same: --accept-differences --note WHY",
        )
    return differing
