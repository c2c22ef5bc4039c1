"""The shapes of answers: JSON objects with names in snake_case, whole amounts, and instants of RFC 3339 in UTC.

Owns how a row of the projection or an outcome becomes an answer. Knows no route.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from functools import cache
from hashlib import blake2b
from typing import Any, Literal, Self, TypeVar

from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticUndefined

from creditfold.api.service import Reading
from creditfold.common.position import Position
from creditfold.common.spreadsheet import BYTE_ORDER_MARK, csv_line
from creditfold.schemas.outcome import CommandOutcome, Decision

M = TypeVar("M", bound="Answer")

Amount = int


class Answer(BaseModel):
    """An object of an answer."""

    model_config = ConfigDict(from_attributes=True, extra="ignore")

    @classmethod
    def made_of(cls, **values: Any) -> Self:
        """Make one of values that are right, as `model_construct` does, in less time; answers have no aliases."""
        made = cls.__new__(cls)
        own: dict[str, Any] = {}
        for name, default in _fields_of(cls):
            if name in values:
                own[name] = values[name]
            elif default is not PydanticUndefined:
                own[name] = default
        object.__setattr__(made, "__dict__", own)
        object.__setattr__(made, "__pydantic_fields_set__", own.keys() & values.keys())
        object.__setattr__(made, "__pydantic_extra__", None)
        object.__setattr__(made, "__pydantic_private__", None)
        return made


@cache
def _fields_of(kind: type[Answer]) -> list[tuple[str, Any]]:
    """The fields of an answer, each with what it is where it isn't given."""
    return [(name, field.default) for name, field in kind.model_fields.items()]


@cache
def _names_of(kind: type[BaseModel]) -> list[tuple[str, str]]:
    """The fields of an object, each with its name in JSON."""
    return [(name, field.serialization_alias or name) for name, field in kind.model_fields.items()]


class Allocation(Answer):
    """Credits of a lot that a command took or gave."""

    lot: str = Field(description="The command that made the lot.")
    lot_number: int
    source: str = Field(description="Where they were: a place in the lot, or a system account.")
    target: str = Field(description="Where they went.")
    amount: int


class DecisionAnswer(Answer):
    """A line of the journal: what was decided, and what the account had afterwards."""

    position: str = Field(description="Of the record that was decided, `partition:offset`.")
    account: str
    version: int = Field(description="The line's number within the account, from 1.")
    command_id: str | None
    kind: str
    asset: str
    amount: int
    change: int = Field(description="Of the available credits, signed.")
    available: int = Field(description="After the decision.")
    pending: int
    held: int
    debt: int
    accepted: bool
    rejection: str | None
    step: int | None = Field(description="Index of the step for which a batch was rejected, from 0.")
    rules: int
    decided_at: datetime
    occurred_at: datetime | None
    source: str | None
    reason: str | None
    details: dict[str, Any] | None
    facts: list[dict[str, Any]]
    allocations: list[Allocation]


class OutcomeAnswer(Answer):
    """What became of a command."""

    outcome: Literal["accepted", "rejected", "duplicate", "dead_letter"]
    command_id: str
    account: str
    position: str = Field(description="Of this record in the log, `partition:offset`.")
    accepted: bool = Field(description="Whether the command has taken effect, by this record or the first one.")
    reason: str | None
    decision: DecisionAnswer | None
    steps: list[DecisionAnswer]


class BalanceAnswer(Answer):
    """An account's credits of one asset, in its smallest unit."""

    asset: str
    available: int
    pending: int
    held: int
    debt: int
    credit_limit: int
    available_for_use: int | None = None
    version: int


class AcceptedAnswer(Answer):
    """A command that is in the log and isn't decided yet."""

    outcome: Literal["pending"] = "pending"
    command_id: str
    account: str
    position: str


def decision_of(line: Decision, *, is_personal: bool = True) -> DecisionAnswer:
    """The answer of a line of the journal; without what commands say in words where that isn't to be read."""
    fields = _decision_fields(line, is_personal=is_personal)
    fields["allocations"] = [Allocation.made_of(**move) for move in fields["allocations"]]
    return DecisionAnswer.made_of(**fields)


def _decision_fields(line: Decision, *, is_personal: bool) -> dict[str, Any]:
    return {
        "position": f"{line.log_partition}:{line.log_offset}",
        "account": line.account_id,
        "version": line.version,
        "command_id": line.command_id,
        "kind": line.kind,
        "asset": line.asset,
        "amount": line.amount,
        "change": line.change,
        "available": line.balance,
        "pending": line.pending,
        "held": line.held,
        "debt": line.debt,
        "accepted": line.accepted,
        "rejection": line.rejection,
        "step": line.step,
        "rules": line.rules,
        "decided_at": line.decided_at,
        "occurred_at": line.occurred_at,
        "source": line.source if is_personal else None,
        "reason": line.note if is_personal else None,
        "details": line.details if is_personal else None,
        "facts": list(line.facts),
        "allocations": list(_moves_of(line.facts)),
    }


