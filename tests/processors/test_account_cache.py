"""What a fold remembers between two transactions: of bounded size, and never less than it says."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creditfold.ledger import RULES, CreditBook, Grant
from creditfold.processors.fold import fast
from creditfold.processors.fold.account_cache import AccountCache
from creditfold.processors.fold.chunk import folding
from creditfold.processors.fold.fast import new_filter
from creditfold.projections.store.results import ChunkResult
from helpers.records import grant

pytestmark = pytest.mark.both_cores

IDS = st.lists(st.integers(0, 60).map(str), max_size=200)


@given(IDS, st.integers(1, 20))
def test_none_of_the_last_ids_is_taken_for_new(ids: list[str], most: int) -> None:
    """As many as are promised are recognized, whatever else is forgotten."""
    seen, last = new_filter(64, most), deque[str](maxlen=most)
    for name in ids:
        assert seen.add("ann", name) >= (name in last)
        last.append(name)


def test_ids_of_long_ago_are_forgotten() -> None:
    """Or after a while each new one would be looked up for nothing. 300 ages come around to the first again."""
    seen = new_filter(2**16, 10)
    for number in range(3_000):
        seen.add("ann", str(number))
    taken = sum(seen.add("ann", f"new-{number}") for number in range(1_000))
    assert taken < 50
    assert sum(seen.add("ann", str(number)) for number in range(100)) < 20


def test_without_a_limit_nothing_is_forgotten() -> None:
    """As a rebuild needs it."""
    seen = new_filter(2**16)
    for number in range(3_000):
        seen.add("ann", str(number))
    assert all(seen.add("ann", str(number)) for number in range(3_000))


def granted(names: list[str], lots: int) -> ChunkResult:
    """What a chunk comes to that makes so many lots in each of these accounts."""
    book = CreditBook()
    for name in names:
        for number in range(lots):
            book.apply(Grant(str(number), name, "credits", 5))
    made = 2 * lots * len(names)
    return ChunkResult(1, 0, RULES, [], [], [], [], 0, accounts=book.accounts, made=made)


def test_the_accounts_met_first_are_forgotten() -> None:
    """So many as are too many, in a cache that shares with others what there is room for."""
    cache = AccountCache(10)
    cache.take(granted(list("abcdefgh"), 1), ())
    cache.trim()
    assert list(cache.accounts) == list("abcdefgh")
    cache.resize(3, 1_000)
    cache.trim()
    assert list(cache.accounts) == list("fgh")


def test_accounts_with_many_lots_are_forgotten_though_they_are_few() -> None:
    """Counted when there may be too many, and then somewhat fewer are kept than may be."""
    cache = AccountCache(10, lots=20)
    cache.take(granted(list("ab"), 9), ())
    cache.trim()
    # 36 facts and moves are no 36 lots.
    assert list(cache.accounts) == ["a", "b"]
    cache.take(granted(["c"], 9), ())
    cache.trim()
    assert list(cache.accounts) == ["b", "c"]


@pytest.mark.skipif(fast.new_store() is None, reason="there are light accounts in the compiled core only")
def test_light_accounts_are_bounded_by_their_number_and_their_lots() -> None:
    """Those that were met first are forgotten, of either kind, and each has its half of the room."""

    def fold(cache: AccountCache, names: list[str], lots: int) -> None:
        assert cache.store is not None
        grants = [grant(at, 0, str(at), name, 5) for at, name in enumerate(name for name in names for _ in range(lots))]
        reads = fast.read(grants, 0, 1, cache.store)
        plan = fast.new_plan(cache.store, reads, None, 0, trusts=False)
        plan.settle({}, (), lambda *_: None, {}, print)
        plan.fold(reads, folding(CreditBook()), 0, 0, 1, 2**20)
        plan.end()
        cache.store.rows(0)

    cache = AccountCache(10, lots=20)
    fold(cache, [f"user-{number}" for number in range(40)], 1)
    cache.trim()
    assert cache.store is not None
    assert cache.store.names() == [f"user-{number}" for number in range(10, 40)]
    cache.take(granted(list("abcdefgh"), 1), ())
    cache.trim()
    assert (list(cache.accounts), len(cache.store)) == (list("defgh"), 15)
    fold(cache, ["x", "y"], 40)
    cache.trim()
    assert (cache.store.names(), cache.store.lots) == (["y"], 40)


def test_lots_that_time_made_are_counted_too() -> None:
    """A tick makes them in accounts that are remembered, without a chunk that would be taken."""
    cache = AccountCache(10, lots=20)
    cache.take(granted(list("ab"), 1), ())
    cache.trim()
    grown = granted(list("ab"), 15)
    cache.accounts.update(grown.accounts)
    cache.mark_unsaved(grown, ())
    cache.trim()
    assert list(cache.accounts) == ["b"]
