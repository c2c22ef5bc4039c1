"""From a partition's raw records to what is written for them. Pure: no Kafka client, no PostgreSQL, no clock."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeAlias

from aiokafka.partitioner import murmur2

from creditfold.ledger import COMMANDS, Book, Command, Entry, Verdict
from creditfold.ledger.limits import MAX_RECORD_BYTES
from creditfold.ledger.validity import check
from creditfold.projections.store import ChunkResult, DeadLetter, JournalLine
from creditfold.schemas.dead_letters import DeadLetterReason
from creditfold.schemas.wire import DecodeError, decode

#: Accounts whose partition is remembered instead of hashed again.
REMEMBERED_ACCOUNTS = 100_000

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


#: A record and what it holds: a valid command, or the dead letter to make of it.
Read: TypeAlias = tuple[Record, Command | DeadLetter]


def read_records(records: Iterable[Record], partition: int, partitions: int) -> list[Read]:
    """Decode and check records of one partition of a topic that has `partitions`."""
    return [(record, _read(record, partition, partitions)) for record in records]


def keys(reads: Iterable[Read]) -> Iterator[tuple[str, str]]:
    """Name the (account, command id) pairs that folding these reads can touch."""
    return ((content.account, content.command_id) for _, content in reads if not isinstance(content, DeadLetter))


def fold(reads: Iterable[Read], book: Book, next_offset: int) -> ChunkResult:
    """Fold reads into a book that holds every account and known id they can touch."""
    journal: list[JournalLine] = []
    dead_letters: list[DeadLetter] = []
    duplicates = 0
    for record, content in reads:
        book.advance(record.timestamp)
        if isinstance(content, DeadLetter):
            dead_letters.append(content)
            continue
        result = book.apply(content)
        if isinstance(result, Entry):
            journal.append((record.offset, result))
        elif result is Verdict.DUPLICATE:
            duplicates += 1
        else:
            detail = f"command id {content.command_id!a} of this account was decided before with another body"
            dead_letters.append(_dead(record, DeadLetterReason.COMMAND_ID_REUSED, detail))
    return ChunkResult(next_offset, book.clock_ms, journal, dead_letters, duplicates)


@lru_cache(maxsize=REMEMBERED_ACCOUNTS)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key by Kafka's default partitioner (murmur2, made positive, modulo)."""
    return int((murmur2(key) & 0x7FFF_FFFF) % partitions)


def _read(record: Record, partition: int, partitions: int) -> Command | DeadLetter:
    value = record.value
    if value and len(value) > MAX_RECORD_BYTES:
        return _dead(record, DeadLetterReason.OVERSIZE, f"{len(value)} bytes; a command has at most {MAX_RECORD_BYTES}")
    try:
        name, fields, _ = decode(value)
    except DecodeError as error:
        return _dead(record, error.reason, error.detail)
    if problem := check(name, fields):
        return _dead(record, DeadLetterReason.INVALID_COMMAND, problem)
    # The order of a schema's fields is that of its command's.
    command = COMMANDS[name]._make(fields.values())
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