def allocations_of(facts: Iterable[dict[str, Any]]) -> list[Allocation]:
    """The moves of a line's facts, lot by lot."""
    return [Allocation.made_of(**move) for move in _moves_of(facts)]


def _moves_of(facts: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for fact in facts:
        for lot, number, source, target, amount in fact.get("moves", ()):
            yield {"lot": lot, "lot_number": number, "source": source, "target": target, "amount": amount}


def outcome_of(outcome: CommandOutcome, account: str, command_id: str, *, is_personal: bool = True) -> OutcomeAnswer:
    """The answer of a command's outcome; without what commands say in words where that isn't to be read."""
    decision = None if outcome.decision is None else decision_of(outcome.decision, is_personal=is_personal)
    steps = [decision_of(step, is_personal=is_personal) for step in outcome.steps]
    return OutcomeAnswer.made_of(
        **{**_outcome_fields(outcome, account, command_id), "decision": decision, "steps": steps}
    )


def outcome_json(outcome: CommandOutcome, account: str, command_id: str) -> bytes:
    """What `outcome_of` is as JSON in UTF-8, for those who sent the command, in half the time."""
    found = _outcome_fields(outcome, account, command_id)
    if outcome.decision is not None:
        found["decision"] = _decision_fields(outcome.decision, is_personal=True)
    found["steps"] = [_decision_fields(step, is_personal=True) for step in outcome.steps]
    return as_json(found)


def _outcome_fields(outcome: CommandOutcome, account: str, command_id: str) -> dict[str, Any]:
    return {
        "outcome": outcome.kind.value,
        "command_id": command_id,
        "account": account,
        "position": str(outcome.position),
        "accepted": outcome.is_accepted,
        "reason": outcome.reason,
        "decision": None,
        "steps": [],
    }


#: What commands say in words, by the names of their fields.
_WORDS = frozenset({"source", "reason", "metadata", "note"})


def without_words(fields: Any) -> Any:
    """The fields of a record without what it says in words, which are None then; those of records within too."""
    if isinstance(fields, dict):
        return {name: None if name in _WORDS else without_words(value) for name, value in fields.items()}
    return [without_words(one) for one in fields] if isinstance(fields, list) else fields


def render(content: Answer | Sequence[Answer], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The response with an answer's JSON."""
    return Response(as_json(content), status, headers, "application/json")


def as_json(content: Any) -> bytes:
    """An answer as JSON in UTF-8."""
    return _JSON.encode(content).encode()


def _plain(value: Any) -> Any:
    """What JSON has in place of a value that it doesn't know."""
    if isinstance(value, BaseModel):
        own = vars(value)
        found = {shown: own.get(name) for name, shown in _names_of(type(value))}
        # A tuple to JSON, and so never asked for by itself.
        return {name: str(one) if isinstance(one, Position) else one for name, one in found.items()}
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"an answer has a {type(value).__name__}")


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain)

#: The media type of a table for a spreadsheet.
CSV = "text/csv; charset=utf-8"
#: What the documentation of a route says of it.
OR_CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


def csv(name: str, columns: Sequence[str], rows: Iterable[Sequence[object]], headers: dict[str, str]) -> Response:
    """The response with rows for a spreadsheet, which saves them under a name."""
    text = BYTE_ORDER_MARK + csv_line(columns) + "".join([csv_line(row) for row in rows])
    headers = {**headers, "Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(text.encode(), 200, headers, CSV)


def tag_of(content: bytes) -> str:
    """The ETag of an answer's content."""
    return f'"{blake2b(content, digest_size=12).hexdigest()}"'


def is_known(tag: str, if_none_match: str) -> bool:
    """Whether a client that sends the header If-None-Match has what an ETag is of."""
    return tag in (part.strip().removeprefix("W/") for part in if_none_match.split(","))


def rfc3339(moment: datetime) -> str:
    """An instant as answers have it: RFC 3339 in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def outcome_headers(outcome: CommandOutcome) -> dict[str, str]:
    """The headers that say where a command is, and by which generation's fold its outcome is known."""
    found = {"Creditfold-Position": str(outcome.position)}
    if outcome.generation is not None:
        found["Creditfold-Generation"] = str(outcome.generation)
    return found


def positions_header(positions: Iterable[Position]) -> dict[str, str]:
    """The header with a position of each partition, the last one there; none of no positions."""
    last = {position.partition: position for position in sorted(positions)}
    return {"Creditfold-Position": ",".join(map(str, last.values()))} if last else {}


def state_headers(reading: Reading) -> dict[str, str]:
    """The headers that say which state an answer reflects."""
    found = {"Creditfold-Generation": str(reading.generation)}
    if reading.position is not None:
        found["Creditfold-Position"] = str(reading.position)
    if reading.complete_to is not None:
        found["Creditfold-Complete-To"] = rfc3339(reading.complete_to)
    return found
