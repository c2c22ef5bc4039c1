"""From raw records to rows, without Kafka or PostgreSQL: split anywhere, hostile in every field."""

import itertools
from collections.abc import Sequence

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from creditfold.ledger import CreditBook
from creditfold.ledger.account import Account
from creditfold.ledger.folding import Known
from creditfold.log.partitioner import partition_of
from creditfold.processors.fold.chunk import KEPT_BYTES, MAX_DEAD_BYTES, Read, commands, fold, keys, read_records
from creditfold.projections.store.results import ChunkResult, DeadLetter
from creditfold.schemas.wire import encode
from helpers.records import FakeRecord, grant, spend

pytestmark = pytest.mark.both_cores


def dead(record: FakeRecord) -> DeadLetter:
    """The dead letter made of a record in partition 0 of 1."""
    ((_, content),) = read_records([record], 0, 1)
    assert isinstance(content, DeadLetter)
    return content


def test_a_dead_letter_keeps_the_record_and_can_always_be_stored() -> None:
    """PostgreSQL takes no NUL in text: headers and details hold none, the bytes stay as they were."""
    letter = dead(FakeRecord(7, 123, b"\0\xff", b"\0noise", [("a\0b", b"\0"), ("é", None)]))
    assert letter[:1] == (7,)
    assert (letter.key, letter.value, letter.appended_at_ms) == (b"\0\xff", b"\0noise", 123)
    assert letter.headers == [("a\\x00b", "AA=="), ("\\xe9", None)]
    mismatch = dead(grant(0, 0, "1", "ann\N{SNOWMAN}", 1)._replace(key=b"bob"))
    assert mismatch.detail == "the record's key is not its account 'ann\\u2603'"


@pytest.mark.parametrize(
    "record",
    [
        FakeRecord(7, 1, b"k", b"x" * (MAX_DEAD_BYTES + 1)),
        FakeRecord(7, 1, b"k" * (MAX_DEAD_BYTES + 1), b"x"),
        FakeRecord(7, 1, b"k", b"x", [("h", b"x" * MAX_DEAD_BYTES)]),
    ],
)
def test_a_dead_letter_has_a_bounded_size(record: FakeRecord) -> None:
    """A few kilobytes on the wire can unpack to more than PostgreSQL takes in a field; the log keeps the whole."""
    letter = dead(record)
    assert len(letter.key or b"") + len(letter.value or b"") <= 2 * KEPT_BYTES
    assert letter.headers == []
    assert "the log has the whole record" in letter.detail


@given(st.binary(max_size=40) | st.none(), st.binary(max_size=40) | st.none(), st.text(max_size=5))
def test_any_bytes_become_a_command_or_a_storable_dead_letter(
    key: bytes | None, value: bytes | None, name: str
) -> None:
    """Whatever is in the topic."""
    framed = None if value is None else encode("Grant", {**_BODY, "account": "a"})[:5] + value
    for bytes_ in (value, framed):
        letter = dead(FakeRecord(0, 0, key, bytes_, [(name, value)]))
        assert "\0" not in letter.detail + "".join(header for header, _ in letter.headers)


_BODY = {"command_id": "1", "account": "ann", "asset": "credits", "amount": 1}


@pytest.mark.parametrize("partitions", [1, 2, 3, 8, 64])
def test_partitions_are_those_of_kafkas_default_partitioner(partitions: int) -> None:
    """The same as another client's own, for keys of any length."""
    partitioner = DefaultPartitioner()
    for number in range(300):
        key = ("é" * (number % 7) + str(number)).encode()
        everywhere = list(range(partitions))
        assert partition_of(key, partitions) == partitioner(key, everywhere, everywhere)


# Accounts, ids and amounts are few, so that duplicates, reuse, rejections and noise are frequent.
events = st.lists(
    st.tuples(
        st.sampled_from([grant, spend, None]),
        st.integers(-1, 50),
        st.sampled_from(["1", "2", "3", "4", ""]),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from([1, 2, 50, -1]),
    ),
    max_size=40,
)


def records_of(drawn: Sequence[tuple[object, int, str, str, int]]) -> list[FakeRecord]:
    return [
        make(offset, timestamp, *body) if callable(make) else FakeRecord(offset, timestamp, b"k", b"noise")
        for offset, (make, timestamp, *body) in enumerate(drawn)
    ]


@given(events, st.lists(st.integers(0, 40)))
def test_any_split_of_a_partition_gives_the_same_rows(
    drawn: list[tuple[object, int, str, str, int]], cuts: list[int]
) -> None:
    """Journal, dead letters, duplicates and the clock, poison included."""
    reads = read_records(records_of(drawn), 0, 1)
    expected = fold(reads, CreditBook(), len(reads))

    accounts: dict[str, Account] = {}
    known: Known = {}
    parts: list[ChunkResult] = []
    clock_ms = 0
    bounds = [0, *sorted({min(cut, len(reads)) for cut in cuts}), len(reads)]
    for start, end in itertools.pairwise(bounds):
        book = loaded(reads[start:end], accounts, known, clock_ms)
        parts.append(fold(reads[start:end], book, end))
        accounts |= book.accounts
        known |= book.known
        clock_ms = book.clock_ms
    assert [line for part in parts for line in part.journal] == expected.journal
    assert [letter for part in parts for letter in part.dead_letters] == expected.dead_letters
    assert sum(part.duplicates for part in parts) == expected.duplicates
    assert parts[-1][:2] == expected[:2]
    assert len(expected.journal) + len(expected.dead_letters) + expected.duplicates == len(reads)


def loaded(reads: Sequence[Read], accounts: dict[str, Account], known: Known, clock_ms: int) -> CreditBook:
    """A book with what the store would load for these reads."""
    touched = set(keys(commands(reads)))
    return CreditBook(
        {name: accounts[name] for name, _ in touched if name in accounts},
        {key: known[key] for key in touched if key in known},
        clock_ms,
    )
