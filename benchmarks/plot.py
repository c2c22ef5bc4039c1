"""Draws the figures of the benchmarks. By matplotlib, which is well kept and needs no browser and no network for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from figures import Figures, at

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: How far apart the bars of one group stand.
BAR = 0.27

RATES = {
    "fold_per_s": "creditfold",
    "baseline_batched_per_s": "baseline, batches of 100",
    "baseline_single_per_s": "baseline, one at a time",
}
DELAYS = {"p50_ms": "half within", "p90_ms": "90%", "p99_ms": "99%"}


def draw(results: Figures, target: Path) -> None:
    """Draw the rates, the latencies, the stages and the growth with workers."""
    # Only here, so that the tables can be written, and tested, without it.
    import matplotlib

    matplotlib.use("svg")
    # The same figures make the same file, whose text can be read and searched.
    matplotlib.rcParams.update({"svg.hashsalt": "creditfold", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, ((rates, delays), (parts, growth)) = pyplot.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    _bars(rates, at(results, "fold", "logs") or {}, RATES)
    rates.set_title("Commands a second, Kafka included in ours")
    _bars(delays, at(results, "latency", "rates") or {}, DELAYS)
    delays.set_yscale("log")
    delays.set_title("Milliseconds from due to visible")
    _stages(parts, results)
    _growth(growth, results)
    figure.savefig(target, metadata={"Date": None})


def _bars(axes: "Axes", groups: Figures, series: Mapping[str, str]) -> None:
    """A group of bars for each run, with a bar for each figure that has a label."""
    for place, (name, label) in enumerate(series.items()):
        values = [one.get(name, 0) for one in groups.values()]
        axes.bar([number + (place - 1) * BAR for number in range(len(groups))], values, BAR, label=label)
    axes.set_xticks(range(len(groups)), [name.replace(", ", "\n") for name in groups])
    axes.legend()


def _stages(axes: "Axes", results: Figures) -> None:
    logs = at(results, "stages", "logs") or {}
    found = {name: at(one, "worker", "cpu_us_per_command") or {} for name, one in logs.items()}
    left: Sequence[float] = [0.0] * len(found)
    for stage in dict.fromkeys(stage for one in found.values() for stage in one):
        widths = [one.get(stage, 0.0) for one in found.values()]
        # There are more stages than colours; those of the second round are hatched.
        place = len(axes.containers)
        axes.barh(range(len(found)), widths, left=left, label=stage, color=f"C{place}", hatch="//" * (place // 10))
        left = [before + width for before, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(found)), list(found))
    axes.set_title("A worker's CPU time, µs a command")
    if found:
        axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.08))


def _growth(axes: "Axes", results: Figures) -> None:
    grid = at(results, "scale", "workers") or []
    for partitions in sorted({row["partitions"] for row in grid}):
        rows = [row for row in grid if row["partitions"] == partitions]
        rates = [row["fold_per_s"] for row in rows]
        axes.plot([row["workers"] for row in rows], rates, "o-", label=f"{partitions} partitions")
    axes.set_ylim(bottom=0)
    axes.set_xticks(sorted({row["workers"] for row in grid}))
    axes.set_title("Commands a second by workers")
    if grid:
        axes.legend()
