"""How a record of the log is shown, a dead letter too: its bytes, as text where that is safe, and what it says.

Anybody may have written it. So a text is shown as one only where each of its characters can be seen, and what a command
says in words is there only for who may read that. Knows no route.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from pydantic import Field

from creditfold.api.access import Caller
from creditfold.api.answers import Answer, DecisionAnswer, decision_of, without_words
from creditfold.api.parameters import cursor_of, place_of
from creditfold.api.problems import ProblemError
from creditfold.common.documents import as_json
from creditfold.common.instants import EPOCH, MAX_INSTANT, milliseconds_of
from creditfold.common.lookalikes import is_unseen
from creditfold.common.position import MAX_PARTITION, Position
from creditfold.processors.letters import LetterResult, UnknownLetterError, letter_at
from creditfold.producers.redrive import command_of
from creditfold.projections.queries import DeadLetterState, first_decision
from creditfold.projections.queries.decisions import letter_mended_by
from creditfold.schemas.dead_letters import DeadLetterReason


class BytesAnswer(Answer):
    """Bytes that anybody may have written."""

    size: int
    text: str | None = Field(description="Where they are UTF-8 of which every character can be seen.")
    base64: str


class HeaderAnswer(Answer):
    """A header of a record."""

    name: str = Field(description="What can't be seen is escaped.")
    value: BytesAnswer | None = Field(description="None too without the scope read:personal.")


def bytes_of(value: bytes | None) -> BytesAnswer | None:
    """Bytes as an answer has them."""
    if value is None:
        return None
    try:
        text: str | None = value.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and not _is_seen(text):
        text = None
    return BytesAnswer.model_construct(size=len(value), text=text, base64=base64.b64encode(value).decode())


def headers_of(headers: Iterable[tuple[str, bytes | None]], *, is_personal: bool) -> list[HeaderAnswer]:
    """A record's headers, their values for who may read what is personal."""
    return [
        HeaderAnswer.model_construct(name=_shown(name), value=bytes_of(value) if is_personal else None)
        for name, value in headers
    ]


def fields_of(fields: Mapping[str, Any] | None, *, is_personal: bool) -> dict[str, Any] | None:
    """What a record says, by its fields."""
    if fields is None:
        return None
    plain = as_json(fields)
    found: dict[str, Any] = plain if is_personal else without_words(plain)
    return found


def _is_seen(text: str) -> bool:
    return all(char.isprintable() and not is_unseen(char) for char in text)


def _shown(text: str) -> str:
    return "".join(char if _is_seen(char) else char.encode("unicode_escape").decode() for char in text)


class DeadLetterAnswer(Answer):
    """A record of the log that can't be folded, and what was decided about it."""

    position: str
    state: str = Field(description="open, redriving, redriven or discarded.")
    reason: str
    detail: str
    appended_at: datetime | None
    key: BytesAnswer | None
    value: BytesAnswer | None = Field(description="None too without the scope read:personal.")
    headers: list[HeaderAnswer]
    command: dict[str, Any] | None = Field(
        description="That it holds, valid or not. What it says in words is None without the scope read:personal."
    )
    decided_by: str | None
    decided_at: datetime | None
    why: str | None = Field(description="It was decided so.")
    corrected: bool | None
    to: str | None = Field(description="Position of the record that was appended in its place.")


class DeadLettersAnswer(Answer):
    """A page of dead letters, newest first."""

    dead_letters: list[DeadLetterAnswer]
    next: str | None = Field(description="The cursor of the next page; None after the last.")


class OneDeadLetterAnswer(DeadLetterAnswer):
    """A dead letter with what it is about."""

    mends: str | None = Field(description="Position of the dead letter that it was to mend.")
    first: DecisionAnswer | None = Field(description="Of a command_id_reused: what was decided under the id first.")


class LetterResultAnswer(Answer):
    """What became of a letter."""

    position: str
    reason: str
    result: str = Field(
        description="The outcome of what was appended: accepted, rejected, duplicate or dead_letter; not_folded_yet "
        "where it is in the log only; or discarded, refused, would_be_redriven, would_be_discarded."
    )
    to: str | None = Field(description="Position of the record that was appended.")
    detail: str
    remedy: str
    command: dict[str, Any] | None


class LetterResultsAnswer(Answer):
    """What became of the letters of a request, in the order in which they came."""

    results: list[LetterResultAnswer]
    has_more: bool = Field(description="Whether the filter finds more; the same request goes on with them.")


