"""From rows of the projection to Kafka messages, and back to the place in the log that a message is about. Pure.

Knows no Kafka client, no PostgreSQL, no clock. The records are those of schemas/, the headers are named here.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

from creditfold.common.errors import CreditfoldError
from creditfold.common.position import InvalidPositionError, Position
from creditfold.common.trace_context import TRACEPARENT
from creditfold.ledger import KINDS
from creditfold.ledger.book import SETTLED
from creditfold.projections.queries.windows import DeadRow, JournalRow, Place
from creditfold.schemas.dead_letters import REDRIVE_ATTEMPT
from creditfold.schemas.registry import OUTCOMES, RECORDS
from creditfold.schemas.wire import DecodeError, decode, encode

__all__ = ["Outcome", "PublishedLetter", "read_dead_letter", "read_outcome"]

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
#: On an outcome that the topic can't hold whole: how many of its facts' moves, bytes of its details, and facts were
#: left out.
TRUNCATED_MOVES_HEADER = "creditfold-truncated-moves"
TRUNCATED_DETAILS_HEADER = "creditfold-truncated-details"
TRUNCATED_FACTS_HEADER = "creditfold-truncated-facts"

#: The largest batch that a topic takes by Kafka's own default.
DEFAULT_MESSAGE_BYTES = 1_048_588
#: What is kept of a value too large for the topic.
KEPT_BYTES = 65_536
# What is kept of the value and the key each where the rest is still too much.
_KEPT_AT_LEAST = 4_096
# More than what Kafka adds to a batch of one record and to each header (message format v2: 61 bytes, and varints).
_BATCH_BYTES = 128
_HEADER_BYTES = 10

_FIRST_ATTEMPT = b"1"
_MAX_DIGITS = 9


class UnknownKindError(CreditfoldError):
    """The journal holds a decision for which this code has no record."""


class Outgoing(NamedTuple):
    """A message without its topic and partition."""

    key: bytes | None
    value: bytes | None
    headers: Headers


class Outcome(NamedTuple):
    """A published outcome: its position in the log, the record's short name, and its fields.

    `left_out` has the number of what the topic had no room for, by "moves", "details" (in bytes) and "facts".
    """

    position: Position
    record: str
    fields: Mapping[str, Any]
    left_out: Mapping[str, int] = {}

    @property
    def place(self) -> Place:
        """The place behind the journal's row that this is of."""
        return Place(self.position.offset, self.fields["account"], self.fields["version"])


def outcome_message(
    partition: int, row: JournalRow, most_bytes: int = DEFAULT_MESSAGE_BYTES, traceparent: str | None = None
) -> Outgoing:
    """A row's message for the outcomes topic.

    What has no room is left out, and a header has how much that is: the facts' moves first, then the command's details,
    then the facts. All of it stands in the journal too.

    Args:
        partition: of the command topic, and of the outcomes topic.
        row: of the journal.
        most_bytes: the largest message, in bytes, that the topic takes.
        traceparent: the context of a trace that it carries, in the header of that name.

    Returns:
        The message. It is larger than `most_bytes` only where nothing more can be left out.

    Raises:
        UnknownKindError: the row holds a decision for which this release has no record.
    """
    record, fields = _record_of(partition, row), _fields_of(partition, row)
    headers: Headers = [(POSITION_HEADER, b"%d:%d" % (partition, row.log_offset))]
    if traceparent is not None:
        headers.append((TRACEPARENT, traceparent.encode()))
    whole = Outgoing(row.account.encode(), encode(record, fields), headers)
    if _size(whole) <= most_bytes:
        return whole
    for name, count in _left_out_in_turn(fields):
        headers = [*headers, (name, b"%d" % count)]
        cut = whole._replace(value=encode(record, fields), headers=headers)
        if _size(cut) <= most_bytes:
            return cut
    # Nothing more can be left out. Whether the broker takes it, it decides.
    return whole._replace(value=encode(record, fields), headers=headers)


