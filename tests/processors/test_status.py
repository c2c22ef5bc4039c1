"""What two samples of the fold come to, partition by partition."""

from creditfold.log.offsets import End
from creditfold.processors import status
from creditfold.processors.health import Judgement
from creditfold.projections.queries.progress import PartitionProgress


def sample(at: float, *rows: tuple[int, int]) -> status.Sample:
    """A sample of partitions 0, 1, ...: (next offset, end offset) each."""
    progress = {
        number: PartitionProgress("t", number, done, done, 0, 0, 0, done, None, None, 1, "w")
        for number, (done, _) in enumerate(rows)
    }
    return status.Sample(at, progress, {number: End(end, end) for number, (_, end) in enumerate(rows)})


def test_two_samples_are_compared() -> None:
    """
    partition | next, end before | now    | lag | held | rate/s
    0         | 10, 10           | 10, 10 | 0   | 0    | 0
    1         | 10, 30           | 20, 30 | 10  | 0    | 5
    2         | 10, 10           | 10, 30 | 20  | 0    | 0
    """
    before, now = sample(0, (10, 10), (10, 30), (10, 10)), sample(2, (10, 10), (20, 30), (10, 30))
    rows = status.compare(before, now, Judgement([], {1: "at work"}, frozenset({2})))
    assert [(row.lag, row.held, row.rate) for row in rows] == [(0, 0, 0.0), (10, 0, 5.0), (20, 0, 0.0)]
    assert [(row.doing, row.stuck) for row in rows] == [("", False), ("at work", False), ("", True)]
    assert status.totals_of(rows)["lag"] == 30


def test_what_a_server_that_is_away_would_show_is_missing() -> None:
    """The rest is shown: without Kafka how far each partition is folded, without PostgreSQL where the log ends."""
    both = sample(0, (10, 30))
    nothing = Judgement([], {}, frozenset())
    (row,) = status.compare(both, both._replace(ends={}), nothing)
    assert (row.next_offset, row.accepted, row.rate) == (10, 10, 0.0)
    assert (row.end_offset, row.lag, row.held) == (None, None, None)
    (row,) = status.compare(both, both._replace(progress={}), nothing)
    assert (row.end_offset, row.held, row.next_offset, row.lag, row.owner) == (30, 0, None, None, None)
    assert status.totals_of([row])["lag"] is None
