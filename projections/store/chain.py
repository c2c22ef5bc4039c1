"""The hash chain over outcomes: the outcome of each record of a partition, in the log's order, tied to all before it.

A link is the BLAKE2b digest of the link before it and of one outcome's line. The line is what the row looks like in
PostgreSQL's text form of COPY, so the chain can be computed again from the rows alone. Duplicates have no outcome and
no link. Two folds of the same log have the same chain; a row or a record that was changed, taken out or put in since
gives another one from there on. What is hashed of an outcome under some rules must never change, or chains that were
written down elsewhere would prove nothing any more; tests/golden/ checks it. Knows no connection.
"""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b, sha256
from typing import Final, NamedTuple, TypeAlias

from creditfold.ledger import CreditEntry
from creditfold.ledger.facts_json import facts_as_json
from creditfold.projections.store.results import Activation, DeadLetter

#: The chain before the first outcome.
START: Final = b""
DIGEST_BYTES: Final = 32

#: Offsets between two checkpoints of the chain, which bound the search for the place where two chains part.
CHECKPOINT_OFFSETS: Final = 10_000

#: An outcome's offset and its line.
Line: TypeAlias = tuple[int, bytes]

# How COPY writes a missing value, and what it writes before the digits of bytes.
NULL: Final = "\\N"
BYTES: Final = "\\\\x"

_RAW: Final = dict(zip("btnvfr\\", "\b\t\n\v\f\r\\", strict=True))
_ESCAPED: Final = {ord(raw): f"\\{name}" for name, raw in _RAW.items()}
_has_special: Final = re.compile(r"[\\\x08-\x0d]").search


class Checkpoint(NamedTuple):
    """The chain over everything before an offset."""

    next_offset: int
    chain: bytes


def escaped(text: str) -> str:
    """A text as COPY writes it."""
    return text.translate(_ESCAPED) if _has_special(text) else text


def unescaped(cell: str) -> str | None:
    """What COPY wrote, as text; None for a missing value."""
    if cell == NULL:
        return None
    if "\\" not in cell:
        return cell
    text, pieces = "", iter(cell)
    for char in pieces:
        text += _RAW[next(pieces)] if char == "\\" else char
    return text


def journal_line(partition: int, offset: int, entry: CreditEntry) -> bytes:
    """The line of a decision: the columns of its row in the journal, in their order."""
    account, command_id, asset = entry.account, entry.command_id, entry.asset
    source, note, details = entry.source, entry.reason, entry.details
    happened = facts_as_json(entry.facts, asset)
    # An id that holds none of the others may hold a backslash; hardly any does.
    if (
        source
        or note
        or "\\" in happened
        or "\\" in details
        or "\\" in account
        or "\\" in asset
        or (command_id is not None and "\\" in command_id)
    ):
        account, asset, source, note, details, happened = map(
            escaped, (account, asset, source, note, details, happened)
        )
        command_id = None if command_id is None else escaped(command_id)
    available, pending, held, debt = entry.balance
    # Most have nothing else.
    others = f"{pending}\t{held}\t{debt}" if pending or held or debt else "0\t0\t0"
    command = NULL if command_id is None else command_id
    step = NULL if entry.step is None else entry.step
    return (
        f"{partition}\t{offset}\t{account}\t{entry.version}\t{command}\t{entry.kind}\t{asset}\t{entry.amount}\t"
        f"{available - entry.before[0]}\t{available}\t{entry.rejection or NULL}\t{entry.rules}\t{entry.clock_ms}\t"
        f"{entry.occurred_at}\t{source}\t{note}\t{BYTES}{entry.extra.hex()}\t{others}\t{step}\t{details}\t"
        f"{happened}"
    ).encode()


def dead_letter_line(partition: int, letter: DeadLetter) -> bytes:
    """The line of a dead letter, with digests of its bytes. Leaves out its detail, which is for people."""
    digests = f"{_digest(letter.key)}\t{_digest(letter.value)}"
    line = f"{partition}\t{letter.log_offset}\tdead letter\t{letter.reason}\t{letter.appended_at_ms}\t{digests}"
    return f"{line}{_MISSING * (COLUMNS - 7)}".encode()


def activation_line(partition: int, activation: Activation) -> bytes:
    """The line of a change of the rules."""
    texts = "\t".join(map(escaped, (activation.command_id, activation.source, activation.note)))
    line = f"{partition}\t{activation.log_offset}\trules\t{activation.rules}\t{activation.clock_ms}\t{texts}"
    return f"{line}{_MISSING * (COLUMNS - 8)}".encode()


#: What every line has, as a row of the journal.
COLUMNS: Final = 23
_MISSING: Final = f"\t{NULL}"


def _digest(data: bytes | None) -> str:
    return NULL if data is None else BYTES + sha256(data).hexdigest()


def link(chain: bytes, line: bytes) -> bytes:
    """The chain with one more outcome in it."""
    return blake2b(chain + line, digest_size=DIGEST_BYTES).digest()


def extend(chain: bytes, start: int, end: int, lines: Iterable[Line]) -> tuple[bytes, Sequence[Checkpoint]]:
    """Go on from a chain over everything before offset `start` to one over everything before `end`.

    Returns the new chain, and the checkpoints in between.
    """
    checkpoints: list[Checkpoint] = []
    boundary = _after(start)
    for offset, line in lines:
        if offset >= boundary:
            checkpoints.append(Checkpoint(offset // CHECKPOINT_OFFSETS * CHECKPOINT_OFFSETS, chain))
            boundary = _after(offset)
        chain = blake2b(chain + line, digest_size=DIGEST_BYTES).digest()
    if end >= boundary:
        checkpoints.append(Checkpoint(end // CHECKPOINT_OFFSETS * CHECKPOINT_OFFSETS, chain))
    return chain, checkpoints


def _after(offset: int) -> int:
    return (offset // CHECKPOINT_OFFSETS + 1) * CHECKPOINT_OFFSETS
