"""Requests as values, and what their answers say. Does no I/O: the two clients send calls and hand back what came.

Owns how a command becomes a request, and which answers are a result and which an error.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from math import ceil
from typing import Any, Generic, NamedTuple, TypeVar, cast
from urllib.parse import quote, urlsplit

from pydantic import TypeAdapter, ValidationError

from creditfold.client.answers import AcceptedAnswer, OutcomeAnswer, PreviewAnswer
from creditfold.client.errors import MEDIA_TYPE, ClientError, command_path, problem_error, strange
from creditfold.client.shapes import Command, Stamp, stamped

T = TypeVar("T")

#: Seconds that the server holds an answer at most.
MOST_WAIT_S = 30.0


class Received(NamedTuple):
    """A whole answer. The names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which to ask again, if the server says so."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isascii() and text.isdigit() else None

    @property
    def media_type(self) -> str:
        """What the content is of."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def stamp(self) -> Stamp:
        """Which state it reflects."""
        generation = self.headers.get("creditfold-generation", "")
        number = int(generation) if generation.isascii() and generation.isdigit() else None
        try:
            complete_to = datetime.fromisoformat(self.headers.get("creditfold-complete-to", ""))
        except ValueError:
            complete_to = None
        return Stamp(self.headers.get("creditfold-position"), number, self.headers.get("x-request-id"), complete_to)


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request and how its answer is read.

    Args:
        method: of HTTP.
        path: from the server's root, encoded.
        answers: by status, what the answer's JSON is.
        query: parameters by name; those that are None are left out.
        headers: beyond what each request has.
        content: of the body; None for none.
        command: what it appends; None where it appends nothing.
        is_repeatable: whether sending it twice does no more than sending it once.
        is_written: whether the command is in the log already.
        wait_s: seconds for which the server may hold the answer back.
    """

    method: str
    path: str
    answers: Mapping[int, Any]
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    command: Command | None = None
    is_repeatable: bool = True
    is_written: bool = False
    wait_s: float = 0.0

    @property
    def parameters(self) -> dict[str, str]:
        """The query as text."""
        found: dict[str, str] = {}
        for name, value in self.query.items():
            if isinstance(value, Mapping):
                found |= {f"{name}[{key}]": _text(one) for key, one in value.items()}
            elif value is not None:
                found[name] = _text(value)
        return found

    @property
    def encoded_headers(self) -> dict[bytes, bytes]:
        """The headers in UTF-8, as the server reads ids."""
        return {name.encode(): value.encode() for name, value in self.headers.items()}

    def with_query(self, **query: Any) -> "Call[T]":
        """The call with other parameters in addition."""
        return replace(self, query={**self.query, **query})

    def read(self, received: Received) -> T:
        """What an answer says. Raises ClientError."""
        shape = self.answers.get(received.status)
        try:
            # A rejected command and a refused one have one status.
            if shape is None or received.media_type == MEDIA_TYPE:
                raise self._error(received)
            return cast(T, stamped(adapter(shape).validate_json(received.content), received.stamp))
        except ValidationError:
            raise self._strange(received) from None

    def _error(self, received: Received) -> ClientError:
        if received.media_type != MEDIA_TYPE:
            return self._strange(received)
        try:
            found = json.loads(received.content)
        except ValueError:
            return self._strange(received)
        error = problem_error(found, command=self.command, retry_after_s=received.retry_after_s)
        stamped(error.problem, received.stamp)
        return error

    def _strange(self, received: Received) -> ClientError:
        return strange(received.status, received.content, command=self.command, retry_after_s=received.retry_after_s)


@cache
def adapter(shape: Any) -> TypeAdapter[Any]:
    """What reads JSON of a shape."""
    return TypeAdapter(shape)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


def base_url(url: str) -> str:
    """The server's root, without a slash at its end. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("The URL must be as https://ledger.example, with a path if the door is behind one.")
    return url.rstrip("/")


def authorization(key: str | None) -> dict[bytes, bytes]:
    """The header with a key. Raises ValueError."""
    if key is None:
        return {}
    if not key.isascii() or not key.isprintable() or " " in key:
        # Without the key, which is a secret.
        raise ValueError("The key has a character that none has, such as the end of a line.")
    return {b"Authorization": b"Bearer " + key.encode()}


def path(template: str, **names: Any) -> str:
    """A path with names in it, each encoded by itself."""
    return template.format(**{name: quote(str(value), safe="") for name, value in names.items()})


def json_body(**fields: Any) -> dict[str, Any]:
    """The parts of a call with a body of JSON; fields that are None are left out."""
    said = {name: value for name, value in fields.items() if value is not None}
    content = json.dumps(said, default=_text, ensure_ascii=False, separators=(",", ":")).encode()
    return {"content": content, "headers": {"Content-Type": "application/json"}}


def following(page: Any) -> str | None:
    """The cursor of the page after one; None after the last."""
    cursor: str | None = page.next if getattr(page, "has_more", True) else None
    return cursor


def append(command: Command, wait_s: float, *, is_written: bool) -> Call[OutcomeAnswer | AcceptedAnswer]:
    """Append a command, and wait some seconds for its outcome; one at least."""
    wait = max(min(ceil(wait_s), int(MOST_WAIT_S)), 1)
    call = _of_command(command, {200: OutcomeAnswer, 201: OutcomeAnswer, 202: AcceptedAnswer, 422: OutcomeAnswer})
    headers = {**call.headers, "Prefer": f"wait={wait}"}
    return replace(call, headers=headers, command=command, is_written=is_written, wait_s=float(wait))


def submit(command: Command) -> Call[AcceptedAnswer]:
    """Append a command, and don't wait for its outcome."""
    call = _of_command(command, {202: AcceptedAnswer})
    return replace(call, headers={**call.headers, "Prefer": "respond-async"}, command=command)


def preview(command: Command) -> Call[PreviewAnswer]:
    """What a command would come to, written nowhere."""
    return _of_command(command, {200: PreviewAnswer}).with_query(preview=True)


def outcome_at(command: Command, position: str, wait_s: float) -> Call[OutcomeAnswer | AcceptedAnswer]:
    """What became of a command's record, after some seconds at most."""
    wait_s = min(max(wait_s, 0.0), MOST_WAIT_S)
    return Call(
        "GET",
        command_path(command.account, command.command_id),
        {200: OutcomeAnswer, 202: AcceptedAnswer},
        {"at": position, "wait": wait_s},
        command=command,
        is_written=True,
        wait_s=wait_s,
    )


def _of_command(command: Command, answers: Mapping[int, Any]) -> Call[Any]:
    return Call(
        "POST",
        f"{path('/v1/accounts/{account}', account=command.account)}/{command.route}",
        answers,
        headers={"Idempotency-Key": command.command_id, "Content-Type": "application/json"},
        content=json.dumps(command.body(), ensure_ascii=False, separators=(",", ":")).encode(),
    )
