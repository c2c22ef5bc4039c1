"""The route that appends many commands: one a line, each with an answer of its own, streamed both ways.

Owns the window of lines under way: while it is full nothing more is read, so that memory stays flat and the connection
itself slows the sender down. A batch is the lines that came together. They are read and encoded in a thread, handed
over in their order, and answered in it. Knows no rule: what is valid is the producers' to say.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import cache
from typing import Annotated, Any, NamedTuple

import structlog
from fastapi import Request
from starlette.requests import ClientDisconnect

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.append import STATUS, Prefer, Preference, dead_letter_problem, hand_over, preference_of
from creditfold.api.body import line_blocks, parse_object, refuse_other_types
from creditfold.api.commands import stamped_command
from creditfold.api.problems import ProblemError, as_json, document, of_error, responses
from creditfold.api.routes import Routes
from creditfold.api.service import Service, service_of
from creditfold.api.streams import Stream
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import Position
from creditfold.producers import AppendError, Outcome, QueueFullError, encode_command
from creditfold.producers.import_commands import FastPath, JsonLines, ids_of
from creditfold.producers.models.commands import Encoded
from creditfold.schemas.outcome import Appended, CommandOutcome, OutcomeKind

router = Routes(tags=["commands"])
log = structlog.get_logger()

MEDIA_TYPE = "application/x-ndjson"
#: What a body may say that it is.
TYPES = (MEDIA_TYPE, "application/ndjson", "application/jsonl", "application/json")
#: Lines of a batch at most, and batches under way.
BATCH_LINES, WINDOW = 500, 16
#: Seconds that a sender may be silent.
IDLE_S = 60.0
#: Seconds after which the key of a stream is looked at again.
CHECK_S = 2.0

#: What a plain command's line may be of, for the fast path to take it as it is.
_PLAIN_SCOPES = {"append:grant", "append:spend"}
_ENDS = (b"}", b"}\r")


@cache
def _fast_path() -> FastPath:
    return JsonLines().fast


class _Line(NamedTuple):
    """A line of a batch: the record to append with what its outcome is looked up by, or the problem that it has."""

    number: int
    record: Encoded | None = None
    account: str = ""
    command_id: str = ""
    problem: ProblemError | None = None


class _Reader:
    """Makes records of lines, for one caller."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._prefix = caller.account_prefix.encode()
        self._stamp = b',"source":' + json.dumps(caller.name, ensure_ascii=False).encode() + b"}"
        # It makes the record and nothing else: no amount to look at.
        is_plain = not caller.assets and caller.most_amount is None
        self._fast = _fast_path() if is_plain and caller.scopes >= _PLAIN_SCOPES else None

    def read(self, lines: Sequence[bytes], first: int) -> list[_Line]:
        """Read the lines of a batch; empty ones are passed over, and counted. `first` is the number of the first."""
        return [self._line(number, line) for number, line in enumerate(lines, first) if line and not line.isspace()]

    def _line(self, number: int, line: bytes) -> _Line:
        if self._fast is not None and line.endswith(_ENDS):
            # A line that says its source itself has it twice then, which the fast path leaves to the other.
            record = self._fast(line[: line.rindex(b"}")] + self._stamp)
            if record is not None and record.key is not None and record.key.startswith(self._prefix):
                return _Line(number, record, *ids_of(record))
        try:
            fields = parse_object(line, "The line is")
            if "source" in fields:
                raise ProblemError(
                    400,
                    "invalid_body",
                    "The line has source, which is not its to say.",
                    "The source is the key's name. Leave it out.",
                )
            command = stamped_command(fields, self._caller)
            self._caller.refuse_command(command)
            return _Line(number, encode_command(command), command.account, command.command_id)
        except Exception as error:
            return _Line(number, problem=_problem_of(error))


