"""The pages of operation: partitions and processes, dead letters, generations, the log. Change nothing."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from fastapi import Path, Query, Request
from fastapi.responses import Response
from psycopg import Connection

from creditfold.api.generations import GenerationAnswer, all_generations
from creditfold.api.letters import OneDeadLetterAnswer, one_letter
from creditfold.api.log_record import Offset, Partition, record_of
from creditfold.api.operations import OperationsAnswer, operations_page
from creditfold.api.problems import ProblemError
from creditfold.api.routes import Routes
from creditfold.api.service import Service, service_of
from creditfold.common.documents import as_json
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.console import words
from creditfold.console.pages import Page, link, moved, render
from creditfold.console.visits import Visit, needs
from creditfold.processors.status import LedgerStatus, PartitionStatus, Sample, ledger_status, waited_s
from creditfold.producers.models.commands import MODELS
from creditfold.projections import queries
from creditfold.projections.queries import DeadLetterState
from creditfold.schemas.dead_letters import DEAD

router = Routes(route_class=Page, include_in_schema=False)

#: Seconds between the two looks of which a rate is made, at least and at most.
LEAST_RATE_S, MOST_RATE_S = 0.25, 600.0
#: Open dead letters that are grouped, and those that are named of each reason.
MOST_LETTERS, MOST_NAMED = 500, 10
#: Partitions, processes and generations that are shown.
MOST_ROWS = 100
#: Characters of a field of a record.
MOST_TEXT = 2_000
#: Operations that are shown, newest first.
MOST_OPERATIONS = 10

#: The fields of the form that redrives a letter.
CORRECTIONS = ("command_id", "type", "fields", "command", "confirmed", "why")

Operator = Annotated[Visit, needs("operate:*", everywhere=True)]
LetterOperator = Annotated[Visit, needs("operate:dead-letters", everywhere=True)]


class PartitionLine(NamedTuple):
    """A partition, its owner's epoch, and how long the first record that isn't folded has been in the log, in seconds.

    `waiting_s` is None where that couldn't be read.
    """

    status: PartitionStatus
    epoch: int | None
    waiting_s: float | None


class LetterGroup(NamedTuple):
    """Open dead letters of one reason, and the newest of them."""

    reason: str
    sentence: str
    size: int
    named: Sequence[DeadLetterState]


class Kept(NamedTuple):
    """What PostgreSQL knows besides: what a visitor's scopes don't open is None."""

    letters: Sequence[LetterGroup] | None
    has_more_letters: bool
    generations: Sequence[GenerationAnswer] | None
    operations: OperationsAnswer


class Looks:
    """The last look at the ledger of a process: a rate is made of two."""

    def __init__(self) -> None:
        self._last: Sample | None = None

    def status(self, service: Service) -> LedgerStatus:
        """How the ledger is, with rates since the last look if that is fit for them."""
        last, now = self._last, time.monotonic()
        if last is not None and not LEAST_RATE_S <= now - last.at <= MOST_RATE_S:
            last = None
        found = ledger_status(service.settings, 0.0, last, service.admin)
        if not found.seen.errors:
            self._last = found.seen.second
        if last is not None:
            return found
        return found._replace(partitions=[row._replace(rate=None) for row in found.partitions])


@router.get("/console/operation")
async def show_operation(request: Request, visit: Operator) -> Response:
    """How the ledger is: what is wrong, how far each partition is, who works, what is stuck."""
    service, looks = service_of(request), request.app.state.console_looks
    status, lines = await service.operate(lambda: _status(service, looks))
    kept = await service.query(_kept, visit) if status.seen.health is not None else None
    shown = {"lines": pressing(lines), "most": MOST_ROWS, "kept": kept}
    return render(request, "operation.html", status=status, number_of_partitions=len(lines), **shown)


def _status(service: Service, looks: Looks) -> tuple[LedgerStatus, list[PartitionLine]]:
    status = looks.status(service)
    second = status.seen.second
    try:
        waiting = waited_s(service.settings, second.progress.values(), second.ends)
    except CreditfoldError:
        # What Kafka doesn't answer is among the errors of the status, or was just now.
        waiting = {}
    epochs = {row.log_partition: row.epoch for row in second.progress.values()}
    return status, [
        PartitionLine(row, epochs.get(row.partition), waiting_of(row, waiting)) for row in status.partitions
    ]


def pressing(lines: Sequence[PartitionLine]) -> list[PartitionLine]:
    """The partitions in their order; of more than a page takes, those that are stuck or furthest behind."""
    if len(lines) <= MOST_ROWS:
        return list(lines)
    by_need = sorted(lines, key=lambda one: (not one.status.stuck, -(one.status.lag or 0), one.status.partition))
    return by_need[:MOST_ROWS]


def waiting_of(row: PartitionStatus, waiting_s: Mapping[int, float]) -> float | None:
    """How long the first record of a partition has waited to be folded, in seconds; 0 where none does."""
    return 0.0 if row.lag == 0 else waiting_s.get(row.partition)


def _kept(connection: Connection[Any], visit: Visit) -> Kept:
    letters: Sequence[DeadLetterState] | None = None
    if visit.has("operate:dead-letters"):
        letters = queries.dead_letters(connection, MOST_LETTERS + 1, only_open=True)
    return Kept(
        None if letters is None else grouped(letters[:MOST_LETTERS]),
        letters is not None and len(letters) > MOST_LETTERS,
        all_generations(connection) if visit.has("operate:generations") else None,
        operations_page(connection, visit.caller, None, MOST_OPERATIONS),
    )


def grouped(letters: Sequence[DeadLetterState]) -> list[LetterGroup]:
    """Dead letters by reason, the most frequent first; within one in the order that they came in."""
    found: dict[str, list[DeadLetterState]] = defaultdict(list)
    for letter in letters:
        found[letter.reason].append(letter)
    by_size = sorted(found.items(), key=lambda one: (-len(one[1]), one[0]))
    return [LetterGroup(reason, DEAD.get(reason, reason), len(rows), rows[:MOST_NAMED]) for reason, rows in by_size]


@router.get("/console/dead-letters/{position}")
async def show_letter(
    request: Request, position: Annotated[str, Path(max_length=60)], visit: LetterOperator
) -> Response:
    """A dead letter, decoded; of an id that was used twice both commands."""
    return await letter_page(request, visit, position)


async def letter_page(
    request: Request, visit: Visit, position: str, error: ProblemError | None = None, form: Mapping[str, str] = {}
) -> Response:
    """The page of a dead letter; after a form that can't be done, as it was filled in, with what is wrong with it."""
    read = await service_of(request).read(None, one_letter, Position.parse(position), visit.caller)
    found: OneDeadLetterAnswer = read.found
    at = Position.parse(found.position)
    return render(
        request,
        "letter.html",
        200 if error is None else error.status,
        letter=found,
        error=error,
        values={name: form.get(name, "") for name in CORRECTIONS},
        types=[kind for kind in MODELS if kind != "batch"],
        sentence=DEAD.get(found.reason, found.reason),
        command=rows_of(found.command),
        first=rows_of(None if found.first is None else as_json(found.first.model_dump(exclude={"facts"}))),
        log=link("log", str(at.partition), str(at.offset)),
    )


def rows_of(fields: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The fields of a record as rows of text, without those that say nothing; of long ones the beginning."""
    said = [(name, str(value)) for name, value in (fields or {}).items() if value not in (None, "", [], {}, ())]
    return [(name, words.short(value, MOST_TEXT)) for name, value in said]


@router.get("/console/log")
async def find_record(
    request: Request, visit: LetterOperator, at: Annotated[str, Query(max_length=60)] = ""
) -> Response:
    """Leads to the record at a position, `partition:offset`."""
    position = Position.parse(at.strip())
    return moved(link("log", str(position.partition), str(position.offset)))


@router.get("/console/log/{partition}/{offset}")
async def show_record(request: Request, visit: LetterOperator, partition: Partition, offset: Offset) -> Response:
    """One record of the log, decoded, with its key and its headers."""
    service, position = service_of(request), Position(partition, offset)
    found = await service.operate(lambda: record_of(service.settings, position, visit.caller, service.admin))
    before = link("log", str(partition), str(offset - 1)) if offset else None
    return render(
        request,
        "record.html",
        record=found,
        fields=rows_of(found.fields),
        before=before,
        after=link("log", str(partition), str(offset + 1)),
    )
