"""The fast path of plain commands says what Python's own says, byte by byte. It is in the compiled core only.

What it comes to in PostgreSQL is compared in test_split_transactions.py and test_shared_transactions.py,
which fold mixed histories.
"""

import gc
import importlib.util
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creditfold.ledger import RULES, Command, CreditBook, Known, limits
from creditfold.ledger.account import NUMBER_BITS
from creditfold.ledger.commands import KINDS, Grant, Terms
from creditfold.ledger.facts import CorruptStateError
from creditfold.log.partitioner import partition_of
from creditfold.processors.fold import fast
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.chunk import commands, controls, fold, folding, keys, read_one, read_records
from creditfold.processors.fold.transaction import LoadRequest, Part, fold_part
from creditfold.projections.store.account_loader import account_with
from creditfold.projections.store.account_sql import cells
from creditfold.projections.store.chain import CHECKPOINT_OFFSETS, START, Line, dead_letter_line, extend, journal_line
from creditfold.projections.store.claim import Claim
from creditfold.projections.store.results import MetadataRow
from creditfold.projections.store.rows import HOUR_MS, HOUR_REASON, Hour
from creditfold.projections.store.transaction import ChunkTransaction, Progress
from creditfold.projections.tables.account_tables import BALANCES, CHANGED_LOTS, EMPTIED_BALANCES, FAST_BALANCES, LOTS
from creditfold.projections.tables.inline_lots import inline_lot
from creditfold.schemas.registry import latest, load_lock
from helpers.credit_histories import history
from helpers.records import FakeRecord, grant, plain, spend
from helpers.support import IS_COMPILED

pytestmark = pytest.mark.both_cores

needs_fast = pytest.mark.skipif(not IS_COMPILED, reason="there is a fast path in the compiled core only")


def test_there_is_a_fast_path_in_the_compiled_core_and_only_there() -> None:
    """Or the tests below would pass for want of what they test."""
    assert (importlib.util.find_spec("creditfold.processors.fold.plain") is not None) == IS_COMPILED
    assert (fast.new_store() is not None) == IS_COMPILED


@needs_fast
def test_its_bounds_are_those_of_the_rules() -> None:
    """They are written down twice."""
    from creditfold.processors.fold import plain

    bounds = {name: getattr(limits, name) for name in plain.LIMITS if hasattr(limits, name)}
    ours = {
        "NUMBER_BITS": NUMBER_BITS,
        "CHECKPOINT_OFFSETS": CHECKPOINT_OFFSETS,
        "RULES": RULES,
        "PRIORITY": Terms().priority,
        "HOUR_MS": HOUR_MS,
        "HOUR_REASON": HOUR_REASON,
    }
    assert bounds | ours == plain.LIMITS
    assert Grant("g", "a", "c", 1).terms == ("paid", 50, 0, 0, "")


def number(value: int) -> bytes:
    """A number as Avro writes it."""
    value, found = (value << 1) ^ (value >> 63), b""
    while value >> 7:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def text(value: bytes) -> bytes:
    return number(len(value)) + value


IDS = st.binary(max_size=5) | st.sampled_from(
    [b"ann", b"x" * 64, b"y" * 65, b"z" * 129, b"~x", b" a", b'q"', b"\xc3\xa9"]
)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 2**53 - 1, 2**53, limits.MAX_OCCURRED_AT])
NOTES = IDS | st.sampled_from([b"", b"", b"a b", b"\\", b"n" * 1_024, b"n" * 1_025])
#: None, and what is wrong; in one block, in two, with its size before it, with a key twice, and more than there may be.
METADATA = st.sampled_from(
    [b"\0", b"\0", b"\0", b"", b"\0\0", b"\1\0", b"\1\6\2a\2b\0", b"\2\2a\2b\2\2a\4cd\0"]
) | st.lists(st.tuples(IDS, NOTES | st.just("ä€😀".encode())), max_size=33).map(
    lambda entries: (number(len(entries)) + b"".join(map(text, chain(*entries))) if entries else b"") + b"\0"
)


