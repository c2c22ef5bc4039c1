"""Many commands in and their answers out, and outcomes as they are decided. Does no I/O.

Owns the pieces that commands are sent in, and what server-sent events say.
"""

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from creditfold.client.answers import AcceptedAnswer, DecisionAnswer, OutcomeAnswer
from creditfold.client.calls import MOST_WAIT_S, Call, Received, adapter
from creditfold.client.errors import ProblemError, problem_error
from creditfold.client.shapes import Command, Stamp, stamped

#: Bytes of a piece at most, unless one command has more. The server reads no further while nobody takes its answers,
#: and this client takes them when it has sent all: what fits into the buffers of a connection never waits for that.
PIECE_BYTES = 60_000
#: Statuses of a line that a later try may cure.
_PASSING = (429, 503)


class Line(NamedTuple):
    """A command of many, and its answer.

    Args:
        command: as it was handed over.
        answer: its outcome; that it is in the log and not decided yet; or why it was refused. `answer.stamp`, of a
            refusal `answer.problem.stamp`, has its position and the generation by whose fold the outcome is known.
    """

    command: Command
    answer: OutcomeAnswer | AcceptedAnswer | ProblemError


@dataclass(frozen=True)
class Piece(Call[list[Line]]):
    """The request that appends some commands at once."""

    commands: Sequence[Command] = ()

    def read(self, received: Received) -> list[Line]:
        """The answer of each command, in their order. Raises ClientError."""
        if received.status != 200:
            raise self._error(received)
        try:
            found = [json.loads(line) for line in received.content.splitlines()]
            answers = {row["line"]: row for row in found}
            lines = [Line(one, self._answer(one, answers.get(n), received)) for n, one in enumerate(self.commands, 1)]
        except (ValueError, KeyError, TypeError):
            raise self._strange(received) from None
        return lines

    def _answer(
        self, command: Command, row: dict[str, Any] | None, received: Received
    ) -> OutcomeAnswer | AcceptedAnswer | ProblemError:
        # The stream's end has the number of the first line that wasn't read.
        row = row or _UNREAD
        # What the headers say of a single command, each line says of its own.
        stamp = received.stamp._replace(position=row.get("position"), generation=row.get("generation"))
        if "code" in row:
            return self._refusal(command, row, stamp)
        if row["status"] == 202:
            fields = {"command_id": command.command_id, "account": command.account, "position": row["position"]}
            return stamped(AcceptedAnswer(**fields), stamp)
        found: OutcomeAnswer = adapter(OutcomeAnswer).validate_python(row)
        return stamped(found, stamp)

    def _refusal(self, command: Command, row: dict[str, Any], stamp: Stamp) -> ProblemError:
        error = problem_error(row, command=command)
        if error.status in _PASSING:
            raise error
        stamped(error.problem, stamp)
        return error


#: What stands for a line that has no answer since the stream ended before.
_UNREAD: dict[str, Any] = {
    "type": "urn:creditfold:problem:stream-ended",
    "title": "Stream ended",
    "status": 503,
    "code": "stream_ended",
    "detail": "The server ended the stream before this command was answered.",
    "remedy": "Send it again under the same id.",
    "request_id": "",
    "maybe_written": True,
}


class Pieces:
    """Makes requests of commands that come one by one.

    Args:
        is_waiting: whether the server waits for outcomes.
    """

    def __init__(self, *, is_waiting: bool) -> None:
        self._prefer = f"wait={MOST_WAIT_S:g}" if is_waiting else "respond-async"
        self._wait_s = MOST_WAIT_S if is_waiting else 0.0
        self._commands: list[Command] = []
        self._content = bytearray()

    def add(self, command: Command) -> Sequence[Piece]:
        """Take a command. Returns the piece before it where that would grow too large by it, or none."""
        line = command.line()
        full = self.rest() if len(self._content) + len(line) > PIECE_BYTES else ()
        self._commands.append(command)
        self._content += line
        return full

    def rest(self) -> Sequence[Piece]:
        """The piece of what was taken and not returned, or none."""
        if not self._commands:
            return ()
        made = Piece(
            "POST",
            "/v1/commands",
            {},
            headers={"Content-Type": "application/x-ndjson", "Prefer": self._prefer},
            content=bytes(self._content),
            command=self._commands[0],
            wait_s=self._wait_s,
            commands=self._commands,
        )
        self._commands, self._content = [], bytearray()
        return (made,)


def each(commands: Iterable[Command]) -> Iterator[Command]:
    """The commands one by one."""
    return iter(commands)


async def each_async(commands: AsyncIterable[Command] | Iterable[Command]) -> AsyncIterator[Command]:
    """The commands one by one, of either kind of source."""
    if isinstance(commands, AsyncIterable):
        async for command in commands:
            yield command
    else:
        for command in commands:
            yield command


class Event(NamedTuple):
    """A line of the journal as it was decided.

    Args:
        id: names this event and all before it; hand it to `outcomes(after=...)` to go on behind it.
        decision: the line.
    """

    id: str
    decision: DecisionAnswer


Opening: TypeAlias = Call[None]


class Follower:
    """Follows a stream of events over several connections.

    Args:
        after: the id of the last event that is known; `start` for all there ever was, None for those from now on.
        account_prefix: begins the accounts.
    """

    def __init__(self, after: str | None, account_prefix: str | None) -> None:
        self.last_id = after
        self._account_prefix = account_prefix
        self._left = b""
        self._id = self._data = ""

    def opening(self) -> Opening:
        """The call that goes on behind what was seen. The connection begins anew."""
        self._left, self._id, self._data = b"", "", ""
        query = {"after": self.last_id, "account_prefix": self._account_prefix}
        return Call("GET", "/v1/outcomes", {}, query, {"Accept": "text/event-stream"})

    def received(self, block: bytes) -> list[Event]:
        """The events that a block of the stream completes."""
        *lines, self._left = (self._left + block).split(b"\n")
        return [event for line in lines if (event := self._line(line.rstrip(b"\r").decode())) is not None]

    def _line(self, line: str) -> Event | None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "data":
            self._data += value
        if line:
            return None
        data, self._data = self._data, ""
        # A heartbeat has an id and no data: what was passed over needn't be sent again either.
        self.last_id = self._id or self.last_id
        return Event(self._id, adapter(DecisionAnswer).validate_json(data)) if data else None