def result_answer(row: LetterResult, caller: Caller) -> LetterResultAnswer:
    """What became of a letter, as an answer."""
    return LetterResultAnswer.model_construct(
        position=str(row.position),
        reason=row.reason,
        result=row.result,
        to=None if row.to is None else str(row.to),
        detail=row.detail,
        remedy=over_http(row.remedy),
        command=fields_of(row.command, is_personal=is_personal_to(caller)),
    )


def letter_fields(row: DeadLetterState, caller: Caller) -> dict[str, Any]:
    """What a dead letter's answer has."""
    is_personal = is_personal_to(caller)
    headers = [(name or "", None if value is None else base64.b64decode(value)) for name, value in row.headers]
    return {
        "position": str(row.position),
        "state": row.state,
        "reason": row.reason,
        "detail": row.detail,
        "appended_at": row.appended_at,
        "key": bytes_of(row.key),
        "value": bytes_of(row.value) if is_personal else None,
        "headers": headers_of(headers, is_personal=is_personal),
        "command": fields_of(command_of(row.value), is_personal=is_personal),
        "decided_by": row.decided_by,
        "decided_at": row.decided_at,
        "why": row.note,
        "corrected": row.corrected,
        "to": None if row.to is None else str(row.to),
    }


def page_of(found: Sequence[DeadLetterState], limit: int, caller: Caller) -> DeadLettersAnswer:
    """The answer of a page of which one letter more was read, with the cursor of the next one."""
    page = found[:limit]
    return DeadLettersAnswer.model_construct(
        dead_letters=[DeadLetterAnswer.model_construct(**letter_fields(row, caller)) for row in page],
        next=_cursor_of(page[-1]) if len(found) > limit else None,
    )


def one_letter(connection: Connection[Any], position: Position, caller: Caller) -> OneDeadLetterAnswer:
    """The dead letter at a position. Raises ProblemError where there is none."""
    try:
        row = letter_at(connection, position)
    except UnknownLetterError as error:
        raise unknown_letter(error) from None
    answer = OneDeadLetterAnswer.model_construct(**letter_fields(row, caller))
    mends = letter_mended_by(connection, position)
    answer.mends = None if mends is None else str(mends.of)
    answer.first = _first_of(connection, row, caller)
    return answer


def unknown_letter(error: UnknownLetterError) -> ProblemError:
    """The problem of a position at which no dead letter is."""
    return ProblemError(404, "dead_letter_unknown", error.message, "GET /v1/dead-letters lists those there are.")


def _first_of(connection: Connection[Any], row: DeadLetterState, caller: Caller) -> DecisionAnswer | None:
    command = command_of(row.value)
    if row.reason != DeadLetterReason.COMMAND_ID_REUSED or command is None:
        return None
    line = first_decision(connection, command["account"], command["command_id"])
    return None if line is None else decision_of(line, is_personal=is_personal_to(caller))


def _cursor_of(row: DeadLetterState) -> str:
    # 0 stands for an instant that isn't known.
    at = 0 if row.appended_at is None else milliseconds_of(row.appended_at) + 1
    return cursor_of("dead-letters", (at, *row.position))


def letter_behind(cursor: str | None) -> tuple[datetime | None, Position] | None:
    """The dead letter behind which a page begins: when it was appended, and where it is. Raises ProblemError."""
    if cursor is None:
        return None
    at, partition, offset = place_of("dead-letters", cursor, (0, 0, 0))
    if at > MAX_INSTANT + 1 or partition > MAX_PARTITION:
        raise ProblemError(400, "invalid_cursor", "The cursor isn't one of this route.", "Take it from `next`.")
    return EPOCH + timedelta(milliseconds=at - 1) if at else None, Position(partition, offset)


def is_personal_to(caller: Caller) -> bool:
    """Whether a caller may read what commands say in words."""
    return "read:personal" in caller.scopes


# What a remedy names of the command line, and what stands for it here.
_OVER_HTTP = (
    (re.compile(r"creditfold dead-letters show (\S+)"), r"GET /v1/dead-letters/\1"),
    (re.compile(r"creditfold dead-letters discard (\S+) --why copy"), r"POST /v1/dead-letters:discard"),
    (re.compile(r"--set command_id=NEW-ID"), '"fields": {"command_id": ...}'),
    (re.compile(r"each field by --set FIELD=VALUE"), "fields"),
    (re.compile(r"--set FIELD=VALUE"), "fields"),
    (re.compile(r"--command JSON"), "command"),
    (re.compile(r"--type TYPE"), "type"),
    (re.compile(r"add --yes"), '"confirmed": true'),
)


def over_http(remedy: str) -> str:
    """A remedy of the command line as one of a request."""
    for pattern, instead in _OVER_HTTP:
        remedy = pattern.sub(instead, remedy)
    return remedy
