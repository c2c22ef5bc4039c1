"""The `tick` command: lets time pass in accounts that nobody touches, now. Owns its words, not the records."""

from creditfold.cli.shared.arguments import FoldTimeoutOption, JsonOption
from creditfold.cli.shared.output import print_json, say
from creditfold.cli.shared.projection import projection


def tick(timeout: FoldTimeoutOption = 30.0, json: JsonOption = False) -> None:
    """Append a tick to every partition, so that what is due by now happens in all accounts, and wait for the fold.

    Workers do so by themselves where something is due, once in CREDITFOLD_TICK_SECONDS; this is for those who can't
    wait, or have switched that off. A tick where nothing is due does no harm.

    \b
    Example:
      creditfold tick
    """
    from creditfold.common.settings import load_settings
    from creditfold.processors.control_records import append_ticks

    with projection() as connection:
        positions = append_ticks(connection, load_settings(), source="cli", timeout_s=timeout)
    if json:
        print_json({"positions": positions})
    else:
        say(f"Ticked at {', '.join(map(str, positions))}.")
