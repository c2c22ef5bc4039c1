"""From a partition's raw records to what is written for them. Pure: no Kafka client, no PostgreSQL, no clock."""

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from math import inf
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from creditfold.common.position import InvalidPositionError, Position
from creditfold.ledger import (
    KINDS,
    RULES,
    ActivateRules,
    Batch,
    Command,
    CreditBook,
    CreditEntry,
    Tick,
    Verdict,
)
from creditfold.ledger.commands import ReceiveTransfer, Transfer
from creditfold.ledger.facts import Accepted, CreditOutcome
from creditfold.ledger.limits import (
    MAX_REASON,
    MAX_RECORD_BYTES,
    MAX_RULES,
    MAX_SEARCHABLE_VALUE,
    MAX_SOURCE,
    MAX_TRANSFER_BYTES,
    is_id,
)
from creditfold.ledger.validity import command_or_problem
from creditfold.log.partitioner import partition_of
from creditfold.projections.store.results import (
    Activation,
    ChunkResult,
    DeadLetter,
    Decision,
    JournalLine,
    MetadataRow,
    Redrive,
)
from creditfold.schemas.dead_letters import REDRIVE_BY, REDRIVE_OF, REDRIVE_WHY, DeadLetterReason
from creditfold.schemas.registry import load_lock
from creditfold.schemas.wire import DecodeError, decode_values

#: Rules that will never be: schemas of records that are no commands.
NEVER: Final = MAX_RULES + 1

#: A dead letter over this keeps only the start of its key and value; PostgreSQL refuses a field of 256 MB.
MAX_DEAD_BYTES: Final = 16 * 2**20
KEPT_BYTES: Final = 65_536


class Record(Protocol):
    """What a Kafka client's record has. `timestamp` is in milliseconds UTC."""

    @property
    def offset(self) -> int:
        """Its place in its partition."""

    @property
    def timestamp(self) -> int:
        """When the broker appended it, in milliseconds since 1970 UTC."""

    @property
    def key(self) -> bytes | None:
        """The account, in UTF-8, of a valid command."""

    @property
    def value(self) -> bytes | None:
        """The framed Avro record."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Name and value of each, in order."""


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
Content: TypeAlias = Command | ActivateRules | Tick | DeadLetter


class Later(NamedTuple):
    """What a record holds for the rules from version `rules` on. Older ones don't know its schema."""

    rules: int
    schema_id: int
    content: Content


class Unread(Protocol):
    """A plain command that stays encoded in its record, for the fast path (fast.py)."""

    @property
    def is_slow(self) -> bool:
        """Whether it is folded by Python after all."""


#: A record and what it holds, which may hang on the rules in force.
Read: TypeAlias = tuple[Record, Content | Later | Unread]


def read_records(records: Iterable[Record], partition: int, partitions: int) -> list[Read]:
    """Decode and check records of one partition of a topic that has `partitions`."""
    return [(record, read_one(record, partition, partitions)) for record in records]


def commands(reads: Iterable[Read]) -> Iterator[Command]:
    """The commands among reads."""
    for read in reads:
        command: Any = held(read)
        if type(command) in KINDS:
            yield command


def has_transfers(reads: Iterable[Read]) -> bool:
    """Whether a transfer is sent or arrives among reads."""
    return any(isinstance(held(read), _TRANSFERS) for read in reads)


_TRANSFERS = (Transfer, ReceiveTransfer)


def keys(coming: Iterable[Command]) -> list[tuple[str, str]]:
    """The (account, command id) pairs that folding these commands can touch."""
    found: list[tuple[str, str]] = []
    for command in coming:
        account = command.account
        found.append((account, command.command_id))
        if type(command) is Batch:
            found += [(account, step.command_id) for step in command.steps]
    return found


def controls(reads: Sequence[Read]) -> list[int]:
    """Where among reads the control records are."""
    return [at for at, read in enumerate(reads) if type(read[1]) in _MAY_CONTROL and is_control(held(read))]


_CONTROLS = (Tick, ActivateRules)
_MAY_CONTROL: Final[tuple[type, ...]] = (Tick, ActivateRules, Later)


def is_control(content: Any) -> bool:
    """Whether content is that of a control record."""
    return isinstance(content, _CONTROLS)


