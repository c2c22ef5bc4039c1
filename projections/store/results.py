"""What folding a chunk results in, as rows that are not written yet. Knows no SQL."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from creditfold.common.position import Position
from creditfold.ledger import CreditEntry
from creditfold.ledger.account import Account
from creditfold.log.bookmark import LastRecord


class DeadLetter(NamedTuple):
    """A record that can't be folded, as it is in the log. `headers` are pairs of name and base64 text or None."""

    log_offset: int
    reason: str
    detail: str
    appended_at_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, str | None]]


class Activation(NamedTuple):
    """A record that put a version of the rules into force."""

    log_offset: int
    rules: int
    clock_ms: int
    command_id: str
    occurred_at_ms: int
    source: str
    note: str


class Redrive(NamedTuple):
    """A record whose headers name the dead letter that it mends, who sent it, and why."""

    log_offset: int
    of: Position
    decided_by: str
    note: str


#: What a decided command says under a searchable key: the key, the value, the account, and the record's offset.
MetadataRow: TypeAlias = tuple[str, str, str, int]


#: The context of a trace that a record carries: its offset, when it was appended (ms since 1970), and `traceparent`.
TraceContext: TypeAlias = tuple[int, int, str]


#: The offset of a record and the journal entry that it caused.
JournalLine: TypeAlias = tuple[int, CreditEntry]


#: What was decided: the kind of a command, and the reason why it was rejected, empty where it was accepted.
Decision: TypeAlias = tuple[str, str]


#: Rows as they are sent: their number, and for each column the texts joined, or the cells of the numbers.
Cells: TypeAlias = tuple[int, Sequence[str | bytes]]


class ChunkResult(NamedTuple):
    """Everything that folding a chunk of one partition's records resulted in.

    `decisions` counts records, which may have several lines in the journal; `minute` is that of the last tick.
    `accounts` holds those that have lines, in the state after the last of them. `made` is the weight of the lines, in
    facts and moves of lots. `last` is the last record that was folded, None where there was none. `metadata` is what is
    searched by of what was decided, `traces` are the contexts of the traces whose spans are kept.
    """

    next_offset: int
    clock_ms: int
    rules: int
    journal: Sequence[JournalLine]
    dead_letters: Sequence[DeadLetter]
    activations: Sequence[Activation]
    redrives: Sequence[Redrive]
    duplicates: int
    decisions: Mapping[Decision, int] = {}
    ticks: int = 0
    minute: int = 0
    accounts: Mapping[str, Account] = {}
    made: int = 0
    last: LastRecord | None = None
    metadata: Sequence[MetadataRow] = ()
    traces: Sequence[TraceContext] = ()

    @property
    def accepted(self) -> int:
        """How many records took effect."""
        return sum(count for (_, reason), count in self.decisions.items() if not reason)

    @property
    def rejected(self) -> int:
        """How many commands were rejected."""
        return sum(count for (_, reason), count in self.decisions.items() if reason)


class Tally:
    """Counts what results come to, over as many as there are."""

    def __init__(self) -> None:
        self.decisions: Counter[Decision] = Counter()
        #: By reason.
        self.dead_letters: Counter[str] = Counter()
        self.duplicates = 0
        self.ticks = 0

    def add(self, result: ChunkResult) -> None:
        """Count a result."""
        self.decisions.update(result.decisions)
        self.dead_letters.update(letter.reason for letter in result.dead_letters)
        self.duplicates += result.duplicates
        self.ticks += result.ticks

    def merge(self, other: "Tally") -> None:
        """Count all that another one has."""
        self.decisions.update(other.decisions)
        self.dead_letters.update(other.dead_letters)
        self.duplicates += other.duplicates
        self.ticks += other.ticks
