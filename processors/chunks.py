"""From a partition's raw records to what is written for them. Pure: no Kafka client, no PostgreSQL, no clock."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, TypeAlias

from confluent_kafka import murmur2

from creditfold.ledger import COMMANDS, FIRST_RULES, ActivateRules, Book, Command, Entry, Verdict
from creditfold.ledger.limits import MAX_REASON, MAX_RECORD_BYTES, MAX_RULES, MAX_SOURCE
from creditfold.ledger.validity import check
from creditfold.projections.results import Activation, ChunkResult, DeadLetter, JournalLine, Redrive
from creditfold.schemas.dead_letters import REDRIVE_BY, REDRIVE_OF, REDRIVE_WHY, DeadLetterReason
from creditfold.schemas.position import InvalidPositionError, Position
from creditfold.schemas.wire import DecodeError, decode

#: Accounts whose partition is remembered instead of hashed again.
REMEMBERED_ACCOUNTS = 100_000

#: Rules that will never be: schemas of records that are no commands.
NEVER = MAX_RULES + 1

#: A dead letter over this keeps only the start of its key and value; PostgreSQL refuses a field of 256 MB.
MAX_DEAD_BYTES = 16 * 2**20
KEPT_BYTES = 65_536


class Record(Protocol):
    """What a Kafka client's record has. `timestamp` is in milliseconds UTC."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Chunk(NamedTuple):
    """Consecutive records of one partition, from offset `start` to before `end`; offsets may have holes.

    `epoch` is that of the claim under which they were fetched: after a later claim they are void.
    """

    partition: int
    epoch: int
    start: int
    end: int
    records: Sequence[Record]


#: What a record holds: a valid command, a control record, or the dead letter to make of it.
Content: TypeAlias = Command | ActivateRules | DeadLetter


class Later(NamedTuple):
    """What a record holds for the rules from version `rules` on. Older ones don't know its schema."""

    rules: int
    schema_id: int
    content: Content


#: A record and what it holds, which may hang on the rules in force.
Read: TypeAlias = tuple[Record, Content | Later]


def read_records(records: Iterable[Record], partition: int, partitions: int) -> list[Read]:
    """Decode and check records of one partition of a topic that has `partitions`."""
    return [(record, _read(record, partition, partitions)) for record in records]


def keys(reads: Iterable[Read]) -> Iterator[tuple[str, str]]:
    """Name the (account, command id) pairs that folding these reads can touch."""
    for _, content in reads:
        command = content.content if isinstance(content, Later) else content
        if not isinstance(command, DeadLetter | ActivateRules):
            yield command.account, command.command_id


def fold(reads: Iterable[Read], book: Book, next_offset: int) -> ChunkResult:
    """Fold reads into a book that holds every account and known id they can touch. Raises UnknownRulesError."""
    journal: list[JournalLine] = []
    dead_letters: list[DeadLetter] = []
    activations: list[Activation] = []
    redrives: list[Redrive] = []
    duplicates = 0
    for record, content in reads:
        if record.timestamp > book.clock_ms:
            book.advance(record.timestamp)
        if record.headers and (redrive := _redrive(record)) is not None:
            redrives.append(redrive)
        # Nearly all are plain commands, which are told by their class without looking at the other kinds.
        outcome = _applied(record, content, book) if content.__class__ in _PLAIN else _uncommon(record, content, book)
        if outcome.__class__ is Entry:
            journal.append((record.offset, outcome))
        elif isinstance(outcome, DeadLetter):
            dead_letters.append(outcome)
        elif isinstance(outcome, Activation):
            activations.append(outcome)
        else:
            duplicates += 1
    return ChunkResult(next_offset, book.clock_ms, book.rules, journal, dead_letters, activations, redrives, duplicates)


_PLAIN = frozenset(COMMANDS.values())


def _applied(record: Record, command: Any, book: Book) -> Entry | DeadLetter | Verdict:
    outcome = book.apply(command)
    if outcome is not Verdict.COMMAND_ID_REUSED:
        return outcome
    detail = f"command id {command.command_id!a} of this account was decided before with another body"
    return _dead(record, DeadLetterReason.COMMAND_ID_REUSED, detail)


def _uncommon(record: Record, content: Content | Later, book: Book) -> Entry | DeadLetter | Activation | Verdict:
    """What becomes of a record that is no plain command."""
    if isinstance(content, Later):
        if content.rules > book.rules:
            detail = f"schema id {content.schema_id} comes with rules {content.rules}; in force are rules {book.rules}"
            return _dead(record, DeadLetterReason.UNKNOWN_SCHEMA_ID, detail)
        content = content.content
    if isinstance(content, DeadLetter):
        return content
    if isinstance(content, ActivateRules):
        return _activated(record, content, book)
    return _applied(record, content, book)


