"""Runs `creditfold activate` and kills it where the first argument says: in the middle of the switch."""

import os
import signal
import sys

from creditfold.cli.main import main
from creditfold.processors.rebuild import steps as rebuilding


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


real = rebuilding.switch


def switch_and_die(*arguments: object) -> None:
    real(*arguments)  # type: ignore[arg-type]
    die()


if __name__ == "__main__":
    step = sys.argv.pop(1)
    if step == "before":
        rebuilding.switch = die
    elif step == "inside":
        rebuilding.switch = switch_and_die  # type: ignore[assignment]
    elif step == "comparing":
        rebuilding._take_over = die  # type: ignore[assignment]
    main()
