"""Runs `creditfold` and dies, as by SIGKILL, at one step of a redrive.

python tests/programs/redrive_killed.py STEP dead-letters redrive 2:0 --why test     STEP: see STEPS
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from creditfold.producers.client import CommandProducer
from creditfold.projections.queries import decisions as dead_letter_decisions

#: Where the function is that is cut, its name, and whether it still does its work before.
STEPS = {
    "before_insert": (dead_letter_decisions, "record_decision", False),
    "after_insert": (dead_letter_decisions, "record_decision", True),
    "after_append": (CommandProducer, "append_record", True),
    "before_update": (dead_letter_decisions, "record_redrive", False),
    "before_commit": (dead_letter_decisions, "record_redrive", True),
}


def cut(function: Callable[..., Any], works: bool) -> Callable[..., Any]:
    """The function, after or instead of which the process is killed."""

    def killed(*arguments: Any) -> None:
        if works:
            function(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    return killed


if __name__ == "__main__":
    from creditfold.cli.main import main

    module, name, works = STEPS[sys.argv.pop(1)]
    setattr(module, name, cut(getattr(module, name), works))
    main()