def _activated(record: Record, wanted: ActivateRules, book: Book) -> Activation | DeadLetter | Verdict:
    before = book.rules
    verdict = book.activate(wanted.rules)
    if verdict is None:
        origin = (wanted.command_id, wanted.occurred_at, wanted.source, wanted.reason)
        return Activation(record.offset, wanted.rules, book.clock_ms, *origin)
    if verdict is Verdict.RULES_NOT_NEWER:
        detail = f"rules {wanted.rules} are older than those in force, {before}"
        return _dead(record, DeadLetterReason.RULES_NOT_NEWER, detail)
    return verdict


def _redrive(record: Record) -> Redrive | None:
    """What a record's headers say of the dead letter that it mends; None where they say nothing that can be read."""
    headers = {name: value or b"" for name, value in record.headers}
    with suppress(InvalidPositionError):
        of = Position.parse(headers.get(REDRIVE_OF, b"").decode("ascii", "replace"))
        by, why = (_note(headers.get(name)) for name in (REDRIVE_BY, REDRIVE_WHY))
        return Redrive(record.offset, of, by[:MAX_SOURCE], why[:MAX_REASON])
    return None


def _note(data: bytes | None) -> str:
    # PostgreSQL takes no NUL in text.
    return (data or b"").decode("utf-8", "replace").replace("\0", "")


@lru_cache(maxsize=REMEMBERED_ACCOUNTS)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key by Kafka's default partitioner (murmur2, made positive, modulo)."""
    return int(murmur2(key, partitions))


def _read(record: Record, partition: int, partitions: int) -> Content | Later:
    value = record.value
    if value and len(value) > MAX_RECORD_BYTES:
        return _dead(record, DeadLetterReason.OVERSIZE, f"{len(value)} bytes; a command has at most {MAX_RECORD_BYTES}")
    content: Content
    try:
        name, values, rules = decode(value)
        content = _command(record, name, values, partition, partitions)
    except DecodeError as error:
        content, rules = _dead(record, error.reason, error.detail), error.rules
    if rules == FIRST_RULES:
        return content
    schema_id = int.from_bytes((value or b"")[1:5], "big")
    return Later(rules or NEVER, schema_id, content)


def _command(record: Record, name: str, values: tuple[Any, ...], partition: int, partitions: int) -> Content:
    if problem := check(name, values):
        return _dead(record, DeadLetterReason.INVALID_COMMAND, problem)
    # The order of a schema's fields is that of its command's.
    if name == "ActivateRules":
        if record.key is not None:
            return _dead(record, DeadLetterReason.KEY_MISMATCH, "a control record has no key")
        return ActivateRules._make(values)
    # As _make(values), which counts them again.
    command = tuple.__new__(COMMANDS[name], values)
    key = command.account.encode()
    if record.key != key:
        return _dead(record, DeadLetterReason.KEY_MISMATCH, f"the record's key is not its account {command.account!a}")
    if (right := partition_of(key, partitions)) != partition:
        # Such an account would live in two partitions, be folded by two workers, and spend its credits in both.
        detail = f"account {command.account!a} belongs in partition {right}; use Kafka's murmur2 partitioner"
        return _dead(record, DeadLetterReason.WRONG_PARTITION, detail)
    return command


def _dead(record: Record, reason: DeadLetterReason, detail: str) -> DeadLetter:
    key, value, headers = record.key, record.value, _headers(record)
    if (
        len(key or b"") + len(value or b"") + sum(len(name) + len(text or "") for name, text in headers)
        > MAX_DEAD_BYTES
    ):
        key, value, headers = (key or b"")[:KEPT_BYTES], (value or b"")[:KEPT_BYTES], []
        detail += f"; only the first {KEPT_BYTES} bytes of key and value are kept here, the log has the whole record"
    # PostgreSQL takes no NUL in text.
    text = detail.encode("ascii", "backslashreplace").decode().replace("\0", "\\0")
    return DeadLetter(record.offset, reason, text, record.timestamp, key, value, headers)


def _headers(record: Record) -> list[tuple[str, str | None]]:
    # The name of a header may hold any character at all, and one that PostgreSQL doesn't take.
    return [
        (name.encode("unicode_escape").decode(), None if value is None else base64.b64encode(value).decode())
        for name, value in record.headers
    ]
