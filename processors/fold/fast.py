"""The Python side of the fast path: what `plain.pyx` reads, loads and folds where the core is compiled.

Owns how an account moves between the fast path and Python's. Where the core is plain Python, all goes Python's way:
there is no store, no plan, and records are read by `chunk.py`.
"""

import importlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from creditfold.ledger import RULES as FIRST_RULES
from creditfold.ledger import CreditBook, Grant, Spend, digest
from creditfold.ledger.account import Account
from creditfold.ledger.commands import LotClass, Terms
from creditfold.ledger.facts import LotId
from creditfold.ledger.lots import Lot
from creditfold.ledger.rows import AccountRow, BalanceRow, LotRow, Rows, light_lot, open_account
from creditfold.ledger.validity import metadata_problem
from creditfold.log.partitioner import partition_of
from creditfold.processors.fold.chunk import Read, Record, metadata_rows, read_one, read_records
from creditfold.processors.fold.chunk import folding as new_folding
from creditfold.processors.fold.id_filter import IdFilter
from creditfold.projections.store.results import ChunkResult, MetadataRow
from creditfold.schemas.errors import MalformedError
from creditfold.schemas.reader import read_texts
from creditfold.schemas.registry import load_lock

if TYPE_CHECKING:
    from creditfold.processors.fold import plain

try:
    _plain: Any = importlib.import_module("creditfold.processors.fold.plain")
except ImportError:
    _plain = None

#: Bytes of lines that a transaction holds before it is committed and another one goes on.
MOST_BYTES = 2**24

#: The version of the rules that the fast path decides by: under any other, all goes Python's way.
RULES = FIRST_RULES


def new_store() -> "plain.Store | None":
    """A store for a partition's accounts on the fast path, None where there is none."""
    return None if _plain is None else _plain.Store()


def new_filter(size: int, most: int | None = None) -> "plain.Filter | IdFilter":
    """A filter of command ids, the one that the fast path can ask where there is one.

    Args:
        size: its bytes.
        most: how many ids before the last are recognized; None to recognize all.
    """
    return IdFilter(size, most) if _plain is None else _plain.Filter(size, most)


def new_plan(
    store: "plain.Store",
    reads: list[Read],
    ids: "plain.Filter | IdFilter | None",
    clock_ms: int,
    *,
    trusts: bool,
) -> "plain.Plan":
    """How reads are to be folded; the arguments are those of `plain.Plan`."""
    plan: plain.Plan = _plain.Plan(store, reads, ids, trusts, clock_ms)
    return plan


def _reader() -> "plain.Reader | None":
    if _plain is None:
        return None
    reader: plain.Reader = _plain.Reader(_ids(Grant), _ids(Spend), _extra_of)
    return reader


def _ids(kind: type[Grant | Spend]) -> list[int]:
    """The ids of the schemas of a command that have its fields, in their order."""
    rows = [row for row in load_lock() if row.record == kind.__name__]
    return [row.id for row in rows if tuple(field["name"] for field in row.schema["fields"]) == kind._fields]


def _extra_of(value: bytes, at: int) -> tuple[bytes, Mapping[str, str]] | None:
    try:
        metadata, end = read_texts(value, at)
    except (MalformedError, IndexError, UnicodeDecodeError):
        return None
    if end != len(value) or metadata_problem(metadata):
        return None
    return digest(metadata).hex().encode() if metadata else b"", metadata


_READER = _reader()


def read(records: Sequence[Record], partition: int, partitions: int, store: "plain.Store | None") -> list[Read]:
    """Decode and check records of one partition of a topic that has `partitions`.

    With a store, plain commands stay encoded for the fast path; `decoded` decodes them where they don't take it.
    """
    if _READER is None or store is None:
        return read_records(records, partition, partitions)
    return _READER.read(records, partition, partitions, store, read_one, partition_of)


def decoded(reads: list[Read]) -> list[Read]:
    """Reads in which the plain commands that stayed encoded are decoded."""
    return reads if _plain is None else [_decoded(read) if _is_plain(read[1]) else read for read in reads]


def decoded_by(plan: "plain.Plan", reads: list[Read]) -> list[Read]:
    """Reads in which the plain commands are decoded that a plan has go Python's way."""
    if not plan.has_slow:
        return reads
    return [_decoded(read) if _is_plain(read[1]) and _is_slow(read[1]) else read for read in reads]


def _is_plain(content: Any) -> bool:
    return content.__class__ is _plain.Plain


def _is_slow(content: Any) -> bool:
    return bool(content.is_slow)


def _decoded(read: Read) -> Read:
    # That it lies in the right partition was checked when it was read.
    return read[0], read_one(read[0], 0, 1)