#: What a plain command says of its own fields, by its name, and what others say.
OWN = {"Grant": text(b"paid") + number(50) + b"\0\0\0", "Spend": b"\0\0\0", "Hold": number(9) + b"\0"}
OTHERS = (*OWN.values(), b"", text(b"promo") + OWN["Grant"][5:], text(b"paid") + b"\0\0\0\0", b"\0\1\0", b"\0\2\0")
SCHEMA_IDS = {name: row.id for name, row in latest(load_lock()).items()} | {"Nothing": 99}


@st.composite
def values(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """The key and the value of a record that may be a plain command, or nearly one."""
    account = draw(IDS)
    name = draw(st.sampled_from(["Grant", "Grant", "Spend", "Spend", "Hold", "Nothing"]))
    own = draw(st.sampled_from([OWN.get(name, b""), OWN.get(name, b""), *OTHERS]))
    parts = [text(draw(IDS)), text(account), text(draw(IDS)), number(draw(NUMBERS)), own, number(draw(NUMBERS))]
    parts += [
        text(draw(NOTES)),
        text(draw(NOTES)),
        draw(METADATA),
    ]
    value = bytes([draw(st.sampled_from([0, 0, 0, 1]))]) + SCHEMA_IDS[name].to_bytes(4, "big") + b"".join(parts)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(value)))
        value = draw(st.sampled_from([value[:at], value[:at] + b"\x80" + value[at + 1 :]]))
    return draw(st.sampled_from([account, account, account, b"bob"])), value


@needs_fast
@given(values(), st.sampled_from([1, 8]))
def test_what_it_reads_is_what_python_reads(pair: tuple[bytes, bytes], partitions: int) -> None:
    """Any bytes: what is taken for plain is a plain command, and is read as Python reads it."""
    key, value = pair
    record = FakeRecord(3, 5, key, value)
    partition = partition_of(key, partitions)
    ((_, content),) = fast.read([record], partition, partitions, fast.new_store())
    expected = read_one(record, partition, partitions)
    (slow,) = fast.decoded([(record, content)])
    assert slow == (record, expected)
    if content.__class__.__name__ == "Plain":
        assert expected.__class__ in KINDS
        assert read_one(record, (partition + 1) % 8, 8) != expected or partitions == 1


@needs_fast
def test_metadata_do_not_slow_a_plain_command_down() -> None:
    """A purchase says which order it is of; the line keeps a digest of that, as Python's does."""
    metadata = {"order": "7", "é": "\t", "b": "x" * 257, "a": "é" * 256}
    records = [grant(0, 0, "g", "ann", 1, metadata=metadata), spend(1, 1, "s", "ann", 1, metadata=metadata)]
    ours, python = Folded({}, is_fast=True), Folded({}, is_fast=False)
    ours.fold(records)
    python.fold(records)
    assert ours.fast_lines == 2
    assert ours.progress == python.progress
    kept = {("order", "7"), ("a", "é" * 256)}
    assert ours.metadata == {(*entry, "ann", offset) for offset in (0, 1) for entry in kept}
    assert python.metadata == ours.metadata


@needs_fast
def test_a_record_of_another_partition_or_that_mends_a_letter_goes_python_s_way() -> None:
    """However plain it is."""
    record = spend(0, 0, "s", "ann", 1)
    wrong = (partition_of(b"ann", 8) + 1) % 8
    for given_record, partition in ((record, wrong), (record._replace(headers=[("redrive-of", b"0:1")]), wrong - 1)):
        ((_, content),) = fast.read([given_record], partition, 8, fast.new_store())
        assert content == read_one(given_record, partition, 8)
    ((_, content),) = fast.read([record._replace(headers=[("trace", b"x")])], wrong - 1, 8, fast.new_store())
    assert content.__class__.__name__ == "Plain"


#: What these histories leave out: it names what an account had before, which is loaded from the tables.
NAMING = ("Capture", "Release", "Refund", "VoidGrant", "CancelSchedule", "SettleTransfer", "Batch", "Tick", "Transfer")


def without_tables(seed: int, count: int, share: float) -> list[FakeRecord]:
    """A history that can be folded without PostgreSQL, a share of it plain commands."""
    found = [
        record for record in history(seed, count, plain=share) if type(read_one(record, 0, 1)).__name__ not in NAMING
    ]
    return [record._replace(offset=offset) for offset, record in enumerate(found)]


