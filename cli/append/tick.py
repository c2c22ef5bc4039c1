"""The `tick` command: lets time pass in accounts that nobody touches, now."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.shared.arguments import JsonOption
from creditfold.cli.shared.output import print_json, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from creditfold.common.position import Position
    from creditfold.projections.queries.background import Standing


def tick(
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds to wait for Kafka, then the fold.")] = 30.0,
    json: JsonOption = False,
) -> None:
    """Append a tick to every partition, so that what is due by now happens in all accounts, and wait for the fold.

    Workers do so by themselves where something is due, once in CREDITFOLD_TICK_SECONDS; this is for those who can't
    wait, or have switched that off. A tick where nothing is due does no harm.

    \b
    Example:
      creditfold tick
    """
    from creditfold.cli.shared.projection import projection
    from creditfold.projections import queries
    from creditfold.projections.queries.background import standings

    with projection() as connection:
        positions = _append_ticks(standings(connection), timeout)
        for position in positions:
            queries.wait_for(connection, position, timeout)
    if json:
        print_json({"positions": positions})
    else:
        say(f"Ticked at {', '.join(map(str, positions))}.")


def _append_ticks(standings: "Mapping[int, Standing]", timeout: float) -> "Sequence[Position]":
    from creditfold.cli.append.submission import open_producer
    from creditfold.common.settings import load_settings
    from creditfold.processors.worker.ticks import number_of_tick, tick_record
    from creditfold.producers.models.commands import Encoded

    now_ms = time.time_ns() // 1_000_000
    records = [
        tick_record(partition, number_of_tick(standing, now_ms), now_ms, "cli")
        for partition, standing in sorted(standings.items())
    ]
    with open_producer(load_settings(), timeout) as producer:
        return [producer.append_record(Encoded(None, one.value, partition=one.partition)) for one in records]