def _record_of(partition: int, row: JournalRow) -> str:
    if row.rejection is not None:
        return "Rejected"
    if row.kind not in _KINDS:
        raise UnknownKindError(
            f"There is no record for an accepted {row.kind}, as decided at {partition}:{row.log_offset}.",
            "Run a publisher of the version that the workers have.",
        )
    return "Settled" if row.kind == SETTLED else "CommandAccepted"


_KINDS = {*KINDS.values(), SETTLED}


def _fields_of(partition: int, row: JournalRow) -> dict[str, Any]:
    """The fields of any record of ours; each takes those that it has."""
    fields: dict[str, Any] = {
        "log_partition": partition,
        "log_offset": row.log_offset,
        "account": row.account,
        "version": row.version,
        "command_id": row.command_id or "",
        "kind": row.kind,
        "asset": row.asset,
        "amount": row.amount,
        "balance": row.balance,
        "rules": row.rules,
        "decided_at": row.decided_at_ms,
        "occurred_at": row.occurred_at_ms,
        "source": row.source,
        "reason": row.note,
        "pending": row.pending,
        "held": row.held,
        "debt": row.debt,
        "change": row.change,
        "details": row.details or "",
        "step": -1 if row.step is None else row.step,
        "facts": [_fact(fact) for fact in json.loads(row.facts)],
    }
    if row.rejection is not None:
        fields["rejection"] = row.rejection
    return fields


def _fact(fact: dict[str, Any]) -> dict[str, Any]:
    """A fact as the records have it. Its asset is its row's, as `facts_as_json` has it."""
    moves = [dict(zip(_MOVE, move, strict=True)) for move in fact.get("moves", ())]
    own = {name: fact[name] for name in ("kind", "at", "ref", "detail") if name in fact}
    return {**own, "moves": moves, **fact.get("terms", {})}


_MOVE = ("lot", "number", "source", "target", "amount")


