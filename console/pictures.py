"""What the pictures of a page are drawn from: a balance over time, and the times of lots. Pure, in units of a viewBox.

Owns the geometry. A page has a table with the same figures beside each picture.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

#: The viewBox of both pictures.
WIDTH, HEIGHT = 600, 160
#: Of a bar, with the gap below it.
BAR, GAP = 12, 6
#: Rows of a plot's table at most.
MOST_ROWS = 30
#: For how long the bar of a lot without an end is drawn, where no other says more.
HORIZON = timedelta(days=30)


class Point(NamedTuple):
    """What an account had available from an instant on."""

    at: datetime
    available: int


class Plot(NamedTuple):
    """A balance over time: the steps as an SVG path, where zero is, its bounds, and rows for a table, newest first."""

    path: str
    zero: float
    lowest: int
    highest: int
    first: datetime
    last: datetime
    rows: Sequence[Point]


def plot_of(points: Sequence[Point], now: datetime) -> Plot | None:
    """The plot of what an account had, oldest first, up to now; None where there is nothing to draw."""
    if not points:
        return None
    ended = [*points, Point(max(now, points[-1].at), points[-1].available)]
    first, last = ended[0].at, ended[-1].at
    lowest, highest = min(0, *(one.available for one in ended)), max(1, *(one.available for one in ended))
    length_s = max((last - first).total_seconds(), 1e-9)

    def x(one: Point) -> str:
        return _short((one.at - first).total_seconds() / length_s * WIDTH)

    def y(value: int) -> str:
        return _short(HEIGHT - (value - lowest) / (highest - lowest) * HEIGHT)

    # Each step goes along, then up or down: between two lines nothing changed.
    path = f"M{x(ended[0])} {y(ended[0].available)}" + "".join(f"H{x(one)}V{y(one.available)}" for one in ended[1:])
    return Plot(path, float(y(0)), lowest, highest, first, last, daily(points))


def daily(points: Sequence[Point]) -> list[Point]:
    """The last point of each day in UTC, newest first, and no more of them than a table takes."""
    found = {one.at.date(): one for one in points}
    return [found[date] for date in sorted(found, reverse=True)][:MOST_ROWS]


class LotTime(NamedTuple):
    """From when to when a lot is good; None for from the beginning, and for no end."""

    begins: datetime | None
    ends: datetime | None
    remaining: int
    amount: int


class Bar(NamedTuple):
    """A lot's time as a rectangle, the part of it that stands for what remains, and whether it has no end."""

    x: str
    y: int
    width: str
    filled: str
    is_endless: bool


class Bars(NamedTuple):
    """Bars from now on, in the order of spending; `until` is the right edge."""

    bars: Sequence[Bar]
    height: int
    until: datetime


def bars_of(lots: Sequence[LotTime], now: datetime) -> Bars | None:
    """The bars of lots in the order in which they are spent; None where there are none."""
    if not lots:
        return None
    until = max([now + HORIZON, *(lot.ends for lot in lots if lot.ends is not None)])
    length_s = (until - now).total_seconds()

    def place(moment: datetime) -> float:
        return min(1.0, max(0.0, (moment - now).total_seconds() / length_s)) * WIDTH

    found = []
    for order, lot in enumerate(lots):
        start = 0.0 if lot.begins is None else place(lot.begins)
        end = float(WIDTH) if lot.ends is None else place(lot.ends)
        # So that one which ends at once, or begins at the edge, is seen.
        width = max(2.0, end - start)
        part = lot.remaining / lot.amount if lot.amount else 0.0
        left = min(start, WIDTH - width)
        y = order * (BAR + GAP)
        found.append(Bar(_short(left), y, _short(width), _short(width * part), lot.ends is None))
    return Bars(found, len(lots) * (BAR + GAP), until)


def _short(value: float) -> str:
    return f"{round(value, 1):g}"
