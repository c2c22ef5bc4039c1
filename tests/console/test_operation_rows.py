"""What the pages of operation make of what was read: pure."""

from typing import Any

from creditfold.console.operation import (
    MOST_NAMED,
    MOST_ROWS,
    MOST_TEXT,
    PartitionLine,
    grouped,
    pressing,
    rows_of,
    waiting_of,
)
from creditfold.processors.status import PartitionStatus
from creditfold.projections.queries import DeadLetterState
from creditfold.schemas.dead_letters import DEAD


def letter(offset: int, reason: str) -> DeadLetterState:
    """An open dead letter."""
    nothing: tuple[Any, ...] = (None,) * 6
    return DeadLetterState(0, offset, "open", reason, "", None, None, None, [], *nothing)


def partition(lag: int | None) -> PartitionStatus:
    """A partition that is so many records behind."""
    counts: tuple[Any, ...] = (None,) * 5
    return PartitionStatus(3, 0, lag, lag, 0, 0.0, False, *counts, None, None, None, "")


def test_dead_letters_are_grouped_by_reason_the_most_frequent_first() -> None:
    """Each with its sentence; a reason that a newer release knows with its name."""
    groups = grouped([letter(0, "not_avro"), letter(1, "from_the_future"), letter(2, "not_avro")])
    assert [(group.reason, group.size) for group in groups] == [("not_avro", 2), ("from_the_future", 1)]
    assert [group.sentence for group in groups] == [DEAD["not_avro"], "from_the_future"]
    assert [row.log_offset for row in groups[0].named] == [0, 2]


def test_a_group_names_a_few_and_counts_all() -> None:
    """A page stays small in a flood."""
    (group,) = grouped([letter(offset, "not_avro") for offset in range(200)])
    assert (group.size, len(group.named)) == (200, MOST_NAMED)


def test_who_is_not_behind_hasnt_waited() -> None:
    """And whose wait couldn't be read isn't said to be none."""
    assert waiting_of(partition(0), {3: 9.0}) == 0.0
    assert waiting_of(partition(5), {3: 9.0}) == 9.0
    assert waiting_of(partition(5), {}) is None
    assert waiting_of(partition(None), {}) is None


def test_of_very_many_partitions_the_pressing_ones_are_shown() -> None:
    """The stuck ones, then those that are furthest behind; few are shown in their order."""
    few = [PartitionLine(partition(lag), 1, 0.0) for lag in (0, 5, 2)]
    assert pressing(few) == few
    stuck = PartitionLine(partition(1)._replace(stuck=True), 1, 0.0)
    many = [PartitionLine(partition(lag), 1, 0.0) for lag in range(MOST_ROWS)]
    found = pressing([*many, stuck])
    assert [line.status.lag for line in found[:3]] == [1, MOST_ROWS - 1, MOST_ROWS - 2]
    assert len(found) == MOST_ROWS


def test_of_a_long_field_the_beginning_is_shown() -> None:
    """Whoever wrote it, a page stays small."""
    ((_, shown),) = rows_of({"metadata": {"k": "v" * 100_000}})
    assert len(shown) == MOST_TEXT + 1


def test_fields_that_say_nothing_are_left_out() -> None:
    """Zero and false say something."""
    assert rows_of({"a": "", "b": None, "c": [], "d": {}, "e": 0, "f": False, "g": "x"}) == [
        ("e", "0"),
        ("f", "False"),
        ("g", "x"),
    ]
    assert rows_of(None) == []