#: Of metadata of these histories; of some values are too short, or hold what no id may.
SEARCHABLE = frozenset({"order", "a", "b"})


class Folded:
    """A fold without PostgreSQL: its chain, and the last row of each key of what it would write."""

    def __init__(self, known: dict[tuple[str, str], tuple[int, Command]], *, is_fast: bool) -> None:
        self.cache = AccountCache(10**6, is_fresh=True, ids=fast.new_filter(2**12))
        if not is_fast:
            self.cache.store = None
        self.progress = Progress(0, 1, 0, RULES, START, 0)
        self._rows: dict[str, dict[Any, Any]] = {}
        # Lots that stand in balances, by account.
        self._inline: dict[str, dict[Any, Any]] = {}
        self.totals: dict[str, list[int]] = {}
        self.hours: Counter[Hour] = Counter()
        self.fast_lines = 0
        self.metadata: set[MetadataRow] = set()
        self._known = known

    def fold(self, records: Sequence[FakeRecord]) -> None:
        """Fold records in a transaction of their own."""
        end = records[-1].offset + 1
        claimed = Claim(0, 1, 1, searchable=SEARCHABLE)
        transaction = ChunkTransaction(None, 0, claimed, self.progress)  # type: ignore[arg-type]
        reads = fast.read(records, 0, 1, self.cache.store)
        assert not controls(reads)
        coming = list(commands(reads))
        plan = self.cache.plan(reads, self.progress.clock_ms)
        wanted = self.cache.doubtful(coming, list(keys(coming))) + list(plan.doubtful if plan else ())
        start = self.progress.next_offset
        found: Known = {key: self._known[key][1] for key in wanted if self._known.get(key, (end, None))[0] < start}
        if plan is not None:
            self.cache.settle(plan, {}, found, {})
        draft = fold_part(Part(reads, end), LoadRequest(transaction, coming, self.cache, plan), found, 10**9)
        self.metadata |= {*draft.result.metadata}
        self.fast_lines += b"".join(draft.lines).count(b"\n") - len(draft.result.journal)
        for asset, total in draft.totals.items():
            sums = self.totals.setdefault(asset, [0] * len(total))
            self.totals[asset] = [one + other for one, other in zip(sums, total, strict=True)]
        self.hours.update(draft.hours)
        self._note(self.cache.take_state(0))
        transaction.advance(draft)
        self.progress = transaction.progress
        self.cache.drop_untouched(coming)

    def _note(self, state: Any) -> None:
        for table, parts in state.items():
            own = self._rows.setdefault(table.name, {})
            for count, columns in parts:
                rows = list(zip(*map(_values, columns), strict=True))
                assert len(rows) == count
                for row in rows:
                    values = dict(zip([name for name, _ in table.columns], row, strict=True))
                    key = row[: table.key]
                    if table is EMPTIED_BALANCES:
                        self._inline.pop(row[0], None)
                    elif table is FAST_BALANCES:
                        lots = [one for one in values.pop("lots")[1:].split("\n") if one]
                        self._inline[row[0]] = {one["command_id"]: one for one in [_inline(*key, lot) for lot in lots]}
                        ends = [one["expires_at_ms"] for one in self._inline[row[0]].values() if one["expires_at_ms"]]
                        assert values.pop("next_at_ms") == min(ends, default=-1)
                        own[key] = dict.fromkeys([name for name, _ in BALANCES.columns], 0) | values
                    else:
                        own[key] = {**own.get(key, {}), **values} if table is CHANGED_LOTS else values

    @property
    def inline_count(self) -> int:
        """How many lots stand in balances."""
        return sum(map(len, self._inline.values()))

    @property
    def tables(self) -> dict[str, dict[Any, Any]]:
        """The rows of each table by their keys, with lots that stand in balances as if they had rows."""
        inline = {
            (name, lot["command_id"], lot["number"]): lot
            for name, lots in self._inline.items()
            for lot in lots.values()
        }
        rows = self._rows.get(LOTS.name, {})
        assert not rows.keys() & inline.keys()
        return {name: own for name, own in self._rows.items() if own} | {LOTS.name: rows | inline}