class DepartedAccount(NamedTuple):
    """An account that has left the fast path, and the offset of its last line if its balance isn't written yet."""

    name: str
    account: Account
    asset: str
    place: int | None


def account_of(store: "plain.Store", light: "plain.Light") -> DepartedAccount:
    """Take an account out of a store."""
    version, asset, available, place, lots = store.take(light)
    name = light.name.decode()
    balances = [] if asset is None else [BalanceRow(asset, available, 0, 0, 0, 0)]
    stored = [_lot_row(asset or "", lot) for lot in lots if lot[-2]]
    inline = [(_lot_row(asset or "", lot), lot[-3]) for lot in lots if not lot[-2]]
    account = open_account(name, Rows(AccountRow(version), balances, stored, inline))
    for command_id, number, *_, change, _, is_dirty in lots:
        if is_dirty:
            account.mark(account.lots[LotId(command_id, number)], change)
    return DepartedAccount(name, account, asset or "", place)


def _lot_row(asset: str, lot: tuple[Any, ...]) -> LotRow:
    command_id, number, lot_class, priority, effective_at, expires_at, made, source, *amounts, others = lot[:12]
    terms = Terms(lot_class, priority, effective_at, expires_at)
    places = (*amounts, *(others or (0, 0, 0, 0, 0)))
    return light_lot(LotId(command_id, number), asset, terms, made, source, places=places)


def parts_of(account: Account, asset: str, clock_ms: int) -> tuple[int, int, list[tuple[Any, ...]]] | None:
    """The version, the available credits and the lots of an account that can take the fast path; None for others.

    It must have nothing but lots of this asset that can be spent by all at this instant, and nothing unwritten.
    """
    if account.is_closed or account.frozen or account.changed or account.next_due <= clock_ms:
        return None
    if account.holds or account.spends or account.transfers or account.schedules:
        return None
    holding = account.holdings.get(asset)
    if len(account.holdings) > (holding is not None) or len(account.lots) > _plain.MOST_LOTS:
        return None
    if holding is None:
        return None if account.lots else (account.version, 0, [])
    if holding.pending or holding.held or holding.debt or holding.limit or holding.scoped:
        return None
    inline = account.inline
    lots = [_lot_parts(lot, inline.get(lot, 0)) for lot in account.lots.values()]
    found = [lot for lot in lots if lot is not None]
    return (account.version, holding.available, found) if len(found) == len(lots) else None


def _lot_parts(lot: Lot, position: int) -> tuple[Any, ...] | None:
    command_id, number = lot.id
    lot_class, priority, effective_at, expires_at, _ = lot.terms
    is_plain = lot.is_listed and lot.schedule is None
    # As it is written everywhere, in a line and in JSON.
    if not is_plain or not command_id.isascii() or not command_id.isprintable() or any(map(command_id.count, ' "\\')):
        return None
    others = (lot.expired, lot.voided, lot.forfeited, lot.reissued, lot.transferred)
    terms = ("promo" if lot_class == LotClass.PROMO else "paid", priority, effective_at, expires_at)
    amounts = (lot.amount, lot.remaining, lot.spent, others if any(others) else None)
    return (command_id, number, *terms, lot.made, str(lot.source), *amounts, position, lot.is_stored)


class FastPart(NamedTuple):
    """Reads as `decoded_by` returned them, their partition, the offset behind them, and the searchable keys."""

    reads: list[Read]
    partition: int
    end: int
    searchable: Collection[str] = ()


def fold(plan: "plain.Plan", part: FastPart, book: CreditBook, most: float) -> tuple[ChunkResult, "plain.Lines"]:
    """Fold a plan's reads, of which some take the fast path.

    Args:
        plan: of the reads.
        part: the reads.
        book: to fold the others into.
        most: stop behind the record with which what was made weighs more, as `chunk.fold` does.

    Returns what it came to, and the journal's lines of what took the fast path.
    """
    reads = part.reads
    folding = new_folding(book, part.searchable)
    lines, count = plan.fold(reads, folding, part.partition, book.clock_ms, most, MOST_BYTES)
    result = folding.result(part.end if count == len(reads) else reads[count][0].offset)
    decisions = {**result.decisions}
    for decision, decided in lines.decisions().items():
        decisions[decision] = decisions.get(decision, 0) + decided
    metadata = [*result.metadata, *_metadata(reads[:count], part.searchable)] if part.searchable else ()
    return result._replace(decisions=decisions, metadata=metadata), lines


def _metadata(reads: Sequence[Read], searchable: Collection[str]) -> Iterator[MetadataRow]:
    """What is searched by of the reads that took the fast path: all of them were decided."""
    kind = _plain.Plain
    content: Any
    for record, content in reads:
        if content.__class__ is kind and content.metadata:
            yield from metadata_rows(record.offset, (record.key or b"").decode(), content.metadata, searchable)
