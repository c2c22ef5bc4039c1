"""The `demo` command. Owns its options, not its work."""

from typing import Annotated

import typer


def demo(keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end.")] = False) -> None:
    """Fold a real purchase history, show the result, and prove that nothing was lost.

    Fetches 69,659 real purchases of 23,570 customers, makes commands of them, imports and folds these, and
    checks every outcome against a computation of its own. At its end, and at Ctrl-C, what it started is stopped.

    \b
    Examples:
      creditfold demo
      creditfold demo --keep
    """
    from creditfold.cli.demo.main import run_demo
    from creditfold.common.extras import require
    from creditfold.common.settings import load_settings

    require("worker")
    run_demo(load_settings(), keep=keep)