def _inline(account: str, asset: str, line: str) -> dict[str, Any]:
    """A lot that stands in a balance, as its row would be sent."""
    lot, position = inline_lot(asset, line)
    _, columns = cells(LOTS, [(account, *lot, 0, position)])
    return dict(zip([name for name, _ in LOTS.columns], [_values(column)[0] for column in columns], strict=True))


def _values(column: str | bytes) -> list[Any]:
    """A column's values as they are sent."""
    if isinstance(column, str):
        return column.split("\x1f")
    return [int.from_bytes(column[at + 4 : at + 12], "big", signed=True) for at in range(0, len(column), 12)]


@needs_fast
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.9, 1.0]))
def test_it_comes_to_the_same_as_python(seed: int, share: float) -> None:
    """The chain over every line, the counts, the totals and the rows of all tables, however the log is cut."""
    compared(seed, share)


@needs_fast
def test_what_is_compared_takes_the_fast_path() -> None:
    """A good part of it: where all went Python's way, nothing would be compared."""
    assert sum(compared(seed, 0.9) for seed in range(20)) > 500


def compared(seed: int, share: float) -> int:
    """Fold a history the fast path and Python's, and hold the two together; gives how many lines the fast path made."""
    records = without_tables(seed, 150, share)
    whole = fold(read_records(records, 0, 1), CreditBook(), len(records), searchable=SEARCHABLE)
    known: dict[tuple[str, str], tuple[int, Command]] = {}
    command: Any
    for record, command in read_records(records, 0, 1):
        if command.__class__ in KINDS:
            known.setdefault((command.account, command.command_id), (record.offset, command))
    ours, python = Folded(known, is_fast=True), Folded(known, is_fast=False)
    for cut in cuts(records, random.Random(seed)):
        ours.fold(cut)
    python.fold(records)
    assert ours.progress == python.progress
    assert ours.progress.chain == extend(START, 0, len(records), lines_of(whole))[0]
    assert ours.totals == python.totals
    assert ours.hours == python.hours
    assert ours.tables == python.tables
    assert ours.metadata == python.metadata == {*whole.metadata}
    return ours.fast_lines


def cuts(records: Sequence[FakeRecord], chance: random.Random) -> Iterator[Sequence[FakeRecord]]:
    at = 0
    while at < len(records):
        size = chance.choice((1, 4, 20, 100))
        yield records[at : at + size]
        at += size


def lines_of(result: Any) -> list[Line]:
    found = [(offset, journal_line(0, offset, entry)) for offset, entry in result.journal]
    found += [(letter.log_offset, dead_letter_line(0, letter)) for letter in result.dead_letters]
    return sorted(found, key=lambda line: line[0])


@needs_fast
def test_totals_of_very_large_amounts_add_up() -> None:
    """More than 64 bits of them in one chunk, which a number of the machine's own has no room for."""
    records = [grant(number, 0, str(number), f"user-{number % 500}", limits.MAX_AMOUNT) for number in range(3_000)]
    ours = Folded({}, is_fast=True)
    ours.fold(records)
    assert ours.totals["credits"][2] == 3_000 * limits.MAX_AMOUNT
    assert ours.fast_lines == 3_000


@needs_fast
def test_lots_that_a_balance_has_no_room_for_get_rows() -> None:
    """As many as fit stand in it, in the order of spending; each gets one row at most, whatever is spent later."""
    ours, python = Folded({}, is_fast=True), Folded({}, is_fast=False)
    commands: list[tuple[str, str, int]] = [("Grant", f"{'g' * 60}{number:02}", 10) for number in range(40)]
    commands += [("Spend", f"s{number}", 7) for number in range(50)]
    inline: list[int] = []
    for offset, (name, command_id, amount) in enumerate(commands):
        record = plain(name, offset, offset, command_id, "ann", amount)
        ours.fold([record])
        python.fold([record])
        assert ours.tables == python.tables
        inline.append(ours.inline_count)
    assert ours.fast_lines == len(commands)
    assert 5 < max(inline) < 20
    # The first ones were there from the start, and were spent first.
    assert inline[len(commands) - 1] == 0


