"""A progress bar for work whose end is known in one unit and which is told in another. Knows no command."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Move(Protocol):
    """Moves a bar: how much is done and of how much, in whatever unit, and how many things that are.

    `new` is how many of them this run did, where some were done before it.
    """

    def __call__(self, done: int, total: int, count: int, new: int | None = None) -> None:
        """Move the bar to `done` of `total`."""


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
