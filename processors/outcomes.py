"""From rows of the projection to Kafka messages, and back to the place in the log that a message is about. Pure.

Knows no Kafka client, no PostgreSQL, no clock. The records are those of schemas/, the headers are named here.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from creditfold.projections.outbox import DeadRow, JournalRow
from creditfold.schemas.dead_letters import REDRIVE_ATTEMPT
from creditfold.schemas.errors import CreditfoldError
from creditfold.schemas.position import InvalidPositionError, Position
from creditfold.schemas.registry import OUTCOMES, RECORDS
from creditfold.schemas.wire import DecodeError, decode, encode

#: As the client sends them, and as a reader gets them.
Headers: TypeAlias = list[tuple[str, str | bytes | None]]
ReadHeaders: TypeAlias = Sequence[tuple[str, bytes | None]]

#: On an outcome: the position of the command that it is about.
POSITION_HEADER = "creditfold-position"
#: On a dead letter: where its record is in the log, why it can't be folded, and how often it was tried.
TOPIC_HEADER = "creditfold-topic"
PARTITION_HEADER = "creditfold-partition"
OFFSET_HEADER = "creditfold-offset"
REASON_HEADER = "creditfold-reason"
DETAIL_HEADER = "creditfold-detail"
ATTEMPT_HEADER = "creditfold-attempt"
#: On a dead letter that the topic can't hold whole: how many bytes its record's value, its key, its headers had.
TRUNCATED_HEADER = "creditfold-truncated"
TRUNCATED_KEY_HEADER = "creditfold-truncated-key"
TRUNCATED_HEADERS_HEADER = "creditfold-truncated-headers"

#: What is kept of a value too large for the topic.
KEPT_BYTES = 65_536
# What is kept of the value and the key each where the rest is still too much.
_KEPT_AT_LEAST = 4_096
# More than what Kafka adds to a batch of one record and to each header (message format v2: 61 bytes, and varints).
_BATCH_BYTES = 128
_HEADER_BYTES = 10

_FIRST_ATTEMPT = b"1"
_MAX_ATTEMPT_DIGITS = 9


class UnknownKindError(CreditfoldError):
    """The journal holds a decision for which this code has no record."""


class Outgoing(NamedTuple):
    """A message without its topic and partition."""

    key: bytes | None
    value: bytes | None
    headers: Headers


class Outcome(NamedTuple):
    """A published outcome: the command's position, the record's short name, and its fields."""

    position: Position
    record: str
    fields: Mapping[str, Any]


def outcome_message(partition: int, row: JournalRow) -> Outgoing:
    """Make a decision's message."""
    fields: dict[str, Any] = {
        "log_partition": partition,
        "log_offset": row.log_offset,
        "account": row.account,
        "version": row.version,
        "command_id": row.command_id,
        "asset": row.asset,
        "amount": row.amount,
        "balance": row.balance,
        "rules": row.rules,
        "decided_at": row.decided_at_ms,
        "occurred_at": row.occurred_at_ms,
        "source": row.source,
        "reason": row.note,
    }
    if row.rejection is None:
        record = f"{row.kind.capitalize()}Accepted"
        if RECORDS.get(record) != OUTCOMES:
            raise UnknownKindError(
                f"There is no record for an accepted {row.kind}, as decided at {partition}:{row.log_offset}.",
                "Run a publisher of the version that the workers have.",
            )
    else:
        record = "Rejected"
        fields["kind"], fields["rejection"] = row.kind, row.rejection
    position = b"%d:%d" % (partition, row.log_offset)
    return Outgoing(row.account.encode(), encode(record, fields), [(POSITION_HEADER, position)])


def dead_letter_message(topic: str, partition: int, row: DeadRow, most_bytes: int) -> Outgoing:
    """Make a dead letter's message of at most so many bytes: the record as it was, our headers behind its own."""
    original = [_original_header(*pair) for pair in row.headers]
    about: Headers = [
        (TOPIC_HEADER, topic.encode()),
        (PARTITION_HEADER, b"%d" % partition),
        (OFFSET_HEADER, b"%d" % row.log_offset),
        (REASON_HEADER, row.reason.encode()),
        (DETAIL_HEADER, row.detail.encode()),
        (ATTEMPT_HEADER, _attempt(original)),
    ]
    return _fitted(Outgoing(row.key, row.value, [*original, *about]), original, about, most_bytes)