class Bulk:
    """One request's lines on their way.

    Args:
        request: whose body has the lines.
        caller: who sends them.
        preference: how long to wait for outcomes.
    """

    def __init__(self, request: Request, caller: Caller, preference: Preference) -> None:
        self._request = request
        self._service: Service = service_of(request)
        self._wait_s = preference.wait_s
        self._caller = caller
        self._checked_at = time.monotonic()
        self._reader = _Reader(caller)
        self._room = asyncio.Semaphore(WINDOW)
        self._batches: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()

    async def answers(self) -> AsyncGenerator[bytes, None]:
        """The lines of the answer, a batch at a time, in the order of the request's."""
        reading = asyncio.create_task(self._read())
        try:
            while (batch := await self._batches.get()) is not None:
                part = await batch
                if part:
                    yield part
                self._room.release()
        finally:
            reading.cancel()
            left = [reading, *self._taken()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _taken(self) -> list[asyncio.Task[Any]]:
        found: list[asyncio.Task[Any]] = []
        while not self._batches.empty():
            batch = self._batches.get_nowait()
            if batch is not None:
                found.append(batch)
        return found

    async def _read(self) -> None:
        """Hand over one batch after the other while there is room in the window."""
        number = 1
        try:
            async with aclosing(line_blocks(self._request, IDLE_S)) as blocks:
                async for block in blocks:
                    for start in range(0, len(block), BATCH_LINES):
                        lines = block[start : start + BATCH_LINES]
                        await self._room.acquire()
                        await self._refuse_lost_key()
                        failure = await self._take(lines, number)
                        number += len(lines)
                        if failure is not None:
                            raise _ended(failure)
        except ClientDisconnect:
            pass
        except Exception as error:
            ending = _Line(number, problem=_problem_of(error))
            self._batches.put_nowait(asyncio.create_task(self._rendered([ending])))
        finally:
            self._batches.put_nowait(None)

    async def _refuse_lost_key(self) -> None:
        """Raise ProblemError where the key, which opened the stream, opens it no more."""
        if time.monotonic() - self._checked_at >= CHECK_S:
            caller = await self._service.authenticate(self._request)
            if caller.rights != self._caller.rights:
                raise ProblemError(403, "key_changed", "The key may do something else now.", "Send the rest again.")
            self._checked_at = time.monotonic()

    async def _take(self, lines: Sequence[bytes], first: int) -> AppendError | None:
        """Hand a batch over; returns why no more can be."""
        read = await self._service.run_bulk(self._reader.read, lines, first)
        records = [line.record for line in read if line.record is not None]
        if not records:
            self._batches.put_nowait(asyncio.create_task(self._rendered(read)))
            return None
        delivered, refusal = await hand_over(self._service, records)
        self._batches.put_nowait(asyncio.create_task(self._answered(read, delivered)))
        return refusal

    async def _answered(self, lines: Sequence[_Line], delivered: asyncio.Future[Sequence[Outcome]]) -> bytes:
        outcomes = iter(await delivered)
        found: list[Any] = [None if line.record is None else next(outcomes) for line in lines]
        if self._wait_s:
            await self._look_up(lines, found)
        return await self._rendered(lines, found)

    async def _look_up(self, lines: Sequence[_Line], found: list[Any]) -> None:
        """Put outcomes in place of the positions of what is folded in time."""
        numbers = [number for number, one in enumerate(found) if isinstance(one, Position)]
        appended = [Appended(found[number], lines[number].account, lines[number].command_id) for number in numbers]
        for number, outcome in zip(numbers, await self._service.outcomes(appended, self._wait_s), strict=True):
            if isinstance(outcome, CommandOutcome):
                found[number] = outcome
            elif outcome is not None:
                found[number] = _unexplained(outcome, found[number])

    async def _rendered(self, lines: Sequence[_Line], found: Sequence[Any] = ()) -> bytes:
        return await self._service.run_bulk(self._render, lines, found or [None] * len(lines))

    def _render(self, lines: Sequence[_Line], found: Sequence[Any]) -> bytes:
        return b"".join(self._answer(line, one) for line, one in zip(lines, found, strict=True))

    def _answer(self, line: _Line, found: Any) -> bytes:
        if isinstance(found, Position):
            ids = b'"command_id":%b,"account":%b' % (_quoted(line.command_id), _quoted(line.account))
            return b'{"line":%d,"status":202,"outcome":"pending",%b,"position":"%d:%d"}\n' % (line.number, ids, *found)
        if isinstance(found, CommandOutcome) and found.kind is not OutcomeKind.DEAD_LETTER:
            outcome = answers.outcome_json(found, line.account, line.command_id)
            of = b"" if found.generation is None else b'"generation":%d,' % found.generation
            return b'{"line":%d,"status":%d,%b%b\n' % (line.number, STATUS[found.kind], of, outcome[1:])
        problem = line.problem
        if isinstance(found, CommandOutcome):
            problem = dead_letter_problem(found)
            problem.members["generation"] = found.generation
        said = {"line": line.number, **document(self._request, problem or _problem_of(found))}
        return as_json(said) + b"\n"


def _quoted(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


def _problem_of(error: Exception) -> ProblemError:
    problem = of_error(error)
    if problem is None:
        log.error("a line failed by a defect", exc_info=error)
        return ProblemError(500, "internal_error", "The server failed; this is a defect.", "Report it.")
    return problem


def _ended(failure: AppendError) -> ProblemError:
    known = _problem_of(failure)
    return ProblemError(
        known.status if not isinstance(failure, QueueFullError) else 503,
        "stream_ended",
        f"This line and those after it weren't read: {known.detail}",
        "Send those lines that have no answer, or one with maybe_written, again.",
    )


def _unexplained(error: CreditfoldError, position: Position) -> ProblemError:
    return ProblemError(500, "outcome_unknown", error.message, error.remedy, maybe_written=True, position=str(position))


#: The schema of the answer, which is text: that of one of its lines.
_ANSWERS = {
    "type": "string",
    "contentMediaType": MEDIA_TYPE,
    "contentSchema": {
        "type": "object",
        "properties": {
            "line": {"type": "integer", "description": "The number of the request's line, from 1."},
            "status": {"type": "integer", "description": "What the command alone would be answered with."},
            "generation": {
                "type": "integer",
                "description": "Whose fold has decided so; not there where no outcome was read.",
            },
        },
        "required": ["line", "status"],
        "anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("OutcomeAnswer", "AcceptedAnswer", "Problem")],
    },
}


@router.post(
    "/v1/commands",
    operation_id="append_many",
    status_code=200,
    responses={
        200: {
            "description": "A line for each line of the request, in its order, as it is known.",
            "content": {MEDIA_TYPE: {"schema": _ANSWERS}},
        },
        **responses(415),
    },
    openapi_extra={
        "requestBody": {
            # Of no line there is no answer.
            "required": False,
            "description": "One command a line: `type`, `account`, `command_id` and the fields of its kind.",
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        }
    },
)
async def append_many(request: Request, caller: Annotated[Caller, needs("append:*")], prefer: Prefer = "") -> Stream:
    """Append many commands, one a line, streamed both ways.

    The answers come in the order of the lines while more are sent; a sender that doesn't read them is cut. A line that
    is wrong has a problem as its answer and ends nothing.
    """
    refuse_other_types(request, *TYPES)
    preference = preference_of(prefer)
    applied = {} if preference.applied is None else {"Preference-Applied": preference.applied}
    return Stream(Bulk(request, caller, preference).answers(), MEDIA_TYPE, applied)
