"""The geometry of the pictures: a balance over time, and the times of lots."""

from datetime import UTC, datetime, timedelta

import pytest

from creditfold.console.pictures import HEIGHT, HORIZON, MOST_ROWS, WIDTH, LotTime, Point, bars_of, daily, plot_of

NOW = datetime(2026, 5, 10, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_plot_goes_in_steps_from_the_first_change_to_now() -> None:
    """Between two changes nothing changes, and since the last one neither."""
    plot = plot_of([Point(NOW - 4 * DAY, 100), Point(NOW - 2 * DAY, 50)], NOW)
    assert plot is not None
    assert plot.path == f"M0 0H{WIDTH // 2}V{HEIGHT // 2}H{WIDTH}V{HEIGHT // 2}"
    assert (plot.lowest, plot.highest, plot.zero) == (0, 100, HEIGHT)
    assert (plot.first, plot.last) == (NOW - 4 * DAY, NOW)


def test_a_balance_below_zero_is_below_the_line() -> None:
    """Which is where zero is."""
    plot = plot_of([Point(NOW - DAY, -100), Point(NOW, 100)], NOW)
    assert plot is not None
    assert plot.zero == HEIGHT / 2


@pytest.mark.parametrize("points", [[Point(NOW, 0)], [Point(NOW + DAY, 5)], [Point(NOW, 2**62), Point(NOW, -(2**62))]])
def test_a_plot_of_any_points_stays_within_its_bounds(points: list[Point]) -> None:
    """One point, one whose clock is ahead, the largest numbers."""
    plot = plot_of(points, NOW)
    assert plot is not None
    numbers = [float(part) for part in plot.path.replace("M", " ").replace("H", " ").replace("V", " ").split()]
    assert all(0 <= number <= WIDTH for number in numbers)


def test_nothing_is_drawn_of_nothing() -> None:
    """Neither a plot nor bars."""
    assert plot_of([], NOW) is None
    assert bars_of([], NOW) is None


def test_a_plots_table_has_the_last_change_of_each_day_newest_first() -> None:
    """And no more rows than a page has room for."""
    points = [Point(NOW, 1), Point(NOW + DAY / 2, 2), Point(NOW + DAY, 3)]
    assert daily(points) == [points[2], points[1]]
    assert len(daily([Point(NOW + n * DAY, n) for n in range(100)])) == MOST_ROWS


def test_bars_stand_in_the_order_of_spending() -> None:
    """Each from when it is good to its end, filled as far as it isn't spent."""
    lots = [LotTime(None, NOW + 30 * DAY, 50, 100), LotTime(NOW + 30 * DAY, NOW + 60 * DAY, 10, 10)]
    bars = bars_of(lots, NOW)
    assert bars is not None
    first, second = bars.bars
    assert (first.x, first.width, first.filled, first.y) == ("0", "300", "150", 0)
    assert (second.x, second.width, second.filled) == ("300", "300", "300")
    assert second.y > first.y
    assert bars.until == NOW + 60 * DAY


def test_a_lot_without_an_end_goes_to_the_edge() -> None:
    """Which is a while away, where no lot has an end."""
    bars = bars_of([LotTime(None, None, 1, 1)], NOW)
    assert bars is not None
    assert (bars.until, bars.bars[0].width, bars.bars[0].is_endless) == (NOW + HORIZON, str(WIDTH), True)


def test_a_lot_that_has_ended_or_begins_at_the_edge_is_still_seen() -> None:
    """Within the picture."""
    far = NOW + HORIZON
    bars = bars_of([LotTime(None, NOW - DAY, 0, 0), LotTime(far, None, 1, 1)], NOW)
    assert bars is not None
    assert all(float(bar.width) >= 2 and float(bar.x) + float(bar.width) <= WIDTH for bar in bars.bars)