def _fitted(whole: Outgoing, original: ReadHeaders, about: Headers, most_bytes: int) -> Outgoing:
    if _size(whole) <= most_bytes:
        return whole
    key, value = whole.key or b"", whole.value or b""
    note: tuple[str, bytes] = (TRUNCATED_HEADER, b"%d" % len(value))
    cut = Outgoing(whole.key, value[:KEPT_BYTES], [*original, *about, note])
    if _size(cut) <= most_bytes:
        return cut
    more: Headers = [
        note,
        (TRUNCATED_KEY_HEADER, b"%d" % len(key)),
        (TRUNCATED_HEADERS_HEADER, b"%d" % _headers_size(original)),
    ]
    return Outgoing(key[:_KEPT_AT_LEAST], value[:_KEPT_AT_LEAST], [*about, *more])


def _size(message: Outgoing) -> int:
    return _BATCH_BYTES + len(message.key or b"") + len(message.value or b"") + _headers_size(message.headers)


def _headers_size(headers: Sequence[tuple[str, str | bytes | None]]) -> int:
    return sum(len(name.encode()) + len(value or b"") + _HEADER_BYTES for name, value in headers)


def _original_header(name: str | None, value: str | None) -> tuple[str, bytes | None]:
    # The projection keeps names escaped, because PostgreSQL takes no NUL. The client takes none either, nor a half of a
    # surrogate pair; such a name stays escaped.
    plain = (name or "").encode("ascii", "backslashreplace").decode("unicode_escape")
    sendable = not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in plain)
    return plain if sendable else name or "", None if value is None else base64.b64decode(value)


def _attempt(headers: ReadHeaders) -> bytes:
    value = _last(headers, REDRIVE_ATTEMPT) or b""
    return value if value.isdigit() and len(value) <= _MAX_ATTEMPT_DIGITS else _FIRST_ATTEMPT


def _last(headers: ReadHeaders, name: str) -> bytes | None:
    """The last header of a name, which is ours where a record brought one of the same name."""
    return next((value for own, value in reversed(headers) if own == name), None)


def read_outcome(value: bytes | None, headers: ReadHeaders, partition: int) -> Outcome | None:
    """Read a message of the outcomes topic's partition; None for what isn't ours, whatever it is."""
    try:
        position = Position.parse((_last(headers, POSITION_HEADER) or b"").decode("utf-8", "replace"))
        decoded = decode(value)
    except (InvalidPositionError, DecodeError):
        return None
    fields = decoded.fields
    if RECORDS[decoded.record] != OUTCOMES or position.partition != partition:
        return None
    # Header and record say the same, or it was made by somebody else.
    if (fields["log_partition"], fields["log_offset"]) != (position.partition, position.offset):
        return None
    return Outcome(position, decoded.record, fields)


def read_dead_letter(headers: ReadHeaders, topic: str, partition: int) -> Position | None:
    """Where in the log the record of a message of the dead-letters topic is; None for what isn't ours."""
    text = [(_last(headers, name) or b"").decode("utf-8", "replace") for name in (PARTITION_HEADER, OFFSET_HEADER)]
    if _last(headers, TOPIC_HEADER) != topic.encode():
        return None
    try:
        position = Position.parse(":".join(text))
    except InvalidPositionError:
        return None
    return position if position.partition == partition else None


def announces(outcome: Outcome, row: JournalRow | None) -> bool:
    """Tell whether a published outcome is of the decision in the journal, and not of another log's."""
    fields = outcome.fields
    return row is not None and (row.account, row.version, row.command_id, row.decided_at_ms, row.balance) == (
        fields["account"],
        fields["version"],
        fields["command_id"],
        fields["decided_at"],
        fields["balance"],
    )
