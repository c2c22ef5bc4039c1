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


class Record(Protocol):
    """What a Kafka client's record has. `timestamp` is in milliseconds UTC."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


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
        name, fields = decode(value)
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
    # PostgreSQL takes no NUL in text, and a name of a header may hold any character at all.
    headers = [
        (name.encode("unicode_escape").decode(), None if value is None else base64.b64encode(value).decode())
        for name, value in record.headers
    ]
    text = detail.encode("ascii", "backslashreplace").decode().replace("\0", "\\0")
    return DeadLetter(record.offset, reason, text, record.timestamp, record.key, record.value, headers)
