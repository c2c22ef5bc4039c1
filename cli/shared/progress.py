"""Shows how far work is: a bar for one piece of work, lines for steps, a bar for a fold. Knows no command."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from creditfold.cli.shared.output import say

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.status import Status


class Move(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, total: int, count: int, new: int | None = None) -> None:
        """Move the bar to `done` of `total`, in any unit: `count` things, `new` of them done by this run."""


@contextmanager
def progress_bar(label: str, things: str, *, quiet: bool) -> Iterator[Move]:
    """A progress bar on standard error if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn(f"  {label}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn(f"{{task.fields[count]:,}} {things}, {{task.fields[rate]:,.0f}}/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        # Rich would leave an empty line where there is no terminal.
        disable=quiet or not sys.stderr.isatty(),
    )
    started = time.monotonic()
    task = bar.add_task("", total=None, count=0, rate=0.0)

    def move(done: int, total: int, count: int, new: int | None = None) -> None:
        rate = (count if new is None else new) / max(time.monotonic() - started, 1e-6)
        bar.update(task, completed=done, total=total, count=count, rate=rate)

    with bar:
        yield move


class Steps:
    """Shows one step after the other with the time each took: a spinner on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._label = ""
        self._since = 0.0
        self._spinner: Status | None = None

    def _begin(self, label: str, with_spinner: bool) -> None:
        self._label, self._since = label, time.monotonic()
        if with_spinner and sys.stdout.isatty():
            from rich.console import Console

            self._spinner = Console().status(f"  {label}")
            self._spinner.start()

    def show(self, detail: str) -> None:
        """Show what the step does now: behind the spinner, or on a line of its own."""
        if self._spinner is not None:
            self._spinner.update(f"  {self._label}: {detail}")
        else:
            say(f"    {detail}")

    def _end(self, note: str) -> None:
        self._stop_spinner()
        say(f"  {self._label:<42} {time.monotonic() - self._since:6.1f} s{'  ' + note if note else ''}")

    def _stop_spinner(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
        self._spinner = None

    @contextmanager
    def step(self, label: str, *, with_spinner: bool = True) -> Iterator[Callable[[str], None]]:
        """Run a block as one step. The block may call the given function with a note to print after the time.

        A block that draws its own progress bar wants no spinner.
        """
        notes: list[str] = []
        self._begin(label, with_spinner)
        try:
            yield notes.append
        except BaseException:
            self._stop_spinner()
            raise
        self._end(", ".join(notes))


class FoldBar:
    """Shows how far a fold is, with position, rate and time left. Made by `fold_bar`."""

    def __init__(self, bar: "Progress") -> None:
        self._bar = bar
        self._task = bar.add_task("", visible=False, figures="")
        self._since, self._before, self._total = 0.0, 0, 0

    def begin(self, step: str, done: int, total: int) -> None:
        """Begin another step. `done` and `total` are in records."""
        self._since, self._before, self._total = time.monotonic(), done, total
        self._bar.remove_task(self._task)
        # Without a total the bar pulses.
        self._task = self._bar.add_task(step, total=total or None, completed=done, figures="")

    def report(self, done: int) -> None:
        """Move the bar to `done` records."""
        seconds = time.monotonic() - self._since
        figures = figures_of(done, self._total, (done - self._before) / max(seconds, 0.001))
        self._bar.update(self._task, completed=done, figures=figures)


@contextmanager
def fold_bar() -> Iterator[FoldBar]:
    """A fold's bar on standard error if that is a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
    is_hidden = not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=is_hidden) as bar:
        yield FoldBar(bar)


def figures_of(done: int, total: int, rate: float) -> str:
    """Position, rate and time left as text; the time left is what the rate says. `rate` is in records a second."""
    if rate < 1:
        return f"{done:,} of {total:,}"
    minutes, seconds = divmod(round((total - done) / rate), 60)
    return f"{done:,} of {total:,}  {rate:,.0f}/s  {minutes}:{seconds:02} left"
