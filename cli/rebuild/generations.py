"""The commands about generations: rebuild, generations, activate, drop. Owns their words and the progress bar."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.shared.arguments import ArgumentError, JsonOption, milliseconds
from creditfold.cli.shared.output import counted, print_json, print_table, say
from creditfold.cli.shared.progress import fold_bar
from creditfold.cli.shared.projection import projection
from creditfold.common.errors import CreditfoldError
from creditfold.common.position import next_offsets_of

if TYPE_CHECKING:
    from creditfold.projections.generations.catalog import Generation

# PostgreSQL's integer.
MAX_NUMBER = 2**31 - 1

NumberArgument = Annotated[
    int, typer.Argument(min=1, max=MAX_NUMBER, metavar="NUMBER", help="Generation, as `generations` lists it.")
]
UntilOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Up to and with this time of the log's clock (ISO 8601, UTC).")
]
UntilPositionOption = Annotated[
    list[str] | None,
    typer.Option(metavar="POSITION", help="Up to and with this record of its partition; can be repeated."),
]
ProcessesOption = Annotated[
    int, typer.Option(min=1, max=256, help="Processes that fold; by default one for each core.", show_default=False)
]

RateOption = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="RECORDS", help="Most records to fold per second, so that the live fold keeps its latency."
    ),
]

CORES = os.cpu_count() or 1


def rebuild(
    *,
    resume: Annotated[
        int | None, typer.Option(min=1, max=MAX_NUMBER, metavar="NUMBER", help="Go on with this generation.")
    ] = None,
    until: UntilOption = None,
    until_position: UntilPositionOption = None,
    processes: ProcessesOption = CORES,
    rate: RateOption = None,
    tablespace: Annotated[str | None, typer.Option(help="PostgreSQL tablespace of the new tables.")] = None,
    note: Annotated[str, typer.Option(help="What it is for, for people.")] = "",
    json: JsonOption = False,
) -> None:
    """Fold the log from its start into a new generation, besides the live one.

    The live one goes on and readers notice nothing. It can be stopped at any time (Ctrl-C, SIGKILL) and resumed.
    Afterwards compare the two with `verify` and switch with `activate`.

    As fast as it can, it takes the processors and the disk, and commands become visible later meanwhile. With --rate
    the live fold keeps its latency, and the rebuild takes longer.

    A point in time: with --until or --until-position the fold ends there. Partitions that no --until-position names
    are folded whole. Such a generation is for looking at (its schema is `ledger_NUMBER`), and can't be activated.

    \b
    Examples:
      creditfold rebuild
      creditfold rebuild --resume 2
      creditfold rebuild --rate 30000
      creditfold rebuild --until 2026-06-30T23:59:59.999Z --note "half-year audit"
      creditfold rebuild --until-position 3:1042 --until-position 4:977
    """
    from creditfold.common.settings import load_settings
    from creditfold.processors.rebuild import steps
    from creditfold.processors.rebuild.documents import of_generation
    from creditfold.processors.rebuild.processes import fold_processes_at_once

    if resume is not None and (until or until_position or tablespace or note):
        raise ArgumentError("--resume goes on as the rebuild was begun.", "Leave out the other options.")
    request = steps.Request(
        resume,
        until_ms=None if until is None else milliseconds(until),
        until_offsets=next_offsets_of(until_position) if until_position else None,
        tablespace=tablespace,
        processes=processes,
        note=note,
        most_per_s=rate,
    )
    began = time.monotonic()
    # The bar has a thread of its own, and librdkafka has several: the processes come first.
    with _with_resume_remedy() as made, fold_processes_at_once(processes) as fold_processes, fold_bar() as bar:
        done = steps.rebuild(load_settings(), request, bar, made.append, fold_processes)
    seconds = time.monotonic() - began
    _report_unfinished()
    if json:
        print_json({**of_generation(done), "seconds": round(seconds, 3)})
        return
    records = counted(done.records, "record")
    say(f"Generation {done.number} is ready: {records} in {seconds:,.1f} s, digest {done.digest}.")
    if done.is_partial:
        say(f"It is for looking at, in the schema ledger_{done.number:04}. Free it with: creditfold drop {done.number}")
    else:
        say(f"Compare it: creditfold verify {done.number}", f"Switch to it: creditfold activate {done.number}")


def _report_unfinished() -> None:
    """Report generations that were begun and not finished: they take room, and nothing else shows them."""
    from creditfold.projections.generations import catalog, removal

    with projection() as connection:
        unfinished = [
            row.number
            for row in catalog.generations(connection)
            if row.state == "building" and row.purpose not in removal.SCRATCH
        ]
    for number in unfinished:
        print(f"Generation {number} isn't finished. {_resume_remedy(number)}", file=sys.stderr)


def _resume_remedy(number: int) -> str:
    return f"Go on: creditfold rebuild --resume {number}; or free it: creditfold drop {number}"


@contextmanager
def _with_resume_remedy() -> Iterator[list[int]]:
    """Say how to resume a rebuild that ends too early; the block adds the generation's number to the list."""
    made: list[int] = []
    # Unwound as after Ctrl-C: the processes that fold are ended, and the terminal is as it was.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield made
    except (KeyboardInterrupt, SystemExit):
        if made:
            print(f"stopped; what is folded stays. Go on: creditfold rebuild --resume {made[0]}", file=sys.stderr)
        raise
    except CreditfoldError as error:
        if made:
            error.remedy = f"{error.remedy} {_resume_remedy(made[0])}".strip()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def generations(json: JsonOption = False) -> None:
    """List the generations of the projection: what they are, how far they are folded, and how large they are.

    Two generations of the same log with the same digest stand at the same offsets and came to the same decisions.

    \b
    Examples:
      creditfold generations
      creditfold generations --json
    """
    from creditfold.processors.rebuild.documents import of_generation
    from creditfold.projections.generations import catalog, removal

    with projection() as connection:
        rows, left = catalog.generations(connection), removal.leftovers(connection)
    if json:
        print_json([{**of_generation(row), "is_leftover": row.number in left} for row in rows])
        return
    columns = ("number", "state", "purpose", "records", "position", "size MB", "digest", "made at", "activated at")
    print_table((*columns, "note"), [_row(row) for row in rows])
    for number in left:
        say(f"Generation {number} was left by a run that was killed. Free it: creditfold drop {number}")


