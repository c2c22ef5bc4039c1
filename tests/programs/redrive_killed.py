"""Runs `creditfold` and dies, as by SIGKILL, at one step of a redrive, whoever asks for it.

python tests/programs/redrive_killed.py STEP dead-letters redrive 2:0 --why test     STEP: see STEPS
python tests/programs/redrive_killed.py STEP serve
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from creditfold.producers.client import CommandProducer
from creditfold.producers.kafka_queue import KafkaQueue
from creditfold.projections.queries import decisions as dead_letter_decisions

#: Where the function is that is cut, its name, and whether it still does its work before.
STEPS = {
    "before_insert": (dead_letter_decisions, "record_decision", False),
    "after_insert": (dead_letter_decisions, "record_decision", True),
    # The record is on its way, and may come to the log or not.
    "while_appending": (KafkaQueue, "enter", True),
    # The log has confirmed it, and nobody has learned of that.
    "before_confirmed": (KafkaQueue, "deliver", False),
    "after_append": (CommandProducer, "append_record", True),
    "before_update": (dead_letter_decisions, "record_redrive", False),
    "before_commit": (dead_letter_decisions, "record_redrive", True),
}


def cut(function: Callable[..., Any], works: bool) -> Callable[..., Any]:
    """The function, after or instead of which the process is killed."""

    def killed(*arguments: Any, **options: Any) -> None:
        if works:
            function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return killed


if __name__ == "__main__":
    from creditfold.cli.main import main

    module, name, works = STEPS[sys.argv.pop(1)]
    if sys.argv[1] == "serve":
        from creditfold.api import dead_letters

        # It dies there, however slow the machine is, and gives up nothing before.
        dead_letters.REDRIVE_S = 300.0
    setattr(module, name, cut(getattr(module, name), works))
    main()