def held(read: Read) -> Any:
    """What a read's record holds, under whatever rules."""
    content = read[1]
    return content.content if isinstance(content, Later) else content


class _Fold:
    """What becomes of reads, one after the other; `searchable` are the keys of metadata that are kept of them."""

    def __init__(self, book: CreditBook, searchable: Collection[str] = ()) -> None:
        self.book = book
        self.searchable = searchable
        self.metadata: list[MetadataRow] = []
        self.journal: list[JournalLine] = []
        self.dead_letters: list[DeadLetter] = []
        self.activations: list[Activation] = []
        self.redrives: list[Redrive] = []
        self.decisions: dict[Decision, int] = {}
        self.duplicates = self.ticks = 0
        #: What was made so far, as `weight` counts it.
        self.made = 0

    def add(self, record: Record, content: Any) -> None:
        """Fold one read, whose content is no Unread."""
        book = self.book
        if record.timestamp > book.clock_ms:
            book.advance(record.timestamp)
        if record.headers and (redrive := _redrive(record)) is not None:
            self.redrives.append(redrive)
        # Nearly all are commands, which are recognized by their class before anything else is looked at.
        if type(content) not in KINDS:
            if isinstance(content, Later):
                if content.rules > book.rules:
                    detail = f"schema id {content.schema_id} comes with rules {content.rules}"
                    detail += f"; in force are rules {book.rules}"
                    self.dead_letters.append(_dead(record, DeadLetterReason.UNKNOWN_SCHEMA_ID, detail))
                    return
                content = content.content
            if isinstance(content, DeadLetter):
                self.dead_letters.append(content)
                return
            if isinstance(content, ActivateRules):
                self._activate(record, content)
                return
            if isinstance(content, Tick):
                self._tick(record, content)
                return
        outcome = book.apply(content, record.offset)
        if isinstance(outcome, Verdict):
            self._refuse(record, content, outcome)
        else:
            self._take(record, content, outcome)

    def _take(self, record: Record, command: Command, outcome: CreditOutcome) -> None:
        if self.searchable:
            # Those that the ledger itself appends have none.
            said: Mapping[str, str] = getattr(command, "metadata", {})
            self.metadata += metadata_rows(record.offset, command.account, said, self.searchable)
        offset: int = record.offset
        for entry in outcome.entries:
            self.journal.append((offset, entry))
        self.made += weight(outcome.entries)
        decision = KINDS[type(command)], "" if isinstance(outcome, Accepted) else str(outcome.reason)
        self.decisions[decision] = self.decisions.get(decision, 0) + 1

    def _refuse(self, record: Record, command: Command, verdict: Verdict) -> None:
        if verdict is Verdict.COMMAND_ID_REUSED:
            named = f"command id {command.command_id!a} of this account"
            if type(command) is Batch:
                named += ", or that of one of its steps,"
            detail = f"{named} was decided before with another body"
            self.dead_letters.append(_dead(record, DeadLetterReason.COMMAND_ID_REUSED, detail))
        else:
            self.duplicates += 1

    def _activate(self, record: Record, wanted: ActivateRules) -> None:
        verdict = self.book.activate(wanted.rules)
        if verdict is None:
            origin = (wanted.command_id, wanted.occurred_at, wanted.source, wanted.reason)
            self.activations.append(Activation(record.offset, wanted.rules, self.book.clock_ms, *origin))
        elif verdict is Verdict.RULES_NOT_NEWER:
            detail = f"rules {wanted.rules} are older than those in force, {self.book.rules}"
            self.dead_letters.append(_dead(record, DeadLetterReason.RULES_NOT_NEWER, detail))
        else:
            self.duplicates += 1

    def _tick(self, record: Record, tick: Tick) -> None:
        entries = self.book.tick(tick.minute, record.offset)
        if entries is Verdict.TICK_AHEAD:
            detail = f"minute {tick.minute} is more than a day ahead of the log's clock"
            self.dead_letters.append(_dead(record, DeadLetterReason.INVALID_COMMAND, detail))
            return
        if isinstance(entries, Verdict):
            self.duplicates += 1
            return
        self.ticks += 1
        self.journal += [(record.offset, entry) for entry in entries]
        self.made += weight(entries)

    def result(self, next_offset: int) -> ChunkResult:
        """All that it came to."""
        book = self.book
        return ChunkResult(
            next_offset,
            book.clock_ms,
            book.rules,
            self.journal,
            self.dead_letters,
            self.activations,
            self.redrives,
            self.duplicates,
            self.decisions,
            self.ticks,
            book.minute,
            book.accounts,
            self.made,
            metadata=self.metadata,
        )