def activate(
    number: NumberArgument,
    *,
    accept_differences: Annotated[
        bool, typer.Option("--accept-differences", help="Switch although decisions differ; needs --note.")
    ] = False,
    log_replaced: Annotated[
        bool, typer.Option("--log-replaced", help="The log was restored into a new topic, and this is folded from it.")
    ] = False,
    note: Annotated[str, typer.Option(help="Why, for people.")] = "",
    json: JsonOption = False,
) -> None:
    """Make a generation the one that readers see and workers fold, in one transaction.

    It is brought up to where the live one is, and compared with it: a generation that decided anything otherwise is
    refused (exit code 5). Going back is activating the old one. Workers needn't run, and needn't be stopped.

    \b
    Examples:
      creditfold activate 2
      creditfold activate 1        go back
    """
    from creditfold.common.settings import load_settings
    from creditfold.processors.rebuild import steps
    from creditfold.processors.rebuild.documents import of_switch

    if accept_differences and not note:
        raise ArgumentError("--accept-differences needs a reason.", "Add --note WHY; it is kept in the catalog.")
    with fold_bar() as bar:
        done = steps.activate(
            load_settings(), number, steps.ActivationOptions(accept_differences, log_replaced, note), bar
        )
    if json:
        print_json(of_switch(done))
        return
    say(f"Generation {done.new} is live; it was {done.old}. The fold stood still for {done.halted_s:.2f} s.")
    if done.differing_partitions:
        say(f"They differ in partition {', '.join(map(str, done.differing_partitions))}, which you accepted.")


def drop(number: NumberArgument) -> None:
    """Remove a generation and its tables permanently. The live one is refused.

    \b
    Example:
      creditfold drop 1
    """
    from creditfold.common.settings import load_settings
    from creditfold.projections.connections import pinned
    from creditfold.projections.generations import removal

    with pinned(load_settings().dsn) as connection:
        removal.drop(connection, number)
    say(f"Generation {number} is gone.")


def _row(row: "Generation") -> tuple[object, ...]:
    positions = " ".join(f"{partition}:{offset}" for partition, offset in row.next_offsets.items())
    size = round(row.size_bytes / 2**20, 1)
    state = f"{row.state}, partial" if row.is_partial else row.state
    moments = (row.made_at, row.activated_at, row.note)
    return (str(row.number), state, row.purpose, row.records, positions, size, row.digest, *moments)