def _left_out_in_turn(fields: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Take each part out of the fields in turn; yields the header that says so, and how much there was."""
    facts = fields.get("facts", ())
    if moves := sum(len(fact["moves"]) for fact in facts):
        fields["facts"] = [{**fact, "moves": []} for fact in facts]
        yield TRUNCATED_MOVES_HEADER, moves
    if details := len(fields.get("details", "").encode()):
        fields["details"] = ""
        yield TRUNCATED_DETAILS_HEADER, details
    if facts:
        fields["facts"] = []
        yield TRUNCATED_FACTS_HEADER, len(facts)


def dead_letter_message(topic: str, partition: int, row: DeadRow, most_bytes: int) -> Outgoing:
    """A dead letter's message for its topic: the record as it was, our headers behind its own.

    Args:
        topic: the command topic that holds the record.
        partition: of that topic.
        row: the dead letter.
        most_bytes: the largest message, in bytes; of a larger record the first bytes of the value are published, and if
            need be of the key, without the record's own headers. Headers have how much there was.
    """
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
    return value if _is_count(value) else _FIRST_ATTEMPT


def _is_count(value: bytes) -> bool:
    return value.isdigit() and len(value) <= _MAX_DIGITS


def _last(headers: ReadHeaders, name: str) -> bytes | None:
    """The last header of a name, which is ours where a record brought one of the same name."""
    return next((value for own, value in reversed(headers) if own == name), None)


def read_outcome(value: bytes | None, headers: ReadHeaders, partition: int) -> Outcome | None:
    """Read a message of the outcomes topic.

    Args:
        value: the message's value.
        headers: its headers, as confluent-kafka gives them.
        partition: where it was read.

    Returns:
        The outcome; None for what isn't one of a publisher's, whatever it is.

    Example:
        >>> read_outcome(b"of somebody else", [], partition=0) is None
        True
    """
    try:
        position = Position.parse((_last(headers, POSITION_HEADER) or b"").decode("utf-8", "replace"))
        decoded = decode(value)
    except (InvalidPositionError, DecodeError):
        return None
    fields = decoded.fields
    if RECORDS[decoded.record] != OUTCOMES or position.partition != partition:
        return None
    # Header and record name one position, or somebody else made it.
    if (fields["log_partition"], fields["log_offset"]) != (position.partition, position.offset):
        return None
    return Outcome(position, decoded.record, fields, _left_out(headers))


def _left_out(headers: ReadHeaders) -> dict[str, int]:
    found = {part: _last(headers, name) for part, name in _PARTS.items()}
    return {part: int(count) for part, count in found.items() if count is not None and _is_count(count)}


_PARTS = {"moves": TRUNCATED_MOVES_HEADER, "details": TRUNCATED_DETAILS_HEADER, "facts": TRUNCATED_FACTS_HEADER}


class PublishedLetter(NamedTuple):
    """A published dead letter: its log's topic at that time, its record's position, and the record's digest."""

    topic: bytes
    position: Position
    digest: bytes


def read_dead_letter(
    key: bytes | None, value: bytes | None, headers: ReadHeaders, partition: int
) -> PublishedLetter | None:
    """Read a message of the dead-letters topic.

    Args:
        key: the message's key.
        value: its value.
        headers: its headers, as confluent-kafka gives them.
        partition: where it was read.

    Returns:
        The log and the position of the record that can't be folded; None for what isn't of a publisher.

    Example:
        >>> headers = [
        ...     ("creditfold-topic", b"creditfold.commands.v1"),
        ...     ("creditfold-partition", b"3"),
        ...     ("creditfold-offset", b"1042"),
        ... ]
        >>> str(read_dead_letter(b"ada", b"", headers, partition=3).position)
        '3:1042'
    """
    # Ours are behind the record's own, which may have any names.
    begin = max((place for place, (name, _) in enumerate(headers) if name == TOPIC_HEADER), default=len(headers))
    ours = dict(headers[begin:])
    text = [(ours.get(name) or b"").decode("utf-8", "replace") for name in (PARTITION_HEADER, OFFSET_HEADER)]
    try:
        position = Position.parse(":".join(text))
    except InvalidPositionError:
        return None
    sizes = [_whole_size(content, ours.get(name)) for content, name in ((key, _CUT_KEY), (value, _CUT_VALUE))]
    digest = _record_digest((key, sizes[0]), (value, sizes[1]))
    return PublishedLetter(ours.get(TOPIC_HEADER) or b"", position, digest) if position.partition == partition else None


_CUT_KEY, _CUT_VALUE = TRUNCATED_KEY_HEADER, TRUNCATED_HEADER


def _whole_size(content: bytes | None, said: bytes | None) -> int:
    """How many bytes a record's key or value had, of which a message may hold the first only."""
    return int(said) if said is not None and _is_count(said) else len(content or b"")


def letter_digest(row: DeadRow) -> bytes:
    """The digest of a dead letter's record, however it was published: another record at its place has another one."""
    return _record_digest((row.key, len(row.key or b"")), (row.value, len(row.value or b"")))


def _record_digest(*parts: tuple[bytes | None, int]) -> bytes:
    """The digest of a key and a value, each with its size: of what is published of either in any case."""
    digest = blake2b(digest_size=16)
    for content, size in parts:
        digest.update(b"%d:" % size + (content or b"")[:_KEPT_AT_LEAST])
    return digest.digest()


def announces(outcome: Outcome, row: JournalRow | None) -> bool:
    """Whether a published outcome is of the row in the journal, and not of another log's."""
    if row is None or (row.kind == SETTLED) != (outcome.record == "Settled"):
        return False
    published = {"command_id": "", **outcome.fields}
    names = ("account", "version", "command_id", "decided_at", "balance", "pending", "held", "debt")
    stored = (row.account, row.version, row.command_id or "", row.decided_at_ms, row.balance)
    return tuple(published[name] for name in names) == (*stored, row.pending, row.held, row.debt)
