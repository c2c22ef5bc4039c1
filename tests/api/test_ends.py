"""Up to which instant a state has all of the log, by what was seen of the log's ends."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from creditfold.api.ends import KEPT, LogEnds
from creditfold.common.settings import Settings
from creditfold.projections.queries.progress import Standing


def at(second: float) -> datetime:
    """An instant, in seconds of some hour."""
    return datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(seconds=second)


def standing(offsets: Mapping[int, int], clocks: Mapping[int, float], topic_id: str = "log") -> Standing:
    return Standing(1, dict(offsets), {partition: at(clock) for partition, clock in clocks.items()}, topic_id)


#: What was seen, as (second, end of partition 0, end of 1); next offsets, clocks, and up to when all is in.
CASES: dict[str, tuple[list[tuple[float, int, int]], dict[int, int], dict[int, float], float | None]] = {
    "nothing was ever seen or folded": ([], {0: 0, 1: 0}, {}, None),
    "nothing was ever seen": ([], {0: 9, 1: 7}, {0: 5, 1: 4}, 4),
    "no record for an hour": ([(3599, 9, 7), (3600, 9, 7)], {0: 9, 1: 7}, {0: 0, 1: 0}, 3600),
    "no record ever": ([(8, 0, 0)], {0: 0, 1: 0}, {}, 8),
    "a partition lags": ([(1, 5, 7), (2, 8, 7), (3, 9, 7)], {0: 6, 1: 7}, {0: 1.5, 1: 0}, 1.5),
    "a partition lags behind a look": ([(1, 5, 7), (2, 8, 7), (3, 9, 7)], {0: 8, 1: 7}, {0: 0.5, 1: 0}, 2),
    "a record came after the look": ([(1, 5, 7)], {0: 6, 1: 7}, {0: 1.4, 1: 0}, 1),
    "a partition never had a record, and lags": ([(1, 5, 7)], {0: 0, 1: 7}, {1: 0}, None),
    "all partitions lag since before the first look": ([(9, 99, 99)], {0: 5, 1: 5}, {0: 3, 1: 2}, 2),
}


@pytest.mark.parametrize("name", CASES)
def test_a_state_is_complete_up_to_the_last_end_that_it_has(name: str) -> None:
    """Or up to the log's clock, whichever is later; of several partitions the one that is furthest behind counts."""
    looks, offsets, clocks, expected = CASES[name]
    ends = LogEnds(Settings())
    for second, *found in looks:
        ends.record(at(second), "log", dict(enumerate(found)))
    state = standing(offsets, clocks)
    for _ in range(2):
        assert ends.complete_to(state) == (None if expected is None else at(expected))


def test_a_partition_s_own_is_not_that_of_the_others() -> None:
    """The answer of an account says what its own partition is missing."""
    ends = LogEnds(Settings())
    ends.record(at(10), "log", {0: 5, 1: 7})
    state = standing({0: 5, 1: 6}, {0: 1, 1: 2})
    assert [ends.complete_to(state, (one,)) for one in (0, 1)] == [at(10), at(2)]
    assert ends.complete_to(state) == at(2)


def test_the_end_of_another_log_says_nothing() -> None:
    """A topic that was made anew ends before what was folded of the old one."""
    ends = LogEnds(Settings())
    ends.record(at(10), "log", {0: 5})
    state = standing({0: 5}, {0: 1})
    assert ends.complete_to(state) == at(10)
    ends.record(at(20), "another", {0: 1})
    assert ends.complete_to(state) == at(1)
    assert ends.complete_to(standing({0: 1}, {0: 19}, "another")) == at(20)


def test_ends_are_kept_in_bounds_while_the_fold_stands_still() -> None:
    """The first ones, which the fold passes first, and the last one."""
    ends = LogEnds(Settings())
    for second in range(3 * KEPT):
        ends.record(at(second), "log", {0: second})
    assert ends.complete_to(standing({0: 3}, {0: 0})) == at(3)
    assert ends.complete_to(standing({0: 3 * KEPT}, {0: 0})) == at(3 * KEPT - 1)
