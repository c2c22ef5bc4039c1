"""Runs `creditfold` with some of its constants set otherwise, which are named before the command.

python tests/programs/with_constants.py creditfold.processors.worker.background.IDLE_S=600 worker
python tests/programs/with_constants.py creditfold.processors.rebuild.steps.FEW_RECORDS=0 -m \
    creditfold.processors.rebuild.operation
"""

import sys
from ast import literal_eval
from importlib import import_module

if __name__ == "__main__":
    from creditfold.cli.main import main

    while "=" in sys.argv[1]:
        name, _, value = sys.argv.pop(1).partition("=")
        module, _, constant = name.rpartition(".")
        found = import_module(module)
        kind = type(getattr(found, constant))
        setattr(found, constant, literal_eval(value) if kind is tuple else kind(value))
    if sys.argv[1] == "-m":
        import_module(sys.argv[2]).main()
    else:
        main()