@st.composite
def balances(draw: st.DrawFn) -> tuple[tuple[Any, ...], bool]:
    """A balance as it is loaded, with lots in it, and whether a fold may have written these."""
    lines, total = [], 0
    for number in range(draw(st.integers(0, 3))):
        amount = draw(st.integers(1, 2**53 - 1))
        gone = draw(st.sampled_from([(0, 0, 0, 0, 0), (1, 0, 2, 0, 5)]))
        remaining = draw(st.integers(1, amount))
        total += remaining
        made, effective_at = draw(st.integers(0, 2**63 - 1)), draw(st.integers(0, 99))
        line = f"g{number} {made} {effective_at} {amount + sum(gone)} {remaining} 7"
        if any(gone) or draw(st.booleans()):
            terms = (draw(st.integers(1, 9)), draw(st.sampled_from(["paid", "promo"])), draw(st.integers(0, 100)))
            ends = draw(st.sampled_from([0, 40, 90]))
            line += " " + " ".join(map(str, (*terms, ends, draw(st.sampled_from(["issued", "reissued"])), *gone)))
        lines.append(line)
    text = "\n".join(lines)
    is_right = draw(st.booleans())
    if not is_right:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(["x", " ", "\n", "-", "9" * 19, "\u0663", '"'])) + text[at + 1 :]
    asset = draw(st.sampled_from(["credits", "credits", "points"]))
    return ("ann", asset, total + draw(st.sampled_from([0, 0, 0, 1])), 0, 0, 0, 0, 3, text), is_right


@needs_fast
@given(balances())
def test_a_balance_is_read_as_python_reads_it(balance: tuple[tuple[Any, ...], bool]) -> None:
    """With the lots in it. What isn't right, or not light, goes Python's way, which says so or decides it."""
    row, is_right = balance
    store, went = fast.new_store(), []
    assert store is not None
    reads = fast.read([spend(0, 50, "s", "ann", 1)], 0, 1, store)
    plan = fast.new_plan(store, reads, None, 0, trusts=False)
    plan.settle({}, (), lambda *_: None, {"ann": row}, went.append)
    light = store.find("ann")
    parts = None
    with suppress(CorruptStateError):
        parts = fast.parts_of(account_with(row), "credits", 50)
    if light is None:
        assert went == ["ann"]
        assert parts is None or not is_right
        return
    assert went == []
    assert parts is not None
    version, asset, available, place, lots = store.take(light)
    assert (version, available) == parts[:2]
    assert (asset, place) == ("credits", None)
    assert sorted(lot[:-1] for lot in lots) == sorted(parts[2])


@needs_fast
def test_assets_are_forgotten_with_their_accounts() -> None:
    """A log may name any number of them, and each chunk goes over those that are remembered."""
    store = fast.new_store()
    assert store is not None
    for start in range(0, 2_000, 500):
        names = [f"user-{number}" for number in range(start, start + 500)]
        records = [grant(at, 0, "g", name, 1, asset=name) for at, name in enumerate(names, start)]
        reads = fast.read(records, 0, 1, store)
        plan = fast.new_plan(store, reads, None, 0, trusts=False)
        plan.settle({}, (), lambda *_: None, {}, print)
        plan.fold(reads, folding(CreditBook()), 0, 0, 1, 2**20)
        plan.end()
        assert store.totals() == dict.fromkeys(names, (1, 0))
        store.rows(0)
        store.trim(10, 10)
        # Those of the accounts that were just forgotten go with the next.
        store.trim(10, 10)
        held = [len(part) for part in gc.get_referents(store) if isinstance(part, dict)]
        assert (len(store), held) == (10, [10, 10])


@needs_fast
def test_its_columns_are_those_of_the_tables() -> None:
    """One row of each, of as many columns as the table has; and none when they were taken."""
    ours = Folded({}, is_fast=True)
    ours.fold([grant(0, 7, "g", "ann", 5)])
    ours.fold([spend(1, 9, "s", "ann", 5)])
    assert ours.tables[BALANCES.name][("ann", "credits")]["version"] == 2
    (lot,) = ours.tables[LOTS.name].values()
    assert (lot["remaining"], lot["spent"], lot["is_live"], lot["next_at_ms"]) == (0, 5, 0, -1)
    assert (lot["lot_class"], lot["scope"], lot["source"]) == ("=paid", "=", "=issued")
    assert ours.cache.store is not None
    assert [count for count, _ in ours.cache.store.rows(0)] == [0, 0, 0]
