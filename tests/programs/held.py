"""Runs `creditfold` and has it stand still at a call of one of its functions, for whoever wants to catch it there.

python tests/programs/held.py creditfold.cli.demo.main:_send_trouble 0 FILE demo     at its first call, until FILE goes

FILE is made when it stands still, and stands for that: a test waits for it, and needn't be quick.
"""

import importlib
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def held(function: Callable[..., Any], after: int, mark: Path) -> Callable[..., Any]:
    """The function, which waits from its call of that number on."""
    calls = itertools.count()

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) >= after:
            mark.touch()
            # In short pauses: a signal that comes just before a long one would not be noticed in it.
            while mark.exists():
                time.sleep(0.01)
        return function(*arguments, **options)

    return call


if __name__ == "__main__":
    from creditfold.cli.main import main

    place, number, path = sys.argv[1:4]
    del sys.argv[1:4]
    module, _, names = place.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = names.split(".")
    for one in classes:
        owner = getattr(owner, one)
    setattr(owner, name, held(getattr(owner, name), int(number), Path(path)))
    main()