def metadata_rows(
    offset: int, account: str, metadata: Mapping[str, str], searchable: Collection[str]
) -> list[MetadataRow]:
    """What of a command's metadata is searched by: values that could be ids, which are short and on one line."""
    return [
        (key, value, account, offset)
        for key, value in metadata.items()
        if key in searchable and is_id(value, MAX_SEARCHABLE_VALUE)
    ]


def weight(entries: Iterable[CreditEntry]) -> int:
    """How much lines of the journal weigh, in facts and moves of lots: what they and their rows take of memory."""
    found = 0
    for entry in entries:
        for fact in entry.facts:
            found += 1 + len(fact.moves)
    return found


def fold(
    reads: Iterable[Read],
    book: CreditBook,
    next_offset: int,
    most: float = inf,
    searchable: Collection[str] = (),
) -> ChunkResult:
    """Fold reads into a book that holds every account and known id they can touch. Raises UnknownRulesError.

    Args:
        reads: what to fold.
        book: to fold into.
        next_offset: the offset behind them.
        most: stop behind the record with which what was made weighs more. The result says at which offset.
        searchable: keys of metadata that are kept.
    """
    folding = _Fold(book, searchable)
    add = folding.add
    for record, content in reads:
        if folding.made > most:
            return folding.result(record.offset)
        add(record, content)
    return folding.result(next_offset)


def folding(book: CreditBook, searchable: Collection[str] = ()) -> _Fold:
    """What folds reads one by one, by its `add`; its `result` is what they come to. Arguments as of `fold`."""
    return _Fold(book, searchable)


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


def read_one(record: Record, partition: int, partitions: int) -> Content | Later:
    """Decode and check one record."""
    value = record.value
    if value and len(value) > MAX_RECORD_BYTES and len(value) > _most_bytes(value):
        return _dead(record, DeadLetterReason.OVERSIZE, f"{len(value)} bytes; a command has at most {MAX_RECORD_BYTES}")
    content: Content
    try:
        name, values, rules = decode_values(value)
        content = _command(record, name, values, partition, partitions)
    except DecodeError as error:
        content, rules = _dead(record, error.reason, error.detail), error.rules
    if rules == RULES:
        return content
    schema_id = int.from_bytes((value or b"")[1:5], "big")
    return Later(rules or NEVER, schema_id, content)


@lru_cache(maxsize=1)
def _transfer_ids() -> Collection[int]:
    return [row.id for row in load_lock() if row.record == ReceiveTransfer.__name__]


def _most_bytes(value: bytes) -> int:
    """How large a record may be: a transfer that arrives brings all its parcels, and no other is so long."""
    is_transfer = value[0] == 0 and int.from_bytes(value[1:5], "big") in _transfer_ids()
    return MAX_TRANSFER_BYTES if is_transfer else MAX_RECORD_BYTES


def _command(record: Record, name: str, values: tuple[Any, ...], partition: int, partitions: int) -> Content:
    # The order of a schema's fields is that of its command's. Any: what it is depends on the record's name.
    command: Any = command_or_problem(name, values)
    if isinstance(command, str):
        return _dead(record, DeadLetterReason.INVALID_COMMAND, command)
    if type(command) not in KINDS:
        if record.key is not None:
            return _dead(record, DeadLetterReason.KEY_MISMATCH, "a control record has no key")
        control: Content = command
        return control
    account: str = command.account
    key = account.encode()
    if record.key != key:
        return _dead(record, DeadLetterReason.KEY_MISMATCH, f"the record's key is not its account {account!a}")
    if (right := partition_of(key, partitions)) != partition:
        # Such an account would live in two partitions, be folded by two workers, and spend its credits in both.
        detail = f"account {account!a} belongs in partition {right}; use Kafka's murmur2 partitioner"
        return _dead(record, DeadLetterReason.WRONG_PARTITION, detail)
    content: Content = command
    return content


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
